"""The journal of a job: an append-only file of lines with checksums."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from eoaug.errors import SourceError, TargetError
from eoaug.stac.catalog import STATE
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.locks import machine_id

__all__ = ["JOURNAL_VERSION", "Journal", "read_journals"]


JOURNAL_VERSION = 1
"""Version of the lines; a newer version is refused."""


class Journal:
    """An append-only file of what one run of a job did; created with its first line.

    Parameters
    ----------
    root
        Folder of the catalog.
    job
        Id of the job.
    head
        Content of the first line: the job's configuration and the version of eoaug.
    """

    def __init__(self, root: Location, job: str, head: Mapping[str, Any]) -> None:
        name = f"{time.time_ns():020d}-{machine_id()}-{os.getpid()}.jsonl"
        self._file = root / STATE / "journal" / job / name
        self._begun = False
        self._head = {"journal": JOURNAL_VERSION, "job": job, **head}

    def append(self, events: list[Mapping[str, Any]]) -> None:
        """Write events and flush them to disk; a truncated line is ignored when read."""
        if not events:
            return
        hit("journal begun")
        lines = [_line(event) for event in ([] if self._begun else [self._head]) + events]
        try:
            self._file.append(b"".join(lines))
        except OSError as error:
            raise TargetError(
                f"cannot write the journal {str(self._file)!r}: {error.strerror or error}",
                "check free space and permissions, and run the job again; published items are kept",
            ) from error
        self._begun = True
        hit("journal written")


def _line(event: Mapping[str, Any]) -> bytes:
    text = json.dumps(event, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journals(
    root: Location, job: str | None = None
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield first line and events of every run, the oldest first; damaged lines are left out.

    Raises
    ------
    SourceError
        A journal has a newer version.
    """
    for file, content in (root / STATE / "journal").logs():
        events = [event for event in map(_event, content.splitlines()) if event is not None]
        if not events:
            continue
        head, *rest = events
        if job is not None and head.get("job") != job:
            continue
        version = head.get("journal")
        if not isinstance(version, int):
            continue  # eoaug did not write it
        if version > JOURNAL_VERSION:
            raise SourceError(
                f"journal {file!r} has version {version!r}; this eoaug reads up to {JOURNAL_VERSION}",
                "use the eoaug that wrote it, or a newer one",
            )
        yield head, rest


def _event(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.partition(b" ")
    try:
        event = json.loads(text) if int(crc, 16) == zlib.crc32(text) else None
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
