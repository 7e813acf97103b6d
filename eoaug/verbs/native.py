"""The argument `native`: which bands of a cube have coarser pixels than its grid, and how they were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.model import Cube, CubeBand
from eoaug.cube.roles import platform_of
from eoaug.cube.typical import sampled_windows
from eoaug.errors import BandError, GridError, ParameterError
from eoaug.raster.arrays import Float64Array
from eoaug.raster.band_transfer import likely_transfer
from eoaug.raster.bands import SENSORS, Band, band_of
from eoaug.raster.cells import cell_means, repeat_phase
from eoaug.raster.grid import absolute_origin, gsd_m
from eoaug.raster.sensor import Sensor
from eoaug.verbs.checks import number, unknown

__all__ = ["NativeBands", "native_bands", "on_one_grid"]

_DECLARED = ("native_gsd_m", "native_gsd")
"""Attributes that may declare the size of the pixels that a band was measured with, in metres."""
_DEFAULT_MTF = 0.3
_Windows = list[tuple[int, int, Float64Array]]
"""As `sampled_windows` returns them."""
_WINDOW_PX = 96
_TOLERANCE = 0.06
"""Relative difference from a whole number of pixels that a ratio of pixel sizes may have."""


@dataclass(frozen=True)
class NativeBands:
    """How each band of a cube was measured."""

    sensors: tuple[Sensor | None, ...]
    """By band; None for bands with pixels of the grid."""
    shift: tuple[int, int]
    """Rows and columns from the cube's absolute origin back to one at which cells of all bands begin."""
    recorded: dict[str, dict[str, Any]]
    """By name of a coarse band, its factor, the MTF at Nyquist of its sensor (``box``: the mean of a cell), and whether
    this was given, known of the satellite, estimated from the cube, or assumed."""


def native_bands(cube: Cube, native: Any, sensor: Any) -> NativeBands:
    """Return how the bands of a cube were measured.

    Parameters
    ----------
    cube
        Coarse bands repeat each measured value in all its pixels (resampled by nearest neighbour).
    native
        ``"auto"``, or the pixel size in metres by band; bands that are left out have the grid's.
    sensor
        As for `super_resolve`, for the coarse bands.

    Raises
    ------
    BandError
        No band is coarser than the grid, or none is as fine; a coarse band was interpolated.
    ParameterError
        A pixel size that is no whole number of pixels.
    """
    sizes = _sizes(cube, native)
    factors = _factors(cube, sizes)
    coarse = [band for band in cube.bands if factors[band.name] > 1]
    if len(coarse) == len(cube.bands):
        raise BandError(
            f"all bands are coarser than the grid: {_listed(sizes)}",
            "add the fine bands (B02, B03, B04, B08 of Sentinel-2), or sharpen without them: super_resolve(ds, factor=2)",
        )
    windows = {band.name: sampled_windows(band, _WINDOW_PX) for band in cube.bands}
    shift = _shift(cube, coarse, factors, windows)
    models = _sensors(cube, coarse, factors, sensor, windows)
    recorded = {
        name: {"factor": model.factor, "mtf": "box" if model.mtf is None else model.mtf[0], "sensor": source}
        for name, (model, source) in models.items()
    }
    sensors = (models[band.name][0] if band.name in models else None for band in cube.bands)
    return NativeBands(tuple(sensors), shift, recorded)


def _listed(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:g} m" for name, size in sizes.items())


def _sizes(cube: Cube, native: Any) -> dict[str, float]:
    """Return the known native pixel sizes in metres, by band."""
    names = [band.name for band in cube.bands]
    if isinstance(native, str) and native == "auto":
        known = {}
        for band in cube.bands:
            declared = next((band.attrs[key] for key in _DECLARED if key in band.attrs), None)
            entry = _entry(cube, band)
            size = entry.gsd_m if declared is None and entry is not None else declared
            if size is not None:
                known[band.name] = number(f"ds[{band.name!r}] native pixel size", _plain(size), 1e-3, 1e5)
        return known
    if not isinstance(native, Mapping) or not native:
        raise ParameterError(
            f"native={native!r} is neither 'auto' nor pixel sizes by band",
            "e.g. native='auto', or native={'B05': 20, 'B11': 20} in metres",
        )
    for name in native:
        if name not in names:
            raise unknown("band in native", name, names)
    return {name: number(f"native[{name!r}]", size, 1e-3, 1e5) for name, size in native.items()}


def _plain(size: Any) -> Any:
    return size.item() if isinstance(size, np.generic) else size


def _entry(cube: Cube, band: CubeBand) -> Band | None:
    """Return the entry of a band in the table of its sensor."""
    platform = platform_of(cube.source)
    if platform is None:
        # Only Sentinel-2 has a B05; B11 of the same cube is its own as well.
        own = {entry.name for entry in SENSORS["sentinel-2"]}
        clear = (
            entry for other in cube.bands if other.name in own and (entry := band_of(other.name)) is not None
        )
        platform = "sentinel-2" if next(clear, None) is not None else None
    return band_of(band.name, platform)


