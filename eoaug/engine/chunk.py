"""One chunk of a result: a pure function of the plan and of input pixels.

Walks the tiles of the lattice, joins or blends their estimates, projects on the measurement and stores.
A loop, threads, processes and a cluster call the same function, so they give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.synthetic import GENERATED, MEASURED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.engine.blending import Mapper, alone, joint, merge
from eoaug.engine.layout import Layer
from eoaug.engine.plan import Plan
from eoaug.engine.tile_requests import ChunkInputs, fill_mask, places, read_chunk_inputs, tile_request, valid
from eoaug.generators.base import Request
from eoaug.progress import ProgressCounter
from eoaug.raster.radiometry import cast
from eoaug.raster.tiles import Tile, Window

__all__ = ["run_chunk"]


_STRIP_PX = 64


def run_chunk(
    plan: Plan,
    index: tuple[int, int, int, int],
    arrays: Sequence[NDArray[Any]],
    mapper: Mapper = map,
    seen: ProgressCounter | None = None,
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
    mapper
        ``map``, or a pool's: runs forwards side by side.
    seen
        Told of the work that is done.

    Returns
    -------
    By layer name, shape (dates, rows, columns) in stored numbers; and the uint8 marks ``synthetic``.
    """
    member, t, y, x = index
    seen = seen or ProgressCounter(lambda count: None)
    core = plan.core(y, x)
    dates = plan.context_dates(t)
    scene = read_chunk_inputs(plan, core, dates, arrays)
    outputs: dict[str, list[NDArray[Any]]] = {layer.name: [] for layer in plan.layers}
    outputs[SYNTHETIC] = []
    for k in plan.dates(t):
        for name, array in _date(plan, k, member, core, scene, arrays, dates, mapper, seen).items():
            outputs[name].append(array)
    return {name: np.stack(parts) for name, parts in outputs.items()}


def _date(
    plan: Plan,
    k: int,
    member: int,
    core: Window,
    scene: ChunkInputs,
    arrays: Sequence[NDArray[Any]],
    dates: range,
    mapper: Mapper,
    seen: ProgressCounter,
) -> dict[str, NDArray[Any]]:
    fill = fill_mask(plan, k, scene)
    given = plan.given(k)
    inner = plan.source_window(core).within(plan.source_window(scene.reach))
    stored: list[NDArray[Any] | None] = [None] * len(plan.layers)
    if given is not None:
        stored = [arrays[i][given - dates.start][inner] for i in range(len(plan.layers))]
    cut = core.within(scene.reach)
    wanted = fill[:, cut[0], cut[1]]
    if not wanted.any():
        estimates: list[NDArray[np.float32]] = []
    else:
        draws = range(plan.members or 1) if plan.reduce is not None else (member + plan.first_member,)
        estimates = _Statistic(plan.reduce, len(draws)).over(
            _estimate(plan, k, draw, core, scene, fill, mapper, seen) for draw in draws
        )
    out: dict[str, NDArray[Any]] = {}
    shape = core.shape
    marks = np.full(shape, OUTSIDE)
    for i, layer in enumerate(plan.layers):
        target = wanted[layer.slot]
        out[layer.name] = _store(
            plan, layer, estimates[0][i] if estimates else None, target, stored[i], shape
        )
        if stored[i] is not None and plan.factor == 1:
            marks[valid(layer, np.asarray(stored[i])) & ~target & (marks == OUTSIDE)] = MEASURED
    own = [layer.slot for layer in plan.layers if plan.origin_of(layer) == "generated"]
    marks[wanted.any(axis=0)] = TRANSFERRED
    marks[wanted[own].any(axis=0)] = GENERATED
    out[SYNTHETIC] = marks
    return out


def _store(
    plan: Plan,
    layer: Layer,
    estimate: NDArray[np.floating[Any]] | None,
    target: NDArray[np.bool_],
    stored: NDArray[Any] | None,
    shape: tuple[int, int],
) -> NDArray[Any]:
    """Return one band of one date in stored numbers: generated where asked, else what was given."""
    dtype = np.dtype(layer.dtype)
    if not plan.keeps_type:
        # A spread has the size of a physical unit and no offset; what was measured has none.
        spread = np.full(shape, np.nan, np.float32)
        if stored is not None and plan.factor == 1:
            spread[valid(layer, stored)] = 0
        if estimate is not None:
            spread[target] = estimate[target] * abs(layer.to_physical.scale / layer.to_model.scale)
        return spread
    if stored is not None and plan.factor == 1:
        out = np.array(stored, dtype=dtype)
    else:
        out = np.full(shape, 0 if dtype.kind in "iu" and layer.nodata is None else layer.missing(), dtype)
    if estimate is not None:
        for rows in _strips(shape[0]):
            chosen = target[rows]
            if chosen.any():
                out[rows][chosen] = cast(layer.to_model.inverse(estimate[rows][chosen]), dtype, layer.nodata)
    return out


