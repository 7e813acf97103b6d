"""Samplers of diffusers by name, with the noise of every step as an argument.

A sampler that drew its own noise would give other pixels in other batches, chunks and processes. Here the noise
of a step is a function of the position on the grid, and the caller passes it in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import diffusers
import torch
from torch import Tensor

from eoaug.errors import GeneratorError, first_line
from eoaug.generators.checkpoints.folder import Component
from eoaug.generators.checkpoints.loading import check_kinds

__all__ = [
    "SCHEDULERS",
    "Sampler",
    "SamplerName",
    "is_stochastic",
    "is_variance_exploding",
    "scheduler_of",
    "start_at",
]


SamplerName = Literal[
    "ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "euler", "euler_a", "lms", "pndm", "unipc"
]  # fmt: skip
"""The names of `SCHEDULERS`."""


def scheduler_of(component: Component, name: SamplerName | None) -> Any:
    """Return the checkpoint's sampler, or another one by name on the checkpoint's noise schedule.

    Parameters
    ----------
    component
        The checkpoint's scheduler component.
    name
        A name of `SCHEDULERS`; None: the checkpoint's own.
    """
    if name is not None and name not in SCHEDULERS:
        raise GeneratorError(f"scheduler={name!r} is unknown", f"use one of {', '.join(SCHEDULERS)}")
    kind, _, own = SCHEDULERS[name] if name else _own_sampler(component)
    settings = {key: value for key, value in component.config.items() if not key.startswith("_")}
    settings |= own
    # Latents have no fixed range to clip to.
    settings |= {"clip_sample": False, "thresholding": False}
    check_kinds(kind, component)
    try:
        scheduler = kind.from_config(settings)
        scheduler.set_timesteps(2)  # some settings are validated only here
    except Exception as error:  # an untrusted configuration may raise anything
        raise GeneratorError(
            f"checkpoint component {component.folder} makes no scheduler: {first_line(error)}",
            "get the folder again",
        ) from error
    times = scheduler.config.num_train_timesteps
    if scheduler.alphas_cumprod.shape != (times,) or not torch.isfinite(scheduler.alphas_cumprod).all():
        raise GeneratorError(
            f"checkpoint component {component.folder} has no noise schedule of {times} levels",
            "get the folder again",
        )
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise GeneratorError(
            f"checkpoint component {component.folder} predicts {scheduler.config.prediction_type!r}",
            "eoaug knows epsilon, v_prediction and sample",
        )
    return scheduler


def _own_sampler(component: Component) -> Sampler:
    """Return the sampler of the class that a checkpoint names, with its own settings."""
    for sampler in SCHEDULERS.values():
        if component.kind == sampler.named:
            # The class of DPM-Solver leaves the choice of the solver to the checkpoint's settings.
            own = {name: value for name, value in sampler.settings.items() if name != "algorithm_type"}
            return sampler._replace(settings=own)
    raise GeneratorError(
        f"checkpoint component {component.folder} names the sampler {component.kind}, which eoaug does not run",
        f"choose one on the same noise schedule: scheduler={' or '.join(map(repr, SCHEDULERS))}",
    )


class _DDPM(diffusers.DDIMScheduler):  # type: ignore[misc]
    """DDPM (arXiv:2006.11239): the same as DDIM with eta = 1 (arXiv:2010.02502, section 4.1)."""

    def step(self, output: Tensor, time: Tensor, x: Tensor, *, variance_noise: Tensor, **more: Any) -> Any:
        """Return a tuple whose first element is x at the next step."""
        return super().step(output, time, x, eta=1.0, variance_noise=variance_noise, **more)


class _EulerAncestral(diffusers.EulerAncestralDiscreteScheduler):  # type: ignore[misc]
    """Euler's method to below the next noise level, then up to it with the noise that is passed in."""

    def step(self, output: Tensor, time: Tensor, x: Tensor, *, variance_noise: Tensor, **more: Any) -> Any:
        """Return a tuple whose first element is x at the next step."""
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
    """Pseudo linear multistep (arXiv:2202.09778), the default of Stable Diffusion 1: its second step is taken twice."""

    timesteps: Tensor

    def keep_last(self, count: int) -> None:
        """Keep only the last ``count`` steps of the schedule, the second of them twice."""
        times = torch.unique(self.timesteps, sorted=True)[:count].flip(0)
        self.timesteps = torch.cat([times[:2], times[1:]])


class Sampler(NamedTuple):
    """A scheduler class with the settings that make it this sampler."""

    kind: Any
    named: str
    """Class name in checkpoints; empty: none names it."""
    settings: Mapping[str, Any] = {}


SCHEDULERS: Mapping[SamplerName, Sampler] = {
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


def is_stochastic(scheduler: Any) -> bool:
    """Return whether a scheduler's ``step`` needs ``variance_noise``."""
    stochastic = str(scheduler.config.get("algorithm_type", "")).startswith("sde")
    return stochastic or isinstance(scheduler, _DDPM | _EulerAncestral)


def is_variance_exploding(scheduler: Any) -> bool:
    """Return whether x is the clean image plus noise (variance exploding); other schedulers preserve variance."""
    kinds = (diffusers.EulerDiscreteScheduler, _EulerAncestral, diffusers.LMSDiscreteScheduler)
    return isinstance(scheduler, kinds)


def start_at(scheduler: Any, strength: float) -> int:
    """Let a scheduler start inside its schedule; return the number of time steps that are skipped.

    Parameters
    ----------
    scheduler
        A scheduler whose time steps are set; it is changed in place.
    strength
        Share of the steps to take, 0 to 1.
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
