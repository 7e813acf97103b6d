"""Ridge regressions with held-out blocks of pixels.

Imported by functions only: the first import of a process loads the compiled loops from numba's cache, and the first one on a
machine compiles them. Every sum has one order, and every loop releases the GIL.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["block_pixels", "predicted", "ridge_by_blocks", "share_by_blocks", "standardised"]


_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def block_pixels(known, weights, edge, least):
    """Return the flat indices of the known pixels of more than a least weight, block after block, and the sizes of blocks."""
    height, width = known.shape
    indices, sizes = np.empty(known.size, np.int64), np.empty(known.size, np.int64)
    count = blocks = 0
    for top in range(0, height, edge):
        for left in range(0, width, edge):
            before = count
            for i in range(top, min(top + edge, height)):
                for j in range(left, min(left + edge, width)):
                    if known[i, j] and weights[i, j] > least:
                        indices[count] = i * width + j
                        count += 1
            if count > before:
                sizes[blocks] = count - before
                blocks += 1
    return indices[:count], sizes[:blocks]


@_compiled
def standardised(planes, indices, centre, spread, out):
    """Set ``out`` (n, 1 + F) to 1 and the standardised values of planes (F, P) at indices."""
    for row in range(len(indices)):
        at, line = indices[row], out[row]
        line[0] = 1.0
        for f in range(len(planes)):
            line[f + 1] = (planes[f, at] - centre[f]) / spread[f]


@_compiled
def _add_products(features, answers, weights, first, last, system, right):
    """Add the weighted products of pixels to the upper half of a normal system, and to its right side."""
    count = features.shape[1]
    for row in range(first, last):
        line = features[row]
        for f in range(count):
            scaled = weights[row] * line[f]
            to = system[f]
            for g in range(f, count):
                to[g] += scaled * line[g]
            for band in range(answers.shape[1]):
                right[f, band] += scaled * answers[row, band]


@_compiled
def _add_held_out(features, answers, weights, first, last, solution, sums):
    """Add the products of truth and prediction of pixels to ``sums``."""
    bands = answers.shape[1]
    guess = np.empty(bands)
    for row in range(first, last):
        for band in range(bands):
            guess[band] = 0.0
        for f in range(1, features.shape[1]):
            for band in range(bands):
                guess[band] += solution[f, band] * features[row, f]
        for band in range(bands):
            truth = answers[row, band] - solution[0, band]
            sums[0, band] += truth * guess[band] * weights[row]
            sums[1, band] += guess[band] * guess[band] * weights[row]
            sums[2, band] += truth * truth * weights[row]


@_compiled
def _solve(system, right):
    """Solve a symmetric positive definite system in place, of which the upper half is given."""
    count, bands = right.shape
    for k in range(count):
        pivot = system[k]
        for i in range(k + 1, count):
            share = pivot[i] / pivot[k]
            line = system[i]
            for j in range(i, count):
                line[j] -= share * pivot[j]
            for band in range(bands):
                right[i, band] -= share * right[k, band]
    for k in range(count - 1, -1, -1):
        for j in range(k + 1, count):
            for band in range(bands):
                right[k, band] -= system[k, j] * right[j, band]
        for band in range(bands):
            right[k, band] /= system[k, k]


@_compiled
def _add_ridge(system, total, ridge, ridge_px):
    """Add the penalty of a constant and of slopes, fitted to pixels of weight ``total``."""
    system[0, 0] += ridge_px
    for f in range(1, len(system)):
        system[f, f] += ridge * total + ridge_px


@_compiled
def ridge_by_blocks(features, answers, weights, sizes, ridge, ridge_px):
    """Return a ridge regression and its held-out sums.

    Parameters
    ----------
    features, answers, weights
        Shapes (n, F), (n, bands) and (n,): pixels, block after block.
    sizes
        Pixels of each block.
    ridge, ridge_px
        The penalty over the weight of the pixels, and in addition to it.

    Returns
    -------
    Solution (F, bands), and of the blocks predicted by the others' regressions, shape (3, bands): sums of truth times
    prediction, of squared predictions, of squared truth. Their truth is without the constant.
    """
    count, bands, blocks = features.shape[1], answers.shape[1], len(sizes)
    systems, rights = np.zeros((blocks + 1, count, count)), np.zeros((blocks + 1, count, bands))
    totals = np.zeros(blocks + 1)
    system, right = systems[blocks], rights[blocks]
    first = np.int64(0)
    for block in range(blocks):
        last = first + sizes[block]
        _add_products(features, answers, weights, first, last, systems[block], rights[block])
        for row in range(first, last):
            totals[block] += weights[row]
        first = last
        totals[blocks] += totals[block]
        for f in range(count):
            for g in range(f, count):
                system[f, g] += systems[block, f, g]
            for band in range(bands):
                right[f, band] += rights[block, f, band]
    sums = np.zeros((3, bands))
    first = np.int64(0)
    for block in range(blocks if blocks > 1 else 0):
        left, solution = systems[block], rights[block]
        for f in range(count):
            for g in range(f, count):
                left[f, g] = system[f, g] - left[f, g]
            for band in range(bands):
                solution[f, band] = right[f, band] - solution[f, band]
        _add_ridge(left, totals[blocks] - totals[block], ridge, ridge_px)
        _solve(left, solution)
        last = first + sizes[block]
        _add_held_out(features, answers, weights, first, last, solution, sums)
        first = last
    _add_ridge(system, totals[blocks], ridge, ridge_px)
    _solve(system, right)
    return right, sums


@_compiled
def predicted(planes, centre, spread, least, most, solution, out):
    """Set ``out`` (bands, P) to a regression (F, bands) on planes (F - 1, P), limited to least and most features."""
    size = planes.shape[1]
    total, feature = np.empty((len(out), size)), np.empty(size)
    for band in range(len(out)):
        total[band] = solution[0, band]
    for f in range(len(planes)):
        plane, low, high = planes[f], least[f], most[f]
        for j in range(size):
            feature[j] = min(max((plane[j] - centre[f]) / spread[f], low), high)
        for band in range(len(out)):
            slope, sums = solution[f + 1, band], total[band]
            for j in range(size):
                sums[j] += slope * feature[j]
    for band in range(len(out)):
        for j in range(size):
            out[band, j] = np.float32(total[band, j])


@_compiled
def share_by_blocks(truths, steps, weights, sizes, ridge_px, prior_weight):
    """Return the shares of a step that have the least held-out error, one per band; pixels (n, bands), block after block."""
    bands, blocks = truths.shape[1], len(sizes)
    totals, means = np.zeros(blocks + 1), np.zeros((blocks + 1, 2, bands))
    first = 0
    for block in range(blocks):
        for row in range(first, first + sizes[block]):
            totals[block] += weights[row]
            for band in range(bands):
                means[block, 0, band] += truths[row, band] * weights[row]
                means[block, 1, band] += steps[row, band] * weights[row]
        first += sizes[block]
        totals[blocks] += totals[block]
        for band in range(bands):
            means[blocks, 0, band] += means[block, 0, band]
            means[blocks, 1, band] += means[block, 1, band]
    shares = np.empty(bands)
    for band in range(bands):
        both = square = without = entire = 0.0
        first = 0
        for block in range(blocks):
            others = totals[blocks] - totals[block] + ridge_px
            offset = (means[blocks, 0, band] - means[block, 0, band]) / others
            further = (means[blocks, 1, band] - means[block, 1, band]) / others
            for row in range(first, first + sizes[block]):
                truth, step, weight = truths[row, band] - offset, steps[row, band] - further, weights[row]
                both += truth * step * weight
                square += step * step * weight
                without += truth * truth * weight
                entire += (truth - step) * (truth - step) * weight
            first += sizes[block]
        prior = prior_weight * min(without, entire)
        shares[band] = min(max((both + 0.5 * prior) / max(square + prior, 1e-9), 0.0), 1.0)
    return shares
