"""The inner loops of the sensor model, compiled by numba.

Imported by functions only: the first import of a process loads the compiled loops from numba's cache, and the first one on a
machine compiles them. Every sum has one order, which does not depend on an image's size or place, and every loop
releases the GIL.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["filtered", "laid_down"]

_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def _mirrored(index, size):
    """Return the index of a pixel in a line that goes on mirrored beyond its ends, edge pixels repeated."""
    around = index % (2 * size)
    return min(around, 2 * size - 1 - around)


@_compiled
def _framed(row, pad, line):
    """Set ``line`` to a row with ``pad`` pixels mirrored on at each end."""
    size = row.size
    for j in range(size):
        line[pad + j] = row[j]
    for j in range(pad):
        line[j] = row[_mirrored(j - pad, size)]
        line[pad + size + j] = row[_mirrored(size + j, size)]


@_compiled
def filtered(planes, taps, along_rows, factor):
    """Return planes filtered along one axis, of which every ``factor``-th pixel is kept.

    Parameters
    ----------
    planes
        Shape (n, H, W), float64.
    taps
        Shape (bands, K); plane i belongs to band i modulo the number of bands.
    along_rows
        True: each column is filtered, False: each row.
    factor
        Step between the pixels that are kept.
    """
    count, height, width = planes.shape
    size = height if along_rows else width
    pad = taps.shape[1] // factor // 2 * factor
    kept = (size + factor - 1) // factor
    out = np.zeros((count, kept if along_rows else height, width if along_rows else kept))
    line = np.empty(width + 2 * pad)
    for n in range(count):
        kernel, plane, to = taps[n % len(taps)], planes[n], out[n]
        if along_rows:
            for i in range(kept):
                total = to[i]
                for tap in range(kernel.size):
                    weight = kernel[tap]
                    if weight != 0:
                        source = plane[_mirrored(i * factor + tap - pad, height)]
                        for j in range(width):
                            total[j] += weight * source[j]
            continue
        for i in range(height):
            _framed(plane[i], pad, line)
            total = to[i]
            for tap in range(kernel.size):
                weight = kernel[tap]
                if weight != 0:
                    source = line[tap : tap + width]
                    if factor == 1:  # a loop that processors run on several pixels at once
                        for j in range(kept):
                            total[j] += weight * source[j]
                    else:
                        for j in range(kept):
                            total[j] += weight * source[j * factor]
    return out


@_compiled
def laid_down(planes, taps, along_rows):
    """Return planes on a grid refined along one axis: each coarse pixel laid down as its taps.

    Parameters
    ----------
    planes
        Shape (n, h, w), float64.
    taps
        Shape (bands, cells, factor): the weight of a pixel in the fine pixels of the cells around it.
    along_rows
        As for `filtered`.
    """
    count, height, width = planes.shape
    _, spans, factor = taps.shape
    cells = spans // 2
    rows, cols = (factor, 1) if along_rows else (1, factor)
    out = np.zeros((count, height * rows, width * cols))
    line = np.empty(width + 2 * cells)
    total = np.empty(width)
    for n in range(count):
        kernel, plane, to = taps[n % len(taps)], planes[n], out[n]
        if along_rows:
            for i in range(height):
                for phase in range(factor):
                    row = to[i * factor + phase]
                    for cell in range(spans - 1, -1, -1):
                        weight = kernel[cell, phase]
                        if weight != 0:
                            source = plane[_mirrored(i + cells - cell, height)]
                            for j in range(width):
                                row[j] += weight * source[j]
            continue
        for i in range(height):
            _framed(plane[i], cells, line)
            for phase in range(factor):
                for j in range(width):
                    total[j] = 0.0
                for cell in range(spans - 1, -1, -1):
                    weight = kernel[cell, phase]
                    if weight != 0:
                        source = line[2 * cells - cell : 2 * cells - cell + width]
                        for j in range(width):
                            total[j] += weight * source[j]
                for j in range(width):
                    to[i, j * factor + phase] = total[j]
    return out
