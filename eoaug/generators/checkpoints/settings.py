"""The options of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from eoaug.errors import GeneratorError
from eoaug.generators.checkpoints import schedulers
from eoaug.generators.checkpoints.band_lifting import RULES, Rule

__all__ = ["DTYPES", "TOLD", "Settings"]


TOLD = ("stretch", "lift", "prompt", "steps", "guidance")
"""Settings that the ``eoaug.json`` of a checkpoint or an adapter may hold."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a checkpoint is used; every field is an option of `eoaug.load`."""

    variant: str | None = None
    """Weights to take where a part has several, e.g. ``fp16``; None: the plain ones."""
    unet: str | None = None
    """Folder whose UNet takes the place of the base's."""
    controlnets: tuple[str, ...] = ()
    """ControlNet folders; ``layout`` then holds their images, one after the other along its first axis."""
    control_scales: tuple[float, ...] | None = None
    """Weight of each ControlNet; None: 1."""
    adapters: tuple[tuple[str, float], ...] = ()
    """LoRA and learned tokens: a file, a folder or a pinned hub id, and its weight."""
    any_base: bool = False
    """Use adapters that say they were trained on other weights than the base's."""
    merge: bool = False
    """Add LoRA to the weights once, instead of computing them in every step."""
    stretch: tuple[float, float] | None = None
    """Reflectance of the models' black and white; None: the checkpoint's, else 0 and 0.3."""
    lift: Rule | None = None
    """What becomes of bands that are not red, green or blue (`eoaug.generators.checkpoints.band_lifting.RULES`); None: refused."""
    prompt: str | None = None
    """Prompt of requests that have none; None: the checkpoint's, else empty."""
    negative: str = ""
    """What guidance leads away from."""
    scheduler: str | None = None
    """Sampler by name (`eoaug.generators.checkpoints.schedulers.SCHEDULERS`); None: the checkpoint's."""
    steps: int | None = None
    """Denoising steps of requests that name none; None: the checkpoint's, else 50."""
    guidance: float | None = None
    """Scale of classifier-free guidance; None: the checkpoint's, else what its family was published with."""
    noise_level: int = 20
    """Noise that an upscaler's input gets before it is sharpened."""
    tile_px: int | None = None
    """Edge of a tile; None: what the UNet was trained on."""
    overlap_px: int | None = None
    """Overlap of tiles; None: an eighth of a tile."""
    batch: int = 1
    """Requests in one forward."""
    joint_steps: int = 2
    """First steps that overlapping tiles take together."""
    legacy_fp16: bool = False
    """Round DiffusionSat's metadata to half precision, as the published pipeline did."""
    device: str | None = None
    """Where the networks run; None: a GPU if there is one."""
    dtype: str | None = None
    """``float32``, ``float16`` or ``bfloat16``; None: half precision on a GPU."""
    memory: Literal["auto", "normal", "low"] = "auto"
    """``low``: attention in slices, networks in main memory but for the one that runs; ``auto``: where a
    GPU has less than one and a half times the weights free."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Return settings from options as a user or a JSON file writes them; refuse what is unknown."""
        for name in options:
            if name not in cls.__dataclass_fields__:
                raise GeneratorError(
                    f"checkpoints have no option {name!r}", f"they have {', '.join(cls.__dataclass_fields__)}"
                )
        try:
            settings = cls(**cls._brought(options))
        except (TypeError, ValueError, IndexError) as error:
            raise GeneratorError(
                f"options {str(dict(options))[:200]} hold a value of the wrong kind: {error}",
                "see eoaug.generators.checkpoints.settings.Settings for the kind of each",
            ) from error
        settings._check()
        return settings

    @staticmethod
    def _brought(options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options with lists as tuples and paths as texts."""
        given = dict(options)
        for name in ("adapters", "controlnets"):
            if isinstance(given.get(name), str | Path):
                given[name] = [given[name]]
        if "adapters" in given:
            given["adapters"] = tuple(
                (str(one), 1.0) if isinstance(one, str | Path) else (str(one[0]), float(one[1]))
                for one in given["adapters"]
            )
        if "controlnets" in given:
            given["controlnets"] = tuple(str(one) for one in given["controlnets"])
        for name in ("control_scales", "stretch"):
            if given.get(name) is not None:
                given[name] = tuple(float(value) for value in given[name])
        if given.get("unet") is not None:
            given["unet"] = str(given["unet"])
        if given.get("guidance") is not None:
            given["guidance"] = float(given["guidance"])
        return given

    def _check(self) -> None:
        choices: Mapping[str, Sequence[object]] = {
            "lift": (None, *RULES),
            "scheduler": (None, *schedulers.SCHEDULERS),
            "dtype": (None, *DTYPES),
            "memory": ("auto", "normal", "low"),
        }
        for name, known in choices.items():
            if not any(getattr(self, name) is one or getattr(self, name) == one for one in known):
                raise GeneratorError(
                    f"{name}={getattr(self, name)!r} is unknown",
                    f"use one of {', '.join(str(one) for one in known if one is not None)}",
                )
        if self.variant is not None and not (isinstance(self.variant, str) and self.variant.isidentifier()):
            raise GeneratorError(f"variant={self.variant!r} is no name of weights", "e.g. variant='fp16'")
        for name in ("prompt", "negative"):
            if not isinstance(getattr(self, name), str | None):
                raise GeneratorError(f"{name}={getattr(self, name)!r} is no text", f"e.g. {name}='a lake'")
        for name, least in (("batch", 1), ("joint_steps", 0), ("noise_level", 0), ("steps", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise GeneratorError(
                    f"{name}={value!r} is no integer from {least} on", f"e.g. {name}={least}"
                )
        if self.stretch is not None and not (
            len(self.stretch) == 2 and self.stretch[0] < self.stretch[1] and np.isfinite(self.stretch).all()
        ):
            raise GeneratorError(
                f"stretch={self.stretch} is no pair of reflectances, black below white",
                "e.g. stretch=(0.0, 0.3)",
            )
        if self.control_scales is not None and len(self.control_scales) != len(self.controlnets):
            raise GeneratorError(
                f"{len(self.control_scales)} control_scales for {len(self.controlnets)} controlnets",
                "give one weight per ControlNet",
            )
