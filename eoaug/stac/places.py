"""Where catalogs are kept: one seam over folders and object stores.

A `Place` is a file or folder there. Reading follows ``pathlib``; writing has verbs of its own, each of which
leaves what was there, or all of what is new: `put` a document, `edit` it against no other process, `receive`
finished data. On a file system that is a rename, on an object store one request.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import json
import os
import posixpath
import random
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, Literal, Protocol, Self, cast

from eoaug import objects
from eoaug.cube.write import alive, busy, finished, machine, room_in, settle, sweep
from eoaug.errors import TargetError
from eoaug.faults import reach

__all__ = ["FilePlace", "ObjectPlace", "Place", "lives", "place_of", "relative", "terms"]

_LOCK_TIMEOUT_S = 60.0
"""A document is locked for milliseconds; who waits that long waits for a process that hangs."""
_YOUNG_S = 3600.0
"""Objects that are younger are no garbage: who has put them may not have named them yet."""

Change = Callable[[bytes | None], bytes | None]
"""What to make of a document, None for one that is not there; returns None to leave it as it is."""


class Place(Protocol):
    """A file or folder, wherever it is kept: `FilePlace` or `ObjectPlace`, which tell what the verbs do."""

    # Reading, as `pathlib` does it.
    @property
    def name(self) -> str: ...
    @property
    def stem(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def parent(self) -> Self: ...
    @property
    def parents(self) -> Sequence[Any]: ...
    @property
    def size(self) -> int: ...
    def __truediv__(self, other: str, /) -> Self: ...
    def __lt__(self, other: Any, /) -> bool: ...
    def __hash__(self) -> int: ...
    def resolve(self) -> Self: ...
    def relative_to(self, other: Any, /) -> PurePath: ...
    def as_posix(self) -> str: ...
    def is_file(self) -> bool: ...
    def is_dir(self) -> bool: ...
    def exists(self) -> bool: ...
    def read_bytes(self) -> bytes: ...
    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...
    def iterdir(self) -> Iterator[Self]: ...
    def glob(self, pattern: str, /) -> Iterator[Self]: ...
    def rglob(self, pattern: str, /) -> Iterator[Self]: ...

    # Writing.
    def check_writable(self) -> None: ...
    def put(self, content: bytes) -> None: ...
    def edit(self, change: Change) -> bool: ...
    def drop(self, wanted: Callable[[bytes], bool]) -> bool: ...
    def append(self, content: bytes) -> None: ...
    def logs(self) -> Iterator[tuple[str, bytes]]: ...
    def room(self) -> AbstractContextManager[Path]: ...
    def receive(self, scratch: Path, *, point: str = "data") -> None: ...
    def sweep(self) -> int: ...
    def is_busy(self) -> bool: ...
    def unlock(self) -> None: ...
    def tidy(self) -> None: ...
    def discard(self, is_named: Callable[[], bool]) -> int | None: ...


def place_of(text: str | os.PathLike[str] | Place) -> Place:
    """Return the place that a user named: ``s3://bucket/prefix``, or a path.

    Raises
    ------
    ParameterError
        An address of an object that is none.
    """
    if isinstance(text, FilePlace | ObjectPlace):
        return text
    told = os.fspath(cast("str | os.PathLike[str]", text))
    if objects.is_object(told):
        return ObjectPlace(*objects.parse(told))
    if "://" in told:
        raise TargetError(
            f"{told.partition('?')[0]!r} is no place to write to.", "Give a folder, or s3://bucket/prefix."
        )
    return FilePlace(told).expanduser()


# -- folders --------------------------------------------------------------------------------------------


class FilePlace(Path):
    """A path of a file system, with the verbs of places."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stat().st_size

    def check_writable(self) -> None:
        """Refuse a folder that cannot be written, before anything is computed."""
        place = self
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise TargetError(
                f"cannot write to {str(place)!r}: no permission, or no folder.",
                "Choose a folder that you may write.",
            )

    def put(self, content: bytes) -> None:
        """Put a document in the place of another in one step."""
        with finished(self, overwrite=True, point="document") as scratch:
            scratch.write_bytes(content)

    def edit(self, change: Change) -> bool:
        """Change a document against no other process; tell whether it was."""
        self.parent.mkdir(parents=True, exist_ok=True)
        with _sole_writer(self):
            after = change(self.read_bytes() if self.is_file() else None)
            if after is not None:
                self.put(after)
        return after is not None

    def drop(self, wanted: Callable[[bytes], bool]) -> bool:
        """Remove a document if it is the one that is meant; tell whether it was."""
        with _sole_writer(self):
            meant = self.is_file() and wanted(self.read_bytes())
            if meant:
                self.unlink(missing_ok=True)
        return meant

    def append(self, content: bytes) -> None:
        """Add to a log, and flush it to disk."""
        self.parent.mkdir(parents=True, exist_ok=True)
        with self.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of the logs below this folder, by the names of the files."""
        for file in sorted(self.glob("*/*.jsonl"), key=lambda f: f.name):
            yield str(file), file.read_bytes()

    def room(self) -> AbstractContextManager[Path]:
        """Give a scratch folder for what this folder is to receive."""
        return room_in(self)

    def receive(self, scratch: Path, *, point: str = "data") -> None:
        """Take over a finished file or folder from a `room`."""
        settle(scratch, self, point=point)

    def sweep(self) -> int:
        """Clear away what killed writes have left in this folder; return the number of what went."""
        return sweep(self)

    def is_busy(self) -> bool:
        """Tell whether a living process writes into this folder."""
        return busy(self)

    def unlock(self) -> None:
        """Remove the locks of dead processes below this folder."""
        for lock in [path for path in self.rglob(".*.lock") if path.is_file()]:
            with _sole_writer(lock.with_name(lock.name[1:].removesuffix(".lock"))):
                pass  # whoever lets go of a lock removes its file

    def tidy(self) -> None:
        """Remove this folder if it is empty."""
        with suppress(OSError):
            self.rmdir()

    def discard(self, is_named: Callable[[], bool]) -> int | None:
        """Remove this folder with all it holds, unless it is named by then; return the bytes that went."""
        with room_in(self.parent) as room:
            aside = room / self.name
            self.rename(aside)
            if is_named():
                aside.rename(self)
                return None
            return sum(part.stat().st_size for part in aside.rglob("*") if part.is_file())


@contextmanager
def _sole_writer(file: Path) -> Iterator[None]:
    """Hold the right to replace a document; a process that dies lets go of it.

    The system keeps the lock, not the file's presence, so none is ever stale.
    """
    lock = file.with_name(f".{file.name}.lock")
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        # Whoever lets go removes the file: a lock on a removed one excludes nobody.
        if _try_lock(handle, file) and _is_same(handle, lock):
            break
        os.close(handle)
        if time.monotonic() > deadline:
            raise _held(str(file))
        time.sleep(0.01)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def _held(file: str) -> TargetError:
    return TargetError(
        f"another process holds {file!r} for more than {_LOCK_TIMEOUT_S:g} s.",
        "Look for a process that hangs while it writes to this catalog, and write again.",
    )


def _try_lock(handle: int, file: Path) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        warnings.warn(
            f"the file system of {str(file)!r} has no locks: write to this catalog from one process at a time",
            stacklevel=2,
        )
    return True


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


# -- object stores --------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class ObjectPlace:
    """An object, or the objects that begin alike; holds no credentials, so it may travel with tasks."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, other: str | PurePosixPath) -> ObjectPlace:
        key = posixpath.normpath(posixpath.join("/", self.key, str(other)))
        return ObjectPlace(self.bucket, key.strip("/"))

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
    def parent(self) -> ObjectPlace:
        """The folder that holds it; a bucket is its own."""
        return ObjectPlace(self.bucket, posixpath.dirname(self.key))

    @property
    def parents(self) -> tuple[ObjectPlace, ...]:
        """All folders that hold it, the nearest first."""
        return (self.parent, *self.parent.parents) if self.key else ()

    @property
    def size(self) -> int:
        """Bytes."""
        return objects.head(str(self)).size

    def resolve(self) -> ObjectPlace:
        """Return itself: stores have no links."""
        return self

    def with_name(self, name: str) -> ObjectPlace:
        """Return its neighbour of that name."""
        return self.parent / name

    def relative_to(self, other: ObjectPlace) -> PurePosixPath:
        """Return the path from ``other`` down to it."""
        return PurePosixPath(self.key).relative_to(other.key)

    def as_posix(self) -> str:
        """Return its address."""
        return str(self)

    def is_file(self) -> bool:
        """Tell whether there is an object of that name."""
        try:
            objects.head(str(self))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether there are objects below it."""
        return next(iter(objects.entries(str(self), deep=False)), None) is not None

    def exists(self) -> bool:
        """Tell whether it is one or the other."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return its content."""
        return objects.read(str(self))[0]

    def open(self, mode: str = "rb") -> io.BytesIO:
        """Return its content as a file."""
        assert mode == "rb"
        return io.BytesIO(self.read_bytes())

    def iterdir(self) -> Iterator[ObjectPlace]:
        """Yield what is right below it."""
        return (ObjectPlace(self.bucket, key) for key, _ in objects.entries(str(self), deep=False))

    def rglob(self, pattern: str) -> Iterator[ObjectPlace]:
        """Yield the objects below it whose name fits."""
        found = (ObjectPlace(self.bucket, key) for key, _ in objects.entries(str(self), deep=True))
        return (place for place in found if fnmatch.fnmatchcase(place.name, pattern))

    def glob(self, pattern: str) -> Iterator[ObjectPlace]:
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
        reach("document written")
        self._put(content)
        reach("document flushed")
        reach("document renamed")

    def _put(self, content: bytes | Path) -> None:
        objects.put(str(self), content)

    def edit(self, change: Change) -> bool:
        """Change a document against no other process; tell whether it was.

        An answer may be lost after the store has done what was asked. So whatever a conditional write says,
        the document is looked at again: it is ours, or another's that our change goes on top of.
        """
        tried: list[bytes] = []
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
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
                    reach("document written")
                    objects.put(str(self), after, instead_of=tag if self._has_conditions() else None)
                reach("document flushed")
                reach("document renamed")
                return True
            except objects.ChangedError as error:
                if time.monotonic() > deadline:
                    raise _held(str(self)) from error
            except objects.StoreError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.01, 0.1))

    def _version(self) -> tuple[bytes | None, str]:
        try:
            return objects.read(str(self))
        except FileNotFoundError:
            return None, ""

    def drop(self, wanted: Callable[[bytes], bool]) -> bool:
        """Remove a document if it is the one that is meant; tell whether it was."""
        try:
            meant = wanted(self.read_bytes())
        except FileNotFoundError:
            return False
        if meant:
            objects.delete(str(self))
        return meant

    def append(self, content: bytes) -> None:
        """Add to a log: a store cannot, so every part is an object of its own."""
        (self / f"{time.time_ns():020d}")._put(content)

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Yield address and content of the logs below this folder, by their names."""
        found: dict[ObjectPlace, list[ObjectPlace]] = {}
        for part in self.rglob("*"):
            found.setdefault(part.parent, []).append(part)
        for log in sorted(found, key=lambda place: place.name):
            yield str(log), b"".join(part.read_bytes() for part in sorted(found[log]))

    def room(self) -> AbstractContextManager[Path]:
        """Give a scratch folder on this machine for what this folder is to receive."""
        return room_in(Path(tempfile.gettempdir()))

    def receive(self, scratch: Path, *, point: str = "data") -> None:
        """Upload a finished file or folder from a `room`, object by object; nothing names them yet."""
        reach(f"{point} written")
        if scratch.is_file():
            self._put(scratch)
        for part in sorted(scratch.rglob("*")):
            if part.is_file():
                (self / part.relative_to(scratch).as_posix())._put(part)
                reach(f"{point} flushed")
        reach(f"{point} renamed")

    def sweep(self) -> int:
        """Clear away what killed writes have left on this machine; return the number of what went."""
        return sweep(Path(tempfile.gettempdir()))

    def is_busy(self) -> bool:
        """Tell whether a living process writes into this folder: leases and the age of objects tell that."""
        return False

    def unlock(self) -> None:
        """Remove the locks of dead processes below this folder, where the store needs them."""
        for ticket in self.rglob("*.ticket"):
            ticket.drop(lambda content: not lives(_holder(content)))
        for key, one in objects.entries(str(self), deep=True):
            old = one is not None and (datetime.now(UTC) - one.changed).total_seconds() > _LOCK_TIMEOUT_S
            if old and _PROBE in key:
                objects.delete(str(ObjectPlace(self.bucket, key)))

    def tidy(self) -> None:
        """Remove this folder if it is empty: a store has no folders."""

    def discard(self, is_named: Callable[[], bool]) -> int | None:
        """Remove this folder with all it holds, unless it is named or young; return the bytes that went."""
        parts = [one for _, one in objects.entries(str(self), deep=True) if one is not None]
        young = any((datetime.now(UTC) - one.changed).total_seconds() < _YOUNG_S for one in parts)
        if young or is_named():
            return None
        # The item's own document first: what is half removed must not be listed as whole.
        for one in sorted(parts, key=lambda one: (one.key.count("/"), one.key)):
            objects.delete(str(ObjectPlace(self.bucket, one.key)))
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
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            mine = folder / f"{uuid.uuid4().hex}.ticket"
            objects.put(str(mine), json.dumps(terms(mine.name, _LOCK_TIMEOUT_S)).encode())
            try:
                others = [ticket for ticket in folder.iterdir() if ticket != mine]
                if not any(ticket._stands() for ticket in others):
                    yield
                    return
            finally:
                objects.delete(str(mine))
            if time.monotonic() > deadline:
                raise _held(str(self))
            time.sleep(random.uniform(0.02, 0.3))

    def _stands(self) -> bool:
        """Tell whether the process that put a ticket lives; take the ticket of a dead one away."""
        return self.is_file() and not self.drop(lambda content: not lives(_holder(content)))


_PROBE = ".eoaug-probe-"
"""How the names of objects begin that are written to learn what a store can."""
_CONDITIONS: dict[tuple[str, str], bool] = {}
"""Whether a bucket's store has conditional writes, once it is known."""


