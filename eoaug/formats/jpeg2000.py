"""JPEG 2000 in memory."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

__all__ = ["through_jpeg2000"]


def through_jpeg2000(image: NDArray[np.uint16], quality: float) -> NDArray[np.uint16]:
    """Return an image as it comes back from a lossy JPEG 2000 file.

    Parameters
    ----------
    image
        Shape (rows, columns).
    quality
        Size of the file in percent of the size without compression, 0 to 100; GDAL's option of the driver JP2OpenJPEG.

    Notes
    -----
    The bytes depend on the version of OpenJPEG that GDAL was built with.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    height, width = image.shape
    profile = {"driver": "JP2OpenJPEG", "height": height, "width": width, "count": 1, "dtype": "uint16"}
    levels = max(1, min(6, int(np.log2(min(height, width, 64)))) if min(height, width) > 1 else 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.Env(), MemoryFile() as file:
            with file.open(
                **profile,
                QUALITY=str(quality),
                REVERSIBLE="NO",
                YCBCR420="NO",
                RESOLUTIONS=str(levels),
                BLOCKXSIZE=str(max(width, 16)),
                BLOCKYSIZE=str(max(height, 16)),
            ) as target:
                target.write(image, 1)
            with file.open() as source:
                decoded: NDArray[np.uint16] = source.read(1)
    return decoded
