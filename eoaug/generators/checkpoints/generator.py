"""Generates pixels with a checkpoint: noise, denoising steps and decoding, request by request.

Noise is a function of the position on the grid, not of the batch, and the engine can average overlapping tiles
between two steps. Every forward has the card's batch shape and runs on one intra-op thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eoaug.errors import GeneratorError
from eoaug.generators.base import Request, check_batch, present_bands
from eoaug.generators.checkpoints import schedulers
from eoaug.generators.checkpoints.band_lifting import lift
from eoaug.generators.checkpoints.images import RGB, cells, filled, narrowed, padded
from eoaug.generators.checkpoints.model import CheckpointModel
from eoaug.generators.checkpoints.settings import Settings
from eoaug.generators.checkpoints.trajectory import Given, LatentBatch, LatentTrajectory
from eoaug.generators.interpolation.back_projection import consistent, prior_with_halo
from eoaug.generators.runtime import torch_state
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = ["Diffusion"]


class Diffusion(CheckpointModel):
    """A generator from a checkpoint of the Stable Diffusion family.

    Thread-safe. It is pickled as path, settings and hash; see `CheckpointModel` for its parameters.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._base, self._settings, self.card.sha256)

    # -- the contract -------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request]) -> Float32Array:
        """Return shape (B, T, C, H, W) in model units.

        Parameters
        ----------
        requests
            Of one shape; any number, from one verb or several.
        """
        if not requests:
            raise GeneratorError(f"{self.card.name}: generate was given no request", "pass one or more")
        batches = itertools.batched(requests, self.card.batch)
        return np.concatenate([self.finish(self.begin(batch)) for batch in batches])

    def begin(self, requests: Sequence[Request]) -> LatentBatch:
        """Return the state of at most ``card.batch`` requests before the first step."""
        self._check(requests)
        with torch_state(self._networks.device):
            return LatentBatch([self._start(request) for request in requests])

    def step(self, state: LatentBatch, index: int) -> Float32Array:
        """Advance ``state`` to step ``index`` and return its clean estimate, shape (B, c, h, w) of latents."""
        if index != state.index + 1:
            raise GeneratorError(
                f"{self.card.name}: step {index} was requested after step {state.index}",
                "take every step once and in order, from 0",
            )
        active = [path for path in state.trajectories if index < path.calls]
        with torch_state(self._networks.device):
            for path in active:
                path.advance(index)
            for guided in (False, True):
                group = [path for path in active if (path.negative is not None) == guided]
                if group:
                    self._predict(group, index)
        state.index = index
        return np.stack([path.estimate[0].float().cpu().numpy() for path in state.trajectories])

    def replace(self, state: LatentBatch, estimate: Float32Array) -> None:
        """Replace the estimate that `step` returned last by ``estimate``."""
        shape = (len(state.trajectories), *state.trajectories[0].estimate.shape[1:])
        if estimate.shape != shape:
            raise GeneratorError(
                f"{self.card.name}: an estimate of shape {estimate.shape} cannot replace one of {shape}",
                "give an array of the shape that step returned",
            )
        for path, latents in zip(state.trajectories, estimate, strict=True):
            path.replace(torch.from_numpy(np.ascontiguousarray(latents))[None].to(path.estimate))

    def finish(self, state: LatentBatch) -> Float32Array:
        """Take the remaining steps and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(path.calls for path in state.trajectories)):
            self.step(state, index)
        with torch_state(self._networks.device):
            return np.stack([self._result(path) for path in state.trajectories])

    # -- one request --------------------------------------------------------------------------------

    def _check(self, requests: Sequence[Request]) -> None:
        card = self.card
        check_batch(card, requests)
        for request in requests:
            if card.factors and request.factor not in card.factors:
                raise GeneratorError(
                    f"{card.name} cannot refine by {request.factor}", f"use factor={card.factors[0]}"
                )
            if request.steps is not None and request.steps < 1:
                raise GeneratorError(
                    f"{card.name} cannot run with steps={request.steps}: a diffusion model has no estimate "
                    "without steps",
                    "give steps=1 or more, or use generator='classical'",
                )

    def _start(self, request: Request) -> LatentTrajectory:
        """Return the trajectory of a request before its first step."""
        nets = self._networks
        target = int(np.flatnonzero(request.target)[0])
        steps = request.steps or self.card.steps[next(iter(self.card.steps))]
        scheduler = schedulers.scheduler_of(self._checkpoint.component("scheduler"), self._settings.scheduler)
        scheduler.set_timesteps(steps, device=nets.device)
        H, W = request.values.shape[2:]
        shape = (nets.vae.config.latent_channels, H // nets.factor, W // nets.factor)
        drawn = self._noise(request, target, "diffusion latent", shape)
        positive, negative = self._given(request, target)
        path = LatentTrajectory(request=request, target=target, scheduler=scheduler, positive=positive)
        path.noise = drawn.to(nets.dtype)
        path.draw = lambda step: self._noise(request, target, f"diffusion step {step}", shape).to(nets.dtype)
        guidance = self._guidance if request.guidance is None else request.guidance
        if guidance > 1:
            path.guidance, path.negative = guidance, negative
        known = request.known[target] & ~request.fill[target]
        if request.strength < 1:
            path.start_from(nets.encode(self._image(request, target)), request.strength)
        else:
            path.x = path.noise * scheduler.init_noise_sigma
            if self._unet_input == "plain" and known.any():
                path.clean = nets.encode(self._image(request, target))
                path.free = cells(~known[:3].all(axis=0), nets.factor).to(path.noise)
        path.estimate = torch.zeros_like(path.noise) if path.clean is None else path.clean
        return path

    def _given(self, request: Request, target: int) -> tuple[Given, Given]:
        """Return the conditioning of the networks, and the negative conditioning of guidance."""
        nets, size = self._networks, request.values.shape[2:]
        text = nets.text(self._prompt(request, target))
        empty = nets.text(self._settings.negative)
        positive, negative = {"text": text.hidden}, {"text": empty.hidden}
        if text.pooled is not None and empty.pooled is not None:
            zero = not self._settings.negative and self._checkpoint.pipeline.get(
                "force_zeros_for_empty_prompt"
            )
            sizes = torch.tensor([*size, 0, 0, *size], dtype=nets.dtype, device=nets.device)
            if zero:
                negative["text"] = torch.zeros_like(empty.hidden)
            pooled = torch.zeros_like(empty.pooled) if zero else empty.pooled
            positive |= {"pooled": text.pooled, "sizes": sizes}
            negative |= {"pooled": pooled, "sizes": sizes}
        both = self._image_conditions(request, target)
        return positive | both, negative | both

    def _prompt(self, request: Request, target: int) -> str:
        del target
        return request.prompt if request.prompt is not None else str(self._option("prompt", ""))

    def _image_conditions(self, request: Request, target: int) -> Given:
        """Return the conditioning images, which positive and negative conditioning share."""
        nets = self._networks
        given: Given = {}
        if self._unet_input == "inpaint":
            hole = ~(request.known[target] & ~request.fill[target])[:3].all(axis=0)
            image = self._image(request, target) * torch.from_numpy(~hole).to(nets.device)
            shown = nets.encode(image)[0]
            given["concat"] = torch.cat([cells(hole, nets.factor)[0].to(shown), shown])
        if self._unet_input == "upscale":
            assert request.coarse is not None
            coarse = filled(request.coarse_tile[target])
            drawn = self._noise(request, target, "diffusion coarse", coarse.shape).to(nets.dtype)
            level = torch.tensor([self._settings.noise_level], device=nets.device)
            low = schedulers.scheduler_of(self._checkpoint.component("low_res_scheduler"), None)
            image = torch.from_numpy(coarse)[None].to(drawn)
            given |= {"concat": low.add_noise(image, drawn, level)[0], "noise_level": level[0]}
        return given | self._layouts(request)

    def _layouts(self, request: Request) -> Given:
        """Return the conditioning images of the ControlNets."""
        if not self._controls:
            return {}
        counts = [int(component.config.get("conditioning_channels", 3)) for component in self._controls]
        layout = request.layout
        if layout is not None and len(layout) == len(counts):
            layout = np.concatenate(
                [np.repeat(layer[None], n, 0) for layer, n in zip(layout, counts, strict=True)]
            )
        if layout is None or len(layout) != sum(counts):
            layers = "none" if layout is None else f"{len(layout)} layers"
            raise GeneratorError(
                f"{self.card.name} has {len(counts)} ControlNets that take {sum(counts)} channels; layout has {layers}",
                f"give layout= with {sum(counts)} layers, or one per ControlNet, with values from 0 to 1",
            )
        nets = self._networks
        cuts = np.split(layout, np.cumsum(counts)[:-1])
        images = (torch.from_numpy(np.ascontiguousarray(cut)).to(nets.device, nets.dtype) for cut in cuts)
        return {f"control{i}": image for i, image in enumerate(images)}

    def _image(self, request: Request, target: int) -> Tensor:
        """Return the colours of a date, shape (1, 3, H, W) in [-1, 1], filled where unknown."""
        image = filled(np.where(request.known[target], request.values[target], np.float32(np.nan)))
        return torch.from_numpy(image)[None].to(self._networks.device)

    def _noise(self, request: Request, target: int, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Return noise on latent cells, shape (1, c, h, w), as a function of their position on the grid."""
        factor = self._networks.factor
        row, col = request.origin
        drawn = noise.normal(
            (row // factor, col // factor),
            (shape[0], shape[1], shape[2]),
            seed=request.seed,
            stream=stream,
            member=request.member,
            time=int(request.times[target]),
        )
        return torch.from_numpy(drawn)[None].to(self._networks.device)

    def _predict(self, paths: Sequence[LatentTrajectory], index: int) -> None:
        """Run the networks for trajectories that all have guidance, or that all have none."""
        nets, batch = self._networks, self.card.batch
        x = [path.scaled(index)[0] for path in paths]
        t = [path.time(index) for path in paths]
        given = [[path.positive for path in paths]]
        if paths[0].negative is not None:
            given.insert(0, [path.negative or {} for path in paths])
        halves = len(given)
        stacked = {
            name: torch.cat([padded([conditions[name] for conditions in half], batch) for half in given])
            for name in given[0][0]
        }
        scales = self._settings.control_scales or (1.0,) * len(self._controls)
        out = nets.predict(
            torch.cat([padded(x, batch)] * halves), torch.cat([padded(t, batch)] * halves), stacked, scales
        )
        for i, path in enumerate(paths):
            output = out[-batch:][i : i + 1]
            if halves == 2:
                negative = out[:batch][i : i + 1]
                output = negative + path.guidance * (output - negative)
            path.predicted(output, index)

    def _result(self, path: LatentTrajectory) -> Float32Array:
        """Decode a finished trajectory; return shape (T, C, H, W) with measured pixels put back."""
        request, target = path.request, path.target
        result = np.where(request.known, request.values, np.float32(0))
        if path.calls:
            path.advance(path.calls)
            colours = self._networks.decode(path.x)[0].cpu().numpy()
        else:
            colours = self._image(request, target)[0].cpu().numpy()
        # Bands that the cube lacks are not computed.
        present = present_bands(request)
        present[: len(RGB)] = True
        narrow = narrowed(request, present)
        around = None if narrow.coarse is None else prior_with_halo(narrow, target)
        made = colours
        if self._lift is not None:
            made = np.concatenate([colours, lift(self._lift, narrow, target, colours, around)])
        if around is not None:
            made = consistent(narrow, target, made, around, passes=2)
        final = np.zeros_like(result[target])
        final[present] = made
        known = request.known[target] & ~request.fill[target]
        final = np.where(known, request.values[target], final)
        result[target] = np.where(request.fill[target], final, result[target])
        return result.astype(np.float32, copy=False)


@lru_cache(maxsize=8)
def _restored(kind: type[Diffusion], base: str, settings: Settings, identity: str) -> Diffusion:
    """Rebuild a pickled generator, and refuse other weights than those it was pickled with."""
    generator = kind(base, settings)
    if generator.card.sha256 != identity:
        raise GeneratorError(
            f"restoring {base}: the files here have identity {generator.card.sha256}, the sender's {identity}",
            "give every worker the same folder",
        )
    return generator
