"""Land by class on an unbounded plane: districts of classes, roads and rivers across them, and what covers each.

Numpy; no network. A prompt or a class map chooses the classes. Shapes follow rules (`ground_cover`); colours, their
contrast and the bands beyond the visible are those of real chips (`LandStatistics`). Four points per pixel are
averaged and blurred as by a sensor, so that borders look measured. Any part of a plane is cut from the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from eoaug.generators.embedded.ground_cover import ClassColours, Cover, Ground, painted
from eoaug.generators.embedded.legend import SHIPPED, Legend
from eoaug.generators.embedded.plane_numbers import PlaneNumbers
from eoaug.raster.arrays import Float32Array, Float64Array

__all__ = ["FLOOR", "VISIBLE", "Land", "LandPlane", "LandStatistics", "infrared_terms"]


FLOOR = 0.02
"""Reflectance added before the logarithm."""
VISIBLE = ("blue", "green", "red")
"""Bands in which the shipped statistics paint shapes."""
_ALONG_LINES = ("annual_crop", "pasture", "herbaceous_vegetation")
"""Ground covers with the colours of chips of roads or rivers where a prompt names these first."""
_DISTRICT, _CLUSTER = 65.0, 3
"""Edge of a district of one class in tens of metres; districts per axis of a cluster of similar ones."""
_CLUSTERED = 0.4
"""Share of the variance that the districts of a cluster have in common."""
_SPACING = {"highway": 65.0, "river": 55.0}
"""Distance of roads, and of the nodes of rivers, in tens of metres where the prompt names nothing else."""
_USUAL_M = 10.0
_SCALES = (1 / 3, 4.0)
"""Limits of the pixels per 10 m of the shapes: on coarser grids they would be texture, on finer ones plain."""
_COMMON = 0.6
"""Share of the variance of the brightness of classes that they have in common on a plane: one date, one weather."""
_POINTS = (-0.25, 0.25)
"""Where in a pixel colours are computed, along each axis."""
_INFRARED = (0.002, 0.7)
"""Limits of the bands beyond the visible, which are extrapolated where land is unlike the chips."""
_BLUR_PX, _HALO = 0.5, 2
"""Standard deviation of a sensor's blur, and pixels that it reaches."""
_GREY = 0.9
"""Correlation of the noise of single pixels between bands."""
_CHROMA_PX = 1.3
"""Size of random differences of colour."""


@dataclass(frozen=True)
class LandPlane:
    """Key of a plane. On another date its land is the same, but for the crops of some fields."""

    seed: int
    member: int
    time: int
    """Seconds since 1970."""
    shares: tuple[float, ...]
    """Share of the area of every kind of the legend."""
    gsd_m: float = _USUAL_M
    """Pixel size."""

    @property
    def scale(self) -> float:
        """Pixels per 10 m of its shapes."""
        gsd_m = self.gsd_m if np.isfinite(self.gsd_m) and self.gsd_m > 0 else _USUAL_M
        return float(np.clip(10 / gsd_m, *_SCALES))


