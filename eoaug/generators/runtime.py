"""Running torch networks reproducibly: results depend on the input alone.

Imports torch within functions. On the CPU every forward has the same batch shape, padded with zeros, and one intra-op
thread, so that results do not depend on batches, threads or settings. On an accelerator float32 is computed without
TF32. On the CPU the memory format is channels-last, which is faster and on one thread as exact.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from eoaug.errors import GeneratorError, first_line, missing_package
from eoaug.raster.arrays import Float32Array

__all__ = [
    "Precision",
    "checked_device",
    "checked_precision",
    "device_kind",
    "forward",
    "one_thread",
    "torch_state",
]


def require_torch() -> Any:
    """Return torch, which only networks need.

    Raises
    ------
    PackageError
        It is not installed.
    """
    try:
        import torch
    except ImportError as missing:
        missing.name = "torch"
        raise missing_package(
            "a network of this generator", missing, "use generator='classical'"
        ) from missing
    return torch


def checked_device(device: str, generator: str) -> str:
    """Return a device's name if torch can use it.

    Parameters
    ----------
    device
        As torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    generator
        Name of the generator, for the message.
    """
    if device == "cpu":
        return device
    torch = require_torch()
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise GeneratorError(
            f"{generator}: device={device!r} cannot be used: {first_line(error)}",
            'use device="cpu", or a device that torch lists',
        ) from error
    return device


def device_kind(device: str) -> str:
    """Return the kind of a device (``"cpu"``, ``"cuda"``): results may differ between kinds, not between device numbers."""
    return device.partition(":")[0]


@contextmanager
def torch_state(device: str = "cpu", *, inference: bool = True) -> Iterator[None]:
    """Compute in the state of a fresh process, whatever the process has done to torch before; restore it at the end.

    One intra-op thread, inference without autocast, float32 in full precision, created on ``device`` unless the code says
    otherwise, and the kernels that torch chooses by itself. Every forward and every load of weights runs in it.
    """
    torch = require_torch()
    with _knobs_turned(torch), ExitStack() as stack:
        torch.set_num_threads(1)  # kept per thread, so every user sets it
        denormals = float(np.float32(1e-40) * np.float32(1)) == 0
        if denormals:
            torch.set_flush_denormal(False)
            stack.callback(torch.set_flush_denormal, True)
        if inference:
            stack.enter_context(torch.inference_mode())
        for kind in {"cpu", device_kind(device)}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != torch.device(device):  # it slows every call of torch
            stack.enter_context(torch.device(device))
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Train with one intra-op thread and torch's settings of a fresh process, so that weights do not depend on them."""
    torch = require_torch()
    with _knobs_turned(torch):
        torch.set_num_threads(1)
        yield


_users = 0
_users_lock = threading.Lock()
_found: list[Callable[[], object]] = []


@contextmanager
def _knobs_turned(torch: Any) -> Iterator[None]:
    """Turn torch's global settings to those of a fresh process.

    The first user records what it found, and the last one to leave restores it.
    """
    global _users
    with _users_lock:
        if _users == 0:
            _found[:] = list(_turned(torch))
        _users += 1
    try:
        yield
    finally:
        with _users_lock:
            _users -= 1
            if _users == 0:
                for restore in _found:
                    restore()


def _turned(torch: Any) -> Iterator[Callable[[], object]]:
    """Turn every setting that is not that of a fresh process, and yield how to turn it back."""
    yield partial(torch.set_num_threads, torch.get_num_threads())
    calls = [
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, False),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
    ]
    sdp = torch.backends.cuda
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        if hasattr(sdp, f"enable_{name}_sdp"):
            calls.append((getattr(sdp, f"{name}_sdp_enabled"), getattr(sdp, f"enable_{name}_sdp"), True))
    for get, put, wanted in calls:
        before = get()
        if before != wanted:
            put(wanted)
            yield partial(put, before)
    for owner, name, wanted in _attributes(torch.backends):
        before = getattr(owner, name, wanted)
        if before != wanted:
            setattr(owner, name, wanted)
            yield partial(setattr, owner, name, before)
    nnpack = torch.backends.nnpack.set_flags(True)
    yield partial(torch.backends.nnpack.set_flags, *nnpack)


def _attributes(backends: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield owner, name and fresh value of the settings that are attributes."""
    yield backends.mkldnn, "enabled", True
    yield backends.mkldnn, "deterministic", False
    for owner in (backends, backends.mkldnn, backends.cuda.matmul):
        yield owner, "fp32_precision", "none"
    for name in ("conv", "matmul", "rnn"):
        if hasattr(backends.mkldnn, name):
            yield getattr(backends.mkldnn, name), "fp32_precision", "none"


Precision = Literal["exact", "fast"]
"""``"exact"``: float32, without TF32, deterministic kernels. ``"fast"``: bfloat16 where torch's autocast
allows it, weights in channels-last order; for accelerators."""


def checked_precision(precision: str) -> Precision:
    """Return ``precision`` if it is known, else raise `GeneratorError`."""
    for known in get_args(Precision):
        if precision == known:
            checked: Precision = known
            return checked
    raise GeneratorError(
        f"precision={precision!r} is not known", f"use one of {', '.join(map(repr, get_args(Precision)))}"
    )


def forward(
    network: Any,
    inputs: Sequence[Sequence[Float32Array | np.float32]],
    *,
    batch: int,
    multiple_of: int,
    device: str = "cpu",
    precision: Precision = "exact",
) -> Float32Array:
    """Run a network on a list per input; return shape (n, C, H, W).

    Parameters
    ----------
    network
        Called with one tensor per input; on ``device`` already. May be a method of a network.
    inputs
        Per input the arrays of n samples: images (C, H, W), vectors or numbers.
    batch
        Batch size of a forward pass; padded with zeros.
    multiple_of
        Edges of images are padded with zeros to multiples of this, and the result is cropped. Smaller images among the
        inputs, the output of a network, are not padded.
    device, precision
        See `checked_device` and `Precision`.
    """
    torch = require_torch()
    H, W = max(np.shape(arrays[0])[-2:] for arrays in inputs if np.ndim(arrays[0]) == 3)
    with ExitStack() as stack:
        stack.enter_context(torch_state(device))
        tensors = [
            torch.from_numpy(
                _padded_batch(arrays, batch, multiple_of if np.shape(arrays[0])[-2:] == (H, W) else 1)
            ).to(device)
            for arrays in inputs
        ]
        kind = torch.device(device).type
        if kind == "cpu" or precision == "fast":
            tensors = [_channels_last(tensor) for tensor in tensors]
        if precision == "fast":
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
        elif kind == "cuda":
            # By default convolutions run in TF32, which has ten bits of mantissa.
            flags = torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
            stack.enter_context(flags)
        out: Float32Array = network(*tensors).float().cpu().contiguous().numpy()
    return out[: len(inputs[0]), :, :H, :W]


def _channels_last(tensor: Any) -> Any:
    import torch

    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _padded_batch(arrays: Sequence[Float32Array | np.float32], batch: int, multiple_of: int) -> Float32Array:
    stack = np.stack(arrays)
    room = [(0, batch - len(stack))] + [(0, 0)] * (stack.ndim - 1)
    if stack.ndim == 4:
        room[2:] = [(0, -n % multiple_of) for n in stack.shape[2:]]
    return np.pad(stack, room).astype(np.float32, copy=False)
