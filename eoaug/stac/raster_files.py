"""Raster files without items: what a GeoTIFF says about itself, in the form of an item.

Type, nodata, scale and offset are left to the reader of items, which takes from the file what an item does not
declare. So a file and an item made of it give the same cube.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from eoaug.errors import EoaugError, SourceError, TimeError, first_line
from eoaug.stac.band_sources import open_raster
from eoaug.stac.file_dates import date_in_name, without_dates
from eoaug.storage.access import AccessPolicy
from eoaug.storage.crs_text import refuse_grid_files
from eoaug.storage.gdal import driver_of
from eoaug.storage.names import clean_href

__all__ = ["UNDATED", "is_raster_file", "items_of_files", "refuse_unclear_dates"]


UNDATED = "eoaug:undated"
"""Property of an item made of a file whose date is not known; its datetime is a placeholder."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MEDIA = {"GTiff": "image/tiff; application=geotiff", "JP2OpenJPEG": "image/jp2"}
_BAND_IN_NAME = re.compile(
    r"(?:^|[_.\-])((?:S[RT]_)?B\d{1,2}A?|SCL|AOT|WVP|CLM|CLP|UDM2?|[Ff]mask|(?:QA|BQA)(?:_PIXEL|_RADSAT)?|[VH][VH])"
    r"(?=$|[_.\-])"
)
_TIME_TAGS = ("ACQUISITIONDATETIME", "ACQUISITION_DATETIME", "SENSING_TIME", "datetime", "DATETIME")
"""Tags that hold when the image was taken; TIFFTAG_DATETIME is when the file was written."""


def is_raster_file(address: str) -> bool:
    """Return whether an address ends like that of a raster file."""
    path = urlsplit(address).path if "://" in address else address
    return path.lower().endswith((".tif", ".tiff", ".jp2"))


def items_of_files(addresses: Sequence[str], access: AccessPolicy) -> list[pystac.Item]:
    """Return items of raster files: files of one date and extent with different bands make one item.

    Parameters
    ----------
    addresses
        Paths or URLs of raster files.
    access
        What may be read.

    Raises
    ------
    SourceError
        A file cannot be read, or the file alone does not say which of its pixels are valid or generated.
    """
    groups: list[list[_File]] = []
    for address in addresses:
        file = _read(address, access)
        for group in groups:
            if all(file.goes_with(other) for other in group):
                group.append(file)
                break
        else:
            groups.append([file])
    items = [_item(group) for group in groups]
    taken: set[str] = set()
    for item in items:
        if item.id in taken:
            item.id = f"{item.id}-{len(taken)}"
        taken.add(item.id)
    return items


def refuse_unclear_dates(items: Sequence[pystac.Item]) -> None:
    """Refuse files without a date that would hide each other, or that lie among files with one.

    Raises
    ------
    TimeError
        The files do not make one cube.
    """
    undated = [item for item in items if item.properties.get(UNDATED)]
    if undated and len(undated) < len(items):
        raise TimeError(
            f"the date of {undated[0].id!r} is not known, that of {len(items) - len(undated)} other files is",
            "put the date into its name, like scene_20240601.tif, or open the files separately with ids=",
        )
    for index, item in enumerate(undated):
        for other in undated[:index]:
            common = {name for name in _band_names(item) if name in _band_names(other)}
            if common and _overlap(item, other):
                raise TimeError(
                    f"{other.id!r} and {item.id!r} both hold {sorted(common)[0]!r} of the same place, and no date "
                    "is known of them",
                    "put the dates into their names, like scene_20240601.tif, or open one of them with ids=",
                )


@dataclass(frozen=True)
class _File:
    """What a raster file says about itself."""

    address: str
    driver: str
    names: tuple[str, ...]
    """Of its bands."""
    units: tuple[str | None, ...]
    grid: GeoBox | None
    time: datetime | None

    @property
    def stem(self) -> str:
        path = urlsplit(self.address).path if "://" in self.address else self.address
        return Path(path).stem

    def goes_with(self, other: _File) -> bool:
        """Return whether two files can be assets of one item."""
        return (
            self.time == other.time
            and not set(self.names) & set(other.names)
            and self.grid is not None
            and other.grid is not None
            and self.grid.crs == other.grid.crs
            and all(abs(a - b) < 1e-6 * max(1.0, abs(a)) for a, b in zip(*self._bounds(other), strict=True))
        )

    def _bounds(self, other: _File) -> tuple[tuple[float, ...], tuple[float, ...]]:
        assert self.grid is not None
        assert other.grid is not None
        return tuple(self.grid.boundingbox), tuple(other.grid.boundingbox)


def _read(address: str, access: AccessPolicy) -> _File:
    shown = clean_href(address)
    what = f"file {shown!r}"
    address = access.resolve(address, what=what)
    driver = driver_of(None, address)
    stem = Path(urlsplit(address).path if "://" in address else address).stem
    try:
        with open_raster(address, driver, access, what=what) as file:
            _refuse_marked(file, address, what)
            _refuse_mask(file, address, what)
            if any(kind.startswith("complex") for kind in file.dtypes):
                raise SourceError(f"{what} holds complex numbers", "convert it to amplitude or intensity")
            return _File(
                address, driver, tuple(_names(file, stem)), tuple(file.units), _grid(file), _time(file, stem)
            )
    except EoaugError:
        raise
    except Exception as error:  # rasterio, pyproj and the file system each raise their own
        raise SourceError(
            f"{what} cannot be read: {first_line(error)}", "check that it is a complete GeoTIFF"
        ) from error


