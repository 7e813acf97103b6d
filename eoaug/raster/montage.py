"""Many images of one size in one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["montage"]


def montage[Pixel: np.generic](
    images: Sequence[NDArray[Pixel]], columns: int, *, gap_px: int, fill: float
) -> NDArray[Pixel]:
    """Return images side by side and row by row, with gaps between them and none around them.

    Parameters
    ----------
    images
        One or more, each of shape (H, W, 3) and of one type.
    columns
        Images per row; the last row may be shorter.
    gap_px
        Pixels between two images.
    fill
        Value of gaps and of empty places.

    Returns
    -------
    numpy.ndarray
        Shape (rows * (H + gap_px) - gap_px, columns * (W + gap_px) - gap_px, 3).
    """
    from skimage.util import montage as grid

    rows = -(-len(images) // columns)
    framed: NDArray[Pixel] = grid(
        np.stack(images), grid_shape=(rows, columns), padding_width=gap_px, fill=[fill] * 3, channel_axis=-1
    )
    height, width = framed.shape[:2]
    return framed[gap_px : height - gap_px, gap_px : width - gap_px]
