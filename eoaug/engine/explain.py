"""The cost of a plan: tiles, forwards, bytes, memory; and the time that a generator takes for a batch.

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

from eoaug.display import html_table
from eoaug.engine.layout import Layout
from eoaug.engine.values import Sampling
from eoaug.generators.base import (
    COARSE_HALO,
    CONTEXT_CELL_PX,
    CONTEXT_CELLS,
    Generator,
    Request,
    SteppedGenerator,
    metadata_rows,
)
from eoaug.raster import noise
from eoaug.raster.tiles import Tile, Window

__all__ = ["Explanation", "Times", "Work", "bytes_text", "explain", "measured", "peak_bytes"]


@dataclass(frozen=True)
class Explanation:
    """An upper limit of a plan's cost; tiles without anything to fill are skipped when it runs."""

    title: str
    chunks: int
    """Chunks of a variable of the result; every ensemble member has its own unless they are reduced."""
    tiles: int
    """Tiles that the generator is given, over all chunks, dates and members, with the neighbours that joint
    steps need."""
    model_calls: int
    """Denoising steps of batches; a batch is filled within its chunk. Tiles with different numbers of context dates
    need separate batches, which are not counted."""
    overlap_factor: float
    """Pixels that the networks compute per pixel of the result, averaged over the steps: tiles overlap, reach beyond
    the chunks' edges, are drawn with a margin, and joint steps need neighbours."""
    output_bytes: int
    peak_bytes: int
    """Estimated memory of one chunk in one thread; without weights, activations, interpreter, eager inputs and
    eager results."""
    seconds: float | None = None
    """Estimated time in one thread; None without calibration."""
    extra_bands: tuple[str, ...] = ()
    """Bands that the generator's networks do not know, made by its priors alone."""
    coverage: tuple[tuple[str, str], ...] = ()
    """(date, clear share and share to fill), after the mask."""
    notes: tuple[tuple[str, str], ...] = ()
    """(label, text) of the verb, such as its sensors."""
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return (label, value) pairs."""
        rows = [
            ("chunks", f"{self.chunks:,}"),
            ("tiles", f"{self.tiles:,}"),
            ("model calls", f"{self.model_calls:,}"),
            ("drawn over kept pixels", f"{self.overlap_factor:.2f}"),
            ("output", bytes_text(self.output_bytes)),
            ("peak memory of a chunk", bytes_text(self.peak_bytes)),
        ]
        if self.seconds is not None:
            rows.append(("time, one thread", _seconds(self.seconds)))
        if self.extra_bands:
            rows.append(("by the prior alone", ", ".join(self.extra_bands)))
        rows += [*self.notes, *self.coverage]
        return rows + [("warning", text) for text in self.warnings]

    def __str__(self) -> str:
        """Return a table in plain text."""
        return "\n".join([self.title, *(f"  {label:<24}{value}" for label, value in self.rows())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.title, self.rows())


@dataclass(frozen=True)
class Work:
    """Work of one image of one chunk."""

    tiles: int
    batches: int
    calls: int
    """Denoising steps of batches; a best estimate counts as one."""
    steps: int
    """Denoising steps of tiles; a best estimate counts as one."""

    @classmethod
    def of(cls, rings: Sequence[int], steps: Sequence[int], *, group: int, batch: int) -> Work:
        """Return the work of rings of tiles.

        Parameters
        ----------
        rings, steps
            Tiles of each ring, and their number of steps.
        group, batch
            Tiles that the generator is given together, and requests in one forward: both are filled within a ring.
        """
        batches = [tiles // group * -(-group // batch) + -(-(tiles % group) // batch) for tiles in rings]
        calls = sum(count * each for count, each in zip(batches, steps, strict=True))
        return cls(
            sum(rings), sum(batches), calls, sum(n * each for n, each in zip(rings, steps, strict=True))
        )


@dataclass(frozen=True)
class Times:
    """Time that a full batch takes on this machine, in seconds."""

    begin_s: float
    """Before the first step and after the last; everything, for a generator without steps."""
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
        stepped = time.perf_counter()
        generator.finish(state)
        ended = time.perf_counter()
        return cls((begun - started) + (ended - stepped), (stepped - begun) / steps)


# -- words --------------------------------------------------------------------------------------------


def bytes_text(count: float) -> str:
    """Return a number of bytes with its unit."""
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
    """Return the cost of a run; ``times`` adds an estimate of its duration."""
    sampling, layers = plan.sampling, plan.bands.layers
    lengths, rows, cols = plan.chunking.lengths
    scene_rows, scene_cols = plan.grid.geobox.shape.yx
    dates = len(plan.calendar.out_times)
    images = sum(map(plan.generates, range(dates))) * (sampling.members or 1)
    works = [(_work(plan, *tiles), chunks) for tiles, chunks in _equal_chunks(plan).items()]
    tiles, batches, calls, steps = (
        sum(getattr(work, name) * chunks for work, chunks in works) * images
        for name in ("tiles", "batches", "calls", "steps")
    )
    squares = steps / max(sampling.steps, 1) / images if images else 0.0
    factor = squares * plan.canvas_px**2 / (scene_rows * scene_cols)
    copies = sampling.result_members or 1
    itemsize = sum(sampling.dtype_of(layer).itemsize for layer in layers) + 1
    return Explanation(
        title=f"{plan.verb} with {plan.card.name!r}: {dates} date{'s'[: dates > 1]}, "
        f"{scene_rows} x {scene_cols} px, {len(layers)} bands",
        chunks=len(rows) * len(cols) * len(lengths) * copies,
        tiles=tiles,
        model_calls=calls,
        overlap_factor=factor,
        output_bytes=scene_rows * scene_cols * dates * copies * itemsize,
        peak_bytes=peak_bytes(plan),
        seconds=None if times is None else times.begin_s * batches + times.step_s * calls,
        extra_bands=tuple(layer.name for layer in plan.bands.extra),
        coverage=tuple(_coverage(plan)),
        notes=plan.notes,
        warnings=tuple(_warnings(plan, plan.core(int(np.argmax(rows)), int(np.argmax(cols))), factor)),
    )


_SHOWN_DATES = 24


def _coverage(plan: Layout) -> Iterator[tuple[str, str]]:
    """Yield the clear share and the share to fill of every date."""
    calendar, coverage = plan.calendar, plan.coverage
    if plan.mask_note:
        yield "mask", plan.mask_note
    if not calendar.has_input:
        return
    if coverage is None:
        yield "clear, to fill", "unknown until computed"
        return
    for date, (second, fill) in enumerate(zip(calendar.out_times, coverage.fill, strict=True)):
        if date == _SHOWN_DATES:
            yield "other dates", f"to fill {coverage.fill[date:].mean():.1%} on average"
            return
        given = calendar.given(date)
        name = str(np.datetime64(int(second), "s"))[:10] if calendar.dated else "the cube"
        clear = "new" if given is None else f"clear {coverage.clear[given]:.1%}"
        yield name, f"{clear}, to fill {fill:.1%}"


def _warnings(plan: Layout, core: Window, factor: float) -> Iterator[str]:
    if plan.coverage is not None and not plan.coverage.fill.any():
        yield f"{plan.verb} would fill nothing: check mask and fill"
    if plan.coverage is not None and plan.verb == "inpaint" and (plan.coverage.fill == 1).all():
        yield "inpaint would fill everything: check mask and fill"
    height, width = core.shape
    scene_rows, scene_cols = plan.grid.geobox.shape.yx
    enough = 16 * plan.lattice.stride
    if factor > 1.9 and (height < min(enough, scene_rows) or width < min(enough, scene_cols)):
        yield (
            f"chunks of {height} x {width} px need {factor:.2f} drawn pixels per kept pixel; "
            f"use chunks of {enough} px or more"
        )
    low, high = plan.card.gsd_m
    if plan.grid.gsd_m < low or plan.grid.gsd_m > high:
        yield f"pixels of {plan.grid.gsd_m:.3g} m are outside the generator's {low:g} to {high:g} m"


def _work(plan: Layout, rows: tuple[int, ...], cols: tuple[int, ...]) -> Work:
    """Return the work of one image of a chunk, from its number of tiles along rows and columns by ring."""
    within = [n * m for n, m in zip(rows, cols, strict=True)]
    rings = np.diff(within, prepend=0).tolist()
    steps = [plan.sampling.steps_of_ring(ring) for ring in range(len(rings))]
    return Work.of(rings, steps, group=plan.group_tiles, batch=plan.card.batch)


def _equal_chunks(plan: Layout) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return how many chunks of one time chunk have equal numbers of tiles along rows and columns, ring by ring."""
    rows, cols = (
        Counter(_tiles_along(plan, axis, i) for i in range(len(plan.chunking.lengths[1 + axis])))
        for axis in (0, 1)
    )
    return Counter({(n, m): rows[n] * cols[m] for n in rows for m in cols})


