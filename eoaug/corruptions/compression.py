"""JPEG 2000 in tiles of the absolute lattice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eoaug.corruptions.request import ImageAt
from eoaug.corruptions.units import SPAN, ImageBand
from eoaug.raster.arrays import Float64Array
from eoaug.raster.tiles import Window

__all__ = ["compressed", "tiles_around"]

_TILE_PX = 256
"""Edge of a tile; tiles begin at absolute multiples of it."""
_BORDER_PX = 16
"""Pixels around a tile that are compressed with it and dropped, against seams at its edges."""
_LEAST_PX = 128
"""Edge to which a small image is mirrored: the header of the file would take its bytes."""


def tiles_around(window: Window) -> Window:
    """Return the pixels that compressing a window needs: whole tiles with their borders."""
    return window.coarsen(_TILE_PX).scale(_TILE_PX).pad(_BORDER_PX)


def compressed(images: Sequence[Float64Array], at: ImageAt) -> list[Float64Array]:
    """Return the bands of one image after compression, each band and tile by itself."""
    return [_band(image, band, at) for image, band in zip(images, at.request.bands, strict=True)]


def _band(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    from eoaug.formats.jpeg2000 import through_jpeg2000

    out, whole = image.copy(), at.window
    low, high = SPAN[band.quantity]
    step = (high - low) / 65535
    tiles = whole.coarsen(_TILE_PX)
    for row in range(tiles.top, tiles.bottom):
        for col in range(tiles.left, tiles.right):
            tile = Window(row, col, row + 1, col + 1).scale(_TILE_PX) & whole
            around = tile.pad(_BORDER_PX) & whole
            part = image[around.within(whole)]
            valid = ~np.isnan(part)
            if not valid.any():
                continue
            # Gaps are filled with the mean of the tile: an edge of a gap would ring.
            filled = np.where(valid, part, part[valid].mean())
            counts = np.clip(np.rint((filled - low) / step), 0, 65535).astype(np.uint16)
            rows, cols = counts.shape
            short = [(0, max(0, _LEAST_PX - n)) for n in counts.shape]
            padded = np.pad(counts, short, mode="symmetric")
            decoded = through_jpeg2000(padded, at.number("quality"))[:rows, :cols] * step + low
            inner = tile.within(around)
            out[tile.within(whole)] = np.where(valid, decoded, np.nan)[inner]
    return out
