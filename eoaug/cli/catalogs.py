"""Commands that read catalogs."""

from __future__ import annotations

import typer

from eoaug.cli.options import (
    Bbox,
    Collections,
    Datetime,
    Json,
    Limit,
    Source,
    floats,
    option_help,
    print_result,
    reported,
    split,
)

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "inspect",
    short_help="Summarise a catalog.",
    help=option_help(
        "Summarise a catalog: items, dates, bands, grids, and what is synthetic.",
        "eoaug inspect sample",
    ),
)
@reported
def inspect_source(
    source: Source,
    collections: Collections = None,
    bbox: Bbox = None,
    datetime: Datetime = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Summarise a catalog."""
    from eoaug.stac.summary import summarise

    summaries = summarise(
        source,
        collections=split(collections),
        bbox=floats(bbox, "bbox", 4),
        datetime=datetime,
        limit=limit,
    )
    print_result(summaries, as_json)
