"""The training loop of the embedded networks: learning-rate schedule, time budget, checkpoints, several processes.

The result is a function of network, batches and settings. A batch is a function of its step and `TrainingState` holds
the rest, so a resumed training equals an uninterrupted one. Runs on one CPU, on one GPU, or in the processes that
``accelerate launch`` starts: each takes its share of every batch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError
from eoaug.generators.weights import save_weights
from eoaug.training.contact_sheet import write_sheet
from eoaug.training.state import TrainingState, read_progress

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PRECISIONS", "Arrays", "TrainingTask", "load_into", "optimise"]


PRECISIONS = ("float32", "bfloat16")
"""bfloat16, by autocast, takes 0.5 to 0.7 of the time on processors that support it."""

Arrays = Mapping[str, NDArray[np.float32]]
"""One batch; samples along the first axis of every array."""

_WARM_UP = 200
"""Steps over which the learning rate rises."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTask:
    """What to train a network on."""

    name: str
    """Prefix of all files and log lines."""
    settings: Mapping[str, Any]
    """``steps``, ``lr``, ``weight_decay``, ``ema``, ``checkpoint_s``; optional: ``sheet_s``, seconds between contact
    sheets, which are then kept under the number of their step (default: one sheet, renewed at every checkpoint)."""
    seed: int
    """Random seed of the initial weights."""
    batches: Callable[[int, slice], Arrays]
    """Returns the samples of a step's batch, given the step and the slice of the batch of this process."""
    loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    """Returns the mean loss over the samples of a batch."""
    show: Callable[[nn.Module], NDArray[np.floating]] | None = None
    """Returns pictures (rows, columns, 3, H, W), 0 to 1, of the network with averaged weights."""
    validate: Callable[[nn.Module], float] | None = None
    """Returns the loss on samples that are not learned from, of the network with averaged weights."""


def optimise(
    task: TrainingTask,
    network: nn.Module,
    out: Path,
    *,
    threads: int,
    minutes: float | None,
    precision: str = "float32",
) -> str:
    """Train with AdamW, warm-up, a constant first half and a cosine second half, and average the weights.

    Parameters
    ----------
    task, network
        What to train on, and the network, which is changed in place.
    out
        Receives ``<name>.safetensors`` (float16, the exponential moving average, renewed at every
        checkpoint), ``<name>.checkpoint.safetensors`` with the state, ``<name>.log.jsonl`` with the losses,
        and ``<name>.png``, a contact sheet of samples.
    threads
        torch's intra-op threads; the last bits of the weights depend on it.
    minutes
        Wall time after which the schedule ends; None: it ends after ``steps``.
    precision
        Compute dtype of convolutions and matrix products (`PRECISIONS`); weights, sums and averages stay float32.

    Returns
    -------
    str
        sha256 of the weights; empty in all processes but the first.
    """
    import torch

    if precision not in PRECISIONS:
        raise ParameterError(f"training: precision={precision!r} is unknown", f"use {', '.join(PRECISIONS)}")

    torch.set_num_threads(threads)
    torch.manual_seed(task.seed)
    settings = task.settings
    run = _Run(task, network, out, half=precision == "bfloat16")
    started, saved = time.monotonic() - run.spent_s, time.monotonic()
    losses: list[float] = []
    while run.step < settings["steps"]:
        progress = run.step / settings["steps"]
        if minutes is not None:
            progress = max(progress, run.shared(time.monotonic() - started) / (minutes * 60))
        if progress >= 1:
            break
        losses.append(run.advance(settings["lr"] * min((run.step + 1) / _WARM_UP, 1) * _cosine(progress)))
        if run.step % 100 == 0:
            run.log(time.monotonic() - started, float(np.mean(losses)))
            losses.clear()
        if time.monotonic() - saved > settings["checkpoint_s"]:
            run.save(time.monotonic() - started)
            saved = time.monotonic()
    sha256 = run.save(time.monotonic() - started)
    run.wait_for_all()
    return sha256


