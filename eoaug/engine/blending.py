"""From the estimates of tiles to one image: joint denoising steps, and averages where tiles overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import batched
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.plan import Plan
from eoaug.errors import GeneratorError, foreign
from eoaug.generators.base import Request, SteppedGenerator, UncertaintyGenerator
from eoaug.progress import ProgressCounter
from eoaug.raster.tiles import Tile, Window

__all__ = ["Execution", "Mapper", "TileRequest", "independent_tiles", "joint_tiles", "merge", "pooled_tiles"]


Mapper = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""``map``, or that of a pool: yields results in order, and takes items as they are needed."""

TileRequest = tuple[int, Tile, Request]
"""Ring of neighbours, tile, and its request."""

_TileEstimates = Iterable[tuple[Tile, NDArray[np.float32]]]
"""Tiles with their estimates (C, size, size), in lattice order."""


@dataclass(frozen=True)
class Execution:
    """How forwards are run; no pixel depends on it."""

    mapper: Mapper = map
    """Runs forwards side by side."""
    progress: ProgressCounter = field(default_factory=lambda: ProgressCounter(lambda count: None))
    """Counts the tiles or denoising steps that are finished."""


@dataclass
class _Group:
    """Tiles that go through the generator together: of one ring and one number of dates."""

    ring: int
    tiles: list[Tile]
    requests: list[Request]
    state: Any = None


def _groups(requests: Iterable[TileRequest], most: int) -> Iterator[_Group]:
    """Yield groups of at most ``most`` tiles, each as soon as it is full."""
    filling: dict[tuple[int, int], _Group] = {}
    for ring, tile, request in requests:
        key = (ring, len(request.times))
        group = filling.setdefault(key, _Group(ring, [], []))
        group.tiles.append(tile)
        group.requests.append(request)
        if len(group.tiles) == most:
            yield filling.pop(key)
    yield from filling.values()


