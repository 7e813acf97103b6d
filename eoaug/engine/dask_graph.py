"""A plan as lazy dask arrays.

Imports dask; the package's root does not import this module.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
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


_KEPT_WINDOWS = 4
"""Windows of a result whose graphs are kept."""


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
    input blocks within its reach; the graph holds the plan once and never the weights. The attribute ``window`` of an
    array builds a part of it: that costs its own tiles, not the chunks that it touches (`cube.windowed`).
    """
    arrays: list[da.Array] = [
        a if isinstance(a, da.Array) else da.from_array(a, chunks=_source_chunks(plan, a))
        for a in inputs.arrays()
    ]
    result = _Result(plan, inputs, tuple(arrays))
    if not plan.calendar.autoregressive:
        return {name: result.array(name, result.whole) for name in dtypes_of(plan)}
    sources = tuple(_Blocks.of(a) for a in arrays)
    graph, labels = _autoregressive(_merged(arrays), plan, sources, result.bare)
    members = plan.sampling.result_members
    chunks = (((1,) * members,) if members else ()) + plan.chunking.lengths
    return {
        name: da.Array(graph.cull_layers([labels[name]]), labels[name], chunks, dtype=dtype)
        for name, dtype in dtypes_of(plan).items()
    }


def _merged(arrays: Sequence[da.Array]) -> HighLevelGraph:
    return HighLevelGraph.merge(*(a.__dask_graph__() for a in arrays))


Spans = tuple[tuple[int, int], ...]
"""First and end index along (member, time, y, x)."""


@dataclass(frozen=True, eq=False)
class _Result:
    """What any window of a result is built from."""

    plan: Plan
    inputs: Inputs
    arrays: tuple[da.Array, ...]
    """The inputs as dask arrays."""
    _built: OrderedDict[Spans, tuple[HighLevelGraph, dict[str, str], tuple[tuple[int, ...], ...]]] = field(
        default_factory=OrderedDict, repr=False
    )
    """The windows that were asked for last: variables of a Dataset are indexed one after the other."""

    @property
    def bare(self) -> Inputs:
        """The inputs, with shapes in place of arrays."""
        inputs = self.inputs
        return Inputs(
            bands=tuple(_Stub(a.shape) for a in inputs.bands),
            mask=None if inputs.mask is None else _Stub(inputs.mask.shape),
            layout=None if inputs.layout is None else _Stub(inputs.layout.shape),
        )

    @property
    def whole(self) -> Spans:
        """The whole result."""
        lengths = self.plan.chunking.lengths
        return ((0, self.plan.sampling.result_members or 1), *((0, sum(sizes)) for sizes in lengths))

    def array(self, name: str, spans: Spans, dropped: Sequence[int] = ()) -> da.Array:
        """Return a window of one variable, without the axes ``dropped``, which are of length 1."""
        if spans not in self._built:
            self._built[spans] = self._build(spans)
            while len(self._built) > _KEPT_WINDOWS:
                self._built.popitem(last=False)
        graph, labels, chunks = self._built[spans]
        dropped = sorted({*dropped, *(() if self.plan.sampling.result_members else (0,))})
        label = labels[name]
        graph = graph.cull_layers([label])
        if picked := [axis for axis in dropped if axis > 0 or self.plan.sampling.result_members]:
            graph, label = _without(graph, label, chunks, picked, self.plan.sampling.result_members is None)
        kept = tuple(sizes for axis, sizes in enumerate(chunks) if axis not in dropped)
        array = da.Array(graph, label, kept, dtype=dtypes_of(self.plan)[name])
        # An attribute, not a subclass: xarray refuses to mix types of chunked arrays. What dask makes of the array lacks it.
        array.window = _ResultPart(self, name, spans, tuple(dropped))  # type: ignore[attr-defined]
        return array

    def _build(self, spans: Spans) -> tuple[HighLevelGraph, dict[str, str], tuple[tuple[int, ...], ...]]:
        """Return graph, label of each variable and chunk lengths of a window."""
        chunking = self.plan.chunking
        cuts = [
            np.union1d(_edges(sizes), span) for sizes, span in zip(chunking.lengths, spans[1:], strict=True)
        ]
        first, middle, last = (tuple(np.diff(cut).tolist()) for cut in cuts)
        plan = replace(self.plan, chunking=replace(chunking, lengths=(first, middle, last)))
        part = [range(*spans[0])]
        part += [
            range(*np.searchsorted(cut, span).tolist()) for cut, span in zip(cuts, spans[1:], strict=True)
        ]
        sources = tuple(_Blocks.of(a) for a in self.arrays)
        probe = _probe(plan, self.inputs, sources)
        graph, labels = _chunks(
            _merged(self.arrays), plan, sources, self.bare, probe, None if spans == self.whole else part
        )
        lengths = (((1,) * (plan.sampling.result_members or 1)), *plan.chunking.lengths)
        chunks = tuple(sizes[own.start : own.stop] for sizes, own in zip(lengths, part, strict=True))
        return graph, labels, chunks


