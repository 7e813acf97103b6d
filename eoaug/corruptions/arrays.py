"""Corruptions of plain arrays, for data loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from eoaug.corruptions.image_work import changed_image
from eoaug.corruptions.kinds import KINDS, parameters_of
from eoaug.corruptions.request import CorruptionRequest, ImageAt
from eoaug.corruptions.sunlight import USUAL_SUN
from eoaug.corruptions.units import named_band
from eoaug.errors import ParameterError
from eoaug.raster.tiles import Window

__all__ = ["corrupt_image"]


def corrupt_image(
    image: NDArray[np.floating[Any]],
    bands: Sequence[str],
    kind: str,
    severity: int = 3,
    *,
    seed: int = 0,
    **values: Any,
) -> NDArray[np.floating[Any]]:
    """Return an image after a corruption that keeps its grid: the pixels that `eoaug.corrupt` gives a cube without a place.

    Parameters
    ----------
    image
        Shape (bands, rows, columns), in reflectance, dB or kelvins; NaN is missing.
    bands
        Names or common names of the bands, such as ``B04``, ``red`` or ``vv``.
    kind, severity, seed, **values
        As for `eoaug.corrupt`; pixels count as 10 m.

    Returns
    -------
    Array of the shape and type of ``image``; the input is not changed.

    Raises
    ------
    ParameterError
        An argument that cannot be used, or a kind that moves pixels.
    """
    own = parameters_of(kind, severity, values)
    if KINDS[kind].group == "moving":
        raise ParameterError(
            f"{kind!r} moves pixels, and an array has no grid", "use eoaug.corrupt on a cube"
        )
    if image.ndim != 3 or len(bands) != len(image):
        raise ParameterError(
            f"image has the shape {image.shape}, and there are {len(bands)} names of bands",
            "give (bands, rows, columns) and a name for each band",
        )
    from odc.geo.geobox import GeoBox

    height, width = image.shape[1:]
    geobox = GeoBox((height, width), Affine.identity(), None)
    sun = tuple(
        usual if own.get(name) is None else float(own[name])
        for usual, name in zip(USUAL_SUN, ("sun_zenith_deg", "sun_azimuth_deg"), strict=True)
    )
    request = CorruptionRequest(
        kind=kind,
        values=own,
        seed=seed,
        bands=tuple(named_band(name, str(image.dtype)) for name in bands),
        times=(0,),
        extent=Window(0, 0, height, width),
        geobox=geobox,
        like=geobox,
        sun=((sun[0], sun[1]),),
    )
    given = [np.asarray(band, np.float64) for band in image]
    new, _ = changed_image(given, ImageAt(request, request.extent, 0))
    return np.stack(
        [np.where(np.isnan(old), np.nan, value) for old, value in zip(given, new, strict=True)]
    ).astype(image.dtype)
