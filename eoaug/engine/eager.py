"""Running a plan here and now: all chunks in a loop, forwards side by side; and what a graph of chunks shares with it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.blending import Mapper
from eoaug.engine.chunk import run_chunk
from eoaug.engine.inputs import Inputs, dtypes_of, indices_of, input_windows, turns, ways
from eoaug.engine.plan import Plan
from eoaug.progress import Progress, ProgressCounter, track

__all__ = ["compute", "own_heap"]


def compute(plan: Plan, inputs: Inputs, *, progress: Progress = None) -> dict[str, NDArray[Any]]:
    """Run a plan here and now on NumPy inputs; forwards run side by side on all cores.

    Returns
    -------
    By layer name (and ``synthetic``), shape ([member,] T, Y, X).
    """
    by_step = progress == "steps"
    parts = [turn for way in ways(plan) for _, turn in turns(way)] if plan.sequence else [plan]
    units = sum(_units(part, index, by_step=by_step) for part in parts for index in indices_of(part))
    with (
        own_heap(),
        _pool() as mapper,
        track(units, what=plan.verb, unit="step" if by_step else "tile", progress=progress) as seen,
    ):
        return (_in_turn if plan.sequence else _computed)(plan, inputs, mapper=mapper, seen=seen)


def _computed(
    plan: Plan, inputs: Inputs, *, mapper: Mapper, seen: ProgressCounter
) -> dict[str, NDArray[Any]]:
    """Return all pixels of a plan, chunk after chunk."""
    draws = plan.members if plan.members is not None and plan.reduce is None else None
    shape = ((draws,) if draws else ()) + tuple(int(sum(c)) for c in plan.chunks)
    out = {name: np.empty(shape, dtype) for name, dtype in dtypes_of(plan).items()}
    arrays = inputs.arrays()
    for index in indices_of(plan):
        member, t, y, x = index
        cut = [
            array[dates.start : dates.stop, w.top : w.bottom, w.left : w.right]
            for array, (dates, w) in zip(arrays, input_windows(plan, inputs, index), strict=True)
        ]
        chunk = run_chunk(plan, index, cut, mapper, seen)
        seen.settle(_units(plan, index, by_step=seen.by_step))
        core = plan.core(y, x).within(plan.scene)
        span = plan.dates(t)
        lead = (member,) if draws else ()
        for name, values in chunk.items():
            out[name][(*lead, slice(span.start, span.stop), *core)] = values
    return out


def _in_turn(plan: Plan, inputs: Inputs, *, mapper: Mapper, seen: ProgressCounter) -> dict[str, NDArray[Any]]:
    """Make a sequence: every new date is an input of those after it, as if it had been given."""
    found = []
    for way in ways(plan):
        made: dict[int, dict[str, NDArray[Any]]] = {}
        for there, turn in turns(way):
            if made:
                bands = (np.concatenate([made[time][layer.name] for time in there]) for layer in plan.layers)
                arrays = replace(inputs, bands=tuple(bands))
            else:
                arrays = inputs
            images = _computed(turn, arrays, mapper=mapper, seen=seen)
            for i, time in enumerate(turn.out_times.tolist()):
                made[time] = {name: image[i : i + 1] for name, image in images.items()}
        found.append({name: np.concatenate([made[time][name] for time in sorted(made)]) for name in images})
    if plan.members is None:
        return found[0]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


@contextmanager
def _pool() -> Iterator[Mapper]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        yield map
        return
    with ThreadPoolExecutor(cores, thread_name_prefix="eoaug") as pool:

        def ahead(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
            """Yield results in order; one item more than there are cores is handed out."""
            waiting: deque[Future[Any]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield ahead


_DASKS_TRIM = "65536"
"""What dask's nannies set ``MALLOC_TRIM_THRESHOLD_`` to."""


@contextmanager
def own_heap() -> Iterator[None]:
    """Hand memory back to the system after the work and not during it, in a worker of dask.

    Its nannies have malloc hand back every array that is freed, and glibc then maps the next one anew: a
    third of a worker's time went into page faults. A user's other setting is left alone.
    """
    libc = _keeping_libc() if os.environ.get("MALLOC_TRIM_THRESHOLD_") == _DASKS_TRIM else None
    try:
        yield
    finally:
        if libc is not None:
            libc.malloc_trim(0)


@cache
def _keeping_libc() -> Any:
    """Return this process's C library, told to keep memory; None if it cannot be told (not glibc)."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return None
    mmap_threshold, trim_threshold = -3, -1
    # What glibc comes to by itself where nobody sets anything.
    libc.mallopt(mmap_threshold, 2**25)
    libc.mallopt(trim_threshold, 2**26)
    return libc


def _units(plan: Plan, index: tuple[int, int, int, int], *, by_step: bool) -> int:
    """Return the tiles of a chunk, or their denoising steps."""
    _, t, y, x = index
    core = plan.core(y, x)
    images = sum(map(plan.made, plan.dates(t)))
    draws = plan.members if plan.members is not None and plan.reduce is not None else 1
    return (plan.tile_steps(core) if by_step else len(plan.tiles(core)[0])) * images * draws
