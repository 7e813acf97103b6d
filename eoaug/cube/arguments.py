"""Arguments of the verbs: each is checked, explained when wrong, and brought into the plan's form.

Every function takes what a user typed and returns what `Plan` and `Inputs` hold, or raises.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug import gaps
from eoaug.bands import match_bands
from eoaug.cube.geo import Band, Cube, read_cube
from eoaug.cube.plan import Layer, Reduce, check_joint
from eoaug.cube.progress import Progress
from eoaug.errors import GeneratorError, GridError, ParameterError, TimeError
from eoaug.generators import load
from eoaug.generators.base import METADATA_FIELDS, Card, Generator, SteppedGenerator, Verb
from eoaug.grid import same_grid
from eoaug.radiometry import Scaling

__all__ = [
    "Options",
    "chunks_of",
    "cloud_of",
    "dates_of",
    "empty_cube",
    "generator_for",
    "guidance_for",
    "integer",
    "joint_steps_for",
    "layers_of",
    "layout_for",
    "mask_of",
    "members_of",
    "metadata_for",
    "number",
    "progress_for",
    "prompt_for",
    "seconds_of",
    "steps_for",
    "unknown",
]

_SYNTHESIS_BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
"""What a generator without bands of its own makes from nothing."""

_SAR = {"vv", "vh", "hh", "hv"}
_REFLECTANCE_UNIT, _SAR_UNIT, _KELVIN_UNIT = (0.15, 0.05), (-12.0, 3.0), (290.0, 5.0)
"""Physical value of model unit 0 and size of one model unit, for generators without constants."""

_RANGES = {
    "lon_deg": (-180.0, 360.0),
    "lat_deg": (-90.0, 90.0),
    "gsd_m": (1e-3, 1e5),
    "cloud_fraction": (0.0, 1.0),
    "year": (1, 9999),
    "month": (1, 12),
    "day": (1, 31),
}
"""What metadata may be, by field."""

_DEFAULT_CHUNK_PX = 1024

_MOST_CHUNKS = 10_000_000
"""A graph of more would not fit anywhere."""


class Options(TypedDict, total=False):
    """Keyword arguments that all four verbs share."""

    generator: str | Path | Generator
    """Name, checkpoint or object, as for `eoaug.load`. Default ``"embedded"``."""
    steps: int
    """Denoising steps; 0 asks for the generator's deterministic best estimate. Default: the card's."""
    seed: int
    """Seed of all noise. Default 0."""
    members: int
    """Number of ensemble members; adds a ``member`` dimension. Default: one, without a dimension."""
    reduce: Reduce | Literal["median"]
    """``"mean"``, ``"median"``, ``"std"`` (physical units) or a quantile, 0.0 to 1.0, over the members."""
    prompt: str
    """What to show, in words; for generators with a text condition."""
    layout: xr.DataArray | xr.Dataset
    """Guidance on the result's grid, (layer, y, x) or a variable per layer, of one date: another sensor, a map, a
    terrain; for generators with a layout condition."""
    metadata: Mapping[str, float]
    """Overrides of `METADATA_FIELDS`, in real-world units."""
    guidance: float
    """Scale of classifier-free guidance."""
    chunks: Any
    """Chunk sizes of a lazy result in pixels of the result: an int, ``"auto"`` or a mapping by
    dimension. Default: eager for NumPy input, the input's own for dask input."""
    batch_tiles: int
    """Tiles handed to the generator in one call; changes no byte. Default: the card's batch."""
    joint_steps: int
    """First denoising steps that are averaged over overlapping tiles. Default: the card's."""
    device: str
    """Where the generator runs, e.g. ``"cpu"``, ``"cuda:0"``. Default: the generator's choice."""
    progress: Progress
    """True, False, or ``"steps"`` to count every denoising step. Default: a bar on a terminal or in a
    notebook once work takes some seconds. Lazy results are watched by who computes them: `eoaug.write`
    draws a bar by chunks, a dask client's dashboard names the tasks by verb."""


