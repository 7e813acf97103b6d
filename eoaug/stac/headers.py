"""What a raster file says about itself, and where its item says something else: `Header`, `Declaration`.

An item that belongs to another file (another tile, an older grid, a transform in GDAL's order) would put pixels in
the wrong place, or nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, GridError, RadiometryError, first_line
from eoaug.storage.crs_text import refuse_grid_files
from eoaug.storage.names import clean_href

__all__ = ["Declaration", "Header", "header_of", "refuse_contradictions"]


_TOLERANCE_PX = 0.05
"""Distance in pixels, at the corners of the raster, up to which transforms differ by rounding only."""


@dataclass(frozen=True)
class Header:
    """What a raster file declares, and for each band."""

    shape: tuple[int, int]
    """Rows, columns."""
    transform: Affine
    """From pixels to coordinates; the identity in files without georeference."""
    crs: str
    """As WKT; empty without one."""
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    names: tuple[str, ...]
    """Descriptions of the bands; empty texts where there are none."""
    numbers: tuple[int, ...]
    """Numbers of the bands from 1, without alpha channels."""
    palette: tuple[bool, ...]
    """Whether a band has a colour table, so that its numbers are classes."""
    geobox: GeoBox | None
    """None without a coordinate reference system."""

    def scaling(self, number: int) -> tuple[float, float] | None:
        """Return scale and offset of a band, numbered from 1; None for GDAL's default."""
        scale, offset = self.scales[number - 1], self.offsets[number - 1]
        return None if (scale, offset) == (1, 0) else (scale, offset)


def header_of(file: Any) -> Header:
    """Return the header of an open rasterio dataset."""
    from rasterio.enums import ColorInterp

    grid = None
    if file.crs is not None:
        refuse_grid_files(file.crs.to_wkt(), what=f"file {clean_href(file.name)!r}")
    if file.crs is not None and file.transform is not None:
        epsg = file.crs.to_epsg()
        crs = CRS(file.crs.to_wkt()) if epsg is None else CRS(f"EPSG:{epsg}")
        grid = GeoBox(file.shape, file.transform, crs)
    colours = file.colorinterp
    numbers = tuple(i for i, colour in enumerate(colours, 1) if colour != ColorInterp.alpha)
    return Header(
        shape=(int(file.height), int(file.width)),
        transform=file.transform,
        crs="" if file.crs is None else file.crs.to_wkt(),
        dtypes=tuple(file.dtypes),
        nodata=tuple(file.nodatavals),
        scales=tuple(file.scales),
        offsets=tuple(file.offsets),
        names=tuple(str(text or "").strip() for text in file.descriptions),
        numbers=numbers or tuple(range(1, file.count + 1)),
        palette=tuple(colour == ColorInterp.palette for colour in colours),
        geobox=grid,
    )


@dataclass(frozen=True)
class Declaration:
    """What an item says about the file of a band; what it does not say is None or empty."""

    crs: tuple[tuple[str, str], ...] = ()
    """Name and value of each field with a coordinate reference system, as `pyproj` reads it."""
    shape: tuple[int, ...] | None = None
    transform: tuple[float, ...] | None = None
    """In the order of STAC and rasterio: pixel width, row rotation, x, column rotation, pixel height, y."""
    data_type: str | None = None
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None
    bands: int = 0
    """Number of bands that the asset lists; 0 without a list."""

    def contradictions(self, header: Header, number: int) -> Iterator[tuple[str, str, str]]:
        """Yield field, declared value and value of the file, where these differ.

        Parameters
        ----------
        header
            Of the file. What it does not declare contradicts nothing.
        number
            Of the band in the file, from 1.
        """
        if self.bands and self.bands not in (len(header.numbers), len(header.dtypes)):
            yield "bands", str(self.bands), str(len(header.numbers))
            return  # whether the band is in the file is unknown
        yield from self._grid(header)
        dtype = header.dtypes[number - 1]
        if self.data_type is not None and self.data_type != np.dtype(dtype).name:
            yield "data_type", self.data_type, dtype
        missing = header.nodata[number - 1]
        if self.nodata is not None and missing is not None and not _same(self.nodata, missing, dtype):
            yield "nodata", f"{self.nodata:g}", f"{missing:g}"
        for field, declared, value, default in (
            ("raster:scale", self.scale, header.scales[number - 1], 1.0),
            ("raster:offset", self.offset, header.offsets[number - 1], 0.0),
        ):
            if declared is not None and value != default and not math.isclose(declared, value, rel_tol=1e-5):
                yield field, f"{declared:g}", f"{value:g}"

    def _grid(self, header: Header) -> Iterator[tuple[str, str, str]]:
        if header.crs:
            for field, value in self.crs:
                if not _same_place(value, header.crs, header.shape, tuple(header.transform)[:6]):
                    yield field, _shown(value), _shown(header.crs)
        if self.shape is not None and self.shape != header.shape:
            yield "proj:shape", str(list(self.shape)), str(list(header.shape))
        located = bool(header.crs) or header.transform != Affine.identity()
        if self.transform is not None and located:
            distance = _distance_px(self.transform, header.transform, header.shape)
            if not distance <= _TOLERANCE_PX:
                yield "proj:transform", _numbers(self.transform), _numbers(tuple(header.transform)[:6])


