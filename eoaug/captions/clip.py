"""How well images and captions agree, by a local folder of a CLIP model (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.captions.models import checked_folder
from eoaug.errors import GeneratorError, ParameterError, first_line
from eoaug.generators.runtime import checked_device, one_thread

__all__ = ["Alignment", "ClipModel"]

_SHUFFLES = 100


@dataclass(frozen=True)
class Alignment:
    """The mean cosine of images and their captions, with that of shuffled captions."""

    cosine: float
    """Mean over images of the cosine with their own caption, -1 to 1."""
    shuffled: float
    """The same with captions of other images: what CLIP gives any image and any caption of the set."""
    shuffled_std: float
    """Standard deviation of that mean over shuffles."""

    @property
    def gain(self) -> float:
        """The cosine above that of shuffled captions."""
        return self.cosine - self.shuffled


class ClipModel:
    """A CLIP model with its processor, as ``save_pretrained`` writes them; also one fine-tuned on SAR.

    Parameters
    ----------
    folder
        Configuration, processor and safetensors; code and pickles are refused, and nothing is downloaded.
    device
        As torch names it.

    Raises
    ------
    GeneratorError
        The folder has no CLIP model, or has code or pickles.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        import transformers

        self.folder = own = Path(folder).expanduser()
        self.identity = checked_folder(own)
        self.device = checked_device(device, self.folder.name)
        how = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = transformers.CLIPProcessor.from_pretrained(str(self.folder), **how)
            model = transformers.CLIPModel.from_pretrained(str(self.folder), use_safetensors=True, **how)
        except Exception as error:  # an untrusted configuration may raise anything
            raise GeneratorError(
                f"the CLIP model {str(self.folder)!r} cannot be loaded: {first_line(error)}",
                "give the folder of a CLIP model with its processor, as save_pretrained writes it",
            ) from error
        self._model: Any = model.eval().to(self.device)

    def cosines(self, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosine of every image with every caption, shape (images, captions).

        Parameters
        ----------
        images
            (H, W, 3) each.
        captions
            Texts; what CLIP's 77 tokens cannot hold is cut off.
        """
        import torch
        from PIL import Image

        with one_thread(), torch.inference_mode():
            # One by one: on a CPU the bytes of a batch depend on its size.
            pictures = [self._image(Image.fromarray(image)) for image in images]
            texts = {text: self._text(text) for text in dict.fromkeys(captions)}
        # Not a matrix product, whose last bits depend on its size.
        others = np.stack([texts[text] for text in captions])
        return np.asarray((np.stack(pictures)[:, None] * others).sum(axis=-1))

    def _image(self, image: Any) -> NDArray[np.float64]:
        inputs = self._processor(images=image, return_tensors="pt").to(self.device)
        return _unit(self._model.vision_model(**inputs).pooler_output, self._model.visual_projection)

    def _text(self, text: str) -> NDArray[np.float64]:
        inputs = self._processor(text=text, return_tensors="pt", truncation=True, max_length=77).to(
            self.device
        )
        return _unit(self._model.text_model(**inputs).pooler_output, self._model.text_projection)

    def alignment(
        self, images: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, seed: int = 0
    ) -> Alignment:
        """Return how well images agree with their captions, one each, and with captions shuffled.

        Of N images at least two; pairs that shuffling leaves as they are, or gives an equal caption, do not count.
        """
        if len(images) != len(captions) or len(images) < 2:
            raise ParameterError(
                f"{len(images)} images and {len(captions)} captions",
                "give two or more images, and a caption for each",
            )
        cosines = self.cosines(images, captions)
        rng, null = np.random.default_rng(seed), []
        words = np.array(captions, object)
        for _ in range(_SHUFFLES):
            order = rng.permutation(len(images))
            other = words[order] != words
            if other.any():
                null.append(float(cosines[np.arange(len(images)), order][other].mean()))
        own = float(cosines.diagonal().mean())
        if not null:  # one caption for all
            return Alignment(own, float("nan"), float("nan"))
        return Alignment(own, float(np.mean(null)), float(np.std(null)))


def _unit(pooled: Any, projection: Any) -> NDArray[np.float64]:
    vector: NDArray[np.float64] = projection(pooled)[0].float().cpu().numpy().astype(np.float64)
    return vector / np.linalg.norm(vector)
