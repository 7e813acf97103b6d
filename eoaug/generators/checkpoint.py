"""Checkpoint folders of the diffusers ecosystem: found, checked before anything is built, and hashed.

Imports the standard library and ``weights``; no torch, no diffusers. A folder is data from
strangers: no code of it is run, no pickle read, no class chosen by it that is not listed here.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from eoaug.errors import GeneratorError
from eoaug.generators.weights import sha256_of

__all__ = [
    "ADAPTER_FILES",
    "CLASSES",
    "SETTINGS",
    "Checkpoint",
    "Part",
    "find",
    "open_checkpoint",
    "read_header",
    "read_json",
]

SETTINGS = "eoaug.json"
"""File beside ``model_index.json`` in which a folder says how eoaug is to use it."""

ADAPTER_FILES = ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors")
"""What a folder of an adapter holds, learned tokens first."""

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
"""The only classes that a folder may name, with the role they play. The last schedulers are read for their
noise schedule; another sampler walks it."""

_PIPELINES = (
    "StableDiffusion", "StableDiffusionXL", "DiffusionSat", "StableDiffusionControlNet",
    "StableDiffusionXLControlNet", "DiffusionSatControlNet", "StableDiffusionInpaint",
    "StableDiffusionXLInpaint", "StableDiffusionUpscale", "StableDiffusionImg2Img",
    "StableDiffusionXLImg2Img",
)  # fmt: skip
_LIBRARIES = frozenset({"diffusers", "transformers", "diffusionsat", "sat_unet", "diffusionsat.sat_unet"})
_ROLES = frozenset(
    {"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
     "low_res_scheduler", "controlnet"}
)  # fmt: skip
_NETWORKS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2", "controlnet"})
_LEFT_OUT = frozenset({"safety_checker", "feature_extractor", "image_encoder", "watermarker"})
"""Parts of published folders that are not needed and never loaded."""
_CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh"})
_REMOTE = frozenset({"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines"})
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_READ = frozenset({".json", ".txt"})
_VARIANTS = ("fp16", "bf16", "non_ema", "ema")
"""Sets of weights that published folders hold beside or in place of the plain one."""

_MOST_JSON = 32 * 2**20
_MOST_HEADER = 100 * 2**20
_MOST_NUMBER = 1_000_000
_MOST_LAYERS = 64
_LAYER_KEYS = frozenset({"layers_per_block", "num_hidden_layers", "transformer_layers_per_block"})
_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Part:
    """One component of a checkpoint."""

    role: str
    """What it is to the pipeline, e.g. ``unet``."""
    kind: str
    """Class name, one of `CLASSES`."""
    folder: Path
    variant: str | None = None
    """Which of several sets of weights, e.g. ``fp16``; None: the plain one."""

    @property
    def weights(self) -> list[Path]:
        """Its safetensors files: one, or the shards that an index lists; none of what is no network."""
        return _weight_files(self.folder, self.variant) if CLASSES[self.kind] in _NETWORKS else []

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Its configuration; empty for a tokenizer."""
        for name in ("config.json", "scheduler_config.json"):
            if (self.folder / name).is_file():
                return read_json(self.folder / name)
        return {}


@dataclass(frozen=True)
class Checkpoint:
    """A checked folder: what it holds and what identifies it."""

    root: Path
    parts: Mapping[str, Part]
    """Components by role."""
    settings: Mapping[str, Any]
    """What ``eoaug.json`` says; empty without one."""
    pipeline: Mapping[str, Any]
    """The scalars of ``model_index.json``."""
    files: Mapping[str, str]
    """sha256 by file name, of all that may be read."""

    @property
    def identity(self) -> str:
        """Hash of all files."""
        return _together(self.files)

    @property
    def base(self) -> str:
        """Hash of what an adapter builds on: the weights of UNet, autoencoder and text encoders."""
        roles = ("text_encoder", "text_encoder_2", "unet", "vae")
        parts = [self.parts[role] for role in roles if role in self.parts]
        return _together(
            {f"{part.role}/{path.name}": _digest(path) for part in parts for path in part.weights}
        )

    def part(self, role: str) -> Part:
        """Return a component that the folder must have."""
        if role not in self.parts:
            raise GeneratorError(
                f"checkpoint {self.root} has no {role}; it has {', '.join(sorted(self.parts)) or 'nothing'}",
                f"add the folder {role}/, or name one that has it: load(..., {role}=FOLDER)",
            )
        return self.parts[role]


