"""What makes an image look like land: its edges and lines, regions, gradients and spectrum, as a few numbers.

A network that draws texture of the right colour fools a classifier and distances of features. It does not fool counts of
edges: fields have long straight ones, streets many short ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.raster.arrays import BoolArray, FloatArray

__all__ = ["STATISTICS", "Structure", "structure"]


_FLOOR = 0.02
"""Reflectance added before the logarithm."""
_SCALE_PX = 1.0
"""Standard deviation of the Gaussian before gradients are taken."""
_WEAK, _STRONG = 0.02, 0.05
"""Gradients of log brightness per pixel between which an edge continues, and from which it begins (hysteresis)."""
_LEAST_LINE_PX = 8
"""Length from which a line has a direction."""
_NOISE = 0.05
"""Difference of log brightness that does not separate regions."""
_REGION = 8.0
"""Difference, in `_NOISE`, that separates a region of one pixel; that of n pixels is separated by an n-th of it."""
_LEAST_REGION_PX = 8
_PERIODS_PX = (2.5, 20.0)
"""Range of the spectral slope."""


@dataclass(frozen=True)
class Structure:
    """Statistics of one image."""

    edge_density: float
    """Share of the pixels that are on an edge."""
    line_length: float
    """Length in pixels of the line that an average edge pixel is on; 0 without an edge."""
    straightness: float
    """1 for straight lines, 0 for blobs: one minus the ratio of the spreads across and along a line, weighted by length, of
    lines of 8 pixels and more; 0 without one."""
    region_size: float
    """Binary logarithm of the area in pixels of the region that an average pixel is in."""
    gradient: float
    """Logarithm of the median gradient."""
    contrast: float
    """Logarithm of the 95th percentile of gradients over their median: large for sharp edges between even areas."""
    slope: float
    """Exponent of the power spectrum of brightness, negative."""
    blue_red: float
    """Correlation of the first and the last visible band."""


STATISTICS = tuple(field.name for field in fields(Structure))


def structure(image: FloatArray) -> Structure:
    """Return the statistics of an image.

    Edges are those of Canny (1986, doi:10.1109/TPAMI.1986.4767851) in log brightness with fixed thresholds; a line is a
    piece of an edge between two junctions. Regions are those of Felzenszwalb & Huttenlocher (2004,
    doi:10.1023/B:VISI.0000022288.19776.77).

    Parameters
    ----------
    image
        Shape (3, H, W), reflectance of blue, green and red; no NaN.
    """
    values = np.asarray(image, np.float64)
    bright = np.log(np.maximum(values.mean(axis=0), 0) + _FLOOR)
    gradient = np.hypot(
        *(ndimage.gaussian_filter(bright, _SCALE_PX, order=order) for order in ((0, 1), (1, 0)))
    )
    edges = _edges(bright)
    lengths, straight = _lines(edges)
    long = lengths >= _LEAST_LINE_PX
    middle, high = np.percentile(gradient, (50, 95))
    return Structure(
        edge_density=float(edges.mean()),
        line_length=float((lengths**2).sum() / lengths.sum()) if lengths.size else 0.0,
        straightness=float((lengths * straight)[long].sum() / lengths[long].sum()) if long.any() else 0.0,
        region_size=_region_size(bright),
        gradient=float(np.log(middle + 1e-4)),
        contrast=float(np.log((high + 1e-4) / (middle + 1e-4))),
        slope=_slope(bright),
        blue_red=_correlation(values[0], values[-1]),
    )


def _edges(bright: NDArray[np.float64]) -> BoolArray:
    from skimage.feature import canny
    from skimage.morphology import skeletonize

    # canny measures gradients by Sobel's filter, whose response to a slope of 1 per pixel is 2.
    thresholds = {"low_threshold": 2 * _WEAK, "high_threshold": 2 * _STRONG}
    found = canny(bright, sigma=_SCALE_PX, **thresholds)  # type: ignore[no-untyped-call]
    # A corner of a staircase would count as a junction.
    thin: BoolArray = skeletonize(found)  # type: ignore[no-untyped-call]
    return thin


def _lines(edges: BoolArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return length and straightness of the pieces of edges between junctions."""
    around = ndimage.convolve(edges.astype(np.int64), np.ones((3, 3), np.int64), mode="constant") - 1
    labels, count = ndimage.label(edges & (around <= 2), structure=np.ones((3, 3)))
    rows, cols = np.nonzero(labels)
    own = labels[rows, cols] - 1

    def mean(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(own, numbers, count) / np.bincount(own, minlength=count)

    if not count:
        return np.zeros(0), np.zeros(0)
    y, x = rows - mean(rows.astype(float))[own], cols - mean(cols.astype(float))[own]
    yy, xx, yx = mean(y * y), mean(x * x), mean(y * x)
    half, root = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    along, across = half + root, np.maximum(half - root, 0)
    straight = 1 - np.sqrt(across / np.maximum(along, 1e-9))
    return np.bincount(own, minlength=count).astype(np.float64), straight


def _region_size(bright: NDArray[np.float64]) -> float:
    from skimage.segmentation import felzenszwalb

    # skimage divides the scale by 255.
    labels = felzenszwalb(
        bright / _NOISE, scale=255 * _REGION, sigma=0.6, min_size=_LEAST_REGION_PX, channel_axis=None
    )
    area = np.bincount(labels.ravel())
    return float((area * np.log2(np.maximum(area, 1))).sum() / area.sum())


def _slope(bright: NDArray[np.float64]) -> float:
    rows, cols = bright.shape
    window = np.hanning(rows + 2)[1:-1, None] * np.hanning(cols + 2)[1:-1]
    power = np.abs(np.fft.rfft2((bright - bright.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols))
    used = (frequency >= 1 / _PERIODS_PX[1]) & (frequency <= 1 / _PERIODS_PX[0])
    # Rings of one octave's quarter have equal weight: there are more fine frequencies than coarse ones.
    ring = np.round(4 * np.log2(frequency[used])).astype(np.int64)
    ring -= ring.min()
    count = np.bincount(ring)
    mean = np.bincount(ring, power[used])[count > 0] / count[count > 0]
    return float(np.polyfit(np.flatnonzero(count) / 4 * np.log(2), np.log(mean + 1e-12), 1)[0])


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean() + 1e-16))