def _targets(plan: Plan, group: _Group, result: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the target dates of a generator's result, shape (B, C, H, W); refuse a wrong shape or NaN.

    With the uncertainty, the expected errors of the C channels follow their values.
    """
    parts = 2 if plan.sampling.uncertainty else 1
    dates, channels, *edges = group.requests[0].values.shape
    expected = (len(group.requests), dates, parts * channels, *edges)
    if result.shape != expected:
        raise GeneratorError(
            f"generator {plan.card.name!r} returned shape {result.shape} for {expected}",
            "generate() must return (B, T, C, H, W) as the requests hold it; check it with eoaug.testing.check_generator",
        )
    targets = [int(np.argmax(request.target)) for request in group.requests]
    out = result[:, 0]
    if dates > 1:
        out = np.stack([estimate[date] for estimate, date in zip(result, targets, strict=True)])
    for estimate, request, date in zip(out, group.requests, targets, strict=True):
        wrong = ~np.isfinite(estimate) & np.tile(request.fill[date], (parts, 1, 1))
        if wrong.any():
            raise GeneratorError(
                f"generator {plan.card.name!r} returned {int(wrong.sum())} values that are not finite in the "
                f"tile at {request.origin}",
                "report it to the generator's authors, with the request",
            )
    return out


def independent_tiles(plan: Plan, requests: Iterable[TileRequest], execution: Execution) -> _TileEstimates:
    """Yield every tile with its own estimate; no more groups are held than the mapper asks for."""
    issued: deque[Tile] = deque()
    done: dict[Tile, NDArray[np.float32]] = {}

    def issue() -> Iterator[TileRequest]:
        for item in requests:
            issued.append(item[1])
            yield item

    def call(group: _Group) -> Iterable[tuple[Tile, NDArray[np.float32]]]:
        result = _targets(plan, group, _generated(plan, group.requests, execution.progress))
        execution.progress.tiles(len(group.tiles))
        return zip(group.tiles, result, strict=True)

    for pairs in execution.mapper(call, _groups(issue(), plan.group_tiles)):
        done.update(pairs)
        del pairs  # a batch is held no longer than its last tile
        # Groups with different numbers of dates fill at different rates: back into lattice order.
        while issued and issued[0] in done:
            tile = issued.popleft()
            yield tile, done.pop(tile)


def _of_generator(plan: Plan) -> AbstractContextManager[None]:
    """Return a context in which whatever a generator raises is an error of the generator."""
    remedy = "run again; if it remains, check the generator with eoaug.testing.check_generator"
    return foreign(f"generator {plan.card.name!r}", remedy, GeneratorError)


def _generated(plan: Plan, requests: Sequence[Request], progress: ProgressCounter) -> NDArray[np.float32]:
    """Return the generator's result; where steps are counted and it has them, step by step."""
    with _of_generator(plan):
        return _results(plan, requests, progress)


def _results(plan: Plan, requests: Sequence[Request], progress: ProgressCounter) -> NDArray[np.float32]:
    generator = plan.generator
    if plan.sampling.uncertainty:
        assert isinstance(generator, UncertaintyGenerator)  # checked with the arguments
        return np.concatenate(generator.generate_with_error(requests), axis=2)
    if plan.grid.guided or not (progress.by_step and isinstance(generator, SteppedGenerator)):
        return generator.generate(requests)
    results = []
    for batch in batched(requests, plan.card.batch):
        state = generator.begin(batch)
        for index in range(plan.sampling.steps):
            generator.step(state, index)
            progress.steps(len(batch))
        results.append(generator.finish(state))
    return np.concatenate(results)


def pooled_tiles(
    plans: Sequence[Plan], requests: Sequence[TileRequest]
) -> list[tuple[Tile, NDArray[np.float32]]]:
    """Return the tiles of plans with one generator, a request each, made in common batches."""
    filling: dict[tuple[Any, ...], list[int]] = {}
    for at, (_, _, request) in enumerate(requests):
        filling.setdefault((request.values.shape, request.steps), []).append(at)
    out: dict[int, NDArray[np.float32]] = {}
    for alike in filling.values():
        for some in batched(alike, plans[0].group_tiles):
            plan = plans[some[0]]
            group = _Group(0, [requests[at][1] for at in some], [requests[at][2] for at in some])
            made = _targets(plan, group, plan.generator.generate(group.requests))
            out.update(zip(some, made, strict=True))
    return [(tile, out[at]) for at, (_, tile, _) in enumerate(requests)]


def joint_tiles(plan: Plan, requests: Iterable[TileRequest], execution: Execution) -> _TileEstimates:
    """Run the denoising steps of all tiles together; the first steps are averaged over overlapping tiles.

    MultiDiffusion (arXiv 2302.08113, eq. 5) over a bounded neighbourhood (InfiniteDiffusion,
    arXiv 2512.08309): joint step i needs the tiles within ``joint_steps - i`` rings, and the outermost
    ring is dropped after it.
    """
    generator: Any = plan.generator
    mapper, progress, sampling = execution.mapper, execution.progress, plan.sampling
    groups = list(_groups(requests, plan.group_tiles))

    def begin(group: _Group) -> None:
        group.state = generator.begin(group.requests)

    def step(group: _Group, index: int) -> NDArray[np.float32]:
        estimate: NDArray[np.float32] = generator.step(group.state, index)
        progress.steps(len(group.tiles))
        if group.ring == 0:
            progress.tiles(len(group.tiles), parts=sampling.steps)
        return estimate

    def finish(group: _Group) -> NDArray[np.float32]:
        return _targets(plan, group, generator.finish(group.state))

    list(mapper(begin, groups))
    for index in range(sampling.steps):
        estimates = list(mapper(partial(step, index=index), groups))
        if index < sampling.joint_steps:
            pairs = _in_order(groups, estimates)
            groups = [group for group in groups if group.ring < sampling.joint_steps - index]
            _average(plan, pairs, groups)
    return _in_order(groups, list(mapper(finish, groups)))


def _in_order(
    groups: list[_Group], estimates: list[NDArray[np.float32]]
) -> list[tuple[Tile, NDArray[np.float32]]]:
    pairs = [
        pair
        for group, batch in zip(groups, estimates, strict=True)
        for pair in zip(group.tiles, batch, strict=True)
    ]
    return sorted(pairs, key=lambda pair: pair[0])


def _average(plan: Plan, pairs: list[tuple[Tile, NDArray[np.float32]]], groups: list[_Group]) -> None:
    """Give each tile of ``groups`` the average of all estimates that overlap it."""
    if not groups:
        return
    cell = plan.card.latent_factor
    windows = [plan.lattice.window(tile) for tile, _ in pairs]
    whole = Window(
        min(w.top for w in windows),
        min(w.left for w in windows),
        max(w.bottom for w in windows),
        max(w.right for w in windows),
    )
    canvas = merge(plan, pairs, whole, cell)
    for group in groups:
        crops = [canvas[:, *_cells(plan.lattice.window(tile).within(whole), cell)] for tile in group.tiles]
        plan.generator.replace(group.state, np.stack(crops))  # type: ignore[attr-defined]


def _cells(slices: tuple[slice, slice], cell: int) -> tuple[slice, slice]:
    rows, cols = slices
    return slice(rows.start // cell, rows.stop // cell), slice(cols.start // cell, cols.stop // cell)


def merge(plan: Plan, pairs: _TileEstimates, region: Window, cell: int = 1) -> NDArray[np.float32]:
    """Return shape (C, h, w): tiles weighted by a partition of unity, summed in lattice order."""
    height, width = region.shape[0] // cell, region.shape[1] // cell
    channels = plan.bands.channels * (2 if plan.sampling.uncertainty else 1)
    total = np.zeros((channels, height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    weights = plan.lattice.weights(cell)
    for tile, estimate in pairs:
        if len(estimate) != len(total):
            # The canvas of a latent model has its own number of channels: that of the first tile.
            total = np.zeros((len(estimate), height, width), np.float32)
        window = plan.lattice.window(tile)
        common = window & region
        if common.empty:
            continue
        to, at = (_cells(common.within(outer), cell) for outer in (region, window))
        w = weights[at]
        total[:, *to] += w * estimate[:, *at]
        weight[to] += w
        del estimate  # a view of its batch, which would stay while the next is made
    # Tiles without anything to fill were not generated; where all are present the weights sum to 1.
    np.divide(total, weight, out=total, where=weight > 0)
    return total
