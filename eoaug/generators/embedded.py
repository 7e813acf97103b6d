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
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug import noise
from eoaug.errors import GeneratorError
from eoaug.generators import classical, denoise
from eoaug.generators.base import NEAR_PX, Card, Request, check_batch
from eoaug.generators.conditions import from_log, present_bands, to_log
from eoaug.generators.device import checked_device, device_kind
from eoaug.generators.execute import Precision, checked_precision, forward
from eoaug.generators.gaussian import Gaussian, equalised
from eoaug.generators.ground import Ground, Regressors, alike, grounds
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
"""Cells that a landscape is seen beyond what is drawn."""
_OUTLINE_HALO = 3
"""Cells that an outline is seen beyond what is drawn."""
_KEEPING = 0.6
"""Strength up to which a variation keeps its start's outline."""
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

    @property
    def settings(self) -> dict[str, Any]:
        """What changes its pixels beside the weights."""
        return {"device": device_kind(self._device), "precision": self._precision}

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
        varied = [walk for walk in free if walk.request.strength < 1.0]
        moved = [walk for walk in varied if walk.request.strength > _KEEPING]
        own = self._grounds([_measured(walk, walk.outline(), _OUTLINE, _OUTLINE_HALO) for walk in moved])
        base = {walk: ground.base for walk, ground in zip(moved, own, strict=True)}
        for walk in varied:
            # A variation keeps its start's detail as far as the noise lets it.
            detail = walk.started(walk.plan.beyond) - base.get(walk, walk.ground.base)
            walk.estimate = walk.ground.base + detail
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
        sizes: dict[tuple[int, ...], list[_Walk]] = {}
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

    def replace(self, state: State, estimate: _Float) -> None:
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

    def finish(self, state: State) -> _Float:
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
        # Beyond an image's edge the networks fill up with zeros: of a super-resolution's detail a third was missing in
        # a tile's last coarse pixels. So what is known there is drawn as well, and thrown away.
        told = request.coarse is None or request.halo > 1
        beyond = self.card.margin_px(request.verb, request.factor) if told else 0
        return _Plan(
            target=int(np.flatnonzero(request.target)[0]),
            present=present_bands(request)[:, None, None],
            free=free,
            beyond=beyond,
            path=denoise.karras(steps, sigma_max=min(reach, high), sigma_min=low) if drawn else (),
        )

    def _noise(self, walk: _Walk) -> _Float:
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

    def _outlined(self, walks: Sequence[_Walk]) -> list[Request]:
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
                asked.append(_measured(walk, from_log(land[walk], card.mean, card.std), _CELL, _HALO))
                continue
            shown = walk.outline()
            if walk in land:
                own = to_log(shown, card.mean, card.std)
                times = _OUTLINE.factor // _CELL.factor
                blocks = land[walk].reshape(len(own), own.shape[1], times, own.shape[2], times)
                # Two lands laid over each other look like neither, so the weight of the new one grows late.
                share = ((strength - _KEEPING) / (1.0 - _KEEPING)) ** 2
                shown = from_log(own + share * (blocks.mean(axis=(2, 4)) - own), card.mean, card.std)
            asked.append(_measured(walk, shown, _OUTLINE, _OUTLINE_HALO))
        return asked

    def _land(self, walks: Sequence[_Walk]) -> dict[_Walk, _Float]:
        """Return the landscape under free tiles and around them, log reflectance, in cells."""
        parts = []
        for walk in walks:
            request, (H, W) = walk.request, walk.request.values.shape[2:]
            halo = walk.plan.beyond + _HALO * _CELL.factor if request.strength == 1.0 else NEAR_PX
            row, col = request.origin
            parts.append(
                (
                    _plane(request, walk.plan.target),
                    ((row - halo) // _CELL.factor, (col - halo) // _CELL.factor),
                    ((H + 2 * halo) // _CELL.factor, (W + 2 * halo) // _CELL.factor),
                )
            )
        land = _landscape(self._folder, self._device, self._precision)
        forward = partial(self._forward, "landscape", batch=land.batch)
        return dict(zip(walks, land.cells(parts, forward), strict=True))

    def _grounds(self, requests: Sequence[Request]) -> list[Ground]:
        """Return what the residual of conditional requests is drawn upon."""
        config = self._config
        return grounds(requests, config.context, Regressors(config.layers, config.scale, self._forward))

    def _forward(
        self,
        name: str,
        *inputs: Sequence[_Float | np.float32],
        part: str = "forward",
        batch: int | None = None,
    ) -> _Float:
        network = _network(self._config, name, self._device)
        return forward(
            getattr(network, part),
            inputs,
            batch=batch or self.card.batch,
            multiple_of=_UNIT,
            device=self._device,
            precision=self._precision,
        )

    def _denoised(self, walks: Sequence[_Walk], index: int) -> list[tuple[_Walk, _Float]]:
        """Advance walks of one size to a step; return their clean estimates in units of the residual."""
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


@dataclass(frozen=True, eq=False)
class _Plan:
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
class _Walk:
    """One request on its way from noise to image; images (C, H, W) in model units."""

    request: Request
    plan: _Plan
    asked: Request = field(init=False)
    """What the conditional networks answer: the request, or to super-resolve its layout; grown by what is drawn
    beyond."""
    estimate: _Float = field(init=False)
    """Clean estimate of the target date, grown."""
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
    def _near(self) -> _Float:
        """What a variation starts from, and `NEAR_PX` around it: mirrored where nobody told."""
        request, target, width = self.request, self.plan.target, (NEAR_PX, NEAR_PX)
        if request.near is not None:
            near = request.near[target]
            return classical.push_pull(np.nan_to_num(near), np.isfinite(near))
        start = classical.push_pull(request.values[target], request.known[target])
        return np.pad(start, ((0, 0), width, width), mode="symmetric")

    def started(self, margin: int) -> _Float:
        """Return what a variation starts from and some pixels around it, shape (C, H + 2 margin, W + 2 margin)."""
        inner = slice(NEAR_PX - margin, margin - NEAR_PX or None)
        return self._near[:, inner, inner]

    def outline(self) -> _Float:
        """Return what a variation keeps, with a halo, shape (C, h, w)."""
        found: _Float = _OUTLINE.degrade(self._near)
        return found


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
    own_m = float(request.metadata[target, 2])
    gsd_m = (own_m if np.isnan(request.grid_m) else request.grid_m) * _CELL.factor
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
        halo=request.halo - edge // request.factor,
    )


def _measured(walk: _Walk, layout: _Float, sensor: Sensor, halo: int) -> Request:
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
                drawn_px=card["drawn_px"],
                multiple_of=card["multiple_of"],
                batch=card["batch"],
                context=card["context"],
                surroundings=True,
                steps=dict(card["steps"]),
                member_steps=dict(card["member_steps"]),
                joint_steps=dict(card["joint_steps"]),
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
        # A few tiles lack a few windows. A CPU takes as long for one in a batch as alone, and what filled the batches
        # up took most of the time.
        batch=1 if device == "cpu" else config.card.batch,
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
