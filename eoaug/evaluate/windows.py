"""Real cubes as questions with a known answer: windows of netCDF files become `Case` objects.

Xarray only to read. Reflectance at the door, model units in the request; a window counts on the dates on
which it has no missing pixel, at most 5 % cloud, and is not so bright that the mask must have missed a cloud.
Where other dates are told, a file that continues another one (attribute ``context_file``) is told of its dates
as well, as a user who extends a cube would; asked for are its own dates alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from eoaug.errors import RadiometryError, SourceError
from eoaug.gaps import scl_mask, simulate
from eoaug.generators.base import Card, Request, Verb
from eoaug.radiometry import Scaling, declared_scaling
from eoaug.sensor import Sensor

__all__ = [
    "DATED",
    "SLOTS",
    "TASKS",
    "WINDOW_PX",
    "Case",
    "Series",
    "Task",
    "cases",
    "evenly",
    "history_of",
    "model_units",
    "read_masks",
    "read_series",
    "reflectance",
    "verb_of",
]

Task = Literal[
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
TASKS: tuple[Task, ...] = get_args(Task)
DATED: tuple[Task, ...] = ("inpaint with dates", "next date", "date between")
"""Those that tell other dates. They are asked of 8-bit display values too: what a method gains over another, in
dB, does not depend on their unknown scale."""

SLOTS = ("blue", "green", "red", "nir")
"""Bands asked of generators that name none."""
WINDOW_PX = 64
"""Edge of a window in pixels."""
HOLE_COVER = (0.2, 0.4)
"""Least and largest share of a window that synthetic holes hide."""
_MASK_COVER = (0.05, 0.9)
"""The same for real masks: less asks nothing, more leaves nothing to go by."""
_MOST_CLOUD = 0.05
_CLOUD_BLUE = 0.25
"""Mean blue reflectance from which a window is taken for cloud whatever its mask says: Sen2Cor names some closed
decks water or soil. Snow and salt go with them."""
_GREY = 0.5 / 255
"""Reflectance that one grey value of 8-bit display data is taken for, as in training."""
_RADAR = ("VV", "VH")
_FARTHEST_PX = 2
"""Shift between a file and its history beyond which they are not of one place."""
_UNIT = (0.15, 0.05)
"""Reflectance of model unit 0 and of one unit for cards without constants: those of the engine."""

_Mask = NDArray[np.bool_]


def verb_of(task: Task) -> Verb:
    """Return the verb that a task asks for."""
    if task.startswith("inpaint"):
        return "inpaint"
    return "super_resolve" if task[0] == "x" else "extend"


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One window of one place on all dates of its file."""

    place: str
    """File name without suffix: each file of the set is a place."""
    sensor: str
    """Attribute ``platform`` of the file; empty without one."""
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
    own: NDArray[np.bool_]
    """Shape (T,), False for the dates of another file that this one continues: told, never asked for."""
    radar: NDArray[np.float32] | None
    """Shape (T, 2, H, W), VV and VH in decibels, NaN where missing; None without both."""

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


