"""Images whose numbers cannot say that a pixel is missing, such as 8-bit pictures, and draws that lose pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eoaug.corruptions.kinds import KINDS
from eoaug.cube.read import read_cube
from eoaug.raster.radiometry import SCALE_ATTRS

__all__ = ["able_to_miss", "loses_pixels"]


def loses_pixels(verb: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether a draw leaves pixels without a value: a corruption that turns an image, or drops lines of it."""
    return verb == "corrupt" and bool(KINDS[str(parameters["kind"])].loses)


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
