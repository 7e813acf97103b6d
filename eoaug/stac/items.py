"""What an item says about its bands, whatever its STAC version, in one plain form.

STAC 1.1 keeps a band's fields in ``bands``, 1.0 in ``eo:bands`` and ``raster:bands``, older items in the
asset; what none of them tells is read from the raster file. A Zarr group that `write` made holds many
dates in one item; it becomes one scene per date.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import numpy as np
import pystac
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from eoaug.errors import (
    BandError,
    EoaugError,
    GridError,
    RadiometryError,
    SourceError,
    did_you_mean,
    first_line,
)
from eoaug.raster.bands import band_of, common_name, is_mask_name
from eoaug.stac.filters import item_times
from eoaug.stac.integrity import group_damage
from eoaug.stac.zarr_groups import read_dates
from eoaug.storage.access import AccessPolicy, check_tree
from eoaug.storage.gdal import GDAL_OPTIONS, driver_of, gdal_options, gdal_path
from eoaug.storage.locations import as_location
from eoaug.storage.names import clean_href

__all__ = ["INHERITED", "BandSource", "ItemDate", "opened", "pixel_size", "read_scenes", "unreadable"]


@dataclass(frozen=True)
class BandSource:
    """One band of one item, wherever the item's STAC version keeps its metadata."""

    item: str
    asset: str
    href: str
    """Of the raster file or the Zarr group."""
    driver: str
    """GDAL's driver of a raster file, or ``zarr`` or ``icechunk``; from the media type."""
    access: AccessPolicy
    """What the reader checks again, where it reads."""
    index: int
    """Number of the band in a raster file."""
    names: tuple[str, ...]
    """Variable name first, then aliases."""
    dtype: str
    nodata: float | None
    geobox: GeoBox
    scale: float | None = None
    """None when nobody declares one."""
    offset: float = 0.0
    mask: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    array: str = ""
    """Name of the array in a Zarr group; empty for a raster file."""
    place: tuple[int, ...] = ()
    """Index along the dimensions of the array before y and x."""


@dataclass(frozen=True)
class ItemDate:
    """One date of one item with the bands that were asked for."""

    item: pystac.Item
    """The item; of a Zarr group, what it says of this date."""
    href: str
    sources: Mapping[str, BandSource]
    """By variable name."""
    member: int | None = None
    """Number of the ensemble member; None outside of ensembles."""

    @property
    def in_group(self) -> bool:
        """Whether the pixels lie in a Zarr group."""
        return any(source.array for source in self.sources.values())

    @property
    def grid(self) -> GeoBox:
        """The grid of the finest band; masks decide only when there is nothing else."""
        measured = [s for s in self.sources.values() if not s.mask] or list(self.sources.values())
        return min((s.geobox for s in measured), key=pixel_size)


def pixel_size(geobox: GeoBox) -> float:
    """Return the smaller edge of a pixel, in units of the reference system."""
    return float(min(abs(geobox.resolution.x), abs(geobox.resolution.y)))


def read_scenes(
    item: pystac.Item, wanted: tuple[str, ...], patch: Callable[[str], str] | None, access: AccessPolicy
) -> list[ItemDate]:
    """Read the bands' metadata of an item: from the item, and what it does not tell from the files.

    Returns one scene, or for a Zarr group one per date and member.
    """
    try:
        return _read_scenes(item, wanted, patch, access)
    except EoaugError:
        raise
    except Exception as error:  # whatever a value of the wrong kind makes pystac, pyproj or numpy raise
        raise SourceError(
            f"item {item.id!r} is malformed: {type(error).__name__}: {first_line(error)}",
            "correct the item, or leave it out with ids=",
        ) from error


def _read_scenes(
    item: pystac.Item, wanted: tuple[str, ...], patch: Callable[[str], str] | None, access: AccessPolicy
) -> list[ItemDate]:
    item_times(item)
    candidates = list(_bands(item)) or list(_arrays(item))
    if len(candidates) > access.limits.bands:
        raise SourceError(
            f"item {item.id!r} has {len(candidates)} bands; the most is {access.limits.bands}",
            "leave it out with ids=",
        )
    chosen = _choose(item, candidates, wanted)
    if not chosen:
        raise BandError(
            f"item {item.id!r} has no raster asset among {sorted(item.assets)}",
            "name the assets to read, e.g. bands=['B04']",
        )
    headers: dict[str, _Header] = {}
    sources = {name: _complete(item, raw, name, headers, patch, access) for name, raw in chosen.items()}
    member = item.properties.get("eoaug:member")
    scene = ItemDate(
        item=item,
        href=clean_href(item.get_self_href() or ""),
        sources=sources,
        member=member if isinstance(member, int) else None,
    )
    return _dates(scene) if scene.in_group else [scene]


