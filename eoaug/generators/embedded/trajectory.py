"""The sampling state of the embedded model: one trajectory per request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import CONTEXT_PX, Request
from eoaug.generators.embedded.base_estimate import BaseEstimate
from eoaug.generators.embedded.landscape import Plane
from eoaug.generators.interpolation import push_pull
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor

__all__ = [
    "CELL",
    "HALO",
    "OUTLINE",
    "OUTLINE_HALO",
    "ResidualBatch",
    "ResidualTrajectory",
    "SamplingPath",
    "measured",
    "plane",
]


CELL = Sensor(factor=2, mtf=(0.6,))
"""How a cell of a landscape relates to the image's pixels: softly, for a plain mean would print its squares."""
OUTLINE = Sensor(factor=4, mtf=(0.6,))
"""What a variation keeps of its start."""
HALO = 2
"""Cells that a landscape is seen beyond what is drawn."""
OUTLINE_HALO = 3
"""Cells that an outline is seen beyond what is drawn."""
_USUAL_M = 20.0
"""Pixel size of a cell where the grid knows none."""


@dataclass(frozen=True, eq=False)
class SamplingPath:
    """How one request is answered."""

    target: int
    """Index of the date to fill."""
    present: NDArray[np.bool_]
    """Shape (C, 1, 1), True for bands of the cube."""
    free: bool
    """Nothing binds the result: a layout is drawn first."""
    beyond: int
    """Pixels that are drawn beyond each of the tile's edges."""
    path: tuple[float, ...]
    """Times of the residual's path, one more than calls; empty: none."""

    @property
    def calls(self) -> int:
        """Number of steps."""
        return max(len(self.path) - 1, 0)


@dataclass(eq=False)
class ResidualTrajectory:
    """One request on its way from noise to image; images (C, H, W) in model units."""

    request: Request
    plan: SamplingPath
    asked: Request = field(init=False)
    """What the conditional networks answer: the request, or to super-resolve its layout; grown by what is drawn
    beyond."""
    estimate: Float32Array = field(init=False)
    """Clean estimate of the target date, grown."""
    x: Float32Array = field(init=False)
    """The point x_t of the path, in units of its network."""
    before: Float32Array | None = None
    """The clean estimate one step before, in the same units."""
    ground: BaseEstimate = field(init=False)
    """What the residual is drawn upon."""
    told: Float32Array = field(init=False)
    """What the residual's network makes of the ground's conditions, once for all steps."""
    scale: Float32Array = field(init=False)
    """One unit of the residual."""

    def __post_init__(self) -> None:
        request = self.request
        known = request.known if self.plan.free else request.known & ~request.fill
        # What lies where nothing was measured must not matter.
        values = np.where(known, request.values, np.float32(0))
        self.request = replace(request, values=values, known=known)
        self.asked = self.request if request.coarse is None else _grown(self.request, self.plan.beyond)

    @property
    def own(self) -> tuple[slice, ...]:
        """The tile's own pixels in what is drawn."""
        inner = slice(self.plan.beyond, -self.plan.beyond or None)
        return (slice(None), inner, inner)

    @cached_property
    def _near(self) -> Float32Array:
        """What a variation starts from, and `CONTEXT_PX` around it: mirrored where nobody told."""
        request, target, width = self.request, self.plan.target, (CONTEXT_PX, CONTEXT_PX)
        if request.context_pixels is not None:
            near = request.context_pixels[target]
            return push_pull.push_pull(np.nan_to_num(near), np.isfinite(near))
        start = push_pull.push_pull(request.values[target], request.known[target])
        return np.pad(start, ((0, 0), width, width), mode="symmetric")

    def started(self, margin: int) -> Float32Array:
        """Return what a variation starts from and some pixels around it, shape (C, H + 2 margin, W + 2 margin)."""
        inner = slice(CONTEXT_PX - margin, margin - CONTEXT_PX or None)
        return self._near[:, inner, inner]

    def outline(self) -> Float32Array:
        """Return what a variation keeps, with a halo, shape (C, h, w)."""
        found: Float32Array = OUTLINE.degrade(self._near)
        return found


@dataclass(eq=False)
class ResidualBatch:
    """A batch of requests between two steps."""

    walks: list[ResidualTrajectory]
    """In the order of the requests."""
    index: int = -1
    """Last step taken; -1 before the first."""


def plane(request: Request, target: int) -> Plane:
    """Return the plane that a request is a part of."""
    own_m = float(request.metadata[target, 2])
    gsd_m = (own_m if np.isnan(request.grid_m) else request.grid_m) * CELL.factor
    # In half octaves: the affines of two windows of one grid differ in their last bits.
    octaves = round(2 * np.log2(gsd_m)) / 2 if gsd_m > 0 else float(np.log2(_USUAL_M))
    return Plane(request.seed, request.member, int(request.times[target]), 2.0**octaves)


def _grown(request: Request, edge: int) -> Request:
    """Return a super-resolution's request for its tile and whole coarse pixels beyond it."""
    sides = ((0, 0), (0, 0), (edge, edge), (edge, edge))
    row, col = request.origin
    return replace(
        request,
        values=np.pad(request.values, sides),
        known=np.pad(request.known, sides),
        fill=np.pad(request.fill, sides),
        origin=(row - edge, col - edge),
        coarse_halo=request.coarse_halo - edge // request.factor,
    )


def measured(walk: ResidualTrajectory, layout: Float32Array, sensor: Sensor, halo: int) -> Request:
    """Return the request to super-resolve what a sensor sees of a free tile, grown, and of ``halo`` pixels around."""
    request, date = walk.request, slice(walk.plan.target, walk.plan.target + 1)
    row, col = request.origin
    edge = (walk.plan.beyond, walk.plan.beyond)
    nothing = np.pad(np.zeros_like(request.values[date]), ((0, 0), (0, 0), edge, edge))
    return Request(
        values=nothing,
        known=nothing.astype(bool),
        fill=np.broadcast_to(walk.plan.present, nothing.shape),
        times=request.times[date],
        metadata=request.metadata[date],
        origin=(row - walk.plan.beyond, col - walk.plan.beyond),
        coarse=np.where(walk.plan.present, layout, np.float32(np.nan))[None].astype(np.float32),
        coarse_halo=halo,
        factor=sensor.factor,
        sensor=sensor,
    )
