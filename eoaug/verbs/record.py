"""The provenance record of a result, and its residual against the measurement."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata as package_metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.cube.provenance import Provenance, capability, digital_source_type, software
from eoaug.cube.roles import label_variables
from eoaug.engine.inputs import Inputs
from eoaug.engine.plan import Plan
from eoaug.engine.tile_requests import valid
from eoaug.engine.values import Layer
from eoaug.generators.base import Card

__all__ = ["record_of", "residual_of", "sources_of"]


_ITEM = ("item_id", "item_href")
"""Coordinates that name the items of a cube."""
_CHECKPOINT_LIBRARIES = ("diffusers", "peft", "transformers")


def record_of(plan: Plan, cube: Cube, parameters: Mapping[str, Any], guide: Any = None) -> Provenance:
    """Return the provenance record of a result.

    Parameters
    ----------
    plan
        The plan of the result.
    cube
        The cube that it was made from; its items are the sources.
    parameters
        The verb's arguments that are not in the plan's own fields, as JSON values.
    guide
        The conditioning raster; its items are sources too.
    """
    card, sampling = plan.card, plan.sampling
    # Its weights take no part where the priors make everything.
    trained = bool(card.sha256) and any(
        x.origin != "observed" and not x.extra_kind for x in plan.bands.layers
    )
    # Without torch, what needs no network is made all the same.
    torch = trained and find_spec("torch") is not None
    if torch:
        # Bytes are promised per version of torch and instruction set: the record holds both.
        importlib.import_module("torch")
    sources = sources_of(cube)
    if guide is not None:
        coords = {name: np.atleast_1d(guide[name].values) for name in _ITEM if name in guide.coords}
        sources += _sources(coords.get("item_id"), coords.get("item_href"))
    units = {}
    if card.mean and card.bands:
        units = {layer.name: _units(card, layer) for layer in plan.bands.layers}
    record = Provenance(
        operation=plan.verb,
        generator=card.name,
        model_sha256=card.sha256,
        licence=card.licence,
        model_files=dict(card.files),
        model_units=units,
        bands={layer.name: layer.origin for layer in plan.bands.layers}
        | dict.fromkeys(_labels(plan, cube), "observed"),
        prior_bands=tuple(layer.name for layer in plan.bands.extra),
        seed=sampling.seed,
        members=sampling.members,
        parameters=parameters,
        token=plan.token,
        sources=tuple(sources),
        digital_source_type=digital_source_type(
            trained=trained,
            measured=plan.calendar.has_input,
        ),
        software=software(torch=torch),
        cpu_capability=capability(torch=torch),
    )
    # A checkpoint's pixels also depend on the libraries that build its networks.
    used = _CHECKPOINT_LIBRARIES if card.files else ()
    versions = {name: package_metadata.version(name) for name in used}
    return replace(record, software={**record.software, **versions})


def _labels(plan: Plan, cube: Cube) -> list[str]:
    """Return the labels that the result keeps."""
    if not plan.calendar.has_input:
        return []
    dropped = cube.name_time if plan.verb == "extend" else None
    return [name for name in label_variables(cube.source) if dropped not in cube.source[name].dims]


def _units(card: Card, layer: Layer) -> tuple[float, float]:
    """Return the physical value of a band at model unit 0, and the physical size of one model unit."""
    if not layer.extra_kind:
        return card.mean[layer.slot], card.std[layer.slot]
    back = layer.to_model.inverse.then(layer.to_physical)
    # Rounded: composed maps differ from the constants in their last bits.
    return float(f"{back.offset:.12g}"), float(f"{back.scale:.12g}")


def sources_of(cube: Cube) -> list[dict[str, str]]:
    """Return id and address of the items that a cube was made from."""
    return _sources(cube.along_time("item_id"), cube.along_time("item_href"))


def _sources(ids: Iterable[Any] | None, hrefs: Iterable[Any] | None) -> list[dict[str, str]]:
    """Return id and address of the items; one date may join several with semicolons."""
    sources: list[dict[str, str]] = []
    if ids is not None:
        for joined, link in zip(ids, hrefs if hrefs is not None else itertools.repeat(""), strict=False):
            pairs = zip(str(joined).split(";"), str(link).split(";"), strict=False)
            sources += [{"id": name, "href": href} for name, href in pairs if name]
    return sources


def residual_of(
    plan: Plan, inputs: Inputs, arrays: Mapping[str, NDArray[Any]]
) -> float | dict[str, float] | None:
    """Return the largest |sensor(result) - measurement| by band in physical units.

    0 for the verbs that keep every measured pixel. A band without a measurement is left out; None without any.
    """
    if plan.verb in ("inpaint", "extend", "translate"):
        return 0.0
    if not (plan.grid.sensor or plan.grid.guided) or plan.sampling.reduce is not None:
        return None
    out = {}
    for layer, band in zip(plan.bands.layers, inputs.bands, strict=True):
        if plan.grid.guided:
            if (worst_of := _guided_residual(plan, layer, band, arrays[layer.name])) is not None:
                out[layer.name] = worst_of
            continue
        assert plan.grid.sensor is not None
        sensor = plan.grid.sensor.of_band(layer.slot).of_decibels
        worst: list[float] = []
        # One date and member at a time: the check must not need more memory than the run.
        result = arrays[layer.name].reshape(-1, len(plan.calendar.out_times), *arrays[layer.name].shape[-2:])
        for k, measured in enumerate(np.asarray(band)):
            missing = ~valid(layer, measured)
            if inputs.mask is not None:
                missing |= np.asarray(inputs.mask[k])
            # A measurement next to a gap includes pixels that are missing in the result.
            checked = ~_grown(missing)
            for values in result[:, k]:
                physical = np.where(valid(layer, values), layer.to_physical(values), np.nan)
                error = np.abs(sensor.degrade(physical[None])[0] - layer.to_physical(measured))[checked]
                worst += [float(np.nanmax(error))] if error.size else []
        if worst:
            out[layer.name] = max(worst)
    return out or None


def _guided_residual(plan: Plan, layer: Layer, given: Any, result: NDArray[Any]) -> float | None:
    """Return the largest |sensor(result) - measurement| of a band that was sharpened on its own grid."""
    sensor = plan.grid.guided[layer.slot]
    if sensor is None:
        return 0.0
    f = sensor.factor
    top, left = (-at % f for at in plan.grid.origin)
    rows, cols = (
        slice(first, first + (size - first) // f * f)
        for first, size in zip((top, left), given.shape[1:], strict=True)
    )
    worst: list[float] = []
    for before, after in zip(np.asarray(given), result, strict=True):
        measured = np.where(valid(layer, before), layer.to_physical(before), np.nan)[rows, cols]
        fine = np.where(valid(layer, after), layer.to_physical(after), np.nan)[rows, cols]
        cells = measured[::f, ::f]
        error = np.abs(sensor.of_decibels.degrade(fine[None])[0] - cells)[~_grown(np.isnan(cells))]
        worst += [float(np.nanmax(error))] if error.size else []
    return max(worst, default=None)


def _grown(mask: NDArray[np.bool_], cells: int = 2) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=cells))
