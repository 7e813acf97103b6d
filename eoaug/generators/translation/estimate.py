"""The estimate of bands from the other bands of their date, and from the other dates of a tile.

Regressions are fitted to the tile's own measurements: departures of the wanted bands from their course in time, on
departures and levels of the given ones. What they explain is judged on dates that are left out in turn; as far as they
explain little, the estimate from the other dates takes their place. Bands that were never measured in the tile are converted
from bands of other sensors and levels, or come from a mixture of spectra.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.generators.base import METADATA_FIELDS, Request
from eoaug.generators.interpolation.from_dates import from_dates
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.time_series import linear
from eoaug.generators.translation.atmosphere import corrected_bands, overpass_zenith
from eoaug.generators.translation.conversion import BandOfProduct, convert
from eoaug.raster import noise
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.raster.bands import POLARISATIONS
from eoaug.raster.products import UNKNOWN_PRODUCT

__all__ = ["translated", "translated_batch", "translated_with_error"]

_UNITS = {"reflectance": (0.15, 0.05), "decibel": (-12.0, 3.0)}
"""Physical value of 0 and size of one unit here, whatever the card of the generator says."""
_SMOOTH_PX = 2.0
"""Standard deviation of the window in which departures are also averaged: radar is speckled, and bands lie apart."""
_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Weights of the ridge that are tried, over that of the pixels."""
_REFLECTED = corrected_bands
"""Common names of the bands that can be converted into each other."""
_LEAST_PX = 50
"""Clear pixels that a fit needs."""
_BELIEVED = (0.1, 0.4)
"""Held-out share of the variance, less its standard error, up to which a regression does not count, and from which on it
counts alone: on the monthly and the dated series of four places, radar explains less and optical bands more."""
_FARTHER = 0.3
"""Squared error of the estimate from dates over that which left-out dates show, whose neighbours are farther away."""
_DECISION = 4
"""Power that makes a decision of the shares of two estimates: of equal errors both count, of a twofold one nearly none."""
_NOISE_PX = 1.5
"""Correlation length of the errors of optical bands; those of radar are speckle, from pixel to pixel."""
_SHARED_NOISE = 0.8
"""Correlation of the errors of an optical band with what is common to all: haze, shadow and growth change all of them."""
_NOISE_HALO_PX = 8
_TRIMS, _OUTLIER, _LEAST_USUAL = 3, 6.0, 0.01
"""Rounds in which cells are left out of a fit, by their error over the median error, which is at least that much."""
_NEVER = 2.0
"""Expected error of a band of which nothing is known, model units."""


def translated_batch(requests: Sequence[Request]) -> Float32Array:
    """Return the results of requests of the verb translate, shape (B, T, C, H, W), model units."""
    return translated_with_error(requests)[0]


def translated_with_error(requests: Sequence[Request]) -> tuple[Float32Array, Float32Array]:
    """Return the results of requests, and one standard deviation of their error under ``fill``; model units."""
    results, errors = [], []
    for request in requests:
        target = int(np.flatnonzero(request.target)[0])
        own, shift, factor = _in_own_units(request)
        image, error = translated(own, target)
        if request.steps:
            image = image + error * _drawn(request, target)
        image, error = (image - shift) / factor, error / factor
        result = np.where(request.known, request.values, np.float32(0))
        spread = np.zeros_like(result)
        result[target] = np.where(request.fill[target], image, result[target])
        spread[target] = np.where(request.fill[target], error, np.float32(0))
        results.append(result)
        errors.append(spread)
    return np.stack(results), np.stack(errors)


def translated(request: Request, target: int) -> tuple[Float32Array, Float32Array]:
    """Return the estimate of the bands to fill on a date and its expected error, each of shape (C, H, W).

    Other bands are 0.
    """
    values, known = request.values, request.known & ~request.fill
    image, error = np.zeros((2, *values.shape[1:]), np.float32)
    wanted = np.flatnonzero(request.fill[target].any(axis=(1, 2)))
    measured = known[:, wanted].any(axis=(2, 3))
    others = np.delete(measured, target, axis=0).any(axis=0)
    enough = known[target, wanted].sum(axis=(1, 2)) >= _LEAST_PX
    for group, estimate in (
        (wanted[others], _from_dates_and_bands),
        (wanted[~others & enough], _from_bands),
        (wanted[~others & ~enough], _from_surroundings),
    ):
        if len(group):
            image[group], error[group] = estimate(request, values, known, target, group.tolist())
    return image, error


