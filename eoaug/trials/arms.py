"""The arms of the comparison, and which images each of their updates sees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.training_items import TrainingSet
from eoaug.errors import ParameterError
from eoaug.torch.augmented import choices

__all__ = ["Arm", "SampleOrder", "all_arms", "drawn_share"]


@dataclass(frozen=True)
class Arm:
    """A way to train: an augmentation, and the share of real images that are replaced by images made from them."""

    augmentation: str
    p: float = 0.0
    """0: real images only. 1: made images only."""
    repeated: bool = False
    """Real images in another order, with the same initial weights: how much two equal arms differ."""

    @property
    def name(self) -> str:
        """Short text for tables."""
        if self.repeated:
            return f"{self.augmentation}, repeated"
        if self.p == 0:
            return f"{self.augmentation}, real only"
        return f"{self.augmentation}, made only" if self.p == 1 else f"{self.augmentation}, p={self.p:g}"

    @property
    def is_real(self) -> bool:
        """Whether it is a rival: real images only."""
        return self.p == 0 and not self.repeated

    @property
    def is_mixture(self) -> bool:
        """Whether it may be chosen: real and made images."""
        return 0 < self.p < 1


def all_arms(augmentations: Sequence[str], doses: Sequence[float]) -> tuple[Arm, ...]:
    """Return the arms: every augmentation with and without made images, made images only, and real ones repeated.

    Raises
    ------
    ParameterError
        Doses that are no shares between 0 and 1.
    """
    if not doses or not all(0 < p < 1 for p in doses):
        raise ParameterError(
            f"doses={list(doses)!r} are no shares of images to replace",
            "give numbers between 0 and 1, e.g. doses=(0.25, 0.5)",
        )
    strongest = "advanced" if "advanced" in augmentations else augmentations[-1]
    mixed = [Arm(name, p) for p in (0.0, *sorted(set(doses))) for name in augmentations]
    return (*mixed, Arm(strongest, 1.0), Arm(strongest, repeated=True))


def drawn_share(train: TrainingSet, fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the real images that a run is given, in the order of the set.

    Parameters
    ----------
    train
        The split ``train``.
    fraction
        Up to 1: share of the images of every class, at least one. Above 1: number of images of every class.
    seed
        Of the run: every seed is given other images.
    """
    if fraction == 1:
        return np.arange(len(train))
    by_class: dict[str | None, list[int]] = {}
    for number, item in enumerate(train):
        by_class.setdefault(item.label, []).append(number)
    chosen: list[int] = []
    for members in by_class.values():
        order = sorted(members, key=lambda k: hashlib.sha256(f"{seed}\n{train[k].id}".encode()).digest())
        count = int(fraction) if fraction > 1 else max(1, round(fraction * len(members)))
        chosen += order[:count]
    return np.array(sorted(chosen))


@dataclass(frozen=True)
class SampleOrder:
    """Which image an arm sees at which position: a function of seed and position alone."""

    arm: Arm
    seed: int
    real: NDArray[np.int64]
    """Numbers of the real images of the run."""
    children: Mapping[int, Sequence[int]]
    """Numbers of the made images by number of the real one."""

    def batches(self, updates: int, batch: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Return numbers and whether these are of made images, for every update.

        Raises
        ------
        ParameterError
            No image was made of the real ones.
        """
        own = self.real
        if self.arm.p == 1:
            own = np.array([k for k in own if self.children.get(int(k))], np.int64)
        if not len(own):
            raise ParameterError(
                "no image was made of the real images of this share of the set", "use a larger fraction"
            )
        total = updates * batch
        numbers, made = np.empty(total, np.int64), np.zeros(total, bool)
        stream = [self.seed, int(self.arm.repeated)]
        for epoch in range(-(-total // len(own))):
            order = np.random.default_rng([*stream, epoch]).permutation(own)
            begin = epoch * len(own)
            for at, number in enumerate(order[: total - begin].tolist(), begin):
                numbers[at], made[at] = self._image(epoch, number)
        return list(zip(numbers.reshape(updates, batch), made.reshape(updates, batch), strict=True))

    def _image(self, epoch: int, number: int) -> tuple[int, bool]:
        chosen, which, _ = choices(self.seed, epoch, number)
        children = self.children.get(number, ())
        if chosen < self.arm.p and children:
            return children[which % len(children)], True
        return number, False
