"""From stored numbers to physical units to model units, and back through `cast`.

Numpy only. Stored numbers (digital numbers) become physical units (reflectance, dB) by a scale and an
declared offset; physical units become model units by constants of the generator's card.
Nothing here looks at the statistics of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from eoaug.errors import RadiometryError

__all__ = ["Scaling", "cast", "declared_scaling", "declares_scale"]


_SCALE_KEYS = (
    ("scale_factor", "add_offset"),
    ("scale", "offset"),
    ("raster:scale", "raster:offset"),
    ("reflectance_scale", "reflectance_offset"),
    ("db_scale", "db_offset"),
)


@dataclass(frozen=True)
class Scaling:
    """The affine map ``to = from * scale + offset``, exactly invertible in float64."""

    scale: float = 1.0
    """Size of one unit of ``from``; not 0."""
    offset: float = 0.0
    """Value of ``to`` where ``from`` is 0."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.isfinite(self.offset)) or self.scale == 0:
            raise RadiometryError(
                f"a scale of {self.scale} with offset {self.offset} cannot be inverted",
                "declare a finite scale other than 0 and a finite offset",
            )

    def then(self, other: Scaling) -> Scaling:
        """Return the map that applies this one first and ``other`` after it."""
        return Scaling(self.scale * other.scale, self.offset * other.scale + other.offset)

    @property
    def inverse(self) -> Scaling:
        """The map back."""
        return Scaling(1 / self.scale, -self.offset / self.scale)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Apply the map in float64."""
        return np.asarray(values, dtype=np.float64) * self.scale + self.offset


def declared_scaling(attrs: Mapping[str, Any], dtype: DTypeLike, *, name: str) -> Scaling:
    """Return the map from stored numbers to physical units that a variable's attributes declare.

    Parameters
    ----------
    attrs
        Attributes of the variable as it stands in memory. Those that xarray has moved to the
        encoding are applied already and do not count.
    dtype
        The variable's type: floating values without a declaration are physical already.
    name
        Name of the band, for the message.

    Raises
    ------
    RadiometryError
        Integers without a declared scale, or a scale that is not a number.
    """
    for scale_key, offset_key in _SCALE_KEYS:
        if scale_key in attrs:
            try:
                return Scaling(float(attrs[scale_key]), float(attrs.get(offset_key, 0.0)))
            except (TypeError, ValueError) as error:
                raise RadiometryError(
                    f"band {name!r} declares {scale_key}={attrs[scale_key]!r} and "
                    f"{offset_key}={attrs.get(offset_key)!r}, which are not usable numbers",
                    f"set ds[{name!r}].attrs[{scale_key!r}] and [{offset_key!r}] to finite numbers",
                ) from error
    if np.issubdtype(np.dtype(dtype), np.floating):
        return Scaling()
    raise RadiometryError(
        f"band {name!r} holds {np.dtype(dtype)} numbers and declares no scale, so its reflectance is unknown",
        f"declare it, e.g. ds[{name!r}].attrs.update(scale_factor=1e-4, add_offset=0.0) for Sentinel-2 L2A "
        "(add_offset=-0.1 from processing baseline 04.00 on), or open the data with eoaug.open_cube",
    )


def declares_scale(attrs: Mapping[str, Any]) -> bool:
    """Return whether a variable's attributes declare a scale in one of the forms of `declared_scaling`."""
    return any(scale_key in attrs for scale_key, _ in _SCALE_KEYS)


def cast(values: NDArray[np.floating[Any]], dtype: DTypeLike, nodata: float | None) -> NDArray[Any]:
    """Return ``values`` in a storage type: clipped, rounded half to even, NaN as nodata.

    Parameters
    ----------
    values
        Any shape, in stored units (digital numbers).
    dtype
        Storage type. Floating types are only converted, and NaN becomes ``nodata`` if there is one.
    nodata
        Value that means missing, or None if the type has no such value.

    Returns
    -------
    Array of ``dtype``. For integers |result - value| <= 0.5 inside the type's range, the range's
    end outside it, and a valid value never equals ``nodata`` (it moves to a neighbour).

    Raises
    ------
    RadiometryError
        NaN met an integer type without nodata, or nodata does not fit the type.
    """
    storage = np.dtype(dtype)
    values = np.asarray(values)
    missing = np.isnan(values)
    if not np.issubdtype(storage, np.integer):
        with np.errstate(over="ignore"):
            out = values.astype(storage)
        if nodata is not None and not np.isnan(nodata):
            valid_hits = ~missing & (out == np.asarray(nodata, storage))
            end = np.zeros((), storage) if nodata else np.ones((), storage)
            out[valid_hits] = np.nextafter(np.asarray(nodata, storage), end)
            out[missing] = nodata
        return out
    info = np.iinfo(storage)
    if nodata is not None and (not np.isfinite(nodata) or nodata != round(nodata)):
        nodata = None  # an integer type cannot hold it, so no stored value can equal it
    if nodata is not None and not info.min <= nodata <= info.max:
        raise RadiometryError(
            f"nodata {nodata} does not fit the type {storage}",
            f"use a nodata value of {info.min} to {info.max}",
        )
    if nodata is None and missing.any():
        raise RadiometryError(
            f"{int(missing.sum())} missing values cannot be stored as {storage} without a nodata value",
            "set attrs['_FillValue'] or attrs['nodata'] of the band",
        )
    rounded = np.rint(np.where(missing, 0.0, values).astype(np.float64))
    # float64 cannot represent every int64: the values are clipped as floats, and the range's ends set as integers.
    out = np.clip(rounded, info.min, info.max)
    high, low = out >= float(info.max), out <= float(info.min)
    out = np.where(high | low, 0.0, out).astype(storage)
    out[high], out[low] = info.max, info.min
    if nodata is not None:
        step = 1 if nodata < info.max else -1
        if info.min < nodata < info.max:
            # Keep to the side on which the value was, so that the error stays within 0.5 + 1/2.
            step = np.where(values < nodata, -1, 1)[out == nodata]
        out[out == nodata] = (np.asarray(nodata, dtype=np.int64) + step).astype(storage)
        out[missing] = nodata
    return out
