"""Masks and layouts brought onto the grid of a cube."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.model import Cube
from eoaug.errors import GridError, ParameterError, TimeError, error_context
from eoaug.generators.base import Card, Verb
from eoaug.raster.grid import same_grid
from eoaug.verbs.checks import supported

__all__ = ["at_dates", "check_mask_grid", "layout_for"]


def layout_for(layout: Any, card: Card, geobox: Any, verb: Verb) -> Any:
    """Return shape (K, Y, X) float32; refuse a layout of another grid, or where it would not be used."""
    supported("layout", layout, card)
    if layout is None:
        return None
    if card.layout_verbs and verb not in card.layout_verbs:
        raise ParameterError(
            f"{card.name} uses a layout to {', '.join(sorted(card.layout_verbs))} only",
            "leave layout out, or load a generator with a ControlNet",
        )
    if isinstance(layout, xr.Dataset) and layout.data_vars:
        layout = layout.to_dataarray("layer")
    shape = tuple(getattr(layout, "shape", ()))
    several = [size for size in shape[:-2] if size > 1]
    if not isinstance(layout, xr.DataArray) or len(several) > 1 or shape[-2:] != tuple(geobox.shape.yx):
        raise GridError(
            f"layout has shape {shape}, the result has {tuple(geobox.shape.yx)}",
            "give a DataArray (layer, y, x), or a Dataset of one date, on the result's grid",
        )
    layout = layout.squeeze([name for name in layout.dims[:-2] if layout.sizes[name] == 1])
    plane = layout[0] if layout.ndim == 3 else layout
    y, x = (str(name) for name in plane.dims)
    _check_position("layout", plane.rename("layout values"), (y, x), geobox)
    data = layout.data if layout.ndim == 3 else layout.data[None]
    return data.astype(np.float32)


def check_mask_grid(cube: Cube, mask: xr.DataArray) -> None:
    """Refuse a mask on another grid than the cube's."""
    y, x = cube.names_yx
    sizes = tuple(mask.sizes.get(d, 0) for d in (y, x))
    if sizes != cube.shape_yx:
        raise GridError(
            f"the mask has {sizes[0]} x {sizes[1]} pixels along ({y}, {x}), the cube {cube.shape_yx[0]} x {cube.shape_yx[1]}",
            "bring it onto the cube's grid, e.g. mask.odc.reproject(ds.odc.geobox, resampling='nearest')",
        )
    if cube.georeferenced:
        _check_position("mask", mask.rename("mask values"), (y, x), cube.geobox)


def _check_position(name: str, array: xr.DataArray, yx: tuple[str, str], geobox: Any) -> None:
    """Refuse an array whose coordinates, if it has any, are not those of the grid."""
    y, x = yx
    if y not in array.coords or x not in array.coords:
        return
    with error_context(name):
        grid = geobox_from_coords(array, y, x)[0]
    if not same_grid(grid, geobox) and grid.crs is not None:
        raise GridError(
            f"the {name} lies on another grid: {grid.affine.c, grid.affine.f} instead of "
            f"{geobox.affine.c, geobox.affine.f}",
            f"bring it onto the result's grid, e.g. {name}.odc.reproject(ds.odc.geobox, resampling='nearest')",
        )
    between = np.abs(np.subtract(tuple(grid.affine), tuple(geobox.affine))).max() / abs(geobox.affine.a)
    if grid.crs is None and between > 1e-3:
        way = "assign_coords" if between < 0.5 else "sel"
        raise GridError(
            f"the {name}'s coordinates do not match the cube's: {y} starts at {float(array[y][0])}",
            f"bring it onto the cube's: {name}.{way}({y}=ds.{y}, {x}=ds.{x})",
        )


def at_dates(array: xr.DataArray, cube: Cube) -> xr.DataArray:
    """Return a mask's layers for the dates of the cube, in their order."""
    time = str(cube.name_time)
    assert cube.times is not None
    if time not in array.coords:
        if array.sizes[time] != len(cube.times):
            raise TimeError(
                f"the mask has {array.sizes[time]} dates, the cube {len(cube.times)}",
                "give one mask per date",
            )
        return array
    dates = cube.source[time].values
    missing = np.setdiff1d(dates, array[time].values)
    if len(missing):
        near = (
            array[time].values[np.argmin(np.abs(array[time].values - missing[0]))]
            if array.sizes[time]
            else None
        )
        raise TimeError(
            f"the mask has no date {missing[0]}; its nearest is {near}",
            f"if its dates mean those of the cube: mask.reindex({time}=ds.{time}, method='nearest')",
        )
    return array.sel({time: dates})
