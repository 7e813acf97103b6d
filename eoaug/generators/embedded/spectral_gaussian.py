"""The clean estimate in closed form, for data that are a stationary Gaussian field.

Numpy and scipy. At high noise a diffusion model's estimate is close to that of the Gaussian with the data's
mean and covariance (Wang & Vastola 2024, arXiv:2412.09726), which needs no training. A network that corrects it only
learns the difference, and has the right colours and spectra from its first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["Gaussian", "equalised"]


_OCTAVES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
"""Spatial frequencies in cycles per pixel at which `equalised` has its gains; it interpolates in log frequency."""
_LEAST = 1e-4
"""Least variance along any direction, in model units squared."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian field of C bands whose covariance is diagonal in spatial frequency (DCT-II, orthonormal)."""

    mean: NDArray[np.float32]
    """Shape (C,), model units."""
    covariance: NDArray[np.float32]
    """Shape (N, N, C, C): covariance of the bands at each frequency of an N x N image."""

    @classmethod
    def fit(cls, images: NDArray[np.floating], weight: NDArray[np.bool_]) -> Gaussian:
        """Return the Gaussian of images.

        Parameters
        ----------
        images
            Shape (n, C, N, N), any units.
        weight
            Shape (n, C, N, N), False where there is no value; missing parts of a band are taken to vary as much as the
            rest of the image.
        """
        cover = weight.mean(axis=(2, 3), dtype=np.float64)
        there = (cover > 0.05).astype(np.float64)
        share = np.maximum(cover, 0.05)
        level = (images * weight).mean(axis=(2, 3), dtype=np.float64) / share
        mean = (level * there).sum(0) / np.maximum(there.sum(0), 1)
        centred = (images - mean[:, None, None]) * weight * (there / np.sqrt(share))[:, :, None, None]
        spectrum = np.moveaxis(fft.dctn(centred, axes=(2, 3), norm="ortho"), 1, -1)
        product = np.einsum("nuvi,nuvj->uvij", spectrum, spectrum)
        pairs = np.maximum(there.T @ there, 1)
        return cls(mean.astype(np.float32), (product / pairs).astype(np.float32))

    def coarser(self) -> Gaussian:
        """Return the same field with half the frequencies along each axis, averaged in pairs."""
        n, _, c, _ = self.covariance.shape
        pairs = self.covariance.reshape(n // 2, 2, n // 2, 2, c, c)
        return Gaussian(self.mean, pairs.mean(axis=(1, 3)))

    def estimate(
        self,
        x_t: NDArray[np.float32],
        t: float,
        present: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Return E[x | x_t] on the path x_t = t x + (1 - t) e.

        Parameters
        ----------
        x_t
            Shape (C, H, W). Of more bands than the field has, each further one is a field of its own, with the mean
            spectrum of the field's bands.
        t
            0 = noise, 1 = clean.
        present
            Shape (C,), True for the bands of the cube; 0 is returned for the others.
        """
        own = len(self.mean)
        if len(x_t) > own:
            further = [
                _one_band(self).estimate(x_t[c : c + 1], t, present[c : c + 1]) for c in range(own, len(x_t))
            ]
            return np.concatenate([self.estimate(x_t[:own], t, present[:own]), *further])
        out = np.zeros_like(x_t)
        if not present.any():
            return out
        variance, axes = self._axes(tuple(present.tolist()), x_t.shape[1], x_t.shape[2])
        mean = self.mean[present].astype(np.float64)
        spectrum = fft.dctn(x_t[present] - t * mean[:, None, None], axes=(1, 2), norm="ortho")
        along = np.einsum("uvik,iuv->kuv", axes, spectrum)
        gain = t * variance / (t * t * variance + (1.0 - t) ** 2)
        back = np.einsum("uvik,kuv->iuv", axes, along * np.moveaxis(gain, -1, 0))
        out[present] = fft.idctn(back, axes=(1, 2), norm="ortho") + mean[:, None, None]
        return out

    def _axes(
        self, present: tuple[bool, ...], height: int, width: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _principal(self, present, height, width)


@lru_cache(maxsize=32)
def _one_band(field: Gaussian) -> Gaussian:
    """Return a field of one band: the average of the bands of ``field``, each on its own."""
    spectra = np.diagonal(field.covariance, axis1=2, axis2=3)
    return Gaussian(np.zeros(1, np.float32), spectra.mean(axis=-1)[..., None, None])


@lru_cache(maxsize=32)
def _principal(
    field: Gaussian, present: tuple[bool, ...], height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances (H, W, c) and principal axes (H, W, c, c) of the present bands, by frequency."""
    size = field.covariance.shape[0]
    rows, cols = (np.arange(n) * size // n for n in (height, width))
    chosen = np.flatnonzero(present)
    covariance = field.covariance[np.ix_(rows, cols, chosen, chosen)].astype(np.float64)
    variance, axes = np.linalg.eigh(covariance)
    return np.maximum(variance, _LEAST), axes


def equalised(image: NDArray[np.float32], gains: Sequence[float]) -> NDArray[np.float32]:
    """Return an image with a gain applied to each octave of its spatial frequencies.

    A sampler with few steps ends at a noise level that hides the finest detail. The loss is the same for every sample,
    and the gains compensate for it.

    Parameters
    ----------
    image
        Shape (C, H, W).
    gains
        Five factors of the amplitude, at 1/64 to 1/4 cycle per pixel; the last holds beyond.
    """
    frequencies = fft.dctn(image, axes=(1, 2), norm="ortho")
    found: NDArray[np.float32] = fft.idctn(
        frequencies * _response(*image.shape[1:], tuple(gains)), axes=(1, 2), norm="ortho"
    )
    return found


@lru_cache(maxsize=16)
def _response(height: int, width: int, gains: tuple[float, ...]) -> NDArray[np.float32]:
    rows, cols = (np.arange(edge) / (2 * edge) for edge in (height, width))
    radius = np.maximum(np.hypot(rows[:, None], cols), _OCTAVES[0])
    response: NDArray[np.float32] = np.interp(np.log(radius), np.log(_OCTAVES), gains).astype(np.float32)
    response.flags.writeable = False
    return response
