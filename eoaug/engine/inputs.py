"""The arrays that a run reads, and the windows of them that a chunk needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eoaug.cube.synthetic import SYNTHETIC
from eoaug.engine.plan import Plan
from eoaug.raster.tiles import Window

__all__ = ["Inputs", "dtypes_of", "indices_of", "input_windows", "turns", "ways"]


@dataclass(frozen=True)
class Inputs:
    """The source arrays of a plan, NumPy or dask, in (time, y, x) order on the input's grid."""

    bands: tuple[Any, ...] = ()
    """One array per layer of the plan, stored numbers."""
    mask: Any = None
    """Shape (Tin, Y, X), bool: what to fill (plan.fill == "mask")."""
    layout: Any = None
    """Shape (K, Y, X), float32, on the result's grid."""

    def arrays(self) -> list[Any]:
        """Return all arrays in a fixed order."""
        return [*self.bands, *(a for a in (self.mask, self.layout) if a is not None)]


def _layout_bounds(plan: Plan, core: Window) -> Window:
    reach = plan.reach(core)
    top, left = plan.origin
    return Window(reach.top - top, reach.left - left, reach.bottom - top, reach.right - left)


def input_windows(plan: Plan, inputs: Inputs, index: tuple[int, int, int, int]) -> list[tuple[range, Window]]:
    """Return (dates, window) of every input array that a chunk needs, in `Inputs.arrays` order."""
    _, t, y, x = index
    core = plan.core(y, x)
    dates, window = plan.context_dates(t), plan.source_window(plan.reach(core))
    needs = [(dates, window)] * (len(inputs.bands) + (inputs.mask is not None))
    if inputs.layout is not None:
        needs.append((range(inputs.layout.shape[0]), _layout_bounds(plan, core)))
    return needs


def indices_of(plan: Plan) -> Iterator[tuple[int, int, int, int]]:
    """Yield the chunks of a result along (member, time, y, x)."""
    members = plan.members if plan.members is not None and plan.reduce is None else 1
    for member in range(members):
        for t in range(len(plan.chunks[0])):
            for y in range(len(plan.chunks[1])):
                for x in range(len(plan.chunks[2])):
                    yield member, t, y, x


def dtypes_of(plan: Plan) -> dict[str, np.dtype[Any]]:
    """Return the variables of a result and their types."""
    return {layer.name: plan.dtype_of(layer) for layer in plan.layers} | {SYNTHETIC: np.dtype(np.uint8)}


def turns(plan: Plan) -> Iterator[tuple[list[int], Plan]]:
    """Yield the turns of a sequence: the dates that are there, and the plan of those to make of them.

    The first hands the given dates through, each of the others makes one new date.
    """
    there = plan.in_times.tolist()
    yield there, plan.turn(there, there)
    for date in plan.new_dates:
        yield there, plan.turn(there, [date])
        there = sorted([*there, date])


def ways(plan: Plan) -> list[Plan]:
    """Return the plan of a sequence by member: every one goes its own way."""
    if plan.members is None:
        return [plan]
    return [replace(plan, members=None, first_member=member) for member in range(plan.members)]
