"""Tiny checkpoints with random weights in the layout of published ones: what tests load instead of gigabytes.

Each maker writes a folder with diffusers' own ``save_pretrained``, so that loading runs the real code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from eoaug.generators.checkpoints.diffusionsat_networks import SatControlNet, SatControlNet3D, SatUNet

WIDTH = 32
"""Of the text states."""

UNET: dict[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def _shaken(network: Any) -> Any:
    """Return a network whose zero-initialised layers have weights too, so that nothing hides behind them."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return network


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Return CLIP's tokenizer with a vocabulary of bytes."""
    letters = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    words = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, pad_token="<|endoftext|>"
    )


def _text(kind: type = CLIPTextModel) -> Any:
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=WIDTH, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return kind(config)


def _vae(levels: int = 4, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
        **more,
    )


def _parts(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "vae": _vae(),
        "text_encoder": _text(),
        "tokenizer": tokenizer(folder / "tokenizer"),
        "scheduler": DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    } | more


def sd(folder: Path, *, prediction: str = "epsilon", pndm: bool = False) -> Path:
    """Stable Diffusion 1.x, or 2.x with v-prediction."""
    torch.manual_seed(1)
    kind = PNDMScheduler if pndm else DDIMScheduler
    more: dict[str, Any] = {"skip_prk_steps": True} if pndm else {"clip_sample": False}
    scheduler = kind(**SCHEDULE, **more, set_alpha_to_one=False, prediction_type=prediction)
    parts = _parts(folder, unet=_shaken(UNet2DConditionModel(**UNET)), scheduler=scheduler)
    StableDiffusionPipeline(**parts).save_pretrained(folder)
    return folder


def inpaint(folder: Path) -> Path:
    """Stable Diffusion inpainting: nine channels."""
    torch.manual_seed(2)
    parts = _parts(folder, unet=_shaken(UNet2DConditionModel(**UNET, in_channels=9)))
    StableDiffusionInpaintPipeline(**parts).save_pretrained(folder)
    return folder


_XL: dict[str, Any] = {
    "cross_attention_dim": 2 * WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": WIDTH + 48,
}


def xl(folder: Path) -> Path:
    """Stable Diffusion XL."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(**{**UNET, **_XL})
    StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=_text(),
        text_encoder_2=_text(CLIPTextModelWithProjection),
        tokenizer=tokenizer(folder / "tokenizer"),
        tokenizer_2=tokenizer(folder / "tokenizer_2"),
        unet=_shaken(unet),
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False),
    ).save_pretrained(folder)
    return folder


def upscaler(folder: Path) -> Path:
    """Stable Diffusion x4 upscaler: the coarse image beside the latents, a noise level as class."""
    torch.manual_seed(4)
    unet = UNet2DConditionModel(**{**UNET, "sample_size": 16}, in_channels=7, num_class_embeds=1000)
    parts = _parts(folder, unet=_shaken(unet), vae=_vae(3, scaling_factor=0.08333))
    parts["scheduler"] = DDIMScheduler(**SCHEDULE, clip_sample=False, prediction_type="v_prediction")
    parts.pop("requires_safety_checker")
    StableDiffusionUpscalePipeline(**parts, low_res_scheduler=DDPMScheduler(**_plain())).save_pretrained(
        folder
    )
    return folder


def _plain() -> dict[str, Any]:
    return {key: value for key, value in SCHEDULE.items() if key != "steps_offset"}


def controlnet(folder: Path, seed: int = 5, *, xl: bool = False) -> Path:
    """A ControlNet for `sd`, or for `xl`."""
    torch.manual_seed(seed)
    keys = ("block_out_channels", "down_block_types", "cross_attention_dim", "attention_head_dim")
    shape = {key: UNET[key] for key in (*keys, "layers_per_block", "norm_num_groups")} | (_XL if xl else {})
    net = ControlNetModel(**shape, conditioning_embedding_out_channels=(8, 8, 16, 16))
    _shaken(net).save_pretrained(folder)
    return folder


SAT: dict[str, Any] = {
    **UNET,
    "norm_num_groups": 8,
    "block_out_channels": (32, 64),
    "attention_head_dim": (4, 8),
}


def diffusionsat(folder: Path) -> Path:
    """DiffusionSat's single-image model in the layout of its pipeline root."""
    torch.manual_seed(6)
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, prediction_type="v_prediction")
    stock = UNet2DConditionModel(**SAT)
    StableDiffusionPipeline(**_parts(folder, unet=stock, scheduler=scheduler)).save_pretrained(folder)
    _shaken(SatUNet(**SAT)).save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "DiffusionSatPipeline", "unet": ["diffusionsat", "SatUNet"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def sat_controlnet(folder: Path, *, frames: bool, channels: int, scale: int = 1) -> Path:
    """A ControlNet of DiffusionSat: 3D for ``frames``, else 2D."""
    torch.manual_seed(7)
    keys = ("block_out_channels", "down_block_types", "cross_attention_dim", "attention_head_dim")
    shape = {key: SAT[key] for key in (*keys, "layers_per_block", "norm_num_groups")}
    shape |= {"conditioning_in_channels": channels, "conditioning_embedding_out_channels": (8, 8, 16, 16)}
    net = SatControlNet3D(**shape) if frames else SatControlNet(**shape, conditioning_scale=scale)
    _shaken(net).save_pretrained(folder)
    if frames:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"_class_name": "ControlNetModel3D"}))
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"_class_name": "ControlNetModel"}))
    return folder


def clip(folder: Path) -> Path:
    """CLIP: both encoders and the processor."""
    torch.manual_seed(9)
    text = _text().config.to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text, vision_config=vision | {"image_size": 32, "patch_size": 8}, projection_dim=WIDTH
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**size), tokenizer(folder)).save_pretrained(folder)
    return folder
