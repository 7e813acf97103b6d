"""What makes a test of made images unfair: test images seen in training, by place, by content or through their children."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.places import blocks_of, nearest_km
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cube.labels import IGNORED
from eoaug.errors import ParameterError
from eoaug.trials.images import ImageArrays

__all__ = [
    "check_children",
    "check_copies",
    "check_labels",
    "check_numbers",
    "check_places",
    "check_splits",
    "places_of_test",
]

_HELD_BACK = ("validate", "test")


def check_splits(train: TrainingSet) -> None:
    """Refuse a set without images to train on, to choose the arm on, or to test it on.

    Raises
    ------
    ParameterError
        A split is missing.
    """
    for name in ("train", *_HELD_BACK):
        if not train.splits.get(name):
            raise ParameterError(
                f"no item of the training set is in the split {name!r}, and the gate trains on train, chooses on validate "
                f"and tests on test; there are {train.splits}",
                "split by place, training_set(..., split='place'), or name the splits, split={'id': 'test', ...}",
            )
    if len(train.classes) < 2:
        raise ParameterError(
            f"the training set has the classes {list(train.classes)}, and the gate needs at least two",
            "name the classes of pixels, training_set(..., classes=['other', 'water'])"
            if train.task != "classes"
            else "give a set with images of several classes",
        )


def check_labels(train: TrainingSet, made: TrainingSet) -> None:
    """Refuse made images whose classes have other names or another order.

    Raises
    ------
    ParameterError
        Task or classes differ.
    """
    if made.task != train.task:
        raise ParameterError(
            f"the made images are for {made.task}, the training set is for {train.task}",
            "open both with the same task=",
        )
    if train.classes and made.classes and made.classes != train.classes:
        known = set(train.classes)
        if train.task != "classes" or not set(made.classes) <= known:
            raise ParameterError(
                f"the made images have the classes {', '.join(made.classes)}, the training set {', '.join(train.classes)}",
                "augment this training set, or open both with the same classes=",
            )


def check_children(train: TrainingSet, made: TrainingSet) -> None:
    """Refuse images that were made from images held back, or from images that are not in the set.

    Raises
    ------
    ParameterError
        Such an image, with its source.
    """
    splits: dict[str, str] = {}
    for item in train:
        splits |= {item.id: item.split, address(item.href): item.split}
    splits.pop("", None)
    for item in made:
        found = [splits[source] for source in _sources(item) if source in splits]
        if not found:
            raise ParameterError(
                f"made image {item.id!r} comes from {', '.join(item.made_from) or 'no image'}, which is not in the training set",
                "augment this training set, or give the set that was augmented",
            )
        if (split := next((one for one in found if one != "train"), None)) is not None:
            raise ParameterError(
                f"made image {item.id!r} comes from {item.made_from[0]!r}, an image of the split {split or 'none'!r}",
                "augment the split train only, with the splits that the gate is given",
            )


def _sources(item: TrainingItem) -> list[str]:
    return [*item.made_from, *map(address, item.made_from)]


def address(href: str) -> str:
    """Return an address by which two spellings of one file are equal."""
    return href if "://" in href or not href else Path(href).absolute().as_posix()


def check_places(train: TrainingSet, gap_km: float) -> str:
    """Refuse training images next to images held back; return a note where the places are not known.

    Raises
    ------
    ParameterError
        Two images of different splits are nearer than ``gap_km``.
    """
    splits = {name: train.split(name) for name in ("train", *_HELD_BACK)}
    places = {name: [item.place for item in part] for name, part in splits.items()}
    if any(place is None for part in places.values() for place in part):
        return (
            "Places of images are not known: splits could not be checked for neighbours, and intervals take images as "
            "independent."
        )
    points = {name: np.array(part, np.float64) for name, part in places.items()}
    for name, other in (("train", "test"), ("train", "validate"), ("validate", "test")):
        distance, at = nearest_km(points[name], points[other])
        k = int(np.argmin(distance))
        if distance[k] < gap_km:
            raise ParameterError(
                f"image {splits[name][k].id!r} of {name} is {1000 * distance[k]:.0f} m from {splits[other][int(at[k])].id!r} "
                f"of {other}: the splits overlap",
                "split by place, training_set(..., split='place'), or allow it with gap_km=0",
            )
    return ""


def check_numbers(items: TrainingSet, arrays: ImageArrays, classes: Sequence[str]) -> None:
    """Refuse maps with numbers that are no class.

    Raises
    ------
    ParameterError
        Such a number, and its image.
    """
    for item, target in zip(items, arrays.targets, strict=True):
        known = target[target != IGNORED]
        if known.size and int(known.max()) >= len(classes):
            raise ParameterError(
                f"image {item.id!r} has the class number {int(known.max())}, and the classes are {', '.join(classes)}",
                "name all classes in the order of their numbers: classes=[...]",
            )


def check_copies(parts: dict[str, tuple[TrainingSet, ImageArrays]]) -> None:
    """Refuse images with the pixels of an image held back.

    Parameters
    ----------
    parts
        Sets and pixels by name: ``train``, ``made``, ``validate``, ``test``.

    Raises
    ------
    ParameterError
        Two images with the same pixels in different splits.
    """
    seen: dict[bytes, tuple[str, str]] = {}
    for name in ("test", "validate", "train", "made"):
        items, arrays = parts[name]
        for item, image in zip(items, arrays.images, strict=True):
            digest = hashlib.sha256(image.tobytes()).digest()
            other = seen.get(digest)
            if other is not None and other[0] != name and {other[0], name} != {"train", "made"}:
                raise ParameterError(
                    f"image {item.id!r} of {name} has the pixels of {other[1]!r} of {other[0]}: the splits overlap",
                    f"leave {item.id!r} out: split={{{item.id!r}: ''}}"
                    if name != "made"
                    else f"leave {item.id!r} out, and look at how it was made",
                )
            seen.setdefault(digest, (name, item.id))


def places_of_test(test: Sequence[TrainingItem], block_km: float) -> NDArray[np.int64]:
    """Return the number of the place of every test image: blocks of some kilometres, or images without a known place."""
    places = [item.place for item in test]
    if any(place is None for place in places):
        return np.arange(len(places))
    blocks = blocks_of(np.array(places, np.float64), block_km)
    numbers = {block: number for number, block in enumerate(sorted(set(blocks)))}
    return np.array([numbers[block] for block in blocks])
