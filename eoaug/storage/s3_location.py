"""A location in an object store."""

from __future__ import annotations

import fnmatch
import io
import json
import os
import posixpath
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from eoaug.storage import s3
from eoaug.storage.atomic import remove_stale_scratch, scratch_dir
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Change
from eoaug.storage.locks import LOCK_TIMEOUT_S, held, is_live, lease_terms

__all__ = ["S3Location"]


_YOUNG_S = 3600.0
"""Objects that are younger are no garbage: who has put them may not have named them yet."""


# -- object stores --------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class S3Location:
    """An object, or the objects that begin alike; holds no credentials, so it may travel with tasks."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, other: str | PurePosixPath) -> S3Location:
        key = posixpath.normpath(posixpath.join("/", self.key, str(other)))
        return S3Location(self.bucket, key.strip("/"))

    @property
    def name(self) -> str:
        """Last part of the key; of a bucket its name."""
        return posixpath.basename(self.key) or self.bucket

    @property
    def stem(self) -> str:
        """Name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> S3Location:
        """The folder that holds it; a bucket is its own."""
        return S3Location(self.bucket, posixpath.dirname(self.key))

    @property
    def parents(self) -> tuple[S3Location, ...]:
        """All folders that hold it, the nearest first."""
        return (self.parent, *self.parent.parents) if self.key else ()

    @property
    def size(self) -> int:
        """Bytes."""
        return s3.head(str(self)).size

    def resolve(self) -> S3Location:
        """Return itself: stores have no links."""
        return self

    def with_name(self, name: str) -> S3Location:
        """Return its neighbour of that name."""
        return self.parent / name

    def relative_to(self, other: S3Location) -> PurePosixPath:
        """Return the path from ``other`` down to it."""
        return PurePosixPath(self.key).relative_to(other.key)

    def as_posix(self) -> str:
        """Return its address."""
        return str(self)

    def is_file(self) -> bool:
        """Tell whether there is an object of that name."""
        try:
            s3.head(str(self))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether there are objects below it."""
        return next(iter(s3.entries(str(self), deep=False)), None) is not None

    def exists(self) -> bool:
        """Tell whether it is one or the other."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return its content."""
        return s3.read(str(self))[0]

    def open(self, mode: str = "rb") -> io.BytesIO:
        """Return its content as a file."""
        assert mode == "rb"
        return io.BytesIO(self.read_bytes())

    def iterdir(self) -> Iterator[S3Location]:
        """Yield what is right below it."""
        return (S3Location(self.bucket, key) for key, _ in s3.entries(str(self), deep=False))

    def rglob(self, pattern: str) -> Iterator[S3Location]:
        """Yield the objects below it whose name fits."""
        found = (S3Location(self.bucket, key) for key, _ in s3.entries(str(self), deep=True))
        return (place for place in found if fnmatch.fnmatchcase(place.name, pattern))

    def glob(self, pattern: str) -> Iterator[S3Location]:
        """Yield the objects that fit, part by part."""
        first, _, rest = pattern.partition("/")
        for place in self.iterdir():
            if fnmatch.fnmatchcase(place.name, first):
                if rest:
                    yield from place.glob(rest)
                else:
                    yield place

    def check_writable(self) -> None:
        """Refuse a prefix that cannot be written, and learn what the store can, before anything is computed."""
        self._has_conditions()

    def put(self, content: bytes) -> None:
        """Put a document in the place of another in one request."""
        hit("document written")
        self._put(content)
        hit("document flushed")
        hit("document renamed")

    def _put(self, content: bytes | Path) -> None:
        s3.put(str(self), content)

    def edit(self, change: Change) -> bool:
        """Change a document against no other process; tell whether it was.

        An answer may be lost after the store has done what was asked. So whatever a conditional write says,
        the document is looked at again: it is ours, or another's that our change goes on top of.
        """
        tried: list[bytes] = []
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                with self._alone():
                    before, tag = self._version()
                    if before is not None and before in tried:
                        return True
                    after = change(before)
                    if after is None:
                        return False
                    tried.append(after)
                    hit("document written")
                    s3.put(str(self), after, instead_of=tag if self._has_conditions() else None)
                hit("document flushed")
                hit("document renamed")
                return True
            except s3.ChangedError as error:
                if time.monotonic() > deadline:
                    raise held(str(self)) from error
            except s3.StoreError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.01, 0.1))

    def _version(self) -> tuple[bytes | None, str]:
        try:
            return s3.read(str(self))
        except FileNotFoundError:
            return None, ""

    def remove_if(self, wanted: Callable[[bytes], bool]) -> bool:
        """Remove a document if it is the one that is meant; tell whether it was."""
        try:
            meant = wanted(self.read_bytes())
        except FileNotFoundError:
            return False
        if meant:
            s3.delete(str(self))
        return meant

    def append(self, content: bytes) -> None:
        """Add to a log: a store cannot, so every part is an object of its own."""
        (self / f"{time.time_ns():020d}")._put(content)

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Yield address and content of the logs below this folder, by their names."""
        found: dict[S3Location, list[S3Location]] = {}
        for part in self.rglob("*"):
            found.setdefault(part.parent, []).append(part)
        for log in sorted(found, key=lambda place: place.name):
            yield str(log), b"".join(part.read_bytes() for part in sorted(found[log]))

    def scratch_dir(self) -> AbstractContextManager[Path]:
        """Give a scratch folder on this machine for what this folder is to receive."""
        return scratch_dir(Path(tempfile.gettempdir()))

    def publish(self, scratch: Path, *, point: str = "data") -> None:
        """Upload a finished file or folder from a `scratch_dir`, object by object; nothing names them yet."""
        hit(f"{point} written")
        if scratch.is_file():
            self._put(scratch)
        for part in sorted(scratch.rglob("*")):
            if part.is_file():
                (self / part.relative_to(scratch).as_posix())._put(part)
                hit(f"{point} flushed")
        hit(f"{point} renamed")

    def remove_stale_scratch(self) -> int:
        """Clear away what killed writes have left on this machine; return the number of what went."""
        return remove_stale_scratch(Path(tempfile.gettempdir()))

    def has_active_writer(self) -> bool:
        """Tell whether a living process writes into this folder: leases and the age of objects tell that."""
        return False

    def unlock(self) -> None:
        """Remove the locks of dead processes below this folder, where the store needs them."""
        for ticket in self.rglob("*.ticket"):
            ticket.remove_if(lambda content: not is_live(_holder(content)))
        for key, one in s3.entries(str(self), deep=True):
            old = one is not None and (datetime.now(UTC) - one.changed).total_seconds() > LOCK_TIMEOUT_S
            if old and _PROBE in key:
                s3.delete(str(S3Location(self.bucket, key)))

    def remove_if_empty(self) -> None:
        """Remove this folder if it is empty: a store has no folders."""

    def remove_tree(self, is_named: Callable[[], bool]) -> int | None:
        """Remove this folder with all it holds, unless it is named or young; return the bytes that went."""
        parts = [one for _, one in s3.entries(str(self), deep=True) if one is not None]
        young = any((datetime.now(UTC) - one.changed).total_seconds() < _YOUNG_S for one in parts)
        if young or is_named():
            return None
        # The item's own document first: what is half removed must not be listed as whole.
        for one in sorted(parts, key=lambda one: (one.key.count("/"), one.key)):
            s3.delete(str(S3Location(self.bucket, one.key)))
        return sum(one.size for one in parts)

    # -- one writer at a time ---------------------------------------------------------------------------

    def _has_conditions(self) -> bool:
        place = self.bucket, os.environ.get("AWS_ENDPOINT_URL", "")
        if place not in _CONDITIONS:
            _CONDITIONS[place] = _keeps_conditions(self.parent if self.suffix else self)
        return _CONDITIONS[place]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the right to replace a document, where the store cannot tell one version from another.

        Whoever wants it puts a ticket beside the document, then lists the tickets: alone, it is theirs; else
        they take theirs back and try again. Of two, the later one sees the other's.
        """
        if self._has_conditions():
            yield
            return
        folder = self.with_name(f".{self.name}.lock")
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            mine = folder / f"{uuid.uuid4().hex}.ticket"
            s3.put(str(mine), json.dumps(lease_terms(mine.name, LOCK_TIMEOUT_S)).encode())
            try:
                others = [ticket for ticket in folder.iterdir() if ticket != mine]
                if not any(ticket._stands() for ticket in others):
                    yield
                    return
            finally:
                s3.delete(str(mine))
            if time.monotonic() > deadline:
                raise held(str(self))
            time.sleep(random.uniform(0.02, 0.3))

    def _stands(self) -> bool:
        """Tell whether the process that put a ticket lives; take the ticket of a dead one away."""
        return self.is_file() and not self.remove_if(lambda content: not is_live(_holder(content)))


_PROBE = ".eoaug-probe-"
"""How the names of objects begin that are written to learn what a store can."""
_CONDITIONS: dict[tuple[str, str], bool] = {}
"""Whether a bucket's store has conditional writes, once it is known."""


def _keeps_conditions(folder: S3Location) -> bool:
    """Tell whether a store keeps to If-None-Match and If-Match, by trying: some take no notice of them."""
    probe = str(folder / f"{_PROBE}{uuid.uuid4().hex}")

    def refused(tag: str) -> bool:
        for _ in range(8):
            try:
                s3.put(probe, b"probe", instead_of=tag)
                return False
            except s3.ChangedError:
                return True
            except s3.StoreError as error:
                if isinstance(error, s3.UnsupportedError):
                    return False
                time.sleep(0.2)
        raise s3.StoreError(f"{probe!r}: the store breaks off.")

    try:
        s3.put(probe, b"probe")
        return refused("") and refused('"0123456789abcdef0123456789abcdef"')
    finally:
        with suppress(s3.StoreError):
            s3.delete(probe)


def _holder(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
