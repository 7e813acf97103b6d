"""Running a verb: on a cube or a tree, and from the plan's pixels to the user's form."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube import provenance
from eoaug.cube.rebuild import ResultForm, rebuild, with_earlier_mask
from eoaug.cube.roles import label_names
from eoaug.cube.synthetic import GENERATED, SYNTHETIC, TRANSFERRED, SyntheticShare
from eoaug.engine.eager import compute
from eoaug.engine.plan import Plan
from eoaug.errors import BandError, EoaugWarning, error_context
from eoaug.generators.base import Verb
from eoaug.raster.variables import LABEL, ROLE
from eoaug.verbs.checks import unknown
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb
from eoaug.verbs.record import record_of, residual_of
from eoaug.verbs.uncertainty import calibrate

__all__ = ["extreme_share", "finish", "over_tree", "run_verb"]


_PACKAGE = str(Path(__file__).parent.parent)


def extreme_share(verb: str, share: float) -> str:
    """Return what to warn of if a verb generated none of the pixels, or inpaint all; else an empty text."""
    if share == 0:
        return f"{verb} filled nothing: 0 % of the pixels were generated, 100 % are as given; check mask and fill"
    if share == 1 and verb == "inpaint":
        return "inpaint filled everything: 100 % of the pixels were generated, 0 % are measured; check mask and fill"
    return ""


def run_verb(
    verb: Verb, prepare: Callable[..., PreparedVerb], obj: Any, options: Any, **arguments: Any
) -> Any:
    """Run a verb on an object; on a DataTree, on every node with bands."""
    with error_context(verb):
        for name in options:
            if name not in Options.__annotations__:
                raise unknown("argument", name, [*arguments, *Options.__annotations__])
        if isinstance(obj, xr.DataTree):
            return over_tree(
                lambda node: finish(prepare(node, _of_node(options, node, obj), **arguments)), obj
            )
        return finish(prepare(obj, options, **arguments))


def _of_node(options: Any, node: xr.Dataset, tree: xr.DataTree) -> Any:
    """Return the options for one node: of the labels those that it has, or that no node has."""
    names = label_names(options.get("labels"))
    kept = [
        n for n in names if n in node.data_vars or not any(n in other.data_vars for other in tree.subtree)
    ]
    return {**options, "labels": kept} if names else options


def over_tree(run: Callable[[xr.Dataset], Any], tree: xr.DataTree) -> xr.DataTree:
    """Return a tree with the results of the nodes that have bands; the others as they are."""
    results, others = {}, {}
    nodes_by_text: dict[tuple[type[Warning], str], list[str]] = {}
    for node in tree.subtree:
        dataset = node.to_dataset()
        has_bands = any(
            {"y", "x"} <= {str(d).lower()[:1] for d in v.dims} or v.ndim >= 2 for v in node.data_vars.values()
        )
        if has_bands:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                results[node.path] = run(dataset)
            for text in dict.fromkeys((w.category, str(w.message)) for w in caught):
                nodes_by_text.setdefault(text, []).append(node.path)
        else:
            others[node.path] = dataset
    for (category, message), paths in nodes_by_text.items():  # once per call, not per node
        warnings.warn(f"{', '.join(paths)}: {message}", category, skip_file_prefixes=(_PACKAGE,))
    if not results:
        raise BandError("the DataTree has no node with bands", "give a tree as eoaug.open_cube returns it")
    return xr.DataTree.from_dict({**others, **results}, name=tree.name)


def _warn_of_extremes(plan: Plan, mask: NDArray[np.uint8]) -> None:
    """Warn once if a verb filled nothing, or inpaint everything."""
    share = float(np.isin(mask, (GENERATED, TRANSFERRED)).mean())
    if text := extreme_share(plan.verb, share):
        warnings.warn(text, EoaugWarning, skip_file_prefixes=(_PACKAGE,))


def finish(prepared: PreparedVerb, arrays: Mapping[str, Any] | None = None) -> Any:
    """Return the result of a verb in the user's form.

    Parameters
    ----------
    prepared
        The verb before its run.
    arrays
        What the run gave; None: it is run here.
    """
    cube, plan = prepared.cube, prepared.plan
    record = record_of(plan, cube, prepared.parameters, prepared.guide)
    if arrays is None and prepared.lazy:
        from eoaug.engine.dask_graph import build

        arrays = dict(build(plan, prepared.inputs))
    elif arrays is None:
        arrays = dict(compute(plan, prepared.inputs, progress=prepared.progress))
    coverage: dict[str, Any] = {}
    if plan.sampling.calibrated:
        arrays, calibration = calibrate(plan, prepared.inputs, arrays)
        coverage = {band.name: calibration.coverage(band.name) for band in cube.bands}
        record = replace(record, parameters={**record.parameters, "calibration": coverage})
    mask = arrays[SYNTHETIC]
    if plan.calendar.has_input and plan.grid.factor == 1:
        given = np.searchsorted(plan.calendar.out_times, plan.calendar.in_times)
        mask = with_earlier_mask(cube, mask, given)
    if not prepared.lazy:
        _warn_of_extremes(plan, np.asarray(arrays[SYNTHETIC]))
        mask = np.asarray(mask)
        count = SyntheticShare()
        count.add(mask)
        residual = residual_of(plan, prepared.inputs, arrays)
        record = replace(record, synthetic_fraction=count.share, residual=residual)
    result = rebuild(
        cube,
        {band.name: arrays[band.name] for band in cube.bands},
        mask,
        _errors(plan, arrays, coverage),
        ResultForm(
            times=prepared.times,
            geobox=plan.grid.geobox,
            members=plan.sampling.result_members,
            keep_type=plan.sampling.keeps_type,
        ),
    )
    if name := plan.sampling.class_map:
        result = _with_classes(result, name, arrays[name], plan.card.classes)
        record = replace(record, bands={**record.bands, name: "generated"})
    return provenance.stamp(result, record)


def _with_classes(result: Any, name: str, data: Any, classes: Sequence[str]) -> Any:
    """Return a result with the classes that the generator has laid out, of shape ([member,] T, Y, X), as a label."""
    marks = result[SYNTHETIC].variable
    attrs = {
        "long_name": "classes that the generator laid out",
        "flag_values": np.arange(1, len(classes) + 1, dtype=np.uint8),
        "flag_meanings": " ".join("_".join(name.split()) for name in classes),
        ROLE: LABEL,
    }
    variable = xr.Variable(marks.dims, data if data.ndim == marks.ndim else data.squeeze(axis=-3), attrs)
    variable.encoding = {k: v for k, v in marks.encoding.items() if k == "grid_mapping"}
    return result.assign({name: variable})


def _errors(
    plan: Plan, arrays: Mapping[str, Any], coverage: Mapping[str, Any]
) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return pixels and attributes of the expected errors by band; empty without ``uncertainty``."""
    if not plan.sampling.uncertainty:
        return {}
    errors = {}
    for layer in plan.bands.layers:
        attrs: dict[str, Any] = {"long_name": f"expected error of {layer.name} (one standard deviation)"}
        for name, value in coverage.get(layer.name, {}).items():
            attrs[name] = json.dumps(value) if isinstance(value, dict) else value
        errors[layer.name] = arrays[layer.std_name], attrs
    return errors
