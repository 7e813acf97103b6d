"""Reflectance at the top of the atmosphere from that of the surface, and back, for one ordinary clear atmosphere.

rho_toa = t (rho_path + T rho / (1 - S rho)), the equation of 6S (Vermote et al. 1997, doi:10.1109/36.581987): t are the gases,
rho_path what the atmosphere scatters itself, T its transmittance on both ways and S its spherical albedo. Molecules follow from
the wavelength and the sun; haze, ozone and pressure are ordinary ones: an image alone does not tell them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.bands import SENSORS
from eoaug.raster.sun import sun_angles

__all__ = ["Atmosphere", "corrected_bands", "overpass_zenith"]

HAZE = 0.2
"""Optical thickness of aerosol at 0.55 um: a visibility of about 40 km, with which Sen2Cor begins as well."""
HAZE_RANGE = (0.05, 0.5)
"""Clear and hazy days, between which the expected error is taken."""
_ANGSTROM, _ALBEDO, _ASYMMETRY = 1.3, 0.9, 0.65
"""Of continental aerosol: exponent of the wavelength, single scattering albedo, asymmetry of the phase function."""
_OZONE = {
    "coastal": 0.001,
    "blue": 0.006,
    "green": 0.031,
    "red": 0.0145,
    "rededge071": 0.006,
    "rededge075": 0.003,
}
"""Optical thickness of 300 Dobson units."""
_LOCAL_HOUR = 10.5
"""Local solar time at which Sentinel-2 passes; Landsat passes half an hour earlier."""
_UNKNOWN_ZENITH = 40.0
_LOWEST_SUN = 80.0
_WAVELENGTHS = {
    band.common_name: band.wavelength_um
    for band in SENSORS["sentinel-2"]
    if band.wavelength_um is not None and band.common_name not in ("nir09", "cirrus")
}
corrected_bands = frozenset(_WAVELENGTHS)
"""Common names of the bands that are corrected; the others lie in absorption bands of water."""


def overpass_zenith(lon_deg: float, lat_deg: float, year: float, month: float, day: float) -> float:
    """Return the zenith angle of the sun in degrees when Sentinel-2 passes; 40 where place or date are NaN.

    The hour in the dates of a cube is often missing, that of the orbit is known.
    """
    if not np.isfinite([lon_deg, lat_deg, year, month, day]).all():
        return _UNKNOWN_ZENITH
    midnight = np.datetime64(f"{int(year):04d}-{int(month):02d}-{int(day):02d}", "s").astype(np.int64)
    seconds = int(midnight) + round((_LOCAL_HOUR - lon_deg / 15) * 3600)
    return min(sun_angles(seconds, lon_deg, lat_deg)[0], _LOWEST_SUN)


@dataclass(frozen=True)
class Atmosphere:
    """What the atmosphere does to some bands; shapes (n, 1)."""

    gases: NDArray[np.float64]
    path: NDArray[np.float64]
    transmittance: NDArray[np.float64]
    albedo: NDArray[np.float64]

    @classmethod
    def over(cls, bands: Sequence[str], sun_zenith_deg: float, haze: float = HAZE) -> Atmosphere:
        """Return the atmosphere over land at sea level, seen from above.

        Parameters
        ----------
        bands
            Common names among `corrected_bands`.
        sun_zenith_deg
            0 to 80.
        haze
            Optical thickness of aerosol at 0.55 um.
        """
        wave = np.array([_WAVELENGTHS[name] for name in bands])[:, None]
        ozone = np.array([_OZONE.get(name, 0.0) for name in bands])[:, None]
        sun = math.cos(math.radians(sun_zenith_deg))
        # Hansen and Travis 1974, doi:10.1007/BF00168069.
        air = 0.008569 * wave**-4 * (1 + 0.0113 * wave**-2 + 0.00013 * wave**-4)
        dust = haze * (wave / 0.55) ** -_ANGSTROM
        lost = dust * (1 - _ALBEDO + _ALBEDO * (1 - _ASYMMETRY) / 2)
        both = _through_air(air, sun) * _through_air(air, 1.0) * np.exp(-lost * (1 / sun + 1))
        # Henyey and Greenstein 1941 for light that turns back from the sun to the zenith.
        phase = (1 - _ASYMMETRY**2) / (1 + _ASYMMETRY**2 + 2 * _ASYMMETRY * sun) ** 1.5
        return cls(
            gases=np.exp(-ozone * (1 / sun + 1)),
            path=_air_reflectance(air, sun) + _ALBEDO * dust * phase / (4 * sun) * np.exp(-air / 2),
            transmittance=both,
            albedo=0.92 * air * np.exp(-air) + _ALBEDO * dust * (1 - _ASYMMETRY) / 2,
        )

    def surface(self, top: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return reflectance of the surface, shape (n, pixels), from that at the top of the atmosphere."""
        bare = (top / self.gases - self.path) / self.transmittance
        return np.asarray(bare / (1 + self.albedo * bare))

    def top(self, surface: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return reflectance at the top of the atmosphere, shape (n, pixels), from that of the surface."""
        return np.asarray(
            self.gases * (self.path + self.transmittance * surface / (1 - self.albedo * surface))
        )


def _through_air(air: NDArray[np.float64], cosine: float) -> NDArray[np.float64]:
    """Return the transmittance of molecules, direct and diffuse, on one way (6S manual, two-stream solution)."""
    return np.asarray((2 / 3 + cosine + (2 / 3 - cosine) * np.exp(-air / cosine)) / (4 / 3 + air))


def _air_reflectance(air: NDArray[np.float64], sun: float) -> NDArray[np.float64]:
    """Return the reflectance of molecules seen from the zenith (Vermote and Tanre 1992, doi:10.1016/0022-4073(92)90140-6)."""
    level = (0.33243832, 0.16285370, -0.30924818, -0.10324388, 0.11493334)
    slope = (-0.06777104, 0.001577425, -0.01240906, 0.03241678, -0.03503695)
    terms = (1.0, sun + 1, sun, sun**2 + 1, sun**2)
    several = sum((a + b * np.log(air)) * term for a, b, term in zip(level, slope, terms, strict=True))
    down, up = np.exp(-air / sun), np.exp(-air)
    phase = 1 + (3 * sun**2 - 1) * 2 * 0.958725775 / 8
    return np.asarray(phase * ((1 - down * up) / (4 * (sun + 1)) + (1 - down) * (1 - up) * several))
