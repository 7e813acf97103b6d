"""Unconditional landscape synthesis: an infinite plane of windows, each sampled by a diffusion network given its neighbours.

Numpy; the network is an argument. A layout (`parcels.layout`) places pieces of ground, each with the colour and the
roughness of a piece of a real scene. The network samples their texture, as CorrDiff (arXiv:2309.15214) does: a residual
of what is decided before. Windows are drawn given their neighbours (`plane_windows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug.generators.base import METADATA_FIELDS
from eoaug.generators.embedded import flow_samplers, parcels
from eoaug.generators.embedded.plane_windows import PlaneWindows, Spot
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = [
    "CLASSES",
    "LEAST_ROUGH",
    "MOST",
    "MOVED",
    "PALETTES",
    "Landscape",
    "Palettes",
    "Plane",
    "conditions",
    "facts",
]


PALETTES = "palettes"
"""Name of the tensors ``scenes``, ``root`` and ``pieces`` among a generator's files."""
CLASSES = ("field", "bare_ground", "small_plots", "woods", "water", "road")
"""Classes of the ground by code from 1: vegetated parcels, parcels without vegetation, subdivided parcels of either,
parcels with the colour of closed woods, rivers and parcels with the colour of water, roads."""
_WATER_NDWI, _WOODS_NDVI, _WOODS_RED, _GREEN_NDVI = 0.0, 0.6, 0.05, 0.35
"""Colours of pieces: NDWI of water; NDVI and red reflectance of closed woods (least, largest); NDVI of vegetation."""
_LEAST_SIGMA = 0.1
"""Noise over signal at the last call."""
LEAST_ROUGH = 0.1
"""Least roughness of a piece of ground, in standard deviations of its scene."""
MOVED = 0.15
"""Standard deviation of the random shift of a piece's colour, in standard deviations of its scene."""
MOST = 2.5
"""Limit of the normal numbers that shift the level and the spread of a scene."""
_GOLDEN = (5**0.5 - 1) / 2
Forward = Callable[..., Float32Array]
"""From lists of points x_t, times, images, feature vectors and closed-form estimates to clean estimates."""


@dataclass(frozen=True)
class Plane:
    """Key of a plane; its landscape is the same on all dates, but for some fields."""

    seed: int
    member: int
    time: int
    """Seconds since 1970."""
    gsd_m: float
    """Pixel size of a cell."""


_Key = tuple[Plane, Spot]


