"""Reads JSON and safetensors headers of untrusted checkpoints within limits."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from eoaug.errors import GeneratorError

__all__ = ["read_header", "read_json", "refuse"]


_REMOTE = frozenset({"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines"})

_MOST_JSON = 32 * 2**20
_MOST_HEADER = 100 * 2**20
_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a stranger: bounded in size, depth and numbers, and without remote code."""
    if path.stat().st_size > _MOST_JSON:
        refuse(path, f"holds {path.stat().st_size:,} bytes of JSON, more than {_MOST_JSON:,}")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        refuse(path, f"is no JSON text ({type(error).__name__}: {error})")
    if not isinstance(read, dict):
        refuse(path, f"holds a {type(read).__name__}, not an object")
    for key in _keys(read):
        if key in _REMOTE:
            refuse(path, f"asks for remote code ({key!r})")
    return read


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of every tensor of a safetensors file, checked against the file's length.

    Raises
    ------
    GeneratorError
        Truncated or damaged file, overlapping or huge tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(_MOST_HEADER, size - 8):
            refuse(path, f"declares a header of {length:,} bytes in a file of {size:,}")
        try:
            raw = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            refuse(path, f"has a header that is no JSON text ({type(error).__name__})")
    if not isinstance(raw, dict):
        refuse(path, f"has a header that is a {type(raw).__name__}")
    found, spans = {}, []
    for name, entry in raw.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
            wide = math.prod(shape) * _BYTES[dtype]
        except (KeyError, TypeError, ValueError):
            refuse(path, f"describes tensor {name!r} as {str(entry)[:80]}")
        if min((0, *shape)) < 0 or end - begin != wide or not 0 <= begin <= end <= size - 8 - length:
            refuse(
                path,
                f"declares tensor {name!r} of shape {list(shape)} at bytes {begin}-{end}, which a file of {size:,} "
                "bytes does not hold",
            )
        found[name] = (dtype, shape)
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            refuse(path, f"has tensors that overlap or leave a hole at byte {at}")
        at = end
    if at != size - 8 - length:
        refuse(path, f"holds {size - 8 - length - at:,} bytes beyond its tensors")
    return found


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def refuse(
    path: Path, why: str, remedy: str = "do not use this folder; get it from a source you trust"
) -> NoReturn:
    """Raise the error for a file of a checkpoint."""
    raise GeneratorError(f"checkpoint: {path} {why}", remedy)
