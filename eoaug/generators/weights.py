"""Weights on disk: safetensors and their hash, nothing else.

Imports numpy and safetensors; no tensor library. No pickle is read, ever.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from eoaug.errors import GeneratorError

__all__ = ["load_weights", "save_weights", "sha256_of"]


def save_weights(path: str | Path, tensors: Mapping[str, NDArray[np.generic]], *, half: bool = True) -> str:
    """Write tensors as safetensors and return the file's sha256.

    Parameters
    ----------
    path
        File to write; replaced atomically.
    tensors
        Arrays by name.
    half
        Store floating-point tensors as float16.
    """
    path = Path(path)
    stored = {
        name: np.ascontiguousarray(array, np.float16 if half and array.dtype.kind == "f" else array.dtype)
        for name, array in tensors.items()
    }
    part = path.with_name(
        f"{path.name}.{os.getpid()}.part"
    )  # distributed training processes write the same file
    save_file(stored, part)
    part.chmod(0o644)  # the library makes it readable by the owner only
    part.replace(path)
    return sha256_of(path)


def load_weights(path: str | Path, *, sha256: str | None = None) -> dict[str, NDArray[np.generic]]:
    """Read a safetensors file; half-precision tensors come back as float32.

    Parameters
    ----------
    path
        Local file.
    sha256
        Expected hash; None: not checked.

    Raises
    ------
    GeneratorError
        The file is missing, damaged, or not the one expected.
    """
    path = Path(path)
    if not path.is_file():
        raise GeneratorError(
            f"loading weights: {path} does not exist", "reinstall the package, or pass the right path"
        )
    if sha256 is not None and (actual := sha256_of(path)) != sha256:
        raise GeneratorError(
            f"loading weights: {path.name} has sha256 {actual}, expected {sha256}",
            "get the file again, or correct the sha256 in config.json",
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise GeneratorError(
            f"loading weights: {path.name} is not a safetensors file ({error})", "get the file again"
        ) from error
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in tensors.items()
    }


def sha256_of(path: str | Path) -> str:
    """Return the file's sha256 as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
