"""Cubes to train on: whole files or opened datasets in reflectance, with what sampling needs to know of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube import model, read
from eoaug.cube.units import check_cube_units
from eoaug.datasets.netcdf import cloud_mask, open_netcdf, read_images
from eoaug.errors import BandError, SourceError, error_context
from eoaug.generators.base import metadata_rows
from eoaug.raster import grid

__all__ = [
    "TrainingCube",
    "from_dataset",
    "halve",
    "metadata",
    "read_training_cube",
    "read_training_cubes",
    "statistics",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCube:
    """A stack of images of one place in reflectance; T dates, C band slots, H x W pixels."""

    name: str
    """File name without suffix."""
    values: NDArray[np.float32]
    """Shape (T, C, H, W), reflectance, one channel per band slot; NaN where missing."""
    clear: NDArray[np.bool_]
    """Shape (T, H, W), False under cloud and cloud shadow."""
    cloud_fraction: NDArray[np.float64]
    """Shape (T,), 0 to 1; NaN if the cube has no mask."""
    times: NDArray[np.int64]
    """Shape (T,), seconds since 1970; 0 if the date is unknown."""
    gsd_m: float
    """Pixel size in metres."""
    lonlat_deg: tuple[float, float]
    """Centre (longitude, latitude); NaN if unknown."""
    calibrated: bool
    """False for 8-bit display values: usable for structure, not for colour."""
    sharp: bool
    """False if a band was resampled near its native pixel (`netcdf.ImageStack.sharp`): unfit for super-resolution."""

    @cached_property
    def bands(self) -> NDArray[np.bool_]:
        """Shape (C,), True for the slots that this cube has."""
        return np.asarray(np.isfinite(self.values).any(axis=(0, 2, 3)))


def read_training_cube(path: str | Path, bands: Sequence[str]) -> TrainingCube:
    """Read one netCDF file by its attributes; 8-bit display values are accepted.

    Parameters
    ----------
    path
        File as `netcdf.read_images` expects it.
    bands
        Common names of the slots to fill; slots that the file lacks are NaN everywhere.

    Raises
    ------
    SourceError
        The file holds none of the bands.
    RadiometryError
        A band that is not 8-bit declares no scale.
    """
    path = Path(path)
    with open_netcdf(path) as ds:
        images = read_images(ds, path.name, bands, display_values=True)
    return TrainingCube(
        name=path.stem,
        values=images.values,
        clear=images.clear,
        cloud_fraction=images.cloud_fraction,
        times=images.times,
        gsd_m=images.gsd_m,
        lonlat_deg=images.lonlat_deg,
        calibrated=bool(images.calibrated[images.present].all()),
        sharp=bool(images.sharp[images.present].all()),
    )


def from_dataset(ds: xr.Dataset, name: str, bands: Sequence[str]) -> TrainingCube:
    """Return a training cube of a dataset that the verbs accept, such as `eoaug.open_cube` opens; read at once.

    Parameters
    ----------
    ds
        A cube in physical units, or in stored numbers with a declared scale. Clouds come from
        `netcdf.cloud_mask`; without a mask every measured pixel counts as clear.
    name
        Name of the cube.
    bands
        Variables, or common names, in the order of the channels; one may be repeated.

    Raises
    ------
    BandError
        The cube lacks one of the bands.
    """
    with error_context(f"reading {name}"):
        cube = read.read_cube(ds)
        check_cube_units(cube)
    known = {band.common_name: band for band in cube.bands} | {band.name: band for band in cube.bands}
    missing = [band for band in bands if band not in known]
    if missing:
        raise BandError(
            f"reading {name}: no band {', '.join(missing)}",
            f"choose among {', '.join(sorted(str(band) for band in known if band is not None))}",
        )
    channels = []
    for band in (known[wanted] for wanted in bands):
        stored = np.asarray(band.data)
        there = np.isfinite(stored) if band.nodata is None else np.isfinite(stored) & (stored != band.nodata)
        channels.append(np.where(there, band.scaling(stored), np.nan).astype(np.float32))
    values = np.stack(channels, axis=1)
    times = np.zeros(len(values), np.int64)
    if cube.times is not None:
        times = cube.times.astype("datetime64[s]").astype(np.int64)
    clear = _clear(ds, cube, values)
    H, W = values.shape[2:]
    lonlat = grid.lonlat(cube.geobox, [H / 2], [W / 2])[0] if cube.georeferenced else (math.nan, math.nan)
    return TrainingCube(
        name=name,
        values=values,
        clear=np.ones(values[:, 0].shape, bool) if clear is None else clear,
        cloud_fraction=np.full(len(values), np.nan) if clear is None else 1 - clear.mean(axis=(1, 2)),
        times=times,
        gsd_m=grid.gsd_m(cube.geobox, float(lonlat[1])) if cube.georeferenced else math.nan,
        lonlat_deg=(float(lonlat[0]), float(lonlat[1])),
        calibrated=True,
        sharp=True,
    )


def _clear(ds: xr.Dataset, cube: model.Cube, values: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Return (T, H, W), False under cloud and cloud shadow; None without a mask."""
    mask = cloud_mask(ds)
    if mask is None:
        return None
    dims = [cube.name_time] if cube.name_time in mask.dims else []
    return np.broadcast_to(~mask.transpose(*dims, *cube.names_yx).values, values[:, 0].shape)