def find(source: str | Path, variant: str | None = None) -> Path:
    """Return the folder of a path or of a pinned hub id; the hub's cache is asked before the network.

    Parameters
    ----------
    source
        A folder, or ``"owner/name@revision"`` with the 40 digits of a commit.
    variant
        Of the weights to fetch; None: the plain ones.

    Raises
    ------
    GeneratorError
        No such folder, a revision that is not pinned, or nothing in the cache and no network.
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
            f"{str(source)!r} is no folder and no hub id with a revision",
            f"give a folder with model_index.json{pinned}",
        )
    repo, revision = match["repo"], match["revision"]
    if re.fullmatch(r"[0-9a-f]{40}", revision) is None:
        raise GeneratorError(
            f"hub id {source!r}: revision {revision!r} may move, so it identifies no weights",
            f"give the commit: '{repo}@<40 digits>' (the page of the repository, History, shows it)",
        )
    return _snapshot(repo, revision, variant)


def _snapshot(repo: str, revision: str, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # Only what is loaded: no single-file copies of the whole pipeline, no second set of weights.
    stems = [name.removesuffix(".safetensors") for name in (*_WEIGHTS, *ADAPTER_FILES)]
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
            *(f"{part}/*" for part in sorted(_LEFT_OUT)),
            *([] if variant else [f"*.{name}*.safetensors" for name in _VARIANTS]),
        ],
    }
    try:
        return Path(snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError as error:
        part: str | None = getattr(error, "snapshot_path", None)
    try:
        # Its own progress bar tells of the download; HF_HUB_OFFLINE=1 forbids it.
        return Path(snapshot_download(**wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if part is not None and isinstance(error, LocalEntryNotFoundError):
            # Nobody can be asked, and what is here may do: it is checked before use.
            return Path(part)
        raise GeneratorError(
            f"hub id '{repo}@{revision}' is not in the local cache and cannot be fetched: "
            f"{str(error).splitlines()[0]}",
            "fetch it where there is a network, or give a folder",
        ) from error


def open_checkpoint(source: str | Path, variant: str | None = None) -> Checkpoint:
    """Check a folder and return what it holds.

    Parameters
    ----------
    source
        As for `find`. A pipeline's root (``model_index.json``); a training state inside one
        (``checkpoint-N`` or ``checkpoint-N/unet_ema``), whose UNet then takes the place of the root's; or
        the folder of a single component (``config.json``), such as a ControlNet.
    variant
        Which weights to take where a part has several, e.g. ``"fp16"``; other parts keep their plain ones.
        None: the plain ones, and where a part has a single variant in their place, that.

    Raises
    ------
    GeneratorError
        The folder is none of these, or holds something that eoaug does not load: see the message.
    """
    folder = find(source, variant)
    state: Part | None = None
    root = folder
    if not (folder / "model_index.json").is_file():
        inner = folder / "unet" if re.fullmatch(r"checkpoint-\d+", folder.name) else folder
        state = _component(inner, folder)
        root = next((up for up in inner.parents[:2] if (up / "model_index.json").is_file()), inner)
    _check_tree(root)
    parts: dict[str, Part] = {}
    scalars: dict[str, Any] = {}
    if root != folder or state is None:
        parts, scalars = _indexed(root)
    if state is not None:
        parts[state.role] = state
    parts = {role: replace(part, variant=_variant_of(part.folder, variant)) for role, part in parts.items()}
    for part in parts.values():
        _check_part(part)
    settings = read_json(root / SETTINGS) if (root / SETTINGS).is_file() else {}
    return Checkpoint(root, parts, settings, scalars, dict(_hashes(root, parts)))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a stranger: bounded in size, depth and numbers, and without remote code."""
    if path.stat().st_size > _MOST_JSON:
        _refuse(path, f"holds {path.stat().st_size:,} bytes of JSON, more than {_MOST_JSON:,}")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        _refuse(path, f"is no JSON text ({type(error).__name__}: {error})")
    if not isinstance(read, dict):
        _refuse(path, f"holds a {type(read).__name__}, not an object")
    for key in _keys(read):
        if key in _REMOTE:
            _refuse(path, f"asks for remote code ({key!r})")
    return read


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of every tensor of a safetensors file, checked against the file's length.

    Raises
    ------
    GeneratorError
        Truncated or damaged file, overlapping or huge tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(_MOST_HEADER, size - 8):
            _refuse(path, f"declares a header of {length:,} bytes in a file of {size:,}")
        try:
            raw = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            _refuse(path, f"has a header that is no JSON text ({type(error).__name__})")
    if not isinstance(raw, dict):
        _refuse(path, f"has a header that is a {type(raw).__name__}")
    found, spans = {}, []
    for name, entry in raw.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
            wide = math.prod(shape) * _BYTES[dtype]
        except (KeyError, TypeError, ValueError):
            _refuse(path, f"describes tensor {name!r} as {str(entry)[:80]}")
        if min((0, *shape)) < 0 or end - begin != wide or not 0 <= begin <= end <= size - 8 - length:
            _refuse(
                path,
                f"declares tensor {name!r} of shape {list(shape)} at bytes {begin}-{end}, which a file of {size:,} "
                "bytes does not hold",
            )
        found[name] = (dtype, shape)
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            _refuse(path, f"has tensors that overlap or leave a hole at byte {at}")
        at = end
    if at != size - 8 - length:
        _refuse(path, f"holds {size - 8 - length - at:,} bytes beyond its tensors")
    return found


