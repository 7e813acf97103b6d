"""Where the sun is."""

from __future__ import annotations

import math

__all__ = ["sun_angles"]

_J2000_S = 946_728_000
"""Noon of 1 January 2000 in seconds since 1970."""


def sun_angles(seconds: int, lon_deg: float, lat_deg: float) -> tuple[float, float]:
    """Return zenith and azimuth of the sun in degrees, azimuth clockwise from north.

    Parameters
    ----------
    seconds
        UTC, seconds since 1970.
    lon_deg, lat_deg
        WGS 84.

    Notes
    -----
    The low-precision formulas of the Astronomical Almanac (Michalsky 1988, doi:10.1016/0038-092X(88)90045-X), without
    refraction: within .02 degrees from 1950 to 2050.
    """
    days = (seconds - _J2000_S) / 86_400
    mean_longitude = math.radians((280.460 + 0.985_647_4 * days) % 360)
    anomaly = math.radians((357.528 + 0.985_600_3 * days) % 360)
    longitude = mean_longitude + math.radians(1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly))
    obliquity = math.radians(23.439 - 4e-7 * days)
    ascension = math.atan2(math.cos(obliquity) * math.sin(longitude), math.cos(longitude))
    declination = math.asin(math.sin(obliquity) * math.sin(longitude))
    sidereal = math.radians((18.697_374_558 + 24.065_709_824_419_08 * days) % 24 * 15 + lon_deg)
    hour, lat = sidereal - ascension, math.radians(lat_deg)
    height = math.sin(lat) * math.sin(declination) + math.cos(lat) * math.cos(declination) * math.cos(hour)
    azimuth = math.atan2(
        -math.cos(declination) * math.sin(hour),
        math.sin(declination) * math.cos(lat) - math.cos(declination) * math.sin(lat) * math.cos(hour),
    )
    return math.degrees(math.acos(max(-1.0, min(1.0, height)))), math.degrees(azimuth) % 360
