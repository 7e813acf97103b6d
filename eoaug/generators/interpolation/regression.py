"""Regressions fitted per tile on its clear pixels: on other dates, and on a conditioning raster (a guide)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["Residuals", "cell_weights", "external_drift", "predict_departure", "share_of_second"]


_LEAST_PX = 50
"""Least number of clear pixels that a regression on a guide is fitted to."""
_FEATURE_FLOOR = 0.05
"""Least standard deviation of a feature, model units: dividing by less would amplify noise."""
_RIDGE = 0.3
"""Weight of the ridge over that of the pixels (3 loses 0.1 to 0.2 dB on four training series, 0.03 to 0.1 differ by 0.02
and are wilder), and ..."""
_RIDGE_PX = 100.0
"""... in pixels: a constant, and slopes, need so much evidence in addition."""
_BLOCK_PX = (16, 4)
"""Edges of the blocks that are left out in turn: of pixels, and of context cells."""
_PRIOR_SHARE, _PRIOR_WEIGHT = 0.7, 1.0
"""Share of a regression that is believed before anything is held out, and the weight of that belief over the held-out
pixels': what the blocks around a gap say alone is not reliable."""
_FEW_PX = 300.0
"""Pixels of evidence at which half of a regression is believed."""
_SENSOR_NOISE = 0.05
"""Departures of this size, model units, are noise."""
_HALVES = 0.1
"""Weight of the belief that two estimates are equally good, over their held-out squared error."""
_CELL_WORTH = 16.0
"""Weight of a context cell in pixels: its 64 pixels are strongly correlated."""
_NEAR_PX = 64.0
"""Standard deviation of the distance over which context cells count ..."""
_NO_WEIGHT = 1e-3
"""... and the weight, in pixels, below which they do not."""

_GUIDE_PX = (1.0, 3.0)
"""Standard deviations of the windows that smooth a guide, against speckle."""
_GUIDE_LAG_PX = 4
_GUIDE_SHRINK = 0.1
"""Weight of the ridge of guides. The best of eighteen choices of windows, lag and weight on 48 images of three training
sites, Sentinel-1 as guide: +0.73 dB over kriging with one radar image, +1.13 with the mean of those within a month."""


@dataclass(frozen=True)
class Residuals:
    """Departures of a date from its estimate by other dates, by pixels or by context cells."""

    dates: Float32Array
    """Shape (N, C, H, W): the other dates, without gaps."""
    departure: Float32Array
    """Shape (C, H, W): the date minus its estimate from the other dates."""
    known: BoolArray
    """Shape (C, H, W), True where ``departure`` is known."""


def predict_departure(sources: Sequence[Residuals]) -> list[Float32Array]:
    """Return the departure of a date from its estimate, as predicted from the other dates.

    A ridge regression of the departure on all bands of the other dates, fitted to the clear pixels. It captures haze, a
    different illumination, and a different growth of each crop. It is shrunk by its own held-out error: each block of
    pixels is predicted by the regression on the other blocks, and the slope of the truth on these predictions, drawn
    to a prior share, multiplies the regression. Little evidence and departures of the size of noise shrink it further,
    so that it is never wild.

    Parameters
    ----------
    sources
        A tile, by pixels, and possibly its context cells (`Request.context_cells`), weighted down with their distance.

    Returns
    -------
    The predicted departure of each source, shape (C, H, W).
    """
    from eoaug.generators.interpolation.compiled import regressions

    planes = [source.dates.reshape(-1, source.departure[0].size) for source in sources]
    # The context sets the scale where there is one: neighbouring tiles share most of theirs.
    centre = planes[-1].mean(axis=1, dtype=np.float64)
    spread = np.maximum(planes[-1].std(axis=1, dtype=np.float64), _FEATURE_FLOOR)
    moves = [np.zeros_like(source.departure) for source in sources]
    for bands in _of_one_mask(sources):
        pixels = _Evidence.of(sources, bands)
        if not pixels.weights.size:
            continue
        features = np.empty((len(pixels.weights), 1 + len(centre)))
        for plane, indices, part in zip(planes, pixels.indices, pixels.parts, strict=True):
            regressions.standardised(plane, indices, centre, spread, features[part])
        departures = pixels.gathered([source.departure for source in sources], bands)
        solution = _shrunk_ridge(features, departures, pixels)
        # Beyond what the clear pixels show the regression is not extrapolated: a village by the relation of fields.
        least, most = features[:, 1:].min(axis=0), features[:, 1:].max(axis=0)
        for move, plane in zip(moves, planes, strict=True):
            made = np.empty((len(bands), plane.shape[1]), np.float32)
            regressions.predicted(plane, centre, spread, least, most, solution, made)
            move[bands] = made.reshape(len(bands), *move.shape[1:])
    return moves