def _refuse_incomplete(source: BandSource) -> None:
    data = as_location(source.href).parent
    for file, problem in group_damage(data, deep=False):
        raise SourceError(
            f"asset {source.asset!r} of item {source.item!r} is a Zarr group that is not complete: "
            f"{file.relative_to(data).as_posix()!r} {problem}",
            "copy its folder again, manifest.json included, or leave the item out with ids=",
        )


def _dates(scene: ItemDate) -> list[ItemDate]:
    """Split the scene of a Zarr group into one per date and member."""
    item, sources = scene.item, scene.sources
    first = next(iter(sources.values()))
    try:
        if len({source.href for source in sources.values()}) > 1:
            raise ValueError("its bands lie in several groups")
        if "://" not in first.href:
            _refuse_incomplete(first)
        grids = {source.array: source.geobox for source in sources.values()}
        found = read_dates(first.href, grids, form=first.driver)
    except EoaugError:
        raise
    except Exception as error:  # zarr, xarray, fsspec and the network each have their own
        raise SourceError(
            f"asset {first.asset!r} of item {item.id!r} is no Zarr group of eoaug that can be read, "
            f"{clean_href(first.href)!r}: {first_line(error)}",
            f"open it with xarray, e.g. xr.open_zarr({clean_href(first.href)!r}), or leave the item out with "
            "ids=",
        ) from error
    whole = ("datetime", "start_datetime", "end_datetime", "platform", "eo:cloud_cover")
    kept = {key: value for key, value in item.properties.items() if key not in whole}
    scenes = []
    for t, (time, facts) in enumerate(zip(found.times, found.facts, strict=True)):
        date = pystac.Item(
            id=item.id,
            geometry=None,
            bbox=None,
            datetime=time,
            properties={**kept, **facts},
            collection=item.collection_id,
        )
        for m, member in enumerate((None,) if found.members is None else found.members):
            place = (t,) if member is None else (m, t)
            here = {name: replace(source, place=place) for name, source in sources.items()}
            scenes.append(ItemDate(date, scene.href, here, member))
    return scenes


@dataclass(frozen=True)
class _Raw:
    """A band as an item declares it; every field may be missing."""

    asset: pystac.Asset
    key: str
    index: int
    names: tuple[str, ...]
    told: Mapping[str, Any]
    """Fields of the band, over those of the asset, over those of the item."""
    data: bool
    """False for quick-looks and metadata, which are read only when named."""
    array: str = ""
    """Name of the array in a Zarr group."""


_NOT_DATA = {"thumbnail", "overview", "visual", "metadata"}
INHERITED = ("data_type", "nodata", "unit", "gsd", "raster:scale", "raster:offset")


def _bands(item: pystac.Item) -> Iterator[_Raw]:
    single: set[str] = set()
    many = []
    for key, asset in item.assets.items():
        if not _is_raster(asset):
            continue
        fields = asset.extra_fields
        listed = fields.get("bands") or _merged(fields.get("eo:bands"), fields.get("raster:bands"))
        base = _inherited(item, asset)
        roles = set(asset.roles or ())
        data = not (roles & _NOT_DATA) and not (key.endswith("-jp2") and key[:-4] in item.assets)
        if len(listed) < 2:
            band = dict(listed[0]) if listed else {}
            names = _names(key, band)
            single.update(names)
            yield _Raw(asset, key, 1, names, base | band, data)
        else:
            many += [(key, asset, index, dict(band), base, data) for index, band in enumerate(listed, 1)]
    for key, asset, index, band, base, data in many:
        name = band.get("name") or f"{key}_{index}"
        # A composite repeats bands that have an asset of their own; theirs are the measurements.
        repeated = name in single
        names = _names(name, band)
        yield _Raw(asset, key, index, names, base | band, data and not repeated)


