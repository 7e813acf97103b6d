"""What several commands share: types of arguments, parsing of lists, help texts, printing of errors."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from eoaug.errors import EoaugError, ParameterError, missing_package
from eoaug.stac.sample import named_source

__all__ = [
    "Bbox",
    "Collections",
    "Datetime",
    "Json",
    "Limit",
    "Source",
    "Texts",
    "floats",
    "option_help",
    "options_of",
    "print_json",
    "print_result",
    "reported",
    "settings_from",
    "split",
]


Texts = list[str] | None
Source = Annotated[
    str,
    typer.Argument(
        callback=named_source,
        help="Catalog, collection or item (path or URL), name or URL of a STAC API, or a GeoTIFF, netCDF file, Zarr "
        "group, or folder of such files; 'sample' is the catalog that eoaug ships.",
    ),
]
Collections = Annotated[Texts, typer.Option(metavar="NAMES", help="Collections to read. [default: all]")]
Bbox = Annotated[str | None, typer.Option(help="Bounding box: west,south,east,north in degrees.")]
Datetime = Annotated[str | None, typer.Option(help="Date or interval: 2018-05, 2018-01-01/2018-06-30.")]
Limit = Annotated[int | None, typer.Option(help="Maximum number of items per collection.")]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(values: Any) -> None:
    """Print values as JSON, in plain ASCII for every terminal and parser."""
    typer.echo(json.dumps(values, indent=2))


def print_result(found: Any, as_json: bool) -> None:
    """Print a result, or a list of results with an empty line between them, as text or as JSON."""
    several = isinstance(found, list)
    if as_json:
        print_json([one.as_dict() for one in found] if several else found.as_dict())
    else:
        typer.echo("\n\n".join(map(str, found)) if several else str(found))


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Print errors of eoaug in two lines and exit with code 2."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except EoaugError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except ModuleNotFoundError as error:
            typer.echo(f"Error: {missing_package('this command', error)}", err=True)
            raise typer.Exit(2) from None

    return guarded


def split(texts: Sequence[str] | None) -> list[str] | None:
    """Return the values of an option that may be repeated and may hold several values with commas."""
    if texts is None:
        return None
    return [value.strip() for text in texts for value in text.split(",") if value.strip()] or None


def floats(text: str | None, name: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return the comma-separated numbers of an option.

    Parameters
    ----------
    text
        Value of the option; None if it is not given.
    name
        Name of the option, for the error.
    count
        How many numbers there must be; None: one or more.

    Raises
    ------
    ParameterError
        The text holds something else, or another count of numbers.
    """
    if text is None:
        return None
    try:
        values = tuple(float(number) for number in text.split(","))
    except ValueError:
        values = ()
    if not values or count not in (None, len(values)):
        raise ParameterError(
            f"--{name} {text!r}: expected {count or 'one or more'} numbers",
            "separate them with commas: 1,2,3,4",
        )
    return values


def option_help(about: str, example: str) -> str:
    """Return a help text with an example."""
    # \b keeps click from rewrapping the lines that follow it.
    return f"{about}\n\n\b\nExample:\n  {example}"


# -- a dataclass as options ---------------------------------------------------------------------------


def options_of(
    settings: type, texts: Mapping[str, str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command one option for every field of a dataclass.

    Parameters
    ----------
    settings
        A dataclass whose fields all have defaults.
    texts
        Help text of every field.
    """
    hints = get_type_hints(settings)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = dict(inspect.signature(command, eval_str=True).parameters)
        del parameters["values"]
        for field in fields(settings):
            kind, default = _option_type(hints[field.name], field.default)
            flags = [f"--{field.name.replace('_', '-')}"] if kind is bool else []
            metavar = "NAMES" if kind == list[str] else "PAIRS" if kind == Texts else None
            option = typer.Option(*flags, help=texts[field.name], metavar=metavar)
            parameters[field.name] = inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[kind, option],
                default=default,
            )

        @wraps(command)
        def with_options(**given: Any) -> None:
            values = {field.name: given.pop(field.name) for field in fields(settings)}
            command(**given, values=values)

        ordered = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()]
        with_options.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        with_options.__annotations__ = {name: p.annotation for name, p in parameters.items()}
        return with_options

    return decorate


def settings_from(
    settings: type,
    values: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    context: typer.Context | None = None,
) -> Any:
    """Return the dataclass that the values of `options_of` describe.

    Parameters
    ----------
    settings
        The dataclass.
    values
        Of the options.
    config
        Values from a file, which apply where an option was not typed.
    context
        Knows which options were typed; needed with ``config``.
    """
    hints = get_type_hints(settings)
    given: dict[str, Any] = dict(config or {})
    for field in fields(settings):
        source = context.get_parameter_source(field.name) if context is not None else None
        if field.name in given and (source is None or source.name != "COMMANDLINE"):
            continue
        value, hint = values[field.name], hints[field.name]
        if get_origin(hint) is tuple:
            numbers = float in get_args(hint)
            value = floats(value, field.name, len(get_args(hint))) if numbers else tuple(split(value) or ())
        elif _is_dict(hint):
            value = _pairs(value, field.name)
        elif NoneType in get_args(hint) and field.default is not None:
            value = value or None
        given[field.name] = value
    return settings(**given)


def _is_dict(hint: Any) -> bool:
    return any(get_origin(part) is dict for part in (hint, *get_args(hint)))


def _pairs(texts: Sequence[str] | None, name: str) -> dict[str, str] | None:
    """Return the pairs of an option such as ``--parts unet=full,text=lora``."""
    pairs = split(texts)
    if pairs is None:
        return None
    for pair in pairs:
        if "=" not in pair:
            raise ParameterError(
                f"--{name} {pair!r} has no =", f"write name=value: --{name} unet=full,text=lora"
            )
    return {key.strip(): value.strip() for key, _, value in (pair.partition("=") for pair in pairs)}


def _option_type(hint: Any, default: Any) -> tuple[Any, Any]:
    """Return type and default of the option for a field: lists for names, text for numbers."""
    if _is_dict(hint):
        return Texts, None
    if get_origin(hint) is tuple:
        if float in get_args(hint):
            return str, ",".join(f"{number:g}" for number in default)
        return list[str], list(default)
    if NoneType in get_args(hint) and default is not None:
        # On the command line, 0 means None.
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    return hint, default
