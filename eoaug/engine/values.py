"""The five values of a plan: bands, grid, calendar, sampling, chunking.

Each is frozen and computes from its own fields alone; what needs several of them is in
`eoaug.engine.layout`. Integer arithmetic and dates; no pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.bands import POLARISATIONS
from eoaug.raster.grid import gsd_m
from eoaug.raster.plausible import Quantity
from eoaug.raster.products import UNKNOWN_PRODUCT, Product
from eoaug.raster.radiometry import Scaling
from eoaug.raster.sensor import Sensor
from eoaug.raster.tiles import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = [
    "NEIGHBOUR_DATES",
    "Bands",
    "Calendar",
    "ChunkIndex",
    "Chunking",
    "Coverage",
    "Fill",
    "Grid",
    "Layer",
    "Origin",
    "Reduce",
    "Sampling",
]

Fill = Literal["mask", "gaps", "everything", "footprint", "measured", "scene", "translated"]
"""What a verb generates: the pixels of a given mask; gaps that another date measured; all missing pixels;
new dates wherever any date measured; the measured pixels again; the whole scene; what is missing of a band where another
band, or another date, measured."""

Reduce = Literal["mean", "std"] | float
"""How ensemble members are reduced; a number is a quantile, 0 to 1."""

Origin = Literal["generated", "transferred", "observed"]
"""Where a band's new pixels come from: the generator; a rule from generated bands; nowhere (it keeps its own)."""

ChunkIndex = tuple[int, int, int, int]
"""Number of a chunk along (member, time, y, x)."""

NEIGHBOUR_DATES = 6
"""Dates on either side of a target date that context dates are chosen from."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much of a cube is known and how much is to be filled, by date."""

    clear: NDArray[np.float64]
    """Shape (Tin,), share of pixels with a measurement outside the mask, 0 to 1."""
    fill: NDArray[np.float64]
    """Shape (Tout,), share of pixels that are generated, 0 to 1."""


@dataclass(frozen=True)
class Layer:
    """One band of the result: its channel in the generator and its storage."""

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
    origin: Origin = "generated"
    unchecked: Quantity | None = None
    """What the band should hold, if that is to be checked when its pixels are read."""
    common_name: str = ""
    """Common name of the band; empty where it is not known."""
    product: Product = UNKNOWN_PRODUCT
    """Sensor and processing level, as far as they are known."""
    extra_kind: str = ""
    """Of a band without a slot, what it holds (`Request.extra_kinds`): no network of the generator knows it."""

    @property
    def std_name(self) -> str:
        """Name of the variable that holds the expected error of the band."""
        return f"{self.name}_std"

    @property
    def missing(self) -> float:
        """Stored number of a pixel that becomes missing: NaN in floats, where it is never taken for a value."""
        return math.nan if self.nodata is None or np.dtype(self.dtype).kind == "f" else self.nodata


