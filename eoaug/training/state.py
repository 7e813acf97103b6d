"""The state of a training: weights, their moving average, the optimiser and the step, and its file.

A training whose batches are a function of the step gives the same weights whether or not it was interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoaug.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["TrainingState", "read_progress"]


class TrainingState:
    """Parameters that are trained, their exponential moving average, and the optimiser.

    Parameters
    ----------
    parameters
        By name; names are the keys of the file.
    optimizer
        Of these parameters.
    scaler
        Scales the loss for float16; None: no scaling.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        import torch

        self.parameters, self.optimizer = dict(parameters), optimizer
        self.averaged = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.step = 0
        """Steps taken."""

    def update(
        self, loss: Tensor, *, ema: float, clip: float | None = None, accelerator: Any = None
    ) -> float:
        """Take one optimiser step and return the loss.

        Parameters
        ----------
        loss
            Of one batch, with its graph.
        ema
            Decay of the moving average, 0 (the last weights) to 1; smaller in the first steps, so that the
            initial weights do not dominate.
        clip
            Largest norm of the gradient; None: no clipping.
        accelerator
            An ``accelerate.Accelerator`` that averages gradients over processes; None: one process.
        """
        import torch
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self.optimizer.zero_grad(set_to_none=True)
        if accelerator is not None:
            accelerator.backward(loss)
        else:
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        decay = min(ema, (1 + self.step) / (10 + self.step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.averaged.values()), list(self.parameters.values()), None)
        return float(loss.detach())

    def save(self, path: Path, progress: Mapping[str, Any]) -> None:
        """Write the state in one step: a reader sees the previous state or this one.

        Parameters
        ----------
        path
            File to write or replace.
        progress
            Further JSON values to keep, e.g. the time spent.
        """
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors |= {f"network.{name}": parameter.detach(), f"averaged.{name}": self.averaged[name]}
            # A parameter that no loss depends on has no optimiser state.
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{key}.{name}": value for key, value in moments.items()}
        metadata = {
            "step": str(self.step),
            "scaler": json.dumps(self.scaler.state_dict()),
            "progress": json.dumps(progress),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file({name: value.cpu().contiguous().clone() for name, value in tensors.items()}, part, metadata)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a state that `save` wrote."""
        import torch
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file, torch.no_grad():
            metadata, stored = file.metadata(), set(file.keys())
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"network.{name}"))
                self.averaged[name].copy_(file.get_tensor(f"averaged.{name}"))
                keys = [key for key in _MOMENTS if f"optimizer.{key}.{name}" in stored]
                if keys:
                    self.optimizer.state[parameter] = {
                        key: file.get_tensor(f"optimizer.{key}.{name}").to(
                            "cpu" if key == "step" else parameter.device
                        )
                        for key in keys
                    }
        if scaler := json.loads(metadata["scaler"]):
            self.scaler.load_state_dict(scaler)
        self.step = int(metadata["step"])


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for every parameter."""


def read_progress(path: Path) -> dict[str, Any] | None:
    """Return the progress in a state's file, without its tensors; None if there is no file.

    Raises
    ------
    ParameterError
        The file was not written by `TrainingState.save`.
    """
    from safetensors import safe_open

    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "progress" not in metadata:
        raise ParameterError(f"{path} holds no state of a training", "use another folder, or remove the file")
    progress: dict[str, Any] = json.loads(metadata["progress"])
    return progress
