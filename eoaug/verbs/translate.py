"""translate: bands from other bands, sensors and dates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.model import Cube
from eoaug.errors import BandError
from eoaug.verbs.arguments import generator_for
from eoaug.verbs.masking import Mask, cube_for, mask_of_cube
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare
from eoaug.verbs.run import run_verb
from eoaug.verbs.translation_targets import NewBand, bands_to_make

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

    Optical bands from radar under cloud, bands that failed or that another sensor lacks, one sensor's bands from another's,
    surface reflectance from reflectance at the top of the atmosphere: all sensors and levels are variables of one cube, on one
    grid and one time axis (put each radar image on the nearest optical date:
    ``s1.reindex(time=s2.time, method="nearest", tolerance="6D")``). Per tile, regressions are fitted to what the cube
    itself measured, and judged on dates that are left out.

    Where a band was never measured in a tile, it is converted from the same band of another sensor (Landsat 8 and 9 to and from
    Sentinel-2, by their spectral responses) or level (by an ordinary clear atmosphere), or comes from a mixture of spectra.
    Which sensor and level a band belongs to is read from its attributes ``platform`` and ``processing:level``, else from those
    of the cube, else from its name (``B04``, ``SR_B4``, ``B04_l1c``).

    Parameters
    ----------
    ds
        The cube.
    to
        The bands to make: names of variables or common names, e.g. ``["B11", "B12"]``, or a sensor, with its level if that
        matters, e.g. ``"sentinel-1"``, ``"landsat-8"``, ``"sentinel-2-l2a"``: its bands in the cube, or, if there is none, all
        that can be made. A band that the cube lacks is added as reflectance in float32.
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
    wanted, absent = bands_to_make(cube, to)
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
        own={"to": sorted(names), **_products_of(cube), **masking.record},
        wanted=names,
        needs_known=True,
    )
    return prepare(call, options)


def _products_of(cube: Cube) -> dict[str, Any]:
    """Return what decides conversions, for the record: sensor and level by band, where any is known."""
    known = {band.name: str(band.product) for band in cube.bands if str(band.product)}
    return {"products": known} if known else {}


def _with_bands(ds: Any, cube: Cube, bands: Sequence[NewBand]) -> xr.Dataset:
    """Return a cube with bands that hold no pixel, like its first band."""
    if not isinstance(ds, xr.Dataset):
        raise BandError(
            f"to={', '.join(band.name for band in bands)}: the cube is a {type(ds).__name__}, which has no place for further "
            "bands",
            "give a Dataset with a variable per band",
        )
    first = ds[cube.bands[0].name]
    empty = {}
    for band in bands:
        variable = xr.full_like(first, np.nan, dtype=np.float32)
        variable.attrs = dict(band.attrs)
        variable.encoding = {k: v for k, v in first.encoding.items() if k in ("grid_mapping", "coordinates")}
        if "grid_mapping" in first.attrs:
            variable.attrs["grid_mapping"] = first.attrs["grid_mapping"]
        empty[band.name] = variable
    return ds.assign(empty)
