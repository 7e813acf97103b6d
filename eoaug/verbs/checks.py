"""Checks of single arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from eoaug.errors import GeneratorError, ParameterError, did_you_mean
from eoaug.generators.base import Card

__all__ = ["flag", "integer", "number", "supported", "unknown"]


def unknown(what: str, value: Any, known: Iterable[str]) -> ParameterError:
    """Return the error for a value that is not among ``known``, with the most similar one."""
    known = list(known)
    hint = f"{did_you_mean(value, known)} known: {', '.join(known)}".lstrip()
    return ParameterError(f"there is no {what} {value!r}", hint)


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False; None is False."""
    if value is None or isinstance(value, bool | np.bool_):
        return bool(value)
    raise ParameterError(f"{name}={value!r} is not True or False", f"e.g. {name}=True")


def integer(name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` if it is an integer from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ParameterError(
            f"{name}={value!r} is not an integer from {low} to {high}", f"e.g. {name}={max(low, 1)}"
        )
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """Return ``value`` as a float if it is a number from ``low`` to ``high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not low <= float(value) <= high
    ):
        raise ParameterError(
            f"{name}={value!r} is not a number from {low} to {high}", f"e.g. {name}={(low + high) / 2}"
        )
    return float(value)


def supported(name: str, value: Any, card: Card) -> None:
    """Refuse a condition that the generator cannot use."""
    if value is not None and name not in card.conditions:
        able = ", ".join(sorted(card.conditions)) or "none"
        raise GeneratorError(
            f"generator {card.name!r} cannot use {name}={str(value)[:60]!r}", f"leave it out; it uses: {able}"
        )
