"""The networks of a latent diffusion checkpoint, loaded and ready: text to states, image to latents, one forward.

Imports torch and diffusers at once. Everything comes from a checked `Checkpoint`, as safetensors and from
local files; what does not fit its configuration to the last key is refused.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils.peft_utils import set_weights_and_activate_adapters
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eoaug.errors import GeneratorError
from eoaug.generators.checkpoint import Checkpoint, Part, read_header
from eoaug.generators.samplers import SCHEDULERS, Sampler
from eoaug.generators.satnet import SatControlNet, SatControlNet3D, SatUNet

__all__ = ["Adapter", "Networks", "Text", "build", "check_fit", "scheduler_of"]


@dataclass(frozen=True)
class Adapter:
    """A LoRA or a learned token, by file and hash."""

    path: Path
    scale: float
    sha256: str
    """Of the weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its folder's ``eoaug.json`` says, e.g. ``token``: the name of a token whose file does not tell it."""


@dataclass(frozen=True)
class Text:
    """What the text encoders say of a prompt."""

    hidden: Tensor
    """Shape (L, D)."""
    pooled: Tensor | None
    """Shape (P,); SDXL alone has it."""


class Networks:
    """UNet, VAE, text encoders and ControlNets on a device.

    Parameters
    ----------
    checkpoint
        The base.
    controls
        ControlNets, in the order of their conditions.
    adapters
        Applied in order, all at once.
    merge
        Add the LoRA's products to the weights, instead of computing them in every forward.
    device, dtype
        Where and in which precision; a VAE that overflows in half precision stays in float32.
    slicing
        Compute attention in slices: less memory, other last bits.
    offload
        Keep networks in main memory but for the one that runs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        controls: Sequence[Part] = (),
        adapters: Sequence[Adapter] = (),
        merge: bool = False,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        slicing: bool = False,
        offload: bool = False,
    ) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self._offload, self._lock = offload, threading.RLock()
        self.unet = build(checkpoint.part("unet"), dtype)
        upcast = checkpoint.part("vae").config.get("force_upcast", False)
        self.vae = build(checkpoint.part("vae"), torch.float32 if upcast else dtype)
        self.controls = [build(part, dtype) for part in controls]
        self.readers: list[tuple[Any, Any]] = []
        for suffix in ("", "_2"):
            if f"text_encoder{suffix}" in checkpoint.parts:
                encoder = build(checkpoint.part(f"text_encoder{suffix}"), dtype)
                self.readers.append((_tokenizer(checkpoint.part(f"tokenizer{suffix}")), encoder))
        if not self.readers:
            checkpoint.part("text_encoder")
        self._tokens: dict[str, str] = {}
        self._adapt(adapters, merge)
        if slicing:
            for module in (self.unet, *self.controls):
                module.set_attention_slice("auto")
        for module in self._modules():
            module.eval().requires_grad_(False)
            if not offload:
                module.to(device)
        self._kept = lru_cache(maxsize=64)(self.read)

    def _modules(self) -> list[Any]:
        return [self.unet, self.vae, *self.controls, *(encoder for _, encoder in self.readers)]

    @property
    def xl(self) -> bool:
        """True for the SDXL family: two text encoders, sizes told to the UNet."""
        return bool(self.unet.config.get("addition_embed_type") == "text_time")

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @contextmanager
    def _on(self, module: Any) -> Iterator[None]:
        """Have a network on the device for a while."""
        if not self._offload:
            yield
            return
        with self._lock:
            module.to(self.device)
            try:
                yield
            finally:
                module.to("cpu")

    # -- text ---------------------------------------------------------------------------------------

    def text(self, prompt: str) -> Text:
        """Return the states of a prompt, kept from the last time; see `read`."""
        with self._lock:
            return self._kept(prompt)

    def read(self, prompt: str) -> Text:
        """Return the states of a prompt; one that is longer than the encoder reads is refused."""
        for token, several in self._tokens.items():
            prompt = prompt.replace(token, several)
        states, pooled = [], None
        for tokenizer, encoder in self.readers:
            ids = tokenizer(prompt, truncation=False).input_ids
            most = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            if len(ids) > most:
                raise GeneratorError(
                    f"the prompt {prompt[:60]!r}... has {len(ids)} tokens, the text encoder reads {most}",
                    "shorten it; nothing is cut off silently",
                )
            padded = tokenizer(prompt, padding="max_length", max_length=most, return_tensors="pt")
            masked = getattr(encoder.config, "use_attention_mask", False)
            with self._on(encoder):
                out = encoder(
                    padded.input_ids.to(self.device),
                    attention_mask=padded.attention_mask.to(self.device) if masked else None,
                    output_hidden_states=True,
                )
            # SDXL was trained on the layer before the last.
            states.append(out.hidden_states[-2] if self.xl else out[0])
            pooled = out[0][0] if self.xl else None
        return Text(torch.cat(states, dim=-1)[0], pooled)

    # -- images -------------------------------------------------------------------------------------

    def encode(self, image: Tensor) -> Tensor:
        """Return latents (1, c, h, w) of an image (1, 3, H, W) in [-1, 1]: the posterior's mode, no draw."""
        with self._on(self.vae):
            posterior = self.vae.encode(image.to(self.device, self.vae.dtype)).latent_dist
        latent: Tensor = posterior.mode() * self.vae.config.scaling_factor
        return latent.to(self.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image (1, 3, H, W) in [-1, 1] of latents; the models' pictures end there."""
        with self._on(self.vae):
            image: Tensor = self.vae.decode(latent.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return image.clamp(-1, 1).float()

    # -- the forward --------------------------------------------------------------------------------

    def predict(
        self, x: Tensor, t: Tensor, given: Mapping[str, Tensor], scales: Sequence[float] = ()
    ) -> Tensor:
        """Return the UNet's output for noisy latents.

        Parameters
        ----------
        x, t
            Shape (B, c, h, w), as the scheduler scales it; shape (B,).
        given
            Conditions with a leading axis B. ``text`` (B, L, D); and as the checkpoint needs them:
            ``concat`` (B, k, h, w) further input channels, ``pooled`` and ``sizes`` (SDXL), ``noise_level``
            (upscaler), ``metadata`` (DiffusionSat), ``control0`` ... images of the ControlNets with
            ``control_metadata``.
        scales
            Factor of each ControlNet.
        """
        added = {}
        if "pooled" in given:
            added = {"text_embeds": given["pooled"], "time_ids": given["sizes"]}
        if "metadata" in given:
            added = {"metadata": given["metadata"]}
        skips: list[Tensor] = []
        middle: Tensor | None = None
        for i, (net, scale) in enumerate(zip(self.controls, scales, strict=True)):
            image = given[f"control{i}"]
            with self._on(net):
                if isinstance(net, SatControlNet):
                    facts = {"metadata": given["metadata"], "cond_metadata": given["control_metadata"]}
                    more, mid = net(x, t, given["text"], image, conditioning_scale=scale, **facts)
                else:
                    more, mid = net(
                        x, t, given["text"], image, scale, added_cond_kwargs=added, return_dict=False
                    )
            skips = [a + b for a, b in zip(skips, more, strict=True)] if skips else list(more)
            middle = mid if middle is None else middle + mid
        whole = torch.cat([x, given["concat"]], dim=1) if "concat" in given else x
        with self._on(self.unet):
            out: Tensor = self.unet(
                whole,
                t,
                encoder_hidden_states=given["text"],
                class_labels=given.get("noise_level"),
                added_cond_kwargs=added,
                down_block_additional_residuals=skips or None,
                mid_block_additional_residual=middle,
            ).sample
        return out

    # -- adapters -----------------------------------------------------------------------------------

    def _adapt(self, adapters: Sequence[Adapter], merge: bool) -> None:
        names: dict[str, float] = {}
        for i, adapter in enumerate(adapters):
            tensors = load_file(adapter.path)
            if all(tensor.ndim <= 2 and "lora" not in name for name, tensor in tensors.items()):
                self._learn(adapter, tensors)
            elif adapter.scale != 0:
                # A LoRA of scale 0 changes nothing, so it is not there: the base's bytes.
                self._add_lora(f"adapter{i}", adapter)
                names[f"adapter{i}"] = adapter.scale
        for module in (self.unet, *(encoder for _, encoder in self.readers)):
            own = [name for name in names if name in getattr(module, "peft_config", {})]
            if own:
                set_weights_and_activate_adapters(module, own, [names[name] for name in own])
        if merge and names:
            for module in (self.unet, *(encoder for _, encoder in self.readers)):
                _merged(module)

    def _add_lora(self, name: str, adapter: Adapter) -> None:
        family = StableDiffusionXLLoraLoaderMixin if self.xl else StableDiffusionLoraLoaderMixin
        try:
            state, alphas, told = family.lora_state_dict(
                str(adapter.path.parent),
                weight_name=adapter.path.name,
                local_files_only=True,
                use_safetensors=True,
                unet_config=self.unet.config,
                return_lora_metadata=True,
            )
            _check_lora(state, adapter.path)
            if any(key.startswith("unet.") for key in state):
                family.load_lora_into_unet(state, alphas, self.unet, adapter_name=name, metadata=told)
            for i, (_, encoder) in enumerate(self.readers):
                prefix = "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
                if any(key.startswith(f"{prefix}.") for key in state):
                    family.load_lora_into_text_encoder(
                        state, alphas, encoder, prefix=prefix, adapter_name=name, metadata=told
                    )
        except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            if isinstance(error, GeneratorError):
                raise
            raise GeneratorError(
                f"adapter {adapter.path} does not fit {self.checkpoint.root}: {_first_line(error)}",
                "use it with the base that it was trained on",
            ) from error

    def add_words(self, reader: int, token: str, rows: Tensor, source: object) -> list[int]:
        """Add a learned token (textual inversion, arXiv:2208.01618) to a vocabulary; return its rows' numbers.

        Parameters
        ----------
        reader
            Which text encoder.
        token
            What it is called in prompts.
        rows
            Shape (n, D): the token stands for n words in a row.
        source
            Where it comes from, for messages.
        """
        tokenizer, encoder = self.readers[reader]
        width = encoder.get_input_embeddings().weight.shape[1]
        if rows.shape[1] != width:
            raise GeneratorError(
                f"adapter {source}: token {token!r} has {rows.shape[1]} numbers, the text encoder {width}",
                "use it with the base that it was trained on",
            )
        words = [token, *(f"{token}_{i}" for i in range(1, len(rows)))]
        if tokenizer.add_tokens(words) != len(words):
            raise GeneratorError(
                f"adapter {source}: the tokenizer has {token!r} already", "give it another token"
            )
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = encoder.get_input_embeddings().weight
        numbers: list[int] = tokenizer.convert_tokens_to_ids(words)
        with torch.no_grad():
            table[numbers] = rows.to(table)
        self._tokens[token] = " ".join(words)
        return numbers

    def _learn(self, adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
        kohya = {"clip_l": 0, "clip_g": 1}
        for name, tensor in tensors.items():
            rows = tensor if tensor.ndim == 2 else tensor[None]
            token = adapter.settings.get("token") or (
                adapter.path.stem if name in (*kohya, "emb_params") else name
            )
            reader = min(kohya.get(name, 0), len(self.readers) - 1)
            self.add_words(reader, token, adapter.scale * rows, adapter.path)


def scheduler_of(part: Part, name: str | None) -> Any:
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
    _check_kinds(kind, part)
    try:
        scheduler = kind.from_config(settings)
        scheduler.set_timesteps(2)  # some settings are looked at only now
    except Exception as error:  # whatever a stranger's numbers make of it
        raise GeneratorError(
            f"checkpoint part {part.folder} makes no scheduler: {_first_line(error)}", "get the folder again"
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


def _own_sampler(part: Part) -> Sampler:
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


def _class_of(part: Part) -> Any:
    """Return the class of a network; None for a tokenizer and a scheduler."""
    facts = bool(part.config.get("use_metadata"))
    return {
        "UNet2DConditionModel": SatUNet if facts else diffusers.UNet2DConditionModel,
        "SatUNet": SatUNet,
        "ControlNetModel": SatControlNet if facts else diffusers.ControlNetModel,
        "ControlNetModel3D": SatControlNet3D,
        "AutoencoderKL": diffusers.AutoencoderKL,
        "CLIPTextModel": transformers.CLIPTextModel,
        "CLIPTextModelWithProjection": transformers.CLIPTextModelWithProjection,
    }.get(part.kind)


def build(part: Part, dtype: torch.dtype = torch.float32) -> Any:
    """Return a network with its weights: every key of it in the file, and none beside.

    Raises
    ------
    GeneratorError
        Configuration and weights do not fit; told before memory is taken for either.
    """
    check_fit(part)
    kind = _class_of(part)
    try:
        with _silent():
            network, told = kind.from_pretrained(
                str(part.folder),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                torch_dtype=dtype,
                variant=part.variant,
            )
    except Exception as error:  # whatever a stranger's numbers make of it
        raise GeneratorError(
            f"checkpoint part {part.folder} cannot be loaded: {_first_line(error)}",
            "get the folder again, or use the configuration that belongs to the weights",
        ) from error
    # Early text encoders stored the numbers 0, 1, 2 ... as a parameter.
    beside = [key for key in told["unexpected_keys"] if not key.endswith("position_ids")]
    wrong = [*told["missing_keys"], *beside, *(str(key) for key in told["mismatched_keys"])]
    if wrong:
        raise GeneratorError(
            f"checkpoint part {part.folder} ({part.kind}) and its weights differ in {len(wrong)} keys, "
            f"first {sorted(wrong)[0]!r}",
            "use the configuration that belongs to the weights",
        )
    return network


def check_fit(part: Part) -> None:
    """Compare the tensors that a network's configuration asks for with the file's, without making any.

    Raises
    ------
    GeneratorError
        They differ in shape, or the file holds fewer numbers.
    """
    kind = _class_of(part)
    if kind is None:
        return
    settings = {key: value for key, value in part.config.items() if not key.startswith("_")}
    _check_kinds(kind, part)
    try:
        with torch.device("meta"):
            if issubclass(kind, transformers.PreTrainedModel):
                network = kind(kind.config_class.from_dict(settings))
            else:
                network = kind.from_config(settings)
    except Exception as error:  # whatever a stranger's numbers make of it
        raise GeneratorError(
            f"checkpoint part {part.folder}: its configuration makes no {part.kind}: {_first_line(error)}",
            "get the folder again",
        ) from error
    stored = {name: shape for file in part.weights for name, (_, shape) in read_header(file).items()}
    for name, tensor in network.named_parameters():
        if name in stored and stored[name] != tuple(tensor.shape):
            raise GeneratorError(
                f"checkpoint part {part.folder}: {name} has shape {list(stored[name])} in the weights and "
                f"{list(tensor.shape)} in the configuration",
                "use the configuration that belongs to the weights",
            )
    wanted = sum(tensor.numel() for tensor in network.parameters())
    held = sum(math.prod(shape) for shape in stored.values())
    if wanted > held:
        raise GeneratorError(
            f"checkpoint part {part.folder}: the configuration needs {wanted:,} numbers, the weights hold {held:,}",
            "get the folder again, or use the configuration that belongs to the weights",
        )


_PER_LEVEL = frozenset(
    {"attention_head_dim", "num_attention_heads", "layers_per_block", "transformer_layers_per_block", "sample_size",
     "cross_attention_dim", "only_cross_attention"}
)  # fmt: skip
"""Numbers of a configuration that may be a list, one per level of the UNet."""


def _check_kinds(kind: Any, part: Part) -> None:
    """Refuse values of another kind than the defaults that the class has in their place."""
    defaults = _defaults(kind)
    for name, value in part.config.items():
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
                f"checkpoint part {part.folder}: its configuration has {name}={str(value)[:60]!r}, "
                f"where {default!r} would be usual",
                "get the folder again",
            )


def _defaults(kind: Any) -> dict[str, Any]:
    """Return what a class's configuration holds when nothing is said."""
    if issubclass(kind, transformers.PreTrainedModel):
        return dict(kind.config_class().to_dict())
    signatures = [inspect.signature(vars(one)["__init__"]) for one in kind.__mro__ if "__init__" in vars(one)]
    return {name: p.default for signature in reversed(signatures) for name, p in signature.parameters.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _tokenizer(part: Part) -> Any:
    try:
        return transformers.CLIPTokenizer.from_pretrained(str(part.folder), local_files_only=True)
    except Exception as error:  # the tokenizer's parser raises bare Exceptions
        raise GeneratorError(
            f"checkpoint part {part.folder} is no CLIP tokenizer: {_first_line(error)}",
            "get the folder again",
        ) from error


def _check_lora(state: Mapping[str, Tensor], path: Path) -> None:
    known = ("unet.", "text_encoder.", "text_encoder_2.")
    strange = [key for key in state if not key.startswith(known)]
    if strange or not state:
        raise GeneratorError(
            f"adapter {path} holds {strange[0] if strange else 'nothing'}, which belongs to no network",
            "give a LoRA in the form of diffusers (unet..., text_encoder...) or of kohya (lora_unet_...)",
        )


def _merged(module: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the libraries from telling what the check after loading tells better."""
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
