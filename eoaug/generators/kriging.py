"""The best linear estimates: what is unknown, from what is known, by covariances fitted to landscapes.

Numpy and scipy. They are what a diffusion model would answer if pixels were a Gaussian field (`gaussian`),
in space (a power-law spectrum), in time (an exponential variogram) and between dates (a regression that
each tile learns from its own clear pixels). No weights; the few constants were fitted to the training cubes,
never to those that results are judged on. All sums are of fixed number and order, within one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from eoaug.generators import classical
from eoaug.generators.base import Request

__all__ = ["estimate", "fill", "in_time", "regressed"]

_EXPONENT = 2.4
"""Power spectra of land fall as frequency to the minus 2.4; push-pull's membrane is the case 2."""
_LARGEST = 1e-3
"""Added to the Laplacian: beyond some 200 px the spectrum is flat."""
_ITERATIONS = 8
"""Of conjugate gradients; from 6 to 30 the error on real holes is the same to 0.01 dB."""

_LEVEL_PX = 6.0
"""Standard deviation of the window that parts a date into level and detail, pixels."""
_LEVEL = (100.0, 0.05)
_DETAIL = (150.0, 0.2)
"""Days over which a date forgets another, and the share that is new on every date: haze, sun, noise."""

_DAY_S = 86_400.0
_SHRINK = 0.03
"""Weight of the ridge over that of the pixels."""
_LEAST_PX = 50
"""Clear pixels below which a tile learns no regression."""
_FEATURE_FLOOR = 0.05
"""Least spread of a feature, model units: below it, noise would be blown up."""
_ROUGH = 0.3
"""Noise in what a regression leaves, over its variance between neighbouring pixels."""

_Image = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def fill(values: NDArray[np.floating], known: _Mask, *, noise: float = 0.0) -> _Image:
    """Return ``values`` with the unknown pixels at their conditional mean under a power-law spectrum.

    Kriging (Matheron 1963, doi:10.2113/gsecongeo.58.8.1246) of all known pixels of a tile, solved by
    preconditioned conjugate gradients from a smooth fill; mirrored at the tile's border.

    Parameters
    ----------
    values
        Shape (C, H, W), any units; read only where ``known``.
    known
        The same shape. Known pixels come back bit for bit; a plane that has none comes back 0.
    noise
        Variance of what pixels do not share with their neighbours, over the variance of the difference
        of neighbours.
    """
    start = classical.push_pull(values, known)
    if known.all() or min(values.shape[1:]) < 2:
        return start
    spectrum = _spectrum(values.shape[1], values.shape[2], noise)
    precision = np.float32(1) / spectrum
    count = np.maximum(known.sum(axis=(1, 2), keepdims=True), 1)
    total = np.where(known, values, 0).sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    mean: _Image = (total / count).astype(np.float32)
    free = (~known & known.any(axis=(1, 2), keepdims=True)).astype(np.float32)

    def within(factor: _Image, image: _Image) -> _Image:
        frequencies = fft.dctn(image, axes=(1, 2), norm="ortho")
        found: _Image = free * fft.idctn(factor * frequencies, axes=(1, 2), norm="ortho")
        return found

    def product(a: _Image, b: _Image) -> NDArray[np.float32]:
        return np.asarray((a * b).sum(axis=(1, 2), keepdims=True))

    x: _Image = start - mean
    rest = -within(precision, x)
    ahead = within(spectrum, rest)
    way, size = ahead, product(rest, ahead)
    tiny = np.float32(1e-20)
    for _ in range(_ITERATIONS):
        step = within(precision, way)
        pace = size / np.maximum(product(way, step), tiny)
        x = np.asarray(x + pace * free * way)
        rest = np.asarray(rest - pace * step)
        ahead = within(spectrum, rest)
        before, size = size, product(rest, ahead)
        way = np.asarray(ahead + size / np.maximum(before, tiny) * way)
    return np.where(free > 0, x + mean, start).astype(np.float32, copy=False)


@lru_cache(maxsize=16)
def _spectrum(height: int, width: int, noise: float) -> _Image:
    """Return the variance of each DCT-II frequency; neighbouring pixels differ by variance 1."""
    rows, cols = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in (height, width))
    variance = (rows[:, None] + cols + _LARGEST) ** (-_EXPONENT / 2)
    variance /= np.mean(variance * (rows[:, None] + cols) / 4)
    spectrum: _Image = (variance + noise).astype(np.float32)
    spectrum.flags.writeable = False
    return spectrum


