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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eoaug.cube.write import alive, machine, sweep
from eoaug.errors import SourceError, TargetError
from eoaug.faults import reach
from eoaug.stac.catalog import STATE, read_json, replace_json, sole_writer

__all__ = ["JOURNAL_VERSION", "Journal", "Lease", "leased", "live_leases", "read_journals", "sweep_leases"]

JOURNAL_VERSION = 1
"""Version of the lines; a newer one is refused, not guessed."""


# -- leases ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lease:
    """The right to publish one item, until it is given back, lost, or not renewed in time."""

    file: Path
    owner: str
    """A name that no other lease has."""
    seconds: float

    def check(self) -> None:
        """Raise when another process has taken the lease over."""
        if _holder(self.file).get("owner") != self.owner:
            raise TargetError(
                f"the lease on item {self.file.stem!r} was lost to another process, or timed out.",
                "Nothing was published; run the job again, with a longer run.timeout_s if it was too slow.",
            )

    def give_back(self) -> None:
        """Let go, unless it is another's by now."""
        with sole_writer(self.file):
            if _holder(self.file).get("owner") == self.owner:
                self.file.unlink(missing_ok=True)

    def renew(self) -> None:
        """Hold on for another term."""
        with sole_writer(self.file):
            self.check()
            replace_json(self.file, _terms(self.owner, self.seconds))


@contextmanager
def leased(root: Path, name: str, *, seconds: float) -> Iterator[Lease | None]:
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
    file = root / STATE / "leases" / f"{name}.json"
    lease = Lease(file, uuid.uuid4().hex, seconds)
    file.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(file):
        free = not _lives(_holder(file))
        if free:
            replace_json(file, _terms(lease.owner, seconds))
    if not free:
        yield None
        return
    reach("lease taken")
    done = threading.Event()

    def keep() -> None:
        with suppress(OSError, TargetError):  # who has lost it learns so when it is checked
            while not done.wait(seconds / 3):
                lease.renew()

    threading.Thread(target=keep, name="eoaug-lease", daemon=True).start()
    try:
        yield lease
    finally:
        done.set()
        lease.give_back()


def _terms(owner: str, seconds: float) -> dict[str, Any]:
    me = os.getpid()
    return {
        "owner": owner,
        "machine": machine(),
        "process": me,
        "begun": _begun(me),
        "until": time.time() + seconds,
    }


def _holder(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except TargetError:
        return {}


def _lives(holder: Mapping[str, Any]) -> bool:
    if holder.get("machine") == machine():
        process = int(holder.get("process", -1))
        if not alive(process) or _begun(process) != holder.get("begun"):
            return False
    return float(holder.get("until", 0)) > time.time()


def _begun(process: int) -> str:
    """Tell when a process began, where the system says so: ids are used again."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def live_leases(root: Path) -> list[str]:
    """Return the names of the items that living processes work on."""
    folder = root / STATE / "leases"
    return sorted(
        file.relative_to(folder).with_suffix("").as_posix()
        for file in folder.rglob("*.json")
        if not file.name.startswith(".") and _lives(_holder(file))
    )


def sweep_leases(root: Path) -> int:
    """Remove the leases of dead processes, and what these left; return how many."""
    gone = 0
    folder = root / STATE / "leases"
    for place in [folder, *folder.rglob("*")]:
        if place.is_dir():
            sweep(place)
    for file in sorted(folder.rglob("*.json")):
        with sole_writer(file):
            if not _lives(_holder(file)):
                file.unlink(missing_ok=True)
                gone += 1
    return gone


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

    def __init__(self, root: Path, job: str, head: Mapping[str, Any]) -> None:
        name = f"{time.time_ns():020d}-{machine()}-{os.getpid()}.jsonl"
        self._file = root / STATE / "journal" / job / name
        self._head = {"journal": JOURNAL_VERSION, "job": job, **head}

    def append(self, events: list[Mapping[str, Any]]) -> None:
        """Write events and flush them to disk; a line that was cut off is no line."""
        if not events:
            return
        reach("journal begun")
        fresh = not self._file.exists()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lines = [_line(event) for event in ([self._head] if fresh else []) + events]
        try:
            with self._file.open("ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TargetError(
                f"cannot write the journal {str(self._file)!r}: {error.strerror or error}.",
                "Check free space and permissions, and run the job again; what is published stays.",
            ) from error
        reach("journal written")


def _line(event: Mapping[str, Any]) -> bytes:
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journals(
    root: Path, job: str | None = None
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield head and events of every run, the oldest first; lines that were cut off or changed are left out.

    Raises
    ------
    SourceError
        A journal of a version that this one does not know.
    """
    for file in sorted((root / STATE / "journal").glob(f"{job or '*'}/*.jsonl"), key=lambda f: f.name):
        events = [event for event in map(_event, file.read_bytes().splitlines()) if event is not None]
        if not events:
            continue
        head, *rest = events
        version = head.get("journal")
        if not isinstance(version, int) or version > JOURNAL_VERSION:
            raise SourceError(
                f"journal {str(file)!r} has version {version!r}; this eoaug reads up to {JOURNAL_VERSION}.",
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
