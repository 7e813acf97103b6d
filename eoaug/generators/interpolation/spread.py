"""Local standard deviation and contrast of an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["local_contrast", "local_spread", "size_of_errors"]


_LOCAL_PX = 3.0
"""Standard deviation of the window of a local contrast, pixels."""
_LOCAL_FLOOR = 0.1
"""Least local contrast, in units of the tile's."""
_LOCAL_POWER = 0.75
"""Exponent by which errors grow with the contrast around them: fitted to errors of super-resolution and in gaps."""


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
    seen = known.astype(np.float64)
    values = np.where(known, image, 0).astype(np.float64)

    def smooth(plane: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(plane, (0, window_px, window_px), mode="reflect"))

    weight = smooth(seen)
    share = np.maximum(weight, 1e-3)
    mean = smooth(values) / share
    variance = np.maximum(smooth(values * values) / share - mean**2, 0)
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
