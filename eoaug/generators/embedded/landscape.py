"""Land from nothing: an infinite plane of windows, each drawn by a diffusion network that is told its neighbours.

Numpy; the network is an argument. A layout (`mosaic.layout`) says where pieces of ground lie; each has the colour and
the roughness of one of a real scene, and the network draws its texture: as CorrDiff (arXiv:2309.15214), a residual
of what is decided before. The plane is paved by windows of four kinds. Windows of the first lie apart and are told
nothing; those of the next two fill the gaps between two of them, those of the last what is left, each told what lies
around it already; nothing is averaged, for two drawings of one place make a ghost. So a window hangs on at most
eight others, any part of the plane can be had alone, and its cells are the same however they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug.generators.embedded import flow_samplers, parcels
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = [
    "KINDS",
    "LEAST_ROUGH",
    "MOST",
    "MOVED",
    "PALETTES",
    "Landscape",
    "Plane",
    "conditions",
    "facts",
    "known",
]


KINDS: Mapping[str, float] = {"alone": 0.4, "between": 0.3, "within": 0.3}
"""What a window is told of its surroundings, and how often it is trained so: nothing, two sides, all sides."""

PALETTES = "palettes"
"""Name of the tensors ``scenes``, ``root`` and ``pieces`` among a generator's files."""
_LEAST_SIGMA = 0.1
"""Noise over signal at the last call."""
LEAST_ROUGH = 0.1
"""Least roughness of a piece of ground, in spreads of its scene."""
MOVED = 0.15
"""Standard deviation of what is added to the colour of a piece, in spreads."""
MOST = 2.5
"""Limit of the numbers that move a scene's level and spread."""
_GOLDEN = (5**0.5 - 1) / 2
_KEPT = 512
"""Windows of a process that are remembered."""
_Spot = tuple[int, int, int, int]
"""A window: its period (row, column), and 0 or 1 along each axis."""
Forward = Callable[..., Float32Array]
"""Points x_t, times, images, facts, closed forms, a list each, to clean estimates."""


@dataclass(frozen=True)
class Plane:
    """Which plane; on all dates it is the same land."""

    seed: int
    member: int
    time: int
    """Seconds since 1970."""
    gsd_m: float
    """Pixel size of a cell."""


_Key = tuple[Plane, _Spot]


def known(kind: str, window: int, context: int) -> NDArray[np.bool_]:
    """Return where a window of a kind is told its surroundings, shape (window, window)."""
    inside = np.zeros(window, bool)
    inside[context:-context] = True
    everything = np.ones(window, bool)
    rows = inside if kind != "alone" else everything
    cols = inside if kind == "within" else everything
    return ~(rows[:, None] & cols)


def facts(
    palette: NDArray[np.floating], gsd_m: float, metadata: NDArray[np.floating] | None = None
) -> Float32Array:
    """Return what the network is told about a scene, shape (1 + 2 C + 8 + C,).

    Parameters
    ----------
    palette
        Shape (2 C,): level and log spread of every band's log reflectance; NaN for absent bands.
    gsd_m
        Pixel size of a cell.
    metadata
        Shape (7,), `base.METADATA_FIELDS`; NaN or None: unknown.
    """
    C = len(palette) // 2
    told = np.full(7, np.nan) if metadata is None else np.asarray(metadata, np.float64)
    lon, lat, year, month, day = told[[0, 1, 4, 5, 6]]
    place, date = np.isfinite(lon) and np.isfinite(lat), np.isfinite(month)
    lon, season = np.deg2rad(lon), 2 * np.pi * ((month - 1) / 12 + (np.nan_to_num(day, nan=15) - 1) / 365)
    return np.array(
        [
            np.log2(gsd_m / 20.0) / 4,
            *np.nan_to_num(palette),
            *([1.0, np.sin(lon), np.cos(lon), lat / 90] if place else [0.0] * 4),
            *([1.0, np.sin(season), np.cos(season), (year - 2015) / 10] if date else [0.0] * 4),
            *np.isfinite(palette[:C]),
        ],
        np.float32,
    )


def conditions(texture: Float32Array, known: NDArray[np.bool_], layout: Float32Array) -> Float32Array:
    """Return the network's image, shape (2 C + 2, H, W): texture where it is known, where that is, and the layout."""
    return np.concatenate([np.where(known, texture, 0), known[None], layout]).astype(np.float32)


