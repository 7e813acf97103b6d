"""What a cube is once it is read: bands, grid, dates, and the form to give back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.synthetic import ATTRIBUTES, MEASURED, OUTSIDE, SYNTHETIC
from eoaug.raster.radiometry import Scaling

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["NODATA_KEYS", "Cube", "CubeBand", "Form"]


NODATA_KEYS = ("_FillValue", "nodata", "missing_value")

Form = Literal["dataset", "bands", "single"]


@dataclass(frozen=True)
class CubeBand:
    """One spectral variable of a cube: where its numbers are and what they mean."""

    name: str
    """The variable's name, or the label along the band dimension."""
    common_name: str | None
    """STAC common name, where it is known."""
    data: Any
    """Shape (T, Y, X): NumPy or dask array of stored numbers."""
    dims: tuple[str, ...]
    """The variable's own dimensions in its own order (without the band dimension)."""
    scaling: Scaling
    """From stored numbers to physical units."""
    nodata: float | None
    """Stored number that means missing; NaN is missing in any floating band."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    encoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers in memory."""
        kind: np.dtype[Any] = np.dtype(self.data.dtype)
        return kind


@dataclass(frozen=True)
class Cube:
    """A data cube, normalised: bands of shape (T, Y, X) on one grid, and the way back."""

    bands: tuple[CubeBand, ...]
    geobox: GeoBox
    """Grid of all bands. Without a georeference: pixel units and no CRS."""
    georeferenced: bool
    times: NDArray[np.datetime64] | None
    """Shape (T,), or None for a cube without a date."""
    names_yx: tuple[str, str]
    """Names of the spatial dimensions."""
    name_time: str | None
    """Name of the time dimension, or None if the cube has none."""
    source: xr.Dataset
    """The user's object as a Dataset."""
    form: Form
    marks: xr.Variable | None = None
    """Where an earlier verb generated pixels: its ``synthetic``, as it came."""
    name_band: str = "band"
    """Name of the band dimension (form ``bands``)."""
    band_labels: Any = None
    """Coordinate along the band dimension, in the user's order (form ``bands``)."""
    array_name: Any = None
    array_attrs: Mapping[str, Any] = field(default_factory=dict)
    array_dims: tuple[str, ...] = ()

    @property
    def lazy(self) -> bool:
        """True if any band is a dask array."""
        return any(hasattr(band.data, "dask") for band in self.bands)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.geobox.shape.yx
        return int(rows), int(cols)

    def along_time(self, *names: str) -> NDArray[Any] | None:
        """Return the first of the named coordinates as shape (T,), or None."""
        for name in names:
            if name in self.source.coords:
                values = np.atleast_1d(np.asarray(self.source.coords[name].values))
                count = 1 if self.times is None else len(self.times)
                if values.shape == (count,):
                    return values
        return None

    # -- the way back ---------------------------------------------------------------------------

    def carried(self, marks: Any, places: NDArray[np.intp]) -> Any:
        """Return marks of a result on this cube's grid, with what was generated before kept as such.

        Parameters
        ----------
        marks
            Shape ([member,] T, Y, X), uint8, of the new result.
        places
            Shape (Tin,), where this cube's dates lie among those of the result.
        """
        if self.marks is None:
            return marks
        dims = (self.name_time,) if self.name_time in self.marks.dims else ()
        earlier = self.marks.transpose(*dims, *self.names_yx).data
        earlier = earlier if dims else earlier[None]
        blank = np.zeros((1, *earlier.shape[1:]), np.uint8)
        order = np.full(marks.shape[-3], len(earlier))
        order[places] = np.arange(len(places)) if dims else 0
        before = np.concatenate([earlier, blank])[order]
        return np.where((marks == MEASURED) & (before != OUTSIDE), before, marks)

    def rebuild(
        self,
        arrays: Mapping[str, Any],
        synthetic: Any,
        *,
        times: NDArray[np.datetime64] | None,
        geobox: GeoBox,
        members: int | None,
        keep_type: bool = True,
    ) -> xr.Dataset | xr.DataArray:
        """Return the results in the form of the user's object.

        Parameters
        ----------
        arrays
            By band name, shape ([member,] T, Y, X).
        synthetic
            Shape ([member,] T, Y, X), uint8 marks.
        times
            Dates of the result, or None for a cube without a date.
        geobox
            Grid of the result.
        members
            Length of the ``member`` dimension, or None without it.
        keep_type
            False for statistics: attributes and encoding that belong to the stored type are dropped.
        """
        same_grid = geobox == self.geobox
        new_dates = times is not None and (
            self.times is None or len(times) != len(self.times) or bool((times != self.times).any())
        )
        lead = ("member",) if members is not None else ()
        time = self.name_time or ("time" if times is not None and len(times) > 1 else None)
        full = (*lead, *((time,) if time else ()), *self.names_yx)

        def variable(data: Any, dims: tuple[str, ...], attrs: Any, encoding: Any) -> xr.Variable:
            if time is None:
                data = data[:, 0] if lead else data[0]
            kept = tuple(d for d in dims if d in full and d not in lead)
            order = (*lead, *kept, *(d for d in full if d not in kept and d not in lead))
            return xr.Variable(full, data, attrs, encoding).transpose(*order)

        variables: dict[Any, xr.Variable] = {}
        for band in self.bands:
            attrs = {k: v for k, v in band.attrs.items() if keep_type or k not in _TYPE_ATTRS}
            encoding = dict(band.encoding) if keep_type else {}
            if not same_grid or new_dates or lead:
                encoding = {k: v for k, v in encoding.items() if k not in _LAYOUT_ENCODING}
            variables[band.name] = variable(arrays[band.name], band.dims, attrs, encoding)
        variables[SYNTHETIC] = variable(synthetic, full, dict(ATTRIBUTES), {})

        coords = self._coordinates(same_grid, new_dates, time, times, geobox, members)
        grid_mapping = self._grid_mapping()
        variables[SYNTHETIC].encoding.update({"grid_mapping": grid_mapping} if grid_mapping else {})

        if self.form == "dataset":
            out = {}
            for name in self.source.data_vars:
                if name in variables:
                    out[name] = variables[name]
                elif name in coords:  # a grid mapping that xarray did not decode
                    out[name] = coords.pop(name)
                elif self._fits(self.source[name], same_grid, new_dates):
                    out[name] = self.source[name].variable
            out[SYNTHETIC] = variables[SYNTHETIC]
            return xr.Dataset(out, coords, dict(self.source.attrs))
        mark = coords | {SYNTHETIC: variables[SYNTHETIC]}
        if self.form == "single":
            only = variables[self.bands[0].name]
            return _array(only, mark, self.array_name)
        stack = xr.concat(
            [xr.DataArray(variables[band.name]) for band in self.bands], dim=self.name_band
        ).variable
        dims = (*lead, *(d for d in self.array_dims if d in (*full, self.name_band)))
        dims = (*dims, *(d for d in full if d not in dims))
        stack = stack.transpose(*dims)
        first = variables[self.bands[0].name]
        stack.attrs = {k: v for k, v in self.array_attrs.items() if keep_type or k not in _TYPE_ATTRS}
        stack.encoding = dict(first.encoding)
        for name, coord in self.source.coords.items():
            if self.name_band in coord.dims and name not in mark:
                mark[name] = coord.variable
        if self.band_labels is not None:
            mark[self.name_band] = self.band_labels
        return _array(stack, mark, self.array_name)

    def _fits(self, array: xr.DataArray, same_grid: bool, new_dates: bool) -> bool:
        on_grid = any(d in array.dims for d in self.names_yx)
        return (same_grid or not on_grid) and not (new_dates and self.name_time in array.dims)

    def _coordinates(
        self,
        same_grid: bool,
        new_dates: bool,
        time: str | None,
        times: NDArray[np.datetime64] | None,
        geobox: GeoBox,
        members: int | None,
    ) -> dict[Any, Any]:
        coords: dict[Any, Any] = {
            name: coord.variable
            for name, coord in self.source.coords.items()
            if self._fits(coord, same_grid, new_dates) and self.name_band not in coord.dims
        }
        if not same_grid:
            coords |= self._new_spatial(geobox)
            if "gsd" in coords:
                share = math.sqrt(abs(geobox.affine.determinant / self.geobox.affine.determinant))
                coords["gsd"] = coords["gsd"] * share
        if new_dates and time is not None and times is not None:
            assert self.times is not None
            given = self.source.coords.get(time)
            attrs = dict(given.attrs) if given is not None else {}
            encoding = dict(given.encoding) if given is not None else {}
            coords[time] = xr.Variable((time,), times, attrs, encoding)
            where = np.searchsorted(times, self.times)
            for name, coord in self.source.coords.items():
                if coord.dims == (time,) and name != time:
                    coords[name] = _spread(coord, where, len(times))
        if members is not None:
            coords["member"] = xr.Variable(("member",), np.arange(members), {"long_name": "ensemble member"})
        return coords

    def _grid_mapping(self) -> str | None:
        for name, variable in self.source.variables.items():
            if "crs_wkt" in variable.attrs or "spatial_ref" in variable.attrs:
                return str(name)
        return None

    def _new_spatial(self, geobox: GeoBox) -> dict[str, xr.Variable]:
        """Coordinates of a new grid: pixel centres and the CF grid mapping, named as the user's were."""
        y, x = self.names_yx
        rows, cols = geobox.shape.yx
        affine = geobox.affine
        out: dict[str, xr.Variable] = {}
        rotated = affine.b != 0 or affine.d != 0
        for name, count, axis in ((y, rows, "y"), (x, cols, "x")):
            if name not in self.source.coords:
                continue
            old = self.source.coords[name]
            centres = np.arange(count) + 0.5
            if not rotated and self.georeferenced:
                centres = affine.f + affine.e * centres if axis == "y" else affine.c + affine.a * centres
            attrs = dict(old.attrs)
            if "resolution" in attrs:
                attrs["resolution"] = affine.e if axis == "y" else affine.a
            out[name] = xr.Variable((name,), centres, attrs, dict(old.encoding))
        mapping = self._grid_mapping()
        if mapping is not None:
            old = self.source[mapping]
            attrs = dict(old.attrs)
            attrs["GeoTransform"] = " ".join(repr(v) for v in affine.to_gdal())
            out[mapping] = xr.Variable((), old.values, attrs, dict(old.encoding))
        return out


