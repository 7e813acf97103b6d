"""A location in an object store."""

from __future__ import annotations

import fnmatch
import io
import json
import os
import posixpath
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_not_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
    wait_random,
)

from eoaug.storage import s3
from eoaug.storage.atomic import remove_stale_scratch, scratch_dir
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Change
from eoaug.storage.locks import LOCK_TIMEOUT_S, is_live, lease_terms, lock_error, read_lease

__all__ = ["S3Location"]


_YOUNG_S = 3600.0
"""Younger objects are never garbage: the item that refers to them may not be written yet."""


@dataclass(frozen=True, order=True)
class S3Location:
    """An object, or all objects with this prefix; contains no credentials, so it can be sent to workers."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, other: str | PurePosixPath) -> S3Location:
        key = posixpath.normpath(posixpath.join("/", self.key, str(other)))
        return S3Location(self.bucket, key.strip("/"))

    @property
    def name(self) -> str:
        """Last part of the key; the bucket's name if the key is empty."""
        return posixpath.basename(self.key) or self.bucket

    @property
    def stem(self) -> str:
        """Name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Suffix of the name, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> S3Location:
        """The folder that contains it; a bucket's parent is itself."""
        return S3Location(self.bucket, posixpath.dirname(self.key))

    @property
    def parents(self) -> tuple[S3Location, ...]:
        """All folders that contain it, the nearest first."""
        return (self.parent, *self.parent.parents) if self.key else ()

    @property
    def size(self) -> int:
        """Size in bytes."""
        return s3.head(str(self)).size

    def resolve(self) -> S3Location:
        """Return itself, since object stores have no links."""
        return self

    def with_name(self, name: str) -> S3Location:
        """Return the location of that name in the same folder."""
        return self.parent / name

    def relative_to(self, other: S3Location) -> PurePosixPath:
        """Return the path relative to the folder ``other``."""
        return PurePosixPath(self.key).relative_to(other.key)

    def as_posix(self) -> str:
        """Return the address."""
        return str(self)

    def is_file(self) -> bool:
        """Return whether there is an object of that name."""
        try:
            s3.head(str(self))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Return whether there are objects with this prefix."""
        return next(iter(s3.entries(str(self), deep=False)), None) is not None

    def exists(self) -> bool:
        """Return whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return the content."""
        return s3.read(str(self))[0]

    def open(self, mode: str = "rb") -> io.BytesIO:
        """Return the content as a file object."""
        assert mode == "rb"
        return io.BytesIO(self.read_bytes())

    def iterdir(self) -> Iterator[S3Location]:
        """Yield the objects and folders directly below it."""
        return (S3Location(self.bucket, key) for key, _ in s3.entries(str(self), deep=False))

    def rglob(self, pattern: str) -> Iterator[S3Location]:
        """Yield the objects below it whose name matches the pattern."""
        objects = (S3Location(self.bucket, key) for key, _ in s3.entries(str(self), deep=True))
        return (location for location in objects if fnmatch.fnmatchcase(location.name, pattern))

    def glob(self, pattern: str) -> Iterator[S3Location]:
        """Yield the objects and folders that match the pattern, segment by segment."""
        first, _, rest = pattern.partition("/")
        for location in self.iterdir():
            if fnmatch.fnmatchcase(location.name, first):
                if rest:
                    yield from location.glob(rest)
                else:
                    yield location

    def check_writable(self) -> None:
        """Raise StoreError for a prefix that cannot be written, before anything is computed.

        Also finds out whether the store has conditional writes.
        """
        self._has_conditions()

    def put(self, content: bytes) -> None:
        """Write or replace a document in one request."""
        hit("document written")
        self._put(content)
        hit("document flushed")
        hit("document renamed")

    def _put(self, content: bytes | Path) -> None:
        s3.put(str(self), content)

    def edit(self, change: Change) -> bool:
        """Change a document while no other process can; return whether it was changed.

        A response may be lost after the store has done the write. So after any failure of a conditional write
        the document is read again: it is either ours already, or another version that the change is applied to.
        """
        written: list[bytes] = []
        attempts = Retrying(
            stop=stop_after_delay(LOCK_TIMEOUT_S),
            wait=wait_random(0.01, 0.1),
            retry=retry_if_exception_type(s3.StoreError),
            reraise=True,
        )
        try:
            return attempts(self._edit_once, change, written)
        except s3.ChangedError as error:
            raise lock_error(str(self)) from error

    def _edit_once(self, change: Change, written: list[bytes]) -> bool:
        """Try to change a document once; ``written`` collects the contents of all attempts."""
        with nullcontext() if self._has_conditions() else _exclusive(self):
            before, tag = self._version()
            if before is not None and before in written:
                return True
            after = change(before)
            if after is None:
                return False
            written.append(after)
            hit("document written")
            s3.put(str(self), after, instead_of=tag if self._has_conditions() else None)
        hit("document flushed")
        hit("document renamed")
        return True

    def _version(self) -> tuple[bytes | None, str]:
        try:
            return s3.read(str(self))
        except FileNotFoundError:
            return None, ""

    def remove_if(self, condition: Callable[[bytes], bool]) -> bool:
        """Remove a document if its content meets a condition; return whether it was removed."""
        try:
            matches = condition(self.read_bytes())
        except FileNotFoundError:
            return False
        if matches:
            s3.delete(str(self))
        return matches

    def append(self, content: bytes) -> None:
        """Append to a log; object stores cannot append, so every part is an object of its own."""
        (self / f"{time.time_ns():020d}")._put(content)

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Yield address and content of the logs below this folder, ordered by name."""
        logs: dict[S3Location, list[S3Location]] = {}
        for part in self.rglob("*"):
            logs.setdefault(part.parent, []).append(part)
        for log in sorted(logs, key=lambda location: location.name):
            yield str(log), b"".join(part.read_bytes() for part in sorted(logs[log]))

    def scratch_dir(self) -> AbstractContextManager[Path]:
        """Create a scratch folder on this machine for data that will be published to this folder."""
        return scratch_dir(Path(tempfile.gettempdir()))

    def publish(self, scratch: Path, *, point: str = "data") -> None:
        """Upload a complete file or folder from a `scratch_dir`, object by object; no item refers to them yet."""
        hit(f"{point} written")
        if scratch.is_file():
            self._put(scratch)
        for file in sorted(scratch.rglob("*")):
            if file.is_file():
                (self / file.relative_to(scratch).as_posix())._put(file)
                hit(f"{point} flushed")
        hit(f"{point} renamed")

    def remove_stale_scratch(self) -> int:
        """Remove the scratch folders of killed processes from this machine; return their number."""
        return remove_stale_scratch(Path(tempfile.gettempdir()))

    def has_active_writer(self) -> bool:
        """Return False: on object stores, leases and the age of objects protect what is being written."""
        return False

    def unlock(self, *names: str) -> None:
        """Remove the lock tickets of dead processes, and leftover probes, below this folder."""
        for ticket in self.rglob("*.ticket"):
            ticket.remove_if(lambda content: not is_live(read_lease(content)))
        for key, entry in s3.entries(str(self), deep=True):
            old = entry is not None and (datetime.now(UTC) - entry.changed).total_seconds() > LOCK_TIMEOUT_S
            if old and _PROBE in key:
                s3.delete(str(S3Location(self.bucket, key)))

    def remove_if_empty(self) -> None:
        """Do nothing: object stores have no folders."""

    def remove_tree(self, is_referenced: Callable[[], bool]) -> int | None:
        """Remove this folder and its content; return the bytes freed.

        Returns None, and keeps the folder, if ``is_referenced`` is true or an object is younger than an hour.
        """
        objects = [entry for _, entry in s3.entries(str(self), deep=True) if entry is not None]
        young = any((datetime.now(UTC) - entry.changed).total_seconds() < _YOUNG_S for entry in objects)
        if young or is_referenced():
            return None
        # The item's own document first: an item that is partly removed must not be listed as complete.
        for entry in sorted(objects, key=lambda entry: (entry.key.count("/"), entry.key)):
            s3.delete(str(S3Location(self.bucket, entry.key)))
        return sum(entry.size for entry in objects)

    # -- one writer at a time ---------------------------------------------------------------------------

    def _has_conditions(self) -> bool:
        store = self.bucket, os.environ.get("AWS_ENDPOINT_URL", "")
        if store not in _CONDITIONS:
            _CONDITIONS[store] = _supports_conditions(self.parent if self.suffix else self)
        return _CONDITIONS[store]


