"""Push-pull and linear interpolation in time.

Imported by functions only: the first import of a process loads the compiled loops from numba's cache, and the first one on a
machine compiles them. Every sum has one order, and every loop releases the GIL.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["fill_planes", "lines_in_time", "weighted"]


_compiled = numba.njit(cache=True, nogil=True)

# Plain loops over arrays that are made beforehand: expressions of whole arrays take numba ten times longer to compile.
_QUARTER, _THREE_QUARTERS, _FOUR = np.float32(0.25), np.float32(0.75), np.float32(4)


@_compiled
def _pull(images, knowns, level, height, width):
    """Set a level of a pyramid to the means of the known pixels of 2 x 2 of the level below, which has the given size."""
    fine, known = images[level - 1], knowns[level - 1]
    zero = np.float32(0)
    for i in range((height + 1) // 2):
        for j in range((width + 1) // 2):
            two = 2 * i + 1 < height
            # The order of sums is rows, then columns.
            total, count = fine[2 * i, 2 * j], np.float32(known[2 * i, 2 * j])
            if two:
                total += fine[2 * i + 1, 2 * j]
                count += np.float32(known[2 * i + 1, 2 * j])
            if 2 * j + 1 < width:
                second = fine[2 * i, 2 * j + 1]
                count += np.float32(known[2 * i, 2 * j + 1])
                if two:
                    second += fine[2 * i + 1, 2 * j + 1]
                    count += np.float32(known[2 * i + 1, 2 * j + 1])
                total += second
            images[level, i, j] = total / count if count > 0 else zero
            knowns[level, i, j] = count > 0


@_compiled
def _push(images, knowns, level, height, width, line):
    """Set the unknown pixels of a level of the given size to the bilinear interpolation of the level above."""
    coarse, fine, known = images[level + 1], images[level], knowns[level]
    top, right = (height + 1) // 2 - 1, (width + 1) // 2 - 1
    for i in range(height):
        free = 0
        for j in range(width):
            free += not known[i, j]
        if free == 0:
            continue
        own, other = i // 2, min(i // 2 + 1, top) if i % 2 else max(i // 2 - 1, 0)
        for j in range(right + 1):
            line[j] = _THREE_QUARTERS * coarse[own, j] + _QUARTER * coarse[other, j]
        for j in range(width):
            if not known[i, j]:
                half = j // 2
                adjoining = min(half + 1, right) if j % 2 else max(half - 1, 0)
                fine[i, j] = _THREE_QUARTERS * line[half] + _QUARTER * line[adjoining]


@_compiled
def _sweep(image, pace, out, height, width):
    """Set ``out`` to ``image`` after one Jacobi sweep; both have a frame of one pixel, which mirrors the border."""
    for i in range(1, height + 1):
        above, here, below = image[i - 1], image[i], image[i + 1]
        left, centre, right = here[0:], here[1:], here[2:]
        over, under, to, speed = above[1:], below[1:], out[i, 1:], pace[i]
        for j in range(width):
            change = over[j] + under[j] + left[j] + right[j] - _FOUR * centre[j]
            to[j] = centre[j] + change * speed[j]
        out[i, 0], out[i, width + 1] = out[i, 1], out[i, width]
    for j in range(width + 2):
        out[0, j], out[height + 1, j] = out[1, j], out[height, j]


@_compiled
def _relax(images, knowns, level, height, width, scratch, sweeps):
    """Relax the unknown pixels of a level of the given size."""
    image, known = images[level], knowns[level]
    one, two, pace = scratch[0], scratch[1], scratch[2]
    # Rows without unknown pixels, but for the neighbours of others, take no part.
    first, last = height, 0
    for i in range(height):
        free = 0
        for j in range(width):
            free += not known[i, j]
        if free:
            first, last = min(first, i), i + 1
    if last <= first:
        return
    low = max(first - 1, 0)
    size = min(last + 1, height) - low
    for i in range(size):
        for j in range(width):
            one[i + 1, j + 1] = image[low + i, j]
            pace[i + 1, j] = np.float32(0) if known[low + i, j] else _QUARTER
        one[i + 1, 0], one[i + 1, width + 1] = one[i + 1, 1], one[i + 1, width]
    for j in range(width + 2):
        one[0, j], one[size + 1, j] = one[1, j], one[size, j]
    for _ in range(sweeps // 2):
        _sweep(one, pace, two, size, width)
        _sweep(two, pace, one, size, width)
    for i in range(first, last):
        for j in range(width):
            if not known[i, j]:
                image[i, j] = one[i - low + 1, j + 1]


@_compiled
def _fill(plane, shown, top, images, knowns, scratch, sweeps):
    """Fill a plane in place; ``top`` is the level that its pyramid ends in, or of no pixel: a single pixel."""
    height, width = plane.shape
    for i in range(height):
        for j in range(width):
            images[0, i, j] = plane[i, j]
            knowns[0, i, j] = shown[i, j]
    heights, widths = np.empty(40, np.int64), np.empty(40, np.int64)
    heights[0], widths[0], level = height, width, 0
    while True:
        rows, cols = heights[level], widths[level]
        if rows == top.shape[0] and cols == top.shape[1]:
            for i in range(rows):
                for j in range(cols):
                    images[level, i, j] = top[i, j]
            break
        gaps = 0
        for i in range(rows):
            for j in range(cols):
                gaps += not knowns[level, i, j]
        if gaps == 0 or (rows == 1 and cols == 1):
            break
        level += 1
        _pull(images, knowns, level, rows, cols)
        heights[level], widths[level] = (rows + 1) // 2, (cols + 1) // 2
    for below in range(level - 1, -1, -1):
        _push(images, knowns, below, heights[below], widths[below], scratch[0, 0])
        _relax(images, knowns, below, heights[below], widths[below], scratch, sweeps)
    for i in range(height):
        for j in range(width):
            plane[i, j] = images[0, i, j]


# Not compiled: numba would take seconds to optimise all that it calls once more.
def fill_planes(planes, known, tops, sweeps):
    """Fill the unknown pixels of planes in place, as `push_pull` says.

    Parameters
    ----------
    planes
        Shape (n, H, W), float32, 0 where unknown.
    known
        The same shape.
    tops
        Shape (n, h, w), the levels that the pyramids end in, or of no pixel: a single pixel each.
    sweeps
        Even number of relaxing sweeps per level.
    """
    height, width = planes.shape[1:]
    levels = 2
    while 2 ** (levels - 2) < max(height, width):
        levels += 1
    images = np.empty((levels, height, width), np.float32)
    knowns = np.empty((levels, height, width), np.bool_)
    scratch = np.empty((3, height + 2, width + 2), np.float32)
    for plane, shown, top in zip(planes, known, tops, strict=True):
        _fill(plane, shown, top, images, knowns, scratch, sweeps)


@_compiled
def _nearest(known, target, band, past, future):
    """Set ``past`` and ``future`` to the nearest date that is known at each pixel; -1 without one."""
    for j in range(past.size):
        past[j], future[j] = -1, -1
    # Choices instead of branches: processors then work on many pixels at once.
    for date in range(target - 1, -1, -1):
        shown, number = known[date, band], np.int16(date)
        for j in range(past.size):
            past[j] = number if (past[j] < 0) & shown[j] else past[j]
    for date in range(target + 1, len(known)):
        shown, number = known[date, band], np.int16(date)
        for j in range(future.size):
            future[j] = number if (future[j] < 0) & shown[j] else future[j]


@_compiled
def _line(values, known, times, target, band, nearest, expected, predictable):
    """Set a plane to the line between the nearest known dates."""
    past, future = nearest
    _nearest(known, target, band, past, future)
    for j in range(expected.size):
        before, after = past[j], future[j]
        predictable[j] = before >= 0 or after >= 0
        if before >= 0 and after >= 0:
            first, last = values[before, band, j], values[after, band, j]
            span = times[after] - times[before]
            # Two dates of the same moment have equal weights.
            share = np.float32((times[target] - times[before]) / span if span > 0 else 0.5)
            expected[j] = first + share * (last - first)
        elif before >= 0:
            expected[j] = values[before, band, j]
        elif after >= 0:
            expected[j] = values[after, band, j]
        else:
            expected[j] = np.float32(0)


@_compiled
def lines_in_time(values, known, times, targets):
    """Return the linear interpolation of dates and where it is one, shape (n, C, P), from dates of shape (T, C, P)."""
    _, bands, size = values.shape
    expected = np.empty((targets.size, bands, size), np.float32)
    predictable = np.empty((targets.size, bands, size), np.bool_)
    nearest = (np.empty(size, np.int16), np.empty(size, np.int16))
    for n in range(targets.size):
        for band in range(bands):
            _line(values, known, times, targets[n], band, nearest, expected[n, band], predictable[n, band])
    return expected, predictable


@_compiled
def weighted(planes, rows, first_row, columns, first_column):
    """Return planes (n, H, W), each line of which is a weighted sum: along columns, then along rows.

    Parameters
    ----------
    planes
        Shape (n, H, W).
    rows
        Shape (H, K): the weights of the K rows from ``first_row[i]`` on in row i.
    columns
        Shape (W, L): column k is ``columns[k, j]`` of the columns j from ``first_column[k]`` on.
    """
    count, height, width = planes.shape
    out, between = np.zeros((count, height, width), planes.dtype), np.zeros((height, width), planes.dtype)
    for n in range(count):
        for i in range(height):
            total = between[i]
            for j in range(width):
                total[j] = 0
            for k in range(rows.shape[1]):
                weight, source = rows[i, k], planes[n, first_row[i] + k]
                for j in range(width):
                    total[j] += weight * source[j]
        for i in range(height):
            for k in range(width):
                value, spread, to = between[i, k], columns[k], out[n, i, first_column[k] :]
                for j in range(columns.shape[1]):
                    to[j] += value * spread[j]
    return out
