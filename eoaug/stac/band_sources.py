"""Where the pixels of a band come from: `BandSource` for one band, `ItemDate` for the bands of one date."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pystac
from odc.geo.geobox import GeoBox

from eoaug.errors import SourceError, first_line
from eoaug.stac.headers import Declaration
from eoaug.storage.access import AccessPolicy
from eoaug.storage.files import stable_name
from eoaug.storage.gdal import GDAL_OPTIONS, gdal_options, gdal_path
from eoaug.storage.names import clean_href
from eoaug.storage.ranges import RangeFile
from eoaug.storage.s3 import is_object

__all__ = ["BandSource", "ItemDate", "open_overview", "open_raster", "pixel_size", "unreadable"]


@dataclass(frozen=True)
class BandSource:
    """One band of one item: where its numbers are and what they mean."""

    item: str
    asset: str
    href: str
    """Of the raster file or the Zarr group."""
    driver: str
    """GDAL's driver of a raster file, or ``zarr`` or ``icechunk``; from the media type."""
    access: AccessPolicy
    """Checked again by the reader, which may run on another machine."""
    index: int
    """Number of the band in a raster file."""
    names: tuple[str, ...]
    """Variable name first, then aliases."""
    dtype: str
    nodata: float | None
    geobox: GeoBox
    scale: float | None = None
    """From stored numbers to physical units; None when none is declared."""
    offset: float = 0.0
    mask: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    array: str = ""
    """Name of the array in a Zarr group; empty for a raster file."""
    place: tuple[int, ...] = ()
    """Index along the dimensions of the array before y and x."""
    declared: Declaration = field(default_factory=Declaration)
    """What the item says about the raster file; compared with it whenever it is opened."""


@dataclass(frozen=True)
class ItemDate:
    """One date of one item with the requested bands."""

    item: pystac.Item
    """The item; of a Zarr group, an item with the properties of this date."""
    href: str
    sources: Mapping[str, BandSource]
    """By name of the variable."""
    member: int | None = None
    """Number of the ensemble member; None outside of ensembles."""

    @property
    def in_group(self) -> bool:
        """Whether the pixels lie in a Zarr group."""
        return any(source.array for source in self.sources.values())

    @property
    def grid(self) -> GeoBox:
        """The grid of the band with the smallest pixels; masks count only if there are no other bands."""
        measured = [s for s in self.sources.values() if not s.mask] or list(self.sources.values())
        return min((s.geobox for s in measured), key=pixel_size)


def pixel_size(geobox: GeoBox) -> float:
    """Return the smaller edge of a pixel, in units of the reference system."""
    return float(min(abs(geobox.resolution.x), abs(geobox.resolution.y)))


@contextmanager
def open_raster(address: str, driver: str, access: AccessPolicy, *, what: str) -> Iterator[Any]:
    """Open a raster with the driver of its media type only, and refuse a decompression bomb.

    GDAL gets what the access policy opened, not an address to open itself.
    """
    import rasterio
    from rasterio.errors import RasterioError

    address = access.resolve(address, what=what)
    with ExitStack() as stack:
        content: Any = None
        name, opener = gdal_path(address), None
        try:
            if not is_object(address):
                content = stack.enter_context(access.open(address, what=what))
                if isinstance(content, RangeFile):
                    name, opener = RangeFile.NAME, content.open
                else:
                    name = stable_name(content)
            stack.enter_context(rasterio.Env(**GDAL_OPTIONS, **gdal_options()))
            file = stack.enter_context(rasterio.open(name, driver=driver, sharing=False, opener=opener))
            access.limits.check_raster(
                what,
                shape_yx=file.shape,
                bands=file.count,
                itemsize=max(np.dtype(kind).itemsize for kind in file.dtypes),
                block_yx=max(file.block_shapes, key=math.prod),
                stored_bytes=os.fstat(content.fileno()).st_size if "://" not in address else None,
            )
            yield file
            if isinstance(content, RangeFile):
                content.check()
        except RasterioError as error:
            if isinstance(content, RangeFile):
                content.check()
            raise type(error)(str(error).replace(name, clean_href(address))) from error


@contextmanager
def open_overview(file: Any, level: int) -> Iterator[Any]:
    """Open an overview of an open raster: the same content, with the same driver."""
    import rasterio

    with rasterio.open(file.name, driver=file.driver, sharing=False, overview_level=level) as overview:
        yield overview


def unreadable(item: str, key: str, href: str, error: Exception) -> NoReturn:
    """Raise the error of an asset that cannot be read."""
    raise SourceError(
        f"asset {key!r} of item {item!r} cannot be read from {clean_href(href)!r}: {first_line(error)}",
        "fetch the file again, or leave the item out with ids=; unreadable pixels never count as nodata",
    ) from error
