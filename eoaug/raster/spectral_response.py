"""Reflectance of one sensor's bands as those of another, where published studies say how their spectral responses differ."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REFERENCE", "Response", "response_of"]

REFERENCE = "sentinel-2"
"""The sensor that all responses are given against."""


@dataclass(frozen=True)
class Response:
    """A band as a line of the reference's band of the same common name: reflectance = slope x reference + offset."""

    slope: float = 1.0
    offset: float = 0.0
    error: float = 0.0
    """Root mean square difference in reflectance between images of the two sensors that were converted."""


_SAME = Response()
_OLI = {
    "coastal": Response(0.9959, -0.0002, 0.012),
    "blue": Response(0.9778, -0.0040, 0.012),
    "green": Response(1.0053, -0.0009, 0.010),
    "red": Response(0.9765, 0.0009, 0.012),
    "nir08": Response(0.9983, -0.0001, 0.027),
    "swir16": Response(0.9987, -0.0011, 0.024),
    "swir22": Response(1.0030, -0.0012, 0.026),
}
"""Landsat 8 and 9 from Sentinel-2A: slopes and offsets of HLS (Claverie et al. 2018, doi:10.1016/j.rse.2018.09.002; user guide
1.4, table 5), from 160 million spectra of Hyperion. The errors are those of two places in Flanders, at most a day apart; that
of the coastal band is blue's."""
_RESPONSES = {"landsat-8": _OLI, "landsat-9": _OLI}


def response_of(sensor: str, common_name: str) -> Response | None:
    """Return how a band differs from the reference's; None if it is not known. A sensor that is not known has no difference."""
    if sensor in ("", REFERENCE):
        return _SAME
    return _RESPONSES.get(sensor, {}).get(common_name)
