"""From confusions of test images to an interval of the gain, and to the decision.

The places of the test split are resampled (bootstrap); seeds are too few for that, so that their part is Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.arrays import Float64Array

__all__ = ["Gain", "PlaceSample", "gain_of", "scores_of", "summed_by_place"]

_DRAWS = 1000
"""Resamplings of the test places."""
_LEVEL = 0.95

Confusions = NDArray[np.int64]
"""(seeds, places, classes, classes): counts by true and predicted class."""


@dataclass(frozen=True)
class Gain:
    """A difference of scores with its interval of 95 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PlaceSample:
    """How often each test place is in each resampling."""

    weights: Float64Array
    """(draws, places)."""

    @classmethod
    def of(cls, places: int, seed: int) -> PlaceSample:
        """Return the resamplings of a number of places.

        Parameters
        ----------
        places
            Number of places.
        seed
            Random seed.
        """
        rng = np.random.default_rng([seed, 0x6A7E])
        weights = rng.multinomial(places, np.full(places, 1 / places), size=_DRAWS)
        return cls(weights.astype(np.float64))


def scores_of(confusion: NDArray[np.number], *, pixels: bool) -> Float64Array:
    """Return the score and that of every class, shape (..., 1 + classes).

    Parameters
    ----------
    confusion
        (..., classes, classes): counts by true and predicted class.
    pixels
        False: accuracy, and recall by class. True: intersection over union, and its mean over the classes that occur.
    """
    counts = np.asarray(confusion, np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    within = true + predicted - hits if pixels else true
    with np.errstate(invalid="ignore", divide="ignore"):
        by_class = np.where(true > 0, hits / within, np.nan)
        if pixels:
            whole = np.nansum(by_class, axis=-1) / np.maximum((true > 0).sum(axis=-1), 1)
        else:
            whole = hits.sum(axis=-1) / true.sum(axis=-1)
    return np.concatenate([whole[..., None], by_class], axis=-1)


def gain_of(arm: Confusions, rival: Confusions, sample: PlaceSample, *, pixels: bool) -> list[Gain]:
    """Return by how much an arm is better than another: in the score, then in that of every class.

    The variance is that over places, seeds being fixed, plus that over seeds, places being fixed; degrees of freedom by
    Welch and Satterthwaite. What depends on both is in both parts, so that intervals are rather too wide.

    Parameters
    ----------
    arm, rival
        Confusions of the same seeds and places.
    sample
        Resamplings of the places.
    pixels
        As for `scores_of`.
    """
    from scipy.stats import t as student

    difference = scores_of(arm.sum(axis=1), pixels=pixels) - scores_of(rival.sum(axis=1), pixels=pixels)
    mean = difference.mean(axis=0)
    seeds, places = arm.shape[:2]
    drawn = _resampled(arm, sample, pixels) - _resampled(rival, sample, pixels)
    by_place = np.nanvar(drawn, axis=0, ddof=1)
    by_seed = difference.var(axis=0, ddof=1) / seeds
    total = by_place + by_seed
    gains = []
    for k in range(len(mean)):
        if not math.isfinite(total[k]) or not math.isfinite(mean[k]):
            gains.append(Gain(float(mean[k]), math.nan, math.nan))
            continue
        freedom = total[k] ** 2 / max(
            by_seed[k] ** 2 / (seeds - 1) + by_place[k] ** 2 / max(places - 1, 1), 1e-300
        )
        half = float(student.ppf(0.5 + _LEVEL / 2, max(freedom, 1.0)) * math.sqrt(total[k]))
        gains.append(Gain(float(mean[k]), float(mean[k]) - half, float(mean[k]) + half))
    return gains


def _resampled(confusions: Confusions, sample: PlaceSample, pixels: bool) -> Float64Array:
    """Return the scores of every resampling, mean over seeds, shape (draws, 1 + classes)."""
    total = np.zeros(())
    for one in confusions:
        flat = one.reshape(len(one), -1).astype(np.float64)
        drawn = (sample.weights @ flat).reshape(-1, *one.shape[1:])
        total = total + scores_of(drawn, pixels=pixels)
    return np.asarray(total / len(confusions), np.float64)


def summed_by_place(confusions: Sequence[NDArray[np.int64]], places: NDArray[np.int64]) -> Confusions:
    """Return confusions of images of several seeds, (images, classes, classes) each, as counts by place."""
    count = int(places.max()) + 1
    out = np.zeros((len(confusions), count, *confusions[0].shape[1:]), np.int64)
    for seed, one in enumerate(confusions):
        np.add.at(out[seed], places, one)
    return out
