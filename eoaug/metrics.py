"""Image quality metrics: errors, consistency, spectra, grid artefacts, tile seams and ensemble scores.

Images are (C, H, W) in one physical unit. The data range is always an argument, never a statistic of the image, so
that values of two images can be compared. NaN in the images gives NaN.
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
from eoaug.raster.seams import Seams, ghost_ratio, seam_ratio
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
    """A confidence interval; NaN with fewer than two groups."""

    low: float
    high: float


def rmse(estimate: FloatArray, truth: FloatArray, *, where: NDArray[np.bool_] | None = None) -> float:
    """Return the root mean square error, in the images' unit.

    Parameters
    ----------
    estimate, truth
        Equal shapes.
    where
        Pixels that are scored, broadcast to the shape; None: all.
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
        Pixels that are scored; None: all.
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
        Pixels whose windows are scored; None: all but the outermost five, as in the paper's code.
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
    """Return the mean spectral angle in degrees, 0 to 180; pixels that are 0 in all bands are ignored.

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
    # Half-angle form: the arc cosine of the product is inaccurate for small angles.
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
    """Return the RMSE between the degraded fine image and the coarse measurement, in the images' unit.

    Wald's consistency property (Wald et al. 1997, PE&RS 63(6), 691-699).

    Parameters
    ----------
    fine
        Shape (..., C, H, W).
    coarse
        Shape (..., C, H // f, W // f); NaN is ignored.
    sensor
        Sensor model of the coarse measurement.
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
    """Return the energy at high frequencies relative to the truth; below 1 is smooth, above 1 noisy.

    Radially averaged power spectrum (Ulichney 1988, doi:10.1109/5.3288): the mean over rings of one
    frequency step, so that every scale has the same weight.

    Parameters
    ----------
    estimate, truth
        Shape (C, H, W).
    band
        (low, high) frequency in units of the Nyquist frequency, 0 to 1.
    where
        Shape (H, W), the pixels to analyse, under a window that falls to 0 at their border; None:
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
    """Return the distance of two radially averaged power spectra in decibels; 0 is equal.

    The log spectral distance (Gray & Markel 1976, doi:10.1109/TASSP.1976.1162849): root mean square over
    rings of the difference of the logarithms, mean over bands. The difference of a ring is limited to 60 dB.

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
        low = 2.0 / min(a.shape[1:])  # below the first ring lie the mean level and the window
        p, q = (_ring_power(plane[None], (low, 1.0), where)[1:] for plane in (ours, theirs))
        floor = np.finfo(float).tiny
        ratio = np.clip(10 * np.log10(np.maximum(p, floor) / np.maximum(q, floor)), -60, 60)
        distances.append(np.sqrt(np.mean(ratio**2)))
    return float(np.mean(distances))


def pattern_ratio(
    image: FloatArray, *, period_px: int, where: NDArray[np.bool_] | None = None, reach: int = 6
) -> float:
    """Return the power at the frequencies of a periodic artefact relative to the neighbouring frequencies.

    A network that unshuffles or upsamples pixels by p can leave an artefact of period p: power at the multiples of
    1/p along either axis (Odena et al. 2016, doi:10.23915/distill.00003). The result is the mean over these
    frequencies; 1 = not visible.

    Parameters
    ----------
    image
        Shape (C, H, W), edges multiples of ``period_px``.
    period_px
        Period of the artefact in pixels.
    where
        As for `spectrum_ratio`.
    reach
        Radius of the neighbourhood in frequency steps of the image; its innermost 1.5 steps belong to the artefact.
    """
    values = np.asarray(image, dtype=np.float64)
    height, width = values.shape[-2:]
    if period_px < 2 or height % period_px or width % period_px or min(height, width) < 4 * period_px:
        raise ParameterError(
            f"period_px is {period_px}, the image has {height} x {width} pixels",
            "use a period of at least 2 that divides the image's edges four times or more",
        )
    power = _power(values, where).sum(axis=0)
    points = np.zeros(power.shape)
    points[:: height // period_px, :: width // period_px] = 1
    away = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1])
    disc = (away <= 1.5).astype(float)

    def summed(values: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.convolve(values, kernel, mode="wrap"))

    background = np.asarray(summed(points, disc) == 0, dtype=np.float64)
    neighbourhood = (away <= reach).astype(float)
    around = summed(power * background, neighbourhood)
    around /= np.maximum(summed(background, neighbourhood), 1)
    points[0, 0] = 0
    on, off = (summed(power, disc) / disc.sum())[points > 0], around[points > 0]
    return float(np.mean(np.divide(on, off, out=np.ones(on.shape), where=off > 0)))


