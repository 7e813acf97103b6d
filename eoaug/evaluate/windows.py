"""Real cubes as questions with a known answer: windows of netCDF files become `Case` objects.

Xarray only to read. Reflectance at the door, model units in the request; a window counts on the dates on
which it has no missing pixel and at most 5 % cloud.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.errors import RadiometryError, SourceError
from eoaug.gaps import scl_mask, simulate
from eoaug.generators.base import Card, Request
from eoaug.radiometry import declared_scaling
from eoaug.sensor import Sensor

__all__ = ["TASKS", "WINDOW_PX", "Case", "Series", "Task", "cases", "read_series"]

Task = Literal["inpaint", "inpaint with dates", "x2", "x4", "next date", "date between"]
"""What is asked: fill clouds from one date; fill them with other dates at hand; super-resolve; a whole date
after the last; a whole date between two."""
TASKS: tuple[Task, ...] = get_args(Task)

WINDOW_PX = 64
"""Edge of a window in pixels."""
CLOUD_COVER = 0.34
"""Share of a window that synthetic clouds hide."""
_MOST_CLOUD = 0.05
_VERBS: Mapping[Task, str] = {
    "inpaint": "inpaint",
    "inpaint with dates": "inpaint",
    "x2": "super_resolve",
    "x4": "super_resolve",
    "next date": "extend",
    "date between": "extend",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One window of one place on all dates of its file."""

    place: str
    """File name without suffix: each file of the set is a place."""
    values: NDArray[np.float32]
    """Shape (T, C, H, W), reflectance, a channel per slot; NaN where missing or the slot is absent."""
    clear: NDArray[np.bool_]
    """Shape (T, H, W), False under cloud where the file has a mask."""
    present: NDArray[np.bool_]
    """Shape (C,), True for the slots that the file has."""
    sharp: NDArray[np.bool_]
    """Shape (C,), True for the slots whose pixels are native: fit to judge super-resolution."""
    times: NDArray[np.int64]
    """Shape (T,), seconds since 1970; 0 without dates."""
    metadata: NDArray[np.float64]
    """Shape (T, 7), as in `Request`."""
    origin: tuple[int, int]
    """First pixel (row, column) in the file."""

    @property
    def usable(self) -> NDArray[np.intp]:
        """Indices of the dates that can be asked about or told."""
        whole = np.isfinite(self.values[:, self.present]).all(axis=(1, 2, 3))
        return np.flatnonzero(whole & (self.clear.mean(axis=(1, 2)) >= 1 - _MOST_CLOUD))


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One question and its answer."""

    task: Task
    place: str
    request: Request
    """As the engine would write it."""
    target: int
    """Index of the date asked for."""
    truth: NDArray[np.float32]
    """Shape (C, H, W), reflectance; NaN for slots that do not count."""
    counts: NDArray[np.bool_]
    """Shape (C, H, W), True for the pixels that the score looks at: generated and clear."""


def read_series(path: Path, slots: Sequence[str]) -> list[Series]:
    """Read the windows of one netCDF file, without overlap from its first pixel on.

    Parameters
    ----------
    path
        Variables (time, y, x) with the attributes ``common_name``, ``gsd_m``, a declared scale, and
        ``native_gsd_m`` where the pixels are not native; ``scl`` or ``cloud_mask`` (1 = cloud) if any.
    slots
        Common names of the bands wanted.

    Raises
    ------
    SourceError
        The file has none of the bands.
    RadiometryError
        Its numbers have no declared scale.
    """
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        bands = {str(v.attrs["common_name"]): v for v in ds.data_vars.values() if "common_name" in v.attrs}
        found = {slot: bands[slot] for slot in slots if slot in bands}
        if not found:
            raise SourceError(
                f"{path.name} has no band with a common name of {', '.join(slots)}.",
                "Leave it out, or set the attribute common_name of its bands.",
            )
        first = next(iter(found.values()))
        T, height, width = first.shape
        values = np.full((T, len(slots), height, width), np.nan, np.float32)
        sharp = np.zeros(len(slots), dtype=bool)
        for channel, slot in enumerate(slots):
            if slot in found:
                values[:, channel] = _reflectance(found[slot])
                gsd_m = float(found[slot].attrs["gsd_m"])
                sharp[channel] = float(found[slot].attrs.get("native_gsd_m", gsd_m)) == gsd_m
        clear = np.ones((T, height, width), dtype=bool)
        if "scl" in ds:
            clear = ~scl_mask(ds["scl"].values)
        elif "cloud_mask" in ds:
            clear = ds["cloud_mask"].values == 0
        times = np.zeros(T, np.int64)
        if "time" in ds.coords:
            times = ds["time"].values.astype("datetime64[s]").astype(np.int64)
        bbox = np.asarray(ds.attrs.get("bbox_lonlat", [np.nan] * 4), dtype=np.float64)
    metadata = _metadata(times, clear, bbox, float(first.attrs["gsd_m"]))
    edge = WINDOW_PX
    return [
        Series(
            place=path.stem,
            values=values[:, :, row : row + edge, col : col + edge],
            clear=clear[:, row : row + edge, col : col + edge],
            present=np.array([slot in found for slot in slots]),
            sharp=sharp,
            times=times,
            metadata=metadata,
            origin=(row, col),
        )
        for row in range(0, height - edge + 1, edge)
        for col in range(0, width - edge + 1, edge)
    ]


def cases(
    task: Task, series: Series, card: Card, *, steps: int | None = None, seed: int = 0
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
    steps, seed
        Passed on in the requests.
    """
    if _VERBS[task] not in card.verbs:
        return
    usable = series.usable
    counted = series.sharp if task in ("x2", "x4") else series.present
    if not counted.any():
        return
    for place in range(len(usable)):
        context = _context(task, usable, place, series.times, card.context)
        if context is None:
            continue
        dates = np.sort(np.append(context, usable[place]))
        target = int(np.flatnonzero(dates == usable[place])[0])
        yield _case(task, series, card, dates, target, counted, steps, seed)


