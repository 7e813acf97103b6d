"""What a plan costs, said in numbers and words; and how long a generator takes for a batch.

Integer arithmetic; only `Times.of` calls the generator.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.layout import Layout
from eoaug.generators.base import (
    COARSE_HALO,
    CONTEXT_CELL_PX,
    CONTEXT_CELLS,
    CONTEXT_PX,
    Generator,
    Request,
    SteppedGenerator,
    metadata_rows,
)
from eoaug.raster import noise
from eoaug.raster.tiles import Tile, Window

__all__ = ["Explanation", "Times", "Work", "calibrated", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What a plan will cost at most; tiles without anything to fill are skipped when it runs."""

    title: str
    chunks: int
    """Chunks of a variable of the result; every member has its own unless they are reduced."""
    tiles: int
    """Tiles that reach the generator, over all chunks, dates and members; neighbours of joint steps too."""
    model_calls: int
    """Steps of batches; a batch is filled up within its chunk. Tiles of one chunk that see other numbers of dates
    make batches of their own, which are not counted."""
    overlap_factor: float
    """Pixels that the networks draw for one of the result's, step by step: tiles overlap, reach beyond the chunks'
    edges, are drawn with a margin, and joint steps take neighbours along."""
    output_bytes: int
    peak_bytes: int
    """Estimated memory of one chunk in work in one thread; weights, what a network holds during a forward, interpreter, and
    eager inputs and results are not counted."""
    seconds: float | None = None
    """Estimated time in one thread; None if nothing was timed."""
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return (label, value) pairs."""
        rows = [
            ("chunks", f"{self.chunks:,}"),
            ("tiles", f"{self.tiles:,}"),
            ("model calls", f"{self.model_calls:,}"),
            ("drawn over kept pixels", f"{self.overlap_factor:.2f}"),
            ("output", _bytes(self.output_bytes)),
            ("peak memory of a chunk", _bytes(self.peak_bytes)),
        ]
        if self.seconds is not None:
            rows.append(("time, one thread", _seconds(self.seconds)))
        return rows + [("warning", text) for text in self.warnings]

    def __str__(self) -> str:
        """Return a table in plain text."""
        return "\n".join([self.title, *(f"  {label:<24}{value}" for label, value in self.rows())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self.rows())
        return f"<table><caption>{escape(self.title)}</caption>{body}</table>"


@dataclass(frozen=True)
class Work:
    """What one image of one chunk takes."""

    tiles: int
    batches: int
    calls: int
    """Steps of batches, or the one forward of a best estimate."""
    steps: int
    """Steps of tiles, or the tiles of a best estimate."""

    @classmethod
    def of(cls, rings: Sequence[int], steps: Sequence[int], *, group: int, batch: int) -> Work:
        """Return the work of rings of tiles.

        Parameters
        ----------
        rings, steps
            Tiles of each ring, and how many steps they take.
        group, batch
            Tiles that are handed over together, and requests in one forward: both are filled within a ring.
        """
        begun = [tiles // group * -(-group // batch) + -(-(tiles % group) // batch) for tiles in rings]
        calls = sum(count * each for count, each in zip(begun, steps, strict=True))
        return cls(sum(rings), sum(begun), calls, sum(n * each for n, each in zip(rings, steps, strict=True)))


@dataclass(frozen=True)
class Times:
    """What a full batch takes here, in seconds."""

    begin_s: float
    """Before the first step and after the last; of a generator without steps, everything."""
    step_s: float

    @classmethod
    def of(cls, generator: Generator, batch: Sequence[Request], steps: int) -> Times:
        """Time a batch of requests of ``steps`` steps; 0: a best estimate."""
        started = time.perf_counter()
        if not (steps and isinstance(generator, SteppedGenerator)):
            generator.generate(batch)
            return cls(time.perf_counter() - started, 0.0)
        state: Any = generator.begin(batch)
        begun = time.perf_counter()
        for index in range(steps):
            generator.step(state, index)
        walked = time.perf_counter()
        generator.finish(state)
        ended = time.perf_counter()
        return cls((begun - started) + (ended - walked), (walked - begun) / steps)


# -- words --------------------------------------------------------------------------------------------


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


def explain(plan: Layout, times: Times | None) -> Explanation:
    """Return what a run costs; ``times`` adds an estimate of its duration."""
    rows, cols = plan.chunks[1:]
    scene_rows, scene_cols = plan.geobox.shape.yx
    images = sum(1 for k in range(len(plan.out_times)) if plan.made(k)) * (plan.members or 1)
    work = [(_work(plan, *tiles), chunks) for tiles, chunks in _alike(plan).items()]
    tiles, batches, calls, steps = (
        sum(getattr(one, name) * chunks for one, chunks in work) * images
        for name in ("tiles", "batches", "calls", "steps")
    )
    squares = steps / max(plan.steps, 1) / images if images else 0.0
    factor = squares * plan.drawn_px**2 / (scene_rows * scene_cols)
    core = plan.core(int(np.argmax(rows)), int(np.argmax(cols)))
    copies = (plan.members or 1) if plan.reduce is None else 1
    itemsize = sum(plan.dtype_of(layer).itemsize for layer in plan.layers) + 1
    return Explanation(
        title=f"{plan.verb} with {plan.card.name!r}: {len(plan.out_times)} date{'s'[: len(plan.out_times) > 1]}, "
        f"{scene_rows} x {scene_cols} px, {len(plan.layers)} bands",
        chunks=len(rows) * len(cols) * len(plan.chunks[0]) * copies,
        tiles=tiles,
        model_calls=calls,
        overlap_factor=factor,
        output_bytes=scene_rows * scene_cols * len(plan.out_times) * copies * itemsize,
        peak_bytes=_peak_bytes(plan, core),
        seconds=None if times is None else times.begin_s * batches + times.step_s * calls,
        warnings=tuple(_warnings(plan, core, factor)),
    )


def _warnings(plan: Layout, core: Window, factor: float) -> Iterator[str]:
    height, width = core.shape
    scene_rows, scene_cols = plan.geobox.shape.yx
    enough = 16 * plan.lattice.stride
    if factor > 1.9 and (height < min(enough, scene_rows) or width < min(enough, scene_cols)):
        yield (
            f"chunks of {height} x {width} px cost {factor:.2f} pixels drawn for one kept; "
            f"use chunks of {enough} px or more"
        )
    low, high = plan.card.gsd_m
    if plan.gsd_m < low or plan.gsd_m > high:
        yield f"pixels of {plan.gsd_m:.3g} m are outside the generator's {low:g} to {high:g} m"


def _work(plan: Layout, rows: tuple[int, ...], cols: tuple[int, ...]) -> Work:
    """Return the work of one image of a chunk with so many tiles within every ring, along rows and columns."""
    within = [n * m for n, m in zip(rows, cols, strict=True)]
    rings = np.diff(within, prepend=0).tolist()
    steps = [plan.steps_of_ring(ring) for ring in range(len(rings))]
    return Work.of(rings, steps, group=plan.group_tiles, batch=plan.card.batch)


def _alike(plan: Layout) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return how many chunks, of one time chunk's, have so many tiles within every ring, along rows and columns."""
    rows, cols = (
        Counter(_along(plan, axis, i) for i in range(len(plan.chunks[1 + axis]))) for axis in (0, 1)
    )
    return Counter({(n, m): rows[n] * cols[m] for n in rows for m in cols})


