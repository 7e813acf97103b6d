"""Statistics of land by class, from chips: colours of their pixels and segments, and of the bands beyond those that are painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage import segmentation

from eoaug.datasets.eurosat import BANDS, CLASSES, SPECTRUM, EurosatChips, surface
from eoaug.errors import SourceError
from eoaug.generators.embedded.ground_cover import CLASSES as LAND
from eoaug.generators.embedded.land import FLOOR, LandStatistics, infrared_terms
from eoaug.raster.arrays import BoolArray, Float32Array, Float64Array, FloatArray

__all__ = [
    "CHIPS",
    "INFRARED",
    "ChipColours",
    "ClassColourStatistics",
    "LandChip",
    "chip_colours",
    "colours_of",
    "further_bands_of",
    "land_statistics",
    "logs_of",
    "most_uniform",
    "ridge",
    "root_of",
]


INFRARED = tuple(band for band in SPECTRUM if band not in (*BANDS, "cirrus"))
"""Bands that are estimated from the visible ones. Cirrus shows no ground."""
CHIPS, _LEVELS = 96, 16
"""Chips per class, and colours of each."""
_HAZY, _SHORES = 4 / 3, 2
"""Chips that are looked at for one that is kept: the most hazy ones are left out, and of water those with a shore."""
_LEAST = 0.002
"""Least reflectance: what is below is error of the correction for the atmosphere."""
_SEGMENTS = {"scale": 60, "sigma": 0.7, "min_size": 20}
"""Felzenszwalb & Huttenlocher 2004, doi:10.1023/B:VISI.0000022288.19776.77, on log reflectance."""
_OF_PARCELS = ("annual_crop", "pasture", "permanent_crop")
"""Ground covers whose colours are those of segments: random differences of colour are those within them."""
_WATER = "sea_lake"
_RIDGE = (1e-6, 0.02)
"""Weights of the ridge of all classes together, and of that of one class around it, relative to the number of pixels."""
_EVERY = 3
"""Every third pixel is enough to fit bands."""


@dataclass(frozen=True, eq=False)
class LandChip:
    """An image of one class, logarithms of reflectance (`logs_of`)."""

    painted: Float64Array
    """Shape (3, H, W), the bands that shapes are painted in."""
    further: Float64Array
    """Shape (B, H, W), further bands."""
    inside: BoolArray
    """Shape (H, W), pixels that are measured and of the class."""

    def flat(self) -> tuple[Float64Array, Float64Array]:
        """Return the pixels inside, shapes (3, n) and (B, n)."""
        return self.painted[:, self.inside], self.further[:, self.inside]


@dataclass(frozen=True, eq=False)
class ChipColours:
    """The colours of one chip."""

    brightness: float
    levels: Float64Array
    """Shape (n, 3), see `ClassColours`."""
    pieces: Float64Array
    """Shape (n, 4)."""
    within: Float64Array
    """Shape (3, 3): covariance of colours within its segments."""
    equal: Float64Array
    """Shape (3, 3): covariance of colours of equal brightness."""


@dataclass(frozen=True, eq=False)
class ClassColourStatistics:
    """The colours of one class, as `LandStatistics` holds them of several."""

    levels: Float64Array
    pieces: Float64Array
    chroma: Float64Array


def logs_of(reflectance: FloatArray) -> Float64Array:
    """Return the logarithms of reflectance that statistics of land are of, in the shape given."""
    return np.log(np.clip(np.asarray(reflectance, np.float64), _LEAST, 1) + FLOOR)


def most_uniform(chips: Sequence[LandChip], count: int) -> list[int]:
    """Return the indices of the most uniform of chips of water, ascending: those without a shore."""
    spread = [max(band.std() for band in chip.flat()[0]) for chip in chips]
    return sorted(np.argsort(spread, kind="stable")[:count].tolist())


def chip_colours(chip: LandChip) -> ChipColours:
    """Return the colours of a chip."""
    flat = chip.flat()[0]
    pieces, within = _pieces(chip)
    equal = np.cov(_of_equal_brightness(flat))
    return ChipColours(float(flat.mean()), _levels(flat), pieces, np.cov(within), equal)


def colours_of(chips: Sequence[ChipColours], cover: str) -> ClassColourStatistics:
    """Return the colours of a class.

    Parameters
    ----------
    chips
        One or more; of fewer than `CHIPS` some count twice, so that all classes have as many.
    cover
        Its ground cover.
    """
    order = np.argsort([chip.brightness for chip in chips], kind="stable")
    own = [chips[i] for i in order[np.arange(CHIPS) * len(chips) // CHIPS]]
    apart = [chip.within if cover in _OF_PARCELS else chip.equal for chip in own]
    grey = np.eye(3) - 1 / 3  # what remains without common brightness
    return ClassColourStatistics(
        np.stack([chip.levels for chip in own]),
        np.stack([chip.pieces for chip in own]),
        root_of(grey @ np.mean(apart, axis=0) @ grey),
    )


def further_bands_of(
    chips: Sequence[Sequence[LandChip]], covers: Sequence[str]
) -> tuple[Float64Array, Float64Array]:
    """Fit further bands to the painted ones.

    Parameters
    ----------
    chips
        Of each of K classes.
    covers
        Their ground covers.

    Returns
    -------
    Coefficients by class, shape (K, B, 10), and roots of the covariance from chip to chip, shape (K, B, B).
    """
    flat = [[chip.flat() for chip in own] for own in chips]
    terms, values = _every_third([pair for own in flat for pair in own])
    count = len(values)
    pooled = ridge(terms, values, np.zeros((count, 10)), _RIDGE[0])
    coefficients, roots = [], []
    for own, cover in zip(flat, covers, strict=True):
        terms, values = _every_third(own)
        # Water is dark in these bands whatever its colour is.
        if cover == _WATER:
            terms = terms * (np.arange(10) == 0)[:, None]
        found = ridge(terms, values, np.zeros_like(pooled) if cover == _WATER else pooled, _RIDGE[1])
        rest = [(further - found @ infrared_terms(painted)).mean(axis=1) for painted, further in own]
        coefficients.append(found)
        roots.append(
            root_of(
                np.cov(np.transpose(rest)).reshape(count, count)
                if len(rest) > 1
                else np.zeros((count, count))
            )
        )
    return np.stack(coefficients), np.stack(roots)


def land_statistics(
    chips: EurosatChips, spectra: Float32Array, classes: NDArray[np.intp], *, seed: int
) -> LandStatistics:
    """Return what the embedded generator knows of the colours of land.

    Parameters
    ----------
    chips
        Visible chips of all classes of EuroSAT.
    spectra
        Shape (n, 13, H, W), top-of-atmosphere reflectance of other chips of all classes.
    classes
        Shape (n,), their classes.
    seed
        Of the choice of chips.

    Raises
    ------
    SourceError
        A class has no chip.
    """
    rng = np.random.default_rng(seed)
    colours, measured = [], []
    visible, further = (
        logs_of(surface(spectra[:, [SPECTRUM.index(band) for band in bands]], bands))
        for bands in (BANDS, INFRARED)
    )
    for k, name in enumerate(CLASSES):
        if not (chips.classes == k).any() or not (classes == k).any():
            raise SourceError(
                f"land: no chip of class {name}", "give archives with all ten classes of EuroSAT"
            )
        own = logs_of(surface(chips.reflectance(_drawn(chips, k, rng))))
        chosen = _chosen([_whole(chip) for chip in own], k)
        colours.append(colours_of([chip_colours(chip) for chip in chosen], LAND[k]))
        measured.append(
            [_whole(*pair) for pair in zip(visible[classes == k], further[classes == k], strict=True)]
        )
    infrared, root = further_bands_of(measured, LAND)
    return LandStatistics(
        levels=np.stack([one.levels for one in colours]),
        pieces=np.stack([one.pieces for one in colours]),
        chroma=np.stack([one.chroma for one in colours]),
        infrared=infrared,
        infrared_root=root,
        infrared_bands=INFRARED,
    )


def _whole(painted: Float64Array, further: Float64Array | None = None) -> LandChip:
    shape = painted.shape[1:]
    return LandChip(painted, np.empty((0, *shape)) if further is None else further, np.ones(shape, bool))


def _drawn(chips: EurosatChips, k: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return indices of more chips of a class than are needed."""
    count = int(CHIPS * (_SHORES if LAND[k] == _WATER else _HAZY))
    return np.sort(rng.permutation(np.flatnonzero(chips.classes == k))[:count])


