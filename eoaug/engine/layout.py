"""Which tiles, margins, dates and pixels a chunk needs: what follows from several values of a plan together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from eoaug.engine.values import Bands, Calendar, Chunking, Coverage, Fill, Grid, Sampling
from eoaug.generators.base import (
    COARSE_HALO,
    CONTEXT_CELL_PX,
    CONTEXT_CELLS,
    CONTEXT_PX,
    GUIDE_PX,
    TRANSLATE_CONTEXT,
    Card,
    Generator,
    SteppedGenerator,
    Verb,
)
from eoaug.raster.tiles import Lattice, Tile, Window

_GUIDED_TILE_PX, _GUIDED_OVERLAP_PX = 120, 24

__all__ = ["CANVAS_CELLS", "Layout", "in_one_tile", "lattice_for"]

CANVAS_CELLS = 16
"""Least edge of the square drawn for a tile, in coarse pixels, for generators that draw beyond the tile's edges."""


def lattice_for(card: Card, factor: int, verb: Verb) -> Lattice:
    """Return the tiles that a generator is called with on a grid refined by ``factor``.

    Size and stride are multiples of lcm(factor, card.multiple_of, card.latent_factor), so that a tile holds
    whole coarse pixels and whole canvas cells.
    """
    unit = math.lcm(factor, card.multiple_of, card.latent_factor)
    margin = card.margin_px(verb, factor)
    # With few coarse pixels in a square, margin and overlap would be most of it.
    edge = max(card.canvas_px, CANVAS_CELLS * factor) - 2 * margin if margin else card.tile_px
    size = max(edge // unit, 1) * unit
    # A coarse measurement makes neighbours agree, and so does a margin.
    overlap = -(-(card.overlap_px // 2 if factor > 1 or margin else card.overlap_px) // unit) * unit
    stride = size - overlap
    if 2 * stride < size:
        stride = -(-size // (2 * unit)) * unit
    return Lattice(size, stride)


def in_one_tile(grid: Grid, card: Card, verb: Verb) -> Grid | None:
    """Return a grid with the whole result in the middle of one tile; None where it does not fit, or needs other tiles.

    An image at absolute pixels touches up to nine tiles of its own size.
    """
    size = lattice_for(card, grid.factor, verb).size
    if not grid.bounded or grid.sensor is not None or grid.guided or max(grid.scene.shape) > size:
        return None
    unit = math.lcm(card.multiple_of, card.latent_factor, 1 if size % CONTEXT_CELL_PX else CONTEXT_CELL_PX)
    top, left = ((size - edge) // (2 * unit) * unit for edge in grid.scene.shape)
    return replace(grid, origin=(top, left), one_tile=True)


def _guided_lattice(cell_px: int) -> Lattice:
    """Return the tiles in which coarse bands are sharpened: large ones, since a regression is fitted to each."""
    size = max(_GUIDED_TILE_PX // cell_px, 1) * cell_px
    return Lattice(size, size - -(-_GUIDED_OVERLAP_PX // cell_px) * cell_px)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything about a result except its pixels, as its five values; `eoaug.engine.plan.Plan` explains it."""

    verb: Verb
    generator: Generator
    fill: Fill
    bands: Bands
    grid: Grid
    calendar: Calendar
    sampling: Sampling
    chunking: Chunking
    token: str = ""
    """Hash of inputs, parameters, model and version: equal tokens, equal pixels."""
    needs_known: bool = False
    """True if nothing is generated where not one pixel of the whole cube is known, which a lazy cube shows late."""
    mask_note: str = ""
    """What is masked and by how much the mask was dilated, in words; empty without a mask."""
    mask_px: int = 0
    """Reach of the mask's dilation, in pixels of the result."""
    coverage: Coverage | None = None
    """What is known and filled by date; None where it was not computed."""
    notes: tuple[tuple[str, str], ...] = ()
    """(Label, text) that the explanation shows."""

    # -- the generator on this grid -------------------------------------------------------------------

    @property
    def card(self) -> Card:
        """The generator's card."""
        return self.generator.card

    @cached_property
    def lattice(self) -> Lattice:
        """Tiles of the generator on the result's grid."""
        if self.grid.guided:
            return _guided_lattice(self.grid.cell_px)
        lattice = lattice_for(self.card, self.grid.factor, self.verb)
        return Lattice(lattice.size, lattice.size) if self.grid.one_tile else lattice

    @property
    def canvas_px(self) -> int:
        """Edge of the square that the generator draws for a tile."""
        margin = GUIDE_PX if self.grid.guided else self.card.margin_px(self.verb, self.grid.factor)
        return self.lattice.size + 2 * margin

    @cached_property
    def grid_m(self) -> float:
        """Pixel size in metres that all windows of the grid share: at the equator on a geographic one."""
        return self.sampling.metadata.get("gsd_m", self.grid.gsd_at(0.0))

    @property
    def stepped(self) -> bool:
        """True if the engine runs the denoising steps itself, to average overlapping tiles."""
        return self.sampling.joint_steps > 0 and isinstance(self.generator, SteppedGenerator)

    @property
    def group_tiles(self) -> int:
        """Tiles that go through the generator together."""
        tiles = self.chunking.batch_tiles
        # A sampling state holds one batch of the network; generate() cuts longer lists itself.
        return min(tiles, self.card.batch) if self.stepped else tiles

    # -- how far a pixel depends on others --------------------------------------------------------------

    @property
    def uses_context_cells(self) -> bool:
        """True if requests hold the surroundings of their tile (`Request.context_cells`)."""
        lattice = self.lattice
        whole = lattice.size % CONTEXT_CELL_PX == 0 and lattice.stride % CONTEXT_CELL_PX == 0
        return self.card.uses_context and self.verb in ("inpaint", "translate") and whole

    @property
    def uses_context_pixels(self) -> bool:
        """True if requests hold pixels beyond their tile (`Request.context_pixels`): the starting point, or all bands."""
        if self.grid.guided:
            return True
        varies = self.verb == "synthesize" and self.calendar.has_input and self.sampling.strength < 1
        return self.card.uses_context and varies

    @property
    def context_px(self) -> int:
        """Pixels beyond a tile that its request holds."""
        if self.grid.sensor is not None:
            return COARSE_HALO * self.grid.factor
        if self.grid.guided:
            return GUIDE_PX
        if self.uses_context_pixels:
            return CONTEXT_PX
        return CONTEXT_CELLS * CONTEXT_CELL_PX if self.uses_context_cells else 0

    @property
    def margin_px(self) -> int:
        """Distance from a crop's edge beyond which the crop equals the scene, bit for bit.

        In pixels of the result. Without a georeference crops carry no promise.
        """
        if not self.grid.bounded:
            return 0
        rounds = len(self.calendar.new_dates) if self.calendar.autoregressive else 1
        tiles_px = (self.sampling.joint_steps + 1) * self.lattice.size
        return rounds * (tiles_px + self.grid.sensor_px + self.context_px) + self.mask_px

    def core(self, y: int, x: int) -> Window:
        """Return the absolute pixels of chunk (y, x)."""
        return self.chunking.window(y, x).shift(*self.grid.origin)

    def reach(self, core: Window) -> Window:
        """Return the pixels of the result's grid that ``core`` depends on, within the scene if bounded."""
        whole = self.lattice.hull(self.grid.region(core), self.sampling.joint_steps)
        return self.grid.clip(whole.pad(self.context_px))

    def tiles(self, core: Window) -> list[list[Tile]]:
        """Return the tiles of a chunk by ring of neighbours; ring 0 touches the chunk, none lies beyond a bounded scene."""
        rings = self.lattice.rings(self.grid.region(core), self.sampling.joint_steps)
        if not self.grid.bounded:
            return rings
        rows, cols = self.lattice.spans(self.grid.scene)
        return [[tile for tile in ring if tile.row in rows and tile.col in cols] for ring in rings]

    def tile_steps(self, core: Window) -> int:
        """Return the denoising steps of one image of a chunk, summed over its tiles."""
        return sum(len(ring) * self.sampling.steps_of_ring(n) for n, ring in enumerate(self.tiles(core)))

    # -- dates ------------------------------------------------------------------------------------------

    def generates(self, date: int) -> bool:
        """Tell whether a result date may hold new pixels; given dates of an extension are passed through."""
        return self.verb != "extend" or self.calendar.given(date) is None

    @property
    def most_context(self) -> int:
        """Most context dates that a request holds."""
        if self.verb == "translate":
            return min(TRANSLATE_CONTEXT, len(self.calendar.in_times) - 1)
        if not self.calendar.has_input or self.verb not in ("inpaint", "extend"):
            return 0
        return min(self.card.context, len(self.calendar.in_times) - (self.verb == "inpaint"))

    def neighbours(self, date: int) -> range:
        """Return the indices of the given dates that a result date may depend on, itself included."""
        if self.fill in ("measured", "scene") or self.verb == "super_resolve":
            given = self.calendar.given(date)
            return range(0) if given is None else range(given, given + 1)
        return self.calendar.nearby(date)

    def context_dates(self, t: int) -> range:
        """Return the indices of the given dates that time chunk ``t`` may depend on."""
        spans = [span for span in map(self.neighbours, self.chunking.dates(t)) if len(span)]
        return range(min(s.start for s in spans), max(s.stop for s in spans)) if spans else range(0)

    def for_dates(self, given: Sequence[int], wanted: Sequence[int]) -> Self:
        """Return the plan of one autoregressive step: see `Calendar.for_dates`."""
        return replace(
            self,
            calendar=self.calendar.for_dates(given, wanted),
            chunking=self.chunking.for_dates(len(wanted)),
            token=f"{self.token} {self.sampling.first_member} {wanted[-1]}",
        )
