"""The order of samples, epoch after epoch, and a loader that resumes in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Sampler

from eoaug.errors import ParameterError
from eoaug.torch.samples import Sample

__all__ = ["AugmentedLoader", "EpochSampler"]


class _Sized(Protocol):
    def __len__(self) -> int: ...


class EpochSampler(Sampler[int]):
    """Indices of a dataset such as `Augmented`, whose index holds the epoch: ``epoch * len(data) + i``.

    Parameters
    ----------
    data
        The dataset.
    seed
        Of the orders.
    shuffle
        False: every epoch is in the order of the dataset.

    Notes
    -----
    The order of an epoch depends on seed and epoch alone. A pass that was completed moves on to the next epoch.
    """

    def __init__(self, data: _Sized, *, seed: int = 0, shuffle: bool = True) -> None:
        self.data = data
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.start = 0
        """Number of samples of the epoch to leave out of the next pass."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls this."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        epoch, start = self.epoch, self.start
        self.start = 0
        count = len(self.data)
        order = np.random.default_rng([self.seed, epoch]).permutation(count) if self.shuffle else range(count)
        for index in order[start:]:
            yield epoch * count + int(index)


class AugmentedLoader(DataLoader[Sample]):
    """A `DataLoader` over a dataset of epochs, which can be stopped and resumed after any batch.

    Parameters
    ----------
    data
        The dataset, such as `Augmented`.
    seed
        Of the order of samples; default: the dataset's.
    shuffle
        False: every epoch is in the order of the dataset.
    **options
        Of `torch.utils.data.DataLoader`, e.g. ``batch_size``, ``num_workers``. Not ``sampler`` and ``batch_sampler``.

    Notes
    -----
    Any number of workers gives the same batches. `state_dict` says how far the loader is, by batches that were given out;
    `load_state_dict` lets the next pass begin there. Lightning saves and restores it with its checkpoints.
    """

    def __init__(self, data: Any, *, seed: int | None = None, shuffle: bool = True, **options: Any) -> None:
        for name in ("sampler", "batch_sampler"):
            if options.get(name) is not None:
                raise ParameterError(
                    f"{name}= is the loader's own", "use a plain DataLoader with your sampler"
                )
        own = int(getattr(data, "seed", 0)) if seed is None else seed
        self._sampler_of_epochs = EpochSampler(data, seed=own, shuffle=shuffle)
        self._given = 0
        super().__init__(data, sampler=self._sampler_of_epochs, **options)

    def __iter__(self) -> Any:
        """Return the batches of the epoch from where the loader is."""
        return self._pass()

    def _pass(self) -> Iterator[Any]:
        sampler = self._sampler_of_epochs
        epoch = sampler.epoch
        self._given = sampler.start // (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch
        self._given = 0
        sampler.set_epoch(epoch + 1)

    def state_dict(self) -> dict[str, int]:
        """Return epoch and number of batches that were given out."""
        return {"epoch": self._sampler_of_epochs.epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass begin where another loader was."""
        epoch, batches = int(state["epoch"]), int(state["batches"])
        whole = batches >= len(self)
        self._sampler_of_epochs.epoch = epoch + whole
        self._sampler_of_epochs.start = 0 if whole else batches * (self.batch_size or 1)
        self._given = 0 if whole else batches