@contextmanager
def _exclusive(document: S3Location) -> Iterator[None]:
    """Hold the right to replace a document, on stores without conditional writes.

    A process writes a ticket next to the document, then lists the tickets. If its own is the only valid one, it
    has the lock; otherwise it removes its ticket and tries again. Of two processes, at least the later one sees
    the ticket of the other.
    """
    attempts = Retrying(
        stop=stop_after_delay(LOCK_TIMEOUT_S), wait=wait_random(0.02, 0.3), retry=retry_if_not_result(bool)
    )
    try:
        ticket = attempts(_take_ticket, document.with_name(f".{document.name}.lock"))
    except RetryError as error:
        raise lock_error(str(document)) from error
    try:
        yield
    finally:
        s3.delete(str(ticket))


def _take_ticket(folder: S3Location) -> S3Location | None:
    """Write a ticket; return it if it is the only valid one, else remove it."""
    ticket = folder / f"{uuid.uuid4().hex}.ticket"
    s3.put(str(ticket), json.dumps(lease_terms(ticket.name, LOCK_TIMEOUT_S)).encode())
    taken = False
    try:
        others = [other for other in folder.iterdir() if other != ticket]
        taken = not any(_is_valid(other) for other in others)
    finally:
        if not taken:
            s3.delete(str(ticket))
    return ticket if taken else None


def _is_valid(ticket: S3Location) -> bool:
    """Return whether a ticket's process is alive; remove the ticket of a dead one."""
    return ticket.is_file() and not ticket.remove_if(lambda content: not is_live(read_lease(content)))


_PROBE = ".eoaug-probe-"
"""Prefix of the objects that are written to find out what a store supports."""
_CONDITIONS: dict[tuple[str, str], bool] = {}
"""Whether a bucket's store has conditional writes, once it is known."""


def _supports_conditions(folder: S3Location) -> bool:
    """Return whether a store obeys If-None-Match and If-Match, by trying: some ignore them."""
    probe = str(folder / f"{_PROBE}{uuid.uuid4().hex}")
    attempts = Retrying(
        stop=stop_after_attempt(8), wait=wait_fixed(0.2), retry=retry_if_exception(s3.may_pass), reraise=True
    )

    def is_refused(tag: str) -> bool:
        try:
            attempts(s3.put, probe, b"probe", instead_of=tag)
        except s3.ChangedError:
            return True
        except s3.UnsupportedError:
            return False
        return False

    try:
        s3.put(probe, b"probe")
        return is_refused("") and is_refused('"0123456789abcdef0123456789abcdef"')
    finally:
        with suppress(s3.StoreError):
            s3.delete(probe)
