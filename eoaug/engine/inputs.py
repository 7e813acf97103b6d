"""The arrays that a run reads, and the windows of them that a chunk needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eoaug.cube.synthetic import SYNTHETIC
from eoaug.engine.plan import Plan
from eoaug.engine.values import ChunkIndex
from eoaug.raster.tiles import Window

__all__ = ["Inputs", "date_steps", "dtypes_of", "indices_of", "input_windows", "member_plans"]


@dataclass(frozen=True)
class Inputs:
    """The source arrays of a plan, NumPy or dask, in (time, y, x) order on the input's grid."""

    bands: tuple[Any, ...] = ()
    """One array per layer of the plan, stored numbers."""
    mask: Any = None
    """Shape (Tin, Y, X), bool: what is no measurement of the ground; filled if plan.fill == "mask"."""
    layout: Any = None
    """Shape (K, Y, X), float32: the conditioning raster, on the result's grid."""

    def arrays(self) -> list[Any]:
        """Return all arrays in a fixed order."""
        return [*self.bands, *(a for a in (self.mask, self.layout) if a is not None)]


def input_windows(plan: Plan, inputs: Inputs, index: ChunkIndex) -> list[tuple[range, Window]]:
    """Return (dates, window) of every input array that a chunk needs, in `Inputs.arrays` order."""
    _, t, y, x = index
    reach = plan.reach(plan.core(y, x))
    dates, window = plan.context_dates(t), plan.grid.source_window(reach)
    needs = [(dates, window)] * len(inputs.bands)
    if inputs.mask is not None:
        needs.append((plan.calendar.mask_dates(dates), window))
    if inputs.layout is not None:
        top, left = plan.grid.origin
        needs.append((range(inputs.layout.shape[0]), reach.shift(-top, -left)))
    return needs


def indices_of(plan: Plan) -> Iterator[ChunkIndex]:
    """Yield the chunks of a result along (member, time, y, x)."""
    return plan.chunking.indices(plan.sampling.result_members or 1)


def dtypes_of(plan: Plan) -> dict[str, np.dtype[Any]]:
    """Return the variables of a result and their types."""
    layers = {layer.name: plan.sampling.dtype_of(layer) for layer in plan.bands.layers}
    errors = (
        {layer.std_name: np.dtype(np.float32) for layer in plan.bands.layers}
        if plan.sampling.uncertainty
        else {}
    )
    codes = [name for name in (plan.sampling.class_map, SYNTHETIC) if name]
    return layers | errors | dict.fromkeys(codes, np.dtype(np.uint8))


def date_steps(plan: Plan) -> Iterator[tuple[list[int], Plan]]:
    """Yield the dates that have pixels before each autoregressive step, and the plan of the step.

    The first passes the given dates through; each of the others generates one new date.
    """
    available = plan.calendar.in_times.tolist()
    yield available, plan.for_dates(available, available)
    for date in plan.calendar.new_dates:
        yield available, plan.for_dates(available, [date])
        available = sorted([*available, date])


def member_plans(plan: Plan) -> list[Plan]:
    """Return one autoregressive plan per ensemble member: each member's new dates depend on its own earlier ones."""
    if plan.sampling.members is None:
        return [plan]
    return [
        replace(plan, sampling=replace(plan.sampling, members=None, first_member=member))
        for member in range(plan.sampling.members)
    ]
