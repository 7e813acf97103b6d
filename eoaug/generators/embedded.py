"""The diffusion model that ships in the package: a classical prior, a regressor on it, a diffusion on that.

Imports the ground and this package's numpy modules; torch and the networks on first use. Three layers
(CorrDiff, arXiv:2309.15214): the prior needs no weights; the mean net adds what can be expected; the
residual net draws what cannot. Each is used for a verb only where it beats the one below on places that
training never saw; ``config.json`` holds the decision and the figures.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug import noise
from eoaug.errors import GeneratorError
from eoaug.generators import classical, denoise
from eoaug.generators.base import Card, Request
from eoaug.generators.conditions import Conditions, category, conditions, free_facts, present_bands
from eoaug.generators.weights import load_weights

__all__ = ["Embedded"]

_FOLDER = Path(__file__).parent.parent / "weights" / "embedded"
_SIGMA_MAX = 80.0
"""Noise over signal that free synthesis starts from (arXiv:2206.00364, section 5)."""
_SIGMA_MAX_RESIDUAL = 20.0
"""The same for the residual, whose large scales the layers below have settled."""
_STREAM = "embedded"

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
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else str(folder)
        self._config = _config(self._folder)

    @property
    def card(self) -> Card:
        """What the weights were made for."""
        return self._config.card

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._folder, self.card.sha256)

    def __repr__(self) -> str:
        return f"Embedded({'' if self._folder is None else repr(self._folder)})"

    def generate(self, requests: Sequence[Request]) -> _Float:
        """Return shape (B, T, C, H, W) in model units.

        Requests of one call have one shape; they may come from different verbs.
        """
        requests = list(requests)
        if not requests:
            return np.zeros((0, 0, len(self.card.bands), 0, 0), np.float32)
        parts = []
        for first in range(0, len(requests), self.card.batch):
            state = self.begin(requests[first : first + self.card.batch])
            parts.append(self.finish(state))
        return np.concatenate(parts)

    def begin(self, requests: Sequence[Request]) -> State:
        """Return the state of at most ``card.batch`` requests before the first step."""
        self._check(requests)
        config = self._config
        plans = [self._plan(request) for request in requests]
        B, C = len(requests), len(self.card.bands)
        H, W = requests[0].values.shape[2:]
        base = np.zeros((B, C, H, W), np.float32)
        scale = np.ones((B, C, 1, 1), np.float32)
        seen: list[Conditions | None] = [None] * B
        priors: list[_Float | None] = [None] * B
        for slot, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            if plan.free and not plan.start:
                continue
            known, values = request.known[plan.target], request.values[plan.target]
            if plan.start:
                prior = classical.push_pull(values, known)
            else:
                prior = classical.estimate(_clean(request))[plan.target]
            priors[slot] = np.where(plan.present[:, None, None], prior, 0).astype(np.float32)
            if not plan.free:
                seen[slot] = conditions(_clean(request), priors[slot], context=self.card.context)
        move = self._mean(seen, plans, (H, W))
        for slot, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            condition, prior_here = seen[slot], priors[slot]
            if condition is None or prior_here is None:
                continue
            unit = condition.contrast * np.float32(config.scale["mean"].get(plan.category, 1.0))
            estimate = prior_here + unit * move[slot]
            base[slot] = _consistent(estimate, request, plan)
            scale[slot] = condition.contrast * np.float32(config.scale["residual"].get(plan.category, 1.0))
        x, estimate = np.zeros_like(base), base.copy()
        for slot, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            start = priors[slot]
            if plan.start and start is not None:
                estimate[slot] = start
            if not plan.schedule:
                continue
            place = noise.normal(
                request.origin,
                (C, H, W),
                seed=request.seed,
                stream=_STREAM,
                member=request.member,
                time=int(request.times[plan.target]),
            )
            clean = (estimate[slot] - base[slot]) / scale[slot]
            x[slot] = denoise.noised(clean, place, plan.schedule[0]) * plan.present[:, None, None]
        return State(
            requests=tuple(requests),
            plans=tuple(plans),
            seen=tuple(seen),
            base=base,
            scale=scale,
            x=x,
            estimate=estimate,
            previous=None,
            index=-1,
        )

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
        t = np.zeros(len(state.requests), np.float32)
        for slot, plan in enumerate(state.plans):
            if index >= plan.calls:
                continue
            t[slot] = plan.schedule[index]
            if index > 0:
                clean = (state.estimate[slot] - state.base[slot]) / state.scale[slot]
                before = None
                if state.previous is not None and index > 1:
                    before = (state.previous[slot] - state.base[slot]) / state.scale[slot]
                state.x[slot] = denoise.dpmpp_2m(
                    state.x[slot],
                    clean,
                    before,
                    plan.schedule[index - 2] if index > 1 else 0.0,
                    plan.schedule[index - 1],
                    plan.schedule[index],
                )
        state.previous = state.estimate.copy()
        active = [index < plan.calls for plan in state.plans]
        for slot, clean in self._denoised(state, t, active).items():
            estimate = state.base[slot] + state.scale[slot] * clean
            state.estimate[slot] = _consistent(estimate, state.requests[slot], state.plans[slot])
        state.index = index
        return state.estimate.copy()

    def replace(self, state: State, estimate: _Float) -> None:
        """Put ``estimate`` in the place of the one that `step` returned last."""
        if estimate.shape != state.estimate.shape:
            raise GeneratorError(
                f"embedded: an estimate of shape {estimate.shape} cannot replace {state.estimate.shape}",
                "give back the array that step returned, changed in place or not",
            )
        state.estimate = np.array(estimate, np.float32)

    def finish(self, state: State) -> _Float:
        """Take the steps that are left and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(plan.calls for plan in state.plans)):
            self.step(state, index)
        out = []
        for slot, (request, plan) in enumerate(zip(state.requests, state.plans, strict=True)):
            result = np.where(request.known, request.values, np.float32(0))
            final = _consistent(state.estimate[slot], request, plan)
            result[plan.target] = np.where(request.fill[plan.target], final, result[plan.target])
            out.append(result.astype(np.float32, copy=False))
        return np.stack(out)

    def _check(self, requests: Sequence[Request]) -> None:
        card = self.card
        if not 0 < len(requests) <= card.batch:
            raise GeneratorError(
                f"embedded: begin was given {len(requests)} requests",
                f"give 1 to {card.batch}, or use generate",
            )
        shapes = {request.values.shape for request in requests}
        if len(shapes) > 1:
            raise GeneratorError(
                f"embedded: requests of different shapes {sorted(shapes)} in one batch",
                "give requests of one shape; generate one group after the other",
            )
        T, C, H, W = shapes.pop()
        if len(card.bands) != C or H % 8 or W % 8:
            raise GeneratorError(
                f"embedded: a request has {C} bands and {H} x {W} pixels",
                f"give the slots {', '.join(card.bands)} and edges that are multiples of 8",
            )
        for request in requests:
            targets = int(request.target.sum())
            if targets != 1 or T > 1 + card.context:
                raise GeneratorError(
                    f"embedded: a request has {targets} dates to fill and {T - targets} others",
                    f"give exactly one date to fill and at most {card.context} others",
                )

    def _plan(self, request: Request) -> _Plan:
        steps = request.steps if request.steps is not None else self.card.steps.get(request.verb, 0)
        free = request.verb == "synthesize"
        if free and steps == 0:
            # A tile of a large gap where nothing is known has no expectation worth showing.
            steps = self.card.steps["synthesize"]
        start = bool(free and request.strength < 1.0)
        schedule: tuple[float, ...] = ()
        if free:
            sigma = _SIGMA_MAX
            if start:
                sigma = min(sigma, request.strength / (1.0 - request.strength))
            if sigma > 0:
                schedule = denoise.karras(steps, sigma_max=sigma)
        elif steps > 0:
            schedule = denoise.karras(steps, sigma_max=_SIGMA_MAX_RESIDUAL, sigma_min=0.2)
        return _Plan(
            target=int(np.flatnonzero(request.target)[0]),
            present=present_bands(request),
            free=free,
            start=start,
            category=category(request),
            schedule=schedule,
            mean=not free and self._config.layers.get(request.verb) == "mean",
        )

    def _mean(
        self, seen: Sequence[Conditions | None], plans: Sequence[_Plan], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return the mean net's residual in its units, (B, C, H, W); 0 where it is not used."""
        C = len(self.card.bands)
        out = np.zeros((len(seen), C, *shape), np.float32)
        used = {
            slot: condition
            for slot, (condition, plan) in enumerate(zip(seen, plans, strict=True))
            if condition is not None and plan.mean
        }
        if not used:
            return out
        image = self._padded({slot: one.image for slot, one in used.items()})
        facts = self._padded({slot: one.facts for slot, one in used.items()})
        moved = _forward(self._config, "mean", image, facts)
        for slot in used:
            out[slot] = moved[slot] * plans[slot].present[:, None, None]
        return out

    def _denoised(self, state: State, t: _Float, active: Sequence[bool]) -> dict[int, _Float]:
        """Return clean estimates in units of the residual by slot, for the requests still on their way."""
        out: dict[int, _Float] = {}
        for free, name in ((True, "free"), (False, "residual")):
            slots = [s for s, plan in enumerate(state.plans) if active[s] and plan.free == free]
            if not slots:
                continue
            x = self._padded({slot: state.x[slot] for slot in slots})
            times = self._padded({slot: t[slot] for slot in slots})
            inputs: list[_Float | None] = [x, times]
            if free:
                facts = {
                    slot: free_facts(
                        state.requests[slot].metadata[state.plans[slot].target], state.plans[slot].present
                    )
                    for slot in slots
                }
                inputs += [None, self._padded(facts)]
            else:
                inputs += [
                    self._padded({slot: _on_base(state, slot) for slot in slots}),
                    self._padded({slot: _seen(state, slot).facts for slot in slots}),
                ]
            clean = _forward(self._config, name, *inputs)
            for slot in slots:
                out[slot] = clean[slot] * state.plans[slot].present[:, None, None]
        return out

    def _padded(self, arrays: Mapping[int, _Float | np.float32]) -> _Float:
        """Return a full batch: each array in its slot, zeros elsewhere."""
        first = np.asarray(next(iter(arrays.values())))
        batch = np.zeros((self.card.batch, *first.shape), np.float32)
        for slot, array in arrays.items():
            batch[slot] = array
        return batch


@dataclass(eq=False)
class State:
    """Requests on their way from noise to image; arrays (B, C, H, W) in model units."""

    requests: tuple[Request, ...]
    """What was asked."""
    plans: tuple[_Plan, ...]
    """How each is answered."""
    seen: tuple[Conditions | None, ...]
    """What the conditional networks are told; None for free synthesis."""
    base: _Float
    """What the residual is added to: prior and mean; 0 for free synthesis."""
    scale: _Float
    """Model units of one unit of the residual, (B, C, 1, 1)."""
    x: _Float
    """The point x_t of the path, in units of the residual."""
    estimate: _Float
    """Clean estimate of the target date."""
    previous: _Float | None
    """The estimate one step before."""
    index: int
    """Last step taken; -1 before the first."""


@dataclass(frozen=True)
class _Plan:
    """How one request is answered."""

    target: int
    present: NDArray[np.bool_]
    free: bool
    start: bool
    category: str
    schedule: tuple[float, ...]
    mean: bool

    @property
    def calls(self) -> int:
        return max(len(self.schedule) - 1, 0)


@dataclass(frozen=True)
class _Config:
    """``config.json``, read."""

    folder: Path
    card: Card
    networks: Mapping[str, Mapping[str, Any]]
    layers: Mapping[str, str]
    scale: Mapping[str, Mapping[str, float]]


def _clean(request: Request) -> Request:
    """Return the request with zeros wherever nothing was measured: what lies there must not matter."""
    from dataclasses import replace

    return replace(request, values=np.where(request.known, request.values, np.float32(0)))


def _seen(state: State, slot: int) -> Conditions:
    condition = state.seen[slot]
    assert condition is not None
    return condition


def _on_base(state: State, slot: int) -> _Float:
    """Return the residual net's image conditions: the estimate below it, then what the mean net saw."""
    seen = _seen(state, slot)
    base = np.clip((state.base[slot] - seen.centre) / seen.contrast, -8, 8)
    return np.concatenate([base * state.plans[slot].present[:, None, None], seen.image])


def _consistent(estimate: _Float, request: Request, plan: _Plan) -> _Float:
    """Return the estimate with every measurement put back: the coarse image, then the known pixels."""
    out = estimate
    if request.coarse is not None and request.sensor is not None:
        out = request.sensor.project(out, request.coarse[plan.target], passes=2)
    if plan.start:
        return out
    return np.where(request.known[plan.target], request.values[plan.target], out)


def _restored(kind: type[Embedded], folder: str | None, sha256: str) -> Embedded:
    """Rebuild a pickled generator, and refuse other weights than those it was pickled with."""
    generator = kind(folder)
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
        raw = json.loads(path.read_text())
        card = raw["card"]
        hashes = "".join(f"{n['file']} {n['sha256']}\n" for n in raw["networks"].values())
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
                steps=dict(card["steps"]),
                joint_steps=card["joint_steps"],
                mean=tuple(card["mean"]),
                std=tuple(card["std"]),
                conditions=frozenset(card["conditions"]),
                sha256=hashlib.sha256(hashes.encode()).hexdigest(),
                licence=card["licence"],
                description=card["description"],
            ),
            networks=raw["networks"],
            layers=raw["layers"],
            scale=raw["scale"],
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise GeneratorError(
            f"loading the embedded generator: {path} cannot be read ({error!r})",
            "pass the folder that holds config.json, or reinstall the package",
        ) from error


