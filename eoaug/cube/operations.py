"""The four verbs: from arguments to a plan, from the plan to the user's kind of object.

Each verb checks its arguments, says what is known and what is to be filled, and hands a `Plan` to the
run. Every verb is a free function, fit for ``ds.pipe``; the accessors forward here.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata as package_metadata
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug import gaps
from eoaug.bands import match_bands
from eoaug.cube import provenance
from eoaug.cube.chunk import SYNTHETIC
from eoaug.cube.geo import Band, Cube, read_cube
from eoaug.cube.plan import Fill, Layer, Plan, Reduce, check_joint, lattice_for, token_of
from eoaug.cube.run import Inputs, build, compute
from eoaug.errors import BandError, GeneratorError, GridError, ParameterError, TimeError
from eoaug.generators import load
from eoaug.generators.base import METADATA_FIELDS, Card, Generator, SteppedGenerator, Verb
from eoaug.grid import absolute_origin, as_geobox, gsd_m, refine, same_grid
from eoaug.radiometry import Scaling
from eoaug.sensor import Sensor

__all__ = ["Options", "extend", "inpaint", "plan", "super_resolve", "synthesize"]

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)

_SYNTHESIS_BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
"""What a generator without bands of its own makes from nothing."""

_SAR = {"vv", "vh", "hh", "hv"}
_REFLECTANCE_UNIT, _SAR_UNIT, _KELVIN_UNIT = (0.15, 0.05), (-12.0, 3.0), (290.0, 5.0)
"""Physical value of model unit 0 and size of one model unit, for generators without constants."""

_DEFAULT_CHUNK_PX = 1024


class Options(TypedDict, total=False):
    """Keyword arguments that all four verbs share."""

    generator: str | Generator
    """Name or object, as for `eoaug.load`. Default ``"embedded"``."""
    steps: int
    """Denoising steps; 0 asks for the generator's deterministic best estimate. Default: the card's."""
    seed: int
    """Seed of all noise. Default 0."""
    members: int
    """Number of ensemble members; adds a ``member`` dimension. Default: one, without a dimension."""
    reduce: Reduce | Literal["median"]
    """``"mean"``, ``"median"``, ``"std"`` (physical units) or a quantile in (0, 1) over the members."""
    prompt: str
    """What to show, in words; for generators with a text condition."""
    layout: xr.DataArray
    """Guidance (layer, y, x) on the result's grid; for generators with a layout condition."""
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
    progress: bool
    """True or False; default: a bar on a terminal or in a notebook once work takes some seconds."""


# -- the verbs ----------------------------------------------------------------------------------------


def synthesize(
    ds: T | None = None,
    *,
    like: Any = None,
    resolution: float | None = None,
    crs: Any = None,
    times: Any = None,
    strength: float | None = None,
    **options: Unpack[Options],
) -> T:
    """Generate every pixel: a variation of a real cube, or a cube of any extent from nothing.

    Parameters
    ----------
    ds
        A cube to vary (SDEdit, arXiv 2108.01073); nodata stays nodata.
    like
        Instead of ``ds``: a GeoBox, or a bounding box (left, bottom, right, top) with ``resolution`` and
        ``crs``. The result is a lazy Dataset of the generator's bands in reflectance (float32).
    resolution
        Pixel size in units of ``crs``, with a bounding box.
    crs
        Coordinate reference system, with a bounding box.
    times
        Dates of the result, with ``like``.
    strength
        How far to depart from ``ds``: 0 keeps it, 1 ignores it. Default 0.6.
    **options
        See `Options`.

    Returns
    -------
    The kind of object that came in (Dataset with ``like``), with the marks ``synthetic``.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
    """
    result: T = _over_tree(
        _prepare_synthesize,
        ds,
        options,
        like=like,
        resolution=resolution,
        crs=crs,
        times=times,
        strength=strength,
    )
    return result


