"""Training samples from real cubes: a netCDF file becomes a `Cube`, a window of it a `Sample`.

Imports the ground, ``generators.base``, ``cube.geo`` and xarray. A sample is a `Request`, exactly as the engine would
write it, beside the truth: what a network is trained on is what it will be asked. Windows are plain slices at random
places and dates that clouds leave clear: xbatcher walks a fixed grid, and torchgeo's samplers want an index in a
reference system, which some cubes have not, and look at no mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from eoaug import gaps, grid
from eoaug.bands import STAND_INS
from eoaug.cube import geo
from eoaug.errors import BandError, ParameterError, SourceError
from eoaug.generators.base import Request
from eoaug.sensor import Sensor

__all__ = [
    "TASKS",
    "Cube",
    "Sample",
    "draw",
    "from_dataset",
    "halve",
    "hole",
    "metadata",
    "read_cube",
    "read_cubes",
    "statistics",
]

Task = Literal["holes", "dates", "x2", "x4", "x8", "free"]

TASKS: tuple[Task, ...] = ("holes", "dates", "x2", "x4", "x8", "free")
"""What a sample can ask for: masked pixels, a whole date, detail below a coarser pixel, everything."""

MIN_CLEAR = 0.95
"""Least share of a window that clouds and their shadows may leave (shared with data/README.md)."""

_SCL_CLOUDY = (3, 8, 9, 10)  # cloud shadow, cloud medium and high probability, thin cirrus
_UNCALIBRATED_FULL_SCALE = 0.5  # reflectance that 8-bit 255 is taken for; such cubes teach structure only
_MASKLESS_CLOUD = 0.35  # reflectance in blue above which a cube without a mask is taken for cloud
_DRAWS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Cube:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A request and what would have been the right answer."""

    request: Request
    """As the engine writes it: model units, absent bands unknown."""
    truth: NDArray[np.float32]
    """Shape (C, H, W), model units, the target date; 0 where not measured."""
    measured: NDArray[np.bool_]
    """Shape (C, H, W), True where ``truth`` is a clear measurement; a loss counts these alone."""
    task: Task
    """What was asked."""
    source: str
    """`Cube.name`."""
    calibrated: bool
    """`Cube.calibrated`."""


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


def read_cube(path: str | Path, bands: Sequence[str]) -> Cube:
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
        return Cube(
            name=path.stem,
            values=values,
            clear=_clear(ds, values, calibrated),
            times=times,
            gsd_m=gsd_m,
            lonlat_deg=(float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2),
            calibrated=calibrated,
            sharp=native == 0.0 or gsd_m >= 2 * native,
        )


def from_dataset(ds: xr.Dataset, name: str, bands: Sequence[str]) -> Cube:
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
    cube = geo.read_cube(ds, verb=f"reading {name}")
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
    return Cube(
        name=name,
        values=values,
        clear=_clear_by_quality(ds, cube, values),
        times=times,
        gsd_m=grid.gsd_m(cube.geobox, float(lonlat[1])) if cube.georeferenced else math.nan,
        lonlat_deg=(float(lonlat[0]), float(lonlat[1])),
        calibrated=True,
        sharp=True,
    )


