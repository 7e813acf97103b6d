"""Commands that look into catalogs."""

from __future__ import annotations

from typing import Annotated

import typer

from eoaug.cli.options import Source, Texts, floats, option_help, reported, split

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "inspect",
    short_help="Tell what a catalog holds.",
    help=option_help(
        "Tell what is in a catalog: items, dates, bands, grids, and what is synthetic.",
        "eoaug inspect catalogs/sample",
    ),
)
@reported
def inspect_source(
    source: Source,
    collections: Annotated[Texts, typer.Option(metavar="NAMES", help="Only these collections.")] = None,
    bbox: Annotated[str | None, typer.Option(help="west,south,east,north in degrees.")] = None,
    datetime: Annotated[str | None, typer.Option(help="Date or interval.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items per collection.")] = None,
) -> None:
    """Tell what is in a catalog: items, dates, bands, grids, and what is synthetic."""
    from eoaug.stac.summary import summarise

    found = summarise(
        source,
        collections=split(collections),
        bbox=floats(bbox, "bbox", 4),
        datetime=datetime,
        limit=limit,
    )
    typer.echo("\n\n".join(map(str, found)))
