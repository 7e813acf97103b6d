"""Images of requests for the networks: filled gaps, latent masks, padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eoaug.generators.base import Request
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import Float32Array

__all__ = ["RGB", "cells", "filled", "narrowed", "padded"]


RGB = ("red", "green", "blue")
"""The bands of image models, in their order."""


def narrowed(request: Request, keep: NDArray[np.bool_]) -> Request:
    """Return a request for the bands where ``keep``, shape (C,), is True."""
    sensor = request.sensor
    if sensor is not None:
        sensor = sensor.of_bands(np.flatnonzero(keep).tolist())
    return replace(
        request,
        values=request.values[:, keep],
        known=request.known[:, keep],
        fill=request.fill[:, keep],
        coarse=None if request.coarse is None else request.coarse[:, keep],
        sensor=sensor,
    )


def filled(colours: Float32Array) -> Float32Array:
    """Return the colours of an image without gaps, in [-1, 1].

    Parameters
    ----------
    colours
        Shape (C, H, W), red, green and blue first; NaN where unknown. A colour that is unknown everywhere
        becomes the mean of the others.
    """
    colours = colours[: len(RGB)]
    known = np.isfinite(colours)
    present = known.any(axis=(1, 2))
    image = push_pull(np.nan_to_num(colours), known)
    if present.any() and not present.all():
        image[~present] = image[present].mean(axis=0)
    return np.clip(image, -1, 1)


def cells(mask: NDArray[np.bool_], factor: int) -> Tensor:
    """Return shape (1, 1, h, w), 1 for latent cells with any pixel of the mask (H, W)."""
    H, W = mask.shape
    cells = mask.reshape(H // factor, factor, W // factor, factor).any(axis=(1, 3))
    return torch.from_numpy(cells.astype(np.float32))[None, None]


def padded(parts: Sequence[Tensor], count: int) -> Tensor:
    """Stack tensors and pad with zeros to a batch of ``count``."""
    stack = torch.stack(list(parts))
    return torch.cat([stack, stack.new_zeros(count - len(stack), *stack.shape[1:])])
