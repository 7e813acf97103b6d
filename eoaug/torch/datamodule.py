"""`AugmentedDataModule`: a training set for Lightning; images that are made are for training only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from eoaug.augmentation.training_items import TrainingSet
from eoaug.errors import ParameterError
from eoaug.torch.augmented import Augmented
from eoaug.torch.chips import Chips
from eoaug.torch.loading import AugmentedLoader
from eoaug.torch.samples import Sample

__all__ = ["AugmentedDataModule"]


class AugmentedDataModule(LightningDataModule):
    """Train on real and made images, validate and test on real ones; for torchgeo's tasks and others.

    Parameters
    ----------
    source
        A training set with splits.
    batch_size, num_workers
        Of all loaders.
    bands, missing
        As for `Chips`.
    train_transforms
        Called with every batch of training on its device, e.g. a Kornia `AugmentationSequential`.
    transforms
        Called with every batch on its device, after ``train_transforms``; e.g. a normalisation.
    **augmentation
        As for `Augmented`: ``made``, ``policy``, ``generator``, ``p``, ``seed``, ``turns``. Without ``made`` and
        ``policy`` there are only real images.

    Notes
    -----
    The order of training is that of `AugmentedLoader`: checkpoints of Lightning hold how far it is, also within an epoch.
    """

    def __init__(
        self,
        source: TrainingSet,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        bands: Sequence[str] | None = None,
        missing: float = 0.0,
        train_transforms: Callable[[Sample], Sample] | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        **augmentation: Any,
    ) -> None:
        super().__init__()
        self.source = source
        self.loading: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
        self.train_transforms = train_transforms
        self.transforms = transforms
        self._form: Mapping[str, Any] = {"bands": bands, "missing": missing}
        self._augmentation = augmentation
        self.train_dataset: Augmented | None = None

    def setup(self, stage: str | None = None) -> None:
        """Make the datasets of a stage."""
        if stage in (None, "fit") and self.train_dataset is None:
            self.train_dataset = Augmented(self._real("train"), **self._augmentation)

    def _real(self, split: str) -> Chips:
        return Chips(self.source.split(split), **self._form)

    def train_dataloader(self) -> AugmentedLoader:
        """Return the batches of training."""
        if self.train_dataset is None:
            raise ParameterError("the datasets are not made yet", "call setup('fit'), as Lightning does")
        return AugmentedLoader(self.train_dataset, **self.loading)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the real batches of validation."""
        return self._plain("validate")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return the real batches of the test."""
        return self._plain("test")

    def _plain(self, split: str) -> DataLoader[Sample]:
        data: Dataset[Sample] = self._real(split)
        return DataLoader(data, shuffle=False, **self.loading)

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Apply the transforms; ``train_transforms`` in training alone."""
        training = self.trainer is not None and self.trainer.training
        if training and self.train_transforms is not None:
            batch = self.train_transforms(batch)
        return batch if self.transforms is None else self.transforms(batch)

    def transfer_batch_to_device(self, batch: Sample, device: torch.device, dataloader_idx: int) -> Sample:
        """Move a batch to a device."""
        return {name: layer.to(device) for name, layer in batch.items()}
