"""Assembles a model from a base checkpoint and what its settings add: another UNet, ControlNets, adapters.

Every file is checked and hashed before a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eoaug.errors import GeneratorError
from eoaug.generators.checkpoints import loading
from eoaug.generators.checkpoints.folder import Checkpoint, Component, open_checkpoint
from eoaug.generators.checkpoints.hub import ADAPTER_FILES, SETTINGS, find
from eoaug.generators.checkpoints.networks import Adapter
from eoaug.generators.checkpoints.safe_read import read_header, read_json
from eoaug.generators.checkpoints.settings import FOLDER_OPTIONS, Settings
from eoaug.generators.weights import sha256_of

__all__ = ["Assembly", "assemble"]


@dataclass(frozen=True)
class Assembly:
    """A base checkpoint with the components that the settings replace or add."""

    checkpoint: Checkpoint
    """The base with the replaced UNet; its ``files`` include those of ControlNets and adapters."""
    controls: tuple[Component, ...]
    """ControlNets, in the order of their conditioning images."""
    adapters: tuple[Adapter, ...]
    """LoRA and textual-inversion files, in the order in which they are applied."""
    sources: Mapping[str, Any]
    """By the option that named a path: the hashes of what the path holds."""

    def declared(self, name: str) -> Any:
        """Return an option from the ``eoaug.json`` of an adapter or else of the base; None without one."""
        files = [*(adapter.settings for adapter in self.adapters), self.checkpoint.settings]
        return next((file[name] for file in files if file.get(name) is not None), None)


def assemble(base: str | Path, settings: Settings) -> Assembly:
    """Open a base checkpoint and everything that the settings add to it.

    Parameters
    ----------
    base
        As for `eoaug.generators.checkpoints.folder.open_checkpoint`.
    settings
        Names the other folders.

    Raises
    ------
    GeneratorError
        A folder is missing, damaged or unsafe, or the components do not fit each other.
    """
    checkpoint = open_checkpoint(base, settings.variant)
    files, components = dict(checkpoint.files), dict(checkpoint.components)
    sources: dict[str, Any] = {"controlnets": []}
    if settings.unet is not None:
        other = open_checkpoint(settings.unet, settings.variant)
        components["unet"] = other.component("unet")
        sources["unet"] = other.identity
        _add_files(files, f"unet of {other.root.name}", other.files)
    controls = [components["controlnet"]] if "controlnet" in components and not settings.controlnets else []
    for folder in settings.controlnets:
        other = open_checkpoint(folder, settings.variant)
        controls.append(other.component("controlnet"))
        sources["controlnets"].append(other.identity)
        _add_files(files, f"controlnet {other.root.name}", other.files)
    adapters: list[Adapter] = []
    for source, scale in settings.adapters:
        added = _open_adapters(source, scale)
        hashes = {adapter.path.name: adapter.sha256 for adapter in added}
        _add_files(files, f"adapter {added[0].path.parent.name}", hashes)
        adapters += added
    sources["adapters"] = [(adapter.sha256, adapter.scale, adapter.settings) for adapter in adapters]
    complete = Checkpoint(checkpoint.root, components, checkpoint.settings, checkpoint.pipeline, files)
    assembly = Assembly(complete, tuple(controls), tuple(adapters), sources)
    _check(assembly, settings)
    return assembly


def _add_files(files: dict[str, str], source: str, hashes: Mapping[str, str]) -> None:
    """Add the files of a folder; folders of one name are numbered, so that every file keeps its entry."""
    number, prefix = 1, source
    while any(f"{prefix}/{name}" in files for name in hashes):
        number += 1
        prefix = f"{source} ({number})"
    files |= {f"{prefix}/{name}": digest for name, digest in hashes.items()}


def _open_adapters(source: str, scale: float) -> list[Adapter]:
    """Return the adapters of a file, or of the folder that holds them: textual inversion first, then LoRA."""
    path = Path(source).expanduser()
    if "@" in source and not path.exists():
        path = find(source)
    settings: Mapping[str, Any] = {}
    files = [path]
    if path.is_dir():
        if (path / SETTINGS).is_file():
            settings = read_json(path / SETTINGS)
        files = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
        if not files:
            raise GeneratorError(
                f"adapter folder {path} holds none of {', '.join(ADAPTER_FILES)}", "name the file"
            )
    for file in files:
        if file.suffix != ".safetensors" or not file.is_file():
            raise GeneratorError(
                f"adapter {source} is no safetensors file", "eoaug convert-weights FOLDER turns .bin into it"
            )
        read_header(file)
    return [Adapter(file.absolute(), scale, sha256_of(file), settings) for file in files]


def _check(assembly: Assembly, settings: Settings) -> None:
    """Refuse components that do not fit each other, before memory is taken for any of them."""
    checkpoint = assembly.checkpoint
    components = (*checkpoint.components.values(), *assembly.controls)
    # The eoaug.json of a folder is as untrusted as its other files.
    for declared in (checkpoint.settings, *(adapter.settings for adapter in assembly.adapters)):
        Settings.of({name: declared[name] for name in FOLDER_OPTIONS if name in declared})
    variant = settings.variant
    if variant is not None and all(component.variant != variant for component in components):
        raise GeneratorError(
            f"no component of {checkpoint.root} has weights of variant={variant!r}", "leave variant out"
        )
    for adapter in assembly.adapters:
        trained_on = adapter.settings.get("base")
        if trained_on is not None and trained_on != checkpoint.base and not settings.any_base:
            raise GeneratorError(
                f"adapter {adapter.path} was trained on weights {str(trained_on)[:16]}, those of "
                f"{checkpoint.root} are {checkpoint.base[:16]}",
                "load it with the base that it was trained on, or any_base=True for a related base",
            )
    for component in components:
        loading.check_fit(component)
