"""Local standard deviation and contrast of an image."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["local_contrast", "local_spread", "size_of_errors", "smoothed"]


_LOCAL_PX = 3.0
"""Standard deviation of the window of a local contrast, pixels."""
_LOCAL_FLOOR = 0.1
"""Least local contrast, in units of the tile's."""
_LOCAL_POWER = 0.75
"""Exponent by which errors grow with the contrast around them: fitted to errors of super-resolution and in gaps."""


def smoothed[T: np.floating[Any]](images: NDArray[T], width_px: float) -> NDArray[T]:
    """Return images (..., H, W) smoothed by a Gaussian window of a standard deviation; beyond the border they go on mirrored.

    As `scipy.ndimage.gaussian_filter` with ``mode="reflect"``, by sums in the type of the images.
    """
    from eoaug.generators.interpolation.compiled.planes import weighted

    height, width = images.shape[-2:]
    name = np.dtype(images.dtype).name
    planes = np.ascontiguousarray(images).reshape(-1, height, width)
    rows, columns = _window(height, width_px, name), _window(width, width_px, name)
    return np.asarray(weighted(planes, *rows[0], *columns[1])).reshape(images.shape)


@lru_cache(maxsize=64)
def _window(size: int, width_px: float, dtype: str) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return the weights of a Gaussian window over a line of pixels, as compiled ``weighted`` takes rows and columns."""
    line = np.eye(size)
    # Column k: what an impulse at k becomes.
    matrix = ndimage.gaussian_filter1d(line, width_px, axis=0, mode="reflect") if width_px > 0 else line
    return _banded(matrix, dtype), _banded(matrix.T, dtype)


def _banded(matrix: NDArray[np.float64], dtype: str) -> tuple[Any, Any]:
    """Return the numbers of each row that are not 0, all in equally many columns, and the first of these columns."""
    size = len(matrix)
    first, last = (matrix != 0).argmax(axis=1), size - (matrix[:, ::-1] != 0).argmax(axis=1)
    most = int((last - first).max())
    first = np.minimum(first, size - most)
    return np.take_along_axis(matrix, first[:, None] + np.arange(most), axis=1).astype(dtype), first


def local_spread(
    image: NDArray[np.floating], known: NDArray[np.bool_], window_px: float = _LOCAL_PX
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the local standard deviation of an image, and a mask of where enough pixels are known.

    Parameters
    ----------
    image
        Shape (C, H, W), any units; read only where ``known``.
    known
        The same shape.
    window_px
        Standard deviation of the window.
    """
    values = np.where(known, image, 0).astype(np.float64)
    weight = smoothed(known.astype(np.float64), window_px)
    share = np.maximum(weight, 1e-3)
    mean = smoothed(values, window_px) / share
    variance = np.maximum(smoothed(values * values, window_px) / share - mean**2, 0)
    return np.sqrt(variance).astype(np.float32), weight > 0.3


def local_contrast(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the expected size of missing detail around each pixel, from the local contrast.

    Flat fields miss little detail and urban areas much; one size for a whole tile would leave tile artefacts.

    Parameters
    ----------
    image
        Shape (C, H, W), of standard deviation 1.
    """
    near, _ = local_spread(image, np.ones(image.shape, bool))
    return size_of_errors(near, np.float32(1))


def size_of_errors(
    near: NDArray[np.float32], contrast: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """Return the expected size of missing detail, given the local (``near``) and the overall ``contrast``."""
    relative = np.hypot(near / contrast, np.float32(_LOCAL_FLOOR))
    return np.asarray(contrast * relative ** np.float32(_LOCAL_POWER), np.float32)
