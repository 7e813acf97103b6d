"""One optimisation, from the first step to the last, whatever stops it in between.

torch inside. The result is a function of network, batches and settings: a checkpoint holds weights, averages and
optimiser, a batch is a function of its step, so a resumed run goes on as if it had never stopped. Runs on one
CPU, one GPU, or on as many as ``accelerate launch`` starts: each process takes its share of every batch.
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
from eoaug.generators.weights import load_weights, save_weights
from eoaug.training.contact_sheet import write_sheet

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PRECISIONS", "Arrays", "TrainingTask", "load_into", "optimise"]


PRECISIONS = ("float32", "bfloat16")
"""bfloat16, by autocast, takes 0.5 to 0.7 of the time on processors that know it."""

Arrays = Mapping[str, NDArray[np.float32]]
"""One batch: the samples lie along the first axis of every array."""

_WARM_UP = 200
"""Steps over which the learning rate rises."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTask:
    """What is to be learned."""

    name: str
    """Prefix of all files, and of lines in the log."""
    settings: Mapping[str, Any]
    """``steps``, ``lr``, ``weight_decay``, ``ema``, ``checkpoint_s``."""
    seed: int
    """Of the weights at the start."""
    batches: Callable[[int, slice], Arrays]
    """Step, and which of a batch's samples this process takes, to those."""
    loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    """Mean over the samples of a batch."""
    show: Callable[[nn.Module], NDArray[np.floating]] | None = None
    """Network, with averaged weights, to pictures (rows, columns, 3, H, W), 0 to 1."""


def optimise(
    task: TrainingTask,
    network: nn.Module,
    out: Path,
    *,
    threads: int,
    minutes: float | None,
    precision: str = "float32",
) -> str:
    """Run AdamW with warm-up, a level half and a cosine tail; average the weights.

    Parameters
    ----------
    task, network
        What is learned, by what.
    out
        Receives ``<name>.safetensors`` (float16, the exponential moving average, renewed at every
        checkpoint), ``<name>.checkpoint.safetensors`` and ``.json``, ``<name>.log.jsonl`` with the losses,
        and ``<name>.png``, a sheet of samples.
    threads
        torch's intra-op threads; the last bits of the weights depend on it.
    minutes
        Stop after so much wall time, with the learning rate run down by then; None: by steps.
    precision
        Of convolutions and products (`PRECISIONS`); weights, sums and averages are float32 in any case.

    Returns
    -------
    sha256 of the weights; the other processes' is empty.
    """
    import torch

    if precision not in PRECISIONS:
        raise ParameterError(
            f"training: no precision is called {precision!r}", f"use {', '.join(PRECISIONS)}"
        )

    torch.set_num_threads(threads)
    torch.manual_seed(task.seed)
    settings = task.settings
    run = _Run(task, network, out, half=precision == "bfloat16")
    begun, saved = time.monotonic() - run.spent_s, time.monotonic()
    losses: list[float] = []
    while run.step < settings["steps"]:
        progress = run.step / settings["steps"]
        if minutes is not None:
            progress = max(progress, run.agreed(time.monotonic() - begun) / (minutes * 60))
        if progress >= 1:
            break
        losses.append(run.advance(settings["lr"] * min((run.step + 1) / _WARM_UP, 1) * _cosine(progress)))
        if run.step % 100 == 0:
            run.log(time.monotonic() - begun, float(np.mean(losses)))
            losses.clear()
        if time.monotonic() - saved > settings["checkpoint_s"]:
            run.save(time.monotonic() - begun)
            saved = time.monotonic()
    sha256 = run.save(time.monotonic() - begun)
    run.meet()
    return sha256


