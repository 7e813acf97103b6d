"""super_resolve: a finer grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError
from eoaug.raster.sensor import Sensor
from eoaug.verbs.arguments import generator_for
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare, run_verb

__all__ = ["prepare_super_resolve", "super_resolve"]


def super_resolve[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    factor: int = 2,
    sensor: Literal["box", "gaussian"] | float | Sequence[float] = "gaussian",
    **options: Unpack[Options],
) -> T:
    """Add detail finer than the pixel; the result, degraded by the sensor model, equals the measurement.

    Parameters
    ----------
    ds
        The cube.
    factor
        Output pixels per input pixel along an axis, 2 to 8.
    sensor
        How an input pixel was measured: ``"box"`` (the mean of its cell), ``"gaussian"`` (modulation
        transfer 0.3 at the Nyquist frequency), or that modulation transfer, one or per band.
    **options
        See `eoaug.verbs.options.Options`.

    Returns
    -------
    An object of the type of ``ds`` on a finer grid of the same bounds, with the mask ``synthetic``. Variables
    on the input's grid that are not bands (masks) are dropped.

    Raises
    ------
    EoaugError
        An argument that cannot be used; the message holds its value and the remedy.

    Examples
    --------
    >>> cube = eoaug.open_cube("catalogs/sample", ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02"], chunks=None)
    >>> fine = eoaug.super_resolve(cube, factor=2, generator="classical")
    >>> dict(fine.sizes)
    {'time': 1, 'y': 240, 'x': 240}
    """
    result: T = run_verb("super_resolve", prepare_super_resolve, ds, options, factor=factor, sensor=sensor)
    return result


def prepare_super_resolve(
    ds: Any, options: Options, *, factor: Any = 2, sensor: Any = "gaussian"
) -> PreparedVerb:
    """Check the arguments of `super_resolve` and return its plan and inputs."""
    generator = generator_for(options, "super_resolve")
    cube = read_cube(ds)
    if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or not 2 <= factor <= 8:
        raise ParameterError(f"factor={factor!r} is not an integer from 2 to 8", "e.g. factor=2 or factor=4")
    served = generator.card.factors
    if served and factor not in served:
        raise ParameterError(
            f"generator {generator.card.name!r} does not refine by factor={factor}",
            f"use factor={' or '.join(map(str, served))}",
        )
    model = Sensor.of(sensor, int(factor), len(cube.bands))
    call = VerbCall(
        verb="super_resolve",
        cube=cube,
        generator=generator,
        fill="measured",
        sensor=model,
        own={"factor": int(factor), "sensor": "box" if model.mtf is None else list(model.mtf)},
    )
    return prepare(call, options)
