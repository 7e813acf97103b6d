"""Features of the embedded networks: the arrays that requests become, in training and in inference alike.

Imports numpy and ``base``; no tensor library. A tile is normalised by its own mean and contrast, so that the networks
learn structure independently of brightness. Both are those of the tile's prior, not of a scene: they must not depend on
what else is processed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import Request, present_bands

__all__ = ["Features", "category", "extract_features", "from_log", "to_log"]


_DAY_S = 86_400.0
_CONTRAST_FLOOR = 0.03
"""Least contrast of a band in model units: division by less would amplify sensor noise."""
_CLIP = 6.0
"""Limit of normalised values: a context date may differ from the target by many times its contrast."""
_LOG_FLOOR = 0.02
"""Reflectance added before the logarithm: differences at smaller values are haze and noise."""
_LOG_SPREAD = 0.6
"""Standard deviation of log reflectance over land, roughly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of one tile."""

    image: NDArray[np.float32]
    """Shape (2 C (1 + context), H, W): prior and known mask of the target, then values and known mask of
    each context date, nearest first; values normalised, 0 where unknown."""
    facts: NDArray[np.float32]
    """Shape (3 + 2 context + C,): pixel size, factor, 1 for super-resolution; per context date its distance in time and
    1 if it is given; 1 for every band that is given."""
    centre: NDArray[np.float32]
    """Shape (C, 1, 1), model units: the mean of the tile."""
    contrast: NDArray[np.float32]
    """Shape (C, 1, 1), model units: the standard deviation of the tile, with a floor."""


def extract_features(request: Request, prior: NDArray[np.float32], target: int, *, context: int) -> Features:
    """Return the features of a request.

    Parameters
    ----------
    request
        One target date, at most ``context`` others; the channels that the networks take.
    prior
        Shape (C, H, W), model units: the classical estimate of the target date. Channels after those of the request
        have no features, but a centre and a contrast.
    target
        Index of that date.
    context
        Number of context dates that the networks take.
    """
    C, H, W = (request.values.shape[1], *prior.shape[1:])
    present = present_bands(request)
    centre = prior.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)[:, None, None]
    spread = prior.std(axis=(1, 2), dtype=np.float64)[:, None, None]
    contrast = np.hypot(spread, _CONTRAST_FLOOR).astype(np.float32)

    def normal(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        normed = (values - centre[:C]) / contrast[:C]
        return np.where(known, np.clip(normed, -_CLIP, _CLIP), np.float32(0))

    everywhere = np.broadcast_to(present[:, None, None], (C, H, W))
    known = request.known[target]
    parts = [normal(prior[:C], everywhere), known.astype(np.float32)]
    gsd_m = float(request.metadata[target, 2])
    facts = [
        float(np.log2(gsd_m / 10.0) / 4) if np.isfinite(gsd_m) and gsd_m > 0 else 0.0,
        float(np.log2(request.factor) / 2),
        float(request.coarse is not None),
    ]
    others = [date for date in range(len(request.times)) if date != target]
    others.sort(key=lambda date: (abs(int(request.times[date] - request.times[target])), date))
    for slot in range(context):
        if slot < len(others):
            date = others[slot]
            days = float(request.times[date] - request.times[target]) / _DAY_S
            parts += [
                normal(request.values[date], request.known[date]),
                request.known[date].astype(np.float32),
            ]
            facts += [float(np.arcsinh(days / 10.0) / 4), 1.0]
        else:
            parts += [np.zeros((C, H, W), np.float32)] * 2
            facts += [0.0, 0.0]
    return Features(
        image=np.concatenate(parts).astype(np.float32, copy=False),
        facts=np.array([*facts, *present], np.float32),
        centre=centre,
        contrast=contrast,
    )


def category(request: Request) -> str:
    """Return the category of a request, by which layers, scales and spectra are chosen.

    ``gap``: part of a date is known, and no other date; ``mixed``: other dates as well; ``dates``: only
    those; ``x2``, ``x4``, ``x8``: super-resolution, its factor rounded down to one of these.
    """
    if request.coarse is not None:
        return "x2" if request.factor < 4 else "x4" if request.factor < 8 else "x8"
    target = request.target
    if not request.known[~target].any():
        return "gap"
    around = request.context_cells is not None and bool(np.isfinite(request.context_cells[target]).any())
    return "mixed" if around or request.known[target].any() else "dates"


def to_log(values: NDArray[np.floating], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return normalised log reflectance, the unit of landscapes; its tile means are close to a Gaussian.

    Parameters
    ----------
    values
        Shape (..., C, h, w), model units; negative reflectance counts as 0.
    mean, std
        Reflectance of model unit 0 and of one model unit, per slot.
    """
    reflectance = np.maximum(values * _column(std) + _column(mean), 0)
    return (np.log((reflectance + _LOG_FLOOR) / (_column(mean) + _LOG_FLOOR)) / _LOG_SPREAD).astype(
        np.float32
    )


def from_log(logs: NDArray[np.floating], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return model units, the inverse of `to_log`; reflectance stays between 0 and 0.9."""
    reflectance = np.exp(logs * _LOG_SPREAD) * (_column(mean) + _LOG_FLOOR) - _LOG_FLOOR
    return ((np.clip(reflectance, 0, 0.9) - _column(mean)) / _column(std)).astype(np.float32)


def _column(numbers: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(numbers, np.float64)[:, None, None]
