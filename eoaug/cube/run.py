"""Running a plan: one chunk from its inputs, all chunks in a loop or as a dask graph.

dask appears here only. `run_chunk` is a pure function of the plan and of input pixels, so a loop, the
threaded scheduler, processes and a cluster give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.plan import SENSOR_CELLS, Layer, Plan
from eoaug.errors import GeneratorError
from eoaug.generators.base import Request
from eoaug.grid import lonlat
from eoaug.radiometry import cast
from eoaug.tiles import Tile, Window

__all__ = ["Inputs", "build", "compute", "run_chunk"]

MEASURED, GENERATED, OUTSIDE = np.uint8(0), np.uint8(1), np.uint8(255)

SYNTHETIC = "synthetic"

_Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Inputs:
    """The source arrays of a plan, NumPy or dask, in (time, y, x) order on the input's grid."""

    bands: tuple[Any, ...] = ()
    """One array per layer of the plan, stored numbers."""
    mask: Any = None
    """Shape (Tin, Y, X), bool: what to fill (plan.fill == "mask")."""
    layout: Any = None
    """Shape (K, Y, X), float32, on the result's grid."""

    def arrays(self) -> list[Any]:
        """Return all arrays in a fixed order."""
        return [*self.bands, *(a for a in (self.mask, self.layout) if a is not None)]


@dataclass
class _Scene:
    """Input pixels of one chunk, in model units, over the window `reach` of the result's grid."""

    reach: Window
    dates: range
    values: NDArray[np.float32]
    """Shape (n, C, h, w) on the input's grid; 0 where not known."""
    known: NDArray[np.bool_]
    """Shape (n, C, h, w)."""
    mask: NDArray[np.bool_] | None
    layout: NDArray[np.float32] | None