@dataclass(frozen=True)
class Bands:
    """The bands of the result, and the channels of the generator's requests."""

    layers: tuple[Layer, ...]
    channels: int
    """Channels of a request: those of the card and one per layer without a slot; or one per layer."""
    layout_planes: int = 0
    """Planes of the conditioning raster."""

    @property
    def slots(self) -> list[int]:
        """Channel of every layer."""
        return [layer.slot for layer in self.layers]

    @property
    def seen_through(self) -> list[int]:
        """Channels of radar, from which clouds hide nothing."""
        return [layer.slot for layer in self.layers if layer.common_name in POLARISATIONS]

    @property
    def extra(self) -> list[Layer]:
        """Layers without a slot of the generator, in the order of their channels."""
        return sorted((layer for layer in self.layers if layer.extra_kind), key=lambda layer: layer.slot)

    def slots_from(self, *origins: Origin) -> list[int]:
        """Return the channels of the layers whose new pixels come from one of ``origins``."""
        return [layer.slot for layer in self.layers if layer.origin in origins]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of the result, and how a coarser measurement lies on it."""

    geobox: GeoBox
    origin: tuple[int, int]
    """Absolute index (row, column) of the result's first pixel."""
    factor: int = 1
    """Pixels of the result per input pixel along one axis."""
    sensor: Sensor | None = None
    """How an input pixel was measured, with one MTF for all channels or one per channel; only for super-resolution."""
    guided: tuple[Sensor | None, ...] = ()
    """To sharpen coarse bands on this grid: how each channel was measured, None for fine bands; see `Request.guided`."""
    bounded: bool = True
    """False for unconditional synthesis: its plane continues beyond the result, so that a window made
    alone equals the same window of any larger result."""
    gsd_m: float = math.nan
    """Ground sampling distance in metres at the grid's centre; NaN without a georeference."""
    one_tile: bool = False
    """True if the whole result lies in one tile, which has no neighbours; ``origin`` then counts from the tile's edge."""

    @cached_property
    def scene(self) -> Window:
        """All pixels of the result, in absolute pixels of its grid."""
        rows, cols = self.geobox.shape.yx
        return Window(0, 0, rows, cols).shift(*self.origin)

    def clip(self, window: Window) -> Window:
        """Return the part of ``window`` inside the scene; all of it on an unbounded plane."""
        return window & self.scene if self.bounded else window

    @cached_property
    def cell_px(self) -> int:
        """Edge of the smallest square of whole measured pixels of all bands, in pixels of the result."""
        return math.lcm(self.factor, *(sensor.factor for sensor in self.guided if sensor is not None))

    @property
    def sensor_px(self) -> int:
        """Reach of the projection onto the measurement, in pixels of the result: whole measured pixels."""
        sensors = [sensor for sensor in (self.sensor, *self.guided) if sensor is not None]
        reach = max((sensor.radius_px for sensor in sensors), default=0)
        return -(-reach // self.cell_px) * self.cell_px

    def region(self, core: Window) -> Window:
        """Return the pixels that must be merged for ``core``: with the projection's halo, in whole measured pixels."""
        return self.clip(core.pad(self.sensor_px)).coarsen(self.cell_px).scale(self.cell_px)

    def source_window(self, window: Window) -> Window:
        """Return the input pixels under a window of the result, counted from the input's first pixel."""
        top, left = self.origin[0] // self.factor, self.origin[1] // self.factor
        return window.coarsen(self.factor).shift(-top, -left)

    def gsd_at(self, lat_deg: float) -> float:
        """Return the ground sampling distance in metres; on a geographic grid it depends on the latitude."""
        crs = self.geobox.crs
        return gsd_m(self.geobox, lat_deg) if crs is not None and crs.geographic else self.gsd_m


@dataclass(frozen=True, kw_only=True, eq=False)
class Calendar:
    """The dates of the input and of the result, in seconds since 1970."""

    in_times: NDArray[np.int64]
    """Shape (Tin,), given dates, ascending."""
    out_times: NDArray[np.int64]
    """Shape (Tout,), dates of the result, ascending."""
    cloud: NDArray[np.float64]
    """Shape (Tout,), cloud fraction 0 to 1, NaN where unknown."""
    dated: bool = True
    """False if ``in_times`` are only a placeholder."""
    has_input: bool = True
    """False for unconditional synthesis: the given dates have no pixels."""
    autoregressive: bool = False
    """True if new dates are made one after the other, with those before as context; see `for_dates`."""
    mask_times: NDArray[np.int64] | None = None
    """Shape (Tmask,), dates of the mask, ascending; None: ``in_times``. Dates that were generated have none."""

    def given(self, date: int) -> int | None:
        """Return the index into ``in_times`` of result date ``date``, or None for a new date."""
        if not self.has_input:
            return None
        at = int(np.searchsorted(self.in_times, self.out_times[date]))
        return at if at < len(self.in_times) and self.in_times[at] == self.out_times[date] else None

    def nearby(self, date: int) -> range:
        """Return the indices into ``in_times`` of at most `NEIGHBOUR_DATES` dates on either side, and of the date."""
        if not self.has_input:
            return range(0)
        at = int(np.searchsorted(self.in_times, self.out_times[date]))
        return range(max(at - NEIGHBOUR_DATES, 0), min(at + NEIGHBOUR_DATES + 1, len(self.in_times)))

    def mask_dates(self, dates: range) -> range:
        """Return the indices of the mask's dates among the given dates ``dates``."""
        if self.mask_times is None or not len(dates):
            return dates
        first, last = self.in_times[dates.start], self.in_times[dates.stop - 1]
        return range(
            int(np.searchsorted(self.mask_times, first)),
            int(np.searchsorted(self.mask_times, last, side="right")),
        )

    @property
    def new_dates(self) -> list[int]:
        """The dates that are not given, in autoregressive order: forward in time, then back from the first."""
        new = np.setdiff1d(self.out_times, self.in_times)
        forward = new > self.in_times[0]
        return [*new[forward].tolist(), *new[~forward][::-1].tolist()]

    def for_dates(self, given: Sequence[int], wanted: Sequence[int]) -> Calendar:
        """Return the calendar of one autoregressive step.

        Parameters
        ----------
        given
            Dates that have pixels by then, ascending.
        wanted
            Dates of the step's result, ascending; some of ``out_times``.
        """
        return replace(
            self,
            autoregressive=False,
            mask_times=self.in_times if self.mask_times is None else self.mask_times,
            in_times=np.asarray(given, np.int64),
            out_times=np.asarray(wanted, np.int64),
            cloud=self.cloud[np.searchsorted(self.out_times, wanted)],
        )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pixels are drawn: denoising steps, noise, conditioning, ensemble."""

    steps: int = 0
    """Denoising steps; 0: the best estimate."""
    joint_steps: int = 0
    """First denoising steps that are averaged over overlapping tiles."""
    seed: int = 0
    strength: float = 1.0
    """Denoising strength, 0 to 1."""
    guidance: float | None = None
    """Scale of classifier-free guidance."""
    prompt: str | None = None
    metadata: Mapping[str, float] = field(default_factory=dict)
    """Metadata fields that the user set."""
    members: int | None = None
    """Ensemble members; None: one, without a ``member`` dimension."""
    first_member: int = 0
    """Number of the first of the members, or of the only one."""
    reduce: Reduce | None = None
    uncertainty: bool = False
    """True to return the expected error of every band too; see `eoaug.generators.base.UncertaintyGenerator`."""
    class_map: str = ""
    """Name of the variable with the classes that the generator lays out; empty: none. See
    `eoaug.generators.base.ClassMapGenerator`."""
    calibrated: bool = False
    """True to scale the expected errors of the whole result afterwards, until intervals hold on the scene."""

    @property
    def result_members(self) -> int | None:
        """Length of the result's ``member`` dimension; None without it."""
        return self.members if self.reduce is None else None

    def members_of(self, chunk: int) -> Sequence[int]:
        """Return the numbers of the members that go into chunk ``chunk`` along ``member``."""
        return (chunk + self.first_member,) if self.reduce is None else range(self.members or 1)

    @property
    def keeps_type(self) -> bool:
        """True if the result is stored as the input is; a standard deviation is not."""
        return self.reduce != "std"

    def dtype_of(self, layer: Layer) -> np.dtype[Any]:
        """Return the type in which a band of the result is stored."""
        return np.dtype(layer.dtype if self.keeps_type else np.float32)

    def steps_of_ring(self, ring: int) -> int:
        """Return the denoising steps of a ring of neighbours: ring 0 takes all, the others joint ones alone.

        A best estimate counts as one.
        """
        return max(self.steps, 1) if ring == 0 else self.joint_steps - ring + 1


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """How the work is cut into pieces; no pixel depends on it."""

    lengths: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Chunk lengths of the result along (time, y, x)."""
    batch_tiles: int
    """Tiles that the generator is given in one call."""

    @cached_property
    def _edges(self) -> tuple[NDArray[np.int64], ...]:
        return tuple(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64) for sizes in self.lengths)

    def window(self, y: int, x: int) -> Window:
        """Return the pixels of chunk (y, x), counted from the result's first pixel."""
        _, rows, cols = self._edges
        return Window(int(rows[y]), int(cols[x]), int(rows[y + 1]), int(cols[x + 1]))

    def dates(self, t: int) -> range:
        """Return the result dates of time chunk ``t``."""
        edges = self._edges[0]
        return range(int(edges[t]), int(edges[t + 1]))

    def indices(self, members: int = 1) -> Iterator[ChunkIndex]:
        """Yield the chunks of a result with so many members, the last axis fastest."""
        yield from np.ndindex(members, *map(len, self.lengths))

    def for_dates(self, count: int) -> Chunking:
        """Return the chunking of a result of ``count`` dates, in time chunks of the same size."""
        size = self.lengths[0][0]
        cut = tuple(min(size, count - first) for first in range(0, count, size))
        return replace(self, lengths=(cut, *self.lengths[1:]))