def _added(name: str, variant: str | None) -> str:
    return f"{name}.{variant}" if variant else name


def _variant_of(folder: Path, wanted: str | None) -> str | None:
    """Return the variant to read: the wanted one, else none, else the only one that is there."""
    there = set()
    for path in folder.glob("*.safetensors*"):
        for name in _WEIGHTS:
            stem = re.escape(name.removesuffix(".safetensors"))
            match = re.fullmatch(rf"{stem}(?:\.(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?", path.name)
            if match is not None:
                there.add(match[1] or match[2])
    if wanted in there or None in there or not there:
        return wanted if wanted in there else None
    if len(there) > 1:
        names = " and ".join(sorted(map(str, there)))
        raise GeneratorError(
            f"checkpoint part {folder} has weights {names}, and no plain ones", "choose: variant='fp16'"
        )
    return str(there.pop())


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    for name in _WEIGHTS:
        single = folder / f"{_added(name.removesuffix('.safetensors'), variant)}.safetensors"
        if single.is_file():
            return [single]
        index = folder / f"{_added(f'{name}.index', variant)}.json"
        if index.is_file():
            listed = read_json(index).get("weight_map", {})
            names = sorted({str(shard) for shard in listed.values()}) if isinstance(listed, dict) else []
            for shard in names:
                if _NAME.fullmatch(shard) is None or not shard.endswith(".safetensors"):
                    _refuse(index, f"names the shard {shard!r}")
                if not (folder / shard).is_file():
                    _refuse(index, f"names the shard {shard!r}, which is not there")
            if names:
                return [folder / shard for shard in names]
    pickled = sorted(
        path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    held = f"only {', '.join(pickled)}, which may hold code" if pickled else "no weights"
    remedy = (
        f"eoaug convert-weights {folder}"
        if pickled
        else "get the folder again; on the hub, some have half precision alone: variant='fp16'"
    )
    raise GeneratorError(f"checkpoint part {folder} has {held}; eoaug reads safetensors", remedy)


def _indexed(root: Path) -> tuple[dict[str, Part], dict[str, Any]]:
    """Return components and scalars of ``model_index.json``, and a ControlNet that lies beside them."""
    path = root / "model_index.json"
    index = read_json(path)
    name = index.get("_class_name")
    if not isinstance(name, str) or name.removesuffix("Pipeline") not in _PIPELINES:
        _refuse(path, f"names the pipeline {name!r}", f"eoaug knows {', '.join(_PIPELINES)}, each + Pipeline")
    parts, scalars = {}, {}
    for role, value in index.items():
        if role.startswith("_") or not isinstance(value, list):
            scalars[role] = value
            continue
        if role in _LEFT_OUT or value == [None, None]:
            continue
        if role not in _ROLES:
            _refuse(path, f"names a component {role!r}", f"eoaug knows {', '.join(sorted(_ROLES))}")
        if role == "controlnet" and value and isinstance(value[0], list):
            _refuse(path, "holds several ControlNets", "name them: load(base, controlnets=[FOLDER, FOLDER])")
        library, kind = (str(one) for one in (value if len(value) == 2 else (None, value)))
        if library not in _LIBRARIES or kind not in CLASSES:
            known = [name for name, plays in CLASSES.items() if plays == role.removesuffix("_2")]
            _refuse(path, f"wants {role} from {library!r}, class {kind!r}", f"eoaug loads {', '.join(known)}")
        # What is not there (a UNet that another folder brings) is missed when it is used.
        if (root / role).is_dir():
            parts[role] = _declared(role, kind, root / role)
    beside = root / "controlnet"
    if "controlnet" not in parts and (beside / "config.json").is_file():
        parts["controlnet"] = _component(beside, root)
    return parts, scalars


def _declared(role: str, kind: str, folder: Path) -> Part:
    """Return a part as the index declares it; its own configuration knows its class better."""
    config = folder / "config.json"
    if role in ("unet", "controlnet", "vae") and config.is_file():
        return _component(folder, folder.parent)
    return Part(role, kind, folder)


def _component(folder: Path, asked: Path) -> Part:
    path = folder / "config.json"
    if not path.is_file():
        raise GeneratorError(
            f"{asked} is no checkpoint: neither model_index.json nor {path.relative_to(asked.parent)} is there",
            "give the pipeline's root, checkpoint-N/unet, or a component's folder",
        )
    kind = read_json(path).get("_class_name")
    if not isinstance(kind, str) or kind not in CLASSES:
        _refuse(path, f"names the class {kind!r}", f"eoaug loads {', '.join(CLASSES)}")
    return Part(CLASSES[kind], kind, folder)


def _check_tree(root: Path) -> None:
    """Refuse code, and links that leave the folder (of a hub cache: the repository's)."""
    inside = root.resolve()
    if inside.parent.name == "snapshots":
        inside = inside.parent.parent
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _CODE:
            _refuse(path, "is code, which eoaug does not run", "remove it, if the folder works without")
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            _refuse(path, f"is a link out of the folder, to {path.resolve()}")
        if path.suffix == ".json" and path.is_file():
            _check_json(path)


def _check_json(path: Path) -> None:
    """Check a JSON file that need not hold an object."""
    try:
        read_json(path)
    except GeneratorError as error:
        if "not an object" not in error.problem:
            raise


def _check_part(part: Part) -> None:
    for key, value in part.config.items():
        limit = _MOST_LAYERS if key in _LAYER_KEYS else _MOST_NUMBER
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > _MOST_LAYERS * 2 or any(
            isinstance(n, int | float) and not abs(n) <= limit for n in numbers
        ):
            _refuse(part.folder, f"declares {key}={str(value)[:60]} in its configuration")
    if CLASSES[part.kind] not in _NETWORKS:
        return
    shapes = {name: shape for file in part.weights for name, (_, shape) in read_header(file).items()}
    frames = len(shapes.get("controlnet_cond_embedding.conv_in.weight", ())) == 5
    if part.role == "controlnet" and frames != (part.kind == "ControlNetModel3D"):
        held = "a 3D ControlNet (a sequence of images)" if frames else "a 2D ControlNet (one image)"
        _refuse(
            part.folder, f"says it is a {part.kind}, but its weights are of {held}", "use its own config.json"
        )


def _hashes(root: Path, parts: Mapping[str, Part]) -> Iterator[tuple[str, str]]:
    for name in ("model_index.json", SETTINGS):
        if (root / name).is_file():
            yield name, _digest(root / name)
    for role, part in sorted(parts.items()):
        for path in sorted(
            [*part.weights, *(p for p in part.folder.iterdir() if p.suffix in _READ and p.is_file())]
        ):
            # What is not read (pickles, pictures, another variant) does not change a pixel.
            yield f"{role}/{path.name}", _digest(path)


def _together(files: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return sha256(lines.encode()).hexdigest()


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, size: int, changed: int) -> str:
    del size, changed
    return sha256_of(path)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _refuse(
    path: Path, why: str, remedy: str = "do not use this folder; get it from a source you trust"
) -> NoReturn:
    raise GeneratorError(f"checkpoint: {path} {why}", remedy)
