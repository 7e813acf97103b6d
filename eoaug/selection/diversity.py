"""Descriptive measures of made images against real ones. None of them predicts whether made images help; the gate does."""

from __future__ import annotations

import numpy as np

from eoaug.metrics import kernel_distance
from eoaug.raster.arrays import Float32Array, Float64Array

__all__ = ["diversity_of"]

_MOST = 1000
"""Images of each kind."""
_NEIGHBOURS = 5


def diversity_of(real: Float32Array, made: Float32Array) -> dict[str, float]:
    """Return precision, recall, density, coverage, Vendi scores and the kernel distance of features.

    Parameters
    ----------
    real, made
        Features (N, d) and (M, d); at most 1000 of each are used, evenly spread.

    Returns
    -------
    dict
        ``precision``, ``recall`` (Kynkaanniemi et al. 2019, arXiv 1904.06991), ``density``, ``coverage`` (Naeem et al. 2020,
        arXiv 2002.09797), ``vendi_real``, ``vendi_made`` (Friedman and Dieng 2023, arXiv 2210.02410: the effective number
        of different images) and ``kernel_distance`` (as KID, of these features).
    """
    x, y = _some(real), _some(made)
    if min(len(x), len(y)) <= _NEIGHBOURS:
        return {}
    centre, scale = x.mean(axis=0), x.std(axis=0)
    alive = scale > 1e-3 * scale.max()  # a feature that is constant on real images has no scale
    x, y = ((points[:, alive] - centre[alive]) / scale[alive] for points in (x, y))
    between = _distances(y, x)
    radius_x, radius_y = _radius(x), _radius(y)
    inside = between < radius_x[None]
    return {
        "precision": float(inside.any(axis=1).mean()),
        "recall": float((between < radius_y[:, None]).any(axis=0).mean()),
        "density": float(inside.sum(axis=1).mean() / _NEIGHBOURS),
        "coverage": float(inside.any(axis=0).mean()),
        "vendi_real": _vendi(x),
        "vendi_made": _vendi(y),
        "kernel_distance": kernel_distance(y, x),
    }


def _some(features: Float32Array) -> Float64Array:
    rows = np.unique(np.linspace(0, len(features) - 1, min(len(features), _MOST)).astype(int))
    return np.asarray(features[rows], np.float64)


def _distances(a: Float64Array, b: Float64Array) -> Float64Array:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))


def _radius(points: Float64Array) -> Float64Array:
    """Return the distance to the fifth nearest other point."""
    return np.asarray(np.sort(_distances(points, points), axis=1)[:, _NEIGHBOURS])


def _vendi(points: Float64Array) -> float:
    """Return the exponential of the entropy of the eigenvalues of the cosine kernel."""
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    values = np.linalg.svd(unit, compute_uv=False) ** 2 / len(unit)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))
