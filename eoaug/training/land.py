"""Statistics of land by class, from chips of EuroSAT: colours of their pixels and segments, and of the bands beyond the visible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage import segmentation

from eoaug.datasets.eurosat import BANDS, CLASSES, SPECTRUM, EurosatChips, surface
from eoaug.errors import SourceError
from eoaug.generators.embedded.ground_cover import CLASSES as LAND
from eoaug.generators.embedded.land import FLOOR, LandStatistics, infrared_terms
from eoaug.raster.arrays import Float32Array, Float64Array

__all__ = ["INFRARED", "land_statistics"]


INFRARED = tuple(band for band in SPECTRUM if band not in (*BANDS, "cirrus"))
"""Bands that are estimated from the visible ones. Cirrus shows no ground."""
_CHIPS, _LEVELS = 96, 16
"""Chips per class, and colours of each."""
_HAZY, _SHORES = 4 / 3, 2
"""Chips that are looked at for one that is kept: the most hazy ones are left out, and of water those with a shore."""
_LEAST = 0.002
"""Least reflectance: what is below is error of the correction for the atmosphere."""
_SEGMENTS = {"scale": 60, "sigma": 0.7, "min_size": 20}
"""Felzenszwalb & Huttenlocher 2004, doi:10.1023/B:VISI.0000022288.19776.77, on log reflectance."""
_OF_PARCELS = ("annual_crop", "pasture", "permanent_crop")
"""Classes whose colours are those of segments: random differences of colour are those within them."""
_WATER = "sea_lake"
_RIDGE = (1e-6, 0.02)
"""Weights of the ridge of all classes together, and of that of one class around it, relative to the number of pixels."""
_EVERY = 3
"""Every third pixel is enough to fit bands."""


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
    levels, pieces, chroma = [], [], []
    for k, name in enumerate(CLASSES):
        if not (chips.classes == k).any() or not (classes == k).any():
            raise SourceError(
                f"land: no chip of class {name}", "give archives with all ten classes of EuroSAT"
            )
        own = _chosen(_logs(surface(chips.reflectance(_drawn(chips, k, rng)))), k)
        levels.append([_levels(chip) for chip in own])
        segments = [_pieces(chip) for chip in own]
        pieces.append([piece for piece, _ in segments])
        apart = [
            rest if LAND[k] in _OF_PARCELS else _of_equal_brightness(chip)
            for chip, (_, rest) in zip(own, segments, strict=True)
        ]
        grey = np.eye(3) - 1 / 3  # what remains without common brightness
        chroma.append(_root(grey @ np.mean([np.cov(rest) for rest in apart], axis=0) @ grey))
    infrared, root = _infrared(spectra, classes)
    return LandStatistics(
        np.array(levels), np.array(pieces), np.array(chroma), infrared, root, infrared_bands=INFRARED
    )


def _drawn(chips: EurosatChips, k: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return indices of more chips of a class than are needed."""
    count = int(_CHIPS * (_SHORES if LAND[k] == _WATER else _HAZY))
    return np.sort(rng.permutation(np.flatnonzero(chips.classes == k))[:count])


