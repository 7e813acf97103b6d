"""The verbs, corruptions and changes as commands: each option is an argument of the Python function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eoaug.cli.options import (
    Bbox,
    Collections,
    Datetime,
    Json,
    Source,
    Texts,
    floats,
    print_json,
    reported,
    split,
)
from eoaug.corruptions.options import CORRUPT_OPTIONS
from eoaug.errors import GridError, ParameterError
from eoaug.generators.base import Verb
from eoaug.pairs.options import CHANGE_OPTIONS
from eoaug.verbs.options import OWN_OPTIONS, Option, shared_options

__all__ = ["SHORT", "command"]


_EAGER_BYTES = 256 * 2**20
"""Cubes up to this size are loaded eagerly, which shows a progress bar and records residuals."""


# -- options that are not arguments of the verbs; those come from `eoaug.verbs.options` -----------------


def _open_options(
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Bands to read, e.g. B02,B03 or red,nir. [default: all]")
    ] = None,
    bbox: Bbox = None,
    datetime: Datetime = None,
    collections: Collections = None,
    ids: Annotated[Texts, typer.Option(metavar="NAMES", help="Items to read. [default: all]")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of items.")] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Pixel size in units of the CRS. [default: the source's]")
    ] = None,
    crs: Annotated[
        str | None, typer.Option(help="CRS of the cube, e.g. EPSG:32633. [default: the source's]")
    ] = None,
    groupby: Annotated[
        str, typer.Option(help="Merge items into one date by solar_day, time or id.")
    ] = "solar_day",
    composite: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD",
            help="Read a composite of the clear pixels of each period: monthly, best (all dates), or e.g. 'every 10d'. "
            "[default: the dates]",
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Process each item separately, e.g. items on different grids.")
    ] = False,
) -> None: ...


def _target_options(
    out: Annotated[
        Path, typer.Option(help="Catalog to write to: a new one, or an existing one such as the source.")
    ],
    format: Annotated[  # noqa: A002
        Literal["cog", "zarr", "icechunk"],
        typer.Option(help="Format: a COG per band, one Zarr group, or an Icechunk repository."),
    ] = "cog",
    collection: Annotated[
        str | None, typer.Option(help="Collection to write to. [default: the source's name with -eoaug]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing items.")] = False,
) -> None: ...


def _plan_options(
    time: Annotated[
        bool, typer.Option("--time", help="Time a few dummy tiles on this machine to estimate the run time.")
    ] = False,
    as_json: Json = False,
) -> None: ...


_Group = Callable[..., None]
SHORT = {
    "inpaint": "Fill clouds and gaps.",
    "extend": "Generate further dates.",
    "super_resolve": "Increase the spatial resolution.",
    "translate": "Make bands from other bands and sensors.",
    "synthesize": "Generate every pixel.",
    "corrupt": "Simulate clouds, noise and other defects.",
    "change": "Make pairs of images with known changes.",
}
_ABOUT = {
    "inpaint": "Fill clouds and gaps; all other pixels are returned bit for bit.\n\n\b\n"
    "Example: clouds from the Sentinel-2 scene classification\n"
    "  eoaug {}inpaint my-catalog --bands B02,B03,B04,B08,SCL --mask SCL{}",
    "extend": "Generate dates before, between or after the given ones.\n\n\b\n"
    "Example: two more dates for one item of the sample catalog\n"
    "  eoaug {}extend sample --ids S2A_MSIL2A_20170613T101031_87_48 \\\n"
    "    --bands B02,B03,B04,B08 --times 2017-04-15,2017-08-15{}",
    "super_resolve": "Increase the spatial resolution; degraded by the sensor model, the output reproduces the input.\n\n\b\n"
    "Example: every item of the sample catalog at 2.5 m\n"
    "  eoaug {}super-resolve sample --collections sentinel-2-l2a --each \\\n"
    "    --bands B02,B03,B04,B08 --factor 4{}",
    "translate": "Make bands from the other bands of their date, such as radar or another sensor, and from other dates; measured "
    "pixels are returned bit for bit.\n\n\b\n"
    "Example: the red-edge and short-wave infrared bands of every item of the sample catalog\n"
    "  eoaug {}translate sample --collections sentinel-2-l2a --each \\\n"
    "    --bands B02,B03,B04,B08 --to B05,B11,B12{}",
    "synthesize": "Generate every pixel: variations of a cube, or a new cube of any extent.\n\n\b\n"
    "Example: four variations of one item, and a new scene of 2 km\n"
    "  eoaug {}synthesize sample --ids S2A_MSIL2A_20170613T101031_87_48 \\\n"
    "    --bands B02,B03,B04,B08 --members 4{}\n"
    "  eoaug {}synthesize --like 500000,5000000,502000,5002000 --crs EPSG:32633 \\\n"
    "    --resolution 10 --times 2024-06-01{}",
    "corrupt": "Simulate a physical defect of measurements; labels are kept, or moved with the pixels.\n\n\b\n"
    "Example: clouds over a quarter of every item, with their masks\n"
    "  eoaug {}corrupt sample --collections sentinel-2-l2a --each --bands B02,B03,B04,B08 \\\n"
    "    --kind clouds --values cover=0.25{}",
    "change": "Redraw regions of a label as another class, and decoys as their own: two dates and a map of what changed.\n\n\b\n"
    "Example: a tenth of the regions of every item becomes woods\n"
    "  eoaug {}change my-catalog --each --bands B02,B03,B04,landcover \\\n"
    "    --label landcover --to woods --format zarr{}",
}


def command(verb: Verb | Literal["corrupt", "change"], *, plan: bool) -> Callable[..., None]:
    """Return the function behind ``eoaug VERB`` or ``eoaug plan VERB``, with the options of its groups."""
    if verb == "corrupt":
        kept = {name: option for name, option in shared_options().items() if name in ("seed", "chunks")}
        own, shared = _parameters(CORRUPT_OPTIONS), _parameters(kept)
    elif verb == "change":
        own, shared = _parameters(CHANGE_OPTIONS), {}
    else:
        own, shared = _parameters(OWN_OPTIONS[verb]), _parameters(shared_options())
    opening, last = _signature(_open_options), _signature(_plan_options if plan else _target_options)
    source = inspect.Parameter(
        "source",
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Source,
        default=None if verb == "synthesize" else inspect.Parameter.empty,
    )
    parameters = {"source": source, **own, **opening, **shared, **last}

    def command(**given: Any) -> None:
        own_given, open_given, shared_given, last_given = (
            {name: given[name] for name in group} for group in (own, opening, shared, last)
        )
        arguments = {**_own(verb, own_given), **_shared(shared_given)}
        cubes = _cubes(given["source"], own_given, open_given, arguments)
        if plan:
            _show_plans(verb, cubes, arguments, **last_given)
            return
        for cube in cubes:
            _run(verb, cube, arguments, last_given)

    example = (("plan ", "") if plan else ("", " --out augmented")) * 2
    command.__name__ = verb
    command.__doc__ = _ABOUT[verb].format(*example[: _ABOUT[verb].count("{}")])
    command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return reported(command)


_Parameters = dict[str, inspect.Parameter]


def _parameters(options: Mapping[str, Option]) -> _Parameters:
    """Return the parameters that typer reads, of the arguments that the command line offers."""
    out = {}
    for name, option in options.items():
        if option.cli is None:
            continue
        optional = option.default is None and not option.required
        shown = typer.Option(*option.flags, metavar=option.metavar, help=option.help)
        out[name] = inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[option.cli | None if optional else option.cli, shown],
            default=inspect.Parameter.empty if option.required else option.default,
        )
    return out


def _signature(group: _Group) -> _Parameters:
    parameters = inspect.signature(group, eval_str=True).parameters
    return {name: p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in parameters.items()}


def _own(verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(given)
    if "times" in arguments:
        arguments["times"] = split(arguments["times"])
    if verb == "translate":
        arguments["to"] = split(given["to"])
    if verb == "super_resolve":
        arguments |= _sensor(given)
    if given.get("native") not in (None, "auto"):
        arguments["native"] = _numbers([given["native"]], "native")
    if verb == "corrupt":
        arguments |= {"labels": split(given["labels"]), "values": None, **_values(given["values"])}
    if verb == "synthesize":
        arguments["like"] = floats(given["like"], "like", 4)
    return {name: value for name, value in arguments.items() if value is not None}


def _values(given: Any) -> dict[str, Any]:
    """Return the values of an option KEY=VALUE,KEY=VALUE: numbers, true, false or words."""
    pairs = [text.partition("=") for text in split(given) or []]
    words: dict[str, Any] = {"true": True, "false": False}
    return {
        key: words[value]
        if value in words
        else value
        if value.isalpha()
        else _numbers([f"{key}={value}"], "values")[key]
        for key, _, value in pairs
    }


def _sensor(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sensor and its noise: names and numbers, one or per band."""
    names = [part.strip() for part in given["sensor"].split(",")]
    sensor: list[Any] = [
        name if name.isalpha() else (floats(name, "sensor", 1) or (0.0,))[0] for name in names
    ]
    noise = floats(given["sensor_noise"], "sensor-noise")
    return {
        "sensor": sensor[0] if len(sensor) == 1 else sensor,
        "sensor_noise": noise[0] if noise is not None and len(noise) == 1 else noise,
    }


