"""What corruptions know of a band: its quantity, its wavelength, and physical constants for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import CubeBand
from eoaug.raster.arrays import Float64Array
from eoaug.raster.bands import SENSORS, common_name
from eoaug.raster.plausible import Quantity, quantity_of
from eoaug.raster.radiometry import Scaling, cast

__all__ = ["REFERENCE", "SPAN", "ImageBand", "band_of_cube", "named_band"]

_GREEN_UM = 0.55
_WAVELENGTH_UM: Mapping[str, float] = {
    band.common_name: band.wavelength_um
    for table in reversed(SENSORS.values())
    for band in table
    if band.wavelength_um is not None
}
"""Centre wavelength by common name, in micrometres; Sentinel-2's where it has the band."""

REFERENCE: Mapping[Quantity, float] = {"reflectance": 0.1, "decibel": 10.0, "kelvin": 10.0}
"""Signal that a signal-to-noise ratio refers to: a reflectance, and the sizes of a usual contrast in dB and kelvins."""

SPAN: Mapping[Quantity, tuple[float, float]] = {
    "reflectance": (0.0, 1.0),
    "decibel": (-35.0, 10.0),
    "kelvin": (200.0, 350.0),
}
"""Least and largest physical value of a sensor's range."""


@dataclass(frozen=True)
class ImageBand:
    """One band as a corruption sees it; a value, so that it can be sent to workers."""

    name: str
    quantity: Quantity
    """A band of unknown kind counts as a reflectance."""
    wavelength_um: float
    """Centre wavelength in micrometres; that of green light where it is not known."""
    scaling: Scaling
    dtype: str
    nodata: float | None

    def physical(self, stored: NDArray[Any]) -> Float64Array:
        """Return physical values, NaN where missing."""
        values = self.scaling(stored)
        if self.nodata is not None and not np.isnan(self.nodata):
            values[stored == np.asarray(self.nodata, stored.dtype)] = np.nan
        values[~self.scaling.defined(stored)] = np.nan
        return values

    def stored(self, physical: Float64Array) -> NDArray[Any]:
        """Return stored numbers; NaN is missing."""
        nodata = self.nodata
        if np.dtype(self.dtype).kind == "f" and nodata is not None:
            # A missing number of our own is NaN, as in the verbs: it is never taken for a value.
            nodata = np.nan
        return cast(self.scaling.inverse(physical), self.dtype, nodata)


def band_of_cube(band: CubeBand) -> ImageBand:
    """Return what corruptions know of a band of a cube."""
    common = band.common_name or ""
    given = band.attrs.get("center_wavelength", band.attrs.get("center_wavelength_um"))
    wavelength = _WAVELENGTH_UM.get(common, _GREEN_UM)
    if common not in _WAVELENGTH_UM and isinstance(given, int | float) and 0.2 < given < 20:
        wavelength = float(given)
    return ImageBand(
        name=band.name,
        quantity=quantity_of(band.common_name) or "reflectance",
        wavelength_um=wavelength,
        scaling=band.scaling,
        dtype=str(band.dtype),
        nodata=band.nodata,
    )


def named_band(name: str, dtype: str) -> ImageBand:
    """Return what corruptions know of a band with physical values from its name alone."""
    common = common_name(name, {}, "sentinel-2") or common_name(name, {})
    wavelength = _WAVELENGTH_UM.get(common or "", _GREEN_UM)
    return ImageBand(name, quantity_of(common) or "reflectance", wavelength, Scaling(), dtype, None)
