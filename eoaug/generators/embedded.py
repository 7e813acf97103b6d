"""The diffusion model that ships in the package: a prior, a regressor on it, a diffusion on that.

Imports the ground and this package's numpy modules; torch and the networks on first use. Three layers
(CorrDiff, arXiv:2309.15214): the prior needs no weights (`kriging`, back-projection); a regressor adds what
can be expected; the residual net draws what cannot. Each is used for a task only where it beats the one
below on places that training never saw; ``config.json`` holds the decision. Free synthesis is a cascade
(arXiv:2106.15282): land at half the resolution, drawn by a network of its own on a plane that belongs to the place
so that tiles agree on it (`landscape`), is super-resolved by the three layers.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug import noise
from eoaug.errors import GeneratorError
from eoaug.generators import classical, denoise
from eoaug.generators.base import Card, Request, check_batch
from eoaug.generators.conditions import from_log, present_bands, to_log
from eoaug.generators.device import checked_device
from eoaug.generators.execute import Precision, checked_precision, forward
from eoaug.generators.gaussian import Gaussian, equalised
from eoaug.generators.ground import Ground, Regressors, by_dates, grounds
from eoaug.generators.landscape import PALETTES, Landscape, Plane
from eoaug.generators.weights import load_weights
from eoaug.sensor import Sensor

__all__ = ["Embedded"]

_FOLDER = Path(__file__).parent.parent / "weights" / "embedded"
_CELL = Sensor(factor=2, mtf=(0.6,))
"""How a cell of a landscape relates to the image's pixels: softly, for a plain mean would print its squares."""
_OUTLINE = Sensor(factor=4, mtf=(0.6,))
"""What a variation keeps of its start."""
_HALO = 2
"""Cells that a tile sees beyond its own."""
_UNIT = 8
"""The networks divide an image's edges by this."""
_USUAL_M = 20.0
"""Pixel size of a cell where the grid knows none."""
_SIGMA = (20.0, 0.2)
"""Noise over signal at the first and the last call (arXiv:2206.00364, section 5); the layers below have
settled the large scales."""

