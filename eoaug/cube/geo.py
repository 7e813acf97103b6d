"""The door between xarray and the engine: any cube in, one `Cube` value; pixels out, the user's form back.

Knows dimension names, coordinates, attributes and nodata forms; knows no generator and no tile. Arrays
are handed on as they are (NumPy or dask), in (time, y, x) order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from eoaug import bands as band_tables
from eoaug.errors import BandError, GridError, ParameterError, RadiometryError, TimeError
from eoaug.radiometry import Scaling, declared_scaling

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Band", "Cube", "read_cube"]

_X_NAMES = ("x", "lon", "longitude", "easting")
_Y_NAMES = ("y", "lat", "latitude", "northing")
_TIME_NAMES = ("time", "t", "date", "datetime")
_BAND_NAMES = ("band", "bands", "wavelength", "channel")
_NODATA_KEYS = ("_FillValue", "nodata", "missing_value")

Form = Literal["dataset", "bands", "single"]


@dataclass(frozen=True)
class Band:
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

    bands: tuple[Band, ...]
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
        return np.where((marks == 0) & (before != 255), before, marks)

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
        variables["synthetic"] = variable(synthetic, full, dict(_SYNTHETIC_ATTRS), {})

        coords = self._coordinates(same_grid, new_dates, time, times, geobox, members)
        grid_mapping = self._grid_mapping()
        variables["synthetic"].encoding.update({"grid_mapping": grid_mapping} if grid_mapping else {})

        if self.form == "dataset":
            out = {}
            for name in self.source.data_vars:
                if name in variables:
                    out[name] = variables[name]
                elif name in coords:  # a grid mapping that xarray did not decode
                    out[name] = coords.pop(name)
                elif self._fits(self.source[name], same_grid, new_dates):
                    out[name] = self.source[name].variable
            out["synthetic"] = variables["synthetic"]
            return xr.Dataset(out, coords, dict(self.source.attrs))
        mark = coords | {"synthetic": variables["synthetic"]}
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


_TYPE_ATTRS = {*_NODATA_KEYS, "scale_factor", "add_offset", "scale", "offset", "raster:scale", "raster:offset",
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
_SYNTHETIC_ATTRS = {
    "long_name": "origin of the pixel",
    "flag_values": np.array([0, 1, 2, 255], dtype=np.uint8),
    "flag_meanings": "measured generated transferred outside",
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


# -- reading ----------------------------------------------------------------------------------------


def read_cube(obj: xr.Dataset | xr.DataArray, *, verb: str) -> Cube:
    """Return the normalised form of a Dataset (a variable per band) or DataArray.

    Parameters
    ----------
    obj
        Dataset, DataArray with a band dimension, or DataArray of one band. Dimensions in any order,
        found by CF axis attributes or by name.
    verb
        What the cube is for; used in messages.

    Raises
    ------
    ParameterError
        Not an xarray object, or a dimension that the engine does not know.
    BandError
        No spectral variable.
    GridError
        No spatial dimensions, an empty or irregular grid, bands of different grids.
    TimeError
        Dates that are not datetimes, repeated, unordered or missing.
    """
    if isinstance(obj, xr.DataArray):
        return _read_array(obj, verb)
    if not isinstance(obj, xr.Dataset):
        raise ParameterError(
            f"{verb} got a {type(obj).__name__}, which is not an xarray Dataset or DataArray",
            "open your data as a cube first: eoaug.open_cube(source) or xarray.open_dataset(path)",
        )
    return _read_dataset(obj, "dataset", verb)


def _read_array(array: xr.DataArray, verb: str) -> Cube:
    axis = next((str(d) for d in array.dims if str(d).lower() in _BAND_NAMES), None)
    dims = tuple(str(d) for d in array.dims)
    bare = array.drop_vars("synthetic", errors="ignore")
    marks = array.coords["synthetic"].variable if "synthetic" in array.coords else None
    if axis is None:
        name = _name_of_single(array)
        dataset = bare.to_dataset(name=name)
        single = _read_dataset(dataset, "single", verb)
        return replace(
            single, array_name=array.name, array_attrs=dict(array.attrs), array_dims=dims, marks=marks
        )
    labels = array.coords.get(axis)
    names = [f"band{i + 1}" for i in range(array.sizes[axis])]
    if labels is not None:
        names = [str(v) for v in labels.values]
        if len(set(names)) != len(names):
            raise BandError(f"{verb}: labels along {axis!r} repeat: {names}", "give every band its own label")
    common = _common_along(array, axis)
    variables = {}
    for i, name in enumerate(names):
        layer = bare.isel({axis: i}, drop=True)
        layer.attrs = dict(array.attrs) | ({"common_name": common[i]} if common else {})
        layer.encoding = dict(array.encoding)
        variables[name] = layer.variable
    coords = {k: v for k, v in bare.coords.items() if axis not in v.dims}
    dataset = xr.Dataset(variables, coords)
    cube = _read_dataset(dataset, "bands", verb)
    aside = {k: v for k, v in bare.coords.items() if axis in v.dims and k != axis}
    return replace(
        cube,
        marks=marks,
        array_name=array.name,
        array_attrs=dict(array.attrs),
        array_dims=dims,
        source=dataset.assign_coords(aside) if aside else dataset,
        name_band=axis,
        band_labels=labels.variable if labels is not None else None,
    )


def _name_of_single(array: xr.DataArray) -> str:
    """Return the label of a scalar band coordinate, which a selected band keeps, else the array's name."""
    labels = [array.coords[name] for name in _BAND_NAMES if name in array.coords]
    name = next((str(v.values) for v in labels if v.ndim == 0 and v.dtype.kind in "UO"), None)
    name = str(array.name) if name is None and array.name is not None else name or "values"
    return f"{name} values" if name in array.coords else name


