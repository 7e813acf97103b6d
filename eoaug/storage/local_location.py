"""A location on this file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from eoaug.errors import TargetError
from eoaug.storage.atomic import atomic_write, commit, has_active_writer, remove_stale_scratch, scratch_dir
from eoaug.storage.location import Change
from eoaug.storage.locks import sole_writer

__all__ = ["LocalLocation"]


# -- folders --------------------------------------------------------------------------------------------


class LocalLocation(Path):
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
        with atomic_write(self, overwrite=True, point="document") as scratch:
            scratch.write_bytes(content)

    def edit(self, change: Change) -> bool:
        """Change a document against no other process; tell whether it was."""
        self.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(self):
            after = change(self.read_bytes() if self.is_file() else None)
            if after is not None:
                self.put(after)
        return after is not None

    def remove_if(self, wanted: Callable[[bytes], bool]) -> bool:
        """Remove a document if it is the one that is meant; tell whether it was."""
        with sole_writer(self):
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

    def scratch_dir(self) -> AbstractContextManager[Path]:
        """Give a scratch folder for what this folder is to receive."""
        return scratch_dir(self)

    def publish(self, scratch: Path, *, point: str = "data") -> None:
        """Take over a finished file or folder from a `scratch_dir`."""
        commit(scratch, self, point=point)

    def remove_stale_scratch(self) -> int:
        """Clear away what killed writes have left in this folder; return the number of what went."""
        return remove_stale_scratch(self)

    def has_active_writer(self) -> bool:
        """Tell whether a living process writes into this folder."""
        return has_active_writer(self)

    def unlock(self) -> None:
        """Remove the locks of dead processes below this folder."""
        for lock in [path for path in self.rglob(".*.lock") if path.is_file()]:
            with sole_writer(lock.with_name(lock.name[1:].removesuffix(".lock"))):
                pass  # whoever lets go of a lock removes its file

    def remove_if_empty(self) -> None:
        """Remove this folder if it is empty."""
        with suppress(OSError):
            self.rmdir()

    def remove_tree(self, is_named: Callable[[], bool]) -> int | None:
        """Remove this folder with all it holds, unless it is named by then; return the bytes that went."""
        with scratch_dir(self.parent) as room:
            aside = room / self.name
            self.rename(aside)
            if is_named():
                aside.rename(self)
                return None
            return sum(part.stat().st_size for part in aside.rglob("*") if part.is_file())
