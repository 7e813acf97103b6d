"""What the collection of an item says about its assets: `Collections`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pystac

from eoaug.errors import EoaugError
from eoaug.storage.access import AccessPolicy

__all__ = ["Collections"]


@dataclass
class Collections:
    """The ``item_assets`` of the collections of one search; each is read at most once."""

    _known: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By address."""

    def item_assets(self, item: pystac.Item, access: AccessPolicy) -> Mapping[str, Mapping[str, Any]]:
        """Return the fields of an item's assets by key; empty if its collection has none, or cannot be read.

        A collection only completes an item, so one that is missing or outside of what ``access`` allows is no error.
        """
        link = next((link for link in item.links if link.rel == pystac.RelType.COLLECTION), None)
        if link is None:
            return {}
        if isinstance(link.target, pystac.Collection):
            return _item_assets(link.target.to_dict(include_self_link=False, transform_hrefs=False))
        href = link.get_absolute_href() or ""
        if href not in self._known:
            try:
                document = access.read_json(
                    access.resolve(href, what=f"the collection of item {item.id!r}"), what="a collection"
                )
            except (EoaugError, OSError):
                document = {}
            self._known[href] = _item_assets(document)
        return self._known[href]


def _item_assets(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    assets = document.get("item_assets")
    if not isinstance(assets, Mapping):
        return {}
    return {key: fields for key, fields in assets.items() if isinstance(fields, Mapping)}