def _arrays(item: pystac.Item) -> Iterator[_Raw]:
    """Bands in Zarr groups: those that the asset of a group lists, or the array that an asset points at."""
    for key, asset in item.assets.items():
        if "zarr" not in (asset.media_type or ""):
            continue
        base, data = _inherited(item, asset), not set(asset.roles or ()) & _NOT_DATA
        for band in asset.extra_fields.get("bands") or ():
            names = _names(band["name"], band)
            yield _Raw(asset, key, 1, names, base | band, data, array=band["name"])
        if not asset.extra_fields.get("bands"):
            yield _Raw(asset, key, 1, _names(key, {}), base, data, array=_split(asset.href)[1])


def _group_form(asset: pystac.Asset) -> str:
    return "icechunk" if "icechunk" in (asset.media_type or "") else "zarr"


def _split(href: str) -> tuple[str, str]:
    """Group and array of the address of an array."""
    group, _, array = href.rstrip("/").rpartition("/")
    return group, array


def _inherited(item: pystac.Item, asset: pystac.Asset) -> dict[str, Any]:
    base = {name: item.properties[name] for name in INHERITED if name in item.properties}
    listless = {name: value for name, value in asset.extra_fields.items() if not isinstance(value, list)}
    return base | listless


def _names(name: str, band: Mapping[str, Any]) -> tuple[str, ...]:
    aliases = (band.get("name"), band.get("eo:common_name"), band.get("common_name"))
    return tuple(dict.fromkeys([name, *(alias for alias in aliases if isinstance(alias, str))]))


def _merged(*lists: Any) -> list[dict[str, Any]]:
    """Zip STAC 1.0's parallel lists ``eo:bands`` and ``raster:bands``."""
    filled = [entries for entries in lists if isinstance(entries, list) and entries]
    if not filled:
        return []
    length = max(len(entries) for entries in filled)
    merged: list[dict[str, Any]] = []
    for index in range(length):
        band: dict[str, Any] = {}
        for entries in filled:
            if index < len(entries):
                band |= {key: value for key, value in entries[index].items() if value is not None}
        for old in ("scale", "offset"):
            if old in band:
                band.setdefault(f"raster:{old}", band.pop(old))
        merged.append(band)
    return merged


def _is_raster(asset: pystac.Asset) -> bool:
    media = (asset.media_type or "").split(";")[0].lower()
    path = urlsplit(asset.href).path.lower() if "://" in asset.href else asset.href.lower()
    if media:
        return media.startswith("image/")
    return path.endswith((".tif", ".tiff", ".jp2")) or "data" in (asset.roles or ())


def _choose(item: pystac.Item, candidates: Sequence[_Raw], wanted: tuple[str, ...]) -> dict[str, _Raw]:
    if not wanted:
        return {raw.names[0]: raw for raw in candidates if raw.data}
    chosen = {}
    for name in wanted:
        hits = [raw for raw in candidates if raw.names[0] == name]
        hits = hits or [raw for raw in candidates if name in raw.names and raw.data]
        hits = hits or [raw for raw in candidates if name in (*raw.names, _common(item, raw))]
        if not hits:
            known = sorted({alias for raw in candidates for alias in raw.names})
            raise BandError(
                f"item {item.id!r} has no band {name!r}; it has {known}",
                did_you_mean(name, known, cutoff=0.5) or "name one of these",
            )
        if len(hits) > 1:
            raise BandError(
                f"band {name!r} of item {item.id!r} can mean {[raw.names[0] for raw in hits]}",
                "name one of these instead",
            )
        chosen[name] = hits[0]
    return chosen


def _common(item: pystac.Item, raw: _Raw) -> str | None:
    platform = item.properties.get("platform") or item.properties.get("constellation")
    for name in raw.names:
        found = common_name(name, raw.told, str(platform) if platform else None)
        if found is not None:
            return found
    return None


@dataclass(frozen=True)
class _Header:
    """What a raster file tells about itself."""

    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    geobox: GeoBox | None


