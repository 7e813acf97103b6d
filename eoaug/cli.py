"""The command line: every command calls one function of a lower floor.

Options carry the names of the Python arguments. Commands import what they need when they run, so that
``--help`` is quick; errors of eoaug are two lines on stderr and exit code 2.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eoaug import cli_jobs
from eoaug.errors import EoaugError, GridError, ParameterError

__all__ = ["app", "main"]

app = typer.Typer(
    name="eoaug",
    help="Augment Earth-observation data cubes with diffusion models, from STAC catalog to STAC catalog.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plans = typer.Typer(
    help="Tell what a command would cost, without reading a pixel.",
    short_help="Tell what a command would cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=cli_jobs.JobsToo,
)
app.add_typer(plans, name="plan")

_EAGER_BYTES = 256 * 2**20
"""Cubes up to this size are read at once: then a progress bar is shown and residuals are counted."""

Texts = list[str] | None
Source = Annotated[str, typer.Argument(help="Catalog, collection or item (path or URL), or a STAC API.")]


# -- groups of options; the names are the Python arguments' ------------------------------------------


def _open_options(
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Bands, e.g. B02,B03 or red,nir. [default: all]")
    ] = None,
    bbox: Annotated[str | None, typer.Option(help="west,south,east,north in degrees.")] = None,
    datetime: Annotated[
        str | None, typer.Option(help="Date or interval: 2018-05, 2018-01-01/2018-06-30.")
    ] = None,
    collections: Annotated[Texts, typer.Option(metavar="NAMES", help="Only these collections.")] = None,
    ids: Annotated[Texts, typer.Option(metavar="NAMES", help="Only these items.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items.")] = None,
    resolution: Annotated[float | None, typer.Option(help="Pixel size in units of the grid.")] = None,
    crs: Annotated[str | None, typer.Option(help="Grid of the cube, e.g. EPSG:32633. [default: own]")] = None,
    groupby: Annotated[str, typer.Option(help="What makes one date: solar_day, time, id.")] = "solar_day",
    each: Annotated[
        bool, typer.Option("--each", help="Take every item as a cube of its own (places far apart).")
    ] = False,
) -> None: ...


def _engine_options(
    generator: Annotated[
        str, typer.Option(help="Name (see `eoaug generators`), checkpoint folder, or JSON with options.")
    ] = "embedded",
    seed: Annotated[int, typer.Option(help="Another seed, another draw.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; 0: best estimate. [default: its card's]")
    ] = None,
    members: Annotated[int | None, typer.Option(help="Ensemble members.")] = None,
    reduce: Annotated[
        str | None, typer.Option(help="Over members: mean, std, median or a quantile, 0.0 to 1.0.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What to show, in words, where supported.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Raster file on the result's grid: what ControlNets see, 0 to 1.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance.")] = None,
    metadata: Annotated[Texts, typer.Option(metavar="KEY=VALUE", help="Overrides, e.g. month=7.")] = None,
    chunks: Annotated[int | None, typer.Option(help="Chunk edge of the work in pixels.")] = None,
    batch_tiles: Annotated[int | None, typer.Option(help="Tiles per call of the generator.")] = None,
    joint_steps: Annotated[int | None, typer.Option(help="First steps averaged over tiles.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0. [default: the generator's choice]")] = None,
) -> None: ...


def _target_options(
    out: Annotated[Path, typer.Option(help="Catalog to write to: new, or existing (also the source).")],
    format: Annotated[  # noqa: A002
        Literal["cog", "zarr", "icechunk"],
        typer.Option(help="A COG per band, one Zarr group, or that in an Icechunk repository."),
    ] = "cog",
    collection: Annotated[
        str | None, typer.Option(help="Collection to write to. [default: source's, with -eoaug]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace items that exist.")] = False,
) -> None: ...


def _plan_options(
    time: Annotated[
        bool, typer.Option("--time", help="Run a few made-up tiles here, and estimate the time.")
    ] = False,
) -> None: ...


def _inpaint_options(
    mask: Annotated[
        str | None,
        typer.Option(help="What to fill: scl, qa_pixel, a variable, or a raster file. [default: see --fill]"),
    ] = None,
    fill: Annotated[
        Literal["gaps", "all"] | None,
        typer.Option(
            help="Without a mask: gaps seen on another date, or all that is missing. [default: gaps; all of one date]"
        ),
    ] = None,
) -> None: ...


def _extend_options(
    times: Annotated[
        list[str], typer.Option(metavar="DATES", help="Dates to add, e.g. 2018-03-01,2018-09-01.")
    ],
    sequence: Annotated[
        bool | None,
        typer.Option(
            "--sequence/--apart",
            help="Dates one after the other, each told of those before. [default: its card's]",
        ),
    ] = None,
) -> None: ...


def _super_resolve_options(
    factor: Annotated[int, typer.Option(help="Output pixels per input pixel along an axis, 2 to 8.")] = 2,
    sensor: Annotated[
        str, typer.Option(help="How a pixel was measured: gaussian, box, or MTF at Nyquist, e.g. 0.25.")
    ] = "gaussian",
) -> None: ...


def _synthesize_options(
    strength: Annotated[
        float | None, typer.Option(help="Departure from the source, 0 to 1. [default: 0.6]")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="No source: left,bottom,right,top in --crs, with --resolution.")
    ] = None,
    times: Annotated[Texts, typer.Option(metavar="DATES", help="Dates of the result, with --like.")] = None,
) -> None: ...


_Group = Callable[..., None]
_OWN: Mapping[str, _Group] = {
    "inpaint": _inpaint_options,
    "extend": _extend_options,
    "super_resolve": _super_resolve_options,
    "synthesize": _synthesize_options,
}
_SHORT = {
    "inpaint": "Fill clouds and gaps.",
    "extend": "Add dates.",
    "super_resolve": "Add detail below the pixel.",
    "synthesize": "Generate every pixel.",
}
_ABOUT = {
    "inpaint": "Fill clouds and gaps; every other pixel comes back bit for bit.\n\n\b\n"
    "Example: the clouds of Sentinel-2's scene classification\n"
    "  eoaug {}inpaint my-catalog --bands B02,B03,B04,B08,SCL --mask SCL{}",
    "extend": "Add dates before, between or after the given ones.\n\n\b\n"
    "Example: two more dates for one item of the sample catalog\n"
    "  eoaug {}extend catalogs/sample --ids S2A_MSIL2A_20170613T101031_87_48 \\\n"
    "    --bands B02,B03,B04,B08 --times 2017-04-15,2017-08-15{}",
    "super_resolve": "Add the detail below the pixel; seen by the sensor, the result is the measurement.\n\n\b\n"
    "Example: every item of the sample catalog at 2.5 m\n"
    "  eoaug {}super-resolve catalogs/sample --collections sentinel-2-l2a --each \\\n"
    "    --bands B02,B03,B04,B08 --factor 4{}",
    "synthesize": "Generate every pixel: variations of a cube, or a cube of any extent from nothing.\n\n\b\n"
    "Example: four variations of one item, and a new scene of 2 km\n"
    "  eoaug {}synthesize catalogs/sample --ids S2A_MSIL2A_20170613T101031_87_48 \\\n"
    "    --bands B02,B03,B04,B08 --members 4{}\n"
    "  eoaug {}synthesize --like 500000,5000000,502000,5002000 --crs EPSG:32633 \\\n"
    "    --resolution 10 --times 2024-06-01{}",
}


def _command(verb: str, *, plan: bool) -> Callable[..., None]:
    """Make the function behind ``eoaug VERB`` or ``eoaug plan VERB``: its options are those of its groups."""
    groups: list[_Group] = [_OWN[verb], _open_options, _engine_options]
    groups.append(_plan_options if plan else _target_options)
    source = inspect.Parameter(
        "source",
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Source,
        default=None if verb == "synthesize" else inspect.Parameter.empty,
    )
    parameters = {"source": source}
    for group in groups:
        for name, parameter in inspect.signature(group, eval_str=True).parameters.items():
            parameters[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    def command(**given: Any) -> None:
        parts = [{name: given[name] for name in inspect.signature(group).parameters} for group in groups]
        arguments = {**_own(verb, parts[0]), **_engine(parts[2])}
        for cube in _cubes(given["source"], parts[0], parts[1], arguments):
            if plan:
                _show_plan(verb, cube, arguments, **parts[3])
            else:
                _run(verb, cube, arguments, parts[3])

    example = (("plan ", "") if plan else ("", " --out augmented")) * 2
    command.__name__ = verb
    command.__doc__ = _ABOUT[verb].format(*example[: _ABOUT[verb].count("{}")])
    command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return _told(command)


def _told(command: Callable[..., None]) -> Callable[..., None]:
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


for _verb in _OWN:
    _name = _verb.replace("_", "-")
    app.command(_name, short_help=_SHORT[_verb])(_command(_verb, plan=False))
    plans.command(_name, short_help=_SHORT[_verb])(_command(_verb, plan=True))


# -- from options to arguments ------------------------------------------------------------------------


def _split(texts: Sequence[str] | None) -> list[str] | None:
    """Options may be repeated, or hold several values with commas."""
    if texts is None:
        return None
    return [part.strip() for text in texts for part in text.split(",") if part.strip()] or None


def _floats(text: str | None, name: str, count: int | None = None) -> tuple[float, ...] | None:
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


def _own(verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(given)
    if "times" in arguments:
        arguments["times"] = _split(arguments["times"])
    if verb == "super_resolve" and given["sensor"] not in ("gaussian", "box"):
        values = _floats(given["sensor"], "sensor")
        assert values is not None
        arguments["sensor"] = values[0] if len(values) == 1 else values
    if verb == "synthesize":
        arguments["like"] = _floats(given["like"], "like", 4)
    return {name: value for name, value in arguments.items() if value is not None}


def _engine(given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(given)
    if given["reduce"] not in (None, "mean", "std", "median"):
        (arguments["reduce"],) = _floats(given["reduce"], "reduce", 1) or (None,)
    if given["metadata"] is not None:
        pairs = [text.partition("=") for text in _split(given["metadata"]) or []]
        arguments["metadata"] = {
            key: (_floats(value, f"metadata {key}", 1) or (0.0,))[0] for key, _, value in pairs
        }
    return {name: value for name, value in arguments.items() if value is not None}


def _cubes(
    source: str | None, own: Mapping[str, Any], given: Mapping[str, Any], arguments: dict[str, Any]
) -> Iterator[Any]:
    """Open the source: once, or item by item."""
    import eoaug

    if own.get("like") is not None:
        if source is not None:
            raise ParameterError(f"--like does not go with the source {source!r}", "give one of them")
        chooses = ("bands", "bbox", "datetime", "collections", "ids", "limit")
        for name in [name for name in chooses if given[name] is not None]:
            raise ParameterError(
                f"--{name} chooses from a source, --like has none", "leave it out, or give a SOURCE"
            )
        # The result's grid is told by these; there is no source that they could choose from.
        arguments |= {k: given[k] for k in ("crs", "resolution") if given[k] is not None}
        yield None
        return
    if source is None:
        raise ParameterError("nothing to start from", "give a SOURCE, or --like with --crs and --resolution")
    search: dict[str, Any] = {
        "collections": _split(given["collections"]),
        "bbox": _floats(given["bbox"], "bbox", 4),
        "datetime": given["datetime"],
        "limit": given["limit"],
    }
    fixed = {name: given[name] for name in ("resolution", "crs", "groupby")}
    fixed["bands"] = _split(given["bands"])
    ids = _split(given["ids"])
    if not given["each"]:
        try:
            opened = eoaug.open_cube(source, ids=ids, **search, **fixed)
        except GridError as error:
            raise GridError(error.problem, f"{error.remedy} Here, --each takes item by item.") from error
        yield from _nodes(opened)
        return
    from eoaug.stac.contents import inspect as contents

    empty = True
    for found in contents(source, **search):
        for name in found.items:
            if ids is None or name in ids:
                empty = False
                one = [found.collection] if found.collection else None
                yield from _nodes(eoaug.open_cube(source, ids=[name], collections=one, **fixed))
    if empty:
        raise ParameterError(
            f"no item of {source!r} is what --ids and the other filters ask for",
            f"look at what there is: eoaug inspect {source}",
        )


def _nodes(cube: Any) -> Iterator[Any]:
    import xarray as xr

    if not isinstance(cube, xr.DataTree):
        yield cube
        return
    yield from (node.to_dataset() for node in cube.subtree if node.data_vars)


# -- the work -----------------------------------------------------------------------------------------


def _show_plan(verb: Any, cube: Any, arguments: Mapping[str, Any], *, time: bool) -> None:
    import eoaug

    plan = eoaug.plan(verb, cube, **_with_rasters(arguments, cube))
    typer.echo(str(plan.explain(calibrate=time)))


def _run(verb: str, cube: Any, arguments: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    import eoaug

    if cube is not None and cube.nbytes <= _EAGER_BYTES and "chunks" not in arguments:
        cube = cube.load()
    result = getattr(eoaug, verb)(cube, **_with_rasters(arguments, cube))
    options = {name: value for name, value in target.items() if name != "out"}
    for item in eoaug.write(result, target["out"], **options):
        typer.echo(item.get_self_href())


def _with_rasters(arguments: Mapping[str, Any], cube: Any) -> dict[str, Any]:
    """Open a mask and a layout that are raster files; any other mask is for the verb to understand."""
    given = dict(arguments)
    mask, layout = given.get("mask"), given.get("layout")
    if mask is not None and mask not in cube.variables and Path(mask).is_file():
        given["mask"] = _raster(mask).isel(band=0, drop=True)
    if layout is not None:
        if not Path(layout).is_file():
            raise ParameterError(f"--layout {layout!r} is no file", "give a raster on the result's grid")
        given["layout"] = _raster(layout)
    return given


def _raster(path: str) -> Any:
    import rioxarray

    opened: Any = rioxarray.open_rasterio(path)
    return opened.load()


def _help(about: str, example: str) -> str:
    # \b keeps click from filling the lines that follow it.
    return f"{about}\n\n\b\nExample:\n  {example}"


@app.command(
    "generators",
    short_help="List the installed generators.",
    help=_help("List the generators that are installed.", "eoaug generators"),
)
@_told
def generators() -> None:
    """List the generators that are installed."""
    from eoaug.generators import available, load

    for name in available():
        try:
            card = load(name).card
        except EoaugError as error:
            typer.echo(f"{name}\n  cannot be loaded: {error.problem}")
            continue
        low, high = card.gsd_m
        rows = {
            "": card.description,
            "verbs": ", ".join(sorted(card.verbs)),
            "bands": ", ".join(card.bands) or "any, each on its own",
            "pixels": "of any size" if high == float("inf") else f"of {low:g} to {high:g} m",
            "uses": ", ".join(sorted(card.conditions)),
            "licence": card.licence,
            "sha256": card.sha256,
        }
        typer.echo(name)
        typer.echo("\n".join(f"  {label:<9}{text}" for label, text in rows.items() if text))


@app.command(
    "inspect",
    short_help="Tell what a catalog holds.",
    help=_help(
        "Tell what is in a catalog: items, dates, bands, grids, and what is synthetic.",
        "eoaug inspect catalogs/sample",
    ),
)
@_told
def inspect_source(
    source: Source,
    collections: Annotated[Texts, typer.Option(metavar="NAMES", help="Only these collections.")] = None,
    bbox: Annotated[str | None, typer.Option(help="west,south,east,north in degrees.")] = None,
    datetime: Annotated[str | None, typer.Option(help="Date or interval.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items per collection.")] = None,
) -> None:
    """Tell what is in a catalog: items, dates, bands, grids, and what is synthetic."""
    from eoaug.stac.contents import inspect as contents

    found = contents(
        source,
        collections=_split(collections),
        bbox=_floats(bbox, "bbox", 4),
        datetime=datetime,
        limit=limit,
    )
    typer.echo("\n\n".join(map(str, found)))


@app.command(
    "evaluate",
    short_help="Score a generator.",
    help=_help(
        "Score a generator beside classical methods on cubes whose truth is known: holes with and without other "
        "dates, super-resolution, whole dates, and images from nothing. Best estimates and single samples are "
        "judged; --members adds ensembles. Writes table.md, table.json, sheets as PNG, and index.html, a page "
        "with pictures that holds all it shows.",
        "eoaug evaluate embedded --data validation-cubes --out evaluation\n"
        "  eoaug evaluate embedded --data validation-cubes --train train-cubes --all-windows "
        "--members 32 --out evaluation\n"
        '  eoaug evaluate classical --data validation-cubes --tasks "inpaint,x2" --out evaluation',
    ),
)
@_told
def evaluate(
    generator: Annotated[str, typer.Argument(help="Name of a generator.")],
    data: Annotated[Path, typer.Option(help="Folder of netCDF cubes it was not trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; its files are replaced.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Folder of the cubes it was trained on, to tell whether it repeats them."),
    ] = None,
    tasks: Annotated[
        Texts,
        typer.Option(
            metavar="NAMES",
            help="Of inpaint, 'inpaint with radar', 'inpaint with dates', x2, x4 (also 'x2 box', 'x2 triangle' ...), 'next date', "
            "'date between', synthesis, throughput. [default: all]",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most windows per task and place.")] = 16,
    all_windows: Annotated[
        bool, typer.Option("--all-windows", help="Every window: figures of sensors with 100 or more.")
    ] = False,
    members: Annotated[
        int, typer.Option(help="Size of ensembles, 32 for coverage of intervals; 0: none.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of samples. [default: its card's]")] = None,
    seed: Annotated[int, typer.Option(help="Of the holes and of the generator's noise.")] = 0,
) -> None:
    """Score a generator beside classical methods on cubes whose truth is known."""
    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out} is a file", "name a folder for the report")
    from eoaug.evaluate import PARTS, write_report
    from eoaug.evaluate import evaluate as score
    from eoaug.generators import load

    found = score(
        load(generator),
        data,
        train_dir=train,
        tasks=_split(tasks) or PARTS,
        limit=None if all_windows else limit,
        members=members,
        steps=steps,
        seed=seed,
    )
    page = write_report(found, out)
    typer.echo(found.table.to_markdown())
    typer.echo(page)


@app.command(
    "train",
    short_help="Train the embedded model.",
    help=_help(
        "Train the embedded generator's networks; a stopped training goes on where it was.",
        "eoaug train train.yaml --data cubes --out runs/embedded",
    ),
)
@_told
def train(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML of the training.")],
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of netCDF cubes.")],
    out: Annotated[Path, typer.Option(help="Folder for weights and checkpoints.")],
    minutes: Annotated[float | None, typer.Option(help="Stop each stage after so much time.")] = None,
) -> None:
    """Train the embedded generator's networks; a stopped training goes on where it was."""
    import logging

    from eoaug.training.pretrain import pretrain

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for stage, sha256 in pretrain(config, data, out, minutes=minutes).items():
        if sha256:  # of several processes the first one tells
            typer.echo(f"{stage} {sha256}")


