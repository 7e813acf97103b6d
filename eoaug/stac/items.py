"""From an item to the sources of its bands: one `ItemDate`, or for a Zarr group one per date and member.

Fields that an item does not declare are read from its raster files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, EoaugError, GridError, RadiometryError, SourceError, first_line
from eoaug.stac.band_choice import bands_of_file, choose_bands
from eoaug.stac.band_sources import BandSource, ItemDate, open_raster, unreadable
from eoaug.stac.collections import Collections
from eoaug.stac.declared_bands import DeclaredBand, declared_bands, with_classes
from eoaug.stac.filters import item_times
from eoaug.stac.headers import Declaration, Header, header_of, refuse_contradictions
from eoaug.stac.integrity import group_damage
from eoaug.stac.zarr_groups import read_dates
from eoaug.storage.access import AccessPolicy, check_tree
from eoaug.storage.gdal import driver_of
from eoaug.storage.locations import as_location
from eoaug.storage.names import clean_href

__all__ = ["read_item_dates"]


def read_item_dates(
    item: pystac.Item,
    bands: tuple[str, ...],
    patch_url: Callable[[str], str] | None,
    access: AccessPolicy,
    collections: Collections | None = None,
    labels: tuple[str, ...] = (),
    *,
    grids_only: bool = False,
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
    collections
        Where classes that the items do not repeat are looked up; None: nowhere.
    labels
        Names of bands that are labels, which are read in addition to ``bands``, or of properties.
    grids_only
        Read names, types and grids of the bands and nothing else: a file is opened only if its item leaves these out,
        and no local file is compared with its item. The pixels of such bands cannot be read.

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
        resolve = _Resolver(patch_url, access, grids_only)
        more = tuple(name for name in labels if bands and name not in (*bands, *item.properties))
        chosen = choose_bands(item, candidates, (*bands, *more), resolve.bands_in_file)
        if not chosen:
            raise BandError(
                f"item {item.id!r} has no raster asset among {sorted(item.assets)}",
                "name the assets to read, e.g. bands=['B04']",
            )
        if collections is not None:
            chosen = {name: _classified(band, collections, access) for name, band in chosen.items()}
        chosen = {
            name: replace(band, named_label=bool({name, *band.names} & {*labels}))
            for name, band in chosen.items()
        }
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


def _classified(band: DeclaredBand, collections: Collections, access: AccessPolicy) -> DeclaredBand:
    """Return a band with the classes of its collection, if it is neither classified nor known to be measured."""
    if band.flags or band.common_name is not None or band.fields.get("raster:scale") is not None:
        return band
    return with_classes(band, collections.item_assets(band.item, access).get(band.key, {}))


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
        what = f"asset {first.asset!r} of item {item.id!r}"
        group = read_dates(first.href, grids, first.access, form=first.driver, what=what)
        for source in sources.values():
            refuse_contradictions(
                replace(source.declared, bands=0),  # the item lists the arrays of the group
                group.headers[source.array],
                1,
                item=item.id,
                asset=source.asset,
                href=first.href,
            )
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


@dataclass
class _Resolver:
    """Completes the declared bands of one item; opens each of its files at most once."""

    patch_url: Callable[[str], str] | None
    access: AccessPolicy
    grids_only: bool
    headers: dict[str, Header] = field(default_factory=dict)
    """By address."""

    def bands_in_file(self, band: DeclaredBand) -> list[DeclaredBand]:
        """Return the bands of an asset that lists none, from its file."""
        return bands_of_file(band, self._header(band, *self._address(band)))

    def source(self, band: DeclaredBand, name: str) -> BandSource:
        """Return the source of a band that is requested as ``name``.

        Raises
        ------
        GridError, RadiometryError, BandError
            The item contradicts the file, where that is opened here: local files, and those that complete what the
            item does not declare. Other files are compared when they are read.
        """
        address, driver = self._address(band)
        declared, geobox = band.declaration, band.grid(self.access)
        header = None
        if self._opens(band, address, declared, geobox):
            header = self._header(band, address, driver)
            refuse_contradictions(
                declared, header, band.index, item=band.item.id, asset=band.key, href=address
            )
        if geobox is None and header is not None:
            geobox = header.geobox
        if geobox is None or geobox.crs is None:
            raise GridError(
                f"{band} has no coordinate reference system: neither proj:code, proj:wkt2 and proj:projjson nor "
                "the file declares one",
                "georeference the file (e.g. gdalwarp for ground control points), or leave the item out",
            )
        dtype = declared.data_type
        if dtype is None:
            assert header is not None
            dtype = band.dtype(header.dtypes[band.index - 1])
        mask = band.is_mask or (header is not None and header.palette[band.index - 1])
        scale, offset = (None, 0.0) if mask else band.scaling(dtype, header)
        return BandSource(
            item=band.item.id,
            asset=band.key,
            href=address,
            driver=driver,
            access=self.access,
            index=band.index,
            names=(name, *band.names),
            dtype=dtype,
            nodata=_nodata(band, declared, header, dtype),
            geobox=geobox,
            scale=scale,
            offset=offset,
            mask=mask,
            attrs=_typed_flags(band.attributes, dtype),
            array=band.array,
            declared=declared,
        )

    def _opens(self, band: DeclaredBand, address: str, declared: Declaration, geobox: GeoBox | None) -> bool:
        """Return whether the item leaves out what the file must say, or is to be compared with it."""
        if geobox is None or declared.data_type is None:
            return True
        if band.array or self.grids_only:  # eoaug's own groups: what their item leaves out is not there
            return False
        unscaled = declared.scale is None or declared.offset is None
        return "://" not in address or declared.nodata is None or (unscaled and not band.is_mask)

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

    def _header(self, band: DeclaredBand, address: str, driver: str) -> Header:
        if band.array:
            raise SourceError(
                f"{band} is a Zarr group that does not declare data_type, proj:code, proj:shape and "
                f"proj:transform of its band {band.names[0]!r}",
                f"open it with xarray, e.g. xr.open_zarr({clean_href(band.href)!r})",
            )
        if address not in self.headers:
            self.headers[address] = _read_header(address, band, driver, self.access)
        return self.headers[address]


def _nodata(band: DeclaredBand, declared: Declaration, header: Header | None, dtype: str) -> float | None:
    """Return the nodata value of the item, else of the file; None if no pixel can have it."""
    own = None if header is None else header.nodata[band.index - 1]
    value = own if declared.nodata is None else declared.nodata
    kind = np.dtype(dtype)
    if value is None and band.array and kind.kind == "f":
        return math.nan  # which eoaug's own groups do not declare
    if value is None or kind.kind not in "iu":
        return value
    if not math.isfinite(value) or value != round(value):
        return None
    info = np.iinfo(kind)
    if info.min <= value <= info.max:
        return value
    if declared.nodata is None:
        return None
    raise RadiometryError(
        f"{band} declares nodata {value:g}, which {dtype} cannot hold",
        f"correct nodata of the item, e.g. to the file's {own}, or remove it so that the file's own is used",
    )


def _typed_flags(attrs: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return attributes with flags in the type of the variable, as CF wants them, where it can hold them."""
    kind = np.dtype(dtype)
    for key in ("flag_values", "flag_masks"):
        if key in attrs and kind.kind in "iu":
            typed = attrs[key].astype(kind)
            attrs[key] = typed if np.array_equal(typed.astype(np.int64), attrs[key]) else attrs[key]
    return attrs


def _read_header(address: str, band: DeclaredBand, driver: str, access: AccessPolicy) -> Header:
    from rasterio.errors import RasterioError

    try:
        with open_raster(address, driver, access, what=str(band)) as file:
            return header_of(file)
    except (RasterioError, OSError) as error:
        unreadable(band.item.id, band.key, address, error)
