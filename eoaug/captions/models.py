"""Captioning models: any local folder of an image-text model of transformers, through one adapter.

The door of this floor to transformers. Files are safetensors, code in folders is never run, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import GeneratorError, first_line
from eoaug.generators.runtime import checked_device, device_kind, one_thread

__all__ = ["CaptionModel", "checked_folder"]

_TASK = "<MORE_DETAILED_CAPTION>"
"""The task of Florence-2 that describes an image with a paragraph."""
_MOST_TOKENS = 60
"""Tokens of a caption: with the class named, CLIP reads it to the end."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class CaptionModel:
    """BLIP-2, InstructBLIP, LLaVA, SmolVLM, Qwen-VL and other models for `AutoModelForImageTextToText`.

    Parameters
    ----------
    folder
        As `save_pretrained` writes it: configuration, processor and safetensors.
    device
        As torch names it.

    Raises
    ------
    GeneratorError
        The folder holds code or pickles, is incomplete, or is no such model.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.folder = Path(folder).expanduser()
        self.identity = checked_folder(self.folder)
        self.device = checked_device(device, self.folder.name)
        self._model: Any = None
        self._processor: Any = None

    @property
    def name(self) -> str:
        """Name of the folder with the beginning of the hash of its files."""
        return f"{self.folder.name}@{self.identity[:12]}"

    def captions(
        self, images: Sequence[NDArray[np.uint8]], instructions: Sequence[str], batch: int = 1
    ) -> list[str]:
        """Return a caption per image, by greedy decoding.

        Parameters
        ----------
        images
            (H, W, 3) each.
        instructions
            What is asked, one per image.
        batch
            Images per forward pass on an accelerator. On the CPU each is captioned by itself, so that captions do not
            depend on it.
        """
        self._load()
        size = 1 if device_kind(self.device) == "cpu" else batch
        out: list[str] = []
        for begin in range(0, len(images), size):
            some = slice(begin, begin + size)
            out += self._some(images[some], instructions[some])
        return out

    def _load(self) -> None:
        if self._model is not None:
            return
        import transformers

        how = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(str(self.folder), **how)
            self._model = transformers.AutoModelForImageTextToText.from_pretrained(
                str(self.folder), use_safetensors=True, **how
            )
        except Exception as error:  # an untrusted configuration may raise anything
            raise GeneratorError(
                f"the captioning model {str(self.folder)!r} cannot be loaded: {first_line(error)}",
                "give the folder of an image-text model with its processor, as save_pretrained writes it",
            ) from error
        self._model = self._model.eval().to(self.device)
        tokenizer = getattr(self._processor, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"

    def _some(self, images: Sequence[NDArray[np.uint8]], instructions: Sequence[str]) -> list[str]:
        import torch
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        texts = [self._asked(text) for text in instructions]
        padding = {"padding": True} if len(texts) > 1 else {}
        with one_thread(), torch.inference_mode():
            inputs = self._processor(images=pictures, text=texts, return_tensors="pt", **padding).to(
                self.device
            )
            ids = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=_MOST_TOKENS)
        given = inputs.get("input_ids")
        if (
            given is not None
            and ids.shape[1] >= given.shape[1]
            and bool((ids[:, : given.shape[1]] == given).all())
        ):
            ids = ids[:, given.shape[1] :]
        return [
            " ".join(text.split()) for text in self._processor.batch_decode(ids, skip_special_tokens=True)
        ]

    def _asked(self, instruction: str) -> str:
        """Return the text that the model is given: its chat template around an image and the instruction, where it has one.

        Florence-2 knows no instructions but the names of its tasks.
        """
        if _TASK in getattr(self._processor, "task_prompts_without_inputs", ()):
            return _TASK
        if not getattr(self._processor, "chat_template", None):
            return instruction
        content = [{"type": "image"}, {"type": "text", "text": instruction}]
        messages = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True))


def checked_folder(folder: Path) -> str:
    """Return the hash of all files of a folder, which holds neither code nor pickles."""
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise GeneratorError(
            f"{str(folder)!r} is not the folder of a captioning model: it has no config.json",
            "give 'facts', or a folder as save_pretrained writes it",
        )
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise GeneratorError(f"{str(path)!r} links out of its folder", "replace the link by its file")
        if not path.is_file():
            continue
        if path.suffix in (".py", *_PICKLES):
            raise GeneratorError(
                f"{str(path)!r} is {'code' if path.suffix == '.py' else 'a pickle'}, which is never read",
                "remove it; weights are model.safetensors",
            )
        with path.open("rb") as file:
            digest.update(
                path.relative_to(folder).as_posix().encode() + hashlib.file_digest(file, "sha256").digest()
            )
        if path.suffix == ".json" and path.stat().st_size < 2**26:
            _refuse_remote_code(path)
    if not any(folder.glob("*.safetensors")):
        raise GeneratorError(f"{str(folder)!r} has no *.safetensors", "save the model with save_pretrained")
    return digest.hexdigest()


def _refuse_remote_code(path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise GeneratorError(
            f"{str(path)!r} is not JSON: {first_line(error)}", "get the folder again"
        ) from error
    if isinstance(content, dict) and "auto_map" in content:
        raise GeneratorError(
            f"{str(path)!r} asks for code of its own (auto_map)", "use a model that transformers itself knows"
        )
