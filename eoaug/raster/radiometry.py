"""From stored numbers to physical units to model units, and back through `cast`.

Numpy only. Stored numbers (digital numbers) become physical units (reflectance, dB) by a scale and an
declared offset; physical units become model units by constants of the generator's card.
Nothing here looks at the statistics of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from eoaug.errors import RadiometryError

__all__ = [
    "NODATA_KEYS",
    "SCALE_ATTRS",
    "Scaling",
    "attribute_scaling",
    "cast",
    "declared_nodata",
    "declared_scaling",
    "declares_scale",
    "encoded_scaling",
    "fitting_nodata",
]


NODATA_KEYS = ("_FillValue", "nodata", "missing_value")
"""Attributes that may declare the stored number of a missing pixel."""


_SCALE_KEYS = (
    ("scale_factor", "add_offset"),
    ("scale", "offset"),
    ("raster:scale", "raster:offset"),
    ("reflectance_scale", "reflectance_offset"),
    ("db_scale", "db_offset"),
)
SCALE_ATTRS: frozenset[str] = frozenset(key for pair in _SCALE_KEYS for key in pair)
"""Attributes that may declare a scale or an offset."""


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

    @property
    def stored(self) -> Scaling:
        """The affine map from stored numbers, before any other step."""
        return Scaling(self.scale, self.offset)

    @property
    def numbers(self) -> list[float]:
        """What distinguishes this map from another one."""
        return [self.scale, self.offset]

    @property
    def everywhere(self) -> bool:
        """True if every stored number has a value."""
        return True

    def defined(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where stored numbers have a value: everywhere."""
        return np.ones(np.shape(values), bool)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Apply the map in float64."""
        return np.asarray(values, dtype=np.float64) * self.scale + self.offset


def attribute_scaling(attrs: Mapping[str, Any], *, name: str) -> Scaling | None:
    """Return the map to physical units that attributes declare, in any of five forms; None without one.

    A scale without an offset has the offset 0, an offset without a scale has the scale 1.

    Raises
    ------
    RadiometryError
        A scale or offset that is not a usable number, or two forms that contradict each other.
    """
    declared = list(_declared_forms(attrs, name))
    for (first, scaling), (other, again) in pairwise(declared):
        if not _same(scaling, again):
            raise RadiometryError(
                f"band {name!r} declares {first}={scaling.scale:g} with offset {scaling.offset:g}, and "
                f"{other}={again.scale:g} with offset {again.offset:g}",
                f"keep the right one, e.g. del ds[{name!r}].attrs[{_given(attrs, other)!r}]",
            )
    return declared[0][1] if declared else None


def _declared_forms(attrs: Mapping[str, Any], name: str) -> Iterator[tuple[str, Scaling]]:
    for scale_key, offset_key in _SCALE_KEYS:
        if scale_key in attrs or offset_key in attrs:
            scale, offset = attrs.get(scale_key, 1.0), attrs.get(offset_key, 0.0)
            try:
                yield scale_key, Scaling(_number(scale), _number(offset))
            except (TypeError, ValueError) as error:
                key = _given(attrs, scale_key)
                raise RadiometryError(
                    f"band {name!r} declares {scale_key}={attrs.get(scale_key)!r} and "
                    f"{offset_key}={attrs.get(offset_key)!r}, which are not usable numbers",
                    f"set ds[{name!r}].attrs[{key!r}] and [{offset_key!r}] to finite numbers",
                ) from error


def _given(attrs: Mapping[str, Any], scale_key: str) -> str:
    """Return the attribute of a form that is there: the scale, or an offset without one."""
    return scale_key if scale_key in attrs else dict(_SCALE_KEYS)[scale_key]


def _number(value: Any) -> float:
    """Return a number, also from an array of one, as netCDF attributes are."""
    values = np.asarray(value)
    if values.size != 1:
        raise ValueError(f"{values.size} numbers")
    return float(values.reshape(-1)[0])


def _same(one: Scaling, other: Scaling) -> bool:
    # Attributes may be float32.
    return math.isclose(one.scale, other.scale, rel_tol=1e-6) and math.isclose(
        one.offset, other.offset, rel_tol=1e-6, abs_tol=1e-6 * abs(one.scale)
    )


def encoded_scaling(encoding: Mapping[str, Any], *, name: str) -> Scaling | None:
    """Return the map that xarray has applied when it read a variable: from the file's numbers to those in memory."""
    cf = {key: encoding[key] for key in ("scale_factor", "add_offset") if encoding.get(key) is not None}
    try:
        return attribute_scaling(cf, name=name)
    except RadiometryError as error:
        problem = error.problem.replace("declares", "has the encoding", 1)
        raise RadiometryError(problem, error.remedy.replace(".attrs", ".encoding")) from error


