"""The registry of corruptions: names, parameters, and what they mean at five severities.

Values are physical: reflectances, decibels, kelvins, pixels, degrees. Those of ImageNet-C (Hendrycks and Dietterich 2019,
arXiv:1903.12261) on [0, 1] lie far above what sensors do, and those of REOBench (arXiv:2505.16793), whose twelve names are
used here, are not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from eoaug.errors import ParameterError, did_you_mean
from eoaug.raster.plausible import Quantity

__all__ = ["KINDS", "REOBENCH", "Corruption", "parameters_of"]

Group = Literal["pointwise", "filter", "missing", "clouds", "moving"]
"""How a corruption is computed: pixel by pixel; from a neighbourhood; by losing pixels; with the field of clouds; by
moving pixels to another grid."""

_ALL: tuple[Quantity, ...] = ("reflectance", "decibel", "kelvin")
_OPTICAL: tuple[Quantity, ...] = ("reflectance", "kelvin")
_SAR: tuple[Quantity, ...] = ("decibel",)
_REFLECTED: tuple[Quantity, ...] = ("reflectance",)


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption: its parameters by severity, and the bands that it applies to."""

    name: str
    group: Group
    severities: Mapping[str, tuple[float, float, float, float, float]]
    """Values of the parameters at severities 1 to 5."""
    about: str
    """What it does, in one line."""
    fixed: Mapping[str, Any] = MappingProxyType({})
    """Defaults of parameters that do not depend on the severity; None: derived from cube or seed."""
    quantities: tuple[Quantity, ...] = _ALL
    """What it applies to; other bands come back as they are."""
    loses: bool = False
    """True if valid pixels become missing."""
    scope: Literal["local", "cube"] = "local"
    """``local``: a window alone gives the same pixels, but for a margin. ``cube``: extent or centre of the cube count."""


def _kind(name: str, group: Group, about: str, /, severities: Mapping[str, Any], **more: Any) -> Corruption:
    return Corruption(name, group, MappingProxyType(dict(severities)), about, **more)


_LIST = (
    _kind(
        "gaussian_noise",
        "pointwise",
        "white noise of a given signal-to-noise ratio",
        {"snr": (100, 50, 25, 12, 6)},
    ),
    _kind(
        "salt_and_pepper",
        "pointwise",
        "a share of pixels of each band at the ends of the sensor's range",
        {"share": (0.002, 0.005, 0.01, 0.02, 0.05)},
    ),
    _kind(
        "gaussian_blur",
        "filter",
        "a point spread function, given by its standard deviation in pixels",
        # Integrated over pixels, of a transfer at Nyquist of .3, .1, .02 and .004: sigma = sqrt(-2 ln(pi M / 4)) / pi.
        {"sigma_px": (0.541, 0.718, 0.917, 1.081, 2.0)},
    ),
    _kind(
        "motion_blur",
        "filter",
        "a line along the track of the satellite",
        {"length_px": (3, 5, 9, 13, 21)},
        fixed={"heading_deg": 190.0},
    ),
    _kind(
        "brightness_contrast",
        "pointwise",
        "errors of gain and offset, in one direction for both, drawn by band and date",
        {
            "gain": (0.03, 0.06, 0.12, 0.2, 0.3),
            "offset": (0.003, 0.006, 0.012, 0.02, 0.04),
            "offset_db": (0.25, 0.5, 1.0, 2.0, 3.0),
            "offset_k": (0.5, 1.0, 2.0, 4.0, 8.0),
        },
    ),
    _kind(
        "clouds",
        "clouds",
        "clouds of exact cover with their shadows",
        {"cover": (0.05, 0.15, 0.3, 0.5, 0.8)},
        fixed={
            "thickness": 1.0,
            "size_m": 1500.0,
            "height_m": 1200.0,
            "shadows": True,
            "sun_zenith_deg": None,
            "sun_azimuth_deg": None,
        },
        quantities=_OPTICAL,
        scope="cube",
    ),
    _kind(
        "haze",
        "clouds",
        "an aerosol layer of an optical thickness at 550 nm that varies over kilometres",
        {"tau": (0.1, 0.2, 0.4, 0.8, 1.6)},
        fixed={"airlight": 0.3, "exponent": 1.3, "size_m": 4000.0},
        quantities=_REFLECTED,
    ),
    _kind(
        "data_gaps",
        "missing",
        "lost scan lines, lost blocks and the wedges of a failed scan line corrector",
        {"share": (0.02, 0.05, 0.1, 0.2, 0.4)},
        loses=True,
    ),
    _kind(
        "compression",
        "filter",
        "JPEG 2000 in tiles of 256 pixels; quality in percent of the size without compression",
        {"quality": (25, 10, 5, 2, 1)},
    ),
    _kind(
        "rotation",
        "moving",
        "a turn about the centre of the cube, image and labels on a rotated grid",
        {"angle_deg": (2, 5, 10, 20, 45)},
        loses=True,
        scope="cube",
    ),
    _kind(
        "scale",
        "moving",
        "an enlargement about the centre of the cube, on a grid of smaller pixels",
        {"factor": (1.05, 1.1, 1.25, 1.5, 2.0)},
        loses=True,
        scope="cube",
    ),
    _kind(
        "translation",
        "moving",
        "a shift of the grid",
        {"shift_px": (2.5, 4.5, 8.5, 16.5, 32.5)},
        fixed={"bearing_deg": None},
        loses=True,
    ),
    _kind(
        "speckle",
        "pointwise",
        "multiplicative noise of SAR, Gamma distributed with a number of looks",
        {"looks": (16, 8, 4, 2, 1)},
        quantities=_SAR,
    ),
    _kind(
        "thermal_noise",
        "pointwise",
        "the noise floor of SAR, added to the backscatter",
        {"floor_db": (-26, -23, -20, -17, -14)},
        quantities=_SAR,
    ),
    _kind(
        "border_noise",
        "pointwise",
        "the ragged strip of near-zero values along an edge of SAR products",
        {"width_px": (4, 8, 16, 32, 64)},
        fixed={"border_db": -32.0},
        quantities=_SAR,
        scope="cube",
    ),
    _kind(
        "missing_bands",
        "missing",
        "a share of the bands, at least one, without data",
        {"share": (0.0, 0.125, 0.25, 0.375, 0.5)},
        loses=True,
    ),
    _kind(
        "missing_dates",
        "missing",
        "a share of the dates, at least one, without data",
        {"share": (0.0, 0.125, 0.25, 0.375, 0.5)},
        loses=True,
    ),
    _kind(
        "saturation",
        "pointwise",
        "values clipped at the top of the sensor's range",
        {
            "most": (1.0, 0.8, 0.6, 0.4, 0.3),
            "most_db": (5.0, 0.0, -5.0, -8.0, -12.0),
            "most_k": (320.0, 310.0, 305.0, 300.0, 295.0),
        },
    ),
    _kind(
        "bit_depth",
        "pointwise",
        "values rounded to so many bits of the sensor's range",
        {"bits": (10, 8, 6, 5, 4)},
    ),
    _kind(
        "coregistration",
        "filter",
        "a shift of every band, or of every date, in a direction of its own",
        {"shift_px": (0.25, 0.5, 1.0, 2.0, 4.0)},
        fixed={"of": None},
    ),
)

