"""The plan: everything about a result except its pixels.

A `Plan` says which tiles a chunk needs, how far a pixel reaches, how many forwards the model will do
and what the output looks like. The run uses the same numbers, so it cannot differ from what
`Plan.explain` shows. No dask, no tensors, and no pixels except dummy tiles to time the generator.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from eoaug.engine.explain import Explanation, explain, measured
from eoaug.engine.layout import Layout

__all__ = ["Plan"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Layout):
    """A request over a whole cube, ready to run anywhere."""

    def explain(self, *, measure: bool = False, calibrate: bool | None = None) -> Explanation:
        """Return what the run will cost: tiles, forwards, extra work by overlap, bytes, memory.

        No pixel of the input is read.

        Parameters
        ----------
        measure
            True runs a few batches of dummy tiles through the generator and adds an estimate of the time;
            False never calls the generator.
        calibrate
            Former name of ``measure``, accepted until 0.3 with a `DeprecationWarning`.
        """
        if calibrate is not None:
            message = "explain: calibrate is now measure; the former name will be removed in eoaug 0.3"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            measure = measure or calibrate
        return explain(self, measured(self) if measure else None)

    def __repr__(self) -> str:
        """Return a line: what is made on which grid with which generator."""
        rows, cols = self.grid.geobox.shape.yx
        return (
            f"<Plan {self.verb} {len(self.calendar.out_times)} x {rows} x {cols} x {len(self.bands.layers)} "
            f"bands with {self.card.name!r}, token {self.token[:12]}>"
        )
