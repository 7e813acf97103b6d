"""Locates checkpoints: local folders, and pinned revisions on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eoaug.errors import GeneratorError, first_line

__all__ = [
    "ADAPTER_FILES",
    "CLASSES",
    "CODE",
    "LEFT_OUT",
    "LIBRARIES",
    "NETWORKS",
    "PIPELINES",
    "READ",
    "ROLES",
    "SETTINGS",
    "WEIGHTS",
    "find",
]


SETTINGS = "eoaug.json"
"""File in a checkpoint's folder with options for eoaug."""

ADAPTER_FILES = ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors")
"""Files of an adapter's folder in the order in which they are loaded: textual inversion, then LoRA."""

CLASSES: Mapping[str, str] = {
    "UNet2DConditionModel": "unet",
    "SatUNet": "unet",
    "ControlNetModel": "controlnet",
    "ControlNetModel3D": "controlnet",
    "AutoencoderKL": "vae",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
    "CLIPTokenizer": "tokenizer",
    "CLIPTokenizerFast": "tokenizer",
    "DDIMScheduler": "scheduler",
    "DDPMScheduler": "scheduler",
    "PNDMScheduler": "scheduler",
    "LMSDiscreteScheduler": "scheduler",
    "EulerDiscreteScheduler": "scheduler",
    "EulerAncestralDiscreteScheduler": "scheduler",
    "DPMSolverMultistepScheduler": "scheduler",
    "UniPCMultistepScheduler": "scheduler",
    **dict.fromkeys(
        ("DEISMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "HeunDiscreteScheduler",
         "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "TCDScheduler"),
        "scheduler",
    ),
}  # fmt: skip
"""The only classes that a folder may name, with their roles. The last schedulers only provide the noise schedule;
they need another sampler."""

PIPELINES = (
    "StableDiffusion", "StableDiffusionXL", "DiffusionSat", "StableDiffusionControlNet",
    "StableDiffusionXLControlNet", "DiffusionSatControlNet", "StableDiffusionInpaint",
    "StableDiffusionXLInpaint", "StableDiffusionUpscale", "StableDiffusionImg2Img",
    "StableDiffusionXLImg2Img",
)  # fmt: skip
LIBRARIES = frozenset({"diffusers", "transformers", "diffusionsat", "sat_unet", "diffusionsat.sat_unet"})
ROLES = frozenset(
    {"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
     "low_res_scheduler", "controlnet"}
)  # fmt: skip
NETWORKS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2", "controlnet"})
LEFT_OUT = frozenset({"safety_checker", "feature_extractor", "image_encoder", "watermarker"})
"""Components of published folders that are never loaded."""
CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh"})
WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
READ = frozenset({".json", ".txt"})
_VARIANTS = ("fp16", "bf16", "non_ema", "ema")
"""Sets of weights of published folders, in addition to or instead of the plain one."""
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


def find(source: str | Path, variant: str | None = None) -> Path:
    """Return the folder of a path or of a pinned hub id; the hub's local cache is used before the network.

    Parameters
    ----------
    source
        A folder, or ``"owner/name@revision"`` with the 40 digits of a commit.
    variant
        Weights to fetch, e.g. ``"fp16"``; None: the plain ones.

    Raises
    ------
    GeneratorError
        There is no such folder, the revision is not pinned, or it is not cached and cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    match = _HUB.fullmatch(str(source))
    if match is None:
        pinned = (
            "; a hub id needs its commit: 'owner/name@<40 digits>'" if str(source).count("/") == 1 else ""
        )
        raise GeneratorError(
            f"{str(source)!r} is neither a folder nor a hub id with a revision",
            f"give a folder with model_index.json{pinned}",
        )
    repo, revision = match["repo"], match["revision"]
    if re.fullmatch(r"[0-9a-f]{40}", revision) is None:
        raise GeneratorError(
            f"hub id {source!r}: revision {revision!r} may move, so it identifies no weights",
            f"give the commit: '{repo}@<40 digits>'; the History of the repository lists it",
        )
    return _snapshot(repo, revision, variant)


def _snapshot(repo: str, revision: str, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # Fetch only what is loaded: no single-file copies of the pipeline, no second set of weights.
    stems = [name.removesuffix(".safetensors") for name in (*WEIGHTS, *ADAPTER_FILES)]
    ending = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    wanted: dict[str, Any] = {
        "repo_id": repo,
        "revision": revision,
        "allow_patterns": [
            "*.json",
            "*.txt",
            *(f"{at}{stem}{ending}" for stem in stems for at in ("", "*/")),
        ],
        "ignore_patterns": [
            *(f"{part}/*" for part in sorted(LEFT_OUT)),
            *([] if variant else [f"*.{name}*.safetensors" for name in _VARIANTS]),
        ],
    }
    try:
        return Path(snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError as error:
        partial: str | None = getattr(error, "snapshot_path", None)
    try:
        # The library shows its own progress bar; HF_HUB_OFFLINE=1 forbids the download.
        return Path(snapshot_download(**wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if partial is not None and isinstance(error, LocalEntryNotFoundError):
            # Without a network, an incomplete snapshot may suffice: it is checked before use.
            return Path(partial)
        raise GeneratorError(
            f"hub id '{repo}@{revision}' is not in the local cache and cannot be fetched: "
            f"{first_line(error)}",
            "fetch it on a machine with a network, or give a folder",
        ) from error