KINDS: Mapping[str, Corruption] = MappingProxyType({kind.name: kind for kind in _LIST})
"""The corruptions by name."""

REOBENCH: tuple[str, ...] = tuple(KINDS)[:12]
"""The names of REOBench."""


def parameters_of(kind: str, severity: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a corruption: those of the severity, with those that were given in their place.

    Raises
    ------
    ParameterError
        No such kind, severity or parameter, or a value that it cannot have.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        hint = did_you_mean(kind, KINDS) if isinstance(kind, str) else ""
        raise ParameterError(f"there is no corruption {kind!r}", f"{hint} known: {', '.join(KINDS)}".lstrip())
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise ParameterError(f"severity={severity!r} is not an integer from 1 to 5", "e.g. severity=3")
    corruption = KINDS[kind]
    known = {name: values[severity - 1] for name, values in corruption.severities.items()}
    known |= corruption.fixed
    for name, value in given.items():
        if name not in known:
            raise ParameterError(
                f"corruption {kind!r} has no parameter {name!r}",
                f"{did_you_mean(name, known)} known: {', '.join(known)}".lstrip(),
            )
        known[name] = _checked(name, value)
    return known


_RANGES: Mapping[str, tuple[float, float]] = {
    "snr": (0.1, 1e6),
    "share": (0, 1),
    "sigma_px": (0, 32),
    "length_px": (1, 128),
    "heading_deg": (-360, 360),
    "gain": (0, 1),
    "offset": (0, 1),
    "offset_db": (0, 30),
    "offset_k": (0, 100),
    "cover": (0, 1),
    "thickness": (0.01, 100),
    "size_m": (1, 1e6),
    "height_m": (0, 2e4),
    "sun_zenith_deg": (0, 85),
    "sun_azimuth_deg": (-360, 360),
    "tau": (0, 10),
    "airlight": (0, 1),
    "exponent": (0, 4),
    "quality": (0.1, 100),
    "angle_deg": (-360, 360),
    "factor": (0.1, 10),
    "shift_px": (0, 4096),
    "bearing_deg": (-360, 360),
    "looks": (0.1, 1e4),
    "floor_db": (-60, 20),
    "width_px": (0, 4096),
    "border_db": (-80, 0),
    "most": (0, 10),
    "most_db": (-60, 40),
    "most_k": (100, 400),
    "bits": (1, 16),
}


def _checked(name: str, value: Any) -> Any:
    if name == "shadows" and isinstance(value, bool):
        return value
    if name == "of" and value in ("bands", "dates"):
        return value
    if name in _RANGES:
        low, high = _RANGES[name]
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ParameterError(
            f"{name}={value!r} is not a number from {low:g} to {high:g}", f"e.g. {name}={(low + high) / 2:g}"
        )
    choices = "True or False" if name == "shadows" else "'bands' or 'dates'"
    raise ParameterError(f"{name}={value!r} is not {choices}", f"e.g. {name}={choices.split(' or ')[0]}")
