"""Rules that derive the other bands of a cube from three generated colours.

All statistics are of one tile, whose position the lattice fixes; all values are in model units.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import Request
from eoaug.generators.interpolation.back_projection import coarse_prior, prior_with_halo, tile_of
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor

__all__ = ["RULES", "Rule", "lift"]


Rule = Literal["keep", "regress", "inject"]

RULES: dict[Rule, str] = {
    "keep": "the other bands stay as measured",
    "regress": "the other bands are a linear function of the colours, fitted to the measured pixels of the tile",
    "inject": "the other bands get the colours' detail above the modulation transfer of a pixel four times as large",
}
"""Rules for the bands that an image model does not generate."""

_DETAIL = Sensor(factor=4, mtf=(0.3,))
"""Without a coarse measurement, detail is what a sensor with pixels four times as large does not resolve."""
_PRIOR_PIXELS = 1.0
"""Weight of the prior that a band equals the mean of the colours, in pixels of unit variance."""


def lift(
    rule: Rule, request: Request, target: int, colours: Float32Array, around: Float32Array | None = None
) -> Float32Array:
    """Return the bands after the first three, shape (C - 3, H, W) in model units.

    Parameters
    ----------
    rule
        One of `RULES`.
    request
        Its first three bands are red, green and blue.
    target
        Index of the date to generate.
    colours
        Shape (3, H, W), generated.
    around
        For super-resolution, the result of `back_projection.prior_with_halo`; None: computed here.
    """
    if rule == "keep":
        known = request.known[target, 3:]
        return np.where(known, request.values[target, 3:], np.float32(0))
    if request.coarse is not None and request.sensor is not None:
        around = prior_with_halo(request, target) if around is None else around
        return _lift_coarse(rule, request, target, colours, request.sensor, tile_of(request, around))
    values, known = request.values[target], request.known[target]
    before = push_pull(values[:3], known[:3])
    measured = known[:3].all(axis=0)
    out = []
    for band, band_known in zip(values[3:], known[3:], strict=True):
        both = measured & band_known
        if rule == "regress":
            offset, slopes = _fitted(before[:, both], band[both])
            made = offset + np.einsum("c,chw->hw", slopes, colours.astype(np.float64))
            # Where band and colours were measured, only the change of the colours is carried over.
            moved = band + np.einsum("c,chw->hw", slopes, (colours - before).astype(np.float64))
            out.append(np.where(both, moved, made))
        else:
            grey = before.mean(axis=0)
            change = colours.mean(axis=0) - np.where(measured, grey, np.float32(0))
            out.append(push_pull(band, band_known) + _gain(grey[both], band[both]) * _detail(change, _DETAIL))
    return np.stack(out).astype(np.float32) if out else np.empty((0, *colours.shape[1:]), np.float32)


def _lift_coarse(
    rule: Rule, request: Request, target: int, colours: Float32Array, sensor: Sensor, smooth: Float32Array
) -> Float32Array:
    """Derive bands of a super-resolved tile: coefficients from the coarse pixels, where every band is measured."""
    assert request.coarse is not None
    coarse = request.coarse[target]
    measured = np.isfinite(coarse[:3]).all(axis=0)
    out = []
    for band, base in zip(coarse[3:], smooth[3:], strict=True):
        both = measured & np.isfinite(band)
        if rule == "regress":
            _, slopes = _fitted(coarse[:3, both], band[both])
            change = np.einsum("c,chw->hw", slopes, (colours - smooth[:3]).astype(np.float64))
            out.append(base + change)
        else:
            gain = _gain(coarse[:3, both].mean(axis=0), band[both])
            out.append(base + gain * _detail(colours.mean(axis=0), sensor))
    return np.stack(out).astype(np.float32) if out else np.empty((0, *colours.shape[1:]), np.float32)


def _fitted(colours: Float32Array, band: Float32Array) -> tuple[float, NDArray[np.float64]]:
    """Return offset and slopes of a band over colours (3, n), with a grey band as prior."""
    design = np.concatenate([np.ones((1, colours.shape[1])), colours.astype(np.float64)])
    prior = np.array([0.0, 1 / 3, 1 / 3, 1 / 3])
    normal = design @ design.T + _PRIOR_PIXELS * np.eye(4)
    solution = np.linalg.solve(normal, design @ band.astype(np.float64) + _PRIOR_PIXELS * prior)
    return float(solution[0]), solution[1:]


def _gain(grey: Float32Array, band: Float32Array) -> float:
    """Return the gain of a band over the mean of the colours (Alparone et al. 2007, GLP-CBD gain,
    doi:10.1109/TGRS.2007.904923), with a gain of 1 as prior.
    """
    if not grey.size:
        return 1.0
    x = grey.astype(np.float64) - grey.mean(dtype=np.float64)
    y = band.astype(np.float64) - band.mean(dtype=np.float64)
    return float((x @ y + _PRIOR_PIXELS) / (x @ x + _PRIOR_PIXELS))


def _detail(grey: NDArray[np.floating], sensor: Sensor) -> Float32Array:
    """Return the detail of an image (H, W) that a sensor does not resolve: adding it changes no measurement."""
    single = sensor.of_band(0)
    low = coarse_prior(single.degrade(grey[None].astype(np.float32)), single)
    return np.asarray(grey - low[0], np.float32)
