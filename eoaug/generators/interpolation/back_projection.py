"""Cubic interpolation made consistent with a coarse measurement."""

from __future__ import annotations

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.base import Request
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor

__all__ = ["coarse_prior", "consistent", "prior_with_halo", "tile_of"]


def coarse_prior(coarse: Float32Array, sensor: Sensor) -> Float32Array:
    """Return the cubic interpolation of a coarse measurement, made consistent with it.

    Parameters
    ----------
    coarse
        Shape (..., C, h, w); NaN where not measured, which is filled smoothly and imposes no constraint.
    sensor
        How it was measured, with the refinement factor f.

    Returns
    -------
    Shape (..., C, h f, w f).
    """
    start = sensor.upsample(push_pull(coarse, np.isfinite(coarse)))
    return sensor.project(start, coarse)


def prior_with_halo(request: Request, date: int) -> Float32Array:
    """Return the prior of a super-resolution request's tile and of the halo around it, for `consistent`.

    Shape (C, H + 2 halo f, W + 2 halo f) with halo = `Request.coarse_halo`, model units.
    """
    assert request.coarse is not None  # by definition of super-resolution
    return coarse_prior(request.coarse[date], _sensor(request))


def consistent(
    request: Request, date: int, estimate: Float32Array, around: Float32Array, *, passes: int = 1
) -> Float32Array:
    """Return an estimate of a super-resolution request's tile, projected on the coarse measurement.

    Parameters
    ----------
    request, date
        The request and one of its dates. The coarse pixels of the halo are used as well.
    estimate
        Shape (C, H, W), model units.
    around
        From `prior_with_halo`: the estimate used beyond the tile.
    passes
        As for `Sensor.project`.
    """
    assert request.coarse is not None  # by definition of super-resolution
    image = around.copy()
    tile_of(request, image)[...] = estimate
    return tile_of(request, _sensor(request).project(image, request.coarse[date], passes=passes))


def tile_of(request: Request, image: Float32Array) -> Float32Array:
    """Return the view of a request's own tile in an image that has its halo around it."""
    edge = request.coarse_halo * request.factor
    return image[:, edge : image.shape[1] - edge, edge : image.shape[2] - edge]


def _sensor(request: Request) -> Sensor:
    if request.sensor is None:
        raise GeneratorError(
            f"a request to super-resolve by {request.factor} has no sensor",
            "set Request.sensor, for example Sensor.of('gaussian', factor, n_bands)",
        )
    return request.sensor
