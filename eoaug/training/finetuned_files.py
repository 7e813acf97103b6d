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
    from torch import Tensor

__all__ = ["write_card", "write_checkpoint", "write_embeddings", "write_lora"]


def write_lora(out: Path, modules: Mapping[str, Any], *, xl: bool) -> None:
    """Write the LoRA of the trained networks in diffusers' form.

    Parameters
    ----------
    out
        Folder.
    modules
        Trained networks by name: ``unet``, ``text`` and ``text_2``.
    xl
        Whether they are of the SDXL family.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    names = {
        "unet": "unet_lora_layers",
        "text": "text_encoder_lora_layers",
        "text_2": "text_encoder_2_lora_layers",
    }
    layers = {
        names[name]: convert_state_dict_to_diffusers(
            get_peft_model_state_dict(module, save_embedding_layers=False)
        )
        for name, module in modules.items()
    }
    pipeline = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    pipeline.save_lora_weights(out, **layers, safe_serialization=True)


def write_checkpoint(out: Path, base: Checkpoint, modules: Mapping[str, Any]) -> None:
    """Write a whole checkpoint: the base's files, with the trained networks replaced."""
    folders = {"unet": "unet", "vae": "vae", "text": "text_encoder", "text_2": "text_encoder_2"}
    trained = {folders[name]: module for name, module in modules.items()}
    for item in sorted(base.root.iterdir()):
        if item.name in trained or item.name == SETTINGS:
            continue
        if item.name in base.components:
            shutil.copytree(item, out / item.name, dirs_exist_ok=True)
        elif item.suffix == ".json":
            shutil.copy(item, out / item.name)
    for name, module in trained.items():
        module.save_pretrained(out / name, safe_serialization=True)


def write_embeddings(out: Path, token: str, embeddings: Tensor) -> None:
    """Write the textual-inversion embeddings of a token, shape (n, D)."""
    from safetensors.torch import save_file

    save_file({token: embeddings.detach().contiguous().clone()}, out / "learned_embeds.safetensors")


def write_card(out: Path, base: Checkpoint, tuning: Tuning, captions: Mapping[str, str], steps: int) -> None:
    """Write ``eoaug.json``: the options that using the result needs, and how it was trained."""
    options = asdict(tuning)
    # Neither where it was trained nor how often its state was saved changes the result.
    card = {
        name: options[name] for name in options if name not in ("steps", "device", "save_every", "prompt")
    }
    card |= {
        "base": base.base,
        "captions": dict(captions),
        "licence": base.settings.get("licence", "unknown"),
        "description": f"{tuning.mode} fine-tuning of {base.root.name}, {steps} steps.",
    }
    inherited = {} if tuning.mode == "lora" else base.settings
    text = json.dumps({**inherited, **card}, indent=1, sort_keys=True)
    (out / SETTINGS).write_text(text, encoding="utf-8")
