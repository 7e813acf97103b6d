"""What all verbs share: from checked arguments to a plan.

Each verb describes itself by a `VerbCall`; `prepare` adds the shared options and returns plan and inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube import provenance
from eoaug.cube.model import Cube
from eoaug.cube.synthetic import lost_marks, why_untrusted
from eoaug.cube.units import check_cube_units
from eoaug.engine.coverage import knows_anything
from eoaug.engine.identity import token_for
from eoaug.engine.inputs import Inputs
from eoaug.engine.layout import in_one_tile, lattice_for
from eoaug.engine.plan import Plan
from eoaug.engine.values import Bands, Calendar, Chunking, Fill, Grid, Layer, Sampling
from eoaug.errors import BandError, EoaugWarning, ParameterError
from eoaug.generators.base import Generator, Verb
from eoaug.progress import Progress
from eoaug.raster.grid import absolute_origin, gsd_m, refine
from eoaug.raster.sensor import Sensor
from eoaug.verbs.alignment import layout_for
from eoaug.verbs.arguments import (
    chunks_of,
    cloud_of,
    guidance_for,
    joint_steps_for,
    members_of,
    metadata_for,
    progress_for,
    prompt_for,
    seconds_of,
    steps_for,
    tiling_for,
)
from eoaug.verbs.checks import integer
from eoaug.verbs.layers import layers_of
from eoaug.verbs.masking import mask_note, mask_px
from eoaug.verbs.memory import within_memory
from eoaug.verbs.options import Options
from eoaug.verbs.uncertainty import with_uncertainty

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["PreparedVerb", "VerbCall", "prepare", "refuse_lost_marks", "refuse_unknown"]


_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True, kw_only=True)
class VerbCall:
    """A verb's own arguments, checked: what is known of the result, and what is to be generated."""

    verb: Verb
    cube: Cube
    generator: Generator
    fill: Fill
    own: Mapping[str, Any]
    """The verb's own arguments as the provenance record holds them: JSON values."""
    mask: Any = None
    """Shape (T, Y, X), bool, NumPy or dask: what is no measurement of the ground; filled with ``fill="mask"``."""
    dates: NDArray[np.datetime64] | None = None
    """Dates of the result; None: those of the cube."""
    sensor: Sensor | None = None
    guided: tuple[Sensor | None, ...] = ()
    """To sharpen coarse bands on the cube's own grid: how each band was measured; None for fine bands."""
    wanted: tuple[str, ...] = ()
    """Bands that a translation makes from the others, which keep their own pixels; (): of other verbs all."""
    shift: tuple[int, int] = (0, 0)
    """Rows and columns back from the cube's absolute origin to where the lattice begins."""
    strength: float = 1.0
    autoregressive: bool = False
    class_map: str = ""
    """Name of the variable with the classes that the generator lays out; empty: none."""
    needs_known: bool = False
    """True to refuse a cube without one known pixel."""
    notes: tuple[tuple[str, str], ...] = ()
    """(Label, text) that `Plan.explain` shows."""

    @property
    def has_input(self) -> bool:
        """False for unconditional synthesis: the cube has a grid and no pixels."""
        return self.fill != "scene"

    @property
    def factor(self) -> int:
        """Pixels of the result per input pixel along one axis."""
        return 1 if self.sensor is None else self.sensor.factor


@dataclass(frozen=True)
class PreparedVerb:
    """A verb before its run: the cube, what will be done to it, and what the result looks like."""

    cube: Cube
    plan: Plan
    inputs: Inputs
    lazy: bool
    progress: Progress
    parameters: Mapping[str, Any]
    times: NDArray[np.datetime64] | None
    """Dates of the result in full precision; the plan counts whole seconds."""
    guide: Any = None
    """The conditioning raster as the user gave it: its items are sources too."""


# -- from arguments to a plan -----------------------------------------------------------------------


