"""`Chips`: the images of a training set, or of what `augment` made of one, as a torch dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from torch.utils.data import Dataset

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError
from eoaug.torch.samples import Sample, SampleForm, form_of, number_of

__all__ = ["Chips"]


class Chips(Dataset[Sample]):
    """Images of a training set with their labels, as torchgeo's `NonGeoDataset` gives them.

    Parameters
    ----------
    source
        A training set; `TrainingSet.torch` calls this with one of its splits.
    bands
        Names of the bands in the order of the channels. Default: those of the first item.
    missing
        Value of pixels that were not measured; default 0, as torchgeo has it. They are 255 in ``synthetic`` only where the
        source says so.
    transforms
        Called with every sample.

    Notes
    -----
    A sample has ``image`` (C, H, W) float32 in physical units (reflectance, dB, kelvins), or (2, C, H, W) of a pair of dates;
    ``label`` (int64) or ``mask`` (H, W) int64 ((1, H, W) for the change of a pair), the index among the classes, 255 without a class; and ``synthetic`` (H, W)
    uint8: 0 measured, 1 generated, 2 transferred.
    """

    def __init__(
        self,
        source: TrainingSet,
        *,
        bands: Sequence[str] | None = None,
        missing: float = 0.0,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if not isinstance(source, TrainingSet):
            raise ParameterError(
                f"source={source!r} is no training set",
                "give eoaug.training_set(...)",
            )
        self.source = source
        self.transforms = transforms
        self._bands = bands
        self._missing = missing

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers."""
        return list(self.source.classes)

    @cached_property
    def form(self) -> SampleForm:
        """Bands and labels of the samples."""
        return form_of(self.source, self._bands, self._missing)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands in the order of the channels."""
        return self.form.bands

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.plain(index)
        return sample if self.transforms is None else self.transforms(sample)

    def plain(self, index: int) -> Sample:
        """Return a sample without the transforms."""
        item = self.item(index)
        ds = item.open().load(scheduler="synchronous")  # threads of dask do not survive a fork
        return self.form.sample(read_cube(ds), self.number(item))

    def item(self, index: int) -> TrainingItem:
        """Return an item of the training set."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.source[index]

    def number(self, item: TrainingItem) -> int | None:
        """Return the number of the class of an item; None where its pixels have classes."""
        return number_of(self.source, item)
