"""translate: bands from other bands, sensors and dates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.model import Cube
from eoaug.errors import BandError, ParameterError
from eoaug.generators.translation.spectral_mixture import shipped_mixture
from eoaug.raster.bands import SENSORS, Band, band_of, common_name
from eoaug.verbs.arguments import generator_for
from eoaug.verbs.masking import Mask, cube_for, mask_of_cube
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare
from eoaug.verbs.run import run_verb

__all__ = ["prepare_translate", "translate"]


def translate[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    to: str | Sequence[str],
    mask: Mask = None,
    mask_buffer: float | str | None = None,
    **options: Unpack[Options],
) -> T:
    """Make bands from the other bands of their date, and from other dates; every measured pixel is returned unchanged.

    Optical bands from radar under cloud, bands that failed or that another sensor lacks, one sensor's bands from another's:
    all sensors are variables of one cube, on one grid and one time axis (put each radar image on the nearest optical date:
    ``s1.reindex(time=s2.time, method="nearest", tolerance="6D")``). Per tile, regressions are fitted to what the cube
    itself measured, and judged on dates that are left out.

    Parameters
    ----------
    ds
        The cube.
    to
        The bands to make: names of variables or common names, e.g. ``["B11", "B12"]``, or a sensor, e.g. ``"sentinel-2"``:
        its bands in the cube, or, if there is none, all that can be made. A band that the cube lacks is added; without a
        measurement to learn from it is estimated by a mixture of spectra, from other bands of reflectance.
    mask
        Where optical bands show no ground, such as clouds; as for `inpaint`. Radar bands are not masked. Default: what a
        quality band of the cube says, if it has one that is understood; ``"none"`` takes every pixel as it is.
    mask_buffer
        Radius in metres by which the mask is dilated, or pixels as a text, as for `inpaint`: 100 for a quality band.
    **options
        See `eoaug.verbs.options.Options`. ``members`` draws an ensemble around the estimate.

    Returns
    -------
    An object of the type of ``ds``, with the mask ``synthetic``: the missing and masked pixels of ``to`` are generated where
    another band or date shows the place.

    Raises
    ------
    EoaugError
        An argument that cannot be used; the message holds its value and the remedy.
    """
    result: T = run_verb(
        "translate", prepare_translate, ds, options, to=to, mask=mask, mask_buffer=mask_buffer
    )
    return result


def prepare_translate(
    ds: Any, options: Options, *, to: Any, mask: Any = None, mask_buffer: Any = None
) -> PreparedVerb:
    """Check the arguments of `translate` and return its plan and inputs."""
    generator = generator_for(options, "translate")
    cube = cube_for(ds, mask, options.get("labels"))
    wanted, absent = _wanted_bands(cube, to)
    if absent:
        cube = cube_for(_with_bands(ds, cube, absent), mask, options.get("labels"))
    names = tuple(wanted) + tuple(band.name for band in absent)
    if len(names) == len(cube.bands) and (cube.times is None or len(cube.times) < 2):
        raise BandError(
            f"all bands of the cube are to be made, {', '.join(names)}: none is left to make them from",
            "add bands of another sensor, or other dates, to the cube",
        )
    masking = mask_of_cube(cube, mask, mask_buffer)
    call = VerbCall(
        verb="translate",
        cube=cube,
        generator=generator,
        fill="translated",
        mask=masking.pixels,
        own={"to": sorted(names), **masking.record},
        wanted=names,
        needs_known=True,
    )
    return prepare(call, options)


def _wanted_bands(cube: Cube, to: Any) -> tuple[list[str], list[Band]]:
    """Return the bands of the cube that are to be made, and those that the cube lacks."""
    asked = [to] if isinstance(to, str) else list(to) if isinstance(to, Sequence) else []
    if not asked or not all(isinstance(name, str) for name in asked):
        raise ParameterError(f"to={to!r} names no band", "e.g. to=['B11', 'B12'], or to='sentinel-2'")
    if len(asked) == 1 and asked[0] in SENSORS:
        return _bands_of_sensor(cube, asked[0])
    by_name = {band.name: band.name for band in cube.bands}
    by_common = {band.common_name: band.name for band in cube.bands if band.common_name}
    wanted, absent = [], []
    for name in asked:
        found = by_name.get(name) or by_common.get(name)
        if found is not None:
            wanted.append(found)
            continue
        common = common_name(name, {}, "sentinel-2") or common_name(name, {})
        if common is not None and common in by_common:
            wanted.append(by_common[common])
        elif common in shipped_mixture().bands:
            known = band_of(name, "sentinel-2")
            absent.append(Band(name, common or name, known.wavelength_um if known else None, 10.0))
        else:
            raise BandError(
                f"to={name!r}: the cube has no such band, and nothing to learn it from",
                f"its bands: {', '.join(by_name)}; without a measurement: {', '.join(shipped_mixture().bands)}",
            )
    return wanted, absent


def _bands_of_sensor(cube: Cube, sensor: str) -> tuple[list[str], list[Band]]:
    table = SENSORS[sensor]
    names = {band.name.upper() for band in table}
    commons = {band.common_name for band in table}
    own = [band.name for band in cube.bands if band.name.upper() in names]
    own = own or [band.name for band in cube.bands if band.common_name in commons]
    if own and len(own) < len(cube.bands):
        return own, []
    have = {band.common_name for band in cube.bands}
    able = [band for band in table if band.common_name in shipped_mixture().bands]
    missing = [band for band in able if band.common_name not in have]
    if not missing:
        raise BandError(
            f"to={sensor!r}: the cube has no other bands to make them from, or they cannot be made without a measurement",
            f"add bands of another sensor to the cube; bands that can be added: {', '.join(shipped_mixture().bands)}",
        )
    return [], missing


def _with_bands(ds: Any, cube: Cube, bands: Sequence[Band]) -> xr.Dataset:
    """Return a cube with bands that hold no pixel, like its first band."""
    spectral = {band.common_name for band in cube.bands} & set(shipped_mixture().bands)
    if not isinstance(ds, xr.Dataset) or not spectral:
        what = f"is a {type(ds).__name__}" if spectral else "has no band of reflectance to make them from"
        raise BandError(
            f"to={', '.join(band.name for band in bands)}: the cube {what}",
            "give a Dataset with a variable per band, some of them: " + ", ".join(shipped_mixture().bands),
        )
    first = ds[cube.bands[0].name]
    empty = {}
    for band in bands:
        variable = xr.full_like(first, np.nan, dtype=np.float32)
        variable.attrs = {"common_name": band.common_name, "units": "1", "long_name": "reflectance"}
        variable.encoding = {k: v for k, v in first.encoding.items() if k in ("grid_mapping", "coordinates")}
        if "grid_mapping" in first.attrs:
            variable.attrs["grid_mapping"] = first.attrs["grid_mapping"]
        empty[band.name] = variable
    return ds.assign(empty)
