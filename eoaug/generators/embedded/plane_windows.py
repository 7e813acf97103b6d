"""An infinite plane of overlapping windows, each drawn once, given its neighbours.

Numpy. The plane is tiled by windows of four types. Those of the first type do not touch and are drawn without neighbours;
those of the next two fill the gaps between two of them, those of the last the rest, each conditioned on the neighbours
that are drawn already. Windows are never averaged, since two samples of one location blend into a ghost. So a window
depends on at most eight others, any part of the plane can be computed alone, and its cells do not depend on which parts
are requested.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.arrays import Float32Array

__all__ = ["KINDS", "PlaneWindows", "Spot", "known"]


KINDS: Mapping[str, float] = {"alone": 0.4, "between": 0.3, "within": 0.3}
"""Known neighbours of a window (none, on two sides, on all sides), with the share of the training samples."""
_KEPT = 512
"""Windows that a process caches."""
Spot = tuple[int, int, int, int]
"""A window: its period (row, column), and 0 or 1 along each axis."""


def known(kind: str, window: int, context: int) -> NDArray[np.bool_]:
    """Return where a window of a kind of `KINDS` is given by its neighbours, shape (window, window)."""
    inside = np.zeros(window, bool)
    inside[context:-context] = True
    everything = np.ones(window, bool)
    rows = inside if kind != "alone" else everything
    cols = inside if kind == "within" else everything
    return ~(rows[:, None] & cols)


class PlaneWindows[Plane: Hashable]:
    """The windows of planes, cached for neighbouring tiles.

    Parameters
    ----------
    window, context
        Edge of a window in cells, and the width on each side that may be given by its neighbours.
    bands
        Bands of a cell.
    batch
        Windows that are drawn together.
    """

    def __init__(self, *, window: int, context: int, bands: int, batch: int) -> None:
        self.window, self._context, self._bands, self._batch = window, context, bands, batch
        self._period = 2 * (window - context)
        self._drawn: OrderedDict[tuple[Plane, Spot], Future[Float32Array]] = OrderedDict()
        self._lock = Lock()

    def gathered(
        self,
        parts: Iterable[tuple[Plane, tuple[int, int], tuple[int, int]]],
        draw: Callable[
            [Sequence[tuple[Plane, Spot]], Mapping[tuple[Plane, Spot], Float32Array]], Sequence[Float32Array]
        ],
    ) -> dict[tuple[Plane, Spot], Float32Array]:
        """Return the windows of parts of planes: cached ones, ones that other threads are drawing, and the others, drawn here.

        Parameters
        ----------
        parts
            Plane, first cell (row, column), and (rows, columns).
        draw
            Draws windows, given their neighbours of lower levels; shape (bands, window, window) each.
        """
        todo = list({(plane, spot) for plane, at, shape in parts for spot in self.spots(at, shape)})
        futures: dict[tuple[Plane, Spot], Future[Float32Array]] = {}
        mine: list[list[tuple[Plane, Spot]]] = [[], [], []]
        with self._lock:
            while todo:
                key = plane, spot = todo.pop()
                if key in futures:
                    continue
                if key not in self._drawn:
                    self._drawn[key] = Future()
                    mine[spot[2] + spot[3]].append(key)
                    todo += [(plane, other) for other in self.neighbours(spot)]
                self._drawn.move_to_end(key)
                futures[key] = self._drawn[key]
            while len(self._drawn) > _KEPT and next(iter(self._drawn.values())).done():
                self._drawn.popitem(last=False)
        try:
            # No deadlock: a window waits only for windows of lower levels, and the lowest for none.
            for level in mine:
                for first in range(0, len(level), self._batch):
                    batch = level[first : first + self._batch]
                    neighbours = {(plane, other) for plane, spot in batch for other in self.neighbours(spot)}
                    drawn = draw(batch, {key: futures[key].result() for key in neighbours})
                    for key, window in zip(batch, drawn, strict=True):
                        futures[key].set_result(window)
        except BaseException as error:
            with self._lock:
                for key in (waiting for level in mine for waiting in level if not futures[waiting].done()):
                    self._drawn.pop(key, None)
                    futures[key].set_exception(error)
            raise
        return {key: future.result() for key, future in futures.items()}

    def origin(self, spot: Spot) -> tuple[int, int]:
        """Return the first cell of a window."""
        i, j, a, b = spot
        half = self._period // 2
        return i * self._period + a * half, j * self._period + b * half

    def mask(self, spot: Spot) -> NDArray[np.bool_]:
        """Return where a window is given by its neighbours, shape (window, window)."""
        a, b = spot[2:]
        kind = ("alone", "between", "within")[a + b]
        found = known(kind, self.window, self._context)
        return found if a else found.T

    def neighbours(self, spot: Spot) -> Iterator[Spot]:
        """Yield the windows of lower levels that a window is conditioned on."""
        size = (self.window, self.window)
        for other in self.spots(self.origin(spot), size):
            if other[2] + other[3] < spot[2] + spot[3]:
                yield other

    def spots(self, origin: tuple[int, int], shape: tuple[int, int]) -> Iterator[Spot]:
        """Yield the windows that contribute cells to a part."""
        axes = [
            [
                (number, half)
                for number in range(first // self._period, (first + size - 1) // self._period + 1)
                for half in (0, 1)
                if (own := self._own(number, half))[0] < first + size and own[1] > first
            ]
            for first, size in zip(origin, shape, strict=True)
        ]
        for i, a in axes[0]:
            for j, b in axes[1]:
                yield i, j, a, b

    def _own(self, number: int, half: int) -> tuple[int, int]:
        """Return the range of cells (first, end) that a window contributes along one axis."""
        start = number * self._period
        if half:
            return start + self.window, start + self._period
        return start, start + self.window

    def assembled(
        self,
        plane: Plane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        held: Mapping[tuple[Plane, Spot], Float32Array],
        level: int = 3,
    ) -> Float32Array:
        """Return a part of a plane from the windows below a level; 0 elsewhere."""
        out = np.zeros((self._bands, *shape), np.float32)
        for spot in self.spots(origin, shape):
            if spot[2] + spot[3] >= level:
                continue
            at, to = [], []
            for first, size, start, number, half in zip(
                origin, shape, self.origin(spot), spot[:2], spot[2:], strict=True
            ):
                low, high = self._own(number, half)
                low, high = max(low, first), min(high, first + size)
                at.append(slice(low - start, high - start))
                to.append(slice(low - first, high - first))
            out[:, to[0], to[1]] = held[plane, spot][:, at[0], at[1]]
        return out
