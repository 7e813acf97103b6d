"""What a result is: the token of its request, the record of its making, its distance from the measurement."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata as package_metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.cube.provenance import Provenance, capability, digital_source_type, software
from eoaug.engine.inputs import Inputs
from eoaug.engine.plan import Plan
from eoaug.engine.tile_requests import valid

__all__ = ["record_of", "residual_of"]


_ITEM = ("item_id", "item_href")
"""Coordinates that name the items of a cube."""
_CHECKPOINT_LIBRARIES = ("diffusers", "peft", "transformers")


def record_of(made: Plan, cube: Cube, parameters: Mapping[str, Any], guide: Any = None) -> Provenance:
    """Return the record that the result and its files carry; a guide's items are sources like the cube's."""
    torch = bool(made.card.sha256)
    if torch:
        # Bytes are promised per version of torch and instruction set; the record names both.
        importlib.import_module("torch")
    sources = _sources(cube.along_time("item_id"), cube.along_time("item_href"))
    if guide is not None:
        told = {name: np.atleast_1d(guide[name].values) for name in _ITEM if name in guide.coords}
        sources += _sources(told.get("item_id"), told.get("item_href"))
    slots = made.card.bands
    units = (
        {layer.name: (made.card.mean[layer.slot], made.card.std[layer.slot]) for layer in made.layers}
        if made.card.mean and slots
        else {}
    )
    record = Provenance(
        operation=made.verb,
        generator=made.card.name,
        model_sha256=made.card.sha256,
        licence=made.card.licence,
        model_files=dict(made.card.files),
        model_units=units,
        bands={layer.name: made.origin_of(layer) for layer in made.layers},
        seed=made.seed,
        members=made.members,
        parameters=parameters,
        token=made.token,
        sources=tuple(sources),
        digital_source_type=digital_source_type(trained=torch, measured=made.has_input),
        software=software(torch=torch),
        cpu_capability=capability(torch=torch),
    )
    # A checkpoint's pixels depend on the libraries that build its networks, too.
    used = _CHECKPOINT_LIBRARIES if made.card.files else ()
    versions = {name: package_metadata.version(name) for name in used}
    return replace(record, software={**record.software, **versions})


def _sources(ids: Iterable[Any] | None, hrefs: Iterable[Any] | None) -> list[dict[str, str]]:
    """Return id and address of items; one date may join several with semicolons."""
    found: list[dict[str, str]] = []
    if ids is not None:
        for joined, link in zip(ids, hrefs if hrefs is not None else itertools.repeat(""), strict=False):
            pairs = zip(str(joined).split(";"), str(link).split(";"), strict=False)
            found += [{"id": one, "href": href} for one, href in pairs if one]
    return found


def residual_of(
    made: Plan, inputs: Inputs, arrays: Mapping[str, NDArray[Any]]
) -> float | dict[str, float] | None:
    """Return the largest |sensor(result) - measurement| by band in physical units.

    0 for the verbs that keep every measured pixel. A band without a measurement is left out; None without any.
    """
    if made.verb in ("inpaint", "extend"):
        return 0.0
    if made.sensor is None or made.reduce is not None:
        return None
    out = {}
    for layer, band in zip(made.layers, inputs.bands, strict=True):
        sensor = made.sensor.of_band(layer.slot)
        worst: list[float] = []
        # One date and member at a time: the check must not need more memory than the work.
        result = arrays[layer.name].reshape(-1, len(made.out_times), *arrays[layer.name].shape[-2:])
        for k, measured in enumerate(np.asarray(band)):
            # A measurement beside a gap saw pixels that the result does not show.
            checked = ~_grown(~valid(layer, measured))
            for values in result[:, k]:
                physical = np.where(valid(layer, values), layer.to_physical(values), np.nan)
                error = np.abs(sensor.degrade(physical[None])[0] - layer.to_physical(measured))[checked]
                worst += [float(np.nanmax(error))] if error.size else []
        if worst:
            out[layer.name] = max(worst)
    return out or None


def _grown(mask: NDArray[np.bool_], cells: int = 2) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=cells))