def _context(
    task: Task, usable: NDArray[np.intp], place: int, times: NDArray[np.int64], most: int
) -> NDArray[np.intp] | None:
    """Return the dates told beside the target, or None where the task cannot be asked."""
    before, after = usable[:place], usable[place + 1 :]
    if task == "inpaint with dates":
        others = np.delete(usable, place)
        order = np.argsort(np.abs(times[others] - times[usable[place]]), kind="stable")
        told = others[order[:most]]
    elif task == "next date":
        told = before[-min(most, 2) :] if most else before[:0]
    elif task == "date between":
        told = np.concatenate([before[-1:], after[:1]]) if most >= 2 else before[:0]
        if told.size < 2:
            return None
    else:
        return usable[:0]
    return told if told.size else None


def _case(
    task: Task,
    series: Series,
    card: Card,
    dates: NDArray[np.intp],
    target: int,
    counted: NDArray[np.bool_],
    steps: int | None,
    seed: int,
) -> Case:
    truth = np.where(counted[:, None, None], series.values[dates[target]], np.float32(np.nan))
    values = _model_units(series.values[dates], card)
    known = np.isfinite(values) & series.clear[dates][:, None] & counted[:, None, None]
    fill = np.zeros_like(known)
    coarse = sensor = None
    factor = 1
    if _VERBS[task] == "super_resolve":
        factor = int(task[1:])
        sensor = Sensor.of("gaussian", factor, len(counted))
        with_gaps = np.where(counted[:, None, None], values, np.float32(np.nan))
        coarse = sensor.degrade(with_gaps)
        known[:] = False
        fill[target] = counted[:, None, None]
    elif _VERBS[task] == "inpaint":
        # A pattern of its own for every date and window.
        number = int(dates[target])
        fill[target] = (
            simulate((WINDOW_PX, WINDOW_PX), CLOUD_COVER, seed=seed + number, origin=series.origin)
            & counted[:, None, None]
        )
    else:
        fill[target] = counted[:, None, None]
    known &= ~fill
    return Case(
        task=task,
        place=series.place,
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
            seed=seed,
            steps=steps,
        ),
        target=target,
        truth=truth,
        counts=fill[target] & series.clear[dates[target]],
    )


def _model_units(reflectance: NDArray[np.float32], card: Card) -> NDArray[np.float32]:
    centre = np.asarray(card.mean or (0.0,))[:, None, None]
    unit = np.asarray(card.std or (1.0,))[:, None, None]
    return np.asarray((reflectance - centre) / unit, dtype=np.float32)


def _reflectance(band: xr.DataArray) -> NDArray[np.float32]:
    if band.dtype == np.uint8 and "reflectance_scale" not in band.attrs:
        raise RadiometryError(
            f"Band {band.name!r} holds 8-bit display values without a declared scale.",
            "Evaluate on calibrated reflectance; errors in stretched grey values cannot be compared.",
        )
    scaling = declared_scaling(band.attrs, band.dtype, name=str(band.name))
    values = np.asarray(scaling(band.values), dtype=np.float32)
    if "_FillValue" in band.attrs:
        values[band.values == band.attrs["_FillValue"]] = np.nan
    return values


def _metadata(
    times: NDArray[np.int64], clear: NDArray[np.bool_], bbox: NDArray[np.float64], gsd_m: float
) -> NDArray[np.float64]:
    rows = np.full((len(times), 7), np.nan)
    rows[:, 0] = (bbox[0] + bbox[2]) / 2
    rows[:, 1] = (bbox[1] + bbox[3]) / 2
    rows[:, 2] = gsd_m
    rows[:, 3] = 1 - clear.mean(axis=(1, 2))
    for row, seconds in zip(rows, times.tolist(), strict=True):
        if seconds:
            when = datetime.fromtimestamp(seconds, UTC)
            row[4:] = when.year, when.month, when.day
    return rows
