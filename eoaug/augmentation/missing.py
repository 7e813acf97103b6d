"""What a draw begins with: images that can say that a pixel is missing, and bands that are hidden to be made from the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eoaug.corruptions.kinds import KINDS
from eoaug.cube.read import read_cube
from eoaug.errors import BandError
from eoaug.raster.radiometry import SCALE_ATTRS
from eoaug.verbs.translation_targets import bands_to_make, check_can_be_made

__all__ = ["able_to_miss", "adds_bands", "drawn_from", "loses_pixels"]


def loses_pixels(verb: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether a draw needs a number for missing pixels: a corruption that turns an image, a band that is hidden."""
    return verb == "translate" or (verb == "corrupt" and bool(KINDS[str(parameters["kind"])].loses))


def drawn_from(ds: xr.Dataset, verb: str, parameters: Mapping[str, Any]) -> xr.Dataset:
    """Return the image that a draw begins with.

    Parameters
    ----------
    ds
        The real image.
    verb, parameters
        Of the draw. The bands that `translate` is to make are hidden: an image of a training set has no gap in them, and the
        verb keeps what was measured.

    Raises
    ------
    BandError
        What is left does not tell the hidden bands.
    """
    if not loses_pixels(verb, parameters):
        return ds
    out = able_to_miss(ds)
    if verb != "translate":
        return out
    cube = read_cube(out)
    wanted, added = bands_to_make(cube, parameters["to"])
    check_can_be_made(cube, wanted)
    if wanted and not added and len(wanted) == len(cube.bands):
        raise BandError(
            f"to={parameters['to']!r} names all bands of the image",
            "leave bands to make them from, e.g. to: [red]",
        )
    for band in cube.bands:
        if band.name in wanted:
            missing = np.nan if band.dtype.kind == "f" else band.nodata
            out[band.name] = xr.full_like(out[band.name], missing)
            out[band.name].encoding = dict(band.encoding)
    return out


def adds_bands(ds: xr.Dataset, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the bands that a draw with `translate` adds to an image."""
    return [band.name for band in bands_to_make(read_cube(ds), parameters["to"])[1]]


def able_to_miss(ds: xr.Dataset) -> xr.Dataset:
    """Return a cube whose integers without a number for missing pixels are float32 in physical units."""
    cube = read_cube(ds)
    stuck = [band for band in cube.bands if band.dtype.kind in "iu" and band.nodata is None]
    out = ds.copy()
    for band in stuck:
        kept = {name: value for name, value in band.attrs.items() if name not in SCALE_ATTRS}
        values = band.scaling(out[band.name].values).astype(np.float32)
        out[band.name] = (out[band.name].dims, values, kept)
    return out
