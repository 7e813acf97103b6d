"""Learning cubes: netCDF files of co-registered images with masks, one reader for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube import model, read
from eoaug.errors import BandError, SourceError, error_context
from eoaug.raster import grid, masks
from eoaug.raster.bands import STAND_INS

__all__ = [
    "TrainingCube",
    "from_dataset",
    "halve",
    "metadata",
    "read_training_cube",
    "read_training_cubes",
    "statistics",
]


_SCL_CLOUDY = (3, 8, 9, 10)  # cloud shadow, cloud medium and high probability, thin cirrus
_UNCALIBRATED_FULL_SCALE = 0.5  # reflectance that 8-bit 255 is taken for; such cubes teach structure only
_MASKLESS_CLOUD = 0.35  # reflectance in blue above which a cube without a mask is taken for cloud


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCube:
    """A stack of images of one place in reflectance, with the facts that sampling needs."""

    name: str
    """File name without suffix."""
    values: NDArray[np.float32]
    """Shape (T, C, H, W), reflectance, one channel per band slot; NaN where missing."""
    clear: NDArray[np.bool_]
    """Shape (T, H, W), False under cloud and cloud shadow."""
    times: NDArray[np.int64]
    """Shape (T,), seconds since 1970; 0 where the date is unknown."""
    gsd_m: float
    """Pixel size in metres."""
    lonlat_deg: tuple[float, float]
    """Centre (longitude, latitude); NaN where unknown."""
    calibrated: bool
    """False for 8-bit display values: good for structure, not for colour."""
    sharp: bool
    """False where the source was resampled near its native pixel: not fit to teach super-resolution."""

    @cached_property
    def bands(self) -> NDArray[np.bool_]:
        """Shape (C,), True for the slots that this cube has."""
        return np.asarray(np.isfinite(self.values).any(axis=(0, 2, 3)))


def _slot_variable(ds: xr.Dataset, slot: str) -> str | None:
    for common_name in (slot, *(name for name, of in STAND_INS.items() if of == slot)):
        for name, variable in ds.data_vars.items():
            if variable.attrs.get("common_name") == common_name:
                return str(name)
    return None


def _reflectance(variable: xr.DataArray) -> tuple[NDArray[np.float32], bool]:
    """Return (T, H, W) reflectance with NaN for missing, and whether the source is calibrated."""
    raw = variable.values
    scale = variable.attrs.get("reflectance_scale")
    if scale is not None:
        values = raw * np.float64(scale) + np.float64(variable.attrs.get("reflectance_offset", 0.0))
    else:
        if raw.dtype != np.uint8:
            raise BandError(
                f"reading band {variable.name!r}: {raw.dtype} without the attribute reflectance_scale",
                "add reflectance_scale and reflectance_offset to the variable's attributes",
            )
        values = raw * (_UNCALIBRATED_FULL_SCALE / 255.0)
    out = values.astype(np.float32)
    fill = variable.attrs.get("_FillValue")
    if fill is not None:
        out[raw == fill] = np.nan
    return out, scale is not None


def _clear(ds: xr.Dataset, values: NDArray[np.float32], calibrated: bool) -> NDArray[np.bool_]:
    """Return (T, H, W), True where no mask of the file tells of cloud or shadow."""
    if "scl" in ds:
        return ~np.isin(ds["scl"].values, _SCL_CLOUDY)
    if "cloud_mask" in ds:
        return ~np.isin(ds["cloud_mask"].values, (1, 2))
    if calibrated:
        return ~(values[:, 0] > _MASKLESS_CLOUD)
    return np.ones(values[:, 0].shape, bool)


def read_training_cube(path: str | Path, bands: Sequence[str]) -> TrainingCube:
    """Read one netCDF file by its attributes.

    Parameters
    ----------
    path
        File with dimensions (time, y, x) and a variable per band with the attributes ``common_name``,
        ``gsd_m``, and ``reflectance_scale`` / ``reflectance_offset`` (8-bit display data: none).
    bands
        Common names of the slots to fill; slots that the file lacks are NaN everywhere.

    Raises
    ------
    SourceError
        The file holds none of the bands.
    """
    path = Path(path)
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        names = {slot: _slot_variable(ds, slot) for slot in bands}
        found = {slot: ds[name] for slot, name in names.items() if name is not None}
        if not found:
            raise SourceError(
                f"reading {path.name}: no variable with a common_name of {', '.join(bands)}",
                "leave this file out, or add the attribute common_name",
            )
        first = next(iter(found.values()))
        values = np.full((first.shape[0], len(bands), *first.shape[1:]), np.nan, np.float32)
        calibrated = True
        for channel, slot in enumerate(bands):
            if slot in found:
                values[:, channel], known_scale = _reflectance(found[slot])
                calibrated &= known_scale
        times = np.zeros(first.shape[0], np.int64)
        if "time" in ds.coords:
            times = ds["time"].values.astype("datetime64[s]").astype(np.int64)
        gsd_m = float(first.attrs["gsd_m"])
        native = max(float(band.attrs.get("native_gsd_m", 0.0)) for band in found.values())
        box = ds.attrs.get("bbox_lonlat", (np.nan,) * 4)
        return TrainingCube(
            name=path.stem,
            values=values,
            clear=_clear(ds, values, calibrated),
            times=times,
            gsd_m=gsd_m,
            lonlat_deg=(float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2),
            calibrated=calibrated,
            sharp=native == 0.0 or gsd_m >= 2 * native,
        )


def from_dataset(ds: xr.Dataset, name: str, bands: Sequence[str]) -> TrainingCube:
    """Return a sample cube of what the verbs take, such as `eoaug.open_cube` opens; read at once.

    Parameters
    ----------
    ds
        A cube with physical units, or numbers and a declared scale. Clouds are told by a variable ``scl`` or
        ``qa_pixel``; without one, all that was measured counts as clear.
    name
        What to call it.
    bands
        Variables, or common names, in the order of the channels; one may come more than once.

    Raises
    ------
    BandError
        The cube lacks one of the bands.
    """
    with error_context(f"reading {name}"):
        cube = read.read_cube(ds)
    known = {band.common_name: band for band in cube.bands} | {band.name: band for band in cube.bands}
    missing = [one for one in bands if one not in known]
    if missing:
        raise BandError(
            f"reading {name}: no band {', '.join(missing)}",
            f"choose among {', '.join(sorted(str(one) for one in known if one is not None))}",
        )
    channels = []
    for band in (known[one] for one in bands):
        stored = np.asarray(band.data)
        there = np.isfinite(stored) if band.nodata is None else np.isfinite(stored) & (stored != band.nodata)
        channels.append(np.where(there, band.scaling(stored), np.nan).astype(np.float32))
    values = np.stack(channels, axis=1)
    times = np.zeros(len(values), np.int64)
    if cube.times is not None:
        times = cube.times.astype("datetime64[s]").astype(np.int64)
    H, W = values.shape[2:]
    lonlat = grid.lonlat(cube.geobox, [H / 2], [W / 2])[0] if cube.georeferenced else (math.nan, math.nan)
    return TrainingCube(
        name=name,
        values=values,
        clear=_clear_by_quality(ds, cube, values),
        times=times,
        gsd_m=grid.gsd_m(cube.geobox, float(lonlat[1])) if cube.georeferenced else math.nan,
        lonlat_deg=(float(lonlat[0]), float(lonlat[1])),
        calibrated=True,
        sharp=True,
    )


def _clear_by_quality(ds: xr.Dataset, cube: model.Cube, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    tests = {"scl": masks.scl_mask, "qa_pixel": masks.qa_pixel_mask}
    for name, variable in ds.data_vars.items():
        test = tests.get(str(name).lower())
        if test is not None:
            dims = [cube.name_time] if cube.name_time in variable.dims else []
            cloudy = test(variable.transpose(*dims, *cube.names_yx).values)
            return np.broadcast_to(~cloudy, values[:, 0].shape)
    return np.ones(values[:, 0].shape, bool)


def halve(cube: TrainingCube) -> TrainingCube:
    """Return the cube averaged over 2 x 2 pixels: another sensor's view, and larger landforms per window."""
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
        Searched for ``*.nc``; files without one of ``bands`` (radar, labels, temperature) are passed over.
    bands
        Common names of the slots.
    tile_px
        Cubes with a smaller edge are passed over.
    pyramid
        How often a large cube is halved (`halve`), each level a cube of its own.

    Notes
    -----
    A file ``NAME_20m.nc`` beside ``NAME.nc`` holds bands of the same ground at twice the pixel size: both are
    read as one cube of the coarser pixel besides the finer one.
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
            continue  # its halved form comes with the coarser bands
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
    """Return `Request.metadata` of dates of a cube, shape (dates, 7)."""
    out = np.full((len(dates), 7), np.nan)
    out[:, 0], out[:, 1] = cube.lonlat_deg
    out[:, 2] = cube.gsd_m
    for row, date in enumerate(dates):
        if seconds := int(cube.times[date]):
            when = datetime.fromtimestamp(seconds, UTC)
            out[row, 4:] = when.year, when.month, when.day
    return out


def statistics(cubes: Sequence[TrainingCube]) -> Mapping[str, tuple[float, ...]]:
    """Return ``mean`` and ``std`` of clear reflectance per slot, over calibrated cubes of equal weight.

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
