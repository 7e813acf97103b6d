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
    short_help="Summarise a catalog, or say what eoaug sees in a netCDF file.",
    help=option_help(
        "Summarise a catalog: items, dates, bands, grids, and what is synthetic. Of a netCDF file or a Zarr group: what eoaug "
        "sees in it, and what each verb would do.",
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
    from eoaug import open_cube
    from eoaug.stac.array_files import is_array_file
    from eoaug.stac.summary import summarise
    from eoaug.verbs.description import described

    if is_array_file(source):
        box = floats(bbox, "bbox", 4)
        print_result(described(open_cube(source, bbox=box, datetime=datetime)), as_json)
        return
    summaries = summarise(
        source,
        collections=split(collections),
        bbox=floats(bbox, "bbox", 4),
        datetime=datetime,
        limit=limit,
    )
    print_result(summaries, as_json)