class _Run:
    """A task on its way: network, averages, optimiser, and the processes that share the work."""

    def __init__(self, task: TrainingTask, network: nn.Module, out: Path, *, half: bool) -> None:
        import torch

        self.task, self.out, self.step, self.spent_s = task, out, 0, 0.0
        self.half = half
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
        self.parameters = dict(self.network.named_parameters())
        self.averaged = {name: value.detach().clone() for name, value in self.parameters.items()}
        settings = task.settings
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings["lr"], betas=(0.9, 0.98),
            weight_decay=settings["weight_decay"],
        )  # fmt: skip
        self._resume()
        # Gradients are averaged over the processes by the wrapper; the bare network keeps the weights.
        self.shared = self.accelerator.prepare(self.network) if self.accelerator else self.network
        if not self.rank:
            count = sum(value.numel() for value in self.parameters.values())
            _log.info("%s: %d parameters, from step %d", task.name, count, self.step)

    def advance(self, lr: float) -> float:
        """Take one step and return its loss, that of this process's share."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = lr
        arrays = self.task.batches(self.step, slice(self.rank, None, self.world))
        batch = {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
            for name, value in arrays.items()
        }
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            value = self.task.loss(self.shared, batch)
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator:
            self.accelerator.backward(value)
        else:
            value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.task.settings["ema"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.averaged[name].lerp_(parameter, 1 - keep)
        return float(value.detach())

    def log(self, elapsed_s: float, loss: float) -> None:
        """Write a line of the log."""
        if self.rank:
            return
        _log.info("%s: step %d, %.0f s, loss %.4f", self.task.name, self.step, elapsed_s, loss)
        row = {"step": self.step, "seconds": round(elapsed_s, 1), "loss": round(loss, 5)}
        with self._path("log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def agreed(self, seconds: float) -> float:
        """Return the first process's number: clocks differ, and with them learning rates would."""
        if not self.accelerator:
            return seconds
        import torch
        from accelerate.utils import broadcast  # type: ignore[import-untyped]

        return float(broadcast(torch.tensor(seconds, device=self.device)))

    def meet(self) -> None:
        """Wait for the other processes: what the first has written, all may read."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def save(self, spent_s: float) -> str:
        """Write checkpoint, weights and sheet, the first process alone; return the weights' sha256."""
        if self.rank:
            return ""
        averaged = {name: value.cpu().numpy() for name, value in self.averaged.items()}
        tensors = {f"network.{name}": value.detach().cpu().numpy() for name, value in self.parameters.items()}
        tensors |= {f"averaged.{name}": value for name, value in averaged.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = np.array(value.cpu().numpy())
        save_weights(self._path("checkpoint.safetensors"), tensors, half=False)
        self._path("checkpoint.json").write_text(json.dumps({"step": self.step, "spent_s": spent_s}))
        sha256 = save_weights(self._path("safetensors"), averaged)
        self._show(averaged)
        return sha256

    def _show(self, averaged: Mapping[str, NDArray[np.generic]]) -> None:
        if self.task.show is None:
            return
        now = {name: value.detach().cpu().numpy().copy() for name, value in self.parameters.items()}
        load_into(self.network, averaged)
        write_sheet(self._path("png"), self.task.show(self.network))
        load_into(self.network, now)

    def _resume(self) -> None:
        """Load the checkpoint where there is one."""
        import torch

        path = self._path("checkpoint.json")
        if not path.exists():
            return
        state = json.loads(path.read_text())
        tensors = load_weights(self._path("checkpoint.safetensors"))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(tensors[f"network.{name}"]))
                self.averaged[name].copy_(torch.from_numpy(tensors[f"averaged.{name}"]))
                self.optimizer.state[parameter] = {
                    key: torch.from_numpy(tensors[f"optimizer.{key}.{name}"]).to(
                        "cpu" if key == "step" else self.device
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.step, self.spent_s = int(state["step"]), float(state["spent_s"])

    def _path(self, suffix: str) -> Path:
        return self.out / f"{self.task.name}.{suffix}"


def load_into(module: nn.Module, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Give a network the weights of its names."""
    import torch

    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})


def _cosine(progress: float, flat: float = 0.5) -> float:
    """Return the learning rate's factor: 1 for the first half, then a cosine to 0.02."""
    if progress <= flat:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - flat) / (1 - flat)))