def inpaint(
    ds: T,
    *,
    mask: xr.DataArray | str | Sequence[str] | None = None,
    fill: Literal["gaps", "all"] = "gaps",
    **options: Unpack[Options],
) -> T:
    """Fill clouds and gaps; every other pixel comes back bit for bit.

    Parameters
    ----------
    ds
        The cube. More dates are context for each other.
    mask
        What to fill: a DataArray (True or non-zero = fill) on the cube's grid; a variable's name;
        ``"scl"`` or ``"qa_pixel"`` for the clouds of that quality band; a list of its class names.
        Default: missing pixels.
    fill
        Without a mask, ``"gaps"`` fills missing pixels that another date measured and ``"all"`` all
        missing pixels, beyond the swath too.
    **options
        See `Options`.

    Returns
    -------
    The kind of object that came in, with the marks ``synthetic``.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
    """
    result: T = _over_tree(_prepare_inpaint, ds, options, mask=mask, fill=fill)
    return result


def extend(ds: T, *, times: Any, **options: Unpack[Options]) -> T:
    """Add dates before, between or after the given ones; the given dates come back bit for bit.

    Parameters
    ----------
    ds
        The cube, with dates.
    times
        A date or a list of dates to add (anything that pandas reads).
    **options
        See `Options`.

    Returns
    -------
    The kind of object that came in with given and new dates in order, and the marks ``synthetic``.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
    """
    result: T = _over_tree(_prepare_extend, ds, options, times=times)
    return result


def super_resolve(
    ds: T,
    *,
    factor: int = 2,
    sensor: Literal["box", "gaussian"] | float | Sequence[float] = "gaussian",
    **options: Unpack[Options],
) -> T:
    """Add the detail below the pixel; the result, seen by the sensor, is the measurement again.

    Parameters
    ----------
    ds
        The cube.
    factor
        Output pixels per input pixel along an axis, 2 to 8.
    sensor
        How an input pixel was measured: ``"box"`` (the mean of its cell), ``"gaussian"`` (modulation
        transfer 0.3 at the Nyquist frequency), or that modulation transfer, one or per band.
    **options
        See `Options`.

    Returns
    -------
    The kind of object that came in on a grid of the same bounds, with the marks ``synthetic``. Variables
    on the input's grid that are no bands (masks) stay behind.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
    """
    result: T = _over_tree(_prepare_super_resolve, ds, options, factor=factor, sensor=sensor)
    return result


def plan(verb: Verb, ds: Any = None, **arguments: Any) -> Plan:
    """Return what a verb would do, without calling the model; see `Plan.explain`.

    Parameters
    ----------
    verb
        ``"synthesize"``, ``"inpaint"``, ``"extend"`` or ``"super_resolve"``.
    ds
        The cube.
    **arguments
        As for the verb.
    """
    if verb not in _PREPARE:
        raise _unknown("verb", verb, _PREPARE)
    return _PREPARE[verb](ds, _options(arguments, verb), **_own(arguments)).plan


# -- preparation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    cube: Cube
    plan: Plan
    inputs: Inputs
    lazy: bool
    progress: bool | None
    parameters: Mapping[str, Any]


def _own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arguments.items() if k not in Options.__annotations__}


def _options(arguments: Mapping[str, Any], verb: str) -> Options:
    del verb
    return {k: v for k, v in arguments.items() if k in Options.__annotations__}  # type: ignore[return-value]