def share_of_second(sources: Sequence[Residuals], seconds: Sequence[Float32Array]) -> Float32Array:
    """Return the share of a second estimate in the mean of two that has the least held-out error, shape (C, 1, 1).

    An offset is allowed for, which the other blocks of pixels tell. The share is drawn to one half.

    Parameters
    ----------
    sources
        Departures of a tile from the first estimate, and possibly those of its context cells.
    seconds
        The second estimate minus the first, shapes (C, H, W).
    """
    from eoaug.generators.interpolation.compiled import regressions

    shares: Float32Array = np.full((len(seconds[0]), 1, 1), 0.5, np.float32)
    for bands in _of_one_mask(sources):
        pixels = _Evidence.of(sources, bands)
        if len(pixels.sizes) < 2:
            continue
        truths = pixels.gathered([source.departure for source in sources], bands)
        steps = pixels.gathered(seconds, bands)
        shares[bands, 0, 0] = regressions.share_by_blocks(
            truths, steps, pixels.weights, pixels.sizes, _RIDGE_PX, _HALVES
        )
    return shares


def _of_one_mask(sources: Sequence[Residuals]) -> list[list[int]]:
    """Return the bands in groups that are known at the same places."""
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for band in range(len(sources[0].known)):
        key = tuple(source.known[band].tobytes() for source in sources)
        groups.setdefault(key, []).append(band)
    return list(groups.values())


@dataclass(frozen=True, eq=False)
class _Evidence:
    """The known pixels, and cells, of some bands in square blocks, n in all."""

    indices: list[NDArray[np.int64]]
    """Of each source, in its flattened images."""
    weights: NDArray[np.float64]
    """Shape (n,), in pixels."""
    sizes: NDArray[np.int64]
    """Number of pixels of each block, in order."""

    @classmethod
    def of(cls, sources: Sequence[Residuals], bands: Sequence[int]) -> _Evidence:
        """Return the evidence on bands that are known at the same places."""
        from eoaug.generators.interpolation.compiled.regressions import block_pixels

        indices, weights, sizes = [], [], []
        for source, edge in zip(sources, _BLOCK_PX, strict=False):
            known = source.known[bands[0]]
            # Only context cells have a size beyond the tile.
            worth = cell_weights(known.shape) if edge == _BLOCK_PX[1] else np.ones(known.shape)
            found, lengths = block_pixels(known, worth, edge, _NO_WEIGHT)
            indices.append(found)
            weights.append(worth.ravel()[found])
            sizes.append(lengths)
        return cls(indices, np.concatenate(weights), np.concatenate(sizes))

    @property
    def parts(self) -> list[slice]:
        """The pixels of each source among all."""
        ends = np.cumsum([len(found) for found in self.indices]).tolist()
        return [slice(end - len(found), end) for end, found in zip(ends, self.indices, strict=True)]

    def gathered(self, images: Sequence[Float32Array], bands: Sequence[int]) -> NDArray[np.float64]:
        """Return the pixels of an image (C, H, W) per source, shape (n, bands)."""
        parts = [
            image[bands].reshape(len(bands), -1)[:, found].T
            for image, found in zip(images, self.indices, strict=True)
        ]
        return np.ascontiguousarray(np.concatenate(parts), np.float64)


