"""Checkpoint folders of the diffusers ecosystem: checked before a network is built, and hashed.

A folder is untrusted data: none of its code is run, no pickle is read, and it can only name classes of
`eoaug.generators.checkpoints.hub.CLASSES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from eoaug.errors import GeneratorError
from eoaug.generators.checkpoints.hub import (
    CLASSES,
    CODE,
    LEFT_OUT,
    LIBRARIES,
    NETWORKS,
    PIPELINES,
    READ,
    ROLES,
    SETTINGS,
    WEIGHTS,
    find,
)
from eoaug.generators.checkpoints.safe_read import read_header, read_json, refuse
from eoaug.generators.weights import sha256_of

__all__ = ["Checkpoint", "Component", "open_checkpoint"]


_MOST_NUMBER = 1_000_000
_MOST_LAYERS = 64
_LAYER_KEYS = frozenset({"layers_per_block", "num_hidden_layers", "transformer_layers_per_block"})
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Component:
    """One component of a checkpoint."""

    role: str
    """Its role in the pipeline, e.g. ``unet``."""
    kind: str
    """Class name, one of `CLASSES`."""
    folder: Path
    variant: str | None = None
    """Which of several sets of weights is used, e.g. ``fp16``; None: the plain one."""

    @property
    def weights(self) -> list[Path]:
        """Its safetensors files: one, or the shards that an index lists; none for schedulers and tokenizers."""
        return _weight_files(self.folder, self.variant) if CLASSES[self.kind] in NETWORKS else []

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Its configuration; empty for a tokenizer."""
        for name in ("config.json", "scheduler_config.json"):
            if (self.folder / name).is_file():
                return read_json(self.folder / name)
        return {}


@dataclass(frozen=True)
class Checkpoint:
    """A checked folder: its components, settings and hashes."""

    root: Path
    components: Mapping[str, Component]
    """Components by role."""
    settings: Mapping[str, Any]
    """The content of ``eoaug.json``; empty without one."""
    pipeline: Mapping[str, Any]
    """The scalars of ``model_index.json``."""
    files: Mapping[str, str]
    """sha256 of every file that may be read, by name."""

    @property
    def identity(self) -> str:
        """Hash of all files."""
        return _combined(self.files)

    @property
    def base(self) -> str:
        """Hash of the weights that an adapter is trained on: UNet, autoencoder and text encoders."""
        roles = ("text_encoder", "text_encoder_2", "unet", "vae")
        components = [self.components[role] for role in roles if role in self.components]
        return _combined(
            {
                f"{component.role}/{path.name}": _digest(path)
                for component in components
                for path in component.weights
            }
        )

    def component(self, role: str) -> Component:
        """Return a component that the folder must have."""
        if role not in self.components:
            raise GeneratorError(
                f"checkpoint {self.root} has no {role}; it has {', '.join(sorted(self.components)) or 'nothing'}",
                f"add the folder {role}/, or name one that has it: load(..., {role}=FOLDER)",
            )
        return self.components[role]


def open_checkpoint(source: str | Path, variant: str | None = None) -> Checkpoint:
    """Check a folder and return its components.

    Parameters
    ----------
    source
        As for `find`. A pipeline's root (``model_index.json``); a training state inside one
        (``checkpoint-N`` or ``checkpoint-N/unet_ema``), whose UNet then replaces the root's; or
        the folder of a single component (``config.json``), such as a ControlNet.
    variant
        Weights to use where a component has several sets, e.g. ``"fp16"``; other components use their plain
        ones. None: the plain ones, or the only variant of a component without plain ones.

    Raises
    ------
    GeneratorError
        The folder is none of these, or holds something that eoaug does not load.
    """
    folder = find(source, variant)
    state: Component | None = None
    root = folder
    if not (folder / "model_index.json").is_file():
        inner = folder / "unet" if re.fullmatch(r"checkpoint-\d+", folder.name) else folder
        state = _component(inner, folder)
        root = next((up for up in inner.parents[:2] if (up / "model_index.json").is_file()), inner)
    _check_tree(root)
    components: dict[str, Component] = {}
    scalars: dict[str, Any] = {}
    if root != folder or state is None:
        components, scalars = _indexed(root)
    if state is not None:
        components[state.role] = state
    components = {
        role: replace(component, variant=_variant_of(component.folder, variant))
        for role, component in components.items()
    }
    for component in components.values():
        _check_component(component)
    settings = read_json(root / SETTINGS) if (root / SETTINGS).is_file() else {}
    return Checkpoint(root, components, settings, scalars, dict(_hashes(root, components)))


def _added(name: str, variant: str | None) -> str:
    return f"{name}.{variant}" if variant else name