class Landscape:
    """Draws planes.

    Parameters
    ----------
    window, context
        Edge of a window in cells, and how much of it on each side its neighbours may have drawn.
    scenes, root
        Shape (n, 2 C), palettes of real scenes, and (2 C, 2 C), the root of the covariance of what is added to one.
    pieces
        Shape (n, m, C + 1), colour and logarithm of the roughness of pieces of each scene, from dark to bright.
    field
        Closed form below the network.
    sigma
        Noise over signal at the first call.
    steps
        Calls of the network per window.
    batch
        Windows of one call.
    """

    def __init__(
        self,
        *,
        window: int,
        context: int,
        scenes: NDArray[np.float64],
        root: NDArray[np.float64],
        pieces: NDArray[np.float64],
        field: Gaussian,
        sigma: float,
        steps: int,
        batch: int,
    ) -> None:
        self._window, self._context, self.batch = window, context, batch
        self._period = 2 * (window - context)
        self._scenes, self._root, self._pieces, self._field = scenes, root, pieces, field
        self._bands = scenes.shape[1] // 2
        self._path = flow_samplers.karras(steps, sigma_max=sigma, sigma_min=_LEAST_SIGMA)
        self._drawn: OrderedDict[_Key, Future[Float32Array]] = OrderedDict()
        self._lock = Lock()

    def palette(self, plane: Plane) -> NDArray[np.float64]:
        """Return level and log spread of a plane's bands, shape (2 C,): those of a real scene, a little moved."""
        moves = self._numbers(plane, 2 * self._bands, plane.member)
        found: NDArray[np.float64] = self._scenes[self._scene(plane)] + self._root @ np.clip(
            moves, -MOST, MOST
        )
        return found

    def layout(self, plane: Plane, origin: tuple[int, int], shape: tuple[int, int]) -> Float32Array:
        """Return colour and logarithm of the roughness of the pieces of a plane, shape (C + 1, rows, columns)."""
        drawn = parcels.layout(
            origin, (1 + self._bands, *shape), gsd_m=plane.gsd_m,
            seed=plane.seed, member=plane.member, time=plane.time,
        )  # fmt: skip
        pieces = self._pieces[self._scene(plane)]
        # Pieces stand for equal parts of their scene, so a rank chooses each as often as it is found there.
        chosen = pieces[np.minimum((special.ndtr(drawn[0]) * len(pieces)).astype(np.int64), len(pieces) - 1)]
        found = np.moveaxis(chosen, -1, 0).copy()
        found[:-1] += MOVED * drawn[1:]
        return np.asarray(found, np.float32)

    def _scene(self, plane: Plane) -> int:
        """Return which scene a plane takes its colours from.

        The members of a seed are spread evenly over the scenes (an additive recurrence of the golden ratio).
        """
        first = float(special.ndtr(self._numbers(plane, 1, 0)[0]))
        return int((first + plane.member * _GOLDEN) % 1.0 * len(self._scenes))

    @staticmethod
    def _numbers(plane: Plane, count: int, member: int) -> NDArray[np.float64]:
        shape, stream = (count, 1, 1), "embedded palette"
        drawn = noise.normal((0, 0), shape, seed=plane.seed, stream=stream, member=member)
        return drawn[:, 0, 0].astype(np.float64)

    def cells(
        self, asked: Sequence[tuple[Plane, tuple[int, int], tuple[int, int]]], forward: Forward
    ) -> list[Float32Array]:
        """Return parts of planes, log reflectance, shape (C, rows, columns) each.

        Parameters
        ----------
        asked
            Plane, first cell (row, column), and (rows, columns).
        forward
            The network.
        """
        needed = {(plane, spot) for plane, at, shape in asked for spot in self._spots(at, shape)}
        held = self._gathered(needed, forward)
        C, out = self._bands, []
        for plane, origin, shape in asked:
            palette = self.palette(plane)[:, None, None]
            layout = self.layout(plane, origin, shape)
            units = layout[:C] + np.exp(layout[C]) * self._assembled(plane, origin, shape, held)
            out.append((palette[:C] + np.exp(palette[C:]) * units).astype(np.float32))
        return out

    def _gathered(self, keys: Iterable[_Key], forward: Forward) -> dict[_Key, Float32Array]:
        """Return windows: remembered ones, ones that other threads are drawing, and the rest drawn here."""
        futures: dict[_Key, Future[Float32Array]] = {}
        mine: list[list[_Key]] = [[], [], []]
        todo = list(keys)
        with self._lock:
            while todo:
                key = plane, spot = todo.pop()
                if key in futures:
                    continue
                if key not in self._drawn:
                    self._drawn[key] = Future()
                    mine[spot[2] + spot[3]].append(key)
                    todo += [(plane, other) for other in self._told(spot)]
                self._drawn.move_to_end(key)
                futures[key] = self._drawn[key]
            while len(self._drawn) > _KEPT and next(iter(self._drawn.values())).done():
                self._drawn.popitem(last=False)
        try:
            # A window waits for those of lower levels alone, and the lowest for none: no two threads for each other.
            for level in mine:
                for first in range(0, len(level), self.batch):
                    part = level[first : first + self.batch]
                    told = {(plane, other) for plane, spot in part for other in self._told(spot)}
                    drawn = self._draw(part, {key: futures[key].result() for key in told}, forward)
                    for key, window in zip(part, drawn, strict=True):
                        futures[key].set_result(window)
        except BaseException as error:
            with self._lock:
                for key in (one for level in mine for one in level if not futures[one].done()):
                    self._drawn.pop(key, None)
                    futures[key].set_exception(error)
            raise
        return {key: future.result() for key, future in futures.items()}

    def _draw(
        self,
        keys: Sequence[_Key],
        held: Mapping[_Key, Float32Array],
        forward: Forward,
    ) -> list[Float32Array]:
        """Draw windows whose surroundings are there already."""
        size = (self._window, self._window)
        C = self._bands
        there = np.ones(C, bool)
        images, told, x, truth = [], [], [], []
        for plane, spot in keys:
            origin = self._origin(spot)
            mask = self._mask(spot)
            around = self._assembled(plane, origin, size, held, level=spot[2] + spot[3])
            truth.append((around, mask))
            images.append(conditions(around, mask, self.layout(plane, origin, size)))
            told.append(facts(self.palette(plane), plane.gsd_m))
            stream = "embedded landscape"
            drawn = noise.normal(origin, (C, *size), seed=plane.seed, stream=stream, member=plane.member)
            x.append(flow_samplers.noised(np.zeros_like(drawn), drawn, self._path[0]).astype(np.float32))
        before: list[Float32Array | None] = [None] * len(keys)
        clean = x
        for index, t in enumerate(self._path[:-1]):
            if index > 0:
                past = self._path[max(index - 2, 0)]
                x = [
                    flow_samplers.dpmpp_2m(one, now, old, past, self._path[index - 1], t).astype(np.float32)
                    for one, now, old in zip(x, clean, before, strict=True)
                ]
                before = list(clean)
            linear = [self._field.estimate(one, t, there) for one in x]
            found = forward(x, [np.float32(t)] * len(x), images, told, linear)
            clean = [np.where(mask, around, one) for one, (around, mask) in zip(found, truth, strict=True)]
        return clean

    def _origin(self, spot: _Spot) -> tuple[int, int]:
        i, j, a, b = spot
        half = self._period // 2
        return i * self._period + a * half, j * self._period + b * half

    def _mask(self, spot: _Spot) -> NDArray[np.bool_]:
        a, b = spot[2:]
        kind = ("alone", "between", "within")[a + b]
        found = known(kind, self._window, self._context)
        return found if a else found.T

    def _told(self, spot: _Spot) -> Iterator[_Spot]:
        """Yield the windows that one is told of."""
        size = (self._window, self._window)
        for other in self._spots(self._origin(spot), size):
            if other[2] + other[3] < spot[2] + spot[3]:
                yield other

    def _spots(self, origin: tuple[int, int], shape: tuple[int, int]) -> Iterator[_Spot]:
        """Yield the windows that own cells of a part."""
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
        """Return the first cell and the end of what a window keeps along one axis."""
        start = number * self._period
        if half:
            return start + self._window, start + self._period
        return start, start + self._window

    def _assembled(
        self,
        plane: Plane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        held: Mapping[_Key, Float32Array],
        level: int = 3,
    ) -> Float32Array:
        """Return a part of a plane from windows below a level; 0 where they have none."""
        out = np.zeros((self._bands, *shape), np.float32)
        for spot in self._spots(origin, shape):
            if spot[2] + spot[3] >= level:
                continue
            at, to = [], []
            for first, size, start, number, half in zip(
                origin, shape, self._origin(spot), spot[:2], spot[2:], strict=True
            ):
                low, high = self._own(number, half)
                low, high = max(low, first), min(high, first + size)
                at.append(slice(low - start, high - start))
                to.append(slice(low - first, high - first))
            out[:, to[0], to[1]] = held[plane, spot][:, at[0], at[1]]
        return out
