"""Masks and layouts brought onto the grid of a cube."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.errors import GridError, ParameterError, TimeError, error_context
from eoaug.generators.base import Card, Verb
from eoaug.raster import masks
from eoaug.raster.grid import same_grid
from eoaug.verbs.checks import supported, unknown

__all__ = ["layout_for", "mask_of"]


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
    _check_place("layout", plane.rename("layout values"), (y, x), geobox)
    data = layout.data if layout.ndim == 3 else layout.data[None]
    return data.astype(np.float32)


def mask_of(cube: Cube, mask: Any) -> Any:
    """Return shape (T, Y, X) bool, NumPy or dask: True = fill."""
    ds = cube.source
    quality: Callable[[Any, Any], Any] | None = None
    classes: Sequence[str] | None = None
    if isinstance(mask, str):
        name = next((n for n in ds.variables if str(n).lower() == mask.lower()), None)
        if name is None:
            raise unknown("mask variable", mask, [str(n) for n in ds.variables if n not in ds.dims])
        array, quality = ds[name], _quality(str(name))
    elif isinstance(mask, list | tuple):
        classes = [str(c) for c in mask]
        name = next((n for n in ds.data_vars if _quality(str(n)) is not None), None)
        if name is None:
            raise ParameterError(
                f"mask={mask!r} names classes, but the cube has no quality band",
                f"load one (scl or qa_pixel) with the bands; it has {sorted(map(str, ds.data_vars))}",
            )
        array, quality = ds[name], _quality(str(name))
    elif isinstance(mask, xr.DataArray):
        array = mask
        _check_grid(cube, array)
    else:
        raise ParameterError(
            f"mask is a {type(mask).__name__}",
            "give a DataArray on the cube's grid, a variable's name, 'scl', 'qa_pixel' or a list of class names",
        )
    y, x = cube.names_yx
    extra = set(array.dims) - {y, x, cube.name_time}
    if not {y, x} <= set(array.dims) or extra:
        raise GridError(
            f"the mask has dimensions {array.dims}, the cube ({cube.name_time}, {y}, {x})",
            f"give it dimensions ({y}, {x}) or ({cube.name_time}, {y}, {x})",
        )
    count = 1 if cube.times is None else len(cube.times)
    has_time = cube.name_time is not None and cube.name_time in array.dims
    if has_time and cube.times is not None:
        array = _at_dates(array, cube)
    data = array.transpose(*((cube.name_time,) if has_time else ()), y, x).data
    if not has_time:
        data = data[None].repeat(count, axis=0)
    if quality is None:
        return data if data.dtype == bool else (data != 0) & (data == data)
    if hasattr(data, "dask"):
        return data.map_blocks(quality, classes, dtype=bool)
    return quality(data, classes)


def _quality(name: str) -> Callable[[Any, Any], Any] | None:
    lowered = name.lower()
    if lowered == "scl":
        return _scl
    if lowered in ("qa_pixel", "pixel_qa"):
        return _qa
    return None


def _scl(values: NDArray[Any], classes: Any) -> NDArray[np.bool_]:
    return masks.scl_mask(values, classes)


def _qa(values: NDArray[Any], classes: Any) -> NDArray[np.bool_]:
    return masks.qa_pixel_mask(values, classes)


def _check_grid(cube: Cube, mask: xr.DataArray) -> None:
    y, x = cube.names_yx
    sizes = tuple(mask.sizes.get(d, 0) for d in (y, x))
    if sizes != cube.shape_yx:
        raise GridError(
            f"the mask has {sizes[0]} x {sizes[1]} pixels along ({y}, {x}), the cube {cube.shape_yx[0]} x {cube.shape_yx[1]}",
            "bring it onto the cube's grid, e.g. mask.odc.reproject(ds.odc.geobox, resampling='nearest')",
        )
    if cube.georeferenced:
        _check_place("mask", mask.rename("mask values"), (y, x), cube.geobox)


def _check_place(name: str, array: xr.DataArray, yx: tuple[str, str], geobox: Any) -> None:
    """Refuse an array whose coordinates, if it has any, lie elsewhere."""
    y, x = yx
    if y not in array.coords or x not in array.coords:
        return
    with error_context(name):
        grid = read_cube(_bare(array)).geobox
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


def _bare(array: xr.DataArray) -> xr.DataArray:
    # Numbers without a scale or flags, so that the door takes the array for a band.
    return array.astype(np.float32).drop_attrs(deep=False)


def _at_dates(array: xr.DataArray, cube: Cube) -> xr.DataArray:
    time = str(cube.name_time)
    if time not in array.coords:
        assert cube.times is not None
        if array.sizes[time] != len(cube.times):
            raise TimeError(
                f"the mask has {array.sizes[time]} dates, the cube {len(cube.times)}",
                "give one mask per date",
            )
        return array
    missing = np.setdiff1d(cube.source[time].values, array[time].values)
    if len(missing):
        raise TimeError(f"the mask has no date {missing[0]}", f"reindex it: mask.reindex({time}=ds.{time})")
    return array.sel({time: cube.source[time].values})