@dataclass(frozen=True, eq=False)
class _ResultPart:
    """The window of a result that an array of dask holds; the attribute ``window`` of that array."""

    result: _Result
    name: str
    """Of the variable."""
    spans: Spans
    dropped: tuple[int, ...]
    """Axes of length 1 that the array does not have."""

    def __call__(self, keys: tuple[Any, ...]) -> da.Array | None:
        """Return the array of an index; None unless it consists of numbers and of slices of step 1."""
        axes = [axis for axis in range(len(self.spans)) if axis not in self.dropped]
        if len(keys) > len(axes):
            return None
        wanted, gone = list(self.spans), list(self.dropped)
        for axis, key in zip(axes, keys, strict=False):
            start, size = self.spans[axis][0], self.spans[axis][1] - self.spans[axis][0]
            if isinstance(key, slice) and key.step in (None, 1):
                low, high, _ = key.indices(size)
            elif isinstance(key, int | np.integer) and not isinstance(key, bool) and -size <= key < size:
                low = int(key) % size
                high = low + 1
                gone.append(axis)
            else:
                return None
            if high <= low:
                return None
            wanted[axis] = (start + low, start + high)
        return self.result.array(self.name, tuple(wanted), gone)


def _without(
    graph: HighLevelGraph,
    label: str,
    chunks: tuple[tuple[int, ...], ...],
    axes: Sequence[int],
    no_member: bool,
) -> tuple[HighLevelGraph, str]:
    """Return a graph with a layer that drops axes of length 1 from the chunks of a variable, and its label."""
    shown = f"{label}-{''.join(map(str, axes))}"
    tasks: dict[Any, Any] = {}
    for place in np.ndindex(*map(len, chunks)):
        own = place[1:] if no_member else place
        kept = tuple(i for axis, i in enumerate(place) if axis not in axes and not (no_member and axis == 0))
        key = (shown, *kept)
        tasks[key] = _UnfusedTask(
            key, np.squeeze, TaskRef((label, *own)), tuple(axis - no_member for axis in axes)
        )
    return _with(graph, shown, tasks, [label]), shown


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
    part: Sequence[range] | None = None,
) -> tuple[HighLevelGraph, dict[str, str]]:
    """Add the chunks of a plan, or a ``part`` along (member, time, y, x); return the layer of each variable."""
    # The names of the input blocks are part of the name: two lazy cubes with equal tokens may differ.
    token = _name(plan, sources)
    plan_key, run = f"eoaug-plan-{token}", f"eoaug-{plan.verb}-{token}"
    tasks: dict[Any, Any] = {plan_key: DataNode(plan_key, _ChunkTask(plan, sources, bare, probe))}
    members = plan.sampling.result_members or 1
    every = [range(members), *(range(len(sizes)) for sizes in plan.chunking.lengths)]
    indices: list[ChunkIndex] = list(itertools.product(*(every if part is None else part)))  # type: ignore[arg-type]
    for index in indices:
        needs = zip(sources, input_windows(plan, bare, index), strict=True)
        refs = [ref for source, (dates, window) in needs for ref in source.refs(dates, window)]
        tasks[(run, *index)] = _UnfusedTask((run, *index), _run_blocks, TaskRef(plan_key), index, List(*refs))
    has_members = plan.sampling.result_members is not None
    first = [0] * 4 if part is None else [own.start for own in part]
    # Two parts share tasks under the same keys, but no layer.
    of_part = "" if part is None else f"-{tokenize([(own.start, own.stop) for own in part])}"
    layer = f"{run}{of_part}"
    graph = _with(graph, layer, tasks, {name for source in sources for name, _ in source.images})
    labels = {}
    for name in dtypes_of(plan):
        label = labels[name] = f"eoaug-{name}-{token}{of_part}"
        picks: dict[Any, Any] = {}
        for index in indices:
            place = tuple(i - start for i, start in zip(index, first, strict=True))
            key: tuple[Any, ...] = (label, *place) if has_members else (label, *place[1:])
            picks[key] = _UnfusedTask(key, _pick, TaskRef((run, *index)), name, has_members)
        graph = _with(graph, label, picks, [layer])
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
