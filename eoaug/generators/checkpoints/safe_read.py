"""Reads JSON and safetensors headers of untrusted checkpoints within limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from eoaug.errors import GeneratorError

__all__ = ["read_header", "read_json", "refuse"]


_REMOTE = frozenset({"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines"})
"""Keys by which a configuration asks a library to download and run code."""

_MOST_JSON = 32 * 2**20
"""Largest JSON file in bytes."""

_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Element types of weights; safetensors itself also reads complex, unsigned and quantised ones."""


def read_json(path: Path) -> dict[str, Any]:
    """Read an untrusted JSON object.

    Raises
    ------
    GeneratorError
        The file is too large, no JSON object, nested too deeply, or asks for remote code.
    """
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
    """Return type and shape of every tensor of a safetensors file, without reading any.

    safetensors checks the header: its size (at most 100 MB) and depth before and while it is parsed, that every
    tensor has the bytes of its shape and type, and that the tensors cover the file without overlap or gap.

    Raises
    ------
    GeneratorError
        The file is truncated or damaged, declares overlapping or huge tensors, or an element type of no weights.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            header = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        refuse(path, f"is no valid safetensors file ({error})")
    for name, (dtype, _) in header.items():
        if dtype not in _DTYPES:
            refuse(path, f"declares tensor {name!r} of type {dtype}")
    return header


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
