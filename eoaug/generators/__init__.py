"""Generators: what fills a cube's holes.

`load` finds them by name in the entry-point group ``eoaug.generators``; importing this package loads no
weights and no torch.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from eoaug.errors import GeneratorError
from eoaug.generators.base import Card, Generator, Request, SteppedGenerator

__all__ = ["Card", "Generator", "Request", "SteppedGenerator", "available", "load"]

GROUP = "eoaug.generators"
"""Entry-point group under which packages register generators: name = "module:factory"."""


def available() -> dict[str, EntryPoint]:
    """Return the installed generators by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def load(generator: str | Generator = "embedded", **options: Any) -> Generator:
    """Return a generator by name; a generator passes through.

    Parameters
    ----------
    generator
        A name of `available`: ``"embedded"`` (the small diffusion model that ships with eoaug),
        ``"classical"`` (no weights, no torch), or what another package registers.
    **options
        Handed to the generator's factory, e.g. ``device="cuda"``.

    Raises
    ------
    GeneratorError
        Unknown name, options that the factory does not take, or a plugin that cannot be imported.
    """
    if not isinstance(generator, str):
        if not isinstance(generator, Generator):
            raise GeneratorError(
                f"generator={generator!r} is neither a name nor has it a card and a generate method",
                f"use one of {', '.join(available())}, or an object that fulfils eoaug.Generator",
            )
        return generator
    found = available()
    if generator not in found:
        close = difflib.get_close_matches(generator, found, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise GeneratorError(
            f"no generator is called {generator!r}",
            f"{hint}installed: {', '.join(found) or 'none; reinstall eoaug'}",
        )
    try:
        factory = found[generator].load()
    except ImportError as error:
        raise GeneratorError(
            f"generator {generator!r} ({found[generator].value}) cannot be imported: {error}",
            "install the package that it needs",
        ) from error
    try:
        made = factory(**options)
    except TypeError as error:
        raise GeneratorError(
            f"generator {generator!r} does not take {options}: {error}", "leave the option out"
        ) from error
    if not isinstance(made, Generator):
        raise GeneratorError(
            f"generator {generator!r} made a {type(made).__name__} without card and generate",
            "fulfil the Protocol eoaug.Generator; eoaug.testing has its contract suite",
        )
    return made
