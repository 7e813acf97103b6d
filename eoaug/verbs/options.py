"""The options of the verbs: one declaration for Python, the command line and the YAML file of a job.

`Options` holds the keyword arguments that all verbs share, `OWN_OPTIONS` those of single verbs. The command
line derives its options from them, and a job the check of its ``parameters``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

import xarray as xr

from eoaug.engine.values import Reduce
from eoaug.generators.base import Generator, Verb
from eoaug.progress import Progress

__all__ = ["OWN_OPTIONS", "Option", "Options", "shared_options", "yaml_keys"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """Where an argument of the verbs may be written, and how the command line shows it."""

    cli: Any = None
    """Type that the command line parses; None: Python (and YAML) only."""
    help: str = ""
    """Help text on the command line."""
    default: Any = None
    """Value of an option that is left out on the command line; None: the verb or the generator decides."""
    required: bool = False
    metavar: str | None = None
    """Placeholder of the value in help texts; None: its type."""
    flags: tuple[str, ...] = ()
    """Spelling on the command line; (): the argument's name."""
    yaml: str | None = "parameters"
    """Key of a job under which it is written; None: nowhere in a job."""


class Options(TypedDict, total=False):
    """Keyword arguments that all verbs share."""

    generator: Annotated[
        str | Path | Generator,
        Option(
            cli=str,
            default="embedded",
            yaml="generator",
            help="Name (see `eoaug generators`), checkpoint folder, or JSON file with options.",
        ),
    ]
    """Name, checkpoint or object, as for `eoaug.load`. Default ``"embedded"``."""
    seed: Annotated[int, Option(cli=int, default=0, help="Random seed.")]
    """Random seed of all noise. Default 0."""
    steps: Annotated[
        int,
        Option(cli=int, help="Denoising steps; 0 gives the best estimate. [default: the generator's]"),
    ]
    """Denoising steps; 0: the deterministic best estimate. Default: the generator's default."""
    members: Annotated[int, Option(cli=int, help="Number of ensemble members.")]
    """Number of ensemble members; adds a ``member`` dimension. Default: one, without a dimension."""
    reduce: Annotated[
        Reduce | Literal["median"],
        Option(cli=str, help="Reduce the members: mean, std, median, or a quantile from 0.0 to 1.0."),
    ]
    """``"mean"``, ``"median"``, ``"std"`` (physical units) or a quantile, 0.0 to 1.0, over the members."""
    uncertainty: Annotated[
        bool,
        Option(
            cli=bool,
            flags=("--uncertainty",),
            help="Add the expected error of every band, as <band>_std in physical units.",
        ),
    ]
    """True adds a variable ``<band>_std`` per band: the expected error of the best estimate as one standard deviation in
    physical units, 0 where it was measured; without an ensemble. A 90 % interval is the value +- 1.645 times it."""
    calibrate: Annotated[
        bool,
        Option(
            cli=bool,
            flags=("--calibrate",),
            yaml=None,
            help="With --uncertainty: hide clear pixels of the scene, and widen the errors until 90 % intervals hold.",
        ),
    ]
    """True (with ``uncertainty``, for `inpaint`) hides clear pixels on purpose, in the shape of the gaps, and scales the
    expected errors so that 90 % intervals hold there. The coverage that was reached is in the attributes of
    ``<band>_std``. Takes about three times as long."""
    prompt: Annotated[str, Option(cli=str, help="Text prompt, if the generator supports one.")]
    """Text prompt, for generators with a text condition."""
    layout: Annotated[
        xr.DataArray | xr.Dataset,
        Option(
            cli=str,
            yaml=None,
            help="Conditioning raster on the output grid: for `embedded` SAR in dB, a DEM or a map, "
            "for ControlNets values from 0 to 1.",
        ),
    ]
    """Conditioning raster on the result's grid, (layer, y, x) or a variable per layer, of one date: another sensor,
    a map, a terrain model; for generators with a layout condition."""
    guidance: Annotated[float, Option(cli=float, help="Classifier-free guidance scale.")]
    """Scale of classifier-free guidance."""
    metadata: Annotated[
        Mapping[str, float],
        Option(cli=list[str], metavar="KEY=VALUE", help="Override metadata, e.g. month=7."),
    ]
    """Overrides of `METADATA_FIELDS`, in real-world units."""
    labels: Annotated[
        Sequence[str] | str,
        Option(
            cli=list[str],
            metavar="NAMES",
            help="Variables that hold classes of the ground, of which no pixel is changed. [default: those that declare "
            "it]",
        ),
    ]
    """Names of variables that are labels: classes of what is on the ground. No verb changes their pixels: they stay as they
    are on the same grid, `super_resolve` repeats each pixel, and `extend` drops those with dates. Default: variables with
    flags (``flag_values``) that are not those of a quality band, and those that `open_cube` read from a label asset. With
    ``like`` of `synthesize`: one name for a new variable with the classes that the generator lays out."""
    chunks: Annotated[Any, Option(cli=int, yaml="run.chunks", help="Chunk size in output pixels.")]
    """Chunk sizes of a lazy result in pixels of the result: an int, ``"auto"`` or a mapping by
    dimension. Default: eager for NumPy input, the input's own for dask input."""
    memory: Annotated[
        int | str,
        Option(
            cli=str,
            metavar="SIZE",
            yaml="run.memory",
            help="Memory of the process beyond its start, e.g. 2GB: sets the chunk size, or refuses.",
        ),
    ]
    """Memory that the process may take beyond that after ``import eoaug``, for example ``"2GB"``; changes no byte. The
    largest chunks whose work fits are chosen, one on each core, and the result is lazy; where none fits the plan is
    refused. Input and result in memory, and checkpoints of diffusers, come on top. Not with ``chunks``."""
    batch_tiles: Annotated[
        int, Option(cli=int, yaml="run.batch_tiles", help="Tiles per call to the generator.")
    ]
    """Tiles per call to the generator; changes no byte. Default: the generator's default."""
    joint_steps: Annotated[
        int,
        Option(cli=int, help="Initial denoising steps in which overlapping tiles are averaged."),
    ]
    """First denoising steps that are averaged over overlapping tiles. Default: the generator's default."""
    tiling: Annotated[
        Literal["plane", "image"],
        Option(
            cli=Literal["plane", "image"],
            help="plane: tiles at absolute pixels, so that crops agree; image: a small image in one tile, which is "
            "faster. [default: plane; image without coordinates]",
        ),
    ]
    """Where the generator's tiles lie. ``"plane"``: at absolute pixels of the reference system, so that crops of a scene
    and scenes next to each other agree. ``"image"``: an image that fits in a tile lies in that one alone, which is less
    work; larger ones are tiled as on the plane. Without effect on `super_resolve` and ``like``. Default:
    ``"image"`` for cubes without coordinates, else ``"plane"``."""
    device: Annotated[
        str,
        Option(
            cli=str, yaml="run.device", help="Device, e.g. cpu or cuda:0. [default: chosen by the generator]"
        ),
    ]
    """Where the generator runs, e.g. ``"cpu"``, ``"cuda:0"``. Default: the generator's choice."""
    progress: Annotated[Progress, Option(yaml=None)]
    """True, False, or ``"steps"`` to count every denoising step. Default: a bar on a terminal or in a notebook once
    work takes some seconds. A lazy result shows no bar of its own: `eoaug.write` draws one by chunks, and a dask
    dashboard names the tasks by verb."""


