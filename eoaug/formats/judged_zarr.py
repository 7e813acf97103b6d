"""Zarr groups of others: judged by their metadata before Zarr sees them, and read only as they were judged.

`judged_store` reads the metadata documents itself, within limits, and refuses what could run code or use memory without
bound. Zarr then gets a store that holds these very documents, the chunks of these arrays, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eoaug.errors import SourceError
from eoaug.formats.icechunk import last_commit
from eoaug.storage.access import AccessPolicy
from eoaug.storage.http import StatusError
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import is_object, open_store, parse

__all__ = ["ArrayForm", "JudgedStore", "arrays_in", "judged_store"]


_CODECS = {"bytes", "transpose", "zstd", "gzip", "blosc", "crc32c", "sharding_indexed", "vlen-utf8"}
_CODECS_V2 = {"zstd", "gzip", "zlib", "blosc", "lz4", "shuffle", "delta", "fixedscaleoffset", "bitround", "quantize", "vlen-utf8"}  # fmt: skip
_TEXT_BYTES = 64
"""What a text is taken to need."""
_INDEX_BYTES = 2**26
"""Largest index of a shard."""
_SLACK_BYTES = 2**16
"""What a stored chunk may have more than a decoded one: headers, checksums."""
_ZSTD = b"\x28\xb5\x2f\xfd"
_DOCUMENT = "zarr.json"


@dataclass(frozen=True)
class ArrayForm:
    """What the metadata of an array say about memory."""

    chunk_bytes: int
    """Of one decoded chunk: what a reader must hold to see a single pixel."""
    stored_bytes: int
    """Most bytes of one object of the store: a chunk, or a shard of them."""
    codecs: frozenset[str]


def judged_store(
    href: str,
    form: str,
    access: AccessPolicy,
    names: Sequence[str],
    *,
    what: str,
    old: bool = False,
) -> JudgedStore:
    """Return a store with the asked arrays of a group, and with what locates them.

    Parameters
    ----------
    href
        The group, as `AccessPolicy.resolve` returned it.
    form
        ``zarr`` or ``icechunk``.
    access
        What may be read.
    names
        The arrays; the arrays of their dimensions and of their grid come with them, where there are any.
    what
        Which group, for messages.
    old
        Whether Zarr v2 is read too.

    Raises
    ------
    SourceError
        The group is of another version, has a codec that is not known, or is implausibly large.
    """
    judge = _MetadataJudge(_inner_store(href, form, access, what), access, what, href)
    judge.group(old=old)
    for name in names:
        judge.array(name)
    return JudgedStore(judge.inner, dict(judge.documents), dict(judge.forms), what)


def arrays_in(folder: str) -> list[str]:
    """Return the names of the arrays of a group in a local folder."""
    kinds = (_DOCUMENT, ".zarray")
    return sorted(
        entry.name
        for entry in Path(folder).iterdir()
        if entry.is_dir() and any((entry / kind).is_file() for kind in kinds) and _is_array(entry)
    )


def _is_array(folder: Path) -> bool:
    return (folder / ".zarray").is_file() or b'"array"' in (folder / _DOCUMENT).read_bytes()[: 2**20]


def _inner_store(href: str, form: str, access: AccessPolicy, what: str) -> Store:
    if form == "icechunk":
        if "://" in href and not is_object(href):
            raise SourceError(
                f"{clean_href(href)!r} is an Icechunk repository behind a URL, which is not read",
                "copy it to a folder or an object store, or leave the item out with ids=",
            )
        return last_commit(href)  # type: ignore[no-any-return]
    if is_object(href):
        from zarr.storage import ObjectStore

        bucket, key = parse(href)
        return ObjectStore(open_store(bucket, key), read_only=True)
    if "://" not in href:  # a link inside of the group that leads out of it is refused when it is opened
        access = replace(access, roots=(href,))
    return _GroupFiles(href, access, what)


class _MetadataJudge:
    """Reads the metadata of a group, and refuses what must not be opened."""

    def __init__(self, inner: Store, access: AccessPolicy, what: str, href: str) -> None:
        self.inner, self._limits, self._what, self._href = inner, access.limits, what, href
        self.documents: dict[str, bytes] = {}
        self.forms: dict[str, ArrayForm] = {}

    def group(self, *, old: bool) -> None:
        """Judge the document of the group itself."""
        document = self._document(_DOCUMENT)
        if document is None:
            if not (old and self._document(".zgroup") is not None):
                raise self._refused("it is no group of Zarr v3", "store it as Zarr v3")
            self._keep(".zgroup", {"zarr_format": 2})
            self._keep(".zattrs", self._document(".zattrs") or {})
            return
        if document.get("zarr_format") != 3 or document.get("node_type") != "group":
            raise self._refused("it is no group of Zarr v3", "store it as Zarr v3")
        # Consolidated metadata would stand in for the documents of the arrays, which are judged.
        self._keep(_DOCUMENT, {key: document[key] for key in ("zarr_format", "node_type", "attributes") if key in document})  # fmt: skip

    def array(self, name: str, *, needed: bool = True) -> None:
        """Judge an array, and the arrays of its dimensions and of its grid."""
        if name in self.forms or name in ("", ".", "..") or "/" in name or "\\" in name or "\x00" in name:
            return
        of, old = f"array {name!r}", ".zgroup" in self.documents
        document = self._document(f"{name}/{'.zarray' if old else _DOCUMENT}")
        if document is None:
            return
        attrs: Any
        if old:
            attrs = self._document(f"{name}/.zattrs") or {}
            form, dims = self._form_v2(document, of), attrs.get("_ARRAY_DIMENSIONS")
            self._keep(f"{name}/.zattrs", attrs)
        else:
            if document.get("zarr_format") != 3 or document.get("node_type") != "array":
                raise self._refused(f"{of} is not of Zarr v3", "store it as Zarr v3")
            attrs = document.get("attributes") or {}
            form, dims = self._form(document, of), document.get("dimension_names")
        if not needed and math.prod(document["shape"]) * _TEXT_BYTES > self._limits.block_bytes:
            raise self._refused(f"{of} has {document['shape']} values, which are read at once", "shorten it")
        self._keep(f"{name}/{'.zarray' if old else _DOCUMENT}", document)
        self.forms[name] = form
        mapping = attrs.get("grid_mapping") if isinstance(attrs, Mapping) else None
        for other in [*(dims if isinstance(dims, list) else ()), *str(mapping or "").split()]:
            if isinstance(other, str) and needed:
                self.array(other.rstrip(":"), needed=False)

    # -- documents ------------------------------------------------------------------------------------

    def _document(self, key: str) -> dict[str, Any] | None:
        buffer = sync(self.inner.get(key, default_buffer_prototype()))
        if buffer is None:
            return None
        return self._limits.parse_json(buffer.to_bytes(), what=f"{key!r} of {self._what}")

    def _keep(self, key: str, document: Mapping[str, Any]) -> None:
        self.documents[key] = json.dumps(document).encode()

    def _refused(self, problem: str, remedy: str) -> SourceError:
        return SourceError(
            f"{self._what}: {problem}",
            f"{remedy}, or, if you trust it, open it yourself, e.g. xr.open_zarr({clean_href(self._href)!r})",
        )

    # -- sizes ----------------------------------------------------------------------------------------

    def _form(self, document: Mapping[str, Any], of: str) -> ArrayForm:
        shape = self._shape(document.get("shape"), of, least=0)
        grid = document.get("chunk_grid")
        if not isinstance(grid, Mapping) or grid.get("name") != "regular":
            raise self._refused(f"{of} has no regular chunks", "store it with regular chunks")
        chunk = self._shape((grid.get("configuration") or {}).get("chunk_shape"), of, least=1)
        if len(chunk) != len(shape):
            raise self._refused(
                f"{of} has {len(shape)} dimensions and chunks of {len(chunk)}", "store it again"
            )
        item = self._item_bytes(document.get("data_type"), of)
        names: set[str] = set()
        inner = self._inner_chunk(document.get("codecs"), chunk, names, of)
        return self._sized(of, shape, inner, item, math.prod(chunk) * item, names)

    def _form_v2(self, document: Mapping[str, Any], of: str) -> ArrayForm:
        import numpy as np

        shape = self._shape(document.get("shape"), of, least=0)
        chunk = self._shape(document.get("chunks"), of, least=1)
        used = [document.get("compressor"), *(document.get("filters") or ())]
        names = {str(codec.get("id")) for codec in used if isinstance(codec, Mapping)}
        if unknown := sorted(names - _CODECS_V2):
            raise self._refused(f"{of} has the codec {unknown[0]!r}, which is not read", "store it with zstd")
        dtype = document.get("dtype")
        if not isinstance(dtype, str) or (dtype == "|O" and "vlen-utf8" not in names):
            raise self._refused(f"{of} has the data type {str(dtype)[:80]!r}", "store it as numbers")
        item = _TEXT_BYTES if dtype == "|O" else np.dtype(dtype).itemsize
        return self._sized(of, shape, chunk, item, math.prod(chunk) * item, names)

    def _sized(
        self, of: str, shape: Sequence[int], chunk: Sequence[int], item: int, outer: int, names: Iterable[str]
    ) -> ArrayForm:
        inner = math.prod(chunk) * item
        edges = (1, 1, *shape)[-2:] if shape else (1, 1)
        block = (
            ((1, 1, *chunk)[-2:] if chunk else (1, 1)) if inner <= self._limits.block_bytes else (1, inner)
        )
        self._limits.check_raster(
            f"{of} of {self._what}",
            shape_yx=(max(1, edges[0]), max(1, edges[1])),
            itemsize=item if block[0] != 1 or block[1] != inner else 1,
            block_yx=(block[0], block[1]),
        )
        if outer > 16 * self._limits.block_bytes:
            raise self._refused(f"{of} has shards of {outer} bytes", "store it with smaller shards")
        return ArrayForm(inner, outer + outer // 8 + _SLACK_BYTES, frozenset(names))

    def _inner_chunk(self, codecs: Any, chunk: list[int], names: set[str], of: str) -> list[int]:
        """Return the shape of the chunks inside of shards, if there are any, and collect the names of the codecs."""
        if not isinstance(codecs, list) or not all(isinstance(codec, str | Mapping) for codec in codecs):
            raise self._refused(f"{of} declares no codecs", "store it again")
        for codec in codecs:
            name = codec if isinstance(codec, str) else str(codec.get("name"))
            if name not in _CODECS:
                raise self._refused(f"{of} has the codec {name!r}, which is not read", "store it with zstd")
            names.add(name)
            if name == "sharding_indexed":
                options = codec.get("configuration") if isinstance(codec, Mapping) else None
                options = options if isinstance(options, Mapping) else {}
                inner = self._shape(options.get("chunk_shape"), of, least=1)
                if (
                    len(inner) != len(chunk)
                    or 16 * math.prod(chunk) // max(1, math.prod(inner)) > _INDEX_BYTES
                ):
                    raise self._refused(
                        f"{of} has shards {chunk} of chunks {inner}", "store it with larger chunks"
                    )
                self._inner_chunk(options.get("index_codecs"), [], names, of)
                return self._inner_chunk(options.get("codecs"), inner, names, of)
        return chunk

    def _shape(self, value: Any, of: str, *, least: int) -> list[int]:
        if (
            not isinstance(value, list)
            or len(value) > 16
            or not all(isinstance(n, int) and not isinstance(n, bool) and least <= n < 2**48 for n in value)
        ):
            raise self._refused(f"{of} has the shape or chunks {str(value)[:80]}", "store it again")
        return value

    def _item_bytes(self, dtype: Any, of: str) -> int:
        import numpy as np

        options: Any = {}
        if isinstance(dtype, Mapping):
            options, dtype = dtype.get("configuration") or {}, dtype.get("name")
        if dtype in ("string", "numpy.datetime64", "numpy.timedelta64"):
            return _TEXT_BYTES if dtype == "string" else 8
        if dtype in ("fixed_length_utf32", "null_terminated_bytes"):
            length = options.get("length_bytes") if isinstance(options, Mapping) else None
            if isinstance(length, int) and 0 < length < 2**20:
                return length
        known = [
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
        ]
        if dtype in known:
            return int(np.dtype(str(dtype)).itemsize)
        raise self._refused(f"{of} has the data type {str(dtype)[:80]!r}", "store it as numbers")


class _ReadOnly(Store):
    """What all stores here have in common: nothing is written."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self) -> None:
        super().__init__(read_only=True)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return ranges of values."""
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        return await self.get(key, default_buffer_prototype()) is not None

    async def set(self, key: str, value: Any) -> None:
        """Refuse."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise NotImplementedError

    def list(self) -> AsyncIterator[str]:
        """Yield nothing: what is not asked for is not read."""
        return _iterated(())

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield nothing."""
        del prefix
        return _iterated(())

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield nothing."""
        del prefix
        return _iterated(())


