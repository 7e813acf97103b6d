"""The arms of a study of fine-tuning: which parts of a checkpoint are trained, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eoaug.storage.documents import read_settings
from eoaug.training.tuning import Tuning

__all__ = ["StudyArm", "StudyMatrix", "read_matrix"]

_Way = Literal["full", "lora", "frozen", "decoder"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyMatrix(_Strict):
    """The options of a study; every arm takes the same steps on the same windows.

    The defaults are the matrix of Debuysere et al. 2025 (arXiv:2506.13307).
    """

    unet: tuple[Literal["full", "lora", "frozen"], ...] = ("full", "lora")
    """How the UNet is trained, one after the other."""
    text: tuple[Literal["full", "lora", "frozen"], ...] = ("frozen", "lora", "full")
    """How all text encoders are trained."""
    vae: tuple[_Way, ...] = ("frozen", "lora", "decoder")
    """How the autoencoder is trained."""
    token: tuple[bool, ...] = (False, True)
    """Whether a word for radar is learned, and begins every caption."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training and of the samples; every arm is repeated with each."""
    steps: int = Field(default=1000, ge=1)
    """Training steps of every arm."""
    batch: int = Field(default=1, ge=1)
    rate: float = Field(default=1e-4, gt=0)
    rank: int = Field(default=16, ge=1)
    tile_px: int | None = Field(default=None, ge=8)
    """Edge of a training window in pixels; None: that of the UNet."""
    band: str = "vv"
    """The polarisation, a name or common name."""
    word: str = "<sar>"
    """The word that is learned."""
    prompt: str = "a radar image"
    """Caption of images without one."""
    samples: int = Field(default=16, ge=2)
    """Images that every arm generates."""
    sampling_steps: int = Field(default=20, ge=1)
    """Denoising steps of an image."""
    patch_px: int = Field(default=32, ge=16)
    """Edge of the patches whose texture is compared."""

    def arms(self) -> Iterator[StudyArm]:
        """Yield the arms; one that would train nothing is left out."""
        for unet, text, vae, token, seed in product(self.unet, self.text, self.vae, self.token, self.seeds):
            if token or {unet, text, vae} != {"frozen"}:
                yield StudyArm(unet, text, vae, token, seed)


@dataclass(frozen=True)
class StudyArm:
    """One training of a study."""

    unet: str
    text: str
    vae: str
    token: bool
    seed: int

    @property
    def name(self) -> str:
        """Name of the folder and of the row in the report."""
        word = "token" if self.token else "no-token"
        return f"unet-{self.unet}_text-{self.text}_vae-{self.vae}_{word}_seed-{self.seed}"

    def tuning(self, matrix: StudyMatrix, device: str | None) -> Tuning:
        """Return the options of its training, on amplitudes from 0 to 1 in all three channels."""
        parts: dict[Any, Any] = {"unet": self.unet, "text": self.text, "vae": self.vae}
        return Tuning(
            parts=parts,
            rank=matrix.rank,
            token=matrix.word if self.token else None,
            steps=matrix.steps,
            batch=matrix.batch,
            rate=matrix.rate,
            bands=("amplitude",) * 3,
            stretch=(0.0, 1.0),
            prompt=self.prompt(matrix, matrix.prompt),
            tile_px=matrix.tile_px,
            save_every=max(matrix.steps // 4, 1),
            seed=self.seed,
            device=device,
        )

    def prompt(self, matrix: StudyMatrix, caption: str) -> str:
        """Return a caption, which begins with the word that is learned."""
        return f"{matrix.word} {caption}" if self.token else caption


def read_matrix(config: StudyMatrix | Mapping[str, Any] | str | Path | None) -> StudyMatrix:
    """Return the matrix of a YAML file or a mapping; None: the whole matrix of the paper."""
    if config is None:
        return StudyMatrix()
    return read_settings(
        config,
        StudyMatrix,
        noun="study",
        remedy="e.g. unet: [full, lora]",
        examples={"unet": "unet: [full, lora]", "steps": "steps: 1000", "seeds": "seeds: [0, 1, 2]"},
    )
