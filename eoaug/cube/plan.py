"""The plan: everything about a result except its pixels.

A `Plan` says which tiles a chunk needs, how far a pixel reaches, how many forwards the model will do
and what the output looks like. The run follows the same numbers, so it cannot drift from what
`Plan.explain` shows. Integer arithmetic; no pixels, no dask, no tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError
from eoaug.generators.base import NEAR_PX, WIDE_CELL_PX, WIDE_CELLS, Card, Generator, SteppedGenerator, Verb
from eoaug.grid import gsd_m
from eoaug.radiometry import Scaling
from eoaug.sensor import Sensor
from eoaug.tiles import Lattice, Tile, Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Fill", "Layer", "Origin", "Plan", "Reduce", "lattice_for"]

Fill = Literal["mask", "gaps", "everything", "footprint", "measured", "scene"]
"""What a verb fills: a given mask; gaps that another date measured; all that is missing; new dates
wherever any date measured; measured pixels (anew); the whole scene."""

Reduce = Literal["mean", "std"] | float

Origin = Literal["generated", "transferred", "observed"]
"""Where a band's new pixels come from: the generator, by a rule from bands that it made, or nowhere."""

NEIGHBOUR_DATES = 6
"""Dates on either side of a target date that context dates are chosen from."""

SENSOR_CELLS = 4
"""Coarse pixels around a tile that it sees. A measurement reaches fine pixels no further away than three; the fourth
is for generators that draw beyond a tile's edge, where a network sees least."""


DRAWN_CELLS = 16
"""Coarse pixels along the edge of what is drawn for a tile, at least, by generators that draw beyond its edges."""


@dataclass(frozen=True)
class Layer:
    """One band of the result: its place in the generator's channels and in storage."""

    name: str
    slot: int
    """Channel of the generator."""
    to_model: Scaling
    """From stored numbers to model units."""
    to_physical: Scaling
    """From stored numbers to physical units."""
    dtype: str
    """Type of the stored numbers in memory."""
    nodata: float | None
    """Stored number that means missing."""

    def missing(self) -> float:
        """Return the stored form of a missing pixel: the nodata value, else NaN."""
        return math.nan if self.nodata is None else self.nodata


