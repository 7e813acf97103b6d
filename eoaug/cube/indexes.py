"""Coordinate indexes of other libraries (rasterix, xproj): read, carried to results, and replaced for files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr
from affine import Affine
from xarray.indexes import PandasIndex

from eoaug.cube.model import Cube

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["indexed_crs", "indexed_transform", "with_indexes", "without_indexes"]


def _own(obj: xr.Dataset | xr.DataArray) -> Iterator[tuple[Any, dict[Any, xr.Variable]]]:
    """Yield the indexes that are not xarray's default, with their coordinates."""
    for index, variables in obj.xindexes.group_by_index():
        if not isinstance(index, PandasIndex):
            yield index, dict(variables)


def indexed_transform(obj: xr.Dataset | xr.DataArray) -> Affine | None:
    """Return the affine transform that an index holds, as rasterix's does; None without one."""
    for index, _ in _own(obj):
        if hasattr(index, "from_transform") and callable(getattr(index, "transform", None)):
            return Affine(*tuple(index.transform())[:6])
    return None


def indexed_crs(obj: xr.Dataset | xr.DataArray) -> Any:
    """Return the coordinate reference system that an index holds, as xproj's and rasterix's do; None without one."""
    systems = (getattr(index, "crs", None) for index, _ in _own(obj))
    return next((crs for crs in systems if crs is not None), None)


def with_indexes(coords: Mapping[Any, Any], cube: Cube, geobox: GeoBox) -> Any:
    """Return the coordinates of a result with the indexes that its cube has.

    Parameters
    ----------
    coords
        By name; default indexes are made for those that get no other.
    cube
        The cube that the result was made from.
    geobox
        Grid of the result.
    """
    plain, indexed = dict(coords), []
    for index, variables in _own(cube.source):
        spatial = any(name in variable.dims for variable in variables.values() for name in cube.names_yx)
        same = all(name in coords and coords[name].shape == v.shape for name, v in variables.items())
        if not spatial or geobox == cube.geobox:
            if not same:
                continue
            indexed.append(xr.Coordinates(variables, indexes=dict.fromkeys(variables, index)))
        elif hasattr(index, "from_transform"):
            y, x = cube.names_yx
            made = type(index).from_transform(
                geobox.affine, width=geobox.shape.x, height=geobox.shape.y, x_dim=x, y_dim=y, crs=index.crs
            )
            indexed.append(xr.Coordinates.from_xindex(made))
        else:
            continue
        for name in variables:
            plain.pop(name, None)
    if not indexed:
        return coords
    ds = xr.Dataset(coords=plain)
    for group in indexed:
        ds = ds.assign_coords(group)
    return ds.coords


def without_indexes(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with default indexes only, as files need them."""
    names = [name for _, variables in _own(ds) for name in variables]
    if not names:
        return ds
    values = {name: xr.Variable(ds[name].dims, ds[name].values, ds[name].attrs) for name in names}
    return ds.drop_vars(names).assign_coords(values)
