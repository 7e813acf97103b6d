"""Visibility of a tile lattice in an image: steps at tile borders, and detail lost in overlaps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.errors import ParameterError
from eoaug.raster.arrays import FloatArray

__all__ = ["Seams", "ghost_ratio", "seam_ratio"]


class Seams(NamedTuple):
    """The result of `seam_ratio` and `ghost_ratio`."""

    ratio: float
    """The statistic on the tile lattice over that off the lattice; 1 = not visible."""
    elsewhere: NDArray[np.float64]
    """The same ratio for other offsets of the lattice, ascending. A ``ratio`` inside their range is not distinguishable
    from the scene."""


def seam_ratio(image: FloatArray, *, stride: int, origin: tuple[int, int] = (0, 0)) -> Seams:
    """Return the visibility of the borders of a tile lattice.

    The mean step across block borders of Wang, Sheikh & Bovik 2002 (doi:10.1109/ICIP.2002.1038064), with
    its null distribution.

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
    """Return the detail in the overlaps of a tile lattice relative to the rest.

    Averaging two different samples reduces the local variance (squared difference from
    the mean of 3 x 3 pixels), to a half at worst. ``ratio`` is that of the overlaps over the
    rest; ``elsewhere`` that of bands as wide at the offsets that touch no overlap.

    Parameters
    ----------
    image, stride
        As in `seam_ratio`.
    overlap
        Pixels that neighbours share, less than half of ``stride``; from each multiple of ``stride`` on.
    origin
        Absolute pixel index (row, column) of the image's first pixel.
    """
    values = _larger_than(image, stride)
    if not 0 < overlap < stride / 2:
        raise ParameterError(
            f"an overlap of {overlap} px does not fit a stride of {stride} px",
            "use an overlap of at least 1 and less than half of the stride",
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
            f"stride {stride} does not fit an image of {values.shape[-2]} x {values.shape[-1]} pixels",
            "use a stride of at least 2 and an image that is larger than one stride",
        )
    return values


def _by_offset(
    parts: list[tuple[int, NDArray[np.float64], int]], stride: int, origin: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and count of (axis, values, index of the first line) per offset within the stride."""
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
    """Return each mean over the mean of the rest; 1 where the rest is constant."""
    whole = total.sum() if all_total is None else all_total
    number = count.sum() if all_count is None else all_count
    rest = (whole - total) / (number - count)
    return np.divide(total / count, rest, out=np.ones(len(total)), where=rest > 0)
