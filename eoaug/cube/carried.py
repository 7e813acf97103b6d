"""Properties of source items that results inherit: labels, split, keywords and licence.

They travel through a cube as JSON text in the coordinate ``item_properties`` along time, and end in the items of what is
written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["PROPERTIES", "SPLIT", "as_text", "inherited", "joint", "names_carried", "properties_of"]

PROPERTIES = "item_properties"
"""Coordinate with the inherited properties of each date as JSON text; empty for dates without any."""

_NAMES = ("class", "keywords", "label", "license")
_PREFIXES = ("classification:", "label:", "ml-aoi:")
SPLIT = "ml-aoi:split"
"""Property with the split: ``train``, ``validate`` or ``test``."""
_SPLITS = ("test", "validate", "train")
"""From the one that nothing may be learnt from."""
_LICENCE = re.compile(r"[\w\-.+]+")
"""What STAC accepts as a licence."""


def inherited(properties: Mapping[str, Any], named: Collection[str] = ()) -> dict[str, Any]:
    """Return the properties of an item that the items made from it inherit.

    These are those of the extensions label, ml-aoi and classification, the label properties that ``label:properties``
    lists, ``class``, ``label``, ``keywords`` and ``license``.

    Parameters
    ----------
    properties
        Of the item.
    named
        Further names.
    """
    # A date of a Zarr group has its own next to those of the item; of two splits the stricter one holds.
    dated = _parsed(properties.get(PROPERTIES))
    properties = {**properties, **dated, **joint([_split(dated), _split(properties)])}
    declared = properties.get("label:properties")
    names = {*_NAMES, *named, *(map(str, declared) if isinstance(declared, list) else ())}
    kept = {
        name: value
        for name, value in properties.items()
        if (name in names or name.startswith(_PREFIXES)) and _is_sound(name, value)
    }
    return dict(sorted(kept.items()))


def _is_sound(name: str, value: Any) -> bool:
    """Tell whether a value can stand in a valid item; those of the extensions were valid in the source."""
    if name == "license":
        return isinstance(value, str) and _LICENCE.fullmatch(value) is not None
    if name == "keywords":
        return isinstance(value, list) and all(isinstance(word, str) for word in value)
    return value is not None or name == "label:properties"


def _split(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {SPLIT: properties[SPLIT]} if SPLIT in properties else {}


def joint(several: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what holds for several items together.

    Keywords are united. Of different splits it is the one that less may be learnt from: what holds pixels of a test item
    must not be trained on. Other properties are left out where the items differ.
    """
    known = [one for one in several if one]
    if not known:
        return {}
    first = known[0]
    out = {name: value for name, value in first.items() if all(one.get(name) == value for one in known)}
    splits = {str(one[SPLIT]) for one in known if SPLIT in one}
    if len(splits) > 1:
        out[SPLIT] = next((name for name in _SPLITS if name in splits), min(splits))
    elif splits:
        out[SPLIT] = splits.pop()
    words = [word for one in known for word in one.get("keywords", ())]
    if words:
        out["keywords"] = list(dict.fromkeys(words))
    return dict(sorted(out.items()))


def as_text(properties: Mapping[str, Any]) -> str:
    """Return properties as the coordinate holds them."""
    return json.dumps(properties, sort_keys=True, separators=(",", ":")) if properties else ""


def properties_of(obj: xr.Dataset | xr.DataArray, dates: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the properties that a cube inherits, jointly for some of its dates.

    A date that no item has, such as one that `extend` made, inherits what all the others have in common.

    Parameters
    ----------
    obj
        The cube.
    dates
        Indices of the dates; None: all of them.
    """
    if PROPERTIES not in obj.coords:
        return {}
    every = [_parsed(text) for text in np.atleast_1d(obj.coords[PROPERTIES].values).tolist()]
    some = every if dates is None or len(every) == 1 else [every[date] for date in dates]
    return joint(some) or joint(every)


def _parsed(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(str(text)) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def names_carried(obj: xr.Dataset | xr.DataArray) -> set[str]:
    """Return the names of all properties that any date of a cube inherits."""
    if PROPERTIES not in obj.coords:
        return set()
    return {name for text in np.atleast_1d(obj.coords[PROPERTIES].values).tolist() for name in _parsed(text)}
