"""Files as users open them: all bands of a window with their dates and clouds, for tasks that are judged through the verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.xr import xr_coords

from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.model import Cube, CubeBand
from eoaug.cube.read import read_cube
from eoaug.cube.roles import platform_of
from eoaug.datasets.netcdf import cloud_mask, open_netcdf
from eoaug.datasets.positions import RADAR, Positions, radar_of
from eoaug.datasets.snow import snow_of
from eoaug.errors import EoaugError, SourceError
from eoaug.quicklook import HIDDEN
from eoaug.raster.arrays import BoolArray, Float32Array, FloatArray
from eoaug.raster.bands import common_name
from eoaug.raster.grid import gsd_m
from eoaug.raster.plausible import quantity_of
from eoaug.raster.radiometry import declares_scale
from eoaug.raster.variables import plain_name, role_of
from eoaug.verbs.arguments import dates_of, seconds_of
from eoaug.verbs.native import on_one_grid

__all__ = ["RADAR_DB", "Scene", "Strip", "StripImage", "cube_of", "physical", "read_scenes"]


_ALIGNED_PX = 12
"""Windows begin at multiples of this, so that pixels of 20 and 60 m on a grid of 10 m are whole."""
_MAX_CLOUD = 0.05
"""Largest share of a clear date that may be cloudy."""
_CLOUD = {"blue": 0.25, "green": 0.3, "red": 0.35, "rededge071": 0.4}
"""Mean reflectance from which on a date is cloud, by the band of the shortest waves that a file has."""
_SNOW = 0.5
RADAR_DB = -10.0
"""Median backscatter in dB that radar of unknown calibration is lowered to, if it lies higher."""
_DISPLAY = 0.5 / 255
"""Reflectance per grey level of 8-bit display values, as in the other tasks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StripImage:
    """One picture of a strip."""

    caption: str
    note: str = ""
    image: FloatArray
    """Shape (C, H, W), physical values."""
    hidden: BoolArray | None = None
    """Shape (H, W), True for pixels that are covered by one colour."""
    colour: tuple[int, int, int] = HIDDEN


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """Pictures of one date side by side, for the report."""

    task: str
    bands: tuple[str, ...]
    """Common names of the bands."""
    images: tuple[StripImage, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The middle window of a file."""

    name: str
    """File name without suffix."""
    place: str
    """Files of one position share it."""
    cube: Cube
    cloud: BoolArray | None
    """Shape (T, H, W), True under cloud and shadow; None without a mask."""
    snow: BoolArray | None = None
    """The same shape, True for snow; None if nothing says so (see `snow.snow_of`)."""
    display: frozenset[str] = frozenset()
    """Names of bands with 8-bit display values, whose reflectance is not known."""
    _values: dict[str, Float32Array] = field(default_factory=dict)

    def values(self, bands: Iterable[CubeBand]) -> Float32Array:
        """Return physical values (T, C, H, W), NaN where missing."""
        for band in bands:
            if band.name not in self._values:
                self._values[band.name] = physical(band, np.asarray(band.data)).astype(np.float32)
        return np.stack([self._values[band.name] for band in bands], axis=1)

    @cached_property
    def reflectances(self) -> tuple[CubeBand, ...]:
        """The bands that hold reflectance in declared units."""
        return tuple(band for band in self.optical if band.name not in self.display)

    @cached_property
    def seconds(self) -> NDArray[np.int64]:
        """Shape (T,), seconds since 1970; 0 without dates."""
        times = self.cube.times
        if times is None:
            return np.zeros(len(self.cube.bands[0].data), np.int64)
        return seconds_of(dates_of(times))

    @cached_property
    def optical(self) -> tuple[CubeBand, ...]:
        """The bands that hold reflectance, or display values of it."""
        return tuple(band for band in self.cube.bands if _quantity(band) == "reflectance")

    @cached_property
    def grid_m(self) -> float:
        """Pixel size in metres; NaN if it is not known."""
        declared = self.cube.bands[0].attrs.get("gsd_m")
        if declared is not None:
            return float(declared)
        return gsd_m(self.cube.geobox) if self.cube.geobox.crs is not None else float("nan")

    def clear_dates(self, bands: Sequence[CubeBand]) -> list[int]:
        """Return the indices of the dates without a missing pixel in some bands and with at most 5 % cloud."""
        whole = np.isfinite(self.values(bands)).all(axis=(1, 2, 3))
        cloud = np.zeros(len(whole)) if self.cloud is None else self.cloud.mean(axis=(1, 2))
        found: list[int] = np.flatnonzero(whole & (cloud <= _MAX_CLOUD) & ~self.closed).tolist()
        return found

    @cached_property
    def closed(self) -> BoolArray:
        """Shape (T,), True on dates that are cloud whatever the mask says: brighter than land in the shortest waves.

        Sen2Cor takes some closed decks for water, soil or snow. Snow, which is dark at 1.6 um, does not count.
        """
        shown = {band.common_name: self.values([band])[:, 0] for band in self.reflectances}
        out = np.zeros(len(self.cube.bands[0].data), bool)
        name = next((name for name in _CLOUD if name in shown), None)
        if name is None:
            return out
        known = np.isfinite(shown[name])
        count = np.maximum(known.sum(axis=(1, 2)), 1)
        out = np.where(known, shown[name], 0).sum(axis=(1, 2)) / count >= _CLOUD[name]
        if self.snow is not None:
            out &= self.snow.mean(axis=(1, 2)) < _SNOW
        return np.asarray(out)

    def label(self, band: CubeBand) -> str:
        """Return the common name of a band, or its own where it has none or shares it."""
        common = [other.common_name for other in self.cube.bands]
        return (
            str(band.common_name) if common.count(band.common_name) == 1 and band.common_name else band.name
        )

    def stored(self, bands: Sequence[CubeBand]) -> xr.Dataset:
        """Return some bands as the file holds them, with their coordinates."""
        return self.cube.source[[band.name for band in bands]].assign_attrs(self.cube.source.attrs)


def _quantity(band: CubeBand) -> str | None:
    return quantity_of(band.common_name)


def physical(band: CubeBand, stored: NDArray[Any]) -> FloatArray:
    """Return stored numbers of a band in physical units, NaN where missing."""
    known = np.isfinite(stored)
    if band.nodata is not None and not np.isnan(band.nodata):
        known &= stored != band.nodata
    return np.where(known, band.scaling(np.where(known, stored, 0)), np.nan)


def cube_of(scene: Scene, values: Mapping[str, FloatArray], factor: int) -> xr.Dataset:
    """Return one date as a cube of floating numbers on the scene's grid, ``factor`` times coarser.

    Parameters
    ----------
    scene
        Gives coordinates, common names and platform.
    values
        Shape (H // factor, W // factor), physical values by name of the band.
    factor
        1: the scene's own grid.
    """
    bands = {band.name: band for band in scene.cube.bands}
    y, x = scene.cube.names_yx
    variables = {
        name: ((y, x), np.asarray(image, np.float32), {"common_name": bands[name].common_name})
        if bands[name].common_name
        else ((y, x), np.asarray(image, np.float32))
        for name, image in values.items()
    }
    coords = {}
    if scene.cube.georeferenced:
        height, width = next(iter(values.values())).shape
        geobox = scene.cube.geobox[: height * factor, : width * factor]
        coords = xr_coords(geobox.zoom_out(factor) if factor > 1 else geobox, dims=(y, x))
    platform = scene.cube.source.attrs.get("platform")
    return xr.Dataset(variables, coords, {} if platform is None else {"platform": platform})


def read_scenes(folder: Path, edge_px: int, skipped: dict[str, str], *, native: bool = False) -> list[Scene]:
    """Return the middle window of every file of a folder that the verbs can read.

    Parameters
    ----------
    folder
        Folder of netCDF files.
    edge_px
        Largest edge of the window.
    skipped
        Files that cannot be read are added, with the reason.
    native
        Join a file with the one of its coarser bands, which has the same name and a pixel size: ``NAME_20m.nc``.
    """
    paths = sorted(folder.glob("*.nc"))
    places = Positions.of(paths).place_of
    scenes = []
    for path in paths:
        try:
            scenes.append(_read(path, places[path.stem], edge_px, native=native))
        except EoaugError as error:
            skipped.setdefault(path.name, error.problem)
    if not scenes:
        raise SourceError(f"no file in {folder} can be opened as a cube", "pass a folder of netCDF cubes")
    return scenes


def _read(path: Path, place: str, edge_px: int, *, native: bool) -> Scene:
    with open_netcdf(path) as ds:
        whole = _window(ds, edge_px).load()
        joined = whole
        companion = path.with_name(f"{path.stem}_20m.nc")
        if companion.is_file():
            with open_netcdf(companion) as coarse, nullcontext() if native else suppress(EoaugError):
                joined = _window(_joined(ds, coarse), edge_px).load()
    window = joined if native else whole
    window, display = _with_scales(window)
    cube = read_cube(window)
    mask = cloud_mask(window)
    shape = (len(cube.bands[0].data), *cube.shape_yx)
    cloud = None
    if mask is not None:
        dims = [dim for dim in (cube.name_time, *cube.names_yx) if dim in mask.dims]
        cloud = np.broadcast_to(mask.transpose(*dims).values, shape)
    scene = Scene(name=path.stem, place=place, cube=cube, cloud=cloud, display=display)
    snow = snow_of(joined, path, scene.seconds)
    return scene if snow is None or snow.shape != shape else replace(scene, snow=snow)


def _with_scales(ds: xr.Dataset) -> tuple[xr.Dataset, frozenset[str]]:
    """Return a file without bands of unknown scale, and the names of its display values.

    255 of 8-bit display values becomes reflectance 0.5, as in the other tasks; radar without a scale becomes decibels.
    """
    out, display, platform = ds, set(), platform_of(ds)
    radar = radar_of(ds)
    for name, variable in ((str(n), v) for n, v in ds.data_vars.items()):
        attrs = dict(variable.attrs)
        if role_of(name, attrs, platform=platform) != "band" or variable.dtype.kind == "f":
            continue
        quantity = quantity_of(common_name(plain_name(name, attrs), attrs, platform))
        if declares_scale(attrs):
            continue
        if variable.dtype == np.uint8 and quantity == "reflectance":
            out = out.assign({name: variable.assign_attrs(reflectance_scale=_DISPLAY)})
            display.add(name)
        elif name in RADAR and radar is not None:
            decibels = radar[:, RADAR.index(name)].reshape(variable.shape)
            # Of a calibration that nobody declared only differences are known.
            decibels = decibels - np.float32(max(float(np.nanmedian(decibels)) - RADAR_DB, 0.0))
            kept = {key: value for key, value in attrs.items() if key != "_FillValue"}
            out = out.assign({name: (variable.dims, decibels, kept | {"units": "dB"})})
        else:
            out = out.drop_vars(name)
    return out, frozenset(display)


def _joined(fine: xr.Dataset, coarse: xr.Dataset) -> xr.Dataset:
    """Return the bands of two files on the finer grid, where both have pixels."""
    y, x = spatial_dims(fine)
    for dim, own in zip((y, x), spatial_dims(coarse), strict=True):
        if dim in fine.coords and own in coarse.coords and coarse.sizes[own] > 1:
            centres = coarse[own].values.astype(float)
            half = abs(centres[1] - centres[0]) / 2
            inside = (fine[dim] > centres.min() - half) & (fine[dim] < centres.max() + half)
            fine = fine.isel({dim: np.flatnonzero(inside.values)})
    joined = on_one_grid(xr.DataTree.from_dict({"fine": fine, "coarse": coarse}))
    return joined.assign_attrs(fine.attrs)


def _window(ds: xr.Dataset, edge_px: int) -> xr.Dataset:
    return ds.isel({dim: _middle(ds.sizes[dim], edge_px) for dim in spatial_dims(ds)})


def _middle(size: int, edge_px: int) -> slice:
    first = max(size - edge_px, 0) // 2 // _ALIGNED_PX * _ALIGNED_PX
    return slice(first, first + min(size, edge_px))
