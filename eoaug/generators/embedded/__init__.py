"""The diffusion model whose weights ship in the package."""

from eoaug.generators.embedded.generator import Embedded

__all__ = ["Embedded"]
