"""The diffusion model whose weights ship in the package: a prior, a regressor, and a diffusion of the residual.

Imports numpy modules; torch and the networks are imported on first use. Three layers (CorrDiff, arXiv:2309.15214):
the prior needs no weights (kriging or back-projection), the regressor adds the expected value, and the residual
network samples the rest. ``config.json`` says which layer is used for a task: only one that beat the layer below on
locations outside the training data. Unconditional synthesis needs no network: `land` lays out an unbounded plane by
rules, in the colours of real chips. A variation super-resolves the outline of its start by the three layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import GeneratorError
from eoaug.generators.base import CONTEXT_PX, Card, Request, check_batch
from eoaug.generators.embedded import flow_samplers
from eoaug.generators.embedded.base_estimate import BaseEstimate, Regressors, base_estimates, of_one_shape
from eoaug.generators.embedded.speckle import radar_channels, speckled
from eoaug.generators.embedded.spectral_gaussian import equalised
from eoaug.generators.embedded.trajectory import (
    KEEPING,
    OUTLINE,
    OUTLINE_HALO,
    ResidualBatch,
    ResidualTrajectory,
    SamplingPath,
    land_plane,
    measured,
)
from eoaug.generators.embedded.variation import moved_texture, redrawn, tones
from eoaug.generators.embedded.weights_config import (
    GeneratorConfig,
    land_for,
    load_config,
    network_for,
    spectral_gaussian_for,
)
from eoaug.generators.interpolation.band_guide import guided_batch
from eoaug.generators.interpolation.time_series import shown_range
from eoaug.generators.runtime import Precision, checked_device, checked_precision, device_kind, forward
from eoaug.generators.translation.estimate import translated_batch, translated_with_error
from eoaug.raster.arrays import Float32Array

__all__ = ["Embedded"]


_UNIT = 8
"""The edges of a network's input are multiples of this."""
_BRIGHTEST = np.float32(1.2)
"""Largest reflectance of land that is drawn without a measurement."""


