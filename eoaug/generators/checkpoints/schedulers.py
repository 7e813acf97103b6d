"""Samplers of diffusers by name, with the noise of their steps from outside.

Imports diffusers at once. A sampler that drew for itself would give other pixels in other batches, chunks
and processes: here a step is told its noise, which belongs to the place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor

from eoaug.errors import GeneratorError, first_line
from eoaug.generators.checkpoints.folder import Component
from eoaug.generators.checkpoints.loading import check_kinds

__all__ = ["SCHEDULERS", "Sampler", "begin", "draws", "explodes", "scheduler_of"]


def scheduler_of(part: Component, name: str | None) -> Any:
    """Return the checkpoint's sampler, or another by name on its noise schedule.

    Parameters
    ----------
    part
        The checkpoint's scheduler.
    name
        A name of `SCHEDULERS`; None: the checkpoint's own.
    """
    if name is not None and name not in SCHEDULERS:
        raise GeneratorError(f"there is no scheduler {name!r}", f"use one of {', '.join(SCHEDULERS)}")
    kind, _, own = SCHEDULERS[name] if name else _own_sampler(part)
    settings = {key: value for key, value in part.config.items() if not key.startswith("_")}
    settings |= own
    # Latents have no range to be clipped to.
    settings |= {"clip_sample": False, "thresholding": False}
    check_kinds(kind, part)
    try:
        scheduler = kind.from_config(settings)
        scheduler.set_timesteps(2)  # some settings are looked at only now
    except Exception as error:  # whatever a stranger's numbers make of it
        raise GeneratorError(
            f"checkpoint part {part.folder} makes no scheduler: {first_line(error)}", "get the folder again"
        ) from error
    times = scheduler.config.num_train_timesteps
    if scheduler.alphas_cumprod.shape != (times,) or not torch.isfinite(scheduler.alphas_cumprod).all():
        raise GeneratorError(
            f"checkpoint part {part.folder} has no noise schedule of {times} levels", "get the folder again"
        )
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise GeneratorError(
            f"checkpoint part {part.folder} predicts {scheduler.config.prediction_type!r}",
            "eoaug knows epsilon, v_prediction and sample",
        )
    return scheduler


def _own_sampler(part: Component) -> Sampler:
    """Return the sampler of the class that a checkpoint names, with its own settings."""
    for sampler in SCHEDULERS.values():
        if part.kind == sampler.named:
            # Which solver, that class leaves to the checkpoint's own settings.
            own = {name: value for name, value in sampler.settings.items() if name != "algorithm_type"}
            return sampler._replace(settings=own)
    raise GeneratorError(
        f"checkpoint part {part.folder} names the sampler {part.kind}, which eoaug does not walk",
        f"choose one on the same noise schedule: scheduler={' or '.join(map(repr, SCHEDULERS))}",
    )


class _DDPM(diffusers.DDIMScheduler):  # type: ignore[misc]
    """DDPM (arXiv:2006.11239): the same as DDIM with eta = 1 (arXiv:2010.02502, section 4.1)."""

    def step(self, output: Tensor, time: Tensor, x: Tensor, *, variance_noise: Tensor, **more: Any) -> Any:
        """Return x at the next step first."""
        return super().step(output, time, x, eta=1.0, variance_noise=variance_noise, **more)


class _EulerAncestral(diffusers.EulerAncestralDiscreteScheduler):  # type: ignore[misc]
    """Euler's method to a lower noise level than the next, and up again by noise from outside."""

    def step(self, output: Tensor, time: Tensor, x: Tensor, *, variance_noise: Tensor, **more: Any) -> Any:
        """Return x at the next step first."""
        del more
        if self.step_index is None:
            self._init_step_index(time)
        now, then = (float(sigma) for sigma in self.sigmas[self.step_index : self.step_index + 2])
        share = 1 / (now**2 + 1)
        clean = {
            "epsilon": lambda: x - now * output,
            "v_prediction": lambda: share * x - now * math.sqrt(share) * output,
            "sample": lambda: output,
        }[self.config.prediction_type]()
        up = math.sqrt(then**2 * (now**2 - then**2) / now**2)
        down = math.sqrt(then**2 - up**2)
        self._step_index += 1
        return (x + (x - clean) / now * (down - now) + variance_noise * up,)


class _PLMS(diffusers.PNDMScheduler):  # type: ignore[misc]
    """Pseudo linear multistep (arXiv:2202.09778) as Stable Diffusion 1 came with: its second step is done twice."""

    timesteps: Tensor

    def keep_last(self, count: int) -> None:
        """Walk the last steps of the schedule alone, the second of them twice."""
        times = torch.unique(self.timesteps, sorted=True)[:count].flip(0)
        self.timesteps = torch.cat([times[:2], times[1:]])


class Sampler(NamedTuple):
    """A class of schedulers, and what of its configuration makes it this sampler."""

    kind: Any
    named: str
    """What a checkpoint calls it."""
    settings: Mapping[str, Any] = {}


SCHEDULERS: Mapping[str, Sampler] = {
    "ddim": Sampler(diffusers.DDIMScheduler, "DDIMScheduler"),
    "ddpm": Sampler(_DDPM, "DDPMScheduler", {"set_alpha_to_one": True}),
    "dpmpp_2m": Sampler(
        diffusers.DPMSolverMultistepScheduler,
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++"},
    ),
    "dpmpp_2m_sde": Sampler(diffusers.DPMSolverMultistepScheduler, "", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": Sampler(diffusers.EulerDiscreteScheduler, "EulerDiscreteScheduler"),
    "euler_a": Sampler(_EulerAncestral, "EulerAncestralDiscreteScheduler"),
    "lms": Sampler(diffusers.LMSDiscreteScheduler, "LMSDiscreteScheduler"),
    "pndm": Sampler(_PLMS, "PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": Sampler(diffusers.UniPCMultistepScheduler, "UniPCMultistepScheduler"),
}
"""Samplers by name; each calls the network once per step (pndm once more)."""


def draws(scheduler: Any) -> bool:
    """Tell whether a scheduler's ``step`` needs ``variance_noise``."""
    stochastic = str(scheduler.config.get("algorithm_type", "")).startswith("sde")
    return stochastic or isinstance(scheduler, _DDPM | _EulerAncestral)


def explodes(scheduler: Any) -> bool:
    """Tell whether x is the clean image plus noise, whose variance explodes; the others preserve it."""
    kinds = (diffusers.EulerDiscreteScheduler, _EulerAncestral, diffusers.LMSDiscreteScheduler)
    return isinstance(scheduler, kinds)


def begin(scheduler: Any, strength: float) -> int:
    """Have a scheduler begin inside of its schedule; return the number of its time steps that are left out.

    Parameters
    ----------
    scheduler
        With time steps set.
    strength
        Share of the steps to walk, 0 to 1.
    """
    if isinstance(scheduler, _PLMS):
        steps = scheduler.num_inference_steps
        scheduler.keep_last(min(int(steps * strength), steps))
        return 0
    steps = len(scheduler.timesteps)
    first = steps - min(int(steps * strength), steps)
    if hasattr(scheduler, "set_begin_index") and first < steps:
        scheduler.set_begin_index(first)
    return first
