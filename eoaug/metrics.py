"""How good a result is: distances to the truth, consistency, sharpness, seams, spread.

Numpy, scipy and skimage. Images are (C, H, W) in one physical unit; a data range is always an argument,
never a statistic of the image, so that numbers of two images can be compared. NaN in, NaN out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

from eoaug.errors import ParameterError
from eoaug.raster.arrays import FloatArray
from eoaug.raster.sensor import Sensor

__all__ = [
    "Interval",
    "Seams",
    "bootstrap_interval",
    "consistency",
    "coverage",
    "crps",
    "ergas",
    "ghost_ratio",
    "kernel_distance",
    "pattern_ratio",
    "psnr",
    "rmse",
    "sam",
    "seam_ratio",
    "spectrum_distance",
    "spectrum_ratio",
    "ssim",
]


class Interval(NamedTuple):
    """A confidence interval; NaN where there are too few groups to tell."""

    low: float
    high: float


class Seams(NamedTuple):
    """What `seam_ratio` and `ghost_ratio` find."""

    ratio: float
    """The figure on the lattice over that beside it; 1 = nothing to be seen."""
    elsewhere: NDArray[np.float64]
    """The same ratio for other offsets of the lattice, ascending from the next one. A lattice that lies
    inside their range cannot be told from the scene."""


def rmse(estimate: FloatArray, truth: FloatArray, *, where: NDArray[np.bool_] | None = None) -> float:
    """Return the root mean square error, in the images' unit.

    Parameters
    ----------
    estimate, truth
        Equal shapes.
    where
        Pixels that count, broadcast to the shape; None: all.
    """
    a, b = _pair(estimate, truth)
    square = (a - b) ** 2
    if where is not None:
        where = np.broadcast_to(where, square.shape)
        if not where.any():
            return float("nan")
        square = square[where]
    return float(np.sqrt(np.mean(square)))


def psnr(
    estimate: FloatArray, truth: FloatArray, *, data_range: float, where: NDArray[np.bool_] | None = None
) -> float:
    """Return the peak signal-to-noise ratio, 20 log10(data_range / rmse), in decibels.

    Parameters
    ----------
    estimate, truth
        Equal shapes.
    data_range
        Span of the values that the unit allows: 1 for reflectance.
    where
        Pixels that count; None: all.
    """
    error = rmse(estimate, truth, where=where)
    _positive(data_range, "data_range")
    return float("inf") if error == 0 else float(20 * np.log10(data_range / error))


def ssim(
    estimate: FloatArray, truth: FloatArray, *, data_range: float, where: NDArray[np.bool_] | None = None
) -> float:
    """Return the structural similarity, -1 to 1, as the mean over bands and pixels.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861: Gaussian window of 1.5 px (11 x 11), K = 0.01 and 0.03.

    Parameters
    ----------
    estimate, truth
        Shape (C, H, W), at least 11 x 11 pixels.
    data_range
        Span of the values that the unit allows: 1 for reflectance. Dark scenes score higher than in papers
        that stretch each image.
    where
        Pixels whose windows count; None: all but the outermost five, as in the paper's code.
    """
    a, b = _pair(estimate, truth)
    _positive(data_range, "data_range")
    mean, local = structural_similarity(  # type: ignore[no-untyped-call]
        a,
        b,
        channel_axis=0,
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    if where is None:
        return float(mean)
    where = np.broadcast_to(where, local.shape)
    return float(local[where].mean()) if where.any() else float("nan")


def sam(estimate: FloatArray, truth: FloatArray) -> float:
    """Return the mean spectral angle in degrees, 0 to 180; pixels that are 0 in all bands do not count.

    Kruse et al. 1993, doi:10.1016/0034-4257(93)90013-N.

    Parameters
    ----------
    estimate, truth
        Shape (C, H, W).
    """
    a, b = _pair(estimate, truth)
    length_a, length_b = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0)
    counts = (length_a != 0) & (length_b != 0)
    if not counts.any():
        return float("nan")
    unit_a, unit_b = (x[:, counts] / length[counts] for x, length in ((a, length_a), (b, length_b)))
    # Half-angle form: the arc cosine of the product loses the small angles.
    chord, sum_ = np.linalg.norm(unit_a - unit_b, axis=0), np.linalg.norm(unit_a + unit_b, axis=0)
    return float(np.degrees(np.mean(2 * np.arctan2(chord, sum_))))


def ergas(estimate: FloatArray, truth: FloatArray, *, factor: int) -> float:
    """Return the relative dimensionless global error of a sharpened image; 0 is perfect, 3 is good.

    100 / factor x sqrt(mean over bands of (rmse / mean)^2), Wald 2000 (Third conference "Fusion of Earth
    data", pp. 99-103).

    Parameters
    ----------
    estimate, truth
        Shape (C, H, W); the means of the bands of ``truth`` are not 0.
    factor
        Fine pixels per coarse pixel along one axis.
    """
    a, b = _pair(estimate, truth)
    _positive(factor, "factor")
    error = np.mean((a - b) ** 2, axis=(1, 2))
    return float(100.0 / factor * np.sqrt(np.mean(error / np.mean(b, axis=(1, 2)) ** 2)))


def consistency(fine: FloatArray, coarse: FloatArray, *, sensor: Sensor) -> float:
    """Return the root mean square of what the sensor would measure less what it did, in the images' unit.

    Wald's consistency property (Wald et al. 1997, PE&RS 63(6), 691-699).

    Parameters
    ----------
    fine
        Shape (..., C, H, W).
    coarse
        Shape (..., C, H // f, W // f); NaN does not count.
    sensor
        How the coarse pixels were measured.
    """
    measured = np.asarray(coarse, dtype=np.float64)
    return rmse(sensor.degrade(fine), np.nan_to_num(measured), where=np.isfinite(measured))


def spectrum_ratio(
    estimate: FloatArray,
    truth: FloatArray,
    *,
    band: tuple[float, float] = (0.5, 1.0),
    where: NDArray[np.bool_] | None = None,
) -> float:
    """Return the estimate's energy at high frequencies over the truth's; below 1 is soft, above 1 noisy.

    Radially averaged power spectrum (Ulichney 1988, doi:10.1109/5.3288): the mean over rings of one
    frequency step, so that every scale counts alike.

    Parameters
    ----------
    estimate, truth
        Shape (C, H, W).
    band
        (low, high) frequency in units of the Nyquist frequency, 0 to 1.
    where
        Shape (H, W), the pixels that are looked at, under a window that falls to 0 at their border; None:
        all, under a Hann window.
    """
    a, b = _pair(estimate, truth)
    ours, theirs = (_ring_power(image, band, where).sum() for image in (a, b))
    if theirs == 0:
        return 1.0 if ours == 0 else float("inf")
    return float(ours / theirs)


def spectrum_distance(
    estimate: FloatArray, truth: FloatArray, *, where: NDArray[np.bool_] | None = None
) -> float:
    """Return how far two radially averaged power spectra lie apart, in decibels; 0 is equal.

    The log spectral distance (Gray & Markel 1976, doi:10.1109/TASSP.1976.1162849): root mean square over
    rings of the difference of the logarithms, mean over bands. A ring counts with at most 60 dB.

    Parameters
    ----------
    estimate, truth
        Shape (C, H, W).
    where
        As for `spectrum_ratio`.
    """
    a, b = _pair(estimate, truth)
    distances = []
    for ours, theirs in zip(a, b, strict=True):
        low = 2.0 / min(a.shape[1:])  # what lies below the first ring is the level and the window
        p, q = (_ring_power(plane[None], (low, 1.0), where)[1:] for plane in (ours, theirs))
        floor = np.finfo(float).tiny
        ratio = np.clip(10 * np.log10(np.maximum(p, floor) / np.maximum(q, floor)), -60, 60)
        distances.append(np.sqrt(np.mean(ratio**2)))
    return float(np.mean(distances))


def pattern_ratio(
    image: FloatArray, *, period_px: int, where: NDArray[np.bool_] | None = None, reach: int = 6
) -> float:
    """Return the power at the frequencies of a pattern over that of the frequencies around them.

    A network that folds or doubles pixels by p may print a pattern of period p: power at the multiples of
    1/p along either axis (Odena et al. 2016, doi:10.23915/distill.00003). The mean over these of the power
    over that of the neighbouring frequencies; 1 = nothing to be seen.

    Parameters
    ----------
    image
        Shape (C, H, W), edges multiples of ``period_px``.
    period_px
        Period of the pattern.
    where
        As for `spectrum_ratio`.
    reach
        Radius of what is around, in frequency steps of the image; a pattern's own are the innermost one
        and a half.
    """
    values = np.asarray(image, dtype=np.float64)
    height, width = values.shape[-2:]
    if period_px < 2 or height % period_px or width % period_px or min(height, width) < 4 * period_px:
        raise ParameterError(
            f"A pattern of {period_px} px was looked for in {height} x {width} pixels.",
            "Give a period of at least 2 that divides the image's edges four times or more.",
        )
    power = _power(values, where).sum(axis=0)
    points = np.zeros(power.shape)
    points[:: height // period_px, :: width // period_px] = 1
    away = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1])
    disc = (away <= 1.5).astype(float)

    def near(of: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.convolve(of, kernel, mode="wrap"))

    beside = np.asarray(near(points, disc) == 0, dtype=np.float64)  # what belongs to no pattern
    ring = (away <= reach).astype(float)
    around = near(power * beside, ring) / np.maximum(near(beside, ring), 1)
    points[0, 0] = 0
    on, off = (near(power, disc) / disc.sum())[points > 0], around[points > 0]
    return float(np.mean(np.divide(on, off, out=np.ones(on.shape), where=off > 0)))


def seam_ratio(image: FloatArray, *, stride: int, origin: tuple[int, int] = (0, 0)) -> Seams:
    """Return how visible the borders of a tile lattice are.

    The mean step across block borders of Wang, Sheikh & Bovik 2002 (doi:10.1109/ICIP.2002.1038064), beside
    its own null distribution.

    Parameters
    ----------
    image
        Shape (..., H, W), longer than ``stride`` along both axes.
    stride
        Pixels from one tile's first pixel to the next one's.
    origin
        Absolute pixel index (row, column) of the image's first pixel; a border lies before every multiple
        of ``stride``.
    """
    values = _larger_than(image, stride)
    steps = [(axis, np.abs(np.diff(values, axis=axis)), 1) for axis in (-2, -1)]
    ratio = _over_the_rest(*_by_offset(steps, stride, origin))
    return Seams(float(ratio[0]), ratio[1:])


def ghost_ratio(image: FloatArray, *, stride: int, overlap: int, origin: tuple[int, int] = (0, 0)) -> Seams:
    """Return how much detail the overlaps of a tile lattice have kept.

    Two samples that disagree cancel where they are averaged: the local variance (squared difference from
    the mean of 3 x 3 pixels) falls there, to a half at worst. ``ratio`` is that of the overlaps over the
    rest; ``elsewhere`` that of bands as wide at the offsets that touch no overlap.

    Parameters
    ----------
    image
        Shape (..., H, W), longer than ``stride`` along both axes.
    stride
        Pixels from one tile's first pixel to the next one's.
    overlap
        Pixels that neighbours share, less than half of ``stride``; from each multiple of ``stride`` on.
    origin
        Absolute pixel index (row, column) of the image's first pixel.
    """
    values = _larger_than(image, stride)
    if not 0 < overlap < stride / 2:
        raise ParameterError(
            f"An overlap of {overlap} px was looked at on a stride of {stride}.",
            "Give an overlap of at least 1 and less than half of the stride.",
        )
    mean = ndimage.uniform_filter(values, (0,) * (values.ndim - 2) + (3, 3), mode="nearest")
    detail = (values - mean) ** 2
    total, count = _by_offset([(axis, detail, 0) for axis in (-2, -1)], stride, origin)
    band = (np.arange(stride)[:, None] + np.arange(overlap)) % stride
    ratio = _over_the_rest(total[band].sum(axis=1), count[band].sum(axis=1), total.sum(), count.sum())
    return Seams(float(ratio[0]), ratio[overlap : stride - overlap + 1])


def _larger_than(image: FloatArray, stride: int) -> NDArray[np.float64]:
    values = np.asarray(image, dtype=np.float64)
    if stride < 2 or min(values.shape[-2:]) <= stride:
        raise ParameterError(
            f"Seams of stride {stride} were looked for in {values.shape[-2]} x {values.shape[-1]} pixels.",
            "Give a stride of at least 2 and an image that is larger than one stride.",
        )
    return values


def _by_offset(
    parts: list[tuple[int, NDArray[np.float64], int]], stride: int, origin: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and number of (axis, values, index of the first line) per offset within the stride."""
    total, count = np.zeros(stride), np.zeros(stride)
    for axis, values, first in parts:
        lines = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        offset = (origin[axis] + first + np.arange(len(lines))) % stride
        np.add.at(total, offset, lines.sum(axis=1))
        np.add.at(count, offset, lines.shape[1])
    return total, count


def _over_the_rest(
    total: NDArray[np.float64],
    count: NDArray[np.float64],
    all_total: float | None = None,
    all_count: float | None = None,
) -> NDArray[np.float64]:
    """Return each mean over that of what is left of the whole; 1 where nothing varies."""
    whole = total.sum() if all_total is None else all_total
    number = count.sum() if all_count is None else all_count
    rest = (whole - total) / (number - count)
    return np.divide(total / count, rest, out=np.ones(len(total)), where=rest > 0)


def crps(members: FloatArray, truth: FloatArray, *, where: NDArray[np.bool_] | None = None) -> float:
    """Return the continuous ranked probability score of an ensemble, in the images' unit; 0 is perfect.

    The fair estimator (Ferro 2014, doi:10.1002/qj.2270), whose expectation does not depend on the number of
    members; one member: the mean absolute error.

    Parameters
    ----------
    members
        Shape (M, ...).
    truth
        Shape (...).
    where
        Pixels that count; None: all.
    """
    ensemble, target = np.asarray(members, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if ensemble.ndim == 0 or ensemble.shape[1:] != target.shape:
        raise ParameterError(
            f"An ensemble of shape {ensemble.shape} meets a truth of shape {target.shape}.",
            "Put the members on the first axis.",
        )
    size = len(ensemble)
    score = np.abs(ensemble - target).mean(axis=0)
    if size > 1:
        # The sum of |x_i - x_j| over all pairs, from ranks.
        rank = (2 * np.arange(size) - size + 1).reshape(-1, *[1] * target.ndim)
        score -= np.sum(rank * np.sort(ensemble, axis=0), axis=0) / (size * (size - 1))
    return float(score.mean() if where is None else score[np.broadcast_to(where, score.shape)].mean())


def coverage(
    members: FloatArray, truth: FloatArray, *, level: float = 0.9, where: NDArray[np.bool_] | None = None
) -> float:
    """Return the share of pixels that lie inside the central interval of an ensemble.

    The interval's ends are the (1 - level) / 2 and (1 + level) / 2 quantiles of the members of a pixel by
    Weibull's rule, position p (M + 1) (type 6 of Hyndman & Fan 1996, doi:10.1080/00031305.1996.10473566):
    a truth that cannot be told from a member lies inside with probability ``level``.

    Parameters
    ----------
    members
        Shape (M, ...), with M + 1 at least 2 / (1 - level): 19 members for 0.9.
    truth
        Shape (...).
    level
        Probability of the interval, 0 to 1.
    where
        Pixels that count; None: all.
    """
    ensemble, target = np.asarray(members, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if ensemble.ndim == 0 or ensemble.shape[1:] != target.shape:
        raise ParameterError(
            f"An ensemble of shape {ensemble.shape} meets a truth of shape {target.shape}.",
            "Put the members on the first axis.",
        )
    if not 0 < level < 1 or (len(ensemble) + 1) * (1 - level) < 2 - 1e-9:
        raise ParameterError(
            f"An interval of {level:g} was asked of {len(ensemble)} members.",
            "Give at least 2 / (1 - level) - 1 members: 19 for 0.9.",
        )
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(ensemble, ends, axis=0, method="weibull")
    inside = (low <= target) & (target <= high)
    if where is not None:
        inside = inside[np.broadcast_to(where, inside.shape)]
    return float(inside.mean()) if inside.size else float("nan")


def kernel_distance(first: FloatArray, second: FloatArray) -> float:
    """Return the squared maximum mean discrepancy of two sets of features; about 0 for equal laws.

    The kernel (x . y / d + 1)^3 and the unbiased estimator, which can be negative: the kernel inception
    distance (Binkowski et al. 2018, arXiv:1801.01401) when the features are those of Inception.

    Parameters
    ----------
    first, second
        Shapes (N, d) and (M, d), at least two rows each.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ParameterError(
            f"Features of shapes {x.shape} and {y.shape} cannot be compared.",
            "Give two sets of at least two vectors of one length.",
        )

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    def within(a: NDArray[np.float64]) -> float:
        k = kernel(a, a)
        return float((k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[object], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return the confidence interval of the mean of ``values``, with whole groups drawn anew.

    Windows of one place resemble each other: places are drawn with replacement, not windows (cluster
    bootstrap, Field & Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x).

    Parameters
    ----------
    values
        Shape (N,).
    groups
        N labels, such as places. Fewer than two different ones give NaN.
    level
        Coverage, 0 to 1.
    draws
        Bootstrap samples.
    seed
        Seed of the draws.
    """
    numbers = np.asarray(values, dtype=np.float64)
    labels = list(groups)
    if numbers.shape != (len(labels),):
        raise ParameterError(
            f"{numbers.shape} values have {len(labels)} group labels.", "Give one label per value."
        )
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    if len(index) < 2:
        return Interval(float("nan"), float("nan"))
    member = np.array([index[label] for label in labels])
    total = np.bincount(member, weights=numbers, minlength=len(index))
    count = np.bincount(member, minlength=len(index))
    drawn = np.random.default_rng(seed).integers(len(index), size=(draws, len(index)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _pair(estimate: FloatArray, truth: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if a.shape != b.shape:
        raise ParameterError(
            f"An estimate of shape {a.shape} meets a truth of shape {b.shape}.", "Give equal shapes."
        )
    return a, b


def _positive(value: float, name: str) -> None:
    if not value > 0:
        raise ParameterError(f"{name} is {value}.", f"Give a positive {name}.")


_RAMP_PX = 6.0
"""Width of the slope of a window over some pixels only."""


def _power(image: NDArray[np.float64], where: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return the power spectra, shape (C, H, W), of the first differences under a window.

    Differences whiten a landscape, so that what leaks through a ragged window is small (Blackman & Tukey
    1958, prewhitening); in ratios of power their transfer cancels.
    """
    height, width = image.shape[-2:]
    if where is None:
        window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    else:
        depth = ndimage.distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
        window = np.sin(np.pi / 2 * np.minimum(depth / _RAMP_PX, 1)) ** 2
    power = np.zeros(image.shape)
    for axis in (-2, -1):
        steps = np.diff(image, axis=axis, prepend=np.take(image, [0], axis=axis))
        power += np.abs(np.fft.fft2(steps * window)) ** 2
    return power


def _ring_power(
    image: NDArray[np.float64], band: tuple[float, float], where: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Return the mean power per ring of one frequency step, summed over bands; 0 beyond ``band``."""
    height, width = image.shape[-2:]
    radius = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    rings = min(height, width) // 2
    ring = np.floor(radius * rings).astype(int)
    kept = (radius >= band[0]) & (radius < band[1])
    planes = _power(image, where).sum(axis=0)
    total = np.bincount(ring[kept], weights=planes[kept], minlength=rings)
    return np.asarray(total / np.maximum(np.bincount(ring[kept], minlength=rings), 1))
