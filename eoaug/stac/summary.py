"""Summary of the items of a catalog, without reading pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pystac

from eoaug.display import Shown
from eoaug.errors import printable
from eoaug.stac.filters import Search, item_times, parse_bbox, parse_interval
from eoaug.stac.search import find

__all__ = ["CollectionSummary", "summarise"]


_SHOWN_ITEMS = 20


@dataclass(frozen=True, kw_only=True, repr=False)
class CollectionSummary(Shown):
    """Summary of the items of one collection."""

    collection: str
    """Id of the collection; empty for items without one."""
    items: tuple[str, ...]
    """Ids in order of time."""
    first: str
    """Earliest date, like 2018-05-04."""
    last: str
    """Latest date."""
    platforms: tuple[str, ...]
    bands: tuple[str, ...]
    """A line per band: name, common name, type, scale and offset."""
    grids: tuple[str, ...]
    """A line per grid: coordinate reference system, pixel size, number of items."""
    synthetic: tuple[str, ...]
    """A line per operation and generator, with the number of items; empty if everything is measured."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return a plain table."""
        many = len(self.items)
        shown = self.items[:_SHOWN_ITEMS]
        more = [f"and {many - len(shown)} more"] if many > len(shown) else []
        rows = [
            ("items", (f"{many}", *shown, *more)),
            ("dates", (self.first if self.first == self.last else f"{self.first} to {self.last}",)),
            ("platforms", (", ".join(self.platforms) or "unknown",)),
            ("bands", self.bands or ("none",)),
            ("grids", self.grids or ("unknown",)),
            ("synthetic", self.synthetic or ("no item is marked",)),
        ]
        lines = [printable(self.collection) or "(no collection)"]
        for label, texts in rows:
            lines += [f"  {label if k == 0 else '':<11}{printable(text)}" for k, text in enumerate(texts)]
        return "\n".join(lines)


def summarise(
    source: Any,
    *,
    collections: Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    datetime: str | None = None,
    limit: int | None = None,
) -> list[CollectionSummary]:
    """Summarise the items of a STAC source by collection.

    Parameters
    ----------
    source
        As for `eoaug.open_cube`.
    collections, bbox, datetime, limit
        Only these items; as for `eoaug.open_cube`.

    Returns
    -------
    list of CollectionSummary
        In the order of the catalog.

    Raises
    ------
    EoaugError
        No item passes the filters, or the source is not STAC.
    """
    names = list(collections) if collections is not None else _collections(source)
    by_collection: dict[str, list[pystac.Item]] = {}
    searched: list[tuple[str, ...]] = [(name,) for name in names]
    for collection in searched or [()]:
        search = Search(
            collections=collection,
            ids=(),
            bbox=None if bbox is None else parse_bbox(bbox),
            interval=None if datetime is None else parse_interval(datetime),
            query={},
            limit=limit,
        )
        for item, _ in find(source, search, text=datetime):
            by_collection.setdefault(item.collection_id or "", []).append(item)
    return [_summary(name, items) for name, items in by_collection.items()]


def _collections(source: Any) -> list[str]:
    """Return the collections of a local catalog that have items; empty for any other source."""
    path = Path(source).expanduser() if isinstance(source, str | Path) and "://" not in str(source) else None
    if path is None or not path.exists():
        return []
    file = path / "catalog.json" if path.is_dir() else path
    if not file.is_file():
        return []
    try:
        opened = pystac.read_file(str(file))
    except (OSError, ValueError, KeyError, pystac.STACError):
        # `find` reads it again and raises the error.
        return []
    if not isinstance(opened, pystac.Catalog) or isinstance(opened, pystac.Collection):
        return []
    held = [child for child in opened.get_collections() if next(child.get_items(recursive=True), None)]
    return [child.id for child in held]


def _summary(name: str, items: Sequence[pystac.Item]) -> CollectionSummary:
    spans = [item_times(item) for item in items]
    bands = dict.fromkeys(line for item in items for line in _bands(item))
    return CollectionSummary(
        collection=name,
        items=tuple(item.id for item in items),
        first=f"{min(start for start, _ in spans):%Y-%m-%d}",
        last=f"{max(end for _, end in spans):%Y-%m-%d}",
        platforms=tuple(sorted({str(p) for item in items if (p := item.properties.get("platform"))})),
        bands=tuple(bands),
        grids=_counted(grid for item in items for grid in [_grid(item)] if grid),
        synthetic=_counted(made for item in items for made in [_made(item)] if made),
    )


def _counted(lines: Any) -> tuple[str, ...]:
    return tuple(f"{line}: {n} item{'s' if n > 1 else ''}" for line, n in Counter(lines).items())


def _bands(item: pystac.Item) -> list[str]:
    lines = []
    for key, asset in item.assets.items():
        fields = asset.extra_fields
        described = fields.get("bands") or []
        roles = asset.roles or []
        if not described and not {"data", "synthetic-mask"} & set(roles):
            continue
        for band in described or [{}]:
            whole = {**fields, **band}
            words = [str(band.get("name", key))]
            if common := whole.get("eo:common_name"):
                words.append(f"({common})")
            if data_type := whole.get("data_type"):
                words.append(str(data_type))
            if (scale := whole.get("raster:scale")) is not None:
                words.append(
                    f"x {scale:g}" + (f" + {offset:g}" if (offset := whole.get("raster:offset")) else "")
                )
            if (unit := whole.get("unit")) not in (None, "1"):
                words.append(f"[{unit}]")
            lines.append(" ".join(words))
    return lines


def _grid(item: pystac.Item) -> str:
    places = [item.properties, *(asset.extra_fields for asset in item.assets.values())]
    code = next((fields["proj:code"] for fields in places if fields.get("proj:code")), None)
    if code is None:
        return ""
    sizes = {abs(float(t["proj:transform"][0])) for t in places if t.get("proj:transform")}
    return f"{code}, pixels of {', '.join(f'{size:g}' for size in sorted(sizes))}" if sizes else str(code)


def _made(item: pystac.Item) -> str:
    fields = item.properties
    if fields.get("eoaug:synthetic") is not True:
        return ""
    share = fields.get("eoaug:synthetic_fraction")
    pixels = "" if share is None else f", {share:.0%} of the pixels"
    return f"{fields.get('eoaug:operation')} by {fields.get('eoaug:generator')}{pixels}"
