"""The embedded weights: configuration, networks loaded once per process."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.base import Card
from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.generators.embedded.land import VISIBLE, Land, LandStatistics
from eoaug.generators.embedded.legend import SHIPPED, LandClass, Legend
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.generators.embedded.trajectory import KEEPING
from eoaug.generators.runtime import require_torch, torch_state
from eoaug.generators.weights import load_weights

__all__ = [
    "CONFIG",
    "LAND",
    "GeneratorConfig",
    "is_embedded",
    "land_for",
    "load_config",
    "network_for",
    "spectral_gaussian_for",
]


CONFIG = "config.json"
LAND = "land"
"""Name of the statistics of land among a generator's files."""
_FOLDER = Path(__file__).parents[2] / "weights" / "embedded"


@dataclass(frozen=True)
class GeneratorConfig:
    """``config.json``, read."""

    folder: Path
    card: Card
    networks: Mapping[str, Mapping[str, Any]]
    context: int
    """Context dates that the networks take; `Card.context` is the number that the prior uses."""
    layers: Mapping[str, str]
    scale: Mapping[str, Mapping[str, float]]
    gains: Mapping[str, Sequence[float]]
    """By category: gains of the spatial frequencies of a sample (`spectral_gaussian.equalised`)."""
    legend: Legend
    """Classes of land."""

    def file(self, name: str) -> tuple[str, str]:
        """Return path and sha256 of the file of a network."""
        entry = self.networks[name]
        return str(self.folder / entry["file"]), entry["sha256"]


def is_embedded(folder: str | Path) -> bool:
    """Return whether a folder holds weights of the embedded generator, such as `eoaug tune-land` writes."""
    path = Path(folder)
    return (path / CONFIG).is_file() and (path / f"{LAND}.safetensors").is_file()


def load_config(folder: str | None) -> GeneratorConfig:
    """Return the configuration of a folder of embedded weights; None: the package's.

    Raises
    ------
    GeneratorError
        A file is missing, no JSON, or names files outside its folder.
    """
    path = (_FOLDER if folder is None else Path(folder)) / CONFIG
    try:
        return _parsed(path.parent, path.read_bytes())
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise GeneratorError(
            f"loading the embedded generator: {path} cannot be read ({error!r})",
            "pass the folder that holds config.json, or reinstall the package",
        ) from error


@lru_cache(maxsize=8)
def _parsed(folder: Path, content: bytes) -> GeneratorConfig:
    """Return the configuration that a file says; its content is a part of the key: a folder may be written again."""
    raw = json.loads(content)
    card, land = raw["card"], raw["networks"][LAND]
    for entry in raw["networks"].values():
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"the file {entry['file']!r} is not in the folder")
    legend = _legend(land)
    bands = (*land.get("painted_bands", VISIBLE), *land["infrared_bands"])
    return GeneratorConfig(
        folder=folder,
        card=Card(
            name=card["name"],
            bands=tuple(card["bands"]),
            gsd_m=(card["gsd_m"][0], card["gsd_m"][1]),
            tile_px=card["tile_px"],
            overlap_px=card["overlap_px"],
            canvas_px=card["drawn_px"],
            multiple_of=card["multiple_of"],
            batch=card["batch"],
            context=card["context"],
            uses_context=True,
            steps=dict(card["steps"]),
            member_steps={**card["member_steps"], "translate": 1},
            joint_steps=dict(card["joint_steps"]),
            mean=tuple(card["mean"]),
            std=tuple(card["std"]),
            conditions=frozenset(card["conditions"]),
            prompt_words=frozenset(" ".join(phrase) for phrase in legend.phrases),
            prompt_strength=KEEPING,
            layout_verbs=frozenset(card["guided"]),
            extra_bands=True,
            classes=legend.names,
            land_bands=frozenset(bands),
            by_place=True,
            sharpens_bands=True,
            verbs=frozenset({"synthesize", "inpaint", "extend", "super_resolve", "translate"}),
            extra_strength=KEEPING,
            # The hash of the config covers the networks too, whose hashes it contains, and its constants.
            sha256=hashlib.sha256(content).hexdigest(),
            licence=card["licence"],
            description=card["description"],
        ),
        networks=raw["networks"],
        context=raw["context"],
        layers=raw["layers"],
        scale=raw["scale"],
        gains=raw["gains"],
        legend=legend,
    )


def _legend(land: Mapping[str, Any]) -> Legend:
    """Return the classes that the entry of the statistics of land names."""
    if "classes" not in land:
        return SHIPPED
    found = Legend(*(tuple(LandClass(**one) for one in land[name]) for name in ("classes", "around")))
    if unknown := {one.cover for one in found.kinds} - set(CLASSES):
        raise ValueError(f"unknown ground cover {min(unknown)!r}")
    return found


_networks: dict[tuple[str, str, str], Any] = {}
_networks_lock = threading.Lock()


def network_for(config: GeneratorConfig, name: str, device: str) -> Any:
    """Return a network of this process, loaded on first use."""
    entry = config.networks[name]
    key = (*config.file(name), device)
    with _networks_lock:
        if key not in _networks:
            torch = require_torch()
            from eoaug.generators.embedded.networks import build

            tensors = load_weights(key[0], sha256=key[1])
            with torch_state(inference=False):
                network = build(entry["architecture"])
                network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
                _networks[key] = network.eval().requires_grad_(False).to(device)
        return _networks[key]


def land_for(config: GeneratorConfig) -> Land:
    """Return what draws unconditional land, loaded once per process."""
    entry = config.networks[LAND]
    bands = tuple(entry["infrared_bands"]), tuple(entry.get("painted_bands", VISIBLE))
    return _land(*config.file(LAND), *bands, config.card.bands, config.legend)


@lru_cache(maxsize=4)
def _land(
    path: str,
    sha256: str,
    infrared: tuple[str, ...],
    painted: tuple[str, ...],
    bands: tuple[str, ...],
    legend: Legend,
) -> Land:
    tensors = load_weights(path, sha256=sha256)
    return Land(LandStatistics.of_tensors(tensors, infrared, painted), bands, legend)


def spectral_gaussian_for(config: GeneratorConfig, network: str, kind: str) -> Gaussian:
    """Return the Gaussian whose closed-form estimate a network corrects, loaded once per process."""
    return _closed_forms(*config.file(f"{network}_gaussian"))[kind]


@lru_cache(maxsize=8)
def _closed_forms(path: str, sha256: str) -> Mapping[str, Gaussian]:
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_weights(path, sha256=sha256).items()}
    kinds = {name.split(".")[0] for name in tensors}
    return {kind: Gaussian(tensors[f"{kind}.mean"], tensors[f"{kind}.covariance"]) for kind in kinds}
