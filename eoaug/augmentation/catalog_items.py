"""Training sets in STAC catalogs: classes of items, label rasters, and pairs that a label item links to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from eoaug.augmentation.shard_chips import chips_of
from eoaug.augmentation.training_items import Task, TrainingItem, TrainingSet, split_named
from eoaug.cube.carried import SPLIT, inherited
from eoaug.errors import SourceError, did_you_mean
from eoaug.raster.variables import LABEL
from eoaug.stac.declared_bands import DeclaredBand, declared_bands
from eoaug.stac.filters import Search
from eoaug.stac.open import open_cube
from eoaug.stac.search import SourceItem, as_item, show, stream
from eoaug.storage.names import safe_id

if TYPE_CHECKING:
    import pystac

__all__ = ["CatalogItem", "catalog_set"]


@dataclass(frozen=True)
class CatalogItem:
    """An item of a catalog, and the images that it is the label of, where these are other items."""

    entry: SourceItem
    bands: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """Label bands and properties of the item."""
    images: tuple[str, ...] = ()
    """Addresses of the items that links with the relation ``source`` name; empty: the item has the image itself."""
    allow: tuple[str, ...] = ()

    def open(self) -> xr.Dataset:
        """Return the item as a lazy cube in physical units, with its label."""
        item = as_item(self.entry)
        if not self.images:
            return _one(
                open_cube(item, bands=self.bands or None, labels=self.labels or None, allow=self.allow),
                item.id,
            )
        images = [
            _one(open_cube(href, bands=self.bands or None, allow=self.allow), item.id) for href in self.images
        ]
        ds = (
            images[0]
            if len(images) == 1
            else xr.concat(images, "time", join="exact", combine_attrs="override")
        )
        ds = ds.sortby("time")
        label = _one(
            open_cube(item, bands=list(self.labels), labels=list(self.labels), allow=self.allow), item.id
        )
        y, x = list(ds.sizes)[-2:]
        same = label.sizes[y] == ds.sizes[y] and label.sizes[x] == ds.sizes[x]
        if not same or not (np.array_equal(label[y], ds[y]) and np.array_equal(label[x], ds[x])):
            raise SourceError(
                f"label item {item.id!r} lies on another grid than its images", "bring both onto one grid"
            )
        return ds.assign({name: label[name].isel(time=0, drop=True).variable for name in self.labels})

    def place(self) -> tuple[float, float] | None:
        """Return longitude and latitude of the centre in degrees; None for an item without a bounding box."""
        box = as_item(self.entry).bbox
        if box is None:
            return None
        west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
        east += 360 if west > east else 0
        return ((west + east) / 2 + 180) % 360 - 180, (south + north) / 2

    def identity(self) -> str:
        """Return a hash of the document, which holds the checksums of its files where these are declared."""
        document = as_item(self.entry).to_dict(transform_hrefs=False)
        return hashlib.sha256(
            json.dumps([document, self.images], sort_keys=True, default=str).encode()
        ).hexdigest()


def _one(cube: Any, name: str) -> xr.Dataset:
    if not isinstance(cube, xr.Dataset):
        raise SourceError(f"item {name!r} has bands on several grids", "choose bands of one grid with bands=")
    return cube


def catalog_set(source: Any, task: Task, label: str | None, how: Mapping[str, Any]) -> TrainingSet:
    """Return the items of a source with their labels.

    Parameters
    ----------
    source
        As for `open_cube`.
    task
        ``classes``: ``label`` is a property. ``pixels`` and ``change``: it is a band; default: the one with the role
        ``labels``.
    label
        Name of property or band.
    how
        ``bands``, ``collections``, ``ids``, ``query`` and ``allow``, as for `open_cube`.
    """
    search = Search(
        collections=tuple(how.get("collections") or ()),
        ids=tuple(how.get("ids") or ()),
        query=dict(how.get("query") or {}),
    )
    allow = tuple(how.get("allow") or ())
    found = [
        (entry, item)
        for entry in stream(source, search, text=None, allow=allow)
        if search.keeps(item := as_item(entry))
    ]
    if not found:
        raise SourceError(f"no item found in {show(source)} with {search}", "widen the search")
    chips = [one for entry, item in found for one in chips_of(item, entry.access.extended(allow))]
    if chips:
        return _chip_set(chips, found, task, label)
    make = _classed if task == "classes" else _mapped
    bands = tuple(how.get("bands") or ())
    items, name, classes = make(found, task, label, bands, allow)
    return TrainingSet(tuple(sorted(items, key=lambda item: item.id)), task, name, classes)


_Found = Sequence[tuple[SourceItem, Any]]


def _chip_set(chips: Sequence[TrainingItem], found: _Found, task: Task, label: str | None) -> TrainingSet:
    """Return the set of the chips that shards hold; label and classes are those that their items declare."""
    properties = found[0][1].properties
    names = properties.get("label:properties") or [str(properties.get("label:description", "")).split(":")[0]]
    declared = [str(name) for one in properties.get("label:classes") or () for name in one["classes"]]
    seen = {chip.label for chip in chips if chip.label is not None}
    classes = tuple(declared) if seen <= set(declared) else tuple(sorted(seen))
    return TrainingSet(tuple(sorted(chips, key=lambda chip: chip.id)), task, label or str(names[0]), classes)


_Made = tuple[list[TrainingItem], str, tuple[str, ...]]


def _item(
    entry: SourceItem, item: pystac.Item, source: CatalogItem, label: str, value: str | None
) -> TrainingItem:
    return TrainingItem(
        id=safe_id(item.id),
        source=source,
        label=value,
        split=split_named(item.properties.get(SPLIT, "")) or "",
        href=entry.href or item.get_self_href() or "",
        properties=inherited(item.properties, [label]),
        made_from=tuple(
            link.get_absolute_href() or ""
            for link in item.get_links("derived_from")
            if "mlm:name" not in link.extra_fields  # the generator
        ),
    )


def _classed(
    found: _Found, task: Task, label: str | None, bands: tuple[str, ...], allow: tuple[str, ...]
) -> _Made:
    name = label or "class"
    items = []
    for entry, item in found:
        value = item.properties.get(name)
        if not isinstance(value, str | int | bool):
            raise SourceError(
                f"item {item.id!r} has no class in its property {name!r}: {value!r}",
                did_you_mean(name, [*item.properties])
                or f"name the property, label={name!r}, or leave the item out: query=",
            )
        source = CatalogItem(entry, bands, allow=allow, labels=(name,))
        items.append(_item(entry, item, source, name, str(value)))
    declared = [
        str(one)
        for _, item in found[:1]
        for entry_ in item.properties.get("label:classes") or ()
        if entry_.get("name") == name
        for one in entry_.get("classes") or ()
    ]
    seen = {item.label for item in items}
    classes = tuple(declared) if seen <= set(declared) else tuple(sorted(str(one) for one in seen))
    return items, name, classes


def _mapped(
    found: _Found, task: Task, label: str | None, bands: tuple[str, ...], allow: tuple[str, ...]
) -> _Made:
    items, name = [], label or ""
    classes: tuple[str, ...] = ()
    for entry, item in found:
        band = _label_band(item, name)
        name = name or band.names[0]
        classes = classes or tuple(str(band.flags.get("flag_meanings", "")).split())
        links = tuple(link.get_absolute_href() or "" for link in item.get_links("source"))
        images = tuple(
            entry.access.resolve(href, what=f"a source of item {item.id!r}") for href in links if href
        )
        if task == "change" and len(images) not in (0, 2):
            raise SourceError(
                f"label item {item.id!r} links to {len(images)} images, and a change has two",
                "correct its links source",
            )
        source = CatalogItem(entry, bands, (name,), images, allow)
        items.append(_item(entry, item, source, name, None))
    return items, name, classes


def _label_band(item: pystac.Item, name: str) -> DeclaredBand:
    """Return the label band of an item: the named one, or the only one that is a label."""
    bands = declared_bands(item)
    hits = [band for band in bands if (name in band.names if name else band.role == LABEL)]
    if len(hits) == 1:
        return hits[0]
    names = [band.names[0] for band in bands]
    raise SourceError(
        f"item {item.id!r} has {len(hits)} label bands{f' called {name!r}' if name else ''}; its bands are {', '.join(names)}",
        "name one: label='...'",
    )