_networks: dict[tuple[str, str], Any] = {}
_networks_lock = threading.Lock()


def _network(config: _Config, name: str) -> Any:
    """Return a network of this process, loaded on first use."""
    entry = config.networks[name]
    key = (str(config.folder / entry["file"]), entry["sha256"])
    with _networks_lock:
        if key not in _networks:
            import torch

            from eoaug.generators.network import build

            network = build(entry["architecture"])
            tensors = load_weights(key[0], sha256=key[1])
            network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
            _networks[key] = network.eval().requires_grad_(False)
        return _networks[key]


def _forward(config: _Config, name: str, *inputs: _Float | None) -> _Float:
    """Run a network on full batches."""
    import torch

    network = _network(config, name)
    tensors = [None if array is None else torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
    with _one_thread(), torch.inference_mode():
        out: _Float = network(*tensors).numpy()
    return out


_users = 0
_users_lock = threading.Lock()
_threads_before = 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Pin torch to one intra-op thread, on which alone bytes do not depend on the machine's settings.

    The last user to leave restores what the first one found; torch keeps the number per thread, so every
    user sets it.
    """
    import torch

    global _users, _threads_before
    with _users_lock:
        if _users == 0:
            _threads_before = torch.get_num_threads()
        _users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _users_lock:
            _users -= 1
            if _users == 0:
                torch.set_num_threads(_threads_before)