def facts(
    palette: NDArray[np.floating], gsd_m: float, metadata: NDArray[np.floating] | None = None
) -> Float32Array:
    """Return the feature vector of a scene, shape (1 + 2 C + 8 + C,).

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
    row = np.full(len(METADATA_FIELDS), np.nan) if metadata is None else np.asarray(metadata, np.float64)
    lon, lat, _, _, year, month, day = row
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
    """Return the conditioning image, shape (2 C + 2, H, W): the known texture, its mask, and the layout."""
    return np.concatenate([np.where(known, texture, 0), known[None], layout]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Palettes:
    """Colours of n real scenes with C bands, in log reflectance."""

    scenes: NDArray[np.float64]
    """Shape (n, 2 C): level and log spread of the bands of each scene."""
    root: NDArray[np.float64]
    """Shape (2 C, 2 C): root of the covariance of the random shift that is added to a scene."""
    pieces: NDArray[np.float64]
    """Shape (n, m, C + 1): colour and logarithm of the roughness of m pieces of each scene, from dark to bright."""


class Landscape:
    """Samples parts of planes.

    Parameters
    ----------
    window, context
        Edge of a window in cells, and the width on each side that may be given by its neighbours.
    palettes
        Colours of real scenes.
    field
        Gaussian whose closed-form estimate the network corrects.
    sigma
        Noise over signal at the first call.
    steps
        Calls of the network per window.
    batch
        Windows of one call.
    names
        Common names of the bands; needed for `classes`.
    """

    network = "landscape"
    """Name of its network among the weights."""

    def __init__(
        self,
        *,
        window: int,
        context: int,
        palettes: Palettes,
        field: Gaussian,
        sigma: float,
        steps: int,
        batch: int,
        names: Sequence[str] = (),
    ) -> None:
        self._names = tuple(names)
        self.batch = batch
        self._palettes, self._field = palettes, field
        self._bands = palettes.scenes.shape[1] // 2
        self._path = flow_samplers.karras(steps, sigma_max=sigma, sigma_min=_LEAST_SIGMA)
        self.windows = PlaneWindows[Plane](window=window, context=context, bands=self._bands, batch=batch)

    def palette(self, plane: Plane) -> NDArray[np.float64]:
        """Return level and log spread of a plane's bands, shape (2 C,): those of a real scene with a random shift."""
        moves = self._numbers(plane, 2 * self._bands, plane.member)
        found: NDArray[np.float64] = self._palettes.scenes[
            self._scene(plane)
        ] + self._palettes.root @ np.clip(moves, -MOST, MOST)
        return found

    def layout(self, plane: Plane, origin: tuple[int, int], shape: tuple[int, int]) -> Float32Array:
        """Return colour and logarithm of the roughness of the pieces of a plane, shape (C + 1, rows, columns)."""
        drawn = parcels.layout(
            origin, (1 + self._bands, *shape), gsd_m=plane.gsd_m,
            seed=plane.seed, member=plane.member, time=plane.time,
        )  # fmt: skip
        pieces = self._palettes.pieces[self._scene(plane)]
        # Pieces have equal areas in their scene, so a uniform rank samples its distribution of colours.
        chosen = pieces[np.minimum((special.ndtr(drawn[0]) * len(pieces)).astype(np.int64), len(pieces) - 1)]
        found = np.moveaxis(chosen, -1, 0).copy()
        found[:-1] += MOVED * drawn[1:]
        return np.asarray(found, np.float32)

    def classes(
        self,
        plane: Plane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        reflectance: Callable[[NDArray[np.floating]], NDArray[np.floating]],
    ) -> NDArray[np.uint8]:
        """Return the codes of `CLASSES` of the pieces of a plane, shape (rows, columns).

        Roads and rivers are laid out as such, and so are subdivided parcels. What else a piece is follows from the colour
        that the layout gives it, that of a piece of a real scene; pixels that are sampled from it do not count.
        """
        palette, C = self.palette(plane)[:, None, None], self._bands
        colours = self.layout(plane, origin, shape)[:C]
        bands = reflectance(palette[:C] + np.exp(palette[C:]) * colours)
        green, red, nir = (bands[self._names.index(name)] for name in ("green", "red", "nir"))
        ndvi, ndwi = (nir - red) / (nir + red + 1e-6), (green - nir) / (green + nir + 1e-6)
        kind = parcels.kinds(
            origin, shape, gsd_m=plane.gsd_m, seed=plane.seed, member=plane.member, time=plane.time
        )
        plots = kind == parcels.CUT
        chosen = (kind == parcels.ROAD, kind == parcels.RIVER, ndwi > _WATER_NDWI)
        woods = (ndvi > _WOODS_NDVI) & (red < _WOODS_RED)
        names = ("road", "water", "water", "woods", "small_plots", "field")
        codes = [CLASSES.index(name) + 1 for name in names]
        bare = CLASSES.index("bare_ground") + 1
        return np.select([*chosen, woods, plots, ndvi > _GREEN_NDVI], codes, bare).astype(np.uint8)

    def _scene(self, plane: Plane) -> int:
        """Return the index of the scene whose colours a plane has.

        The members of a seed are spread evenly over the scenes (an additive recurrence of the golden ratio).
        """
        first = float(special.ndtr(self._numbers(plane, 1, 0)[0]))
        return int((first + plane.member * _GOLDEN) % 1.0 * len(self._palettes.scenes))

    @staticmethod
    def _numbers(plane: Plane, count: int, member: int) -> NDArray[np.float64]:
        shape, stream = (count, 1, 1), "embedded palette"
        drawn = noise.normal((0, 0), shape, seed=plane.seed, stream=stream, member=member)
        return drawn[:, 0, 0].astype(np.float64)

    def cells(
        self, parts: Sequence[tuple[Plane, tuple[int, int], tuple[int, int]]], forward: Forward
    ) -> list[Float32Array]:
        """Return parts of planes, log reflectance, shape (C, rows, columns) each.

        Parameters
        ----------
        parts
            Plane, first cell (row, column), and (rows, columns).
        forward
            The network.
        """
        held = self.windows.gathered(parts, partial(self._draw, forward=forward))
        C, out = self._bands, []
        for plane, origin, shape in parts:
            palette = self.palette(plane)[:, None, None]
            layout = self.layout(plane, origin, shape)
            units = layout[:C] + np.exp(layout[C]) * self.windows.assembled(plane, origin, shape, held)
            out.append((palette[:C] + np.exp(palette[C:]) * units).astype(np.float32))
        return out

    def _draw(
        self,
        keys: Sequence[_Key],
        held: Mapping[_Key, Float32Array],
        forward: Forward,
    ) -> list[Float32Array]:
        """Sample windows whose neighbours of lower levels are given."""
        size = (self.windows.window, self.windows.window)
        C = self._bands
        there = np.ones(C, bool)
        images, features, x, truth = [], [], [], []
        for plane, spot in keys:
            origin = self.windows.origin(spot)
            mask = self.windows.mask(spot)
            around = self.windows.assembled(plane, origin, size, held, level=spot[2] + spot[3])
            truth.append((around, mask))
            images.append(conditions(around, mask, self.layout(plane, origin, size)))
            features.append(facts(self.palette(plane), plane.gsd_m))
            stream = "embedded landscape"
            drawn = noise.normal(origin, (C, *size), seed=plane.seed, stream=stream, member=plane.member)
            x.append(flow_samplers.noised(np.zeros_like(drawn), drawn, self._path[0]).astype(np.float32))
        before: list[Float32Array | None] = [None] * len(keys)
        clean = x
        for index, t in enumerate(self._path[:-1]):
            if index > 0:
                past = self._path[max(index - 2, 0)]
                x = [
                    flow_samplers.dpmpp_2m(point, now, old, past, self._path[index - 1], t).astype(np.float32)
                    for point, now, old in zip(x, clean, before, strict=True)
                ]
                before = list(clean)
            linear = [self._field.estimate(point, t, there) for point in x]
            estimates = forward(x, [np.float32(t)] * len(x), images, features, linear)
            clean = [
                np.where(mask, around, estimate)
                for estimate, (around, mask) in zip(estimates, truth, strict=True)
            ]
        return clean