def in_time(dates: _Image, times: NDArray[np.int64], when: int) -> _Image:
    """Return what is expected at a moment from other dates of the same place.

    Ordinary kriging with an exponential variogram, level and detail each with its own: the level of a tile
    drifts with the season, its detail stays and is best averaged.

    Parameters
    ----------
    dates
        Shape (N, C, H, W), without gaps.
    times
        Shape (N,), seconds.
    when
        Seconds.
    """
    level = ndimage.gaussian_filter(dates, (0, 0, _LEVEL_PX, _LEVEL_PX), mode="reflect")
    away = (times - when) / _DAY_S
    out = _weighted(level, _weights(away, *_LEVEL)) + _weighted(dates - level, _weights(away, *_DETAIL))
    return out.astype(np.float32)


def _weights(away_days: NDArray[np.floating], memory_days: float, new: float) -> NDArray[np.float64]:
    """Return the weights of dates, which sum to 1: those of least variance."""
    count = len(away_days)
    between = np.abs(away_days[:, None] - away_days)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = new + 1 - np.exp(-between / memory_days)
    np.fill_diagonal(system, 0)
    to_target = new + 1 - np.exp(-np.abs(away_days) / memory_days)
    return np.asarray(np.linalg.solve(system, np.append(to_target, 1))[:count])


def _weighted(dates: _Image, weights: NDArray[np.float64]) -> _Image:
    """Return the sum of dates by their weights, one after the other."""
    total = np.zeros(dates.shape[1:], np.float32)
    for date, weight in zip(dates, weights.tolist(), strict=True):
        total += np.float32(weight) * date
    return total


def regressed(expected: _Image, dates: _Image, values: _Image, known: _Mask) -> _Image:
    """Return what is expected of a date, corrected by how its clear pixels depart from it.

    A ridge regression per band of the departure on all bands of the other dates, over the clear pixels of
    the tile: haze, another sun, another growth of each crop are learned where they can be seen.

    Parameters
    ----------
    expected
        Shape (C, H, W), model units: a first estimate of the date.
    dates
        Shape (N, C, H, W): the other dates, without gaps.
    values, known
        Shape (C, H, W): the date itself, and where it was measured.
    """
    planes = dates.reshape(-1, *dates.shape[2:]).astype(np.float64)
    centre = planes.mean(axis=(1, 2), keepdims=True)
    spread = np.maximum(planes.std(axis=(1, 2), keepdims=True), _FEATURE_FLOOR)
    features = np.concatenate([np.ones((1, *planes.shape[1:])), (planes - centre) / spread])
    out = expected.copy()
    for band, seen in enumerate(known):
        count = int(seen.sum())
        if count < _LEAST_PX:
            continue
        here = features[:, seen]
        system = here @ here.T
        # The constant is not shrunk.
        system[np.diag_indices(len(system))] += np.r_[0, np.full(len(planes), _SHRINK * count)]
        departure = (values[band] - expected[band])[seen].astype(np.float64)
        slopes = np.linalg.solve(system, here @ departure)
        out[band] += np.einsum("f,fhw->hw", slopes, features).astype(np.float32)
    return out


def estimate(request: Request, target: int) -> _Image:
    """Return the best linear estimate of a date, shape (C, H, W), model units; known pixels as they are.

    Parameters
    ----------
    request
        Without a coarse measurement.
    target
        Index of the date. Its pixels under ``fill`` count as unknown.
    """
    known = request.known & ~request.fill
    values, seen = request.values[target], known[target]
    others = [date for date in range(len(known)) if date != target and known[date].any()]
    if not others:
        return fill(values, seen)
    dates = _whole(request.values[others], known[others], request.times[others])
    expected = in_time(dates, request.times[others], int(request.times[target]))
    if not seen.any():
        return expected
    expected = regressed(expected, dates, values, seen)
    return np.where(seen, values, expected + fill(values - expected, seen, noise=_ROUGH))


def _whole(values: _Image, known: _Mask, times: NDArray[np.int64]) -> _Image:
    """Return dates with their gaps filled from each other."""
    dates: Sequence[_Image] = [
        values[date] if known[date].all() else classical.temporal(values, known, times, date)
        for date in range(len(values))
    ]
    return np.stack(dates)
