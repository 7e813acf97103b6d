"""Measured values that several pixels repeat: cells of a coarser grid on a finer one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eoaug.raster.arrays import Float32Array, FloatArray

__all__ = ["cell_means", "repeat_phase"]

_JUMPS = 0.02
"""Share of neighbouring pixels within a cell that may differ: a few come from rounding, or from a join of two images."""


def cell_means(image: Float32Array, factor: int) -> Float32Array:
    """Return the mean of the known pixels of each cell of ``factor`` x ``factor`` pixels.

    Parameters
    ----------
    image
        Shape (C, H, W), both edges multiples of the factor; NaN where unknown.

    Returns
    -------
    Shape (C, H // factor, W // factor); NaN for cells without a known pixel. Equal pixels give their value.
    """
    channels, height, width = image.shape
    cells = image.reshape(channels, height // factor, factor, width // factor, factor)
    known = np.isfinite(cells)
    total = np.where(known, cells, 0).sum(axis=(2, 4), dtype=np.float64)
    count = known.sum(axis=(2, 4))
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(mean, np.float32)


def repeat_phase(
    windows: Iterable[tuple[int, int, FloatArray]], factor: int
) -> tuple[int | None, int | None] | None:
    """Return where cells of repeated values begin.

    Parameters
    ----------
    windows
        Row and column of the first pixel of a window of an image, and its values (h, w), NaN where unknown.
    factor
        Pixels per cell along an axis.

    Returns
    -------
    Row and column of the first cell, 0 to factor - 1; None along an axis on which all pixels are equal. None for an
    image whose pixels are not repeated: it was interpolated, or measured at its own grid.
    """
    jumps, pairs = np.zeros((2, 2, factor))
    for row, col, values in windows:
        for axis, first in enumerate((row, col)):
            step = np.diff(values, axis=axis)
            known, differs = np.isfinite(step), np.isfinite(step) & (step != 0)
            residue = (first + 1 + np.arange(step.shape[axis])) % factor
            for count, found in ((pairs, known), (jumps, differs)):
                np.add.at(count[axis], residue, found.sum(axis=1 - axis))
    share = jumps / np.maximum(pairs, 1)
    phase: list[int | None] = []
    for along in share:
        at = int(np.argmax(along))
        if np.delete(along, at).max() > _JUMPS:
            return None
        phase.append(at if along[at] > _JUMPS else None)
    return phase[0], phase[1]
