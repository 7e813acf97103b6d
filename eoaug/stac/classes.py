"""Classes of a band (STAC classification and file extensions) as CF flags, and back: `cf_flags`, `class_fields`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eoaug.errors import BandError, ParameterError
from eoaug.raster.quality import declared_quality

__all__ = ["CLASS_FIELDS", "cf_flags", "class_fields"]


CLASS_FIELDS = ("classification:classes", "classification:bitfields", "file:values")
"""Fields that list classes, of an asset or of a band."""

WHOLE_NAMES = "full-names"
"""Role of a bit field, as `class_fields` writes it, whose classes have names that need not that of the field."""
_LARGEST_BIT = 62
"""Flags are kept as 64-bit signed integers."""


def cf_flags(fields: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Return the CF attributes (conventions 1.11, section 3.5) of the classes that a band declares.

    Parameters
    ----------
    fields
        Of the band: ``classification:classes``, ``classification:bitfields`` or ``file:values``.
    what
        Which band, for messages.

    Returns
    -------
    dict
        ``flag_values`` and ``flag_meanings``, for bit fields ``flag_masks`` too; empty without classes.

    Raises
    ------
    BandError
        A class without a whole number as its value, or bits beyond a 64-bit integer.
    """
    masks: list[int] = []
    if fields.get("classification:bitfields") and not fields.get("classification:classes"):
        triples = list(_bit_classes(fields["classification:bitfields"], what))
        masks = [mask for mask, _, _ in triples]
        named = [(value, name) for _, value, name in triples]
    else:
        named = list(_classes(fields, what))
    if not named:
        return {}
    flags: dict[str, Any] = {"flag_values": np.asarray([value for value, _ in named], np.int64)}
    if masks:
        flags["flag_masks"] = np.asarray(masks, np.int64)
    meanings: list[str] = []
    for value, name in named:
        meanings.append(f"{name}_{value}" if name in meanings else name)
    flags["flag_meanings"] = " ".join(meanings)
    return flags


def class_fields(name: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the STAC fields of a variable's CF flags, which `cf_flags` reads: the way back.

    Parameters
    ----------
    name
        Of the variable, for messages.
    attrs
        ``flag_meanings`` with ``flag_values``, ``flag_masks`` or both.

    Returns
    -------
    dict
        ``classification:classes``, with masks ``classification:bitfields``; empty without flags.

    Raises
    ------
    ParameterError
        Flags that do not fit together, or masks whose bits are apart, which a bit field cannot hold.
    """
    declared = declared_quality(name, attrs)
    if declared is None:
        return {}
    text = attrs["flag_meanings"]
    meanings = text.split() if isinstance(text, str) else [str(meaning) for meaning in text]
    flags = list(zip(meanings, declared.classes.values(), strict=True))
    if all(flag.mask is None for _, flag in flags):
        return {"classification:classes": [_class_object(meaning, flag.bits) for meaning, flag in flags]}
    by_mask: dict[int, list[dict[str, Any]]] = {}
    for meaning, flag in flags:
        mask = int(flag.mask or 0)
        offset = (mask & -mask).bit_length() - 1
        if mask >> offset & (mask >> offset) + 1:
            raise ParameterError(
                f"the flag {meaning!r} of {name!r} has the mask {mask:#b}, whose bits are apart: an item cannot hold it",
                f"write a variable per flag, or drop the flags: ds[{name!r}].attrs.pop('flag_masks')",
            )
        by_mask.setdefault(mask, []).append(_class_object(meaning, flag.bits >> offset))
    return {
        "classification:bitfields": [
            {
                "offset": (mask & -mask).bit_length() - 1,
                "length": mask.bit_count(),
                "description": f"bits of {name}",
                "roles": [WHOLE_NAMES],
                "classes": classes,
            }
            for mask, classes in by_mask.items()
        ]
    }


def _class_object(meaning: str, value: int) -> dict[str, Any]:
    name = re.sub(r"[^0-9A-Za-z_-]", "_", meaning)  # version 2 of the extension permits no other characters
    return {"value": value, "name": name, "description": meaning.replace("_", " ")}


def _classes(fields: Mapping[str, Any], what: str) -> Iterator[tuple[int, str]]:
    """Yield value and name of classes that are whole pixel values."""
    field = "classification:classes"
    for entry in _entries(fields.get(field), field, what):
        value = _whole(entry.get("value"), f"{field} of {what}")
        yield value, _word(entry.get("name") or entry.get("description"), value)
    if not fields.get(field):
        field = "file:values"
        for entry in _entries(fields.get(field), field, what):
            values = entry.get("values")
            for value in values if isinstance(values, list) else ():
                number = _whole(value, f"{field} of {what}")
                yield number, _word(entry.get("summary"), number)


def _bit_classes(bitfields: Any, what: str) -> Iterator[tuple[int, int, str]]:
    """Yield mask, value (both in place) and name of the classes of bit fields."""
    field = "classification:bitfields"
    for number, bits in enumerate(_entries(bitfields, field, what)):
        where = f"{field}[{number}] of {what}"
        offset, length = _whole(bits.get("offset"), where), _whole(bits.get("length"), where)
        if offset < 0 or length < 1 or offset + length > _LARGEST_BIT:
            raise BandError(
                f"{where} has offset {offset} and length {length}, which are not bits of a pixel",
                f"correct {field} of the item, or remove it",
            )
        title = _word(bits.get("name") or bits.get("description"), offset)
        for entry in _entries(bits.get("classes"), f"{field}[{number}].classes", what):
            value = _whole(entry.get("value"), where)
            if not 0 <= value < 1 << length:
                raise BandError(
                    f"{where} has a class of value {value}, which {length} bits cannot hold",
                    f"correct {field} of the item, or remove it",
                )
            name = _word(entry.get("name") or entry.get("description"), value)
            whole = WHOLE_NAMES in (bits.get("roles") or ())
            meaning = name if whole else _bit_meaning(title, name, single=length == 1)
            yield ((1 << length) - 1) << offset, value << offset, meaning


def _bit_meaning(field: str, name: str, *, single: bool) -> str:
    """Return a name that says what a class means without its bit field: ``high`` of ``cirrus`` is ``cirrus_high``."""
    words, own = field.lower().split("_"), name.lower().split("_")
    if single and own[0] in ("not", "no"):
        return name if set(words) <= set(own) else f"{own[0]}_{field}"
    if set(words) <= set(own):
        return name
    if single and set(own) <= {*words, "yes", "true"}:
        return field
    return f"{field}_{name}"


def _entries(value: Any, field: str, what: str) -> list[Mapping[str, Any]]:
    entries = [] if value is None else value
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise BandError(
            f"{field} of {what} is {str(value)[:80]!r}, not a list of objects",
            f"correct {field} of the item, or remove it",
        )
    return entries


def _whole(value: Any, where: str) -> int:
    good = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not good or abs(value) >= 1 << _LARGEST_BIT:
        raise BandError(
            f"{where} has the value {value!r}, not a whole number", "correct it, or remove the field"
        )
    return int(value)


def _word(text: Any, value: int) -> str:
    """Return a name as one word; CF separates meanings by blanks."""
    word = re.sub(r"[^\w.+@-]+", "_", str(text or "").strip()).strip("_")
    return word or f"class_{value}"
