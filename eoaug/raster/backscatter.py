"""Radar backscatter: in which form it is stored, the way to decibels and back, and what each sensor measures.

NumPy only. Amplitude, intensity (power) and decibels are three forms of one quantity; sigma0, gamma0 and beta0 are three
calibrations, which differ by the incidence angle and are never converted into each other here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError, RadiometryError
from eoaug.raster.radiometry import Scaling, declared_scaling

__all__ = [
    "BACKSCATTER",
    "CALIBRATION",
    "SAR_SENSORS",
    "AmplitudeRange",
    "BackscatterForm",
    "Calibration",
    "DecibelScaling",
    "SarSensor",
    "amplitude_range",
    "backscatter_scaling",
    "calibration_of",
    "convert_backscatter",
    "form_of",
    "physical_form",
]

BackscatterForm = Literal["amplitude", "intensity", "decibel"]
Calibration = Literal["sigma0", "gamma0", "beta0"]

BACKSCATTER, CALIBRATION = "backscatter", "calibration"
"""Attributes that say in which form and calibration a variable holds backscatter."""

_UNITS: dict[str, BackscatterForm] = {
    **dict.fromkeys(("db", "decibel", "decibels"), "decibel"),
    **dict.fromkeys(("power", "linear power", "intensity", "m2/m2", "m2 m-2", "m^2/m^2"), "intensity"),
    "amplitude": "amplitude",
}
_CALIBRATIONS: dict[Calibration, str] = {
    "sigma0": r"sigma[ _-]?(0|nought|naught|zero)|σ0|σ⁰|\bsig0",
    "gamma0": r"gamma[ _-]?(0|nought|naught|zero)|γ0|γ⁰|\bgam0|\brtc\b",
    "beta0": r"beta[ _-]?(0|nought|naught|zero)|β0|β⁰",
}
_PER_DECADE: dict[BackscatterForm, float] = {"intensity": 10.0, "amplitude": 20.0}
_DARKEST = 1e-30
"""Power or amplitude in place of 0, whose decibels are not finite."""


@dataclass(frozen=True)
class SarSensor:
    """What is known of the images of a radar."""

    band: Literal["X", "C", "S", "L", "P"]
    gsd_m: float
    """Pixel spacing of the usual product in metres."""
    looks: float
    """Equivalent number of looks of the usual product."""
    floor_db: float
    """Backscatter below which a pixel is border noise, or what is left of subtracted thermal noise: no measurement."""


SAR_SENSORS: dict[str, SarSensor] = {
    "sentinel-1": SarSensor("C", 10.0, 4.4, -35.0),
    "terrasar-x": SarSensor("X", 1.0, 1.0, -30.0),
    "airborne": SarSensor("X", 0.4, 1.0, -40.0),
    "nisar": SarSensor("L", 20.0, 16.0, -40.0),
}
"""Sensors by name: Sentinel-1 IW GRD (4.4 looks: ESA S1-RS-MDA-52-7441), TerraSAR-X spotlight and airborne images of one
look, and NISAR's L-band GCOV. The floors lie 8 dB or more below the noise-equivalent backscatter."""


def form_of(attrs: Mapping[str, Any]) -> BackscatterForm | None:
    """Return the form of backscatter that attributes declare, by ``backscatter`` or by ``units``; None without."""
    given = attrs.get(BACKSCATTER)
    if given is not None:
        if given not in get_args(BackscatterForm):
            raise RadiometryError(
                f"{BACKSCATTER}={given!r} is unknown", f"use one of {', '.join(get_args(BackscatterForm))}"
            )
        return given  # type: ignore[no-any-return]
    return _UNITS.get(str(attrs.get("units", "")).strip().lower())