@dataclass(frozen=True, eq=False)
class LandStatistics:
    """What is known of the colours of the K kinds of a legend, from m real chips of each; logarithms of reflectance + 0.02.

    Shapes are painted in three bands, as a rule the visible ones; further bands follow from these.
    """

    levels: Float64Array
    """Shape (K, m, n, 3), see `ClassColours`; chips from dark to bright."""
    pieces: Float64Array
    """Shape (K, m, n, 4)."""
    chroma: Float64Array
    """Shape (K, 3, 3): root of the covariance of colours of equal brightness."""
    infrared: Float64Array
    """Shape (K, B, 10): coefficients of further bands on `infrared_terms`."""
    infrared_root: Float64Array
    """Shape (K, B, B): root of the covariance of what these do not explain, from chip to chip."""
    infrared_bands: tuple[str, ...]
    """Common names of the further bands."""
    painted_bands: tuple[str, ...] = VISIBLE
    """Common names of the three bands."""
    silt: Float64Array = field(default_factory=lambda: np.log([[0.085, 0.12, 0.09], [0.11, 0.15, 0.165]]))
    """Shape (2, 3), see `Ground.silt`."""

    @classmethod
    def of_tensors(
        cls,
        tensors: Mapping[str, NDArray[np.generic]],
        bands: Sequence[str],
        painted: Sequence[str] = VISIBLE,
    ) -> LandStatistics:
        """Return the statistics that `tensors` wrote; colours of silt are in those of a training set alone."""
        names = ("levels", "pieces", "chroma", "infrared", "infrared_root", *({"silt"} & tensors.keys()))
        arrays = {name: tensors[name].astype(np.float64) for name in names}
        return cls(**arrays, infrared_bands=tuple(bands), painted_bands=tuple(painted))

    @property
    def bands(self) -> frozenset[str]:
        """Common names of all bands that are known."""
        return frozenset((*self.painted_bands, *self.infrared_bands))

    def tensors(self) -> dict[str, Float32Array]:
        """Return the statistics as tensors to save."""
        names = ("levels", "pieces", "chroma", "infrared", "infrared_root")
        return {name: getattr(self, name).astype(np.float32) for name in names}

    def colours(self, numbers: PlaneNumbers, names: Sequence[str]) -> list[ClassColours]:
        """Return the colours of a plane: for each kind those of one chip. ``names`` are those of the kinds."""
        common, chips = float(numbers.of_plane("tone", 1)[0]), self.levels.shape[1]
        found = []
        for k, name in enumerate(names):
            own = float(numbers.of_plane(f"tone {name}", 1)[0])
            rank = float(special.ndtr(np.sqrt(_COMMON) * common + np.sqrt(1 - _COMMON) * own))
            chip = min(int(rank * chips), chips - 1)
            found.append(ClassColours(self.levels[k, chip], self.pieces[k, chip]))
        return found


def infrared_terms(visible: Float64Array) -> Float64Array:
    """Return the terms of which further bands are linear functions, shape (10, n); ``visible`` has shape (3, n)."""
    b, g, r = visible
    return np.stack([np.ones_like(b), b, g, r, b * b, g * g, r * r, b * g, g * r, b * r])


