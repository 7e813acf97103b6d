"""Where tiles, margins, dates and chunks lie: integer arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import (
    COARSE_HALO,
    CONTEXT_CELL_PX,
    CONTEXT_CELLS,
    CONTEXT_PX,
    Card,
    Generator,
    SteppedGenerator,
    Verb,
)
from eoaug.raster.grid import gsd_m
from eoaug.raster.radiometry import Scaling
from eoaug.raster.sensor import Sensor
from eoaug.raster.tiles import Lattice, Tile, Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["NEIGHBOUR_DATES", "Fill", "Layer", "Layout", "Origin", "Reduce", "lattice_for"]


Fill = Literal["mask", "gaps", "everything", "footprint", "measured", "scene"]
"""What a verb fills: a given mask; gaps that another date measured; all that is missing; new dates
wherever any date measured; measured pixels (anew); the whole scene."""

Reduce = Literal["mean", "std"] | float

Origin = Literal["generated", "transferred", "observed"]
"""Where a band's new pixels come from: the generator, by a rule from bands that it made, or nowhere."""

NEIGHBOUR_DATES = 6
"""Dates on either side of a target date that context dates are chosen from."""

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
    edge = max(card.canvas_px, DRAWN_CELLS * factor) - 2 * margin if margin else card.tile_px
    size = max(edge // unit, 1) * unit
    # A coarse measurement makes neighbours agree, and so does a margin.
    overlap = -(-(card.overlap_px // 2 if factor > 1 or margin else card.overlap_px) // unit) * unit
    stride = size - overlap
    if 2 * stride < size:
        stride = -(-size // (2 * unit)) * unit
    return Lattice(size, stride)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything about a result except its pixels: bands, grid, dates, sampling, chunks."""

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
    guides: int = 0
    """Planes of the layout."""
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

    @property
    def keeps_type(self) -> bool:
        """True if the result is stored as the input is; a spread is not."""
        return self.reduce != "std"

    def dtype_of(self, layer: Layer) -> np.dtype[Any]:
        """Return the type in which a band of the result is stored."""
        return np.dtype(layer.dtype if self.keeps_type else np.float32)

    def origin_of(self, layer: Layer) -> Origin:
        """Return where the new pixels of a band come from."""
        slot = self.card.bands[layer.slot] if self.card.bands else ""
        if slot in self.card.passthrough_bands:
            return "observed"
        return "transferred" if slot in self.card.derived_bands else "generated"

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
        """True if a tile is told what lies around it (`Request.context_cells`)."""
        lattice = self.lattice
        whole = lattice.size % CONTEXT_CELL_PX == 0 and lattice.stride % CONTEXT_CELL_PX == 0
        return self.card.uses_context and self.verb == "inpaint" and whole

    @property
    def looks_near(self) -> bool:
        """True if a tile is told its start beyond its edge (`Request.context_pixels`)."""
        return self.card.uses_context and self.verb == "synthesize" and self.has_input and self.strength < 1

    @property
    def around_px(self) -> int:
        """Pixels beyond a tile that its request tells of."""
        if self.sensor is not None:
            return COARSE_HALO * self.factor
        if self.looks_near:
            return CONTEXT_PX
        return CONTEXT_CELLS * CONTEXT_CELL_PX if self.looks_around else 0

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

    def made(self, k: int) -> bool:
        """Tell whether result date ``k`` may hold new pixels; given dates of an extension are handed through."""
        return self.verb != "extend" or self.given(k) is None

    @property
    def most_context(self) -> int:
        """Most dates that a tile's request holds beside its target date."""
        if not self.has_input or self.verb not in ("inpaint", "extend"):
            return 0
        return min(self.card.context, len(self.in_times) - (self.verb == "inpaint"))

    def neighbours(self, k: int) -> range:
        """Return the indices into ``in_times`` that result date ``k`` may look at, itself included."""
        if not self.has_input:
            return range(0)
        if self.fill in ("measured", "scene") or self.verb == "super_resolve":
            at = self.given(k)
            return range(0) if at is None else range(at, at + 1)
        at = int(np.searchsorted(self.in_times, self.out_times[k]))
        return range(max(at - NEIGHBOUR_DATES, 0), min(at + NEIGHBOUR_DATES + 1, len(self.in_times)))

    def context_dates(self, t: int) -> range:
        """Return the indices into ``in_times`` that time chunk ``t`` may look at."""
        spans = [span for span in map(self.neighbours, self.dates(t)) if len(span)]
        return range(min(s.start for s in spans), max(s.stop for s in spans)) if spans else range(0)

    @property
    def new_dates(self) -> list[int]:
        """The dates that are not given, in the order of a sequence: onward in time, then back from the first."""
        new = np.setdiff1d(self.out_times, self.in_times)
        onward = new > self.in_times[0]
        return [*new[onward].tolist(), *new[~onward][::-1].tolist()]

    def turn(self, given: Sequence[int], wanted: Sequence[int]) -> Self:
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

    # -- cost ---------------------------------------------------------------------------------------

    @property
    def stepped(self) -> bool:
        """True if the engine walks the denoising steps itself, to join overlapping tiles."""
        return self.joint_steps > 0 and isinstance(self.generator, SteppedGenerator)

    def tiles(self, core: Window) -> list[list[Tile]]:
        """Return the tiles of a chunk, by ring of neighbours (ring 0 touches the chunk); of a bounded scene its own."""
        rings = self.lattice.rings(self.region(core), self.joint_steps)
        if not self.bounded:
            return rings
        rows, cols = self.lattice.spans(self.scene)
        return [[tile for tile in ring if tile.row in rows and tile.col in cols] for ring in rings]

    @property
    def group_tiles(self) -> int:
        """Tiles that go through the generator together."""
        # A walk holds one batch of the network per group; generate() cuts longer lists itself.
        return min(self.batch_tiles, self.card.batch) if self.stepped else self.batch_tiles

    def steps_of_ring(self, ring: int) -> int:
        """Return the denoising steps that a ring of neighbours takes: ring 0 all, the others joint ones alone.

        A best estimate counts as one.
        """
        return max(self.steps, 1) if ring == 0 else self.joint_steps - ring + 1

    def tile_steps(self, core: Window) -> int:
        """Return the denoising steps of one image of a chunk, summed over its tiles."""
        return sum(len(tiles) * self.steps_of_ring(ring) for ring, tiles in enumerate(self.tiles(core)))