def prepare(call: VerbCall, options: Options) -> PreparedVerb:
    """Return plan and inputs of a verb.

    Raises
    ------
    EoaugError
        An option that the generator or the cube cannot serve.
    """
    cube, card = call.cube, call.generator.card
    if call.has_input:
        check_cube_units(cube)
        if call.factor == 1:
            refuse_lost_marks(cube)
    geobox = cube.geobox if call.factor == 1 else refine(cube.geobox, call.factor)
    layout = layout_for(options.get("layout"), card, geobox, call.verb)
    bands = _bands(call, 0 if layout is None else len(layout))
    calendar = _calendar(call)
    lazy, sampling = _is_lazy(call, options, layout), _sampling(call, options)
    sampling = with_uncertainty(sampling, options, call.generator, call.verb, cube, lazy=lazy)
    grid = _grid(call, geobox, bands)
    if tiling_for(options.get("tiling"), cube) == "image" and (alone := in_one_tile(grid, card, call.verb)):
        grid, sampling = alone, replace(sampling, joint_steps=0)
    lengths = chunks_of(
        options.get("chunks"),
        cube,
        (len(calendar.out_times), *geobox.shape.yx),
        factor=call.factor,
        stride=lattice_for(card, call.factor, call.verb).stride,
        copies=sampling.result_members or 1,
    )
    plan = Plan(
        verb=call.verb,
        generator=call.generator,
        fill=call.fill,
        bands=bands,
        grid=grid,
        calendar=calendar,
        sampling=sampling,
        chunking=Chunking(
            lengths=lengths,
            batch_tiles=integer("batch_tiles", options.get("batch_tiles", card.batch), 1, 4096),
        ),
        mask_note=mask_note(call.own),
        mask_px=mask_px(call.own, cube.geobox) * call.factor,
        notes=call.notes,
    )
    plan = within_memory(plan, cube, options)
    inputs = Inputs(tuple(band.data for band in cube.bands) if call.has_input else (), call.mask, layout)
    parameters = _recorded(call, plan)
    plan = replace(plan, token=token_for(plan, inputs, parameters))
    if call.needs_known and any(hasattr(array, "dask") for array in inputs.arrays()):
        plan = replace(plan, needs_known=True)
    elif call.needs_known:
        refuse_unknown(plan, inputs)
    return PreparedVerb(
        cube=cube,
        plan=plan,
        inputs=inputs,
        lazy=lazy,
        progress=progress_for(options.get("progress")),
        parameters=parameters,
        times=cube.times if call.dates is None else call.dates,
        guide=options.get("layout"),
    )


def _grid(call: VerbCall, geobox: GeoBox, bands: Bands) -> Grid:
    cube = call.cube
    top, left = absolute_origin(cube.geobox.affine) if cube.georeferenced else (0, 0)
    return Grid(
        geobox=geobox,
        origin=((top - call.shift[0]) * call.factor, (left - call.shift[1]) * call.factor),
        factor=call.factor,
        sensor=None if call.sensor is None else _by_channel(call.sensor, bands),
        guided=_guided(call, bands),
        bounded=call.has_input or bands.layout_planes > 0,
        gsd_m=gsd_m(geobox) if cube.georeferenced else math.nan,
    )


def refuse_lost_marks(cube: Cube) -> None:
    """Refuse a cube with generated pixels whose mask is missing or may miss some: the result would call them measured."""
    if cube.marks is None:
        refusal = lost_marks() if provenance.marked_synthetic(cube.source) else None
    else:
        refusal = why_untrusted(cube.marks, cube.geobox, cube.times)
    if refusal is not None:
        raise ParameterError(*refusal)


def _bands(call: VerbCall, layout_planes: int) -> Bands:
    card, layers = call.generator.card, layers_of(call.cube, call.generator.card)
    if call.guided:
        layers = tuple(
            replace(layer, origin="observed", extra_kind="")
            if sensor is None
            else replace(layer, origin="transferred", extra_kind=layer.extra_kind or "coarse band")
            for layer, sensor in zip(layers, call.guided, strict=True)
        )
    if call.wanted:
        layers = tuple(
            replace(layer, origin="generated" if layer.name in call.wanted else "observed")
            for layer in layers
        )
    observed = [layer.name for layer in layers if layer.origin == "observed"]
    if observed and not call.guided and call.verb in ("extend", "super_resolve"):
        # The result has pixels where such a band was never measured.
        raise BandError(
            f"generator {card.name!r} keeps {', '.join(observed)} as measured, and the result has pixels "
            "without a measurement",
            "load it with lift='regress' or lift='inject', or leave these bands out",
        )
    bands = Bands(layers, max(len(card.bands), 1 + max(layer.slot for layer in layers)), layout_planes)
    if bands.extra and not call.guided and not call.wanted:
        _say_extra(call, bands.extra)
    return bands


def _say_extra(call: VerbCall, extra: Sequence[Layer]) -> None:
    """Say which bands the generator's networks do not know, and refuse what its priors cannot do for them."""
    names = ", ".join(layer.name for layer in extra)
    card = call.generator.card
    if call.verb == "synthesize" and call.strength > card.extra_strength:
        if call.strength == 1 and {layer.common_name for layer in extra} <= card.land_bands:
            return
        names = ", ".join(layer.name for layer in extra if layer.common_name not in card.land_bands) or names
        known = dict.fromkeys((*card.bands, *sorted(card.land_bands)))
        raise BandError(
            f"generator {card.name!r} has no slot for {names}, and makes no new land for such bands: "
            f"strength={call.strength:g}",
            f"use strength={card.extra_strength:g} or less, or select bands that it knows: {', '.join(card.bands)}"
            f" (with strength=1 {', '.join(known)})",
        )
    warnings.warn(
        f"{call.verb}: generator {card.name!r} has no slot for {names}; its priors make them, without its networks; "
        f"what holds classes is kept with labels=[...]",
        EoaugWarning,
        skip_file_prefixes=(_PACKAGE,),
    )


