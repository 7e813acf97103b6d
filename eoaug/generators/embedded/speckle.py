"""Samples of radar bands: the best estimate, with the speckle that it lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import Request
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = ["radar_channels", "speckled"]

_LAG_PX = 2
"""Distance of the pixels that are compared: next to each other they share some speckle, further apart the ground differs."""
_LEAST_PX = 50
"""Pairs of pixels that a standard deviation needs."""
_MAD = 0.6745
"""Median of the absolute value of a standard normal number."""


def radar_channels(request: Request, slots: int) -> list[int]:
    """Return the channels beyond the slots of a card that hold backscatter in decibels."""
    return [slots + i for i, kind in enumerate(request.extra_kinds) if kind == "decibel"]


def speckled(request: Request, target: int, estimate: Float32Array, channels: list[int]) -> Float32Array:
    """Return an estimate (C, H, W) whose radar bands have the speckle of what was measured.

    Speckle multiplies power, so in decibels it is added: noise that is independent from pixel to pixel, a function of the
    place. Its variance is what the estimate lacks over that of the known pixels of the date, or, without enough, of all
    dates. An estimate from few dates has some of it already.
    """
    out = estimate.copy()
    white = noise.normal(
        request.origin,
        out.shape,
        seed=request.seed,
        stream="embedded speckle",
        member=request.member,
        time=int(request.times[target]),
    )
    for channel in channels:
        known = request.known[:, channel]
        measured = _spread(request.values[target : target + 1, channel], known[target : target + 1])
        if measured is None:
            measured = _spread(request.values[:, channel], known)
        hole = request.fill[target, channel]
        present = _spread(estimate[None, channel], hole[None]) or 0.0
        if measured is not None:
            lacking = np.sqrt(max(measured**2 - present**2, 0.0))
            out[channel] = np.where(hole, out[channel] + np.float32(lacking) * white[channel], out[channel])
    return out


def _spread(images: Float32Array, known: NDArray[np.bool_]) -> float | None:
    """Return the standard deviation of what changes from pixel to pixel, (T, H, W); None with too few pairs."""
    pairs = []
    for ahead, behind in (
        (np.s_[:, _LAG_PX:], np.s_[:, :-_LAG_PX]),
        (np.s_[..., _LAG_PX:], np.s_[..., :-_LAG_PX]),
    ):
        both = known[ahead] & known[behind]
        pairs.append(np.abs(images[ahead] - images[behind])[both])
    differences = np.concatenate(pairs)
    if differences.size < _LEAST_PX:
        return None
    return float(np.median(differences) / _MAD / np.sqrt(2))
