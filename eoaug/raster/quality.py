"""Quality bands: what their numbers mean, and which pixels are cloud.

A quality band is understood by what it declares (CF ``flag_values``, ``flag_masks``, ``flag_meanings``, which
`eoaug.open_cube` also makes of STAC ``classification:classes`` and ``classification:bitfields``), or by the product
that its name stands for. What neither explains is refused: a mask read the wrong way round destroys the
measured pixels and keeps the clouds.

Numpy. A mask is True where a pixel is to be filled. Pixels that were never measured (fill, no data) are in it only
if their class is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError
from eoaug.raster.arrays import BoolArray
from eoaug.raster.quality_products import (
    PERCENT,
    SHARE,
    FlagClass,
    QualityBand,
    is_unsure_name,
    is_validity_name,
    known_quality,
)

__all__ = [
    "FlagClass",
    "QualityBand",
    "boolean_mask",
    "declared_quality",
    "is_described_as_probability",
    "is_unsure_name",
    "is_validity_name",
    "known_quality",
    "nodata_of",
    "quality_of",
]


# -- declared flags ---------------------------------------------------------------------------------------

_CLOUD_WORDS = re.compile(r"cloud|shadow|cirrus|haze|invalid|unusable|bad_?data")
_NOT_CLOUD = re.compile(
    r"(^|_)(no|not|non|without|free|clear|none|unlikely)(_|$)|cloud_?free|cloud_?less|clear_?sky|non_?cloud|_low$|"
    r"(^|_)low(_|$).*(prob|conf)|(prob|conf).*(^|_)low(_|$)"
)
_RELIEF_SHADOW = re.compile(r"terrain|topograph|cast|hill|relief|building|dark")
"""Shadows of the ground: measured pixels, not clouds."""


def _is_cloud(meaning: str) -> bool:
    """Return whether a declared class hides the ground."""
    if not _CLOUD_WORDS.search(meaning) or _NOT_CLOUD.search(meaning):
        return False
    return "cloud" in meaning or "shadow" not in meaning or not _RELIEF_SHADOW.search(meaning)


_UNMEASURED = re.compile(
    r"^(no_?data|fill|fill_?value|missing|missing_?data|blackfill|outside|not_?observed)$"
)


def declared_quality(name: str, attrs: Mapping[str, Any]) -> QualityBand | None:
    """Return the quality band that CF flags declare, or None without any.

    Parameters
    ----------
    name
        Of the variable, for messages.
    attrs
        ``flag_meanings`` with ``flag_values``, ``flag_masks`` or both (CF conventions, section 3.5).

    Raises
    ------
    ParameterError
        Flags that do not fit together.
    """
    if "flag_values" not in attrs and "flag_masks" not in attrs:
        return None
    text = attrs.get("flag_meanings", "")
    meanings = text.split() if isinstance(text, str) else [str(one) for one in text]
    lists = {key: _numbers(attrs[key], name, key) for key in ("flag_values", "flag_masks") if key in attrs}
    for key, numbers in lists.items():
        if len(numbers) != len(meanings):
            raise ParameterError(
                f"{name!r} has {len(numbers)} {key} and {len(meanings)} flag_meanings ({str(text)[:60]!r})",
                f"correct ds[{name!r}].attrs, or give a boolean mask: mask=ds[{name!r}] == 1",
            )
    values, masks = lists.get("flag_values"), lists.get("flag_masks")
    if masks is not None:
        if 0 in masks:
            raise ParameterError(
                f"{name!r} has flag_masks={masks}, and no bit is set in 0",
                f"correct ds[{name!r}].attrs['flag_masks']",
            )
        masks, values = _unsigned(masks), None if values is None else _unsigned(values)
    classes: dict[str, FlagClass] = {}
    for k, meaning in enumerate(meanings):
        if (key := meaning.lower()) in classes:
            raise ParameterError(
                f"{name!r} has the class {meaning!r} twice in flag_meanings",
                f"give every class its own name in ds[{name!r}].attrs['flag_meanings']",
            )
        mask = masks[k] if masks is not None else None
        bits = values[k] if values is not None else masks[k] if masks is not None else 0
        classes[key] = FlagClass(bits, mask)
    cloud = tuple(c for c in classes if _is_cloud(c))
    unmeasured = tuple(c for c in classes if _UNMEASURED.match(c))
    return QualityBand(f"flag_meanings of {name!r}", classes, cloud, unmeasured)


def _unsigned(numbers: list[int]) -> list[int]:
    """Return bit masks as positive numbers: netCDF stores the eighth bit of a byte as -128."""
    width = next((w for w in (8, 16, 32) if min(numbers) >= -(1 << (w - 1))), 64)
    return [n & ((1 << width) - 1) if n < 0 else n for n in numbers]


def _numbers(value: Any, name: str, key: str) -> list[int]:
    given = value
    if isinstance(value, str):
        value = re.split(r"[\s,]+", re.sub(r"(?<=\d)(b|ub|s|us|L)\b", "", value.strip()))
    try:
        return [int(one) for one in np.atleast_1d(np.asarray(value)).tolist()]
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"{name!r} has {key}={str(given)[:60]!r}, which is no list of whole numbers",
            f"correct ds[{name!r}].attrs[{key!r}]",
        ) from error


def quality_of(name: str, attrs: Mapping[str, Any], product: str = "") -> QualityBand | None:
    """Return how a variable's numbers are read, by its flags, else by its name; None: not a quality band.

    Flags that name no cloud (or invalid) class leave the choice of the default to the product's name.

    Parameters
    ----------
    name, attrs
        Of the variable.
    product
        What else is known of its origin; see `known_quality`.
    """
    declared, known = declared_quality(name, attrs), known_quality(name, product)
    if is_described_as_probability(attrs) and known is not None and known.two_valued:
        known = PERCENT  # Earth Search calls the probability "cloud"
    if declared is None:
        units = str(attrs.get("units", "")).strip().lower()
        return SHARE if known is PERCENT and units in ("1", "fraction") else known
    if not declared.cloud and known is not None and known.classes.keys() <= declared.classes.keys():
        return replace(declared, cloud=known.cloud)
    return _with_names_of(declared, known)


def is_described_as_probability(attrs: Mapping[str, Any]) -> bool:
    """Return whether a variable's description says that it holds probabilities, whatever it is called."""
    return any("probab" in str(attrs.get(key, "")).lower() for key in ("long_name", "description", "title"))


