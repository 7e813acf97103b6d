"""The classical methods that a generator is held against: each answers a request band by band.

Numpy, scipy and skimage. Every function takes a request and the index of its target date and returns
(C, H, W) in model units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import griddata
from scipy.ndimage import zoom
from skimage.restoration import inpaint_biharmonic

from eoaug.evaluate.windows import Task
from eoaug.generators.base import Request
from eoaug.generators.classical import coarse_prior, push_pull

__all__ = ["OPPONENTS", "Opponent"]

Opponent = Callable[[Request, int], NDArray[np.floating]]


def nearest_pixel(request: Request, target: int) -> NDArray[np.floating]:
    """Return the nearest known pixel of the date (scipy's griddata)."""
    values, known = request.values[target], request.known[target]
    out = np.array(values)
    for plane, source, seen in zip(out, values, known, strict=True):
        if seen.any() and not seen.all():
            plane[~seen] = griddata(np.argwhere(seen), source[seen], np.argwhere(~seen), method="nearest")
    return out


def biharmonic(request: Request, target: int) -> NDArray[np.floating]:
    """Return skimage's biharmonic fill (Damelin & Hoang 2018, doi:10.1155/2018/3950312)."""
    values, known = request.values[target].astype(np.float64), request.known[target]
    out = np.array(values)
    for channel, seen in enumerate(known):
        if seen.any() and not seen.all():
            out[channel] = inpaint_biharmonic(values[channel], ~seen)
    return out


def smooth(request: Request, target: int) -> NDArray[np.floating]:
    """Return the push-pull fill of the date alone."""
    return push_pull(request.values[target], request.known[target])


def bicubic(request: Request, target: int) -> NDArray[np.floating]:
    """Return cubic spline interpolation of the coarse pixels (scipy's zoom of order 3)."""
    coarse = np.nan_to_num(_coarse(request)[target])
    return np.stack(
        [zoom(plane, request.factor, order=3, mode="reflect", grid_mode=True) for plane in coarse]
    )


def back_projected(request: Request, target: int) -> NDArray[np.floating]:
    """Return cubic interpolation with back-projection, one pass of `Sensor.project`."""
    assert request.sensor is not None  # given with coarse
    return coarse_prior(_coarse(request)[target], request.sensor)


def nearest_date(request: Request, target: int) -> NDArray[np.floating]:
    """Return the date nearest in time, an earlier one if two are as near; its gaps from around."""
    others = [date for date in range(len(request.times)) if date != target]
    away = np.abs(request.times[others] - request.times[target])
    date = others[int(np.argmin(away))]
    return push_pull(request.values[date], request.known[date])


def linear(request: Request, target: int) -> NDArray[np.floating]:
    """Return the line between the neighbouring dates; before the first and after the last, the nearest."""
    if 0 < target < len(request.times) - 1:
        return _line(request, target, target - 1, target + 1)
    return nearest_date(request, target)


def extrapolated(request: Request, target: int) -> NDArray[np.floating]:
    """Return the line through the last two dates, drawn on; a lone date stays."""
    if target >= 2:
        return _line(request, target, target - 2, target - 1)
    return nearest_date(request, target)


def _line(request: Request, target: int, *dates: int) -> NDArray[np.floating]:
    first, second = (push_pull(request.values[date], request.known[date]) for date in dates)
    start, end = (int(request.times[date]) for date in dates)
    share = (
        np.float32((int(request.times[target]) - start) / (end - start)) if end > start else np.float32(0.5)
    )
    return np.asarray(first + share * (second - first))


def _coarse(request: Request) -> NDArray[np.float32]:
    return request.coarse_tile


_UPSAMPLING = {"bicubic": bicubic, "bicubic, back-projected": back_projected}
_DATES = {"nearest date": nearest_date, "linear in time": linear}
_ON = {"nearest date": nearest_date, "linear, drawn on": extrapolated}

OPPONENTS: Mapping[Task, Mapping[str, Opponent]] = {
    "inpaint": {"nearest pixel": nearest_pixel, "biharmonic": biharmonic, "push-pull": smooth},
    "inpaint with dates": {"push-pull": smooth, **_DATES},
    "x2": _UPSAMPLING,
    "x4": _UPSAMPLING,
    "next date": _ON,
    "date between": _DATES,
}
"""Methods by task and name."""
