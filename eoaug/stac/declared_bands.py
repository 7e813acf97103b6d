"""The bands that an item declares, whatever its STAC version, in one form: `DeclaredBand`.

STAC 1.1 keeps the fields of a band in ``bands``, 1.0 in ``eo:bands`` and ``raster:bands``, older items in the
asset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pystac
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, EoaugError, GridError, RadiometryError, did_you_mean, first_line
from eoaug.raster.bands import band_of, common_name, is_mask_name
from eoaug.storage.access import AccessPolicy

__all__ = ["INHERITED", "DeclaredBand", "choose_bands", "declared_bands"]


_NOT_DATA = {"thumbnail", "overview", "visual", "metadata"}
INHERITED = ("data_type", "nodata", "unit", "gsd", "raster:scale", "raster:offset")
"""Fields of an item's properties that apply to its assets and bands."""


@dataclass(frozen=True)
class DeclaredBand:
    """A band as its item declares it; every field may be missing."""

    item: pystac.Item
    asset: pystac.Asset
    key: str
    """Of the asset."""
    index: int
    """Number of the band in a raster file, from 1."""
    names: tuple[str, ...]
    """Its name, then its aliases."""
    fields: Mapping[str, Any]
    """Fields of the band, over those of the asset, over those of the item."""
    data: bool
    """False for quick-looks and metadata, which are read only by name."""
    array: str = ""
    """Name of the array in a Zarr group; empty for a raster file."""

    def __str__(self) -> str:
        """Return the asset and item, for messages."""
        return f"asset {self.key!r} of item {self.item.id!r}"

    @property
    def href(self) -> str:
        """Of the raster file or the Zarr group, absolute where the item has an address."""
        href = self.asset.get_absolute_href() or self.asset.href
        if self.array and not self.asset.extra_fields.get("bands"):
            href = _group_and_array(href)[0]
        return href

    @property
    def group_format(self) -> str:
        """``icechunk`` or ``zarr``, from the media type of the asset of a group."""
        return "icechunk" if "icechunk" in (self.asset.media_type or "") else "zarr"

    @property
    def common_name(self) -> str | None:
        """STAC common name, declared or known for the platform."""
        platform = self.item.properties.get("platform") or self.item.properties.get("constellation")
        names = (common_name(name, self.fields, str(platform) if platform else None) for name in self.names)
        return next((name for name in names if name is not None), None)

    @property
    def is_mask(self) -> bool:
        """Whether the band holds classes or flags."""
        classes = self.fields.get("classification:classes")
        return is_mask_name(self.names[0], {"flag_values": 1} if classes else {})

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the variable: units, common name, wavelength, flags."""
        attrs: dict[str, Any] = {"units": str(self.fields.get("unit", "1"))}
        if self.common_name and not self.is_mask:
            attrs["common_name"] = self.common_name
            wavelength = self.fields.get("eo:center_wavelength", self.fields.get("center_wavelength"))
            if isinstance(wavelength, int | float):
                attrs["center_wavelength"] = float(wavelength)
        classes = self.fields.get("classification:classes")
        if isinstance(classes, list) and classes:
            attrs["flag_values"] = np.asarray([c["value"] for c in classes])
            names = [str(c.get("name", c["value"])).replace(" ", "_") for c in classes]
            attrs["flag_meanings"] = " ".join(names)
        return attrs

    def grid(self, access: AccessPolicy) -> GeoBox | None:
        """Return the grid declared by the projection extension v1 or v2; None if it is not declared in full."""

        def field(name: str) -> Any:
            return self.fields.get(name, self.asset.extra_fields.get(name, self.item.properties.get(name)))

        shape, transform = field("proj:shape"), field("proj:transform")
        code = field("proj:code") or field("proj:wkt2") or field("proj:projjson")
        if code is None and field("proj:epsg") is not None:
            code = f"EPSG:{field('proj:epsg')}"
        if not (shape and transform and code):
            return None
        try:
            crs = CRS(json.dumps(code) if isinstance(code, Mapping) else code)
            height, width = (int(n) for n in shape)
            access.limits.check_raster(str(self), shape_yx=(height, width))
            return GeoBox((height, width), Affine(*map(float, transform[:6])), crs)
        except EoaugError:
            raise
        except Exception as error:  # pyproj, odc-geo and affine each raise their own
            raise GridError(
                f"{self} declares an invalid grid: code {code!r}, shape {shape!r}, transform {transform!r}: "
                f"{first_line(error)}",
                "correct its proj: fields, or remove them so that the file's own are used",
            ) from error

    def scaling(self, dtype: str) -> tuple[float | None, float]:
        """Return scale and offset from stored numbers of a type to physical units; (None, 0) if none are declared.

        What is known of the digital numbers of Sentinel-2 holds for integers only: floats are reflectance.
        """
        scale, offset = self.number("raster:scale"), self.number("raster:offset")
        properties = self.item.properties
        platform = str(properties.get("platform", properties.get("constellation", ""))).lower()
        known = any(band_of(name, "sentinel-2") for name in self.names) or self.common_name is not None
        if "sentinel-2" in platform and known and np.dtype(dtype).kind in "iu":
            baseline = _version(
                properties.get("s2:processing_baseline", properties.get("processing:version"))
            )
            if properties.get("earthsearch:boa_offset_applied") is True:
                # Earth Search has subtracted the offset from the pixels and still lists it in the item.
                return (1e-4 if scale is None else scale), 0.0
            if offset is None and baseline is not None and (scale is None or math.isclose(scale, 1e-4)):
                # Product specification: quantification value 10000, and -1000 from baseline 04.00 on.
                return 1e-4, (-0.1 if baseline >= (4, 0) else 0.0)
        if scale is None and offset is None:
            return None, 0.0
        if scale == 0:
            raise RadiometryError(f"{self} declares raster:scale 0", "correct the item")
        return (1.0 if scale is None else scale), (offset or 0.0)

    def number(self, field: str, default: Any = None) -> float | None:
        """Return a field, or the given value in its place, as a number; JSON has NaN only as text."""
        value = self.fields.get(field) if default is None else default
        if value is None:
            return None
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise RadiometryError(
                f"{self} has {field} {value!r}, which is not a number", f"correct {field} of the item"
            ) from error

    def dtype(self, name: Any) -> str:
        """Return NumPy's name of a ``data_type``."""
        try:
            return np.dtype(str(name)).name
        except TypeError as error:
            raise RadiometryError(
                f"{self} has data_type {name!r}, which is not a real number type",
                "correct the item, or choose other bands=",
            ) from error


