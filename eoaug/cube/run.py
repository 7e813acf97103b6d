"""Running a plan: all chunks in a loop here, or as a dask graph anywhere.

dask is imported in `build` only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.chunk import SYNTHETIC, Mapper, run_chunk
from eoaug.cube.plan import Plan
from eoaug.cube.progress import Progress, Watch, watch
from eoaug.cube.scene import date_range
from eoaug.tiles import Window

__all__ = ["Inputs", "build", "compute"]


@dataclass(frozen=True)
class Inputs:
    """The source arrays of a plan, NumPy or dask, in (time, y, x) order on the input's grid."""

    bands: tuple[Any, ...] = ()
    """One array per layer of the plan, stored numbers."""
    mask: Any = None
    """Shape (Tin, Y, X), bool: what to fill (plan.fill == "mask")."""
    layout: Any = None
    """Shape (K, Y, X), float32, on the result's grid."""

    def arrays(self) -> list[Any]:
        """Return all arrays in a fixed order."""
        return [*self.bands, *(a for a in (self.mask, self.layout) if a is not None)]


def _layout_bounds(plan: Plan, core: Window) -> Window:
    reach = plan.reach(core)
    top, left = plan.origin
    return Window(reach.top - top, reach.left - left, reach.bottom - top, reach.right - left)


def input_windows(plan: Plan, inputs: Inputs, index: tuple[int, int, int, int]) -> list[tuple[range, Window]]:
    """Return (dates, window) of every input array that a chunk needs, in `Inputs.arrays` order."""
    _, t, y, x = index
    core = plan.core(y, x)
    dates, window = date_range(plan, t), plan.source_window(plan.reach(core))
    needs = [(dates, window)] * (len(inputs.bands) + (inputs.mask is not None))
    if inputs.layout is not None:
        needs.append((range(inputs.layout.shape[0]), _layout_bounds(plan, core)))
    return needs


def _indices(plan: Plan) -> Iterator[tuple[int, int, int, int]]:
    members = plan.members if plan.members is not None and plan.reduce is None else 1
    for member in range(members):
        for t in range(len(plan.chunks[0])):
            for y in range(len(plan.chunks[1])):
                for x in range(len(plan.chunks[2])):
                    yield member, t, y, x


def _dtypes(plan: Plan) -> dict[str, np.dtype[Any]]:
    return {layer.name: plan.dtype_of(layer) for layer in plan.layers} | {SYNTHETIC: np.dtype(np.uint8)}


def compute(plan: Plan, inputs: Inputs, *, progress: Progress = None) -> dict[str, NDArray[Any]]:
    """Run a plan here and now on NumPy inputs; forwards run side by side on all cores.

    Returns
    -------
    By layer name (and ``synthetic``), shape ([member,] T, Y, X).
    """
    by_step = progress == "steps"
    parts = [part for _, part in _turns(plan)] if plan.sequence else [plan]
    units = sum(_units(part, index, by_step=by_step) for part in parts for index in _indices(part))
    with (
        _own_heap(),
        _pool() as mapper,
        watch(units, what=plan.verb, unit="step" if by_step else "tile", progress=progress) as seen,
    ):
        run = partial(_computed, mapper=mapper, seen=seen)
        return _in_turn(plan, inputs, run, np) if plan.sequence else run(plan, inputs)


def _computed(plan: Plan, inputs: Inputs, *, mapper: Mapper, seen: Watch) -> dict[str, NDArray[Any]]:
    """Return all pixels of a plan, chunk after chunk."""
    draws = plan.members if plan.members is not None and plan.reduce is None else None
    shape = ((draws,) if draws else ()) + tuple(int(sum(c)) for c in plan.chunks)
    out = {name: np.empty(shape, dtype) for name, dtype in _dtypes(plan).items()}
    arrays = inputs.arrays()
    for index in _indices(plan):
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


def _turns(plan: Plan) -> Iterator[tuple[list[int], Plan]]:
    """Yield the turns of a sequence: the dates that are there, and the plan of those to make of them.

    The first hands the given dates through, each of the others makes one new date.
    """
    there = plan.in_times.tolist()
    yield there, plan.turn(there, there)
    for date in plan.new_dates:
        yield there, plan.turn(there, [date])
        there = sorted([*there, date])


def _in_turn(
    plan: Plan, inputs: Inputs, run: Callable[[Plan, Inputs], Mapping[str, Any]], arrays: Any
) -> dict[str, Any]:
    """Make a sequence: every new date is an input of those after it, as if it had been given.

    Parameters
    ----------
    plan, inputs
        The sequence, and what is given of it. Every member goes its own way.
    run
        What makes the plan of one turn.
    arrays
        NumPy or dask.array.
    """
    if plan.members is not None:
        alone = [replace(plan, members=None, first_member=member) for member in range(plan.members)]
        ways = [_in_turn(one, inputs, run, arrays) for one in alone]
        return {name: arrays.stack([way[name] for way in ways]) for name in ways[0]}
    made: dict[int, dict[str, Any]] = {}
    for there, turn in _turns(plan):
        if made:
            bands = (arrays.concatenate([made[time][layer.name] for time in there]) for layer in plan.layers)
            inputs = replace(inputs, bands=tuple(bands))
        found = run(turn, inputs)
        for i, time in enumerate(turn.out_times.tolist()):
            made[time] = {name: array[i : i + 1] for name, array in found.items()}
    return {name: arrays.concatenate([made[time][name] for time in sorted(made)]) for name in found}


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
def _own_heap() -> Iterator[None]:
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


