"""Which known pixels are evidence of the land: those that another date supports.

Masks miss the rims of clouds, haze, shadows and whole dates. What is left of a cloud among the known pixels differs
from every other date, and from one cloud to the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS
from eoaug.generators.interpolation.regression import cell_weights
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["clear_shares", "evidence_of", "outliers", "without_cells_of"]


_LEAST_DATES = (3, 4)
"""Least number of dates for a contradiction: of two that differ, nobody knows which shows the land; of three, only one
that is brighter in all bands, as clouds are, is contradicted; of four, any."""
_AGREEMENT = (0.3, 3.0)
"""Difference up to which two pixels agree, in a band: model units, plus so many times the typical difference between
two dates there. The second makes room for seasons."""
_TYPICAL = 0.5
"""Quantile over pairs of dates of their median difference: 0.4 takes the green of a wood for a contradiction of its brown,
0.55 lets haze pass."""
_SAMPLE_PX = 512
"""Pixels of an image that the median is taken of."""
_PAIR_PX = 16
"""Least number of such pixels that both dates of a pair show."""
_SUPPORT = 0.3
"""Weight of agreeing dates that a pixel needs, of the weight of those that show it, at most 1. A date weighs the
square of its clear share: the rest of a date that is nearly all cloud is seldom clear."""
_TARGET_SLACK = 8.0
"""Growth of the agreement of the date to be filled with the square of its clear share: more clear land may differ more
from the other dates, as snow does ..."""
_TARGET_SHARE = 0.6
"""... and from this share on it is believed."""
_PATCH_PX = 5
"""Edge of the window within which pixels are judged together: clouds are wider than a pixel."""
_WHOLE = 0.4
"""Share of contradicted pixels above which no pixel of a date is evidence in a tile."""
_OUTLIER = (0.3, 4.0)
"""Residual of an outlier: model units, plus so many standard deviations (median absolute deviation)."""
_OUTLIER_PX = 16


def evidence_of(
    values: Float32Array, known: BoolArray, cells: Float32Array | None, target: int
) -> tuple[BoolArray, Float32Array | None]:
    """Return what remains of the known pixels of dates without those that contradict the others.

    A pixel of a date is evidence if another date agrees with it in all bands; dates count by the square of their
    clear share. The target is held against the dates that are left, the less strictly the more of it is clear.

    Parameters
    ----------
    values
        Shape (T, C, H, W), model units.
    known
        The same shape.
    cells
        As `Request.context_cells`, or None.
    target
        Index of the date that is to be filled.

    Returns
    -------
    ``known`` and ``cells`` without what is contradicted; such cells are NaN. All of them with less than three dates.
    """
    least, any_way = _LEAST_DATES
    dates = int(np.count_nonzero(known.any(axis=(1, 2, 3))))
    if dates < least:
        return known, cells
    bright = dates < any_way
    share = clear_shares(known, cells)
    if cells is None:
        agreement = _agreement(values, known, bright)
        if agreement is None:
            return known, None
        wrong = _contradicted(values, known, share, agreement, target, _PATCH_PX, bright)
        return known & ~wrong[:, None], None
    there = np.isfinite(cells)
    means = np.where(there, cells, np.float32(0))
    agreement = _agreement(means, there, bright)
    if agreement is None:
        return known, cells
    wrong = _contradicted(values, known, share, agreement, target, _PATCH_PX, bright)
    wrong_cells = _contradicted(means, there, share, agreement, target, bright=bright)
    cells = np.where(wrong_cells[:, None], np.float32(np.nan), cells)
    return known & ~wrong[:, None], without_cells_of(cells, wrong)


def without_cells_of(cells: Float32Array, wrong: BoolArray) -> Float32Array:
    """Return context cells (..., C, h, w) without those of the tile that hold one of the pixels ``wrong`` (..., H, W)."""
    *lead, height, width = wrong.shape
    size = CONTEXT_CELL_PX
    held = wrong.reshape(*lead, height // size, size, width // size, size).any(axis=(-3, -1))
    out = cells.copy()
    inner = out[..., CONTEXT_CELLS:-CONTEXT_CELLS, CONTEXT_CELLS:-CONTEXT_CELLS]
    inner[np.broadcast_to(held[..., None, :, :], inner.shape)] = np.nan
    return out


def outliers(left: Sequence[Float32Array], known: Sequence[BoolArray]) -> list[BoolArray]:
    """Return which pixels differ from an estimate by far more than most, in all bands the same way.

    A cloud is brighter in all bands, and its shadow darker; a mown field is brighter in some and darker in others.

    Parameters
    ----------
    left
        Images (C, H, W) of one date, model units: values minus estimate. The spread of the first is the measure of all.
    known
        The same shapes.

    Returns
    -------
    Shape (H, W) by image; of the first, pixels next to them as well.
    """
    clear = known[0].all(axis=0)
    if np.count_nonzero(clear) < _OUTLIER_PX:
        return [np.zeros(image.shape[1:], bool) for image in known]
    floor, times = _OUTLIER
    size = floor + times * 1.4826 * np.median(np.abs(left[0][:, clear]), axis=1)[:, None, None]
    found = [
        (np.abs(np.where(there, image / size, 0).mean(axis=0)) > 1) & there.all(axis=0)
        for image, there in zip(left, known, strict=True)
    ]
    found[0] = ndimage.binary_dilation(found[0]) & clear
    return found


def clear_shares(known: BoolArray, cells: Float32Array | None) -> NDArray[np.float64]:
    """Return the clear share of each date in the tile and around it, of what any date shows; shape (T,)."""
    if cells is None:
        return np.asarray(known.sum(axis=(1, 2, 3)) / max(int(known.any(axis=0).sum()), 1))
    there, weights = np.isfinite(cells), cell_weights(cells.shape[2:], within=True)
    total = (there.any(axis=0) * weights).sum()
    return np.asarray((there * weights).sum(axis=(1, 2, 3)) / max(total, 1e-9))


def _agreement(values: Float32Array, known: BoolArray, bright: bool) -> Float32Array | None:
    """Return the difference up to which two pixels agree, shape (C, 1, 1); None without two dates to compare.

    ``bright``: judged by the two dates that agree best.
    """
    from eoaug.generators.interpolation.compiled.agreement import typical_differences

    step = max(values[0, 0].size // _SAMPLE_PX, 1)
    planes = values.reshape(*values.shape[:2], -1)[..., ::step]
    shown = known.reshape(*known.shape[:2], -1)[..., ::step].all(axis=1)
    medians = np.empty((len(planes) * (len(planes) - 1) // 2, planes.shape[1]))
    medians = medians[
        : typical_differences(np.ascontiguousarray(planes), np.ascontiguousarray(shown), _PAIR_PX, medians)
    ]
    if not len(medians):
        return None
    floor, times = _AGREEMENT
    # The lower one of two: of four dates with one under cloud, half of the pairs differ by the brightness of the cloud.
    rank = 0 if bright else int(_TYPICAL * (len(medians) - 1))
    typical = np.sort(medians, axis=0)[rank]
    agreement: Float32Array = (floor + times * typical).astype(np.float32)
    return agreement[:, None, None]


def _contradicted(
    values: Float32Array,
    known: BoolArray,
    share: NDArray[np.float64],
    agreement: Float32Array,
    target: int,
    window_px: int = 1,
    bright: bool = False,
) -> BoolArray:
    """Return which pixels of dates no other date supports, shape (T, H, W), as the majority within ``window_px`` is.

    ``bright``: only those that are brighter than all others in all bands.
    """
    from eoaug.generators.interpolation.compiled.agreement import in_patches, support

    shown = known.any(axis=1)
    scaled, weights = values / agreement, np.square(share).astype(np.float32)
    flat = (*values.shape[:2], -1)
    agreeing, most, apart = (
        found.reshape(shown.shape)
        for found in support(
            np.where(known, scaled, np.float32(np.nan)).reshape(flat),
            weights,
            target,
        )
    )
    wrong: BoolArray = (agreeing < _SUPPORT * np.minimum(most, 1)) & (most > 0)
    if bright:
        wrong &= _brightest(scaled, known)
    others = [date for date in range(len(values)) if date != target]
    nearest = np.where(wrong[others], np.inf, apart[others]).min(axis=0)
    slack = 1 + _TARGET_SLACK * share[target] ** 2
    wrong[target] = (nearest > slack) & np.isfinite(nearest) & (share[target] < _TARGET_SHARE)
    if window_px > 1:
        wrong = in_patches(wrong, shown, window_px)
    for date in range(len(values)):
        if np.count_nonzero(wrong[date]) > _WHOLE * np.count_nonzero(shown[date]):
            wrong[date] = shown[date]
    # Where all others contradict each other, the clearest one is kept.
    lost = shown[others].any(axis=0) & ~(shown[others] & ~wrong[others]).any(axis=0)
    clearest = np.where(shown[others], share[others][:, None, None], -1.0).argmax(axis=0)
    for rank, date in enumerate(others):
        wrong[date] &= ~(lost & (clearest == rank))
    return wrong


def _brightest(scaled: Float32Array, known: BoolArray) -> BoolArray:
    """Return which pixels exceed all others of their place by more than 1 in all bands, shape (T, H, W)."""
    out = np.zeros((len(scaled), *scaled.shape[2:]), bool)
    for date in range(len(scaled)):
        other = np.where(known, scaled, -np.inf)
        other[date] = -np.inf
        most = other.max(axis=0)
        out[date] = ((scaled[date] - most > 1) | ~known[date] | np.isneginf(most)).all(axis=0)
    return out