def read_series(
    path: Path, slots: Sequence[str], *, history: Path | None = None, grey: bool = False
) -> list[Series]:
    """Read the windows of one netCDF file, without overlap from its first pixel on.

    Parameters
    ----------
    path
        Variables (time, y, x) with the attributes ``common_name``, ``gsd_m``, a declared scale, and
        ``native_gsd_m`` where the pixels are not native; ``scl`` or ``cloud_mask`` (1 = cloud) if any.
    slots
        Common names of the bands wanted.
    history
        From `history_of`: its dates before the first one of ``path`` are put in front.
    grey
        Take 8-bit display values without a declared scale, 255 as reflectance 0.5.

    Raises
    ------
    SourceError
        The file cannot be read, has none of the bands, or they are no (time, y, x) on one grid.
    RadiometryError
        Its numbers have no declared scale.
    """
    with _opened(path) as ds:
        pictures = _read(ds, path.name, slots, grey)
        bbox = np.asarray(ds.attrs.get("bbox_lonlat", [np.nan] * 4), dtype=np.float64)
        sensor = str(ds.attrs.get("platform", ""))
        count = len(pictures.times)
        if history is not None:
            with _opened(history) as before:
                shifts = _shifts(before, ds)
                if shifts is not None:
                    pictures = _read(before, history.name, slots, grey).in_front_of(pictures, shifts)
    values, clear = pictures.values, pictures.clear
    metadata = _metadata(pictures.times, clear, bbox, pictures.gsd_m)
    edge = WINDOW_PX
    return [
        Series(
            place=path.stem,
            sensor=sensor,
            values=values[:, :, row : row + edge, col : col + edge],
            clear=clear[:, row : row + edge, col : col + edge]
            & ~pictures.too_bright(np.s_[row : row + edge, col : col + edge])[:, None, None],
            present=pictures.present,
            sharp=pictures.sharp,
            times=pictures.times,
            metadata=metadata,
            origin=(row, col),
            own=np.arange(len(values)) >= len(values) - count,
            radar=None
            if pictures.radar is None
            else pictures.radar[:, :, row : row + edge, col : col + edge],
        )
        for row, col in _corners(*clear.shape[1:])
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pictures:
    """What one file shows, over its whole extent; arrays as in `Series`."""

    values: NDArray[np.float32]
    clear: _Mask
    present: _Mask
    sharp: _Mask
    times: NDArray[np.int64]
    gsd_m: float
    blue: int | None
    """Channel of calibrated blue; None without one."""
    radar: NDArray[np.float32] | None

    def too_bright(self, window: tuple[slice, slice]) -> _Mask:
        """Return True for the dates on which a window must be cloud."""
        if self.blue is None:
            return np.zeros(len(self.values), dtype=bool)
        return np.asarray(self.values[:, self.blue, *window].mean(axis=(1, 2)) >= _CLOUD_BLUE)

    def in_front_of(self, other: _Pictures, shifts: NDArray[np.int64]) -> _Pictures:
        """Return the earlier dates of this file, moved by whole pixels (T, 2), and then those of another."""
        earlier = np.flatnonzero(self.times < other.times.min())
        moved = [_moved(self.values[date], shifts[date], np.float32(np.nan)) for date in earlier]
        clear = [_moved(self.clear[date], shifts[date], np.False_) for date in earlier]
        return replace(
            other,
            values=np.stack([*moved, *other.values]),
            clear=np.stack([*clear, *other.clear]),
            times=np.concatenate([self.times[earlier], other.times]),
            radar=None,
        )


def _read(ds: xr.Dataset, name: str, slots: Sequence[str], grey: bool) -> _Pictures:
    bands = {str(v.attrs["common_name"]): v for v in ds.data_vars.values() if "common_name" in v.attrs}
    found = {slot: bands[slot] for slot in slots if slot in bands}
    if not found:
        raise SourceError(
            f"{name} has no band with a common name of {', '.join(slots)}.",
            "Leave it out, or set the attribute common_name of its bands.",
        )
    first = next(iter(found.values()))
    if odd := [v for v in found.values() if v.ndim != 3 or v.shape != first.shape]:
        raise SourceError(
            f"Band {odd[0].name!r} of {name} has shape {odd[0].shape}.",
            "Store all bands as (time, y, x) on one grid.",
        )
    T, height, width = first.shape
    values = np.full((T, len(slots), height, width), np.nan, np.float32)
    sharp = np.zeros(len(slots), dtype=bool)
    for channel, slot in enumerate(slots):
        if slot in found:
            values[:, channel] = _calibrated(found[slot], grey)
            gsd_m = float(found[slot].attrs.get("gsd_m", np.nan))
            sharp[channel] = "native_gsd_m" not in found[slot].attrs or (
                float(found[slot].attrs["native_gsd_m"]) == gsd_m
            )
    hidden = _clouds(ds)
    times = np.zeros(T, np.int64)
    if "time" in ds.coords:
        times = ds["time"].values.astype("datetime64[s]").astype(np.int64)
    return _Pictures(
        values=values,
        clear=np.ones((T, height, width), dtype=bool) if hidden is None else ~hidden,
        present=np.array([slot in found for slot in slots]),
        sharp=sharp,
        times=times,
        gsd_m=float(first.attrs.get("gsd_m", np.nan)),
        blue=slots.index("blue") if "blue" in found and not _is_grey(found["blue"]) else None,
        radar=_radar(ds, first.shape),
    )


def _radar(ds: xr.Dataset, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return Sentinel-1's VV and VH in decibels; None without them on the grid of the bands."""
    if any(name not in ds or ds[name].shape != shape for name in _RADAR):
        return None
    planes = []
    for band in (ds[name] for name in _RADAR):
        values = band.values.astype(np.float64)
        values[band.values == band.attrs.get("_FillValue")] = np.nan
        if "db_scale" in band.attrs:
            planes.append(values * float(band.attrs["db_scale"]) + float(band.attrs.get("db_offset", 0.0)))
        else:
            planes.append(10 * np.log10(np.where(values > 0, values, np.nan)))
    return np.stack(planes, axis=1).astype(np.float32)


def history_of(path: Path, folder: Path | None = None) -> Path | None:
    """Return the file whose dates a file continues (its attribute ``context_file``); None without one.

    Parameters
    ----------
    path
        The file that goes on.
    folder
        Where else to look, by name: a relative path is first taken from the folders above ``path``.
    """
    with _opened(path) as ds:
        named = Path(str(ds.attrs.get("context_file", "")).partition(" ")[0])
    if not named.name or named.is_absolute() or ".." in named.parts:
        return None
    found = [parent / named for parent in path.resolve().parents]
    found += [] if folder is None else [folder / named.name]
    return next((one for one in found if one.is_file()), None)


def _shifts(before: xr.Dataset, ds: xr.Dataset) -> NDArray[np.int64] | None:
    """Return by how many pixels (T, 2) each date lies off the grid of ``ds``; None if it is another place.

    ``grid_offset_y`` and ``grid_offset_x`` say by how much a date is off its file's own grid.
    """
    shifts = []
    for axis in ("y", "x"):
        if axis not in before.coords or axis not in ds.coords or before.sizes[axis] != ds.sizes[axis]:
            return None
        theirs, ours = before[axis].values, ds[axis].values
        offset = f"grid_offset_{axis}"
        off = before[offset].values if offset in before.coords else np.zeros(before.sizes["time"])
        shifts.append((theirs[0] + off - ours[0]) / (ours[1] - ours[0]))
    found = np.stack(shifts, axis=1).round().astype(np.int64)
    return found if (np.abs(found) <= _FARTHEST_PX).all() else None


def _moved(image: NDArray[Any], shift: NDArray[np.int64], beyond: np.generic) -> NDArray[Any]:
    """Return an image (..., H, W) moved down and right, with ``beyond`` where it showed nothing."""
    edges = [(0, 0)] * (image.ndim - 2) + [(_FARTHEST_PX, _FARTHEST_PX)] * 2
    padded = np.pad(image, edges, constant_values=beyond)
    row, col = (_FARTHEST_PX - shift).tolist()
    return padded[..., row : row + image.shape[-2], col : col + image.shape[-1]]


def read_masks(path: Path) -> list[_Mask]:
    """Return the real cloud masks of a netCDF file that hide a fair part of a window, window by window.

    Parameters
    ----------
    path
        Its variable ``scl`` or ``cloud_mask`` is read; without one there are no masks.

    Returns
    -------
    Shape (`WINDOW_PX`, `WINDOW_PX`) each, True = cloud or shadow, between 5 and 90 % of the window.
    """
    with _opened(path) as ds:
        hidden = _clouds(ds)
    if hidden is None:
        return []
    edge, (least, most) = WINDOW_PX, _MASK_COVER
    windows = [
        date[row : row + edge, col : col + edge]
        for row, col in _corners(*hidden.shape[1:])
        for date in hidden
    ]
    return [window for window in windows if least <= float(window.mean()) <= most]


def cases(
    task: Task,
    series: Series,
    card: Card,
    *,
    masks: Sequence[_Mask] = (),
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


def _context(task: Task, series: Series, date: int, most: int) -> NDArray[np.intp] | None:
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
    task: Task,
    series: Series,
    card: Card,
    date: int,
    told: NDArray[np.intp],
    counted: _Mask,
    mask: _Mask | None,
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


def _hole(series: Series, date: int, seed: int) -> _Mask:
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


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    """Return the first pixels of windows side by side."""
    edge = WINDOW_PX
    return [
        (row, col) for row in range(0, height - edge + 1, edge) for col in range(0, width - edge + 1, edge)
    ]


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    if find_spec("h5netcdf") is None:
        raise SourceError(
            f"{path.name} cannot be read: h5netcdf is not installed.", "Type: pip install h5netcdf h5py"
        )
    try:
        ds = xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False)
    except OSError as error:
        raise SourceError(
            f"{path.name} cannot be read as netCDF-4 ({error}).", "Convert it, or leave it out."
        ) from error
    with ds:
        yield ds


def _clouds(ds: xr.Dataset) -> _Mask | None:
    """Return True under cloud and shadow, shape (T, H, W); None where the file has no mask."""
    if "scl" in ds:
        return np.asarray(scl_mask(ds["scl"].values))
    if "cloud_mask" in ds:
        return np.asarray(ds["cloud_mask"].values != 0)
    return None


def _is_grey(band: xr.DataArray) -> bool:
    return bool(band.dtype == np.uint8 and "reflectance_scale" not in band.attrs)


def _calibrated(band: xr.DataArray, grey: bool) -> NDArray[np.float32]:
    if _is_grey(band) and not grey:
        raise RadiometryError(
            f"Band {band.name!r} holds 8-bit display values without a declared scale.",
            "Evaluate on calibrated reflectance; errors in stretched grey values cannot be compared.",
        )
    scaling = (
        Scaling(_GREY) if _is_grey(band) else declared_scaling(band.attrs, band.dtype, name=str(band.name))
    )
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
