"""Which sensor measured a band, and whether its reflectance is that of the surface or of the top of the atmosphere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eoaug.raster.bands import SENSORS, Band, sensor_of

__all__ = ["UNKNOWN_PRODUCT", "Product", "product_named", "product_of_band"]

Level = Literal[0, 1, 2]

_NAMED = re.compile(rf"({'|'.join(SENSORS)})(?:[-_ ]?l(?:evel[-_ ]?)?([12])[a-z]{{0,2}})?", re.IGNORECASE)
_LEVEL_ATTRS = ("processing:level", "processing_level", "level", "long_name", "product")
_LEVELS: tuple[tuple[Level, str], ...] = (
    (
        1,
        r"(?<![a-z0-9])l-?1[a-z]{0,2}(?![a-z])|msil1c|level[-_ ]?1|top[-_ ]of[-_ ]atmosphere|(?<![a-z])to[ar](?![a-z])",
    ),
    (
        2,
        r"(?<![a-z0-9])l-?2[a-z]{0,2}(?![a-z])|msil2a|level[-_ ]?2|surface[-_ ]reflectance|(?<![a-z])(boa|sr)(?![a-z])",
    ),
)
_OWN_NAMES = {
    "sentinel-2": re.compile(r"b(0[1-9]|8a)", re.IGNORECASE),
    "landsat": re.compile(r"s[rt]_b\d{1,2}", re.IGNORECASE),
}
"""Names of bands that only these sensors have."""


@dataclass(frozen=True)
class Product:
    """A sensor and a processing level, as far as they are known."""

    sensor: str = ""
    """One of `eoaug.raster.bands.SENSORS`; empty: not known."""
    level: Level = 0
    """1: reflectance at the top of the atmosphere; 2: of the surface; 0: not known, taken for the surface."""

    def __str__(self) -> str:
        return f"{self.sensor}-l{self.level}" if self.level else self.sensor

    @property
    def top_of_atmosphere(self) -> bool:
        """True if the reflectance has the atmosphere in it."""
        return self.level == 1

    def may_be(self, other: Product) -> bool:
        """Tell whether nothing that is known of the two contradicts that they are one product."""
        sensors, levels = {self.sensor, other.sensor} - {""}, {self.level, other.level} - {0}
        return len(sensors) < 2 and len(levels) < 2

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands of the sensor under the names that providers give them at this level, () if it is not known."""
        table = SENSORS.get(self.sensor, ())
        if not self.sensor.startswith("landsat"):
            return table
        corrected = not self.top_of_atmosphere
        return tuple(band for band in table if band.name.startswith(("SR_", "ST_")) == corrected)


UNKNOWN_PRODUCT = Product()


def product_named(text: str) -> Product | None:
    """Return the product that a text names: ``sentinel-2``, ``sentinel-2-l2a``, ``landsat-8`` ...; None for other texts."""
    found = _NAMED.fullmatch(text.strip())
    if found is None:
        return None
    level: Level = 0 if found[2] is None else 1 if found[2] == "1" else 2
    return Product(found[1].lower(), level)


def product_of_band(
    name: str,
    attrs: Mapping[str, Any],
    *,
    platform: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Product:
    """Return the product of a variable.

    Parameters
    ----------
    name, attrs
        Of the variable. Its own ``platform`` and ``processing:level`` win over those of the cube.
    platform
        The satellite that the cube names.
    origin
        Attributes of the cube, read for the level.
    """
    own_platform = attrs.get("platform")
    sensor = sensor_of(str(own_platform)) if own_platform else None
    declared = sensor_of(platform) or ""
    if sensor is None:
        sensor = declared
        plain = re.sub(r"[-_](l1c|l2a|toa|boa)$", "", name, flags=re.IGNORECASE)
        for owner, names in _OWN_NAMES.items():
            if names.fullmatch(plain) and not declared.startswith(owner):
                # Of several Landsats the name does not say which.
                sensor = owner if owner in SENSORS else "landsat-8"
    level = _level_of({"name": re.sub(r"^s[rt]_b\d+$", "sr", name.lower()), **attrs}, "name", *_LEVEL_ATTRS)
    if not level and origin is not None and sensor in ("", declared):
        level = _level_of(origin, *_LEVEL_ATTRS[:3], "id", "title", "source")
    return Product(sensor, level)


def _level_of(attrs: Mapping[str, Any], *keys: str) -> Level:
    for key in keys:
        text = str(attrs.get(key, "")).lower().replace("_", " ")
        found = [level for level, pattern in _LEVELS if re.search(pattern, text)]
        if len(found) == 1:
            return found[0]
    return 0