def _factors(cube: Cube, sizes: Mapping[str, float]) -> dict[str, int]:
    """Return the pixels of the grid per native pixel, by band."""
    grid_m = gsd_m(cube.geobox) if cube.georeferenced else math.nan
    if not grid_m > 0:
        grid_m = min(sizes.values(), default=math.nan)
    factors = {}
    for band in cube.bands:
        ratio = sizes.get(band.name, grid_m) / grid_m
        factor = max(round(ratio), 1) if math.isfinite(ratio) else 1
        if (factor > 1 and abs(ratio / factor - 1) > _TOLERANCE) or factor > 8:
            raise ParameterError(
                f"band {band.name!r} has native pixels of {sizes[band.name]:g} m on a grid of {grid_m:g} m: "
                f"{ratio:.3g} pixels, not a whole number from 2 to 8",
                "open the cube at the resolution of its finest bands, or correct native={...}",
            )
        factors[band.name] = factor
    if max(factors.values()) == 1:
        raise BandError(
            f"no band is known to be coarser than the grid of {grid_m:g} m ({_listed(sizes) or 'no band known'})",
            f"name them, e.g. native={{{cube.bands[-1].name!r}: 20}} in metres, or set attrs['native_gsd_m']; "
            "to refine all bands use factor=2",
        )
    return factors


def _shift(
    cube: Cube, coarse: Sequence[CubeBand], factors: Mapping[str, int], windows: Mapping[str, _Windows]
) -> tuple[int, int]:
    """Return `NativeBands.shift`; refuse bands that were interpolated onto the grid."""
    origin = absolute_origin(cube.geobox.affine) if cube.georeferenced else (0, 0)
    demands: tuple[dict[int, tuple[int, str]], ...] = ({}, {})
    for band in coarse:
        factor = factors[band.name]
        phase = repeat_phase(windows[band.name], factor)
        if phase is None:
            raise BandError(
                f"band {band.name!r} does not repeat each value in {factor} x {factor} pixels: it was interpolated "
                "onto the grid, so what was measured is lost",
                "load it with nearest neighbour (odc.stac.load(..., resampling='nearest'), eoaug.open_cube), or give it "
                "on its own grid: eoaug.super_resolve(xr.DataTree.from_dict({'10m': fine, '20m': coarse}), native='auto')",
            )
        for demand, at in zip(demands, phase, strict=True):
            if at is None:
                continue
            before, name = demand.setdefault(factor, (at, band.name))
            if before != at:
                raise GridError(
                    f"the native pixels of {name!r} and {band.name!r} begin at different pixels of the grid",
                    "sharpen them one after the other, each with the fine bands",
                )
    return _common(origin[0], demands[0]), _common(origin[1], demands[1])


def _common(first: int, demand: Mapping[int, tuple[int, str]]) -> int:
    for shift in range(math.lcm(*demand)):
        if all((first - shift + at) % factor == 0 for factor, (at, _) in demand.items()):
            return shift
    raise GridError(
        f"the native pixels of {' and '.join(name for _, name in demand.values())} do not begin at common pixels",
        "sharpen them one after the other, each with the fine bands",
    )


def _sensors(
    cube: Cube,
    coarse: Sequence[CubeBand],
    factors: Mapping[str, int],
    spec: Any,
    windows: Mapping[str, _Windows],
) -> dict[str, tuple[Sensor, str]]:
    """Return the sensor of every coarse band, and where it comes from; see `NativeBands.recorded`.

    By default the one that the fine bands make likely; where they explain too little, what is known of the satellite.
    """
    if not (isinstance(spec, str) and spec == "auto"):
        one = Sensor.of(spec, 2, len(coarse))
        return {
            band.name: (replace(one.of_band(i), factor=factors[band.name]), "given")
            for i, band in enumerate(coarse)
        }
    out = {}
    for factor in sorted({factors[band.name] for band in coarse}):
        names = [band.name for band in coarse if factors[band.name] == factor]
        fine = [band.name for band in cube.bands if factors[band.name] == 1]
        found = likely_transfer(_joined(names, fine, windows, factor), factor)
        for band in coarse:
            if band.name not in names:
                continue
            entry = _entry(cube, band)
            known = None if entry is None else entry.mtf
            mtf = found.mtf if found is not None else known or _DEFAULT_MTF
            source = "estimated" if found is not None else "known" if known else "assumed"
            out[band.name] = (Sensor(factor=factor, mtf=None if mtf is None else (mtf,)), source)
    return out