def _tiles_along(plan: Layout, axis: int, i: int) -> tuple[int, ...]:
    """Return the number of tiles of the ``i``-th chunk along an axis, with its first 0, 1, ... rings."""
    core = plan.core(i, 0) if axis == 0 else plan.core(0, i)
    own, whole = (plan.lattice.spans(w)[axis] for w in (plan.grid.region(core), plan.grid.scene))
    grown = [range(own.start - ring, own.stop + ring) for ring in range(plan.sampling.joint_steps + 1)]
    if not plan.grid.bounded:
        return tuple(map(len, grown))
    # Tiles beyond a bounded scene have nothing to fill.
    return tuple(min(span.stop, whole.stop) - max(span.start, whole.start) for span in grown)


def peak_bytes(plan: Layout) -> int:
    """Return the estimated memory of the largest chunk; the terms are the steps of `run_chunk`."""
    _, rows, cols = plan.chunking.lengths
    core = plan.core(int(np.argmax(rows)), int(np.argmax(cols)))
    grid, channels, layers = plan.grid, plan.bands.channels, plan.bands.layers
    region, reach = grid.region(core), plan.reach(core)
    pixels, merged = math.prod(reach.shape), math.prod(region.shape)
    times = plan.chunking.lengths[0]
    dates = max(len(plan.context_dates(t)) for t in range(len(times)))
    source = dates * pixels / grid.factor**2
    stored = sum(np.dtype(layer.dtype).itemsize for layer in layers)
    inputs = source * (stored + 5 * channels) + pixels * channels
    reading = source * (stored + 5 * channels) + 24 * pixels / grid.factor**2
    size = plan.canvas_px**2 * channels
    frames = 1 + plan.most_context
    if plan.stepped:
        tiles = sum(len(ring) for ring in plan.tiles(core))
        # Request, result, and a state of a handful of fields.
        held = tiles * size * (frames * 10 + 60)
    else:
        # The group that is computed, and the results of the one before.
        held = 2 * plan.chunking.batch_tiles * size * frames * 10
    canvas = merged * 4 * (channels + 1)
    projecting = merged * 8 * 3 if grid.sensor is not None or grid.guided else 0
    kept = math.prod(core.shape) * len(layers) * _reducing(plan.sampling)
    # Of the chunk that is computed, and of the one before until it is passed on.
    results = 2 * max(times) * math.prod(core.shape) * (stored + 1)
    return int(max(reading, inputs + canvas + max(held, projecting) + kept + results))


