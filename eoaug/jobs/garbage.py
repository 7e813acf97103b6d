"""Removal of what killed runs and replaced items have left behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eoaug.display import Shown
from eoaug.errors import TargetError, first_line, printable
from eoaug.jobs.leases import live_leases, sweep_leases
from eoaug.stac.catalog import GENERATORS, STATE, Root, item_href
from eoaug.stac.integrity import checksum_error, is_own_data, read_json
from eoaug.stac.validate import is_data_file, is_item
from eoaug.storage.location import Location
from eoaug.storage.s3 import StoreError

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
    unknown: tuple[str, ...] = ()
    """Folders that could not be examined, and why."""

    def __str__(self) -> str:
        """Return one line."""
        text = (
            f"removed {self.scratch} scratch folders, {self.leases} leases, {self.data} data folders and "
            f"{self.items} unlisted items: {self.stored_bytes / 1e6:.2f} MB"
        )
        text += f"; skipped, being written: {printable(', '.join(self.left))}" if self.left else ""
        return text + (f"; not examined: {printable(', '.join(self.unknown))}" if self.unknown else "")


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
    _unlock(root)
    leases, working = sweep_leases(root.folder), live_leases(root.folder)
    counts: Counter[str] = Counter()
    reports = root.folder / STATE / "reports"
    for report in reports.iterdir() if reports.is_dir() else ():
        counts["scratch"] += report.remove_stale_scratch()
    skipped, unknown = [], []
    for folder in _folders(root.folder):
        try:
            counts["scratch"] += root.remove_stale_scratch(folder.name)
            garbage = list(_unreferenced(folder, unlisted=unlisted)) if folder.name != GENERATORS else []
            if garbage and (
                folder.has_active_writer() or any(name.startswith(f"{folder.name}/") for name in working)
            ):
                skipped.append(folder.name)
            elif garbage:
                counts += _removed(garbage)
        except StoreError:
            raise
        except (OSError, TargetError) as error:
            unknown.append(f"{folder.name} ({first_line(error)})")
    return Garbage(
        counts["scratch"],
        leases,
        counts["data"],
        counts["items"],
        counts["bytes"],
        tuple(skipped),
        tuple(unknown),
    )


def _folders(root: Location) -> list[Location]:
    """Return the folders of a catalog that may be collections."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _unlock(root: Root) -> None:
    """Remove the locks that dead processes have left of documents of eoaug."""
    root.folder.unlock(root.parent.name)
    for folder in _folders(root.folder):
        with suppress(TargetError):  # eoaug makes no links
            folder.unlock("catalog.json" if folder.name == GENERATORS else "collection.json")
    leases = root.folder / STATE / "leases"
    for folder in leases.iterdir() if leases.is_dir() else ():
        names = {lease.name[1:].removesuffix(".lock") for lease in folder.glob(".*.json.lock")}
        folder.unlock(*sorted(names))


def _removed(garbage: list[Location]) -> Counter[str]:
    """Remove folders, except those that an item refers to by now, and objects that are too young to be garbage."""
    counts: Counter[str] = Counter()
    for path in garbage:
        home, is_data = path.parent, path.suffix != ".json"
        if not is_data:
            size = path.size
            counts["items"] += path.remove_if(lambda content: not checksum_error(content))
            counts["bytes"] += size
            continue
        freed = path.remove_tree(partial(_is_referenced, path))
        if freed is None:
            continue
        counts["data"] += 1
        counts["bytes"] += freed
        home.remove_if_empty()
    return counts


def _is_referenced(path: Location) -> bool:
    return path.name in _referenced(path.parent)


def _unreferenced(folder: Location, *, unlisted: bool) -> Iterator[Location]:
    """Yield data folders of eoaug that no item refers to and, if asked for, items that are not in the collection.

    What eoaug made is recognised by its self-checksum, and data by the hash of its content, never by a name alone.
    """
    collection = folder / "collection.json"
    links = read_json(collection).get("links", []) if collection.is_file() else []
    listed = {
        Path(str(link.get("href"))) for link in links if isinstance(link, dict) and link.get("rel") == "item"
    }
    for home in sorted(folder.iterdir()):
        if home.name.startswith(".") or not home.is_dir() or not is_item(home):
            continue
        document = home / f"{home.name}.json"
        intact = document.is_file() and not checksum_error(document.read_bytes())
        if document.is_file() and not intact:
            continue  # of another writer, or damaged
        if intact and unlisted and Path(item_href(home.name)) not in listed:
            yield document
            referenced = set()
        else:
            referenced = _referenced(home)
        for path in sorted(home.iterdir()):
            if is_data_file(path) and path.name not in referenced and is_own_data(path):
                yield path


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
