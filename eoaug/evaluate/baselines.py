"""Baselines: classical methods that a generator is compared with, each applied band by band.

Every function takes a case, uses only its request, and returns (C, H, W) in model units. `mean_of_all_dates` and the
methods of `series_methods` use all dates that a user would have, which can be more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.interpolate import griddata
from scipy.ndimage import zoom
from skimage.restoration import inpaint_biharmonic

from eoaug.evaluate.cases import TASKS, Case, EvaluationTask, model_units, verb_of
from eoaug.evaluate.series_methods import SERIES_METHODS, SeriesPixels
from eoaug.generators.base import Request
from eoaug.generators.interpolation.back_projection import coarse_prior
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.time_series import temporal
from eoaug.raster.arrays import FloatArray

__all__ = ["BASELINES", "Baseline"]


_PASSES = 12
"""Passes of back-projection; a further one changes less than the step in which data are stored."""

Baseline = Callable[[Case], FloatArray]


def nearest_pixel(case: Case) -> FloatArray:
    """Return the nearest known pixel of the date (scipy's griddata)."""
    return _gridded(case, "nearest")


def linear_pixels(case: Case) -> FloatArray:
    """Return linear interpolation of the known pixels (scipy's griddata); the nearest one outside their hull."""
    interpolated = _gridded(case, "linear")
    return np.where(np.isfinite(interpolated), interpolated, nearest_pixel(case))


def _gridded(case: Case, method: str) -> FloatArray:
    out = np.array(case.request.values[case.target])
    known = case.request.known[case.target]
    remaining = np.flatnonzero(known.any(axis=(1, 2)) & ~known.all(axis=(1, 2)))
    # Bands with the same mask share one triangulation.
    while remaining.size:
        mask = known[remaining[0]]
        bands = [band for band in remaining if np.array_equal(known[band], mask)]
        filled = griddata(np.argwhere(mask), out[bands][:, mask].T, np.argwhere(~mask), method=method)
        for band, values in zip(bands, filled.T, strict=True):
            out[band, ~mask] = values
        remaining = np.setdiff1d(remaining, bands)
    return out


def biharmonic(case: Case) -> FloatArray:
    """Return skimage's biharmonic fill (Damelin & Hoang 2018, doi:10.1155/2018/3950312)."""
    values, known = case.request.values[case.target].astype(np.float64), case.request.known[case.target]
    out = np.array(values)
    for channel, mask in enumerate(known):
        if mask.any() and not mask.all():
            out[channel] = inpaint_biharmonic(values[channel], ~mask)
    return out


def smooth(case: Case) -> FloatArray:
    """Return the push-pull fill of the target date alone."""
    return push_pull(case.request.values[case.target], case.request.known[case.target])


def bicubic(case: Case) -> FloatArray:
    """Return cubic spline interpolation of the coarse pixels (scipy's zoom of order 3)."""
    request = case.request
    coarse = np.nan_to_num(request.coarse_tile[case.target])
    return np.stack(
        [zoom(plane, request.factor, order=3, mode="reflect", grid_mode=True) for plane in coarse]
    )


def back_projected(case: Case) -> FloatArray:
    """Return the cubic spline with back-projection run to convergence (Irani & Peleg 1991)."""
    request = case.request
    assert request.sensor is not None  # given with coarse
    return request.sensor.project(bicubic(case), request.coarse_tile[case.target], passes=_PASSES)


def cubic_convolution(case: Case) -> FloatArray:
    """Return Keys' cubic convolution with back-projection run to convergence."""
    request = case.request
    assert request.sensor is not None  # given with coarse
    coarse = request.coarse_tile[case.target]
    return request.sensor.project(coarse_prior(coarse, request.sensor), coarse, passes=_PASSES)


def nearest_date(case: Case) -> FloatArray:
    """Return the date nearest in time (the earlier of two equally near), its own gaps filled by push-pull."""
    request, target = case.request, case.target
    others = _others(case)
    distance = np.abs(request.times[others] - request.times[target])
    return _filled(request, others[int(np.argmin(distance))])


def mean_of_dates(case: Case) -> FloatArray:
    """Return the mean of the context dates."""
    return np.asarray(np.mean([_filled(case.request, date) for date in _others(case)], axis=0))


def mean_of_all_dates(case: Case) -> FloatArray:
    """Return the mean of all other usable dates of the cube, which can be more than the generator gets."""
    assert case.other_dates_mean is not None  # a case with other dates
    return np.nan_to_num(case.other_dates_mean)


def linear(case: Case) -> FloatArray:
    """Return linear interpolation in time; before the first and after the last date, the nearest date."""
    if 0 < case.target < len(case.request.times) - 1:
        return _line(case, case.target - 1, case.target + 1)
    return nearest_date(case)


def extrapolated(case: Case) -> FloatArray:
    """Return linear extrapolation of the last two dates; with a single earlier date, that date."""
    if case.target >= 2:
        return _line(case, case.target - 2, case.target - 1)
    return nearest_date(case)


def bias_corrected(case: Case) -> FloatArray:
    """Return linear interpolation in time minus its mean error on the known pixels, per band."""
    estimate, values, known = linear(case), case.request.values[case.target], case.request.known[case.target]
    count = np.maximum(known.sum(axis=(1, 2)), 1)
    bias = np.where(known, values - estimate, 0).sum(axis=(1, 2)) / count
    return np.asarray(estimate + bias[:, None, None])


def residual_corrected(case: Case) -> FloatArray:
    """Return linear interpolation in time plus its smoothly interpolated residual (`time_series.temporal`)."""
    request = case.request
    return temporal(request.values, request.known, request.times, case.target)


def _others(case: Case) -> list[int]:
    return [date for date in range(len(case.request.times)) if date != case.target]


def _filled(request: Request, date: int) -> FloatArray:
    return push_pull(request.values[date], request.known[date])


def _line(case: Case, *dates: int) -> FloatArray:
    request = case.request
    first, second = (_filled(request, date) for date in dates)
    start, end = (int(request.times[date]) for date in dates)
    now = int(request.times[case.target])
    share = np.float32((now - start) / (end - start)) if end > start else np.float32(0.5)
    return np.asarray(first + share * (second - first))


def of_series(name: str) -> Baseline:
    """Return a method of `series_methods` as a baseline, with all dates that a user would have."""

    def baseline(case: Case) -> FloatArray:
        return np.asarray(SERIES_METHODS[name](*_whole_series(case))[0])

    return baseline


def _whole_series(case: Case) -> tuple[SeriesPixels, list[int]]:
    """Return all dates that a user would have in model units, and the index of the target."""
    series, dates, request = case.series, case.dates, case.request
    target = int(np.flatnonzero(dates == case.date)[0])
    values = model_units(series.values[dates], case.card)
    asked = (request.fill | request.known)[case.target].any(axis=(1, 2))
    known = np.isfinite(values) & series.clear[dates][:, None] & asked[:, None, None]
    known[target] = request.known[case.target]
    clean = np.where(known, values, np.float32(0))
    return SeriesPixels(values=clean, known=known, times=series.times[dates]), [target]


_HOLES: Mapping[str, Baseline] = {
    "nearest pixel": nearest_pixel,
    "linear in space": linear_pixels,
    "biharmonic": biharmonic,
    "push-pull": smooth,
}
_UPSAMPLING: Mapping[str, Baseline] = {
    "bicubic": bicubic,
    "bicubic, back-projected": back_projected,
    "cubic convolution, back-projected": cubic_convolution,
}
_DATES: Mapping[str, Baseline] = {
    "nearest date": nearest_date,
    "mean of the context dates": mean_of_dates,
    "mean of all dates": mean_of_all_dates,
}
_LINES: Mapping[EvaluationTask, Mapping[str, Baseline]] = {
    "inpaint with dates": {
        "push-pull": smooth,
        "linear in time": linear,
        "linear, bias-corrected": bias_corrected,
        "linear, residual-corrected": residual_corrected,
        **{name: of_series(name) for name in ("median composite", "Whittaker", "harmonic", "similar pixels")},
    },
    "next date": {
        "linear extrapolation": extrapolated,
        **{name: of_series(name) for name in ("median composite", "harmonic")},
    },
    "date between": {
        "linear in time": linear,
        **{name: of_series(name) for name in ("median composite", "Whittaker", "harmonic")},
    },
}

BASELINES: Mapping[EvaluationTask, Mapping[str, Baseline]] = {
    task: _HOLES
    if task in ("inpaint", "inpaint with radar")
    else _UPSAMPLING
    if verb_of(task) == "super_resolve"
    else {**_DATES, **_LINES[task]}
    for task in TASKS
}
"""Baselines by task and name."""
