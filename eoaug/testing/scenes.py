"""Synthetic cubes for tests, whose pixel values encode their row, column, band and date.

Nothing in `eoaug.testing` needs pytest; hypothesis is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import DTypeLike, NDArray

from eoaug.generators.interpolation.texture import texture

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Place", "decode", "grid", "scene"]


_INDEX, _DATE = 1024, 8
"""A stored number is 1 + index + 1024 (date + 8 pair): 16 bits, and never 0, which is nodata."""

_SCALE = 1e-4


@dataclass(frozen=True)
class Place:
    """Origin of pixels of `scene`; arrays of one shape."""

    index: NDArray[np.int64]
    """Row in bands with an even number, column in bands with an odd one, modulo 1023."""
    date: NDArray[np.int64]
    """Number of the date, modulo 8."""
    pair: NDArray[np.int64]
    """Number of the band divided by 2, rounded down."""


def decode(stored: Any) -> Place:
    """Return the origin that stored numbers (or reflectances) of `scene` encode."""
    values = np.asarray(stored)
    if values.dtype.kind == "f":
        values = np.rint(values.astype(np.float64) / _SCALE)
    values = values.astype(np.int64)
    return Place((values - 1) % _INDEX, values // _INDEX % _DATE, values // (_INDEX * _DATE))


def grid(
    shape_yx: tuple[int, int] = (96, 80), *, crs: str = "EPSG:32633", rotation_deg: float = 0.0
) -> GeoBox:
    """Return a grid of 10 m pixels, or of 1/8192 degree in a geographic CRS, far from the CRS origin.

    Parameters
    ----------
    shape_yx
        Rows and columns.
    crs
        Any that odc.geo reads.
    rotation_deg
        Counter-clockwise turn around the first corner.
    """
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox

    known = CRS(crs)
    # A power of two keeps degrees exact, so that crops have exactly the affine of the whole.
    pixel, corner = (2.0**-13, (12.5, 48.25)) if known.geographic else (10.0, (500_120.0, 5_300_270.0))
    affine = Affine.translation(*corner) @ Affine.rotation(rotation_deg) @ Affine.scale(pixel, -pixel)
    return GeoBox(shape_yx, affine, known)


def scene(
    shape_yx: tuple[int, int] = (96, 80),
    *,
    dates: int = 3,
    bands: Sequence[str] = ("blue", "green", "red", "nir"),
    crs: str = "EPSG:32633",
    rotation_deg: float = 0.0,
    dtype: DTypeLike = "uint16",
    content: Literal["place", "texture"] = "place",
    chunks: Any = None,
) -> xr.Dataset:
    """Return a cube whose pixel values encode their origin.

    Parameters
    ----------
    shape_yx
        Rows and columns.
    dates
        Number of dates, ten days apart; 0 for a cube without time.
    bands
        Variable names.
    crs, rotation_deg
        As for `grid`.
    dtype
        Integers are stored numbers with scale 1e-4 and nodata 0 declared; floats are reflectance.
    content
        ``"place"``: see `decode`. ``"texture"``: a random field of reflectance 0.1 to 0.9 with the
        spectrum of a landscape.
    chunks
        As for ``Dataset.chunk``; None: NumPy.
    """
    from odc.geo.xr import xr_coords

    geobox = grid(shape_yx, crs=crs, rotation_deg=rotation_deg)
    kind = np.dtype(dtype)
    y, x = geobox.dimensions
    coords: dict[Any, Any] = dict(xr_coords(geobox))
    dims: tuple[str, ...] = (y, x)
    if dates:
        dims = ("time", *dims)
        times = np.datetime64("2021-03-01T10:20:30", "ns") + np.arange(dates) * np.timedelta64(10, "D")
        coords["time"] = ("time", times)
        coords["cloud_cover"] = ("time", np.linspace(0, 50, dates), {"units": "percent"})
    make = _places if content == "place" else _textures
    stored = make((max(dates, 1), len(bands), *shape_yx))
    if int(stored.max()) > (65_535 if kind.kind == "f" else np.iinfo(kind).max):
        raise ValueError(f"{len(bands)} bands of {content} do not fit {kind}; take fewer bands")
    attrs: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if kind.kind in "iu":
        attrs |= {"scale_factor": _SCALE, "add_offset": 0.0, "_FillValue": 0}
        values = stored.astype(kind)
    else:
        attrs["units"] = "1"
        values = (stored * _SCALE).astype(kind)
    variables = {
        name: (dims, values[:, i] if dates else values[0, i], {"common_name": name} | attrs)
        for i, name in enumerate(bands)
    }
    ds = xr.Dataset(variables, coords, {"title": "a scene of eoaug.testing.scenes"})
    return ds if chunks is None else ds.chunk(chunks)


def _places(shape: tuple[int, ...]) -> NDArray[np.int64]:
    T, C, H, W = shape
    date = np.arange(T)[:, None, None, None] % _DATE
    band = np.arange(C)[:, None, None]
    rows, cols = np.mgrid[:H, :W]
    index = np.where(band % 2 == 0, rows, cols) % (_INDEX - 1)
    stored: NDArray[np.int64] = 1 + index + _INDEX * (date + _DATE * (band // 2))
    return stored


def _textures(shape: tuple[int, ...]) -> NDArray[np.int64]:
    T, C, H, W = shape
    fields = np.stack([texture((0, 0), (C, H, W), seed=11, time=t) for t in range(T)])
    stored: NDArray[np.int64] = np.rint(np.clip(0.5 + 0.1 * fields, 0.1, 0.9) / _SCALE).astype(np.int64)
    return stored
