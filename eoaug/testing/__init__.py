"""Tools for the tests of eoaug and of generators: scenes, fakes, requests, the contract, strategies."""

from eoaug.testing.contract import check_generator
from eoaug.testing.fakes import CountingGenerator, TinyDenoiser
from eoaug.testing.requests import requests
from eoaug.testing.scenes import Place, decode, grid, scene
from eoaug.testing.strategies import datasets

__all__ = [
    "CountingGenerator",
    "Place",
    "TinyDenoiser",
    "check_generator",
    "datasets",
    "decode",
    "grid",
    "requests",
    "scene",
]
