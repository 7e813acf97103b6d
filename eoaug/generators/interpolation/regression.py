"""Regression between dates and on guides, fitted per tile on clear pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["Residuals", "guided", "regressed"]


_SHRINK = 0.03
"""Weight of the ridge over that of the pixels."""
_LEAST_PX = 50
"""Clear pixels below which a tile learns no regression."""
_FEATURE_FLOOR = 0.05
"""Least spread of a feature, model units: below it, noise would be blown up."""
_CELL_WORTH = 16.0
"""Pixels that a cell of the surroundings counts as: its 64 are much alike."""
_NEAR_PX = 64.0
"""Standard deviation of the distance over which surroundings count."""

_GUIDE_PX = (1.0, 3.0)
"""Standard deviations of the windows through which a guide is seen: speckle is not land."""
_GUIDE_LAG_PX = 4
_GUIDE_SHRINK = 0.1
"""Weight of the ridge of guides. The best of eighteen choices of windows, lag and weight on 48 images of three training
sites, Sentinel-1 as guide: +0.73 dB over kriging with one radar image, +1.13 with the mean of those within a month."""


@dataclass(frozen=True)
class Residuals:
    """What pixels, or cells, of a date tell of how it departs from what other dates let expect."""

    dates: Float32Array
    """Shape (N, C, H, W): the other dates, without gaps."""
    departure: Float32Array
    """Shape (C, H, W): the date less what was expected of it."""
    seen: BoolArray
    """Shape (C, H, W), True where ``departure`` is known."""


def regressed(here: Residuals, around: Residuals | None = None) -> list[Float32Array]:
    """Return how a date departs from its expectation, as far as the other dates foretell it.

    A ridge regression per band of the departure on all bands of the other dates, over the clear pixels:
    haze, another sun, another growth of each crop are learned where they can be seen.

    Parameters
    ----------
    here
        A tile, by pixels.
    around
        Its surroundings, by cells (`Request.context_cells`), which count the less the further they are away.

    Returns
    -------
    The departure of the tile and, where given, that of the surroundings.
    """
    sources = [here] if around is None else [here, around]
    planes = [source.dates.reshape(-1, *source.dates.shape[2:]).astype(np.float64) for source in sources]
    # The wider view sets the scale, so that neighbouring tiles have much the same.
    centre = planes[-1].mean(axis=(1, 2), keepdims=True)
    spread = np.maximum(planes[-1].std(axis=(1, 2), keepdims=True), _FEATURE_FLOOR)
    features = [np.concatenate([np.ones((1, *p.shape[1:])), (p - centre) / spread]) for p in planes]
    weights = [np.ones(here.seen.shape[1:])]
    if around is not None:
        weights.append(_cell_weights(around.seen.shape[1:]))
    moves = [np.zeros_like(source.departure) for source in sources]
    count = len(features[0])
    for band in range(len(here.seen)):
        system, answer, total = np.zeros((count, count)), np.zeros(count), 0.0
        for source, feature, weight in zip(sources, features, weights, strict=True):
            seen = source.seen[band]
            counted, weighed = feature[:, seen], feature[:, seen] * weight[seen]
            system += weighed @ counted.T
            answer += weighed @ source.departure[band][seen].astype(np.float64)
            total += float(weight[seen].sum())
        if total < _LEAST_PX:
            continue
        # The constant is not shrunk.
        system[np.diag_indices(count)] += np.r_[0, np.full(count - 1, _SHRINK * total)]
        slopes = np.linalg.solve(system, answer)
        for move, feature in zip(moves, features, strict=True):
            move[band] = np.einsum("f,fhw->hw", slopes, feature)
    return moves


@lru_cache(maxsize=8)
def _cell_weights(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the pixels that each cell of the surroundings is worth; none within the tile."""
    rows, cols = (np.arange(n) - (n - 1) / 2 for n in shape)
    away_px = np.hypot(rows[:, None], cols) * CONTEXT_CELL_PX
    weights: NDArray[np.float64] = _CELL_WORTH * np.exp(-0.5 * (away_px / _NEAR_PX) ** 2)
    weights[CONTEXT_CELLS:-CONTEXT_CELLS, CONTEXT_CELLS:-CONTEXT_CELLS] = 0
    weights.flags.writeable = False
    return weights


def guided(
    departure: Float32Array, seen: BoolArray, guide: NDArray[np.floating]
) -> tuple[Float32Array, Float32Array]:
    """Return how a guide tells pixels apart, and how much of their variation it leaves.

    Kriging with an external drift (Wackernagel 2003, Multivariate Geostatistics, ch. 37): another sensor, a map or a
    terrain, in any units, whose relation to the bands each tile learns from its clear pixels. What counts is
    how they differ from place to place, for levels the kriging carries on by itself: the ridge regression is one of
    differences over a few pixels.

    Parameters
    ----------
    departure
        Shape (C, H, W), what is to be told; read only where ``seen``.
    seen
        The same shape.
    guide
        Shape (K, H, W); what is not finite tells nothing.

    Returns
    -------
    The drift, shape (C, H, W), 0 for bands with too few clear pixels; and the share of the standard deviation that
    it leaves, shape (C, 1, 1), 0 to 1.
    """
    there = np.isfinite(guide)
    level = np.where(there, guide, 0).sum((1, 2)) / np.maximum(there.sum((1, 2)), 1)
    planes = np.where(there, guide, level[:, None, None]).astype(np.float64)
    seen_through = [ndimage.gaussian_filter(planes, (0, px, px), mode="reflect") for px in _GUIDE_PX]
    features = np.concatenate(seen_through)
    spread = features.std(axis=(1, 2), keepdims=True)
    features = np.divide(features, spread, out=np.zeros_like(features), where=spread > 0)
    drift, left = np.zeros(departure.shape), np.ones((len(departure), 1, 1))
    lag = _GUIDE_LAG_PX
    pairs = ((np.s_[..., lag:, :], np.s_[..., :-lag, :]), (np.s_[..., lag:], np.s_[..., :-lag]))
    steps = [features[ahead] - features[behind] for ahead, behind in pairs]
    for band, (values, known) in enumerate(zip(departure, seen, strict=True)):
        both = [known[ahead] & known[behind] for ahead, behind in pairs]
        told = np.concatenate([step[:, mask] for step, mask in zip(steps, both, strict=True)], axis=1)
        if told.shape[1] < _LEAST_PX:
            continue
        asked = np.concatenate(
            [
                (values[a].astype(np.float64) - values[b])[mask]
                for (a, b), mask in zip(pairs, both, strict=True)
            ]
        )
        system = told @ told.T
        system[np.diag_indices(len(system))] += _GUIDE_SHRINK * told.shape[1]
        slopes = np.linalg.solve(system, told @ asked)
        drift[band] = np.einsum("f,fhw->hw", slopes, features)
        total = float(asked @ asked)
        if total > 0:
            rest = asked - slopes @ told
            left[band] = np.sqrt(min(float(rest @ rest) / total, 1.0))
    return drift.astype(np.float32), left.astype(np.float32)
