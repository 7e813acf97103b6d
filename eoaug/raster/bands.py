"""Which band is which: sensor tables, common names, and the matching of a cube's variables to slots.

Common names are those of the STAC eo extension v2; radar polarisations, which it does not name, are
written ``vv``, ``vh``, ``hh``, ``hv``. Imports nothing but `errors`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from eoaug.errors import BandError

__all__ = [
    "EO_COMMON_NAMES",
    "SENSORS",
    "STAND_INS",
    "SYNTHETIC",
    "Band",
    "assign_bands",
    "band_of",
    "common_name",
    "match_bands",
    "platform_of",
    "sensor_of",
]


EO_COMMON_NAMES: frozenset[str] = frozenset(
    {"pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075"}
    | {"rededge078", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12"}
)
"""The common names that the STAC eo extension v2.0.0 allows."""

SYNTHETIC = "synthetic"
"""Name of the variable that says where each pixel comes from; its codes are in `eoaug.cube.synthetic`."""

POLARISATIONS: frozenset[str] = frozenset({"vv", "vh", "hh", "hv"})


@dataclass(frozen=True)
class Band:
    """One band of a sensor."""

    name: str
    """As the data provider writes it: ``B02``, ``SR_B4``, ``VV``."""
    common_name: str
    """STAC eo v2 common name, or the polarisation in lower case."""
    wavelength_um: float | None
    """Centre wavelength in micrometres; None for radar."""
    gsd_m: float
    """Native ground sampling distance in metres."""
    mtf: float | None = None
    """Modulation transfer at the Nyquist frequency, 0 to 1; None where no measurement is at hand."""
    kind: Literal["optical", "thermal", "sar"] = "optical"
    """What is measured: reflected light, emitted heat, or backscatter."""


# Centre wavelengths are Sentinel-2A's. MTF: the values that pansharpening toolboxes use for the 10, 20
# and 60 m bands. There are none for the bands of other sensors.
_SENTINEL_2 = (
    Band("B01", "coastal", 0.4427, 60.0, 0.3175),
    Band("B02", "blue", 0.4924, 10.0, 0.275),
    Band("B03", "green", 0.5598, 10.0, 0.28),
    Band("B04", "red", 0.6646, 10.0, 0.25),
    Band("B05", "rededge071", 0.7041, 20.0, 0.365),
    Band("B06", "rededge075", 0.7405, 20.0, 0.33),
    Band("B07", "rededge078", 0.7828, 20.0, 0.34),
    Band("B08", "nir", 0.8328, 10.0, 0.24),
    Band("B8A", "nir08", 0.8647, 20.0, 0.32),
    Band("B09", "nir09", 0.9451, 60.0, 0.295),
    Band("B10", "cirrus", 1.3735, 60.0, 0.30),
    Band("B11", "swir16", 1.6137, 20.0, 0.205),
    Band("B12", "swir22", 2.2024, 20.0, 0.235),
)


def _landsat(*rows: tuple[int, str, float, float]) -> tuple[Band, ...]:
    """Bands under both of the USGS's names: ``B4``, and ``SR_B4`` or ``ST_B10`` of the Level-2 products."""
    raw: list[Band] = []
    level2: list[Band] = []
    for number, common, wavelength, gsd in rows:
        kind: Literal["optical", "thermal"] = "thermal" if common.startswith("lwir") else "optical"
        raw.append(Band(f"B{number}", common, wavelength, gsd, kind=kind))
        if common not in ("pan", "cirrus"):
            prefix = "ST" if kind == "thermal" else "SR"
            level2.append(Band(f"{prefix}_B{number}", common, wavelength, gsd, kind=kind))
    return (*raw, *level2)


_OLI = _landsat(
    (1, "coastal", 0.443, 30.0),
    (2, "blue", 0.482, 30.0),
    (3, "green", 0.561, 30.0),
    (4, "red", 0.655, 30.0),
    (5, "nir08", 0.865, 30.0),
    (6, "swir16", 1.609, 30.0),
    (7, "swir22", 2.201, 30.0),
    (8, "pan", 0.590, 15.0),
    (9, "cirrus", 1.373, 30.0),
    (10, "lwir11", 10.9, 100.0),
    (11, "lwir12", 12.0, 100.0),
)
_ETM = _landsat(
    (1, "blue", 0.4825, 30.0),
    (2, "green", 0.565, 30.0),
    (3, "red", 0.66, 30.0),
    (4, "nir08", 0.835, 30.0),
    (5, "swir16", 1.65, 30.0),
    (6, "lwir", 11.45, 60.0),
    (7, "swir22", 2.22, 30.0),
    (8, "pan", 0.71, 15.0),
)
_TM = _landsat(
    (1, "blue", 0.485, 30.0),
    (2, "green", 0.56, 30.0),
    (3, "red", 0.66, 30.0),
    (4, "nir08", 0.83, 30.0),
    (5, "swir16", 1.65, 30.0),
    (6, "lwir", 11.45, 120.0),
    (7, "swir22", 2.215, 30.0),
)
# NAIP cameras differ by contractor and year; the wavelengths are the middle of the usual ranges.
_NAIP = (
    Band("red", "red", 0.65, 1.0),
    Band("green", "green", 0.56, 1.0),
    Band("blue", "blue", 0.48, 1.0),
    Band("nir", "nir", 0.84, 1.0),
)
_SENTINEL_1 = tuple(Band(name, name.lower(), None, 10.0, kind="sar") for name in ("VV", "VH", "HH", "HV"))