def _chosen(chips: Sequence[LandChip], k: int) -> list[LandChip]:
    """Return chips with least haze, and of water those without a shore."""
    if LAND[k] == _WATER:
        return [chips[i] for i in most_uniform(chips, CHIPS)]
    haze = [float((chip.painted[0] - chip.painted[1]).mean()) for chip in chips]
    return [chips[i] for i in np.argsort(haze, kind="stable")[:CHIPS]]


def _parts(flat: Float64Array) -> list[Float64Array]:
    """Return pixels, shape (3, n), in parts of equal size from dark to bright."""
    return np.array_split(flat[:, np.argsort(flat.mean(axis=0), kind="stable")], _LEVELS, axis=1)


def _levels(flat: Float64Array) -> Float64Array:
    return np.stack([part.mean(axis=1) for part in _parts(flat)])


def _of_equal_brightness(flat: Float64Array) -> Float64Array:
    return np.concatenate([part - part.mean(axis=1, keepdims=True) for part in _parts(flat)], axis=1)


def _pieces(chip: LandChip) -> tuple[Float64Array, Float64Array]:
    """Return colours and log roughness of segments drawn by area, shape (n, 4), and what they leave, shape (3, pixels)."""
    flat = chip.flat()[0]
    image = np.where(chip.inside, chip.painted, flat.mean(axis=1)[:, None, None])
    all_labels = segmentation.felzenszwalb(np.moveaxis(image, 0, -1), channel_axis=-1, **_SEGMENTS)
    _, labels = np.unique(all_labels[chip.inside], return_inverse=True)
    area = np.bincount(labels)
    colour = np.stack([np.bincount(labels, band) / area for band in flat], axis=1)
    rest = flat - colour[labels].T
    rough = np.sqrt(np.bincount(labels, (rest**2).mean(axis=0)) / area)
    order = np.argsort(colour.mean(axis=1), kind="stable")
    share = np.cumsum(area[order]) / area.sum()
    drawn = order[np.minimum(np.searchsorted(share, (np.arange(_LEVELS) + 0.5) / _LEVELS), len(order) - 1)]
    return np.column_stack([colour, np.log(rough + 0.01)])[drawn], rest


def _every_third(flat: Sequence[tuple[Float64Array, Float64Array]]) -> tuple[Float64Array, Float64Array]:
    """Return terms and values of every third pixel."""
    painted, further = (np.concatenate(one, axis=1)[:, ::_EVERY] for one in zip(*flat, strict=True))
    return infrared_terms(painted), further


def ridge(terms: Float64Array, values: Float64Array, near: Float64Array, weight: float) -> Float64Array:
    """Return coefficients, shape (B, 10), that differ little from ``near``."""
    penalty = weight * terms.shape[1] * np.eye(len(terms))
    moved = np.linalg.solve(terms @ terms.T + penalty, terms @ (values - near @ terms).T).T
    return np.asarray(near + moved)


def root_of(covariance: Float64Array) -> Float64Array:
    """Return a symmetric square root."""
    variance, axes = np.linalg.eigh(covariance)
    root: Float64Array = (axes * np.sqrt(np.maximum(variance, 0))) @ axes.T
    return root
