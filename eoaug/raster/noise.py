"""Place-addressed noise: the same absolute pixel always gets the same numbers.

Numpy only. Noise is laid out in cells of 64 x 64 absolute pixels. Identities (seed, stream, member,
date) are hashed into the 128-bit key of a Philox generator and the cell's row and column are the high
words of its counter: Philox increments word 0 while it draws, so an identity there would make two
members share most of their numbers.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["CELL_PX", "normal"]


CELL_PX = 64
"""Edge of a noise cell in pixels."""

_WORD = 2**64


def _key(seed: int, stream: str, member: int, time: int) -> int:
    text = f"eoaug noise 1|{seed}|{stream}|{member}|{time}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


@lru_cache(maxsize=128)
def _cell(key: int, row: int, col: int, channels: int) -> NDArray[np.float32]:
    """Return a cell's numbers; cached, because the windows of neighbouring tiles share most cells."""
    counter = np.array([0, 0, row % _WORD, col % _WORD], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    # The channels are drawn one after the other, so a band's numbers do not depend on the number of bands after it.
    numbers = generator.standard_normal((channels, CELL_PX, CELL_PX), dtype=np.float32)
    numbers.flags.writeable = False
    return numbers


def normal(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    seed: int = 0,
    stream: str = "",
    member: int = 0,
    time: int = 0,
) -> NDArray[np.float32]:
    """Return standard normal noise of a window of the infinite plane of absolute pixels.

    Parameters
    ----------
    origin
        Absolute index (row, column) of the window's first pixel; may be negative.
    shape
        (channels, rows, columns) of the window.
    seed, stream, member, time
        Identity of the noise: any two that differ give independent fields.

    Returns
    -------
    float32 array of ``shape``. Any two windows agree bit for bit where they overlap.
    """
    channels, height, width = shape
    row0, col0 = origin
    key = _key(seed, stream, member, time)
    out = np.empty(shape, dtype=np.float32)
    for row in range(row0 // CELL_PX, -(-(row0 + height) // CELL_PX)):
        for col in range(col0 // CELL_PX, -(-(col0 + width) // CELL_PX)):
            top, left = row * CELL_PX - row0, col * CELL_PX - col0
            rows = slice(max(top, 0), min(top + CELL_PX, height))
            cols = slice(max(left, 0), min(left + CELL_PX, width))
            cell = _cell(key, row, col, channels)
            out[:, rows, cols] = cell[
                :, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
            ]
    return out
