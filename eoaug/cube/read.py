"""From any xarray cube to one `Cube` value.

Coordinates, attributes and nodata conventions are resolved here; nothing else of the package needs
them. Arrays keep their type (NumPy or dask), in (time, y, x) order. `eoaug.cube.rebuild` is the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.dimensions import band_dim, coord_variables, dates_of, scalar_time, spatial_dims, time_dim
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.model import Cube, CubeBand, Form
from eoaug.cube.roles import label_names, platform_of, roles_of, with_labels
from eoaug.cube.stacks import name_of_single, split_bands
from eoaug.cube.synthetic import SYNTHETIC
from eoaug.errors import BandError, EoaugError, GridError, ParameterError, RadiometryError, TimeError
from eoaug.raster.backscatter import backscatter_scaling
from eoaug.raster.bands import POLARISATIONS, common_name
from eoaug.raster.products import product_of_band
from eoaug.raster.radiometry import (
    Scaling,
    declared_nodata,
    declared_scaling,
    declares_scale,
    encoded_scaling,
)
from eoaug.raster.variables import Role, is_numbered, plain_name

__all__ = ["read_cube"]


# -- reading ----------------------------------------------------------------------------------------


def read_cube(obj: xr.Dataset | xr.DataArray, labels: Sequence[str] | str | None = None) -> Cube:
    """Return the normalised form of a Dataset (a variable per band) or DataArray.

    Parameters
    ----------
    obj
        Dataset, DataArray with a band dimension, or DataArray of one band. Dimensions in any order,
        found by CF axis attributes or by name.
    labels
        Names of variables, or of layers along the band dimension, that the user declares to be labels.

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
        return _read_array(obj, labels)
    if not isinstance(obj, xr.Dataset):
        raise ParameterError(
            f"the data is a {type(obj).__name__}, which is not an xarray Dataset or DataArray",
            "open your data as a cube first: eoaug.open_cube(source) or xarray.open_dataset(path)",
        )
    return _read_dataset(with_labels(obj, labels), "dataset")


def _read_array(array: xr.DataArray, labels: Sequence[str] | str | None) -> Cube:
    bare = array.drop_vars(SYNTHETIC, errors="ignore")
    marks = array.coords[SYNTHETIC].variable if SYNTHETIC in array.coords else None
    dims = tuple(str(d) for d in array.dims)
    stack = split_bands(bare, label_names(labels))
    if stack is None:
        dataset = with_labels(bare.to_dataset(name=name_of_single(array)), labels)
        with _array_terms(dataset):
            cube = _read_dataset(dataset, "single")
        own = cube
    else:
        layers = with_labels(stack.dataset, labels)
        with _array_terms(layers, stack.dim):
            cube = _read_dataset(layers, "bands")
        own = replace(
            cube,
            source=layers.assign_coords(stack.aside) if stack.aside else layers,
            name_band=stack.dim,
            band_labels=stack.labels,
        )
    return replace(
        own,
        marks=cube.marks if marks is None else marks,
        array_name=array.name,
        array_attrs=dict(array.attrs),
        array_dims=dims,
    )


@contextmanager
def _array_terms(ds: xr.Dataset, axis: str | None = None) -> Iterator[None]:
    """Make remedies that name a variable of a Dataset right for an array."""
    try:
        yield
    except EoaugError as error:
        remedy = error.remedy
        for name in ds.data_vars:
            remedy = remedy.replace(f"ds.drop_vars({name!r})", f"da.drop_sel({axis}={name!r})")
            remedy = remedy.replace(f"ds[{name!r}]", "da")
        raise type(error)(error.problem, remedy) from error


