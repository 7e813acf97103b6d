"""Generators: what fills a cube's holes. Importing this package loads no weights and no torch."""

from eoaug.generators.base import Card, Generator, Request, SteppedGenerator
from eoaug.generators.registry import available, load

__all__ = ["Card", "Generator", "Request", "SteppedGenerator", "available", "load"]
