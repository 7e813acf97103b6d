"""Sheets of samples: what a network makes of a few windows, to look at while it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["stretched", "write_sheet"]


_GAP_PX = 2
_ZOOM = 2


def stretched(images: NDArray[np.floating], like: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return images (n, C, H, W) as red, green, blue between 0 and 1, by the percentiles of one of them.

    Parameters
    ----------
    images
        Bands in the order blue, green, red; one band is shown grey.
    like
        Shape (C, H, W): the image whose 2nd and 98th percentiles become black and white.
    """
    bands = [2, 1, 0] if images.shape[1] >= 3 else [0, 0, 0]
    low, high = np.percentile(like[bands], (2, 98))
    shown: NDArray[np.float64] = np.clip(
        (images[:, bands].astype(np.float64) - low) / max(high - low, 1e-6), 0, 1
    )
    return shown


def write_sheet(path: Path, pictures: NDArray[np.floating]) -> None:
    """Write a PNG of pictures.

    Parameters
    ----------
    path
        The file.
    pictures
        Shape (rows, columns, 3, H, W), 0 to 1.
    """
    room = [(0, 0)] * 3 + [(0, _GAP_PX)] * 2
    rows, columns, _, height, width = (framed := np.pad(pictures, room, constant_values=1.0)).shape
    sheet = framed.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    pixels = np.round(sheet * 255).astype(np.uint8).repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)
    Image.fromarray(pixels).save(path)
