"""The networks of a latent diffusion checkpoint: text encoding, image encoding and decoding, the denoising forward.

Weights come from the local safetensors files of a checked `Checkpoint`. A network whose keys differ from its
configuration is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils.peft_utils import set_weights_and_activate_adapters
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eoaug.errors import GeneratorError, first_line
from eoaug.generators.checkpoints.diffusionsat_networks import SatControlNet
from eoaug.generators.checkpoints.folder import Checkpoint, Component
from eoaug.generators.checkpoints.loading import build, load_tokenizer

__all__ = ["Adapter", "Networks", "Text", "reads"]


@dataclass(frozen=True)
class Adapter:
    """A file with a LoRA or with textual-inversion embeddings."""

    path: Path
    scale: float
    sha256: str
    """sha256 of the file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The ``eoaug.json`` of its folder, e.g. ``token``: the name of a token that its file does not name."""


@dataclass(frozen=True)
class Text:
    """Text-encoder outputs of a prompt."""

    hidden: Tensor
    """Shape (L, D)."""
    pooled: Tensor | None
    """Shape (P,), of the SDXL family only."""


class Networks:
    """UNet, VAE, text encoders and ControlNets on a device.

    Parameters
    ----------
    checkpoint
        The base.
    controls
        ControlNets, in the order of their conditioning images.
    adapters
        Loaded in this order; all are active together.
    merge
        Add LoRA to the weights, instead of computing it in every forward.
    device, dtype
        Device and compute dtype; a VAE that overflows in half precision stays in float32.
    slicing
        Compute attention in slices: less memory, different last bits.
    offload
        Keep networks in main memory, except the one that runs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        controls: Sequence[Component] = (),
        adapters: Sequence[Adapter] = (),
        merge: bool = False,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        slicing: bool = False,
        offload: bool = False,
    ) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self._offload, self._lock = offload, threading.RLock()
        self.unet = build(checkpoint.component("unet"), dtype)
        upcast = checkpoint.component("vae").config.get("force_upcast", False)
        self.vae = build(checkpoint.component("vae"), torch.float32 if upcast else dtype)
        self.controls = [build(component, dtype) for component in controls]
        self.encoders: list[tuple[Any, Any]] = []
        for suffix in ("", "_2"):
            if f"text_encoder{suffix}" in checkpoint.components:
                encoder = build(checkpoint.component(f"text_encoder{suffix}"), dtype)
                self.encoders.append((load_tokenizer(checkpoint.component(f"tokenizer{suffix}")), encoder))
        if not self.encoders:
            checkpoint.component("text_encoder")
        self._tokens: dict[str, str] = {}
        self._load_adapters(adapters, merge)
        if slicing:
            for module in (self.unet, *self.controls):
                module.set_attention_slice("auto")
        for module in self._modules():
            module.eval().requires_grad_(False)
            if not offload:
                module.to(device)
        self._cached = lru_cache(maxsize=64)(self.encode_text)

    def _modules(self) -> list[Any]:
        return [self.unet, self.vae, *self.controls, *(encoder for _, encoder in self.encoders)]

    @property
    def xl(self) -> bool:
        """True for the SDXL family: two text encoders, and a UNet that is conditioned on image sizes."""
        return bool(self.unet.config.get("addition_embed_type") == "text_time")

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @contextmanager
    def _on(self, module: Any) -> Iterator[None]:
        """Move an offloaded network to the device for the block."""
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
        """Return the text-encoder outputs of a prompt, cached; see `encode_text`."""
        with self._lock:
            return self._cached(prompt)

    def encode_text(self, prompt: str) -> Text:
        """Return the text-encoder outputs of a prompt; refuse one with more tokens than the encoder takes."""
        for token, rows in self._tokens.items():
            prompt = prompt.replace(token, rows)
        states, pooled = [], None
        for tokenizer, encoder in self.encoders:
            count, most = _counted(tokenizer, encoder, prompt)
            if count > most:
                raise GeneratorError(
                    f"the prompt {prompt[:60]!r}... has {count} tokens, the text encoder takes {most}",
                    "shorten it; prompts are not truncated",
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
        """Return latents (1, c, h, w) of an image (1, 3, H, W) in [-1, 1]: the mode of the posterior, not a sample."""
        with self._on(self.vae):
            posterior = self.vae.encode(image.to(self.device, self.vae.dtype)).latent_dist
        latent: Tensor = posterior.mode() * self.vae.config.scaling_factor
        return latent.to(self.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image (1, 3, H, W) of latents, clipped to [-1, 1]."""
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
            Conditioning with a leading axis B: ``text`` (B, L, D), and what the checkpoint needs of
            ``concat`` (B, k, h, w) further input channels, ``pooled`` and ``sizes`` (SDXL), ``noise_level``
            (upscaler), ``metadata`` (DiffusionSat), ``control0`` ... images of the ControlNets with
            ``control_metadata``.
        scales
            Weight of each ControlNet.
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
                    metadata = {"metadata": given["metadata"], "cond_metadata": given["control_metadata"]}
                    more, mid = net(x, t, given["text"], image, conditioning_scale=scale, **metadata)
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

    def _load_adapters(self, adapters: Sequence[Adapter], merge: bool) -> None:
        names: dict[str, float] = {}
        for i, adapter in enumerate(adapters):
            tensors = load_file(adapter.path)
            if all(tensor.ndim <= 2 and "lora" not in name for name, tensor in tensors.items()):
                self._add_embeddings(adapter, tensors)
            elif adapter.scale != 0:
                # A LoRA of scale 0 is not loaded, so that the result has the base's bytes.
                self._add_lora(f"adapter{i}", adapter)
                names[f"adapter{i}"] = adapter.scale
        _activate([self.unet, *(encoder for _, encoder in self.encoders)], names, merge)

    def _add_lora(self, name: str, adapter: Adapter) -> None:
        family = StableDiffusionXLLoraLoaderMixin if self.xl else StableDiffusionLoraLoaderMixin
        try:
            state, alphas, metadata = family.lora_state_dict(
                str(adapter.path.parent),
                weight_name=adapter.path.name,
                local_files_only=True,
                use_safetensors=True,
                unet_config=self.unet.config,
                return_lora_metadata=True,
            )
            _check_lora(state, adapter.path)
            if any(key.startswith("unet.") for key in state):
                family.load_lora_into_unet(state, alphas, self.unet, adapter_name=name, metadata=metadata)
            for i, (_, encoder) in enumerate(self.encoders):
                prefix = "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
                if any(key.startswith(f"{prefix}.") for key in state):
                    family.load_lora_into_text_encoder(
                        state, alphas, encoder, prefix=prefix, adapter_name=name, metadata=metadata
                    )
        except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            if isinstance(error, GeneratorError):
                raise
            raise GeneratorError(
                f"adapter {adapter.path} does not fit {self.checkpoint.root}: {first_line(error)}",
                "use it with the base that it was trained on",
            ) from error

    def add_token(self, reader: int, token: str, rows: Tensor, source: object) -> list[int]:
        """Add a textual-inversion token (arXiv:2208.01618) to a vocabulary; return its rows in the embedding table.

        Parameters
        ----------
        reader
            Index of the text encoder.
        token
            Its name in prompts.
        rows
            Embeddings, shape (n, D): the token stands for n consecutive embeddings.
        source
            Its file, for messages.
        """
        tokenizer, encoder = self.encoders[reader]
        width = encoder.get_input_embeddings().weight.shape[1]
        if rows.shape[1] != width:
            raise GeneratorError(
                f"adapter {source}: token {token!r} has embeddings of {rows.shape[1]} numbers, the text encoder {width}",
                "use it with the base that it was trained on",
            )
        names = [token, *(f"{token}_{i}" for i in range(1, len(rows)))]
        if tokenizer.add_tokens(names) != len(names):
            raise GeneratorError(f"adapter {source}: the tokenizer has {token!r} already", "rename the token")
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        _name_end_of_text(encoder, tokenizer.eos_token_id)
        table = encoder.get_input_embeddings().weight
        numbers: list[int] = tokenizer.convert_tokens_to_ids(names)
        with torch.no_grad():
            table[numbers] = rows.to(table)
        self._tokens[token] = " ".join(names)
        return numbers

    def _add_embeddings(self, adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
        """Add the tokens of a file in the form of diffusers, of the original code or of kohya."""
        kohya = {"clip_l": 0, "clip_g": 1}
        for name, tensor in tensors.items():
            rows = tensor if tensor.ndim == 2 else tensor[None]
            token = adapter.settings.get("token") or (
                adapter.path.stem if name in (*kohya, "emb_params") else name
            )
            reader = min(kohya.get(name, 0), len(self.encoders) - 1)
            self.add_token(reader, token, adapter.scale * rows, adapter.path)


def reads(nets: Networks, prompt: str) -> bool:
    """Return whether the text encoders take all tokens of a prompt, whose added tokens are single ones."""
    counts = [_counted(tokenizer, encoder, prompt) for tokenizer, encoder in nets.encoders]
    return all(count <= most for count, most in counts)


def _counted(tokenizer: Any, encoder: Any, prompt: str) -> tuple[int, int]:
    """Return the tokens of a prompt, with begin and end, and how many the encoder takes."""
    ids = tokenizer(prompt, truncation=False).input_ids
    return len(ids), min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def _name_end_of_text(encoder: Any, number: int) -> None:
    """Let a text encoder look for the number that ends a text.

    With an early value of its configuration, 2, it takes the largest number of a text: the end, unless a token was added.
    """
    encoder.config.eos_token_id = number
    for module in encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = number


def _check_lora(state: Mapping[str, Tensor], path: Path) -> None:
    known = ("unet.", "text_encoder.", "text_encoder_2.")
    unknown = [key for key in state if not key.startswith(known)]
    if unknown or not state:
        raise GeneratorError(
            f"adapter {path} holds {unknown[0] if unknown else 'nothing'}, which belongs to no network",
            "give a LoRA in the form of diffusers (unet..., text_encoder...) or of kohya (lora_unet_...)",
        )


def _activate(modules: Sequence[Any], scales: Mapping[str, float], merge: bool) -> None:
    """Scale the loaded LoRA by name; with ``merge``, add them to the weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in modules:
        own = [name for name in scales if name in getattr(module, "peft_config", {})]
        if own:
            set_weights_and_activate_adapters(module, own, [scales[name] for name in own])
        if merge and scales:
            for layer in module.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