def _read_dataset(ds: xr.Dataset, form: Form) -> Cube:
    y, x = spatial_dims(ds)
    roles = roles_of_all = roles_of(ds, (y, x))
    if form == "single":  # the user names the layer to work on
        roles = {n: "band" if r not in ("quality", "label", "mark") else r for n, r in roles.items()}
    candidates = [name for name, role in roles.items() if role == "band"]
    # A terrain model, or water vapour, is a band where the cube has no other.
    candidates = candidates or [name for name, role in roles.items() if role == "ancillary"]
    if not candidates:
        raise _no_band(ds, roles, (y, x))
    time = _time_dim(ds, candidates, y, x)
    times = _times(ds, time)
    geobox, georeferenced = geobox_from_coords(ds, y, x)
    platform = platform_of(ds)
    bands = []
    for name in candidates:
        var = ds.variables[name]
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
        own_platform = var.attrs.get("platform") or platform
        common = common_name(plain_name(name, var.attrs), var.attrs, own_platform)
        known = common is not None or is_numbered(name)
        bands.append(
            CubeBand(
                name=name,
                common_name=common,
                data=data,
                dims=dims,
                scaling=_scaling(var, name, roles_of_all[name], common, known or form == "single"),
                nodata=declared_nodata(var.attrs, var.dtype, name=name, encoding=var.encoding),
                attrs=dict(var.attrs),
                encoding=dict(var.encoding),
                product=product_of_band(name, var.attrs, platform=platform, origin=ds.attrs),
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


def _scaling(var: xr.Variable, name: str, role: Role, common: str | None, known: bool) -> Scaling:
    """Return a band's scale; heights and other integers that are no reflectance need none.

    Backscatter that is declared to be amplitude or intensity becomes decibels.

    Integers without a scale whose name is not ``known`` as that of a band may be classes: nothing may be done to them
    before the user says what they are.
    """
    if role == "ancillary" and not declares_scale(var.attrs):
        return Scaling()
    stored = np.dtype(var.encoding.get("dtype") or var.dtype)
    whole = var.dtype.kind in "iu" or (stored.kind in "iu" and "units" not in var.attrs)
    declared = declares_scale(var.attrs) or encoded_scaling(var.encoding, name=name) is not None
    if whole and not declared and not known:
        raise RadiometryError(
            f"{name!r} holds {stored} numbers without a scale, and its name is not that of a band: it may hold classes",
            f"if so, name it, and none of its pixels is changed: labels=[{name!r}]; if it was measured, say what: "
            f"ds[{name!r}].attrs.update(common_name='red', scale_factor=1e-4, add_offset=0.0)",
        )
    scaling = declared_scaling(var.attrs, var.dtype, name=name, encoding=var.encoding)
    return backscatter_scaling(var.attrs, scaling) if common in POLARISATIONS else scaling


def _no_band(ds: xr.Dataset, roles: Mapping[str, str], yx: tuple[str, str]) -> BandError:
    others = {name: role for name, role in roles.items() if role != "band"}
    if not others:
        return BandError(
            f"no band with the dimensions {yx} among the variables {sorted(map(str, ds.data_vars))}",
            "give a Dataset with one numeric variable per band, or a DataArray with a 'band' dimension",
        )
    shown = ", ".join(f"{name!r} ({role})" for name, role in others.items())
    return BandError(
        f"no band with the dimensions {yx}; the variables are {shown}",
        "add the bands, or give one that is a band its own name (B02, red, VV ...) or attrs['common_name']",
    )


def _time_dim(ds: xr.Dataset, names: list[str], y: str, x: str) -> str | None:
    dims = list(
        dict.fromkeys(str(d) for name in names for d in ds.variables[name].dims if str(d) not in (y, x))
    )
    time = time_dim(dims, coord_variables(ds))
    unknown = sorted(set(dims) - {time})
    if not unknown:
        return time
    name = unknown[0]
    problem = f"dimension {name!r} (length {ds.sizes[name]}) is neither time, y, x nor band"
    owner = next(n for n in names if name in ds[n].dims)
    if band_dim([name]) is not None:
        raise ParameterError(
            f"variable {owner!r} of the Dataset has a band dimension, {name!r}",
            f"give the array alone, ds[{owner!r}], or a variable per band: ds[{owner!r}].to_dataset(dim={name!r})",
        )
    dated = [str(k) for k, v in ds.coords.items() if v.dims == (name,) and v.dtype.kind == "M"]
    if time is None and dated:
        raise ParameterError(
            f"{problem}; its dates are in {dated[0]!r}", f"ds.swap_dims({{{name!r}: {dated[0]!r}}})"
        )
    raise ParameterError(problem, f"select one, e.g. ds.isel({name}=0)")


def _times(ds: xr.Dataset, time: str | None) -> NDArray[np.datetime64] | None:
    if time is None:
        name = scalar_time(ds.coords)
        if name is None or ds.coords[name].dtype.kind not in "MO":
            return None
        return dates_of(ds.coords[name], name)
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
    values = dates_of(ds.coords[time], time)
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