def _common_along(array: xr.DataArray, axis: str) -> list[str] | None:
    for name in ("common_name", "eo:common_name"):
        if name in array.coords and array.coords[name].dims == (axis,):
            return [str(v) for v in array.coords[name].values]
    return None


def _read_dataset(ds: xr.Dataset, form: Form, verb: str) -> Cube:
    y, x = _spatial_dims(ds, verb)
    candidates = [
        name
        for name, var in ds.data_vars.items()
        if y in var.dims
        and x in var.dims
        and var.dtype.kind in "iuf"
        and not band_tables.is_mask_name(str(name), var.attrs)
        and var.attrs.get("derived") != "yes"
    ]
    if not candidates:
        raise BandError(
            f"{verb}: no band with the dimensions ({y}, {x}) among the variables {sorted(map(str, ds.data_vars))}",
            "give a Dataset with one numeric variable per band, or a DataArray with a 'band' dimension",
        )
    time = _time_dim(ds, candidates, y, x, verb)
    times = _times(ds, time, verb)
    geobox, georeferenced = _geobox(ds, y, x, verb)
    platform = _platform(ds)
    bands = []
    for name in candidates:
        var = ds[name].variable
        dims = tuple(str(d) for d in var.dims)
        ordered = var.transpose(*((time,) if time in dims else ()), y, x)
        data = ordered.data
        if time is not None and time not in dims:
            raise GridError(
                f"{verb}: band {name!r} has no dimension {time!r}, the other bands have one",
                f"give it dates with ds[{name!r}].expand_dims(...), or leave it out",
            )
        if time is None:
            data = data[None]
        bands.append(
            Band(
                name=str(name),
                common_name=band_tables.common_name(str(name), var.attrs, platform),
                data=data,
                dims=dims,
                scaling=declared_scaling(var.attrs, var.dtype, name=str(name)),
                nodata=_nodata(var, str(name)),
                attrs=dict(var.attrs),
                encoding=dict(var.encoding),
            )
        )
    return Cube(
        bands=tuple(bands),
        geobox=geobox,
        georeferenced=georeferenced,
        times=times,
        names_yx=(y, x),
        name_time=time,
        source=ds,
        form=form,
        marks=ds["synthetic"].variable if "synthetic" in ds else None,
    )


def _platform(ds: xr.Dataset) -> str | None:
    if "platform" in ds.coords:
        names = {str(v) for v in np.atleast_1d(ds.coords["platform"].values) if v}
        if len(names) >= 1:
            return sorted(names)[0]
    value = ds.attrs.get("platform") or ds.attrs.get("constellation")
    return str(value) if value else None