def run_chunk(
    plan: Plan,
    index: tuple[int, int, int, int],
    arrays: Sequence[NDArray[Any]],
    mapper: _Map = map,
    progress: Callable[[int], None] | None = None,
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
    progress
        Called with the number of tiles done.

    Returns
    -------
    By layer name, shape (dates, rows, columns) in stored numbers; and the uint8 marks ``synthetic``.
    """
    member, t, y, x = index
    core = plan.core(y, x)
    dates = _date_range(plan, t)
    scene = _read(plan, core, dates, arrays)
    outputs: dict[str, list[NDArray[Any]]] = {layer.name: [] for layer in plan.layers}
    outputs[SYNTHETIC] = []
    for k in plan.dates(t):
        for name, array in _date(plan, k, member, core, scene, arrays, dates, mapper, progress).items():
            outputs[name].append(array)
    return {name: np.stack(parts) for name, parts in outputs.items()}


def _date_range(plan: Plan, t: int) -> range:
    spans = [plan.neighbours(k) for k in plan.dates(t)]
    spans = [span for span in spans if len(span)]
    if not spans:
        return range(0)
    return range(min(s.start for s in spans), max(s.stop for s in spans))


def _read(plan: Plan, core: Window, dates: range, arrays: Sequence[NDArray[Any]]) -> _Scene:
    reach = plan.reach(core)
    shape = plan.source_window(reach).shape
    values = np.zeros((len(dates), plan.channels, *shape), np.float32)
    known = np.zeros(values.shape, bool)
    rest = list(arrays[len(plan.layers) if plan.has_input else 0 :])
    mask = np.asarray(rest.pop(0), bool) if plan.fill == "mask" else None
    layout = np.asarray(rest.pop(0), np.float32) if rest else None
    if plan.has_input:
        for layer, stored in zip(plan.layers, arrays, strict=False):
            good = _valid(layer, stored)
            known[:, layer.slot] = good
            values[:, layer.slot] = np.where(good, layer.to_model(np.where(good, stored, 0)), 0.0)
    if mask is not None:
        known &= ~mask[:, None]
        values[~known] = 0.0
    return _Scene(reach, dates, values, known, mask, layout)


def _valid(layer: Layer, stored: NDArray[Any]) -> NDArray[np.bool_]:
    good = np.isfinite(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
    if layer.nodata is not None and not np.isnan(layer.nodata):
        good &= stored != layer.nodata
    return good


# -- one date ---------------------------------------------------------------------------------------


def _date(
    plan: Plan,
    k: int,
    member: int,
    core: Window,
    scene: _Scene,
    arrays: Sequence[NDArray[Any]],
    dates: range,
    mapper: _Map,
    progress: Callable[[int], None] | None,
) -> dict[str, NDArray[Any]]:
    fill = _to_fill(plan, k, scene)
    given = plan.given(k)
    inner = plan.source_window(core).within(plan.source_window(scene.reach))
    stored: list[NDArray[Any] | None] = [None] * len(plan.layers)
    if given is not None:
        stored = [arrays[i][given - dates.start][inner] for i in range(len(plan.layers))]
    cut = core.within(scene.reach)
    slots = [layer.slot for layer in plan.layers]
    wanted = fill[:, cut[0], cut[1]]
    if not wanted.any():
        estimates: list[NDArray[np.float32]] = []
    else:
        draws = range(plan.members or 1) if plan.reduce is not None else (member,)
        estimates = _Statistic(plan.reduce).over(
            _estimate(plan, k, draw, core, scene, fill, mapper, progress)[slots] for draw in draws
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
            marks[_valid(layer, np.asarray(stored[i])) & ~target & (marks == OUTSIDE)] = MEASURED
    marks[wanted.any(axis=0)] = GENERATED
    out[SYNTHETIC] = marks
    return out


def _to_fill(plan: Plan, k: int, scene: _Scene) -> NDArray[np.bool_]:
    """Return shape (C, h, w) on the result's grid over ``scene.reach``: what to generate on date ``k``."""
    height, width = scene.reach.shape
    slots = [layer.slot for layer in plan.layers]
    fill = np.zeros((plan.channels, height, width), bool)
    given = plan.given(k)
    if plan.fill == "scene":
        fill[slots] = True
        return fill
    if plan.verb == "extend" and given is not None:
        return fill
    local = None if given is None else given - scene.dates.start
    near = [d - scene.dates.start for d in plan.neighbours(k)]
    if plan.fill == "footprint":
        fill[slots] = scene.known[near].any(axis=(0, 1))
    elif plan.fill == "measured":
        known = scene.known[local][slots]
        for _ in range(2):
            if plan.factor > 1:
                known = np.repeat(known, plan.factor, axis=1 + _)
        fill[slots] = known
    elif plan.fill == "mask":
        assert scene.mask is not None
        fill[slots] = scene.mask[local]
    elif plan.fill == "everything":
        fill[slots] = ~scene.known[local][slots]
    else:
        others = [d for d in near if d != local]
        fill[slots] = ~scene.known[local][slots] & scene.known[others].any(axis=0)[slots]
    return fill


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
    if plan.reduce is not None and not _keeps_type(plan):
        # A spread has the size of a physical unit and no offset.
        spread = np.zeros(shape, np.float32)
        if estimate is not None:
            spread[target] = estimate[target] * abs(layer.to_physical.scale / layer.to_model.scale)
        return spread
    if stored is not None and plan.factor == 1:
        out = np.array(stored, dtype=dtype)
    else:
        out = np.full(shape, 0 if dtype.kind in "iu" and layer.nodata is None else layer.missing(), dtype)
    if estimate is not None and target.any():
        numbers = layer.to_model.inverse(estimate[target])
        out[target] = cast(numbers, dtype, layer.nodata)
    return out


def _keeps_type(plan: Plan) -> bool:
    return plan.reduce != "std"


class _Statistic:
    """Members reduced as they come: mean and spread online, quantiles from all members."""

    def __init__(self, kind: str | float | None) -> None:
        self.kind = kind

    def over(self, members: Iterator[NDArray[np.float32]]) -> list[NDArray[np.floating[Any]]]:
        if self.kind is None:
            return list(members)
        if isinstance(self.kind, float):
            return [np.quantile(np.stack(list(members)), self.kind, axis=0)]
        count, mean, square = 0, np.zeros(()), np.zeros(())
        for values in members:
            # Welford's update: one pass, no cancellation.
            count += 1
            delta = values.astype(np.float64) - mean
            mean = mean + delta / count
            square = square + delta * (values - mean)
        return [mean if self.kind == "mean" else np.sqrt(square / max(count - 1, 1))]


# -- tiles ------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Tiles that go through the generator together."""

    ring: int
    tiles: list[Tile]
    requests: list[Request]
    state: Any = None


def _estimate(
    plan: Plan,
    k: int,
    member: int,
    core: Window,
    scene: _Scene,
    fill: NDArray[np.bool_],
    mapper: _Map,
    progress: Callable[[int], None] | None,
) -> NDArray[np.float32]:
    """Return shape (C, rows, columns) of ``core``: the merged, projected estimate in model units."""
    region = plan.region(core)
    groups = _groups(plan, k, member, region, scene, fill)
    results = _joint(plan, groups, region, mapper) if plan.stepped else _single(plan, groups, mapper)
    if progress is not None:
        progress(sum(len(group.tiles) for group in groups))
    canvas = _merge(plan, results, region)
    if plan.sensor is not None:
        given = plan.given(k)
        assert given is not None
        at = plan.source_window(region).within(plan.source_window(scene.reach))
        local = given - scene.dates.start
        known = scene.known[local][:, at[0], at[1]]
        coarse = np.where(known, scene.values[local][:, at[0], at[1]], np.float32(np.nan))
        canvas = plan.sensor.project(canvas, coarse)
        if plan.sensor.mtf is None:
            canvas = _storable(plan, canvas, coarse)
    inner = core.within(region)
    return canvas[:, inner[0], inner[1]]


def _storable(plan: Plan, fine: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shrink a cell's detail towards its mean until every pixel fits the storage type.

    A cast that clips would change the mean that was measured. Only the box sensor has cells of their own.
    """
    f = plan.factor
    out = fine.copy()
    for layer in plan.layers:
        kind = np.dtype(layer.dtype)
        if kind.kind == "f":
            continue
        info = np.iinfo(kind)
        # One number of room on each side: rounding, and the step that keeps a value off nodata.
        ends = layer.to_model(np.array([info.min + 1, info.max - 1]))
        low, high = float(ends.min()), float(ends.max())
        mean = coarse[layer.slot]
        cells = fine[layer.slot].reshape(len(mean), f, -1, f)
        room = np.minimum(
            _ratio(mean - low, mean - cells.min(axis=(1, 3))),
            _ratio(high - mean, cells.max(axis=(1, 3)) - mean),
        )
        shrunk = mean[:, None, :, None] + room[:, None, :, None] * (cells - mean[:, None, :, None])
        keep = ~(room[:, None, :, None] < 1)
        out[layer.slot] = np.where(keep, cells, shrunk).reshape(fine.shape[1:])
    return out


def _ratio(room: NDArray[np.float32], needed: NDArray[np.float32]) -> NDArray[np.float32]:
    share = np.ones_like(room)
    np.divide(np.maximum(room, 0), needed, out=share, where=needed > np.maximum(room, 0))
    return share


def _groups(
    plan: Plan, k: int, member: int, region: Window, scene: _Scene, fill: NDArray[np.bool_]
) -> list[_Group]:
    """Return the tiles with something to fill as requests, grouped by ring and number of dates."""
    groups: list[_Group] = []
    for ring, tiles in enumerate(plan.lattice.rings(region, plan.joint_steps)):
        open_groups: dict[int, _Group] = {}
        places = _lonlat(plan, tiles)
        for tile, place in zip(tiles, places, strict=True):
            request = _request(plan, k, member, tile, place, scene, fill)
            if request is None:
                continue
            group = open_groups.get(len(request.times))
            if group is None or len(group.tiles) == plan.batch_tiles:
                group = open_groups[len(request.times)] = _Group(ring, [], [])
                groups.append(group)
            group.tiles.append(tile)
            group.requests.append(request)
    return groups


def _lonlat(plan: Plan, tiles: list[Tile]) -> NDArray[np.float64]:
    half, stride = plan.lattice.size / 2, plan.lattice.stride
    rows = [tile.row * stride + half - plan.origin[0] for tile in tiles]
    cols = [tile.col * stride + half - plan.origin[1] for tile in tiles]
    # Five decimals are about a metre: two crops, whose affines round differently, must agree.
    return np.round(lonlat(plan.geobox, rows, cols), 5)


def _request(
    plan: Plan,
    k: int,
    member: int,
    tile: Tile,
    place: NDArray[np.float64],
    scene: _Scene,
    fill: NDArray[np.bool_],
) -> Request | None:
    window = plan.lattice.window(tile)
    inside = window & scene.reach
    if inside.empty:
        return None
    size, channels = plan.lattice.size, plan.channels
    to, at = inside.within(window), inside.within(scene.reach)
    here = fill[:, at[0], at[1]]
    given = plan.given(k)
    local = None if given is None else given - scene.dates.start
    common: dict[str, Any] = {
        "origin": (window.top, window.left),
        "prompt": plan.prompt,
        "member": member,
        "seed": plan.seed,
        "steps": plan.steps,
        "guidance": plan.guidance,
        "strength": plan.strength,
    }
    if scene.layout is not None:
        layout = np.zeros((len(scene.layout), size, size), np.float32)
        layout[:, to[0], to[1]] = scene.layout[:, at[0], at[1]]
        common["layout"] = layout
    if plan.sensor is not None:
        assert local is not None
        near = window.pad(SENSOR_CELLS * plan.factor) & scene.reach
        seen = plan.source_window(near).within(plan.source_window(scene.reach))
        if not scene.known[local][:, seen[0], seen[1]].any():
            return None
        f = plan.factor
        src = plan.source_window(inside).within(plan.source_window(scene.reach))
        coarse = np.full((1, channels, size // f, size // f), np.nan, np.float32)
        good = scene.known[local][:, src[0], src[1]]
        dst = (slice(to[0].start // f, to[0].stop // f), slice(to[1].start // f, to[1].stop // f))
        coarse[0][:, dst[0], dst[1]] = np.where(good, scene.values[local][:, src[0], src[1]], np.nan)
        whole = np.zeros((1, channels, size, size), bool)
        slots = [layer.slot for layer in plan.layers]
        for slot in slots:
            # Pixels under a coarse gap are made too: the sensor mixes them into its neighbours.
            whole[0, slot, to[0], to[1]] = True
        return Request(
            values=np.zeros((1, channels, size, size), np.float32),
            known=np.zeros((1, channels, size, size), bool),
            fill=whole,
            times=plan.out_times[k : k + 1],
            metadata=_metadata(plan, [k], place),
            coarse=coarse,
            factor=f,
            sensor=plan.sensor,
            **common,
        )
    if not here.any():
        return None
    frames = _frames(plan, k, scene, at)
    slot_of_target = frames.index(None) if None in frames else frames.index(local)
    values = np.zeros((len(frames), channels, size, size), np.float32)
    known = np.zeros(values.shape, bool)
    filled = np.zeros(values.shape, bool)
    for i, frame in enumerate(frames):
        if frame is None or (frame == local and plan.fill in ("measured", "scene") and plan.strength >= 1):
            continue
        values[i][:, to[0], to[1]] = scene.values[frame][:, at[0], at[1]]
        known[i][:, to[0], to[1]] = scene.known[frame][:, at[0], at[1]]
    filled[slot_of_target][:, to[0], to[1]] = here
    times = [
        int(plan.out_times[k]) if i == slot_of_target else int(plan.in_times[scene.dates[frame]])  # type: ignore[index]
        for i, frame in enumerate(frames)
    ]
    return Request(
        values=values,
        known=known,
        fill=filled,
        times=np.asarray(times, np.int64),
        metadata=_metadata(plan, times, place, target=slot_of_target, k=k),
        **common,
    )


def _frames(plan: Plan, k: int, scene: _Scene, at: tuple[slice, slice]) -> list[int | None]:
    """Return the dates of a tile's request, ascending, as indices into the scene; None is a new date.

    The context: first the nearest date on either side that shows at least half of the tile, then by
    distance in time; dates that show less than a twentieth never.
    """
    given = plan.given(k)
    local = None if given is None else given - scene.dates.start
    if not plan.card.context or plan.verb not in ("inpaint", "extend"):
        return [local]
    now = int(plan.out_times[k])
    slots = [layer.slot for layer in plan.layers]
    candidates = []
    for date in plan.neighbours(k):
        i = date - scene.dates.start
        if i == local:
            continue
        share = float(scene.known[i][slots][:, at[0], at[1]].mean())
        if share >= 0.05:
            gap = int(plan.in_times[date]) - now
            candidates.append((share < 0.5, abs(gap), gap, i))
    candidates.sort()
    before = [c for c in candidates if c[2] < 0][:1]
    after = [c for c in candidates if c[2] > 0][:1]
    chosen = sorted(before + after)[: plan.card.context]
    chosen += [c for c in candidates if c not in chosen][: plan.card.context - len(chosen)]
    frames: list[tuple[int, int | None]] = [(c[2], c[3]) for c in chosen]
    return [i for _, i in sorted([*frames, (0, local)], key=lambda f: f[0])]


def _metadata(
    plan: Plan, times: list[int], place: NDArray[np.float64], target: int = 0, k: int | None = None
) -> NDArray[np.float64]:
    rows = np.full((len(times), 7), np.nan)
    rows[:, 0], rows[:, 1], rows[:, 2] = place[0], place[1], plan.gsd_m
    for i, time in enumerate(times):
        if plan.dated:
            seconds = int(plan.out_times[time]) if k is None else time
            day = np.datetime64(seconds, "s").astype("datetime64[D]").item()
            rows[i, 4:] = day.year, day.month, day.day
    rows[target, 3] = plan.cloud[times[0] if k is None else k]
    for name, value in plan.overrides.items():
        rows[target, _FIELDS[name]] = value
    return rows


_FIELDS = {
    "lon_deg": 0,
    "lat_deg": 1,
    "gsd_m": 2,
    "cloud_fraction": 3,
    "year": 4,
    "month": 5,
    "day": 6,
}


def _checked(plan: Plan, group: _Group, result: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the target dates of a generator's answer, shape (B, C, H, W); refuse a wrong shape or NaN."""
    request = group.requests[0]
    expected = (len(group.requests), *request.values.shape)
    if result.shape != expected:
        raise GeneratorError(
            f"generator {plan.card.name!r} returned shape {result.shape} for {expected}",
            "generate() must return (B, T, C, H, W) as the requests hold it; run eoaug.testing's contract suite",
        )
    out = np.stack([r[int(np.argmax(q.target))] for r, q in zip(result, group.requests, strict=True)])
    for i, request in enumerate(group.requests):
        wrong = ~np.isfinite(out[i]) & request.fill[int(np.argmax(request.target))]
        if wrong.any():
            raise GeneratorError(
                f"generator {plan.card.name!r} returned {int(wrong.sum())} values that are not finite in the "
                f"tile at {request.origin}",
                "report it to the generator's authors, with the request",
            )
    return out


def _single(
    plan: Plan, groups: list[_Group], mapper: _Map
) -> Iterator[tuple[list[Tile], NDArray[np.float32]]]:
    def call(group: _Group) -> NDArray[np.float32]:
        return _checked(plan, group, plan.generator.generate(group.requests))

    for group, result in zip(groups, mapper(call, groups), strict=True):
        yield group.tiles, result


def _joint(
    plan: Plan, groups: list[_Group], region: Window, mapper: _Map
) -> Iterator[tuple[list[Tile], NDArray[np.float32]]]:
    """Walk the denoising steps; the first ones are averaged over overlapping tiles.

    MultiDiffusion (arXiv 2302.08113, eq. 5) over a bounded neighbourhood (InfiniteDiffusion,
    arXiv 2512.08309): joint step i needs the tiles within ``joint_steps - i`` rings, and the outermost
    ring is dropped after it.
    """
    generator: Any = plan.generator

    def begin(group: _Group) -> None:
        group.state = generator.begin(group.requests)

    def step_at(index: int) -> Callable[[_Group], NDArray[np.float32]]:
        def step(group: _Group) -> NDArray[np.float32]:
            estimate: NDArray[np.float32] = generator.step(group.state, index)
            return estimate

        return step

    list(mapper(begin, groups))
    for index in range(plan.joint_steps):
        estimates = list(mapper(step_at(index), groups))
        inner = [group for group in groups if group.ring < plan.joint_steps - index]
        pairs = [(group.tiles, estimate) for group, estimate in zip(groups, estimates, strict=True)]
        _average(plan, pairs, inner)
        groups = inner
    for index in range(plan.joint_steps, plan.steps):
        list(mapper(step_at(index), groups))
    finished = mapper(lambda group: _checked(plan, group, generator.finish(group.state)), groups)
    for group, result in zip(groups, finished, strict=True):
        yield group.tiles, result


def _average(plan: Plan, pairs: list[tuple[list[Tile], NDArray[np.float32]]], inner: list[_Group]) -> None:
    """Give each inner group the average of all overlapping estimates."""
    if not inner:
        return
    cell = plan.card.latent_factor
    windows = [plan.lattice.window(tile) for tiles, _ in pairs for tile in tiles]
    whole = Window(
        min(w.top for w in windows),
        min(w.left for w in windows),
        max(w.bottom for w in windows),
        max(w.right for w in windows),
    )
    canvas = _merge(plan, pairs, whole, cell)
    for group in inner:
        crops = []
        for tile in group.tiles:
            rows, cols = plan.lattice.window(tile).within(whole)
            crops.append(
                canvas[:, rows.start // cell : rows.stop // cell, cols.start // cell : cols.stop // cell]
            )
        plan.generator.replace(group.state, np.stack(crops))  # type: ignore[attr-defined]


def _merge(
    plan: Plan,
    pairs: Iterable[tuple[list[Tile], NDArray[np.float32]]],
    region: Window,
    cell: int = 1,
) -> NDArray[np.float32]:
    """Return shape (C, h, w): tiles weighted by a partition of unity, summed in lattice order."""
    order = sorted(
        ((tile, estimate[i]) for tiles, estimate in pairs for i, tile in enumerate(tiles)),
        key=lambda pair: pair[0],
    )
    height, width = region.shape[0] // cell, region.shape[1] // cell
    channels = len(order[0][1]) if order else plan.channels
    total = np.zeros((channels, height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    weights = plan.lattice.weights(cell)
    for tile, estimate in order:
        window = plan.lattice.window(tile)
        common = window & region
        if common.empty:
            continue
        to, at = (
            tuple(slice(s.start // cell, s.stop // cell) for s in common.within(outer))
            for outer in (region, window)
        )
        w = weights[at[0], at[1]]
        total[:, to[0], to[1]] += w * estimate[:, at[0], at[1]]
        weight[to[0], to[1]] += w
    # Tiles without anything to fill were not made; where all are there the weights sum to 1.
    np.divide(total, weight, out=total, where=weight > 0)
    return total


# -- everything at once, here -------------------------------------------------------------------------


def _layout_bounds(plan: Plan, core: Window) -> Window:
    reach = plan.reach(core)
    top, left = plan.origin
    return Window(reach.top - top, reach.left - left, reach.bottom - top, reach.right - left)


def input_windows(plan: Plan, inputs: Inputs, index: tuple[int, int, int, int]) -> list[tuple[range, Window]]:
    """Return (dates, window) of every input array that a chunk needs, in `Inputs.arrays` order."""
    _, t, y, x = index
    core = plan.core(y, x)
    dates, window = _date_range(plan, t), plan.source_window(plan.reach(core))
    needs = [(dates, window)] * (len(inputs.bands) + (inputs.mask is not None))
    if inputs.layout is not None:
        needs.append((range(inputs.layout.shape[0]), _layout_bounds(plan, core)))
    return needs


def _indices(plan: Plan) -> Iterator[tuple[int, int, int, int]]:
    members = plan.members if plan.members is not None and plan.reduce is None else 1
    for member in range(members):
        for t in range(len(plan.chunks[0])):
            for y in range(len(plan.chunks[1])):
                for x in range(len(plan.chunks[2])):
                    yield member, t, y, x


def _dtypes(plan: Plan) -> dict[str, np.dtype[Any]]:
    spread = not _keeps_type(plan)
    types = {layer.name: np.dtype(np.float32 if spread else layer.dtype) for layer in plan.layers}
    return types | {SYNTHETIC: np.dtype(np.uint8)}


def compute(plan: Plan, inputs: Inputs, *, progress: bool | None = None) -> dict[str, NDArray[Any]]:
    """Run a plan here and now on NumPy inputs; forwards run side by side on all cores.

    Returns
    -------
    By layer name (and ``synthetic``), shape ([member,] T, Y, X).
    """
    draws = plan.members if plan.members is not None and plan.reduce is None else None
    shape = ((draws,) if draws else ()) + tuple(int(sum(c)) for c in plan.chunks)
    out = {name: np.empty(shape, dtype) for name, dtype in _dtypes(plan).items()}
    arrays = inputs.arrays()
    with _pool() as mapper, _bar(plan, progress) as tick:
        for index in _indices(plan):
            member, t, y, x = index
            cut = [
                array[dates.start : dates.stop, w.top : w.bottom, w.left : w.right]
                for array, (dates, w) in zip(arrays, input_windows(plan, inputs, index), strict=True)
            ]
            chunk = run_chunk(plan, index, cut, mapper, tick)
            core = plan.core(y, x).within(plan.scene)
            span = plan.dates(t)
            lead = (member,) if draws else ()
            for name, values in chunk.items():
                out[name][(*lead, slice(span.start, span.stop), *core)] = values
    return out


@contextmanager
def _pool() -> Iterator[_Map]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        yield map
        return
    with ThreadPoolExecutor(cores, thread_name_prefix="eoaug") as pool:
        yield pool.map


@contextmanager
def _bar(plan: Plan, progress: bool | None) -> Iterator[Callable[[int], None] | None]:
    if progress is False:
        yield None
        return
    from tqdm.auto import tqdm

    total = plan.explain().tiles
    # Short work needs no bar; the delay keeps notebooks and logs quiet.
    with tqdm(
        total=total,
        unit="tile",
        desc=plan.verb,
        delay=0 if progress else 3,
        leave=bool(progress),
        disable=None if progress is None else False,
    ) as bar:
        yield bar.update


# -- everything later, anywhere -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocks:
    """Where the blocks of a dask array lie, so that a task can put its pieces together."""

    name: str
    dtype: str
    edges: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, array: Any) -> _Blocks:
        t, y, x = (tuple(int(v) for v in np.cumsum((0, *sizes))) for sizes in array.chunks)
        return cls(array.name, str(array.dtype), (t, y, x))

    def needed(self, dates: range, window: Window) -> list[tuple[int, int, int]]:
        """Return the indices of the blocks that hold part of ``window`` on ``dates``."""
        spans = ((dates.start, dates.stop), (window.top, window.bottom), (window.left, window.right))
        picks = []
        for edges, (start, stop) in zip(self.edges, spans, strict=True):
            first = int(np.searchsorted(edges, start, side="right")) - 1
            last = int(np.searchsorted(edges, stop, side="left"))
            picks.append(range(first, last) if stop > start else range(0))
        return [(t, y, x) for t in picks[0] for y in picks[1] for x in picks[2]]

    def gather(self, blocks: Sequence[NDArray[Any]], dates: range, window: Window) -> NDArray[Any]:
        """Return the pixels of ``window`` on ``dates`` from the blocks of `needed`, in its order."""
        start = (dates.start, window.top, window.left)
        shape = (len(dates), *window.shape)
        out = np.empty(shape, np.dtype(self.dtype))
        for index, block in zip(self.needed(dates, window), blocks, strict=True):
            to, at = [], []
            for axis, i in enumerate(index):
                low = max(self.edges[axis][i], start[axis])
                high = min(self.edges[axis][i + 1], start[axis] + shape[axis])
                to.append(slice(low - start[axis], high - start[axis]))
                at.append(slice(low - self.edges[axis][i], high - self.edges[axis][i]))
            out[tuple(to)] = block[tuple(at)]
        return out


@dataclass(frozen=True)
class _Job:
    """What all tasks of a graph share: the plan and where its inputs' blocks lie."""

    plan: Plan
    sources: tuple[_Blocks, ...]
    inputs: Inputs
    """Without arrays: only what is there and of which shape."""


@dataclass(frozen=True)
class _Stub:
    shape: tuple[int, ...]


def _run_blocks(
    job: _Job, index: tuple[int, int, int, int], blocks: list[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    arrays = []
    at = 0
    for source, (dates, window) in zip(job.sources, input_windows(job.plan, job.inputs, index), strict=True):
        count = len(source.needed(dates, window))
        arrays.append(source.gather(blocks[at : at + count], dates, window))
        at += count
    return run_chunk(job.plan, index, arrays)


def _pick(chunk: Mapping[str, NDArray[Any]], name: str, member: bool) -> NDArray[Any]:
    return chunk[name][None] if member else chunk[name]


def build(plan: Plan, inputs: Inputs) -> dict[str, Any]:
    """Return the result as dask arrays, by layer name (and ``synthetic``), without computing anything.

    One task makes a chunk of all variables, one more per variable picks its part. A task refers to the
    input blocks within its reach; the graph holds the plan once and never the weights.
    """
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph
    from dask.task_spec import DataNode, List, Task, TaskRef

    arrays = [
        a if isinstance(a, da.Array) else da.from_array(a, chunks=_source_chunks(plan, a))
        for a in inputs.arrays()
    ]
    sources = tuple(_Blocks.of(a) for a in arrays)
    bare = Inputs(
        bands=tuple(_Stub(a.shape) for a in inputs.bands),
        mask=None if inputs.mask is None else _Stub(inputs.mask.shape),
        layout=None if inputs.layout is None else _Stub(inputs.layout.shape),
    )
    # The inputs' own graph is part of the name: two lazy cubes with equal tokens may differ.
    token = _name(plan, sources)
    job_key, run = f"eoaug-plan-{token}", f"eoaug-{plan.verb}-{token}"
    tasks: dict[Any, Any] = {job_key: DataNode(job_key, _Job(plan, sources, bare))}
    for index in _indices(plan):
        refs = [
            TaskRef((source.name, *block))
            for source, (dates, window) in zip(sources, input_windows(plan, bare, index), strict=True)
            for block in source.needed(dates, window)
        ]
        chunk_key = (run, *index)
        tasks[chunk_key] = Task(chunk_key, _run_blocks, TaskRef(job_key), index, List(*refs))
    graph = HighLevelGraph.from_collections(run, tasks, dependencies=arrays)
    draws = plan.members if plan.members is not None and plan.reduce is None else None
    chunks = (((1,) * draws,) if draws else ()) + plan.chunks
    out = {}
    for name, dtype in _dtypes(plan).items():
        label = f"eoaug-{name}-{token}"
        picks: dict[Any, Any] = {}
        for index in _indices(plan):
            key: tuple[Any, ...] = (label, *index) if draws else (label, *index[1:])
            picks[key] = Task(key, _pick, TaskRef((run, *index)), name, bool(draws))
        layers = HighLevelGraph({**graph.layers, label: picks}, {**graph.dependencies, label: {run}})
        out[name] = da.Array(layers, label, chunks, dtype=dtype)
    return out


def _name(plan: Plan, sources: tuple[_Blocks, ...]) -> str:
    from dask.base import tokenize

    return str(tokenize(plan.token, plan.chunks, plan.batch_tiles, [s.name for s in sources]))


def _source_chunks(plan: Plan, array: Any) -> tuple[int, int, int]:
    rows, cols = (max(max(c) // plan.factor, 1) for c in plan.chunks[1:])
    return (array.shape[0], rows, cols)
