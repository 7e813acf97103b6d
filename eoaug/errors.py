"""The exceptions of eoaug.

Every message says what was attempted, on which item, band or argument, the value found, and what to
type instead. Imports nothing of eoaug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "BandError",
    "EoaugError",
    "EoaugWarning",
    "GeneratorError",
    "GridError",
    "JobError",
    "PackageError",
    "ParameterError",
    "RadiometryError",
    "SourceError",
    "TargetError",
    "TimeError",
    "UnitsWarning",
    "did_you_mean",
    "error_context",
    "explain_validation",
    "first_line",
    "foreign",
    "missing_package",
    "printable",
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
        self.problem, self.remedy = printable(problem), printable(remedy)
        super().__init__(f"{self.problem}\n  -> {self.remedy}" if remedy else self.problem)

    def __reduce__(self) -> tuple[type[EoaugError], tuple[str, str]]:
        # Errors cross process borders with dask; the default would pass the joined text twice.
        return type(self), (self.problem, self.remedy)


class UnitsWarning(UserWarning):
    """Values look as if they had another unit than the one that they are taken for."""


class EoaugWarning(UserWarning):
    """A verb did what was asked, and the result may not be what was meant: nothing was filled, or everything."""


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


class PackageError(EoaugError, ImportError):
    """A package that only this needs is not installed."""


_EXTRAS: Mapping[str, str] = {
    "dask_jobqueue": "slurm",
    "diffusers": "diffusion",
    "distributed": "cluster",
    "h5netcdf": "netcdf",
    "h5py": "netcdf",
    "icechunk": "icechunk",
    "lightning": "torchgeo",
    "matplotlib": "plot",
    "obstore": "s3",
    "peft": "diffusion",
    "stac_geoparquet": "geoparquet",
    "torch": "torch",
    "torchgeo": "torchgeo",
    "transformers": "diffusion",
}
"""Extras of eoaug by the package that they install."""


def missing_package(what: str, error: ImportError, otherwise: str = "") -> PackageError:
    """Return the error for what needs a package that is not installed.

    Parameters
    ----------
    what
        What needs it, e.g. the name of a function.
    error
        Of the import.
    otherwise
        What to do without the package.

    Examples
    --------
    >>> print(missing_package("show", ModuleNotFoundError(name="matplotlib")))
    show needs the package matplotlib, which is not installed
      -> run: pip install 'eoaug[plot]'
    """
    name = (error.name or "").partition(".")[0] or str(error)
    extra = f"eoaug[{_EXTRAS[name]}]" if name in _EXTRAS else name
    return PackageError(
        f"{what} needs the package {name}, which is not installed",
        f"run: pip install '{extra}'" + (f", or {otherwise}" if otherwise else ""),
    )


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
        error.problem = f"{printable(what)}: {error.problem}"
        error.args = (f"{error.problem}\n  -> {error.remedy}" if error.remedy else error.problem,)
        raise


@contextmanager
def foreign(what: str, remedy: str, error: type[EoaugError]) -> Iterator[None]:
    """Turn whatever code of others raises in the block into an `EoaugError`: SystemExit and panics of Rust too.

    Parameters
    ----------
    what
        Begins the problem: ``"item 'a'"``.
    remedy
        What to do about it.
    error
        Class of the error.
    """
    try:
        yield
    except (EoaugError, MemoryError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as cause:
        raise error(f"{what} failed with {type(cause).__name__}: {first_line(cause)}", remedy) from cause


def printable(text: object) -> str:
    r"""Return text of others as it is shown: control, bidirectional and newline characters are escaped.

    Examples
    --------
    >>> print(printable("scene\n\x1b[2J"))
    scene\n\x1b[2J
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


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
    try:
        line, _, _ = str(error).strip().partition("\n")
    except Exception:  # an error of others whose text cannot be made
        line = ""
    return line[:_LONGEST_LINE].rstrip(" .\r") or type(error).__name__


def explain_validation(
    error: ValidationError,
    model: type,
    what: str,
    examples: Mapping[str, str] | None = None,
    *,
    noun: str = "option",
) -> tuple[str, str]:
    """Return problem and remedy of the first entry of a pydantic error.

    A validator that raises an `EoaugError` decides both itself.

    Parameters
    ----------
    error
        The error of validating ``model``.
    model
        Its fields are the known names.
    what
        What was validated, e.g. ``"job 'a.yaml'"``; begins the message.
    examples
        Remedies by dotted name, for values and for missing names.
    noun
        What a name is called.
    """
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, EoaugError):
        return cause.problem, cause.remedy
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _names(model, path[:-1])
        hint = f"{did_you_mean(path[-1], known)} the {noun}s are {', '.join(known)}".lstrip()
        return f"{what} has no {noun} {name!r}", hint
    example = (examples or {}).get(name)
    if first["type"] == "missing" and not path[-1].isdigit():
        return f"{what} has no {name!r}", f"add it, e.g. {example}" if example else "add it"
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason.replace("Input should", "it should", 1).replace("Field required", "it is missing", 1)
    if not path:
        return f"{what}: {reason}", f"correct that {noun}"
    choices = first.get("ctx", {}).get("expected")
    example = example or (examples or {}).get(path[0])
    remedy = f"use {choices}" if choices else f"e.g. {example}" if example else "correct that value"
    return f"{what}: {name}={first['input']!r:.200} is not valid: {reason}", remedy


def _names(model: type, path: list[str]) -> list[str]:
    """Return the field names of a pydantic model or dataclass, or of the one at a path of names inside it."""
    inner: Any = model
    for name in path:
        kind = inner.__pydantic_fields__[name].annotation
        inner = next(part for part in (kind, *get_args(kind)) if hasattr(part, "__pydantic_fields__"))
    return list(inner.__pydantic_fields__)