def _strips(rows: int) -> Iterator[slice]:
    """Yield some rows after the other: numbers on their way through float64 take ten times their place."""
    yield from (slice(first, first + _STRIP_PX) for first in range(0, rows, _STRIP_PX))


class _Statistic:
    """Members reduced as they come: mean and spread online, quantiles from all members."""

    def __init__(self, kind: str | float | None, members: int) -> None:
        self.kind, self.members, self.count = kind, members, 0
        self.every: NDArray[np.float32]
        self.mean: NDArray[np.float64]
        self.square: NDArray[np.float64]

    def over(self, members: Iterator[NDArray[np.float32]]) -> list[NDArray[np.floating[Any]]]:
        if self.kind is None:
            return list(members)
        for values in members:
            self._take(values)
            del values  # not held while the next is made
        return [self._told()]

    def _take(self, values: NDArray[np.float32]) -> None:
        if isinstance(self.kind, float):
            if not self.count:
                self.every = np.empty((self.members, *values.shape), values.dtype)
            self.every[self.count] = values
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

    def _told(self) -> NDArray[np.floating[Any]]:
        if isinstance(self.kind, float):
            out: NDArray[np.float32] = np.empty(self.every.shape[1:], np.float32)
            for rows in _strips(out.shape[1]):
                out[:, rows] = np.quantile(self.every[:, :, rows], self.kind, axis=0)
            return out
        if self.kind == "mean":
            return self.mean
        self.square /= max(self.count - 1, 1)
        spread: NDArray[np.float64] = np.sqrt(self.square, out=self.square)
        return spread


def _estimate(
    plan: Plan,
    k: int,
    member: int,
    core: Window,
    scene: ChunkInputs,
    fill: NDArray[np.bool_],
    mapper: Mapper,
    seen: ProgressCounter,
) -> NDArray[np.float32]:
    """Return shape (layers, rows, columns) of ``core``: the merged, projected estimate in model units."""
    region = plan.region(core)
    requests = _requests(plan, k, member, core, scene, fill)
    pairs = (joint if plan.stepped else alone)(plan, requests, mapper, seen)
    canvas = merge(plan, pairs, region)
    if plan.sensor is not None:
        _project(plan, k, canvas, region, scene)
    slots = [layer.slot for layer in plan.layers]
    # A list of indices makes a copy.
    chosen = canvas if slots == list(range(len(canvas))) else canvas[slots]
    return chosen[:, *core.within(region)]


def _project(plan: Plan, k: int, canvas: NDArray[np.float32], region: Window, scene: ChunkInputs) -> None:
    """Make the canvas agree with the coarse measurement, in place, one band at a time."""
    given = plan.given(k)
    assert given is not None
    assert plan.sensor is not None
    local = given - scene.dates.start
    rows, cols = plan.source_window(region).within(plan.source_window(scene.reach))
    for layer in plan.layers:
        c = layer.slot
        sensor = plan.sensor.of_band(c)
        known = scene.known[local, c, rows, cols]
        coarse = np.where(known, scene.values[local, c, rows, cols], np.float32(np.nan))[None]
        fine = sensor.project(canvas[c : c + 1], coarse)
        canvas[c] = _storable(plan, layer, fine[0], coarse[0]) if sensor.mtf is None else fine[0]


def _storable(
    plan: Plan, layer: Layer, fine: NDArray[np.float32], coarse: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Shrink a cell's detail towards its mean until every pixel fits the storage type.

    A cast that clips would change the mean that was measured. Only the box sensor has cells of its own.
    """
    kind = np.dtype(layer.dtype)
    if kind.kind == "f":
        return fine
    info = np.iinfo(kind)
    # One number of room on each side: rounding, and the step that keeps a value off nodata.
    low, high = np.sort(layer.to_model(np.array([info.min + 1, info.max - 1])))
    if low < fine.min() and fine.max() < high:
        return fine
    f = plan.factor
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


def _requests(
    plan: Plan,
    k: int,
    member: int,
    core: Window,
    scene: ChunkInputs,
    fill: NDArray[np.bool_],
) -> Iterator[tuple[int, Tile, Request]]:
    """Yield (ring, tile, request) of the tiles with something to fill, ring by ring in lattice order."""
    for ring, tiles in enumerate(plan.tiles(core)):
        for tile, place in zip(tiles, places(plan, tiles), strict=True):
            request = tile_request(plan, k, member, tile, place, scene, fill)
            if request is not None:
                yield ring, tile, request
