"""Chips that `augment` made, as items of a training set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.augmentation.training_items import TrainingItem, split_named
from eoaug.cube.provenance import ATTRIBUTE
from eoaug.errors import SourceError
from eoaug.formats.chips import GROUP, SAMPLES, read_chip, read_samples
from eoaug.stac.shard_items import CHIPS
from eoaug.storage.access import AccessPolicy

if TYPE_CHECKING:
    import pystac

__all__ = ["ShardChip", "chips_of"]


@dataclass(frozen=True)
class ShardChip:
    """A chip of a shard."""

    folder: str
    index: int
    fields: Mapping[str, Any]
    """Its line of the table."""

    def open(self) -> xr.Dataset:
        """Return the chip as a cube in memory, with its marks and its record."""
        ds = read_chip(Path(self.folder), self.index, self.fields)
        record = self.fields.get("record")
        return ds if record is None else ds.assign_attrs({ATTRIBUTE: json.dumps(record, sort_keys=True)})

    def place(self) -> tuple[float, float] | None:
        """Return longitude and latitude of the centre in degrees; None without coordinates."""
        if "crs" not in self.fields:
            return None
        affine, (height, width) = Affine(*self.fields["transform"]), self.fields["shape"]
        middle = affine * Affine.translation(width / 2 - 0.5, height / 2 - 0.5)
        box = GeoBox((1, 1), middle, self.fields["crs"]).geographic_extent.boundingbox
        return float(box.left + box.right) / 2, float(box.bottom + box.top) / 2

    def identity(self) -> str:
        """Return a hash of its record, which holds the hash of everything that decides its pixels."""
        content = json.dumps([self.index, dict(self.fields)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def chips_of(item: pystac.Item, access: AccessPolicy) -> Iterator[TrainingItem]:
    """Yield the chips of an item that is a shard; nothing for other items.

    Raises
    ------
    SourceError
        The table cannot be read, or lies where it may not.
    """
    asset = item.assets.get("samples")
    if asset is None or CHIPS not in (asset.roles or ()):
        return
    href = asset.get_absolute_href() or asset.href
    if urlsplit(href).scheme not in ("", "file"):
        raise SourceError(
            f"the chips of {item.id!r} lie at {href!r}, and chips are read from folders only",
            "copy the catalog to a folder",
        )
    table = Path(urlsplit(href).path)
    for file in (table, table.parent / GROUP / "zarr.json"):
        access.resolve(str(file), what=f"the chips of {item.id!r}")
    if any(path.is_symlink() for path in table.parent.rglob("*")):
        raise SourceError(
            f"the chips of {item.id!r} hold a symbolic link", "replace it by the file that it points to"
        )
    if table.name != SAMPLES:
        raise SourceError(f"the table of chips of {item.id!r} is called {table.name!r}", f"name it {SAMPLES}")
    for index, fields in enumerate(read_samples(table.parent)):
        yield TrainingItem(
            id=str(fields["id"]),
            source=ShardChip(str(table.parent), index, fields),
            label=fields.get("label"),
            split=split_named(fields.get("split", "")) or "",
            href="",
            made_from=tuple(filter(None, [fields.get("made_from"), fields.get("href")])),
            properties=dict(fields.get("properties") or {}),
        )
