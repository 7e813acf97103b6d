"""The token of a request: the hash of everything that decides its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata as package_metadata
from typing import Any

import numpy as np

from eoaug.engine.inputs import Inputs
from eoaug.engine.plan import Plan, token_of
from eoaug.generators.base import identity_of

__all__ = ["token_for"]


def _version() -> str:
    try:
        return package_metadata.version("eoaug")
    except package_metadata.PackageNotFoundError:
        return "0"


def token_for(made: Plan, inputs: Inputs, parameters: Mapping[str, Any]) -> str:
    """Return the hash of everything that decides the pixels: inputs, parameters, model, version."""
    return token_of(
        {
            "version": _version(),
            "verb": made.verb,
            "generator": identity_of(made.generator),
            "parameters": parameters,
            "seed": made.seed,
            "members": made.members,
            "layers": [
                [a.name, a.slot, a.to_model.scale, a.to_model.offset, a.dtype, a.nodata] for a in made.layers
            ],
            "grid": [list(made.geobox.affine)[:6], list(made.geobox.shape.yx), str(made.geobox.crs)],
            "times": [made.in_times.tolist(), made.out_times.tolist(), made.dated],
            "cloud": made.cloud.tolist(),
            "inputs": _identity(inputs),
        }
    )


def _identity(inputs: Inputs) -> list[Any]:
    """Return what identifies the input's content: its bytes, or the name of the graph that reads it."""
    out: list[Any] = []
    for array in inputs.arrays():
        if not hasattr(array, "dask"):
            # Equal numbers count as equal in either byte order, and equal bytes do not.
            values = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            out.append(hashlib.sha256(values.view(np.uint8).reshape(-1)).hexdigest())
        else:
            # Lazy data: the graph's name is all there is. It never collides, but two sessions may name the
            # same data differently.
            out.append(array.name)
    return out
