"""Images of a training set as arrays in one file, so that many short trainings read each pixel once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from eoaug.errors import GridError, ParameterError
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import Float32Array, Float64Array
from eoaug.storage.atomic import atomic_write
from eoaug.torch.chips import Chips
from eoaug.torch.samples import Sample

__all__ = ["BandScale", "ImageArrays", "band_scale", "image_arrays", "pixels_of", "rows_of"]

_SAMPLED = 256
"""Images of the training split from which mean and standard deviation of the bands are estimated."""


@dataclass(frozen=True)
class ImageArrays:
    """Images in units of the standard deviation of their band, and their labels."""

    images: NDArray[np.float16]
    """(N, C, H, W), a file that is read in pieces; the dates of a pair are channels one after the other."""
    targets: NDArray[np.uint8]
    """Number of the class: (N,), or (N, H, W) of pixels; 255 without one."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class BandScale:
    """Mean and standard deviation per channel."""

    mean: Float32Array
    std: Float32Array


def pixels_of(sample: Sample) -> Float32Array:
    """Return the channels of a sample, (C, H, W) float32 in physical units; those of all dates."""
    image: Float32Array = np.asarray(sample["image"].numpy(), np.float32)
    return image.reshape(-1, *image.shape[-2:])


def band_scale(real: Chips) -> BandScale:
    """Return mean and standard deviation of the channels, from up to 256 images spread over the set."""
    numbers = np.unique(np.linspace(0, len(real) - 1, min(len(real), _SAMPLED)).astype(int))
    sums: list[Float64Array] = []
    squares: list[Float64Array] = []
    for number in numbers:
        image = pixels_of(real.plain(int(number))).astype(np.float64)
        sums.append(image.mean(axis=(1, 2)))
        squares.append((image**2).mean(axis=(1, 2)))
    mean = np.mean(sums, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 1e-12))
    return BandScale(mean.astype(np.float32), std.astype(np.float32))


def image_arrays(chips: Chips, scale: BandScale, folder: Path, counter: ProgressCounter) -> ImageArrays:
    """Return the images of a set as arrays; they are read once, and found in the folder afterwards.

    Parameters
    ----------
    chips
        The images.
    scale
        Of the real images of the split ``train``, for all splits.
    folder
        Gets the arrays, under their final name when they are complete.
    counter
        Counts images.

    Raises
    ------
    GridError
        Images of different size.
    """
    if not folder.is_dir():
        with atomic_write(folder, overwrite=False) as scratch:
            scratch.mkdir()
            _fill(chips, scale, scratch, counter)
    else:
        counter.tiles(len(chips))
    return ImageArrays(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "targets.npy"))


def _fill(chips: Chips, scale: BandScale, folder: Path, counter: ProgressCounter) -> None:
    first = chips.plain(0)
    shape = pixels_of(first).shape
    images = open_memmap(folder / "images.npy", mode="w+", dtype=np.float16, shape=(len(chips), *shape))
    whole = "label" in first
    targets = np.zeros((len(chips), *(() if whole else shape[1:])), np.uint8)
    mean, std = scale.mean[:, None, None], scale.std[:, None, None]
    for number, sample in enumerate(_samples(chips)):
        pixels = pixels_of(sample)
        if pixels.shape != shape:
            raise GridError(
                f"image {chips.item(number).id!r} has {pixels.shape} channels, rows and columns, the first has {shape}",
                "bring all images to one size and the same bands",
            )
        images[number] = ((pixels - mean) / std).astype(np.float16)
        target = sample["label"] if whole else sample["mask"]
        targets[number] = target.numpy().reshape(targets.shape[1:]).astype(np.uint8)
        counter.tiles(1)
    images.flush()
    np.save(folder / "targets.npy", targets)


def _samples(chips: Chips) -> Iterator[Sample]:
    for number in range(len(chips)):
        sample = chips.plain(number)
        if "label" not in sample and "mask" not in sample:
            raise ParameterError(
                f"image {chips.item(number).id!r} has no label",
                "name the label: training_set(..., label='...')",
            )
        yield sample


def rows_of(arrays: ImageArrays, numbers: Sequence[int] | NDArray[np.int64]) -> Float32Array:
    """Return images by number as float32."""
    return np.asarray(arrays.images[np.asarray(numbers)], np.float32)
