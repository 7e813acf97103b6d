"""What several commands share: types of arguments, parsing of lists, help texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from eoaug.errors import EoaugError, ParameterError

__all__ = ["Source", "Texts", "floats", "option_help", "reported", "split"]


Texts = list[str] | None
Source = Annotated[str, typer.Argument(help="Catalog, collection or item (path or URL), or a STAC API.")]


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Print errors of eoaug in two lines and leave with code 2."""
    from functools import wraps

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except EoaugError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None

    return guarded


# -- from options to arguments ------------------------------------------------------------------------


def split(texts: Sequence[str] | None) -> list[str] | None:
    """Options may be repeated, or hold several values with commas."""
    if texts is None:
        return None
    return [part.strip() for text in texts for part in text.split(",") if part.strip()] or None


def floats(text: str | None, name: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return comma-separated numbers; refuse other text, or another count of them, by the option's name."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or count not in (None, len(values)):
        raise ParameterError(
            f"--{name} {text!r} is not {count or 'one or more'} numbers", "write them with commas: 1,2,3,4"
        )
    return values


def option_help(about: str, example: str) -> str:
    """Return a help text with an example."""
    # \b keeps click from filling the lines that follow it.
    return f"{about}\n\n\b\nExample:\n  {example}"
