"""Files that are read in ranges: one content, judged when it was opened, and any number of readers of it."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from eoaug.storage.http import Part

__all__ = ["RangeFile"]


_BLOCK = 2**16
"""Bytes that are read and kept together; the header of a COG fits into one."""
_KEPT = 256
"""Blocks that are kept in memory, 16 MB: a raster is opened again for every chunk, and its header need not come again."""


class RangeFile(io.RawIOBase):
    """A seekable file whose content comes in ranges; every copy of it that GDAL opens reads the same content.

    Parameters
    ----------
    fetch
        Returns the bytes from start to stop, fewer at the end of the file; may raise OSError.
    path
        Its address, for the blocks that are kept.
    """

    NAME = "content"
    """The only name that `open` knows."""

    def __init__(self, fetch: Callable[[int, int], Part], path: str, first: Part | None = None) -> None:
        super().__init__()
        self._fetch, self.path = fetch, path
        self._first = fetch(0, _BLOCK) if first is None else first
        self._at = 0
        self.error: OSError | None = None
        """Why a range could not be read: GDAL reports only that one was short."""
        self._copies: list[RangeFile] = []
        self._keep(0, self._first.data)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._first.size

    def open(self, path: str, mode: str = "rb") -> RangeFile:
        """Return another reader of the same content; GDAL asks for side-car files too, which there are not."""
        if path.rpartition("/")[2] != self.NAME or mode.strip("b") != "r":
            raise FileNotFoundError(2, "no such file")
        copy = RangeFile(self._fetch, self.path, self._first)
        self._copies.append(copy)
        return copy

    def check(self) -> None:
        """Raise the error that a reader of the file met, if there was one."""
        for file in (self, *self._copies):
            if file.error is not None:
                raise file.error

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position, as of any file."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; nothing after an error, which `check` raises."""
        stop = self.size if size is None or size < 0 else min(self._at + size, self.size)
        if stop <= self._at:
            return b""
        try:
            data = self._bytes(self._at, stop)
        except OSError as error:
            self.error = error
            return b""
        self._at = stop
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes; raise what `read` only keeps."""
        data = self.read(len(buffer))
        if self.error is not None:
            raise self.error
        buffer[: len(data)] = data
        return len(data)

    def _bytes(self, start: int, stop: int) -> bytes:
        """Return a range from the blocks that are kept, and those that are not with one request."""
        numbers = range(start // _BLOCK, -(-stop // _BLOCK))
        blocks = {number: _kept.get((self.path, self._first.version, number)) for number in numbers}
        missing = [number for number, block in blocks.items() if block is None]
        if missing:
            first, last = missing[0] * _BLOCK, min((missing[-1] + 1) * _BLOCK, self.size)
            part = self._fetch(first, last)
            if (part.version, part.size) != (self._first.version, self.size):
                raise OSError("it was changed while it was read")
            blocks |= self._keep(missing[0], part.data)
        whole = b"".join(blocks[number] or b"" for number in numbers)
        start -= numbers[0] * _BLOCK
        return whole[start : start + stop - numbers[0] * _BLOCK - start]

    def _keep(self, number: int, data: bytes) -> dict[int, bytes | None]:
        blocks = {number + k: data[k * _BLOCK : (k + 1) * _BLOCK] for k in range(-(-len(data) // _BLOCK))}
        with _lock:
            for k, block in list(blocks.items())[-_KEPT:]:
                _kept[self.path, self._first.version, k] = block
                _kept.move_to_end((self.path, self._first.version, k))
            while len(_kept) > _KEPT:
                _kept.popitem(last=False)
        return dict(blocks)


_kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
_lock = threading.Lock()
