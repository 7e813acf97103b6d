"""The STAC item of a result: geometry, dates, bands, assets, provenance and links."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from eoaug.cube.carried import SPLIT, properties_of
from eoaug.cube.synthetic import SYNTHETIC
from eoaug.errors import ParameterError
from eoaug.formats.georeference import crs_fields
from eoaug.quicklook import Thumbnail
from eoaug.raster.bands import EO_COMMON_NAMES, common_name
from eoaug.raster.grid import gsd_m
from eoaug.raster.variables import holds_classes, plain_name, role_of
from eoaug.stac.catalog import GENERATORS, Root
from eoaug.stac.classes import class_fields
from eoaug.stac.composite import COMPOSITE_ATTRIBUTE
from eoaug.stac.extensions import CLASSIFICATION, EO, FILE, LABEL, ML_AOI, PROCESSING, PROJECTION, RASTER
from eoaug.stac.filters import rfc3339
from eoaug.stac.footprint import footprint
from eoaug.stac.integrity import MANIFEST
from eoaug.stac.writable_cube import WritableCube
from eoaug.storage.atomic import checksum
from eoaug.storage.location import Location
from eoaug.storage.locations import as_location, relative
from eoaug.storage.names import clean_href, safe_id

__all__ = [
    "Claim",
    "ItemContent",
    "Target",
    "cog_asset",
    "collection_of",
    "file_fields",
    "group_assets",
    "item_document",
    "item_ids",
    "lineage",
    "thumbnail_asset",
    "writing_time",
]


_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_GROUPS = {"zarr": "application/vnd.zarr", "icechunk": "application/vnd.zarr+icechunk"}
"""Media types of Zarr groups, by format, as pystac and xpystac spell them: without a version."""
_ARRAY = "application/zarr"
"""Media type of an array in a group: the one of Zarr's that odc-stac reads, through GDAL."""


def collection_of(given: str | None, source: str) -> str:
    """Return the id of the collection to write to.

    Parameters
    ----------
    given
        The user's choice; None: derived from the source's.
    source
        Id of the collection that the data come from; empty if unknown.
    """
    name = (
        safe_id(f"{source}-eoaug" if source else "eoaug") if given is None else _given_id(given, "collection")
    )
    if name == GENERATORS:
        raise ParameterError(f"collection={name!r} is reserved for the items of models", "give another name")
    return name


@dataclass(frozen=True)
class Claim:
    """Properties that a job adds to its items, and its right to publish them."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Properties of every item."""
    check: Callable[[], None] = lambda: None
    """Called before an item is published; raises if the right was revoked."""
    scheduler: str | None = None
    """Name of dask's scheduler for the computation; None: the active one."""


@dataclass(frozen=True)
class Target:
    """The catalog and collection that items are written to."""

    root: Root
    folder: Location
    """Folder of the collection."""
    model: Mapping[str, Any] | None
    """Item of the model that made the cube, if it is known."""
    claim: Claim

    def home(self, label: str) -> Location:
        """Return the folder of an item."""
        return self.folder / label

    def model_href(self, label: str) -> str | None:
        """Return the address of the model's item relative to an item; None without a known model."""
        return None if self.model is None else relative(self.root.model_file(self.model), self.home(label))


# ------------------------------------------------------------------------------------------- the items


@dataclass(frozen=True)
class ItemContent:
    """What of a cube goes into one item."""

    label: str
    """Id of the item."""
    times: Sequence[int]
    """Indices of its dates."""
    member: int | None = None
    """Number of the ensemble member; None outside of ensembles, and in groups that hold all members."""
    share: float | None = None
    """Share of its pixels inside the scene that were not measured, 0 to 1; None: not counted."""


