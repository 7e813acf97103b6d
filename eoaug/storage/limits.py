"""How large an input may be; anything larger is refused before it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eoaug.errors import SourceError, first_line

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """The largest inputs that are read: JSON documents, rasters, addresses."""

    json_bytes: int = 128 * 2**20
    """Size of one JSON document."""
    json_depth: int = 64
    """Nested objects and lists."""
    json_values: int = 10_000_000
    """Values of one document: each needs more memory than its text."""
    links: int = 200_000
    """Links of one document."""
    assets: int = 5_000
    """Assets of one item."""
    documents: int = 5_000_000
    """Documents read from one source."""
    pixels: int = 2**34
    """Pixels of one band, a square of 131,072."""
    bands: int = 1_024
    """Bands of one file, and of one item."""
    block_bytes: int = 2**29
    """Bytes of one decoded block: what a reader must hold to see a single pixel."""
    small_bytes: int = 2**30
    """Bytes of a decoded raster up to which the compression ratio is not checked."""
    ratio: int = 1_000
    """Decoded over stored bytes of larger rasters; deflate reaches at most 1,032 : 1."""
    url_chars: int = 8_192
    """Length of an address."""
    redirects: int = 5
    """Redirects followed for one address."""
    timeout_s: float = 30.0
    """Longest wait for a host to answer."""

    def parse_json(self, data: bytes, *, what: str) -> dict[str, Any]:
        """Return the JSON object that bytes encode.

        Parameters
        ----------
        data
            UTF-8.
        what
            Which document, for the message.

        Raises
        ------
        SourceError
            The bytes are not a JSON object, or exceed a limit.
        """
        remedy = "correct the document; until then open other items by their own files, or run a job, which skips this one"
        if len(data) > self.json_bytes:
            raise SourceError(f"{what} is larger than {self.json_bytes} bytes", remedy)
        values = data.count(b",") + data.count(b"{") + data.count(b"[")
        if values > self.json_values:
            raise SourceError(f"{what} holds about {values} values; the limit is {self.json_values}", remedy)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{what} is not valid JSON: {first_line(error)}", remedy) from error
        if not isinstance(document, dict):
            raise SourceError(f"{what} is a {type(document).__name__}, not a STAC object", remedy)
        for name, most in (("links", self.links), ("assets", self.assets)):
            count = len(document[name]) if isinstance(document.get(name), list | dict) else 0
            if count > most:
                raise SourceError(f"{what} has {count} {name}; the limit is {most}", remedy)
        if data.count(b"{") + data.count(b"[") > self.json_depth and _depth(document) > self.json_depth:
            raise SourceError(f"{what} nests more than {self.json_depth} objects", remedy)
        return document

    def check_raster(
        self,
        what: str,
        *,
        shape_yx: tuple[int, int],
        bands: int = 1,
        itemsize: int = 1,
        block_yx: tuple[int, int] = (1, 1),
        stored_bytes: int | None = None,
    ) -> None:
        """Refuse an implausibly large raster (decompression bomb).

        Parameters
        ----------
        what
            Which raster, for the message.
        shape_yx, bands, itemsize
            Rows and columns, number of bands, bytes of a pixel.
        block_yx
            Rows and columns that are decoded together.
        stored_bytes
            Size of the file, if known.

        Raises
        ------
        SourceError
            The raster exceeds a limit.
        """
        plain = math.prod(shape_yx) * bands * itemsize
        block = math.prod(block_yx) * bands * itemsize
        remedy = "leave the item out with ids=; if the file is intact, rewrite it as a tiled COG"
        size = f"{bands} bands of {shape_yx[0]} x {shape_yx[1]} pixels"
        if min(shape_yx) < 1 or bands < 1:
            raise SourceError(f"{what} has {size}", remedy)
        if math.prod(shape_yx) > self.pixels or bands > self.bands:
            raise SourceError(
                f"{what} has {size}; the limit is {self.bands} bands of {self.pixels} pixels", remedy
            )
        if block > self.block_bytes:
            raise SourceError(f"{what} has blocks of {block} bytes; the limit is {self.block_bytes}", remedy)
        if stored_bytes is not None and plain > self.small_bytes and plain > self.ratio * stored_bytes:
            raise SourceError(
                f"{what} decodes to {plain} bytes from a file of {stored_bytes} bytes, a ratio above {self.ratio} : 1",
                remedy,
            )


def _depth(document: Any) -> int:
    """Return how deeply objects and lists are nested; iterative, since a recursion would overflow."""
    deepest, pending = 0, [(document, 1)]
    while pending:
        value, depth = pending.pop()
        deepest = max(deepest, depth)
        pending += [(inner, depth + 1) for inner in _containers(value)]
    return deepest


def _containers(value: Any) -> Iterator[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (inner for inner in inside if isinstance(inner, dict | list))
