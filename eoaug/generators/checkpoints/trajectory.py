"""The sampling state of latent diffusion: one trajectory per request."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eoaug.generators.base import Request
from eoaug.generators.checkpoints import schedulers

__all__ = ["Given", "LatentBatch", "LatentTrajectory"]


Given = dict[str, Tensor]
"""Conditioning of the networks by name, without a batch axis; see `Networks.predict`."""


@dataclass(eq=False)
class LatentTrajectory:
    """The sampling state of one request; tensors have shape (1, c, h, w) unless a field says otherwise."""

    request: Request
    target: int
    """Index of the date to generate."""
    scheduler: Any
    positive: Given
    negative: Given | None = None
    """Negative conditioning of classifier-free guidance; None: no guidance."""
    guidance: float = 1.0
    first: int = 0
    """Steps of the schedule that are skipped because sampling starts from a known image."""
    x: Tensor = field(init=False)
    noise: Tensor = field(init=False)
    draw: Callable[[int], Tensor] = field(init=False)
    """Noise of a step of the schedule, for stochastic samplers."""
    estimate: Tensor = field(init=False)
    """Clean estimate of the last step."""
    output: Tensor = field(init=False)
    """Output of the network at the last step, in its own parametrisation."""
    clean: Tensor | None = None
    """Latents of the known pixels."""
    free: Tensor | None = None
    """Shape (1, 1, h, w), 1 where latents are generated, 0 where they are reset to ``clean`` after every step."""

    @property
    def calls(self) -> int:
        """Number of steps."""
        return len(self.scheduler.timesteps) - self.first

    def start_from(self, clean: Tensor, strength: float) -> None:
        """Start from a known image with the noise of denoising strength ``strength`` (SDEdit, arXiv:2108.01073)."""
        self.first = schedulers.start_at(self.scheduler, strength)
        self.clean = clean.to(self.noise)
        self.x = self.clean
        if self.calls:
            self.x = self.scheduler.add_noise(self.clean, self.noise, self.time(0)[None])

    def time(self, index: int) -> Tensor:
        """Return the diffusion time of a step."""
        time: Tensor = self.scheduler.timesteps[self.first + index]
        return time

    def scaled(self, index: int) -> Tensor:
        """Return x in the scale that the network takes."""
        x: Tensor = self.scheduler.scale_model_input(self.x, self.time(index))
        return x

    def predicted(self, output: Tensor, index: int) -> None:
        """Store the network's output at a step, and the clean estimate that follows from it."""
        signal, spread, scale = self._levels(index)
        x = self.x * scale
        self.output = output
        self.estimate = {
            "epsilon": lambda: (x - spread * output) / signal,
            "v_prediction": lambda: signal * x - spread * output,
            "sample": lambda: output,
        }[self.scheduler.config.prediction_type]()
        self._at = index

    def replace(self, estimate: Tensor) -> None:
        """Replace the clean estimate, and the output so that it stays consistent with it."""
        if torch.equal(estimate, self.estimate):
            return
        signal, spread, scale = self._levels(self._at)
        x = self.x * scale
        self.estimate = estimate
        self.output = {
            "epsilon": lambda: (x - signal * estimate) / spread,
            "v_prediction": lambda: (signal * x - estimate) / spread,
            "sample": lambda: estimate,
        }[self.scheduler.config.prediction_type]()

    def advance(self, index: int) -> None:
        """Move x from the previous step to step ``index``; reset known latents to the noise level there."""
        if index == 0:
            return
        step, time = self.first + index - 1, self.time(index - 1)
        more = {"variance_noise": self.draw(step)} if schedulers.is_stochastic(self.scheduler) else {}
        self.x = self.scheduler.step(self.output, time, self.x, return_dict=False, **more)[0]
        if self.free is None or self.clean is None:
            return
        known = self.clean.to(self.x)
        if index < self.calls:
            known = self.scheduler.add_noise(known, self.noise, self.time(index)[None])
        self.x = (1 - self.free) * known + self.free * self.x

    _at: int = 0

    def _levels(self, index: int) -> tuple[float, float, float]:
        """Return the signal and noise levels of the variance-preserving path at a step, and the factor from x to it."""
        if not hasattr(self.scheduler, "sigmas"):
            share = float(self.scheduler.alphas_cumprod[int(self.time(index))])
            return math.sqrt(share), math.sqrt(1 - share), 1.0
        sigma = float(self.scheduler.sigmas[self.first + index])
        signal = 1 / math.sqrt(sigma**2 + 1)
        return signal, sigma * signal, signal if schedulers.is_variance_exploding(self.scheduler) else 1.0


@dataclass(eq=False)
class LatentBatch:
    """The sampling states of a batch of requests between two steps."""

    trajectories: list[LatentTrajectory]
    """In the order of the requests."""
    index: int = -1
    """Last step taken; -1 before the first."""
