"""Imports at first use: diffusers takes ten seconds, which every process of the runner would spend on collecting."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Later:
    """A module that is imported when one of its names is used; a test module holds it under the module's name."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks for such names on everything that it collects
            raise AttributeError(name)
        return getattr(import_module(self._module), name)
