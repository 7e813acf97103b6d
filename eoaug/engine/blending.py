"""How tiles become one image: joint denoising steps, averages of overlaps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import batched
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.plan import Plan
from eoaug.errors import GeneratorError
from eoaug.generators.base import Request, SteppedGenerator
from eoaug.progress import ProgressCounter
from eoaug.raster.tiles import Tile, Window

__all__ = ["Mapper", "alone", "joint", "merge"]


Mapper = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""``map``, or a pool's: results in order, and items taken as they are needed."""


# -- tiles ------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Tiles that go through the generator together: of one ring and one number of dates."""

    ring: int
    tiles: list[Tile]
    requests: list[Request]
    state: Any = None


_Pairs = Iterable[tuple[Tile, NDArray[np.float32]]]
"""Tiles with their estimates (C, size, size), in lattice order."""


def _groups(requests: Iterable[tuple[int, Tile, Request]], most: int) -> Iterator[_Group]:
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
    """Return the target dates of a generator's answer, shape (B, C, H, W); refuse a wrong shape or NaN."""
    expected = (len(group.requests), *group.requests[0].values.shape)
    if result.shape != expected:
        raise GeneratorError(
            f"generator {plan.card.name!r} returned shape {result.shape} for {expected}",
            "generate() must return (B, T, C, H, W) as the requests hold it; run eoaug.testing.scenes's contract suite",
        )
    dates = [int(np.argmax(request.target)) for request in group.requests]
    out = result[:, 0]
    if result.shape[1] > 1:
        out = np.stack([estimate[date] for estimate, date in zip(result, dates, strict=True)])
    for estimate, request, date in zip(out, group.requests, dates, strict=True):
        wrong = ~np.isfinite(estimate) & request.fill[date]
        if wrong.any():
            raise GeneratorError(
                f"generator {plan.card.name!r} returned {int(wrong.sum())} values that are not finite in the "
                f"tile at {request.origin}",
                "report it to the generator's authors, with the request",
            )
    return out


def alone(
    plan: Plan, requests: Iterable[tuple[int, Tile, Request]], mapper: Mapper, seen: ProgressCounter
) -> _Pairs:
    """Yield every tile with its own estimate; no more groups are held than the mapper asks for."""
    issued: deque[Tile] = deque()
    done: dict[Tile, NDArray[np.float32]] = {}

    def noted() -> Iterator[tuple[int, Tile, Request]]:
        for item in requests:
            issued.append(item[1])
            yield item

    def call(group: _Group) -> Iterable[tuple[Tile, NDArray[np.float32]]]:
        result = _targets(plan, group, _generated(plan, group.requests, seen))
        seen.tiles(len(group.tiles))
        return zip(group.tiles, result, strict=True)

    for made in mapper(call, _groups(noted(), plan.group_tiles)):
        done.update(made)
        del made  # a batch is held no longer than its last tile
        # Groups of other numbers of dates fill at their own pace: back into lattice order.
        while issued and issued[0] in done:
            tile = issued.popleft()
            yield tile, done.pop(tile)


def _generated(plan: Plan, requests: Sequence[Request], seen: ProgressCounter) -> NDArray[np.float32]:
    """Return what the generator makes; where steps are counted and it has them, step by step."""
    generator = plan.generator
    if not (seen.by_step and isinstance(generator, SteppedGenerator)):
        return generator.generate(requests)
    parts = []
    for batch in batched(requests, plan.card.batch):
        state = generator.begin(batch)
        for index in range(plan.steps):
            generator.step(state, index)
            seen.steps(len(batch))
        parts.append(generator.finish(state))
    return np.concatenate(parts)


def joint(
    plan: Plan, requests: Iterable[tuple[int, Tile, Request]], mapper: Mapper, seen: ProgressCounter
) -> _Pairs:
    """Walk the denoising steps; the first ones are averaged over overlapping tiles.

    MultiDiffusion (arXiv 2302.08113, eq. 5) over a bounded neighbourhood (InfiniteDiffusion,
    arXiv 2512.08309): joint step i needs the tiles within ``joint_steps - i`` rings, and the outermost
    ring is dropped after it.
    """
    generator: Any = plan.generator
    groups = list(_groups(requests, plan.group_tiles))

    def begin(group: _Group) -> None:
        group.state = generator.begin(group.requests)

    def step(group: _Group, index: int) -> NDArray[np.float32]:
        estimate: NDArray[np.float32] = generator.step(group.state, index)
        seen.steps(len(group.tiles))
        if group.ring == 0:
            seen.tiles(len(group.tiles), parts=plan.steps)
        return estimate

    def finish(group: _Group) -> NDArray[np.float32]:
        return _targets(plan, group, generator.finish(group.state))

    list(mapper(begin, groups))
    for index in range(plan.steps):
        estimates = list(mapper(partial(step, index=index), groups))
        if index < plan.joint_steps:
            pairs = _in_order(groups, estimates)
            groups = [group for group in groups if group.ring < plan.joint_steps - index]
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


def merge(plan: Plan, pairs: _Pairs, region: Window, cell: int = 1) -> NDArray[np.float32]:
    """Return shape (C, h, w): tiles weighted by a partition of unity, summed in lattice order."""
    height, width = region.shape[0] // cell, region.shape[1] // cell
    total = np.zeros((plan.channels, height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    weights = plan.lattice.weights(cell)
    for tile, estimate in pairs:
        if len(estimate) != len(total):
            # The canvas of a latent model has channels of its own; the first tile tells how many.
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
    # Tiles without anything to fill were not made; where all are there the weights sum to 1.
    np.divide(total, weight, out=total, where=weight > 0)
    return total
