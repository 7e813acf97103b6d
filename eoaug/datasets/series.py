"""Windows of time series for evaluation: reflectance, clear pixels, radar and earlier dates of one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.datasets.netcdf import ImageStack, open_netcdf, read_clouds, read_images
from eoaug.datasets.positions import radar_at, radar_of
from eoaug.datasets.snow import snow_of
from eoaug.generators.base import metadata_rows
from eoaug.raster.arrays import BoolArray

__all__ = ["SMALL_WINDOW_PX", "WINDOW_PX", "Series", "edge_px", "history_of", "read_masks", "read_series"]


WINDOW_PX = 64
"""Edge of a window in pixels."""
SMALL_WINDOW_PX = 32
"""Edge of the windows of a file that is smaller than `WINDOW_PX`."""
_MASK_COVER = (0.05, 0.9)
"""Least and largest share of a window that an evaluated real cloud mask covers."""
_MAX_CLOUD = 0.05
"""Largest share of a usable window that may be cloudy."""
_CLOUD_BLUE = 0.25
"""Mean blue reflectance from which a whole window counts as cloud, whatever its mask says: Sen2Cor classifies some
closed cloud decks as water or soil. Salt is excluded with them; snow is not."""
_SNOW_SHARE = 0.5
"""Least share of snow of a bright window that is no cloud."""
_MAX_SHIFT_PX = 2
"""Largest shift between a file and its history; beyond it they do not show the same place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One window of one place on all dates of its file; T dates, C bands."""

    place: str
    """File name without suffix; the evaluation gives files of one position one name."""
    sensor: str
    """Attribute ``platform`` of the file; empty if it has none."""
    values: NDArray[np.float32]
    """Shape (T, C, H, W), reflectance; NaN where missing and in absent bands."""
    clear: NDArray[np.bool_]
    """Shape (T, H, W), False under cloud and cloud shadow."""
    present: NDArray[np.bool_]
    """Shape (C,), True for bands that the file has."""
    sharp: NDArray[np.bool_]
    """Shape (C,), True for bands fit to judge super-resolution (`netcdf.ImageStack.sharp`)."""
    times: NDArray[np.int64]
    """Shape (T,), seconds since 1970; 0 without dates."""
    metadata: NDArray[np.float64]
    """Shape (T, 7), as in `Request`."""
    origin: tuple[int, int]
    """First pixel (row, column) in the file."""
    own: NDArray[np.bool_]
    """Shape (T,), False for dates of another file that this one continues: context only, never a target."""
    radar: NDArray[np.float32] | None
    """Shape (T, 2, H, W), VV and VH in decibels, NaN where missing; None without both."""

    @property
    def usable(self) -> NDArray[np.intp]:
        """Indices of the dates that can be a target or context: no missing pixel, at most 5 % cloud."""
        whole = np.isfinite(self.values[:, self.present]).all(axis=(1, 2, 3))
        return np.flatnonzero(whole & (self.clear.mean(axis=(1, 2)) >= 1 - _MAX_CLOUD))


def read_series(
    path: Path,
    bands: Sequence[str],
    *,
    history: Path | None = None,
    display_values: bool = False,
    radar_files: Sequence[Path] = (),
) -> list[Series]:
    """Read the windows of one netCDF file, side by side from its first pixel on.

    They have an edge of `WINDOW_PX`, in a file that is smaller of `SMALL_WINDOW_PX`.

    Parameters
    ----------
    path
        File as `netcdf.read_images` expects it.
    bands
        Common names of the bands.
    history
        From `history_of`: its dates before the first one of ``path`` are added as context dates.
    display_values
        Accept 8-bit display values without a declared scale: 255 becomes reflectance 0.5.
    radar_files
        Files that may hold ``VV`` and ``VH`` at the same place, for a file without them; see `positions.radar_at`.

    Raises
    ------
    SourceError
        The file cannot be read, has none of the bands, or they do not share one (time, y, x) grid.
    RadiometryError
        A band has no declared scale.
    """
    with open_netcdf(path) as ds:
        images = read_images(ds, path.name, bands, display_values=display_values)
        radar = radar_of(ds)
        if radar is None or (len(radar), *radar.shape[2:]) != images.clear.shape:
            radar = radar_at(ds, images.times, radar_files)
        snow = snow_of(ds, path, images.times) if _may_be_snow(images, bands) else None
        if snow is not None and not np.isfinite(images.cloud_fraction).any():
            images = replace(images, clear=images.clear | snow)
        own_dates = len(images.times)
        if history is not None:
            with open_netcdf(history) as before:
                shifts = _shifts(before, ds)
                if shifts is not None:
                    earlier = read_images(before, history.name, bands, display_values=display_values)
                    images = _joined(earlier, images, shifts)
                    radar = snow = None
    lon_deg, lat_deg = images.lonlat_deg
    metadata = metadata_rows(
        images.times,
        dated=images.times != 0,
        lon_deg=lon_deg,
        lat_deg=lat_deg,
        gsd_m=images.gsd_m,
        cloud_fraction=images.cloud_fraction,
    )
    own = np.arange(len(images.times)) >= len(images.times) - own_dates
    windows = []
    edge = edge_px(images.clear.shape[1:])
    for row, col in _corners(images.clear.shape[1:], edge):
        window = np.s_[..., row : row + edge, col : col + edge]
        values = images.values[window]
        cloudy = _too_bright(values, images, bands)
        if snow is not None:
            cloudy &= snow[window].mean(axis=(1, 2)) < _SNOW_SHARE
        windows.append(
            Series(
                place=path.stem,
                sensor=images.platform,
                values=values,
                clear=images.clear[window] & ~cloudy[:, None, None],
                present=images.present,
                sharp=images.sharp,
                times=images.times,
                metadata=metadata,
                origin=(row, col),
                own=own,
                radar=None if radar is None else radar[window],
            )
        )
    return windows


def _too_bright(values: NDArray[np.float32], images: ImageStack, bands: Sequence[str]) -> BoolArray:
    """Return shape (T,), True on dates whose window (T, C, H, W) is so bright in blue that it must be cloud."""
    if "blue" not in bands or not images.calibrated[blue := list(bands).index("blue")]:
        return np.zeros(len(values), dtype=bool)
    return np.asarray(values[:, blue].mean(axis=(1, 2)) >= _CLOUD_BLUE)


def _may_be_snow(images: ImageStack, bands: Sequence[str]) -> bool:
    """Return whether any part of a file is as bright as cloud, so that it matters whether it is snow."""
    if "blue" not in bands or not images.calibrated[blue := list(bands).index("blue")]:
        return False
    return bool((images.values[:, blue] >= _CLOUD_BLUE).any())


def _joined(earlier: ImageStack, later: ImageStack, shifts: NDArray[np.int64]) -> ImageStack:
    """Return the dates of ``earlier`` before the first of ``later``, moved by whole pixels (T, 2), then ``later``."""
    dates = np.flatnonzero(earlier.times < later.times.min())
    values = [_moved(earlier.values[date], shifts[date], np.float32(np.nan)) for date in dates]
    clear = [_moved(earlier.clear[date], shifts[date], np.False_) for date in dates]
    return replace(
        later,
        values=np.stack([*values, *later.values]),
        clear=np.stack([*clear, *later.clear]),
        cloud_fraction=np.concatenate([earlier.cloud_fraction[dates], later.cloud_fraction]),
        times=np.concatenate([earlier.times[dates], later.times]),
    )


def history_of(path: Path, folder: Path | None = None) -> Path | None:
    """Return the file of earlier dates that a file names in its attribute ``context_file``; None without one.

    Parameters
    ----------
    path
        The file with the later dates.
    folder
        Searched for the file name as well; the relative path is first resolved against the folders above ``path``.
    """
    with open_netcdf(path) as ds:
        named = Path(str(ds.attrs.get("context_file", "")).partition(" ")[0])
    if not named.name or named.is_absolute() or ".." in named.parts:
        return None
    candidates = [parent / named for parent in path.resolve().parents]
    candidates += [] if folder is None else [folder / named.name]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _shifts(before: xr.Dataset, ds: xr.Dataset) -> NDArray[np.int64] | None:
    """Return by how many pixels (T, 2) each date is off the grid of ``ds``; None if it shows another place.

    The coordinates ``grid_offset_y`` and ``grid_offset_x`` give the offset of a date from its file's own grid.
    """
    shifts = []
    for axis in ("y", "x"):
        if axis not in before.coords or axis not in ds.coords or before.sizes[axis] != ds.sizes[axis]:
            return None
        theirs, ours = before[axis].values, ds[axis].values
        name = f"grid_offset_{axis}"
        offset = before[name].values if name in before.coords else np.zeros(before.sizes["time"])
        shifts.append((theirs[0] + offset - ours[0]) / (ours[1] - ours[0]))
    pixels = np.stack(shifts, axis=1).round().astype(np.int64)
    return pixels if (np.abs(pixels) <= _MAX_SHIFT_PX).all() else None


def _moved(image: NDArray[Any], shift: NDArray[np.int64], missing: np.generic) -> NDArray[Any]:
    """Return an image (..., H, W) moved down and right, with ``missing`` where it has no pixel."""
    edges = [(0, 0)] * (image.ndim - 2) + [(_MAX_SHIFT_PX, _MAX_SHIFT_PX)] * 2
    padded = np.pad(image, edges, constant_values=missing)
    row, col = (_MAX_SHIFT_PX - shift).tolist()
    return padded[..., row : row + image.shape[-2], col : col + image.shape[-1]]


def edge_px(shape_yx: Sequence[int]) -> int:
    """Return the edge of the windows of a file of so many rows and columns."""
    return WINDOW_PX if min(shape_yx) >= WINDOW_PX else SMALL_WINDOW_PX


def read_masks(path: Path, edges: Sequence[int] = (WINDOW_PX,)) -> dict[int, list[BoolArray]]:
    """Return the real cloud masks of a netCDF file that cover between 5 and 90 % of a window.

    Parameters
    ----------
    path
        File whose `netcdf.cloud_mask` is cut into windows; without one there are no masks.
    edges
        Edges of the windows in pixels.

    Returns
    -------
    By edge, shape (edge, edge) each, True = cloud or shadow, window by window and date by date.
    """
    clouds = read_clouds(path)
    least, most = _MASK_COVER
    masks: dict[int, list[BoolArray]] = {edge: [] for edge in edges}
    if clouds is None:
        return masks
    for edge in edges:
        for row, col in _corners(clouds.shape[1:], edge):
            for date in clouds:
                window = date[row : row + edge, col : col + edge]
                if least <= float(window.mean()) <= most:
                    masks[edge].append(window)
    return masks


def _corners(shape_yx: Sequence[int], edge: int) -> list[tuple[int, int]]:
    """Return the first pixels (row, column) of windows side by side."""
    height, width = shape_yx
    return [
        (row, col) for row in range(0, height - edge + 1, edge) for col in range(0, width - edge + 1, edge)
    ]
