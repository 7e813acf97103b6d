"""The diffusion model that ships in the package: a prior, a regressor on it, a diffusion on that.

Imports the ground and this package's numpy modules; torch and the networks on first use. Three layers
(CorrDiff, arXiv:2309.15214): the prior needs no weights (`kriging`, back-projection); a regressor adds what
can be expected; the residual net draws what cannot. Each is used for a task only where it beats the one
below on places that training never saw; ``config.json`` holds the decision. Free synthesis is a cascade
(arXiv:2106.15282): land at half the resolution, drawn by a network of its own on a plane that belongs to the place
so that tiles agree on it (`landscape`), is super-resolved by the three layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.base import CONTEXT_PX, Card, Request, check_batch, present_bands
from eoaug.generators.embedded import flow_samplers
from eoaug.generators.embedded.base_estimate import BaseEstimate, Regressors, alike, base_estimates
from eoaug.generators.embedded.features import from_log, to_log
from eoaug.generators.embedded.spectral_gaussian import equalised
from eoaug.generators.embedded.trajectory import (
    CELL,
    HALO,
    OUTLINE,
    OUTLINE_HALO,
    ResidualBatch,
    ResidualTrajectory,
    SamplingPath,
    measured,
    plane,
)
from eoaug.generators.embedded.weights_config import (
    landscape_for,
    load_config,
    network_for,
    spectral_gaussian_for,
)
from eoaug.generators.runtime import Precision, checked_device, checked_precision, device_kind, forward
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = ["Embedded"]


_KEEPING = 0.6
"""Strength up to which a variation keeps its start's outline."""
_UNIT = 8
"""The networks divide an image's edges by this."""
_SIGMA = (20.0, 0.2)
"""Noise over signal at the first and the last call (arXiv:2206.00364, section 5); the layers below have
settled the large scales."""