def _joined(
    coarse: Sequence[str], fine: Sequence[str], windows: Mapping[str, _Windows], factor: int
) -> list[tuple[Any, Any]]:
    """Return the coarse and fine bands of each sampled window, in whole cells."""
    joined = []
    phase = repeat_phase((window for name in coarse for window in windows[name]), factor)
    at = [0 if along is None else along for along in phase or (0, 0)]
    for place, (row, col, image) in enumerate(windows[coarse[0]]):
        first = [(begin - corner) % factor for begin, corner in zip(at, (row, col), strict=True)]
        rows, cols = (
            slice(begin, begin + (size - begin) // factor * factor)
            for begin, size in zip(first, image.shape, strict=True)
        )
        parts = [
            np.stack([windows[name][place][2][rows, cols] for name in names]).astype(np.float32)
            for names in (coarse, fine)
        ]
        joined.append((cell_means(parts[0], factor), parts[1]))
    return joined


# -- bands of several grids -------------------------------------------------------------------------


def on_one_grid(tree: xr.DataTree) -> xr.Dataset:
    """Return the bands of a tree of several resolutions on its finest grid, each value repeated in all its pixels.

    Raises
    ------
    GridError
        Grids that do not lie on each other.
    """
    nodes = [node.to_dataset() for node in tree.subtree if node.data_vars]
    nodes = [node for node in nodes if any(v.ndim >= 2 for v in node.data_vars.values())]
    nodes.sort(key=_pixel)
    if len(nodes) < 2:
        raise GridError(
            f"the DataTree has {len(nodes)} nodes with bands, native needs fine and coarse ones",
            "e.g. xr.DataTree.from_dict({'10m': fine, '20m': coarse})",
        )
    fine = nodes[0]
    for node in nodes[1:]:
        fine = fine.assign(_repeated(node, fine))
    return fine


def _pixel(ds: xr.Dataset) -> float:
    _y, x = spatial_dims(ds)
    if x in ds.coords and ds.sizes[x] > 1:
        return float(abs(ds[x][1] - ds[x][0]))
    return 1 / ds.sizes[x]


def _repeated(coarse: xr.Dataset, fine: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables of a coarse dataset that a finer one lacks, on its grid."""
    dims = spatial_dims(fine)
    index: dict[str, xr.DataArray] = {}
    factors = []
    for dim, own in zip(dims, spatial_dims(coarse), strict=True):
        at, factor = _index(fine, dim, coarse, own)
        factors.append(factor)
        index[own] = xr.DataArray(at, dims=dim)
    grid_m = next(
        (float(v.attrs[k]) for v in fine.data_vars.values() for k in ("gsd_m",) if k in v.attrs), None
    )
    out = {}
    for name, variable in coarse.data_vars.items():
        if name in fine.variables or not set(index) <= set(variable.dims):
            continue
        moved = variable.drop_vars([d for d in index if d in variable.coords]).isel(index)
        moved = _same_dates(moved, fine, str(name)).drop_vars(
            set(moved.coords) - set(fine.coords), errors="ignore"
        )
        if grid_m is not None:
            moved.attrs["native_gsd_m"] = grid_m * factors[0]
        out[str(name)] = moved.assign_coords({d: fine[d] for d in dims if d in fine.coords})
    return out


def _index(fine: xr.Dataset, dim: str, coarse: xr.Dataset, own: str) -> tuple[Any, int]:
    """Return the coarse pixel of every fine one along an axis, and the fine pixels per coarse one."""
    count, cells = fine.sizes[dim], coarse.sizes[own]
    if dim not in fine.coords or own not in coarse.coords or count < 2 or cells < 2:
        if count % cells or not 2 <= count // cells <= 8:
            raise GridError(
                f"{cells} pixels along {own!r} do not lie on {count}: neither grid has coordinates",
                "give arrays of the same extent, or coordinates",
            )
        return np.arange(count) // (count // cells), count // cells
    centres, pixels = coarse[own].values.astype(float), fine[dim].values.astype(float)
    step = centres[1] - centres[0]
    at = np.floor((pixels - (centres[0] - step / 2)) / step).astype(int)
    factor = round(abs(step / (pixels[1] - pixels[0])))
    if at.min() < 0 or at.max() >= cells or factor < 2:
        raise GridError(
            f"the coarse grid ends at {centres[0]:.9g} to {centres[-1]:.9g} along {own!r}, the fine one at "
            f"{pixels[0]:.9g} to {pixels[-1]:.9g}",
            "crop the fine bands to the extent of the coarse ones, e.g. fine.sel(x=slice(...), y=slice(...))",
        )
    return at, factor


def _same_dates(moved: xr.DataArray, fine: xr.Dataset, name: str) -> xr.DataArray:
    """Return a variable with the dates of the fine bands; refuse other days."""
    time = next(
        (d for d in moved.dims if d in fine.dims and d in fine.coords and fine[d].dtype.kind == "M"), None
    )
    if time is None:
        return moved
    days = [ds[time].values.astype("datetime64[D]") for ds in (moved, fine)]
    if len(days[0]) != len(days[1]) or (days[0] != days[1]).any():
        raise GridError(
            f"band {name!r} has {len(days[0])} dates, not those of the fine bands ({len(days[1])})",
            "select the common ones, e.g. with xr.align(fine.time, coarse.time, join='inner')",
        )
    return moved.assign_coords({time: fine[time]})