_MASK_BUFFER = Option(
    cli=str,
    metavar="METRES",
    help="Radius by which the mask is dilated, in metres, or in pixels: 10px. [default: 100 for the mask of a "
    "quality band, else 0]",
)

_NO_EVIDENCE = Option(
    cli=str,
    help="Pixels that are no evidence, such as clouds: scl, qa_pixel, a variable, a raster file, or none. "
    "[default: the source's quality band, if it is read]",
)

OWN_OPTIONS: Mapping[Verb, Mapping[str, Option]] = {
    "inpaint": {
        "mask": Option(
            cli=str,
            help="Pixels to fill: scl, qa_pixel, a variable, a raster file, or none. [default: see --fill]",
        ),
        "mask_buffer": _MASK_BUFFER,
        "fill": Option(
            cli=Literal["gaps", "all"],
            help="Without --mask: fill missing pixels that another date has, or all missing pixels. "
            "[default: gaps; all if there is one date]",
        ),
    },
    "extend": {
        "times": Option(
            cli=list[str], metavar="DATES", required=True, help="Dates to add, e.g. 2018-03-01,2018-09-01."
        ),
        "sequence": Option(
            cli=bool,
            flags=("--sequence/--apart",),
            help="Generate new dates autoregressively (each conditioned on the previous ones) or independently. "
            "[default: the generator's]",
        ),
        "mask": _NO_EVIDENCE,
        "mask_buffer": _MASK_BUFFER,
    },
    "super_resolve": {
        "factor": Option(cli=int, default=2, help="Output pixels per input pixel along each axis, 2 to 8."),
        "sensor": Option(
            cli=str,
            default="auto",
            help="How the pixels were measured: auto, box, bilinear, cubic, nearest, gaussian, or the MTF at Nyquist, "
            "e.g. 0.25 (or one per band).",
        ),
        "sensor_noise": Option(
            cli=str,
            help="Standard deviation of the noise in physical units (or one per band); 0: none. [default: estimated]",
        ),
        "mask": _NO_EVIDENCE,
        "mask_buffer": replace(
            _MASK_BUFFER,
            help="Radius by which the mask is dilated, in metres, or in pixels: 10px. [default: 0]",
        ),
        "native": Option(
            cli=str,
            metavar="auto|BAND=METRES",
            help="Sharpen bands of coarser native pixels with the fine ones, on the grid of the cube: auto, or e.g. "
            "B05=20,B11=20.",
        ),
    },
    "translate": {
        "to": Option(
            cli=list[str],
            metavar="NAMES",
            required=True,
            help="Bands to make from the others, e.g. B11,B12, or a sensor, with its level if that matters: sentinel-2, landsat-8, "
            "sentinel-2-l2a, sentinel-1.",
        ),
        "mask": replace(
            _NO_EVIDENCE,
            help="Pixels where optical bands show no ground, such as clouds: scl, qa_pixel, a variable, a raster file, or "
            "none. [default: the source's quality band, if it is read]",
        ),
        "mask_buffer": _MASK_BUFFER,
    },
    "synthesize": {
        "strength": Option(
            cli=float, help="Denoising strength: 0 keeps the source, 1 ignores it. [default: 0.6]"
        ),
        "mask": _NO_EVIDENCE,
        "mask_buffer": _MASK_BUFFER,
        "like": Option(
            cli=str,
            yaml=None,
            help="Extent instead of a source: left,bottom,right,top in --crs, with --resolution.",
        ),
        "times": Option(cli=list[str], metavar="DATES", help="Dates of the output, with --like."),
        # On the command line these three are options of the source, and of the extent where there is none.
        "bands": Option(yaml=None),
        "resolution": Option(yaml=None),
        "crs": Option(yaml=None),
    },
}
"""Arguments of single verbs, in the order of the command line."""


def shared_options() -> dict[str, Option]:
    """Return the options that all verbs share, by name."""
    hints = get_type_hints(Options, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def yaml_keys(verb: Verb) -> dict[str, str]:
    """Return the arguments of a verb that a job may set, each with the key under which it is written."""
    options = {**OWN_OPTIONS[verb], **shared_options()}
    return {name: option.yaml for name, option in options.items() if option.yaml is not None}
