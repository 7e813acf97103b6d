"""One chunk of a result: a pure function of the plan and of input pixels.

Runs the tiles of the lattice, merges their estimates, projects them onto the measurement and stores them.
A loop, threads, processes and a cluster call the same function, so they give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.synthetic import GENERATED, MEASURED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.engine.blending import Execution, TileRequest, independent_tiles, joint_tiles, merge
from eoaug.engine.inputs import dtypes_of
from eoaug.engine.plan import Plan
from eoaug.engine.tile_requests import ChunkDate, read_chunk_inputs, tile_centres, tile_request, valid
from eoaug.engine.values import ChunkIndex, Layer, Reduce
from eoaug.generators.base import ClassMapGenerator
from eoaug.raster.cells import cell_means
from eoaug.raster.radiometry import cast
from eoaug.raster.tiles import Window

__all__ = ["chunk_images", "estimate_of", "requests_of", "run_chunk"]


_STRIP_PX = 64
"""Rows that are converted at once: conversion through float64 takes ten times the memory of the numbers."""


def run_chunk(
    plan: Plan,
    index: ChunkIndex,
    arrays: Sequence[NDArray[Any]],
    execution: Execution | None = None,
    known_elsewhere: Callable[[], bool] | None = None,
) -> dict[str, NDArray[Any]]:
    """Make one chunk of the result.

    Parameters
    ----------
    plan
        What to make.
    index
        Chunk along (member, time, y, x).
    arrays
        The plan's inputs in `Inputs.arrays` order, cut to ``input_windows(plan, index)``.
    execution
        How forwards are run; default: one after the other.
    known_elsewhere
        Whether any pixel of the whole cube is known; called only if none is within reach. Without one nothing is
        generated.

    Returns
    -------
    By layer name, shape (dates, rows, columns) in stored numbers; and the uint8 mask ``synthetic``.
    """
    member, _, y, x = index
    execution, core = execution or Execution(), plan.core(y, x)
    images = chunk_images(plan, index, arrays, known_elsewhere)
    estimate: NDArray[np.floating[Any]] | None = None
    while True:
        try:
            chunk = images.send(estimate)
        except StopIteration as end:
            result: dict[str, NDArray[Any]] = end.value
            return result
        estimate = _reduced_estimate(chunk, member, core, execution)


def chunk_images(
    plan: Plan,
    index: ChunkIndex,
    arrays: Sequence[NDArray[Any]],
    known_elsewhere: Callable[[], bool] | None = None,
) -> Generator[ChunkDate, NDArray[np.floating[Any]] | None, dict[str, NDArray[Any]]]:
    """Yield every date of a chunk, and be sent its estimate; returns what `run_chunk` does.

    An estimate has shape (layers, rows, columns) in model units; None: nothing is generated.
    """
    member, t, y, x = index
    core = plan.core(y, x)
    inputs = read_chunk_inputs(plan, core, plan.context_dates(t), arrays)
    inner = plan.grid.source_window(core).within(plan.grid.source_window(inputs.reach))
    outputs: dict[str, list[NDArray[Any]]] = {name: [] for name in dtypes_of(plan)}
    empty = known_elsewhere is not None and not inputs.known.any() and not known_elsewhere()
    for date in plan.chunking.dates(t):
        chunk = ChunkDate.of(plan, inputs, date)
        if empty:
            chunk = replace(chunk, fill=np.zeros_like(chunk.fill))
        stored: list[NDArray[Any] | None] = [None] * len(plan.bands.layers)
        if chunk.given is not None:
            stored = [arrays[i][chunk.given][inner] for i in range(len(stored))]
        estimate = yield chunk
        absent = [
            _sentinels(chunk, core, layer, image)
            # A layout follows the bands, and may be all that there is.
            for layer, image in zip(
                plan.bands.layers, arrays if plan.calendar.has_input else (), strict=False
            )
        ]
        for name, image in _stored_images(chunk, core, stored, absent, estimate).items():
            outputs[name].append(image)
        if plan.sampling.class_map:
            outputs[plan.sampling.class_map].append(_class_map(chunk, member, core))
    return {name: np.stack(images) for name, images in outputs.items()}


# -- from estimates to stored numbers -----------------------------------------------------------------


def _stored_images(
    chunk: ChunkDate,
    core: Window,
    stored: list[NDArray[Any] | None],
    absent: list[NDArray[np.bool_] | None],
    estimate: NDArray[np.floating[Any]] | None,
) -> dict[str, NDArray[Any]]:
    """Return the bands of one date in stored numbers, and its synthetic mask.

    Parameters
    ----------
    chunk, core
        The date, and the pixels of the chunk.
    stored
        Given numbers of each layer, or None on a new date.
    absent
        Of each layer, where the input holds its nodata value; see `_sentinels`.
    estimate
        Shape (layers, rows, columns) of ``core``, model units, with the uncertainty followed by as many expected errors;
        None if nothing is generated.
    """
    plan = chunk.plan
    fill = chunk.fill[:, *core.within(chunk.inputs.reach)]
    images: dict[str, NDArray[Any]] = {}
    mask = np.full(core.shape, OUTSIDE)
    for i, layer in enumerate(plan.bands.layers):
        target = fill[layer.slot]
        given = stored[i] if plan.grid.factor == 1 else None
        values = None if estimate is None else estimate[i]
        if plan.sampling.keeps_type:
            images[layer.name] = _stored_band(layer, values, target, given, absent[i] if absent else None)
        else:
            images[layer.name] = _stored_deviation(layer, values, target, given)
        if plan.sampling.uncertainty:
            error = None if estimate is None else estimate[len(plan.bands.layers) + i]
            images[layer.std_name] = _stored_deviation(layer, error, target, given)
        if given is not None:
            mask[valid(layer, np.asarray(given)) & ~target & (mask == OUTSIDE)] = MEASURED
    mask[fill.any(axis=0)] = TRANSFERRED
    mask[fill[plan.bands.slots_from("generated")].any(axis=0)] = GENERATED
    images[SYNTHETIC] = mask
    return images


def _sentinels(
    chunk: ChunkDate, core: Window, layer: Layer, stored: NDArray[Any]
) -> NDArray[np.bool_] | None:
    """Return where a floating input holds its nodata value, over ``core``; None where its pixels come back as given.

    On a new date, where all dates near to it hold the value. A missing pixel of the result then is what it is in the
    input: the nodata value or NaN.
    """
    plan = chunk.plan
    if np.dtype(layer.dtype).kind != "f" or layer.nodata is None or np.isnan(layer.nodata):
        return None
    if not plan.calendar.has_input or (chunk.given is not None and plan.grid.factor == 1):
        return None
    near = [date - chunk.inputs.dates.start for date in plan.neighbours(chunk.date)]
    dates = near if chunk.given is None else [chunk.given]
    absent = (stored[dates] == layer.nodata).all(axis=0)
    for axis in (0, 1):
        absent = absent.repeat(plan.grid.factor, axis=axis)
    return np.asarray(absent[core.within(chunk.inputs.reach)])


def _stored_deviation(
    layer: Layer,
    estimate: NDArray[np.floating[Any]] | None,
    target: NDArray[np.bool_],
    given: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return the standard deviation of one band in physical units: 0 where it was measured, NaN where unknown."""
    out = np.full(target.shape, np.nan, np.float32)
    if given is not None:
        out[valid(layer, given)] = 0
    if estimate is not None:
        # A difference has a scale and no offset.
        out[target] = estimate[target] * abs(layer.to_physical.scale / layer.to_model.scale)
    return out


