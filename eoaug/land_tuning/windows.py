"""Windows of a training set by class: those that land is tuned on, and those that are held back to judge it."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.augmentation.places import split_by_place
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cube.labels import class_numbers
from eoaug.cube.read import read_cube
from eoaug.datasets.training_cubes import TrainingCube, from_dataset
from eoaug.errors import BandError, EoaugError, EoaugWarning, ParameterError, SourceError
from eoaug.progress import Progress, track
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.raster.plausible import quantity_of

__all__ = ["HELD", "TUNED", "LandWindow", "LandWindows", "land_bands_of", "read_windows"]


TUNED, HELD = 150, 60
"""Windows of a class to tune on, and to judge by."""
_EDGE_PX, _LEAST_PX = 64, 24
"""Edge of a window, and the least edge of an image."""
_PER_IMAGE = 4
"""Windows of one image."""
_CLEAR = 0.95
"""Least share of a window that is measured and free of clouds."""
_COVERED = 0.6
"""Least share of a window that its class covers, in sets with classes of pixels."""
_MOST_OPENED = 5000
"""Images that are opened to find windows of classes of pixels."""
_HELD_SHARE = 0.25
"""Share of the images that is held back where the set has no split for it."""


@dataclass(frozen=True, eq=False)
class LandWindow:
    """A window of an image."""

    values: Float32Array
    """Shape (C, edge, edge), reflectance of the bands; where it was not measured, the mean of its band."""
    inside: BoolArray
    """Shape (edge, edge): measured, clear, and of the class."""


@dataclass(frozen=True, eq=False)
class LandWindows:
    """Windows by class."""

    bands: tuple[str, ...]
    """Common names."""
    gsd_m: float
    """Pixel size in metres; NaN where it is not known."""
    edge: int
    tuned: Mapping[str, Sequence[LandWindow]]
    """To tune on, by class."""
    held: Mapping[str, Sequence[LandWindow]]
    """To judge by: of other images, by class."""
    held_by: str
    """How they were held back: ``split validate``, ``place`` or ``image``."""


def land_bands_of(train: TrainingSet) -> tuple[str, ...]:
    """Return the common names of the bands of a set that hold reflectance of the ground.

    Raises
    ------
    BandError
        It has none, such as a set of radar images.
    """
    item = train.first_readable()
    cube = read_cube(item.open())
    # Cirrus shows no ground.
    names = [b.common_name for b in cube.bands if quantity_of(b.common_name) == "reflectance"]
    found = tuple(name for name in dict.fromkeys(names) if name is not None and name != "cirrus")
    if not found:
        raise BandError(
            f"image {item.id!r} has no band of reflectance, but {', '.join(band.name for band in cube.bands)}",
            "name the bands, training_set(..., bands=['red', 'green', 'blue']); land is not drawn for radar",
        )
    return found


def read_windows(train: TrainingSet, *, seed: int, progress: Progress = None) -> LandWindows:
    """Read windows of every class of a set. Images of the split ``test`` are never opened.

    Parameters
    ----------
    train
        Classes of images, or of pixels; a window has the class of pixels that covers most of it.
    seed
        Of the choice of images.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ParameterError
        The set is of changes.
    SourceError
        No window could be read.
    """
    if train.task == "change":
        raise ParameterError(
            "land is tuned on classes, and this set is of changes",
            "give a training set with task='classes' or task='pixels'",
        )
    bands = land_bands_of(train)
    own, held, held_by = _held_back(train, seed)
    first = from_dataset(own.first_readable().open(), "the first image", bands)
    edge = min(_EDGE_PX, *first.values.shape[2:])
    if edge < _LEAST_PX:
        raise SourceError(
            f"the images have an edge of {edge} pixels, in which land has no shapes",
            f"give images of {_LEAST_PX} pixels or more",
        )
    found = []
    for part, most in ((own, TUNED), (held, HELD)):
        with track(len(part), what="reading images", unit="image", progress=progress) as bar:
            found.append(_windows_of(part, bands, edge, most, seed, bar.tiles))
    if not any(map(len, found[0].values())):
        raise SourceError(
            f"no image of the training set holds a clear window of {edge} pixels of one class",
            "give images with fewer clouds, or of larger areas of one class",
        )
    return LandWindows(bands, first.gsd_m, edge, found[0], found[1], held_by)


def _held_back(train: TrainingSet, seed: int) -> tuple[TrainingSet, TrainingSet, str]:
    """Return the images to tune on, those to judge by, and how they were chosen."""
    own = train.split("train") if "train" in train.splits else train
    if "validate" in train.splits:
        return own, train.split("validate"), "split validate"
    if all(item.place is not None for item in own):
        shares = {"train": 1 - _HELD_SHARE, "validate": _HELD_SHARE}
        parts = split_by_place(own, shares, seed=seed)
        if {"train", "validate"} <= parts.splits.keys():
            return parts.split("train"), parts.split("validate"), "place"
    by_hash = sorted(own, key=lambda item: _hash(seed, "held", item.id))
    count = max(1, round(_HELD_SHARE * len(by_hash)))
    chosen = {item.id for item in by_hash[:count]}
    parts = own.with_splits({item.id: "validate" if item.id in chosen else "train" for item in own})
    if len(chosen) == len(own):
        raise SourceError("the training set has one image", "give several, of which some are held back")
    return parts.split("train"), parts.split("validate"), "image"


def _windows_of(
    part: TrainingSet, bands: Sequence[str], edge: int, most: int, seed: int, done: Callable[[int], None]
) -> dict[str, list[LandWindow]]:
    """Return up to ``most`` windows of every class, of images in the order of a hash."""
    found: dict[str, list[LandWindow]] = {name: [] for name in part.classes}
    damaged: list[EoaugError] = []
    for item in _needed(part, found, most, seed):
        try:
            ds = item.open()
            cube = from_dataset(ds, item.id, bands)
        except EoaugError as error:
            damaged.append(error)
            continue
        own: dict[str, int] = defaultdict(int)
        for name, window in _cut(item, ds, cube, edge, part):
            if own[name] < _PER_IMAGE and len(found[name]) < most:
                found[name].append(window)
                own[name] += 1
        done(1)
    if damaged:
        warnings.warn(
            f"{len(damaged)} images were left out, such as: {damaged[0].problem}", EoaugWarning, stacklevel=4
        )
    return found


def _needed(
    part: TrainingSet, found: Mapping[str, Sequence[LandWindow]], most: int, seed: int
) -> Iterator[TrainingItem]:
    """Yield images while windows of their class are lacking; of classes of pixels, while those of any class are."""
    order = sorted(part, key=lambda item: _hash(seed, "order", item.id))
    for number, item in enumerate(order):
        if part.task == "classes":
            if item.label is not None and len(found[item.label]) < most:
                yield item
        elif number < _MOST_OPENED and min(map(len, found.values()), default=0) < most:
            yield item


def _cut(
    item: TrainingItem, ds: xr.Dataset, cube: TrainingCube, edge: int, part: TrainingSet
) -> Iterator[tuple[str, LandWindow]]:
    """Yield windows of an image side by side, from its middle, each with its class."""
    labels = None
    if part.task == "pixels":
        labels = class_numbers(ds[part.label], read_cube(ds).names_yx)
    H, W = cube.values.shape[2:]
    for date in range(len(cube.values)):
        for row in _begins(H, edge):
            for col in _begins(W, edge):
                here = slice(row, row + edge), slice(col, col + edge)
                values = cube.values[date][:, *here]
                seen = cube.clear[date][here] & np.isfinite(values).all(axis=0)
                if values.shape[1:] != (edge, edge) or seen.mean() < _CLEAR:
                    continue
                name, inside = item.label, seen
                if labels is not None:
                    name, of_class = _largest(labels[here], part.classes)
                    inside = seen & of_class
                if name is not None and inside.mean() >= _COVERED:
                    means = values[:, seen].mean(axis=1)[:, None, None]
                    yield name, LandWindow(np.where(seen, values, means).astype(np.float32), inside)


def _begins(length: int, edge: int) -> Iterable[int]:
    """Return where windows begin along an axis."""
    count = max(length // edge, 1)
    return range((length - count * edge) // 2 if length >= edge else 0, length - edge + 1, edge)


def _largest(numbers: NDArray[np.int64], classes: Sequence[str]) -> tuple[str | None, BoolArray]:
    """Return the class that most pixels have, and where it is."""
    known = numbers[(numbers >= 0) & (numbers < len(classes))]
    if not known.size:
        return None, np.zeros(numbers.shape, bool)
    number = int(np.bincount(known).argmax())
    return classes[number], numbers == number


def _hash(*key: object) -> bytes:
    return hashlib.sha256(" ".join(map(str, key)).encode()).digest()
