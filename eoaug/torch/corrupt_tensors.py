"""`Corrupt`: the corruptions as an intensity transform of Kornia, for batches in physical units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.augmentation.random_generator.base import RandomGeneratorBase

from eoaug.corruptions.arrays import corrupt_image
from eoaug.corruptions.kinds import KINDS, parameters_of
from eoaug.errors import ParameterError

__all__ = ["Corrupt"]


class _Seeds(RandomGeneratorBase):
    """Draws a seed and a severity for every image of a batch."""

    def __init__(self, severities: tuple[int, ...], seed: int | None) -> None:
        super().__init__()
        self.severities = severities
        self.seed = seed

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing: seeds come from torch's own generator."""

    def forward(self, batch_shape: tuple[int, ...], same_on_batch: bool = False) -> dict[str, torch.Tensor]:
        """Return ``seed`` and ``severity``, shape (B,), int64."""
        count = batch_shape[0]
        drawn = 1 if same_on_batch else count
        seeds = torch.randint(2**62, (drawn,)) if self.seed is None else torch.full((drawn,), self.seed)
        chosen = torch.tensor(self.severities)[torch.randint(len(self.severities), (drawn,))]
        return {"seed": seeds.expand(count).clone(), "severity": chosen.expand(count).clone()}


class Corrupt(IntensityAugmentationBase2D):
    """A corruption of images in a batch, for `kornia.augmentation.AugmentationSequential` or by itself.

    Parameters
    ----------
    kind
        As for `eoaug.corrupt`; a kind that keeps the grid.
    bands
        Names of the channels in order, such as ``B04``, ``red`` or ``vv``: what a corruption does depends on the wavelength.
    severity
        1 to 5, or several, of which each image gets one.
    seed
        None: each image gets its own from torch's random generator, so that `torch.manual_seed` repeats it. A number: all
        images get this one.
    p
        Share of the images that are changed.
    same_on_batch, keepdim
        As for Kornia's transforms.
    **values
        Physical parameters in place of those of the severity, e.g. ``snr=40``.

    Notes
    -----
    Images are (B, C, H, W) or (C, H, W) in reflectance, dB or kelvins: not normalised, and never clipped to [0, 1]. An image
    with a seed has the pixels of `eoaug.corrupt` of the same float cube without a place. Pixels are computed on the CPU; a
    batch on a GPU is copied. Masks and boxes of the batch stay as they are. No gradient passes.
    """

    def __init__(
        self,
        kind: str,
        bands: Sequence[str],
        *,
        severity: int | Sequence[int] = 3,
        seed: int | None = None,
        p: float = 0.5,
        same_on_batch: bool = False,
        keepdim: bool = False,
        **values: Any,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, p_batch=1.0, keepdim=keepdim)
        severities = (severity,) if isinstance(severity, int) else tuple(severity)
        for one in severities:
            parameters_of(kind, one, values)
        if not severities or KINDS[kind].group == "moving":
            raise ParameterError(
                f"kind={kind!r} with severity={severity!r} moves pixels, or has no severity",
                "use eoaug.corrupt on cubes for kinds that move pixels, and severities from 1 to 5",
            )
        self.flags = {"kind": kind, "bands": tuple(bands), "values": dict(values)}
        self._param_generator = _Seeds(severities, seed)

    def apply_transform(
        self,
        input: torch.Tensor,  # noqa: A002  # kornia's name
        params: dict[str, torch.Tensor],
        flags: dict[str, Any],
        transform: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the corrupted images, shape (B, C, H, W)."""
        images = input.detach().cpu().numpy()
        made = [
            corrupt_image(
                image, flags["bands"], flags["kind"], int(severity), seed=int(seed), **flags["values"]
            )
            for image, seed, severity in zip(images, params["seed"], params["severity"], strict=True)
        ]
        return torch.stack([torch.from_numpy(image) for image in made]).to(input)
