"""The four verbs: from arguments to a plan, from the plan to the user's kind of object.

Each verb checks its arguments, says what is known and what is to be filled, and hands a `Plan` to the
run. Every verb is a free function, fit for ``ds.pipe``; the accessors forward here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube import provenance
from eoaug.cube.model import Cube
from eoaug.cube.synthetic import SYNTHETIC, SyntheticShare
from eoaug.engine.eager import compute
from eoaug.engine.identity import token_for
from eoaug.engine.inputs import Inputs
from eoaug.engine.layout import Fill, Layer, lattice_for
from eoaug.engine.plan import Plan
from eoaug.errors import BandError, error_context
from eoaug.generators.base import Card, Generator, Verb
from eoaug.progress import Progress
from eoaug.raster.grid import absolute_origin, gsd_m, refine
from eoaug.raster.sensor import Sensor
from eoaug.verbs.alignment import layout_for
from eoaug.verbs.checks import integer, unknown
from eoaug.verbs.layers import layers_of
from eoaug.verbs.options import (
    Options,
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
)
from eoaug.verbs.record import record_of, residual_of

__all__ = ["PreparedVerb", "prepare", "run_verb"]


# -- preparation --------------------------------------------------------------------------------------


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
    """Dates of the result, to the last digit; the plan counts whole seconds."""
    guide: Any = None
    """The layout as it was given: its items are sources too."""


def run_verb(
    verb: Verb, prepare: Callable[..., PreparedVerb], obj: Any, options: Any, **arguments: Any
) -> Any:
    """Run a verb on an object; on a DataTree, on every node with bands."""
    with error_context(verb):
        for name in options:
            if name not in Options.__annotations__:
                raise unknown("argument", name, [*arguments, *Options.__annotations__])
        if isinstance(obj, xr.DataTree):
            return _over_tree(lambda node: _finish(prepare(node, options, **arguments)), obj)
        return _finish(prepare(obj, options, **arguments))


def _over_tree(run: Callable[[xr.Dataset], Any], tree: xr.DataTree) -> xr.DataTree:
    """Return a tree with the results of the nodes that have bands; the others as they are."""
    results, others = {}, {}
    for node in tree.subtree:
        dataset = node.to_dataset()
        has_bands = any(
            {"y", "x"} <= {str(d).lower()[:1] for d in v.dims} or v.ndim >= 2 for v in node.data_vars.values()
        )
        if has_bands:
            results[node.path] = run(dataset)
        else:
            others[node.path] = dataset
    if not results:
        raise BandError("the DataTree has no node with bands", "give a tree as eoaug.open_cube returns it")
    return xr.DataTree.from_dict({**others, **results}, name=tree.name)


def prepare(
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
) -> PreparedVerb:
    """Return plan and inputs of a verb from what it knows and is to fill."""
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
    return PreparedVerb(cube, made, inputs, lazy, progress, parameters, times, options.get("layout"))


def _check_kept(verb: Verb, card: Card, layers: Sequence[Layer]) -> None:
    """Refuse verbs whose result has places where a band that is left as it is was never measured."""
    kept = [layer.name for layer in layers if card.bands and card.bands[layer.slot] in card.passthrough_bands]
    if kept and verb in ("extend", "super_resolve"):
        raise BandError(
            f"generator {card.name!r} keeps {', '.join(kept)} as measured, and makes pixels where nothing was",
            "load it with lift='regress' or lift='inject', or leave these bands out",
        )


def _finish(prepared: PreparedVerb) -> Any:
    cube, made = prepared.cube, prepared.plan
    record = record_of(made, cube, prepared.parameters, prepared.guide)
    if prepared.lazy:
        from eoaug.engine.dask_graph import build

        arrays: dict[str, Any] = dict(build(made, prepared.inputs))
    else:
        arrays = dict(compute(made, prepared.inputs, progress=prepared.progress))
    given = np.searchsorted(made.out_times, made.in_times)
    marks = (
        cube.carried(arrays[SYNTHETIC], given) if made.has_input and made.factor == 1 else arrays[SYNTHETIC]
    )
    if not prepared.lazy:
        marks = np.asarray(marks)
        count = SyntheticShare()
        count.add(marks)
        record = replace(
            record,
            synthetic_fraction=count.share,
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