def _complete(
    item: pystac.Item,
    raw: _Raw,
    name: str,
    headers: dict[str, _Header],
    patch: Callable[[str], str] | None,
    access: AccessPolicy,
) -> BandSource:
    href = _asset_href(item, raw)
    what = f"asset {raw.key!r} of item {item.id!r}"
    address = access.resolve(patch(href) if patch is not None else href, what=what)
    driver = _group_form(raw.asset) if raw.array else driver_of(raw.asset.media_type, address)
    if "://" not in address:
        there = Path(address).is_dir() if raw.array else Path(address).is_file()
        if not there:
            raise SourceError(
                f"{what} is not there: {href!r}",
                "copy the file to where the item says, or choose other bands= or ids=",
            )
        if raw.array:
            check_tree(address, what=what)

    def header() -> _Header:
        if raw.array:
            raise SourceError(
                f"asset {raw.key!r} of item {item.id!r} is a Zarr group, and does not tell data_type, proj:code, "
                f"proj:shape and proj:transform of its band {raw.names[0]!r}",
                f"open it with xarray, e.g. xr.open_zarr({clean_href(href)!r})",
            )
        if address not in headers:
            headers[address] = _read_header(address, item, raw.key, driver, access)
        return headers[address]

    told = raw.told
    geobox = _declared_grid(item, raw, access) or header().geobox
    if geobox is None or geobox.crs is None:
        raise GridError(
            f"asset {raw.key!r} of item {item.id!r} has no coordinate reference system: neither "
            "proj:code, proj:wkt2 and proj:projjson nor the file tells one",
            "georeference the file (e.g. gdalwarp for ground control points), or leave the item out",
        )
    band = raw.index - 1
    dtype = told.get("data_type") or header().dtypes[band]
    nodata = told.get("nodata")
    if nodata is None and "data_type" not in told:
        nodata = header().nodata[band]
    scale, offset = _declared_scale(item, raw)
    if (
        scale is None
        and "data_type" not in told
        and (header().scales[band], header().offsets[band]) != (1, 0)
    ):
        scale, offset = header().scales[band], header().offsets[band]
    common = _common(item, raw)
    classes = told.get("classification:classes")
    mask = is_mask_name(raw.names[0], {"flag_values": 1} if classes else {})
    attrs: dict[str, Any] = {"units": str(told.get("unit", "1"))}
    if common and not mask:
        attrs["common_name"] = common
        wavelength = told.get("eo:center_wavelength", told.get("center_wavelength"))
        if isinstance(wavelength, int | float):
            attrs["center_wavelength"] = float(wavelength)
    if isinstance(classes, list) and classes:
        attrs["flag_values"] = np.asarray([c["value"] for c in classes])
        attrs["flag_meanings"] = " ".join(str(c.get("name", c["value"])).replace(" ", "_") for c in classes)
    return BandSource(
        item=item.id,
        asset=raw.key,
        href=address,
        driver=driver,
        access=access,
        index=raw.index,
        names=(name, *raw.names),
        dtype=_dtype(dtype, item, raw),
        nodata=_number(nodata, item, raw),
        geobox=geobox,
        scale=None if mask else scale,
        offset=0.0 if mask else offset,
        mask=mask,
        attrs=attrs,
        array=raw.array,
    )


def _asset_href(item: pystac.Item, raw: _Raw) -> str:
    href = raw.asset.get_absolute_href() or raw.asset.href
    if raw.array and not raw.asset.extra_fields.get("bands"):
        href = _split(href)[0]
    return href


def _read_header(href: str, item: pystac.Item, key: str, driver: str, access: AccessPolicy) -> _Header:
    from rasterio.errors import RasterioError

    try:
        with opened(href, driver, access, what=f"asset {key!r} of item {item.id!r}") as file:
            grid = None
            if file.crs is not None and file.transform is not None:
                grid = GeoBox(file.shape, file.transform, CRS(file.crs.to_wkt()))
                if file.crs.to_epsg() is not None:
                    grid = GeoBox(file.shape, file.transform, f"EPSG:{file.crs.to_epsg()}")
            return _Header(file.dtypes, file.nodatavals, file.scales, file.offsets, grid)
    except (RasterioError, OSError) as error:
        unreadable(item.id, key, href, error)


@contextmanager
def opened(address: str, driver: str, access: AccessPolicy, *, what: str) -> Iterator[Any]:
    """Open a raster of an input by the driver of its media type alone, and refuse one that is a bomb."""
    import rasterio

    with (
        rasterio.Env(**GDAL_OPTIONS, **gdal_options()),
        rasterio.open(gdal_path(access.follow_redirects(address, what=what)), driver=driver) as file,
    ):
        access.limits.check_raster(
            what,
            shape_yx=file.shape,
            bands=file.count,
            itemsize=max(np.dtype(kind).itemsize for kind in file.dtypes),
            block_yx=max(file.block_shapes, key=math.prod),
            stored_bytes=os.path.getsize(address) if "://" not in address else None,
        )
        yield file