def lattice_for(card: Card, factor: int, verb: Verb) -> Lattice:
    """Return the tiles that a generator is called with on a grid refined by ``factor``.

    Size and stride are multiples of lcm(factor, card.multiple_of), so that a tile holds whole coarse
    pixels and whole canvas cells.
    """
    unit = math.lcm(factor, card.multiple_of, card.latent_factor)
    margin = card.margin_px(verb, factor)
    # With few coarse pixels in a square, margin and overlap would be most of it.
    edge = max(card.drawn_px, DRAWN_CELLS * factor) - 2 * margin if margin else card.tile_px
    size = max(edge // unit, 1) * unit
    # A coarse measurement makes neighbours agree, and so does a margin.
    overlap = -(-(card.overlap_px // 2 if factor > 1 or margin else card.overlap_px) // unit) * unit
    stride = size - overlap
    if 2 * stride < size:
        stride = -(-size // (2 * unit)) * unit
    return Lattice(size, stride)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request over a whole cube, ready to run anywhere.

    Notes
    -----
    ``explain()`` costs integer arithmetic only; the model is not called and no pixel is read.
    """

    verb: Verb
    generator: Generator
    layers: tuple[Layer, ...]
    channels: int
    """Channels of the generator's requests: the card's bands, or the layers."""
    geobox: GeoBox
    """Grid of the result."""
    origin: tuple[int, int]
    """Absolute index (row, column) of the result's first pixel."""
    fill: Fill
    factor: int = 1
    sensor: Sensor | None = None
    """With one MTF for all channels, or one per channel."""
    in_times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    """Shape (Tin,), seconds since 1970; given dates."""
    out_times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    """Shape (Tout,), dates of the result, ascending."""
    dated: bool = True
    """False if ``in_times`` are only a place holder."""
    cloud: NDArray[np.float64] = field(default_factory=lambda: np.full(1, np.nan))
    """Shape (Tout,), cloud fraction 0 to 1, NaN where unknown."""
    gsd_m: float = math.nan
    overrides: Mapping[str, float] = field(default_factory=dict)
    """Metadata fields that the user set."""
    has_input: bool = True
    bounded: bool = True
    """False for a synthesis from nothing: its plane goes on beyond the result, so that a window asked for
    alone equals the same window of any larger result."""
    steps: int = 0
    joint_steps: int = 0
    seed: int = 0
    strength: float = 1.0
    guidance: float | None = None
    prompt: str | None = None
    members: int | None = None
    first_member: int = 0
    """Number of the first of the members, or of the only one."""
    reduce: Reduce | None = None
    sequence: bool = False
    """True if new dates are made one after the other, each told of those before it; see `turn`."""
    chunks: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((1,), (1,), (1,))
    """Chunk lengths of the result along (time, y, x)."""
    batch_tiles: int = 8
    """Tiles handed to the generator in one call."""
    token: str = ""
    """Hash of inputs, parameters, model and version: equal tokens, equal pixels."""

    # -- geometry -----------------------------------------------------------------------------------

    @property
    def card(self) -> Card:
        """The generator's card."""
        return self.generator.card

    def origin_of(self, layer: Layer) -> Origin:
        """Return where the new pixels of a band come from."""
        slot = self.card.bands[layer.slot] if self.card.bands else ""
        if slot in self.card.kept:
            return "observed"
        return "transferred" if slot in self.card.transferred else "generated"

    @cached_property
    def lattice(self) -> Lattice:
        """Tiles of the generator on the result's grid."""
        return lattice_for(self.card, self.factor, self.verb)

    @property
    def drawn_px(self) -> int:
        """Edge of the square that the generator draws for a tile."""
        return self.lattice.size + 2 * self.card.margin_px(self.verb, self.factor)

    @cached_property
    def scene(self) -> Window:
        """All pixels of the result, in absolute pixels of its grid."""
        rows, cols = self.geobox.shape.yx
        top, left = self.origin
        return Window(top, left, top + rows, left + cols)

    def _inside(self, window: Window) -> Window:
        return window & self.scene if self.bounded else window

    @property
    def sensor_px(self) -> int:
        """Pixels that the projection on the measurement reaches."""
        return 0 if self.sensor is None else -(-self.sensor.radius_px // self.factor) * self.factor

    @property
    def looks_around(self) -> bool:
        """True if a tile is told what lies around it (`Request.wide`)."""
        lattice = self.lattice
        whole = lattice.size % WIDE_CELL_PX == 0 and lattice.stride % WIDE_CELL_PX == 0
        return self.card.surroundings and self.verb == "inpaint" and whole

    @property
    def looks_near(self) -> bool:
        """True if a tile is told its start beyond its edge (`Request.near`)."""
        return self.card.surroundings and self.verb == "synthesize" and self.has_input and self.strength < 1

    @property
    def around_px(self) -> int:
        """Pixels beyond a tile that its request tells of."""
        if self.sensor is not None:
            return SENSOR_CELLS * self.factor
        if self.looks_near:
            return NEAR_PX
        return WIDE_CELLS * WIDE_CELL_PX if self.looks_around else 0

    @property
    def margin_px(self) -> int:
        """Distance from a crop's edge beyond which the crop equals the scene, bit for bit.

        In pixels of the result; infinite in effect without a georeference.
        """
        if not self.bounded:
            return 0
        turns = len(self.new_dates) if self.sequence else 1
        return turns * ((self.joint_steps + 1) * self.lattice.size + self.sensor_px + self.around_px)

    @cached_property
    def _edges(self) -> tuple[NDArray[np.int64], ...]:
        return tuple(np.concatenate([[0], np.cumsum(c)]).astype(np.int64) for c in self.chunks)

    def core(self, y: int, x: int) -> Window:
        """Return the pixels of chunk (y, x)."""
        _, rows, cols = self._edges
        top, left = self.origin
        return Window(
            top + int(rows[y]), left + int(cols[x]), top + int(rows[y + 1]), left + int(cols[x + 1])
        )

    def dates(self, t: int) -> range:
        """Return the indices into ``out_times`` of time chunk ``t``."""
        edges = self._edges[0]
        return range(int(edges[t]), int(edges[t + 1]))

    def region(self, core: Window) -> Window:
        """Return the pixels that must be merged for ``core``: the projection's halo, whole coarse cells."""
        padded = self._inside(core.pad(self.sensor_px))
        return padded.coarsen(self.factor).scale(self.factor)

    def reach(self, core: Window) -> Window:
        """Return the pixels of the result's grid that ``core`` depends on, within the scene if bounded."""
        whole = self.lattice.hull(self.region(core), self.joint_steps)
        return self._inside(whole.pad(self.around_px))

    def source_window(self, window: Window) -> Window:
        """Return the input pixels under a window of the result, counted from the input's first pixel."""
        coarse = window.coarsen(self.factor)
        top, left = self.origin[0] // self.factor, self.origin[1] // self.factor
        return Window(coarse.top - top, coarse.left - left, coarse.bottom - top, coarse.right - left)

    def gsd_at(self, lat_deg: float) -> float:
        """Return the ground sampling distance in metres; a geographic grid's depends on the latitude."""
        crs = self.geobox.crs
        return gsd_m(self.geobox, lat_deg) if crs is not None and crs.geographic else self.gsd_m

    @cached_property
    def grid_m(self) -> float:
        """Pixel size in metres that all windows of the grid share: at the equator on a geographic one."""
        return self.overrides.get("gsd_m", self.gsd_at(0.0))

    # -- dates --------------------------------------------------------------------------------------

    def given(self, k: int) -> int | None:
        """Return the index into ``in_times`` of result date ``k``, or None for a new date."""
        if not self.has_input:
            return None
        at = int(np.searchsorted(self.in_times, self.out_times[k]))
        return at if at < len(self.in_times) and self.in_times[at] == self.out_times[k] else None

    def neighbours(self, k: int) -> range:
        """Return the indices into ``in_times`` that result date ``k`` may look at, itself included."""
        if not self.has_input:
            return range(0)
        if self.fill in ("measured", "scene") or self.verb == "super_resolve":
            at = self.given(k)
            return range(0) if at is None else range(at, at + 1)
        at = int(np.searchsorted(self.in_times, self.out_times[k]))
        return range(max(at - NEIGHBOUR_DATES, 0), min(at + NEIGHBOUR_DATES + 1, len(self.in_times)))

    @property
    def new_dates(self) -> list[int]:
        """The dates that are not given, in the order of a sequence: onward in time, then back from the first."""
        new = np.setdiff1d(self.out_times, self.in_times)
        onward = new > self.in_times[0]
        return [*new[onward].tolist(), *new[~onward][::-1].tolist()]

    def turn(self, given: Sequence[int], wanted: Sequence[int]) -> Plan:
        """Return the plan of some dates of a sequence.

        Parameters
        ----------
        given
            Dates that the inputs then hold, ascending.
        wanted
            Dates to make, or to hand through, ascending.
        """
        places = np.searchsorted(self.out_times, wanted)
        size = self.chunks[0][0]
        cut = tuple(min(size, len(wanted) - first) for first in range(0, len(wanted), size))
        return replace(
            self,
            sequence=False,
            in_times=np.asarray(given, np.int64),
            out_times=np.asarray(wanted, np.int64),
            cloud=self.cloud[places],
            chunks=(cut, *self.chunks[1:]),
            token=f"{self.token} {self.first_member} {wanted[-1]}",
        )

    def date_fields(self, k: int) -> tuple[float, float, float]:
        """Return (year, month, day) of result date ``k``, NaN without dates."""
        if not self.dated:
            return (math.nan,) * 3
        day = np.datetime64(int(self.out_times[k]), "s").astype("datetime64[D]").item()
        return float(day.year), float(day.month), float(day.day)

    # -- cost ---------------------------------------------------------------------------------------

    @property
    def stepped(self) -> bool:
        """True if the engine walks the denoising steps itself, to join overlapping tiles."""
        return self.joint_steps > 0 and isinstance(self.generator, SteppedGenerator)

    def tiles(self, core: Window) -> list[list[Tile]]:
        """Return the tiles of a chunk, by ring of neighbours (ring 0 touches the chunk)."""
        return self.lattice.rings(self.region(core), self.joint_steps)

    def tile_work(self, core: Window) -> float:
        """Return the tiles of one date of a chunk, each counted by its share of the denoising steps."""
        counts = [len(ring) for ring in self.tiles(core)]
        if not self.joint_steps:
            return float(counts[0])
        active = [sum(counts[: self.joint_steps - i + 1]) for i in range(self.joint_steps)]
        return (sum(active) + counts[0] * (self.steps - self.joint_steps)) / self.steps

    def explain(self, seconds_per_forward: float | None = None) -> Explanation:
        """Return what the run will cost: tiles, forwards, extra work by overlap, bytes, memory.

        Parameters
        ----------
        seconds_per_forward
            Time of one forward, as `eoaug.cube.run.calibrate` measures it; adds an estimate of the time.
        """
        return _explain(self, seconds_per_forward)

    def __repr__(self) -> str:
        """Return a line: what is made on which grid with which generator."""
        rows, cols = self.geobox.shape.yx
        return (
            f"<Plan {self.verb} {len(self.out_times)} x {rows} x {cols} x {len(self.layers)} bands "
            f"with {self.card.name!r}, token {self.token[:12]}>"
        )


@dataclass(frozen=True)
class Explanation:
    """What a plan will cost at most; tiles without anything to fill are skipped when it runs."""

    title: str
    chunks: int
    tiles: int
    """Tiles that reach the generator, over all chunks, dates and members."""
    model_calls: int
    """Forwards of the network, padded to the card's batch."""
    overlap_factor: float
    """Pixels that the networks draw for one of the result's, step by step: tiles overlap, reach beyond the chunks'
    edges, are drawn with a margin, and joint steps take neighbours along."""
    output_bytes: int
    peak_bytes: int
    """Estimated memory of one chunk in work, weights and interpreter not counted."""
    seconds: float | None = None
    """Estimated time in one thread; None if `explain` was not told what a forward takes."""
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


def _explain(plan: Plan, seconds_per_forward: float | None) -> Explanation:
    rows, cols = plan.chunks[1:]
    draws = plan.members or 1
    made = sum(1 for k in range(len(plan.out_times)) if plan.verb != "extend" or plan.given(k) is None)
    counts = _tile_counts(plan)
    batch = plan.card.batch
    alone = max(plan.steps - plan.joint_steps, 1)
    forwards = sum(math.ceil(n / batch) for n in counts[1:]) + alone * math.ceil(counts[0] / batch)
    core = plan.core(int(np.argmax(rows)), int(np.argmax(cols)))
    height, width = core.shape
    scene_rows, scene_cols = plan.geobox.shape.yx
    tiles = (sum(counts[1:]) + counts[0] * (plan.steps - plan.joint_steps)) / max(plan.steps, 1)
    factor = (tiles if plan.steps else counts[0]) * plan.drawn_px**2 / (scene_rows * scene_cols)
    warnings = []
    enough = 16 * plan.lattice.stride
    if factor > 1.9 and (height < min(enough, scene_rows) or width < min(enough, scene_cols)):
        warnings.append(
            f"chunks of {height} x {width} px cost {factor:.2f} pixels drawn for one kept; "
            f"use chunks of {enough} px or more"
        )
    low, high = plan.card.gsd_m
    if plan.gsd_m < low or plan.gsd_m > high:
        warnings.append(f"pixels of {plan.gsd_m:.3g} m are outside the generator's {low:g} to {high:g} m")
    itemsize = sum(np.dtype(layer.dtype).itemsize for layer in plan.layers) + 1
    copies = draws if plan.reduce is None else 1
    calls = forwards * made * draws
    return Explanation(
        title=f"{plan.verb} with {plan.card.name!r}: {len(plan.out_times)} dates, "
        f"{scene_rows} x {scene_cols} px, {len(plan.layers)} bands",
        chunks=len(rows) * len(cols) * len(plan.chunks[0]),
        tiles=counts[0] * made * draws,
        model_calls=calls,
        overlap_factor=factor,
        output_bytes=scene_rows * scene_cols * len(plan.out_times) * copies * itemsize,
        peak_bytes=_peak_bytes(plan, core),
        seconds=None if seconds_per_forward is None else seconds_per_forward * calls,
        warnings=tuple(warnings),
    )


def _tile_counts(plan: Plan) -> list[int]:
    """Return the tiles of one date over all chunks: those that touch a chunk, then those of each joint step.

    A joint step walks the tiles within its rings; tiles at a chunk's edge count for each chunk.
    """
    rows, cols = _axis_counts(plan, 0), _axis_counts(plan, 1)
    rings = range(plan.joint_steps + 1)
    return [sum(n + 2 * ring for n in rows) * sum(n + 2 * ring for n in cols) for ring in rings]


def _peak_bytes(plan: Plan, core: Window) -> int:
    """Estimate the memory of a chunk in work; the parts are those of `run_chunk`."""
    region, reach = plan.region(core), plan.reach(core)
    cells = math.prod(reach.shape)
    merged = math.prod(region.shape)
    spans = [plan.neighbours(k) for k in plan.dates(0)] if plan.has_input else []
    dates = max((s.stop for s in spans), default=0) - min((s.start for s in spans), default=0)
    source = dates * cells / plan.factor**2
    stored = sum(np.dtype(layer.dtype).itemsize for layer in plan.layers)
    inputs = source * (stored + 5 * plan.channels) + cells * plan.channels
    reading = source * (stored + 5 * plan.channels + 24)
    size = plan.drawn_px**2 * plan.channels
    frames = 1 + min(plan.card.context, max(dates - 1, 0))
    if plan.stepped:
        tiles = sum(len(ring) for ring in plan.tiles(core))
        # Request, result, and a state of a handful of fields.
        held = tiles * size * (frames * 10 + 60)
    else:
        # A group in work, and the results of the one before.
        held = 2 * plan.batch_tiles * size * frames * 10
    canvas = merged * 4 * (plan.channels + 1)
    projecting = merged * 8 * 5 if plan.sensor is not None else 0
    results = len(plan.dates(0)) * math.prod(core.shape) * (stored + 1)
    return int(max(reading, inputs + canvas + max(held, projecting) + results))


def _axis_counts(plan: Plan, axis: int) -> list[int]:
    counts = []
    for i in range(len(plan.chunks[1 + axis])):
        core = plan.core(i, 0) if axis == 0 else plan.core(0, i)
        counts.append(len(plan.lattice.spans(plan.region(core))[axis]))
    return counts


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def token_of(parts: Mapping[str, Any]) -> str:
    """Return the hash of JSON-able parts, as 64 hexadecimal digits."""
    try:
        text = json.dumps(parts, sort_keys=True, allow_nan=True, default=str)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the parameters cannot be hashed: {error}", "use plain values") from error
    return hashlib.sha256(text.encode()).hexdigest()


def check_joint(steps: int, joint_steps: int) -> None:
    """Refuse a joint count that leaves no step for the tile alone."""
    if joint_steps and joint_steps >= max(steps, 1):
        raise ParameterError(
            f"joint_steps={joint_steps} leaves no single step of steps={steps}",
            "use joint_steps below steps, e.g. joint_steps=2, steps=4",
        )
