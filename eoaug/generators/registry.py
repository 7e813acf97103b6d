"""Generators by name: entry points and checkpoints."""

from __future__ import annotations

import json
import sys
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from eoaug.errors import GeneratorError, did_you_mean
from eoaug.generators.base import Generator

__all__ = ["SHIPPED", "available", "load"]


SHIPPED = ("embedded", "classical")
"""Names of the generators of this package."""


GROUP = "eoaug.generators"
"""Entry-point group under which packages register generators: name = "module:factory"."""


def available() -> dict[str, EntryPoint]:
    """Return the installed generators by name."""
    return dict(_registered(tuple(sys.path)))


@cache
def _registered(folders: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Return what the packages in these folders register; a job asks for it with every item, and reading is slow."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def load(generator: str | Path | Generator = "embedded", **options: Any) -> Generator:
    """Return a generator by name, or from a checkpoint; a generator is returned as it is.

    Parameters
    ----------
    generator
        A name of `available`: ``"embedded"`` (the small diffusion model that ships with eoaug),
        ``"classical"`` (no weights, no torch), or what another package registers. Or the folder that
        `eoaug tune-land` has written. Or a checkpoint of the Stable Diffusion family or of DiffusionSat: its
        folder, ``"owner/name@commit"`` on the hub, or a JSON file with ``base`` and options.
    **options
        Passed to the generator's factory, e.g. ``device="cuda"``; for checkpoints those of
        `eoaug.generators.checkpoints.settings.Settings`, e.g. ``adapters=["my-lora"]``.

    Raises
    ------
    GeneratorError
        Unknown name, options that the factory does not take, a plugin that cannot be imported, or a
        checkpoint that eoaug does not load.

    Examples
    --------
    >>> eoaug.load("classical").card.name
    'classical'
    """
    if isinstance(generator, Path):
        generator = str(generator)
    if not isinstance(generator, str):
        if not isinstance(generator, Generator):
            raise GeneratorError(
                f"generator={generator!r} is neither a name nor an object with card and generate",
                f"use one of {', '.join(available())}, or an object that implements eoaug.Generator",
            )
        return generator
    points = available()
    if generator not in points and (Path(generator).exists() or "/" in generator):
        return _from_path(generator, options)
    if generator not in points:
        names = ", ".join(points) or "none; reinstall eoaug"
        raise GeneratorError(
            f"no generator is called {generator!r}",
            f"{did_you_mean(generator, points)} installed: {names}; or give a checkpoint's folder".lstrip(),
        )
    try:
        factory = points[generator].load()
    except ImportError as error:
        raise GeneratorError(
            f"generator {generator!r} ({points[generator].value}) cannot be imported: {error}",
            "install the package that it needs",
        ) from error
    loaded = _made(factory, generator, options)
    if not isinstance(loaded, Generator):
        raise GeneratorError(
            f"generator {generator!r} made a {type(loaded).__name__} without card and generate",
            "implement the Protocol eoaug.Generator; eoaug.testing.check_generator checks it",
        )
    return loaded


def _made(factory: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        return factory(**options)
    except TypeError as error:
        raise GeneratorError(
            f"generator {name!r} does not take {options}: {error}", "leave the option out"
        ) from error


def _from_path(source: str, options: dict[str, Any]) -> Generator:
    # Late: loads scipy, which checkpoints do not need.
    from eoaug.generators.embedded.weights_config import is_embedded

    if is_embedded(source):
        from eoaug.generators.embedded.generator import Embedded

        made: Generator = _made(partial(Embedded, source), source, options)
        return made
    return _from_checkpoint(source, options)


def _from_checkpoint(source: str, options: dict[str, Any]) -> Generator:
    path = Path(source)
    if path.is_file():
        source, options = _recipe(path, options)
    try:
        from eoaug.generators.checkpoints.diffusionsat import open_generator
    except ImportError as error:
        raise GeneratorError(
            f"checkpoint {source} needs a package that is not installed: {error}",
            "pip install 'eoaug[diffusion]'",
        ) from error
    return open_generator(source, options)


def _recipe(path: Path, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return base and options of a JSON file; relative folders in it are relative to the file."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        settings = error
    if not isinstance(settings, dict) or not isinstance(settings.get("base"), str):
        reason = (
            f"no JSON: {settings}" if isinstance(settings, ValueError) else f"no base in {settings!r:.80}"
        )
        raise GeneratorError(
            f"{path} does not describe a generator ({reason})",
            'write {"base": "FOLDER", "lift": "regress"}, with the options of eoaug.load',
        )

    def resolved(value: Any) -> Any:  # other values are checked with the options
        if isinstance(value, list):
            return [resolved(part) for part in value]
        return (
            str(path.parent / value) if isinstance(value, str) and (path.parent / value).exists() else value
        )

    folders = {
        name: resolved(settings[name]) for name in ("unet", "controlnets", "adapters") if name in settings
    }
    return resolved(settings.pop("base")), {**settings, **folders, **options}
