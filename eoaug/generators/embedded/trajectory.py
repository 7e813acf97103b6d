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
"""How a cell of a landscape relates to the pixels of the image. Smooth: a plain mean would leave visible squares."""
OUTLINE = Sensor(factor=4, mtf=(0.6,))
"""Sensor that reduces the start of a variation to the outline that it keeps."""
HALO = 2
"""Cells of a landscape around the drawn square."""
OUTLINE_HALO = 3
"""Cells of an outline around the drawn square."""
_USUAL_M = 20.0
"""Pixel size of a cell, in metres, where that of the grid is unknown."""


@dataclass(frozen=True, eq=False)
class SamplingPath:
    """Geometry and noise schedule of one request."""

    target: int
    """Index of the date to fill."""
    present: NDArray[np.bool_]
    """Shape (C, 1, 1), True for bands of the cube."""
    free: bool
    """True for synthesis: no measurement constrains the result, which super-resolves a landscape or an outline."""
    beyond: int
    """Pixels drawn beyond each edge of the tile."""
    path: tuple[float, ...]
    """Times of the schedule of the residual, one more than network calls; empty: no residual."""

    @property
    def calls(self) -> int:
        """Number of steps."""
        return max(len(self.path) - 1, 0)


@dataclass(eq=False)
class ResidualTrajectory:
    """Sampling state of one request; images (C, H, W) in model units, of the tile and its margin."""

    request: Request
    plan: SamplingPath
    conditional: Request = field(init=False)
    """The conditional request that the networks get, with its margin: the request itself, or for synthesis the
    super-resolution of its coarse image."""
    estimate: Float32Array = field(init=False)
    """Clean estimate of the target date, with its margin."""
    x: Float32Array = field(init=False)
    """The point x_t of the path, in units of its network."""
    before: Float32Array | None = None
    """The clean estimate of the previous step, in the same units."""
    base_estimate: BaseEstimate = field(init=False)
    """What the residual is added to."""
    encoded: Float32Array = field(init=False)
    """First layer of the residual network applied to the features, which are the same in all steps."""
    scale: Float32Array = field(init=False)
    """One unit of the residual."""

    def __post_init__(self) -> None:
        request = self.request
        known = request.known if self.plan.free else request.known & ~request.fill
        # Values of unknown pixels must not have an influence.
        values = np.where(known, request.values, np.float32(0))
        self.request = replace(request, values=values, known=known)
        self.conditional = self.request if request.coarse is None else _grown(self.request, self.plan.beyond)

    @property
    def own(self) -> tuple[slice, ...]:
        """Index of the tile within the drawn square."""
        inner = slice(self.plan.beyond, -self.plan.beyond or None)
        return (slice(None), inner, inner)

    @cached_property
    def _start(self) -> Float32Array:
        """The start of a variation and `CONTEXT_PX` pixels around it, mirrored if the request has no context."""
        request, target, width = self.request, self.plan.target, (CONTEXT_PX, CONTEXT_PX)
        if request.context_pixels is not None:
            start = request.context_pixels[target]
            return push_pull.push_pull(np.nan_to_num(start), np.isfinite(start))
        start = push_pull.push_pull(request.values[target], request.known[target])
        return np.pad(start, ((0, 0), width, width), mode="symmetric")

    def start_with_margin(self, margin: int) -> Float32Array:
        """Return the start of a variation with a margin, shape (C, H + 2 margin, W + 2 margin)."""
        inner = slice(CONTEXT_PX - margin, margin - CONTEXT_PX or None)
        return self._start[:, inner, inner]

    def outline(self) -> Float32Array:
        """Return the outline of a variation's start, with a halo, shape (C, h, w)."""
        outline: Float32Array = OUTLINE.degrade(self._start)
        return outline


@dataclass(eq=False)
class ResidualBatch:
    """Sampling state of a batch of requests between two steps."""

    trajectories: list[ResidualTrajectory]
    """In the order of the requests."""
    index: int = -1
    """Last step taken; -1 before the first."""


def plane(request: Request, target: int) -> Plane:
    """Return the landscape plane that a request belongs to."""
    own_m = float(request.metadata[target, 2])
    gsd_m = (own_m if np.isnan(request.grid_m) else request.grid_m) * CELL.factor
    # Rounded to half octaves: the affines of two windows of one grid may differ in their last bits.
    octaves = round(2 * np.log2(gsd_m)) / 2 if gsd_m > 0 else float(np.log2(_USUAL_M))
    return Plane(request.seed, request.member, int(request.times[target]), 2.0**octaves)


def _grown(request: Request, edge: int) -> Request:
    """Return a super-resolution request enlarged by a margin of whole coarse pixels, taken from its halo."""
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


def measured(trajectory: ResidualTrajectory, layout: Float32Array, sensor: Sensor, halo: int) -> Request:
    """Return the request to super-resolve the coarse image of an unconditional tile with its margin.

    Parameters
    ----------
    trajectory
        Of the tile.
    layout
        Shape (C, h, w), model units: what ``sensor`` measures of the tile, its margin and ``halo`` coarse pixels around.
    sensor, halo
        As in `Request`.
    """
    request, date = trajectory.request, slice(trajectory.plan.target, trajectory.plan.target + 1)
    row, col = request.origin
    edge = (trajectory.plan.beyond, trajectory.plan.beyond)
    nothing = np.pad(np.zeros_like(request.values[date]), ((0, 0), (0, 0), edge, edge))
    return Request(
        values=nothing,
        known=nothing.astype(bool),
        fill=np.broadcast_to(trajectory.plan.present, nothing.shape),
        times=request.times[date],
        metadata=request.metadata[date],
        origin=(row - trajectory.plan.beyond, col - trajectory.plan.beyond),
        coarse=np.where(trajectory.plan.present, layout, np.float32(np.nan))[None].astype(np.float32),
        coarse_halo=halo,
        factor=sensor.factor,
        sensor=sensor,
    )
