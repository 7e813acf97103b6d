"""super_resolve: a finer grid."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.model import Cube
from eoaug.errors import EoaugWarning, GeneratorError, ParameterError, error_context
from eoaug.generators.base import Generator
from eoaug.verbs.arguments import generator_for
from eoaug.verbs.masking import Mask, Masking, cube_for, mask_of_cube
from eoaug.verbs.native import native_bands, on_one_grid
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare
from eoaug.verbs.run import run_verb
from eoaug.verbs.sensor_choice import choose_sensor

__all__ = ["prepare_super_resolve", "super_resolve"]


def super_resolve[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    factor: int = 2,
    sensor: str | float | Sequence[str | float] = "auto",
    sensor_noise: float | Sequence[float] | None = None,
    native: Literal["auto"] | Mapping[str, float] | None = None,
    mask: Mask = None,
    mask_buffer: float | str | None = None,
    **options: Unpack[Options],
) -> T:
    """Add detail finer than the pixel; the result, degraded by the sensor model, is the measurement within its noise.

    Parameters
    ----------
    ds
        The cube.
    factor
        Output pixels per input pixel along an axis, 2 to 8.
    sensor
        How an input pixel was measured, for all bands or one per band: the modulation transfer at the Nyquist frequency,
        such as 0.3 (also called ``"gaussian"``), or how a finer image was reduced to it: ``"box"`` (the mean of the
        cell), ``"bilinear"``, ``"cubic"``, ``"nearest"``. ``"auto"`` estimates it per band from the power spectrum of at
        most 48 windows of 64 x 64 pixels, which are read when the verb is called, also of a lazy cube; the record holds it
        (``parameters``: ``sensor``, and ``sensor_estimate`` with its uncertainty). It is one value per band for the whole
        cube: to make crops that agree, name the recorded sensor and noise. Where nothing can be estimated, such as in an
        image of less than 32 x 32 pixels, it is ``"box"``.
    sensor_noise
        Standard deviation of the measurement's noise in physical units, one or per band; detail below it is not sharpened.
        Default: estimated from the flattest parts of the same windows. 0: the result reproduces the measurement exactly.
    native
        Instead of ``factor``: sharpen the bands whose own pixels are coarser than the grid (20 m bands of Sentinel-2 on
        a 10 m grid) with the fine bands as guide. ``"auto"`` takes the pixel size of each band from its attribute
        ``native_gsd_m`` or from what is known of its sensor; or metres by band: ``{"B05": 20, "B11": 20}``. The coarse
        bands must have been put on the grid by nearest neighbour, as `open_cube` does; or give a DataTree with a node
        per resolution. Grid, dates and fine bands come back as they are. ``sensor`` is that of the coarse bands;
        by default it is estimated with the fine bands, or else what is known of the satellite.
    mask
        Pixels that count as missing, in the result too; as for `extend`, with the same default.
    mask_buffer
        Radius of its dilation, as for `inpaint`. Default: 0, because no other date is made from the rims of clouds.
    **options
        See `eoaug.verbs.options.Options`.

    Returns
    -------
    An object of the type of ``ds`` (with ``native``, for a DataTree, a Dataset on its finest grid) on a finer grid of the same bounds, with the mask ``synthetic``. Variables
    on the input's grid that are not bands (masks) are dropped; of labels each pixel is repeated.

    Raises
    ------
    EoaugError
        An argument that cannot be used; the message holds its value and the remedy.

    Examples
    --------
    >>> cube = eoaug.open_cube(eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02"], chunks=None)
    >>> fine = eoaug.super_resolve(cube, factor=2, generator="classical")
    >>> dict(fine.sizes)
    {'time': 1, 'y': 240, 'x': 240}
    """
    if native is not None and isinstance(ds, xr.DataTree):
        with error_context("super_resolve"):
            ds = on_one_grid(ds)  # type: ignore[assignment]
    result: T = run_verb(
        "super_resolve",
        prepare_super_resolve,
        ds,
        options,
        factor=factor,
        sensor=sensor,
        sensor_noise=sensor_noise,
        native=native,
        mask=mask,
        mask_buffer=mask_buffer,
    )
    return result


def prepare_super_resolve(
    ds: Any,
    options: Options,
    *,
    factor: Any = 2,
    sensor: Any = "auto",
    sensor_noise: Any = None,
    native: Any = None,
    mask: Any = None,
    mask_buffer: Any = None,
) -> PreparedVerb:
    """Check the arguments of `super_resolve` and return its plan and inputs."""
    generator = generator_for(options, "super_resolve")
    cube = cube_for(ds, mask, options.get("labels"))
    if native is not None:
        if mask is not None or factor != 2 or sensor_noise is not None:
            raise ParameterError(
                f"mask={mask!r}, factor={factor!r} and sensor_noise={sensor_noise!r} do not go with native={native!r}, which keeps "
                "grid and gaps",
                "leave them out; hide pixels beforehand, ds.where(clear), or refine the result: factor=2",
            )
        return _prepare_native(cube, generator, options, sensor=sensor, native=native)
    if isinstance(factor, bool) or not isinstance(factor, int | np.integer) or not 2 <= factor <= 8:
        raise ParameterError(f"factor={factor!r} is not an integer from 2 to 8", "e.g. factor=2 or factor=4")
    served = generator.card.factors
    if served and factor not in served:
        raise ParameterError(
            f"generator {generator.card.name!r} does not refine by factor={factor}",
            f"use factor={' or '.join(map(str, served))}",
        )
    masking = _missing(cube, mask, mask_buffer)
    choice = choose_sensor(cube, masking.pixels, sensor, sensor_noise, int(factor))
    call = VerbCall(
        verb="super_resolve",
        cube=cube,
        generator=generator,
        fill="measured",
        mask=masking.pixels,
        needs_known=masking.pixels is not None,
        sensor=choice.sensor,
        own={"factor": int(factor), **choice.record, **masking.record},
        notes=choice.notes,
    )
    return prepare(call, options)


def _missing(cube: Cube, mask: Any, mask_buffer: Any) -> Masking:
    """Return the mask; refused where a band has no number for what is missing, of the default left out with a warning."""
    masking = mask_of_cube(cube, mask, mask_buffer, default_m=0.0)
    full = [band.name for band in cube.bands if band.dtype.kind in "iu" and band.nodata is None]
    if masking.pixels is None or not full:
        return masking
    problem = f"{full[0]!r} is {cube.bands[0].dtype} without a nodata value, so masked pixels cannot be missing in it"
    remedy = f"declare a number that is no value, ds[{full[0]!r}].attrs['nodata'] = 0, or take every pixel: mask='none'"
    if mask is not None:
        raise ParameterError(problem, remedy)
    warnings.warn(
        f"{masking.record['mask']!r} was not used: {problem}; {remedy}",
        EoaugWarning,
        skip_file_prefixes=(str(Path(__file__).parent.parent),),
    )
    return Masking()


def _prepare_native(
    cube: Cube, generator: Generator, options: Options, *, sensor: Any, native: Any
) -> PreparedVerb:
    if not generator.card.sharpens_bands:
        raise GeneratorError(
            f"generator {generator.card.name!r} does not sharpen bands with others of the cube",
            "use generator='embedded' or 'classical'",
        )
    if options.get("members") is not None or options.get("steps"):
        raise ParameterError(
            f"members={options.get('members')!r}, steps={options.get('steps')!r}: native gives a best estimate, no samples",
            "leave members and steps out",
        )
    if options.get("uncertainty"):
        raise ParameterError(
            f"uncertainty={options['uncertainty']!r}: sharpening with a guide has no expected error yet",
            "leave it out",
        )
    bands = native_bands(cube, native, sensor)
    call = VerbCall(
        verb="super_resolve",
        cube=cube,
        generator=generator,
        fill="measured",
        guided=bands.sensors,
        shift=bands.shift,
        own={"native": bands.recorded},
    )
    return prepare(call, options)