def declared_scaling(
    attrs: Mapping[str, Any], dtype: DTypeLike, *, name: str, encoding: Mapping[str, Any] | None = None
) -> Scaling:
    """Return the map from a variable's numbers in memory to physical units.

    Parameters
    ----------
    attrs
        Attributes of the variable: they describe the numbers in memory.
    dtype
        The variable's type: floating values without a declaration are physical already.
    name
        Name of the band, for the message.
    encoding
        Encoding of the variable: what xarray has applied when it read the file. Attributes that repeat
        it are applied already and do not count.

    Raises
    ------
    RadiometryError
        Integers without a declared scale, a scale that is not a number, or declarations that contradict
        each other.
    """
    declared = attribute_scaling(attrs, name=name)
    applied = encoded_scaling(encoding or {}, name=name)
    floating = np.issubdtype(np.dtype(dtype), np.floating)
    if applied is not None and declared is not None and not _same(applied, Scaling()):
        if _same(applied, declared):
            return Scaling() if floating else declared
        if not _same(declared, Scaling()):
            raise RadiometryError(
                f"band {name!r} declares scale {declared.scale:g} with offset {declared.offset:g} in its attributes, "
                f"and {applied.scale:g} with {applied.offset:g} in its encoding",
                f"keep the right one, e.g. ds[{name!r}].encoding.pop('scale_factor') if the numbers in memory are "
                "as stored",
            )
    if declared is not None:
        return declared
    if floating:
        return Scaling()
    where = "only in its encoding" if applied is not None else ""
    raise RadiometryError(
        f"band {name!r} holds {np.dtype(dtype)} numbers and declares "
        f"{f'a scale {where}' if where else 'no scale'}, so its reflectance is unknown",
        f"declare it, e.g. ds[{name!r}].attrs.update(scale_factor=1e-4, add_offset=0.0) for Sentinel-2 L2A "
        "(add_offset=-0.1 from processing baseline 04.00 on), and the same for the other bands; for a GeoTIFF, "
        "gdal_translate -a_scale 0.0001 -a_offset 0 FILE NEW.tif does it; items of a STAC catalog say it themselves",
    )


def declares_scale(attrs: Mapping[str, Any]) -> bool:
    """Return whether a variable's attributes declare a scale in one of the forms of `declared_scaling`."""
    return any(key in attrs for key in SCALE_ATTRS)


def declared_nodata(
    attrs: Mapping[str, Any], dtype: DTypeLike, *, name: str, encoding: Mapping[str, Any] | None = None
) -> float | None:
    """Return the number in memory that means missing; None without one, or if the type cannot hold it.

    Parameters
    ----------
    attrs
        Attributes of the variable, of which `NODATA_KEYS` count. NaN is missing in any floating band and
        is not a contradiction to a number.
    dtype
        Type of the numbers in memory.
    name
        Name of the band, for the message.
    encoding
        Of integers, it counts too: no reader has replaced their nodata value.

    Raises
    ------
    RadiometryError
        Not a number, a number that integers cannot hold, or two different numbers.
    """
    kind = np.dtype(dtype)
    places = [("attrs", attrs)] + ([("encoding", encoding)] if encoding and kind.kind in "iu" else [])
    declared: dict[float, str] = {}
    for place, values in places:
        for key in NODATA_KEYS:
            if values.get(key) is None:
                continue
            what, entry = f"band {name!r} has {key}={values[key]!r}", f"ds[{name!r}].{place}[{key!r}]"
            for number in _nodata_numbers(values[key], what, entry):
                remedy = f"declare the number that means missing, e.g. {entry} = 0, or drop it"
                usable = fitting_nodata(number, kind, what=what, remedy=remedy)
                if usable is not None:
                    declared.setdefault(usable, f"{place}[{key!r}]")
    numbers = [number for number in declared if not math.isnan(number)]
    if len(numbers) > 1:
        first, other = (f"{declared[number]} = {number:g}" for number in numbers[:2])
        raise RadiometryError(
            f"band {name!r} declares two numbers for missing pixels: {first} and {other}",
            f"replace one of them by NaN, or keep one: del ds[{name!r}].{declared[numbers[1]]}",
        )
    return numbers[0] if numbers else next(iter(declared), None)


def _nodata_numbers(value: Any, what: str, entry: str) -> list[float]:
    try:
        return [float(number) for number in np.asarray(value).reshape(-1)]
    except (TypeError, ValueError) as error:
        raise RadiometryError(f"{what}, which is not a number", f"{entry} = 0") from error


def fitting_nodata(number: float, dtype: DTypeLike, *, what: str, remedy: str) -> float | None:
    """Return a nodata value as a type can hold it; None if no number of the type can equal it.

    Raises
    ------
    RadiometryError
        Integers have another range: the declaration belongs to another type.
    """
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        with np.errstate(over="ignore"):
            fits = (
                math.isnan(number) or kind.kind != "f" or bool(np.isfinite(np.asarray(number).astype(kind)))
            )
        return number if fits else None
    if not math.isfinite(number) or number != round(number):
        return None
    info = np.iinfo(kind)
    # In float64 the limits of 64-bit types round to numbers outside them.
    if not info.min <= int(number) <= info.max:
        raise RadiometryError(f"{what}, which {kind} cannot hold (or float64 not exactly)", remedy)
    return number


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
