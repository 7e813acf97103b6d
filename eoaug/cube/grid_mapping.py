"""From the coordinates and grid mapping of an xarray object to its GeoBox."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from eoaug.cube.dimensions import coord_variables
from eoaug.cube.grid_attributes import declared_transform
from eoaug.cube.indexes import indexed_crs, indexed_transform
from eoaug.errors import GridError

if TYPE_CHECKING:
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox

__all__ = ["geobox_from_coords"]


_EXACT_PX = 1e-3
_TOLERANCE_PX = 0.1
"""By how much rounded coordinates may lie off a declared grid."""
_MOST_ROUNDING_PX = 0.1
"""By how much the type of coordinates may round where nothing declares the grid."""


def geobox_from_coords(obj: xr.Dataset | xr.DataArray, y: str, x: str) -> tuple[GeoBox, bool]:
    """Return the grid of a cube, and whether it is georeferenced.

    Evenly spaced coordinates give the affine transform. The ``GeoTransform`` of the grid mapping takes their place
    where they lack or round to it, and gives the pixel size along a dimension of one pixel. For a rotated grid the
    coordinates are pixel positions, and the ``GeoTransform`` alone gives the transform.

    Parameters
    ----------
    obj
        Dataset or DataArray.
    y, x
        Names of the spatial dimensions, as `spatial_dims` returns them.

    Returns
    -------
    tuple of GeoBox and bool
        Without any coordinate, transform or CRS: a grid in pixels, and False.

    Raises
    ------
    GridError
        Coordinates that are not numeric, finite or evenly spaced; a single pixel of unknown size; a CRS that
        cannot be read.
    """
    from odc.geo.geobox import GeoBox

    shape = (obj.sizes[y], obj.sizes[x])
    crs, declared = _declared_grid(obj)
    if declared is not None and (declared.b != 0 or declared.d != 0):
        # The coordinates of a rotated grid, if any, count pixels: they say where a crop begins.
        row, col = (0 if a is None else round(a.values[0] - 0.5) for a in (_axis(obj, y), _axis(obj, x)))
        return GeoBox(shape, declared @ Affine.translation(col, row), crs), True
    along_y, along_x = _axis(obj, y), _axis(obj, x)
    if along_y is None or along_x is None:
        affine = Affine.identity() if declared is None else declared
        return GeoBox(shape, affine, crs), declared is not None
    for label in (0.5, 0.0) if _labels_corners(obj) else (0.5,):
        if declared is None:
            break
        row = along_y.index(declared.f, declared.e, label)
        col = along_x.index(declared.c, declared.a, label)
        if row is not None and col is not None:
            return GeoBox(shape, declared @ Affine.translation(col, row), crs), True
    (y0, dy), (x0, dx) = along_y.line(), along_x.line()
    if dy is None or dx is None:
        if declared is None:
            raise GridError(
                f"the size of the single pixel along {y if dy is None else x!r} is unknown",
                "keep at least two pixels, or write the transform: ds.rio.write_transform(...)",
            )
        dy, dx = declared.e if dy is None else dy, declared.a if dx is None else dx
    affine = Affine(dx, 0, x0 - dx / 2, 0, dy, y0 - dy / 2)
    if crs is None and (dx, dy) == (1.0, 1.0) and declared is None:
        return GeoBox(shape, Affine.translation(round(affine.c), round(affine.f)), None), False
    return GeoBox(shape, affine, crs), True


def _labels_corners(obj: xr.Dataset | xr.DataArray) -> bool:
    """Tell whether coordinates may be corners: stackstac's default, with the transform among the attributes."""
    holders = [obj, *_data_variables(obj).values()]
    return any("transform" in holder.attrs for holder in holders)


def _declared_grid(obj: xr.Dataset | xr.DataArray) -> tuple[CRS | None, Affine | None]:
    """Return the CRS and transform of the grid mapping, else of an index, else those among the attributes."""
    variables = _data_variables(obj)
    crs, affine = None, indexed_transform(obj)
    scalars = {name: v for name, v in {**coord_variables(obj), **variables}.items() if v.ndim == 0}
    for name, coord in scalars.items():
        text = coord.attrs.get("crs_wkt") or coord.attrs.get("spatial_ref")
        if text:
            numbers = re.split(r"[\s,]+", str(coord.attrs.get("GeoTransform", "")).strip())
            affine = Affine.from_gdal(*map(float, numbers)) if numbers[0] else affine
            crs = _crs(text, f"the CRS in {name!r}", "ds.rio.write_crs('EPSG:...')")
            break
    if crs is None and (given := indexed_crs(obj)) is not None:
        crs = _crs(given, "the CRS of the coordinate index", "ds.rio.write_crs('EPSG:...')")
    for holder in (obj, *variables.values()):
        if crs is None and (given := _crs_attribute(holder)) is not None:
            crs = _crs(given, "the attribute crs", "ds.attrs['crs'] = 'EPSG:32633'")
        affine = affine or declared_transform(holder.attrs)
    return crs, affine


