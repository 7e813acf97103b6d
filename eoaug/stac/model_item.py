"""Generators as STAC items of the machine-learning-model extension (MLM 1.5.2): `model_item`.

A result is derived from its sources and from a model; it links to this item of the model. All of its fields come from
the generator's card and its weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from eoaug.cube.provenance import Provenance
from eoaug.generators.base import METADATA_FIELDS, Card
from eoaug.generators.registry import available
from eoaug.raster import bands
from eoaug.stac.extensions import EO, FILE, MLM
from eoaug.storage.names import safe_id

__all__ = ["Artifact", "embedded_item", "item_id", "known_item", "model_item"]

_TASKS = {
    "synthesize": "generative",
    "inpaint": "generative",
    "translate": "generative",
    "extend": "generative",
    "super_resolve": "super-resolution",
}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of weights, in safetensors."""

    name: str
    """Key of its asset."""
    href: str
    sha256: str
    size: int
    """Bytes."""
    parameters: int
    """Number of parameters."""
    title: str = ""


def model_item(
    card: Card, artifacts: Sequence[Artifact], *, architecture: str, entrypoint: str, source: str
) -> dict[str, Any]:
    """Describe a generator as a STAC item.

    The item has neither links nor a creation date: the same card gives the same item.

    Parameters
    ----------
    card
        The generator's card.
    artifacts
        Its weights.
    architecture
        Common name of the network architecture, e.g. ``UNet``.
    entrypoint
        Class of the generator, as ``module:name``.
    source
        Address of the code.
    """
    properties: dict[str, Any] = {
        "title": f"eoaug generator {card.name!r}",
        "description": card.description or f"Generator {card.name!r} of eoaug.",
        "datetime": None,
        # The range of valid requests: a generator is not restricted in time or space.
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "license": card.licence,
        "mlm:name": card.name,
        "mlm:architecture": architecture,
        "mlm:tasks": _tasks(card),
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": sum(artifact.parameters for artifact in artifacts),
        "mlm:batch_size_suggestion": card.batch,
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:input": _inputs(card),
        "mlm:output": _outputs(card),
        "mlm:hyperparameters": _hyperparameters(card),
        "eoaug:model_sha256": card.sha256,
    }
    extensions = [MLM, FILE]
    if card.bands:
        properties["bands"] = [_band(name) for name in card.bands]
        extensions.append(EO)
    assets: dict[str, Any] = {artifact.name: _asset(artifact, card) for artifact in artifacts}
    assets["source_code"] = {
        "href": source,
        "type": "text/x-python",
        "title": "Code that runs the model",
        "roles": ["mlm:source_code", "code"],
        "mlm:entrypoint": entrypoint,
    }
    west, south, east, north = world = [-180.0, -90.0, 180.0, 90.0]
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "id": item_id(card.name, card.sha256),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": world,
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def item_id(name: str, sha256: str) -> str:
    """Return the id of a generator's item, which depends on its weights."""
    return safe_id(f"{name}-{sha256[:8]}")


def embedded_item(href: Callable[[Path], str] | None = None) -> dict[str, Any]:
    """Describe the generator whose weights ship in the package.

    Parameters
    ----------
    href
        Address of a file of weights; default: its package URL on PyPI.
    """
    card = _shipped()
    folder = Path(str(resources.files("eoaug").joinpath("weights", "embedded")))
    networks = json.loads((folder / "config.json").read_text(encoding="utf-8"))["networks"]
    package = f"pkg:pypi/eoaug@{Provenance(operation='', generator='').software['eoaug']}"
    artifacts = []
    for name, network in networks.items():
        path = folder / network["file"]
        artifacts.append(
            Artifact(
                name=name,
                href=f"{package}#eoaug/weights/embedded/{path.name}" if href is None else href(path),
                sha256=network["sha256"],
                size=path.stat().st_size,
                parameters=_parameters(path),
                title=f"Weights of the part {name!r}",
            )
        )
    return model_item(
        card,
        artifacts,
        architecture="UNet",
        entrypoint=available()["embedded"].value,
        source=package,
    )


def known_item(prov: Provenance | None) -> dict[str, Any] | None:
    """Return the item of the model that made a result.

    None for a method without weights, and for weights other than the shipped ones.
    """
    if prov is None or not prov.model_sha256 or prov.model_sha256 != _shipped().sha256:
        return None
    return embedded_item()