def _reducing(sampling: Sampling) -> int:
    """Return the bytes that are held per pixel and band while members are reduced."""
    if sampling.reduce is None:
        return 0
    if isinstance(sampling.reduce, float):
        return 4 * (sampling.members or 1)
    # Mean and sum of squares in float64.
    return 16


def measured(plan: Layout) -> Times:
    """Time four rows of dummy tiles; the first loads the weights, and is not counted.

    Neighbouring rows share what a generator draws once for several tiles, as in a scene.
    """
    # A new seed every time: a cached landscape would cost nothing.
    seed = time.time_ns() % 2**62
    batches = ([_dummy(plan, Tile(row, col), seed) for col in range(plan.card.batch)] for row in range(4))
    _, *timed = [Times.of(plan.generator, batch, plan.sampling.steps) for batch in batches]
    return Times(fmean(times.begin_s for times in timed), fmean(times.step_s for times in timed))


def _dummy(plan: Layout, tile: Tile, seed: int) -> Request:
    """Return a request of the plan's kind and shapes with noise for pixels."""
    window = plan.lattice.window(tile)
    sampling, sensor, f = plan.sampling, plan.grid.sensor, plan.grid.factor
    size, channels, slots = plan.lattice.size, plan.bands.channels, plan.bands.slots
    dates = 1 + plan.most_context
    known, fill = np.zeros((2, dates, channels, size, size), bool)
    fill[-1, slots] = True
    known[:-1, slots] = True
    if plan.calendar.has_input and plan.verb == "synthesize" and sampling.strength < 1:
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
        times=times + (plan.calendar.out_times[0] if plan.calendar.dated else 0),
        metadata=metadata_rows(times, dated=False, gsd_m=plan.grid_m),
        origin=(window.top, window.left),
        grid_m=plan.grid_m,
        coarse=None if sensor is None else of_dates(size // f + 2 * COARSE_HALO),
        coarse_halo=0 if sensor is None else COARSE_HALO,
        factor=f,
        sensor=sensor,
        context_cells=of_dates(size // CONTEXT_CELL_PX + 2 * CONTEXT_CELLS)
        if plan.uses_context_cells
        else None,
        context_pixels=of_dates(size + 2 * plan.context_px) if plan.uses_context_pixels else None,
        guided=plan.grid.guided,
        layout=pixels((planes, size, size)) if (planes := plan.bands.layout_planes) else None,
        prompt=sampling.prompt,
        guidance=sampling.guidance,
        seed=seed,
        steps=sampling.steps,
        strength=sampling.strength,
        extra_kinds=tuple(layer.extra_kind for layer in plan.bands.extra),
    )