def _keeps_conditions(folder: ObjectPlace) -> bool:
    """Tell whether a store keeps to If-None-Match and If-Match, by trying: some take no notice of them."""
    probe = str(folder / f"{_PROBE}{uuid.uuid4().hex}")

    def refused(tag: str) -> bool:
        for _ in range(8):
            try:
                objects.put(probe, b"probe", instead_of=tag)
                return False
            except objects.ChangedError:
                return True
            except objects.StoreError as error:
                if isinstance(error, objects.UnsupportedError):
                    return False
                time.sleep(0.2)
        raise objects.StoreError(f"{probe!r}: the store breaks off.")

    try:
        objects.put(probe, b"probe")
        return refused("") and refused('"0123456789abcdef0123456789abcdef"')
    finally:
        with suppress(objects.StoreError):
            objects.delete(probe)


# -- what both share ------------------------------------------------------------------------------------


def relative(target: Place, home: Place) -> str:
    """Return the path to ``target`` as seen from the folder ``home``, with slashes."""
    if isinstance(target, ObjectPlace):
        inside = isinstance(home, ObjectPlace) and target.bucket == home.bucket
        return posixpath.relpath("/" + target.key, "/" + home.key) if inside else str(target)  # type: ignore[attr-defined]
    if isinstance(home, ObjectPlace):
        return Path(str(target)).resolve().as_uri()
    return Path(os.path.relpath(str(target.resolve()), str(home.resolve()))).as_posix()


def terms(owner: str, seconds: float) -> dict[str, Any]:
    """Return what a process says of itself where it claims something for some time."""
    me = os.getpid()
    return {
        "owner": owner,
        "machine": machine(),
        "process": me,
        "begun": _begun(me),
        "until": time.time() + seconds,
    }


def lives(holder: Mapping[str, Any]) -> bool:
    """Tell whether a claim still holds."""
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


def _holder(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
