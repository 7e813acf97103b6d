"""Bands of one date from bands of other sensors and processing levels, pixel by pixel, without a measurement to learn from.

Everything goes through the reflectance of the surface in the bands of Sentinel-2: there the atmosphere is taken off, spectral
responses are published, and the mixture of spectra knows how bands go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.translation.atmosphere import HAZE_RANGE, Atmosphere, corrected_bands
from eoaug.generators.translation.spectral_mixture import shipped_mixture
from eoaug.raster.products import Product
from eoaug.raster.spectral_response import REFERENCE, response_of

__all__ = ["BandOfProduct", "can_be_converted", "convert", "why_not_converted"]


@dataclass(frozen=True)
class BandOfProduct:
    """A band by its common name, of a sensor and a processing level."""

    common_name: str
    product: Product


_OTHER_ERROR = 0.005
"""Error in reflectance of what changes besides haze."""

_Values = NDArray[np.float64]
_Estimate = tuple[_Values, _Values]
"""Reflectance and its standard deviation."""


def why_not_converted(band: BandOfProduct) -> str:
    """Return why a band cannot be converted to and from the reference; empty if it can."""
    if response_of(band.product.sensor, band.common_name) is None:
        return f"how {band.product.sensor} measures {band.common_name} against {REFERENCE} is not known"
    if band.product.top_of_atmosphere and band.common_name not in corrected_bands:
        return f"the atmosphere over {band.common_name} is not known"
    return ""


def can_be_converted(wanted: BandOfProduct, given: Sequence[BandOfProduct]) -> bool:
    """Tell whether `convert` can make a band from others."""
    usable = {band.common_name for band in given if not why_not_converted(band)}
    spectral = set(shipped_mixture().bands)
    if why_not_converted(wanted):
        return False
    return wanted.common_name in usable or bool(wanted.common_name in spectral and usable & spectral)


def convert(
    reflectance: _Values,
    given: Sequence[BandOfProduct],
    wanted: Sequence[BandOfProduct],
    sun_zenith_deg: float,
) -> _Estimate:
    """Return the expected reflectance of bands and its standard deviation, each of shape (wanted, n).

    Parameters
    ----------
    reflectance
        Shape (given, n), all measured, 0 to 1.
    given, wanted
        The bands; those of ``wanted`` that cannot be made (`can_be_converted`) are NaN.
    sun_zenith_deg
        At both levels, 0 to 80.
    """
    sources: dict[str, _Estimate] = {}
    # Bands that need no conversion count before others of the same name.
    order = sorted(
        range(len(given)),
        key=lambda i: (given[i].product.top_of_atmosphere, given[i].product.sensor not in ("", REFERENCE), i),
    )
    for i in order:
        if given[i].common_name not in sources and not why_not_converted(given[i]):
            sources[given[i].common_name] = _to_reference(reflectance[i], given[i], sun_zenith_deg)
    expected = np.full((len(wanted), reflectance.shape[1]), np.nan)
    spread = expected.copy()
    mixture = shipped_mixture()
    known = [name for name in sources if name in mixture.bands]
    for row, band in enumerate(wanted):
        if not can_be_converted(band, given):
            continue
        if band.common_name in sources:
            image, error = sources[band.common_name]
        else:
            images = np.stack([sources[name][0] for name in known])
            (image,), (error,) = mixture.estimate(images, known, [band.common_name])
        expected[row], spread[row] = _from_reference(image, error, band, sun_zenith_deg)
    return expected, spread


def _to_reference(image: _Values, band: BandOfProduct, zenith: float) -> _Estimate:
    error: _Values = np.zeros_like(image)
    if band.product.top_of_atmosphere:
        image, error = _through(image, band.common_name, zenith, down=True)
    response = response_of(band.product.sensor, band.common_name)
    assert response is not None  # checked by `why_not_converted`
    return (image - response.offset) / response.slope, np.hypot(error, response.error)


def _from_reference(image: _Values, error: _Values, band: BandOfProduct, zenith: float) -> _Estimate:
    response = response_of(band.product.sensor, band.common_name)
    assert response is not None  # checked by `why_not_converted`
    image, error = image * response.slope + response.offset, np.hypot(error, response.error)
    if not band.product.top_of_atmosphere:
        return image, error
    top, haze = _through(image, band.common_name, zenith, down=False)
    return top, np.hypot(error, haze)


def _through(image: _Values, name: str, zenith: float, *, down: bool) -> _Estimate:
    """Return an image of one band on the other side of the atmosphere, and half of what haze can change."""

    def of(atmosphere: Atmosphere) -> _Values:
        there: _Values = (atmosphere.surface if down else atmosphere.top)(image[None])[0]
        return there

    clear, hazy = (of(Atmosphere.over([name], zenith, haze)) for haze in HAZE_RANGE)
    # Some reflectance is the same in any haze; slopes of the ground and the air above are still not known.
    return of(Atmosphere.over([name], zenith)), np.hypot(np.abs(clear - hazy) / 2, _OTHER_ERROR)
