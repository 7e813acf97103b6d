"""Differences between dates.

Imported by functions only: the first import of a process loads the compiled loops from numba's cache, and the first one on a
machine compiles them. Every sum has one order, and every loop releases the GIL.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["in_patches", "support", "typical_differences"]


_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def _ranked(numbers, count, rank):
    """Return the number of a rank among the first ``count``, which are reordered (quickselect)."""
    low, high = np.int64(0), count - 1
    while low < high:
        pivot, i, j = numbers[(low + high) // 2], low, high
        while i <= j:
            while numbers[i] < pivot:
                i += 1
            while numbers[j] > pivot:
                j -= 1
            if i <= j:
                numbers[i], numbers[j] = numbers[j], numbers[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return numbers[rank]


@_compiled
def typical_differences(planes, shown, least, out):
    """Set ``out`` (pairs, bands) to the median difference of every pair of dates that share ``least`` pixels.

    Returns the number of such pairs.

    Parameters
    ----------
    planes
        Shape (T, C, n).
    shown
        Shape (T, n), known in all bands.
    """
    dates, bands, size = planes.shape
    pairs = 0
    difference = np.empty(size, np.float32)
    for one in range(dates):
        for other in range(one + 1, dates):
            both = 0
            for j in range(size):
                both += shown[one, j] and shown[other, j]
            if both < least:
                continue
            for band in range(bands):
                count = 0
                for j in range(size):
                    if shown[one, j] and shown[other, j]:
                        difference[count] = abs(planes[one, band, j] - planes[other, band, j])
                        count += 1
                upper = _ranked(difference, count, count // 2)
                lower = upper if count % 2 else _ranked(difference, count, count // 2 - 1)
                out[pairs, band] = (lower + upper) / 2
            pairs += 1
    return pairs


@_compiled
def support(scaled, weights, target):
    """Return what the other dates say of each pixel.

    Parameters
    ----------
    scaled
        Shape (T, C, P), in differences up to which two pixels agree; NaN where unknown.
    weights
        Shape (T,), of dates.
    target
        Index of a date.

    Returns
    -------
    Shapes (T, P): the weight of the dates that agree, and of those that show the pixel; and the difference from the target.
    """
    dates, bands, size = scaled.shape
    zero, one_whole = np.float32(0), np.float32(1)
    shown = np.zeros((dates, size), np.float32)
    for date in range(dates):
        for band in range(bands):
            for j in range(size):
                shown[date, j] = (
                    one_whole if scaled[date, band, j] == scaled[date, band, j] else shown[date, j]
                )
    agreeing, most = np.zeros((dates, size), np.float32), np.zeros((dates, size), np.float32)
    apart, difference = np.empty((dates, size), np.float32), np.empty(size, np.float32)
    for date in range(dates):
        for j in range(size):
            apart[date, j] = np.inf
    for one in range(dates):
        for other in range(one + 1, dates):
            for j in range(size):
                difference[j] = zero
            for band in range(bands):
                first, second = scaled[one, band], scaled[other, band]
                for j in range(size):
                    away = abs(first[j] - second[j])
                    # A comparison with NaN is false.
                    difference[j] = away if away > difference[j] else difference[j]
            for j in range(size):
                both = shown[one, j] * shown[other, j]
                agree = both if difference[j] <= one_whole else zero
                agreeing[one, j] += weights[other] * agree
                agreeing[other, j] += weights[one] * agree
                most[one, j] += weights[other] * both
                most[other, j] += weights[one] * both
            if one == target or other == target:
                by = other if one == target else one
                for j in range(size):
                    apart[by, j] = difference[j] if shown[one, j] * shown[other, j] > zero else apart[by, j]
    return agreeing, most, apart


@_compiled
def in_patches(wrong, shown, edge):
    """Return the shown pixels (T, H, W) around which most shown ones are wrong, and the wrong ones near these.

    ``edge``: of the window, odd.
    """
    dates, height, width = wrong.shape
    half = edge // 2
    out, patches = np.empty(wrong.shape, np.bool_), np.empty((height, width), np.bool_)
    for date in range(dates):
        for i in range(height):
            for j in range(width):
                balance = 0
                if shown[date, i, j]:
                    for k in range(max(i - half, 0), min(i + half + 1, height)):
                        for m in range(max(j - half, 0), min(j + half + 1, width)):
                            balance += 2 * wrong[date, k, m] - shown[date, k, m]
                patches[i, j] = balance > 0
        for i in range(height):
            for j in range(width):
                out[date, i, j] = patches[i, j]
                if wrong[date, i, j] and not patches[i, j]:
                    near = 0
                    for k in range(max(i - half, 0), min(i + half + 1, height)):
                        for m in range(max(j - half, 0), min(j + half + 1, width)):
                            near += patches[k, m]
                    out[date, i, j] = near > 0
    return out
