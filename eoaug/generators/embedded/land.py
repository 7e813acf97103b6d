"""Land by class on an unbounded plane: districts of classes, roads and rivers across them, and what covers each.

Numpy; no network. A prompt or a class map chooses the classes. Shapes follow rules (`ground_cover`); colours, their
contrast and the bands beyond the visible are those of real chips (`LandStatistics`). Four points per pixel are
averaged and blurred as by a sensor, so that borders look measured. Any part of a plane is cut from the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from eoaug.errors import GeneratorError
from eoaug.generators.embedded.ground_cover import AREAS, CLASSES, LINES, ClassColours, Cover, Ground, painted
from eoaug.generators.embedded.plane_numbers import PlaneNumbers
from eoaug.raster.arrays import Float32Array, Float64Array

__all__ = [
    "FLOOR",
    "PROMPT_WORDS",
    "WORDS",
    "Land",
    "LandPlane",
    "LandStatistics",
    "infrared_terms",
    "shares_of",
]


FLOOR = 0.02
"""Reflectance added before the logarithm."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "annual_crop": ("field", "fields", "crop", "crops", "cropland", "farmland", "arable"),
    "forest": ("forest", "forests", "wood", "woods", "woodland", "trees"),
    "herbaceous_vegetation": ("scrub", "shrubs", "shrubland", "heath", "steppe", "herbaceous"),
    "highway": ("highway", "highways", "motorway", "road", "roads"),
    "industrial": ("industrial", "industry", "factory", "factories", "warehouses"),
    "pasture": ("pasture", "pastures", "meadow", "meadows", "grassland"),
    "permanent_crop": ("orchard", "orchards", "vineyard", "vineyards", "olives"),
    "residential": ("village", "villages", "town", "towns", "city", "houses", "streets", "residential"),
    "river": ("river", "rivers", "stream", "canal"),
    "sea_lake": ("sea", "lake", "lakes", "ocean", "water"),
}
"""The words of a prompt that mean a class; the names of the classes do as well, with or without their underscore."""
_ALL = {name: frozenset((name, name.replace("_", ""), *words)) for name, words in WORDS.items()}
PROMPT_WORDS = frozenset().union(*_ALL.values())
"""Words of a prompt that mean a class."""
_MIXTURE = {"annual_crop": 0.38, "pasture": 0.17, "forest": 0.19, "herbaceous_vegetation": 0.06, "residential": 0.07,
            "permanent_crop": 0.05, "industrial": 0.02, "highway": 0.03, "river": 0.03}  # fmt: skip
"""Shares of the area without a prompt."""
_AROUND = {
    "river": {"annual_crop": 0.15, "pasture": 0.35, "forest": 0.35, "herbaceous_vegetation": 0.15},
    "highway": {"annual_crop": 0.35, "pasture": 0.4, "residential": 0.08, "industrial": 0.07,
                "herbaceous_vegetation": 0.1},
}  # fmt: skip
"""What lies around a line where the prompt names nothing else."""
_ALONG_ROADS = ("annual_crop", "pasture", "herbaceous_vegetation")
"""Classes with the colours of chips of roads where a prompt names roads first."""
_ADDED = 0.3
"""Share of the area of what a prompt names after "with"."""
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
    """Share of the area of every class of `ground_cover.CLASSES`."""
    gsd_m: float = _USUAL_M
    """Pixel size."""

    @property
    def scale(self) -> float:
        """Pixels per 10 m of its shapes."""
        gsd_m = self.gsd_m if np.isfinite(self.gsd_m) and self.gsd_m > 0 else _USUAL_M
        return float(np.clip(10 / gsd_m, *_SCALES))


@dataclass(frozen=True, eq=False)
class LandStatistics:
    """What is known of the colours of K classes, from m real chips of each; logarithms of reflectance + 0.02."""

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

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[np.generic]], bands: Sequence[str]) -> LandStatistics:
        """Return the statistics that `tensors` wrote."""
        names = ("levels", "pieces", "chroma", "infrared", "infrared_root")
        return cls(**{name: tensors[name].astype(np.float64) for name in names}, infrared_bands=tuple(bands))

    def tensors(self) -> dict[str, Float32Array]:
        """Return the statistics as tensors to save."""
        names = ("levels", "pieces", "chroma", "infrared", "infrared_root")
        return {name: getattr(self, name).astype(np.float32) for name in names}

    def colours(self, numbers: PlaneNumbers) -> dict[str, ClassColours]:
        """Return the colours of a plane: for each class those of one chip."""
        common, chips = float(numbers.of_plane("tone", 1)[0]), self.levels.shape[1]
        found = {}
        for k, name in enumerate(CLASSES):
            own = float(numbers.of_plane(f"tone {name}", 1)[0])
            rank = float(special.ndtr(np.sqrt(_COMMON) * common + np.sqrt(1 - _COMMON) * own))
            chip = min(int(rank * chips), chips - 1)
            found[name] = ClassColours(self.levels[k, chip], self.pieces[k, chip])
        return found


