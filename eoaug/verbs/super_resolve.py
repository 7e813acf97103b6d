"""super_resolve: detail below the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError
from eoaug.raster.sensor import Sensor
from eoaug.verbs.options import Options, generator_for
from eoaug.verbs.prepare import PreparedVerb, prepare, run_verb

__all__ = ["prepare_super_resolve", "super_resolve"]


def super_resolve[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    factor: int = 2,
    sensor: Literal["box", "gaussian"] | float | Sequence[float] = "gaussian",
    **options: Unpack[Options],
) -> T:
    """Add the detail below the pixel; the result, seen by the sensor, is the measurement again.

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
    The kind of object that came in on a grid of the same bounds, with the marks ``synthetic``. Variables
    on the input's grid that are no bands (masks) stay behind.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
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
            f"factor={factor} is none that generator {generator.card.name!r} refines by",
            f"use factor={' or '.join(map(str, served))}",
        )
    model = Sensor.of(sensor, int(factor), len(cube.bands))
    return prepare(
        "super_resolve", cube, generator, options, fill="measured", sensor=model,
        own={"factor": int(factor), "sensor": "box" if model.mtf is None else list(model.mtf)},
    )  # fmt: skip