def _along(plan: Layout, axis: int, i: int) -> tuple[int, ...]:
    """Return the tiles within every ring of the ``i``-th chunk along an axis, counted along it."""
    core = plan.core(i, 0) if axis == 0 else plan.core(0, i)
    own, whole = (plan.lattice.spans(window)[axis] for window in (plan.region(core), plan.scene))
    grown = [range(own.start - ring, own.stop + ring) for ring in range(plan.joint_steps + 1)]
    if not plan.bounded:
        return tuple(map(len, grown))
    # Tiles beyond a bounded scene have nothing to fill.
    return tuple(min(span.stop, whole.stop) - max(span.start, whole.start) for span in grown)


def _peak_bytes(plan: Layout, core: Window) -> int:
    """Estimate the memory of a chunk in work; the parts are those of `run_chunk`."""
    region, reach = plan.region(core), plan.reach(core)
    cells = math.prod(reach.shape)
    merged = math.prod(region.shape)
    dates = max(len(plan.context_dates(t)) for t in range(len(plan.chunks[0])))
    source = dates * cells / plan.factor**2
    stored = sum(np.dtype(layer.dtype).itemsize for layer in plan.layers)
    inputs = source * (stored + 5 * plan.channels) + cells * plan.channels
    reading = source * (stored + 5 * plan.channels) + 24 * cells / plan.factor**2
    size = plan.drawn_px**2 * plan.channels
    frames = 1 + plan.most_context
    if plan.stepped:
        tiles = sum(len(ring) for ring in plan.tiles(core))
        # Request, result, and a state of a handful of fields.
        held = tiles * size * (frames * 10 + 60)
    else:
        # A group in work, and the results of the one before.
        held = 2 * plan.batch_tiles * size * frames * 10
    canvas = merged * 4 * (plan.channels + 1)
    projecting = merged * 8 * 5 if plan.sensor is not None else 0
    kept = math.prod(core.shape) * len(plan.layers) * _reducing(plan)
    # Of the chunk in work, and of the one before while it is handed on.
    results = 2 * max(plan.chunks[0]) * math.prod(core.shape) * (stored + 1)
    return int(max(reading, inputs + canvas + max(held, projecting) + kept + results))


