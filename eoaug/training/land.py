"""Training data of the land network: chips of EuroSAT as windows of a plane, in units of their class.

A sample is one chip in cells of two pixels, or two chips on both sides of a random border, so that a plane may hold
classes side by side; some have neighbours that are drawn already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.datasets.eurosat import CLASSES, EurosatChips
from eoaug.generators.embedded import flow_samplers, plane_windows
from eoaug.generators.embedded.features import from_log, to_log
from eoaug.generators.embedded.land_units import LandUnits, conditions
from eoaug.generators.embedded.trajectory import CELL
from eoaug.raster.arrays import Float32Array
from eoaug.training.loop import Arrays, TrainingTask

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LandChips", "land_task"]


_KEPT_TONES = 256
_TWO = 0.12
"""Share of the samples with two chips."""
_NO_CLASS, _NO_TONE = 0.1, 0.15
"""Shares of the samples without a class (classifier-free guidance: arXiv:2207.12598), and without a tone."""
_BEND_CELLS = 6.0
"""Standard deviation of the Gaussian that smooths the border between two chips."""
_SIGMA = (60.0, 0.03)
"""Noise over signal at the first and the last call of the pictures."""
_BRIGHTEST = 0.2
"""Reflectance that is white in the pictures."""
_CHUNK = 512

Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class LandChips:
    """Chips in cells and in units of their class."""

    units: NDArray[np.float16]
    """Shape (n, 3, N, N)."""
    classes: NDArray[np.intp]
    """Shape (n,)."""
    tones: Float32Array
    """Shape (n, 4), `LandUnits.tone`."""
    statistics: LandUnits

    @classmethod
    def of(
        cls,
        chips: EurosatChips,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        statistics: LandUnits | None = None,
        halvings: int = 1,
    ) -> LandChips:
        """Return chips in units.

        Parameters
        ----------
        chips
            The chips.
        mean, std
            Reflectance of model unit 0 and of one model unit.
        statistics
            Those of the training chips; None: these are the training chips.
        halvings
            How often a chip is halved: once for cells of two pixels.
        """
        n = len(mean[:3])
        unit = np.asarray(std[:n], np.float32)[:, None, None]
        centre = np.asarray(mean[:n], np.float32)[:, None, None]
        parts = []
        for first in range(0, len(chips), _CHUNK):
            cells = (chips.reflectance(slice(first, first + _CHUNK)) - centre) / unit
            for _ in range(halvings):
                cells = CELL.degrade(cells)
            parts.append(to_log(cells, mean[:n], std[:n]))
        logs = np.concatenate(parts)
        if statistics is None:
            statistics = LandUnits.fit(logs, chips.classes, kept=_KEPT_TONES)
        units = statistics.to_units(logs, chips.classes[:, None, None])
        tones = statistics.tone(units, chips.classes)
        return cls(units.astype(np.float16), chips.classes, tones, statistics)

    def draw(self, rng: Rng, *, context: int) -> dict[str, Float32Array]:
        """Return one training sample: the window ``x``, its conditions ``image``, and the ``weight`` of its cells."""
        number = int(rng.integers(len(self.classes)))
        x, classes, tone = self._turned(rng, number)
        if rng.random() < _TWO:
            other = self._turned(rng, int(rng.integers(len(self.classes))))
            side = _border(rng, x.shape[-1])
            x, classes, tone = (np.where(side, a, b) for a, b in zip((x, classes, tone), other, strict=True))
        kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
        known = plane_windows.known(kind, x.shape[-1], context)
        known = known if rng.random() < 0.5 else known.T
        no_class, no_tone = rng.random() < _NO_CLASS, rng.random() < _NO_TONE
        image = conditions(0 * classes if no_class else classes, None if no_tone else tone, x, known)
        return {"x": x, "image": image, "weight": (~known).astype(np.float32)[None]}

    def _turned(self, rng: Rng, number: int) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return a chip under a random symmetry of the square, its class map and its tone map."""
        turn = int(rng.integers(8))
        x = self.units[number].astype(np.float32)
        x = np.rot90(x[..., ::-1] if turn >= 4 else x, turn % 4, axes=(-2, -1))
        size = x.shape[-2:]
        return x, *maps_of(int(self.classes[number]), self.tones[number], size)


_KINDS: Mapping[str, float] = {"alone": 0.6, "between": 0.2, "within": 0.2}
"""Shares of `plane_windows.KINDS`; structure is learned where nothing is known."""


def maps_of(number: int, tone: Float32Array, size: tuple[int, ...]) -> tuple[Float32Array, Float32Array]:
    """Return the class map (K, H, W) and the tone map (4, H, W) of a window of one class."""
    classes = np.zeros((len(CLASSES), *size), np.float32)
    classes[number] = 1
    return classes, np.broadcast_to(np.asarray(tone, np.float32)[:, None, None], (len(tone), *size))


def _border(rng: Rng, size: int) -> NDArray[np.bool_]:
    """Return a window that a bent random line cuts in two, shape (size, size)."""
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    bends = ndimage.gaussian_filter(rng.standard_normal((size, size)), _BEND_CELLS, mode="wrap")
    bends *= rng.uniform(0, 0.25) / bends.std()
    rows, cols = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    return np.asarray(np.cos(angle) * rows + np.sin(angle) * cols + bends > offset)