_Float = NDArray[np.float32]


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
        self._config = _config(self._folder)
        self._device = checked_device(device, "embedded")
        self._precision = checked_precision(precision)

    @property
    def card(self) -> Card:
        """What the weights were made for."""
        return self._config.card

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._folder, self._device, self._precision, self.card.sha256)

    def __repr__(self) -> str:
        return f"Embedded({'' if self._folder is None else repr(self._folder)})"

    def generate(self, requests: Sequence[Request]) -> _Float:
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

    def begin(self, requests: Sequence[Request]) -> State:
        """Return the state of at most ``card.batch`` requests before the first step."""
        check_batch(self.card, requests)
        state = State([_Walk(request, self._plan(request)) for request in requests])
        free = [walk for walk in state.walks if walk.plan.free]
        for walk, asked in zip(free, self._outlined(free), strict=True):
            walk.asked = asked
        grounds = self._grounds([walk.asked for walk in state.walks])
        for walk, ground in zip(state.walks, grounds, strict=True):
            walk.ground, walk.estimate = ground, ground.base
            walk.scale = ground.spread() * np.float32(self._config.scale["residual"][ground.category])
        varied = [walk for walk in state.walks if walk.request.strength < 1.0 and walk.plan.free]
        own = self._grounds([_measured(walk, _OUTLINE.degrade(walk.start), _OUTLINE) for walk in varied])
        for walk, ground in zip(varied, own, strict=True):
            # A variation keeps its start's detail as far as the noise lets it.
            walk.estimate = walk.ground.base + (walk.start - ground.base)
        for walk in state.walks:
            if walk.plan.path:
                clean = (walk.estimate - walk.ground.base) / walk.scale
                walk.x = denoise.noised(clean, self._noise(walk), walk.plan.path[0])
        return state

    def step(self, state: State, index: int) -> _Float:
        """Advance ``state`` to step ``index`` and return its clean estimate, shape (B, C, H, W).

        Model units, the whole image of the target date: prior, mean and residual. Requests with fewer steps
        keep their last estimate.
        """
        if index != state.index + 1:
            raise GeneratorError(
                f"embedded: step {index} was asked for after step {state.index}",
                "walk the steps in order, from 0, each once",
            )
        for walk, clean in self._denoised([walk for walk in state.walks if index < walk.plan.calls], index):
            ground = walk.ground
            gains = self._config.gains.get(ground.category)
            if gains is not None and index == walk.plan.calls - 1:
                clean = equalised(clean, gains)
            walk.estimate = ground.consistent(ground.base + walk.scale * clean)
        state.index = index
        return np.stack([walk.estimate for walk in state.walks])

    def replace(self, state: State, estimate: _Float) -> None:
        """Put ``estimate`` in the place of the one that `step` returned last."""
        expected = (len(state.walks), *state.walks[0].estimate.shape)
        if estimate.shape != expected:
            raise GeneratorError(
                f"embedded: an estimate of shape {estimate.shape} cannot replace one of {expected}",
                "give an array of the shape that step returned",
            )
        for walk, one in zip(state.walks, estimate, strict=True):
            walk.estimate = np.array(one, np.float32)

    def finish(self, state: State) -> _Float:
        """Take the steps that are left and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(walk.plan.calls for walk in state.walks)):
            self.step(state, index)
        out = []
        for walk in state.walks:
            request, target = walk.request, walk.plan.target
            result = np.where(request.known, request.values, np.float32(0))
            final = walk.start if request.strength == 0 else walk.ground.consistent(walk.estimate)
            result[target] = np.where(request.fill[target], final, result[target])
            out.append(result.astype(np.float32, copy=False))
        return np.stack(out)

    def _plan(self, request: Request) -> _Plan:
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
        return _Plan(
            target=int(np.flatnonzero(request.target)[0]),
            present=present_bands(request)[:, None, None],
            free=free,
            path=denoise.karras(steps, sigma_max=min(reach, high), sigma_min=low) if drawn else (),
        )

    def _noise(self, walk: _Walk) -> _Float:
        """Return noise of the place of a request, shape (C, H, W): land that is made up is the same on all dates."""
        request = walk.request
        return noise.normal(
            request.origin,
            walk.start.shape,
            seed=request.seed,
            stream="embedded detail",
            member=request.member,
            time=0 if walk.plan.free else int(request.times[walk.plan.target]),
        )

    def _outlined(self, walks: Sequence[_Walk]) -> list[Request]:
        """Return the requests to super-resolve what free tiles show.

        From nothing: the landscape of the seed, member and date. With a start: the start's outline, moved
        towards that landscape as the strength nears 1.
        """
        card, parts = self.card, []
        for walk in walks:
            request, (H, W) = walk.request, walk.start.shape[1:]
            halo = _HALO if request.strength == 1.0 else 0
            row, col = request.origin
            parts.append(
                (
                    _plane(request, walk.plan.target),
                    (row // _CELL.factor - halo, col // _CELL.factor - halo),
                    (H // _CELL.factor + 2 * halo, W // _CELL.factor + 2 * halo),
                )
            )
        land = _landscape(self._folder, self._device, self._precision)
        asked = []
        for walk, logs in zip(walks, land.cells(parts, partial(self._forward, "landscape")), strict=True):
            strength = walk.request.strength
            if strength == 1.0:
                asked.append(_measured(walk, from_log(logs, card.mean, card.std), _CELL, _HALO))
                continue
            own = to_log(_OUTLINE.degrade(walk.start), card.mean, card.std)
            times = _OUTLINE.factor // _CELL.factor
            blocks = logs.reshape(len(logs), own.shape[1], times, own.shape[2], times)
            drawn = blocks.mean(axis=(2, 4))
            mixed = own + strength**5 * (drawn - own)
            asked.append(_measured(walk, from_log(mixed, card.mean, card.std), _OUTLINE))
        return asked

    def _grounds(self, requests: Sequence[Request]) -> list[Ground]:
        """Return what the residual of conditional requests is drawn upon."""
        config = self._config
        return grounds(requests, config.context, Regressors(config.layers, config.scale, self._forward))

    def _forward(self, name: str, *inputs: Sequence[_Float | np.float32], part: str = "forward") -> _Float:
        network = _network(self._config, name, self._device)
        return forward(
            getattr(network, part),
            inputs,
            batch=self.card.batch,
            multiple_of=_UNIT,
            device=self._device,
            precision=self._precision,
        )

    def _denoised(self, walks: Sequence[_Walk], index: int) -> list[tuple[_Walk, _Float]]:
        """Advance walks to a step; return their clean estimates in units of the residual."""
        if not walks:
            return []
        for walk in walks:
            if index > 0:
                clean = (walk.estimate - walk.ground.base) / walk.scale
                path = walk.plan.path
                walk.x = denoise.dpmpp_2m(
                    walk.x, clean, walk.before, path[max(index - 2, 0)], path[index - 1], path[index]
                )
                walk.before = clean
        points = [(walk.x * walk.plan.present).astype(np.float32) for walk in walks]
        t = [np.float32(walk.plan.path[index]) for walk in walks]
        linear = [
            _closed_form(self._config, "residual", walk.ground.category).estimate(
                point, float(when), walk.plan.present[:, 0, 0]
            )
            for walk, point, when in zip(walks, points, t, strict=True)
        ]
        if index == 0:
            told: dict[Ground, _Float] = {}
            for group in by_dates(walk.ground for walk in walks):
                images = [ground.image()[: len(ground.base) + ground.used] for ground in group]
                told.update(zip(group, self._forward("residual", images, part="told"), strict=True))
            for walk in walks:
                walk.told = told[walk.ground]
        facts = [walk.ground.told.facts for walk in walks]
        found = self._forward(
            "residual", points, t, [walk.told for walk in walks], facts, linear, part="step"
        )
        return [(walk, one * walk.plan.present) for walk, one in zip(walks, found, strict=True)]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one request is answered."""

    target: int
    """Index of the date to fill."""
    present: NDArray[np.bool_]
    """Shape (C, 1, 1), True for bands of the cube."""
    free: bool
    """Nothing binds the result: a layout is drawn first."""
    path: tuple[float, ...]
    """Times of the residual's path, one more than calls; empty: none."""

    @property
    def calls(self) -> int:
        """Number of steps."""
        return max(len(self.path) - 1, 0)


