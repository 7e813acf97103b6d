"""Cubic interpolation made consistent with a coarse measurement."""

from __future__ import annotations

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.base import Request
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor

__all__ = ["coarse_prior", "consistent", "surroundings", "tile_of"]


def coarse_prior(coarse: Float32Array, sensor: Sensor) -> Float32Array:
    """Return the cubic interpolation of a coarse measurement, made consistent with it.

    Parameters
    ----------
    coarse
        Shape (..., C, h, w); NaN where not measured, which is filled smoothly and binds nothing.
    sensor
        How it was measured, with the factor f.

    Returns
    -------
    Shape (..., C, h f, w f).
    """
    start = sensor.upsample(push_pull(coarse, np.isfinite(coarse)))
    return sensor.project(start, coarse)


def surroundings(request: Request, date: int) -> Float32Array:
    """Return the prior of a super-resolution request's tile and of the halo around it.

    Shape (C, H + 2 halo f, W + 2 halo f), model units; what `consistent` needs of a request.
    """
    assert request.coarse is not None  # what makes it a super-resolution
    return coarse_prior(request.coarse[date], _sensor(request))


def consistent(
    request: Request, date: int, estimate: Float32Array, around: Float32Array, *, passes: int = 1
) -> Float32Array:
    """Return an estimate of a super-resolution request's tile, projected on the coarse measurement.

    Parameters
    ----------
    request, date
        The request and one of its dates. The coarse pixels of its halo take part.
    estimate
        Shape (C, H, W), model units.
    around
        From `surroundings`: beyond the tile the prior stands for what the sensor saw there.
    passes
        As for `Sensor.project`.
    """
    assert request.coarse is not None  # what makes it a super-resolution
    whole = around.copy()
    tile_of(request, whole)[...] = estimate
    return tile_of(request, _sensor(request).project(whole, request.coarse[date], passes=passes))


def tile_of(request: Request, whole: Float32Array) -> Float32Array:
    """Return the view of a request's own tile in an image that has its halo around it."""
    edge = request.coarse_halo * request.factor
    return whole[:, edge : whole.shape[1] - edge, edge : whole.shape[2] - edge]


def _sensor(request: Request) -> Sensor:
    if request.sensor is None:
        raise GeneratorError(
            f"A request to super-resolve by {request.factor} does not say how the coarse pixels were measured.",
            "Set Request.sensor, for example Sensor.of('gaussian', factor, n_bands).",
        )
    return request.sensor
