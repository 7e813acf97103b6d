"""The sampling state of the embedded model: one trajectory per request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import CONTEXT_PX, Card, Request, present_bands
from eoaug.generators.embedded import flow_samplers
from eoaug.generators.embedded.base_estimate import BaseEstimate
from eoaug.generators.embedded.features import from_log, to_log
from eoaug.generators.embedded.land import LandPlane
from eoaug.generators.embedded.legend import Legend
from eoaug.generators.interpolation import push_pull
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor

__all__ = [
    "KEEPING",
    "OUTLINE",
    "OUTLINE_HALO",
    "ResidualBatch",
    "ResidualTrajectory",
    "SamplingPath",
    "land_plane",
    "measured",
]


OUTLINE = Sensor(factor=4, mtf=(0.6,))
"""Sensor that reduces the start of a variation to the outline that it keeps."""
OUTLINE_HALO = 3
"""Cells of an outline around the drawn square."""
KEEPING = 0.6
"""Denoising strength up to which a variation keeps the outline of its start."""
_SIGMA = (20.0, 0.2)
"""Noise over signal at the first and the last call (arXiv:2206.00364, section 5). The first is small for a diffusion
model: the layers below determine the large scales."""


@dataclass(frozen=True, eq=False)
class SamplingPath:
    """Geometry and noise schedule of one request."""

    target: int
    """Index of the date to fill."""
    present: NDArray[np.bool_]
    """Shape (C, 1, 1), True for bands of the cube."""
    unconditional: bool
    """True for synthesis: no measurement constrains the result."""
    drawn: bool
    """True if new land replaces the tile: unconditional synthesis and variations of strength 1."""
    beyond: int
    """Pixels drawn beyond each edge of the tile."""
    path: tuple[float, ...]
    """Times of the schedule of the residual, one more than network calls; empty: no residual."""

    @classmethod
    def of(cls, request: Request, card: Card) -> SamplingPath:
        """Return the geometry and the schedule of a request to the generator of ``card``."""
        steps = request.steps if request.steps is not None else card.steps.get(request.verb, 0)
        unconditional = request.verb == "synthesize"
        strength = request.strength if unconditional else 1.0
        # A variation begins at a noise level that leaves its start visible (SDEdit, arXiv:2108.01073).
        reach = strength / (1.0 - strength) if strength < 1.0 else np.inf
        if unconditional:
            # Synthesis has no best estimate: its expected value is flat.
            steps = steps or card.steps["synthesize"]
        high, low = _SIGMA
        drawn = unconditional and strength == 1.0
        # Up to `KEEPING` texture comes from the start itself, where it was measured.
        keeps = unconditional and strength <= KEEPING and _start_is_whole(request)
        sampled = reach > 0 and steps > 0 and not drawn and not keeps
        # The networks pad with zeros: in the outermost coarse pixels of a tile a third of the detail of super-resolution
        # was missing. So a margin is sampled as well, where its input is known, and cut off.
        has_margin = request.coarse is None or request.coarse_halo > 1
        return cls(
            target=int(np.flatnonzero(request.target)[0]),
            present=present_bands(request)[:, None, None],
            unconditional=unconditional,
            drawn=drawn,
            beyond=card.margin_px(request.verb, request.factor) if has_margin and not drawn else 0,
            path=flow_samplers.karras(steps, sigma_max=min(reach, high), sigma_min=low) if sampled else (),
        )

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
    """The conditional request that the networks get, with its margin: the request itself, or for a variation the
    super-resolution of its outline."""
    estimate: Float32Array = field(init=False)
    """Clean estimate of the target date, with its margin."""
    x: Float32Array = field(init=False)
    """The point x_t of the path, in units of its network."""
    before: Float32Array | None = None
    """The clean estimate of the previous step, in the same units."""
    base_estimate: BaseEstimate = field(init=False)
    """What the residual is added to."""
    detail: Float32Array = field(init=False)
    """What the start of a variation has beyond its outline."""
    encoded: Float32Array = field(init=False)
    """First layer of the residual network applied to the features, which are the same in all steps."""
    residual_unit: float = field(init=False)
    """One unit of the residual, in expected errors of the base estimate."""

    def __post_init__(self) -> None:
        request = self.request
        known = request.known if self.plan.unconditional else request.known & ~request.fill
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
    def scale(self) -> Float32Array:
        """One unit of the residual, model units; a best estimate has no use for it."""
        return self.base_estimate.spread() * np.float32(self.residual_unit)

    def drawn_noise(self) -> Float32Array:
        """Return the noise at the request's location, shape (C, H, W); a synthesized landscape has the same on all dates."""
        request = self.request
        return noise.normal(
            self.conditional.origin,
            self.base_estimate.base.shape,
            seed=request.seed,
            stream="embedded detail",
            member=request.member,
            time=0 if self.plan.unconditional else int(request.times[self.plan.target]),
        )

    def expected_error(self) -> Float32Array:
        """Return the expected error of the pixels to fill, shape (C, H, W); 0 elsewhere."""
        scale = np.broadcast_to(self.scale, self.base_estimate.base.shape)
        return np.where(self.request.fill[self.plan.target], scale[self.own], np.float32(0))

    @cached_property
    def _start(self) -> Float32Array:
        """The start of a variation and `CONTEXT_PX` pixels around it, mirrored if the request has no context."""
        request, target, width = self.request, self.plan.target, (CONTEXT_PX, CONTEXT_PX)
        if request.context_pixels is not None:
            start = request.context_pixels[target]
            return push_pull.push_pull(np.nan_to_num(start), np.isfinite(start))
        start = push_pull.push_pull(request.values[target], request.known[target])
        return np.pad(start, ((0, 0), width, width), mode="symmetric")

    def start_known(self, margin: int) -> NDArray[np.bool_]:
        """Return where the start of a variation was measured, shape (C, H + 2 margin, W + 2 margin)."""
        request, target, width = self.request, self.plan.target, (CONTEXT_PX, CONTEXT_PX)
        if request.context_pixels is not None:
            known = np.isfinite(request.context_pixels[target])
        else:
            known = np.pad(request.known[target], ((0, 0), width, width), mode="symmetric")
        inner = slice(CONTEXT_PX - margin, margin - CONTEXT_PX or None)
        return np.asarray(known[:, inner, inner])

    def start_with_margin(self, margin: int) -> Float32Array:
        """Return the start of a variation with a margin, shape (C, H + 2 margin, W + 2 margin)."""
        inner = slice(CONTEXT_PX - margin, margin - CONTEXT_PX or None)
        return self._start[:, inner, inner]

    def outline(self) -> Float32Array:
        """Return the outline of a variation's start, with a halo, shape (C, h, w)."""
        outline: Float32Array = OUTLINE.degrade(self._start)
        return outline

    def coarse_request(
        self, land: Float32Array | None, mean: Sequence[float], std: Sequence[float]
    ) -> Request:
        """Return the request to super-resolve the outline of a variation, blended with new land as the strength nears 1.

        Parameters
        ----------
        land
            Shape (C, H + 2 CONTEXT_PX, W + 2 CONTEXT_PX), model units: new land at the tile and around it; None up to
            the strength `KEEPING`.
        mean, std
            As in `Card`.
        """
        shown = self.outline()
        if land is not None:
            bands = len(land)
            own, new = (to_log(image, mean, std) for image in (shown[:bands], OUTLINE.degrade(land)))
            # A blend of two landscapes looks like neither, so the weight of the new one grows late.
            share = ((self.request.strength - KEEPING) / (1.0 - KEEPING)) ** 2
            shown = np.concatenate([from_log(own + share * (new - own), mean, std), shown[bands:]])
        return measured(self, shown, OUTLINE, OUTLINE_HALO)


@dataclass(eq=False)
class ResidualBatch:
    """Sampling state of a batch of requests between two steps."""

    trajectories: list[ResidualTrajectory]
    """In the order of the requests."""
    index: int = -1
    """Last step taken; -1 before the first."""


def _start_is_whole(request: Request) -> bool:
    """Tell whether every pixel of a variation was measured in its start."""
    target = int(np.flatnonzero(request.target)[0])
    return bool((request.known[target] | ~request.fill[target]).all())


def land_plane(request: Request, legend: Legend) -> LandPlane:
    """Return the plane of land by class that a request belongs to."""
    target = int(np.flatnonzero(request.target)[0])
    gsd_m = float(request.metadata[target, 2]) if np.isnan(request.grid_m) else request.grid_m
    # Rounded: the affines of two windows of one grid may differ in their last bits.
    gsd_m = float(f"{gsd_m:.3g}")
    shares = legend.shares_of(request.prompt)
    return LandPlane(request.seed, request.member, int(request.times[target]), shares, gsd_m)


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
    """Return the request to super-resolve the outline of a variation with its margin.

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
