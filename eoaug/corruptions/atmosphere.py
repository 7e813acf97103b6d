"""Clouds and haze in the bands of an image: their spectra, and what shadows leave of the light."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eoaug.corruptions.clouds import CloudField, CloudLayers, cloud_layers, field_of
from eoaug.corruptions.ground import GroundField, frame_of
from eoaug.corruptions.request import ImageAt
from eoaug.corruptions.units import ImageBand
from eoaug.raster.arrays import Float64Array

__all__ = ["clouded", "clouds_at", "hazy"]

_CLOUD = (
    (0.44, 0.80),
    (0.55, 0.78),
    (0.66, 0.77),
    (0.83, 0.77),
    (0.87, 0.76),
    (0.94, 0.62),
    (1.05, 0.74),
    (1.33, 0.50),
    (1.36, 0.04),
    (1.39, 0.04),
    (1.45, 0.45),
    (1.61, 0.58),
    (1.80, 0.35),
    (2.20, 0.38),
    (2.50, 0.30),
)
"""Wavelength in micrometres and reflectance of a thick low water cloud. Droplets absorb in the shortwave infrared; water vapour
above the cloud absorbs near .94, 1.37 and 1.85 um."""
_CLOUD_K = 268.0
"""Brightness temperature of a low cloud."""


def _shadowed(wavelength_um: float) -> float:
    """Return the share of the ground's light that a full shadow takes: the blue sky still lights it."""
    return 0.85 * math.exp(-0.25 * (wavelength_um / 0.55) ** -2)


def _day(at: ImageAt) -> int:
    """Return the day, by which clouds and haze are drawn: sensors that pass on one day see the same."""
    return at.time // 86_400


def clouds_at(at: ImageAt) -> tuple[CloudField, CloudLayers]:
    """Return the clouds of the date of an image, and their layers over its window."""
    request = at.request
    zenith, azimuth = (math.radians(angle) for angle in request.sun[at.date])
    length_m = request.values["height_m"] * math.tan(zenith) if request.values["shadows"] else 0.0
    clouds = field_of(
        request.like,
        seed=request.seed,
        time=_day(at),
        cover=request.values["cover"],
        thickness=request.values["thickness"],
        size_m=request.values["size_m"],
        # Away from the sun.
        shadow=(-length_m * math.sin(azimuth), -length_m * math.cos(azimuth)),
    )
    window = at.window.shift(-request.extent.top, -request.extent.left)
    return clouds, cloud_layers(clouds, request.geobox, request.like, window)


def clouded(images: Sequence[Float64Array], at: ImageAt, layers: CloudLayers) -> list[Float64Array]:
    """Return the bands of one image under clouds: shadows on the ground first, then the clouds above them."""
    out = []
    for image, band, affected in zip(images, at.request.bands, at.request.affected, strict=True):
        if not affected:
            out.append(image)
        elif band.quantity == "kelvin":
            out.append(image + layers.opacity * (_CLOUD_K - image))
        else:
            ground = image * (1 - _shadowed(band.wavelength_um) * layers.shadow)
            out.append(ground * (1 - layers.opacity) + _reflectance(band) * layers.brightness)
    return out


def _reflectance(band: ImageBand) -> float:
    return float(np.interp(band.wavelength_um, *np.transpose(_CLOUD)))


def hazy(images: Sequence[Float64Array], at: ImageAt) -> list[Float64Array]:
    """Return the bands of one image under an aerosol layer.

    Optical thickness falls with the wavelength by Angstrom's law; what the layer takes of the ground's light it adds of
    its own (He et al. 2011, doi:10.1109/TPAMI.2010.168).
    """
    request = at.request
    frame = frame_of(request.geobox)
    size_m = at.number("size_m")
    field = GroundField(
        "corrupt haze", request.seed, _day(at), ((2 * size_m, 1.0), (size_m, 0.7), (size_m / 2, 0.4))
    )
    window = at.window.shift(-request.extent.top, -request.extent.left)
    values = field.at(
        frame.row_m(np.arange(window.top, window.bottom)), frame.col_m(np.arange(window.left, window.right))
    )
    density = np.exp(0.35 * values)
    out = []
    for image, band, affected in zip(images, request.bands, request.affected, strict=True):
        tau = at.number("tau") * (band.wavelength_um / 0.55) ** -at.number("exponent")
        through = np.exp(-tau * density)
        out.append(image * through + at.number("airlight") * (1 - through) if affected else image)
    return out