SENSORS: dict[str, tuple[Band, ...]] = {
    "sentinel-2": _SENTINEL_2,
    "landsat-8": _OLI,
    "landsat-9": _OLI,
    "landsat-7": _ETM,
    "landsat-5": _TM,
    "naip": _NAIP,
    "sentinel-1": _SENTINEL_1,
}
"""Bands by mission, in the provider's order."""

_PLATFORMS = (
    (r"(sentinel[-_ ]?2|s2)[a-d]?(\s*[/,+&]\s*((sentinel[-_ ]?|s)?2)?[a-d])*", "sentinel-2"),
    (r"(sentinel[-_ ]?1|s1)[a-d]?(\s*[/,+&]\s*((sentinel[-_ ]?|s)?1)?[a-d])*", "sentinel-1"),
    (r"(landsat[-_ ]?|l[a-z]?0?)8", "landsat-8"),
    (r"(landsat[-_ ]?|l[a-z]?0?)9", "landsat-9"),
    (r"(landsat[-_ ]?|l[a-z]?0?)7", "landsat-7"),
    (r"(landsat[-_ ]?|l[a-z]?0?)5", "landsat-5"),
    (r"naip", "naip"),
    (r"hls-l30", "landsat-8"),
    (r"hls-s30", "sentinel-2"),
)
_LEVEL_SUFFIX = re.compile(r"[-_](l1c|l2a|toa|boa)$", re.IGNORECASE)
"""What tells two levels of one band apart in a cube: ``B04_l1c``, ``B04_l2a``."""
_HLS = re.compile(r"\bhls(?:\d(?:\.\d)?)?[._-]?([ls]30)", re.IGNORECASE)


@lru_cache(maxsize=1024)  # items repeat their bands
def band_of(name: str, platform: str | None = None) -> Band | None:
    """Look up a provider's band name.

    Parameters
    ----------
    name
        ``B02``, ``SR_B4``, ``VV``; case does not matter, and the zero may be missing (or for Landsat
        added) when ``platform`` is given.
    platform
        ``sentinel-2a``, ``landsat-8``, ``LC08`` ...; None searches all sensors.

    Returns
    -------
    Band or None
        None when unknown, or when sensors disagree on what the name means.
    """
    sensor = sensor_of(platform)
    wanted = name.upper()
    if sensor == "sentinel-2":
        wanted = re.sub(r"^B(\d)$", r"B0\1", wanted)
    elif sensor is not None and sensor.startswith("landsat"):
        wanted = re.sub(r"^B0(\d)$", r"B\1", wanted)  # as HLS writes them
    tables = [SENSORS[sensor]] if sensor else list(SENSORS.values())
    hits = [band for table in tables for band in table if band.name.upper() == wanted]
    if len({band.common_name for band in hits}) != 1:
        return None
    return hits[0]


def platform_of(platform: str | None, product: str) -> str | None:
    """Return the platform whose names of bands a product uses.

    Parameters
    ----------
    platform
        As the item declares it, or None.
    product
        Its collection and id. HLS (Harmonized Landsat Sentinel-2) L30 has the bands of Landsat 8 and 9 as ``B05``,
        S30 those of Sentinel-2.

    Returns
    -------
    str or None
        ``hls-l30`` or ``hls-s30`` for HLS, else ``platform``.
    """
    found = _HLS.search(product)
    return f"hls-{found[1].lower()}" if found else platform


def common_name(name: str, attrs: Mapping[str, Any], platform: str | None = None) -> str | None:
    """Return a variable's common name, from its attributes, its name, or its sensor.

    Parameters
    ----------
    name
        The variable's name.
    attrs
        Its attributes; ``common_name``, ``eo:common_name`` and a ``bands`` list with one entry (or its
        JSON text) are read, and ``center_wavelength`` to distinguish the three red-edge bands.
    platform
        The satellite, where known.

    Returns
    -------
    str or None
        A STAC eo v2 common name or a polarisation; None when it is not certain.
    """
    name = _LEVEL_SUFFIX.sub("", name)
    known = band_of(name, platform)
    declared = _declared(attrs)
    if declared == "rededge":
        # Before eo v2 all red-edge bands had one name; only the wavelength distinguishes them.
        return _red_edge(attrs) or (known.common_name if known else declared)
    if declared is not None:
        return declared
    if name.lower() in EO_COMMON_NAMES | POLARISATIONS:
        return name.lower()
    return known.common_name if known else None