def refuse_contradictions(
    declared: Declaration, header: Header, number: int, *, item: str, asset: str, href: str
) -> None:
    """Refuse a file that is not what its item says.

    Raises
    ------
    GridError
        Coordinate reference system, shape or transform differ, or the file has no reference system.
    BandError
        The number of bands differs.
    RadiometryError
        Data type, nodata, scale or offset differ.
    """
    if header.geobox is None:
        raise GridError(
            f"asset {asset!r} of item {item!r} has no coordinate reference system in its file {clean_href(href)!r}",
            "georeference the file (e.g. gdal_edit.py -a_srs EPSG:32633 -a_ullr ..., gdalwarp for ground control "
            "points), or leave the item out",
        )
    found = list(declared.contradictions(header, number))
    if not found:
        return
    fields = "; ".join(
        f"{field} is {value} in the item and {other} in the file" for field, value, other in found
    )
    names = [field for field, _, _ in found]
    error = (
        BandError
        if "bands" in names
        else GridError
        if any(n.startswith("proj:") for n in names)
        else RadiometryError
    )
    raise error(
        f"item {item!r} contradicts the file of its asset {asset!r}, {clean_href(href)!r}: {fields}",
        f"correct the asset's href if it names another file; else correct {', '.join(names)} of the item, or remove "
        "them so that the file's own are used",
    )


def _same(declared: float, value: float, dtype: str) -> bool:
    """Return whether two nodata values are one in the type of the band."""
    if math.isnan(declared) or math.isnan(value):
        return math.isnan(declared) and math.isnan(value)
    if declared == value:
        return True
    kind = np.dtype(dtype)
    with np.errstate(over="ignore"):
        return kind.kind == "f" and bool(kind.type(declared) == kind.type(value))


@lru_cache(maxsize=1024)
def _same_place(declared: str, wkt: str, shape: tuple[int, int], transform: tuple[float, ...]) -> bool:
    """Return whether a raster lies at one place in both coordinate reference systems."""
    try:
        one, other = _horizontal(declared), _horizontal(wkt)
        if bool(one.equals(other, ignore_axis_order=True)):
            return True
        codes = one.to_epsg(), other.to_epsg()
        if None not in codes:
            return bool(codes[0] == codes[1])
        a = Affine(*transform)
        places = np.asarray([a * corner for corner in _corners(shape)]).T
        moved = np.asarray(pyproj.Transformer.from_crs(other, one, always_xy=True).transform(*places))
        distance = np.hypot(*(moved - places))
        return bool((distance <= _TOLERANCE_PX * math.sqrt(abs(a.determinant))).all())
    except Exception as error:  # pyproj raises its own for text that is no reference system
        raise GridError(
            f"coordinate reference system {declared[:80]!r} is invalid: {first_line(error)}",
            "correct proj:code of the item, or remove it so that the file's own is used",
        ) from error


def _horizontal(text: str) -> Any:
    """Return a reference system without heights."""
    crs = pyproj.CRS.from_user_input(text)
    return crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()


def _corners(shape: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    height, width = shape
    return (0, 0), (width, 0), (0, height), (width, height)


def _distance_px(declared: Sequence[float], own: Affine, shape: tuple[int, int]) -> float:
    """Return how far a corner of the raster is moved by another transform, in pixels; NaN if that is not a number."""
    if own.determinant == 0:
        return 0.0 if tuple(declared) == tuple(own)[:6] else math.inf
    other, back = Affine(*declared), ~own
    return max(math.dist(corner, back * (other * corner)) for corner in _corners(shape))


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.12g}" for value in values) + "]"


def _shown(crs: str) -> str:
    """Return a reference system for a message: its code, else its name."""
    parsed = pyproj.CRS.from_user_input(crs)
    code = parsed.to_epsg()
    return f"EPSG:{code}" if code else repr(parsed.name)