def infrared_terms(visible: Float64Array) -> Float64Array:
    """Return the terms of which further bands are linear functions, shape (10, n); ``visible`` has shape (3, n)."""
    b, g, r = visible
    return np.stack([np.ones_like(b), b, g, r, b * b, g * g, r * r, b * g, g * r, b * r])


def shares_of(prompt: str | None) -> tuple[float, ...]:
    """Return the share of the area of every class that a prompt asks for.

    The words before "with" share the larger part of the area, those after it the rest: in "fields with a village" seven
    tenths are fields. A class counts once for every word that means it. Roads and rivers cross what else is asked for,
    and the more often the larger their share.

    Raises
    ------
    GeneratorError
        The prompt holds no known word.
    """
    if not prompt:
        return tuple(_MIXTURE.get(name, 0.0) for name in CLASSES)
    main, _, added = (" " + prompt.lower() + " ").partition(" with ")
    counts = [_counts(part) for part in (main, added)]
    if not any(part.any() for part in counts):
        raise GeneratorError(
            f"prompt={prompt!r} names no class of land",
            f"use words such as {', '.join(words[0] for words in WORDS.values())}",
        )
    weights = [1 - _ADDED, _ADDED] if all(part.any() for part in counts) else [1.0, 1.0]
    total = sum(w * part / max(part.sum(), 1) for w, part in zip(weights, counts, strict=True))
    return tuple(float(share) for share in np.asarray(total))


def _counts(text: str) -> Float64Array:
    found = re.findall(r"[a-z_]+", text)
    return np.array([sum(word in words for word in found) for words in _ALL.values()], np.float64)


