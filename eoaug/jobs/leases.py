"""What jobs remember beside a catalog: leases on items under work, and a journal of what was done.

Neither decides what is published; that only the catalog does. A lease keeps two jobs from the same work, and
the journal tells people and `status` what happened. Both outlive the processes that wrote them.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eoaug.errors import TargetError
from eoaug.stac.catalog import STATE
from eoaug.stac.integrity import json_bytes
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.locks import is_live, lease_terms

__all__ = ["Lease", "leased", "live_leases", "sweep_leases"]


# -- leases ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lease:
    """The right to publish one item, until it is given back, lost, or not renewed in time."""

    file: Location
    owner: str
    """A name that no other lease has."""
    seconds: float

    def check(self) -> None:
        """Raise when another process has taken the lease over."""
        self._refuse_other(_content(self.file))

    def _refuse_other(self, content: bytes | None) -> None:
        if not self._is_mine(content):
            raise TargetError(
                f"the lease on item {self.file.stem!r} was lost to another process, or timed out.",
                "Nothing was published; run the job again, with a longer run.timeout_s if it was too slow.",
            )

    def _is_mine(self, content: bytes | None) -> bool:
        return read_lease(content).get("owner") == self.owner

    def give_back(self) -> None:
        """Let go, unless it is another's by now."""
        self.file.remove_if(self._is_mine)

    def renew(self) -> None:
        """Hold on for another term."""

        def longer(content: bytes | None) -> bytes:
            self._refuse_other(content)
            return self._terms()

        self.file.edit(longer)

    def take(self) -> bool:
        """Take the lease, unless a living process has it; tell whether it is taken."""
        return self.file.edit(lambda content: None if is_live(read_lease(content)) else self._terms())

    def _terms(self) -> bytes:
        return json_bytes(lease_terms(self.owner, self.seconds))


@contextmanager
def leased(root: Location, name: str, *, seconds: float) -> Iterator[Lease | None]:
    """Hold the lease on an item while the block runs; None when another living process has it.

    Parameters
    ----------
    root
        Folder of the catalog.
    name
        Collection and item, with a slash.
    seconds
        Term of the lease. A thread renews it; a process that hangs or dies does not.
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
                continue  # the next try may come in time
            except TargetError:
                return  # who has lost it learns so when it is checked

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


def read_lease(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def live_leases(root: Location) -> list[str]:
    """Return the names of the items that living processes work on."""
    folder = root / STATE / "leases"
    return sorted(
        file.relative_to(folder).with_suffix("").as_posix()
        for file in folder.rglob("*.json")
        if not file.name.startswith(".") and is_live(read_lease(_content(file)))
    )


def sweep_leases(root: Location) -> int:
    """Remove the leases of dead processes, and what these left; return how many."""
    folder = root / STATE / "leases"
    for place in {folder, *(file.parent for file in folder.rglob("*"))}:
        place.remove_stale_scratch()
    found = sorted(folder.rglob("*.json"))
    return sum(file.remove_if(lambda content: not is_live(read_lease(content))) for file in found)
