"""From cubes to samples: dictionaries of tensors with the keys that torchgeo's datasets and tasks use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.corruptions.units import band_of_cube
from eoaug.cube.labels import class_numbers
from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import SYNTHETIC
from eoaug.errors import BandError, did_you_mean

__all__ = ["Sample", "SampleForm", "form_of", "number_of"]

Sample = dict[str, torch.Tensor]
"""``image`` (C, H, W) float32 in physical units, or (T, C, H, W) of several dates; ``label`` () int64, or ``mask`` (H, W)
int64, of change (1, H, W); ``synthetic`` (H, W) uint8: 0 measured, 1 generated, 2 transferred, 255 outside."""


@dataclass(frozen=True)
class SampleForm:
    """What samples of a set are made of."""

    bands: tuple[str, ...]
    """Names of the bands in the order of the channels."""
    label: str
    """Name of the label variable; empty where an image has one class."""
    missing: float
    """Value of pixels that were not measured."""
    change: bool = False
    """The mask is one of change, which torchgeo's task wants as (1, H, W)."""

    def sample(
        self, cube: Cube, number: int | None, arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> Sample:
        """Return the sample of a cube.

        Parameters
        ----------
        cube
            The cube.
        number
            Of the class of the image; None for labels of pixels.
        arrays
            Stored numbers of bands and marks, (T, Y, X), in place of the cube's.
        """
        by_name = {band.name: band for band in cube.bands}
        lacking = [name for name in self.bands if name not in by_name]
        if lacking:
            raise BandError(
                f"an item has no band {lacking[0]!r}, it has {', '.join(by_name)}",
                did_you_mean(lacking[0], by_name) or "choose bands that all items have: bands=[...]",
            )
        layers = []
        for name in self.bands:
            stored = by_name[name].data if arrays is None else arrays[name]
            values = band_of_cube(by_name[name]).physical(np.asarray(stored)).astype(np.float32)
            layers.append(np.where(np.isnan(values), np.float32(self.missing), values))
        image = np.stack(layers, axis=1)  # (T, C, H, W)
        sample = {"image": torch.from_numpy(image[0] if len(image) == 1 else image)}
        if number is not None:
            sample["label"] = torch.tensor(number, dtype=torch.int64)
        elif self.label:
            mask = torch.from_numpy(class_numbers(cube.source[self.label], cube.names_yx))
            sample["mask"] = mask[None] if self.change else mask
        sample["synthetic"] = torch.from_numpy(_marks(cube, image, arrays))
        return sample


def _marks(cube: Cube, image: NDArray[Any], arrays: Mapping[str, NDArray[Any]] | None) -> NDArray[np.uint8]:
    """Return the synthetic mask of all dates as one, shape (H, W): the largest code below 255 wins."""
    if arrays is not None and SYNTHETIC in arrays:
        marks = arrays[SYNTHETIC]
    elif cube.marks is not None:
        y, x = cube.names_yx
        marks = np.asarray(cube.marks.transpose(..., y, x).values)
    else:
        return np.zeros(image.shape[-2:], np.uint8)
    marks = marks.astype(np.uint8).reshape(-1, *image.shape[-2:])
    known = np.where(marks == 255, 0, marks).max(axis=0)
    return np.where((marks == 255).all(axis=0), np.uint8(255), known).astype(np.uint8)


def form_of(train: TrainingSet, bands: Sequence[str] | None, missing: float) -> SampleForm:
    """Return the form of the samples of a set; without ``bands``, with those of its first item."""
    names = tuple(bands or ()) or tuple(band.name for band in read_cube(train[0].open()).bands)
    return SampleForm(
        names, "" if train.task == "classes" else train.label, float(missing), train.task == "change"
    )


def number_of(train: TrainingSet, item: TrainingItem) -> int | None:
    """Return the number of the class of an item; None where its pixels have classes."""
    return None if train.task != "classes" or item.label is None else train.index_of(item.label)
