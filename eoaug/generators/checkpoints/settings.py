"""The options of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from eoaug.errors import GeneratorError, explain_validation
from eoaug.generators.checkpoints.band_lifting import Rule
from eoaug.generators.checkpoints.schedulers import SamplerName

__all__ = ["DTYPES", "FOLDER_OPTIONS", "Settings"]


FOLDER_OPTIONS = ("stretch", "lift", "prompt", "steps", "guidance")
"""Options that the ``eoaug.json`` of a checkpoint or an adapter may set."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _as_tuple(value: Any) -> Any:
    """Return a list, an array or another iterable of values as a tuple."""
    scalar = isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable)
    return value if scalar else tuple(value)


def _as_path(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _as_paths(value: Any) -> Any:
    """Return one path, or several, as a tuple of strings."""
    values = (value,) if isinstance(value, str | Path) else _as_tuple(value)
    return tuple(_as_path(path) for path in values) if isinstance(values, tuple) else values


def _as_adapters(value: Any) -> Any:
    """Return paths, with or without a scale, as pairs of path and scale."""
    values = (value,) if isinstance(value, str | Path) else _as_tuple(value)
    if not isinstance(values, tuple):
        return values
    pairs = ((item, 1.0) if isinstance(item, str | Path) else _as_tuple(item) for item in values)
    return tuple(
        (_as_path(pair[0]), *pair[1:]) if isinstance(pair, tuple) and pair else pair for pair in pairs
    )


def _check_stretch(stretch: tuple[float, float] | None) -> tuple[float, float] | None:
    if stretch is not None and not stretch[0] < stretch[1]:
        raise GeneratorError(f"stretch={stretch} does not have black below white", "e.g. stretch=(0.0, 0.3)")
    return stretch


def _check_variant(variant: str | None) -> str | None:
    if variant is not None and not variant.isidentifier():
        raise GeneratorError(f"variant={variant!r} cannot be part of a file name", "e.g. variant='fp16'")
    return variant


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Paths = Annotated[tuple[str, ...], BeforeValidator(_as_paths)]


class Settings(BaseModel):
    """How a checkpoint is used; every field is an option of `eoaug.load`.

    Raises
    ------
    GeneratorError
        With the name of the option, its value and what to use instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    variant: Annotated[str | None, AfterValidator(_check_variant)] = None
    """Weights to use where a component has several sets, e.g. ``fp16``; None: the plain ones."""
    unet: Annotated[str | None, BeforeValidator(_as_path)] = None
    """Folder whose UNet replaces the base's."""
    controlnets: _Paths = ()
    """ControlNet folders; ``layout`` then holds their conditioning images, stacked along its first axis."""
    control_scales: Annotated[tuple[_Finite, ...] | None, BeforeValidator(_as_tuple)] = None
    """Weight of each ControlNet; None: 1."""
    adapters: Annotated[tuple[tuple[str, _Finite], ...], BeforeValidator(_as_adapters)] = Field(
        default=(), examples=[[("my-lora", 0.8)]]
    )
    """LoRA and textual-inversion embeddings: a file, a folder or a pinned hub id, and its scale."""
    any_base: bool = False
    """Accept adapters that were trained on other weights than the base's."""
    merge: bool = False
    """Add LoRA to the weights once, instead of computing it in every forward."""
    stretch: Annotated[
        tuple[_Finite, _Finite] | None, BeforeValidator(_as_tuple), AfterValidator(_check_stretch)
    ] = Field(default=None, examples=[(0.0, 0.3)])
    """Reflectance that the model shows as black and white; None: the checkpoint's, else 0 and 0.3."""
    lift: Rule | None = None
    """How bands other than red, green and blue are derived (`band_lifting.RULES`); None: they are refused."""
    prompt: str | None = Field(default=None, examples=["a lake"])
    """Prompt of requests without one; None: the checkpoint's, else empty."""
    negative: str = Field(default="", examples=["clouds"])
    """Negative prompt of classifier-free guidance."""
    scheduler: SamplerName | None = None
    """Sampler by name (`schedulers.SCHEDULERS`); None: the checkpoint's."""
    steps: int | None = Field(default=None, ge=1, examples=[50])
    """Denoising steps of requests that set none; None: the checkpoint's, else 50."""
    guidance: _Finite | None = Field(default=None, examples=[7.5])
    """Scale of classifier-free guidance; None: the checkpoint's, else the one its family was published with."""
    noise_level: int = Field(default=20, ge=0, examples=[20])
    """Noise level, in steps of its schedule, that an upscaler's coarse input gets."""
    tile_px: int | None = Field(default=None, ge=1, examples=[512])
    """Edge of a tile in pixels; None: the size that the UNet was trained on."""
    overlap_px: int | None = Field(default=None, ge=0, examples=[64])
    """Overlap of tiles in pixels; None: an eighth of a tile."""
    batch: int = Field(default=1, ge=1, examples=[4])
    """Requests in one forward."""
    joint_steps: int = Field(default=2, ge=0, examples=[2])
    """Number of first steps that are averaged over overlapping tiles."""
    legacy_fp16: bool = False
    """Round DiffusionSat's metadata to half precision, as the published pipeline did."""
    device: str | None = Field(default=None, examples=["cuda:0"])
    """Device of the networks; None: a GPU if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Compute dtype; None: half precision on a GPU, else float32."""
    memory: Literal["auto", "normal", "low"] = "auto"
    """``low``: sliced attention, and networks in main memory except the one that runs; ``auto``: ``low`` where a
    GPU has less than one and a half times the size of the weights free."""

    if not TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise GeneratorError(
                    *explain_validation(error, Settings, "a checkpoint", _EXAMPLES)
                ) from None

    @model_validator(mode="after")
    def _check_scales(self) -> Settings:
        if self.control_scales is not None and len(self.control_scales) != len(self.controlnets):
            raise GeneratorError(
                f"{len(self.control_scales)} control_scales for {len(self.controlnets)} controlnets",
                "give one weight per ControlNet",
            )
        return self

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Return settings from options as a user or a JSON file gives them."""
        return cls(**options)

    def values(self) -> dict[str, Any]:
        """Return the options by name."""
        return {name: getattr(self, name) for name in type(self).model_fields}


_EXAMPLES = {
    name: f"{name}={field.examples[0]!r}" for name, field in Settings.model_fields.items() if field.examples
}
