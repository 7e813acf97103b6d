"""From three generated colours to the other bands of a cube: the rules by which a picture model serves a sensor.

Imports numpy, scipy by way of ``classical``, and ``base``. All statistics are of one tile, which the
lattice fixes; everything is in model units, and linear.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import Request
from eoaug.generators.interpolation.back_projection import coarse_prior, surroundings, tile_of
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor

__all__ = ["RULES", "Rule", "lift"]


Rule = Literal["keep", "regress", "inject"]

RULES: dict[Rule, str] = {
    "keep": "the other bands stay as they were measured",
    "regress": "the other bands are linear in the colours, pixel by pixel, as the tile's measurement has it",
    "inject": "the other bands get the colours' detail above the modulation transfer of a pixel four times as large",
}
"""What may become of the bands that a picture model does not know."""

_DETAIL = Sensor(factor=4, mtf=(0.3,))
"""Where no coarse measurement says what detail is: what a sensor of pixels four times as large leaves out."""
_PRIOR_PIXELS = 1.0
"""Weight of the prior (a band is grey: the mean of the colours), in pixels of unit variance."""


def lift(
    rule: Rule, request: Request, target: int, colours: Float32Array, around: Float32Array | None = None
) -> Float32Array:
    """Return the bands behind the colours, shape (C - 3, H, W) in model units.

    Parameters
    ----------
    rule
        One of `RULES`.
    request
        What was asked; its first three slots are the colours.
    target
        Its date to fill.
    colours
        Shape (3, H, W), generated.
    around
        Of a super-resolution, what `classical.surroundings` returns; None: computed here.
    """
    if rule == "keep":
        known = request.known[target, 3:]
        return np.where(known, request.values[target, 3:], np.float32(0))
    if request.coarse is not None and request.sensor is not None:
        around = surroundings(request, target) if around is None else around
        return _lift_coarse(rule, request, target, colours, request.sensor, tile_of(request, around))
    values, known = request.values[target], request.known[target]
    before = push_pull(values[:3], known[:3])
    seen = known[:3].all(axis=0)
    out = []
    for band, there in zip(values[3:], known[3:], strict=True):
        both = seen & there
        if rule == "regress":
            offset, slopes = _fitted(before[:, both], band[both])
            made = offset + np.einsum("c,chw->hw", slopes, colours.astype(np.float64))
            # Where the band was measured beside the colours, only their change is carried over.
            moved = band + np.einsum("c,chw->hw", slopes, (colours - before).astype(np.float64))
            out.append(np.where(both, moved, made))
        else:
            grey = before.mean(axis=0)
            change = colours.mean(axis=0) - np.where(seen, grey, np.float32(0))
            out.append(push_pull(band, there) + _gain(grey[both], band[both]) * _detail(change, _DETAIL))
    return np.stack(out).astype(np.float32) if out else np.empty((0, *colours.shape[1:]), np.float32)


def _lift_coarse(
    rule: Rule, request: Request, target: int, colours: Float32Array, sensor: Sensor, smooth: Float32Array
) -> Float32Array:
    """Lift a super-resolved tile from its prior: coefficients from the coarse pixels, which hold every band."""
    assert request.coarse is not None
    coarse = request.coarse[target]
    seen = np.isfinite(coarse[:3]).all(axis=0)
    out = []
    for band, base in zip(coarse[3:], smooth[3:], strict=True):
        both = seen & np.isfinite(band)
        if rule == "regress":
            _, slopes = _fitted(coarse[:3, both], band[both])
            change = np.einsum("c,chw->hw", slopes, (colours - smooth[:3]).astype(np.float64))
            out.append(base + change)
        else:
            gain = _gain(coarse[:3, both].mean(axis=0), band[both])
            out.append(base + gain * _detail(colours.mean(axis=0), sensor))
    return np.stack(out).astype(np.float32) if out else np.empty((0, *colours.shape[1:]), np.float32)


def _fitted(colours: Float32Array, band: Float32Array) -> tuple[float, NDArray[np.float64]]:
    """Return offset and slopes of a band over colours (3, n), drawn to a grey band by a pixel's weight."""
    design = np.concatenate([np.ones((1, colours.shape[1])), colours.astype(np.float64)])
    prior = np.array([0.0, 1 / 3, 1 / 3, 1 / 3])
    normal = design @ design.T + _PRIOR_PIXELS * np.eye(4)
    solution = np.linalg.solve(normal, design @ band.astype(np.float64) + _PRIOR_PIXELS * prior)
    return float(solution[0]), solution[1:]


def _gain(grey: Float32Array, band: Float32Array) -> float:
    """Return how much a band changes with the grey of the colours (Alparone et al. 2007, GLP-CBD gain,
    doi:10.1109/TGRS.2007.904923), drawn to 1 by a pixel's weight.
    """
    if not grey.size:
        return 1.0
    x = grey.astype(np.float64) - grey.mean(dtype=np.float64)
    y = band.astype(np.float64) - band.mean(dtype=np.float64)
    return float((x @ y + _PRIOR_PIXELS) / (x @ x + _PRIOR_PIXELS))


def _detail(grey: NDArray[np.floating], sensor: Sensor) -> Float32Array:
    """Return what a sensor does not pass of an image (H, W): to add it changes no measurement."""
    one = sensor.of_band(0)
    low = coarse_prior(one.degrade(grey[None].astype(np.float32)), one)
    return np.asarray(grey - low[0], np.float32)
