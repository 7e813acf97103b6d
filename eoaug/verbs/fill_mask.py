"""The argument ``mask``: from names, classes, flags or booleans to the pixels that are to be filled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.cube.roles import product_of
from eoaug.cube.stacks import name_of_single
from eoaug.errors import GridError, ParameterError, did_you_mean, error_context
from eoaug.raster.quality import boolean_mask, is_unsure_name, known_quality, nodata_of, quality_of
from eoaug.raster.quality_products import QualityBand
from eoaug.raster.variables import plain_name
from eoaug.verbs.alignment import at_dates, check_mask_grid

__all__ = ["mask_of", "mask_variable"]


def mask_of(cube: Cube, mask: Any) -> tuple[Any, bool]:
    """Return shape (T, Y, X) or (1, Y, X) bool, NumPy or dask, True = fill; and whether a quality band says so.

    False for booleans and numbers of 0 and 1, which the user made, unless a variable of the cube is known by its name or flags.

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
    product = product_of(cube.source)
    of_quality = True
    if isinstance(mask, str):
        array = cube.source[mask_variable(cube.source, mask)]
        convert, of_quality = _of_variable(array, product)
    elif isinstance(mask, list | tuple) and mask and all(isinstance(c, str) for c in mask):
        array, quality = _with_classes(cube.source, [c.lower() for c in mask], product)
        convert = partial(quality.mask, classes=[c.lower() for c in mask], nodata=nodata_of(array.attrs))
    elif isinstance(mask, xr.DataArray):
        # A layer that was selected from a DataArray is called by its label along the band dimension.
        selected = mask.dtype.kind not in "bO" and mask.name != "fill"
        array = mask.rename(name_of_single(mask)) if selected else mask
        check_mask_grid(cube, array)
        of_cube = _is_variable_of(cube, array)
        convert, of_quality = _of_variable(array, product) if of_cube else _of_array(array, product)
    else:
        raise ParameterError(
            f"mask is a {type(mask).__name__}: {str(mask)[:60]}",
            "give a DataArray on the cube's grid, a variable's name, 'scl', 'qa_pixel' or a list of class names; "
            "mask='none' takes every pixel as it is",
        )
    data = _in_order(array, cube)
    with error_context(f"mask={mask!r}" if isinstance(mask, str) else "mask"):
        pixels = data.map_blocks(convert, dtype=bool) if hasattr(data, "dask") else convert(data)
    return pixels, of_quality


def mask_variable(ds: xr.Dataset, name: str) -> str:
    """Return the variable that a mask's name means: that name, in any case, or the product that it stands for."""
    variables = [str(variable) for variable in ds.variables]
    if name in variables:
        return name
    for variable in variables:
        if variable.lower() == name.lower():
            return variable
    product = known_quality(name)
    described = {str(n): plain_name(str(n), v.attrs) for n, v in ds.data_vars.items()}
    for variable, called in described.items():
        if called.lower() == name.lower():
            return variable
    found = [n for n, called in described.items() if product is not None and known_quality(called) is product]
    if len(found) == 1:
        return found[0]
    if found:
        raise ParameterError(f"mask={name!r} may mean any of {', '.join(found)}", "name one of them")
    bands = [str(n) for n in ds.data_vars]
    hint = did_you_mean(name, bands)
    raise ParameterError(
        f"mask={name!r}: the cube has no such variable, it has {', '.join(bands)}",
        (f"{hint} or " if hint else "")
        + f"load it with the bands: eoaug.open_cube(source, bands={[*bands[:3], name]}); --bands of the command line, "
        "source.bands of a job",
    )


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


_Convert = tuple[Callable[[Any], Any], bool]
"""From stored numbers to booleans, and whether a quality band is what is read."""


def _of_variable(array: xr.DataArray, product: str) -> _Convert:
    """Return how the stored numbers of a cube's own variable become booleans."""
    name = str(array.name)
    quality = quality_of(plain_name(name, array.attrs), array.attrs, product)
    if quality is None:
        _refuse_unsure(array)
        return partial(boolean_mask, name=repr(name)), False
    # A mask of valid pixels says where data are missing, exactly; no cloud has a rim that it misses.
    return _of_quality(array, quality), not _is_validity(quality)


