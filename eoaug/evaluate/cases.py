"""Evaluation cases: windows of real cubes become requests whose true answer is known.

Values are reflectance in `Case.truth` and model units in `Case.request`. Targets are the usable dates of a window
(`Series.usable`). For tasks with other dates, a file that continues another one (attribute ``context_file``) has
that file's dates as context too, as a user who extends a cube would; targets are the file's own dates only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eoaug.datasets.series import Series
from eoaug.generators.base import Card, Request, Verb
from eoaug.raster.arrays import BoolArray
from eoaug.raster.masks import simulate
from eoaug.raster.sensor import Sensor

__all__ = [
    "DATED",
    "SLOTS",
    "TASKS",
    "Case",
    "EvaluationTask",
    "cases",
    "evenly",
    "makers",
    "model_units",
    "reflectance",
    "verb_of",
]


EvaluationTask = Literal[
    "inpaint",
    "inpaint with radar",
    "inpaint with dates",
    "x2",
    "x2 box",
    "x2 triangle",
    "x4",
    "x4 box",
    "x4 triangle",
    "next date",
    "date between",
]
"""The tasks: fill irregular holes from the same date; the same holes with Sentinel-1 of that date as conditioning
raster; fill real cloud masks with other dates as context; super-resolve by 2 or 4; predict a whole date after the
given ones; predict a whole date with dates on both sides.

