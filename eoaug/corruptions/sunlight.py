"""Where the sun stood on the dates of a cube."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eoaug.cube.model import Cube
from eoaug.raster.grid import lonlat
from eoaug.raster.sun import sun_angles
from eoaug.verbs.arguments import seconds_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["USUAL_SUN", "sun_of_dates"]

USUAL_SUN = (35.0, 150.0)
"""Zenith and azimuth of a cube without place or date, in degrees."""
_LOWEST_DEG = 80.0
"""Zenith beyond which no optical sensor works: the time is not that of the measurement."""
_OVERPASS_S = 10.5 * 3600
"""Local solar time of a sensor whose time is not known."""
_DAY_S = 86_400


def sun_of_dates(cube: Cube, values: Mapping[str, Any], like: GeoBox) -> tuple[tuple[float, float], ...]:
    """Return zenith and azimuth of the sun in degrees for every date.

    Given values come first, then the cube's own coordinates (``view:sun_elevation``, ``view:sun_azimuth``), then the position
    computed from the date and the centre of ``like``; at 10:30 local solar time where the time of day is no daytime.
    """
    count = 1 if cube.times is None else len(cube.times)
    computed = _computed(cube, count, like)
    elevation = cube.along_time("view:sun_elevation", "sun_elevation")
    azimuth = cube.along_time("view:sun_azimuth", "sun_azimuth")
    out = []
    for k, (zenith, bearing) in enumerate(computed):
        if elevation is not None and np.isfinite(float(elevation[k])):
            zenith = min(90.0 - float(elevation[k]), 85.0)
        if azimuth is not None and np.isfinite(float(azimuth[k])):
            bearing = float(azimuth[k])
        given_zenith, given_azimuth = values["sun_zenith_deg"], values["sun_azimuth_deg"]
        zenith = zenith if given_zenith is None else float(given_zenith)
        out.append((zenith, bearing if given_azimuth is None else float(given_azimuth)))
    return tuple(out)


def _computed(cube: Cube, count: int, like: GeoBox) -> list[tuple[float, float]]:
    height, width = like.shape.yx
    (lon, lat) = lonlat(like, [height / 2], [width / 2])[0].tolist()
    if cube.times is None or not np.isfinite(lon + lat):
        return [USUAL_SUN] * count
    out = []
    for seconds in seconds_of(cube.times).tolist():
        angles = sun_angles(seconds, lon, lat)
        if angles[0] > _LOWEST_DEG:
            midnight = seconds // _DAY_S * _DAY_S
            angles = sun_angles(int(midnight + _OVERPASS_S - lon / 15 * 3600), lon, lat)
        out.append((min(angles[0], _LOWEST_DEG), angles[1]))
    return out