def halve(cube: TrainingCube) -> TrainingCube:
    """Return the cube averaged over 2 x 2 pixels: a coarser sensor, and larger landforms per window."""
    T, C, H, W = cube.values.shape
    h, w = H // 2, W // 2
    values = cube.values[:, :, : 2 * h, : 2 * w].reshape(T, C, h, 2, w, 2).mean(axis=(3, 5))
    clear = cube.clear[:, : 2 * h, : 2 * w].reshape(T, h, 2, w, 2).all(axis=(2, 4))
    return replace(cube, name=f"{cube.name}/2", values=values, clear=clear, gsd_m=2 * cube.gsd_m, sharp=True)


def read_training_cubes(
    folder: str | Path, bands: Sequence[str], *, tile_px: int, pyramid: int = 1
) -> list[TrainingCube]:
    """Read every optical cube of a folder that holds at least one tile.

    Parameters
    ----------
    folder
        Searched for ``*.nc``; files without one of ``bands`` (radar, labels, temperature) are skipped.
    bands
        Common names of the slots.
    tile_px
        Cubes with a smaller edge are skipped.
    pyramid
        Number of times that a cube is halved (`halve`); every level is added as a separate cube.

    Notes
    -----
    A file ``NAME_20m.nc`` next to ``NAME.nc`` holds further bands of the same area at twice the pixel size. The
    two are joined to one cube of the coarser pixel, in addition to the finer cube.
    """
    cubes: list[TrainingCube] = []
    paths = sorted(Path(folder).glob("*.nc"))
    if not paths:
        raise SourceError(
            f"reading cubes from {folder}: no file matches *.nc", "pass the folder of the cubes"
        )
    for path in paths:
        try:
            cube = read_training_cube(path, bands)
        except SourceError:
            continue
        fine = path.with_name(path.name.replace("_20m.nc", ".nc"))
        if fine != path and fine.exists():
            cube = _joined(halve(read_training_cube(fine, bands)), cube)
        cubes.append(cube)
        if path.with_name(f"{path.stem}_20m.nc").exists():
            continue  # the joined 20 m cube already contains it halved
        for _ in range(pyramid):
            cube = halve(cube)
            cubes.append(cube)
    return [cube for cube in cubes if min(cube.values.shape[2:]) >= tile_px]


def _joined(fine: TrainingCube, coarse: TrainingCube) -> TrainingCube:
    """Return ``coarse`` with the bands that only ``fine`` (already halved onto its grid) has."""
    if fine.values.shape != coarse.values.shape:
        return coarse
    own = coarse.bands[None, :, None, None]
    # The fine file's nir (B08) is preferred over the coarse file's stand-in (B8A).
    take_fine = fine.bands[None, :, None, None] | ~own
    return replace(
        coarse,
        values=np.where(take_fine, fine.values, coarse.values),
        clear=fine.clear & coarse.clear,
        sharp=True,
    )


def metadata(cube: TrainingCube, dates: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return `Request.metadata` of some dates (indices) of a cube, shape (dates, 7)."""
    lon_deg, lat_deg = cube.lonlat_deg
    return metadata_rows(
        cube.times[dates],
        dated=cube.times[dates] != 0,
        lon_deg=lon_deg,
        lat_deg=lat_deg,
        gsd_m=cube.gsd_m,
        cloud_fraction=cube.cloud_fraction[dates],
    )


def statistics(cubes: Sequence[TrainingCube]) -> Mapping[str, tuple[float, ...]]:
    """Return ``mean`` and ``std`` of clear reflectance per slot, each calibrated cube with equal weight.

    NaN for a slot that no cube has.
    """
    moments = []
    for cube in cubes:
        if cube.calibrated:
            clear = np.where(cube.clear[:, None], cube.values, np.nan)
            count = np.isfinite(clear).sum(axis=(0, 2, 3))
            sums = [np.nansum(clear**power, axis=(0, 2, 3), dtype=np.float64) for power in (1, 2)]
            there = count > 0
            moments.append([there, *(np.where(there, s / np.maximum(count, 1), 0) for s in sums)])
    total = np.sum(moments, axis=0)
    mean, square = np.full((2, total.shape[1]), np.nan)
    np.divide(total[1], total[0], out=mean, where=total[0] > 0)
    np.divide(total[2], total[0], out=square, where=total[0] > 0)
    std = np.sqrt(square - mean**2)
    return {"mean": tuple(round(float(m), 4) for m in mean), "std": tuple(round(float(s), 4) for s in std)}