def _refuse_marked(file: Any, address: str, what: str) -> None:
    """Refuse a generated file: which of its pixels are generated is in another file of its item."""
    if file.tags().get("EOAUG_SYNTHETIC", "false").lower() != "true":
        return
    home = Path(address).parent.parent
    document = home / f"{home.name}.json"
    named = str(document) if "://" not in address and document.is_file() else "the JSON file of its item"
    raise SourceError(
        f"{what} holds pixels that eoaug generated, and which ones is marked in another file of its item",
        f"open the item, which has the marks: open_cube({named!r})",
    )


def _refuse_mask(file: Any, address: str, what: str) -> None:
    """Refuse a mask next to the pixels, which the reader of items would ignore."""
    from rasterio.enums import MaskFlags

    inside = any(
        MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in file.mask_flag_enums
    )
    sidecar = "://" not in address and Path(f"{address}.msk").is_file()
    if inside or sidecar:
        raise SourceError(
            f"{what} marks missing pixels in a mask {'inside' if inside else 'next to'} it, which is not read",
            f"write them as nodata: gdalwarp -dstnodata VALUE {Path(address).name} new.tif",
        )


def _names(file: Any, stem: str) -> Iterator[str]:
    """Yield the names of a file's bands: descriptions, else the band in the file's name, else their numbers."""
    described = [(text or "").strip() for text in file.descriptions]
    for number, name in enumerate(described, 1):
        if name:
            yield name if described.count(name) == 1 else f"{name}_{number}"
        elif file.count == 1:
            hits = _BAND_IN_NAME.findall(stem)
            yield hits[-1] if hits else without_dates(stem) or "band_1"
        else:
            yield f"band_{number}"


def _grid(file: Any) -> GeoBox | None:
    if file.crs is None:
        return None
    refuse_grid_files(file.crs.to_wkt(), what=f"file {clean_href(file.name)!r}")
    epsg = file.crs.to_epsg()
    return GeoBox(file.shape, file.transform, CRS(file.crs.to_wkt() if epsg is None else f"EPSG:{epsg}"))


def _time(file: Any, stem: str) -> datetime | None:
    """Return when the image was taken, if its tags or its name make it certain."""
    tags = {**file.tags(), **file.tags(ns="IMAGERY")}
    for name in _TIME_TAGS:
        try:
            time = datetime.fromisoformat(str(tags[name]).strip())
        except (KeyError, ValueError):
            continue
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return date_in_name(stem)


def _item(files: Sequence[_File]) -> pystac.Item:
    first = files[0]
    properties: dict[str, Any] = {} if first.time is not None else {UNDATED: True}
    common = first.stem if len(files) == 1 else _common_name([file.stem for file in files])
    item = pystac.Item(common, None, None, first.time or _EPOCH, properties)
    item.set_self_href(first.address)
    for file in files:
        bands = [
            {"name": name, **({"unit": unit} if unit else {})}
            for name, unit in zip(file.names, file.units, strict=True)
        ]
        fields: dict[str, Any] = {"bands": bands}
        if file.grid is not None and file.grid.crs is not None:
            epsg = file.grid.crs.to_epsg()
            fields["proj:code" if epsg else "proj:wkt2"] = f"EPSG:{epsg}" if epsg else file.grid.crs.to_wkt()
            fields["proj:shape"] = list(file.grid.shape)
            fields["proj:transform"] = list(file.grid.affine)[:6]
        key = file.names[0] if len(file.names) == 1 else file.stem
        item.add_asset(
            key,
            pystac.Asset(
                file.address, media_type=_MEDIA.get(file.driver), roles=["data"], extra_fields=fields
            ),
        )
    return item


def _common_name(stems: Sequence[str]) -> str:
    """Return what the names of an item's files have in common."""
    name = _BAND_IN_NAME.sub("", stems[0]).strip("_.- ")
    return name or stems[0]


def _band_names(item: pystac.Item) -> set[str]:
    return {band["name"] for asset in item.assets.values() for band in asset.extra_fields.get("bands", ())}


def _overlap(one: pystac.Item, other: pystac.Item) -> bool:
    """Return whether the extents of two items have an area in common; True where a grid is unknown."""
    boxes = [_box(item) for item in (one, other)]
    if any(box is None for box in boxes):
        return True
    a, b = (box.to_crs("EPSG:4326") if boxes[0].crs != boxes[1].crs else box for box in boxes)
    return bool(a.geom.intersection(b.geom).area > 1e-9 * min(a.geom.area, b.geom.area))


def _box(item: pystac.Item) -> Any:
    for asset in item.assets.values():
        fields = asset.extra_fields
        if "proj:shape" in fields:
            from affine import Affine

            code = fields.get("proj:code") or fields.get("proj:wkt2")
            return GeoBox(fields["proj:shape"], Affine(*fields["proj:transform"]), code).extent
    return None
