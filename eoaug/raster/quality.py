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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError
from eoaug.raster.arrays import BoolArray

__all__ = [
    "FlagClass",
    "QualityBand",
    "boolean_mask",
    "declared_quality",
    "is_validity_name",
    "known_quality",
    "quality_of",
]


@dataclass(frozen=True)
class FlagClass:
    """One class of a quality band: the pixels with ``value & mask == bits``; without a mask those equal to bits."""

    bits: int
    mask: int | None = None

    def test(self, values: NDArray[np.int64]) -> BoolArray:
        """Return True where a pixel has this class.

        Parameters
        ----------
        values
            Any shape, whole numbers as stored.
        """
        return np.asarray(values == self.bits if self.mask is None else (values & self.mask) == self.bits)


@dataclass(frozen=True)
class QualityBand:
    """How the numbers of a quality band are read."""

    product: str
    """What explains it, for messages: ``Sentinel-2 SCL``, ``flag_meanings of 'quality'``."""
    classes: Mapping[str, FlagClass] = field(default_factory=dict)
    """Classes by name; empty for probabilities."""
    cloud: tuple[str, ...] = ()
    """The classes that are filled where none are named."""
    unmeasured: tuple[str, ...] = ()
    """The classes of pixels without a measurement; they win over all others."""
    threshold: float | None = None
    """For probabilities: filled from this stored number on."""
    missing: float | None = None
    """For probabilities: the stored number of pixels without a value."""

    def mask(self, values: NDArray[Any], classes: Sequence[str] | None = None) -> BoolArray:
        """Return True where a pixel is to be filled.

        Parameters
        ----------
        values
            Any shape, as stored; NaN is a pixel without a measurement.
        classes
            Names of classes; None: the cloud classes.

        Raises
        ------
        ParameterError
            A class that the band does not have, or classes of a probability.
        """
        stored = np.asarray(values)
        if self.threshold is not None:
            if classes is not None:
                raise ParameterError(
                    f"mask={list(classes)!r} names classes, but the {self.product} is a probability",
                    "give a threshold: mask=ds.NAME > 40",
                )
            known = np.isfinite(stored) & (stored != self.missing)
            return np.asarray(known & (stored >= self.threshold))
        names = self.named(classes)
        measured = np.isfinite(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
        whole = np.where(measured, stored, 0).astype(np.int64)
        self._check(stored[measured], whole[measured])
        unmeasured = ~measured
        for name in self.unmeasured:
            unmeasured |= self.classes[name].test(whole)
        found = np.zeros(stored.shape, bool)
        for name in names:
            found |= unmeasured if name in self.unmeasured else self.classes[name].test(whole) & ~unmeasured
        return found

    def _check(self, stored: NDArray[Any], whole: NDArray[np.int64]) -> None:
        """Refuse numbers that no class explains: another product under this name, or classes that were interpolated."""
        wrong = stored[stored != whole]
        if not wrong.size and all(one.mask is None for one in self.classes.values()):
            values = np.unique(whole)
            wrong = values[~np.isin(values, [one.bits for one in self.classes.values()])]
        if wrong.size:
            shown = ", ".join(f"{value:g}" for value in np.unique(wrong)[:6])
            raise ParameterError(
                f"the {self.product} holds {shown}, which none of its classes explains",
                "give a boolean, e.g. mask=ds.NAME == 4; read class bands with resampling='nearest'",
            )

    def named(self, classes: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the classes to fill, checked; None: the cloud classes."""
        if classes is None:
            return self.cloud
        for name in classes:
            if name not in self.classes:
                raise ParameterError(
                    f"mask names the class {name!r}, which the {self.product} does not have",
                    f"use some of {', '.join(self.classes)}",
                )
        return tuple(dict.fromkeys(classes))


# -- products -------------------------------------------------------------------------------------------


def _values(**classes: int) -> dict[str, FlagClass]:
    return {name: FlagClass(value) for name, value in classes.items()}


def _bits(**classes: int) -> dict[str, FlagClass]:
    return {name: FlagClass(1 << bit, 1 << bit) for name, bit in classes.items()}


def _levels(name: str, bit: int) -> dict[str, FlagClass]:
    """Return the classes of a confidence of two bits (USGS): 1 low, 2 medium, 3 high."""
    return {
        f"{name}_{level}": FlagClass(value << bit, 3 << bit)
        for value, level in enumerate(("low", "medium", "high"), start=1)
    }


SCL = QualityBand(
    product="Sentinel-2 SCL",
    classes=_values(
        no_data=0, saturated_or_defective=1, dark_area=2, cloud_shadow=3, vegetation=4, not_vegetated=5,
        water=6, unclassified=7, cloud_medium=8, cloud_high=9, thin_cirrus=10, snow_or_ice=11,
    ),
    cloud=("cloud_shadow", "cloud_medium", "cloud_high", "thin_cirrus"),
    unmeasured=("no_data",),
)  # fmt: skip
"""Scene classification of Sen2Cor (ESA, Sentinel-2 L2A product definition)."""

QA_PIXEL = QualityBand(
    product="Landsat Collection 2 QA_PIXEL",
    classes=_bits(fill=0, dilated_cloud=1, cirrus=2, cloud=3, cloud_shadow=4, snow=5, clear=6, water=7),
    cloud=("dilated_cloud", "cirrus", "cloud", "cloud_shadow"),
    unmeasured=("fill",),
)
"""USGS LSDS-1618, LSDS-1619, LSDS-1328."""

PIXEL_QA = QualityBand(
    product="Landsat Collection 1 pixel_qa",
    classes={
        **_bits(fill=0, clear=1, water=2, cloud_shadow=3, snow=4, cloud=5),
        **_levels("cloud_confidence", 6),
        **_levels("cirrus_confidence", 8),
        **_bits(terrain_occlusion=10),
    },
    cloud=("cloud_shadow", "cloud", "cirrus_confidence_high"),
    unmeasured=("fill",),
)
"""USGS LSDS-1368: pixel_qa of Collection 1 Level-2."""

BQA = QualityBand(
    product="Landsat Collection 1 BQA",
    classes={
        **_bits(fill=0, terrain_occlusion=1, cloud=4),
        **_levels("cloud_confidence", 5),
        **_levels("cloud_shadow_confidence", 7),
        **_levels("snow_confidence", 9),
        **_levels("cirrus_confidence", 11),
    },
    cloud=("cloud", "cloud_confidence_high", "cloud_shadow_confidence_high", "cirrus_confidence_high"),
    unmeasured=("fill",),
)
"""USGS LSDS-1656: BQA of Collection 1 Level-1."""

HLS_FMASK = QualityBand(
    product="HLS Fmask",
    classes={
        **_bits(cirrus=0, cloud=1, adjacent_cloud=2, cloud_shadow=3, snow_or_ice=4, water=5),
        "aerosol_high": FlagClass(0b11 << 6, 0b11 << 6),
        "fill": FlagClass(255),
    },
    cloud=("cirrus", "cloud", "adjacent_cloud", "cloud_shadow"),
    unmeasured=("fill",),
)
"""HLS user guide 2.0, table 9; 255 is fill."""

CFMASK = QualityBand(
    product="Fmask (CFMask)",
    classes=_values(clear=0, water=1, cloud_shadow=2, snow=3, cloud=4, fill=255),
    cloud=("cloud_shadow", "cloud"),
    unmeasured=("fill",),
)
"""Zhu and Woodcock (2012): the classes of Fmask and CFMask."""

UDM = QualityBand(
    product="Planet UDM",
    classes=_bits(blackfill=0, cloud=1, missing_blue=2, missing_green=3, missing_red=4),
    cloud=("cloud",),
    unmeasured=("blackfill",),
)
"""Planet, unusable data mask (UDM, band 8 of UDM2)."""

CLM = QualityBand(
    product="Sentinel Hub CLM",
    classes=_values(clear=0, cloud=1, no_data=255),
    cloud=("cloud",),
    unmeasured=("no_data",),
)
"""s2cloudless at 160 m, as Sentinel Hub serves it."""

QA60 = QualityBand(
    product="Sentinel-2 QA60",
    classes=_bits(opaque_clouds=10, cirrus_clouds=11),
    cloud=("opaque_clouds", "cirrus_clouds"),
)
"""Cloud mask of Sentinel-2 L1C as a bit field (Earth Engine)."""

VALID = QualityBand(product="mask of valid pixels", classes=_values(invalid=0, valid=1), cloud=("invalid",))
"""1 where a pixel can be used: what Sentinel Hub calls dataMask and Planet clear."""

CLOUDY = QualityBand(product="cloud mask", classes=_values(clear=0, cloud=1), cloud=("cloud",))
"""1 where a pixel is cloud."""

PERCENT = QualityBand(product="cloud probability in percent", threshold=40.0)
"""s2cloudless and Sen2Cor's MSK_CLDPRB: 0 to 100; from 40 on is cloud (the default of s2cloudless, 0.4)."""

CLP = QualityBand(product="Sentinel Hub CLP", threshold=0.4 * 255)
"""s2cloudless's probability in 255ths."""

_PRODUCTS: tuple[tuple[str, QualityBand], ...] = (
    (r"scl|scene_?classification(_map|_layer)?", SCL),
    (r"qa_?pixel", QA_PIXEL),
    (r"pixel_?qa", PIXEL_QA),
    (r"bqa|qa_?band", BQA),
    (r"udm1?", UDM),
    (r"clm", CLM),
    (r"qa60", QA60),
    (r"clp", CLP),
    (r"cloud_?prob(ability)?|msk_cldprb|cld_?prb|cldprb|cld", PERCENT),
    (r"data_?mask|valid(ity)?(_?(mask|pixels?|data))?|is_?valid|clear(_?(mask|sky|pixels?))?|usable(_?mask)?|udm2_clear", VALID),
    (r"cloud_?mask|clouds?|is_?cloud|cloud_?shadow(s|_mask)?|shadow_?mask|udm2_(cloud|shadow|haze_light|haze_heavy)", CLOUDY),
)  # fmt: skip
"""Products by the name of a variable, in lower case and without a resolution (SCL_20m)."""


def _plain_name(name: str) -> str:
    return re.sub(r"[_-]\d+m$", "", name.lower()).replace("-", "_").replace(" ", "_")


def is_validity_name(name: str) -> bool:
    """Return True for the name of a mask that is 1 where pixels are valid: ``dataMask``, ``valid_mask``, ``clear``."""
    return known_quality(name) is VALID


def known_quality(name: str, product: str = "") -> QualityBand | None:
    """Return the product that a variable's name stands for, or None.

    Parameters
    ----------
    name
        Of the variable: ``SCL``, ``SCL_20m``, ``QA_PIXEL``, ``Fmask``, ``dataMask`` ...
    product
        What else is known of its origin (collection, platform, title): tells HLS's Fmask (bits) from that of
        CFMask (classes).
    """
    plain = _plain_name(name)
    if plain == "fmask":
        return HLS_FMASK if re.search(r"\bhls", product.lower()) else None
    return next((quality for pattern, quality in _PRODUCTS if re.fullmatch(pattern, plain)), None)


# -- declared flags ---------------------------------------------------------------------------------------

_CLOUD_WORDS = re.compile(r"cloud|shadow|cirrus|haze|invalid|unusable|bad_?data")
_NOT_CLOUD = re.compile(
    r"(^|_)(no|not|non|without|free|clear|low|none|unlikely|water|snow|land|valid)(_|$)|cloud_?free|cloudless|"
    r"clear_?sky|_(low|none)$"
)
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
    classes: dict[str, FlagClass] = {}
    for k, meaning in enumerate(meanings):
        mask = masks[k] if masks is not None else None
        bits = values[k] if values is not None else masks[k] if masks is not None else 0
        classes[meaning.lower()] = FlagClass(bits, mask)
    cloud = tuple(c for c in classes if _CLOUD_WORDS.search(c) and not _NOT_CLOUD.search(c))
    unmeasured = tuple(c for c in classes if _UNMEASURED.match(c))
    return QualityBand(f"flag_meanings of {name!r}", classes, cloud, unmeasured)


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
    if declared is None:
        return known
    if not declared.cloud and known is not None and known.classes.keys() <= declared.classes.keys():
        return QualityBand(declared.product, declared.classes, known.cloud, declared.unmeasured)
    return declared


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