def _reducing(plan: Layout) -> int:
    """Return the bytes that are held per pixel and band while members are reduced."""
    if plan.reduce is None:
        return 0
    if isinstance(plan.reduce, float):
        return 4 * (plan.members or 1)
    # Mean and sum of squares in float64.
    return 16


def calibrated(plan: Layout) -> Times:
    """Time rows of made-up tiles; the first loads the weights, and is not counted.

    Neighbouring rows share what a generator draws once for several tiles, as in a scene.
    """
    # Of a seed that nobody used: land that was drawn before would cost nothing.
    seed = time.time_ns() % 2**62
    batches = ([_made_up(plan, Tile(row, col), seed) for col in range(plan.card.batch)] for row in range(4))
    _, *timed = [Times.of(plan.generator, batch, plan.steps) for batch in batches]
    return Times(fmean(one.begin_s for one in timed), fmean(one.step_s for one in timed))


def _made_up(plan: Layout, tile: Tile, seed: int) -> Request:
    """Return a request of the plan's kind and shapes with noise for pixels."""
    window = plan.lattice.window(tile)
    size, channels, f = plan.lattice.size, plan.channels, plan.factor
    others = plan.most_context
    dates = 1 + others
    slots = [layer.slot for layer in plan.layers]
    known, fill = np.zeros((2, dates, channels, size, size), bool)
    fill[-1, slots] = True
    known[:-1, slots] = True
    if plan.has_input and plan.verb == "synthesize" and plan.strength < 1:
        known[-1, slots] = True
    elif plan.verb == "inpaint":
        known[-1, slots, : size // 2] = True
        fill[-1, slots, : size // 2] = False

    def pixels(shape: tuple[int, int, int]) -> NDArray[np.float32]:
        return noise.normal((window.top, window.left), shape, seed=seed, stream="calibration")

    def of_dates(edge: int) -> NDArray[np.float32]:
        return pixels((dates * channels, edge, edge)).reshape(dates, channels, edge, edge)

    times = np.arange(dates, dtype=np.int64) * 86_400
    return Request(
        values=np.where(known, of_dates(size), np.float32(0)),
        known=known,
        fill=fill,
        times=times + (plan.out_times[0] if plan.dated else 0),
        metadata=metadata_rows(times, dated=False, gsd_m=plan.grid_m),
        origin=(window.top, window.left),
        grid_m=plan.grid_m,
        coarse=None if plan.sensor is None else of_dates(size // f + 2 * COARSE_HALO),
        coarse_halo=0 if plan.sensor is None else COARSE_HALO,
        factor=f,
        sensor=plan.sensor,
        context_cells=of_dates(size // CONTEXT_CELL_PX + 2 * CONTEXT_CELLS) if plan.looks_around else None,
        context_pixels=of_dates(size + 2 * CONTEXT_PX) if plan.looks_near else None,
        layout=pixels((plan.guides, size, size)) if plan.guides else None,
        prompt=plan.prompt,
        guidance=plan.guidance,
        seed=seed,
        steps=plan.steps,
        strength=plan.strength,
    )
