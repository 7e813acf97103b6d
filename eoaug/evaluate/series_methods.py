"""Baselines for time series: what users of satellite data have without eoaug, each in its plain published form.

Every method estimates whole dates from the known pixels of all dates, band by band, in NumPy and SciPy; nothing is
tuned to the data but by the method's own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.time_series import linear
from eoaug.raster.arrays import BoolArray, Float32Array, Float64Array

__all__ = [
    "SERIES_METHODS",
    "SeriesMethod",
    "SeriesPixels",
    "harmonic",
    "linear_in_time",
    "median_composite",
    "similar_pixels",
    "whittaker",
    "whittaker_smooth",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesPixels:
    """A time series of images with gaps."""

    values: Float32Array
    """Shape (T, C, H, W), any unit; 0 where unknown."""
    known: BoolArray
    """The same shape."""
    times: NDArray[np.int64]
    """Shape (T,), seconds, ascending."""


SeriesMethod = Callable[[SeriesPixels, Sequence[int]], Float32Array]
"""From a series and indices of its dates to the estimates of these dates, (dates, C, H, W)."""

_DAY_S = 86_400.0
_YEAR_S = 365.2425 * _DAY_S
_SMOOTHING = tuple(10.0**power for power in range(-2, 6))
"""Smoothing parameters among which cross-validation chooses, for a mean spacing of 1 between dates."""
_FOLDS = 5
_FOLD_SERIES = 400
"""Series of which the smoothing is chosen."""
_LEAST_DATES = 3
"""Fewest known dates of a pixel for a penalty on second differences; below, linear in time."""
_TERMS = ((6, "annual"), (12, "trend"), (18, "half a year"))
"""Known dates from which on a harmonic model has these terms."""
_RIDGE = 1e-3
_SIMILAR = 20
"""Number of similar pixels, as in the paper."""


def linear_in_time(series: SeriesPixels, dates: Sequence[int]) -> Float32Array:
    """Return the linear interpolation of each pixel between its nearest known dates.

    Parameters
    ----------
    series, dates
        See `SeriesMethod`.
    """
    return np.stack([_linear(series, date) for date in dates])


def _linear(series: SeriesPixels, date: int) -> Float32Array:
    return push_pull(*linear(series.values, series.known, series.times, date))


def median_composite(series: SeriesPixels, dates: Sequence[int]) -> Float32Array:
    """Return the median of all other dates on which a pixel is known: the usual cloud-free composite.

    Parameters
    ----------
    series, dates
        See `SeriesMethod`.
    """
    missing = np.where(series.known, series.values, np.float32(np.nan))
    out = []
    for date in dates:
        others = np.delete(missing, date, axis=0)
        has_any = np.isfinite(others).any(axis=0)
        # A pixel without any date would warn.
        middle = np.nanmedian(np.where(has_any, others, 0), axis=0)
        out.append(push_pull(middle, has_any))
    return np.stack(out)


def whittaker(series: SeriesPixels, dates: Sequence[int]) -> Float32Array:
    """Return the Whittaker smoother of each pixel's series at some dates (Eilers 2003, doi:10.1021/ac034173t).

    The smoothing is chosen by cross-validation over the dates, as in the paper; one value for all pixels and bands.

    Parameters
    ----------
    series, dates
        See `SeriesMethod`.
    """
    if len(series.times) < _LEAST_DATES:
        return linear_in_time(series, dates)
    known, columns = _columns(series)
    days = _spaced(series.times)
    smooth = whittaker_smooth(columns, known, days, _cross_validated(columns, known, days))
    estimates = smooth.reshape(series.values.shape)[list(dates)].astype(np.float32)
    enough = series.known.sum(axis=0) >= _LEAST_DATES
    return np.where(enough, estimates, linear_in_time(series, dates))


def _columns(series: SeriesPixels) -> tuple[Float64Array, Float64Array]:
    """Return known pixels as weights and their values, shape (T, C H W) each."""
    known = series.known.reshape(len(series.times), -1).astype(np.float64)
    return known, known * series.values.reshape(known.shape)


def whittaker_smooth(
    columns: Float64Array, weights: Float64Array, x: Float64Array, smoothing: float
) -> Float64Array:
    """Return series (T, n) smoothed with a penalty on their second divided differences.

    Parameters
    ----------
    columns, weights
        Shape (T, n); a weight of 0 is a missing value.
    x
        Shape (T,), strictly ascending.
    smoothing
        Eilers' lambda, in units of ``x``.
    """
    slopes = np.diff(np.eye(len(x)), axis=0) / np.diff(x)[:, None]
    bends = np.diff(slopes, axis=0) / (x[2:] - x[:-2])[:, None]
    penalty = smoothing * (bends.T @ bends)
    diagonals = [np.diagonal(penalty, offset) for offset in range(3)]
    return _solved(diagonals, weights, weights * columns)


def _solved(penalty: Sequence[Float64Array], weights: Float64Array, right: Float64Array) -> Float64Array:
    """Solve (diag(w) + P) z = r for many series at once, P with two diagonals on either side: LDL^T by rows."""
    count = len(weights)
    pivot = np.empty_like(weights)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    out = np.empty_like(weights)
    for row in range(count):
        pivot[row] = weights[row] + penalty[0][row] + 1e-12
        out[row] = right[row]
        if row > 1:
            second[row] = penalty[2][row - 2] / pivot[row - 2]
            pivot[row] -= second[row] ** 2 * pivot[row - 2]
            out[row] -= second[row] * out[row - 2]
        if row > 0:
            carried = second[row] * pivot[row - 2] * first[row - 1] if row > 1 else 0.0
            first[row] = (penalty[1][row - 1] - carried) / pivot[row - 1]
            pivot[row] -= first[row] ** 2 * pivot[row - 1]
            out[row] -= first[row] * out[row - 1]
    out /= pivot
    for row in range(count - 2, -1, -1):
        out[row] -= first[row + 1] * out[row + 1]
        if row + 2 < count:
            out[row] -= second[row + 2] * out[row + 2]
    return out


def _spaced(times: NDArray[np.int64]) -> Float64Array:
    """Return dates with a mean spacing of 1; equal ones a little apart."""
    steps = np.maximum(np.diff(times) / _DAY_S, 0.01)
    return np.concatenate([[0.0], np.cumsum(steps)]) / np.mean(steps)


def _cross_validated(columns: Float64Array, weights: Float64Array, x: Float64Array) -> float:
    """Return the smoothing of the smallest error at dates that are left out, on a sample of the series."""
    chosen = np.flatnonzero(weights.sum(axis=0) > _LEAST_DATES)
    if not chosen.size:
        return 1.0
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _FOLD_SERIES)).astype(int)]
    sample, there = columns[:, chosen], weights[:, chosen]
    errors = np.zeros(len(_SMOOTHING))
    for fold in range(_FOLDS):
        left_out = np.zeros_like(there)
        left_out[fold::_FOLDS] = there[fold::_FOLDS]
        kept = there - left_out
        scored = left_out * (kept.sum(axis=0) >= 2)
        for index, smoothing in enumerate(_SMOOTHING):
            difference = whittaker_smooth(sample, kept, x, smoothing) - sample
            errors[index] += float(np.sum(scored * difference**2))
    return _SMOOTHING[int(np.argmin(errors))]


def harmonic(series: SeriesPixels, dates: Sequence[int]) -> Float32Array:
    """Return a harmonic regression of each pixel at some dates (Zhu & Woodcock 2014, doi:10.1016/j.rse.2014.01.011).

    Mean, annual cycle, trend and half-yearly cycle, as many of them as the number of known dates allows: 1, 3, 4 or 6
    coefficients from 1, 6, 12 or 18 dates on, as in the paper at least three dates per coefficient.

    Parameters
    ----------
    series, dates
        See `SeriesMethod`.
    """
    weights, columns = _columns(series)
    counts = weights.sum(axis=0)
    terms = _terms(series.times, float(np.median(counts[counts > 0])) if counts.any() else 0.0)
    normal = np.einsum("tn,ti,tj->nij", weights, terms, terms, optimize=True)
    normal[:, range(1, terms.shape[1]), range(1, terms.shape[1])] += _RIDGE * np.maximum(counts, 1.0)[:, None]
    normal[:, 0, 0] += 1e-9
    right = np.einsum("tn,ti->ni", weights * columns, terms, optimize=True)
    coefficients = np.linalg.solve(normal, right[..., None])[..., 0]
    estimates = (terms[list(dates)] @ coefficients.T).reshape(len(dates), *series.values.shape[1:])
    return push_pull(estimates, np.broadcast_to(series.known.any(axis=0), estimates.shape))


def _terms(times: NDArray[np.int64], count: float) -> Float64Array:
    """Return the columns (T, k) of a harmonic model for series with so many known dates."""
    years = (times - times[0]) / _YEAR_S
    columns = [np.ones(len(times))]
    for least, name in _TERMS:
        if count < least:
            break
        if name == "trend":
            columns.append((years - years.mean()) / max(years.std(), 1e-6))
        else:
            angle = 2 * np.pi * years * (1 if name == "annual" else 2)
            columns += [np.cos(angle), np.sin(angle)]
    return np.stack(columns, axis=1)


def similar_pixels(series: SeriesPixels, dates: Sequence[int]) -> Float32Array:
    """Return dates from pixels that look alike on the other dates (Chen et al. 2011, doi:10.1016/j.rse.2010.12.010).

    The neighbourhood similar pixel interpolator: of the 20 most similar known pixels, weighted by similarity and
    distance, the mean of their values and the mean of their change since the other dates, which here are linear in time,
    are averaged by how homogeneous each is.

    Parameters
    ----------
    series, dates
        See `SeriesMethod`.
    """
    return np.stack([_similar(series, date) for date in dates])


def _similar(series: SeriesPixels, date: int) -> Float32Array:
    reference = _linear(series, date)
    bands = series.known.any(axis=(0, 2, 3))
    sure = series.known[date][bands].all(axis=0)
    hidden = ~sure
    if sure.sum() < _SIMILAR or not hidden.any():
        return reference
    look = reference[bands].astype(np.float64)
    unit = look.std(axis=(1, 2), keepdims=True) + 1e-6
    there = (look / unit)[:, sure].T
    apart, chosen = KDTree(there).query((look / unit)[:, hidden].T, k=_SIMILAR)
    alike = apart / np.sqrt(len(look)) + 1e-3
    at, places = np.argwhere(sure).astype(float), np.argwhere(hidden).astype(float)
    far = np.linalg.norm(at[chosen] - places[:, None], axis=2)
    weights = 1.0 / (alike * far)
    weights /= weights.sum(axis=1, keepdims=True)
    own = series.values[date][bands].astype(np.float64)[:, sure]
    change = own - look[:, sure]
    by_space = (weights * own[:, chosen]).sum(axis=2)
    by_time = look[:, hidden] + (weights * change[:, chosen]).sum(axis=2)
    uneven = alike.mean(axis=1)
    changed = np.sqrt(np.mean((change / unit[..., 0]) ** 2, axis=0))[chosen].mean(axis=1) + 1e-3
    share = changed / (uneven + changed)
    out = reference.copy()
    filled = out[bands]
    filled[:, hidden] = share * by_space + (1 - share) * by_time
    out[bands] = filled
    return out


SERIES_METHODS: Mapping[str, SeriesMethod] = {
    "linear in time": linear_in_time,
    "median composite": median_composite,
    "Whittaker": whittaker,
    "harmonic": harmonic,
    "similar pixels": similar_pixels,
}
"""Baselines by name."""
