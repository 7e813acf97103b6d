"""The best linear estimates: what is unknown, from what is known, by covariances fitted to landscapes.

Numpy and scipy. They are what a diffusion model would answer if pixels were a Gaussian field (`gaussian`),
in space (a power-law spectrum), in time (an exponential variogram) and between dates (a regression that
each tile learns from its own clear pixels). No weights; the few constants were fitted to the training cubes,
never to those that results are judged on. All sums are of fixed number and order, within one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from eoaug.generators import classical
from eoaug.generators.base import WIDE_CELL_PX, WIDE_CELLS, Request
from eoaug.generators.conditions import local_spread, size_of_errors

__all__ = ["Evidence", "estimate", "fill", "guided", "in_time", "regressed"]

_EXPONENT = 2.4
"""Power spectra of land fall as frequency to the minus 2.4; push-pull's membrane is the case 2."""
_ROUGHNESS = (1.8, 0.9)
"""Exponent of a tile by how fast the squared difference of its pixels grows with their distance: a
self-affine surface would have (2, 1). Within `_EXPONENTS`."""
_EXPONENTS = (2.05, 3.0)
_LAGS_PX = (1, 2, 4)
_DOUBTED = 200.0
"""Pairs of pixels that the absence of any direction counts as."""
_LARGEST = 1e-3
"""Added to the Laplacian: beyond some 200 px the spectrum is flat."""
_NEAREST = 0.016
"""The same for what surroundings do not explain: it is forgotten within some 20 px."""
_BEYOND_PX = 12
"""Unknown pixels around a tile, or opposite borders would be neighbours."""
_ITERATIONS = 14
"""Of conjugate gradients; from 14 to 40 the error on real holes is the same to 0.01 dB."""

_LEVEL_PX, _FINE_PX = 8.0, 0.8
"""Standard deviations of the windows that part a date into level, detail and what is finer, pixels."""
_SEASON = 0.74
"""Width of a season: two dates a half year apart share exp(-2 / 0.74^2) of what comes back every year."""
_SAME = 1e-6
"""Added to the variance of a date, or two dates of one moment could not be told apart."""


