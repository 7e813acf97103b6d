"""eoaug: augment Earth-observation data cubes with diffusion models."""

__version__ = "0.1.0"