def _in_own_units(request: Request) -> tuple[Request, Float32Array, Float32Array]:
    """Return a request in the units that the constants here are for, and how: values times a factor plus a shift.

    Generators with cards of different units give the same result.
    """
    channels = request.values.shape[1]
    shift, factor = np.zeros((channels, 1, 1), np.float32), np.ones((channels, 1, 1), np.float32)
    for i, (name, (zero, unit)) in enumerate(zip(request.channel_names, request.channel_units, strict=True)):
        own = _UNITS["decibel" if name in POLARISATIONS else "reflectance"]
        if name and not name.startswith("lwir") and (zero, unit) != own:
            shift[i], factor[i] = (zero - own[0]) / own[1], unit / own[1]
    units = tuple(
        (zero - unit * float(s) / float(f), unit / float(f))
        for (zero, unit), s, f in zip(request.channel_units, shift[:, 0, 0], factor[:, 0, 0], strict=True)
    )
    known = request.known
    values = np.where(known, request.values * factor + shift, np.float32(0))
    cells = request.context_cells
    if cells is not None:
        cells = cells * factor + shift
    return replace(request, values=values, channel_units=units, context_cells=cells), shift, factor


_Estimate = tuple[Float32Array, Float32Array]


@dataclass(frozen=True)
class _Fold:
    """Pixels that are left out together: a date, or a part of one."""

    system: NDArray[np.float64]
    """Shape (F, F)."""
    answer: NDArray[np.float64]
    """Shape (F, bands)."""
    square: NDArray[np.float64]
    """Shape (bands,)."""
    count: int

    @classmethod
    def of(cls, features: NDArray[np.float64], departure: NDArray[np.float64]) -> _Fold:
        """Return the sums over pixels of features (F, n) and departures (bands, n)."""
        return cls(
            features @ features.T, features @ departure.T, (departure**2).sum(axis=1), features.shape[1]
        )


def _from_dates_and_bands(
    request: Request, values: Float32Array, known: BoolArray, target: int, wanted: list[int]
) -> _Estimate:
    """Return the estimate of bands that were measured on other dates."""
    dated = from_dates(values[:, wanted], known[:, wanted], request.times, target, None).image
    given = _sources(known, target, wanted)
    courses = [_course(values, known, request.times, date, target) for date in range(len(values))]
    usable = [known[date] & courses[date][1] for date in range(len(values))]
    spread = _course_error(values, courses, usable, wanted)
    image, error = dated, spread
    there = known[target, given].all(axis=0)
    for course in (True, False) if given else ():
        folds, features = [], None
        for date in range(len(values)):
            base = courses[date][0] if course else np.zeros_like(values[date])
            seen = usable[date] if course else known[date]
            own = _features(values[date], base, seen, given, wanted if course else [])
            clear = seen[wanted].all(axis=0) & seen[given].all(axis=0)
            if date == target:
                features, start = own, base[wanted]
            if clear.sum() >= _LEAST_PX:
                departure = values[date][wanted] - base[wanted]
                folds.append(_Fold.of(own[:, clear], departure[:, clear].astype(np.float64)))
        if len(folds) < 2 or features is None:
            continue
        fitted = _judged(folds)
        share = fitted.belief
        if not course:
            # Levels count against what has been found so far, by their left-out errors.
            before = _FARTHER * np.square(error).mean(axis=(1, 2))
            share = before / np.maximum(before + fitted.left**2, 1e-9)
            share = share**_DECISION / (share**_DECISION + (1 - share) ** _DECISION)
        where = there & courses[target][1][given].all(axis=0) if course else there
        belief = np.where(where, share[:, None, None], 0.0)
        estimate = start + np.einsum("fb,fhw->bhw", fitted.slopes, features)
        image = (belief * estimate + (1 - belief) * image).astype(np.float32)
        error = (belief * fitted.left[:, None, None] + (1 - belief) * error).astype(np.float32)
    return _corrected(image, values, known, target, wanted), error