def _unknown(what: str, value: Any, known: Iterable[str]) -> ParameterError:
    known = list(known)
    close = difflib.get_close_matches(str(value), known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ParameterError(f"there is no {what} {value!r}", f"{hint}known: {', '.join(known)}")


def _over_tree(prepare: Callable[..., _Prepared], obj: Any, options: Any, **arguments: Any) -> Any:
    for name in options:
        if name not in Options.__annotations__:
            raise _unknown("argument", name, [*arguments, *Options.__annotations__])
    if isinstance(obj, xr.DataTree):
        nodes = {
            node.path: _finish(prepare(node.to_dataset(), options, **arguments))
            for node in obj.subtree
            if any(
                {"y", "x"} <= {str(d).lower()[:1] for d in v.dims} or v.ndim >= 2
                for v in node.data_vars.values()
            )
        }
        if not nodes:
            raise BandError(
                "the DataTree has no node with bands", "give a tree as eoaug.open_cube returns it"
            )
        empty = {node.path: node.to_dataset() for node in obj.subtree if node.path not in nodes}
        return xr.DataTree.from_dict({**empty, **nodes}, name=obj.name)
    return _finish(prepare(obj, options, **arguments))


def _prepare_synthesize(
    ds: Any,
    options: Options,
    *,
    like: Any = None,
    resolution: Any = None,
    crs: Any = None,
    times: Any = None,
    strength: float | None = None,
) -> _Prepared:
    if (ds is None) == (like is None):
        raise ParameterError(
            f"synthesize needs either a cube to vary or like=, got {'neither' if ds is None else 'both'}",
            "synthesize(ds, strength=0.6), or synthesize(like=geobox, times=['2024-06-01'])",
        )
    generator = _generator(options, "synthesize")
    if like is None:
        strength = 0.6 if strength is None else _number("strength", strength, 0.0, 1.0)
        if times is not None:
            raise ParameterError(
                f"times={times!r} does not go with a cube to vary", "use extend(ds, times=...) for new dates"
            )
        cube = read_cube(ds, verb="synthesize")
        return _prepared(
            "synthesize",
            cube,
            generator,
            options,
            fill="measured",
            strength=strength,
            own={"strength": strength},
        )
    if strength is not None and strength != 1.0:
        raise ParameterError(
            f"strength={strength} needs a cube to depart from",
            "leave it out, or give a cube instead of like=",
        )
    geobox = as_geobox(like, resolution=resolution, crs=crs)
    cube = _empty_cube(geobox, _dates(times, "synthesize") if times is not None else None, generator.card)
    return _prepared("synthesize", cube, generator, options, fill="scene", own={"like": True})


def _prepare_inpaint(ds: Any, options: Options, *, mask: Any = None, fill: str = "gaps") -> _Prepared:
    if fill not in ("gaps", "all"):
        raise ParameterError(f"fill={fill!r} is unknown", "use 'gaps' (default) or 'all'")
    generator = _generator(options, "inpaint")
    name = mask if isinstance(mask, str) else None
    if name is not None and isinstance(ds, xr.Dataset) and name in ds.data_vars:
        cube = read_cube(ds.drop_vars(name), verb="inpaint")
        cube = replace(cube, source=ds)
    else:
        cube = read_cube(ds, verb="inpaint")
    array = None if mask is None else _mask(cube, mask)
    rule: Fill = "mask" if mask is not None else ("gaps" if fill == "gaps" else "everything")
    described = (
        name if name is not None else list(mask) if isinstance(mask, list | tuple) else mask is not None
    )
    return _prepared(
        "inpaint", cube, generator, options, fill=rule, mask=array, own={"mask": described, "fill": fill}
    )


def _prepare_extend(ds: Any, options: Options, *, times: Any) -> _Prepared:
    generator = _generator(options, "extend")
    cube = read_cube(ds, verb="extend")
    if cube.times is None or cube.name_time is None:
        raise TimeError(
            "extend needs a cube with dates; this one has no time dimension with a coordinate",
            "add it: ds.expand_dims(time=[pandas.Timestamp('2024-06-01')])",
        )
    new = _dates(times, "extend")
    both = np.intersect1d(_seconds(new), _seconds(cube.times))
    if len(both):
        raise TimeError(f"the cube has {np.datetime64(int(both[0]), 's')} already", "leave it out of times=")
    dates = np.sort(np.concatenate([cube.times.astype("datetime64[ns]"), new]))
    unit = cube.times.dtype
    return _prepared(
        "extend", cube, generator, options, fill="footprint", dates=dates.astype(unit),
        own={"times": [str(t) for t in new.astype("datetime64[s]")]},
    )  # fmt: skip


def _prepare_super_resolve(
    ds: Any, options: Options, *, factor: Any = 2, sensor: Any = "gaussian"
) -> _Prepared:
    generator = _generator(options, "super_resolve")
    cube = read_cube(ds, verb="super_resolve")
    if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or not 2 <= factor <= 8:
        raise ParameterError(f"factor={factor!r} is not an integer from 2 to 8", "e.g. factor=2 or factor=4")
    model = Sensor.of(sensor, int(factor), len(cube.bands))
    return _prepared(
        "super_resolve", cube, generator, options, fill="measured", sensor=model,
        own={"factor": int(factor), "sensor": "box" if model.mtf is None else list(model.mtf)},
    )  # fmt: skip


_PREPARE: dict[str, Callable[..., _Prepared]] = {
    "synthesize": _prepare_synthesize,
    "inpaint": _prepare_inpaint,
    "extend": _prepare_extend,
    "super_resolve": _prepare_super_resolve,
}


def _prepared(
    verb: Verb,
    cube: Cube,
    generator: Generator,
    options: Options,
    *,
    fill: Fill,
    own: Mapping[str, Any],
    mask: Any = None,
    dates: NDArray[np.datetime64] | None = None,
    sensor: Sensor | None = None,
    strength: float = 1.0,
) -> _Prepared:
    card = generator.card
    layers = _layers(cube, card)
    channels = len(card.bands) or len(layers)
    factor = 1 if sensor is None else sensor.factor
    if sensor is not None and sensor.mtf is not None and len(sensor.mtf) > 1:
        by_slot = {layer.slot: value for layer, value in zip(layers, sensor.mtf, strict=True)}
        sensor = replace(sensor, mtf=tuple(by_slot.get(c, sensor.mtf[0]) for c in range(channels)))
    geobox = cube.geobox if factor == 1 else refine(cube.geobox, factor)
    has_input = fill != "scene"
    in_times = _seconds(cube.times) if cube.times is not None else np.zeros(1, np.int64)
    out_times = in_times if dates is None else _seconds(dates)
    steps = _steps(options, card, verb)
    joint = _joint_steps(options, generator, verb, steps)
    lattice = lattice_for(card, factor)
    chunks, wants_chunks = _chunks(
        options.get("chunks"), cube, geobox.shape.yx, len(out_times), factor, lattice.stride
    )
    members, reduce = _members(options)
    top, left = absolute_origin(cube.geobox.affine) if cube.georeferenced else (0, 0)
    layout = _layout(options.get("layout"), card, geobox)
    made = Plan(
        verb=verb,
        generator=generator,
        layers=layers,
        channels=channels,
        geobox=geobox,
        origin=(top * factor, left * factor),
        fill=fill,
        factor=factor,
        sensor=sensor,
        in_times=in_times,
        out_times=out_times,
        dated=cube.times is not None,
        cloud=_cloud(cube, in_times, out_times),
        gsd_m=gsd_m(geobox) if cube.georeferenced else math.nan,
        overrides=_overrides(options.get("metadata"), card),
        has_input=has_input,
        bounded=has_input or layout is not None,
        steps=steps,
        joint_steps=joint,
        seed=_integer("seed", options.get("seed", 0), 0, 2**63 - 1),
        strength=strength,
        guidance=_guidance(options.get("guidance"), card),
        prompt=_prompt(options.get("prompt"), card),
        members=members,
        reduce=reduce,
        chunks=chunks,
        batch_tiles=_integer("batch_tiles", options.get("batch_tiles", card.batch), 1, 4096),
    )
    inputs = Inputs(tuple(band.data for band in cube.bands) if has_input else (), mask, layout)
    parameters = {**own, "steps": steps, "joint_steps": joint, "reduce": reduce, "prompt": made.prompt,
                  "guidance": made.guidance, "metadata": dict(made.overrides) or None}  # fmt: skip
    made = replace(made, token=_token(made, cube, inputs, parameters))
    lazy = cube.lazy or wants_chunks or not has_input or hasattr(mask, "dask") or hasattr(layout, "dask")
    return _Prepared(cube, made, inputs, lazy, options.get("progress"), parameters)


# -- arguments ----------------------------------------------------------------------------------------


def _generator(options: Options, verb: Verb) -> Generator:
    device = options.get("device")
    given = options.get("generator", "embedded")
    if device is not None and not isinstance(given, str):
        raise ParameterError(
            f"device={device!r} does not go with a loaded generator", "eoaug.load(name, device=...) instead"
        )
    generator = load(given) if device is None else load(given, device=device)
    if verb not in generator.card.verbs:
        raise GeneratorError(
            f"generator {generator.card.name!r} cannot {verb.replace('_', '-')}",
            f"it can: {', '.join(sorted(generator.card.verbs))}; or use generator='embedded'",
        )
    return generator


def _layers(cube: Cube, card: Card) -> tuple[Layer, ...]:
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
        layers.append(Layer(band.name, slot, to_model, band.scaling, str(band.dtype), band.nodata))
    return tuple(layers)


def _steps(options: Options, card: Card, verb: Verb) -> int:
    # Members of a deterministic estimate would be equal: an ensemble asks for samples.
    default = card.member_steps if options.get("members") is not None else card.steps
    steps = options.get("steps", default.get(verb, 0))
    return _integer("steps", steps, 0, 1000)


def _joint_steps(options: Options, generator: Generator, verb: Verb, steps: int) -> int:
    asked = options.get("joint_steps")
    able = isinstance(generator, SteppedGenerator) and steps > 0
    if asked is None:
        # A coarse measurement ties every pixel down: independent tiles agree without being joined.
        default = generator.card.joint_steps if able and verb != "super_resolve" else 0
        return min(default, max(steps - 1, 0))
    joint = _integer("joint_steps", asked, 0, 1000)
    if joint and not able:
        raise ParameterError(
            f"joint_steps={joint} needs denoising steps that the engine can walk; "
            f"generator {generator.card.name!r} with steps={steps} has none",
            "leave joint_steps out, or raise steps",
        )
    check_joint(steps, joint)
    return joint


def _members(options: Options) -> tuple[int | None, Reduce | None]:
    members, reduce = options.get("members"), options.get("reduce")
    if members is not None:
        members = _integer("members", members, 1, 10_000)
    if reduce is None:
        return members, None
    if members is None:
        raise ParameterError(f"reduce={reduce!r} needs members to reduce", "add members=8")
    if reduce == "median":
        return members, 0.5
    if reduce == "mean" or reduce == "std":
        return members, reduce
    if not isinstance(reduce, float):
        raise _unknown("reduce", reduce, ["mean", "std", "median", "a quantile such as 0.9"])
    return members, _number("reduce", reduce, 0.0, 1.0)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ParameterError(
            f"{name}={value!r} is not an integer from {low} to {high}", f"e.g. {name}={max(low, 1)}"
        )
    return int(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
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


def _prompt(prompt: Any, card: Card) -> str | None:
    _supported("prompt", prompt, card)
    if prompt is not None and not isinstance(prompt, str):
        raise ParameterError(f"prompt={prompt!r} is not a text", "e.g. prompt='a harbour in winter'")
    return prompt


def _guidance(guidance: Any, card: Card) -> float | None:
    _supported("guidance", guidance, card)
    return None if guidance is None else _number("guidance", guidance, 0.0, 100.0)


def _overrides(values: Any, card: Card) -> dict[str, float]:
    _supported("metadata", values, card)
    out = {}
    for name, value in (values or {}).items():
        if name not in METADATA_FIELDS:
            raise _unknown("metadata field", name, METADATA_FIELDS)
        out[name] = _number(f"metadata[{name!r}]", value, -1e6, 1e6)
    return out


def _layout(layout: Any, card: Card, geobox: Any) -> Any:
    _supported("layout", layout, card)
    if layout is None:
        return None
    if not isinstance(layout, xr.DataArray) or layout.shape[-2:] != tuple(geobox.shape.yx):
        raise GridError(
            f"layout has shape {getattr(layout, 'shape', None)}, the result has {tuple(geobox.shape.yx)}",
            "give a DataArray (layer, y, x) on the result's grid",
        )
    data = layout.data if layout.ndim == 3 else layout.data[None]
    return data.astype(np.float32)


def _dates(times: Any, verb: str) -> NDArray[np.datetime64]:
    import pandas as pd

    listed = [times] if isinstance(times, str) or not isinstance(times, Iterable) else list(times)
    try:
        dates = pd.DatetimeIndex([pd.Timestamp(t) for t in listed])
    except (ValueError, TypeError) as error:
        raise TimeError(
            f"{verb}: times={times!r} holds something that is no date", "e.g. times=['2024-06-01']"
        ) from error
    if dates.tz is not None:
        dates = dates.tz_convert("UTC").tz_localize(None)
    if not len(dates) or dates.isna().any() or dates.has_duplicates:
        raise TimeError(
            f"{verb}: times={times!r} is empty, repeats a date or holds a missing one",
            "e.g. times=['2024-06-01']",
        )
    return np.sort(dates.values.astype("datetime64[ns]"))


def _seconds(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    return times.astype("datetime64[s]").astype(np.int64)


def _cloud(cube: Cube, in_times: NDArray[np.int64], out_times: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.full(len(out_times), np.nan)
    percent = cube.along_time("cloud_cover", "eo:cloud_cover")
    if percent is not None:
        fraction = np.asarray(percent, np.float64) / 100
        known = {int(t): v for t, v in zip(in_times, fraction, strict=True)}
        out = np.asarray([known.get(int(t), np.nan) for t in out_times])
    return out


def _mask(cube: Cube, mask: Any) -> Any:
    """Return shape (T, Y, X) bool, NumPy or dask: True = fill."""
    ds = cube.source
    quality: Callable[[Any, Any], Any] | None = None
    classes: Sequence[str] | None = None
    if isinstance(mask, str):
        name = next((n for n in ds.variables if str(n).lower() == mask.lower()), None)
        if name is None:
            raise _unknown("mask variable", mask, [str(n) for n in ds.variables if n not in ds.dims])
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
    if y in mask.coords and x in mask.coords and cube.georeferenced:
        grid = read_cube(_bare(mask), verb="mask").geobox
        if not same_grid(grid, cube.geobox) and grid.crs is not None:
            raise GridError(
                f"the mask lies on another grid: {grid.affine.c, grid.affine.f} instead of "
                f"{cube.geobox.affine.c, cube.geobox.affine.f}",
                "bring it onto the cube's grid, e.g. mask.odc.reproject(ds.odc.geobox, resampling='nearest')",
            )
        if grid.crs is None and not np.allclose(
            tuple(grid.affine), tuple(cube.geobox.affine), rtol=0, atol=1e-3 * abs(cube.geobox.affine.a)
        ):
            raise GridError(
                f"the mask's coordinates do not match the cube's: {y} starts at {float(mask[y][0])}",
                f"give it the cube's coordinates: mask.assign_coords({y}=ds.{y}, {x}=ds.{x})",
            )


def _bare(mask: xr.DataArray) -> xr.DataArray:
    # Numbers without a scale or flags, so that the door takes the mask for a band.
    return mask.astype(np.float32).drop_attrs(deep=False).rename("mask values")


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


def _chunks(
    spec: Any, cube: Cube, shape_yx: tuple[int, int], dates: int, factor: int, stride: int
) -> tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], bool]:
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
                raise _unknown("dimension in chunks", name, dict.fromkeys(allowed))
            sizes[allowed[name]] = (
                shape[allowed[name]] if value == -1 else _integer(f"chunks[{name!r}]", value, 1, 2**31)
            )
    elif spec not in (None, "auto"):
        sizes[1] = sizes[2] = _integer("chunks", spec, 1, 2**31)
    cut = []
    for length, size in zip(shape, sizes, strict=True):
        size = min(int(size), int(length))
        whole, rest = divmod(int(length), size)
        cut.append((size,) * whole + ((rest,) if rest else ()))
    return (cut[0], cut[1], cut[2]), spec is not None


def _empty_cube(geobox: Any, times: NDArray[np.datetime64] | None, card: Card) -> Cube:
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


# -- identity and lineage -----------------------------------------------------------------------------


def _version() -> str:
    try:
        return package_metadata.version("eoaug")
    except package_metadata.PackageNotFoundError:
        return "0"


def _token(made: Plan, cube: Cube, inputs: Inputs, parameters: Mapping[str, Any]) -> str:
    card = made.card
    return token_of(
        {
            "version": _version(),
            "verb": made.verb,
            "generator": [card.name, card.sha256],
            "parameters": parameters,
            "seed": made.seed,
            "members": made.members,
            "layers": [
                [a.name, a.slot, a.to_model.scale, a.to_model.offset, a.dtype, a.nodata] for a in made.layers
            ],
            "grid": [list(made.geobox.affine)[:6], list(made.geobox.shape.yx), str(made.geobox.crs)],
            "times": [made.in_times.tolist(), made.out_times.tolist()],
            "inputs": _identity(cube, inputs),
        }
    )


def _identity(cube: Cube, inputs: Inputs) -> list[Any]:
    """Return what identifies the input's content: its bytes, or the items that it was read from."""
    out: list[Any] = []
    checksums = cube.along_time("item_checksum")
    items = cube.along_time("item_id")
    for array in inputs.arrays():
        if not hasattr(array, "dask"):
            values = np.ascontiguousarray(array)
            out.append(hashlib.sha256(values.view(np.uint8).reshape(-1)).hexdigest())
        elif checksums is not None and items is not None:
            out.append([*map(str, items), *map(str, checksums)])
        else:
            # Lazy data of unknown origin: the graph's name is all there is. It never collides, but two
            # sessions may name the same data differently.
            out.append(array.name)
    return out


def _finish(prepared: _Prepared) -> Any:
    cube, made = prepared.cube, prepared.plan
    record = _record(prepared)
    if prepared.lazy:
        arrays = build(made, prepared.inputs)
    else:
        arrays = compute(made, prepared.inputs, progress=prepared.progress)
        marks = arrays[SYNTHETIC]
        inside = int((marks != 255).sum())
        record = replace(
            record,
            synthetic_fraction=float((marks == 1).sum()) / inside if inside else None,
            residual=_residual(prepared, arrays),
        )
    times = None
    if cube.times is not None:
        times = made.out_times.astype("datetime64[s]").astype(cube.times.dtype)
        if len(times) == len(cube.times):
            times = cube.times
        else:
            given = np.searchsorted(made.out_times, made.in_times)
            times[given] = cube.times
    result = cube.rebuild(
        {band.name: arrays[band.name] for band in cube.bands},
        arrays[SYNTHETIC],
        times=times,
        geobox=made.geobox,
        members=made.members if made.reduce is None else None,
        keep_type=made.reduce != "std",
    )
    return provenance.stamp(result, record)


def _record(prepared: _Prepared) -> provenance.Provenance:
    cube, made = prepared.cube, prepared.plan
    ids, hrefs = cube.along_time("item_id"), cube.along_time("item_href")
    sources = []
    if ids is not None:
        links = hrefs if hrefs is not None else [""] * len(ids)
        for joined, link in zip(ids, links, strict=True):
            pairs = zip(str(joined).split(";"), str(link).split(";"), strict=False)
            sources += [{"id": one, "href": href} for one, href in pairs if one]
    return provenance.Provenance(
        operation=made.verb,
        generator=made.card.name,
        model_sha256=made.card.sha256,
        licence=made.card.licence,
        seed=made.seed,
        members=made.members,
        parameters=prepared.parameters,
        token=made.token,
        sources=tuple(sources),
        digital_source_type=provenance.TRAINED if made.fill == "scene" else provenance.COMPOSITE,
    )


def _residual(prepared: _Prepared, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the largest |sensor(result) - measurement| by band in physical units; 0 where pixels are kept."""
    made, cube = prepared.plan, prepared.cube
    if made.verb in ("inpaint", "extend"):
        return 0.0
    if made.sensor is None or made.reduce is not None:
        return None
    out = {}
    for i, (band, layer) in enumerate(zip(cube.bands, made.layers, strict=True)):
        mtf = made.sensor.mtf
        one = mtf if mtf is None or len(mtf) == 1 else (mtf[layer.slot],)
        sensor = replace(made.sensor, mtf=one)
        worst = 0.0
        # One date and member at a time: the check must not need more memory than the work.
        result = arrays[band.name].reshape(-1, len(made.out_times), *arrays[band.name].shape[-2:])
        for k, measured in enumerate(np.asarray(prepared.inputs.bands[i])):
            good = np.isfinite(measured) if measured.dtype.kind == "f" else np.ones(measured.shape, bool)
            if layer.nodata is not None and not math.isnan(layer.nodata):
                good &= measured != layer.nodata
            if not good.all():
                # A measurement beside a gap saw pixels that the result does not show.
                good = ~_grown(~good)
            for values in result[:, k]:
                physical = layer.to_physical(values)
                hidden = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
                if layer.nodata is not None and not math.isnan(layer.nodata):
                    hidden |= values == layer.nodata
                physical[hidden] = np.nan
                seen = sensor.degrade(physical[None])[0]
                error = np.abs(seen - layer.to_physical(measured))[good]
                worst = max(worst, float(np.nanmax(error)) if error.size else 0.0)
        out[band.name] = worst
    return out


def _grown(mask: NDArray[np.bool_], cells: int = 2) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=cells))
