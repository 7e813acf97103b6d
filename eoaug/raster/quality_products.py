"""Quality bands and the products of the field: Sentinel-2, Landsat, HLS, Planet, Sentinel Hub, and masks by name.

Numpy. `eoaug.raster.quality` reads the flags that a band declares itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError, did_you_mean
from eoaug.raster.arrays import BoolArray

__all__ = [
    "PERCENT",
    "QA_PIXEL",
    "SCL",
    "SHARE",
    "FlagClass",
    "QualityBand",
    "is_unsure_name",
    "is_validity_name",
    "known_quality",
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
    most: float = 100.0
    """For probabilities: the stored number of certain cloud."""

    def mask(
        self, values: NDArray[Any], classes: Sequence[str] | None = None, *, nodata: float | None = None
    ) -> BoolArray:
        """Return True where a pixel is to be filled.

        Parameters
        ----------
        values
            Any shape, as stored; NaN is a pixel without a measurement.
        classes
            Names of classes; None: the cloud classes.
        nodata
            Stored number that the band declares as missing. A class of this number has precedence.

        Raises
        ------
        ParameterError
            A class that the band does not have, classes of a probability, numbers that no class explains, or
            missing values in a mask of two values.
        """
        stored = np.asarray(values)
        if stored.dtype.kind not in "biuf":
            raise ParameterError(
                f"the {self.product} holds {stored.dtype} values", "give its numbers as stored"
            )
        if self.threshold is not None:
            if classes is not None:
                raise ParameterError(
                    f"mask={list(classes)!r} names classes, but the {self.product} is a probability",
                    "give a threshold: mask=ds.NAME > 40",
                )
            return self._above(stored, nodata)
        names = self.named(classes)
        measured = np.isfinite(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
        if self.two_valued and not measured.all():
            raise ParameterError(
                f"{int((~measured).sum())} pixels of the {self.product} are NaN, so whether they are to be filled is "
                "unknown",
                "decide it: .fillna(0) or .fillna(1) on that variable or mask, where 1 means what its name says",
            )
        if nodata is not None and np.isfinite(nodata) and not self._is_class(nodata):
            measured &= stored != nodata
        whole = np.where(measured, stored, 0).astype(np.int64)
        self._check(stored[measured], whole[measured])
        unmeasured = ~measured
        for name in self.unmeasured:
            # Zero marks an unmeasured pixel here, and is no class.
            unmeasured |= self.classes[name].test(whole) & measured
        found = np.zeros(stored.shape, bool)
        for name in names:
            found |= unmeasured if name in self.unmeasured else self.classes[name].test(whole) & ~unmeasured
        return found

    @property
    def two_valued(self) -> bool:
        """True for masks of 0 and 1 without a class for pixels that were not measured."""
        return not self.unmeasured and {one.bits for one in self.classes.values()} == {0, 1}

    def _is_class(self, number: float) -> bool:
        return any(one.mask is None and one.bits == number for one in self.classes.values())

    def _above(self, stored: NDArray[Any], nodata: float | None) -> BoolArray:
        """Return True where a probability reaches the threshold."""
        assert self.threshold is not None
        known = np.isfinite(stored)
        for number in (self.missing, nodata):
            if number is not None:
                known &= stored != number
        most = stored[known].max(initial=0)
        if most > self.most:
            raise ParameterError(
                f"the {self.product} holds {most:g}, and its largest number is {self.most:g}",
                "give a threshold: mask=ds.NAME > NUMBER",
            )
        if stored.dtype.kind == "f" and self.most > 1 and 0 < most <= 1:
            raise ParameterError(
                f"the {self.product} holds at most {most:g}: it may as well be a share from 0 to 1",
                "give a threshold, mask=ds.NAME > 0.4 or mask=ds.NAME > 40; or declare attrs['units'] = '1' or '%'",
            )
        return np.asarray(known & (stored >= self.threshold))

    def _check(self, stored: NDArray[Any], whole: NDArray[np.int64]) -> None:
        """Refuse numbers that no class explains: another product under this name, or classes that were interpolated."""
        wrong = stored[stored != whole]
        if not wrong.size and all(one.mask is None for one in self.classes.values()):
            values = np.unique(whole)
            wrong = values[~np.isin(values, [one.bits for one in self.classes.values()])]
        if wrong.size:
            shown = ", ".join(f"{value:g}" for value in np.unique(wrong)[:6])
            percent = self.two_valued and wrong.min() >= 0 and wrong.max() <= 100
            raise ParameterError(
                f"the {self.product} holds {shown}, which none of its classes explains",
                "give a boolean: mask=ds.NAME > 40 if it is a probability in percent, mask=ds.NAME == 4 if these are "
                "classes"
                if percent
                else "give a boolean, e.g. mask=ds.NAME == 4; read class bands with resampling='nearest'",
            )

    def named(self, classes: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the classes to fill, checked; None: the cloud classes."""
        if classes is None:
            return self.cloud
        for name in classes:
            if name not in self.classes:
                hint = did_you_mean(name, self.classes, cutoff=0.5)
                raise ParameterError(
                    f"mask names the class {name!r}, which the {self.product} does not have"
                    + (f"; {hint}" if hint else ""),
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

CLP = QualityBand(product="Sentinel Hub CLP", threshold=0.4 * 255, most=255.0)
"""s2cloudless's probability in 255ths."""

SHARE = QualityBand(product="cloud probability", threshold=0.4, most=1.0)
"""A probability from 0 to 1, as its units say."""

_PRODUCTS: tuple[tuple[str, QualityBand], ...] = (
    (r"scl|scene_?classification(_map|_layer)?", SCL),
    (r"qa_?pixel", QA_PIXEL),
    (r"pixel_?qa", PIXEL_QA),
    (r"bqa|qa_?band", BQA),
    (r"cfmask", CFMASK),
    (r"udm1?", UDM),
    (r"clm", CLM),
    (r"qa60", QA60),
    (r"clp", CLP),
    (r"cloud_?prob(ability)?|msk_cldprb|cld_?prb|cldprb|cld", PERCENT),
    (r"data_?mask", VALID),
)  # fmt: skip
"""Products by the name of a variable, in lower case and without a resolution (SCL_20m)."""


def _plain_name(name: str) -> str:
    return re.sub(r"[_-]\d+m$", "", name.lower()).replace("-", "_").replace(" ", "_")


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: ``cloud``, ``free`` of ``cloudFree`` and ``CLOUD_FREE``."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


_VALID_WORDS = frozenset(
    [
        "valid",
        "validity",
        "clear",
        "clearsky",
        "usable",
        "good",
        "cloudfree",
        "cloudless",
        "nocloud",
        "noncloud",
    ]
)
_CLOUDY_WORDS = frozenset(
    [
        "cloud",
        "clouds",
        "cloudy",
        "cloudmask",
        "shadow",
        "shadows",
        "cirrus",
        "haze",
        "hazy",
        "invalid",
        "unusable",
        "bad",
        "unclear",
    ]
)
_OPPOSITE = frozenset(["no", "not", "non", "without", "free"])
_NEUTRAL = frozenset(
    [
        "mask",
        "masks",
        "is",
        "pixel",
        "pixels",
        "sky",
        "data",
        "map",
        "layer",
        "udm",
        "dilated",
        "thin",
        "light",
        "heavy",
        "opaque",
        "high",
    ]
)
_UNSURE = frozenset(
    [
        "qa",
        "qc",
        "quality",
        "flag",
        "flags",
        "status",
        "confidence",
        "conf",
        "udm",
        "fmask",
        "ok",
        "observed",
        "keep",
        "kept",
        "use",
        "usability",
    ]
)


def _of_two_values(name: str) -> QualityBand | None:
    """Return how a mask of 0 and 1 is read by the words of its name; None where they do not say it."""
    words = _words(name)
    valid, cloudy, opposite = (
        sum(w in kind for w in words) for kind in (_VALID_WORDS, _CLOUDY_WORDS, _OPPOSITE)
    )
    if valid and not cloudy and not opposite:
        plain: QualityBand | None = VALID
    elif cloudy and not valid:
        plain = (CLOUDY, VALID)[opposite] if opposite < 2 else None
    else:
        plain = None
    # Words beyond these ("valid_since", "cloud_height") say something else.
    return plain if set(words) <= _VALID_WORDS | _CLOUDY_WORDS | _OPPOSITE | _NEUTRAL else None


def is_unsure_name(name: str) -> bool:
    """Return True for names of quality layers that do not say whether 1 means good or bad: ``qa``, ``udm2``, ``fmask``.

    Names with contradicting words ("not_clear", "valid_clouds") are among them.
    """
    words = set(_words(name))
    return known_quality(name) is None and bool(words & (_UNSURE | _VALID_WORDS | _CLOUDY_WORDS))


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
        if re.search(r"\bhls", product.lower()):
            return HLS_FMASK
        return CFMASK if re.search(r"\bL[COTEM]0\d_", product) else None
    return _by_name(name)


@lru_cache(maxsize=1024)  # items repeat the names of their bands
def _by_name(name: str) -> QualityBand | None:
    plain = _plain_name(name)
    found = next((quality for pattern, quality in _PRODUCTS if re.fullmatch(pattern, plain)), None)
    return found or _of_two_values(re.sub(r"[_-]\d+m$", "", name))
