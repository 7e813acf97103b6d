"""The bands that an item declares, whatever its STAC version, in one form: `DeclaredBand`.

STAC 1.1 keeps the fields of a band in ``bands``, 1.0 in ``eo:bands`` and ``raster:bands``, older items in the
asset.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pystac
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from eoaug.errors import EoaugError, GridError, RadiometryError, first_line
from eoaug.raster.bands import band_of, common_name, platform_of
from eoaug.raster.quality import is_described_as_probability
from eoaug.raster.variables import LABEL, ROLE, Role, role_of
from eoaug.stac.classes import CLASS_FIELDS, cf_flags
from eoaug.stac.headers import Declaration, Header
from eoaug.storage.access import AccessPolicy
from eoaug.storage.crs_text import judged_crs

__all__ = ["INHERITED", "DeclaredBand", "declared_bands", "distinct", "with_classes"]


_NOT_DATA = {"thumbnail", "overview", "visual", "metadata"}
_LABEL_ROLES = {"labels", "labels-raster"}
"""Roles of assets with labels in the extension label."""
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
    listed: int = 0
    """Number of bands that the asset lists; 0 without a list."""
    named_label: bool = False
    """Whether the user calls it a label."""

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
    def platform(self) -> str | None:
        """Of the item, or the product whose names of bands it uses."""
        platform = self.item.properties.get("platform") or self.item.properties.get("constellation")
        return platform_of(str(platform) if platform else None, self._product)

    @property
    def _product(self) -> str:
        """What else the item says of its origin."""
        return f"{self.item.collection_id or ''} {self.item.id}"

    @cached_property
    def common_name(self) -> str | None:
        """STAC common name, declared or known for the platform."""
        names = (common_name(name, self.fields, self.platform) for name in self.names)
        return next((name for name in names if name is not None), None)

    @cached_property
    def flags(self) -> dict[str, Any]:
        """The classes as CF attributes; empty without any."""
        return cf_flags(self.fields, what=str(self))

    @cached_property
    def _probability(self) -> dict[str, str]:
        """The title of a band of probabilities, which its name need not tell; empty for others."""
        texts = (self.asset.title, self.fields.get("description"), self.asset.description)
        titles = [{"long_name": text} for text in texts if isinstance(text, str)]
        return next(filter(is_described_as_probability, titles), {})

    @cached_property
    def role(self) -> Role:
        """What the band is, by what the user or the asset calls it, then by its classes, else by its names."""
        if self.declared_label:
            return LABEL
        roles = [
            role_of(name, self.flags | self._probability, platform=self.platform, product=self._product)
            for name in self.names
        ]
        if not self.flags and self.common_name is not None:
            return "band"
        return next((role for role in roles if role != "band"), "band")

    @property
    def declared_label(self) -> bool:
        """Whether the user, the roles of the asset or band, or the extension ml-aoi call it a label."""
        roles = (*(self.asset.roles or ()), *(self.fields.get("roles") or ()))
        return self.named_label or bool(_LABEL_ROLES & {*roles}) or self.fields.get("ml-aoi:role") == LABEL

    @property
    def is_mask(self) -> bool:
        """Whether the band holds classes, flags or marks, which are neither scaled nor interpolated."""
        return self.role in ("quality", "label", "mark")

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the variable: units, common name, wavelength, flags."""
        attrs: dict[str, Any] = dict(self._probability)
        if self.declared_label:
            return {ROLE: LABEL, **self.flags}
        if (
            "unit" in self.fields or self.role != "probability"
        ):  # in percent or as a share: only the unit tells
            attrs["units"] = str(self.fields.get("unit", "1"))
        if self.common_name and not self.is_mask:
            attrs["common_name"] = self.common_name
            wavelength = self.fields.get("eo:center_wavelength", self.fields.get("center_wavelength"))
            if isinstance(wavelength, int | float):
                attrs["center_wavelength"] = float(wavelength)
        return attrs | self.flags

    def _projection(self, *names: str) -> dict[str, Any]:
        """Return projection fields of the band or its asset; of the item if these have none of them."""
        for level in ({**self.asset.extra_fields, **self.fields}, self.item.properties):
            declared = {name: level[name] for name in names if level.get(name) is not None}
            if declared:
                return declared
        return {}

    def _systems(self) -> dict[str, str]:
        """Return the declared coordinate reference systems by field, as text that pyproj reads."""
        fields = self._projection("proj:code", "proj:wkt2", "proj:projjson", "proj:epsg")
        systems = {}
        for name, value in fields.items():
            if name == "proj:epsg":
                systems[name] = f"EPSG:{value}"
            else:
                systems[name] = json.dumps(value) if isinstance(value, Mapping) else str(value)
            judged_crs(systems[name], what=f"{self}, {name}")
        return systems

    @cached_property
    def declaration(self) -> Declaration:
        """What the item says about the file of the band.

        Raises
        ------
        GridError, RadiometryError
            A field has a value of the wrong form.
        """
        grid: dict[str, tuple[float, ...] | None] = {}
        for name, count in (("proj:shape", 2), ("proj:transform", 6)):
            value = self._projection(name).get(name)
            try:
                grid[name] = None if value is None else tuple(map(float, value))[:count]
            except (TypeError, ValueError) as error:
                raise self._bad_grid(f"{name} {value!r} is not a list of numbers") from error
            if value is not None and len(grid[name] or ()) < count:
                raise self._bad_grid(f"{name} {value!r} has fewer than {count} numbers")
        shape, dtype = grid["proj:shape"], self.fields.get("data_type")
        if shape is not None and not all(n == n // 1 and n > 0 for n in shape):
            raise self._bad_grid(f"proj:shape {list(shape)} is not a number of rows and columns")
        return Declaration(
            crs=tuple(self._systems().items()),
            shape=None if shape is None else tuple(map(int, shape)),
            transform=grid["proj:transform"],
            data_type=None if dtype is None else self.dtype(dtype),
            nodata=self.number("nodata"),
            scale=None if self.is_mask else self.number("raster:scale"),
            offset=None if self.is_mask or self._offset_applied else self.number("raster:offset"),
            bands=self.listed,
        )

    def _bad_grid(self, problem: str) -> GridError:
        return GridError(
            f"{self} declares an invalid grid: {problem}",
            "correct its proj: fields, or remove them so that the file's own are used",
        )

    def grid(self, access: AccessPolicy) -> GeoBox | None:
        """Return the grid declared by the projection extension v1 or v2; None if it is not declared in full."""
        shape, transform, codes = self.declaration.shape, self.declaration.transform, self.declaration.crs
        if not (shape and transform and codes):
            return None
        code = codes[0][1]
        try:
            crs = CRS(code)
            height, width = shape
            access.limits.check_raster(str(self), shape_yx=(height, width))
            return GeoBox((height, width), Affine(*transform), crs)
        except EoaugError:
            raise
        except Exception as error:  # pyproj, odc-geo and affine each raise their own
            raise self._bad_grid(
                f"code {code!r}, shape {shape!r}, transform {transform!r}: {first_line(error)}"
            ) from error

    @property
    def _offset_applied(self) -> bool:
        """Whether Earth Search has subtracted the offset from the pixels; it still lists it in the item."""
        return self.item.properties.get("earthsearch:boa_offset_applied") is True

    def scaling(self, dtype: str, header: Header | None) -> tuple[float | None, float]:
        """Return scale and offset from stored numbers to physical units; (None, 0) if none are declared.

        Parameters
        ----------
        dtype
            Of the stored numbers.
        header
            Of the file, which completes what the item does not declare.
        """
        scale, offset = self.number("raster:scale"), self.number("raster:offset")
        own = None if header is None else header.scaling(self.index)
        if self._is_sentinel_2_dn(dtype):
            if self._offset_applied:
                return (1e-4 if scale is None else scale), 0.0
            properties = self.item.properties
            baseline = _version(
                properties.get("s2:processing_baseline", properties.get("processing:version"))
            )
            bare = offset is None and own is None and (scale is None or math.isclose(scale, 1e-4))
            if bare and baseline is not None:
                # Product specification: quantification value 10000, and -1000 from baseline 04.00 on.
                return 1e-4, (-0.1 if baseline >= (4, 0) else 0.0)
        if own is not None and scale is None:
            scale = own[0]
        if own is not None and offset is None:
            offset = own[1]
        if scale is None and offset is None:
            return None, 0.0
        if scale == 0:
            raise RadiometryError(f"{self} declares raster:scale 0", "correct the item")
        return (1.0 if scale is None else scale), (offset or 0.0)

    def _is_sentinel_2_dn(self, dtype: str) -> bool:
        """Whether the numbers are ESA's: integers of 16 bits or more in a known band; floats are physical already."""
        kind = np.dtype(dtype)
        known = any(band_of(name, "sentinel-2") for name in self.names) or self.common_name is not None
        esa = "sentinel-2" in (self.platform or "").lower()
        return esa and known and kind.kind in "iu" and kind.itemsize > 1

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
    rasters = list(_raster_bands(item))
    if any(band.data for band in rasters):
        return rasters
    return list(_group_bands(item)) or rasters  # a group may have a thumbnail


def _raster_bands(item: pystac.Item) -> Iterator[DeclaredBand]:
    single: set[str] = set()
    composite = []
    for key, asset in item.assets.items():
        if not _is_raster(asset):
            continue
        fields = asset.extra_fields
        listed = _listed(fields)
        base = _inherited(item, asset)
        roles = set(asset.roles or ())
        data = not (roles & _NOT_DATA) and not (key.endswith("-jp2") and key[:-4] in item.assets)
        if len(listed) < 2:
            band = dict(listed[0]) if listed else {}
            names = _names(key, band)
            single.update(names)
            yield DeclaredBand(item, asset, key, 1, names, base | band, data, listed=len(listed))
        else:
            composite += [
                DeclaredBand(
                    item, asset, key, index, _names(str(band.get("name") or f"{key}_{index}"), band), base | band,
                    data, listed=len(listed),
                )
                for index, band in enumerate(listed, 1)
            ]  # fmt: skip
    # A composite repeats bands that have an asset of their own, which holds the measurements.
    yield from distinct([replace(band, data=band.data and band.names[0] not in single) for band in composite])


def _group_bands(item: pystac.Item) -> Iterator[DeclaredBand]:
    """Yield bands in Zarr groups: those that the asset of a group lists, then arrays that an asset points to."""
    groups = [(key, asset) for key, asset in item.assets.items() if "zarr" in (asset.media_type or "")]
    listed: set[tuple[str, str]] = set()
    for key, asset in groups:
        base, data = _inherited(item, asset), not set(asset.roles or ()) & _NOT_DATA
        for band in asset.extra_fields.get("bands") or ():
            names = _names(band["name"], band)
            listed.add((asset.href.rstrip("/"), band["name"]))
            yield DeclaredBand(item, asset, key, 1, names, base | band, data, array=band["name"])
    for key, asset in groups:
        place = _group_and_array(asset.href)
        if not asset.extra_fields.get("bands") and place not in listed:
            base, data = _inherited(item, asset), not set(asset.roles or ()) & _NOT_DATA
            yield DeclaredBand(item, asset, key, 1, _names(key, base), base, data, array=place[1])


def distinct(bands: Sequence[DeclaredBand]) -> list[DeclaredBand]:
    """Return the bands of composites, of which those that share a name have that of their asset before it."""
    counts = Counter(band.names[0] for band in bands)
    return [
        band
        if counts[band.names[0]] == 1
        else replace(band, names=tuple(dict.fromkeys((f"{band.key}_{band.names[0]}", *band.names))))
        for band in bands
    ]


def _listed(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bands that an asset lists."""
    listed: list[dict[str, Any]] = fields.get("bands") or _merged(
        fields.get("eo:bands"), fields.get("raster:bands")
    )
    return listed


def with_classes(band: DeclaredBand, fields: Mapping[str, Any]) -> DeclaredBand:
    """Return a band with the classes that the ``item_assets`` of its collection declare for its asset.

    Parameters
    ----------
    band
        Without classes of its own.
    fields
        Of the asset in ``item_assets``.
    """
    listed = _listed(fields)
    entry = listed[band.index - 1] if band.index <= len(listed) else {}
    classes = {name: level[name] for level in (fields, entry) for name in CLASS_FIELDS if level.get(name)}
    return replace(band, fields={**classes, **band.fields}) if classes else band


def _group_and_array(href: str) -> tuple[str, str]:
    """Split the address of an array."""
    group, _, array = href.rstrip("/").rpartition("/")
    return group, array


def _inherited(item: pystac.Item, asset: pystac.Asset) -> dict[str, Any]:
    base = {name: item.properties[name] for name in INHERITED if name in item.properties}
    own = {
        name: value
        for name, value in asset.extra_fields.items()
        if not isinstance(value, list) or name in CLASS_FIELDS
    }
    return base | own


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


def _version(value: Any) -> tuple[int, int] | None:
    """Return a processing baseline such as ``04.00`` or ``N04.00`` as two numbers."""
    parts = str(value).lstrip("N").split(".")
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None