def unreadable(item: str, key: str, href: str, error: Exception) -> NoReturn:
    """Raise the error of an asset that cannot be read."""
    raise SourceError(
        f"asset {key!r} of item {item!r} cannot be read from {clean_href(href)!r}: {first_line(error)}",
        "fetch the file again, or leave the item out with ids=; unreadable pixels never count as nodata",
    ) from error


def _declared_grid(item: pystac.Item, raw: _Raw, access: AccessPolicy) -> GeoBox | None:
    """The band's grid as the projection extension v1 or v2 tells it, band over asset over item."""

    def told(name: str) -> Any:
        return raw.told.get(name, raw.asset.extra_fields.get(name, item.properties.get(name)))

    shape, transform = told("proj:shape"), told("proj:transform")
    code = told("proj:code") or told("proj:wkt2") or told("proj:projjson")
    if code is None and told("proj:epsg") is not None:
        code = f"EPSG:{told('proj:epsg')}"
    if not (shape and transform and code):
        return None
    try:
        crs = CRS(json.dumps(code) if isinstance(code, Mapping) else code)
        height, width = (int(n) for n in shape)
        access.limits.check_raster(f"asset {raw.key!r} of item {item.id!r}", shape_yx=(height, width))
        return GeoBox((height, width), Affine(*map(float, transform[:6])), crs)
    except EoaugError:
        raise
    except Exception as error:  # pyproj, odc-geo and affine each have their own
        raise GridError(
            f"asset {raw.key!r} of item {item.id!r} declares a grid that makes no sense: code {code!r}, "
            f"shape {shape!r}, transform {transform!r}: {first_line(error)}",
            "correct its proj: fields, or remove them so that the file's own are taken",
        ) from error


def _declared_scale(item: pystac.Item, raw: _Raw) -> tuple[float | None, float]:
    """Scale and offset from stored numbers to physical units; (None, 0) when nobody declares them."""
    scale = _number(raw.told.get("raster:scale"), item, raw)
    offset = _number(raw.told.get("raster:offset"), item, raw)
    properties = item.properties
    band = band_of(raw.names[0], "sentinel-2") or next(
        (found for name in raw.names if (found := band_of(name, "sentinel-2"))), None
    )
    sentinel2 = "sentinel-2" in str(properties.get("platform", properties.get("constellation", ""))).lower()
    if sentinel2 and (band is not None or _common(item, raw) is not None):
        baseline = properties.get("s2:processing_baseline", properties.get("processing:version"))
        if properties.get("earthsearch:boa_offset_applied") is True:
            # Its provider has subtracted the offset from the pixels and still lists it in the item.
            return (1e-4 if scale is None else scale), 0.0
        if (
            offset is None
            and _baseline(baseline) is not None
            and (scale is None or math.isclose(scale, 1e-4))
        ):
            # Product specification: quantification value 10000, and -1000 from baseline 04.00 on.
            return 1e-4, (-0.1 if _baseline(baseline) >= (4, 0) else 0.0)  # type: ignore[operator]
    if scale is None and offset is None:
        return None, 0.0
    if scale == 0:
        raise RadiometryError(
            f"asset {raw.key!r} of item {item.id!r} declares raster:scale 0", "correct the item"
        )
    return (1.0 if scale is None else scale), (offset or 0.0)


def _baseline(value: Any) -> tuple[int, int] | None:
    parts = str(value).lstrip("N").split(".")
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _dtype(value: Any, item: pystac.Item, raw: _Raw) -> str:
    try:
        return np.dtype(str(value)).name
    except TypeError as error:
        raise RadiometryError(
            f"asset {raw.key!r} of item {item.id!r} has data_type {value!r}, which is no real number type",
            "correct the item, or choose other bands=",
        ) from error


def _number(value: Any, item: pystac.Item, raw: _Raw) -> float | None:
    """JSON has no NaN; items spell it as text."""
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise RadiometryError(
            f"asset {raw.key!r} of item {item.id!r} has {value!r} where a number should be",
            "correct nodata, raster:scale or raster:offset of the item",
        ) from error