def _guided(call: VerbCall, bands: Bands) -> tuple[Sensor | None, ...]:
    """Return `Grid.guided`, by channel of the generator."""
    if not call.guided:
        return ()
    by_slot, radar = dict(zip(bands.slots, call.guided, strict=True)), _decibels(bands)
    sensors = ((channel, by_slot.get(channel)) for channel in range(bands.channels))
    return tuple(
        replace(sensor, decibels=(radar[channel],)) if sensor is not None and channel in radar else sensor
        for channel, sensor in sensors
    )


def _by_channel(sensor: Sensor, bands: Bands) -> Sensor:
    """Return a sensor for the generator's channels, in model units, from one for the cube's bands, in physical units."""
    mtf, noise = sensor.mtf, sensor.noise
    if mtf is not None and len(mtf) > 1:
        by_slot = dict(zip(bands.slots, mtf, strict=True))
        mtf = tuple(by_slot.get(c, mtf[0]) for c in range(bands.channels))
    if noise:
        units = [abs(layer.to_model.scale / layer.to_physical.scale) for layer in bands.layers]
        each = dict(zip(bands.slots, np.multiply(noise, units).tolist(), strict=True))
        noise = tuple(each.get(c, 0.0) for c in range(bands.channels))
    radar = _decibels(bands)
    decibels = tuple(radar.get(c, 0.0) for c in range(bands.channels)) if radar else ()
    return replace(sensor, mtf=mtf, noise=noise, decibels=decibels)


def _decibels(bands: Bands) -> dict[int, float]:
    """Return the size of a model unit in decibels by the channel of every radar band."""
    return {
        layer.slot: abs(layer.to_model.inverse.then(layer.to_physical).scale)
        for layer in bands.layers
        if layer.slot in bands.seen_through
    }


def _calendar(call: VerbCall) -> Calendar:
    cube = call.cube
    in_times = seconds_of(cube.times) if cube.times is not None else np.zeros(1, np.int64)
    out_times = in_times if call.dates is None else seconds_of(call.dates)
    return Calendar(
        in_times=in_times,
        out_times=out_times,
        cloud=cloud_of(cube, in_times, out_times),
        dated=cube.times is not None,
        has_input=call.has_input,
        autoregressive=call.autoregressive,
    )


def _sampling(call: VerbCall, options: Options) -> Sampling:
    card = call.generator.card
    steps = steps_for(options, card, call.verb)
    joint_steps = joint_steps_for(options, call.generator, call.verb, steps)
    if card.by_place and not call.has_input:
        steps, joint_steps = 0, 0
    elif (
        card.by_place
        and call.strength <= (card.prompt_strength or 0.0)
        and options.get("joint_steps") is None
    ):
        joint_steps = 0  # the start makes tiles agree
    members, reduce = members_of(options)
    return Sampling(
        steps=steps,
        joint_steps=joint_steps,
        seed=integer("seed", options.get("seed", 0), 0, 2**63 - 1),
        strength=call.strength,
        guidance=guidance_for(options.get("guidance"), card),
        prompt=prompt_for(options.get("prompt"), card, call.verb, call.strength),
        metadata=metadata_for(options.get("metadata"), card),
        members=members,
        reduce=reduce,
        class_map=call.class_map,
    )


def _recorded(call: VerbCall, plan: Plan) -> dict[str, Any]:
    """Return the parameters as the provenance record and the token hold them."""
    sampling, planes = plan.sampling, plan.bands.layout_planes
    return {
        **call.own,
        **({"layout": planes} if planes else {}),
        **({"uncertainty": True} if sampling.uncertainty else {}),
        "steps": sampling.steps,
        "joint_steps": sampling.joint_steps,
        **({"tiling": "image"} if plan.grid.one_tile else {}),
        "reduce": sampling.reduce,
        "prompt": sampling.prompt,
        "guidance": sampling.guidance,
        "metadata": dict(sampling.metadata) or None,
    }


def _is_lazy(call: VerbCall, options: Options, layout: Any) -> bool:
    """Tell whether the result is lazy: asked for by chunks, unconditional, or because an input is."""
    asked = options.get("chunks") is not None or options.get("memory") is not None
    return (
        asked or not call.has_input or call.cube.lazy or any(hasattr(a, "dask") for a in (call.mask, layout))
    )


def refuse_unknown(plan: Plan, inputs: Inputs) -> None:
    """Refuse to fill a cube without one known pixel: everything would be invented. Lazy inputs are read up to it."""
    if knows_anything(plan.bands.layers, inputs.bands, inputs.mask):
        return
    rows, cols = plan.grid.geobox.shape.yx
    names = ", ".join(layer.name for layer in plan.bands.layers)
    hidden = "" if inputs.mask is None else " outside the mask"
    raise ParameterError(
        f"not one pixel of {names} is measured{hidden}: {len(plan.calendar.in_times)} dates of {rows} x {cols} px, all "
        "missing" + (" or masked" if hidden else ""),
        f"check mask, {'mask_buffer, ' if hidden else ''}nodata and extent, or add a date that shows the ground; "
        + (
            "fill='all' generates all of it"
            if plan.verb == "inpaint"
            else "mask='none' takes masked pixels too"
        ),
    )