async def _iterated(values: Iterable[str]) -> AsyncIterator[str]:
    for value in values:
        yield value


class _GroupFiles(_ReadOnly):
    """The files of a group in a folder or behind a URL, each opened through the access policy."""

    def __init__(self, href: str, access: AccessPolicy, what: str) -> None:
        super().__init__()
        self._href, self._access, self._what = href.rstrip("/"), access, what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _GroupFiles) and (self._href, self._access) == (other._href, other._access)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return a file, or a range of it; None if there is none."""
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _read(self, key: str, wanted: Any) -> bytes | None:
        if "://" not in self._href:
            path = os.path.join(self._href, *key.split("/"))
            if not os.path.lexists(path):
                return None
            with self._access.open(path, what=self._what) as file:
                return _ranged(file, os.fstat(file.fileno()).st_size, wanted, self._access.limits.block_bytes)
        try:
            return self._fetched(f"{self._href}/{quote(key)}", wanted)
        except StatusError as error:
            if error.status in (403, 404, 410):  # object stores answer 403 where nothing may be listed
                return None
            raise

    def _fetched(self, url: str, wanted: Any) -> bytes:
        limits = self._access.limits
        with self._access.session(self._what, retries=3) as session:
            if wanted is None:
                return session.read(url, most=limits.block_bytes, timeout_s=limits.timeout_s)
            if isinstance(wanted, RangeByteRequest):
                start, stop = wanted.start, wanted.end
            else:
                size = session.read_range(url, 0, 1, most=limits.json_bytes, timeout_s=limits.timeout_s).size
                start = (
                    wanted.offset if isinstance(wanted, OffsetByteRequest) else max(0, size - wanted.suffix)
                )
                stop = size
            return session.read_range(
                url, start, stop, most=limits.json_bytes, timeout_s=limits.timeout_s
            ).data


def _ranged(file: Any, size: int, wanted: Any, most: int) -> bytes:
    start, stop = 0, size
    if isinstance(wanted, RangeByteRequest):
        start, stop = wanted.start, min(wanted.end, size)
    elif isinstance(wanted, OffsetByteRequest):
        start = wanted.offset
    elif wanted is not None:
        start = max(0, size - wanted.suffix)
    if stop - start > 17 * most:
        raise OSError(f"a file of {size} bytes is larger than its metadata allow")
    file.seek(start)
    return bytes(file.read(max(0, stop - start)))


class JudgedStore(_ReadOnly):
    """The documents that were judged, and the chunks of their arrays."""

    def __init__(
        self, inner: Store, documents: dict[str, bytes], forms: dict[str, ArrayForm], what: str
    ) -> None:
        super().__init__()
        self._inner, self._documents, self.forms, self._what = inner, documents, forms, what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JudgedStore) and (self._inner, self._documents) == (other._inner, other._documents)  # fmt: skip

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return a judged document, or a chunk whose header does not contradict it."""
        if key in self._documents:
            return prototype.buffer.from_bytes(self._documents[key])
        name, _, rest = key.partition("/")
        form = self.forms.get(name)
        if form is None or rest.rpartition("/")[2] in (_DOCUMENT, ".zarray", ".zattrs", ".zgroup"):
            return None
        value = await self._inner.get(key, prototype, byte_range)
        if value is not None:
            self._check(key, value, form)
        return value

    def _check(self, key: str, value: Any, form: ArrayForm) -> None:
        """Refuse a chunk that would decode to more than its metadata say."""
        head = value[:18].to_bytes()
        decoded = _decoded_bytes(head, len(value), form.codecs)
        if len(value) > form.stored_bytes or decoded > form.chunk_bytes + _SLACK_BYTES:
            raise SourceError(
                f"{self._what}: chunk {key!r} decodes to {decoded} bytes from {len(value)}, its metadata say "
                f"{form.chunk_bytes}",
                "leave the item out with ids=; if the group is intact, store it again",
            )

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of the group's documents and arrays."""
        if prefix.strip("/"):
            return _iterated(())
        return _iterated([*(key for key in self._documents if "/" not in key), *self.forms])


def _decoded_bytes(head: bytes, stored: int, codecs: Iterable[str]) -> int:
    """Return the size that the header of a compressed chunk declares; 0 if it declares none."""
    if "zstd" in codecs and head.startswith(_ZSTD) and len(head) >= 14:
        flags = head[4]
        single, kind = bool(flags & 32), flags >> 6
        at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
        width = (1 if single else 0, 2, 4, 8)[kind]
        size = int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
        return size if width else stored * 2**15  # zstd's highest ratio
    if "blosc" in codecs and len(head) >= 16 and abs(int.from_bytes(head[12:16], "little") - stored) <= 8:
        return int.from_bytes(head[4:8], "little")
    return 0
