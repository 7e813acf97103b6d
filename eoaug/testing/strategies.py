"""Hypothesis strategies for cubes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from eoaug.testing.scenes import grid

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["datasets"]


def datasets(
    *, max_px: int = 40, max_bands: int = 3, max_dates: int = 3, lazy: bool | None = None
) -> SearchStrategy[xr.Dataset]:
    """Return a hypothesis strategy for cubes as they come from xarray, odc-stac and rioxarray.

    Random dimension order and names, types, nodata conventions (``_FillValue`` or ``nodata`` in the attributes,
    NaN with an encoding, none), scale and offset, UTM, geographic, rotated or no grid, with and without
    time, NumPy or dask, with variables and coordinates that are not bands, attributes and encodings.

    Parameters
    ----------
    max_px, max_bands, max_dates
        Upper limits; at least 2 pixels along an axis.
    lazy
        True: always dask; False: never; None: either.
    """
    from hypothesis import strategies as st

    @st.composite
    def cubes(draw: Any) -> xr.Dataset:
        shape = draw(st.tuples(st.integers(2, max_px), st.integers(2, max_px)))
        dates = draw(st.integers(0, max_dates))
        kind = draw(st.sampled_from(["utm", "utm", "geographic", "rotated", "none"]))
        names = draw(
            st.lists(
                st.sampled_from(["blue", "green", "red", "nir", "swir16", "B8A"]),
                min_size=1, max_size=max_bands, unique=True,
            )
        )  # fmt: skip
        coords, (y, x) = _drawn_grid(draw, kind, shape)
        if dates:
            start = np.datetime64("2020-01-01T00:00:00", "ns")
            days = np.cumsum(draw(st.lists(st.integers(1, 40), min_size=dates, max_size=dates)))
            coords["time"] = ("time", start + days.astype("timedelta64[D]"), {"long_name": "sensing time"})
            if draw(st.booleans()):
                coords["item_id"] = ("time", [f"item-{d}" for d in days])
        canonical = ("time", y, x) if dates else (y, x)
        dims = tuple(draw(st.permutations(canonical)))
        full = dict(zip(canonical, (dates, *shape) if dates else shape, strict=True))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        form = draw(st.sampled_from(list(_FORMS)))
        ds = xr.Dataset(coords=coords, attrs=draw(st.sampled_from([{}, {"title": "t", "version": 3}])))
        for name in names:
            ds[name] = _drawn_band(rng, form, dims, tuple(full[d] for d in dims))
            if "spatial_ref" in coords:
                ds[name].encoding["grid_mapping"] = "spatial_ref"
        for extra in draw(st.lists(st.sampled_from(["scl", "gain", "angles"]), unique=True)):
            _EXTRAS[extra](ds, y, x, rng)
        if lazy is True or (lazy is None and draw(st.booleans())):
            size = draw(st.integers(5, max_px))
            ds = ds.chunk({d: size if d != "time" else 1 for d in dims})
        return ds

    return cubes()


def _drawn_grid(draw: Any, kind: str, shape: tuple[int, int]) -> tuple[dict[Any, Any], tuple[str, str]]:
    from hypothesis import strategies as st
    from odc.geo.xr import xr_coords

    if kind == "none":
        return {}, ("y", "x")
    geobox = grid(
        shape,
        crs="EPSG:4326" if kind == "geographic" else "EPSG:32733",
        rotation_deg=30.0 if kind == "rotated" else 0.0,
    )
    y, x = geobox.dimensions
    coords: dict[Any, Any] = dict(xr_coords(geobox))
    if draw(st.booleans()):
        coords["orbit"] = ((), 64, {"long_name": "relative orbit"})
    if kind == "utm" and draw(st.booleans()):
        coords["elevation"] = ((y, x), np.zeros(shape, np.float32), {"units": "m"})
    return coords, (y, x)


_SCALED = {"scale_factor": 1e-4, "add_offset": -0.1}
_FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], float | None]] = {
    "uint16, nodata": ("uint16", {"nodata": 0, **_SCALED}, {}, 0),
    "uint16, _FillValue": ("uint16", {"_FillValue": 65535, **_SCALED}, {}, 65535),
    "int16, nodata": ("int16", {"nodata": -9999, "scale": 1e-4, "offset": 0.0}, {"zlib": True}, -9999),
    "int16, none": ("int16", {"raster:scale": 1e-4, "raster:offset": 0.0, "long_name": "r"}, {}, None),
    "float32, masked": (
        "float32",
        {"units": "1"},
        {"dtype": "uint16", "_FillValue": 0, "scale_factor": 1e-4, "add_offset": -0.1},
        math.nan,
    ),
    "float32, plain": ("float32", {}, {}, math.nan),
    "float32, _FillValue": ("float32", {"_FillValue": -9999.0}, {}, -9999.0),
}
"""Type in memory, attributes, encoding, and the number that means missing."""


def _drawn_band(
    rng: np.random.Generator, form: str, dims: tuple[str, ...], shape: tuple[int, ...]
) -> xr.DataArray:
    dtype, attrs, encoding, nodata = _FORMS[form]
    values = rng.uniform(0.2, 0.6, shape)
    if np.dtype(dtype).kind in "iu":
        values = np.rint(values * 1e4)
    data = values.astype(dtype)
    if nodata is not None:
        data[rng.random(shape) < 0.1] = nodata
    band = xr.DataArray(data, dims=dims, attrs=dict(attrs))
    band.encoding = dict(encoding)
    return band


def _add_scl(ds: xr.Dataset, y: str, x: str, rng: np.random.Generator) -> None:
    dims = (*(("time",) if "time" in ds.sizes else ()), y, x)
    classes = rng.choice(np.array([4, 5, 8, 9], np.uint8), tuple(ds.sizes[d] for d in dims))
    ds["scl"] = (dims, classes, {"long_name": "scene classification"})


def _add_gain(ds: xr.Dataset, y: str, x: str, rng: np.random.Generator) -> None:
    ds["gain"] = ((), 2.5, {"units": "1"})


def _add_angles(ds: xr.Dataset, y: str, x: str, rng: np.random.Generator) -> None:
    ds["angles"] = (("angle",), rng.uniform(0, 90, 4).astype(np.float32), {"units": "degree"})


_EXTRAS = {"scl": _add_scl, "gain": _add_gain, "angles": _add_angles}
