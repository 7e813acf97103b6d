"""Kriging in space, with a power-law spectrum.

Numpy and scipy, no weights. The best linear estimates of this package (`kriging`, `time_kriging`, `regression`) are
what a diffusion model would return for a Gaussian field. Their constants were fitted to the training cubes, never to
those of the evaluation. All sums have a fixed number of terms in a fixed order, within one tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from eoaug.generators.interpolation import push_pull
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["fill"]


_EXPONENT = 2.4
"""Power spectra of landscapes fall as frequency to the power of -2.4; the membrane of push-pull is the case 2."""
_ROUGHNESS = (1.8, 0.9)
"""Intercept and slope of a tile's exponent over the growth of the squared difference of its pixels with distance: a
self-affine surface would have (2, 1). Limited to `_EXPONENTS`."""
_EXPONENTS = (2.05, 3.0)
_LAGS_PX = (1, 2, 4)
_ISOTROPIC_PAIRS = 200.0
"""Weight of an isotropic prior, in pairs of pixels."""
_LARGEST = 1e-3
"""Added to the Laplacian: beyond some 200 px the spectrum is flat."""
_NEAREST = 0.016
"""The same for the residual of the context cells, which decorrelates within some 20 px."""
_BEYOND_PX = 12
"""Unknown pixels padded around a tile, without which the FFT would make opposite borders neighbours."""
_ITERATIONS = 14
"""Iterations of conjugate gradients; from 14 to 40 the error on real gaps is the same to 0.01 dB."""


def fill(
    values: NDArray[np.floating], known: BoolArray, *, noise: float = 0.0, mean: float | None = None
) -> Float32Array:
    """Return ``values`` with the unknown pixels at their conditional mean under a power-law spectrum.

    Kriging (Matheron 1963, doi:10.2113/gsecongeo.58.8.1246) of all known pixels of a tile, solved by
    preconditioned conjugate gradients from a smooth fill. The roughness of the land and its main direction
    (fields, valleys, shores) are estimated from the structure function and the structure tensor of the known pixels.

    Parameters
    ----------
    values
        Shape (C, H, W), any units; read only where ``known``.
    known
        The same shape. Known pixels come back bit for bit; a plane that has none comes back 0.
    mean
        Expected value far from known pixels; None: the mean of the known pixels.
    noise
        Variance of pixel noise, over the variance of the difference of neighbouring pixels.
    """
    whole = push_pull.push_pull(values, known)
    # Absent bands, and bands without a gap, need no transforms.
    partly = known.any(axis=(1, 2)) & ~known.all(axis=(1, 2))
    if not partly.any() or min(values.shape[1:]) < 2:
        return whole
    height, width = (fft.next_fast_len(edge + 2 * _BEYOND_PX, real=True) for edge in values.shape[1:])
    spectrum = _spectrum(
        height, width, _texture(values, known), noise, _LARGEST if mean is None else _NEAREST
    )
    precision = np.float32(1) / spectrum
    values, known, start = values[partly], known[partly], whole[partly]
    count = known.sum(axis=(1, 2), keepdims=True)
    total = np.where(known, values, 0).sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    level: Float32Array = (total / count if mean is None else np.full(total.shape, mean)).astype(np.float32)
    beyond = [(0, 0)]
    for edge, size in zip(values.shape[1:], (height, width), strict=True):
        beyond.append(((size - edge) // 2, size - edge - (size - edge) // 2))
    inner = np.s_[:, beyond[1][0] : height - beyond[1][1], beyond[2][0] : width - beyond[2][1]]
    free = (~np.pad(known, beyond)).astype(np.float32)

    def within(factor: Float32Array, image: Float32Array) -> Float32Array:
        frequencies = fft.rfft2(image, axes=(1, 2))
        frequencies *= factor
        found: Float32Array = fft.irfft2(frequencies, s=(height, width), axes=(1, 2), overwrite_x=True)
        found *= free
        return found

    def product(a: Float32Array, b: Float32Array) -> NDArray[np.float32]:
        return np.asarray((a * b).sum(axis=(1, 2), keepdims=True))

    x: Float32Array = np.pad(start, beyond, mode="symmetric") - level
    rest = -within(precision, x)
    ahead = within(spectrum, rest)
    way, size = ahead.copy(), product(rest, ahead)
    tiny = np.float32(1e-20)
    for _ in range(_ITERATIONS):
        step = within(precision, way)
        pace = size / np.maximum(product(way, step), tiny)
        x += pace * way
        step *= pace
        rest -= step
        ahead = within(spectrum, rest)
        before, size = size, product(rest, ahead)
        way *= size / np.maximum(before, tiny)
        way += ahead
    whole[partly] = np.where(known, start, (x + level)[inner])
    return whole


@dataclass(frozen=True)
class _Texture:
    """The power-law spectrum of a tile: its exponent, in the metric a fy^2 + 2 b fy fx + c fx^2."""

    exponent: float = _EXPONENT
    a: float = 1.0
    b: float = 0.0
    c: float = 1.0


def _texture(values: NDArray[np.floating], known: BoolArray) -> _Texture:
    """Return roughness and direction of a tile, estimated from its known pixels."""
    squares, counts = [], []
    for lag in _LAGS_PX:
        total, count = 0.0, 0
        for ahead, behind in ((np.s_[:, lag:], np.s_[:, :-lag]), (np.s_[:, :, lag:], np.s_[:, :, :-lag])):
            both = known[ahead] & known[behind]
            total += float(
                np.square(values[ahead] - values[behind], where=both, out=np.zeros(both.shape)).sum()
            )
            count += int(both.sum())
        squares.append(total)
        counts.append(count)
    if min(counts) < _ISOTROPIC_PAIRS or min(squares) <= 0:
        return _Texture()
    # A straight line through three points evenly spaced in log distance has the slope of the outer two.
    growth = np.log(squares[-1] / counts[-1] * counts[0] / squares[0]) / np.log(_LAGS_PX[-1] / _LAGS_PX[0])
    exponent = float(np.clip(_ROUGHNESS[0] + _ROUGHNESS[1] * growth, *_EXPONENTS))
    across = known[:, 1:-1, 2:] & known[:, 1:-1, :-2] & known[:, 2:, 1:-1] & known[:, :-2, 1:-1]
    down = np.where(across, values[:, 2:, 1:-1] - values[:, :-2, 1:-1], 0).astype(np.float64)
    right = np.where(across, values[:, 1:-1, 2:] - values[:, 1:-1, :-2], 0).astype(np.float64)
    yy, yx, xx = float((down * down).sum()), float((down * right).sum()), float((right * right).sum())
    no_direction = (yy + xx) / 2 * (0.01 + _ISOTROPIC_PAIRS / max(int(across.sum()), 1))
    yy, xx = yy + no_direction, xx + no_direction
    if no_direction <= 0:
        return _Texture(exponent)
    # Power lies in the direction of the gradients: the metric is the tensor's inverse, scaled to determinant 1.
    unit = np.sqrt(yy * xx - yx * yx)
    return _Texture(exponent, xx / unit, -yx / unit, yy / unit)


def _spectrum(height: int, width: int, texture: _Texture, noise: float, largest: float) -> Float32Array:
    """Return the variance of each frequency of `scipy.fft.rfft2`; neighbouring pixels differ by variance 2."""
    rows = 2 * np.sin(np.pi * fft.fftfreq(height))[:, None]
    cols = 2 * np.sin(np.pi * fft.rfftfreq(width))
    metric = texture.a * rows**2 + 2 * texture.b * rows * cols + texture.c * cols**2
    variance = (np.maximum(metric, 0) + largest) ** (-texture.exponent / 2)
    # Half of the spectrum stands for the whole: each column but the first and Nyquist's counts twice.
    twice = np.where((cols == 0) | (2 * np.arange(len(cols)) == width), 1, 2)
    variance /= (variance * (rows**2 + cols**2) * twice).sum() / (4 * height * width)
    spectrum: Float32Array = (variance + noise).astype(np.float32)
    return spectrum