@dataclass(eq=False)
class _Walk:
    """One request on its way from noise to image; images (C, H, W) in model units."""

    request: Request
    plan: _Plan
    asked: Request = field(init=False)
    """What the conditional networks answer: the request, or to super-resolve its layout."""
    start: _Float = field(init=False)
    """What a variation starts from; 0 without one."""
    estimate: _Float = field(init=False)
    """Clean estimate of the target date."""
    x: _Float = field(init=False)
    """The point x_t of the path, in units of its network."""
    before: _Float | None = None
    """The clean estimate one step before, in the same units."""
    ground: Ground = field(init=False)
    """What the residual is drawn upon."""
    told: _Float = field(init=False)
    """What the residual's network makes of the ground's conditions, once for all steps."""
    scale: _Float = field(init=False)
    """One unit of the residual."""

    def __post_init__(self) -> None:
        request, target = self.request, self.plan.target
        known = request.known if self.plan.free else request.known & ~request.fill
        # What lies where nothing was measured must not matter.
        values = np.where(known, request.values, np.float32(0))
        self.request = self.asked = replace(request, values=values, known=known)
        self.start = classical.push_pull(values[target], known[target])


@dataclass(eq=False)
class State:
    """A batch of requests between two steps."""

    walks: list[_Walk]
    """In the order of the requests."""
    index: int = -1
    """Last step taken; -1 before the first."""


@dataclass(frozen=True)
class _Config:
    """``config.json``, read."""

    folder: Path
    card: Card
    networks: Mapping[str, Mapping[str, Any]]
    context: int
    """Other dates that the networks are told; the card's are those that the prior looks at."""
    layers: Mapping[str, str]
    scale: Mapping[str, Mapping[str, float]]
    gains: Mapping[str, Sequence[float]]
    """By category: what a sample's space frequencies are weighed with (`gaussian.equalised`)."""
    landscape: Mapping[str, Any]
    """Arguments of `Landscape`."""


def _plane(request: Request, target: int) -> Plane:
    """Return the plane that a request is a part of."""
    gsd_m = float(request.metadata[target, 2]) * _CELL.factor
    # In half octaves: on a geographic grid the pixel size changes from tile to tile, and tiles must agree.
    octaves = round(2 * np.log2(gsd_m)) / 2 if gsd_m > 0 else float(np.log2(_USUAL_M))
    return Plane(request.seed, request.member, int(request.times[target]), 2.0**octaves)


