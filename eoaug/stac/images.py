"""Images of training sets: GeoTIFF, PNG and JPEG files as small cubes, without items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, EoaugError, SourceError, first_line
from eoaug.raster.variables import LABEL, ROLE
from eoaug.stac.band_sources import open_raster
from eoaug.stac.headers import header_of
from eoaug.storage.access import AccessPolicy
from eoaug.storage.gdal import driver_of

__all__ = ["IMAGE_SUFFIXES", "ImageFile", "Pixels", "band_names", "cube_of", "label_attributes", "read_image"]

IMAGE_SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg")
"""Files that are images."""
_PICTURES = (".png", ".jpg", ".jpeg")
_RGB = ("red", "green", "blue")
_GREY = "8-bit grey levels as a share of the full scale: no calibration to reflectance is known"
_SENTINEL_2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
"""Order of the 13 bands of EuroSAT and of torchgeo's copy of it."""


@dataclass(frozen=True)
class Pixels:
    """The content of an image file."""

    values: NDArray[Any]
    """Shape (C, H, W), as stored."""
    names: tuple[str, ...]
    """Descriptions of the bands in the file; empty texts where there are none."""
    geobox: GeoBox | None
    """None without a georeference."""
    nodata: float | None = None


def read_image(path: str) -> Pixels:
    """Read an image file at once; alpha channels are left out.

    Raises
    ------
    SourceError
        The file is damaged, implausibly large, or of a mode that is no image of bands.
    """
    access = AccessPolicy.for_source(path, ())
    what = f"image {path!r}"
    try:
        if Path(path).suffix.lower() in _PICTURES:
            return _read_picture(path, access, what)
        with open_raster(path, driver_of(None, path), access, what=what) as file:
            header = header_of(file)
            values = file.read(list(header.numbers))
        names = tuple(header.names[number - 1] for number in header.numbers)
        return Pixels(values, names, header.geobox, header.nodata[header.numbers[0] - 1])
    except EoaugError:
        raise
    except Exception as error:  # rasterio, pillow and the file system each raise their own
        raise SourceError(
            f"{what} cannot be read: {first_line(error)}", "check that the file is complete"
        ) from error


def _read_picture(path: str, access: AccessPolicy, what: str) -> Pixels:
    from PIL import Image

    with access.open(path, what=what) as file, Image.open(file, formats=("PNG", "JPEG")) as picture:  # type: ignore[arg-type]
        bands = len(picture.getbands())
        access.limits.check_raster(
            what,
            shape_yx=(picture.height, picture.width),
            bands=bands,
            itemsize=4 if picture.mode.startswith("I") else 1,
            block_yx=(picture.height, picture.width),
            stored_bytes=Path(path).stat().st_size,
        )
        if picture.mode not in ("L", "LA", "P", "RGB", "RGBA", "1", "I", "I;16"):
            raise SourceError(f"{what} has the mode {picture.mode}", "convert it to RGB or to a GeoTIFF")
        values = np.asarray(picture)
        values = values[..., :-1] if picture.mode in ("LA", "RGBA") else values
    if values.dtype == np.int32:  # pillow widens 16 bits
        values = values.astype(np.uint16)
    stacked = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return Pixels(np.ascontiguousarray(stacked), ("",) * len(stacked), None)


def band_names(pixels: Pixels, given: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names of the bands of an image: given ones, else those in the file, else those of known orders.

    Raises
    ------
    BandError
        Another number of names, or none that is known.
    """
    count = len(pixels.values)
    if given:
        if len(given) != count or len(set(given)) != count:
            raise BandError(
                f"bands={list(given)!r} are {len(set(given))} different names, and {what} has {count} bands",
                "name every band once, in the order of the file",
            )
        return tuple(given)
    if all(pixels.names) and len(set(pixels.names)) == count:
        return pixels.names
    if count == 3 and pixels.values.dtype == np.uint8:
        return _RGB
    if count == len(_SENTINEL_2) and pixels.values.dtype == np.uint16:
        return _SENTINEL_2
    raise BandError(
        f"{what} has {count} bands of {pixels.values.dtype} without names",
        "name them in the order of the file, e.g. bands=['VV', 'VH']",
    )


def cube_of(
    values: Mapping[str, NDArray[Any]],
    geobox: GeoBox | None,
    *,
    attrs: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return a cube of named bands.

    Parameters
    ----------
    values
        By name, shape (H, W) or (T, H, W).
    geobox
        The grid; None: pixel centres count from 0.5, and there is no coordinate reference system.
    attrs
        Of every band.
    coords
        Further coordinates, such as ``time``.
    """
    some = next(iter(values.values()))
    y, x = ("y", "x") if geobox is None else geobox.dimensions
    own: dict[str, Any] = dict(attrs or {})
    if geobox is None:
        grid: dict[Any, Any] = {
            name: ((name,), np.arange(size) + 0.5, {"units": "pixel"})
            for name, size in zip((y, x), some.shape[-2:], strict=True)
        }
    else:
        from odc.geo.xr import xr_coords

        grid = dict(xr_coords(geobox))
        own["grid_mapping"] = "spatial_ref"
    dims = ("time", y, x) if some.ndim == 3 else (y, x)
    return xr.Dataset(
        {name: (dims, array, dict(own)) for name, array in values.items()}, {**grid, **(coords or {})}
    )


def label_attributes(classes: Mapping[int, str] | None) -> dict[str, Any]:
    """Return the attributes of a label, with its classes as CF flags where they are known."""
    attrs: dict[str, Any] = {ROLE: LABEL}
    if classes:
        words = ["_".join(str(name).split()) for name in classes.values()]
        attrs |= {"flag_values": np.asarray(list(classes)), "flag_meanings": " ".join(words)}
    return attrs


@dataclass(frozen=True)
class ImageFile:
    """An image file of a training set, which is read when it is opened."""

    path: str
    bands: tuple[str, ...] = ()
    """Names of its bands in order; empty: those of the file, or of a known order."""
    scale: float | None = None
    """Physical units per stored unit; None: not declared."""
    offset: float = 0.0

    def open(self) -> xr.Dataset:
        """Return the image as a cube over (y, x)."""
        pixels = read_image(self.path)
        names = band_names(pixels, self.bands, f"image {self.path!r}")
        attrs: dict[str, Any] = {}
        if self.scale is None and pixels.values.dtype == np.uint8 and names == _RGB:
            attrs = {"scale_factor": 1 / 255, "add_offset": 0.0, "comment": _GREY}
        if self.scale is not None:
            attrs |= {"scale_factor": self.scale, "add_offset": self.offset}
        if pixels.nodata is not None:
            attrs["nodata"] = pixels.nodata
        return cube_of(dict(zip(names, pixels.values, strict=True)), pixels.geobox, attrs=attrs)

    def place(self) -> tuple[float, float] | None:
        """Return longitude and latitude of the centre in degrees; None without a georeference."""
        geobox = self._geobox()
        if geobox is None or geobox.crs is None:
            return None
        box = geobox.extent.to_crs("EPSG:4326").boundingbox
        return (box.left + box.right) / 2, (box.bottom + box.top) / 2

    def identity(self) -> str:
        """Return the sha256 of the file."""
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def _geobox(self) -> GeoBox | None:
        if Path(self.path).suffix.lower() in _PICTURES:
            return None
        access = AccessPolicy.for_source(self.path, ())
        with open_raster(self.path, driver_of(None, self.path), access, what=f"image {self.path!r}") as file:
            return header_of(file).geobox
