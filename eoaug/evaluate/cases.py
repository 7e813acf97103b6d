"""Real cubes as questions with a known answer: windows of netCDF files become `Case` objects.

Xarray only to read. Reflectance at the door, model units in the request; a window counts on the dates on
which it has no missing pixel, at most 5 % cloud, and is not so bright that the mask must have missed a cloud.
Where other dates are told, a file that continues another one (attribute ``context_file``) is told of its dates
as well, as a user who extends a cube would; asked for are its own dates alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eoaug.datasets.series import WINDOW_PX, Series
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
"""What is asked: fill irregular holes from one date; the same holes with Sentinel-1 of that date as a guide; fill
under real cloud masks with other dates at hand;
super-resolve by 2 or 4; a whole date after the given ones; a whole date with dates on both sides.

The coarse image was made, and the request says so, by the Gaussian sensor of MTF 0.3 (``x2``) or by a mean over
cells (``box``). ``triangle`` is a kernel that the embedded model's training never used: a triangle two coarse
pixels wide (Pillow's bilinear reduction, MTF 0.41), and the request wrongly assumes the Gaussian."""
TASKS: tuple[EvaluationTask, ...] = get_args(EvaluationTask)
DATED: tuple[EvaluationTask, ...] = ("inpaint with dates", "next date", "date between")
"""Those that tell other dates. They are asked of 8-bit display values too: what a method gains over another, in
dB, does not depend on their unknown scale."""

SLOTS = ("blue", "green", "red", "nir")
"""Bands asked of generators that name none."""
HOLE_COVER = (0.2, 0.4)
"""Least and largest share of a window that synthetic holes hide."""
_UNIT = (0.15, 0.05)
"""Reflectance of model unit 0 and of one unit for cards without constants: those of the engine."""


def verb_of(task: EvaluationTask) -> Verb:
    """Return the verb that a task asks for."""
    if task.startswith("inpaint"):
        return "inpaint"
    return "super_resolve" if task[0] == "x" else "extend"


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One question and its answer."""

    task: EvaluationTask
    place: str
    sensor: str
    """As in `Series`."""
    request: Request
    """As the engine would write it."""
    target: int
    """Index of the date asked for."""
    truth: NDArray[np.float32]
    """Shape (C, H, W), reflectance; NaN for slots that do not count."""
    counts: NDArray[np.bool_]
    """Shape (C, H, W), True for the pixels that the score looks at: generated and clear."""
    elsewhen: NDArray[np.float32] | None
    """Shape (C, H, W), model units: mean of all other clear dates of the window, of its history too (for
    ``next date``, of the earlier ones), more dates than the request may hold; None without any."""


def cases(
    task: EvaluationTask,
    series: Series,
    card: Card,
    *,
    masks: Sequence[BoolArray] = (),
    steps: int | None = None,
    seed: int = 0,
) -> Iterator[Case]:
    """Yield every case of a task that a window can serve, by date.

    Parameters
    ----------
    task
        One of `TASKS`. Nothing is yielded for a verb or a number of dates that ``card`` does not serve.
    series
        The window, its slots those of ``card``.
    card
        Of the generator to be asked: verbs, context dates, model units.
    masks
        Real cloud masks, laid over one date after the other for ``inpaint with dates``; without any the
        holes are synthetic.
    steps, seed
        Passed on in the requests; the seed also chooses the synthetic holes.
    """
    if verb_of(task) not in card.verbs:
        return
    if task == "inpaint with radar" and (series.radar is None or "layout" not in card.conditions):
        return
    counted = series.sharp if task[0] == "x" else series.present
    if not counted.any():
        return
    asked = series.usable[series.own[series.usable]]
    for index, date in enumerate(asked.tolist()):
        told = _context(task, series, date, card.context)
        if told is not None:
            mask = masks[index % len(masks)] if masks and task == "inpaint with dates" else None
            case = _case(task, series, card, date, told, counted, mask, steps, seed)
            if case.counts.any():
                yield case


def _context(task: EvaluationTask, series: Series, date: int, most: int) -> NDArray[np.intp] | None:
    """Return the dates told beside the target, nearest first, or None where the task cannot be asked."""
    usable, times = series.usable, series.times
    others: NDArray[np.intp] = usable[usable != date]
    if task not in DATED:
        return others[:0]
    if task == "next date":
        others = others[others < date]
    nearest: NDArray[np.intp] = others[np.argsort(np.abs(times[others] - times[date]), kind="stable")]
    if not most or not nearest.size or not times.any():
        return None
    told = nearest[:most]
    if task == "date between":
        sides = [nearest[nearest < date], nearest[nearest > date]]
        if most < 2 or not all(side.size for side in sides):
            return None
        for side in sides:
            if not np.isin(told, side).any():
                told = np.append(told[: most - 1], side[0])
    return told


def _case(
    task: EvaluationTask,
    series: Series,
    card: Card,
    date: int,
    told: NDArray[np.intp],
    counted: BoolArray,
    mask: BoolArray | None,
    steps: int | None,
    seed: int,
) -> Case:
    dates = np.sort(np.append(told, date))
    target = int(np.flatnonzero(dates == date)[0])
    everywhere = np.broadcast_to(counted[:, None, None], series.values.shape[1:])
    values = model_units(series.values[dates], card)
    known = np.isfinite(values) & series.clear[dates][:, None] & everywhere
    fill = np.zeros_like(known)
    coarse = sensor = None
    factor = 1
    if task[0] == "x":
        factor = int(task[1])
        sensor = Sensor.of("box" if task.endswith("box") else "gaussian", factor, len(counted))
        measured = np.where(everywhere, values, np.float32(np.nan))
        coarse = _triangle(measured, factor) if task.endswith("triangle") else sensor.degrade(measured)
        known[:] = False
        fill[target] = everywhere
    elif verb_of(task) == "inpaint":
        fill[target] = (_hole(series, date, seed) if mask is None else mask) & everywhere
    else:
        fill[target] = everywhere
    known &= ~fill
    others = series.usable[series.usable != date]
    if task == "next date":
        others = others[others < date]
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
            layout=series.radar[date] if task == "inpaint with radar" and series.radar is not None else None,
            seed=seed,
            steps=steps,
        ),
        target=target,
        truth=np.where(everywhere, series.values[date], np.float32(np.nan)),
        counts=fill[target] & series.clear[date],
        elsewhen=model_units(series.values[others].mean(axis=0), card) if len(others) else None,
    )


def _hole(series: Series, date: int, seed: int) -> BoolArray:
    """Return irregular holes, another pattern and cover for every date and window."""
    least, most = HOLE_COVER
    cover = np.random.default_rng([seed, date, *series.origin]).uniform(least, most)
    return simulate((WINDOW_PX, WINDOW_PX), cover, seed=seed + date, origin=series.origin)


def _triangle(fine: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    size = (fine.shape[3] // factor, fine.shape[2] // factor)
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))
        for plane in fine.reshape(-1, *fine.shape[2:])
    ]
    return np.stack(planes).reshape(*fine.shape[:2], *size[::-1])


def evenly(count: int, most: int | None) -> list[int]:
    """Return at most ``most`` of ``count`` indices, evenly spread; None: all."""
    if most is None or count <= most:
        return list(range(count))
    chosen: list[int] = np.linspace(0, count - 1, most).round().astype(int).tolist()
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
    zero, one = _UNIT
    return (
        np.asarray(card.mean or (zero,))[:, None, None],
        np.asarray(card.std or (one,))[:, None, None],
    )
