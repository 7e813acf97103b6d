"""Bands of coarser pixels sharpened with the fine bands of the same cube.

The detail of a band is regressed on that of the fine bands one scale coarser, where both are known, and applied at the scale
that is missing (multi-resolution analysis with regression: Vivone et al. 2018, doi:10.1109/TIP.2018.2819501; Sentinel-2:
Wang et al. 2016, doi:10.1016/j.rse.2016.10.030). What a measured pixel says stays: the result is back-projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import GUIDE_PX, Request
from eoaug.generators.interpolation.back_projection import coarse_prior
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.raster.cells import cell_means
from eoaug.raster.sensor import Sensor

__all__ = ["guided_batch", "guided_estimate"]


_SHRINK = 0.15
"""Weight of the ridge over that of the cells."""
_SHARE = 0.8
"""Share of the predicted detail that is used: at the scale that is missing bands agree less than one scale coarser."""
_EXPLAINED = (0.2, 0.6)
"""Share of the variance of held-out detail that the fine bands must explain: below the first the band is back-projected
alone, above the second their detail counts fully."""
_SHARPEST = 0.4
"""Largest MTF of the sensor by which detail one scale coarser is made."""
_BLOCK = 4
"""Edge of a block of cells that is held out together; four blocks in a square make the four folds."""
_LEAST = 60
"""Least number of cells that a regression is fitted to."""


def guided_batch(requests: Sequence[Request]) -> Float32Array:
    """Return the estimates of several requests, shape (B, T, C, H, W), model units; 0 for the channels of fine bands."""
    return np.stack([guided_estimate(request) for request in requests])


def guided_estimate(request: Request) -> Float32Array:
    """Return the coarse bands of a request on its grid, shape (T, C, H, W), model units; 0 for the fine bands.

    Parameters
    ----------
    request
        With ``guided`` and ``context_pixels``, whose coarse bands hold each measured value in all its pixels.
    """
    assert request.context_pixels is not None  # by definition of guided requests
    out = np.zeros(request.values.shape, np.float32)
    sensors = request.guided
    for date in np.flatnonzero(request.target).tolist():
        image = request.context_pixels[date]
        seen = np.isfinite(image).any(axis=(1, 2))
        guides = [c for c, sensor in enumerate(sensors) if sensor is None and seen[c]]
        for sensor in dict.fromkeys(sensors):
            if sensor is None:
                continue
            margin = GUIDE_PX // sensor.factor * sensor.factor
            window = slice(GUIDE_PX - margin, image.shape[1] - GUIDE_PX + margin)
            part = image[:, window, window]
            own = [c for c, other in enumerate(sensors) if other == sensor and seen[c]]
            if own:
                made = sharpened(cell_means(part[own], sensor.factor), part[guides], sensor)
                tile = slice(margin, made.shape[1] - margin)
                out[date, own] = made[:, tile, tile]
    return out


def sharpened(coarse: Float32Array, guide: Float32Array, sensor: Sensor) -> Float32Array:
    """Return coarse bands on the fine grid.

    Parameters
    ----------
    coarse
        Shape (B, h, w), any units; NaN where not measured.
    guide
        Shape (G, h f, w f): the fine bands; NaN where unknown.
    sensor
        How the coarse bands were measured, with the factor f.

    Returns
    -------
    Shape (B, h f, w f). Degraded by the sensor it gives ``coarse``.
    """
    plain = coarse_prior(coarse, sensor)
    if not len(guide):
        return plain
    there = np.isfinite(guide)
    fine = push_pull(guide, there)
    # Guides are only followed in their differences; the unit of the coarse bands is not theirs.
    plainly = replace(sensor, decibels=())
    cells = plainly.degrade(fine)
    whole = plainly.degrade(there.all(axis=0, keepdims=True).astype(np.float32))[0] > 0.99
    detail = fine - coarse_prior(cells, plainly)
    # Two pixels cannot show every MTF that more can.
    values = sensor.mtf or ()
    mtf = tuple(value if isinstance(value, str) else min(value, _SHARPEST) for value in values) or None
    half = replace(plainly, factor=2, mtf=mtf)
    rows, cols = (n // 2 * 2 for n in whole.shape)
    even = np.s_[:, :rows, :cols]
    measured = np.isfinite(coarse[even])
    seen = push_pull(coarse[even], measured)
    wanted = seen - coarse_prior(half.degrade(seen), half)
    features = cells[even] - coarse_prior(half.degrade(cells[even]), half)
    slopes = np.zeros((len(coarse), len(guide)))
    for band in range(len(coarse)):
        slopes[band] = _slopes(features, wanted[band], measured[band] & whole[:rows, :cols])
    start = plain + np.einsum("bg,ghw->bhw", slopes, detail)
    return sensor.project(start.astype(np.float32), coarse)


def _slopes(features: Float32Array, wanted: Float32Array, known: BoolArray) -> NDArray[np.float64]:
    """Return the slope of a band's detail on that of each guide, shrunk by how well it predicts held-out cells."""
    columns = features[:, known].astype(np.float64)
    answer = wanted[known].astype(np.float64)
    count = len(answer)
    scale = np.sqrt((columns**2).mean(axis=1)) if count else np.zeros(len(columns))
    total = float(answer @ answer)
    if count < _LEAST or total <= 0 or not scale.any():
        return np.zeros(len(columns))
    scale = np.where(scale > 0, scale, 1)
    columns /= scale[:, None]
    rows, cols = np.nonzero(known)
    fold = rows // _BLOCK % 2 * 2 + cols // _BLOCK % 2
    predicted = np.zeros(count)
    for held in range(4):
        out = fold == held
        predicted[out] = _ridge(columns[:, ~out], answer[~out]) @ columns[:, out]
    power = float(predicted @ predicted)
    share = float(np.clip(predicted @ answer / power, 0, 1)) if power > 0 else 0.0
    left = answer - share * predicted
    low, high = _EXPLAINED
    trust = float(np.clip((1 - float(left @ left) / total - low) / (high - low), 0, 1))
    slopes: NDArray[np.float64] = _SHARE * share * trust * _ridge(columns, answer) / scale
    return slopes


def _ridge(columns: NDArray[np.float64], answer: NDArray[np.float64]) -> NDArray[np.float64]:
    system = columns @ columns.T
    system[np.diag_indices(len(system))] += _SHRINK * max(len(answer), 1)
    return np.asarray(np.linalg.solve(system, columns @ answer))
