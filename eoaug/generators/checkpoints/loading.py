"""Builds networks from the configuration and safetensors files of a checked component."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import diffusers
import torch
import transformers

from eoaug.errors import GeneratorError, first_line
from eoaug.generators.checkpoints.diffusionsat_networks import SatControlNet, SatControlNet3D, SatUNet
from eoaug.generators.checkpoints.folder import Component
from eoaug.generators.checkpoints.safe_read import read_header

__all__ = ["build", "check_fit", "check_kinds", "load_tokenizer", "silent"]


def _class_of(component: Component) -> Any:
    """Return the class of a network; None for a tokenizer and a scheduler."""
    metadata = bool(component.config.get("use_metadata"))
    return {
        "UNet2DConditionModel": SatUNet if metadata else diffusers.UNet2DConditionModel,
        "SatUNet": SatUNet,
        "ControlNetModel": SatControlNet if metadata else diffusers.ControlNetModel,
        "ControlNetModel3D": SatControlNet3D,
        "AutoencoderKL": diffusers.AutoencoderKL,
        "CLIPTextModel": transformers.CLIPTextModel,
        "CLIPTextModelWithProjection": transformers.CLIPTextModelWithProjection,
    }.get(component.kind)


def build(component: Component, dtype: torch.dtype = torch.float32) -> Any:
    """Return a network with its weights, whose file has exactly the network's keys.

    Raises
    ------
    GeneratorError
        Configuration and weights do not fit; raised before memory is allocated for either.
    """
    check_fit(component)
    kind = _class_of(component)
    try:
        with silent():
            network, info = kind.from_pretrained(
                str(component.folder),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                torch_dtype=dtype,
                variant=component.variant,
            )
    except Exception as error:  # an untrusted configuration may raise anything
        raise GeneratorError(
            f"checkpoint component {component.folder} cannot be loaded: {first_line(error)}",
            "get the folder again, or use the configuration that belongs to the weights",
        ) from error
    # Early text encoders stored their positions 0, 1, 2 ... as a parameter.
    surplus = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    wrong = [*info["missing_keys"], *surplus, *(str(key) for key in info["mismatched_keys"])]
    if wrong:
        raise GeneratorError(
            f"checkpoint component {component.folder} ({component.kind}) and its weights differ in {len(wrong)} keys, "
            f"first {sorted(wrong)[0]!r}",
            "use the configuration that belongs to the weights",
        )
    return network


def check_fit(component: Component) -> None:
    """Compare the tensors of a network's configuration with those of its files, without allocating any.

    Raises
    ------
    GeneratorError
        They differ in shape, or the file holds fewer numbers.
    """
    kind = _class_of(component)
    if kind is None:
        return
    settings = {key: value for key, value in component.config.items() if not key.startswith("_")}
    check_kinds(kind, component)
    try:
        shapes = _shapes(kind, json.dumps(settings))
    except Exception as error:  # an untrusted configuration may raise anything
        raise GeneratorError(
            f"checkpoint component {component.folder}: its configuration makes no {component.kind}: {first_line(error)}",
            "get the folder again",
        ) from error
    stored = {name: shape for file in component.weights for name, (_, shape) in read_header(file).items()}
    for name, shape in shapes.items():
        if name in stored and stored[name] != shape:
            raise GeneratorError(
                f"checkpoint component {component.folder}: {name} has shape {list(stored[name])} in the weights and "
                f"{list(shape)} in the configuration",
                "use the configuration that belongs to the weights",
            )
    wanted = sum(map(math.prod, shapes.values()))
    held = sum(math.prod(shape) for shape in stored.values())
    if wanted > held:
        raise GeneratorError(
            f"checkpoint component {component.folder}: the configuration needs {wanted:,} numbers, the weights hold {held:,}",
            "get the folder again, or use the configuration that belongs to the weights",
        )


@lru_cache(maxsize=32)
def _shapes(kind: Any, settings: str) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a network's parameters, from its class and its configuration as JSON.

    Cached: a network is checked when its folder is opened and before its weights are loaded.
    """
    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            network = kind(kind.config_class.from_dict(json.loads(settings)))
        else:
            network = kind.from_config(json.loads(settings))
    return {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}


_PER_LEVEL = frozenset(
    {"attention_head_dim", "num_attention_heads", "layers_per_block", "transformer_layers_per_block", "sample_size",
     "cross_attention_dim", "only_cross_attention"}
)  # fmt: skip
"""Numbers of a configuration that may be a list, with one number per level of the UNet."""


def check_kinds(kind: Any, component: Component) -> None:
    """Refuse configuration values whose type differs from that of the class's default."""
    defaults = _defaults(kind)
    for name, value in component.config.items():
        default = defaults.get(name)
        if isinstance(value, list) and name in _PER_LEVEL and all(isinstance(n, bool | int) for n in value):
            continue
        kinds: Any = {bool: bool, str: str | None, int: int | float | None, float: int | float}.get(
            type(default)
        )
        wrong = kinds is not None and not (
            isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
        )
        if wrong or (isinstance(default, tuple) and not isinstance(value, list | tuple | None)):
            raise GeneratorError(
                f"checkpoint component {component.folder}: its configuration has {name}={str(value)[:60]!r}, "
                f"whose default is {default!r}",
                "get the folder again",
            )


def _defaults(kind: Any) -> dict[str, Any]:
    """Return the default configuration of a class."""
    if issubclass(kind, transformers.PreTrainedModel):
        return dict(kind.config_class().to_dict())
    signatures = [inspect.signature(vars(one)["__init__"]) for one in kind.__mro__ if "__init__" in vars(one)]
    return {name: p.default for signature in reversed(signatures) for name, p in signature.parameters.items()}


def load_tokenizer(component: Component) -> Any:
    """Return the CLIP tokenizer of a folder."""
    try:
        return transformers.CLIPTokenizer.from_pretrained(str(component.folder), local_files_only=True)
    except Exception as error:  # the tokenizer's parser raises bare Exceptions
        raise GeneratorError(
            f"checkpoint component {component.folder} is no CLIP tokenizer: {first_line(error)}",
            "get the folder again",
        ) from error


@contextmanager
def silent() -> Iterator[None]:
    """Silence the libraries' progress bars, and their warnings about keys, which `build` raises as errors."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    before = [log.get_verbosity() for log in logs]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    for log in logs:
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
