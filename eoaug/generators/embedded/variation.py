"""Variations: new texture as rough as that of the scene, its edges, and tones that change from parcel to parcel.

Numpy and scipy. A sampled detail has the roughness of a typical place, everywhere; here a smooth field stays smooth, and roads and
houses stay. Tones follow the borders of the scene by a guided filter (He et al. 2013,
doi:10.1109/TPAMI.2012.213). Everything is a function of a neighbourhood of `CONTEXT_PX`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from eoaug.generators.base import CONTEXT_PX
from eoaug.generators.embedded.plane_numbers import PlaneNumbers
from eoaug.raster.arrays import Float32Array, Float64Array

__all__ = ["moved_texture", "redrawn", "tones"]


_AROUND_PX = 2.0
"""Standard deviation of the window in which roughness is compared."""
_MOVED_PX, _LIMIT = 7, 2.0
"""How far away texture is taken from, and its largest value relative to its size around."""
_NEAR_PX = 7
"""Edge of the neighbourhood whose least roughness is that of its texture."""
_LEAST = 1e-3
"""Roughness in model units that does not matter."""
_MOST = 1.5
"""Largest gain of a detail."""
_FLOOR = 0.02
_GUIDED_PX, _EVEN = 13, 0.04
"""Edge of the window of the guided filter, and differences of log brightness that it smooths."""
_PATCH_PX = 9.0
"""Distance of the nodes of random tones: about half a field of 200 m."""
_LIGHT, _TONE, _VIGOUR = 0.09, 0.11, 0.09
"""Standard deviation, at strength 1, of the logarithm of the brightness of an image and of parcels, and of the vigour of
vegetation. With tones of 0.22 a classifier named one chip in ten as another class than its variation: contrast is part of
what a class looks like."""
_VIGOUROUS = {"blue": -0.5, "green": -0.2, "red": -0.9, "nir": 0.7, "swir16": -0.5, "swir22": -0.8}
"""How bands follow vigour."""


def redrawn(new: Float32Array, old: Float32Array, *, kept: float, share: float = 1.0) -> Float32Array:
    """Return a detail whose texture is new and whose edges are those of the scene, band by band.

    What a neighbourhood of every pixel has at least in roughness counts as texture, and gets the new detail; what is rougher
    than that are edges, houses and roads.

    Parameters
    ----------
    new, old
        Shape (C, H, W), model units: a sampled detail, and that of the scene.
    kept
        Share of the edges that is kept, 0 to 1.
    share
        Share of the texture that is new, 0 to 1; with 0, and all edges kept, the result is the old detail.
    """
    sigma, window = (0, _AROUND_PX, _AROUND_PX), (1, _NEAR_PX, _NEAR_PX)
    found, wanted = (
        ndimage.gaussian_filter(np.square(detail, dtype=np.float64), sigma, mode="nearest") + _LEAST**2
        for detail in (new, old)
    )
    texture = ndimage.gaussian_filter(
        ndimage.minimum_filter(wanted, window, mode="nearest"), sigma, mode="nearest"
    )
    edges = np.sqrt(np.maximum(1 - texture / wanted, 0))
    fresh = share * new * np.minimum(np.sqrt(texture / found), _MOST)
    still = (kept * edges + np.sqrt(1 - share**2) * (1 - edges)) * old
    detail: Float32Array = (fresh + still).astype(np.float32)
    return detail


def moved_texture(start: Float32Array, *, seed: int, member: int) -> Float32Array:
    """Return the texture of a scene some pixels away, in which its edges are limited: as rough and as fine as its own.

    Parameters
    ----------
    start
        Shape (C, H + 2 CONTEXT_PX, W + 2 CONTEXT_PX), model units.
    seed, member
        Key of the variation.

    Returns
    -------
    Shape (C, H + 2 n, W + 2 n) with n = CONTEXT_PX - `_MOVED_PX`.
    """
    exact = start.astype(np.float64)
    fine = exact - _near(exact)
    rough = np.sqrt(_near(fine**2)) + _LEAST
    texture = np.clip(fine, -_LIMIT * rough, _LIMIT * rough)
    angle = 2 * np.pi * float(PlaneNumbers(seed, member).of_plane("variation texture", 1)[0])
    moved = np.zeros_like(texture[:, _MOVED_PX:-_MOVED_PX, _MOVED_PX:-_MOVED_PX])
    # The mean of two places: no pattern of the scene comes back as a whole.
    for turn in (0.0, 2.0):
        down, right = (round(_MOVED_PX * f(angle + turn)) for f in (np.sin, np.cos))
        rows, cols = (
            slice(_MOVED_PX + step, size - _MOVED_PX + step)
            for step, size in zip((down, right), texture.shape[1:], strict=True)
        )
        moved += np.sqrt(0.5) * texture[:, rows, cols]
    return moved.astype(np.float32)


def _near(values: Float64Array) -> Float64Array:
    """Return means over what is near."""
    smoothed: Float64Array = ndimage.gaussian_filter(
        values, (0, _AROUND_PX, _AROUND_PX), mode="nearest", radius=(0, 4, 4)
    )
    return smoothed


def tones(
    brightness: Float64Array,
    bands: Sequence[str],
    *,
    origin: tuple[int, int],
    seed: int,
    member: int,
    strength: float,
) -> Float64Array:
    """Return factors of the reflectance of bands, shape (C, H, W), for a tile.

    Parameters
    ----------
    brightness
        Shape (H + 2 CONTEXT_PX, W + 2 CONTEXT_PX), reflectance 0 or more: the mean of the visible bands of the start.
    bands
        Common names; of others only brightness changes.
    origin
        Absolute index of the first pixel of the tile.
    seed, member
        Key of the variation.
    strength
        Denoising strength, 0 to 1.
    """
    numbers = PlaneNumbers(seed, member)
    rows, cols = brightness.shape
    y, x = np.meshgrid(
        origin[0] - CONTEXT_PX + np.arange(rows, dtype=np.float64),
        origin[1] - CONTEXT_PX + np.arange(cols, dtype=np.float64),
        indexing="ij",
    )
    guide = np.log(np.maximum(brightness, 0) + _FLOOR)
    fields = [
        _guided(
            numbers.smooth(f"variation {name}", y.ravel(), x.ravel(), _PATCH_PX).reshape(rows, cols), guide
        )
        for name in ("tone", "vigour")
    ]
    inner = slice(CONTEXT_PX, -CONTEXT_PX)
    tone, vigour = (field[inner, inner] for field in fields)
    follow = np.array([_VIGOUROUS.get(band, 0.0) for band in bands])[:, None, None]
    light = float(np.clip(numbers.of_plane("variation light", 1)[0], -2, 2))
    factors: Float64Array = np.exp(strength * (_LIGHT * light + _TONE * tone + _VIGOUR * follow * vigour))
    return factors


def _guided(field: Float64Array, guide: Float64Array) -> Float64Array:
    """Return a field smoothed but for the edges of a guide."""

    def mean(values: Float64Array) -> Float64Array:
        smoothed: Float64Array = ndimage.uniform_filter(values, _GUIDED_PX, mode="nearest")
        return smoothed

    centre, level = mean(guide), mean(field)
    slope = (mean(guide * field) - centre * level) / (mean(guide * guide) - centre**2 + _EVEN**2)
    guided: Float64Array = mean(slope) * guide + mean(level - slope * centre)
    return guided