def declared_bands(item: pystac.Item) -> list[DeclaredBand]:
    """Return the bands of an item's raster files; without any, those of its Zarr groups."""
    return list(_raster_bands(item)) or list(_group_bands(item))


def _raster_bands(item: pystac.Item) -> Iterator[DeclaredBand]:
    single: set[str] = set()
    composite = []
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
            yield DeclaredBand(item, asset, key, 1, names, base | band, data)
        else:
            composite += [(key, asset, index, dict(band), base, data) for index, band in enumerate(listed, 1)]
    for key, asset, index, band, base, data in composite:
        name = band.get("name") or f"{key}_{index}"
        # A composite repeats bands that have an asset of their own, which holds the measurements.
        data = data and name not in single
        yield DeclaredBand(item, asset, key, index, _names(name, band), base | band, data)


def _group_bands(item: pystac.Item) -> Iterator[DeclaredBand]:
    """Yield bands in Zarr groups: those that the asset of a group lists, or the array that an asset points to."""
    for key, asset in item.assets.items():
        if "zarr" not in (asset.media_type or ""):
            continue
        base, data = _inherited(item, asset), not set(asset.roles or ()) & _NOT_DATA
        listed = asset.extra_fields.get("bands") or ()
        for band in listed:
            names = _names(band["name"], band)
            yield DeclaredBand(item, asset, key, 1, names, base | band, data, array=band["name"])
        if not listed:
            array = _group_and_array(asset.href)[1]
            yield DeclaredBand(item, asset, key, 1, _names(key, {}), base, data, array=array)


def _group_and_array(href: str) -> tuple[str, str]:
    """Split the address of an array."""
    group, _, array = href.rstrip("/").rpartition("/")
    return group, array


def _inherited(item: pystac.Item, asset: pystac.Asset) -> dict[str, Any]:
    base = {name: item.properties[name] for name in INHERITED if name in item.properties}
    scalars = {name: value for name, value in asset.extra_fields.items() if not isinstance(value, list)}
    return base | scalars


def _names(name: str, band: Mapping[str, Any]) -> tuple[str, ...]:
    aliases = (band.get("name"), band.get("eo:common_name"), band.get("common_name"))
    return tuple(dict.fromkeys([name, *(alias for alias in aliases if isinstance(alias, str))]))


def _merged(*lists: Any) -> list[dict[str, Any]]:
    """Zip STAC 1.0's parallel lists ``eo:bands`` and ``raster:bands``."""
    filled = [entries for entries in lists if isinstance(entries, list) and entries]
    merged: list[dict[str, Any]] = []
    for index in range(max((len(entries) for entries in filled), default=0)):
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


def choose_bands(
    item: pystac.Item, candidates: Sequence[DeclaredBand], names: tuple[str, ...]
) -> dict[str, DeclaredBand]:
    """Return the bands by requested name: an asset key, band name or common name; without names all data.

    Raises
    ------
    BandError
        A name that no band has, or several.
    """
    if not names:
        return {band.names[0]: band for band in candidates if band.data}
    chosen = {}
    for name in names:
        hits = [band for band in candidates if band.names[0] == name]
        hits = hits or [band for band in candidates if name in band.names and band.data]
        hits = hits or [band for band in candidates if name in (*band.names, band.common_name)]
        if not hits:
            known = sorted({alias for band in candidates for alias in band.names})
            raise BandError(
                f"item {item.id!r} has no band {name!r}; it has {known}",
                did_you_mean(name, known, cutoff=0.5) or "name one of these",
            )
        if len(hits) > 1:
            raise BandError(
                f"band {name!r} of item {item.id!r} is ambiguous: {[band.names[0] for band in hits]}",
                "name one of these instead",
            )
        chosen[name] = hits[0]
    return chosen


def _version(value: Any) -> tuple[int, int] | None:
    """Return a processing baseline such as ``04.00`` or ``N04.00`` as two numbers."""
    parts = str(value).lstrip("N").split(".")
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None
