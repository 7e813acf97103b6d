"""From an item to the sources of its bands: one `ItemDate`, or for a Zarr group one per date and member.

Fields that an item does not declare are read from its raster files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pystac
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, EoaugError, GridError, SourceError, first_line
from eoaug.stac.band_sources import BandSource, ItemDate, open_raster, unreadable
from eoaug.stac.declared_bands import DeclaredBand, choose_bands, declared_bands
from eoaug.stac.filters import item_times
from eoaug.stac.integrity import group_damage
from eoaug.stac.zarr_groups import read_dates
from eoaug.storage.access import AccessPolicy, check_tree
from eoaug.storage.gdal import driver_of
from eoaug.storage.locations import as_location
from eoaug.storage.names import clean_href

__all__ = ["read_item_dates"]


def read_item_dates(
    item: pystac.Item, bands: tuple[str, ...], patch_url: Callable[[str], str] | None, access: AccessPolicy
) -> list[ItemDate]:
    """Read the metadata of an item's bands: from the item, and what it does not declare from the files.

    Parameters
    ----------
    item
        Of any STAC version.
    bands
        Requested names; empty: all data.
    patch_url
        Applied to every asset's address, e.g. to sign it.
    access
        What the assets' addresses may point to.

    Returns
    -------
    list of ItemDate
        One, or for a Zarr group one per date and member.
    """
    try:
        item_times(item)
        candidates = declared_bands(item)
        if len(candidates) > access.limits.bands:
            raise SourceError(
                f"item {item.id!r} has {len(candidates)} bands; the most is {access.limits.bands}",
                "leave it out with ids=",
            )
        chosen = choose_bands(item, candidates, bands)
        if not chosen:
            raise BandError(
                f"item {item.id!r} has no raster asset among {sorted(item.assets)}",
                "name the assets to read, e.g. bands=['B04']",
            )
        resolve = _Resolver(patch_url, access)
        sources = {name: resolve.source(band, name) for name, band in chosen.items()}
        member = item.properties.get("eoaug:member")
        date = ItemDate(
            item=item,
            href=clean_href(item.get_self_href() or ""),
            sources=sources,
            member=member if isinstance(member, int) else None,
        )
        return _dates_of_group(date) if date.in_group else [date]
    except EoaugError:
        raise
    except Exception as error:  # whatever a value of the wrong type makes pystac, pyproj or numpy raise
        raise SourceError(
            f"item {item.id!r} is malformed: {type(error).__name__}: {first_line(error)}",
            "correct the item, or leave it out with ids=",
        ) from error


def _dates_of_group(whole: ItemDate) -> list[ItemDate]:
    """Split the item of a Zarr group into its dates and members."""
    item, sources = whole.item, whole.sources
    first = next(iter(sources.values()))
    try:
        if len({source.href for source in sources.values()}) > 1:
            raise ValueError("its bands lie in several groups")
        if "://" not in first.href:
            _refuse_incomplete(first)
        grids = {source.array: source.geobox for source in sources.values()}
        group = read_dates(first.href, grids, form=first.driver)
    except EoaugError:
        raise
    except Exception as error:  # zarr, xarray, fsspec and the network each raise their own
        raise SourceError(
            f"asset {first.asset!r} of item {item.id!r} is not a readable Zarr group of eoaug, "
            f"{clean_href(first.href)!r}: {first_line(error)}",
            f"open it with xarray, e.g. xr.open_zarr({clean_href(first.href)!r}), or leave the item out with "
            "ids=",
        ) from error
    of_date = ("datetime", "start_datetime", "end_datetime", "platform", "eo:cloud_cover")
    shared = {key: value for key, value in item.properties.items() if key not in of_date}
    dates = []
    for t, (time, properties) in enumerate(zip(group.times, group.properties, strict=True)):
        dated = pystac.Item(
            id=item.id,
            geometry=None,
            bbox=None,
            datetime=time,
            properties={**shared, **properties},
            collection=item.collection_id,
        )
        for m, member in enumerate((None,) if group.members is None else group.members):
            place = (t,) if member is None else (m, t)
            placed = {name: replace(source, place=place) for name, source in sources.items()}
            dates.append(ItemDate(dated, whole.href, placed, member))
    return dates


def _refuse_incomplete(source: BandSource) -> None:
    data = as_location(source.href).parent
    for file, problem in group_damage(data, deep=False):
        raise SourceError(
            f"asset {source.asset!r} of item {source.item!r} is an incomplete Zarr group: "
            f"{file.relative_to(data).as_posix()!r} {problem}",
            "copy its folder again, manifest.json included, or leave the item out with ids=",
        )


@dataclass(frozen=True)
class _Header:
    """What a raster file declares about its bands."""

    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    geobox: GeoBox | None


@dataclass
class _Resolver:
    """Completes the declared bands of one item; opens each of its files at most once."""

    patch_url: Callable[[str], str] | None
    access: AccessPolicy
    headers: dict[str, _Header] = field(default_factory=dict)
    """By address."""

    def source(self, band: DeclaredBand, name: str) -> BandSource:
        """Return the source of a band that is requested as ``name``."""
        address, driver = self._address(band)
        geobox = band.grid(self.access) or self._header(band, address, driver).geobox
        if geobox is None or geobox.crs is None:
            raise GridError(
                f"{band} has no coordinate reference system: neither proj:code, proj:wkt2 and proj:projjson nor "
                "the file declares one",
                "georeference the file (e.g. gdalwarp for ground control points), or leave the item out",
            )
        number = band.index - 1
        declared = "data_type" in band.fields
        dtype = band.dtype(band.fields.get("data_type") or self._header(band, address, driver).dtypes[number])
        nodata = band.fields.get("nodata")
        if nodata is None and not declared:
            nodata = self._header(band, address, driver).nodata[number]
        scale, offset = band.scaling(dtype)
        if scale is None and not declared:
            header = self._header(band, address, driver)
            if (header.scales[number], header.offsets[number]) != (1, 0):
                scale, offset = header.scales[number], header.offsets[number]
        return BandSource(
            item=band.item.id,
            asset=band.key,
            href=address,
            driver=driver,
            access=self.access,
            index=band.index,
            names=(name, *band.names),
            dtype=dtype,
            nodata=band.number("nodata", nodata),
            geobox=geobox,
            scale=None if band.is_mask else scale,
            offset=0.0 if band.is_mask else offset,
            mask=band.is_mask,
            attrs=band.attributes,
            array=band.array,
        )

    def _address(self, band: DeclaredBand) -> tuple[str, str]:
        """Return the permitted address of a band's file or group, and the driver that opens it."""
        href = band.href
        address = self.access.resolve(
            self.patch_url(href) if self.patch_url is not None else href, what=str(band)
        )
        if "://" not in address:
            if not (Path(address).is_dir() if band.array else Path(address).is_file()):
                raise SourceError(
                    f"{band} does not exist: {href!r}",
                    "copy the file to where the item says, or choose other bands= or ids=",
                )
            if band.array:
                check_tree(address, what=str(band))
        return address, band.group_format if band.array else driver_of(band.asset.media_type, address)

    def _header(self, band: DeclaredBand, address: str, driver: str) -> _Header:
        if band.array:
            raise SourceError(
                f"{band} is a Zarr group that does not declare data_type, proj:code, proj:shape and "
                f"proj:transform of its band {band.names[0]!r}",
                f"open it with xarray, e.g. xr.open_zarr({clean_href(band.href)!r})",
            )
        if address not in self.headers:
            self.headers[address] = _read_header(address, band, driver, self.access)
        return self.headers[address]


def _read_header(address: str, band: DeclaredBand, driver: str, access: AccessPolicy) -> _Header:
    from rasterio.errors import RasterioError

    try:
        with open_raster(address, driver, access, what=str(band)) as file:
            grid = None
            if file.crs is not None and file.transform is not None:
                epsg = file.crs.to_epsg()
                crs = CRS(file.crs.to_wkt()) if epsg is None else CRS(f"EPSG:{epsg}")
                grid = GeoBox(file.shape, file.transform, crs)
            return _Header(file.dtypes, file.nodatavals, file.scales, file.offsets, grid)
    except (RasterioError, OSError) as error:
        unreadable(band.item.id, band.key, address, error)
