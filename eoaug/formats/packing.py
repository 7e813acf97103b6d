"""From physical values to stored numbers: type, scale, offset and nodata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.errors import RadiometryError
from eoaug.raster.radiometry import (
    NODATA_KEYS,
    Scaling,
    attribute_scaling,
    cast,
    declared_nodata,
    declared_scaling,
    encoded_scaling,
    fitting_nodata,
)
from eoaug.raster.variables import LABEL, role_of

__all__ = ["Stored", "store_form"]


_OVERSHOOT = 0.1
"""Part of the range that a type can hold by which values may exceed it and be clipped: resampling and generated
pixels overshoot."""
_UNDERSHOOT = 0.5
"""The same below the range, which for unsigned types ends at 0: around bright noise a sharpened image goes deep below it."""
_COARSE = 0.05
"""Relative error of rounding above which a type without a scale does not hold a variable."""


@dataclass(frozen=True)
class Stored:
    """Stored form of a variable in a file: physical value = stored * scale + offset."""

    dtype: np.dtype[Any]
    """Type in the file."""
    nodata: float | None = None
    """Stored number that means missing; None when no number does."""
    scale: float = 1.0
    """Physical units per stored unit."""
    offset: float = 0.0
    """Physical value of stored 0."""
    packed: bool = False
    """Whether the numbers in memory are stored numbers already."""
    declared: bool = False
    """Whether the scale is declared even if it is 1: integers that are physical values."""
    packing: Scaling | None = None
    """From stored numbers to those in memory; None: memory holds physical values."""
    missing: float | None = None
    """Number in memory that means missing, next to NaN."""
    name: str = ""
    """Of the variable, for messages."""
    label: bool = False
    """Whether it holds classes of the ground: every number is stored exactly, or refused."""

    @property
    def has_scale(self) -> bool:
        """Whether files and items state scale and offset."""
        return self.declared or self.scale != 1.0 or self.offset != 0.0

    def pack(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return numbers in memory in stored form: rounded once, missing ones as nodata.

        Raises
        ------
        RadiometryError
            The type cannot hold a value: out of its range, or rounded away.
        """
        if self.packed:
            return np.ascontiguousarray(values, dtype=self.dtype)
        packing = self.packing or Scaling(self.scale, self.offset)
        plain = packing == Scaling()
        floating = self.dtype.kind == "f"
        if floating and plain and values.dtype == self.dtype and self.nodata is not None:
            same = math.isnan(self.nodata) if self.missing is None else self.missing == self.nodata
            # A number that means missing stays as it is; NaN becomes it.
            if same:
                out = np.ascontiguousarray(values)
                return (
                    out
                    if math.isnan(self.nodata)
                    else np.where(np.isnan(out), values.dtype.type(self.nodata), out)
                )
        numbers = values.astype(np.float64)
        absent = np.isnan(numbers) if floating else ~np.isfinite(numbers)
        if self.missing is not None:
            absent |= values == self.missing
        if not plain:
            numbers = (numbers - packing.offset) / packing.scale
        numbers[absent] = np.nan
        if self.label:
            return self._exact(numbers, absent)
        self._check(numbers)
        return cast(numbers, self.dtype, self.nodata)

    def _exact(self, numbers: NDArray[np.float64], absent: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the numbers of a label in stored units; refused where one of them would change."""
        with np.errstate(invalid="ignore", over="ignore"):
            stored = np.where(absent, 0, numbers).astype(self.dtype)
        changed = ~absent & ((stored.astype(np.float64) != numbers) | (stored == self.nodata))
        lost = absent & (self.dtype.kind != "f" and self.nodata is None)
        if changed.any() or lost.any():
            value = numbers[changed | lost][0]
            raise RadiometryError(
                f"label {self.name!r} holds {value:g}, which {self.dtype} with nodata {self.nodata} does not hold as it is",
                f"store it in its own type: ds[{self.name!r}].encoding = {{}}",
            )
        stored[absent] = math.nan if self.nodata is None else self.nodata
        return stored

    def _check(self, numbers: NDArray[np.float64]) -> None:
        """Refuse numbers in stored units that the type cannot hold."""
        finite = numbers[np.isfinite(numbers)]
        if finite.size == 0:
            return
        info = np.iinfo(self.dtype) if self.dtype.kind in "iu" else np.finfo(self.dtype)
        low, high = float(info.min), float(info.max)
        span = high - low if self.dtype.kind in "iu" else 0.0
        lowest, highest = low - 0.5 - _UNDERSHOOT * span, high + 0.5 + _OVERSHOOT * span
        least, most = float(finite.min()), float(finite.max())
        if least < lowest or most > highest:
            worst = least if least < lowest else most
            packing = self.packing or Scaling(self.scale, self.offset)
            limits = sorted(float(packing(np.asarray(end))) for end in (low, high))
            raise RadiometryError(
                f"variable {self.name!r} holds {float(packing(np.asarray(worst))):.6g}, and {self.dtype} with scale "
                f"{packing.scale:g} and offset {packing.offset:g} holds {limits[0]:.6g} to {limits[1]:.6g}",
                f"store another type or scale, e.g. ds[{self.name!r}].encoding = {{}} for float32",
            )
        if self.dtype.kind in "iu" and self.packing is not None and not self.has_declared_step:
            size = np.abs(finite)
            rounded = np.abs(np.rint(finite) - finite) > _COARSE * size
            if np.count_nonzero(rounded) * 2 > np.count_nonzero(size):
                example = float(finite[rounded][0])
                raise RadiometryError(
                    f"variable {self.name!r} holds {example:.6g}, and its encoding asks for {self.dtype} without a "
                    f"scale, which stores {int(np.rint(example))}",
                    f"declare one, e.g. ds[{self.name!r}].encoding.update(scale_factor=1e-4, add_offset=0.0), or "
                    f"ds[{self.name!r}].encoding = {{}} for float32",
                )

    @property
    def has_declared_step(self) -> bool:
        """Whether the encoding declares the size of a stored unit, so that rounding to it is what was asked for."""
        return self.packing is not None and self.packing != Scaling()


def store_form(variable: xr.DataArray) -> Stored:
    """Return the stored form that a variable's encoding and attributes declare.

    Attributes describe the numbers in memory, in any form of `radiometry.declared_scaling`; the encoding tells how
    floating ones are packed: ``dtype``, ``scale_factor``, ``add_offset``, ``_FillValue``. Integers stay as they are.

    Raises
    ------
    RadiometryError
        The type cannot be stored, the scale cannot be inverted, or declarations contradict each other.
    """
    name, dtype = str(variable.name), variable.dtype
    if dtype.kind not in "iufb" and role_of(name, variable.attrs) == LABEL:
        raise RadiometryError(
            f"label {name!r} has type {dtype}, which raster files cannot store",
            f"give its classes numbers, e.g. ds[{name!r}].copy(data=np.unique(ds[{name!r}], return_inverse=True)[1]), and "
            "name them in attrs flag_values and flag_meanings",
        )
    if dtype.kind not in "iufb":
        raise RadiometryError(
            f"variable {name!r} has type {dtype}, which raster files cannot store",
            f"convert it, e.g. ds[{name!r}].astype('float32'), or drop it",
        )
    attrs, encoding = variable.attrs, variable.encoding
    declared = attribute_scaling(attrs, name=name)
    if dtype.kind != "f":
        stored = np.dtype("uint8") if dtype.kind == "b" else dtype
        nodata = declared_nodata(attrs, stored, name=name, encoding=encoding)
        if encoded_scaling(encoding, name=name) not in (None, Scaling()):
            declared = declared_scaling(attrs, dtype, name=name, encoding=encoding)
        scaling = declared or Scaling()
        return Stored(
            stored,
            nodata,
            scaling.scale,
            scaling.offset,
            packed=True,
            declared=declared is not None,
            name=name,
        )
    physical = declared_scaling(attrs, dtype, name=name, encoding=encoding)
    missing = declared_nodata(attrs, dtype, name=name)
    missing = None if missing is None or math.isnan(missing) else missing
    packing = encoded_scaling(encoding, name=name)
    stored = np.dtype(encoding.get("dtype") or (np.float32 if dtype.itemsize < 8 else dtype))
    whole = (packing or Scaling()).then(physical)
    # Floats are physical values: integers made of them need a scale, even if it is 1, to be that again.
    is_band = stored.kind != "f" and role_of(name, attrs) == "band"
    return Stored(
        stored,
        _stored_nodata(encoding, stored, missing, name),
        whole.scale,
        whole.offset,
        declared=is_band or (declared is not None and stored.kind != "f"),
        packing=packing or Scaling(),
        missing=missing,
        name=name,
        label=role_of(name, attrs) == LABEL,
    )


def _stored_nodata(encoding: Any, stored: np.dtype[Any], missing: float | None, name: str) -> float | None:
    """Return the stored number of missing pixels of a floating variable; NaN in floating files without one."""
    for key in NODATA_KEYS:
        if encoding.get(key) is not None:
            number = fitting_nodata(
                float(encoding[key]),
                stored,
                what=f"variable {name!r} has the encoding {key}={encoding[key]!r}",
                remedy=f"ds[{name!r}].encoding[{key!r}] = 0",
            )
            if number is not None:
                return number
    if stored.kind == "f":
        return math.nan if missing is None else missing
    fits = (
        missing is not None
        and missing == round(missing)
        and np.iinfo(stored).min <= missing <= np.iinfo(stored).max
    )
    return missing if fits else None
