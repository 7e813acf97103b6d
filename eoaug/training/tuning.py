"""The options of a fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from eoaug.errors import ParameterError, explain_validation

__all__ = ["Tuning"]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_bands(value: Any) -> Any:
    bands = _as_tuple(value)
    if isinstance(bands, tuple) and len(bands) != 3:
        raise ParameterError(
            f"bands={','.join(map(str, bands))!r} are {len(bands)}, a picture has 3 channels",
            "give three; a band may be repeated: bands=('vv', 'vh', 'vv')",
        )
    return bands


def _check_stretch(stretch: tuple[float, float]) -> tuple[float, float]:
    if not stretch[0] < stretch[1]:
        raise ParameterError(f"stretch={stretch} does not have black below white", "e.g. stretch=(0.0, 0.3)")
    return stretch


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]
_Part = Literal["unet", "text", "vae"]
_Target = tuple[_Part, ...]
_WAYS: Mapping[str, tuple[str, ...]] = {
    "unet": ("full", "lora", "frozen"),
    "text": ("full", "lora", "frozen"),
    "vae": ("frozen", "lora", "decoder_lora", "decoder", "full"),
}
"""How each part can be trained."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Tuning:
    """How to fine-tune.

    Raises
    ------
    ParameterError
        With the name of the option, its value and what to use instead.
    """

    mode: Literal["lora", "full"] = "lora"
    """Train low-rank matrices, or all weights of the targets: a shorthand, as is ``target``, of ``parts``."""
    target: Annotated[_Target, Field(min_length=1), BeforeValidator(_as_tuple)] = ("unet",)
    """Components to train; ``vae`` needs ``mode="full"``."""
    parts: dict[_Part, Literal["full", "lora", "decoder_lora", "decoder", "frozen"]] | None = None
    """How each part is trained, instead of ``mode`` and ``target``, e.g. ``{"unet": "full", "text": "lora"}``:
    ``full`` (all weights), ``lora`` (low-rank matrices; of the autoencoder in encoder and decoder), of the autoencoder
    also ``decoder`` (all weights of its decoder) and ``decoder_lora`` (low-rank matrices in its decoder), with which latents
    stay those of the base, or ``frozen``. Parts that are not named are frozen; ``text`` means all text encoders."""
    rank: _Count = 16
    """Rank of the LoRA matrices."""
    token: Annotated[str | None, Field(min_length=1)] = None
    """Textual-inversion token, e.g. ``"<sar>"``, whose embedding is trained too, in every text encoder; captions should
    contain it."""
    steps: _Count = 1000
    """Training steps."""
    batch: _Count = 1
    """Windows per step."""
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """Learning rate of AdamW."""
    snr: Annotated[float | None, Field(gt=0)] = 5.0
    """Largest signal-to-noise ratio in the weight of a step (min-SNR, arXiv:2303.09556); None: no weighting."""
    ema: Annotated[float | None, Field(ge=0, le=1)] = 0.999
    """Decay of the moving average of the weights, which is written; None: the last weights are written."""
    checkpointing: bool = False
    """Gradient checkpointing: recompute activations in the backward pass, for less memory and more time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Compute dtype of the forward passes; weights and their average stay in float32."""
    bands: Annotated[tuple[str, str, str], BeforeValidator(_check_bands)] = ("red", "green", "blue")
    """Bands or variables in the three channels of the model; one may be repeated."""
    stretch: Annotated[
        tuple[_Finite, _Finite], BeforeValidator(_as_tuple), AfterValidator(_check_stretch)
    ] = (0.0, 0.3)
    """Values of the bands, e.g. reflectance, that are mapped to -1 and 1, as for `eoaug.load`."""
    prompt: str = "a satellite image"
    """Caption of cubes without one."""
    tile_px: _Count | None = None
    """Edge of a training window in pixels; None: the size that the UNet was trained on."""
    save_every: _Count = 250
    """Checkpoint interval in steps."""
    latents: str | None = None
    """Folder in which latents of images are kept, also for later trainings; None: they are computed in every step. It changes
    no byte, and saves time where windows come again, such as images of the size of a window; only where the encoder is not
    trained."""
    latents_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Largest size of that folder; the oldest latents go first."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed."""
    device: str | None = None
    """None: a GPU if there is one."""

    @property
    def trained(self) -> dict[str, str]:
        """How each of ``unet``, ``text`` and ``vae`` is trained."""
        named = self.parts if self.parts is not None else dict.fromkeys(self.target, self.mode)
        return {part: named.get(part, "frozen") for part in _WAYS}  # type: ignore[call-overload]

    @model_validator(mode="after")
    def _check_parts(self) -> Tuning:
        if self.parts is None:
            known = {"unet", "text", *(["vae"] if self.mode == "full" else [])}
            if set(self.target) - known:
                raise ParameterError(
                    f"target={','.join(self.target)!r} cannot be trained with mode={self.mode!r}",
                    f"use {', '.join(sorted(known))}, or parts={{'vae': 'lora'}}",
                )
            return self
        if self.mode != "lora" or self.target != ("unet",):
            raise ParameterError(
                f"parts={self.parts} and mode={self.mode!r}, target={','.join(self.target)!r} say the same twice",
                "leave mode and target out",
            )
        for part, way in self.parts.items():
            if way not in _WAYS[part]:
                raise ParameterError(
                    f"parts: {part}={way!r} is not possible", f"use one of {', '.join(_WAYS[part])}"
                )
        if set(self.trained.values()) == {"frozen"} and self.token is None:
            raise ParameterError(
                f"parts={self.parts} trains nothing",
                "name a part to train: parts={'unet': 'lora'}, or a token",
            )
        return self


_EXAMPLES = {
    "target": "target=('unet', 'text')",
    "parts": "parts={'unet': 'full', 'text': 'lora'}",
    "rank": "rank=16",
    "token": "token='<sar>'",
    "steps": "steps=1000",
    "batch": "batch=4",
    "rate": "rate=1e-4",
    "snr": "snr=5.0",
    "ema": "ema=0.999",
    "stretch": "stretch=(0.0, 0.3)",
    "tile_px": "tile_px=512",
    "save_every": "save_every=250",
    "seed": "seed=1",
}


def _explained(init: Callable[..., None]) -> Callable[..., None]:
    """Let pydantic's ``__init__`` raise this package's error."""

    @wraps(init)
    def checked(self: Tuning, *args: Any, **options: Any) -> None:
        try:
            init(self, *args, **options)
        except ValidationError as error:
            raise ParameterError(*explain_validation(error, Tuning, "fine-tuning", _EXAMPLES)) from None

    return checked


Tuning.__init__ = _explained(Tuning.__init__)  # type: ignore[method-assign]