def _with_names_of(declared: QualityBand, known: QualityBand | None) -> QualityBand:
    """Return a declared band that also answers to the product's own class names: archives spell them differently."""
    if known is None or known.threshold is not None:
        return declared
    stored = set(declared.classes.values())
    more = {n: one for n, one in known.classes.items() if one in stored and n not in declared.classes}
    # Only where both agree on what is cloud is it the same product.
    agree = {declared.classes[n] for n in declared.cloud} == {known.classes[n] for n in known.cloud}
    return replace(declared, classes={**declared.classes, **more}) if agree else declared


def nodata_of(attrs: Mapping[str, Any]) -> float | None:
    """Return the stored number that a quality band declares as missing, or None."""
    for key in ("_FillValue", "nodata", "missing_value"):
        if attrs.get(key) is not None:
            try:
                return float(np.asarray(attrs[key]).flat[0])
            except (TypeError, ValueError):
                return None
    return None


def boolean_mask(values: NDArray[Any], name: str) -> BoolArray:
    """Return a mask of two values as booleans: 1 or True = fill.

    Parameters
    ----------
    values
        Any shape: booleans, or numbers that are all 0 or 1.
    name
        Of the mask, for messages.

    Raises
    ------
    ParameterError
        Missing values, or other numbers than 0 and 1.
    """
    if values.dtype == bool:
        return values
    if values.dtype == object:  # booleans among which are missing ones, as reindexing leaves them
        values = np.array([np.nan if v is None or v != v else float(v) for v in values.ravel()]).reshape(
            values.shape
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ParameterError(
            f"{int(np.isnan(values).sum())} pixels of {name} are NaN, so whether they are to be filled is unknown",
            "decide it: mask.fillna(0) keeps them, mask.fillna(1) fills them; a mask of other dates is brought to the "
            "cube's with mask.reindex(time=ds.time, method='nearest')",
        )
    found = np.unique(values)
    if not np.isin(found, (0, 1)).all():
        shown = ", ".join(f"{value:g}" for value in found[:8]) + (" ..." if len(found) > 8 else "")
        raise ParameterError(
            f"{name} holds the values {shown}, and nothing says which of them are cloud",
            "give a boolean, e.g. mask=ds.NAME == 4, or declare the classes in its attrs flag_values and flag_meanings",
        )
    return np.asarray(values != 0)