class Land:
    """Draws parts of planes.

    Parameters
    ----------
    statistics
        Colours of the kinds of the legend.
    bands
        Common names of the bands to draw.
    legend
        The classes.
    """

    def __init__(self, statistics: LandStatistics, bands: Sequence[str], legend: Legend = SHIPPED) -> None:
        self.statistics, self.legend, self._bands = statistics, legend, tuple(bands)

    def classes(
        self,
        plane: LandPlane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        layout: NDArray[np.integer] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the codes of the classes from 1 in the middle of the pixels of a part, shape (rows, columns).

        0 is what the legend draws around its classes.

        Parameters
        ----------
        plane
            The plane.
        origin, shape
            First pixel as (row, column), and (rows, columns).
        layout
            Codes that are given, shape (rows, columns); 0: as the plane has it.
        """
        rows, cols = (
            start + np.arange(count, dtype=np.float64) for start, count in zip(origin, shape, strict=True)
        )
        y, x = (axis.ravel() for axis in np.meshgrid(rows, cols, indexing="ij"))
        kinds = self._laid_out(plane, self._ground(plane, y, x)[0])[0].reshape(shape)
        codes = np.where(kinds < len(self.legend.classes), kinds + 1, 0)
        return (codes if layout is None else np.where(layout > 0, layout, codes)).astype(np.uint8)

    def pixels(
        self,
        plane: LandPlane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        layout: NDArray[np.integer] | None = None,
        *,
        bands: Sequence[str] | None = None,
    ) -> Float32Array:
        """Return a part of a plane, reflectance of the bands, shape (C, rows, columns); NaN in bands that are not known.

        Arguments as for `classes`; beyond its edge ``layout`` goes on as at its edge. ``bands`` are those to draw instead of
        the usual ones.
        """
        size = shape[0] + 2 * _HALO, shape[1] + 2 * _HALO
        first = origin[0] - _HALO, origin[1] - _HALO
        axes = [
            (start + np.arange(count)[:, None] + np.array(_POINTS)).ravel()
            for start, count in zip(first, size, strict=True)
        ]
        y, x = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        given = None
        if layout is not None:
            given = np.pad(layout, _HALO, mode="edge").repeat(2, axis=0).repeat(2, axis=1).ravel()
        drawn = self._drawn(plane, y, x, given, self._bands if bands is None else bands)
        means = drawn.reshape(-1, size[0], 2, size[1], 2).mean(axis=(2, 4))
        blurred = ndimage.gaussian_filter(
            means, (0, _BLUR_PX, _BLUR_PX), radius=(0, _HALO, _HALO), mode="nearest"
        )
        inner = blurred[:, _HALO:-_HALO, _HALO:-_HALO]
        reflectance: Float32Array = np.maximum(inner - FLOOR, 0).astype(np.float32)
        return reflectance

    def _ground(
        self, plane: LandPlane, y: Float64Array, x: Float64Array
    ) -> tuple[Ground, Sequence[ClassColours]]:
        """Return the ground of points, and the colours of every kind on it."""
        numbers = PlaneNumbers(plane.seed, plane.member, plane.time)
        angle = float(np.pi * special.ndtr(numbers.of_plane("direction", 1)[0]))
        kinds = self.legend.kinds
        colours = self.statistics.colours(numbers, [kind.name for kind in kinds])
        for line in self.legend.lines:
            if plane.shares[line] == max(plane.shares):
                # Land along motorways is duller than elsewhere: embankments, works, allotments. That of rivers is wetter.
                colours = [
                    colours[line] if kind.cover in _ALONG_LINES else own
                    for kind, own in zip(kinds, colours, strict=True)
                ]
        # Of several kinds with one cover, the first gives banks and verges their colours.
        pairs = list(zip(kinds, colours, strict=True))
        by_cover = {kind.cover: own for kind, own in reversed(pairs)}
        return Ground(numbers, y, x, plane.scale, angle, by_cover, self.statistics.silt), colours

    def _laid_out(
        self, plane: LandPlane, ground: Ground
    ) -> tuple[NDArray[np.intp], Mapping[int, Float64Array]]:
        """Return the kinds of points, and for each line that crosses the plane the distance to it, by its kind."""
        legend, shares = self.legend, np.array(plane.shares)
        index = np.array(legend.areas)
        areas = shares[index]
        if not areas.any():
            areas = legend.surroundings(plane.shares)[index]
        bent = ground.bent("district bends", 40, 3).bent("district edges", 6, 0.35)
        district = ground.numbers.blocks("district", bent.y, bent.x, _DISTRICT * ground.scale).cells
        kind = np.sqrt(_CLUSTERED) * ground.numbers.of("cluster", district // _CLUSTER)[0]
        kind = kind + np.sqrt(1 - _CLUSTERED) * ground.numbers.of("district", district)[0]
        # A share of 0 must not win by rounding: the last class with a share takes what is left.
        last = int(np.flatnonzero(areas)[-1])
        at = np.searchsorted(np.cumsum(areas) / areas.sum(), special.ndtr(kind), side="right")
        kinds = index[np.minimum(at, last)]
        across = {}
        for line in legend.lines:
            if share := plane.shares[line] / sum(plane.shares):
                cover = legend.kinds[line].cover
                across[line] = _LINES[cover](ground, _SPACING[cover] / np.sqrt(share))
                kinds = np.where(across[line] < _half_width(cover, ground), line, kinds)
        return kinds, across

    def _drawn(
        self,
        plane: LandPlane,
        y: Float64Array,
        x: Float64Array,
        given: NDArray[np.integer] | None,
        bands: Sequence[str],
    ) -> Float64Array:
        """Return reflectance + FLOOR of points, shape (C, n)."""
        ground, colours = self._ground(plane, y, x)
        kinds, across = self._laid_out(plane, ground)
        free = np.ones(y.shape, bool)
        if given is not None:
            free = given == 0
            kinds = np.where(free, kinds, given.astype(np.intp) - 1)
        colour, rough = np.empty((3, y.size)), np.empty(y.size)
        for k in np.unique(kinds).tolist():
            here, kind = kinds == k, self.legend.kinds[k]
            part = replace(ground, y=y[here], x=x[here], colours={**ground.colours, kind.cover: colours[k]})
            cover = painted(kind.cover, part)
            for line, distance in across.items():
                beyond = np.where(free[here], distance[here], np.inf)
                cover = _with_verges(self.legend.kinds[line].cover, cover, part, beyond)
            colour[:, here], rough[here] = cover.colour, cover.rough
        three = colour + self._noise(ground, kinds, rough)
        values = dict(zip(self.statistics.painted_bands, three, strict=True))
        values |= self._further(ground.numbers, kinds, three, bands)
        nothing = np.full(y.size, np.nan)
        return np.exp(np.stack([values.get(name, nothing) for name in bands]))

    def _noise(self, ground: Ground, kinds: NDArray[np.intp], rough: Float64Array) -> Float64Array:
        """Return noise of single pixels, and random differences of colour, shape (3, n)."""
        numbers, y, x = ground.numbers, ground.y, ground.x
        cells = np.stack([np.floor(y + 0.5), np.floor(x + 0.5)]).astype(np.int64)
        grey, *own = numbers.of("pixel", cells, 4)
        single = rough * (np.sqrt(_GREY) * grey + np.sqrt(1 - _GREY) * np.stack(own))
        apart = np.stack([numbers.smooth(f"chroma {axis}", y, x, _CHROMA_PX) for axis in range(3)])
        chroma = np.empty_like(single)
        for k in np.unique(kinds).tolist():
            here, cover = kinds == k, self.legend.kinds[k].cover
            # Colours of equal brightness in chips of rivers are those of water and of land.
            of = self.legend.first("sea_lake") if cover == "river" else k
            chroma[:, here] = self.statistics.chroma[of] @ apart[:, here]
        return np.asarray(single + chroma)

    def _further(
        self, numbers: PlaneNumbers, kinds: NDArray[np.intp], three: Float64Array, bands: Sequence[str]
    ) -> dict[str, Float64Array]:
        """Return the further bands of points, shape (n,) each."""
        statistics = self.statistics
        wanted = [b for b, name in enumerate(statistics.infrared_bands) if name in bands]
        terms, found = infrared_terms(three), np.empty((len(wanted), kinds.size))
        for k in np.unique(kinds).tolist():
            here = kinds == k
            name = self.legend.kinds[k].name
            drawn = numbers.of_plane(f"infrared {name}", len(statistics.infrared_bands))
            moved = statistics.infrared_root[k] @ np.clip(drawn, -2, 2)
            found[:, here] = statistics.infrared[k, wanted] @ terms[:, here] + moved[wanted, None]
        found = np.clip(found, *np.log(np.add(_INFRARED, FLOOR)))
        return {statistics.infrared_bands[b]: band for b, band in zip(wanted, found, strict=True)}


def _half_width(name: str, ground: Ground) -> Float64Array | float:
    """Return half the width of a road or river in tens of metres."""
    if name == "highway":
        return 1.5
    wide = float(special.ndtr(ground.numbers.of_plane("river width", 1)[0]))
    return (3.5 + 6.5 * wide) * (1 + 0.15 * ground.smooth("river banks", 30))


def _road(ground: Ground, spacing: float) -> Float64Array:
    """Return the distance to the nearest road in tens of metres: roads are the borders of large blocks."""
    bent = ground.bent("road bends", 80, 4)
    return ground.numbers.blocks("roads", bent.y, bent.x, spacing * ground.scale).border / ground.scale


def _river(ground: Ground, spacing: float) -> Float64Array:
    """Return the distance to the nearest river in tens of metres: rivers are where a smooth field is zero."""
    bent = ground.bent("river bends", 45, 8)
    y, x, step = bent.y, bent.x, spacing * ground.scale

    def height(down: float, right: float) -> Float64Array:
        return ground.numbers.smooth("river", y + down, x + right, step)

    slope = np.hypot(height(0.5, 0) - height(-0.5, 0), height(0, 0.5) - height(0, -0.5))
    return np.abs(height(0, 0)) / np.maximum(slope, 0.5 / step) / ground.scale


_LINES = {"highway": _road, "river": _river}


def _with_verges(name: str, cover: Cover, ground: Ground, distance: Float64Array) -> Cover:
    """Return the cover with the verge of a road, or the bank of a river."""
    half = _half_width(name, ground)
    if name == "highway":
        pasture = ground.colours["pasture"]
        verge = pasture.level(special.ndtr(ground.smooth("verge", 2)) * 0.2 + 0.4)
        cover = cover.over(verge, (distance >= half) & (distance < half + 0.9))
        return cover.over(pasture.level(np.full(ground.y.shape, 0.35)), distance < 0.28)
    trees = ground.colours["forest"].level(0.3 + 0.3 * special.ndtr(ground.smooth("bank trees", 1.5)))
    return cover.over(trees, (distance >= half) & (distance < half + 1.5 + 1.3 * ground.smooth("bank", 5)))
