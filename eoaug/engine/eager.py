"""Running a plan at once in this process: chunk after chunk, forwards side by side on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.blending import Execution, Mapper
from eoaug.engine.chunk import run_chunk
from eoaug.engine.heap import retained_heap
from eoaug.engine.inputs import Inputs, date_steps, dtypes_of, indices_of, input_windows, member_plans
from eoaug.engine.plan import Plan
from eoaug.engine.values import ChunkIndex
from eoaug.progress import Progress, track

__all__ = ["compute"]


def compute(plan: Plan, inputs: Inputs, *, progress: Progress = None) -> dict[str, NDArray[Any]]:
    """Run a plan on NumPy inputs; forwards run side by side on all cores.

    Returns
    -------
    By layer name (and ``synthetic``), shape ([member,] T, Y, X).
    """
    by_step = progress == "steps"
    autoregressive = plan.calendar.autoregressive
    steps = [plan]
    if autoregressive:
        steps = [step for member in member_plans(plan) for _, step in date_steps(member)]
    units = sum(_units(step, index, by_step=by_step) for step in steps for index in indices_of(step))
    with (
        retained_heap(),
        _pool() as mapper,
        track(units, what=plan.verb, unit="step" if by_step else "tile", progress=progress) as counter,
    ):
        run = _autoregressive if autoregressive else _computed
        return run(plan, inputs, Execution(mapper, counter))


def _computed(plan: Plan, inputs: Inputs, execution: Execution) -> dict[str, NDArray[Any]]:
    """Return all pixels of a plan, chunk after chunk."""
    members = plan.sampling.result_members
    shape = ((members,) if members else ()) + tuple(map(sum, plan.chunking.lengths))
    out = {name: np.empty(shape, dtype) for name, dtype in dtypes_of(plan).items()}
    arrays = inputs.arrays()
    for index in indices_of(plan):
        member, t, y, x = index
        cut = [
            array[dates.start : dates.stop, w.top : w.bottom, w.left : w.right]
            for array, (dates, w) in zip(arrays, input_windows(plan, inputs, index), strict=True)
        ]
        chunk = run_chunk(plan, index, cut, execution)
        execution.progress.settle(_units(plan, index, by_step=execution.progress.by_step))
        core = plan.core(y, x).within(plan.grid.scene)
        span = plan.chunking.dates(t)
        lead = (member,) if members else ()
        for name, values in chunk.items():
            out[name][(*lead, slice(span.start, span.stop), *core)] = values
    return out


def _autoregressive(plan: Plan, inputs: Inputs, execution: Execution) -> dict[str, NDArray[Any]]:
    """Generate date after date: every new date is an input of those after it, as if it had been given."""
    members = []
    for member in member_plans(plan):
        done: dict[int, dict[str, NDArray[Any]]] = {}
        for available, step in date_steps(member):
            step_inputs = inputs
            if done:
                bands = (
                    np.concatenate([done[time][layer.name] for time in available])
                    for layer in plan.bands.layers
                )
                step_inputs = replace(inputs, bands=tuple(bands))
            images = _computed(step, step_inputs, execution)
            for i, time in enumerate(step.calendar.out_times.tolist()):
                done[time] = {name: image[i : i + 1] for name, image in images.items()}
        members.append({name: np.concatenate([done[time][name] for time in sorted(done)]) for name in images})
    if plan.sampling.members is None:
        return members[0]
    return {name: np.stack([images[name] for images in members]) for name in members[0]}


@contextmanager
def _pool() -> Iterator[Mapper]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        yield map
        return
    with ThreadPoolExecutor(cores, thread_name_prefix="eoaug") as pool:

        def ahead(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
            """Yield results in order; one more item than there are cores is in flight."""
            waiting: deque[Future[Any]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield ahead


def _units(plan: Plan, index: ChunkIndex, *, by_step: bool) -> int:
    """Return the tiles of a chunk, or their denoising steps."""
    member, t, y, x = index
    core = plan.core(y, x)
    images = sum(map(plan.generates, plan.chunking.dates(t))) * len(plan.sampling.members_of(member))
    return (plan.tile_steps(core) if by_step else len(plan.tiles(core)[0])) * images