class Land:
    """Draws parts of planes.

    Parameters
    ----------
    statistics
        Colours of the classes.
    bands
        Common names of the bands to draw.
    """

    def __init__(self, statistics: LandStatistics, bands: Sequence[str]) -> None:
        self._statistics, self._bands = statistics, tuple(bands)

    def classes(
        self,
        plane: LandPlane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        layout: NDArray[np.integer] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the codes of `ground_cover.CLASSES` from 1 in the middle of the pixels of a part, shape (rows, columns).

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
        codes = self._laid_out(plane, self._ground(plane, y, x))[0].reshape(shape).astype(
            np.uint8
        ) + np.uint8(1)
        return codes if layout is None else np.where(layout > 0, layout, codes).astype(np.uint8)

    def pixels(
        self,
        plane: LandPlane,
        origin: tuple[int, int],
        shape: tuple[int, int],
        layout: NDArray[np.integer] | None = None,
    ) -> Float32Array:
        """Return a part of a plane, reflectance of the bands, shape (C, rows, columns); NaN in bands that are not known.

        Arguments as for `classes`; beyond its edge ``layout`` goes on as at its edge.
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
        drawn = self._drawn(plane, y, x, given)
        means = drawn.reshape(-1, size[0], 2, size[1], 2).mean(axis=(2, 4))
        blurred = ndimage.gaussian_filter(
            means, (0, _BLUR_PX, _BLUR_PX), radius=(0, _HALO, _HALO), mode="nearest"
        )
        inner = blurred[:, _HALO:-_HALO, _HALO:-_HALO]
        reflectance: Float32Array = np.maximum(inner - FLOOR, 0).astype(np.float32)
        return reflectance

    def _ground(self, plane: LandPlane, y: Float64Array, x: Float64Array) -> Ground:
        numbers = PlaneNumbers(plane.seed, plane.member, plane.time)
        angle = float(np.pi * special.ndtr(numbers.of_plane("direction", 1)[0]))
        colours = self._statistics.colours(numbers)
        shares = dict(zip(CLASSES, plane.shares, strict=True))
        if shares["highway"] == max(plane.shares):
            # Land along motorways is duller than elsewhere: embankments, works, allotments.
            colours |= dict.fromkeys(_ALONG_ROADS, colours["highway"])
        if shares["river"] == max(plane.shares):
            colours |= dict.fromkeys(_ALONG_ROADS, colours["river"])
        return Ground(numbers, y, x, plane.scale, angle, colours)

    def _laid_out(
        self, plane: LandPlane, ground: Ground
    ) -> tuple[NDArray[np.intp], Mapping[str, Float64Array]]:
        """Return the classes of points, and for each line class that crosses the plane the distance to it."""
        shares = dict(zip(CLASSES, plane.shares, strict=True))
        areas = np.array([shares[name] for name in AREAS])
        if not areas.any():
            areas = np.array(
                [sum(shares[line] * _AROUND[line].get(name, 0.0) for line in LINES) for name in AREAS]
            )
        bent = ground.bent("district bends", 40, 3).bent("district edges", 6, 0.35)
        district = ground.numbers.blocks("district", bent.y, bent.x, _DISTRICT * ground.scale).cells
        kind = np.sqrt(_CLUSTERED) * ground.numbers.of("cluster", district // _CLUSTER)[0]
        kind = kind + np.sqrt(1 - _CLUSTERED) * ground.numbers.of("district", district)[0]
        # A share of 0 must not win by rounding: the last class with a share takes what is left.
        last = int(np.flatnonzero(areas)[-1])
        index = np.searchsorted(np.cumsum(areas) / areas.sum(), special.ndtr(kind), side="right")
        classes = np.array([CLASSES.index(name) for name in AREAS])[np.minimum(index, last)]
        across = {}
        for name in LINES:
            if share := shares[name] / sum(plane.shares):
                across[name] = _LINES[name](ground, _SPACING[name] / np.sqrt(share))
                half = _half_width(name, ground)
                classes = np.where(across[name] < half, CLASSES.index(name), classes)
        return classes, across

    def _drawn(
        self, plane: LandPlane, y: Float64Array, x: Float64Array, given: NDArray[np.integer] | None
    ) -> Float64Array:
        """Return reflectance + FLOOR of points, shape (C, n)."""
        ground = self._ground(plane, y, x)
        classes, across = self._laid_out(plane, ground)
        free = np.ones(y.shape, bool)
        if given is not None:
            free = given == 0
            classes = np.where(free, classes, given.astype(np.intp) - 1)
        colour, rough = np.empty((3, y.size)), np.empty(y.size)
        for k in np.unique(classes).tolist():
            here = classes == k
            part = Ground(ground.numbers, y[here], x[here], ground.scale, ground.angle, ground.colours)
            cover = painted(CLASSES[k], part)
            for name, distance in across.items():
                cover = _with_verges(name, cover, part, np.where(free[here], distance[here], np.inf))
            colour[:, here], rough[here] = cover.colour, cover.rough
        visible = colour + self._noise(ground, classes, rough)
        bands = dict(zip(("blue", "green", "red"), visible, strict=True))
        bands |= self._infrared(ground.numbers, classes, visible)
        nothing = np.full(y.size, np.nan)
        return np.exp(np.stack([bands.get(name, nothing) for name in self._bands]))

    def _noise(self, ground: Ground, classes: NDArray[np.intp], rough: Float64Array) -> Float64Array:
        """Return noise of single pixels, and random differences of colour, shape (3, n)."""
        numbers, y, x = ground.numbers, ground.y, ground.x
        cells = np.stack([np.floor(y + 0.5), np.floor(x + 0.5)]).astype(np.int64)
        grey, *own = numbers.of("pixel", cells, 4)
        single = rough * (np.sqrt(_GREY) * grey + np.sqrt(1 - _GREY) * np.stack(own))
        apart = np.stack([numbers.smooth(f"chroma {axis}", y, x, _CHROMA_PX) for axis in range(3)])
        chroma = np.empty_like(single)
        for k in np.unique(classes).tolist():
            here = classes == k
            # Colours of equal brightness in chips of rivers are those of water and of land.
            of = CLASSES.index("sea_lake") if CLASSES[k] == "river" else k
            chroma[:, here] = self._statistics.chroma[of] @ apart[:, here]
        return np.asarray(single + chroma)

    def _infrared(
        self, numbers: PlaneNumbers, classes: NDArray[np.intp], visible: Float64Array
    ) -> dict[str, Float64Array]:
        """Return the further bands of points, shape (n,) each."""
        statistics = self._statistics
        wanted = [b for b, name in enumerate(statistics.infrared_bands) if name in self._bands]
        terms, found = infrared_terms(visible), np.empty((len(wanted), classes.size))
        for k in np.unique(classes).tolist():
            here = classes == k
            drawn = numbers.of_plane(f"infrared {CLASSES[k]}", len(statistics.infrared_bands))
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