class Embedded:
    """The generator of the embedded weights.

    Thread-safe. Weights are loaded once per process at first use; it pickles as folder and hash. A result does not
    depend on the other requests of a call: every forward has the card's batch shape, padded with zeros, and runs on
    one intra-op thread.

    Parameters
    ----------
    folder
        Folder with ``config.json`` and the safetensors that it names; None: the weights of the package.
    device
        Where the networks run, as torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``. Results are bit-exact on
        the CPU only.
    precision
        ``"exact"`` (float32 everywhere) or ``"fast"`` (bfloat16 autocast, for accelerators; best estimates
        differ from the exact ones by about 0.002 model units, see `runtime.forward`).
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
        """What this generator can do."""
        return self._config.card

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that change pixels, in addition to the weights."""
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
        if requests and requests[0].guided:
            return guided_batch(requests)
        if requests and requests[0].translated:
            return translated_batch(requests)
        return np.concatenate([self.finish(state) for state in self._states(requests)])

    def generate_with_error(self, requests: Sequence[Request]) -> tuple[Float32Array, Float32Array]:
        """Return the result of `generate` and its expected error, both of shape (B, T, C, H, W) in model units.

        The error is one standard deviation: that of the prior, estimated from known pixels near to each gap, in
        proportion to the residuals that were measured in training.
        """
        if requests and requests[0].translated:
            return translated_with_error(requests)
        results, errors = [], []
        for state in self._states(requests):
            results.append(self.finish(state))
            error = np.zeros_like(results[-1])
            for image, trajectory in zip(error, state.trajectories, strict=True):
                image[trajectory.plan.target] = trajectory.expected_error()
            errors.append(error)
        return np.concatenate(results), np.concatenate(errors)

    def class_map(self, request: Request) -> NDArray[np.uint8]:
        """Return the codes of ``card.classes`` of what is laid out under an unconditional request, shape (H, W)."""
        layout = _layout_of(request, self.card)
        land = land_for(self._config)
        plane = land_plane(request, self._config.legend)
        return land.classes(plane, request.origin, request.values.shape[2:], layout)

    def _states(self, requests: Sequence[Request]) -> Iterator[ResidualBatch]:
        """Yield the states of requests, batch after batch."""
        if not requests:
            raise GeneratorError("embedded: generate got no requests", "pass one or more")
        size = self.card.batch
        for first in range(0, len(requests), size):
            yield self.begin(requests[first : first + size])

    def begin(self, requests: Sequence[Request]) -> ResidualBatch:
        """Return the state of at most ``card.batch`` requests before the first step."""
        check_batch(self.card, requests)
        state = ResidualBatch(
            [ResidualTrajectory(request, SamplingPath.of(request, self.card)) for request in requests]
        )
        for trajectory in state.trajectories:
            if trajectory.plan.drawn:
                trajectory.estimate = _land(trajectory.request, self._config)
        rest = [trajectory for trajectory in state.trajectories if not trajectory.plan.drawn]
        varied = [trajectory for trajectory in rest if trajectory.plan.unconditional]
        for trajectory, request in zip(varied, self._coarse_requests(varied), strict=True):
            trajectory.conditional = request
        estimates = self._base_estimates([trajectory.conditional for trajectory in rest])
        for trajectory, item in zip(rest, estimates, strict=True):
            trajectory.base_estimate, trajectory.estimate = item, item.base
            trajectory.residual_unit = self._config.scale["residual"][item.category]
        blended = [trajectory for trajectory in varied if trajectory.request.strength > KEEPING]
        own = self._base_estimates(
            [measured(trajectory, trajectory.outline(), OUTLINE, OUTLINE_HALO) for trajectory in blended]
        )
        bases = {trajectory: item.base for trajectory, item in zip(blended, own, strict=True)}
        for trajectory in varied:
            # The detail of the start enters a variation through its noised first point.
            base = bases.get(trajectory, trajectory.base_estimate.base)
            trajectory.detail = trajectory.start_with_margin(trajectory.plan.beyond) - base
            trajectory.estimate = trajectory.base_estimate.base + trajectory.detail
        for trajectory in rest:
            if trajectory.plan.path:
                clean = _in_units(trajectory)
                trajectory.x = flow_samplers.noised(clean, trajectory.drawn_noise(), trajectory.plan.path[0])
        return state

    def step(self, state: ResidualBatch, index: int) -> Float32Array:
        """Advance ``state`` to step ``index`` and return its clean estimate, shape (B, C, H, W).

        Model units; the complete image of the target date (prior, regressor and residual). Requests with fewer steps
        keep their last estimate.
        """
        if index != state.index + 1:
            raise GeneratorError(
                f"embedded: step {index} requested after step {state.index}",
                "take every step once, in order from 0",
            )
        sizes: dict[tuple[int, ...], list[ResidualTrajectory]] = {}
        for trajectory in state.trajectories:
            if index < trajectory.plan.calls:
                sizes.setdefault(trajectory.estimate.shape, []).append(trajectory)
        for trajectory, clean in (item for group in sizes.values() for item in self._denoised(group, index)):
            base = trajectory.base_estimate
            gains = self._config.gains.get(base.category)
            if gains is not None and index == trajectory.plan.calls - 1:
                clean = equalised(clean, gains)
            trajectory.estimate = base.consistent(base.base + trajectory.scale * clean)
        state.index = index
        return np.stack([trajectory.estimate[trajectory.own] for trajectory in state.trajectories])

    def replace(self, state: ResidualBatch, estimate: Float32Array) -> None:
        """Replace the estimate that `step` returned last."""
        expected = (len(state.trajectories), *state.trajectories[0].request.values.shape[1:])
        if estimate.shape != expected:
            raise GeneratorError(
                f"embedded: an estimate of shape {estimate.shape} cannot replace one of {expected}",
                "give an array of the shape that step returned",
            )
        for trajectory, tile in zip(state.trajectories, estimate, strict=True):
            trajectory.estimate = trajectory.estimate.copy()
            trajectory.estimate[trajectory.own] = tile

    def finish(self, state: ResidualBatch) -> Float32Array:
        """Take the remaining steps and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(trajectory.plan.calls for trajectory in state.trajectories)):
            self.step(state, index)
        return np.stack([_filled(trajectory, self.card) for trajectory in state.trajectories])

    def _coarse_requests(self, trajectories: Sequence[ResidualTrajectory]) -> list[Request]:
        """Return the super-resolution requests of variations."""
        requests = []
        for item in trajectories:
            new = item.request.strength > KEEPING
            land = _land(item.request, self._config, CONTEXT_PX)[: len(self.card.bands)] if new else None
            requests.append(item.coarse_request(land, self.card.mean, self.card.std))
        return requests

    def _base_estimates(self, requests: Sequence[Request]) -> list[BaseEstimate]:
        """Return the base estimates of conditional requests, to which the residual is added."""
        config = self._config
        return base_estimates(
            requests,
            config.context,
            Regressors(config.layers, config.scale, self._forward),
            len(config.card.bands),
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
        self, trajectories: Sequence[ResidualTrajectory], index: int
    ) -> list[tuple[ResidualTrajectory, Float32Array]]:
        """Advance trajectories of one size to a step; return their clean estimates in units of the residual."""
        for trajectory in trajectories:
            if index > 0:
                clean = _in_units(trajectory)
                path = trajectory.plan.path
                trajectory.x = flow_samplers.dpmpp_2m(
                    trajectory.x,
                    clean,
                    trajectory.before,
                    path[max(index - 2, 0)],
                    path[index - 1],
                    path[index],
                )
                trajectory.before = clean
        slots = len(self.card.bands)
        points = [(trajectory.x * trajectory.plan.present).astype(np.float32) for trajectory in trajectories]
        t = [np.float32(trajectory.plan.path[index]) for trajectory in trajectories]
        linear = [
            spectral_gaussian_for(self._config, "residual", trajectory.base_estimate.category).estimate(
                point, float(when), trajectory.plan.present[:, 0, 0]
            )
            for trajectory, point, when in zip(trajectories, points, t, strict=True)
        ]
        if index == 0:
            encoded: dict[BaseEstimate, Float32Array] = {}
            for group in of_one_shape(trajectory.base_estimate for trajectory in trajectories):
                images = [item.image()[: slots + item.used] for item in group]
                encoded.update(zip(group, self._forward("residual", images, part="encode"), strict=True))
            for trajectory in trajectories:
                trajectory.encoded = encoded[trajectory.base_estimate]
        facts = [trajectory.base_estimate.features.facts for trajectory in trajectories]
        estimates = self._forward(
            "residual",
            [point[:slots] for point in points],
            t,
            [trajectory.encoded for trajectory in trajectories],
            facts,
            [estimate[:slots] for estimate in linear],
            part="step",
        )
        return [
            # Bands without a slot have the closed form alone.
            (trajectory, np.concatenate([clean, rest[slots:]]) * trajectory.plan.present)
            for trajectory, clean, rest in zip(trajectories, estimates, linear, strict=True)
        ]


def _in_units(trajectory: ResidualTrajectory) -> Float32Array:
    """Return the residual of an estimate in units of its expected size; 0 for absent bands, which have none."""
    residual, scale = trajectory.estimate - trajectory.base_estimate.base, trajectory.scale
    units: Float32Array = np.divide(residual, scale, out=np.zeros_like(residual), where=scale > 0)
    return units


def _filled(trajectory: ResidualTrajectory, card: Card) -> Float32Array:
    """Return the values of a request with its estimate where it is to be filled, shape (T, C, H, W)."""
    request, target = trajectory.request, trajectory.plan.target
    result = request.values.copy()  # 0 where unknown
    if trajectory.plan.drawn:
        final = trajectory.estimate
    elif request.strength == 0:
        final = trajectory.start_with_margin(0)
    else:
        drawn = trajectory.base_estimate.consistent(trajectory.estimate)
        final = _varied(trajectory, drawn, card) if trajectory.plan.unconditional else drawn[trajectory.own]
    radar = radar_channels(request, len(card.bands))
    if radar and trajectory.plan.calls and request.verb in ("inpaint", "extend"):
        base = trajectory.base_estimate.base[trajectory.own]
        final = final.copy()
        final[radar] = speckled(request, target, base, radar)[radar]
    if request.verb == "synthesize" and request.strength > KEEPING:
        final = _physical(final, card)  # there is no measurement that it must agree with
    elif request.verb in ("inpaint", "extend"):
        final = _as_shown(final, request, card)
    result[target] = np.where(request.fill[target], final, result[target])
    filled: Float32Array = result.astype(np.float32, copy=False)
    return filled


def _varied(trajectory: ResidualTrajectory, drawn: Float32Array, card: Card) -> Float32Array:
    """Return a variation with the roughness of its start, and with other tones, shape (C, H, W)."""
    request, base = trajectory.request, trajectory.base_estimate.base
    share = max(request.strength - KEEPING, 0.0) / (1.0 - KEEPING)  # of the start that is given up
    new = drawn - base
    if request.strength <= KEEPING:
        texture = moved_texture(
            trajectory.start_with_margin(CONTEXT_PX), seed=request.seed, member=request.member
        )
        cut = (texture.shape[1] - base.shape[1]) // 2
        new = texture[:, cut : cut + base.shape[1], cut : cut + base.shape[2]]
    fresh = min(request.strength / KEEPING, 1.0)
    detail = redrawn(new, trajectory.detail, kept=1.0 - share, share=fresh)
    # Under a cloud there is no detail to compare with.
    detail = np.where(trajectory.start_known(trajectory.plan.beyond), detail, drawn - base)
    varied = (base + detail)[trajectory.own].copy()
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (card.mean, card.std))
    here = np.flatnonzero(trajectory.plan.present[: len(card.bands), 0, 0])
    if here.size:
        names = [card.bands[slot] for slot in here]
        visible = [slot for slot in here if card.bands[slot] in ("blue", "green", "red")] or here
        start = trajectory.start_with_margin(CONTEXT_PX)[visible] * std[visible] + mean[visible]
        factors = tones(
            start.mean(axis=0, dtype=np.float64), names, origin=request.origin, seed=request.seed,
            member=request.member, strength=request.strength,
        )  # fmt: skip
        varied[here] = ((varied[here] * std[here] + mean[here]) * factors - mean[here]) / std[here]
    return varied


def _as_shown(values: Float32Array, request: Request, card: Card) -> Float32Array:
    """Return values (C, H, W) whose optical bands lie within what the dates show of them, in the tile and around it.

    A sample departs from its estimate by noise, which on dark land would be negative reflectance. Of one date alone
    it may leave what little is known, but not reflectance 0 to `_BRIGHTEST`.
    """
    known = request.known & ~request.fill
    bands = len(card.bands)
    low, high = (bound[:bands] for bound in shown_range(request.values, known, request.context_cells))
    if not np.delete(known, np.flatnonzero(request.target), axis=0).any():
        mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (card.mean, card.std))
        dark, bright = -mean / std, (_BRIGHTEST - mean) / std
        low = np.where(np.isfinite(low), np.minimum(low, dark), dark)
        high = np.where(np.isfinite(high), np.maximum(high, bright), bright)
    limited = values.copy()
    limited[:bands] = np.clip(values[:bands], low, high)
    return limited


def _physical(values: Float32Array, card: Card) -> Float32Array:
    """Return values of shape (C, H, W) whose optical bands lie between reflectance 0 and `_BRIGHTEST`."""
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (card.mean, card.std))
    limited, bands = values.copy(), len(card.bands)
    limited[:bands] = np.clip(values[:bands], -mean / std, (_BRIGHTEST - mean) / std)
    return limited


def _land(request: Request, config: GeneratorConfig, margin: int = 0) -> Float32Array:
    """Return new land at a tile and a margin around it, shape (C, H + 2 margin, W + 2 margin), model units.

    A band without a slot that the statistics do not know has its typical value.
    """
    card, (row, col), (channels, H, W) = config.card, request.origin, request.values.shape[1:]
    layout = _layout_of(request, card)
    if layout is not None:
        layout = np.pad(layout, margin, mode="edge")
    slots = (*card.bands, *[""] * (channels - len(card.bands)))
    named = request.channel_names or ("",) * channels
    # A band may stand in a slot for another, such as nir08 for nir.
    names = [own if own in card.land_bands else slot for own, slot in zip(named, slots, strict=True)]
    units = [*zip(card.mean, card.std, strict=True)]
    units += request.channel_units[len(units) :] or [(0.0, 1.0)] * (channels - len(units))
    mean, std = np.asarray(units, np.float32).T[:, :, None, None]
    shape = H + 2 * margin, W + 2 * margin
    plane = land_plane(request, config.legend)
    reflectance = land_for(config).pixels(plane, (row - margin, col - margin), shape, layout, bands=names)
    land: Float32Array = (reflectance - mean) / std
    return np.where(np.isnan(land), np.float32(0), land)


def _layout_of(request: Request, card: Card) -> NDArray[np.uint8] | None:
    """Return the class map that an unconditional request gives, shape (H, W), or None."""
    if request.layout is None:
        return None
    layout, most = request.layout, len(card.classes)
    wrong = ~((layout >= 0) & (layout <= most) & (layout == np.round(layout)))
    if len(layout) != 1 or wrong.any():
        found = f"{len(layout)} layers" if len(layout) != 1 else f"the value {layout[wrong][0]:g}"
        raise GeneratorError(
            f"embedded: a layout for synthesis is a class map, and this one has {found}",
            f"give one layer with the codes 1 to {most} ({', '.join(card.classes)}), 0 where the prompt decides",
        )
    codes: NDArray[np.uint8] = layout[0].astype(np.uint8)
    return codes


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