def _of_quality(array: xr.DataArray, quality: QualityBand) -> Callable[[Any], Any]:
    name = str(array.name)
    if quality.threshold is None and not quality.cloud:
        raise ParameterError(
            f"none of the classes of {name!r} is known to be cloud: {', '.join(quality.classes)}",
            f"name those to fill, e.g. mask=[{next(iter(quality.classes), '')!r}]",
        )
    if quality.threshold is not None and quality.most > 1 and array.dtype.kind == "f" and _is_dask(array):
        # A block of small numbers does not tell percent from a share.
        raise ParameterError(
            f"the cloud probability {name!r} is {array.dtype} without units",
            f"give a threshold, mask=ds.{name} > 0.4 or mask=ds.{name} > 40; or declare attrs['units'] = '1'",
        )
    return partial(quality.mask, nodata=nodata_of(array.attrs))


def _of_array(array: xr.DataArray, product: str) -> _Convert:
    """Return how the numbers of a DataArray, given as a mask, become booleans.

    Comparisons and sums keep name and attributes of what they began with: ``1 - ds.valid`` is still called ``valid``.
    So a mask of two values is believed only where its name and flags do not contradict that 1 means fill.
    """
    name = str(array.name)
    quality = quality_of(name, array.attrs, product)
    if array.dtype.kind in "bO":
        # Flags say nothing here: a comparison keeps them, and a new name says that the user knows.
        by_name = known_quality(name, product)
        if by_name is not None and by_name.two_valued and array.dtype.kind == "b":
            _refuse_contradiction(array, by_name)
        return partial(boolean_mask, name="the mask"), False
    if quality is None:
        _refuse_unsure(array)
        return partial(boolean_mask, name="the mask"), False
    return partial(_flags_or_booleans, convert=_of_quality(array, quality), name=name), not quality.two_valued


def _flags_or_booleans(values: NDArray[Any], *, convert: Callable[[Any], Any], name: str) -> Any:
    if values.dtype.kind == "f" and np.isnan(values).any():
        return boolean_mask(values, "the mask")  # refused with the remedy
    if np.isin(values, (0, 1)).all():
        as_booleans = values != 0
        # A share from 0 to 1 and classes alike: the two readings have to agree.
        try:
            as_classes = convert(values)
        except ParameterError:
            as_classes = ~as_booleans
        if not np.array_equal(as_booleans, as_classes):
            raise ParameterError(
                f"the mask holds 0 and 1 only, and it is called {name!r}, whose 1 does not mean fill",
                "say which pixels to fill: mask=(mask == 1).rename('fill') or mask=(mask == 0).rename('fill')",
            )
        return as_booleans
    return convert(values)


def _is_validity(quality: QualityBand) -> bool:
    return quality.two_valued and quality.mask(np.array([0, 1])).tolist() == [True, False]


def _refuse_contradiction(array: xr.DataArray, quality: QualityBand) -> None:
    """Refuse booleans that may be those of a mask of valid pixels, or their opposite."""
    if _is_validity(quality):
        raise ParameterError(
            f"the mask is called {array.name!r}, as masks of valid pixels are, and True means fill here",
            "say which pixels to fill: mask=(~mask).rename('fill'), or mask.rename('fill') if it is right",
        )


def _refuse_unsure(array: xr.DataArray) -> None:
    name = str(array.name)
    if is_unsure_name(name):
        raise ParameterError(
            f"{name!r} is the name of a quality layer, and neither name nor flags say whether 1 means good or bad",
            f"say which pixels to fill: mask=(ds[{name!r}] == 1).rename('fill'), or declare its classes: "
            f"ds[{name!r}].attrs.update(flag_values=[0, 1], flag_meanings='clear cloud')",
        )


def _is_variable_of(cube: Cube, array: xr.DataArray) -> bool:
    """Tell whether a mask is a variable of the cube, unchanged."""
    if array.name not in cube.source.variables:
        return False
    own = cube.source[array.name]
    if own.dims != array.dims or own.dtype != array.dtype or own.shape != array.shape:
        return False
    if _is_dask(own) or _is_dask(array):
        return getattr(own.data, "name", None) == getattr(array.data, "name", "")
    return own.variable._data is array.variable._data or bool(
        np.array_equal(own.values, array.values, equal_nan=own.dtype.kind == "f")
    )


def _is_dask(array: xr.DataArray) -> bool:
    return hasattr(array.data, "dask")


def _in_order(array: xr.DataArray, cube: Cube) -> Any:
    """Return a mask's data in the order (time, y, x) with the dates of the cube, or of one for all of them."""
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
    return data if has_time else data[None]
