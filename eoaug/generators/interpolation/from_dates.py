"""The estimate of a date from other dates and from its own clear pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import CONTEXT_CELL_PX
from eoaug.generators.interpolation.evidence import (
    clear_shares,
    evidence_of,
    outliers,
    without_cells_of,
)
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.regression import Residuals, predict_departure, share_of_second
from eoaug.generators.interpolation.time_kriging import in_time
from eoaug.generators.interpolation.time_series import gap_filled, linear, shown_range
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["DatedEstimate", "from_dates"]


_LEAST_SHARE = 0.2
"""Least share of a tile that a date must show to be used, unless none does."""
_ENOUGH = (0.02, 0.1)
"""Clear share of a date, in and around a tile, up to which its clear pixels do not count, and from which on they do in
full: a few pixels between clouds are haze or shadow more often than not."""
_MARGIN = (0.2, 0.3)
"""How far an estimate may leave the range of the dates at a pixel: model units, plus a share of that range ..."""
_BEYOND = (0.98, 30)
"""... or as far as this quantile of the date's own clear pixels leaves theirs, if there are so many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DatedEstimate:
    """An estimate from other dates, and what its errors are judged by; N dates were used."""

    image: Float32Array
    """Shape (C, H, W), model units; not set to the known pixels."""
    dates: Float32Array
    """Shape (N, C, H, W), the dates that were used, without gaps."""
    times: NDArray[np.int64]
    """Shape (N,), seconds."""
    left: Float32Array
    """Shape (C, H, W): the clear pixels minus what the dates predict of them."""
    clear: BoolArray
    """Shape (C, H, W): the pixels of the date that are evidence."""
    cells_left: Float32Array | None
    """``left`` of the context cells, NaN where unknown; None without context."""
    limits: tuple[Float32Array, Float32Array]
    """Least and largest value that the dates, and the clear land of the date, support; shapes (C, H, W)."""

    @property
    def alone(self) -> bool:
        """True if nothing of the date itself is evidence."""
        return not self.clear.any() and (self.cells_left is None or not np.isfinite(self.cells_left).any())


@dataclass(frozen=True, eq=False)
class _View:
    """A date and the others, by pixels or by context cells."""

    values: Float32Array
    """Shape (T, C, H, W), ascending in time, the date among them."""
    known: BoolArray
    times: NDArray[np.int64]
    target: int
    pixel: int = 1
    """Edge of a pixel in pixels of the grid."""

    @property
    def other_times(self) -> NDArray[np.int64]:
        """Shape (T - 1,), seconds."""
        return np.delete(self.times, self.target)

    def others(self) -> Float32Array:
        """Return the other dates without gaps, shape (T - 1, C, H, W)."""
        others = np.arange(len(self.times)) != self.target
        return gap_filled(self.values[others], self.known[others], self.other_times)

    def departures(self, dates: Float32Array, expected: Float32Array) -> Residuals:
        """Return how far the date departs from what the others expect."""
        return Residuals(dates, self.values[self.target] - expected, self.known[self.target])

    def kriged(self, dates: Float32Array, *, sharp: bool) -> Float32Array:
        """Return the date by kriging in time, which uses all dates; ``sharp``: to be corrected by its clear pixels."""
        when = int(self.times[self.target])
        return in_time(dates, self.other_times, when, pixel=self.pixel, sharp=sharp)

    def line_from(self, kriged: Float32Array) -> Float32Array:
        """Return linear interpolation in time, which knows the nearest clear date of each pixel, minus ``kriged``."""
        line, predictable = linear(self.values, self.known, self.times, self.target)
        return np.where(predictable, line - kriged, np.float32(0))


