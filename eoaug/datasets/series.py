"""Time series of one place, with cloud masks and radar, from learning cubes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.errors import RadiometryError, SourceError
from eoaug.raster.arrays import BoolArray
from eoaug.raster.masks import scl_mask
from eoaug.raster.radiometry import Scaling, declared_scaling

__all__ = ["WINDOW_PX", "Series", "history_of", "read_masks", "read_series"]


WINDOW_PX = 64
"""Edge of a window in pixels."""
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
    clear: BoolArray
    present: BoolArray
    sharp: BoolArray
    times: NDArray[np.int64]
    gsd_m: float
    blue: int | None
    """Channel of calibrated blue; None without one."""
    radar: NDArray[np.float32] | None

    def too_bright(self, window: tuple[slice, slice]) -> BoolArray:
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


def read_masks(path: Path) -> list[BoolArray]:
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


def _clouds(ds: xr.Dataset) -> BoolArray | None:
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
