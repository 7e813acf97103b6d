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
from eoaug.generators.embedded.land import PROMPT_WORDS, Land, LandStatistics
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.generators.embedded.trajectory import KEEPING
from eoaug.generators.runtime import require_torch, torch_state
from eoaug.generators.weights import load_weights

__all__ = ["LAND", "land_for", "load_config", "network_for", "spectral_gaussian_for"]


LAND = "land"
"""Name of the statistics of land among a generator's files."""
_FOLDER = Path(__file__).parents[2] / "weights" / "embedded"


@dataclass(frozen=True)
class _Config:
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


@lru_cache(maxsize=8)
def load_config(folder: str | None) -> _Config:
    """Return the configuration of a folder of embedded weights; None: the package's."""
    path = (_FOLDER if folder is None else Path(folder)) / "config.json"
    try:
        content = path.read_bytes()
        raw = json.loads(content)
        card = raw["card"]
        return _Config(
            folder=path.parent,
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
                prompt_words=frozenset(PROMPT_WORDS),
                prompt_strength=KEEPING,
                layout_verbs=frozenset(card["guided"]),
                extra_bands=True,
                classes=CLASSES,
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
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise GeneratorError(
            f"loading the embedded generator: {path} cannot be read ({error!r})",
            "pass the folder that holds config.json, or reinstall the package",
        ) from error


_networks: dict[tuple[str, str, str], Any] = {}
_networks_lock = threading.Lock()


def network_for(config: _Config, name: str, device: str) -> Any:
    """Return a network of this process, loaded on first use."""
    entry = config.networks[name]
    key = (str(config.folder / entry["file"]), entry["sha256"], device)
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


@lru_cache(maxsize=4)
def land_for(folder: str | None) -> Land:
    """Return what draws unconditional land, loaded once per process."""
    config = load_config(folder)
    entry = config.networks[LAND]
    tensors = load_weights(config.folder / entry["file"], sha256=entry["sha256"])
    return Land(LandStatistics.of_tensors(tensors, entry["infrared_bands"]), config.card.bands)


def spectral_gaussian_for(config: _Config, network: str, kind: str) -> Gaussian:
    """Return the Gaussian whose closed-form estimate a network corrects, loaded once per process."""
    entry = config.networks[f"{network}_gaussian"]
    return _closed_forms(str(config.folder / entry["file"]), entry["sha256"])[kind]


@lru_cache(maxsize=8)
def _closed_forms(path: str, sha256: str) -> Mapping[str, Gaussian]:
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_weights(path, sha256=sha256).items()}
    kinds = {name.split(".")[0] for name in tensors}
    return {kind: Gaussian(tensors[f"{kind}.mean"], tensors[f"{kind}.covariance"]) for kind in kinds}
