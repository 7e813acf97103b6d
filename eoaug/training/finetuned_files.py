"""The files that a fine-tuning writes: a LoRA, textual-inversion embeddings or a whole checkpoint, with a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoaug.generators.checkpoints.folder import Checkpoint
from eoaug.generators.checkpoints.hub import SETTINGS
from eoaug.training.tuning import Tuning

if TYPE_CHECKING:
    from eoaug.training.tuned_parts import TunedParts

__all__ = ["write_adapter", "write_card", "write_checkpoint"]

_FOLDERS = {"unet": "unet", "vae": "vae", "text": "text_encoder", "text_2": "text_encoder_2"}
"""Folders of the networks in a checkpoint."""


def write_adapter(out: Path, parts: TunedParts, *, xl: bool) -> None:
    """Write the LoRA of the trained networks and the embeddings of the token, each in diffusers' form.

    Parameters
    ----------
    out
        Folder.
    parts
        What was trained.
    xl
        Whether the networks are of the SDXL family.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    names = {
        "unet": "unet_lora_layers",
        "text": "text_encoder_lora_layers",
        "text_2": "text_encoder_2_lora_layers",
    }
    layers = {
        names[name]: convert_state_dict_to_diffusers(
            get_peft_model_state_dict(network, save_embedding_layers=False)
        )
        for name, network in parts.low_rank().items()
    }
    if layers:
        pipeline = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
        pipeline.save_lora_weights(out, **layers, safe_serialization=True)
    if parts.token is not None:
        # One encoder: the form of diffusers. Two: that of SDXL's embeddings, whose token the card names.
        keys = [parts.token] if len(parts.rows) == 1 else ["clip_l", "clip_g"]
        rows = [one.detach().cpu().contiguous().clone() for one in parts.rows.values()]
        save_file(dict(zip(keys, rows, strict=True)), out / "learned_embeds.safetensors")


def write_checkpoint(out: Path, base: Checkpoint, parts: TunedParts) -> None:
    """Write a whole checkpoint: the base's files, with the trained networks and the tokenizers of a new token replaced."""
    from eoaug.generators.checkpoints.loading import silent

    changed = {_FOLDERS[name]: network for name, network in parts.merged().items()}
    tokenizers = {f"tokenizer{name.removeprefix('text')}": one for name, one in parts.tokenizers().items()}
    for item in sorted(base.root.iterdir()):
        if item.suffix == ".json" and item.name != SETTINGS:
            shutil.copy(item, out / item.name)
    for role, component in base.components.items():
        if role not in changed and role not in tokenizers:
            shutil.copytree(component.folder, out / role, dirs_exist_ok=True)
    with silent():
        for role, network in changed.items():
            network.save_pretrained(out / role, safe_serialization=True)
    for role, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(out / role)


def write_card(
    out: Path, base: Checkpoint, tuning: Tuning, captions: Mapping[str, Any], *, adapter: bool, steps: int
) -> None:
    """Write ``eoaug.json``: the options that using the result needs, and how it was trained."""
    options = asdict(tuning)
    # Neither where it was trained nor how often its state was saved changes the result; parts say what mode and target do.
    left_out = ("steps", "device", "save_every", "prompt", "mode", "target", "latents", "latents_gb")
    trained = [f"{part} {way}" for part, way in tuning.trained.items() if way != "frozen"]
    trained += [] if tuning.token is None else [f"token {tuning.token}"]
    card = {name: options[name] for name in options if name not in left_out}
    card |= {
        "parts": tuning.trained,
        "base": base.base,
        "captions": dict(captions),
        "licence": base.settings.get("licence", "unknown"),
        "description": f"Fine-tuning of {base.root.name} ({', '.join(trained)}), {steps} steps.",
    }
    inherited = {} if adapter else base.settings
    text = json.dumps({**inherited, **card}, indent=1, sort_keys=True)
    (out / SETTINGS).write_text(text, encoding="utf-8")