def _data_variables(obj: xr.Dataset | xr.DataArray) -> dict[Hashable, xr.Variable]:
    return {name: obj.variables[name] for name in obj.data_vars} if isinstance(obj, xr.Dataset) else {}


def _crs_attribute(obj: xr.Dataset | xr.DataArray | xr.Variable) -> Any:
    """Return what an object's attributes or scalar coordinates say of its CRS: text, code or an object; or None."""
    given = obj.attrs.get("crs")
    if given is not None and not isinstance(given, float):
        return given if isinstance(given, str | int | np.integer) or hasattr(given, "to_wkt") else None
    for name in ("proj:code", "epsg", "proj:epsg"):
        code = obj.attrs.get(name)
        if (
            code is None
            and not isinstance(obj, xr.Variable)
            and name in obj.coords
            and obj.coords[name].ndim == 0
        ):
            code = obj.coords[name].values.item()
        if isinstance(code, str) and ":" in code:
            return code
        if isinstance(code, int | np.integer) or (isinstance(code, str) and code.isdigit()):
            return f"EPSG:{int(code)}"
    return None


def _crs(text: Any, what: str, remedy: str) -> CRS:
    from odc.geo.crs import CRS

    try:
        return CRS(text)
    except Exception as error:
        raise GridError(f"{what} cannot be read: {str(text)[:80]!r}", f"write it again: {remedy}") from error


@dataclass(frozen=True)
class _Axis:
    """A 1-D coordinate: pixel positions along one axis."""

    name: str
    values: NDArray[np.float64]
    rounding: float
    """Largest error by which the type of the coordinate rounds, in its units; 0 for float64."""

    def index(self, origin: float, step: float, label: float) -> int | None:
        """Return the index of the first pixel on a declared axis; None where the coordinate contradicts it.

        Parameters
        ----------
        origin, step
            Edge of the first declared pixel, and the size of a pixel.
        label
            Position of the coordinate in a pixel: 0.5 for centres, 0 for corners.
        """
        count = len(self.values)
        at = (self.values - origin) / step - np.arange(count) - label if step else np.array([math.inf])
        own = at - np.linspace(at[0], at[-1], len(at))
        # Exact coordinates off the declared pixels contradict them; rounded ones only lie near them.
        exact = self.rounding == 0 and np.abs(own).max() < _EXACT_PX
        slack = max(_EXACT_PX, 1e-6 * count) if exact else _TOLERANCE_PX + 2 * self.rounding / abs(step)
        if not np.isfinite(at).all() or slack > 0.5:
            return None
        first = round(float(at[0]))
        return first if np.abs(at - first).max() <= slack else None

    def line(self) -> tuple[float, float | None]:
        """Return first centre and step; the step is None for a single pixel."""
        values = self.values
        if len(values) == 1:
            return float(values[0]), None
        step = (values[-1] - values[0]) / (len(values) - 1)
        deviation = np.abs(values - (values[0] + step * np.arange(len(values)))).max()
        if step != 0 and self.rounding > _MOST_ROUNDING_PX * abs(step) and deviation > 0.02 * abs(step):
            raise GridError(
                f"coordinate {self.name!r} is rounded to {self.rounding / abs(step):.2f} pixels by its type, float32",
                f"give it as float64, ds.assign_coords({self.name}=first + step * numpy.arange(n)), or its exact grid: "
                "ds.rio.write_transform(affine.Affine(...))",
            )
        if step == 0 or deviation > max(0.02 * abs(step), 2 * self.rounding):
            raise GridError(
                f"coordinate {self.name!r} is not evenly spaced (off by {deviation / abs(step or 1):.2f} pixels)",
                "bring the cube onto a regular grid first, e.g. ds.odc.reproject(geobox); if the coordinates are "
                "only rounded, declare the exact grid: ds.rio.write_transform(affine.Affine(...))",
            )
        if self.rounding and deviation > 1e-6 * abs(step):
            step, first = (float(v) for v in np.polyfit(np.arange(len(values)), values, 1))
            return first, step
        return float(values[0]), float(step)


def _axis(obj: xr.Dataset | xr.DataArray, name: str) -> _Axis | None:
    """Return the coordinate along a dimension, or None without one."""
    if name not in obj.coords:
        return None
    stored = np.asarray(obj.coords[name].values)
    if stored.dtype.kind not in "iuf":
        raise GridError(
            f"coordinate {name!r} is not numeric but {stored.dtype}", "use pixel centres as numbers"
        )
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        raise GridError(f"coordinate {name!r} holds values that are not finite", "drop or repair them")
    coarse = stored.dtype.kind == "f" and stored.dtype.itemsize < 8
    rounding = float(np.spacing(np.abs(stored).max())) / 2 if coarse else 0.0
    return _Axis(name, values, rounding)
