"""Generators for tests: one that counts calls, and one that is cheap and sensitive to every input."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import GeneratorError
from eoaug.generators.base import METADATA_FIELDS, Card, Generator, Request, SteppedGenerator
from eoaug.generators.identity import settings_of
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = ["CountingGenerator", "TinyDenoiser"]


class CountingGenerator:
    """Wraps a generator and counts its calls and requests, within one process.

    Use it to test that nothing is computed before it is needed, or twice: ``calls``, ``steps`` and ``origins`` are counted
    thread-safely. Card, settings and pixels are those of the wrapped generator, and it has steps if that one has
    them. Pickling keeps the wrapped generator and resets the counts, so calls in other processes are not counted.

    Parameters
    ----------
    generator
        The generator to wrap.
    """

    calls: int
    """Number of calls of ``generate``, ``begin`` and ``step``."""
    steps: int
    """Number of calls of ``step``."""
    origins: list[tuple[int, int]]
    """Origins of all requests, in order of arrival."""

    def __new__(cls, generator: Generator) -> CountingGenerator:
        """Return an instance with steps if the wrapped generator has them."""
        return super().__new__(_CountingStepped if isinstance(generator, SteppedGenerator) else cls)

    def __init__(self, generator: Generator) -> None:
        self._generator: Any = generator
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.calls, self.steps, self.origins = 0, 0, []

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.origins)

    @property
    def card(self) -> Card:
        """The wrapped generator's card."""
        card: Card = self._generator.card
        return card

    @property
    def settings(self) -> dict[str, Any]:
        """The wrapped generator's settings."""
        return settings_of(self._generator)

    def _count(self, requests: Sequence[Request] = (), steps: int = 0) -> None:
        with self._lock:
            self.calls += 1
            self.steps += steps
            self.origins += [request.origin for request in requests]

    def generate(self, requests: Sequence[Request]) -> Float32Array:
        """Count the call and return the wrapped generator's result."""
        self._count(requests)
        made: Float32Array = self._generator.generate(requests)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return CountingGenerator, (self._generator,)


class _CountingStepped(CountingGenerator):
    """A `CountingGenerator` of a `SteppedGenerator`."""

    def begin(self, requests: Sequence[Request]) -> Any:
        self._count(requests)
        return self._generator.begin(requests)

    def step(self, state: Any, index: int) -> Float32Array:
        self._count(steps=1)
        estimate: Float32Array = self._generator.step(state, index)
        return estimate

    def replace(self, state: Any, estimate: Float32Array) -> None:
        self._generator.replace(state, estimate)

    def finish(self, state: Any) -> Float32Array:
        made: Float32Array = self._generator.finish(state)
        return made


