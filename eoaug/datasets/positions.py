"""Where files lie: which show the same place, and which radar file lies at the place of an optical one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.dimensions import dates_of, spatial_dims, time_dim
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.datasets.netcdf import open_netcdf
from eoaug.errors import EoaugError
from eoaug.raster import grid
from eoaug.raster.arrays import Float32Array

__all__ = ["RADAR", "Extent", "Positions", "extent_of", "radar_at", "radar_of"]


RADAR = ("VV", "VH")
_SHARED = 0.1
"""Share of the smaller extent from which on two files show the same place; neighbours share an edge at most."""
_RADAR_S = 6 * 86_400
"""Largest distance in time between an optical date and its radar image: half of Sentinel-1's repeat cycle."""


class Extent(NamedTuple):
    """West, south, east and north in degrees."""

    west: float
    south: float
    east: float
    north: float

    def shared(self, other: Extent) -> float:
        """Return the common area as a share of the smaller of two extents."""
        width = min(self.east, other.east) - max(self.west, other.west)
        height = min(self.north, other.north) - max(self.south, other.south)
        least = min(self.area, other.area)
        return max(width, 0.0) * max(height, 0.0) / least if least > 0 else 0.0

    @property
    def area(self) -> float:
        """In square degrees."""
        return (self.east - self.west) * (self.north - self.south)


def extent_of(ds: xr.Dataset) -> Extent | None:
    """Return the extent of a file, declared (``bbox_lonlat``) or of its grid; None if it is not known."""
    try:
        if "bbox_lonlat" in ds.attrs:
            return Extent(*(float(edge) for edge in ds.attrs["bbox_lonlat"]))
        geobox, georeferenced = geobox_from_coords(ds, *spatial_dims(ds))
    except (EoaugError, TypeError, ValueError):
        return None
    if not georeferenced or geobox.crs is None:
        return None
    height, width = geobox.shape.yx
    corners = grid.lonlat(geobox, [0, 0, height, height], [0, width, 0, width])
    if not np.isfinite(corners).all():
        return None
    (west, south), (east, north) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return Extent(west, south, east, north)


@dataclass(frozen=True)
class Positions:
    """Where the files of a folder lie."""

    place_of: Mapping[str, str]
    """Place of each file by its name without suffix: the name of the first file that shows it. Two processing levels, pixel
    sizes or sensors of one chip are one place. A file whose position is not known is a place of its own, but for the same
    scene at another pixel size (``NAME`` and ``NAME_20m``)."""
    radar: tuple[Path, ...]
    """Files that hold both polarisations."""

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Positions:
        """Read the positions of files; one that cannot be read has none."""
        extents: dict[str, Extent | None] = {}
        radar = []
        for path in paths:
            extents[path.stem] = None
            with suppress(EoaugError), open_netcdf(path) as ds:
                extents[path.stem] = extent_of(ds)
                if all(name in ds for name in RADAR):
                    radar.append(path)
        place_of: dict[str, str] = {}
        for name, extent in extents.items():
            same = next((other for other in place_of if _same(name, extent, other, extents[other])), None)
            place_of[name] = name if same is None else place_of[same]
        return cls(place_of, tuple(radar))


def _same(name: str, extent: Extent | None, other: str, its: Extent | None) -> bool:
    if extent is not None and its is not None:
        return extent.shared(its) >= _SHARED
    return name.rpartition("_")[0] == other and name.endswith("m") and name[len(other) + 1 : -1].isdigit()


# -- radar -------------------------------------------------------------------------------------------


def radar_of(ds: xr.Dataset) -> Float32Array | None:
    """Return Sentinel-1's VV and VH of a file in decibels, shape (T, 2, H, W), NaN where missing; None without both."""
    if any(name not in ds for name in RADAR):
        return None
    y, x = spatial_dims(ds[RADAR[0]])
    planes = []
    for band in (ds[name] for name in RADAR):
        ordered = band.transpose(..., y, x)
        values = ordered.values.astype(np.float64).reshape(-1, ds.sizes[y], ds.sizes[x])
        values[ordered.values.reshape(values.shape) == band.attrs.get("_FillValue")] = np.nan
        if "db_scale" in band.attrs:
            planes.append(values * float(band.attrs["db_scale"]) + float(band.attrs.get("db_offset", 0.0)))
        elif np.isfinite(values).any() and np.nanmedian(values) < 0:  # power is positive
            planes.append(values)
        else:
            planes.append(10 * np.log10(np.where(values > 0, values, np.nan)))
    return np.stack(planes, axis=1).astype(np.float32)


def radar_at(ds: xr.Dataset, times: NDArray[np.int64], paths: Sequence[Path]) -> Float32Array | None:
    """Return the radar images of other files on the grid and near the dates of an optical one.

    Parameters
    ----------
    ds
        The optical file, with coordinates and reference system.
    times
        Shape (T,), its dates in seconds; 0 without.
    paths
        Files that may hold ``VV`` and ``VH`` at its place, on a grid of the same reference system.

    Returns
    -------
    Shape (T, 2, H, W), decibels: the nearest pixel of the nearest date within six days, NaN without one. None if no
    file shows the place.
    """
    extent = extent_of(ds)
    if extent is None or not times.any():
        return None
    for path in paths:
        try:
            with open_netcdf(path) as radar:
                there = extent_of(radar) if all(name in radar for name in RADAR) else None
                if there is None or extent.shared(there) < _SHARED:
                    continue
                found = _on_grid(radar, ds, times)
        except EoaugError:
            continue
        if found is not None:
            return found
    return None


def _on_grid(radar: xr.Dataset, ds: xr.Dataset, times: NDArray[np.int64]) -> Float32Array | None:
    dims, own = spatial_dims(ds), spatial_dims(radar)
    ours, theirs = geobox_from_coords(ds, *dims)[0], geobox_from_coords(radar, *own)[0]
    time = time_dim(radar[RADAR[0]].dims, radar.coords)
    images = radar_of(radar)
    if ours.crs is None or ours.crs != theirs.crs or time is None or images is None:
        return None
    seconds = dates_of(radar[time], time).astype("datetime64[s]").astype(np.int64)
    (height, width), to_theirs = ours.shape.yx, ~theirs.affine * ours.affine
    cols = np.floor([(to_theirs * (col + 0.5, 0.5))[0] for col in range(width)]).astype(int)
    rows = np.floor([(to_theirs * (0.5, row + 0.5))[1] for row in range(height)]).astype(int)
    out = np.full((len(times), len(RADAR), height, width), np.nan, np.float32)
    inside_rows = (rows >= 0) & (rows < images.shape[2])
    inside_cols = (cols >= 0) & (cols < images.shape[3])
    for date, moment in enumerate(times):
        nearest = int(np.argmin(np.abs(seconds - moment)))
        if abs(int(seconds[nearest] - moment)) <= _RADAR_S:
            part = images[nearest][:, rows[inside_rows]][:, :, cols[inside_cols]]
            out[date][:, np.ix_(inside_rows, inside_cols)[0], np.ix_(inside_rows, inside_cols)[1]] = part
    return out