@dataclass(frozen=True)
class _Memory:
    """How one scale of a place remembers: shares of its variance, which sum to 1, and for how many days."""

    lasting: tuple[float, float]
    yearly: float
    """Comes back with the season."""
    passing: tuple[float, float]
    new: tuple[float, float]
    """Haze, sun, noise."""

    def shared(self, days: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the covariance of moments so far apart."""
        away = np.abs(days)
        season = np.exp(-2 * np.sin(np.pi * away / 365.25) ** 2 / _SEASON**2)
        fading = sum(
            share * np.exp(-away / memory) for share, memory in (self.lasting, self.passing, self.new)
        )
        return np.asarray(fading + self.yearly * season)


_MEMORIES = (
    _Memory(lasting=(0.86, 11_000.0), yearly=0.07, passing=(0.05, 110.0), new=(0.02, 1.0)),
    _Memory(lasting=(0.31, 3_650.0), yearly=0.42, passing=(0.21, 30.0), new=(0.06, 1.0)),
    _Memory(lasting=(0.50, 3_650.0), yearly=0.20, passing=(0.04, 30.0), new=(0.26, 1.0)),
)
"""Of level, detail and what is finer: those of the best next dates and dates between, 2,409 and 1,278 cases of
the training cubes (Sentinel-2 as it came, every 20 days and monthly, Landsat, NAIP, five-yearly composites)."""

_DAY_S = 86_400.0
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
_ROUGH = 0.3
"""Noise in what a regression leaves, over its variance between neighbouring pixels."""

_GUIDE_PX = (1.0, 3.0)
"""Standard deviations of the windows through which a guide is seen: speckle is not land."""
_GUIDE_LAG_PX = 4
_GUIDE_SHRINK = 0.1
"""Weight of the ridge of guides. The best of eighteen choices of windows, lag and weight on 48 images of three training
sites, Sentinel-1 as guide: +0.73 dB over kriging with one radar image, +1.13 with the mean of those within a month."""

_NEAR_DOUBT_PX, _FAR_DOUBT_PX = 10.0, 20.0
"""Standard deviations of the windows that errors are averaged over: of clear pixels, of whole dates."""
_DOUBT_FLOOR = 0.02
"""Least expected error, model units: noise of the sensor."""
_DOUBTS = {"pixels": 0.83, "dates": 1.25}
"""Errors over their foretold size: median over windows of the training cubes; of dates, without the level's."""

_CELL_SPREAD = (1.02, 1.82)
"""How much pixels vary around a place, and in a tile, over how much the cells around do (median)."""
_CELL_LEFT = 1.37
"""How much of a departure is left at pixels over what is left at cells (median)."""
_RATIO_PX = 8.0
"""Standard deviation of the window over which such a ratio is carried on into a gap."""
_GROWTH = (0.75, 0.5, 8.0)
"""What is drawn in a gap over the size of the detail around: at its rim, what it grows by inside, and within how
many pixels. Errors grow further (0.85, 1.14, 1.23, 1.5, 1.63, 1.66 and 1.75 at 2, 6, 12, 20, 28, 40 and 60 px;
440 windows), by large scales that a tile cannot draw: as detail they would stand out as speckle."""
_TILE_FLOOR = 0.03
"""Least contrast of a tile, model units."""

_Image = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def fill(
    values: NDArray[np.floating], known: _Mask, *, noise: float = 0.0, mean: float | None = None
) -> _Image:
    """Return ``values`` with the unknown pixels at their conditional mean under a power-law spectrum.

    Kriging (Matheron 1963, doi:10.2113/gsecongeo.58.8.1246) of all known pixels of a tile, solved by
    preconditioned conjugate gradients from a smooth fill. How rough the land is, and along which direction
    it goes on (fields, valleys, shores), the known pixels tell by their structure function and their
    structure tensor.

    Parameters
    ----------
    values
        Shape (C, H, W), any units; read only where ``known``.
    known
        The same shape. Known pixels come back bit for bit; a plane that has none comes back 0.
    mean
        What is expected far from known pixels; None: their mean.
    noise
        Variance of what pixels do not share with their neighbours, over the variance of the difference
        of neighbours.
    """
    whole = classical.push_pull(values, known)
    # Bands that the cube lacks, and those without a hole, need no transforms.
    partly = known.any(axis=(1, 2)) & ~known.all(axis=(1, 2))
    if not partly.any() or min(values.shape[1:]) < 2:
        return whole
    height, width = (fft.next_fast_len(edge + 2 * _BEYOND_PX, real=True) for edge in values.shape[1:])
    spectrum = _spectrum(
        height, width, _texture(values, known), noise, _LARGEST if mean is None else _NEAREST
    )
    precision = np.float32(1) / spectrum
    values, known, start = values[partly], known[partly], whole[partly]
    count = known.sum(axis=(1, 2), keepdims=True)
    total = np.where(known, values, 0).sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    level: _Image = (total / count if mean is None else np.full(total.shape, mean)).astype(np.float32)
    beyond = [(0, 0)]
    for edge, size in zip(values.shape[1:], (height, width), strict=True):
        beyond.append(((size - edge) // 2, size - edge - (size - edge) // 2))
    inner = np.s_[:, beyond[1][0] : height - beyond[1][1], beyond[2][0] : width - beyond[2][1]]
    free = (~np.pad(known, beyond)).astype(np.float32)

    def within(factor: _Image, image: _Image) -> _Image:
        frequencies = fft.rfft2(image, axes=(1, 2))
        found: _Image = free * fft.irfft2(factor * frequencies, s=(height, width), axes=(1, 2))
        return found

    def product(a: _Image, b: _Image) -> NDArray[np.float32]:
        return np.asarray((a * b).sum(axis=(1, 2), keepdims=True))

    x: _Image = np.pad(start, beyond, mode="symmetric") - level
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
    whole[partly] = np.where(known, start, (x + level)[inner])
    return whole


@dataclass(frozen=True)
class _Texture:
    """How a tile varies: a power-law spectrum of this exponent in the metric a fy^2 + 2 b fy fx + c fx^2."""

    exponent: float = _EXPONENT
    a: float = 1.0
    b: float = 0.0
    c: float = 1.0


def _texture(values: NDArray[np.floating], known: _Mask) -> _Texture:
    """Return what known pixels tell of the unknown ones' variation."""
    squares, counts = [], []
    for lag in _LAGS_PX:
        total, count = 0.0, 0
        for ahead, behind in ((np.s_[:, lag:], np.s_[:, :-lag]), (np.s_[:, :, lag:], np.s_[:, :, :-lag])):
            both = known[ahead] & known[behind]
            total += float(
                np.square(values[ahead] - values[behind], where=both, out=np.zeros(both.shape)).sum()
            )
            count += int(both.sum())
        squares.append(total)
        counts.append(count)
    if min(counts) < _DOUBTED or min(squares) <= 0:
        return _Texture()
    # A straight line through three points evenly spaced in log distance has the slope of the outer two.
    growth = np.log(squares[-1] / counts[-1] * counts[0] / squares[0]) / np.log(_LAGS_PX[-1] / _LAGS_PX[0])
    exponent = float(np.clip(_ROUGHNESS[0] + _ROUGHNESS[1] * growth, *_EXPONENTS))
    across = known[:, 1:-1, 2:] & known[:, 1:-1, :-2] & known[:, 2:, 1:-1] & known[:, :-2, 1:-1]
    down = np.where(across, values[:, 2:, 1:-1] - values[:, :-2, 1:-1], 0).astype(np.float64)
    right = np.where(across, values[:, 1:-1, 2:] - values[:, 1:-1, :-2], 0).astype(np.float64)
    yy, yx, xx = float((down * down).sum()), float((down * right).sum()), float((right * right).sum())
    no_direction = (yy + xx) / 2 * (0.01 + _DOUBTED / max(int(across.sum()), 1))
    yy, xx = yy + no_direction, xx + no_direction
    if no_direction <= 0:
        return _Texture(exponent)
    # Frequencies are found where gradients point to: the metric is the tensor's inverse, of determinant 1.
    unit = np.sqrt(yy * xx - yx * yx)
    return _Texture(exponent, xx / unit, -yx / unit, yy / unit)


def _spectrum(height: int, width: int, texture: _Texture, noise: float, largest: float) -> _Image:
    """Return the variance of each frequency of `scipy.fft.rfft2`; neighbouring pixels differ by variance 2."""
    rows = 2 * np.sin(np.pi * fft.fftfreq(height))[:, None]
    cols = 2 * np.sin(np.pi * fft.rfftfreq(width))
    metric = texture.a * rows**2 + 2 * texture.b * rows * cols + texture.c * cols**2
    variance = (np.maximum(metric, 0) + largest) ** (-texture.exponent / 2)
    # Half of the spectrum stands for the whole: each column but the first and Nyquist's counts twice.
    twice = np.where((cols == 0) | (2 * np.arange(len(cols)) == width), 1, 2)
    variance /= (variance * (rows**2 + cols**2) * twice).sum() / (4 * height * width)
    spectrum: _Image = (variance + noise).astype(np.float32)
    return spectrum


def in_time(
    dates: _Image, times: NDArray[np.int64], when: int, *, pixel: int = 1, sharp: bool = False
) -> _Image:
    """Return what is expected at a moment from other dates of the same place.

    Kriging by scale: the level of a place drifts, and what it will be only its dates can tell (ordinary
    kriging); of detail, a part lasts, a part comes back with the season and a part is gone, which is not
    expected at all (simple kriging): the older a date, the softer what it foretells.

    Parameters
    ----------
    dates
        Shape (N, C, H, W), without gaps.
    times
        Shape (N,), seconds.
    when
        Seconds.
    pixel
        Edge of a pixel of ``dates`` in pixels of the grid.
    sharp
        Keep the contrast of the dates (ordinary kriging of all scales): what is gone, clear pixels of the
        date will tell.
    """
    out: _Image = np.zeros_like(dates[0])
    for part, weights in zip(_scales(dates, pixel), _weights((times - when) / _DAY_S, sharp), strict=True):
        out += _weighted(part, weights)
    return out


def _scales(dates: _Image, pixel: int = 1) -> tuple[_Image, _Image, _Image]:
    """Return level, detail and what is finer, which sum to ``dates``."""
    level, smooth = (
        ndimage.gaussian_filter(dates, (0, 0, width / pixel, width / pixel), mode="reflect")
        for width in (_LEVEL_PX, _FINE_PX)
    )
    return level, smooth - level, dates - smooth


def _weights(away_days: NDArray[np.floating], sharp: bool = False) -> list[NDArray[np.float64]]:
    """Return the weights of dates by scale, those of least variance; of the level, or all, they sum to 1."""
    count = len(away_days)
    between = np.subtract.outer(away_days, away_days)
    found = []
    for scale, memory in enumerate(_MEMORIES):
        system = np.ones((count + 1, count + 1))
        system[:count, :count] = memory.shared(between) + _SAME * np.eye(count)
        system[count, count] = 0
        known = count + (sharp or scale == 0)
        answer = np.append(memory.shared(away_days), 1)
        found.append(np.linalg.solve(system[:known, :known], answer[:known])[:count])
    return found


def _weighted(dates: _Image, weights: NDArray[np.float64]) -> _Image:
    """Return the sum of dates by their weights, one after the other."""
    total = np.zeros(dates.shape[1:], np.float32)
    for date, weight in zip(dates, weights.tolist(), strict=True):
        total += np.float32(weight) * date
    return total


@dataclass(frozen=True)
class Evidence:
    """What pixels, or cells, of a date tell of how it departs from what other dates let expect."""

    dates: _Image
    """Shape (N, C, H, W): the other dates, without gaps."""
    departure: _Image
    """Shape (C, H, W): the date less what was expected of it."""
    seen: _Mask
    """Shape (C, H, W), True where ``departure`` is known."""


def regressed(here: Evidence, around: Evidence | None = None) -> list[_Image]:
    """Return how a date departs from its expectation, as far as the other dates foretell it.

    A ridge regression per band of the departure on all bands of the other dates, over the clear pixels:
    haze, another sun, another growth of each crop are learned where they can be seen.

    Parameters
    ----------
    here
        A tile, by pixels.
    around
        Its surroundings, by cells (`Request.wide`), which count the less the further they are away.

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
    away_px = np.hypot(rows[:, None], cols) * WIDE_CELL_PX
    weights: NDArray[np.float64] = _CELL_WORTH * np.exp(-0.5 * (away_px / _NEAR_PX) ** 2)
    weights[WIDE_CELLS:-WIDE_CELLS, WIDE_CELLS:-WIDE_CELLS] = 0
    weights.flags.writeable = False
    return weights


def guided(departure: _Image, seen: _Mask, guide: NDArray[np.floating]) -> tuple[_Image, _Image]:
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


def estimate(request: Request, target: int) -> tuple[_Image, _Image]:
    """Return the best linear estimate of a date and how far off it may be.

    Both of shape (C, H, W) and in model units: the estimate, with known pixels as they are, and the root
    mean square of its error as clear pixels of the date, or each other date estimated from the rest, tell it.

    Parameters
    ----------
    request
        Without a coarse measurement. With ``wide``, what lies around the tile counts as well, so that tiles
        within one large gap agree.
    target
        Index of the date. Its pixels under ``fill`` count as unknown.
    """
    known = request.known & ~request.fill
    values, seen = request.values[target], known[target]
    others = [date for date in range(len(known)) if date != target and known[date].any()]
    wide = _beyond(request)
    cells: _Image | None = None if wide is None else wide[target]
    expected: _Image = np.zeros_like(values)
    doubt: _Image | None = None
    if others:
        times, when = request.times[others], int(request.times[target])
        dates = _whole(request.values[others], known[others], times)
        alone = not seen.any() and (wide is None or not np.isfinite(wide[target]).any())
        expected = in_time(dates, times, when, sharp=not alone)
        here = Evidence(dates, values - expected, seen)
        around = None
        if wide is not None:
            told = np.isfinite(wide[others])
            beside = _whole(np.where(told, wide[others], np.float32(0)), told, times)
            awaited = in_time(beside, times, when, pixel=WIDE_CELL_PX, sharp=True)
            around = Evidence(beside, wide[target] - awaited, np.isfinite(wide[target]))
            cells = around.departure
        if alone:
            return expected, _doubt_of_dates(dates, times, when)
        moves = regressed(here, around)
        expected = expected + moves[0]
        if around is not None:
            cells = around.departure - moves[1]
        doubt = _doubt_of_pixels(values - expected, seen, cells)
    noise, mean = (_ROUGH if others else 0.0), None
    if cells is not None:
        expected, mean = expected + _surface(cells), 0.0
    left: _Image = np.ones((1, 1, 1), np.float32)
    if request.layout is not None and seen.any():
        drift, left = guided(values - expected, seen, request.layout)
        # Only what a smooth surface through the known pixels does not know of it already.
        expected = expected + drift - fill(drift, seen, noise=noise)
    found = np.where(seen, values, expected + fill(values - expected, seen, noise=noise, mean=mean))
    doubt = _doubt_of_gap(found, seen, cells) if doubt is None else doubt
    return found, (left * doubt).astype(np.float32)


def _surface(cells: _Image) -> _Image:
    """Return what the surroundings let expect of a tile."""
    told = np.isfinite(cells)
    inner = np.s_[:, WIDE_CELLS - 1 : 1 - WIDE_CELLS, WIDE_CELLS - 1 : 1 - WIDE_CELLS]
    whole = cells if told[inner].all() else fill(np.where(told, cells, np.float32(0)), told)
    return classical.from_cells(whole)


def _beyond(request: Request) -> _Image | None:
    """Return the surroundings; None where no cell of them lies beyond the tile: it knows itself better."""
    if request.wide is None:
        return None
    known = np.isfinite(request.wide)
    known[..., WIDE_CELLS:-WIDE_CELLS, WIDE_CELLS:-WIDE_CELLS] = False
    return request.wide if known.any() else None


def _doubt_of_gap(found: _Image, seen: _Mask, cells: _Image | None) -> _Image:
    """Return the size of errors as the land around varies, larger the further a known pixel is."""
    near, told = local_spread(found, seen if seen.any() else np.ones(seen.shape, bool))
    away_px = _away_px(seen)
    if cells is None:
        contrast: _Image = np.hypot(found.std(axis=(1, 2), keepdims=True), np.float32(_TILE_FLOOR))
        near = classical.push_pull(near, told)
    else:
        around, between = local_spread(cells, np.isfinite(cells), window_px=1.0)
        varied = np.maximum(_surface(np.where(between, around, np.float32(np.nan))), _TILE_FLOOR / 10)
        expected, contrast = (np.float32(ratio) * varied for ratio in _CELL_SPREAD)
        near = _carried(near, told & seen.any(), expected)
        away_px = np.minimum(away_px, _surface(_away_px(np.isfinite(cells)) * WIDE_CELL_PX))
    rim, more, within_px = _GROWTH
    growth = rim + more * (1 - np.exp(-away_px / within_px))
    return (growth * size_of_errors(near, contrast)).astype(np.float32)


def _away_px(seen: _Mask) -> _Image:
    """Return the distance of each pixel, or cell, to the nearest known one; without any, the largest."""
    furthest = np.full(seen.shape, float(max(seen.shape[1:])), np.float32)
    return np.stack(
        [
            ndimage.distance_transform_edt(~plane).astype(np.float32) if plane.any() else far
            for plane, far in zip(seen, furthest, strict=True)
        ]
    )


def _doubt_of_pixels(left: _Image, seen: _Mask, cells: _Image | None) -> _Image:
    """Return the size of errors as what is left at clear pixels, and cells, around tells it."""
    size, told = _rms(left, seen, _NEAR_DOUBT_PX)
    if cells is None:
        size = classical.push_pull(size, told)
    else:
        around, between = _rms(cells, np.isfinite(cells), _NEAR_DOUBT_PX / WIDE_CELL_PX)
        size = _carried(
            size, told, np.float32(_CELL_LEFT) * _surface(np.where(between, around, np.float32(np.nan)))
        )
    doubt: _Image = np.hypot(_DOUBTS["pixels"] * size, _DOUBT_FLOOR)
    return doubt


def _rms(image: _Image, known: _Mask, window_px: float) -> tuple[_Image, _Mask]:
    """Return the root mean square around each pixel, and where enough is known to tell."""
    spread = (0, window_px, window_px)
    weight = ndimage.gaussian_filter(known.astype(np.float32), spread, mode="reflect")
    square = ndimage.gaussian_filter(np.where(known, image, 0) ** 2, spread, mode="reflect")
    return np.sqrt(square / np.maximum(weight, 1e-3)), weight > 0.1


def _carried(near: _Image, told: _Mask, expected: _Image) -> _Image:
    """Return ``near`` where told, elsewhere what the surroundings let expect.

    In a gap wider than the tile nothing in it varies, and its neighbours must come to the same size: their
    ratio is carried on into the gap and forgotten.
    """
    ratio = np.where(told, np.log(np.maximum(near, 1e-3) / np.maximum(expected, 1e-3)), 0)
    spread = (0, _RATIO_PX, _RATIO_PX)
    carried = ndimage.gaussian_filter(ratio, spread, mode="reflect")
    carried /= ndimage.gaussian_filter(told.astype(np.float32), spread, mode="reflect") + 0.1
    size: _Image = expected * np.exp(np.where(told, ratio, carried))
    return size


def _doubt_of_dates(dates: _Image, times: NDArray[np.int64], when: int) -> _Image:
    """Return the size of errors as detail around varies and as far as it is not remembered.

    Errors of the level are left out: a tile cannot draw them, and as detail they would stand out as speckle.
    """
    away = (times - when) / _DAY_S
    square: _Image = np.zeros_like(dates[0])
    for part, memory, weights in list(zip(_scales(dates), _MEMORIES, _weights(away), strict=True))[1:]:
        forgotten = np.float32(1 - weights @ memory.shared(away))
        square += forgotten * np.square(part).mean(axis=0)
    square = ndimage.gaussian_filter(square, (0, _FAR_DOUBT_PX, _FAR_DOUBT_PX), mode="reflect")
    return np.hypot(_DOUBTS["dates"] * np.sqrt(square), _DOUBT_FLOOR).astype(np.float32)


def _whole(values: _Image, known: _Mask, times: NDArray[np.int64]) -> _Image:
    """Return dates with their gaps filled from each other."""
    dates: Sequence[_Image] = [
        values[date] if known[date].all() else classical.temporal(values, known, times, date)
        for date in range(len(values))
    ]
    return np.stack(dates)