# -- everything later, anywhere -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocks:
    """Where the blocks of a dask array lie, so that a task can put its pieces together."""

    name: str
    dtype: str
    edges: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, array: Any) -> _Blocks:
        t, y, x = (tuple(int(v) for v in np.cumsum((0, *sizes))) for sizes in array.chunks)
        return cls(array.name, str(array.dtype), (t, y, x))

    def needed(self, dates: range, window: Window) -> list[tuple[int, int, int]]:
        """Return the indices of the blocks that hold part of ``window`` on ``dates``."""
        spans = ((dates.start, dates.stop), (window.top, window.bottom), (window.left, window.right))
        picks = []
        for edges, (start, stop) in zip(self.edges, spans, strict=True):
            first = int(np.searchsorted(edges, start, side="right")) - 1
            last = int(np.searchsorted(edges, stop, side="left"))
            picks.append(range(first, last) if stop > start else range(0))
        return [(t, y, x) for t in picks[0] for y in picks[1] for x in picks[2]]

    def gather(self, blocks: Sequence[NDArray[Any]], dates: range, window: Window) -> NDArray[Any]:
        """Return the pixels of ``window`` on ``dates`` from the blocks of `needed`, in its order."""
        start = (dates.start, window.top, window.left)
        shape = (len(dates), *window.shape)
        out = np.empty(shape, np.dtype(self.dtype))
        for index, block in zip(self.needed(dates, window), blocks, strict=True):
            to, at = [], []
            for axis, i in enumerate(index):
                low = max(self.edges[axis][i], start[axis])
                high = min(self.edges[axis][i + 1], start[axis] + shape[axis])
                to.append(slice(low - start[axis], high - start[axis]))
                at.append(slice(low - self.edges[axis][i], high - self.edges[axis][i]))
            out[tuple(to)] = block[tuple(at)]
        return out


@dataclass(frozen=True)
class _Job:
    """What all tasks of a graph share: the plan and where its inputs' blocks lie."""

    plan: Plan
    sources: tuple[_Blocks, ...]
    inputs: Inputs
    """Without arrays: only what is there and of which shape."""


@dataclass(frozen=True)
class _Stub:
    shape: tuple[int, ...]


def _run_blocks(
    job: _Job, index: tuple[int, int, int, int], blocks: list[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    arrays = []
    at = 0
    for source, (dates, window) in zip(job.sources, input_windows(job.plan, job.inputs, index), strict=True):
        count = len(source.needed(dates, window))
        arrays.append(source.gather(blocks[at : at + count], dates, window))
        at += count
    with _own_heap():
        return run_chunk(job.plan, index, arrays)


def _pick(chunk: Mapping[str, NDArray[Any]], name: str, member: bool) -> NDArray[Any]:
    return chunk[name][None] if member else chunk[name]


def build(plan: Plan, inputs: Inputs) -> dict[str, Any]:
    """Return the result as dask arrays, by layer name (and ``synthetic``), without computing anything.

    One task makes a chunk of all variables, one more per variable picks its part. A task refers to the
    input blocks within its reach; the graph holds the plan once and never the weights.
    """
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph
    from dask.task_spec import DataNode, List, Task, TaskRef

    if plan.sequence:
        lead = () if plan.members is None else ((1,) * plan.members,)
        made = _in_turn(plan, inputs, build, da)
        return {name: array.rechunk(lead + plan.chunks) for name, array in made.items()}
    arrays: list[Any] = [
        a if isinstance(a, da.Array) else da.from_array(a, chunks=_source_chunks(plan, a))
        for a in inputs.arrays()
    ]
    sources = tuple(_Blocks.of(a) for a in arrays)
    bare = Inputs(
        bands=tuple(_Stub(a.shape) for a in inputs.bands),
        mask=None if inputs.mask is None else _Stub(inputs.mask.shape),
        layout=None if inputs.layout is None else _Stub(inputs.layout.shape),
    )
    # The inputs' own graph is part of the name: two lazy cubes with equal tokens may differ.
    token = _name(plan, sources)
    job_key, run = f"eoaug-plan-{token}", f"eoaug-{plan.verb}-{token}"
    tasks: dict[Any, Any] = {job_key: DataNode(job_key, _Job(plan, sources, bare))}
    for index in _indices(plan):
        refs = [
            TaskRef((source.name, *block))
            for source, (dates, window) in zip(sources, input_windows(plan, bare, index), strict=True)
            for block in source.needed(dates, window)
        ]
        chunk_key = (run, *index)
        tasks[chunk_key] = Task(chunk_key, _run_blocks, TaskRef(job_key), index, List(*refs))
    graph = HighLevelGraph.from_collections(run, tasks, dependencies=arrays)
    draws = plan.members if plan.members is not None and plan.reduce is None else None
    chunks = (((1,) * draws,) if draws else ()) + plan.chunks
    out = {}
    for name, dtype in _dtypes(plan).items():
        label = f"eoaug-{name}-{token}"
        picks: dict[Any, Any] = {}
        for index in _indices(plan):
            key: tuple[Any, ...] = (label, *index) if draws else (label, *index[1:])
            picks[key] = Task(key, _pick, TaskRef((run, *index)), name, bool(draws))
        layers = HighLevelGraph({**graph.layers, label: picks}, {**graph.dependencies, label: {run}})
        out[name] = da.Array(layers, label, chunks, dtype=dtype)
    return out


def _name(plan: Plan, sources: tuple[_Blocks, ...]) -> str:
    from dask.base import tokenize

    return str(tokenize(plan.token, plan.chunks, plan.batch_tiles, [s.name for s in sources]))


def _source_chunks(plan: Plan, array: Any) -> tuple[int, int, int]:
    rows, cols = (max(max(c) // plan.factor, 1) for c in plan.chunks[1:])
    return (array.shape[0], rows, cols)
