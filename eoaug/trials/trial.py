"""One trial: a network trained by an arm with a seed, and tested on real images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from eoaug.cube.labels import IGNORED
from eoaug.generators.runtime import one_thread
from eoaug.storage.atomic import atomic_write
from eoaug.trials.arms import SampleOrder
from eoaug.trials.augmentations import augmented_batch
from eoaug.trials.images import ImageArrays, rows_of
from eoaug.trials.networks import network_for

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Trial", "TrialImages", "TrialOptions", "logits_of", "read_trial", "run_trial", "train_network",
]  # fmt: skip

_PREDICTED = 64
"""Images per forward pass of a test."""


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """What all trials have in common: equal for every arm."""

    model: Any
    updates: int
    batch: int
    classes: int
    pixels: bool
    learning_rate: float = 2e-3
    weight_decay: float = 0.01


@dataclass(frozen=True)
class TrialImages:
    """Images of all splits."""

    train: ImageArrays
    made: ImageArrays
    validate: ImageArrays
    test: ImageArrays


@dataclass(frozen=True)
class Trial:
    """What a trial counted and predicted."""

    updates: int
    samples: int
    made: int
    """Of the samples, those that were made images."""
    loss: float
    """Mean over the last tenth of the updates."""
    validate: NDArray[np.int64]
    """(images, classes, classes): counts by true and predicted class."""
    test: NDArray[np.int64]
    top3: NDArray[np.bool_]
    """Whether the class of a test image is among the three most probable ones; empty for classes of pixels."""

    def write(self, path: Path) -> None:
        """Write it to a file, complete or not at all."""
        with atomic_write(path, overwrite=True) as scratch, scratch.open("wb") as file:
            arrays: dict[str, Any] = {key: np.asarray(value) for key, value in asdict(self).items()}
            np.savez_compressed(file, **arrays)


def read_trial(path: Path) -> Trial:
    """Return a trial from its file."""
    with np.load(path, allow_pickle=False) as content:
        values = {field.name: content[field.name] for field in fields(Trial)}
    return Trial(**{key: value if value.ndim else value.item() for key, value in values.items()})


def run_trial(order: SampleOrder, images: TrialImages, options: TrialOptions) -> Trial:
    """Train and test a network; equal arguments give an equal result on the same machine.

    Parameters
    ----------
    order
        Which images each update sees.
    images
        All images.
    options
        Number of updates, batch, network.
    """
    network, counts = train_network(order, images.train, images.made, options)
    with one_thread():
        validate, _ = _confusions(network, images.validate, options)
        test, top3 = _confusions(network, images.test, options)
    return Trial(**counts, validate=validate, test=test, top3=top3)


def train_network(
    order: SampleOrder, train: ImageArrays, made: ImageArrays, options: TrialOptions
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a trained network, and its numbers of updates, samples and made images with its last loss.

    Parameters
    ----------
    order
        Which images each update sees.
    train, made
        Real and made images.
    options
        Number of updates, batch, network.
    """
    updates = samples = made_count = 0
    losses: list[float] = []
    with one_thread(), _seeded(order.seed):
        bands = train.images.shape[1]
        network = network_for(options.model, pixels=options.pixels, bands=bands, classes=options.classes)
        optimiser = torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, options.updates))
        network.train()
        for step, (numbers, are_made) in enumerate(order.batches(options.updates, options.batch)):
            pixels, targets = _batch(train, made, numbers, are_made)
            masks = targets if options.pixels else None
            seeds = _generator(order.seed, step)
            pixels, masks = augmented_batch(pixels, masks, order.arm.augmentation, seeds)
            wanted = targets if masks is None else masks
            loss = functional.cross_entropy(network(pixels), wanted, ignore_index=IGNORED)
            optimiser.zero_grad()
            if torch.isfinite(loss):  # a batch without a class has no loss
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(float(loss.detach()))
            optimiser.step()
            schedule.step()
            updates, samples, made_count = (
                updates + 1,
                samples + len(numbers),
                made_count + int(are_made.sum()),
            )
    last = losses[-max(1, len(losses) // 10) :]
    mean = float(np.mean(last)) if last else math.nan
    return network, {"updates": updates, "samples": samples, "made": made_count, "loss": mean}


def _rate(step: int, updates: int) -> float:
    """Return the share of the learning rate: a tenth of the updates up, then down along a cosine."""
    rise = max(1, updates // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, updates - rise)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give torch the random numbers of a seed within the block: initial weights are equal for all arms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_number(seed, -1))
        yield


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(_number(seed, step))


def _number(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"eoaug gate 1|{seed}|{step}".encode()).digest()[:8], "big") >> 1


def _batch(
    train: ImageArrays, made: ImageArrays, numbers: NDArray[np.int64], are_made: NDArray[np.bool_]
) -> tuple[Tensor, Tensor]:
    pixels = np.empty((len(numbers), *train.images.shape[1:]), np.float32)
    targets = np.empty((len(numbers), *train.targets.shape[1:]), np.int64)
    for arrays, own in ((train, ~are_made), (made, are_made)):
        if own.any():
            pixels[own] = rows_of(arrays, numbers[own])
            targets[own] = arrays.targets[numbers[own]]
    return torch.from_numpy(pixels), torch.from_numpy(targets)


def logits_of(network: nn.Module, arrays: ImageArrays) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield numbers of images and their logits, batch by batch."""
    network.eval()
    for begin in range(0, len(arrays), _PREDICTED):
        some = np.arange(begin, min(begin + _PREDICTED, len(arrays)))
        with torch.inference_mode():
            logits = network(torch.from_numpy(rows_of(arrays, some)))
        yield some, logits


def _confusions(
    network: nn.Module, arrays: ImageArrays, options: TrialOptions
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the confusion of every image, and whether its class is among the first three."""
    count = options.classes
    out = np.zeros((len(arrays), count, count), np.int64)
    top3 = np.zeros(0 if options.pixels else len(arrays), bool)
    for some, logits in logits_of(network, arrays):
        true = arrays.targets[some].astype(np.int64)
        predicted = logits.argmax(dim=1).numpy()
        image = np.broadcast_to(some.reshape(-1, *[1] * (true.ndim - 1)), true.shape)
        known = true != IGNORED
        np.add.at(out, (image[known], true[known], predicted[known]), 1)
        if not options.pixels:
            first = logits.topk(min(3, count), dim=1).indices.numpy()
            top3[some] = (first == true[:, None]).any(axis=1)
    return out, top3
