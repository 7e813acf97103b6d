"""A location on the local file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from eoaug.errors import TargetError
from eoaug.storage.atomic import atomic_write, commit, has_active_writer, remove_stale_scratch, scratch_dir
from eoaug.storage.location import Change
from eoaug.storage.locks import write_lock

__all__ = ["LocalLocation"]


class LocalLocation(Path):
    """A path with the methods of `Location`.

    `as_location` resolves what the user named; no link below it is followed, and no pipe is read.
    """

    def refuse_link(self) -> None:
        """Raise TargetError if the path leads through a link: what is in a catalog does not choose other files."""
        if os.path.realpath(self) != os.path.abspath(self):
            raise TargetError(
                f"{str(self)!r} leads through a link",
                "replace the link by the folder or file that it leads to",
            )

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """Open the file, not what a link leads to, nor a pipe."""
        self.refuse_link()
        if self.exists() and not self.is_file():
            raise OSError(22, "it is not a plain file")
        return super().open(mode, *args, **kwargs)

    def iterdir(self) -> Any:
        """Yield the content of the folder."""
        self.refuse_link()
        return super().iterdir()

    def glob(self, pattern: Any, **kwargs: Any) -> Any:
        """Yield the paths that match; links are not followed."""
        self.refuse_link()
        return super().glob(pattern, **kwargs)

    def rglob(self, pattern: Any, **kwargs: Any) -> Any:
        """Yield the paths below the folder that match; links are not followed."""
        self.refuse_link()
        return super().rglob(pattern, **kwargs)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.stat().st_size

    def check_writable(self) -> None:
        """Raise TargetError for a folder that cannot be written, before anything is computed."""
        folder = self
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise TargetError(
                f"cannot write to {str(folder)!r}: it is not a folder, or its permissions forbid it",
                "choose a folder that you may write",
            )

    def put(self, content: bytes) -> None:
        """Write or replace a document in one step."""
        self.refuse_link()
        with atomic_write(self, overwrite=True, point="document") as scratch:
            scratch.write_bytes(content)

    def edit(self, change: Change) -> bool:
        """Change a document while no other process can; return whether it was changed."""
        self.refuse_link()
        self.parent.mkdir(parents=True, exist_ok=True)
        with write_lock(self):
            content = change(self.read_bytes() if self.is_file() else None)
            if content is not None:
                self.put(content)
        return content is not None

    def remove_if(self, condition: Callable[[bytes], bool]) -> bool:
        """Remove a document if its content meets a condition; return whether it was removed."""
        self.refuse_link()
        with write_lock(self):
            matches = self.is_file() and condition(self.read_bytes())
            if matches:
                self.unlink(missing_ok=True)
        return matches

    def append(self, content: bytes) -> None:
        """Append to a log and flush it to disk."""
        self.refuse_link()
        self.parent.mkdir(parents=True, exist_ok=True)
        with self.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of the logs below this folder, ordered by file name."""
        if not self.is_dir():
            return
        for file in sorted(self.glob("*/*.jsonl"), key=lambda f: f.name):
            if not file.is_file() or file.is_symlink() or file.parent.is_symlink():
                continue  # eoaug writes plain files only
            yield str(file), file.read_bytes()

    def scratch_dir(self) -> AbstractContextManager[Path]:
        """Create a scratch folder for data that will be published to this folder."""
        self.refuse_link()
        return scratch_dir(self)

    def publish(self, scratch: Path, *, point: str = "data") -> None:
        """Move a complete file or folder from a `scratch_dir` to this path."""
        self.refuse_link()
        commit(scratch, self, point=point)

    def remove_stale_scratch(self) -> int:
        """Remove the scratch folders of killed processes from this folder; return their number."""
        self.refuse_link()
        return remove_stale_scratch(self)

    def has_active_writer(self) -> bool:
        """Return whether a running process writes into this folder."""
        return has_active_writer(self)

    def unlock(self, *names: str) -> None:
        """Remove the locks that dead processes have left of documents of these names in this folder."""
        for name in names:
            lock = self / f".{name}.lock"
            if lock.is_file() and not lock.is_symlink() and lock.stat().st_size == 0:
                with write_lock(self / name):
                    pass  # the holder removes the lock file when it releases the lock

    def remove_if_empty(self) -> None:
        """Remove this folder if it is empty."""
        with suppress(OSError):
            self.rmdir()

    def remove_tree(self, is_referenced: Callable[[], bool]) -> int | None:
        """Remove this folder and its content; return the bytes freed.

        Returns None, and keeps the folder, if ``is_referenced`` is true once nobody else can open the folder
        under its name.
        """
        self.refuse_link()
        with scratch_dir(self.parent) as scratch:
            moved = scratch / self.name
            self.rename(moved)
            if is_referenced():
                moved.rename(self)
                return None
            return sum(path.stat().st_size for path in moved.rglob("*") if path.is_file())