def from_dates(
    values: Float32Array,
    known: BoolArray,
    times: NDArray[np.int64],
    target: int,
    cells: Float32Array | None = None,
) -> DatedEstimate:
    """Return the estimate of a date from the others and from its clear pixels.

    Pixels that contradict the other dates are no evidence (`evidence`). What the dates expect (kriging and linear
    interpolation in time, in shares of the least held-out error) is moved by the departure of the date that a
    regression predicts, and by what is left of it around (`push_pull`). The estimate stays within the range of the
    dates at each pixel and a margin, or as far beyond it as the clear land of the date is, and in any case within what
    the dates show of a band in the tile and around it. Without evidence of its own, a date is what the others expect.

    Parameters
    ----------
    values
        Shape (T, C, H, W), model units; at least one other date is known somewhere.
    known
        The same shape; nothing that is to be filled.
    times
        Shape (T,), seconds, ascending.
    target
        Index of the date.
    cells
        As `Request.context_cells`, or None.
    """
    evidence, cells = evidence_of(values, known, cells, target)
    used = _usable(evidence, known, target)
    known, times = evidence[used], times[used]
    views = [_View(values[used], known, times, used.index(target))]
    if cells is not None:
        there = np.isfinite(cells[used])
        means = np.where(there, cells[used], np.float32(0))
        views.append(_View(means, there, times, views[0].target, pixel=CONTEXT_CELL_PX))
    alone = not any(view.known[view.target].any() for view in views)
    dates = views[0].others()
    expected = views[0].kriged(dates, sharp=not alone)
    shown = shown_range(values[used], known, None if cells is None else cells[used])
    if alone:
        limits = _limits(dates, shown)
        return DatedEstimate(
            image=np.clip(expected, *limits),
            dates=dates,
            times=views[0].other_times,
            left=np.zeros_like(expected),
            clear=known[views[0].target],
            cells_left=None,
            limits=limits,
        )
    sources, lines = [views[0].departures(dates, expected)], [views[0].line_from(expected)]
    for view in views[1:]:
        cell_dates = view.others()
        means = view.kriged(cell_dates, sharp=True)
        sources.append(view.departures(cell_dates, means))
        lines.append(view.line_from(means))
    share = share_of_second(sources, lines)
    expected = expected + share * lines[0]
    sources = [
        replace(source, departure=source.departure - share * line)
        for source, line in zip(sources, lines, strict=True)
    ]
    sources, moves = _robust_moves(sources)
    left = [source.departure - move for source, move in zip(sources, moves, strict=True)]
    cells_left = np.where(sources[1].known, left[1], np.float32(np.nan)) if len(sources) > 1 else None
    none, enough = _ENOUGH
    own_share = clear_shares(known, None if cells is None else cells[used])[views[0].target]
    trust = np.float32(np.clip((own_share - none) / (enough - none), 0, 1))
    image = expected + trust * (moves[0] + push_pull(left[0], sources[0].known, cells_left))
    limits = _limits(dates, shown, *_beyond(views, sources))
    return DatedEstimate(
        image=np.clip(image, *limits),
        dates=dates,
        times=views[0].other_times,
        left=left[0],
        clear=sources[0].known,
        cells_left=cells_left,
        limits=limits,
    )


def _usable(evidence: BoolArray, known: BoolArray, target: int) -> list[int]:
    """Return the target and the dates that show enough of a tile, ascending; if none does, the one that shows most."""
    inside = max(int(known.any(axis=0).sum()), 1)
    shares = evidence.sum(axis=(1, 2, 3)) / inside
    shares[target] = 0
    used = np.flatnonzero(shares >= _LEAST_SHARE).tolist() or [int(np.argmax(shares))]
    return sorted([*used, target])


def _robust_moves(sources: list[Residuals]) -> tuple[list[Residuals], list[Float32Array]]:
    """Return the departures without outliers, and the moves that are predicted from what is left."""
    moves = predict_departure(sources)
    strange = outliers(
        [source.departure - move for source, move in zip(sources, moves, strict=True)],
        [source.known for source in sources],
    )
    if not any(image.any() for image in strange):
        return sources, moves
    kept = [source.known & ~image for source, image in zip(sources, strange, strict=True)]
    if len(kept) > 1:
        cells = np.where(kept[1], sources[1].departure, np.float32(np.nan))
        kept[1] = np.isfinite(without_cells_of(cells, strange[0]))
    sources = [replace(source, known=known) for source, known in zip(sources, kept, strict=True)]
    return sources, predict_departure(sources)


def _limits(
    dates: Float32Array,
    shown: tuple[Float32Array, Float32Array],
    down: Float32Array | float = 0.0,
    up: Float32Array | float = 0.0,
) -> tuple[Float32Array, Float32Array]:
    """Return the least and the largest value that dates (N, C, H, W) support, shapes (C, H, W).

    Parameters
    ----------
    dates
        Without gaps.
    shown
        What the dates show of each band in the tile: no land is darker than all land on all dates, and a margin that
        went on below it would be negative reflectance.
    down, up
        How far the clear land of the date leaves the range of the dates, by band.
    """
    low, high = dates.min(axis=0), dates.max(axis=0)
    floor, share = _MARGIN
    margin = np.float32(floor) + np.float32(share) * (high - low)  # a trend goes on after the last date
    least, most = shown
    return np.maximum(low - np.maximum(margin, down), least), np.minimum(high + np.maximum(margin, up), most)


def _beyond(views: list[_View], sources: list[Residuals]) -> tuple[Float32Array, Float32Array]:
    """Return how far the clear land of the date goes below and above the range of the dates, shapes (C, 1, 1)."""
    ranges = [(source.dates.min(axis=0), source.dates.max(axis=0)) for source in sources]
    level, least = _BEYOND
    out = np.zeros((2, views[0].values.shape[1], 1, 1), np.float32)
    for band in range(out.shape[1]):
        beyond: tuple[list[Float32Array], list[Float32Array]] = ([], [])
        for view, source, (least_value, most_value) in zip(views, sources, ranges, strict=True):
            clear = source.known[band]
            value = view.values[view.target, band][clear]
            beyond[0].append(least_value[band][clear] - value)
            beyond[1].append(value - most_value[band][clear])
        for side, parts in enumerate(map(np.concatenate, beyond)):
            if parts.size >= least:
                out[side, band] = max(_quantile(parts, level), 0.0)
    return out[0], out[1]


def _quantile(numbers: NDArray[np.floating], level: float) -> float:
    """Return what `numpy.quantile` does, ten times faster."""
    place = level * (len(numbers) - 1)
    rank = min(int(place), len(numbers) - 2)
    low, high = np.partition(numbers, (rank, rank + 1))[rank : rank + 2].tolist()
    return float(low + (place - rank) * (high - low))
