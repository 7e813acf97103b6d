"""What a corruption would cost, without computing a pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from eoaug.corruptions.corrupt import corrupt
from eoaug.engine.explain import Explanation

__all__ = ["cost_of"]

_COPIES = 6
"""Images in float64 that a band of a chunk is at most held in."""


def cost_of(cube: Any, kind: str, **arguments: Any) -> Explanation:
    """Return the cost of corrupting a lazy Dataset; arguments as for `corrupt`.

    Raises
    ------
    EoaugError
        The arguments do not fit the cube.
    """
    result = corrupt(cube, kind, **arguments)
    arrays = [var for var in result.data_vars.values() if var.chunks]
    chunks = math.prod(len(sizes) for sizes in arrays[0].chunks) if arrays else 1
    largest = max((math.prod(max(s) for s in var.chunks[-2:]) for var in arrays), default=0)
    return Explanation(
        title=f"corrupt {kind}",
        chunks=chunks,
        tiles=0,
        model_calls=0,
        overlap_factor=1.0,
        output_bytes=int(result.nbytes),
        peak_bytes=int(largest * np.dtype(np.float64).itemsize * _COPIES * max(len(arrays), 1)),
    )