def unknown(what: str, value: Any, known: Iterable[str]) -> ParameterError:
    """Return the error for a value that is none of ``known``, with the nearest one."""
    known = list(known)
    close = difflib.get_close_matches(str(value), known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ParameterError(f"there is no {what} {value!r}", f"{hint}known: {', '.join(known)}")


def generator_for(options: Options, verb: Verb) -> Generator:
    """Return the generator that the options name; refuse one that cannot do the verb."""
    device = options.get("device")
    given = options.get("generator", "embedded")
    if device is not None and not isinstance(given, str | Path):
        raise ParameterError(
            f"device={device!r} does not go with a loaded generator", "eoaug.load(name, device=...) instead"
        )
    generator = load(given) if device is None else load(given, device=device)
    if not isinstance(generator.card, Card):
        raise GeneratorError(
            f"generator={generator!r} has {type(generator.card).__name__} for a card",
            "give an object, not its class; its card is an eoaug.Card",
        )
    if verb not in generator.card.verbs:
        raise GeneratorError(
            f"generator {generator.card.name!r} cannot {verb.replace('_', '-')}",
            f"it can: {', '.join(sorted(generator.card.verbs))}; or use generator='embedded'",
        )
    return generator


def layers_of(cube: Cube, card: Card) -> tuple[Layer, ...]:
    """Match the cube's bands to the generator's slots, with the maps between their units."""
    if card.bands:
        have = {band.name: band.common_name for band in cube.bands}
        slots = match_bands(have, card.bands, what=f"generator {card.name!r}")
        slot_of = {name: card.bands.index(common) for common, name in slots.items()}
    else:
        slot_of = {band.name: i for i, band in enumerate(cube.bands)}
    layers = []
    for band in cube.bands:
        slot = slot_of[band.name]
        if card.mean:
            zero, unit = card.mean[slot], card.std[slot]
        elif band.common_name in _SAR:
            zero, unit = _SAR_UNIT
        elif band.common_name is not None and band.common_name.startswith("lwir"):
            zero, unit = _KELVIN_UNIT
        else:
            zero, unit = _REFLECTANCE_UNIT
        to_model = band.scaling.then(Scaling(1 / unit, -zero / unit))
        # Files hold other byte orders; arithmetic and dask give the machine's.
        dtype = str(band.dtype.newbyteorder("="))
        layers.append(Layer(band.name, slot, to_model, band.scaling, dtype, band.nodata))
    return tuple(layers)


def steps_for(options: Options, card: Card, verb: Verb) -> int:
    """Return the denoising steps: as asked, else the card's for the verb."""
    # Members of a deterministic estimate would be equal: an ensemble asks for samples.
    default = {**card.steps, **card.member_steps} if options.get("members") is not None else card.steps
    steps = options.get("steps", default.get(verb, 0))
    return integer("steps", steps, 0, 1000)


def joint_steps_for(options: Options, generator: Generator, verb: Verb, steps: int) -> int:
    """Return how many steps overlapping tiles take together."""
    asked = options.get("joint_steps")
    able = isinstance(generator, SteppedGenerator) and steps > 0
    if asked is None:
        default = generator.card.joint_steps.get(verb, 0) if able else 0
        return min(default, max(steps - 1, 0))
    joint = integer("joint_steps", asked, 0, 1000)
    if joint and not able:
        raise ParameterError(
            f"joint_steps={joint} needs denoising steps that the engine can walk; "
            f"generator {generator.card.name!r} with steps={steps} has none",
            "leave joint_steps out, or raise steps",
        )
    check_joint(steps, joint)
    return joint


def members_of(options: Options) -> tuple[int | None, Reduce | None]:
    """Return the number of ensemble members and how they are reduced."""
    members, reduce = options.get("members"), options.get("reduce")
    if members is not None:
        members = integer("members", members, 1, 10_000)
    if reduce is None:
        return members, None
    if members is None:
        raise ParameterError(f"reduce={reduce!r} needs members to reduce", "add members=8")
    if isinstance(reduce, str) and reduce in ("mean", "std", "median"):
        return members, 0.5 if reduce == "median" else reduce
    if not isinstance(reduce, float | np.floating):
        raise unknown("reduce", reduce, ["mean", "std", "median", "a quantile such as 0.9"])
    return members, number("reduce", reduce, 0.0, 1.0)


def integer(name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` if it is an integer from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ParameterError(
            f"{name}={value!r} is not an integer from {low} to {high}", f"e.g. {name}={max(low, 1)}"
        )
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """Return ``value`` as a float if it is a number from ``low`` to ``high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not low <= float(value) <= high
    ):
        raise ParameterError(
            f"{name}={value!r} is not a number from {low} to {high}", f"e.g. {name}={(low + high) / 2}"
        )
    return float(value)


def _supported(name: str, value: Any, card: Card) -> None:
    if value is not None and name not in card.conditions:
        able = ", ".join(sorted(card.conditions)) or "none"
        raise GeneratorError(
            f"generator {card.name!r} cannot use {name}={str(value)[:60]!r}", f"leave it out; it uses: {able}"
        )


def prompt_for(prompt: Any, card: Card) -> str | None:
    """Return the prompt; refuse one that the generator cannot use."""
    _supported("prompt", prompt, card)
    if prompt is not None and not isinstance(prompt, str):
        raise ParameterError(f"prompt={prompt!r} is not a text", "e.g. prompt='a harbour in winter'")
    return prompt


def guidance_for(guidance: Any, card: Card) -> float | None:
    """Return the guidance scale; refuse one that the generator cannot use."""
    _supported("guidance", guidance, card)
    return None if guidance is None else number("guidance", guidance, 0.0, 100.0)


def metadata_for(values: Any, card: Card) -> dict[str, float]:
    """Return overrides of metadata fields; refuse unknown fields."""
    _supported("metadata", values, card)
    if values is not None and not isinstance(values, Mapping):
        raise ParameterError(
            f"metadata={values!r} is a {type(values).__name__}",
            "give numbers by field: metadata={'month': 7}",
        )
    out = {}
    for name, value in (values or {}).items():
        if name not in METADATA_FIELDS:
            raise unknown("metadata field", name, METADATA_FIELDS)
        out[name] = number(f"metadata[{name!r}]", value, *_RANGES[name])
    return out


def layout_for(layout: Any, card: Card, geobox: Any, verb: Verb) -> Any:
    """Return shape (K, Y, X) float32; refuse a layout of another grid, or where it would not be used."""
    _supported("layout", layout, card)
    if layout is None:
        return None
    if card.guided and verb not in card.guided:
        raise ParameterError(
            f"{verb}: {card.name} uses a layout to {', '.join(sorted(card.guided))} only",
            "leave layout out, or load a generator with a ControlNet",
        )
    if isinstance(layout, xr.Dataset) and layout.data_vars:
        layout = layout.to_dataarray("layer")
    shape = tuple(getattr(layout, "shape", ()))
    several = [size for size in shape[:-2] if size > 1]
    if not isinstance(layout, xr.DataArray) or len(several) > 1 or shape[-2:] != tuple(geobox.shape.yx):
        raise GridError(
            f"layout has shape {shape}, the result has {tuple(geobox.shape.yx)}",
            "give a DataArray (layer, y, x), or a Dataset of one date, on the result's grid",
        )
    layout = layout.squeeze([name for name in layout.dims[:-2] if layout.sizes[name] == 1])
    plane = layout[0] if layout.ndim == 3 else layout
    y, x = (str(name) for name in plane.dims)
    _check_place("layout", plane.rename("layout values"), (y, x), geobox)
    data = layout.data if layout.ndim == 3 else layout.data[None]
    return data.astype(np.float32)


def progress_for(progress: Any) -> Progress:
    """Return how work is watched; refuse what is no way of it."""
    if isinstance(progress, np.bool_):
        progress = bool(progress)
    if progress is None or isinstance(progress, bool) or (isinstance(progress, str) and progress == "steps"):
        return progress  # type: ignore[return-value]
    raise ParameterError(f"progress={progress!r} is unknown", "use True, False or 'steps', or leave it out")


def dates_of(times: Any, verb: str) -> NDArray[np.datetime64]:
    """Return the dates that a user listed, ascending; refuse what is no date."""
    import pandas as pd

    if isinstance(times, xr.DataArray | xr.Variable | np.ndarray):
        times = np.ravel(np.asarray(times))
    listed = [times] if isinstance(times, str) or not isinstance(times, Iterable) else list(times)
    shown = str(times)[:200]
    try:
        # A number is no date, though pandas takes it for nanoseconds.
        if any(isinstance(t, int | float | np.number) for t in listed):
            raise TypeError
        stamps = [pd.Timestamp(t) for t in listed]
        # Without a zone, as with one, the clock is UTC's.
        dates = pd.DatetimeIndex(
            [t if t.tz is None else t.tz_convert("UTC").tz_localize(None) for t in stamps]
        )
    except (ValueError, TypeError) as error:
        raise TimeError(
            f"{verb}: times={shown} holds something that is no date", "e.g. times=['2024-06-01']"
        ) from error
    if not len(dates) or dates.isna().any():
        raise TimeError(
            f"{verb}: times={shown} is empty or holds a missing date", "e.g. times=['2024-06-01']"
        )
    outside = (dates < pd.Timestamp.min.ceil("s")) | (dates > pd.Timestamp.max)
    if outside.any():
        raise TimeError(f"{verb}: times holds {dates[outside][0]}", "give dates of the years 1678 to 2261")
    found: NDArray[np.datetime64] = np.sort(dates.values.astype("datetime64[ns]"))
    close = np.flatnonzero(np.diff(seconds_of(found)) == 0)
    if len(close):
        raise TimeError(
            f"{verb}: times holds {found[close[0]]} and {found[close[0] + 1]}, not a second apart",
            "give every date once",
        )
    return found


def seconds_of(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return seconds since 1970."""
    return times.astype("datetime64[s]").astype(np.int64)


def cloud_of(cube: Cube, in_times: NDArray[np.int64], out_times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cloud fraction (0 to 1, NaN unknown) of every result date."""
    out = np.full(len(out_times), np.nan)
    percent = cube.along_time("cloud_cover", "eo:cloud_cover")
    if percent is not None:
        try:
            fraction = np.asarray(percent, np.float64) / 100
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"the cube's coordinate cloud_cover holds {percent[0]!r}, which is no number",
                "give percent, or drop it: ds.drop_vars('cloud_cover')",
            ) from error
        known = {int(t): v for t, v in zip(in_times, fraction, strict=True)}
        out = np.asarray([known.get(int(t), np.nan) for t in out_times])
    return out


def mask_of(cube: Cube, mask: Any) -> Any:
    """Return shape (T, Y, X) bool, NumPy or dask: True = fill."""
    ds = cube.source
    quality: Callable[[Any, Any], Any] | None = None
    classes: Sequence[str] | None = None
    if isinstance(mask, str):
        name = next((n for n in ds.variables if str(n).lower() == mask.lower()), None)
        if name is None:
            raise unknown("mask variable", mask, [str(n) for n in ds.variables if n not in ds.dims])
        array, quality = ds[name], _quality(str(name))
    elif isinstance(mask, list | tuple):
        classes = [str(c) for c in mask]
        name = next((n for n in ds.data_vars if _quality(str(n)) is not None), None)
        if name is None:
            raise ParameterError(
                f"mask={mask!r} names classes, but the cube has no quality band",
                f"load one (scl or qa_pixel) with the bands; it has {sorted(map(str, ds.data_vars))}",
            )
        array, quality = ds[name], _quality(str(name))
    elif isinstance(mask, xr.DataArray):
        array = mask
        _check_grid(cube, array)
    else:
        raise ParameterError(
            f"mask is a {type(mask).__name__}",
            "give a DataArray on the cube's grid, a variable's name, 'scl', 'qa_pixel' or a list of class names",
        )
    y, x = cube.names_yx
    extra = set(array.dims) - {y, x, cube.name_time}
    if not {y, x} <= set(array.dims) or extra:
        raise GridError(
            f"the mask has dimensions {array.dims}, the cube ({cube.name_time}, {y}, {x})",
            f"give it dimensions ({y}, {x}) or ({cube.name_time}, {y}, {x})",
        )
    count = 1 if cube.times is None else len(cube.times)
    has_time = cube.name_time is not None and cube.name_time in array.dims
    if has_time and cube.times is not None:
        array = _at_dates(array, cube)
    data = array.transpose(*((cube.name_time,) if has_time else ()), y, x).data
    if not has_time:
        data = data[None].repeat(count, axis=0)
    if quality is None:
        return data if data.dtype == bool else (data != 0) & (data == data)
    if hasattr(data, "dask"):
        return data.map_blocks(quality, classes, dtype=bool)
    return quality(data, classes)


def _quality(name: str) -> Callable[[Any, Any], Any] | None:
    lowered = name.lower()
    if lowered == "scl":
        return _scl
    if lowered in ("qa_pixel", "pixel_qa"):
        return _qa
    return None


def _scl(values: NDArray[Any], classes: Any) -> NDArray[np.bool_]:
    return gaps.scl_mask(values, classes)


def _qa(values: NDArray[Any], classes: Any) -> NDArray[np.bool_]:
    return gaps.qa_pixel_mask(values, classes)


def _check_grid(cube: Cube, mask: xr.DataArray) -> None:
    y, x = cube.names_yx
    sizes = tuple(mask.sizes.get(d, 0) for d in (y, x))
    if sizes != cube.shape_yx:
        raise GridError(
            f"the mask has {sizes[0]} x {sizes[1]} pixels along ({y}, {x}), the cube {cube.shape_yx[0]} x {cube.shape_yx[1]}",
            "bring it onto the cube's grid, e.g. mask.odc.reproject(ds.odc.geobox, resampling='nearest')",
        )
    if cube.georeferenced:
        _check_place("mask", mask.rename("mask values"), (y, x), cube.geobox)


def _check_place(name: str, array: xr.DataArray, yx: tuple[str, str], geobox: Any) -> None:
    """Refuse an array whose coordinates, if it has any, lie elsewhere."""
    y, x = yx
    if y not in array.coords or x not in array.coords:
        return
    grid = read_cube(_bare(array), verb=name).geobox
    if not same_grid(grid, geobox) and grid.crs is not None:
        raise GridError(
            f"the {name} lies on another grid: {grid.affine.c, grid.affine.f} instead of "
            f"{geobox.affine.c, geobox.affine.f}",
            f"bring it onto the result's grid, e.g. {name}.odc.reproject(ds.odc.geobox, resampling='nearest')",
        )
    between = np.abs(np.subtract(tuple(grid.affine), tuple(geobox.affine))).max() / abs(geobox.affine.a)
    if grid.crs is None and between > 1e-3:
        way = "assign_coords" if between < 0.5 else "sel"
        raise GridError(
            f"the {name}'s coordinates do not match the cube's: {y} starts at {float(array[y][0])}",
            f"bring it onto the cube's: {name}.{way}({y}=ds.{y}, {x}=ds.{x})",
        )


def _bare(array: xr.DataArray) -> xr.DataArray:
    # Numbers without a scale or flags, so that the door takes the array for a band.
    return array.astype(np.float32).drop_attrs(deep=False)


def _at_dates(array: xr.DataArray, cube: Cube) -> xr.DataArray:
    time = str(cube.name_time)
    if time not in array.coords:
        assert cube.times is not None
        if array.sizes[time] != len(cube.times):
            raise TimeError(
                f"the mask has {array.sizes[time]} dates, the cube {len(cube.times)}",
                "give one mask per date",
            )
        return array
    missing = np.setdiff1d(cube.source[time].values, array[time].values)
    if len(missing):
        raise TimeError(f"the mask has no date {missing[0]}", f"reindex it: mask.reindex({time}=ds.{time})")
    return array.sel({time: cube.source[time].values})


def chunks_of(
    spec: Any, cube: Cube, shape_yx: tuple[int, int], dates: int, factor: int, stride: int, copies: int
) -> tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], bool]:
    """Return chunk lengths along (time, y, x), and whether the user asked for chunks."""
    y, x = cube.names_yx
    time = cube.name_time or "time"
    shape = (dates, *shape_yx)
    default = max(_DEFAULT_CHUNK_PX, 16 * stride)
    sizes: list[int] = [dates, default, default]
    if cube.lazy:
        data = next(band.data for band in cube.bands if hasattr(band.data, "dask"))
        own = [max(c) for c in data.chunks]
        sizes = [own[0], *(n * factor if n * factor <= 2 * default else default for n in own[1:])]
    if isinstance(spec, Mapping):
        allowed = {time: 0, y: 1, x: 2, "time": 0, "y": 1, "x": 2}
        for name, value in spec.items():
            if name not in allowed:
                raise unknown("dimension in chunks", name, dict.fromkeys(allowed))
            sizes[allowed[name]] = (
                shape[allowed[name]] if value == -1 else integer(f"chunks[{name!r}]", value, 1, 2**31)
            )
    elif isinstance(spec, int | np.integer):
        sizes[1] = sizes[2] = integer("chunks", spec, 1, 2**31)
    elif spec is not None and not (isinstance(spec, str) and spec == "auto"):
        raise ParameterError(
            f"chunks={spec!r} is neither a number of pixels nor sizes by dimension",
            "e.g. chunks=1024, chunks={'time': 1, 'y': 1024, 'x': 1024} or chunks='auto'",
        )
    cut, counts = [], [copies]
    for length, size in zip(shape, sizes, strict=True):
        size = min(int(size), int(length))
        whole, rest = divmod(int(length), size)
        counts.append(whole + bool(rest))
        cut.append((size, whole, rest))
    if math.prod(counts) > _MOST_CHUNKS:
        raise ParameterError(
            f"the result has {math.prod(counts):,} chunks and members of {' x '.join(str(size) for size, _, _ in cut)}, "
            f"more than {_MOST_CHUNKS:,}",
            "give larger chunks=, or ask for a window of it: like=geobox[rows, columns]",
        )
    lengths = [(size,) * whole + ((rest,) if rest else ()) for size, whole, rest in cut]
    return (lengths[0], lengths[1], lengths[2]), spec is not None


def empty_cube(geobox: Any, times: NDArray[np.datetime64] | None, card: Card) -> Cube:
    """Return a cube without pixels: the grid and bands of a synthesis from nothing."""
    from odc.geo.xr import xr_coords

    coords: dict[Any, Any] = dict(xr_coords(geobox))
    if times is not None:
        coords["time"] = xr.Variable(("time",), times)
    y, x = geobox.dimensions
    dims = ("time", y, x) if times is not None else (y, x)
    bands = tuple(
        Band(
            name=name,
            common_name=name,
            data=np.empty((1, 0, 0), np.float32),
            dims=dims,
            scaling=Scaling(),
            nodata=None,
            attrs={
                "common_name": name,
                "units": "1",
                "long_name": "reflectance",
                "grid_mapping": "spatial_ref",
            },
            encoding={},
        )
        for name in card.bands or _SYNTHESIS_BANDS
        # From nothing there is nothing to derive another band from.
        if name not in card.kept | card.transferred
    )
    # The bands are listed as empty variables, so that the result's variables keep their order.
    source = xr.Dataset({band.name: xr.Variable((), np.float32(0)) for band in bands}, coords)
    return Cube(
        bands=bands,
        geobox=geobox,
        georeferenced=True,
        times=times,
        names_yx=(y, x),
        name_time="time" if times is not None else None,
        source=source,
        form="dataset",
    )