def land_task(
    settings: Mapping[str, Any],
    seed: int,
    chips: LandChips,
    validation: LandChips | None,
    *,
    context: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> TrainingTask:
    """Return the training of the land network.

    Parameters
    ----------
    settings
        As in `TrainingTask`, with ``batch`` and ``noise``; ``validated``, the samples of the validation loss; and
        ``pictures``, the ``columns`` of the contact sheet and the ``guidance`` and ``steps`` of its samples.
    seed
        Random seed.
    chips, validation
        Chips to learn from, and others by which the loss is measured.
    context
        Cells on each side of a window that its neighbours may give.
    mean, std
        Reflectance of model unit 0 and of one model unit.
    """

    def batch(source: LandChips, rng: Rng, count: int) -> list[dict[str, Float32Array]]:
        level = rng.normal(settings["noise"]["mean"], settings["noise"]["std"], size=count)
        items = []
        for value in level:
            item = source.draw(rng, context=context)
            t = np.float32(1 / (1 + np.exp(value)))
            x_t = t * item["x"] + (1 - t) * rng.standard_normal(item["x"].shape, dtype=np.float32)
            items.append(item | {"x_t": x_t, "t": np.asarray(t)})
        return items

    def batches(step: int, share: slice) -> Arrays:
        return _stacked(batch(chips, np.random.default_rng([seed, _STREAM, step]), settings["batch"])[share])

    held = (
        []
        if validation is None
        else batch(validation, np.random.default_rng([seed, _STREAM]), settings["validated"])
    )

    def validate(network: nn.Module) -> float:
        import torch

        size = settings["batch"]
        parts = [_stacked(held[first : first + size]) for first in range(0, len(held), size)]
        with torch.inference_mode():
            losses = [
                float(land_loss(network, {name: torch.from_numpy(value) for name, value in part.items()}))
                for part in parts
            ]
        return float(np.mean(losses))

    def show(network: nn.Module) -> NDArray[np.floating]:
        return pictures(
            network,
            chips.statistics,
            chips.units.shape[-1],
            settings["pictures"],
            seed=seed,
            unit=(mean, std),
        )

    return TrainingTask(
        "land", settings, seed, batches, land_loss, show, validate if validation is not None else None
    )


_STREAM = 4


def land_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the squared error of the network's own output, where a window is to be drawn (arXiv:2206.00364, eq. 8)."""
    x, weight = batch["x"], batch["weight"]
    t = batch["t"][:, None, None, None]
    clean = network(batch["x_t"], batch["t"], batch["image"])
    gain = (t * t + (1 - t) * (1 - t)) / (1 - t).square().clamp_min(1e-4)
    error = (clean - x).square() * gain * weight
    mean: Tensor = (error.sum(dim=(1, 2, 3)) / (weight.sum(dim=(1, 2, 3)) * x.shape[1])).mean()
    return mean


def _stacked(items: Sequence[Mapping[str, Float32Array]]) -> dict[str, Float32Array]:
    return {name: np.stack([item[name] for item in items]).astype(np.float32) for name in items[0]}


def drawn_windows(
    network: nn.Module, images: Float32Array, noise: Float32Array, *, guidance: float, steps: int
) -> Float32Array:
    """Return windows that a network draws, shape (n, 3, N, N), units.

    Parameters
    ----------
    network
        A land network.
    images
        Shape (n, channels, N, N), `land_units.conditions`.
    noise
        Shape (n, 3, N, N).
    guidance
        Weight of the class: 1 as learned, larger is clearer and less varied.
    steps
        Calls per window.
    """
    import torch

    without = images.copy()
    without[:, 4 : 4 + len(CLASSES)] = 0

    def call(x: Float32Array, t: float, image: Float32Array) -> Float32Array:
        with torch.inference_mode():
            out: Float32Array = network(
                torch.from_numpy(np.asarray(x, np.float32)),
                torch.full((len(x),), t, dtype=torch.float32),
                torch.from_numpy(image),
            ).numpy()
        return out

    def clean(x: Float32Array, t: float) -> Float32Array:
        given = call(x, t, images)
        return given if guidance == 1 else given + np.float32(guidance - 1) * (given - call(x, t, without))

    path = flow_samplers.karras(steps, sigma_max=_SIGMA[0], sigma_min=_SIGMA[1])
    start = ((1 - path[0]) * noise).astype(np.float32)
    drawn: Float32Array = flow_samplers.sample_dpmpp_2m(clean, start, path)
    return drawn.astype(np.float32)


def pictures(
    network: nn.Module,
    statistics: LandUnits,
    size: int,
    settings: Mapping[str, Any],
    *,
    seed: int,
    unit: tuple[Sequence[float], Sequence[float]],
) -> NDArray[np.floating]:
    """Return windows of every class, a class per row, shape (K, columns, 3, N, N): red, green and blue, 0 to 1.

    Parameters
    ----------
    network, statistics
        A land network, and the units of its classes.
    size
        Cells of an edge of a window.
    settings
        ``columns``, ``guidance`` and ``steps``.
    seed
        Of noise and tones.
    unit
        Reflectance of model unit 0 and of one model unit.
    """
    rng, columns = np.random.default_rng([seed, _STREAM, 1]), settings["columns"]
    mean, std = (list(values[:3]) for values in unit)
    centre, width = (np.asarray(values)[:, None, None] for values in (mean, std))
    nothing, nowhere = np.zeros((3, size, size), np.float32), np.zeros((size, size), bool)
    rows = []
    for number in range(len(CLASSES)):
        tones = statistics.tones[number][rng.integers(len(statistics.tones[number]), size=columns)]
        images = [
            conditions(*maps_of(number, np.asarray(tone, np.float32), (size, size)), nothing, nowhere)
            for tone in tones
        ]
        noise = rng.standard_normal((columns, 3, size, size), dtype=np.float32)
        units = drawn_windows(
            network, np.stack(images), noise, guidance=settings["guidance"], steps=settings["steps"]
        )
        logs = statistics.from_units(units, np.full((columns, 1, 1), number))
        rows.append(from_log(logs, mean, std) * width + centre)
    return np.clip(np.stack(rows)[:, :, ::-1] / _BRIGHTEST, 0, 1)
