"""Removal of what killed runs and replaced items have left behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eoaug.display import Shown
from eoaug.errors import TargetError
from eoaug.jobs.leases import live_leases, sweep_leases
from eoaug.stac.catalog import GENERATORS, STATE, Root, item_href
from eoaug.stac.integrity import read_json
from eoaug.stac.validate import is_data_file, is_item
from eoaug.storage.location import Location

__all__ = ["Garbage", "collect_garbage"]


@dataclass(frozen=True, repr=False)
class Garbage(Shown):
    """What `collect_garbage` removed."""

    scratch: int = 0
    """Scratch folders of dead processes."""
    leases: int = 0
    data: int = 0
    """Data folders that no item refers to."""
    items: int = 0
    """Items that are not in their collection."""
    stored_bytes: int = 0
    left: tuple[str, ...] = ()
    """Collections that a process is writing to, which were skipped."""

    def __str__(self) -> str:
        """Return one line."""
        text = (
            f"removed {self.scratch} scratch folders, {self.leases} leases, {self.data} data folders and "
            f"{self.items} unlisted items: {self.stored_bytes / 1e6:.2f} MB"
        )
        return text + (f"; skipped, being written: {', '.join(self.left)}" if self.left else "")


def collect_garbage(catalog: str | os.PathLike[str], *, unlisted: bool = False) -> Garbage:
    """Remove what killed jobs and replaced items have left; nothing that an item refers to is removed.

    Parameters
    ----------
    catalog
        Folder or JSON file.
    unlisted
        Also remove complete items that are not in their collection. Otherwise the job that made them adds them
        to the collection when it is run again.

    Raises
    ------
    TargetError
        The catalog does not exist, or cannot be changed.
    """
    root = Root.at(catalog)
    if not root.folder.is_dir():
        raise TargetError(
            f"there is no catalog at {str(catalog)!r}", "give the folder that holds catalog.json"
        )
    root.folder.unlock()
    leases, working = sweep_leases(root.folder), live_leases(root.folder)
    counts: Counter[str] = Counter()
    reports = root.folder / STATE / "reports"
    for report in reports.iterdir() if reports.is_dir() else ():
        counts["scratch"] += report.remove_stale_scratch()
    skipped = []
    for folder in sorted(
        path for path in root.folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    ):
        counts["scratch"] += root.remove_stale_scratch(folder.name)
        garbage = list(_unreferenced(folder, unlisted=unlisted)) if folder.name != GENERATORS else []
        if garbage and (
            folder.has_active_writer() or any(name.startswith(f"{folder.name}/") for name in working)
        ):
            skipped.append(folder.name)
        elif garbage:
            counts += _removed(garbage)
    return Garbage(
        counts["scratch"], leases, counts["data"], counts["items"], counts["bytes"], tuple(skipped)
    )


def _removed(garbage: list[Location]) -> Counter[str]:
    """Remove folders, except those that an item refers to by now, and objects that are too young to be garbage."""
    counts: Counter[str] = Counter()
    for path in garbage:
        home, is_data = path.parent, is_data_file(path)
        freed = path.remove_tree(partial(_is_referenced, path) if is_data else lambda: False)
        if freed is None:
            continue
        counts["data" if is_data else "items"] += 1
        counts["bytes"] += freed
        if is_data:
            home.remove_if_empty()
    return counts


def _is_referenced(path: Location) -> bool:
    return path.name in _referenced(path.parent)


def _unreferenced(folder: Location, *, unlisted: bool) -> Iterator[Location]:
    """Yield data folders that no item refers to and, if asked for, items that are not in the collection."""
    collection = folder / "collection.json"
    links = read_json(collection).get("links", []) if collection.is_file() else []
    listed = {Path(str(link.get("href"))) for link in links if link.get("rel") == "item"}
    for home in sorted(folder.iterdir()):
        if home.name.startswith(".") or not is_item(home):
            continue
        if unlisted and Path(item_href(home.name)) not in listed:
            yield home
            continue
        referenced = _referenced(home)
        yield from (
            path for path in sorted(home.iterdir()) if is_data_file(path) and path.name not in referenced
        )


def _referenced(home: Location) -> set[str]:
    """Return the names of an item's data folders; all folders if the item cannot be read."""
    file = home / f"{home.name}.json"
    if not file.is_file():
        return set()
    try:
        assets = read_json(file).get("assets", {})
        return {Path(str(asset.get("href"))).parts[0] for asset in assets.values()}
    except (TargetError, AttributeError, IndexError):
        return {path.name for path in home.iterdir()}
