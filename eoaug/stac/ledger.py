"""What jobs remember beside a catalog: leases on items under work, and a journal of what was done.

Neither decides what is published; that only the catalog does. A lease keeps two jobs from the same work, and
the journal tells people and `status` what happened. Both outlive the processes that wrote them.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eoaug.cube.write import machine
from eoaug.errors import SourceError, TargetError
from eoaug.faults import reach
from eoaug.stac.catalog import STATE, spelled
from eoaug.stac.places import Place, lives, terms

__all__ = ["JOURNAL_VERSION", "Journal", "Lease", "leased", "live_leases", "read_journals", "sweep_leases"]

JOURNAL_VERSION = 1
"""Version of the lines; a newer one is refused, not guessed."""


# -- leases ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lease:
    """The right to publish one item, until it is given back, lost, or not renewed in time."""

    file: Place
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
        return _holder(content).get("owner") == self.owner

    def give_back(self) -> None:
        """Let go, unless it is another's by now."""
        self.file.drop(self._is_mine)

    def renew(self) -> None:
        """Hold on for another term."""

        def longer(content: bytes | None) -> bytes:
            self._refuse_other(content)
            return self._terms()

        self.file.edit(longer)

    def take(self) -> bool:
        """Take the lease, unless a living process has it; tell whether it is taken."""
        return self.file.edit(lambda content: None if lives(_holder(content)) else self._terms())

    def _terms(self) -> bytes:
        return spelled(terms(self.owner, self.seconds))


@contextmanager
def leased(root: Place, name: str, *, seconds: float) -> Iterator[Lease | None]:
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
    reach("lease taken")
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


def _content(file: Place) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _holder(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def live_leases(root: Place) -> list[str]:
    """Return the names of the items that living processes work on."""
    folder = root / STATE / "leases"
    return sorted(
        file.relative_to(folder).with_suffix("").as_posix()
        for file in folder.rglob("*.json")
        if not file.name.startswith(".") and lives(_holder(_content(file)))
    )


def sweep_leases(root: Place) -> int:
    """Remove the leases of dead processes, and what these left; return how many."""
    folder = root / STATE / "leases"
    for place in {folder, *(file.parent for file in folder.rglob("*"))}:
        place.sweep()
    found = sorted(folder.rglob("*.json"))
    return sum(file.drop(lambda content: not lives(_holder(content))) for file in found)


# -- the journal ----------------------------------------------------------------------------------------


class Journal:
    """An append-only file of what one run of a job did; made with its first line.

    Parameters
    ----------
    root
        Folder of the catalog.
    job
        Id of the job.
    head
        What the first line tells: the job's configuration and the version of eoaug.
    """

    def __init__(self, root: Place, job: str, head: Mapping[str, Any]) -> None:
        name = f"{time.time_ns():020d}-{machine()}-{os.getpid()}.jsonl"
        self._file = root / STATE / "journal" / job / name
        self._begun = False
        self._head = {"journal": JOURNAL_VERSION, "job": job, **head}

    def append(self, events: list[Mapping[str, Any]]) -> None:
        """Write events and flush them to disk; a line that was cut off is no line."""
        if not events:
            return
        reach("journal begun")
        lines = [_line(event) for event in ([] if self._begun else [self._head]) + events]
        try:
            self._file.append(b"".join(lines))
        except OSError as error:
            raise TargetError(
                f"cannot write the journal {str(self._file)!r}: {error.strerror or error}.",
                "Check free space and permissions, and run the job again; what is published stays.",
            ) from error
        self._begun = True
        reach("journal written")


def _line(event: Mapping[str, Any]) -> bytes:
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journals(
    root: Place, job: str | None = None
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield head and events of every run, the oldest first; lines that were cut off or changed are left out.

    Raises
    ------
    SourceError
        A journal of a version that this one does not know.
    """
    for file, content in (root / STATE / "journal").logs():
        events = [event for event in map(_event, content.splitlines()) if event is not None]
        if not events:
            continue
        head, *rest = events
        if job is not None and head.get("job") != job:
            continue
        version = head.get("journal")
        if not isinstance(version, int) or version > JOURNAL_VERSION:
            raise SourceError(
                f"journal {file!r} has version {version!r}; this eoaug reads up to {JOURNAL_VERSION}.",
                "Use the eoaug that wrote it, or a newer one.",
            )
        yield head, rest


def _event(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.partition(b" ")
    try:
        event = json.loads(text) if int(crc, 16) == zlib.crc32(text) else None
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
