"""The token of a request: the hash of everything that decides its pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata as package_metadata
from typing import Any

import numpy as np

from eoaug.engine.inputs import Inputs
from eoaug.engine.plan import Plan
from eoaug.errors import ParameterError
from eoaug.generators.identity import identity_of

__all__ = ["content_of", "token_for", "version"]


def token_for(plan: Plan, inputs: Inputs, parameters: Mapping[str, Any]) -> str:
    """Return the hash of inputs, parameters, model and version, as 64 hexadecimal digits.

    Raises
    ------
    ParameterError
        A parameter has no JSON form.
    """
    grid, calendar = plan.grid, plan.calendar
    decisive = {
        "version": version(),
        "verb": plan.verb,
        "generator": identity_of(plan.generator),
        "parameters": parameters,
        "seed": plan.sampling.seed,
        "members": plan.sampling.members,
        "layers": [
            [layer.name, layer.slot, *layer.to_model.numbers, layer.dtype, layer.nodata]
            for layer in plan.bands.layers
        ],
        "grid": [list(grid.geobox.affine)[:6], list(grid.geobox.shape.yx), str(grid.geobox.crs)],
        "times": [calendar.in_times.tolist(), calendar.out_times.tolist(), calendar.dated],
        "cloud": calendar.cloud.tolist(),
        "inputs": content_of(inputs.arrays()),
    }
    try:
        text = json.dumps(decisive, sort_keys=True, allow_nan=True, default=str)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the parameters cannot be hashed: {error}", "use plain values") from error
    return hashlib.sha256(text.encode()).hexdigest()


@cache  # parsing the package metadata takes milliseconds
def version() -> str:
    """Return the version of eoaug."""
    try:
        return package_metadata.version("eoaug")
    except package_metadata.PackageNotFoundError:
        return "0"


def content_of(arrays: Iterable[Any]) -> list[Any]:
    """Return what identifies the content of arrays: a hash of the bytes, or the name of the graph that reads it."""
    out: list[Any] = []
    for array in arrays:
        if not hasattr(array, "dask"):
            # Equal numbers count as equal in either byte order.
            values = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            out.append(hashlib.sha256(values.view(np.uint8).reshape(-1)).hexdigest())
        else:
            # The name of a lazy array's graph is all there is. It never collides, but two sessions may name
            # the same data differently.
            out.append(array.name)
    return out
