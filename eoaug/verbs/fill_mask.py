"""The argument ``mask``: from names, classes, flags or booleans to the pixels that are to be filled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.model import Cube
from eoaug.errors import GridError, ParameterError
from eoaug.raster.quality import QualityBand, boolean_mask, is_validity_name, known_quality, quality_of
from eoaug.verbs.alignment import at_dates, check_mask_grid
from eoaug.verbs.checks import unknown

__all__ = ["mask_of", "mask_variable"]

_ORIGIN = ("collection", "product", "product_id", "title", "platform", "id")
"""Attributes that may say which product a quality band belongs to."""


def mask_of(cube: Cube, mask: Any) -> Any:
    """Return shape (T, Y, X) bool, NumPy or dask: True = fill.

    Parameters
    ----------
    cube
        The cube; its source holds the quality bands.
    mask
        The name of a variable, or of a product such as ``"scl"``; a list of class names; a DataArray of booleans,
        of 0 and 1, or of classes that its name or its flags explain.

    Raises
    ------
    ParameterError
        A mask that cannot be understood: no such variable or class, numbers that nothing explains, missing values.
    GridError
        Other dimensions, or another grid.
    TimeError
        Other dates.
    """
    product = _product(cube.source)
    if isinstance(mask, str):
        array = cube.source[mask_variable(cube.source, mask)]
        convert = _converter(array, product, f"mask={mask!r}", named=True)
    elif isinstance(mask, list | tuple):
        array, quality = _with_classes(cube.source, [str(c) for c in mask], product)
        convert = partial(quality.mask, classes=[str(c) for c in mask])
    elif isinstance(mask, xr.DataArray):
        array = mask
        check_mask_grid(cube, array)
        convert = _converter(array, product, "the mask", named=False)
    else:
        raise ParameterError(
            f"mask is a {type(mask).__name__}",
            "give a DataArray on the cube's grid, a variable's name, 'scl', 'qa_pixel' or a list of class names",
        )
    data = _in_order(array, cube)
    if hasattr(data, "dask"):
        return data.map_blocks(convert, dtype=bool)
    return convert(data)


def mask_variable(ds: xr.Dataset, name: str) -> str:
    """Return the variable that a mask's name means: that name, in any case, or the product that it stands for."""
    variables = [str(variable) for variable in ds.variables]
    if name in variables:
        return name
    for variable in variables:
        if variable.lower() == name.lower():
            return variable
    product = known_quality(name)
    found = [n for n in map(str, ds.data_vars) if product is not None and known_quality(n) is product]
    if len(found) == 1:
        return found[0]
    if found:
        raise ParameterError(f"mask={name!r} may mean any of {', '.join(found)}", "name one of them")
    raise unknown("mask variable", name, [str(n) for n in ds.variables if n not in ds.dims])


def _product(ds: xr.Dataset) -> str:
    """Return what the cube says of its origin, as one text."""
    texts = [str(ds.attrs[name]) for name in _ORIGIN if name in ds.attrs]
    for name in ("platform", "item_id", "collection"):
        if name in ds.coords and ds.coords[name].dtype.kind in "UO":
            texts += [str(value) for value in np.unique(ds.coords[name].values.astype(str))[:4]]
    return " ".join(texts)


def _with_classes(ds: xr.Dataset, classes: list[str], product: str) -> tuple[xr.DataArray, QualityBand]:
    """Return the quality band that has all of the named classes."""
    candidates = {
        name: quality
        for name in map(str, ds.data_vars)
        if (quality := quality_of(name, ds[name].attrs, product)) is not None and quality.classes
    }
    if not candidates:
        raise ParameterError(
            f"mask={classes!r} names classes, but the cube has no quality band",
            f"load one (scl or qa_pixel) with the bands; it has {sorted(map(str, ds.data_vars))}",
        )
    for name, quality in candidates.items():
        if set(classes) <= quality.classes.keys():
            return ds[name], quality
    next(iter(candidates.values())).named(classes)
    raise AssertionError  # named() has refused one of the classes


def _converter(array: xr.DataArray, product: str, what: str, *, named: bool) -> Callable[[Any], Any]:
    """Return the function from stored numbers to booleans."""
    name = str(array.name)
    if array.dtype == bool and not named:
        # Comparisons keep name and attributes of what they compare, so neither says what a boolean means.
        if is_validity_name(name):
            raise ParameterError(
                f"the mask is called {name!r}, as masks of valid pixels are, and True means fill here",
                f"say which pixels to fill: mask=(~ds.{name}).rename('fill'), or mask.rename('fill') if it is right",
            )
        return partial(boolean_mask, name=what)
    quality = quality_of(name, array.attrs, product)
    if quality is None:
        return partial(boolean_mask, name=what)
    if quality.threshold is None and not quality.cloud:
        raise ParameterError(
            f"{what}: none of the classes of {name!r} is known to be cloud: {', '.join(quality.classes)}",
            f"name those to fill, e.g. mask=[{next(iter(quality.classes), '')!r}]",
        )
    return quality.mask


def _in_order(array: xr.DataArray, cube: Cube) -> Any:
    """Return a mask's data in the order (time, y, x) with the dates of the cube."""
    y, x = cube.names_yx
    extra = set(array.dims) - {y, x, cube.name_time}
    if not {y, x} <= set(array.dims) or extra:
        raise GridError(
            f"the mask has dimensions {array.dims}, the cube ({cube.name_time}, {y}, {x})",
            f"give it dimensions ({y}, {x}) or ({cube.name_time}, {y}, {x})",
        )
    has_time = cube.name_time is not None and cube.name_time in array.dims
    if has_time and cube.times is not None:
        array = at_dates(array, cube)
    data = array.transpose(*((cube.name_time,) if has_time else ()), y, x).data
    count = 1 if cube.times is None else len(cube.times)
    return data if has_time else data[None].repeat(count, axis=0)