def _axis(ds: xr.Dataset, letter: str, standard: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    for dim in ds.dims:
        if dim in ds.coords:
            attrs = ds.coords[dim].attrs
            if attrs.get("axis") == letter or attrs.get("standard_name") in standard:
                return str(dim)
    return next((str(d) for d in ds.dims if str(d).lower() in names), None)


def _spatial_dims(ds: xr.Dataset, verb: str) -> tuple[str, str]:
    x = _axis(ds, "X", ("projection_x_coordinate", "longitude", "grid_longitude"), _X_NAMES)
    y = _axis(ds, "Y", ("projection_y_coordinate", "latitude", "grid_latitude"), _Y_NAMES)
    if x is None or y is None or x == y:
        raise GridError(
            f"{verb}: no spatial dimensions among {tuple(map(str, ds.dims))}",
            "name them y and x (or latitude and longitude), or set the CF attribute axis='Y' and 'X'",
        )
    for name in (y, x):
        if ds.sizes[name] == 0:
            raise GridError(
                f"{verb}: dimension {name!r} is empty", "check the bounding box or slice that made the cube"
            )
    return y, x


def _time_dim(ds: xr.Dataset, names: list[Any], y: str, x: str, verb: str) -> str | None:
    others = {str(d) for name in names for d in ds[name].dims} - {y, x}
    time = next((d for d in others if d.lower() in _TIME_NAMES), None)
    if time is None:
        time = next((d for d in others if d in ds.coords and ds.coords[d].dtype.kind == "M"), None)
    unknown = sorted(others - {time})
    if unknown:
        raise ParameterError(
            f"{verb}: dimension {unknown[0]!r} (length {ds.sizes[unknown[0]]}) is neither time, y, x nor band",
            f"select one, e.g. ds.isel({unknown[0]}=0)",
        )
    return time


def _times(ds: xr.Dataset, time: str | None, verb: str) -> NDArray[np.datetime64] | None:
    if time is None:
        for name in _TIME_NAMES:
            if name in ds.coords and ds.coords[name].ndim == 0 and ds.coords[name].dtype.kind == "M":
                return np.atleast_1d(ds.coords[name].values)
        return None
    if ds.sizes[time] == 0:
        raise TimeError(
            f"{verb}: the cube has no date ({time!r} has length 0)", "check the search or slice that made it"
        )
    if time not in ds.coords:
        if ds.sizes[time] == 1:
            return None
        raise TimeError(
            f"{verb}: dimension {time!r} has length {ds.sizes[time]} and no coordinate",
            f"give it dates: ds.assign_coords({time}=pandas.to_datetime([...]))",
        )
    values = ds.coords[time].values
    if values.dtype.kind != "M":
        raise TimeError(
            f"{verb}: {time!r} holds {values.dtype} values such as {values.flat[0]!r}, not dates",
            f"decode them: ds.assign_coords({time}=pandas.to_datetime(...))",
        )
    if np.isnat(values).any():
        raise TimeError(f"{verb}: {time!r} holds missing dates (NaT)", f"drop them: ds.dropna({time!r})")
    if len(values) > 1:
        # Whole seconds are the engine's clock: two dates within one would be one date to it.
        backward = np.diff(values.astype("datetime64[s]").astype(np.int64)) <= 0
        if backward.any():
            i = int(np.argmax(backward))
            raise TimeError(
                f"{verb}: dates are not ascending by a second or more: {values[i]} is followed by "
                f"{values[i + 1]}",
                f"sort and merge them: ds.sortby({time!r}).drop_duplicates({time!r})",
            )
    return np.asarray(values)


def _nodata(var: xr.Variable, name: str) -> float | None:
    """Return the stored number that means missing; None if there is none, or none that the type can hold."""
    key = next((key for key in _NODATA_KEYS if var.attrs.get(key) is not None), None)
    if key is None:
        return None
    value = var.attrs[key]
    try:
        number = float(np.asarray(value).flat[0])
    except (TypeError, ValueError, IndexError) as error:
        raise RadiometryError(
            f"band {name!r} has {key}={value!r}, which is no number", f"ds[{name!r}].attrs[{key!r}] = 0"
        ) from error
    if var.dtype.kind not in "iu":
        return number
    if not math.isfinite(number) or number != round(number):
        return None
    info = np.iinfo(var.dtype)
    # As float64 the ends of 64 bits become numbers beyond them.
    if not info.min <= int(number) <= info.max:
        raise RadiometryError(
            f"band {name!r} has {key}={value!r}, which {var.dtype} cannot hold (or float64 not exactly)",
            f"declare what stands for missing, e.g. ds[{name!r}].attrs[{key!r}] = 0, or drop it",
        )
    return number


def _geobox(ds: xr.Dataset, y: str, x: str, verb: str) -> tuple[GeoBox, bool]:
    from odc.geo.geobox import GeoBox

    shape = (ds.sizes[y], ds.sizes[x])
    crs, declared = _declared_grid(ds, verb)
    along_y, along_x = (_regular(ds, name, verb) for name in (y, x))
    if declared is not None and (declared.b != 0 or declared.d != 0):
        # A rotated grid: the coordinates, if any, are pixel positions and tell only the crop.
        row, col = (0 if axis is None else round(axis[0] - 0.5) for axis in (along_y, along_x))
        return GeoBox(shape, declared @ Affine.translation(col, row), crs), True
    if along_y is not None and along_x is not None:
        (y0, dy), (x0, dx) = along_y, along_x
        if dy is None or dx is None:
            if declared is None:
                raise GridError(
                    f"{verb}: one pixel along {y if dy is None else x!r} does not tell the pixel size",
                    "keep at least two pixels, or write the transform: ds.rio.write_transform(...)",
                )
            dy, dx = declared.e if dy is None else dy, declared.a if dx is None else dx
        affine = Affine(dx, 0, x0 - dx / 2, 0, dy, y0 - dy / 2)
        if crs is None and (dx, dy) == (1.0, 1.0) and declared is None:
            return GeoBox(shape, Affine.translation(round(affine.c), round(affine.f)), None), False
        return GeoBox(shape, _snapped(affine, declared), crs), True
    if declared is not None:
        return GeoBox(shape, declared, crs), True
    return GeoBox(shape, Affine.identity(), crs), False


def _snapped(affine: Affine, declared: Affine | None) -> Affine:
    """Prefer the declared transform, moved by whole pixels, to one recovered from rounded coordinates."""
    if declared is None or declared.determinant == 0:
        return affine
    col, row = ~declared @ (affine.c, affine.f)
    moved = declared @ Affine.translation(round(col), round(row))
    close = abs(col - round(col)) < 1e-3 and abs(row - round(row)) < 1e-3
    same = abs(moved.a / affine.a - 1) < 1e-6 and abs(moved.e / affine.e - 1) < 1e-6
    return moved if close and same else affine


def _declared_grid(ds: xr.Dataset, verb: str) -> tuple[Any, Affine | None]:
    from odc.geo.crs import CRS

    crs = affine = None
    for coord in [*ds.coords.values(), *(v for v in ds.data_vars.values() if v.ndim == 0)]:
        text = coord.attrs.get("crs_wkt") or coord.attrs.get("spatial_ref")
        if coord.ndim == 0 and text:
            try:
                crs = CRS(text)
            except Exception as error:
                raise GridError(
                    f"{verb}: the CRS in {coord.name!r} cannot be read: {str(text)[:80]!r}",
                    "write it anew: ds.rio.write_crs('EPSG:...')",
                ) from error
            numbers = coord.attrs.get("GeoTransform")
            if numbers:
                values = [float(v) for v in re.split(r"[\s,]+", str(numbers).strip())]
                affine = Affine.from_gdal(*values)
            break
    if crs is None:
        text = ds.attrs.get("crs") or next(
            (v.attrs["crs"] for v in ds.data_vars.values() if "crs" in v.attrs), None
        )
        if isinstance(text, str):
            try:
                crs = CRS(text)
            except Exception as error:
                raise GridError(
                    f"{verb}: the attribute crs={text!r} cannot be read", "use e.g. 'EPSG:32633'"
                ) from error
    return crs, affine


def _regular(ds: xr.Dataset, name: str, verb: str) -> tuple[float, float | None] | None:
    """Return (first centre, step) of a 1-D coordinate; the step is None for a single pixel."""
    if name not in ds.coords:
        return None
    values = np.asarray(ds.coords[name].values)
    if values.dtype.kind not in "iuf":
        raise GridError(
            f"{verb}: coordinate {name!r} is not numeric but {values.dtype}", "use pixel centres as numbers"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise GridError(
            f"{verb}: coordinate {name!r} holds values that are not finite", "drop or repair them"
        )
    if len(values) == 1:
        return float(values[0]), None
    step = (values[-1] - values[0]) / (len(values) - 1)
    deviation = np.abs(values - (values[0] + step * np.arange(len(values)))).max()
    if step == 0 or deviation > 0.02 * abs(step):
        raise GridError(
            f"{verb}: coordinate {name!r} is not evenly spaced (off by {deviation / abs(step or 1):.2f} pixels)",
            "bring the cube onto a regular grid first, e.g. ds.odc.reproject(geobox)",
        )
    return float(values[0]), float(step)
