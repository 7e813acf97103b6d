"""Training sets in torch: datasets, random access to augmented samples, corruptions and a Lightning datamodule.

    import eoaug
    train = eoaug.training_set("EuroSAT_RGB", split="place")
    policy = {"draws": [{"verb": "corrupt", "parameters": {"kind": "haze"}, "strengths": [1, 2, 3]}]}
    data = eoaug.torch.Augmented(train.torch("train"), policy=policy)
    loader = eoaug.torch.AugmentedLoader(data, batch_size=64, num_workers=4)

Nothing else of eoaug imports this package. `Corrupt` and `Scenes` need torchgeo, `AugmentedDataModule` needs Lightning: both
come with ``eoaug[torchgeo]``, and are imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from eoaug.torch.augmented import Augmented
from eoaug.torch.chips import Chips
from eoaug.torch.loading import AugmentedLoader, EpochSampler

if TYPE_CHECKING:
    from eoaug.torch.corrupt_tensors import Corrupt
    from eoaug.torch.datamodule import AugmentedDataModule
    from eoaug.torch.scenes import Scenes

__all__ = [
    "Augmented",
    "AugmentedDataModule",
    "AugmentedLoader",
    "Chips",
    "Corrupt",
    "EpochSampler",
    "Scenes",
]

_LATER = {
    "AugmentedDataModule": "eoaug.torch.datamodule",
    "Corrupt": "eoaug.torch.corrupt_tensors",
    "Scenes": "eoaug.torch.scenes",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'eoaug.torch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