STAND_INS = {"nir08": "nir"}
"""Bands that may fill another band's slot when a cube lacks that band: the narrow near infrared (Landsat, B8A)."""


def match_bands(have: Mapping[str, str | None], need: Sequence[str], *, what: str) -> dict[str, str]:
    """Assign a cube's variables to a generator's band slots.

    Parameters
    ----------
    have
        Common name (or None) by variable name, as from `common_name`.
    need
        The slots: common names in the generator's order.
    what
        Owner of the slots, for messages: ``generator 'embedded'``.

    Returns
    -------
    dict
        Variable name by common name, in the order of ``need``; slots that no variable fills are left
        out. A narrow near infrared (``nir08``) fills ``nir`` where there is no other.

    Raises
    ------
    BandError
        A variable has no slot, two variables match the same slot, or there are no variables.
    """
    slots = ", ".join(need)
    if not have:
        raise BandError(f"{what} found no band to work on", f"give at least one band of: {slots}")
    variables: dict[str, str] = {}
    for variable, common in have.items():
        slot = common if common is not None else variable
        instead = STAND_INS.get(slot, slot)
        if slot not in need and instead in need and instead not in have.values():
            slot = instead
        if slot not in need:
            called = f"common name {common!r}" if common else "no known common name"
            raise BandError(
                f"{what} has no slot for band {variable!r} ({called}); its slots are: {slots}",
                f"select bands that it has, set ds[{variable!r}].attrs['common_name'], "
                + (
                    "or use generator='classical', which takes any band"
                    if common
                    else f"or, if it holds classes, keep it as it is: labels=[{variable!r}]"
                ),
            )
        if slot in variables:
            raise BandError(
                f"{what} has one slot {slot!r}, but bands {variables[slot]!r} and {variable!r} both match it",
                f"drop one of them, e.g. ds.drop_vars({variable!r}), or correct its attrs['common_name']",
            )
        variables[slot] = variable
    return {slot: variables[slot] for slot in need if slot in variables}


def assign_bands(have: Mapping[str, str | None], need: Sequence[str]) -> dict[str, int]:
    """Assign a cube's variables to the slots of a generator that takes bands without a slot as well.

    Parameters
    ----------
    have, need
        As for `match_bands`.

    Returns
    -------
    dict
        Channel by variable name. Of several variables for one slot the first one gets it; the others, and those
        without a slot, get further channels in their order.
    """
    rest = {variable: variable if common is None else common for variable, common in have.items()}
    channels: dict[str, int] = {}
    for names in (rest, {variable: STAND_INS.get(name, name) for variable, name in rest.items()}):
        for variable, name in names.items():
            if variable not in channels and name in need and need.index(name) not in channels.values():
                channels[variable] = need.index(name)
    further = [variable for variable in have if variable not in channels]
    return {**channels, **{variable: len(need) + i for i, variable in enumerate(further)}}


def sensor_of(platform: str | None) -> str | None:
    """Return the mission of `SENSORS` that a platform belongs to; None if it is not known."""
    if platform is None:
        return None
    text = platform.strip().lower()
    for pattern, sensor in _PLATFORMS:
        if re.fullmatch(pattern, text):
            return sensor
    return None


def _declared(attrs: Mapping[str, Any]) -> str | None:
    candidates = [attrs.get("common_name"), attrs.get("eo:common_name")]
    bands = attrs.get("bands")
    if isinstance(bands, str):
        try:
            bands = json.loads(bands)
        except ValueError:
            bands = None
    if isinstance(bands, Sequence) and len(bands) == 1 and isinstance(bands[0], Mapping):
        candidates += [bands[0].get("eo:common_name"), bands[0].get("common_name")]
    for value in candidates:
        if isinstance(value, str) and value.lower() in EO_COMMON_NAMES | POLARISATIONS:
            return value.lower()
    return None


def _red_edge(attrs: Mapping[str, Any]) -> str | None:
    wavelength = attrs.get("center_wavelength", attrs.get("eo:center_wavelength"))
    if not isinstance(wavelength, int | float):
        return None
    for band in _SENTINEL_2[4:7]:
        if band.wavelength_um is not None and abs(wavelength - band.wavelength_um) < 0.012:
            return band.common_name
    return None