class _Run:
    """A training in progress: network, state, and the processes that share the work."""

    def __init__(self, task: TrainingTask, network: nn.Module, out: Path, *, half: bool) -> None:
        import torch

        self.task, self.out, self.half = task, out, half
        self.accelerator: Any = None
        self.rank, self.world = 0, int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1:
            from accelerate import Accelerator  # type: ignore[import-untyped]

            self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
            self.rank = self.accelerator.process_index
            self.device = self.accelerator.device
        else:
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)
        settings = task.settings
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings["lr"], betas=(0.9, 0.98),
            weight_decay=settings["weight_decay"],
        )  # fmt: skip
        self.state = TrainingState(dict(self.network.named_parameters()), optimizer)
        self.spent_s, self.shown_s = self._resume()
        # The wrapper averages gradients over the processes; the bare network keeps the weights.
        self.wrapped = self.accelerator.prepare(self.network) if self.accelerator else self.network
        if not self.rank:
            count = sum(value.numel() for value in self.state.parameters.values())
            _log.info("%s: %d parameters, from step %d", task.name, count, self.step)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.step

    def advance(self, lr: float) -> float:
        """Take one step and return the loss of this process's share of the batch."""
        import torch

        for group in self.state.optimizer.param_groups:
            group["lr"] = lr
        arrays = self.task.batches(self.step, slice(self.rank, None, self.world))
        batch = {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
            for name, value in arrays.items()
        }
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.task.loss(self.wrapped, batch)
        ema = self.task.settings["ema"]
        return self.state.update(loss, ema=ema, clip=1.0, accelerator=self.accelerator)

    def log(self, elapsed_s: float, loss: float) -> None:
        """Write a log line."""
        if self.rank:
            return
        _log.info("%s: step %d, %.0f s, loss %.4f", self.task.name, self.step, elapsed_s, loss)
        self._write({"step": self.step, "seconds": round(elapsed_s, 1), "loss": round(loss, 5)})

    def _write(self, row: Mapping[str, float]) -> None:
        with self._path("log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def shared(self, seconds: float) -> float:
        """Return the first process's value, so that all processes use the same learning rate."""
        if not self.accelerator:
            return seconds
        import torch
        from accelerate.utils import broadcast  # type: ignore[import-untyped]

        return float(broadcast(torch.tensor(seconds, device=self.device)))

    def wait_for_all(self) -> None:
        """Wait for the other processes, so that all can read what the first has written."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def save(self, spent_s: float) -> str:
        """Write state, weights and contact sheet in the first process; return the weights' sha256."""
        if self.rank:
            return ""
        every = self.task.settings.get("sheet_s")
        shown = self.task.show is not None and (every is None or spent_s - self.shown_s >= every)
        if shown:
            self.shown_s = spent_s
        self.state.save(self._path("checkpoint.safetensors"), {"spent_s": spent_s, "shown_s": self.shown_s})
        averaged = {name: value.cpu().numpy() for name, value in self.state.averaged.items()}
        sha256 = save_weights(self._path("safetensors"), averaged)
        if shown or self.task.validate is not None:
            trained = {
                name: value.detach().cpu().numpy().copy() for name, value in self.state.parameters.items()
            }
            load_into(self.network, averaged)
            self._judge(spent_s, sheet="" if not shown else "png" if every is None else f"{self.step}.png")
            load_into(self.network, trained)
        return sha256

    def _judge(self, spent_s: float, *, sheet: str) -> None:
        """Measure the averaged weights on other samples, and with ``sheet`` write pictures under that suffix."""
        if self.task.validate is not None:
            row = {"step": self.step, "seconds": round(spent_s, 1)}
            self._write(row | {"validation": round(self.task.validate(self.network), 5)})
        if sheet and self.task.show is not None:
            write_sheet(self._path(sheet), self.task.show(self.network))

    def _resume(self) -> tuple[float, float]:
        """Continue from the state in the folder, if there is one; return the seconds spent, and those at the last sheet."""
        path = self._path("checkpoint.safetensors")
        progress = read_progress(path)
        if progress is None:
            return 0.0, 0.0
        self.state.load(path)
        return float(progress["spent_s"]), float(progress.get("shown_s", 0.0))

    def _path(self, suffix: str) -> Path:
        return self.out / f"{self.task.name}.{suffix}"


def load_into(module: nn.Module, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Copy weights into a network by name."""
    import torch

    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})


def _cosine(progress: float, flat: float = 0.5) -> float:
    """Return the learning rate's factor: 1 for the first half, then a cosine to 0.02."""
    if progress <= flat:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - flat) / (1 - flat)))
