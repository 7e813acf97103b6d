"""Texture of radar images by grey-level co-occurrence, and how far two sets of patches differ in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from skimage.feature import graycomatrix, graycoprops

from eoaug.errors import ParameterError

__all__ = ["DESCRIPTORS", "DISTANCES_PX", "glcm_descriptors", "texture_distances"]

DESCRIPTORS = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
"""Of Haralick et al. 1973, doi:10.1109/TSMC.1973.4309314."""
DISTANCES_PX = (1, 2, 4, 8)
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)


def glcm_descriptors(
    patches: NDArray[Any],
    *,
    limits: tuple[float, float],
    levels: int = 32,
    distances_px: tuple[int, ...] = DISTANCES_PX,
) -> dict[str, NDArray[np.float64]]:
    """Return descriptors of texture, each of shape (patches, distances), as the mean over four angles.

    Symmetric, normed matrices of scikit-image's ``graycomatrix``.

    Parameters
    ----------
    patches
        Shape (N, H, W): amplitude or decibels without gaps.
    limits
        Values of the first and of the last grey level: constants of the comparison, never of one image.
    levels
        Number of grey levels.
    distances_px
        Offsets of the pairs of pixels.
    """
    low, high = limits
    images = np.asarray(patches, np.float64)
    if images.ndim != 3 or not np.isfinite(images).all() or not low < high:
        raise ParameterError(
            f"patches of shape {images.shape} with limits {limits} have no grey levels",
            "give (patches, rows, columns) without gaps, and limits in ascending order",
        )
    grey = np.clip((images - low) / (high - low) * levels, 0, levels - 1).astype(np.uint8)
    out = {name: np.empty((len(grey), len(distances_px))) for name in DESCRIPTORS}
    for i, patch in enumerate(grey):
        matrix = graycomatrix(patch, distances_px, _ANGLES, levels, symmetric=True, normed=True)  # type: ignore[no-untyped-call]
        for name in DESCRIPTORS:
            out[name][i] = graycoprops(matrix, name).mean(axis=1)  # type: ignore[no-untyped-call]
    return out


def texture_distances(
    first: Mapping[str, NDArray[np.float64]], second: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return the 1-Wasserstein distance over patches of every descriptor, shape (distances,), in deviations of the first.

    Parameters
    ----------
    first, second
        As `glcm_descriptors` returns them; ``first`` are the real patches.
    """
    out = {}
    for name, real in first.items():
        spread = np.maximum(real.std(axis=0), 1e-9)
        columns = zip(real.T, second[name].T, spread, strict=True)
        out[name] = np.array([wasserstein_distance(a, b) / unit for a, b, unit in columns])
    return out
