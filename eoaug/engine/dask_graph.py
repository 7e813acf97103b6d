"""A plan as lazy dask arrays.

Imports dask; the package's root does not import this module.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask import config
from dask.base import compute, tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, List, Task, TaskRef
from numpy.typing import NDArray

from eoaug.engine.chunk import run_chunk
from eoaug.engine.coverage import KnownProbe
from eoaug.engine.heap import retained_heap
from eoaug.engine.inputs import Inputs, date_steps, dtypes_of, indices_of, input_windows, member_plans
from eoaug.engine.plan import Plan
from eoaug.engine.values import ChunkIndex
from eoaug.raster.tiles import Window

__all__ = ["ChunkWork", "build", "build_windows", "computed", "computed_by"]


class ChunkWork(Protocol):
    """Work without a generator that is done chunk by chunk; a small value that is sent to workers."""

    @property
    def name(self) -> str:
        """Of the tasks, as a dashboard shows them."""

    @property
    def token(self) -> str:
        """Hash of everything but the input arrays that decides the result."""

    @property
    def lengths(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Chunk lengths of the result along (time, y, x)."""

    @property
    def dtypes(self) -> Mapping[str, np.dtype[Any]]:
        """Types of the arrays of the result by name."""

    def needs(self, index: tuple[int, int, int]) -> tuple[range, Window]:
        """Return the dates and the pixels of every input array that a chunk needs."""

    def run(self, index: tuple[int, int, int], arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a chunk from what it needs."""


@dataclass(frozen=True)
class _Blocks:
    """Where the blocks of an input lie, so that a task can assemble the window that it needs."""

    images: tuple[tuple[str, int], ...]
    """Key of each block along time: name of its array, and place in it."""
    dtype: str
    edges: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """First indices of the blocks along (time, y, x), and the length."""

    @classmethod
    def of(cls, array: da.Array) -> _Blocks:
        t, y, x = (_edges(sizes) for sizes in array.chunks)
        return cls(tuple((array.name, i) for i in range(len(t) - 1)), str(array.dtype), (t, y, x))

    def refs(self, dates: range, window: Window) -> list[TaskRef]:
        """Return the blocks that hold part of ``window`` on ``dates``, in the order of `needed`."""
        return [TaskRef((*self.images[t], y, x)) for t, y, x in self.needed(dates, window)]

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
class _ChunkTask:
    """What all tasks of a graph share: the plan, and where the blocks of its inputs lie."""

    plan: Plan
    sources: tuple[_Blocks, ...]
    inputs: Inputs
    """Shapes in place of arrays."""
    probe: KnownProbe | None = None


@dataclass(frozen=True)
class _Stub:
    shape: tuple[int, ...]


class _UnfusedTask(Task):
    """A task that dask does not fuse with its neighbours.

    Fused, a chunk would be a different task under the same name, depending on which variables are computed
    together; a cluster that still held the one lost the other (dask issue 9888).
    """

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        return True


def _run_blocks(shared: _ChunkTask, index: ChunkIndex, blocks: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    arrays = []
    at = 0
    for source, (dates, window) in zip(
        shared.sources, input_windows(shared.plan, shared.inputs, index), strict=True
    ):
        count = len(source.needed(dates, window))
        arrays.append(source.gather(blocks[at : at + count], dates, window))
        at += count
    with retained_heap():
        return run_chunk(shared.plan, index, arrays, known_elsewhere=shared.probe)


def _pick(chunk: Mapping[str, NDArray[Any]], name: str, member: bool) -> NDArray[Any]:
    return chunk[name][None] if member else chunk[name]


def _join(images: list[NDArray[Any]], member: bool) -> NDArray[Any]:
    joined = np.concatenate(images)
    return joined[None] if member else joined


def build(plan: Plan, inputs: Inputs) -> dict[str, da.Array]:
    """Return the result as dask arrays, by layer name (and ``synthetic``), without computing anything.

    One task makes a chunk of all variables, and one more per variable picks its array. A task refers to the
    input blocks within its reach; the graph holds the plan once and never the weights.
    """
    arrays: list[da.Array] = [
        a if isinstance(a, da.Array) else da.from_array(a, chunks=_source_chunks(plan, a))
        for a in inputs.arrays()
    ]
    sources = tuple(_Blocks.of(a) for a in arrays)
    start = HighLevelGraph.merge(*(a.__dask_graph__() for a in arrays))
    bare = Inputs(
        bands=tuple(_Stub(a.shape) for a in inputs.bands),
        mask=None if inputs.mask is None else _Stub(inputs.mask.shape),
        layout=None if inputs.layout is None else _Stub(inputs.layout.shape),
    )
    if plan.calendar.autoregressive:
        graph, labels = _autoregressive(start, plan, sources, bare)
    else:
        graph, labels = _chunks(start, plan, sources, bare, _probe(plan, inputs, sources))
    members = plan.sampling.result_members
    chunks = (((1,) * members,) if members else ()) + plan.chunking.lengths
    return {
        name: da.Array(graph.cull_layers([labels[name]]), labels[name], chunks, dtype=dtype)
        for name, dtype in dtypes_of(plan).items()
    }


def build_windows(work: ChunkWork, inputs: Sequence[Any]) -> dict[str, da.Array]:
    """Return the result of work as dask arrays, by name, without computing anything.

    Parameters
    ----------
    work
        The work.
    inputs
        Arrays of one shape (T, Y, X), NumPy or dask.
    """
    whole = (inputs[0].shape[0], *(max(sizes) for sizes in work.lengths[1:]))
    arrays = [a if isinstance(a, da.Array) else da.from_array(a, chunks=whole) for a in inputs]
    sources = tuple(_Blocks.of(a) for a in arrays)
    token = str(tokenize(work.token, work.lengths, [s.images for s in sources]))
    shared_key, run = f"eoaug-work-{token}", f"eoaug-{work.name}-{token}"
    tasks: dict[Any, Any] = {shared_key: DataNode(shared_key, (work, sources))}
    indices = list(np.ndindex(*map(len, work.lengths)))
    for index in indices:
        refs = [ref for source in sources for ref in source.refs(*work.needs(index))]
        tasks[(run, *index)] = _UnfusedTask((run, *index), _run_work, TaskRef(shared_key), index, List(*refs))
    graph = HighLevelGraph.merge(*(a.__dask_graph__() for a in arrays))
    graph = _with(graph, run, tasks, {name for source in sources for name, _ in source.images})
    out = {}
    for name, dtype in work.dtypes.items():
        label = f"eoaug-{name}-{token}"
        picks = {
            (label, *index): _UnfusedTask((label, *index), _pick, TaskRef((run, *index)), name, False)
            for index in indices
        }
        whole_graph = _with(graph, label, picks, [run])
        out[name] = da.Array(whole_graph, label, work.lengths, dtype=dtype)
    return out


def _run_work(
    shared: tuple[ChunkWork, tuple[_Blocks, ...]], index: tuple[int, int, int], blocks: list[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    work, sources = shared
    dates, window = work.needs(index)
    arrays, at = [], 0
    for source in sources:
        count = len(source.needed(dates, window))
        arrays.append(source.gather(blocks[at : at + count], dates, window))
        at += count
    return work.run(index, arrays)


def _with(graph: HighLevelGraph, name: str, tasks: dict[Any, Any], needs: Iterable[str]) -> HighLevelGraph:
    """Return a graph with one more layer, which depends on the layers ``needs``."""
    return HighLevelGraph({**graph.layers, name: tasks}, {**graph.dependencies, name: set(needs)})


def _chunks(
    graph: HighLevelGraph,
    plan: Plan,
    sources: tuple[_Blocks, ...],
    bare: Inputs,
    probe: KnownProbe | None = None,
) -> tuple[HighLevelGraph, dict[str, str]]:
    """Add the chunks of a plan; return the layer of each variable."""
    # The names of the input blocks are part of the name: two lazy cubes with equal tokens may differ.
    token = _name(plan, sources)
    plan_key, run = f"eoaug-plan-{token}", f"eoaug-{plan.verb}-{token}"
    tasks: dict[Any, Any] = {plan_key: DataNode(plan_key, _ChunkTask(plan, sources, bare, probe))}
    for index in indices_of(plan):
        needs = zip(sources, input_windows(plan, bare, index), strict=True)
        refs = [ref for source, (dates, window) in needs for ref in source.refs(dates, window)]
        tasks[(run, *index)] = _UnfusedTask((run, *index), _run_blocks, TaskRef(plan_key), index, List(*refs))
    graph = _with(graph, run, tasks, {name for source in sources for name, _ in source.images})
    has_members = plan.sampling.result_members is not None
    labels = {}
    for name in dtypes_of(plan):
        label = labels[name] = f"eoaug-{name}-{token}"
        picks: dict[Any, Any] = {}
        for index in indices_of(plan):
            key: tuple[Any, ...] = (label, *index) if has_members else (label, *index[1:])
            picks[key] = _UnfusedTask(key, _pick, TaskRef((run, *index)), name, has_members)
        graph = _with(graph, label, picks, [run])
    return graph, labels


def _autoregressive(
    graph: HighLevelGraph, plan: Plan, sources: tuple[_Blocks, ...], bare: Inputs
) -> tuple[HighLevelGraph, dict[str, str]]:
    """Add the autoregressive steps of a plan: the blocks of every new date are inputs of those after it.

    Without dask's own slices and concatenations, which it would fuse with their neighbours (`_UnfusedTask`).
    """
    token = _name(plan, sources)
    rows, cols = map(_edges, plan.chunking.lengths[1:])
    labels = {name: f"eoaug-{name}-{token}" for name in dtypes_of(plan)}
    joined: dict[str, dict[Any, Any]] = {name: {} for name in labels}
    has_members = plan.sampling.members is not None
    for number, member in enumerate(member_plans(plan)):
        done: dict[int, dict[str, tuple[str, int]]] = {}
        for available, step in date_steps(member):
            step_sources = sources
            if done:
                at = tuple(range(len(available) + 1))
                bands = (
                    _Blocks(
                        tuple(done[time][layer.name] for time in available), layer.dtype, (at, rows, cols)
                    )
                    for layer in plan.bands.layers
                )
                step_sources = (*bands, *sources[len(plan.bands.layers) :])
            times = step.calendar.out_times.tolist()
            lengths = ((1,) * len(times), *step.chunking.lengths[1:])
            by_date = replace(step, chunking=replace(step.chunking, lengths=lengths))
            graph, step_labels = _chunks(graph, by_date, step_sources, bare)
            for i, time in enumerate(times):
                done[time] = {name: (label, i) for name, label in step_labels.items()}
        dates = [done[time] for time in sorted(done)]
        for _, t, y, x in indices_of(member):
            for name, label in labels.items():
                key = (label, *([number] if has_members else []), t, y, x)
                refs = [TaskRef((*dates[k][name], y, x)) for k in member.chunking.dates(t)]
                joined[name][key] = _UnfusedTask(key, _join, List(*refs), has_members)
    steps = set(graph.layers)
    for name, label in labels.items():
        graph = _with(graph, label, joined[name], steps)
    return graph, labels


def _probe(plan: Plan, inputs: Inputs, sources: tuple[_Blocks, ...]) -> KnownProbe | None:
    if not plan.needs_known:
        return None
    return KnownProbe(_name(plan, sources), plan.bands.layers, inputs.bands, inputs.mask, plan.verb)


def _edges(sizes: Iterable[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(map(int, sizes), initial=0))


def _name(plan: Plan, sources: tuple[_Blocks, ...]) -> str:
    return str(
        tokenize(
            plan.token,
            plan.chunking.lengths,
            plan.chunking.batch_tiles,
            [s.images for s in sources],
            *([True] if plan.needs_known else []),
        )
    )


def _source_chunks(plan: Plan, array: Any) -> tuple[int, int, int]:
    rows, cols = (max(max(c) // plan.grid.factor, 1) for c in plan.chunking.lengths[1:])
    return (array.shape[0], rows, cols)


def computed_by(scheduler: str | None) -> AbstractContextManager[Any]:
    """Return a context in which lazy arrays are computed by a scheduler of dask, given by name; None: the user's."""
    return nullcontext() if scheduler is None else config.set(scheduler=scheduler)


def computed(arrays: Sequence[Any]) -> list[Any]:
    """Return arrays in memory, lazy ones computed together, by the user's scheduler."""
    return list(compute(*arrays))