def _shipped() -> Card:
    from eoaug.generators.embedded.generator import (
        Embedded,  # late: loads scipy, which measured data do not need
    )

    return Embedded().card


def _tasks(card: Card) -> list[str]:
    return sorted({_TASKS[verb] for verb in card.verbs})


def _band(name: str) -> dict[str, Any]:
    band: dict[str, Any] = {"name": name}
    if name in bands.EO_COMMON_NAMES:
        band["eo:common_name"] = name
        centres = [b.wavelength_um for b in bands.SENSORS["sentinel-2"] if b.common_name == name]
        if centres and centres[0]:
            band["eo:center_wavelength"] = centres[0]
    return band


def _images(card: Card, data_type: str) -> dict[str, Any]:
    """Return the shape of a batch of images; -1 stands for the dates, and for bands that depend on the cube."""
    return {
        "shape": [card.batch, -1, len(card.bands) or -1, card.tile_px, card.tile_px],
        "dim_order": ["batch", "time", "bands" if card.bands else "channel", "height", "width"],
        "data_type": data_type,
    }


def _inputs(card: Card) -> list[dict[str, Any]]:
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(card.mean, card.std, strict=True)
    ]
    named: dict[str, Any] = {"bands": list(card.bands)} if card.bands else {}
    inputs = [
        {
            "name": "values",
            "description": "Reflectance of the given dates, 0 where unknown.",
            **named,
            "input": _images(card, "float32"),
            "value_scaling": scaling or None,
            "resize_type": None,
        },
        {
            "name": "known",
            "description": "1 where a value was measured.",
            **named,
            "input": _images(card, "uint8"),
        },
        {
            "name": "fill",
            "description": "1 where a value is to be generated.",
            **named,
            "input": _images(card, "uint8"),
        },
    ]
    if "super_resolve" in card.verbs:
        coarse = _images(card, "float32")
        coarse["shape"][-2:] = [-1, -1]
        about = "The coarser measurement to super-resolve, NaN where missing."
        inputs.append(
            {
                "name": "coarse",
                "description": about,
                **named,
                "input": coarse,
                "value_scaling": scaling or None,
            }
        )
    if "metadata" in card.conditions:
        metadata: dict[str, Any] = {
            "shape": [card.batch, -1, len(METADATA_FIELDS)],
            "dim_order": ["batch", "time", "channel"],
            "data_type": "float64",
        }
        about = f"Of each date: {', '.join(METADATA_FIELDS)}; NaN where unknown."
        inputs.append({"name": "metadata", "description": about, "input": metadata})
    return inputs


def _outputs(card: Card) -> list[dict[str, Any]]:
    named: dict[str, Any] = {"bands": list(card.bands)} if card.bands else {}
    return [
        {
            "name": "values",
            "description": "What is to be filled, in the units of the input; the rest as given.",
            "tasks": _tasks(card),
            **named,
            "result": _images(card, "float32"),
        }
    ]


def _hyperparameters(card: Card) -> dict[str, Any]:
    values: dict[str, Any] = {
        "tile_px": card.tile_px,
        "overlap_px": card.overlap_px,
        "multiple_of": card.multiple_of,
        "context_dates": card.context,
        "joint_steps": dict(card.joint_steps),
        "steps": dict(card.steps),
        "member_steps": dict(card.member_steps),
        "conditions": sorted(card.conditions),
    }
    if all(map(math.isfinite, card.gsd_m)):
        values["gsd_m"] = list(card.gsd_m)
    return values


def _asset(artifact: Artifact, card: Card) -> dict[str, Any]:
    # STAC 1.1 allows bands in the properties, where MLM wants them, only if an asset names them too.
    named: dict[str, Any] = {"bands": [{"name": name} for name in card.bands]} if card.bands else {}
    return {
        "href": artifact.href,
        "type": "application/octet-stream; framework=pytorch",
        "title": artifact.title or f"Weights {artifact.name!r}",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "safetensors.torch.save_file",
        "file:size": artifact.size,
        # A multihash: 12 is sha2-256, 20 its length of 32 bytes.
        "file:checksum": f"1220{artifact.sha256}",
        **named,
    }


def _parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