def _shrunk_ridge(
    features: NDArray[np.float64], departures: NDArray[np.float64], pixels: _Evidence
) -> NDArray[np.float64]:
    """Return constant and slopes (F, bands) of a ridge regression, its slopes shrunk by its held-out error."""
    from eoaug.generators.interpolation.compiled.regressions import ridge_by_blocks

    solution, (both, own, square) = ridge_by_blocks(
        features, departures, pixels.weights, pixels.sizes, _RIDGE, _RIDGE_PX
    )
    shrink = np.full(solution.shape[1], _PRIOR_SHARE)
    if len(pixels.sizes) > 1:
        slope = (both + _PRIOR_WEIGHT * _PRIOR_SHARE * own) / np.maximum((1 + _PRIOR_WEIGHT) * own, 1e-9)
        shrink = np.clip(slope, 0, 1)
    total = float(pixels.weights.sum())
    noise = _SENSOR_NOISE**2 * total
    shrink *= square / (square + noise) * total / (total + _FEW_PX)
    solution[1:] *= shrink
    return np.asarray(solution)


@lru_cache(maxsize=8)
def cell_weights(shape: tuple[int, int], *, within: bool = False) -> NDArray[np.float64]:
    """Return the weight of each context cell in pixels, shape (h, w); 0 within the tile unless ``within``."""
    rows, cols = (np.arange(n) - (n - 1) / 2 for n in shape)
    away_px = np.hypot(rows[:, None], cols) * CONTEXT_CELL_PX
    weights: NDArray[np.float64] = _CELL_WORTH * np.exp(-0.5 * (away_px / _NEAR_PX) ** 2)
    weights[CONTEXT_CELLS:-CONTEXT_CELLS, CONTEXT_CELLS:-CONTEXT_CELLS] = _CELL_WORTH if within else 0
    weights.flags.writeable = False
    return weights


def external_drift(
    departure: Float32Array, known: BoolArray, guide: NDArray[np.floating]
) -> tuple[Float32Array, Float32Array]:
    """Return the drift that a guide predicts, and the share of the variation that it leaves unexplained.

    Kriging with an external drift (Wackernagel 2003, Multivariate Geostatistics, ch. 37). The guide is another
    sensor, a map or a terrain model in any units; its relation to the bands is fitted to the tile's clear pixels. The
    ridge regression is one of differences over a few pixels, because the kriging extrapolates levels by itself.

    Parameters
    ----------
    departure
        Shape (C, H, W), what is to be predicted; read only where ``known``.
    known
        The same shape.
    guide
        Shape (K, H, W); values that are not finite are ignored.

    Returns
    -------
    The drift, shape (C, H, W), 0 for bands with too few clear pixels; and the share of the standard deviation that
    it leaves, shape (C, 1, 1), 0 to 1.
    """
    there = np.isfinite(guide)
    level = np.where(there, guide, 0).sum((1, 2)) / np.maximum(there.sum((1, 2)), 1)
    planes = np.where(there, guide, level[:, None, None]).astype(np.float64)
    smoothed = [ndimage.gaussian_filter(planes, (0, px, px), mode="reflect") for px in _GUIDE_PX]
    features = np.concatenate(smoothed)
    spread = features.std(axis=(1, 2), keepdims=True)
    features = np.divide(features, spread, out=np.zeros_like(features), where=spread > 0)
    drift, left = np.zeros(departure.shape), np.ones((len(departure), 1, 1))
    lag = _GUIDE_LAG_PX
    pairs = ((np.s_[..., lag:, :], np.s_[..., :-lag, :]), (np.s_[..., lag:], np.s_[..., :-lag]))
    steps = [features[ahead] - features[behind] for ahead, behind in pairs]
    for band, (values, clear) in enumerate(zip(departure, known, strict=True)):
        both = [clear[ahead] & clear[behind] for ahead, behind in pairs]
        predictors = np.concatenate([step[:, mask] for step, mask in zip(steps, both, strict=True)], axis=1)
        if predictors.shape[1] < _LEAST_PX:
            continue
        differences = np.concatenate(
            [
                (values[a].astype(np.float64) - values[b])[mask]
                for (a, b), mask in zip(pairs, both, strict=True)
            ]
        )
        system = predictors @ predictors.T
        system[np.diag_indices(len(system))] += _GUIDE_SHRINK * predictors.shape[1]
        slopes = np.linalg.solve(system, predictors @ differences)
        drift[band] = np.einsum("f,fhw->hw", slopes, features)
        total = float(differences @ differences)
        if total > 0:
            rest = differences - slopes @ predictors
            left[band] = np.sqrt(min(float(rest @ rest) / total, 1.0))
    return drift.astype(np.float32), left.astype(np.float32)