def item_document(
    cube: WritableCube, target: Target, content: ItemContent, assets: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the STAC item of one date (or all) and member of a cube."""
    geometry, bbox = footprint(cube.geobox)
    properties = {
        **_inherited(cube, content.times),
        **_dates(cube, content.times),
        **_instrument(cube, content.times),
        **_projection(cube.geobox),
    }
    extensions = [PROJECTION]
    if "eo:cloud_cover" in properties:
        extensions.append(EO)
    if cube.prov is not None:
        mask = SYNTHETIC if SYNTHETIC in cube.forms else None
        properties |= cube.prov.to_properties(
            written=rfc3339(writing_time()), member=content.member, share=content.share, mask=mask
        )
        href = target.model_href(content.label)
        if href is not None and properties["eoaug:synthetic"]:
            properties["processing:expression"] = {"format": "stac-mlm", "expression": href}
        extensions.append(PROCESSING)
    else:
        properties |= _composite(cube)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "id": content.label,
        "geometry": geometry,
        "bbox": bbox,
        "properties": {**properties, **target.claim.fields},
        "links": [],
        "assets": assets,
    }
    _link(item, cube, content.times, target)
    return item


def _composite(cube: WritableCube) -> dict[str, Any]:
    """Return how a composite of measured pixels was made; empty for other cubes."""
    with suppress(ValueError, RecursionError):  # attributes of files can be anything
        about = json.loads(str(cube.ds.attrs.get(COMPOSITE_ATTRIBUTE, "null")))
        if isinstance(about, dict) and {"method", "dates"} <= about.keys():
            return {"eoaug:composite": about}
    return {}


def _inherited(cube: WritableCube, times: Sequence[int]) -> dict[str, Any]:
    """Return the properties of the source items that an item has too, such as class and split."""
    own = properties_of(cube.ds, times)
    if SPLIT in own and cube.prov is not None:
        # A verb may have used all dates: the result is in the split that less may be learnt from.
        own[SPLIT] = properties_of(cube.ds)[SPLIT]
    return own


def _dates(cube: WritableCube, times: Sequence[int]) -> dict[str, Any]:
    """Return ``datetime``, and the range that the dates cover."""
    dates = [cube.times[t] for t in times]
    starts, ends = ([cube.end(name, t) for t in times] for name in ("start_datetime", "end_datetime"))
    if max(ends) <= min(starts):
        return {"datetime": rfc3339(dates[0])}
    # A date at the beginning of its range was filled in for a source without an instant.
    instant = len(dates) == 1 and dates[0] > min(starts)
    return {
        "datetime": rfc3339(dates[0]) if instant else None,
        "start_datetime": rfc3339(min(starts)),
        "end_datetime": rfc3339(max(ends)),
    }


def _instrument(cube: WritableCube, times: Sequence[int]) -> dict[str, Any]:
    """Return platform, ground sampling distance and cloud cover."""
    properties: dict[str, Any] = {}
    platforms = {cube.along("platform", t) for t in times} - {None}
    if len(platforms) == 1 and ";" not in (platform := str(platforms.pop())):
        properties["platform"] = platform
    properties["gsd"] = _gsd(cube.geobox)
    clouds = [float(v) for t in times if (v := cube.along("cloud_cover", t)) is not None]
    if len(clouds) == len(times) and all(0 <= cloud <= 100 for cloud in clouds):
        properties["eo:cloud_cover"] = sum(clouds) / len(clouds)
    return properties


def _gsd(geobox: GeoBox) -> float:
    """Return the ground sampling distance in metres, to a micrometre, on geographic grids to a millimetre."""
    assert geobox.crs is not None
    return round(gsd_m(geobox), 3 if geobox.crs.geographic else 6)


def _projection(geobox: GeoBox) -> dict[str, Any]:
    box = geobox.extent.boundingbox
    return {
        **crs_fields(geobox),
        "proj:shape": [int(n) for n in geobox.shape],
        "proj:transform": [float(v) for v in tuple(geobox.affine)[:6]],
        "proj:bbox": [float(v) for v in (box.left, box.bottom, box.right, box.top)],
    }


def _data_fields(cube: WritableCube, name: str) -> dict[str, Any]:
    """Return the fields of one band, for an asset or for an entry of ``bands``."""
    form, attrs = cube.forms[name], cube.ds[name].attrs
    fields: dict[str, Any] = {"data_type": form.dtype.name}
    # NaN needs no declaration, and as text ("nan") the field would have two types: tables of items could not be made.
    if form.nodata is not None and math.isfinite(form.nodata):
        fields["nodata"] = form.nodata if form.dtype.kind == "f" else int(form.nodata)
    if holds_classes(name, attrs):
        return fields | class_fields(name, attrs)
    if isinstance(attrs.get("units"), str):
        fields["unit"] = attrs["units"]
    if form.has_scale:
        fields |= {"raster:scale": form.scale, "raster:offset": form.offset}
    fields["raster:spatial_resolution"] = _gsd(cube.geobox)
    return fields


def _band_fields(cube: WritableCube, name: str) -> dict[str, Any]:
    attrs = cube.ds[name].attrs
    fields: dict[str, Any] = {"name": name}
    platforms = {cube.along("platform", t) for t in range(len(cube.times))} - {None} or {None}
    called = plain_name(name, attrs)
    common = {common_name(called, attrs, None if p is None else str(p)) for p in platforms}
    if len(common) == 1 and common <= EO_COMMON_NAMES and role_of(name, attrs) == "band":
        fields["eo:common_name"] = common.pop()
    wavelength = attrs.get("center_wavelength")
    if isinstance(wavelength, int | float) and wavelength > 0:
        fields["eo:center_wavelength"] = float(wavelength)
    return fields


def _roles(cube: WritableCube, name: str, *, synthetic: bool) -> list[str]:
    if name == SYNTHETIC:
        return ["synthetic-mask"]
    roles = ["data", "labels"] if name in cube.labels else ["data"]
    return [*roles, "synthetic"] if synthetic and cube.holds_generated(name) else roles


def cog_asset(cube: WritableCube, name: str, path: Path, synthetic: bool) -> dict[str, Any]:
    """Return the asset of a COG."""
    return {
        "href": path.name,
        "type": _COG,
        "roles": _roles(cube, name, synthetic=synthetic),
        "gsd": _gsd(cube.geobox),
        **_projection(cube.geobox),
        **_data_fields(cube, name),
        "bands": [_band_fields(cube, name)],
        **file_fields(path),
    }


def file_fields(path: Path) -> dict[str, Any]:
    """Return size and checksum of a file, in the fields of the file extension."""
    return {"file:size": path.stat().st_size, "file:checksum": checksum(path)}


def thumbnail_asset(
    data: Path, picture: Thumbnail | None, names: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Write the thumbnail of an item into its data folder, and return its asset; none where there is no picture."""
    if picture is None or "thumbnail" in names:
        return {}
    path = data / "thumbnail.png"
    path.write_bytes(picture.png())
    return {
        "thumbnail": {
            "href": path.name,
            "type": "image/png",
            "title": "Thumbnail",
            "roles": ["thumbnail"],
            **file_fields(path),
        }
    }


def group_assets(cube: WritableCube, group: Path, form: str, synthetic: bool) -> dict[str, Any]:
    """Return the assets of a Zarr group or an Icechunk repository."""
    media = _GROUPS[form]
    # Arrays of an Icechunk repository have no asset with a role.
    labels = {name: {"roles": ["labels"]} for name in cube.labels}
    bands = [
        {**_band_fields(cube, n), **_data_fields(cube, n), **labels.get(n, {})}
        for n in cube.forms
        if n != SYNTHETIC
    ]
    whole = {
        "href": group.name,
        "type": media,
        "roles": _roles(cube, "", synthetic=synthetic),
        "gsd": _gsd(cube.geobox),
        **_projection(cube.geobox),
        "bands": bands,
    }
    assets: dict[str, Any] = {"data" if "data" not in cube.forms else "group": whole}
    if form == "zarr":
        assets |= {name: _array_asset(cube, name, group, synthetic) for name in cube.forms}
    elif SYNTHETIC in cube.forms:
        # An array in a repository has no path of its own: the asset names it as its band.
        assets[SYNTHETIC] = {
            "href": group.name,
            "type": media,
            "roles": _roles(cube, SYNTHETIC, synthetic=synthetic),
            **_projection(cube.geobox),
            "bands": [{"name": SYNTHETIC, **_data_fields(cube, SYNTHETIC)}],
        }
    assets["manifest"] = {
        "href": MANIFEST,
        "type": "application/json",
        "roles": ["metadata"],
        **file_fields(group.parent / MANIFEST),
    }
    return assets


def _array_asset(cube: WritableCube, name: str, group: Path, synthetic: bool) -> dict[str, Any]:
    """Return the asset of one array of a group: readers that take one raster per band find it there."""
    layers = len(cube.times) * len(cube.members or (0,))
    band = {key: value for key, value in _band_fields(cube, name).items() if key != "name"}
    return {
        "href": f"{group.name}/{name}",
        "type": _ARRAY,
        "title": name if layers == 1 else f"{name}, {layers} layers: GDAL reads each as a band",
        "roles": _roles(cube, name, synthetic=synthetic),
        "gsd": _gsd(cube.geobox),
        **_projection(cube.geobox),
        **_data_fields(cube, name),
        **band,
    }


def _link(item: dict[str, Any], cube: WritableCube, times: Sequence[int], target: Target) -> None:
    """Add an item's links, and the extensions that its assets use."""
    home = target.home(item["id"])
    text = json.dumps([item["assets"], item["properties"]])
    for prefix, extension in (
        ("raster:", RASTER),
        ("file:", FILE),
        ("eo:", EO),
        ("classification:", CLASSIFICATION),
        ("ml-aoi:", ML_AOI),
    ):
        if f'"{prefix}' in text and extension not in item["stac_extensions"]:
            item["stac_extensions"].append(extension)
    if {"label:properties", "label:description", "label:type"} <= item["properties"].keys():
        item["stac_extensions"].append(LABEL)
    item["collection"] = home.parent.name
    item["links"] = [
        {"rel": "root", "href": relative(target.root.top, home), "type": "application/json"},
        {"rel": "parent", "href": "../collection.json", "type": "application/json"},
        {"rel": "collection", "href": "../collection.json", "type": "application/json"},
    ]
    hrefs = [h for t in times for h in str(cube.along("item_href", t) or "").split(";") if h]
    if cube.prov is not None:
        hrefs += [source["href"] for source in cube.prov.sources if source.get("href")]
    item["links"] += lineage(hrefs, target, item["id"], made="processing:expression" in item["properties"])


def lineage(hrefs: Iterable[str], target: Target, label: str, *, made: bool) -> list[dict[str, Any]]:
    """Return the links ``derived_from`` of an item: to its sources, and to the model if it made pixels.

    Parameters
    ----------
    hrefs
        Addresses of the sources' documents.
    target, label
        Where the item lies.
    made
        Whether the model made some of its pixels.
    """
    home = target.home(label)
    links: list[dict[str, Any]] = []
    for href in dict.fromkeys(map(clean_href, hrefs)):
        target_href = href if "://" in href else relative(as_location(href), home)
        links.append({"rel": "derived_from", "href": target_href, "type": "application/geo+json"})
    if target.model is not None and made:
        links.append(
            {
                "rel": "derived_from",
                "href": target.model_href(label),
                "type": "application/geo+json",
                "mlm:name": target.model["properties"]["mlm:name"],
            }
        )
    return links


def writing_time() -> datetime:
    """Return the time of writing, or that of SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)


# ------------------------------------------------------------------------------------------- the names


def item_ids(cube: WritableCube, ids: Sequence[str] | None, *, single: bool) -> list[str]:
    """Return one id per date and member, or a single one for all of them."""
    members = 1 if single or cube.members is None else len(cube.members)
    count = 1 if single else len(cube.times) * members
    if ids is not None:
        given = [ids] if isinstance(ids, str) else list(ids)
        if len(given) != count or len({str(name).casefold() for name in given}) != count:
            raise ParameterError(
                f"ids={given!r} are {len(set(given))} different ids for {count} items",
                "give one per date, or per date and member with members running faster; one for zarr",
            )
        return [_given_id(name, "ids") for name in given]
    tail = ""
    if cube.prov is not None:
        tail = f"-{cube.prov.operation.replace('_', '-')}" + (
            f"-{cube.prov.token[:8]}" if cube.prov.token else ""
        )
    origins = [str(cube.along("item_id", index) or "") for index in range(len(cube.times))]
    dates = [f"{time:%Y%m%dT%H%M%S}" for time in cube.times]
    stems = [
        date if not origin or ";" in origin else origin if origins.count(origin) == 1 else f"{origin}-{date}"
        for origin, date in zip(origins, dates, strict=True)
    ]
    if single:
        first = origins[0] if origins[0] and ";" not in origins[0] else dates[0]
        several = f"-{len(stems)}-dates" if len(stems) > 1 else ""
        return [safe_id(first + several + tail)]
    labels = []
    for stem in stems:
        labels += [safe_id(f"{stem}{tail}-m{member:03d}") for member in cube.members or ()]
        if cube.members is None:
            labels.append(safe_id(stem + tail))
    counts: dict[str, int] = {}
    for index, label in enumerate(labels):
        same = label.casefold()  # on some file systems upper and lower case are one
        counts[same] = counts.get(same, 0) + 1
        if counts[same] > 1:
            labels[index] = f"{label}-{counts[same]}"
    return labels


def _given_id(text: str, argument: str) -> str:
    if not isinstance(text, str) or safe_id(text) != text:
        raise ParameterError(
            f"{argument}: {text!r} cannot be the name of a folder",
            "use letters, digits, dot, plus, minus and underscore, at most 128",
        )
    return text
