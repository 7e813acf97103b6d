"""Captioning models of a few kilobytes with random weights, on disk as `save_pretrained` writes the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    own = Tokenizer(models.BPE(vocabulary, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens(list(SPECIAL))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=512, **names)


_SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def _saved(network: Any, folder: Path, scale: float = 0.5, norms: float = 0.0) -> None:
    """Save a network with weights large enough for the image to change the words, those of norms around a number."""
    with torch.no_grad():
        for name, weights in network.named_parameters():
            centre = norms if "norm" in name and name.endswith("weight") else 0.0
            weights.copy_(torch.randn(weights.shape) * scale + centre)
    network.save_pretrained(folder)


def _language(vocabulary: int) -> OPTConfig:
    return OPTConfig(
        vocab_size=vocabulary, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def blip2(folder: Path) -> Path:
    """BLIP-2 with OPT."""
    torch.manual_seed(0)
    words = tokenizer()
    vision = {**_SMALL, "image_size": 16, "patch_size": 8}
    qformer = {**_SMALL, "encoder_hidden_size": 16, "vocab_size": 64}
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=_language(len(words)).to_dict(), num_query_tokens=4,
        image_token_index=SPECIAL.index("<image>"),
    )  # fmt: skip
    _saved(Blip2ForConditionalGeneration(config), folder)
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    return folder


def instructblip(folder: Path) -> Path:
    """InstructBLIP with OPT, whose Q-Former reads the instruction too."""
    torch.manual_seed(1)
    words = tokenizer()
    vision = {**_SMALL, "image_size": 16, "patch_size": 8}
    qformer = {**_SMALL, "encoder_hidden_size": 16, "vocab_size": len(words), "max_position_embeddings": 512}
    config = InstructBlipConfig(
        vision_config=vision, qformer_config=qformer, text_config=_language(len(words)).to_dict(), num_query_tokens=4,
        image_token_index=SPECIAL.index("<image>"),
    )  # fmt: skip
    _saved(InstructBlipForConditionalGeneration(config), folder)
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    InstructBlipProcessor(images, words, tokenizer(), num_query_tokens=4).save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """LLaVA, with a chat template."""
    torch.manual_seed(2)
    words = tokenizer()
    vision = CLIPVisionConfig(**_SMALL, image_size=16, patch_size=8, projection_dim=16)
    text = LlamaConfig(
        **_SMALL, vocab_size=len(words), num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    _saved(LlavaForConditionalGeneration(config), folder)
    images = CLIPImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", chat_template=_CHAT, image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def florence2(folder: Path) -> Path:
    """Florence-2, which is asked by the names of its tasks."""
    torch.manual_seed(3)
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer, model_max_length=512, pad_token="<pad>", bos_token="<s>",
        eos_token="</s>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1), embed_dim=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), num_groups=(1, 1, 2, 2),
        projection_dim=16, window_size=4,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=512, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    config = Florence2Config(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_id=SPECIAL.index("<image>")
    )
    _saved(Florence2ForConditionalGeneration(config), folder, 1.0, 1.0)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    images.image_seq_length = 2
    Florence2Processor(images, words).save_pretrained(folder)
    return folder


MODELS = {"blip2": blip2, "instructblip": instructblip, "llava": llava, "florence2": florence2}