def _clear_by_quality(ds: xr.Dataset, cube: geo.Cube, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    tests = {"scl": gaps.scl_mask, "qa_pixel": gaps.qa_pixel_mask}
    for name, variable in ds.data_vars.items():
        test = tests.get(str(name).lower())
        if test is not None:
            dims = [cube.name_time] if cube.name_time in variable.dims else []
            cloudy = test(variable.transpose(*dims, *cube.names_yx).values)
            return np.broadcast_to(~cloudy, values[:, 0].shape)
    return np.ones(values[:, 0].shape, bool)


def halve(cube: Cube) -> Cube:
    """Return the cube averaged over 2 x 2 pixels: another sensor's view, and larger landforms per window."""
    T, C, H, W = cube.values.shape
    h, w = H // 2, W // 2
    values = cube.values[:, :, : 2 * h, : 2 * w].reshape(T, C, h, 2, w, 2).mean(axis=(3, 5))
    clear = cube.clear[:, : 2 * h, : 2 * w].reshape(T, h, 2, w, 2).all(axis=(2, 4))
    return replace(cube, name=f"{cube.name}/2", values=values, clear=clear, gsd_m=2 * cube.gsd_m, sharp=True)


def read_cubes(folder: str | Path, bands: Sequence[str], *, tile_px: int, pyramid: int = 1) -> list[Cube]:
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
    cubes: list[Cube] = []
    paths = sorted(Path(folder).glob("*.nc"))
    if not paths:
        raise SourceError(
            f"reading cubes from {folder}: no file matches *.nc", "pass the folder of the cubes"
        )
    for path in paths:
        try:
            cube = read_cube(path, bands)
        except SourceError:
            continue
        fine = path.with_name(path.name.replace("_20m.nc", ".nc"))
        if fine != path and fine.exists():
            cube = _joined(halve(read_cube(fine, bands)), cube)
        cubes.append(cube)
        if path.with_name(f"{path.stem}_20m.nc").exists():
            continue  # its halved form comes with the coarser bands
        for _ in range(pyramid):
            cube = halve(cube)
            cubes.append(cube)
    return [cube for cube in cubes if min(cube.values.shape[2:]) >= tile_px]


def _joined(fine: Cube, coarse: Cube) -> Cube:
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


def hole(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a random hole, True where to be filled: blobs like clouds, a box, or stripes like a scan gap.

    Covers 3 % to 90 % of the window, never all of it.
    """
    kind = rng.choice(["blobs", "box", "stripes"], p=[0.7, 0.18, 0.12])
    H, W = shape
    if kind == "blobs":
        field = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(2.5, 11.0), mode="wrap")
        cover = rng.beta(1.6, 2.4) * 0.85 + 0.03
        return np.asarray(field > np.quantile(field, 1 - cover))
    out = np.zeros(shape, bool)
    if kind == "box":
        h, w = rng.integers(8, H - 4), rng.integers(8, W - 4)
        top, left = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
        out[top : top + h, left : left + w] = True
        return out
    period, width = rng.integers(6, 20), rng.integers(2, 6)
    rows, cols = np.mgrid[:H, :W]
    slope = rng.uniform(-0.3, 0.3)
    out = (rows + slope * cols + rng.integers(0, period)) % period < width
    return np.asarray(out.T if rng.random() < 0.3 else out)


def metadata(cube: Cube, dates: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return `Request.metadata` of dates of a cube, shape (dates, 7)."""
    out = np.full((len(dates), 7), np.nan)
    out[:, 0], out[:, 1] = cube.lonlat_deg
    out[:, 2] = cube.gsd_m
    for row, date in enumerate(dates):
        if seconds := int(cube.times[date]):
            when = datetime.fromtimestamp(seconds, UTC)
            out[row, 4:] = when.year, when.month, when.day
    return out


def _window(
    rng: np.random.Generator, cube: Cube, tile_px: int, dates: int
) -> tuple[NDArray[np.intp], slice, slice, int] | None:
    """Return (dates ascending, rows, columns, position of the target) of a usable window, or None."""
    T, _, H, W = cube.values.shape
    for _ in range(_DRAWS):
        target = int(rng.integers(T))
        top, left = int(rng.integers(H - tile_px + 1)), int(rng.integers(W - tile_px + 1))
        rows, cols = slice(top, top + tile_px), slice(left, left + tile_px)
        window = cube.values[target, :, rows, cols][cube.bands]
        usable = np.isfinite(window).all() and cube.clear[target, rows, cols].mean() >= MIN_CLEAR
        if not usable:
            continue
        near = np.argsort(np.abs(np.arange(T) - target) + rng.random(T) * 4.0)
        near = np.array([i for i in near if i != target], dtype=np.intp)
        seen = [
            i
            for i in near[:10]
            if (
                np.isfinite(cube.values[i][cube.bands][:, rows, cols]).all(0) & cube.clear[i, rows, cols]
            ).mean()
            > 0.3
        ]
        if dates and not seen:
            continue
        chosen = np.sort(np.array([target, *seen[:dates]], dtype=np.intp))
        return chosen, rows, cols, int(np.flatnonzero(chosen == target)[0])
    return None


def draw(
    rng: np.random.Generator,
    cubes: Sequence[Cube],
    task: Task,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    tile_px: int = 64,
    context: int = 2,
) -> Sample:
    """Draw one sample of a task from cubes that can serve it.

    Parameters
    ----------
    rng
        The only source of chance.
    cubes
        Where to draw from; a cube counts by the square root of its pixels, so that one long series of one
        place does not outweigh all others.
    task
        One of `TASKS`.
    mean, std
        Reflectance that model unit 0 stands for and that one model unit is, per slot.
    tile_px
        Window edge in pixels.
    context
        Most dates beside the target.
    """
    if task not in TASKS:
        raise ParameterError(f"drawing a sample: task is {task!r}", f"use one of {', '.join(TASKS)}")
    factor = int(task[1:]) if task.startswith("x") else 1
    able = [
        cube
        for cube in cubes
        if (cube.sharp or not (factor > 1 or task == "free"))
        and (cube.calibrated or task != "free")
        and (cube.values.shape[0] > 1 or task != "dates")
    ]
    if not able:
        raise SourceError(f"drawing a sample of {task}: none of {len(cubes)} cubes can serve it", "add cubes")
    weight = np.sqrt([cube.values[:, 0].size for cube in able])
    dates = 0
    if task == "dates" or (task == "holes" and rng.random() < 0.5):
        dates = int(rng.integers(1, context + 1))
    for _ in range(_DRAWS):
        cube = able[int(rng.choice(len(able), p=weight / weight.sum()))]
        dates_here = min(dates, cube.values.shape[0] - 1)
        found = _window(rng, cube, tile_px, dates_here)
        if found is not None:
            break
    else:
        raise SourceError(
            f"drawing a sample of {task}: no usable window in {_DRAWS} draws", "check the cubes' cloud masks"
        )
    chosen, rows, cols, target = found
    centre = np.asarray(mean, np.float32)[:, None, None]
    spread = np.asarray(std, np.float32)[:, None, None]
    values = (cube.values[chosen][:, :, rows, cols] - centre) / spread
    measured = np.isfinite(values) & cube.clear[chosen][:, None, rows, cols]
    values = np.where(measured, values, 0).astype(np.float32)
    present = cube.bands.copy()
    if task in ("free", "holes", "dates") and rng.random() < 0.15:
        # Fewer bands than the cube has: the network meets every combination.
        drop = int(rng.choice(np.flatnonzero(present)))
        present[drop] = present.sum() == 1
    measured = measured & present[:, None, None]
    truth, truth_measured = np.where(measured[target], values[target], 0), measured[target].copy()
    known, fill = measured.copy(), np.zeros_like(measured)
    fill[target] = present[:, None, None]
    coarse: NDArray[np.float32] | None = None
    sensor: Sensor | None = None
    if task == "holes":
        gap = hole(rng, (tile_px, tile_px))
        known[target] &= ~gap
        fill[target] &= gap | ~known[target]
    else:
        known[target] = False
    if factor > 1:
        # An ideal detector, or a softer one (MTF at Nyquist).
        sensor = Sensor(factor=factor, mtf=None if rng.random() < 0.5 else (float(rng.uniform(0.15, 0.45)),))
        dense = np.where(present[:, None, None], cube.values[chosen[target]][:, rows, cols], 0)
        dense = (dense - centre) / spread * present[:, None, None]
        coarse = sensor.degrade(np.where(np.isfinite(dense), dense, 0).astype(np.float32))
        coarse = np.where(present[:, None, None], coarse, np.nan).astype(np.float32)
        coarse = np.stack(
            [coarse if i == target else np.full_like(coarse, np.nan) for i in range(len(chosen))]
        )
    request = Request(
        values=np.where(known, values, 0).astype(np.float32),
        known=known,
        fill=fill,
        times=cube.times[chosen],
        metadata=metadata(cube, chosen),
        coarse=coarse,
        factor=factor,
        sensor=sensor,
    )
    return Sample(
        request=request,
        truth=truth.astype(np.float32),
        measured=truth_measured,
        task=task,
        source=cube.name,
        calibrated=cube.calibrated,
    )


def statistics(cubes: Sequence[Cube]) -> Mapping[str, tuple[float, ...]]:
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
