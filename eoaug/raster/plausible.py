"""Whether physical values can be what a band is said to hold: reflectance, decibels or kelvins.

NumPy only. Looks at a bounded sample, and decides between units that differ by a factor of ten or more; it never
corrects a value.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import RadiometryError
from eoaug.raster.bands import POLARISATIONS

__all__ = ["Quantity", "check_decibels", "check_units", "quantity_of", "sample"]

Quantity = Literal["reflectance", "decibel", "kelvin"]

_SAMPLE_PX = 4096
"""Pixels of an image that are looked at."""
_BRIGHTEST = 2.0
"""Reflectance that a quarter of an image never exceeds; snow and cloud reach 1.2, sun glint covers less."""
_DARKEST = -1.0
"""Reflectance below which a value is no measurement; atmospheric correction goes down to -0.2."""
_COLDEST_K, _HOTTEST_K = 100.0, 400.0
"""Medians of images of brightness or surface temperature lie between."""


def quantity_of(common_name: str | None) -> Quantity | None:
    """Return what a band of this common name holds; None for bands of unknown kind."""
    if common_name is None:
        return None
    if common_name in POLARISATIONS:
        return "decibel"
    return "kelvin" if common_name.startswith("lwir") else "reflectance"


def sample(image: NDArray[Any]) -> NDArray[Any]:
    """Return at most about 4096 numbers of an image (rows, columns), from all over it."""
    step = max(1, int(np.ceil(np.sqrt(image.size / _SAMPLE_PX))))
    return image[::step, ::step]


def check_units(name: str, quantity: Quantity | None, values: NDArray[np.float64]) -> None:
    """Refuse physical values that a band of reflectance or temperature cannot hold.

    Parameters
    ----------
    name, quantity
        Of the band.
    values
        Physical values of a sample of one image; NaN where missing.

    Raises
    ------
    RadiometryError
        Digital numbers, percent, grey levels, degrees Celsius or an undeclared nodata value.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return
    low, middle, upper, high = (float(v) for v in np.quantile(finite, (0.0, 0.5, 0.75, 1.0)))
    span = f"{low:.4g} to {high:.4g} (median {middle:.4g})"
    if quantity == "kelvin" and not _COLDEST_K < middle < _HOTTEST_K:
        raise RadiometryError(
            f"band {name!r} holds values of {span}, which are no temperatures in kelvins",
            f"declare scale and offset to kelvins, e.g. ds[{name!r}].attrs.update(scale_factor=0.00341802, "
            "add_offset=149.0) for Landsat Collection 2, or scale_factor=1.0, add_offset=273.15 for degrees Celsius",
        )
    if quantity != "reflectance":
        return
    if upper > _BRIGHTEST:
        guess, scale = _guess(middle, high)
        raise RadiometryError(
            f"band {name!r} holds values of {span} as reflectance, far above 1: they look like {guess}",
            f"declare what they are, e.g. ds[{name!r}].attrs.update(scale_factor={scale}, add_offset=0.0), in place "
            "of another scale among its attributes",
        )
    if low < _DARKEST:
        raise RadiometryError(
            f"band {name!r} holds values of {span} as reflectance, far below 0: {low:.6g} looks like a nodata value "
            "that is not declared",
            f"declare it, e.g. ds[{name!r}].attrs['nodata'] = {low:.9g}, or the scale of the values",
        )


def _guess(middle: float, high: float) -> tuple[str, str]:
    """Return what values far above 1 are, and their scale to reflectance."""
    if high <= 100:
        return "percent", "0.01"
    if high <= 255:
        return "8-bit grey levels", "0.00392157"
    if 180 < middle < 400 and high < 400:
        return "kelvins (a thermal band needs the common_name lwir11)", "1e-4"
    return "digital numbers without their scale", "1e-4"


def check_decibels(samples: dict[str, NDArray[np.float64]]) -> str | None:
    """Tell whether bands of backscatter are linear power: return why, or None if they are decibels.

    Parameters
    ----------
    samples
        By band, physical values; NaN where missing. Decibels of land are negative nearly everywhere, power never.

    Raises
    ------
    RadiometryError
        One band holds decibels and another power.
    """
    power: dict[str, str] = {}
    decibels: dict[str, str] = {}
    for name, values in samples.items():
        finite = values[np.isfinite(values)]
        if finite.size:
            middle = f"{name!r} (median {float(np.median(finite)):.4g})"
            (power if finite.min() >= 0 else decibels)[name] = middle
    if not power:
        return None
    example = next(iter(power))
    remedy = f"declare it: ds[{example!r}].attrs['backscatter'] = 'intensity', or convert it: ds[{example!r}] = 10 * np.log10(ds[{example!r}].where(ds[{example!r}] > 0))"
    if decibels:
        raise RadiometryError(
            f"band {next(iter(power.values()))} holds linear power, and band {next(iter(decibels.values()))} decibels",
            remedy,
        )
    return f"band {next(iter(power.values()))} looks like linear power; generators take decibels; {remedy}"
