"""The classical augmentations that made images have to beat, on batches of normalised images and their maps of classes.

All are one affine resampling and one linear change of values per channel, so that they hold for reflectance, backscatter and
temperature alike. The operations on colour that AutoAugment and RandAugment know expect 8-bit RGB.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from eoaug.errors import ParameterError, did_you_mean

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["AUGMENTATIONS", "augmented_batch", "checked_augmentations"]

AUGMENTATIONS = {
    "none": "images as they are",
    "basic": "random resized crop of 8 to 100 % of the area, horizontal flip",
    "advanced": "random resized crop of 70 to 100 % of the area, flips, any rotation",
    "randaugment": "two of shear, translation, rotation, scale, gain and offset per channel; flips",
}
"""Names of the augmentations, and what they do."""

_OUTSIDE = 255


def checked_augmentations(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of augmentations in the order of `AUGMENTATIONS`.

    Raises
    ------
    ParameterError
        A name is unknown, or there is none.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ParameterError(
                f"augmentation {name!r} is unknown",
                did_you_mean(name, AUGMENTATIONS) or f"use some of {', '.join(AUGMENTATIONS)}",
            )
    if not names:
        raise ParameterError("augmentations=() leaves no arm to compare with", "name at least 'none'")
    return tuple(name for name in AUGMENTATIONS if name in names)


def augmented_batch(
    images: Tensor, masks: Tensor | None, kind: str, generator: Generator
) -> tuple[Tensor, Tensor | None]:
    """Return a batch to which an augmentation was applied.

    Parameters
    ----------
    images
        (B, C, H, W), normalised per channel.
    masks
        (B, H, W) int64 classes of pixels, or None; they are resampled by nearest neighbour, 255 outside.
    kind
        One of `AUGMENTATIONS`.
    generator
        Of all random numbers; the same for every kind.
    """
    import torch

    count = len(images)
    drawn = torch.rand((count, 24), generator=generator)
    if kind == "none":
        return images, masks
    height, width = images.shape[-2:]
    half = (width / 2, height / 2)
    theta = _flipped(drawn[:, 0:2], vertical=kind != "basic")
    if kind == "randaugment":
        theta, gain, offset = _rand_augment(theta, half, drawn[:, 8:], images.shape[1], generator)
        images = images * gain[:, :, None, None] + offset[:, :, None, None]
    else:
        least = 0.08 if kind == "basic" else 0.7
        angle = torch.zeros(count) if kind == "basic" else 2 * math.pi * drawn[:, 2]
        theta = _cropped(drawn[:, 3:7], half, least) @ _rotation(angle) @ theta
    return _resampled(images, masks, theta)


def _resampled(images: Tensor, masks: Tensor | None, theta: Tensor) -> tuple[Tensor, Tensor | None]:
    import torch
    from torch.nn import functional

    height, width = images.shape[-2:]
    # theta is in pixels from the centre, so that rotations are rotations where images are not square.
    shape = torch.diag(torch.tensor([width / 2, height / 2, 1.0]))
    own = (torch.linalg.inv(shape) @ theta @ shape)[:, :2]
    grid = functional.affine_grid(own, list(images.shape), align_corners=False)
    out = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if masks is None:
        return out, None
    nearest = functional.grid_sample(
        masks[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    outside = (grid.abs() > 1).any(dim=-1)
    return out, torch.where(outside, torch.tensor(_OUTSIDE), nearest[:, 0].long())


def _eye(count: int) -> Tensor:
    import torch

    return torch.eye(3).repeat(count, 1, 1)


def _flipped(drawn: Tensor, *, vertical: bool) -> Tensor:
    theta = _eye(len(drawn))
    theta[:, 0, 0] = 1 - 2 * (drawn[:, 0] < 0.5).float()
    if vertical:
        theta[:, 1, 1] = 1 - 2 * (drawn[:, 1] < 0.5).float()
    return theta


def _rotation(angle: Tensor) -> Tensor:
    theta = _eye(len(angle))
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
    return theta


def _cropped(drawn: Tensor, half: tuple[float, float], least: float) -> Tensor:
    """Return crops of a share of the area and an aspect from 3/4 to 4/3, as torchvision's RandomResizedCrop draws them."""
    area = least + (1 - least) * drawn[:, 0]
    aspect = ((2 * drawn[:, 1] - 1) * math.log(4 / 3)).exp()
    theta = _eye(len(drawn))
    for axis, size in enumerate(((area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1))):
        theta[:, axis, axis] = size
        theta[:, axis, 2] = half[axis] * (1 - size) * (2 * drawn[:, 2 + axis] - 1)
    return theta


def _rand_augment(
    theta: Tensor, half: tuple[float, float], drawn: Tensor, channels: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return two operations of RandAugment (Cubuk et al. 2020) at magnitude 9 of 30: geometry, gain and offset."""
    import torch

    count = len(theta)
    gain, offset = torch.ones(count, channels), torch.zeros(count, channels)
    per_channel = 2 * torch.rand((count, channels, 2), generator=generator) - 1
    for turn in (0, 1):
        which = (drawn[:, 4 * turn] * 7).long().clamp(max=6)
        size = 0.3 * (2 * drawn[:, 4 * turn + 1] - 1)
        change = _eye(count)
        change[:, 0, 1] = torch.where(which == 0, size, 0.0)
        change[:, 1, 0] = torch.where(which == 1, size, 0.0)
        change[:, 0, 2] = torch.where(which == 2, half[0] * size, 0.0)
        change[:, 1, 2] = torch.where(which == 3, half[1] * size, 0.0)
        change = change @ _rotation(torch.where(which == 4, size * math.pi / 3, 0.0))
        change[:, :2, :2] = change[:, :2, :2] * torch.where(which == 5, 1 + size, 1.0)[:, None, None]
        theta = change @ theta
        values = (which == 6)[:, None]
        gain = torch.where(values, gain * (1 + 0.3 * per_channel[..., 0]), gain)
        offset = torch.where(values, offset + 0.3 * per_channel[..., 1], offset)
    return theta, gain, offset
