"""The classical methods that a generator is held against: each answers a case band by band.

Numpy, scipy and skimage. Every function takes a case, of which it looks at what a request tells (one method,
that says so, at more), and returns (C, H, W) in model units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.interpolate import griddata
from scipy.ndimage import zoom
from skimage.restoration import inpaint_biharmonic

from eoaug.evaluate.cases import TASKS, Case, EvaluationTask, verb_of
from eoaug.generators.base import Request
from eoaug.generators.interpolation.back_projection import coarse_prior
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.time_series import temporal
from eoaug.raster.arrays import FloatArray

__all__ = ["BASELINES", "Baseline"]


_PASSES = 12
"""Of back-projection; the change of the next one is below the quantum of the data."""

Baseline = Callable[[Case], FloatArray]


def nearest_pixel(case: Case) -> FloatArray:
    """Return the nearest known pixel of the date (scipy's griddata)."""
    return _gridded(case, "nearest")


def linear_pixels(case: Case) -> FloatArray:
    """Return linear interpolation of the known pixels (scipy's griddata); the nearest one outside their hull."""
    drawn = _gridded(case, "linear")
    return np.where(np.isfinite(drawn), drawn, nearest_pixel(case))


def _gridded(case: Case, method: str) -> FloatArray:
    out = np.array(case.request.values[case.target])
    known = case.request.known[case.target]
    filled = np.flatnonzero(known.any(axis=(1, 2)) & ~known.all(axis=(1, 2)))
    # One triangulation serves all bands of one mask.
    while filled.size:
        seen = known[filled[0]]
        alike = [band for band in filled if np.array_equal(known[band], seen)]
        drawn = griddata(np.argwhere(seen), out[alike][:, seen].T, np.argwhere(~seen), method=method)
        for band, values in zip(alike, drawn.T, strict=True):
            out[band, ~seen] = values
        filled = np.setdiff1d(filled, alike)
    return out


def biharmonic(case: Case) -> FloatArray:
    """Return skimage's biharmonic fill (Damelin & Hoang 2018, doi:10.1155/2018/3950312)."""
    values, known = case.request.values[case.target].astype(np.float64), case.request.known[case.target]
    out = np.array(values)
    for channel, seen in enumerate(known):
        if seen.any() and not seen.all():
            out[channel] = inpaint_biharmonic(values[channel], ~seen)
    return out


def smooth(case: Case) -> FloatArray:
    """Return the push-pull fill of the date alone."""
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
    """Return the date nearest in time, an earlier one if two are as near; its gaps from around."""
    request, target = case.request, case.target
    others = _others(case)
    away = np.abs(request.times[others] - request.times[target])
    return _whole(request, others[int(np.argmin(away))])


def mean_of_dates(case: Case) -> FloatArray:
    """Return the mean of the dates that the request tells."""
    return np.asarray(np.mean([_whole(case.request, date) for date in _others(case)], axis=0))


def mean_of_all_dates(case: Case) -> FloatArray:
    """Return the mean of all other clear dates of the cube: it sees more dates than the generator."""
    assert case.elsewhen is not None  # a case with other dates
    return np.nan_to_num(case.elsewhen)


def linear(case: Case) -> FloatArray:
    """Return the line between the neighbouring dates; before the first and after the last, the nearest."""
    if 0 < case.target < len(case.request.times) - 1:
        return _line(case, case.target - 1, case.target + 1)
    return nearest_date(case)


def extrapolated(case: Case) -> FloatArray:
    """Return the line through the last two dates, drawn on; a lone date stays."""
    if case.target >= 2:
        return _line(case, case.target - 2, case.target - 1)
    return nearest_date(case)


def unbiased(case: Case) -> FloatArray:
    """Return the line in time less its mean error on the clear pixels, band by band."""
    made, values, known = linear(case), case.request.values[case.target], case.request.known[case.target]
    count = np.maximum(known.sum(axis=(1, 2)), 1)
    bias = np.where(known, values - made, 0).sum(axis=(1, 2)) / count
    return np.asarray(made + bias[:, None, None])


def corrected(case: Case) -> FloatArray:
    """Return the line in time, its error on the clear pixels spread smoothly (`classical.temporal`)."""
    request = case.request
    return temporal(request.values, request.known, request.times, case.target)


def _others(case: Case) -> list[int]:
    return [date for date in range(len(case.request.times)) if date != case.target]


def _whole(request: Request, date: int) -> FloatArray:
    return push_pull(request.values[date], request.known[date])


def _line(case: Case, *dates: int) -> FloatArray:
    request = case.request
    first, second = (_whole(request, date) for date in dates)
    start, end = (int(request.times[date]) for date in dates)
    now = int(request.times[case.target])
    share = np.float32((now - start) / (end - start)) if end > start else np.float32(0.5)
    return np.asarray(first + share * (second - first))


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
    "mean of the dates": mean_of_dates,
    "mean of all dates": mean_of_all_dates,
}
_LINES: Mapping[EvaluationTask, Mapping[str, Baseline]] = {
    "inpaint with dates": {
        "push-pull": smooth,
        "linear in time": linear,
        "linear, mean corrected": unbiased,
        "linear, smoothly corrected": corrected,
    },
    "next date": {"linear, drawn on": extrapolated},
    "date between": {"linear in time": linear},
}

BASELINES: Mapping[EvaluationTask, Mapping[str, Baseline]] = {
    task: _HOLES
    if task in ("inpaint", "inpaint with radar")
    else _UPSAMPLING
    if verb_of(task) == "super_resolve"
    else {**_DATES, **_LINES[task]}
    for task in TASKS
}
"""Methods by task and name."""