def _variant_of(folder: Path, wanted: str | None) -> str | None:
    """Return the variant to read: the requested one, else the plain weights (None), else the only variant."""
    present = set()
    for path in folder.glob("*.safetensors*"):
        for name in WEIGHTS:
            stem = re.escape(name.removesuffix(".safetensors"))
            match = re.fullmatch(rf"{stem}(?:\.(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?", path.name)
            if match is not None:
                present.add(match[1] or match[2])
    if wanted in present or None in present or not present:
        return wanted if wanted in present else None
    if len(present) > 1:
        names = " and ".join(sorted(map(str, present)))
        raise GeneratorError(
            f"checkpoint component {folder} has weights {names}, and no plain ones", "choose: variant='fp16'"
        )
    return str(present.pop())


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    for name in WEIGHTS:
        single = folder / f"{_added(name.removesuffix('.safetensors'), variant)}.safetensors"
        if single.is_file():
            return [single]
        index = folder / f"{_added(f'{name}.index', variant)}.json"
        if index.is_file():
            listed = read_json(index).get("weight_map", {})
            names = sorted({str(shard) for shard in listed.values()}) if isinstance(listed, dict) else []
            for shard in names:
                if _NAME.fullmatch(shard) is None or not shard.endswith(".safetensors"):
                    refuse(index, f"names the shard {shard!r}")
                if not (folder / shard).is_file():
                    refuse(index, f"names the missing shard {shard!r}")
            if names:
                return [folder / shard for shard in names]
    pickled = sorted(
        path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    content = f"only {', '.join(pickled)}, which may hold code" if pickled else "no weights"
    remedy = (
        f"eoaug convert-weights {folder}"
        if pickled
        else "get the folder again; if it has half precision only, variant='fp16'"
    )
    raise GeneratorError(f"checkpoint component {folder} has {content}; eoaug reads safetensors", remedy)


def _indexed(root: Path) -> tuple[dict[str, Component], dict[str, Any]]:
    """Return components and scalars of ``model_index.json``, and a ControlNet in the folder ``controlnet``."""
    path = root / "model_index.json"
    index = read_json(path)
    name = index.get("_class_name")
    if not isinstance(name, str) or name.removesuffix("Pipeline") not in PIPELINES:
        refuse(path, f"names the pipeline {name!r}", f"eoaug loads {', '.join(PIPELINES)}, each + Pipeline")
    components, scalars = {}, {}
    for role, value in index.items():
        if role.startswith("_") or not isinstance(value, list):
            scalars[role] = value
            continue
        if role in LEFT_OUT or value == [None, None]:
            continue
        if role not in ROLES:
            refuse(path, f"names a component {role!r}", f"eoaug loads {', '.join(sorted(ROLES))}")
        if role == "controlnet" and value and isinstance(value[0], list):
            refuse(path, "holds several ControlNets", "name them: load(base, controlnets=[FOLDER, FOLDER])")
        library, kind = (str(text) for text in (value if len(value) == 2 else (None, value)))
        if library not in LIBRARIES or kind not in CLASSES:
            known = [name for name, plays in CLASSES.items() if plays == role.removesuffix("_2")]
            refuse(path, f"wants {role} from {library!r}, class {kind!r}", f"eoaug loads {', '.join(known)}")
        # A component without a folder, e.g. a UNet that another folder replaces, is reported when it is used.
        if (root / role).is_dir():
            components[role] = _declared(role, kind, root / role)
    controlnet = root / "controlnet"
    if "controlnet" not in components and (controlnet / "config.json").is_file():
        components["controlnet"] = _component(controlnet, root)
    return components, scalars


def _declared(role: str, kind: str, folder: Path) -> Component:
    """Return a component of the index; the class in its own configuration takes precedence."""
    config = folder / "config.json"
    if role in ("unet", "controlnet", "vae") and config.is_file():
        return _component(folder, folder.parent)
    return Component(role, kind, folder)


def _component(folder: Path, requested: Path) -> Component:
    path = folder / "config.json"
    if not path.is_file():
        raise GeneratorError(
            f"{requested} is no checkpoint: it has neither model_index.json nor {path.relative_to(requested.parent)}",
            "give the pipeline's root, checkpoint-N/unet, or a component's folder",
        )
    kind = read_json(path).get("_class_name")
    if not isinstance(kind, str) or kind not in CLASSES:
        refuse(path, f"names the class {kind!r}", f"eoaug loads {', '.join(CLASSES)}")
    return Component(CLASSES[kind], kind, folder)


def _check_tree(root: Path) -> None:
    """Refuse code, and links that leave the folder, or in a hub cache the folder of the repository."""
    inside = root.resolve()
    if inside.parent.name == "snapshots":
        inside = inside.parent.parent
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in CODE:
            refuse(path, "is code, which eoaug does not run", "remove it")
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            refuse(path, f"is a link out of the folder, to {path.resolve()}")
        if path.suffix == ".json" and path.is_file():
            _check_json(path)


def _check_json(path: Path) -> None:
    """Check a JSON file that may hold something else than an object."""
    try:
        read_json(path)
    except GeneratorError as error:
        if "not an object" not in error.problem:
            raise


def _check_component(component: Component) -> None:
    for key, value in component.config.items():
        limit = _MOST_LAYERS if key in _LAYER_KEYS else _MOST_NUMBER
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > _MOST_LAYERS * 2 or any(
            isinstance(n, int | float) and not abs(n) <= limit for n in numbers
        ):
            refuse(component.folder, f"declares {key}={str(value)[:60]} in its configuration")
    if CLASSES[component.kind] not in NETWORKS:
        return
    shapes = {name: shape for file in component.weights for name, (_, shape) in read_header(file).items()}
    is_3d = len(shapes.get("controlnet_cond_embedding.conv_in.weight", ())) == 5
    if component.role == "controlnet" and is_3d != (component.kind == "ControlNetModel3D"):
        actual = "a 3D ControlNet (a sequence of images)" if is_3d else "a 2D ControlNet (one image)"
        refuse(
            component.folder,
            f"says it is a {component.kind}, but its weights are of {actual}",
            "use its own config.json",
        )


def _hashes(root: Path, components: Mapping[str, Component]) -> Iterator[tuple[str, str]]:
    for name in ("model_index.json", SETTINGS):
        if (root / name).is_file():
            yield name, _digest(root / name)
    for role, component in sorted(components.items()):
        for path in sorted(
            [*component.weights, *(p for p in component.folder.iterdir() if p.suffix in READ and p.is_file())]
        ):
            # Files that are not read (pickles, pictures, other variants) change no pixel.
            yield f"{role}/{path.name}", _digest(path)


def _combined(files: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return sha256(lines.encode()).hexdigest()


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, size: int, changed: int) -> str:
    del size, changed
    return sha256_of(path)
