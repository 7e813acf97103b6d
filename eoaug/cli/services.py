"""Commands that describe the verbs to other services."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from eoaug.cli.options import Texts, option_help, print_json, reported, split
from eoaug.errors import ParameterError

__all__ = ["commands"]

commands = typer.Typer()

Verbs = Literal["inpaint", "extend", "super-resolve", "synthesize"]


@commands.command(
    "process",
    short_help="Describe a verb as a process of OGC API - Processes.",
    help=option_help(
        "Print the description of a verb as a process of OGC API - Processes, as JSON: inputs with their schemas, and the "
        "output.",
        "eoaug process super-resolve",
    ),
)
@reported
def process(verb: Annotated[Verbs, typer.Argument(help="The verb.")]) -> None:
    """Describe a verb as a process."""
    from eoaug.services.ogc import process_description

    print_json(process_description(verb.replace("-", "_")))  # type: ignore[arg-type]


@commands.command(
    "udf",
    short_help="Write a verb as a user-defined function of openEO.",
    help=option_help(
        "Print a verb as a user-defined function of openEO. With --gsd and --bands, also size and overlap for "
        "apply_neighborhood, with which windows agree; on standard error.",
        'eoaug udf super-resolve --parameters \'{"factor": 2, "sensor": "gaussian"}\' --crs EPSG:32631 > udf.py',
    ),
)
@reported
def user_defined_function(
    verb: Annotated[Literal["inpaint", "super-resolve"], typer.Argument(help="The verb.")],
    parameters: Annotated[str, typer.Option(metavar="JSON", help="Arguments of the verb.")] = "{}",
    generator: Annotated[str, typer.Option(help="Name of the generator.")] = "embedded",
    scale: Annotated[float, typer.Option(help="From the numbers of the collection to reflectance.")] = 1e-4,
    offset: Annotated[float, typer.Option(help="Added after the scale.")] = 0.0,
    crs: Annotated[str | None, typer.Option(help="Reference system of the cube, e.g. EPSG:32631.")] = None,
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Bands of the cube, for size and overlap.")
    ] = None,
    gsd: Annotated[float | None, typer.Option(metavar="METRES", help="Pixel size of the cube.")] = None,
    size: Annotated[int, typer.Option(help="Edge of a window without overlap, in pixels.")] = 256,
) -> None:
    """Write a verb as a user-defined function of openEO."""
    from eoaug.services.openeo import neighborhood, udf

    try:
        given = json.loads(parameters)
    except ValueError as error:
        raise ParameterError(
            f"--parameters {parameters!r} is not JSON: {error}", "e.g. '{\"factor\": 2}'"
        ) from error
    request: dict[str, Any] = {
        "parameters": given,
        "generator": generator,
        "scale": scale,
        "offset": offset,
        "crs": crs,
    }
    name = verb.replace("-", "_")
    text = udf(name, **request)
    names = split(bands)
    if names and gsd:
        typer.echo(json.dumps(neighborhood(name, names, gsd_m=gsd, size_px=size, **request)), err=True)
    typer.echo(text)