def _stored_band(
    layer: Layer,
    estimate: NDArray[np.floating[Any]] | None,
    target: NDArray[np.bool_],
    given: NDArray[Any] | None,
    absent: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Return one band of one date in stored numbers: generated where asked, else as given.

    ``absent``: where a floating input holds its nodata value; without given pixels, the result holds it there too,
    and NaN elsewhere.
    """
    dtype = np.dtype(layer.dtype)
    if given is not None:
        out = np.array(given, dtype=dtype)
    else:
        out = np.full(
            target.shape, 0 if dtype.kind in "iu" and layer.nodata is None else layer.missing, dtype
        )
        if absent is not None:
            out[absent] = layer.nodata
    if estimate is not None:
        for rows in _strips(len(target)):
            chosen = target[rows]
            if chosen.any():
                out[rows][chosen] = cast(layer.to_model.inverse(estimate[rows][chosen]), dtype, layer.nodata)
    return out


def _strips(rows: int) -> Iterator[slice]:
    yield from (slice(first, first + _STRIP_PX) for first in range(0, rows, _STRIP_PX))


# -- ensemble members ---------------------------------------------------------------------------------


def _reduced_estimate(
    chunk: ChunkDate, member: int, core: Window, execution: Execution
) -> NDArray[np.floating[Any]] | None:
    """Return shape (layers, rows, columns) of ``core``, of one member or reduced over all; None: nothing to fill."""
    if not chunk.fill[:, *core.within(chunk.inputs.reach)].any():
        return None
    sampling = chunk.plan.sampling
    members = sampling.members_of(member)
    estimates = (_estimate(chunk, number, core, execution) for number in members)
    return _Statistic(sampling.reduce, len(members)).over(estimates)


class _Statistic:
    """Members reduced as they arrive: mean and standard deviation online, quantiles from all members."""

    def __init__(self, reduce: Reduce | None, members: int) -> None:
        self.reduce, self.members, self.count = reduce, members, 0
        self.all: NDArray[np.float32]
        self.mean: NDArray[np.float64]
        self.square: NDArray[np.float64]

    def over(self, members: Iterator[NDArray[np.float32]]) -> NDArray[np.floating[Any]]:
        if self.reduce is None:
            return next(members)
        for values in members:
            self._add(values)
            del values  # not held while the next is made
        return self._result()

    def _add(self, values: NDArray[np.float32]) -> None:
        if isinstance(self.reduce, float):
            if not self.count:
                self.all = np.empty((self.members, *values.shape), values.dtype)
            self.all[self.count] = values
            self.count += 1
            return
        if not self.count:
            self.mean, self.square = np.zeros((2, *values.shape))
        self.count += 1
        for rows in _strips(values.shape[1]):
            # Welford's update: one pass, no cancellation.
            delta = values[:, rows].astype(np.float64) - self.mean[:, rows]
            self.mean[:, rows] += delta / self.count
            self.square[:, rows] += delta * (values[:, rows] - self.mean[:, rows])

    def _result(self) -> NDArray[np.floating[Any]]:
        if isinstance(self.reduce, float):
            out: NDArray[np.float32] = np.empty(self.all.shape[1:], np.float32)
            for rows in _strips(out.shape[1]):
                out[:, rows] = np.quantile(self.all[:, :, rows], self.reduce, axis=0)
            return out
        if self.reduce == "mean":
            return self.mean
        self.square /= max(self.count - 1, 1)
        spread: NDArray[np.float64] = np.sqrt(self.square, out=self.square)
        return spread


# -- one estimate --------------------------------------------------------------------------------------


def _estimate(chunk: ChunkDate, member: int, core: Window, execution: Execution) -> NDArray[np.float32]:
    """Return shape (layers, rows, columns) of ``core``: the merged, projected estimate in model units.

    With the uncertainty, the expected errors of the layers follow.
    """
    plan = chunk.plan
    region = plan.grid.region(core)
    run = joint_tiles if plan.stepped else independent_tiles
    canvas = merge(plan, run(plan, requests_of(chunk, member, core), execution), region)
    return estimate_of(chunk, canvas, core)


def estimate_of(chunk: ChunkDate, canvas: NDArray[np.float32], core: Window) -> NDArray[np.float32]:
    """Return shape (layers, rows, columns) of ``core`` from the merged tiles, whose array it changes."""
    plan, region = chunk.plan, chunk.plan.grid.region(core)
    if plan.grid.sensor is not None:
        _project(chunk, canvas, region)
    elif plan.grid.guided:
        _project_guided(chunk, canvas, region)
    slots = plan.bands.slots
    if plan.sampling.uncertainty:
        slots = [*slots, *(plan.bands.channels + slot for slot in slots)]
    # A list of indices makes a copy.
    chosen = canvas if slots == list(range(len(canvas))) else canvas[slots]
    return chosen[:, *core.within(region)]


def requests_of(chunk: ChunkDate, member: int, core: Window) -> Iterator[TileRequest]:
    """Yield the tiles with something to fill, ring by ring in lattice order."""
    for ring, tiles in enumerate(chunk.plan.tiles(core)):
        for tile, centre in zip(tiles, tile_centres(chunk.plan, tiles), strict=True):
            request = tile_request(chunk, member, tile, centre)
            if request is not None:
                yield ring, tile, request


def _class_map(chunk: ChunkDate, member: int, core: Window) -> NDArray[np.uint8]:
    """Return the classes that the generator lays out on ``core``; where tiles overlap they agree."""
    plan = chunk.plan
    generator = plan.generator
    assert isinstance(generator, ClassMapGenerator)
    out = np.zeros(core.shape, np.uint8)
    for ring, tile, request in requests_of(chunk, plan.sampling.members_of(member)[0], core):
        window = plan.lattice.window(tile)
        inside = window & core
        if ring == 0 and not inside.empty:
            out[inside.within(core)] = generator.class_map(request)[inside.within(window)]
    return out


def _project(chunk: ChunkDate, canvas: NDArray[np.float32], region: Window) -> None:
    """Make the canvas agree with the coarse measurement, in place, one band at a time."""
    plan, inputs, grid = chunk.plan, chunk.inputs, chunk.plan.grid
    assert grid.sensor is not None
    rows, cols = grid.source_window(region).within(grid.source_window(inputs.reach))
    for layer in plan.bands.layers:
        c = layer.slot
        sensor = grid.sensor.of_band(c)
        known = inputs.known[chunk.given, c, rows, cols]
        coarse = np.where(known, inputs.values[chunk.given, c, rows, cols], np.float32(np.nan))[None]
        fine = sensor.project(canvas[c : c + 1], coarse)
        canvas[c] = _storable(layer, fine[0], coarse[0], grid.factor) if sensor.mtf is None else fine[0]


def _project_guided(chunk: ChunkDate, canvas: NDArray[np.float32], region: Window) -> None:
    """Make every coarse band of the canvas agree with its measured pixels, in place."""
    plan, inputs = chunk.plan, chunk.inputs
    inside = region & inputs.reach
    to, at = inside.within(region), inside.within(inputs.reach)
    for layer in plan.bands.layers:
        sensor = plan.grid.guided[layer.slot]
        if sensor is None:
            continue
        image = np.full((1, *region.shape), np.nan, np.float32)
        known = inputs.known[chunk.given, layer.slot][at]
        image[0][to] = np.where(known, inputs.values[chunk.given, layer.slot][at], np.nan)
        coarse = cell_means(image, sensor.factor)
        fine = sensor.project(canvas[layer.slot : layer.slot + 1], coarse)
        canvas[layer.slot] = (
            _storable(layer, fine[0], coarse[0], sensor.factor) if sensor.mtf is None else fine[0]
        )


def _storable(
    layer: Layer, fine: NDArray[np.float32], coarse: NDArray[np.float32], f: int
) -> NDArray[np.float32]:
    """Shrink a cell's detail towards its mean until every pixel fits the storage type.

    A cast that clips would change the mean that was measured. Only for the box sensor: others have no separate cells.
    """
    dtype = np.dtype(layer.dtype)
    if dtype.kind == "f":
        return fine
    info = np.iinfo(dtype)
    # One number left free on each side: for rounding, and for the step that keeps a value off nodata.
    low, high = np.sort(layer.to_model(np.array([info.min + 1, info.max - 1])))
    if low < fine.min() and fine.max() < high:
        return fine
    cells = fine.reshape(len(coarse), f, -1, f)
    room = np.minimum(
        _share(coarse - low, coarse - cells.min(axis=(1, 3))),
        _share(high - coarse, cells.max(axis=(1, 3)) - coarse),
    )[:, None, :, None]
    mean = coarse[:, None, :, None]
    shrunk: NDArray[np.float32] = np.where(room < 1, mean + room * (cells - mean), cells).astype(np.float32)
    return shrunk.reshape(fine.shape)


def _share(room: NDArray[np.floating[Any]], needed: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    room = np.maximum(room, 0)
    share = np.ones_like(room)
    np.divide(room, needed, out=share, where=needed > room)
    return share