def _ensemble(members: FloatArray, truth: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return members and truth as float64, or raise if their shapes do not match."""
    ensemble, target = np.asarray(members, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if ensemble.ndim == 0 or ensemble.shape[1:] != target.shape:
        raise ParameterError(
            f"an ensemble of shape {ensemble.shape} does not match a truth of shape {target.shape}",
            "put the members on the first axis",
        )
    return ensemble, target


def crps(members: FloatArray, truth: FloatArray, *, where: NDArray[np.bool_] | None = None) -> float:
    """Return the continuous ranked probability score of an ensemble, in the images' unit; 0 is perfect.

    The fair estimator (Ferro 2014, doi:10.1002/qj.2270), whose expectation does not depend on the number of
    members; with one member it is the mean absolute error.

    Parameters
    ----------
    members
        Shape (M, ...).
    truth
        Shape (...).
    where
        Pixels that are scored; None: all.
    """
    ensemble, target = _ensemble(members, truth)
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
    """Return the share of pixels inside the central interval of an ensemble.

    The interval's ends are the (1 - level) / 2 and (1 + level) / 2 quantiles of the members of a pixel by
    Weibull's rule, position p (M + 1) (type 6 of Hyndman & Fan 1996, doi:10.1080/00031305.1996.10473566):
    a truth that is exchangeable with the members lies inside with probability ``level``.

    Parameters
    ----------
    members
        Shape (M, ...), with M + 1 at least 2 / (1 - level): 19 members for 0.9.
    truth
        Shape (...).
    level
        Probability of the interval, 0 to 1.
    where
        Pixels that are scored; None: all.
    """
    ensemble, target = _ensemble(members, truth)
    if not 0 < level < 1 or (len(ensemble) + 1) * (1 - level) < 2 - 1e-9:
        raise ParameterError(
            f"level is {level:g} with {len(ensemble)} members",
            "use at least 2 / (1 - level) - 1 members: 19 for 0.9",
        )
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(ensemble, ends, axis=0, method="weibull")
    inside = (low <= target) & (target <= high)
    if where is not None:
        inside = inside[np.broadcast_to(where, inside.shape)]
    return float(inside.mean()) if inside.size else float("nan")


def kernel_distance(first: FloatArray, second: FloatArray) -> float:
    """Return the squared maximum mean discrepancy of two sets of features; about 0 for equal distributions.

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
            f"features of shapes {x.shape} and {y.shape} cannot be compared",
            "pass two sets of at least two vectors of one length",
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
    """Return the bootstrap confidence interval of the mean of ``values``, resampling whole groups.

    Windows of one place are correlated: places are drawn with replacement, not windows (cluster
    bootstrap, Field & Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x).

    Parameters
    ----------
    values
        Shape (N,).
    groups
        N labels, such as places. Fewer than two different labels give NaN.
    level
        Coverage, 0 to 1.
    draws
        Number of bootstrap samples.
    seed
        Random seed.
    """
    numbers = np.asarray(values, dtype=np.float64)
    labels = list(groups)
    if numbers.shape != (len(labels),):
        raise ParameterError(
            f"{numbers.shape} values have {len(labels)} group labels", "pass one label per value"
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
            f"an estimate of shape {a.shape} does not match a truth of shape {b.shape}", "pass equal shapes"
        )
    return a, b


def _positive(value: float, name: str) -> None:
    if not value > 0:
        raise ParameterError(f"{name} is {value}", f"use a positive {name}")


_RAMP_PX = 6.0
"""Width of the taper of a window that covers some of the pixels."""


def _power(image: NDArray[np.float64], where: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return the power spectra, shape (C, H, W), of the first differences under a window.

    Differences whiten the spectrum of a landscape and so reduce leakage through an irregular window (Blackman & Tukey
    1958, prewhitening); in ratios of power their transfer function cancels.
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