def calibration_of(attrs: Mapping[str, Any], name: str = "") -> Calibration | None:
    """Return the calibration that attributes or the name of a variable declare; None if none or several are named."""
    given = attrs.get(CALIBRATION)
    if given in get_args(Calibration):
        return given
    words = " ".join(
        str(attrs.get(key, "")) for key in ("standard_name", "long_name", "description", "units")
    )
    found = [one for one, text in _CALIBRATIONS.items() if re.search(text, f"{name} {words}", re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


_SAME = Scaling()


@dataclass(frozen=True)
class DecibelScaling(Scaling):
    """From stored power or amplitude to decibels, and on by ``scale`` and ``offset``; invertible where positive."""

    linear: Scaling = _SAME
    """From stored numbers to power or amplitude."""
    per_decade: float = 10.0
    """Decibels of a factor of ten: 10 of power, 20 of amplitude."""

    def then(self, other: Scaling) -> Scaling:  # noqa: D102 - as of the base
        line = Scaling(self.scale, self.offset).then(other)
        return replace(self, scale=line.scale, offset=line.offset)

    @property
    def inverse(self) -> Scaling:  # noqa: D102
        line = Scaling(self.scale, self.offset).inverse
        return _FromDecibels(line.scale, line.offset, self)

    @property
    def stored(self) -> Scaling:  # noqa: D102
        return self.linear

    @property
    def numbers(self) -> list[float]:  # noqa: D102
        return [self.scale, self.offset, self.linear.scale, self.linear.offset, self.per_decade]

    @property
    def everywhere(self) -> bool:  # noqa: D102
        return False

    def defined(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where stored numbers are positive power or amplitude: 0 is a pixel that was not measured."""
        return np.asarray(self.linear(values) > 0)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Apply the map in float64."""
        decibels = self.per_decade * np.log10(np.maximum(self.linear(values), _DARKEST))
        return np.asarray(decibels * self.scale + self.offset)


_DECIBELS = DecibelScaling()


@dataclass(frozen=True)
class _FromDecibels(Scaling):
    """The way back of a `DecibelScaling`: ``scale`` and ``offset`` give decibels, then stored numbers."""

    forward: DecibelScaling = _DECIBELS

    def then(self, other: Scaling) -> Scaling:
        """Return the line that is left when ``other`` reads the same stored numbers again."""
        assert isinstance(other, DecibelScaling)
        return Scaling(self.scale, self.offset).then(Scaling(other.scale, other.offset))

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        decibels = np.asarray(values, np.float64) * self.scale + self.offset
        with np.errstate(over="ignore"):
            return self.forward.linear.inverse(10 ** (decibels / self.forward.per_decade))


def backscatter_scaling(attrs: Mapping[str, Any], scaling: Scaling) -> Scaling:
    """Return the map from stored numbers to decibels, where attributes declare power or amplitude; else ``scaling``.

    Generators, corruptions and pictures then take decibels whatever is stored, and verbs return the form that was given.
    """
    form = form_of(attrs)
    if form is None or form == "decibel":
        return scaling
    return DecibelScaling(linear=scaling, per_decade=_PER_DECADE[form])


def convert_backscatter(
    values: NDArray[Any], form: BackscatterForm, to: BackscatterForm
) -> NDArray[np.float64]:
    """Return backscatter in another form; what is not positive in linear units has no decibels and becomes NaN."""
    values = np.asarray(values, np.float64)
    if form != "decibel":
        values = np.where(values > 0, values, np.nan)
    if form == to:
        return values
    decibels = values if form == "decibel" else _PER_DECADE[form] * np.log10(values)
    return decibels if to == "decibel" else np.asarray(10 ** (decibels / _PER_DECADE[to]))


@dataclass(frozen=True)
class AmplitudeRange:
    """The range of amplitudes that is mapped to 0 and 1: A / (mean + 3 standard deviations), clipped.

    The normalisation of Debuysere et al. 2025 (arXiv:2506.13307) for diffusion models of SAR.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.mean > 0 and self.std >= 0):
            raise ParameterError(
                f"an amplitude of mean {self.mean} and standard deviation {self.std} has no range",
                "give a mean above 0, and a standard deviation of at least 0",
            )

    @property
    def white(self) -> float:
        """The amplitude that becomes 1."""
        return self.mean + 3 * self.std

    def normalise(self, amplitude: NDArray[Any]) -> NDArray[np.float64]:
        """Return amplitudes from 0 to 1."""
        return np.clip(np.asarray(amplitude, np.float64) / self.white, 0, 1)

    def restore(self, normalised: NDArray[Any]) -> NDArray[np.float64]:
        """Return the amplitudes; those above `white` were clipped to it."""
        return np.asarray(normalised, np.float64) * self.white


def amplitude_range(amplitude: NDArray[Any]) -> AmplitudeRange:
    """Return the range of an image or a scene from its finite pixels.

    Raises
    ------
    RadiometryError
        No pixel is finite and positive.
    """
    finite = np.asarray(amplitude, np.float64)
    finite = finite[np.isfinite(finite)]
    if not (finite > 0).any():
        raise RadiometryError(
            f"none of {np.size(amplitude)} amplitudes is positive", "give an image with measured pixels"
        )
    return AmplitudeRange(float(finite.mean()), float(finite.std()))


def physical_form(
    attrs: Mapping[str, Any], dtype: Any, encoding: Mapping[str, Any], *, name: str
) -> tuple[BackscatterForm, Scaling]:
    """Return the form that a variable declares, and the map from its numbers to it.

    Raises
    ------
    RadiometryError
        Neither its attributes nor its type say the form.
    """
    if np.dtype(dtype).kind == "c":
        return "amplitude", Scaling()
    form = form_of(attrs)
    if form is None and ("db_scale" in attrs or "db_offset" in attrs):
        form = "decibel"
    if form is None:
        raise RadiometryError(
            f"variable {name!r} does not say whether it holds amplitude, intensity or decibels: "
            f"units={attrs.get('units')!r}",
            f"declare it, e.g. ds[{name!r}].attrs[{BACKSCATTER!r}] = 'intensity' for linear power",
        )
    return form, declared_scaling(attrs, dtype, name=name, encoding=encoding)