def _course(
    values: Float32Array, known: BoolArray, times: NDArray[np.int64], date: int, target: int
) -> tuple[Float32Array, BoolArray]:
    """Return the course in time on a date, from dates on those sides on which the target has some."""
    if target == len(values) - 1:
        return linear(values[: date + 1], known[: date + 1], times[: date + 1], date)
    if target == 0:
        return linear(values[date:], known[date:], times[date:], 0)
    return linear(values, known, times, date)


def _from_bands(
    request: Request, values: Float32Array, known: BoolArray, target: int, wanted: list[int]
) -> _Estimate:
    """Return the estimate of bands that were measured in a part of the date only, fitted to its four quarters."""
    given = _sources(known, target, wanted)
    base, error = _from_spectra(request, values, known, target, wanted)
    centre = np.zeros_like(values[target])
    features = _features(values[target], centre, known[target], given, [])
    height, width = values.shape[2:]
    rows, cols = np.arange(height) // 16 % 2, np.arange(width) // 16 % 2
    clear = known[target, wanted].all(axis=0) & known[target, given].all(axis=0)
    folds = []
    for part in range(4):
        chosen = clear & ((2 * rows[:, None] + cols) == part)
        if given and chosen.any():
            departure = (values[target, wanted] - base)[:, chosen].astype(np.float64)
            folds.append(_Fold.of(features[:, chosen], departure))
    if len(folds) < 2:
        return _corrected(base, values, known, target, wanted, given), error
    fitted = _judged(folds)
    belief = np.sqrt(fitted.belief)[:, None, None]
    image = base + (belief * np.einsum("fb,fhw->bhw", fitted.slopes, features)).astype(np.float32)
    spread = np.broadcast_to(fitted.left[:, None, None], image.shape).astype(np.float32)
    return _corrected(image, values, known, target, wanted, given), spread