class Embedded:
    """The generator of the embedded weights.

    Thread-safe; weights are loaded once per process at first use; pickles as folder and hash. A result does
    not depend on the other requests of a call: every forward has the card's batch shape, padded with zeros,
    on one intra-op thread.

    Parameters
    ----------
    folder
        Folder with ``config.json`` and the safetensors that it names; None: the weights of the package.
    device
        Where the networks run, as torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``. Bytes are promised on
        the CPU only.
    precision
        ``"exact"`` (float32 everywhere) or ``"fast"`` (bfloat16 autocast, for accelerators; best estimates
        differ from the exact ones by about 0.002 model units, `execute.forward`).
    """

    def __init__(
        self, folder: str | Path | None = None, device: str = "cpu", precision: Precision = "exact"
    ) -> None:
        self._folder = None if folder is None else str(folder)
        self._config = load_config(self._folder)
        self._device = checked_device(device, "embedded")
        self._precision = checked_precision(precision)

    @property
    def card(self) -> Card:
        """What the weights were made for."""
        return self._config.card

    @property
    def settings(self) -> dict[str, Any]:
        """What changes its pixels beside the weights."""
        return {"device": device_kind(self._device), "precision": self._precision}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._folder, self._device, self._precision, self.card.sha256)

    def __repr__(self) -> str:
        return f"Embedded({'' if self._folder is None else repr(self._folder)})"

    def generate(self, requests: Sequence[Request]) -> Float32Array:
        """Return shape (B, T, C, H, W) in model units.

        Parameters
        ----------
        requests
            Any number, of one shape; they may come from different verbs.
        """
        if not requests:
            raise GeneratorError("embedded: generate was given no request", "pass one or more")
        size = self.card.batch
        batches = [requests[first : first + size] for first in range(0, len(requests), size)]
        return np.concatenate([self.finish(self.begin(batch)) for batch in batches])

    def begin(self, requests: Sequence[Request]) -> ResidualBatch:
        """Return the state of at most ``card.batch`` requests before the first step."""
        check_batch(self.card, requests)
        state = ResidualBatch([ResidualTrajectory(request, self._plan(request)) for request in requests])
        free = [walk for walk in state.walks if walk.plan.free]
        for walk, asked in zip(free, self._outlined(free), strict=True):
            walk.asked = asked
        grounds = self._grounds([walk.asked for walk in state.walks])
        for walk, ground in zip(state.walks, grounds, strict=True):
            walk.ground, walk.estimate = ground, ground.base
            walk.scale = ground.spread() * np.float32(self._config.scale["residual"][ground.category])
        varied = [walk for walk in free if walk.request.strength < 1.0]
        moved = [walk for walk in varied if walk.request.strength > _KEEPING]
        own = self._grounds([measured(walk, walk.outline(), OUTLINE, OUTLINE_HALO) for walk in moved])
        base = {walk: ground.base for walk, ground in zip(moved, own, strict=True)}
        for walk in varied:
            # A variation keeps its start's detail as far as the noise lets it.
            detail = walk.started(walk.plan.beyond) - base.get(walk, walk.ground.base)
            walk.estimate = walk.ground.base + detail
        for walk in state.walks:
            if walk.plan.path:
                clean = (walk.estimate - walk.ground.base) / walk.scale
                walk.x = flow_samplers.noised(clean, self._noise(walk), walk.plan.path[0])
        return state

    def step(self, state: ResidualBatch, index: int) -> Float32Array:
        """Advance ``state`` to step ``index`` and return its clean estimate, shape (B, C, H, W).

        Model units, the whole image of the target date: prior, mean and residual. Requests with fewer steps
        keep their last estimate.
        """
        if index != state.index + 1:
            raise GeneratorError(
                f"embedded: step {index} was asked for after step {state.index}",
                "walk the steps in order, from 0, each once",
            )
        sizes: dict[tuple[int, ...], list[ResidualTrajectory]] = {}
        for walk in state.walks:
            if index < walk.plan.calls:
                sizes.setdefault(walk.estimate.shape, []).append(walk)
        for walk, clean in (found for walks in sizes.values() for found in self._denoised(walks, index)):
            ground = walk.ground
            gains = self._config.gains.get(ground.category)
            if gains is not None and index == walk.plan.calls - 1:
                clean = equalised(clean, gains)
            walk.estimate = ground.consistent(ground.base + walk.scale * clean)
        state.index = index
        return np.stack([walk.estimate[walk.own] for walk in state.walks])

    def replace(self, state: ResidualBatch, estimate: Float32Array) -> None:
        """Put ``estimate`` in the place of the one that `step` returned last."""
        expected = (len(state.walks), *state.walks[0].request.values.shape[1:])
        if estimate.shape != expected:
            raise GeneratorError(
                f"embedded: an estimate of shape {estimate.shape} cannot replace one of {expected}",
                "give an array of the shape that step returned",
            )
        for walk, one in zip(state.walks, estimate, strict=True):
            walk.estimate = walk.estimate.copy()
            walk.estimate[walk.own] = one

    def finish(self, state: ResidualBatch) -> Float32Array:
        """Take the steps that are left and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(walk.plan.calls for walk in state.walks)):
            self.step(state, index)
        out = []
        for walk in state.walks:
            request, target = walk.request, walk.plan.target
            result = np.where(request.known, request.values, np.float32(0))
            drawn = walk.ground.consistent(walk.estimate)[walk.own]
            final = walk.started(0) if request.strength == 0 else drawn
            result[target] = np.where(request.fill[target], final, result[target])
            out.append(result.astype(np.float32, copy=False))
        return np.stack(out)

    def _plan(self, request: Request) -> SamplingPath:
        steps = request.steps if request.steps is not None else self.card.steps.get(request.verb, 0)
        free = request.verb == "synthesize"
        strength = request.strength if free else 1.0
        # From a start, the path begins where the start is still to be seen (SDEdit, arXiv:2108.01073).
        reach = strength / (1.0 - strength) if strength < 1.0 else np.inf
        if free:
            # A tile of a large gap where nothing is known has no expectation worth showing.
            steps = steps or self.card.steps["synthesize"]
        high, low = _SIGMA
        drawn = reach > 0 and steps > 0
        # Beyond an image's edge the networks fill up with zeros: of a super-resolution's detail a third was missing in
        # a tile's last coarse pixels. So what is known there is drawn as well, and thrown away.
        told = request.coarse is None or request.coarse_halo > 1
        beyond = self.card.margin_px(request.verb, request.factor) if told else 0
        return SamplingPath(
            target=int(np.flatnonzero(request.target)[0]),
            present=present_bands(request)[:, None, None],
            free=free,
            beyond=beyond,
            path=flow_samplers.karras(steps, sigma_max=min(reach, high), sigma_min=low) if drawn else (),
        )

    def _noise(self, walk: ResidualTrajectory) -> Float32Array:
        """Return noise of the place of a request, shape (C, H, W): land that is made up is the same on all dates."""
        request = walk.request
        return noise.normal(
            walk.asked.origin,
            walk.ground.base.shape,
            seed=request.seed,
            stream="embedded detail",
            member=request.member,
            time=0 if walk.plan.free else int(request.times[walk.plan.target]),
        )

    def _outlined(self, walks: Sequence[ResidualTrajectory]) -> list[Request]:
        """Return the requests to super-resolve what free tiles show.

        From nothing: the landscape of the seed and member. With a start: the start's outline, moved towards that
        landscape as the strength nears 1.
        """
        card = self.card
        land = self._land([walk for walk in walks if walk.request.strength > _KEEPING])
        asked = []
        for walk in walks:
            strength = walk.request.strength
            if strength == 1.0:
                asked.append(measured(walk, from_log(land[walk], card.mean, card.std), CELL, HALO))
                continue
            shown = walk.outline()
            if walk in land:
                own = to_log(shown, card.mean, card.std)
                times = OUTLINE.factor // CELL.factor
                blocks = land[walk].reshape(len(own), own.shape[1], times, own.shape[2], times)
                # Two lands laid over each other look like neither, so the weight of the new one grows late.
                share = ((strength - _KEEPING) / (1.0 - _KEEPING)) ** 2
                shown = from_log(own + share * (blocks.mean(axis=(2, 4)) - own), card.mean, card.std)
            asked.append(measured(walk, shown, OUTLINE, OUTLINE_HALO))
        return asked

    def _land(self, walks: Sequence[ResidualTrajectory]) -> dict[ResidualTrajectory, Float32Array]:
        """Return the landscape under free tiles and around them, log reflectance, in cells."""
        parts = []
        for walk in walks:
            request, (H, W) = walk.request, walk.request.values.shape[2:]
            halo = walk.plan.beyond + HALO * CELL.factor if request.strength == 1.0 else CONTEXT_PX
            row, col = request.origin
            parts.append(
                (
                    plane(request, walk.plan.target),
                    ((row - halo) // CELL.factor, (col - halo) // CELL.factor),
                    ((H + 2 * halo) // CELL.factor, (W + 2 * halo) // CELL.factor),
                )
            )
        land = landscape_for(self._folder, self._device, self._precision)
        forward = partial(self._forward, "landscape", batch=land.batch)
        return dict(zip(walks, land.cells(parts, forward), strict=True))

    def _grounds(self, requests: Sequence[Request]) -> list[BaseEstimate]:
        """Return what the residual of conditional requests is drawn upon."""
        config = self._config
        return base_estimates(
            requests, config.context, Regressors(config.layers, config.scale, self._forward)
        )

    def _forward(
        self,
        name: str,
        *inputs: Sequence[Float32Array | np.float32],
        part: str = "forward",
        batch: int | None = None,
    ) -> Float32Array:
        network = network_for(self._config, name, self._device)
        return forward(
            getattr(network, part),
            inputs,
            batch=batch or self.card.batch,
            multiple_of=_UNIT,
            device=self._device,
            precision=self._precision,
        )

    def _denoised(
        self, walks: Sequence[ResidualTrajectory], index: int
    ) -> list[tuple[ResidualTrajectory, Float32Array]]:
        """Advance walks of one size to a step; return their clean estimates in units of the residual."""
        for walk in walks:
            if index > 0:
                clean = (walk.estimate - walk.ground.base) / walk.scale
                path = walk.plan.path
                walk.x = flow_samplers.dpmpp_2m(
                    walk.x, clean, walk.before, path[max(index - 2, 0)], path[index - 1], path[index]
                )
                walk.before = clean
        points = [(walk.x * walk.plan.present).astype(np.float32) for walk in walks]
        t = [np.float32(walk.plan.path[index]) for walk in walks]
        linear = [
            spectral_gaussian_for(self._config, "residual", walk.ground.category).estimate(
                point, float(when), walk.plan.present[:, 0, 0]
            )
            for walk, point, when in zip(walks, points, t, strict=True)
        ]
        if index == 0:
            told: dict[BaseEstimate, Float32Array] = {}
            for group in alike(walk.ground for walk in walks):
                images = [ground.image()[: len(ground.base) + ground.used] for ground in group]
                told.update(zip(group, self._forward("residual", images, part="told"), strict=True))
            for walk in walks:
                walk.told = told[walk.ground]
        facts = [walk.ground.told.facts for walk in walks]
        found = self._forward(
            "residual", points, t, [walk.told for walk in walks], facts, linear, part="step"
        )
        return [(walk, one * walk.plan.present) for walk, one in zip(walks, found, strict=True)]


def _restored(
    kind: type[Embedded], folder: str | None, device: str, precision: Precision, sha256: str
) -> Embedded:
    """Rebuild a pickled generator, and refuse other weights than those it was pickled with."""
    generator = kind(folder, device, precision)
    if generator.card.sha256 != sha256:
        raise GeneratorError(
            f"restoring the embedded generator: weights here have sha256 {generator.card.sha256}, "
            f"the sender's {sha256}",
            "install the same version of eoaug on every worker",
        )
    return generator
