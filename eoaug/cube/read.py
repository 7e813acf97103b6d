"""From any xarray cube to one `Cube` value.

Dimension names, coordinates, attributes and nodata conventions are resolved here; nothing else of the package needs
them. Arrays keep their type (NumPy or dask), in (time, y, x) order. `eoaug.cube.rebuild` is the way back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.grid_mapping import geobox_from_coords, spatial_dims
from eoaug.cube.model import Cube, CubeBand, Form
from eoaug.cube.synthetic import SYNTHETIC
from eoaug.errors import BandError, GridError, ParameterError, TimeError
from eoaug.raster.bands import common_name, is_mask_name
from eoaug.raster.radiometry import declared_nodata, declared_scaling

__all__ = ["read_cube"]


_TIME_NAMES = ("time", "t", "date", "datetime")
_BAND_NAMES = ("band", "bands", "wavelength", "channel")


# -- reading ----------------------------------------------------------------------------------------


def read_cube(obj: xr.Dataset | xr.DataArray) -> Cube:
    """Return the normalised form of a Dataset (a variable per band) or DataArray.

    Parameters
    ----------
    obj
        Dataset, DataArray with a band dimension, or DataArray of one band. Dimensions in any order,
        found by CF axis attributes or by name.

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
        return _read_array(obj)
    if not isinstance(obj, xr.Dataset):
        raise ParameterError(
            f"the data is a {type(obj).__name__}, which is not an xarray Dataset or DataArray",
            "open your data as a cube first: eoaug.open_cube(source) or xarray.open_dataset(path)",
        )
    return _read_dataset(obj, "dataset")


def _read_array(array: xr.DataArray) -> Cube:
    axis = next((str(d) for d in array.dims if str(d).lower() in _BAND_NAMES), None)
    dims = tuple(str(d) for d in array.dims)
    bare = array.drop_vars(SYNTHETIC, errors="ignore")
    marks = array.coords[SYNTHETIC].variable if SYNTHETIC in array.coords else None
    if axis is None:
        name = _name_of_single(array)
        dataset = bare.to_dataset(name=name)
        single = _read_dataset(dataset, "single")
        return replace(
            single, array_name=array.name, array_attrs=dict(array.attrs), array_dims=dims, marks=marks
        )
    labels = array.coords.get(axis)
    names = [f"band{i + 1}" for i in range(array.sizes[axis])]
    if labels is not None:
        names = [str(v) for v in labels.values]
        if len(set(names)) != len(names):
            raise BandError(f"labels along {axis!r} repeat: {names}", "give every band its own label")
    common = _common_along(array, axis)
    variables = {}
    for i, name in enumerate(names):
        layer = bare.isel({axis: i}, drop=True)
        layer.attrs = dict(array.attrs) | ({"common_name": common[i]} if common else {})
        layer.encoding = dict(array.encoding)
        variables[name] = layer.variable
    coords = {k: v for k, v in bare.coords.items() if axis not in v.dims}
    dataset = xr.Dataset(variables, coords)
    cube = _read_dataset(dataset, "bands")
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


def _read_dataset(ds: xr.Dataset, form: Form) -> Cube:
    y, x = spatial_dims(ds)
    candidates = [
        name
        for name, var in ds.data_vars.items()
        if y in var.dims
        and x in var.dims
        and var.dtype.kind in "iuf"
        and not is_mask_name(str(name), var.attrs)
        and var.attrs.get("derived") != "yes"
    ]
    if not candidates:
        raise BandError(
            f"no band with the dimensions ({y}, {x}) among the variables {sorted(map(str, ds.data_vars))}",
            "give a Dataset with one numeric variable per band, or a DataArray with a 'band' dimension",
        )
    time = _time_dim(ds, candidates, y, x)
    times = _times(ds, time)
    geobox, georeferenced = geobox_from_coords(ds, y, x)
    platform = _platform(ds)
    bands = []
    for name in candidates:
        var = ds[name].variable
        dims = tuple(str(d) for d in var.dims)
        ordered = var.transpose(*((time,) if time in dims else ()), y, x)
        data = ordered.data
        if time is not None and time not in dims:
            raise GridError(
                f"band {name!r} has no dimension {time!r}, the other bands have one",
                f"give it dates with ds[{name!r}].expand_dims(...), or leave it out",
            )
        if time is None:
            data = data[None]
        bands.append(
            CubeBand(
                name=str(name),
                common_name=common_name(str(name), var.attrs, platform),
                data=data,
                dims=dims,
                scaling=declared_scaling(var.attrs, var.dtype, name=str(name), encoding=var.encoding),
                nodata=declared_nodata(var.attrs, var.dtype, name=str(name), encoding=var.encoding),
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
        marks=ds[SYNTHETIC].variable if SYNTHETIC in ds else None,
    )


def _platform(ds: xr.Dataset) -> str | None:
    if "platform" in ds.coords:
        names = {str(v) for v in np.atleast_1d(ds.coords["platform"].values) if v}
        if len(names) >= 1:
            return sorted(names)[0]
    value = ds.attrs.get("platform") or ds.attrs.get("constellation")
    return str(value) if value else None


def _time_dim(ds: xr.Dataset, names: list[Any], y: str, x: str) -> str | None:
    others = {str(d) for name in names for d in ds[name].dims} - {y, x}
    time = next((d for d in others if d.lower() in _TIME_NAMES), None)
    if time is None:
        time = next((d for d in others if d in ds.coords and ds.coords[d].dtype.kind == "M"), None)
    unknown = sorted(others - {time})
    if unknown:
        raise ParameterError(
            f"dimension {unknown[0]!r} (length {ds.sizes[unknown[0]]}) is neither time, y, x nor band",
            f"select one, e.g. ds.isel({unknown[0]}=0)",
        )
    return time


def _times(ds: xr.Dataset, time: str | None) -> NDArray[np.datetime64] | None:
    if time is None:
        for name in _TIME_NAMES:
            if name in ds.coords and ds.coords[name].ndim == 0 and ds.coords[name].dtype.kind == "M":
                return np.atleast_1d(ds.coords[name].values)
        return None
    if ds.sizes[time] == 0:
        raise TimeError(
            f"the cube has no date ({time!r} has length 0)", "check the search or slice that made it"
        )
    if time not in ds.coords:
        if ds.sizes[time] == 1:
            return None
        raise TimeError(
            f"dimension {time!r} has length {ds.sizes[time]} and no coordinate",
            f"give it dates: ds.assign_coords({time}=pandas.to_datetime([...]))",
        )
    values = ds.coords[time].values
    if values.dtype.kind != "M":
        raise TimeError(
            f"{time!r} holds {values.dtype} values such as {values.flat[0]!r}, not dates",
            f"decode them: ds.assign_coords({time}=pandas.to_datetime(...))",
        )
    if np.isnat(values).any():
        raise TimeError(f"{time!r} holds missing dates (NaT)", f"drop them: ds.dropna({time!r})")
    if len(values) > 1:
        # The engine counts whole seconds: two dates within one second would be equal.
        backward = np.diff(values.astype("datetime64[s]").astype(np.int64)) <= 0
        if backward.any():
            i = int(np.argmax(backward))
            raise TimeError(
                f"dates are not ascending by a second or more: {values[i]} is followed by {values[i + 1]}",
                f"sort and merge them: ds.sortby({time!r}).drop_duplicates({time!r})",
            )
    return np.asarray(values)