def _from_surroundings(
    request: Request, values: Float32Array, known: BoolArray, target: int, wanted: list[int]
) -> _Estimate:
    """Return the estimate of bands that were measured around the tile at most, fitted to the cells there."""
    base, error = _from_spectra(request, values, known, target, wanted)
    given = _sources(known, target, wanted)
    if request.context_cells is None or not given:
        return base, error
    cells = request.context_cells[target]
    there = np.isfinite(cells)
    clear = there[wanted].all(axis=0) & there[given].all(axis=0)
    if clear.sum() < _LEAST_PX:
        return base, error
    shown = np.where(there, cells, np.float32(0))
    expected, _ = _from_spectra(request, shown[None], there[None], 0, wanted)
    features, departure = _levels(shown, given), (shown[wanted] - expected).astype(np.float64)
    clear = _agreeing(features, departure, clear)
    height, width = clear.shape
    part = 2 * (np.arange(height)[:, None] // 4 % 2) + np.arange(width) // 4 % 2
    folds = [
        _Fold.of(features[:, chosen], departure[:, chosen])
        for number in range(4)
        if (chosen := clear & (part == number)).any()
    ]
    fitted = _judged(folds)
    belief = fitted.belief[:, None, None]
    seen = known[target, given].all(axis=0)
    estimate = base + np.einsum("fb,fhw->bhw", fitted.slopes, _levels(values[target], given))
    belief = np.where(seen, belief, 0.0)
    left = np.broadcast_to(fitted.left[:, None, None], error.shape)
    return (
        (belief * estimate + (1 - belief) * base).astype(np.float32),
        (belief * left + (1 - belief) * error).astype(np.float32),
    )


def _agreeing(features: NDArray[np.float64], departure: NDArray[np.float64], clear: BoolArray) -> BoolArray:
    """Return the cells whose departure from a line is not far larger than usual.

    A cell is the mean of the known pixels of each band, which are others where saturated or missing pixels lie in it.
    """
    for _ in range(_TRIMS):
        slopes = np.linalg.lstsq(features[:, clear].T, departure[:, clear].T, rcond=None)[0]
        left = np.abs(departure - np.einsum("fb,fhw->bhw", slopes, features))
        usual = np.median(left[:, clear], axis=1)
        clear = clear & (left <= _OUTLIER * np.maximum(usual, _LEAST_USUAL)[:, None, None]).all(axis=0)
    return clear


def _levels(image: Float32Array, given: list[int]) -> NDArray[np.float64]:
    """Return a constant and the given bands of an image (C, H, W) as features."""
    return np.concatenate([np.ones((1, *image.shape[1:])), image[given].astype(np.float64)])


def _from_spectra(
    request: Request, values: Float32Array, known: BoolArray, target: int, wanted: list[int]
) -> _Estimate:
    """Return the estimate of bands that were never measured: converted from the others where it is known how, else 0."""
    image = np.zeros((len(wanted), *values.shape[2:]), np.float32)
    error = np.full(image.shape, _NEVER, np.float32)
    if not request.channel_names:
        return image, error
    given = [c for c in _sources(known, target, wanted) if request.channel_names[c] in _REFLECTED]
    able = [i for i, channel in enumerate(wanted) if request.channel_names[channel] in _REFLECTED]
    if not able or not given:
        return image, error
    zero, unit = np.asarray(request.channel_units).T[:, :, None]
    clear = known[target, given].all(axis=0)
    physical = values[target, given][:, clear] * unit[given] + zero[given]
    expected, spread = convert(
        physical,
        [_band(request, c) for c in given],
        [_band(request, wanted[i]) for i in able],
        _sun_zenith(request, target),
    )
    for row, i in enumerate(able):
        if np.isfinite(expected[row]).all():
            image[i][clear] = (expected[row] - zero[wanted[i]]) / unit[wanted[i]]
            error[i][clear] = spread[row] / unit[wanted[i]]
    # Pixels without the given bands: from their neighbours.
    seen = np.broadcast_to(clear, image.shape)
    return (push_pull(image, seen), push_pull(error, seen)) if clear.any() else (image, error)


def _band(request: Request, channel: int) -> BandOfProduct:
    products = request.channel_products or (UNKNOWN_PRODUCT,) * len(request.channel_names)
    return BandOfProduct(request.channel_names[channel], products[channel])


def _sun_zenith(request: Request, target: int) -> float:
    row = dict(zip(METADATA_FIELDS, request.metadata[target].tolist(), strict=True))
    return overpass_zenith(*(row[name] for name in ("lon_deg", "lat_deg", "year", "month", "day")))


def _sources(known: BoolArray, target: int, wanted: Sequence[int]) -> list[int]:
    """Return the channels that the date has and that are not wanted."""
    return [c for c in range(known.shape[1]) if c not in wanted and known[target, c].any()]


def _features(
    values: Float32Array, course: Float32Array, known: BoolArray, given: list[int], wanted: list[int]
) -> NDArray[np.float64]:
    """Return the features of a date, (F, H, W): departures of given bands, also averaged, their levels, and wanted courses."""
    departure = np.where(known[given], values[given] - course[given], 0).astype(np.float64)
    window = (0, _SMOOTH_PX, _SMOOTH_PX)
    smooth = ndimage.gaussian_filter(departure, window, mode="reflect")
    if not known[given].all():
        # The mean of the pixels that are known: a missing one says nothing.
        weight = ndimage.gaussian_filter(known[given].astype(np.float64), window, mode="reflect")
        smooth = np.divide(smooth, weight, out=np.zeros_like(smooth), where=weight > 1e-3)
    levels = np.where(known[given], values[given], 0)
    one = np.ones((1, *values.shape[1:]))
    return np.concatenate([one, departure, smooth, levels, course[wanted].astype(np.float64)])


@dataclass(frozen=True)
class _FittedRidge:
    """A ridge regression of some bands, judged by folds."""

    slopes: NDArray[np.float64]
    """Shape (F, bands)."""
    belief: NDArray[np.float64]
    """Shape (bands,), 0 to 1: how far it counts."""
    left: NDArray[np.float64]
    """Shape (bands,): root mean square of its left-out errors."""


def _judged(folds: Sequence[_Fold]) -> _FittedRidge:
    """Return a ridge regression.

    The weight of the ridge, the belief and the root mean square error come from folds that are left out in turn.
    """
    count = sum(fold.count for fold in folds)
    system, answer = sum(fold.system for fold in folds), sum(fold.answer for fold in folds)
    penalty = np.eye(len(folds[0].system))
    penalty[0, 0] = 0.01  # a constant needs little evidence
    best = None
    for ridge in _RIDGES:
        gains = []
        for fold in folds:
            rest = system - fold.system + ridge * (count - fold.count) * penalty
            slopes = np.linalg.solve(rest, answer - fold.answer)
            own = np.einsum("fb,fg,gb->b", slopes, fold.system, slopes)
            gains.append((2 * np.einsum("fb,fb->b", slopes, fold.answer) - own) / fold.count)
        if best is None or np.sum(gains) > np.sum(best[1]):
            best = ridge, np.stack(gains)
    assert best is not None
    ridge, each = best
    square = np.stack([fold.square / fold.count for fold in folds]).mean(axis=0)
    gain, error = each.mean(axis=0), each.std(axis=0) / np.sqrt(max(len(folds) - 1, 1))
    explained = (gain - error) / np.maximum(square, 1e-9)
    belief = np.clip((explained - _BELIEVED[0]) / (_BELIEVED[1] - _BELIEVED[0]), 0, 1)
    slopes = np.linalg.solve(system + ridge * count * penalty, answer)
    return _FittedRidge(slopes, belief, np.sqrt(np.maximum(square - gain, 1e-6)))


def _course_error(
    values: Float32Array,
    courses: Sequence[tuple[Float32Array, BoolArray]],
    usable: Sequence[BoolArray],
    wanted: list[int],
) -> Float32Array:
    """Return the root mean square error of the course in time at each pixel, smoothed over the tile, (bands, H, W)."""
    shape = (len(wanted), *values.shape[2:])
    square, weight = np.zeros((2, *shape))
    for image, (course, _), known in zip(values, courses, usable, strict=True):
        clear = known[wanted]
        square += np.where(clear, (image[wanted] - course[wanted]) ** 2, 0)
        weight += clear
    window = (0, 2 * _SMOOTH_PX, 2 * _SMOOTH_PX)
    square, weight = (ndimage.gaussian_filter(part, window, mode="reflect") for part in (square, weight))
    error: Float32Array = np.sqrt(square / np.maximum(weight, 1e-3)).astype(np.float32)
    return np.where(weight > 1e-3, np.maximum(error, np.float32(1e-3)), np.float32(_NEVER))


def _corrected(
    image: Float32Array,
    values: Float32Array,
    known: BoolArray,
    target: int,
    wanted: list[int],
    given: Sequence[int] = (),
) -> Float32Array:
    """Return an estimate to which its error is added, interpolated from the clear pixels at which the given bands are known."""
    clear = known[target, wanted] & known[target, list(given)].all(axis=0)
    if clear.sum(axis=(1, 2)).min() < _LEAST_PX:
        return image
    error = np.where(clear, values[target, wanted] - image, np.float32(0))
    return image + push_pull(error, clear)


def _drawn(request: Request, target: int) -> Float32Array:
    """Return noise of mean 0 and standard deviation 1, a function of the place: speckle for radar, smooth for the rest."""
    channels, height, width = request.values.shape[1:]
    halo = _NOISE_HALO_PX
    white = noise.normal(
        (request.origin[0] - halo, request.origin[1] - halo),
        (channels + 1, height + 2 * halo, width + 2 * halo),
        seed=request.seed,
        stream="translate",
        member=request.member,
        time=int(request.times[target]),
    )
    smooth = ndimage.gaussian_filter(white, (0, _NOISE_PX, _NOISE_PX), truncate=4.0)
    # Of white noise a Gaussian window of width s keeps 1 / (4 pi s^2) of the variance.
    smooth *= np.float32(2 * np.sqrt(np.pi) * _NOISE_PX)
    smooth = np.float32(_SHARED_NOISE) * smooth[-1] + np.float32(np.sqrt(1 - _SHARED_NOISE**2)) * smooth[:-1]
    names = request.channel_names or ("",) * channels
    radar = np.array([name in POLARISATIONS for name in names])[:, None, None]
    chosen: Float32Array = np.where(radar, white[:-1], smooth)[:, halo:-halo, halo:-halo]
    return chosen
