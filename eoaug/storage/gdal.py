"""How GDAL may be used: drivers, options, paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from eoaug.errors import SourceError
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import endpoint_of, is_object, is_true, parse

__all__ = ["GDAL_OPTIONS", "driver_of", "gdal_options", "gdal_path", "lock_gdal"]


GDAL_OPTIONS: Mapping[str, str] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_NETRC": "NO",
}
"""GDAL's settings while an input is open; sidecar files are never read."""

_SKIPPED_DRIVERS = (
    "VRT GTI STACIT STACTA DERIVED WMS WCS WMTS OGCAPI PLMosaic EEDA EEDAI DAAS RASTERLITE MBTiles GPKG "
    "netCDF HDF5 HDF5Image HDF4 HDF4Image GMT XYZ PDF PostGISRaster Rasterlite HTTP NGW Zarr SENTINEL2"
)
_DRIVERS: Mapping[str, str] = {"tif": "GTiff", "tiff": "GTiff", "jp2": "JP2OpenJPEG", "png": "PNG",
                               "jpg": "JPEG", "jpeg": "JPEG"}  # fmt: skip
_MEDIA: Mapping[str, str] = {"image/tiff": "GTiff", "image/geotiff": "GTiff", "image/x.geotiff": "GTiff",
                             "image/vnd.stac.geotiff": "GTiff", "image/jp2": "JP2OpenJPEG",
                             "image/png": "PNG", "image/jpeg": "JPEG"}  # fmt: skip


def lock_gdal() -> None:
    """Restrict GDAL in this process, for processes that only work on inputs.

    Drivers are restricted only if GDAL is not loaded yet; inputs are opened with an explicit driver in any case.
    """
    for name, value in {**GDAL_OPTIONS, "GDAL_SKIP": _SKIPPED_DRIVERS.replace(" ", ",")}.items():
        os.environ.setdefault(name, value)


def driver_of(media_type: str | None, address: str) -> str:
    """Return the GDAL driver that an asset may be opened with: by media type, else by extension.

    Raises
    ------
    SourceError
        Any other format, since some GDAL formats refer to other files and hosts.
    """
    media = (media_type or "").split(";")[0].strip().lower()
    path = urlsplit(address).path if "://" in address else address
    driver = _MEDIA.get(media) or _DRIVERS.get(path.rpartition(".")[2].lower())
    if driver is None:
        raise SourceError(
            f"{clean_href(address)!r} ({media or 'no media type'}) has a format that is not supported",
            f"convert it to a GeoTIFF; formats are {', '.join(sorted(set(_DRIVERS.values())))}",
        )
    return driver


def gdal_path(address: str) -> str:
    """Return the name under which GDAL opens an address that `AccessPolicy.resolve` returned."""
    return "/vsis3/" + "/".join(parse(address)) if is_object(address) else address


def gdal_options() -> dict[str, str]:
    """Return GDAL's settings for the object store of the environment; GDAL reads the credentials there itself."""
    options = {"CPL_VSIL_CURL_NON_CACHED": "/vsis3/"}
    if endpoint := endpoint_of(os.environ):
        parts = urlsplit(endpoint)
        options |= {
            "AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"),
            "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
            "AWS_VIRTUAL_HOSTING": "TRUE" if is_true("AWS_VIRTUAL_HOSTED_STYLE_REQUEST") else "FALSE",
        }
    if is_true("AWS_SKIP_SIGNATURE"):
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    return options