_TYPE_ATTRS = {*NODATA_KEYS, "scale_factor", "add_offset", "scale", "offset", "raster:scale", "raster:offset",
               "reflectance_scale", "reflectance_offset", "db_scale", "db_offset", "valid_min", "valid_max"}  # fmt: skip
_LAYOUT_ENCODING = {
    "chunks",
    "preferred_chunks",
    "chunksizes",
    "original_shape",
    "source",
    "shards",
    "rasterio_dtype",
}


def _array(variable: xr.Variable, coords: Mapping[Any, Any], name: Any) -> xr.DataArray:
    # The constructor drops the encoding of a variable.
    array = xr.DataArray(variable, coords, name=name)
    array.encoding = dict(variable.encoding)
    return array


def _spread(coord: xr.DataArray, where: NDArray[np.intp], count: int) -> xr.Variable:
    """Put a coordinate along time onto more dates; the new ones are missing."""
    values = coord.values
    empty: Any = "" if values.dtype.kind in "UO" else np.nan
    if values.dtype.kind in "US":
        values = values.astype(object)
    elif values.dtype.kind in "Mm":
        empty = np.array("NaT", dtype=values.dtype)
    elif values.dtype.kind != "O":
        values = values.astype(np.float64)
    out = np.full(count, empty, dtype=values.dtype)
    out[where] = values
    if out.dtype == object and all(isinstance(v, str) for v in out):
        out = out.astype(str)
    return xr.Variable(coord.dims, out, dict(coord.attrs))
