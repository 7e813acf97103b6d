"""Running torch networks so that the answer depends on nothing but the input.

Imports torch, inside. On the CPU every forward has one batch shape, filled up with zeros, and one intra-op
thread: then bytes do not depend on batches, threads or settings. On an accelerator float32 is float32.
Channels come last on the CPU, which is faster, and on one thread as exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import GeneratorError
from eoaug.generators.device import one_thread

__all__ = ["Precision", "checked_precision", "forward"]

Precision = Literal["exact", "fast"]
"""``"exact"``: float32, without TF32, deterministic kernels. ``"fast"``: bfloat16 where torch's autocast
allows it, weights in channels-last order; for accelerators."""

_Float = NDArray[np.float32]


def checked_precision(precision: str) -> Precision:
    """Return ``precision`` if there is one of this name, else raise `GeneratorError`."""
    for known in get_args(Precision):
        if precision == known:
            found: Precision = known
            return found
    raise GeneratorError(
        f"precision={precision!r} is not known", f"use one of {', '.join(map(repr, get_args(Precision)))}"
    )


def forward(
    network: Any,
    inputs: Sequence[Sequence[_Float | np.float32]],
    *,
    batch: int,
    multiple_of: int,
    device: str = "cpu",
    precision: Precision = "exact",
) -> _Float:
    """Run a network on a list per input; return shape (n, C, H, W).

    Parameters
    ----------
    network
        Called with a tensor per input; on ``device`` already. A network's method will do.
    inputs
        Per input the arrays of n samples: images (C, H, W), vectors or numbers.
    batch
        Samples of the forward; zeros fill it up.
    multiple_of
        The network divides edges by this; zeros fill images up, and the result is cut. Smaller ones among
        them, which a network has made, stay as they are.
    device, precision
        Where, and how exactly.
    """
    import torch

    H, W = max(np.shape(arrays[0])[-2:] for arrays in inputs if np.ndim(arrays[0]) == 3)
    tensors = [
        torch.from_numpy(
            _filled_up(arrays, batch, multiple_of if np.shape(arrays[0])[-2:] == (H, W) else 1)
        ).to(device)
        for arrays in inputs
    ]
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        stack.enter_context(torch.inference_mode())
        kind = torch.device(device).type
        if kind == "cpu" or precision == "fast":
            tensors = [_channels_last(tensor) for tensor in tensors]
        if precision == "fast":
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
        elif kind == "cuda":
            # Convolutions run in TF32 unless told otherwise: ten bits of mantissa.
            flags = torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
            stack.enter_context(flags)
        out: _Float = network(*tensors).float().cpu().contiguous().numpy()
    return out[: len(inputs[0]), :, :H, :W]


def _channels_last(tensor: Any) -> Any:
    import torch

    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _filled_up(arrays: Sequence[_Float | np.float32], batch: int, multiple_of: int) -> _Float:
    stack = np.stack(arrays)
    room = [(0, batch - len(stack))] + [(0, 0)] * (stack.ndim - 1)
    if stack.ndim == 4:
        room[2:] = [(0, -n % multiple_of) for n in stack.shape[2:]]
    return np.pad(stack, room).astype(np.float32, copy=False)
