"""The four verbs: from arguments to a plan, from the plan to the user's kind of object.

Each verb checks its arguments, says what is known and what is to be filled, and hands a `Plan` to the
run. Every verb is a free function, fit for ``ds.pipe``; the accessors forward here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube import provenance
from eoaug.cube.arguments import (
    Options,
    chunks_of,
    cloud_of,
    dates_of,
    empty_cube,
    generator_for,
    guidance_for,
    integer,
    joint_steps_for,
    layers_of,
    layout_for,
    mask_of,
    members_of,
    metadata_for,
    number,
    progress_for,
    prompt_for,
    seconds_of,
    steps_for,
    unknown,
)
from eoaug.cube.chunk import SYNTHETIC
from eoaug.cube.geo import Cube, read_cube
from eoaug.cube.lineage import record_of, residual_of, token_for
from eoaug.cube.plan import Fill, Layer, Plan, lattice_for
from eoaug.cube.progress import Progress
from eoaug.cube.run import Inputs, compute
from eoaug.errors import BandError, ParameterError, TimeError
from eoaug.generators.base import Card, Generator, Verb
from eoaug.grid import absolute_origin, as_geobox, gsd_m, refine
from eoaug.sensor import Sensor

__all__ = ["Options", "extend", "inpaint", "plan", "super_resolve", "synthesize"]

# -- the verbs ----------------------------------------------------------------------------------------


def synthesize[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
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
        See `eoaug.cube.arguments.Options`.

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


def inpaint[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    mask: xr.DataArray | str | Sequence[str] | None = None,
    fill: Literal["gaps", "all"] | None = None,
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
        missing pixels, beyond the swath too. Default: gaps; all of a cube of one date, where no other date
        tells them apart.
    **options
        See `eoaug.cube.arguments.Options`.

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


def extend[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T, *, times: Any, sequence: bool | None = None, **options: Unpack[Options]
) -> T:
    """Add dates before, between or after the given ones; the given dates come back bit for bit.

    Parameters
    ----------
    ds
        The cube, with dates.
    times
        A date or a list of dates to add, as text or datetimes, at least a second apart; without a zone UTC's.
    sequence
        True makes several new dates one after the other, each told of those before it: onward in time from
        the first given date, then back from it; every member of an ensemble sees its own. False makes each
        from the given dates alone. Default: as the generator's card says.
    **options
        See `eoaug.cube.arguments.Options`.

    Returns
    -------
    The kind of object that came in with given and new dates in order, and the marks ``synthetic``.
    Variables along time that are no bands (masks) stay behind: nothing is known of them on a new date.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
    """
    result: T = _over_tree(_prepare_extend, ds, options, times=times, sequence=sequence)
    return result


def super_resolve[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
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
        See `eoaug.cube.arguments.Options`.

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
    if not isinstance(verb, str) or verb not in _PREPARE:
        raise unknown("verb", verb, _PREPARE)
    if isinstance(ds, xr.DataTree):
        raise ParameterError(f"a plan is of one cube, ds is a tree of {len(list(ds.subtree))} nodes",
                             "plan node by node: eoaug.plan(verb, tree['path'].to_dataset())")  # fmt: skip
    own = dict(list(signature(_PREPARE[verb]).parameters.items())[2:])
    for name in arguments:
        if name not in own and name not in Options.__annotations__:
            raise unknown("argument", name, [*own, *Options.__annotations__])
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ParameterError(f"{verb} needs {name}=", f"see help(eoaug.{verb})")
    return _PREPARE[verb](ds, _options(arguments), **_own(arguments)).plan


# -- preparation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    cube: Cube
    plan: Plan
    inputs: Inputs
    lazy: bool
    progress: Progress
    parameters: Mapping[str, Any]
    times: NDArray[np.datetime64] | None
    """Dates of the result, to the last digit; the plan counts whole seconds."""
    guide: Any = None
    """The layout as it was given: its items are sources too."""


def _own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arguments.items() if k not in Options.__annotations__}


def _options(arguments: Mapping[str, Any]) -> Options:
    return {k: v for k, v in arguments.items() if k in Options.__annotations__}  # type: ignore[return-value]


def _over_tree(prepare: Callable[..., _Prepared], obj: Any, options: Any, **arguments: Any) -> Any:
    for name in options:
        if name not in Options.__annotations__:
            raise unknown("argument", name, [*arguments, *Options.__annotations__])
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
    generator = generator_for(options, "synthesize")
    if like is None:
        strength = 0.6 if strength is None else number("strength", strength, 0.0, 1.0)
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
    cube = empty_cube(geobox, dates_of(times, "synthesize") if times is not None else None, generator.card)
    return _prepared("synthesize", cube, generator, options, fill="scene", own={"like": True})


def _prepare_inpaint(ds: Any, options: Options, *, mask: Any = None, fill: str | None = None) -> _Prepared:
    if fill not in (None, "gaps", "all"):
        raise ParameterError(f"fill={fill!r} is unknown", "use 'gaps' or 'all', or leave it out")
    generator = generator_for(options, "inpaint")
    name = mask if isinstance(mask, str) else None
    if name is not None and isinstance(ds, xr.Dataset) and name in ds.data_vars:
        cube = read_cube(ds.drop_vars(name), verb="inpaint")
        cube = replace(cube, source=ds)
    else:
        cube = read_cube(ds, verb="inpaint")
    # No other date can tell a gap from what lies outside the footprint.
    fill = fill or ("gaps" if cube.times is not None and len(cube.times) > 1 else "all")
    array = None if mask is None else mask_of(cube, mask)
    rule: Fill = "mask" if mask is not None else ("gaps" if fill == "gaps" else "everything")
    described = (
        name if name is not None else list(mask) if isinstance(mask, list | tuple) else mask is not None
    )
    return _prepared(
        "inpaint", cube, generator, options, fill=rule, mask=array, own={"mask": described, "fill": fill}
    )


def _prepare_extend(ds: Any, options: Options, *, times: Any, sequence: Any = None) -> _Prepared:
    generator = generator_for(options, "extend")
    cube = read_cube(ds, verb="extend")
    if cube.times is None or cube.name_time is None:
        raise TimeError(
            "extend needs a cube with dates; this one has no time dimension with a coordinate",
            "add it: ds.expand_dims(time=[pandas.Timestamp('2024-06-01')])",
        )
    new = dates_of(times, "extend")
    both = np.intersect1d(seconds_of(new), seconds_of(cube.times))
    if len(both):
        raise TimeError(f"the cube has {np.datetime64(int(both[0]), 's')} already", "leave it out of times=")
    dates = np.sort(np.concatenate([cube.times.astype("datetime64[ns]"), new]))
    unit = cube.times.dtype
    if not (sequence is None or isinstance(sequence, bool | np.bool_)):
        raise ParameterError(f"sequence={sequence!r} is not True or False", "e.g. sequence=True")
    in_turn = len(new) > 1 and bool(generator.card.sequence if sequence is None else sequence)
    if in_turn and options.get("reduce") is not None:
        raise ParameterError(
            f"reduce={options['reduce']!r} does not go with a sequence of {len(new)} dates, whose members part",
            "reduce the result over its dimension member, or make the dates apart: sequence=False",
        )
    own: dict[str, Any] = {"times": [str(t) for t in new.astype("datetime64[s]")]}
    return _prepared(
        "extend", cube, generator, options, fill="footprint", dates=dates.astype(unit), sequence=in_turn,
        own={**own, "sequence": True} if in_turn else own,
    )  # fmt: skip


def _prepare_super_resolve(
    ds: Any, options: Options, *, factor: Any = 2, sensor: Any = "gaussian"
) -> _Prepared:
    generator = generator_for(options, "super_resolve")
    cube = read_cube(ds, verb="super_resolve")
    if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or not 2 <= factor <= 8:
        raise ParameterError(f"factor={factor!r} is not an integer from 2 to 8", "e.g. factor=2 or factor=4")
    served = generator.card.factors
    if served and factor not in served:
        raise ParameterError(
            f"factor={factor} is none that generator {generator.card.name!r} refines by",
            f"use factor={' or '.join(map(str, served))}",
        )
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
    sequence: bool = False,
) -> _Prepared:
    card = generator.card
    layers = layers_of(cube, card)
    _check_kept(verb, card, layers)
    channels = len(card.bands) or len(layers)
    factor = 1 if sensor is None else sensor.factor
    if sensor is not None and sensor.mtf is not None and len(sensor.mtf) > 1:
        by_slot = {layer.slot: value for layer, value in zip(layers, sensor.mtf, strict=True)}
        sensor = replace(sensor, mtf=tuple(by_slot.get(c, sensor.mtf[0]) for c in range(channels)))
    geobox = cube.geobox if factor == 1 else refine(cube.geobox, factor)
    has_input = fill != "scene"
    in_times = seconds_of(cube.times) if cube.times is not None else np.zeros(1, np.int64)
    out_times = in_times if dates is None else seconds_of(dates)
    steps = steps_for(options, card, verb)
    joint = joint_steps_for(options, generator, verb, steps)
    lattice = lattice_for(card, factor, verb)
    members, reduce = members_of(options)
    chunks, wants_chunks = chunks_of(
        options.get("chunks"), cube, geobox.shape.yx, len(out_times), factor, lattice.stride,
        (members or 1) if reduce is None else 1,
    )  # fmt: skip
    top, left = absolute_origin(cube.geobox.affine) if cube.georeferenced else (0, 0)
    layout = layout_for(options.get("layout"), card, geobox, verb)
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
        cloud=cloud_of(cube, in_times, out_times),
        gsd_m=gsd_m(geobox) if cube.georeferenced else math.nan,
        overrides=metadata_for(options.get("metadata"), card),
        has_input=has_input,
        guides=0 if layout is None else len(layout),
        bounded=has_input or layout is not None,
        steps=steps,
        joint_steps=joint,
        seed=integer("seed", options.get("seed", 0), 0, 2**63 - 1),
        strength=strength,
        guidance=guidance_for(options.get("guidance"), card),
        prompt=prompt_for(options.get("prompt"), card),
        members=members,
        reduce=reduce,
        sequence=sequence,
        chunks=chunks,
        batch_tiles=integer("batch_tiles", options.get("batch_tiles", card.batch), 1, 4096),
    )
    inputs = Inputs(tuple(band.data for band in cube.bands) if has_input else (), mask, layout)
    if layout is not None:
        own = {**own, "layout": len(layout)}
    parameters = {**own, "steps": steps, "joint_steps": joint, "reduce": reduce, "prompt": made.prompt,
                  "guidance": made.guidance, "metadata": dict(made.overrides) or None}  # fmt: skip
    made = replace(made, token=token_for(made, inputs, parameters))
    lazy = cube.lazy or wants_chunks or not has_input or hasattr(mask, "dask") or hasattr(layout, "dask")
    progress, times = progress_for(options.get("progress")), cube.times if dates is None else dates
    return _Prepared(cube, made, inputs, lazy, progress, parameters, times, options.get("layout"))


def _check_kept(verb: Verb, card: Card, layers: Sequence[Layer]) -> None:
    """Refuse verbs whose result has places where a band that is left as it is was never measured."""
    kept = [layer.name for layer in layers if card.bands and card.bands[layer.slot] in card.kept]
    if kept and verb in ("extend", "super_resolve"):
        raise BandError(
            f"{verb}: generator {card.name!r} keeps {', '.join(kept)} as measured, and makes pixels where nothing was",
            "load it with lift='regress' or lift='inject', or leave these bands out",
        )


def _finish(prepared: _Prepared) -> Any:
    cube, made = prepared.cube, prepared.plan
    record = record_of(made, cube, prepared.parameters, prepared.guide)
    if prepared.lazy:
        from eoaug.cube.graph import build

        arrays: dict[str, Any] = dict(build(made, prepared.inputs))
    else:
        arrays = dict(compute(made, prepared.inputs, progress=prepared.progress))
    given = np.searchsorted(made.out_times, made.in_times)
    marks = (
        cube.carried(arrays[SYNTHETIC], given) if made.has_input and made.factor == 1 else arrays[SYNTHETIC]
    )
    if not prepared.lazy:
        marks = np.asarray(marks)
        inside = int((marks != 255).sum())
        record = replace(
            record,
            synthetic_fraction=float(((marks == 1) | (marks == 2)).sum()) / inside if inside else None,
            residual=residual_of(made, prepared.inputs, arrays),
        )
    result = cube.rebuild(
        {band.name: arrays[band.name] for band in cube.bands},
        marks,
        times=prepared.times,
        geobox=made.geobox,
        members=made.members if made.reduce is None else None,
        keep_type=made.keeps_type,
    )
    return provenance.stamp(result, record)
