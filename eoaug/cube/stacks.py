"""DataArrays with a band dimension as a Dataset with a variable per layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.dimensions import band_dim
from eoaug.cube.synthetic import ATTRIBUTES, OUTSIDE, SYNTHETIC
from eoaug.errors import BandError
from eoaug.raster.variables import role_of

__all__ = ["PER_BAND", "BandStack", "name_of_single", "split_bands"]


PER_BAND = ("long_name", "descriptions")
"""Attributes in which rioxarray and older readers keep the names of bands, one per band."""
_BAND_SCALES = {"scales": "scale_factor", "offsets": "add_offset"}
"""Attributes in which rioxarray keeps scale and offset of every band where these differ."""
_SCALES = ("scale_factor", "add_offset", "scale", "offset", "raster:scale", "raster:offset", "units")
"""Attributes of the whole array that do not describe its classes, masks and angles."""
_SCALAR_NAMES = ("band", "bands", "wavelength", "channel")


@dataclass(frozen=True)
class BandStack:
    """The layers of a DataArray."""

    dataset: xr.Dataset
    """A variable per layer, in their order, with the attributes of the array."""
    dim: str
    """Name of the band dimension."""
    labels: xr.Variable | None
    """Coordinate along it."""
    aside: Mapping[Any, Any]
    """Other coordinates along it."""


def split_bands(array: xr.DataArray, labels: Collection[str] = ()) -> BandStack | None:
    """Return the layers of an array; None for an array without a band dimension.

    A layer is called by its label; where the labels are numbers, or missing, by ``long_name`` (rioxarray) or
    ``descriptions`` if these hold one name per band.

    Parameters
    ----------
    array
        The array.
    labels
        Names of layers that the user declares to be labels.

    Raises
    ------
    BandError
        Two layers of one name.
    """
    axis = band_dim(array.dims)
    if axis is None:
        return None
    along = array.coords.get(axis)
    names = _names(array, axis)
    if len(set(names)) != len(names):
        raise BandError(f"labels along {axis!r} repeat: {names}", "give every band its own label")
    common = _common_names(array, axis)
    shared = {
        k: v for k, v in array.attrs.items() if k not in _BAND_SCALES and not _per_band(v, len(names), k)
    }
    variables = {}
    for i, name in enumerate(names):
        layer = array.isel({axis: i}, drop=True).variable
        attrs = (
            shared | ({"common_name": common[i]} if common else {}) | _own_scale(array.attrs, i, len(names))
        )
        encoding = dict(array.encoding)
        if name == SYNTHETIC:
            layer, attrs, encoding = _mark(layer), dict(ATTRIBUTES), {}
        elif role_of(name, attrs, labels=labels) != "band":
            attrs = {k: v for k, v in attrs.items() if k not in _SCALES}
            encoding = {k: v for k, v in encoding.items() if k == "grid_mapping"}
        variables[name] = xr.Variable(layer.dims, layer.data, attrs, encoding)
    coords = array.drop_vars([k for k, v in array.coords.items() if axis in v.dims]).coords
    return BandStack(
        xr.Dataset(variables, coords, attrs=dict(array.attrs)),
        axis,
        None if along is None else along.variable,
        {k: v for k, v in array.coords.items() if axis in v.dims and k != axis},
    )


def _names(array: xr.DataArray, axis: str) -> list[str]:
    size = array.sizes[axis]
    labels = [str(v) for v in array.coords[axis].values] if axis in array.coords else []
    if labels and not all(re.fullmatch(r"\d+|band[_ ]?\d+", label.lower()) for label in labels):
        return labels
    for key in PER_BAND:
        value = array.attrs.get(key)
        given = [value] if isinstance(value, str) and size == 1 else value
        if given is not None and _per_band(given, size, key) and all(isinstance(v, str) and v for v in given):
            return [str(v) for v in given]
    return labels or [f"band{i + 1}" for i in range(size)]


def _per_band(value: Any, size: int, key: str) -> bool:
    """Tell whether an attribute holds one value per band."""
    return (
        key in PER_BAND and isinstance(value, Sequence) and not isinstance(value, str) and len(value) == size
    )


def _own_scale(attrs: Mapping[str, Any], index: int, size: int) -> dict[str, Any]:
    """Return scale and offset of one band from rioxarray's lists; empty without them."""
    own = {}
    for key, values in ((key, np.ravel(attrs[key])) for key in _BAND_SCALES if key in attrs):
        if len(values) != size and len(set(values.tolist())) != 1:  # bands were selected, the list was not
            raise BandError(
                f"attrs[{key!r}]={values.tolist()[:6]} are not one number for each of the {size} bands",
                f"select their entries with the bands, or remove them: del da.attrs[{key!r}]",
            )
        own[_BAND_SCALES[key]] = float(values[index] if len(values) == size else values[0])
    return own


def _common_names(array: xr.DataArray, axis: str) -> list[str] | None:
    for name in ("common_name", "eo:common_name"):
        if name in array.coords and array.coords[name].dims == (axis,):
            return [str(v) for v in array.coords[name].values]
    return None


def _mark(layer: xr.Variable) -> xr.Variable:
    """Return the synthetic mask with its own type, from a layer of the type of the bands."""
    if layer.dtype == np.uint8:
        return layer
    measured = layer.where(np.isfinite(layer), OUTSIDE) if layer.dtype.kind == "f" else layer
    return measured.astype(np.uint8)


def name_of_single(array: xr.DataArray) -> str:
    """Return the label of a scalar band coordinate, which a selected band keeps, else the array's name."""
    labels = [array.coords[name] for name in _SCALAR_NAMES if name in array.coords]
    name = next((str(v.values) for v in labels if v.ndim == 0 and v.dtype.kind in "UO"), None)
    name = str(array.name) if name is None and array.name is not None else name or "values"
    return f"{name} values" if name in array.coords else name
