"""Where networks run, and how: a checked device, one intra-op thread.

torch is imported by the functions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eoaug.errors import GeneratorError

__all__ = ["checked_device", "device_kind", "one_thread"]


def checked_device(device: str, generator: str) -> str:
    """Return a device's name if torch can use it.

    Parameters
    ----------
    device
        As torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    generator
        Who asks, for the message.
    """
    if device == "cpu":
        return device
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise GeneratorError(
            f"{generator}: device={device!r} cannot be used: {str(error).splitlines()[0]}",
            'use device="cpu", or a device that torch lists',
        ) from error
    return device


def device_kind(device: str) -> str:
    """Return the kind of a device (``"cpu"``, ``"cuda"``): bytes may differ between kinds, not between numbers."""
    return device.partition(":")[0]


_users = 0
_users_lock = threading.Lock()
_threads_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Pin torch to one intra-op thread, on which alone bytes do not depend on the machine's settings.

    The last user to leave restores what the first one found; torch keeps the number per thread, so every
    user sets it.
    """
    import torch

    global _users, _threads_before
    with _users_lock:
        if _users == 0:
            _threads_before = torch.get_num_threads()
        _users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _users_lock:
            _users -= 1
            if _users == 0:
                torch.set_num_threads(_threads_before)
