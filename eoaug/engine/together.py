"""Many small images at once: their tiles go through the generator in common batches.

A chip is one tile, and a generator pads a batch that is not full; so chip after chip costs a batch each.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.blending import TileRequest, merge, pooled_tiles
from eoaug.engine.chunk import chunk_images, estimate_of, requests_of
from eoaug.engine.inputs import Inputs, indices_of, input_windows
from eoaug.engine.plan import Plan
from eoaug.engine.tile_requests import ChunkDate

__all__ = ["can_be_pooled", "compute_together"]


def can_be_pooled(plan: Plan) -> bool:
    """Return whether a plan is of one tile in one chunk, with nothing made before something else."""
    sampling = plan.sampling
    return (
        plan.grid.one_tile
        and sampling.members is None
        and not (sampling.uncertainty or sampling.class_map or plan.calendar.autoregressive)
        and all(len(sizes) == 1 for sizes in plan.chunking.lengths)
    )


def compute_together(plans: Sequence[tuple[Plan, Inputs]]) -> list[dict[str, NDArray[Any]]]:
    """Run plans with one generator on NumPy inputs; each result is that of `eoaug.engine.eager.compute`.

    Parameters
    ----------
    plans
        Those that `can_be_pooled`.
    """
    out: list[dict[str, NDArray[Any]]] = [{} for _ in plans]
    running = [_images(plan, inputs) for plan, inputs in plans]
    estimates: dict[int, NDArray[np.floating[Any]] | None] = dict.fromkeys(range(len(plans)))
    while estimates:
        chunks: dict[int, ChunkDate] = {}
        for at, estimate in estimates.items():
            try:
                chunks[at] = running[at].send(estimate)
            except StopIteration as end:
                out[at] = end.value
        estimates = _estimates(chunks)
    return out


def _images(plan: Plan, inputs: Inputs) -> Generator[ChunkDate, Any, dict[str, NDArray[Any]]]:
    (index,) = indices_of(plan)
    cut = [
        np.asarray(array[dates.start : dates.stop, w.top : w.bottom, w.left : w.right])
        for array, (dates, w) in zip(inputs.arrays(), input_windows(plan, inputs, index), strict=True)
    ]
    return chunk_images(plan, index, cut)


def _estimates(chunks: dict[int, ChunkDate]) -> dict[int, NDArray[np.floating[Any]] | None]:
    """Return the estimates of one date of every image; None for those with nothing to fill."""
    out: dict[int, NDArray[np.floating[Any]] | None] = dict.fromkeys(chunks)
    requests: dict[int, TileRequest] = {}
    for at, chunk in chunks.items():
        core = chunk.plan.core(0, 0)
        for request in requests_of(chunk, chunk.plan.sampling.first_member, core):
            requests[at] = request
    made = pooled_tiles([chunks[at].plan for at in requests], list(requests.values()))
    for at, pair in zip(requests, made, strict=True):
        chunk = chunks[at]
        core = chunk.plan.core(0, 0)
        out[at] = estimate_of(chunk, merge(chunk.plan, [pair], chunk.plan.grid.region(core)), core)
    return out
