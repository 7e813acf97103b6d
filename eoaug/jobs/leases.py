"""Leases on items in flight, so that two jobs do not process the same item.

A lease does not decide what is published; only the catalog does. It is a file next to the catalog, which
outlives the process that wrote it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eoaug.errors import TargetError
from eoaug.stac.catalog import STATE
from eoaug.stac.integrity import json_bytes
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.locks import is_live, lease_terms, read_lease
from eoaug.storage.s3 import StoreError

__all__ = ["Lease", "drop_dead", "leased", "live_leases", "sweep_leases"]


@dataclass(frozen=True)
class Lease:
    """The right to publish one item, until it is given back, taken over, or expires."""

    file: Location
    owner: str
    """A name that no other lease has."""
    seconds: float
    """Term of the lease."""

    def check(self) -> None:
        """Raise TargetError if another process has taken over the lease."""
        self._refuse_other(_content(self.file))

    def _refuse_other(self, content: bytes | None) -> None:
        if not self._is_mine(content):
            raise TargetError(
                f"the lease on item {self.file.stem!r} was taken over by another process, or expired",
                "nothing was published; run the job again, with a longer run.timeout_s if it was too slow",
            )

    def _is_mine(self, content: bytes | None) -> bool:
        return read_lease(content).get("owner") == self.owner

    def give_back(self) -> None:
        """Remove the lease, unless another process has taken it over."""
        self.file.remove_if(self._is_mine)

    def renew(self) -> None:
        """Extend the lease by another term."""

        def extended(content: bytes | None) -> bytes:
            self._refuse_other(content)
            return self._terms()

        self.file.edit(extended)

    def take(self) -> bool:
        """Take the lease, unless a running process has it; return whether it was taken."""
        return self.file.edit(lambda content: None if is_live(read_lease(content)) else self._terms())

    def _terms(self) -> bytes:
        return json_bytes(lease_terms(self.owner, self.seconds))


@contextmanager
def leased(root: Location, name: str, *, seconds: float) -> Iterator[Lease | None]:
    """Hold the lease on an item while the block runs; gives None if another running process has it.

    Parameters
    ----------
    root
        Folder of the catalog.
    name
        Collection and item, with a slash.
    seconds
        Term of the lease. A thread renews it, as long as the process is alive.
    """
    lease = Lease(root / STATE / "leases" / f"{name}.json", uuid.uuid4().hex, seconds)
    if not lease.take():
        yield None
        return
    hit("lease taken")
    done = threading.Event()

    def keep() -> None:
        while not done.wait(seconds / 3):
            try:
                lease.renew()
            except OSError:
                continue  # the next attempt may be in time
            except TargetError:
                return  # `Lease.check` raises in the thread that does the work

    threading.Thread(target=keep, name="eoaug-lease", daemon=True).start()
    try:
        yield lease
    finally:
        done.set()
        lease.give_back()


def _content(file: Location) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except (OSError, TargetError):  # a folder, a pipe, a link: no lease of eoaug
        return None


def drop_dead(root: Location, name: str) -> None:
    """Remove the lease on an item if its process has ended."""
    (root / STATE / "leases" / f"{name}.json").remove_if(lambda content: not is_live(read_lease(content)))


def live_leases(root: Location) -> list[str]:
    """Return the names of the items in flight, as collection and item with a slash."""
    folder = root / STATE / "leases"
    return sorted(
        file.relative_to(folder).with_suffix("").as_posix()
        for file in folder.rglob("*.json")
        if not file.name.startswith(".") and is_live(read_lease(_content(file)))
    )


def sweep_leases(root: Location) -> int:
    """Remove the leases and scratch folders of dead processes; return the number of leases."""
    folder = root / STATE / "leases"
    for location in {folder, *(file.parent for file in folder.rglob("*"))}:
        location.remove_stale_scratch()
    files = sorted(folder.rglob("*.json"))
    return sum(file.remove_if(lambda content: not is_live(read_lease(content))) for file in files)
