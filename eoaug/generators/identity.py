"""The identity of a generator: a hash of what changes its pixels, as it declares it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.base import Generator

__all__ = ["identity_of", "settings_of"]


def settings_of(generator: Generator) -> dict[str, Any]:
    """Return the settings of a generator that change its pixels, as plain JSON values.

    They are those of its property ``settings``. Without that property they are the fields of a dataclass, or the
    instance attributes of any other object. Settings should not contain paths of weights, which are identified by
    ``Card.sha256``, nor anything else that differs between machines without changing pixels.

    Parameters
    ----------
    generator
        Any generator.

    Returns
    -------
    Values by name, in alphabetical order; tuples and sets as lists (sets sorted), NumPy scalars as numbers, dataclasses
    as mappings.

    Raises
    ------
    GeneratorError
        A setting is not a plain value.
    """
    holder: Any = generator
    if (declared := getattr(holder, "settings", None)) is not None:
        settings = dict(declared)
    elif is_dataclass(holder):
        settings = {item.name: getattr(holder, item.name) for item in fields(holder)}
    else:
        settings = dict(getattr(holder, "__dict__", {}))
    return {name: _plain(value, name, generator) for name, value in sorted(settings.items())}


def _plain(value: Any, name: str, generator: Generator) -> Any:
    """Return a setting as JSON represents it: tuples and sets as lists, NumPy scalars as numbers."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return _plain(value.item(), name, generator)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}[{key!r}]", generator) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(item, name, generator) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, name, generator) for item in value), key=repr)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name), name, generator) for item in fields(value)}
    raise GeneratorError(
        f"generator {generator.card.name!r} has the setting {name}={value!r:.80}, which is not a plain value",
        "declare what changes its pixels in a property `settings` (numbers, strings, booleans, lists, mappings)",
    )


def identity_of(generator: Generator) -> str:
    """Return the identity of a generator: a hash of its name, weights and settings.

    Equal identities promise equal pixels for equal requests. The identity is a part of the token of every plan and of
    the content key of every published item, so it depends on declared values alone, and not on module paths, pickle
    protocols or versions of Python: an existing output stays valid when code moves.

    Parameters
    ----------
    generator
        Any generator; ``card.name``, ``card.sha256`` and `settings_of` are used.

    Returns
    -------
    sha256 as 64 hexadecimal digits.

    Raises
    ------
    GeneratorError
        A setting is not a plain value.
    """
    card = generator.card
    parts = {"name": card.name, "sha256": card.sha256, "settings": settings_of(generator)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