@dataclass(frozen=True, kw_only=True)
class TinyDenoiser:
    """A stepped generator of a few 3 x 3 means in numpy, without weights: for fast tests of an engine.

    It is not a model, but it depends on its input as one does: a pixel depends on its neighbours within the tile, on the
    noise of its location, member and date, on the context dates, the metadata and all optional conditioning. So an
    error of the caller in any of them changes the result. It serves all verbs, with 4 denoising steps by default, and
    is deterministic: equal requests give equal bytes in any batch, thread and process.

    Examples
    --------
    >>> from eoaug.testing import TinyDenoiser, check_generator
    >>> check_generator(TinyDenoiser(tile_px=32, joint_steps=2))
    """

    tile_px: int = 32
    """Edge of a tile, in pixels."""
    overlap_px: int = 8
    """Overlap of neighbouring tiles, in pixels."""
    joint_steps: int = 2
    """Number of joint steps, averaged over overlapping tiles."""
    batch: int = 4
    """Largest number of requests of `begin`."""
    latent_factor: int = 1
    """Pixels per cell of the canvas."""
    bands: tuple[str, ...] = ()
    """Band slots; empty: any bands."""

    @cached_property
    def card(self) -> Card:
        """What this generator can do."""
        return Card(
            name="tiny",
            bands=self.bands,
            tile_px=self.tile_px,
            overlap_px=self.overlap_px,
            multiple_of=self.latent_factor,
            latent_factor=self.latent_factor,
            batch=self.batch,
            context=2,
            steps={"synthesize": 4, "inpaint": 4, "extend": 4, "super_resolve": 4},
            joint_steps=dict.fromkeys(("synthesize", "inpaint", "extend"), self.joint_steps),
            conditions=frozenset({"prompt", "layout", "metadata", "guidance"}),
            description="A few means of 3 x 3 pixels, for tests of the engine.",
        )

    def generate(self, requests: Sequence[Request]) -> Float32Array:
        """Return shape (B, T, C, H, W) in model units."""
        batches = [requests[i : i + self.batch] for i in range(0, len(requests), self.batch)]
        return np.concatenate([self.finish(self.begin(batch)) for batch in batches])

    def begin(self, requests: Sequence[Request]) -> TinyBatch:
        """Return the state before the first step."""
        if not 0 < len(requests) <= self.batch:
            raise GeneratorError(
                f"tiny: begin got {len(requests)} requests", f"give 1 to {self.batch}, or use generate"
            )
        if len({request.values.shape for request in requests}) > 1:
            raise GeneratorError("tiny: requests of different shapes in one batch", "give one shape per call")
        return TinyBatch([TinyTrajectory.of(request, self.latent_factor) for request in requests])

    def step(self, state: TinyBatch, index: int) -> Float32Array:
        """Take step ``index``; return the clean estimate, shape (B, C, H, W) on the canvas."""
        if index != state.index + 1:
            raise GeneratorError(f"tiny: step {index} after step {state.index}", "take the steps in order")
        state.index = index
        for path in state.paths:
            if index < path.steps:
                path.estimate = path.denoise(1.0 - index / path.steps)
        return np.stack([path.estimate for path in state.paths])

    def replace(self, state: TinyBatch, estimate: Float32Array) -> None:
        """Replace the last estimate."""
        if estimate.shape != (len(state.paths), *state.paths[0].estimate.shape):
            raise GeneratorError(f"tiny: an estimate of shape {estimate.shape}", "give back step's shape")
        for path, tile in zip(state.paths, estimate, strict=True):
            path.estimate = np.array(tile, np.float32)

    def finish(self, state: TinyBatch) -> Float32Array:
        """Take the remaining steps and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(path.steps for path in state.paths)):
            self.step(state, index)
        return np.stack([path.result() for path in state.paths])


@dataclass(eq=False)
class TinyTrajectory:
    """Sampling state of one request of `TinyDenoiser`; arrays (C, H, W) on the canvas."""

    request: Request
    cell: int
    date: int
    steps: int
    estimate: Float32Array
    noise: Float32Array
    condition: Float32Array
    """Conditioning, added with a constant weight in every step."""
    known: NDArray[np.bool_]
    values: Float32Array

    @classmethod
    def of(cls, request: Request, cell: int) -> TinyTrajectory:
        date = int(np.flatnonzero(request.target)[0])
        start = request.known[date] & request.fill[date]
        known = request.known[date] & ~request.fill[date]
        steps = 4 if request.steps is None else request.steps
        place = noise.normal(
            (request.origin[0] // cell, request.origin[1] // cell),
            (request.values.shape[1], request.values.shape[2] // cell, request.values.shape[3] // cell),
            seed=request.seed,
            stream="tiny",
            member=request.member,
            time=int(request.times[date]),
        )
        values = _pooled(request.values[date], cell)
        strength = np.float32(request.strength if start.any() else 1.0)
        path = cls(
            request=request,
            cell=cell,
            date=date,
            steps=steps,
            estimate=values,
            noise=strength * place,
            condition=_condition(request, date, cell),
            known=_pooled(known.astype(np.float32), cell) == 1,
            values=values,
        )
        if not steps:
            path.estimate = path.denoise(0.0)
        return path

    def denoise(self, level: float) -> Float32Array:
        noisy = self.estimate + np.float32(0.5 * level) * self.noise
        noisy = np.where(self.known, self.values, noisy)
        smooth = np.float32(0.7) * _mean3(_mean3(noisy)) + np.float32(0.2) * self.condition
        # Bands mix, as in any network.
        smooth += np.float32(0.1) * np.roll(smooth, 1, axis=0)
        return np.asarray(np.where(self.known, self.values, smooth), np.float32)

    def result(self) -> Float32Array:
        request, date = self.request, self.date
        out = np.where(request.known, request.values, np.float32(0)).astype(np.float32)
        fine = self.estimate.repeat(self.cell, axis=1).repeat(self.cell, axis=2)
        out[date] = np.where(request.fill[date], fine, out[date])
        return out


@dataclass(eq=False)
class TinyBatch:
    """Sampling state of a batch."""

    paths: list[TinyTrajectory]
    index: int = -1


def _condition(request: Request, date: int, cell: int) -> Float32Array:
    C, H, W = request.values.shape[1:]
    out = np.zeros((C, H, W), np.float32)
    for other in range(len(request.times)):
        if other != date:
            near = 1.0 / (1.0 + abs(int(request.times[other] - request.times[date])) / 864_000)
            out += np.float32(near) * _mean3(request.values[other])
    facts = np.nan_to_num(request.metadata[date]) * np.arange(1, len(METADATA_FIELDS) + 1)
    out += np.float32(0.1 * math.sin(float(facts.sum())))
    if request.coarse is not None:
        f = request.factor
        coarse = np.nan_to_num(request.coarse_tile[date])
        # 5 times the weight of 0.2 of all conditioning is 1: the measurement sets the level.
        out += np.float32(5) * coarse.repeat(f, axis=1).repeat(f, axis=2)
    if request.layout is not None:
        out += request.layout.mean(axis=0)
    if request.prompt is not None:
        out += np.float32(len(request.prompt) / 100)
    if request.guidance is not None:
        out *= np.float32(1 + request.guidance / 10)
    return _pooled(out, cell)


def _pooled(image: NDArray[np.floating[Any]], cell: int) -> Float32Array:
    if cell == 1:
        return np.asarray(image, np.float32)
    C, H, W = image.shape
    return image.reshape(C, H // cell, cell, W // cell, cell).mean(axis=(2, 4), dtype=np.float32)


def _mean3(image: Float32Array) -> Float32Array:
    """Return means over 3 x 3 pixels; the border is repeated."""
    tall = np.concatenate((image[:, :1], image, image[:, -1:]), axis=1)
    tall = tall[:, :-2] + image + tall[:, 2:]
    wide = np.concatenate((tall[..., :1], tall, tall[..., -1:]), axis=2)
    return np.asarray((wide[..., :-2] + tall + wide[..., 2:]) / np.float32(9))