def _shared(given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(given)
    if given.get("reduce") not in (None, "mean", "std", "median"):
        (arguments["reduce"],) = floats(given["reduce"], "reduce", 1) or (None,)
    if given.get("metadata") is not None:
        arguments["metadata"] = _numbers(given["metadata"], "metadata")
    if "labels" in given:
        arguments["labels"] = split(given["labels"])
    return {name: value for name, value in arguments.items() if value is not None}


def _numbers(given: Any, option: str) -> dict[str, float]:
    """Return the numbers of an option KEY=VALUE,KEY=VALUE."""
    pairs = [text.partition("=") for text in split(given) or []]
    return {key: (floats(value, f"{option} {key}", 1) or (0.0,))[0] for key, _, value in pairs}


def _cubes(
    source: str | None, own: Mapping[str, Any], given: Mapping[str, Any], arguments: dict[str, Any]
) -> Iterator[Any]:
    """Open the source: once, or item by item."""
    import eoaug
    from eoaug.stac.summary import summarise

    if own.get("like") is not None:
        if source is not None:
            raise ParameterError(f"--like and the source {source!r} exclude each other", "give one of them")
        chooses = ("bbox", "datetime", "collections", "ids", "limit", "composite")
        for name in [name for name in chooses if given[name] is not None]:
            raise ParameterError(
                f"--{name} filters a source, and --like has none", "omit it, or give a SOURCE"
            )
        # With --like these options define the output.
        arguments |= {k: given[k] for k in ("crs", "resolution") if given[k] is not None}
        if given["bands"] is not None:
            arguments["bands"] = split(given["bands"])
        yield None
        return
    if source is None:
        raise ParameterError(
            "neither a source nor --like is given", "give a SOURCE, or --like with --crs and --resolution"
        )
    search: dict[str, Any] = {
        "collections": split(given["collections"]),
        "bbox": floats(given["bbox"], "bbox", 4),
        "datetime": given["datetime"],
        "limit": given["limit"],
    }
    fixed = {name: given[name] for name in ("resolution", "crs", "groupby", "composite")}
    fixed |= {"bands": split(given["bands"]), "labels": arguments.get("labels") or arguments.get("label")}
    ids = split(given["ids"])
    if not given["each"]:
        try:
            opened = eoaug.open_cube(source, ids=ids, **search, **fixed)
        except GridError as error:
            remedy = error.remedy.rstrip(".")
            raise GridError(error.problem, f"{remedy}; or process items one by one with --each") from error
        yield from _nodes(opened)
        return

    empty = True
    for summary in summarise(source, **search):
        collections = [summary.collection] if summary.collection else None
        for name in summary.items:
            if ids is None or name in ids:
                empty = False
                yield from _nodes(eoaug.open_cube(source, ids=[name], collections=collections, **fixed))
    if empty:
        raise ParameterError(
            f"no item of {source!r} matches --ids and the other filters",
            f"list the items: eoaug inspect {source}",
        )


def _nodes(cube: Any) -> Iterator[Any]:
    import xarray as xr

    if not isinstance(cube, xr.DataTree):
        yield cube
        return
    yield from (node.to_dataset() for node in cube.subtree if node.data_vars)


# -- the work -----------------------------------------------------------------------------------------


def _show_plans(
    verb: Any, cubes: Iterator[Any], arguments: Mapping[str, Any], *, time: bool, as_json: bool
) -> None:
    import eoaug

    explanations = []
    for cube in cubes:
        plan = eoaug.plan(verb, cube, **_with_rasters(arguments, cube))
        explanations.append(plan.explain(measure=time))
        if not as_json:
            typer.echo(str(explanations[-1]))
    if as_json:
        print_json([asdict(explanation) for explanation in explanations])


def _run(verb: str, cube: Any, arguments: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    import eoaug

    if cube is not None and cube.nbytes <= _EAGER_BYTES and "chunks" not in arguments:
        cube = cube.load()
    result = getattr(eoaug, verb)(cube, **_with_rasters(arguments, cube))
    options = {name: value for name, value in target.items() if name != "out"}
    for item in eoaug.write(result, target["out"], **options):
        typer.echo(item.get_self_href())


def _with_rasters(arguments: Mapping[str, Any], cube: Any) -> dict[str, Any]:
    """Open a mask or layout given as a raster file; other masks are passed to the verb unchanged."""
    given = dict(arguments)
    mask, layout = given.get("mask"), given.get("layout")
    if mask is not None and cube is not None and mask not in cube.variables and Path(mask).is_file():
        given["mask"] = _raster(mask).isel(band=0, drop=True)
    if layout is not None:
        if not Path(layout).is_file():
            raise ParameterError(
                f"--layout {layout!r} does not exist", "give a raster file on the output grid"
            )
        given["layout"] = _raster(layout)
    return given


def _raster(path: str) -> Any:
    import rioxarray

    opened: Any = rioxarray.open_rasterio(path)
    return opened.load()