def _chosen(logs: Float64Array, k: int) -> Float64Array:
    """Return chips from dark to bright: those with least haze, and of water those without a shore."""
    if LAND[k] == _WATER:
        unwanted = logs.std(axis=(2, 3)).max(axis=1)
    else:
        unwanted = (logs[:, 0] - logs[:, 1]).mean(axis=(1, 2))
    kept = logs[np.argsort(unwanted, kind="stable")[:_CHIPS]]
    # Repeated if there are few, so that all classes have as many.
    kept = kept[np.arange(_CHIPS) * len(kept) // _CHIPS]
    return kept[np.argsort(kept.mean(axis=(1, 2, 3)), kind="stable")]


def _logs(reflectance: Float32Array) -> Float64Array:
    return np.log(np.clip(np.asarray(reflectance, np.float64), _LEAST, 1) + FLOOR)


def _parts(chip: Float64Array) -> list[Float64Array]:
    """Return the pixels of a chip, shape (3, n), in parts of equal size from dark to bright."""
    flat = chip.reshape(3, -1)
    return np.array_split(flat[:, np.argsort(flat.mean(axis=0), kind="stable")], _LEVELS, axis=1)


def _levels(chip: Float64Array) -> Float64Array:
    return np.stack([part.mean(axis=1) for part in _parts(chip)])


def _of_equal_brightness(chip: Float64Array) -> Float64Array:
    return np.concatenate([part - part.mean(axis=1, keepdims=True) for part in _parts(chip)], axis=1)


def _pieces(chip: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return colours and log roughness of segments drawn by area, shape (n, 4), and what they leave, shape (3, pixels)."""
    labels = segmentation.felzenszwalb(np.moveaxis(chip, 0, -1), channel_axis=-1, **_SEGMENTS).ravel()
    flat, area = chip.reshape(3, -1), np.bincount(labels)
    colour = np.stack([np.bincount(labels, band) / area for band in flat], axis=1)
    rest = flat - colour[labels].T
    rough = np.sqrt(np.bincount(labels, (rest**2).mean(axis=0)) / area)
    order = np.argsort(colour.mean(axis=1), kind="stable")
    share = np.cumsum(area[order]) / area.sum()
    drawn = order[np.minimum(np.searchsorted(share, (np.arange(_LEVELS) + 0.5) / _LEVELS), len(order) - 1)]
    return np.column_stack([colour, np.log(rough + 0.01)])[drawn], rest


def _infrared(spectra: Float32Array, classes: NDArray[np.intp]) -> tuple[Float64Array, Float64Array]:
    """Return coefficients by class, shape (K, B, 10), and roots of the covariance from chip to chip, shape (K, B, B)."""
    visible, further = (
        _logs(surface(spectra[:, [SPECTRUM.index(band) for band in bands]], bands))
        for bands in (BANDS, INFRARED)
    )
    pooled = _ridge(*_pixels(visible, further), np.zeros((len(INFRARED), 10)), _RIDGE[0])
    coefficients, roots = [], []
    for k in range(len(CLASSES)):
        own = classes == k
        # Water is dark in these bands whatever its colour is.
        near = np.zeros_like(pooled) if LAND[k] == _WATER else pooled
        terms, values = _pixels(visible[own], further[own])
        if LAND[k] == _WATER:
            terms = terms * (np.arange(10) == 0)[:, None]
        found = _ridge(terms, values, near, _RIDGE[1])
        rest = [
            (bands.reshape(len(INFRARED), -1) - found @ infrared_terms(chip.reshape(3, -1))).mean(axis=1)
            for chip, bands in zip(visible[own], further[own], strict=True)
        ]
        coefficients.append(found)
        roots.append(_root(np.cov(np.transpose(rest)) if len(rest) > 1 else np.zeros((len(INFRARED),) * 2)))
    return np.stack(coefficients), np.stack(roots)


def _pixels(visible: Float64Array, further: Float64Array) -> tuple[Float64Array, Float64Array]:
    flat, values = (
        np.moveaxis(images, 1, 0).reshape(images.shape[1], -1)[:, ::_EVERY] for images in (visible, further)
    )
    return infrared_terms(flat), values


def _ridge(terms: Float64Array, values: Float64Array, near: Float64Array, weight: float) -> Float64Array:
    """Return coefficients, shape (B, 10), that differ little from ``near``."""
    penalty = weight * terms.shape[1] * np.eye(len(terms))
    moved = np.linalg.solve(terms @ terms.T + penalty, terms @ (values - near @ terms).T).T
    return np.asarray(near + moved)


def _root(covariance: Float64Array) -> Float64Array:
    """Return a symmetric square root."""
    variance, axes = np.linalg.eigh(covariance)
    root: Float64Array = (axes * np.sqrt(np.maximum(variance, 0))) @ axes.T
    return root