def _measured(walk: _Walk, layout: _Float, sensor: Sensor, halo: int = 0) -> Request:
    """Return the request to super-resolve what a sensor sees of a tile, and ``halo`` pixels around it."""
    request, date = walk.request, slice(walk.plan.target, walk.plan.target + 1)
    nothing = np.zeros_like(request.values[date])
    return Request(
        values=nothing,
        known=nothing.astype(bool),
        fill=np.broadcast_to(walk.plan.present, nothing.shape),
        times=request.times[date],
        metadata=request.metadata[date],
        origin=request.origin,
        coarse=np.where(walk.plan.present, layout, np.float32(np.nan))[None].astype(np.float32),
        halo=halo,
        factor=sensor.factor,
        sensor=sensor,
    )


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


@lru_cache(maxsize=8)
def _config(folder: str | None) -> _Config:
    path = (_FOLDER if folder is None else Path(folder)) / "config.json"
    try:
        content = path.read_bytes()
        raw = json.loads(content)
        card = raw["card"]
        return _Config(
            folder=path.parent,
            card=Card(
                name=card["name"],
                bands=tuple(card["bands"]),
                gsd_m=(card["gsd_m"][0], card["gsd_m"][1]),
                tile_px=card["tile_px"],
                overlap_px=card["overlap_px"],
                multiple_of=card["multiple_of"],
                batch=card["batch"],
                context=card["context"],
                surroundings=True,
                steps=dict(card["steps"]),
                member_steps=dict(card["member_steps"]),
                joint_steps=card["joint_steps"],
                mean=tuple(card["mean"]),
                std=tuple(card["std"]),
                conditions=frozenset(card["conditions"]),
                guided=frozenset(card["guided"]),
                # The config names its networks by their hashes, and its constants count as well.
                sha256=hashlib.sha256(content).hexdigest(),
                licence=card["licence"],
                description=card["description"],
            ),
            networks=raw["networks"],
            context=raw["context"],
            layers=raw["layers"],
            scale=raw["scale"],
            gains=raw["gains"],
            landscape=raw["landscape"],
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise GeneratorError(
            f"loading the embedded generator: {path} cannot be read ({error!r})",
            "pass the folder that holds config.json, or reinstall the package",
        ) from error


_networks: dict[tuple[str, str, str], Any] = {}
_networks_lock = threading.Lock()


def _network(config: _Config, name: str, device: str) -> Any:
    """Return a network of this process, loaded on first use."""
    entry = config.networks[name]
    key = (str(config.folder / entry["file"]), entry["sha256"], device)
    with _networks_lock:
        if key not in _networks:
            import torch

            from eoaug.generators.network import build

            network = build(entry["architecture"])
            tensors = load_weights(key[0], sha256=key[1])
            network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
            _networks[key] = network.eval().requires_grad_(False).to(device)
        return _networks[key]


@lru_cache(maxsize=4)
def _landscape(folder: str | None, device: str, precision: Precision) -> Landscape:
    """Return the landscapes of this process: windows once drawn serve the tiles beside."""
    config = _config(folder)
    given, palettes = config.landscape, config.networks[PALETTES]
    drawn = load_weights(config.folder / palettes["file"], sha256=palettes["sha256"])
    return Landscape(
        window=given["window"],
        context=given["context"],
        sigma=given["sigma"],
        steps=given["steps"],
        scenes=drawn["scenes"].astype(np.float64),
        root=drawn["root"].astype(np.float64),
        pieces=drawn["pieces"].astype(np.float64),
        field=_closed_form(config, "landscape", "alone"),
        batch=config.card.batch,
    )


def _closed_form(config: _Config, network: str, kind: str) -> Gaussian:
    """Return the closed form below a network, of this process."""
    entry = config.networks[f"{network}_gaussian"]
    return _closed_forms(str(config.folder / entry["file"]), entry["sha256"])[kind]


@lru_cache(maxsize=8)
def _closed_forms(path: str, sha256: str) -> Mapping[str, Gaussian]:
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_weights(path, sha256=sha256).items()}
    kinds = {name.split(".")[0] for name in tensors}
    return {kind: Gaussian(tensors[f"{kind}.mean"], tensors[f"{kind}.covariance"]) for kind in kinds}
