"""Corruptions of single pixels: noise, gain, clipping, quantisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eoaug.corruptions.request import ImageAt, drawn
from eoaug.corruptions.units import REFERENCE, SPAN, ImageBand
from eoaug.raster.arrays import Float64Array

__all__ = ["pointwise"]

_PixelRule = Callable[[Float64Array, ImageBand, ImageAt], Float64Array]


def _gaussian_noise(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    return image + REFERENCE[band.quantity] / at.number("snr") * at.normal(band.name)


def _salt_and_pepper(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    low, high = SPAN[band.quantity]
    place, half = at.uniform(band.name), at.number("share") / 2
    return np.asarray(np.where(place < half, low, np.where(place > 1 - half, high, image)))


def _brightness_contrast(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    # Errors of opposite signs would cancel at the reflectance of dark land.
    sign = 1.0 if drawn(at.request, band.name, at.time) < 0.5 else -1.0
    if band.quantity == "reflectance":
        return image * (1 + sign * at.number("gain")) + sign * at.number("offset")
    return image + sign * at.number("offset_db" if band.quantity == "decibel" else "offset_k")


def _speckle(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    return np.asarray(image + 10 * np.log10(_gamma(at.uniform(band.name), at.number("looks"))))


def _thermal_noise(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    floor = 10 ** (at.number("floor_db") / 10) * _gamma(at.uniform(band.name), _FLOOR_LOOKS)
    return np.asarray(10 * np.log10(10 ** (image / 10) + floor))


def _border_noise(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    window, extent = at.window, at.request.extent
    left = drawn(at.request, "side") < 0.5
    cols = np.arange(window.left, window.right)
    away = cols - extent.left if left else extent.right - 1 - cols
    # The strip is as ragged as the bursts and sub-swaths that it comes from.
    ragged = [
        0.6 + 0.8 * drawn(at.request, row, at.time)
        for row in np.arange(window.top, window.bottom) // _RAGGED_PX
    ]
    inside = away[None, :] < at.number("width_px") * np.array(ragged)[:, None]
    noise = at.number("border_db") + 10 * np.log10(_gamma(at.uniform(band.name), 1.0))
    return np.asarray(np.where(inside, np.minimum(image, noise), image))


_RAGGED_PX = 12
"""Rows over which the strip has one width."""

_FLOOR_LOOKS = 4.0
"""Looks of the noise floor: those of Sentinel-1 GRD in high resolution, about 4.4."""


def _gamma(uniform: Float64Array, looks: float) -> Float64Array:
    """Return Gamma distributed intensities of mean 1; of the same uniform numbers for any number of looks."""
    from scipy import special

    return np.asarray(np.maximum(special.gammaincinv(looks, uniform) / looks, 1e-6))


def _saturation(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    name = {"reflectance": "most", "decibel": "most_db", "kelvin": "most_k"}[band.quantity]
    return np.asarray(np.minimum(image, at.number(name)))


def _bit_depth(image: Float64Array, band: ImageBand, at: ImageAt) -> Float64Array:
    low, high = SPAN[band.quantity]
    step = (high - low) / (2.0 ** at.number("bits") - 1)
    return np.asarray(low + np.rint((image - low) / step) * step)


_RULES: Mapping[str, _PixelRule] = {
    "gaussian_noise": _gaussian_noise,
    "salt_and_pepper": _salt_and_pepper,
    "brightness_contrast": _brightness_contrast,
    "speckle": _speckle,
    "thermal_noise": _thermal_noise,
    "border_noise": _border_noise,
    "saturation": _saturation,
    "bit_depth": _bit_depth,
}


def pointwise(images: Sequence[Float64Array], at: ImageAt) -> list[Float64Array]:
    """Return the bands of one image after a corruption of single pixels; NaN stays NaN."""
    rule, request = _RULES[at.request.kind], at.request
    return [
        rule(image, band, at) if affected else image
        for image, band, affected in zip(images, request.bands, request.affected, strict=True)
    ]