The coarse image is made by the Gaussian sensor of MTF 0.3 (``x2``) or by a mean over cells (``box``), and the request
names that sensor. ``triangle`` is a kernel that the embedded model was not trained on: a triangle two coarse
pixels wide (Pillow's bilinear reduction, MTF 0.41), while the request names the Gaussian sensor."""
TASKS: tuple[EvaluationTask, ...] = get_args(EvaluationTask)
DATED: tuple[EvaluationTask, ...] = ("inpaint with dates", "next date", "date between")
"""Tasks with other dates as context. They include 8-bit display values: differences between methods in dB do not
depend on their unknown scale."""

SLOTS = ("blue", "green", "red", "nir")
"""Bands requested from generators whose card names none."""
HOLE_COVER = (0.2, 0.4)
"""Least and largest share of a window that synthetic holes cover."""
_UNIT = (0.15, 0.05)
"""Reflectance at model unit 0 and per model unit for cards without constants, as in the engine."""


def verb_of(task: EvaluationTask) -> Verb:
    """Return the verb of a task."""
    if task.startswith("inpaint"):
        return "inpaint"
    return "super_resolve" if task[0] == "x" else "extend"


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A request and its true answer."""

    task: EvaluationTask
    place: str
    sensor: str
    """As in `Series`."""
    request: Request
    """As the engine would write it."""
    target: int
    """Index of the requested date."""
    truth: NDArray[np.float32]
    """Shape (C, H, W), reflectance; NaN in bands that are not scored."""
    scored: NDArray[np.bool_]
    """Shape (C, H, W), True for the pixels that are scored: generated and clear."""
    other_dates_mean: NDArray[np.float32] | None
    """Shape (C, H, W), model units: mean of all other usable dates of the window and its history (for ``next date``,
    of the earlier ones), which can be more dates than the request holds; None without any."""
    series: Series
    """The window that the request was made of."""
    date: int
    """Index of the requested date in ``series``."""
    card: Card
    """Of the evaluated generator: bands and model units."""
    dates: NDArray[np.intp]
    """Indices of the dates of ``series`` that a user would have: the target, and for tasks with other dates all usable ones
    (for ``next date``, the earlier ones)."""


def cases(
    task: EvaluationTask,
    series: Series,
    card: Card,
    *,
    masks: Sequence[BoolArray] = (),
    steps: int | None = None,
    seed: int = 0,
) -> Iterator[Case]:
    """Yield every case of a task in a window, by date.

    Parameters
    ----------
    task
        One of `TASKS`. Nothing is yielded if ``card`` does not support the verb or the number of dates.
    series
        The window, with the bands of ``card``.
    card
        Card of the evaluated generator: verbs, context dates, model units.
    masks
        Real cloud masks for ``inpaint with dates``, one per date in turn; without any the holes are synthetic.
    steps, seed
        Copied to the requests; the seed also selects the synthetic holes.
    """
    for make in makers(card, task, series, masks, seed, steps):
        case = make()
        if case.scored.any():
            yield case


def makers(
    card: Card,
    task: EvaluationTask,
    series: Series,
    masks: Sequence[BoolArray],
    seed: int,
    steps: int | None = None,
) -> Iterator[Callable[[], Case]]:
    """Yield a function for every case of a task in a window, by date, which makes it.

    Parameters
    ----------
    card, task, series, masks, seed, steps
        As for `cases`. A case that is made may have no pixel to score.
    """
    radar, needs_radar = series.radar, task == "inpaint with radar"
    bands = series.sharp if task[0] == "x" else series.present
    if verb_of(task) not in card.verbs or not bands.any():
        return
    if needs_radar and (radar is None or "layout" not in card.conditions):
        return
    builder = _CaseBuilder(task=task, series=series, card=card, bands=bands, steps=steps, seed=seed)
    targets = series.usable[series.own[series.usable]]
    for index, date in enumerate(targets.tolist()):
        context = _context(task, series, date, card.context)
        if needs_radar and radar is not None and not np.isfinite(radar[date]).any():
            continue  # no image of another file near this date
        if context is not None:
            mask = masks[index % len(masks)] if masks and task == "inpaint with dates" else None
            yield partial(builder.case, date, context, mask)


def _context(task: EvaluationTask, series: Series, date: int, max_dates: int) -> NDArray[np.intp] | None:
    """Return the context dates of a target date, nearest first; None if the task is impossible for it."""
    usable, times = series.usable, series.times
    others: NDArray[np.intp] = usable[usable != date]
    if task not in DATED:
        return others[:0]
    if task == "next date":
        others = others[others < date]
    nearest: NDArray[np.intp] = others[np.argsort(np.abs(times[others] - times[date]), kind="stable")]
    if not max_dates or not nearest.size or not times.any():
        return None
    context = nearest[:max_dates]
    if task == "date between":
        sides = [nearest[nearest < date], nearest[nearest > date]]
        if max_dates < 2 or not all(side.size for side in sides):
            return None
        for side in sides:
            if not np.isin(context, side).any():
                context = np.append(context[: max_dates - 1], side[0])
    return context


@dataclass(frozen=True, kw_only=True, eq=False)
class _CaseBuilder:
    """Makes the cases of one task in one window."""

    task: EvaluationTask
    series: Series
    card: Card
    bands: BoolArray
    """Shape (C,), True for the bands that are requested and scored."""
    steps: int | None
    seed: int

    def case(self, date: int, context: NDArray[np.intp], mask: BoolArray | None) -> Case:
        """Return the case of one target date with these context dates; ``mask`` replaces the synthetic holes."""
        series, task = self.series, self.task
        dates = np.sort(np.append(context, date))
        target = int(np.flatnonzero(dates == date)[0])
        everywhere = np.broadcast_to(self.bands[:, None, None], series.values.shape[1:])
        values = model_units(series.values[dates], self.card)
        known = np.isfinite(values) & series.clear[dates][:, None] & everywhere
        fill = np.zeros_like(known)
        fill[target] = everywhere
        coarse = sensor = None
        factor = 1
        if task[0] == "x":
            factor = int(task[1])
            sensor = Sensor.of("box" if task.endswith("box") else "gaussian", factor, len(self.bands))
            measured = np.where(everywhere, values, np.float32(np.nan))
            coarse = _triangle(measured, factor) if task.endswith("triangle") else sensor.degrade(measured)
            known[:] = False
        elif verb_of(task) == "inpaint":
            fill[target] &= _hole(series, date, self.seed) if mask is None else mask
        known &= ~fill
        radar = series.radar if task == "inpaint with radar" else None
        return Case(
            task=task,
            place=series.place,
            sensor=series.sensor,
            request=Request(
                values=np.where(known, values, 0).astype(np.float32),
                known=known,
                fill=fill,
                times=series.times[dates],
                metadata=series.metadata[dates],
                origin=series.origin,
                coarse=coarse,
                factor=factor,
                sensor=sensor,
                layout=None if radar is None else radar[date],
                seed=self.seed,
                steps=self.steps,
            ),
            target=target,
            truth=np.where(everywhere, series.values[date], np.float32(np.nan)),
            scored=fill[target] & series.clear[date],
            other_dates_mean=self._other_dates_mean(date),
            series=series,
            date=date,
            card=self.card,
            dates=np.sort(np.append(self._others(date), date)),
        )

    def _others(self, date: int) -> NDArray[np.intp]:
        """Return the usable dates that a user would have for a target."""
        usable = self.series.usable
        others: NDArray[np.intp] = usable[usable != date]
        if self.task not in DATED:
            others = others[:0]
        elif self.task == "next date":
            others = others[others < date]
        return others

    def _other_dates_mean(self, date: int) -> NDArray[np.float32] | None:
        others = self._others(date)
        return model_units(self.series.values[others].mean(axis=0), self.card) if len(others) else None


def _hole(series: Series, date: int, seed: int) -> BoolArray:
    """Return irregular holes whose pattern and cover vary with date and window."""
    least, most = HOLE_COVER
    cover = np.random.default_rng([seed, date, *series.origin]).uniform(least, most)
    height, width = series.values.shape[2:]
    return simulate((height, width), cover, seed=seed + date, origin=series.origin)


def _triangle(fine: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    size = (fine.shape[3] // factor, fine.shape[2] // factor)
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))
        for plane in fine.reshape(-1, *fine.shape[2:])
    ]
    return np.stack(planes).reshape(*fine.shape[:2], *size[::-1])


def evenly(count: int, limit: int | None) -> list[int]:
    """Return at most ``limit`` of ``count`` indices, evenly spread; None: all."""
    if limit is None or count <= limit:
        return list(range(count))
    chosen: list[int] = np.linspace(0, count - 1, limit).round().astype(int).tolist()
    return chosen


def model_units(values: NDArray[np.floating[Any]], card: Card) -> NDArray[np.float32]:
    """Return reflectance (..., C, H, W) in the model units of a card."""
    centre, unit = _constants(card)
    return np.asarray((values - centre) / unit, dtype=np.float32)


def reflectance(values: NDArray[np.floating[Any]], card: Card) -> NDArray[np.float64]:
    """Return model units (..., C, H, W) of a card in reflectance."""
    centre, unit = _constants(card)
    return np.asarray(values * unit + centre)


def _constants(card: Card) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    zero, unit = _UNIT
    return (
        np.asarray(card.mean or (zero,))[:, None, None],
        np.asarray(card.std or (unit,))[:, None, None],
    )