@app.command(
    "convert-weights",
    short_help="Turn pickled weights into safetensors.",
    help=_help(
        "Write safetensors beside the pickled weights of a checkpoint, read in a process that can do nothing else.",
        "eoaug convert-weights diffusionsat-512",
    ),
)
@_told
def convert(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Checkpoint folder.")],
) -> None:
    """Write safetensors beside the pickled weights of a checkpoint."""
    from eoaug.generators.convert import convert_weights

    for path in convert_weights(folder):
        typer.echo(path)


@app.command(
    "finetune",
    short_help="Fine-tune a checkpoint on cubes.",
    help=_help(
        "Train a LoRA, a word or all weights of a checkpoint on cubes: netCDF files, or the items of a catalog; "
        "a stopped training goes on.",
        'eoaug finetune --base sd-folder --cubes cubes --out my-lora --rank 16 --token "<field>"\n'
        "  eoaug finetune --base sd-folder --cubes sentinel-1-catalog --bands vv,vh,vv --stretch -25,0 \\\n"
        "    --captions captions.json --out sar-lora",
    ),
)
@_told
def tune(
    base: Annotated[str, typer.Option(help="Checkpoint folder, or owner/name@commit on the hub.")],
    cubes: Annotated[
        str, typer.Option(help="Folder of netCDF cubes, or a catalog, collection, item or STAC API.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the adapter and its state.")],
    mode: Annotated[
        Literal["lora", "full"], typer.Option(help="Low-rank matrices, or all weights.")
    ] = "lora",
    target: Annotated[list[str], typer.Option(metavar="NAMES", help="Of unet,text,vae.")] = ["unet"],  # noqa: B006
    rank: Annotated[int, typer.Option(help="Of the LoRA.")] = 16,
    token: Annotated[str | None, typer.Option(help="A new word to learn, e.g. <sar>.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = 1,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the forward.")
    ] = "float32",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Of the three channels. [default: red,green,blue]")
    ] = None,
    stretch: Annotated[str, typer.Option(help="Reflectance of black and white.")] = "0,0.3",
    captions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON: prompt or class by cube (file name, or item id). [default: captions.json there]",
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Caption of cubes that have none.")] = "a satellite image",
    collections: Annotated[Texts, typer.Option(metavar="NAMES", help="Only these collections.")] = None,
    bbox: Annotated[str | None, typer.Option(help="Only items in west,south,east,north in degrees.")] = None,
    datetime: Annotated[str | None, typer.Option(help="Only items of this date or interval.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items per collection.")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Edge of a window. [default: the UNet's]")] = None,
    snr: Annotated[float, typer.Option(help="Largest signal-to-noise weight (min-SNR); 0: none.")] = 5.0,
    ema: Annotated[float, typer.Option(help="Decay of the average that is written; 0: none.")] = 0.999,
    save_every: Annotated[int, typer.Option(help="Steps between states to go on from.")] = 250,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0. [default: a GPU if there is one]")] = None,
) -> None:
    """Train a LoRA, a word or all weights of a checkpoint on cubes."""
    from tqdm import tqdm

    from eoaug.generators.checkpoint import read_json
    from eoaug.training.finetune import Tuning, finetune

    low, high = _floats(stretch, "stretch", 2) or (0.0, 0.3)
    tuning = Tuning(
        mode=mode,
        target=tuple(_split(target) or ()),
        rank=rank,
        token=token,
        steps=steps,
        batch=batch,
        rate=rate,
        precision=precision,
        checkpointing=checkpointing,
        bands=tuple(_split(bands) or ("red", "green", "blue")),  # type: ignore[arg-type]
        prompt=prompt,
        snr=snr or None,
        ema=ema or None,
        save_every=save_every,
        stretch=(low, high),
        tile_px=tile_px,
        seed=seed,
        device=device,
    )
    told = {
        "collections": _split(collections),
        "bbox": _floats(bbox, "bbox", 4),
        "datetime": datetime,
        "limit": limit,
    }
    search = {name: value for name, value in told.items() if value is not None}
    texts = None if captions is None else {k: str(v) for k, v in read_json(captions).items()}
    with tqdm(total=steps, unit="step", disable=None) as bar:

        def tell(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}")

        tuned = finetune(base, cubes, out, tuning, captions=texts, search=search, progress=tell)
    typer.echo(tuned.path)


cli_jobs.register(app, plans, _told)


def _version(wanted: bool) -> None:
    if wanted:
        import eoaug

        typer.echo(eoaug.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Typer makes its text the help of `eoaug`.
    del version


def main() -> None:
    """Run the command line."""
    app()
