"""The exceptions of eoaug.

Every message says what was attempted, on which item, band or argument, the value found, and what to
type instead. Imports nothing of eoaug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "BandError",
    "EoaugError",
    "GeneratorError",
    "GridError",
    "JobError",
    "ParameterError",
    "RadiometryError",
    "SourceError",
    "TargetError",
    "TimeError",
    "did_you_mean",
    "error_context",
    "first_line",
]


class EoaugError(ValueError):
    """The base of every error that eoaug raises on purpose.

    Parameters
    ----------
    problem
        One sentence: what was attempted, on what, and the value found.
    remedy
        One sentence: what to type instead. Printed on a line of its own.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}\n  -> {remedy}" if remedy else problem)

    def __reduce__(self) -> tuple[type[EoaugError], tuple[str, str]]:
        # Errors cross process borders with dask; the default would pass the joined text twice.
        return type(self), (self.problem, self.remedy)


class BandError(EoaugError):
    """A band is missing, unknown, ambiguous or not served by the generator."""


class GridError(EoaugError):
    """A coordinate reference system, transform, extent or resolution is missing or does not fit."""


class TimeError(EoaugError):
    """A date is missing, repeated, unordered or not usable."""


class RadiometryError(EoaugError):
    """A scale, offset, nodata value or data type is missing or contradicts another."""


class ParameterError(EoaugError):
    """An argument has a value that the verb cannot use."""


class GeneratorError(EoaugError):
    """A generator is unknown, cannot be loaded, or cannot do what was asked."""


class SourceError(EoaugError):
    """A catalog, item or asset cannot be found or read."""


class TargetError(EoaugError):
    """A result cannot be written where it should be."""


class JobError(EoaugError):
    """A job cannot begin or go on, or one of its items took too long or took its worker down."""


@contextmanager
def error_context(what: str) -> Iterator[None]:
    """Begin the problem of every `EoaugError` that leaves the block with ``what``, e.g. the verb.

    Functions below the verbs then need no argument that only begins a message.

    Examples
    --------
    >>> with error_context("inpaint"):
    ...     raise ParameterError("factor=9 is not an integer from 2 to 8", "e.g. factor=2")
    Traceback (most recent call last):
    eoaug.errors.ParameterError: inpaint: factor=9 is not an integer from 2 to 8
      -> e.g. factor=2
    """
    try:
        yield
    except EoaugError as error:
        error.problem = f"{what}: {error.problem}"
        error.args = (f"{error.problem}\n  -> {error.remedy}" if error.remedy else error.problem,)
        raise


_LONGEST_LINE = 300
"""Characters of another library's message that are repeated."""


def did_you_mean(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``"did you mean 'x'?"`` with the most similar known name; empty if none is similar.

    Parameters
    ----------
    name
        What the user wrote.
    known
        The names that exist.
    cutoff
        Least similarity, 0 to 1, as in `difflib.get_close_matches`.
    """
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"did you mean {matches[0]!r}?" if matches else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without a full stop, or the error's type if it is empty."""
    line, _, _ = str(error).strip().partition("\n")
    return line[:_LONGEST_LINE].rstrip(" .\r") or type(error).__name__
