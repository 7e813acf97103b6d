"""Contact sheets of a training: samples of a network as a PNG, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eoaug.raster.montage import montage

__all__ = ["stretched", "write_sheet"]


_GAP_PX = 2
_ZOOM = 2


def stretched(images: NDArray[np.floating], like: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return images as red, green and blue between 0 and 1, stretched by the percentiles of one of them.

    Parameters
    ----------
    images
        Shape (n, C, H, W), bands in the order blue, green, red; with fewer than three, the first is shown grey.
    like
        Shape (C, H, W): the image whose 2nd and 98th percentiles become black and white.

    Returns
    -------
    numpy.ndarray
        Shape (n, 3, H, W).
    """
    bands = [2, 1, 0] if images.shape[1] >= 3 else [0, 0, 0]
    low, high = np.percentile(like[bands], (2, 98))
    unit: NDArray[np.float64] = np.clip(
        (images[:, bands].astype(np.float64) - low) / max(high - low, 1e-6), 0, 1
    )
    return unit


def write_sheet(path: Path, pictures: NDArray[np.floating]) -> None:
    """Write a PNG of pictures, enlarged twice, with a gap to the right of and below each.

    Parameters
    ----------
    path
        The file.
    pictures
        Shape (rows, columns, 3, H, W), 0 to 1.
    """
    columns = pictures.shape[1]
    images = np.round(np.moveaxis(pictures, 2, -1) * 255).astype(np.uint8)
    sheet = montage(list(images.reshape(-1, *images.shape[2:])), columns, gap_px=_GAP_PX, fill=255)
    sheet = np.pad(sheet, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=255)
    Image.fromarray(sheet.repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)).save(path)
