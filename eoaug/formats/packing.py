"""From physical values to stored numbers: type, scale, offset and nodata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.errors import RadiometryError
from eoaug.raster.radiometry import cast

__all__ = ["Stored", "store_form"]


@dataclass(frozen=True)
class Stored:
    """Stored form of a variable in a file: value = stored * scale + offset."""

    dtype: np.dtype[Any]
    """Type in the file."""
    nodata: float | None = None
    """Stored number that means missing; None when no number does."""
    scale: float = 1.0
    """Physical units per stored unit."""
    offset: float = 0.0
    """Physical value of stored 0."""
    packed: bool = False
    """Whether the values in memory are stored numbers already."""

    def pack(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return ``values`` in stored form: rounded once, clipped to the type, NaN as nodata."""
        if self.packed:
            return np.ascontiguousarray(values, dtype=self.dtype)
        if self.scale == 1.0 and self.offset == 0.0 and values.dtype == self.dtype:
            plain = self.nodata is None or math.isnan(self.nodata)
            if plain and self.dtype.kind == "f":
                return np.ascontiguousarray(values)
        numbers = values.astype(np.float64)
        if self.scale != 1.0 or self.offset != 0.0:
            numbers = (numbers - self.offset) / self.scale
        return cast(numbers, self.dtype, self.nodata)


def store_form(variable: xr.DataArray) -> Stored:
    """Return the stored form that a variable's encoding and attributes declare.

    Floating values with ``dtype``, ``scale_factor``, ``add_offset`` or ``_FillValue`` in their encoding
    are packed with these. Integers stay as they are; ``scale_factor``, ``add_offset``, ``_FillValue``
    and ``nodata`` among their attributes describe them.

    Raises
    ------
    RadiometryError
        The type cannot be stored, or the scale is 0 or not finite.
    """
    name, dtype = str(variable.name), variable.dtype
    if dtype.kind not in "iufb":
        raise RadiometryError(
            f"variable {name!r} has type {dtype}, which raster files cannot store",
            f"convert it, e.g. ds[{name!r}].astype('float32'), or drop it",
        )
    floating = dtype.kind == "f"
    declared: Mapping[str, Any] = variable.encoding if floating else {**variable.encoding, **variable.attrs}
    fill = declared.get("_FillValue", variable.attrs.get("_FillValue", variable.attrs.get("nodata")))
    scale, offset = float(declared.get("scale_factor", 1.0)), float(declared.get("add_offset", 0.0))
    if scale == 0 or not math.isfinite(scale) or not math.isfinite(offset):
        raise RadiometryError(
            f"variable {name!r} declares scale_factor={scale} and add_offset={offset}, which cannot be inverted",
            f"correct ds[{name!r}].encoding",
        )
    nodata = None if fill is None else float(fill)
    if not floating:
        stored = np.dtype("uint8") if dtype.kind == "b" else dtype
        return Stored(stored, nodata, scale, offset, packed=True)
    stored = np.dtype(declared.get("dtype", np.float32 if dtype.itemsize < 8 else dtype))
    if stored.kind == "f" and nodata is None:
        nodata = math.nan
    if stored.kind != "f" and nodata is not None and math.isnan(nodata):
        nodata = None
    return Stored(stored, nodata, scale, offset)
