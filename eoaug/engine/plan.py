"""The plan: everything about a result except its pixels.

A `Plan` says which tiles a chunk needs, how far a pixel reaches, how many forwards the model will do
and what the output looks like. The run follows the same numbers, so it cannot drift from what
`Plan.explain` shows. Integer arithmetic; no pixels but made-up ones to time, no dask, no tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eoaug.engine.explain import Explanation, calibrated, explain
from eoaug.engine.layout import Layout
from eoaug.errors import ParameterError

if TYPE_CHECKING:
    pass

__all__ = ["Plan", "check_joint", "token_of"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Layout):
    """A request over a whole cube, ready to run anywhere.

    Notes
    -----
    ``explain()`` costs integer arithmetic only; no pixel is read, and the model is called to be timed alone.
    """

    def explain(self, *, calibrate: bool = False) -> Explanation:
        """Return what the run will cost: tiles, forwards, extra work by overlap, bytes, memory.

        Parameters
        ----------
        calibrate
            True runs some batches of made-up tiles through the generator and adds an estimate of the time.
        """
        return explain(self, calibrated(self) if calibrate else None)

    def __repr__(self) -> str:
        """Return a line: what is made on which grid with which generator."""
        rows, cols = self.geobox.shape.yx
        return (
            f"<Plan {self.verb} {len(self.out_times)} x {rows} x {cols} x {len(self.layers)} bands "
            f"with {self.card.name!r}, token {self.token[:12]}>"
        )


def token_of(parts: Mapping[str, Any]) -> str:
    """Return the hash of JSON-able parts, as 64 hexadecimal digits."""
    try:
        text = json.dumps(parts, sort_keys=True, allow_nan=True, default=str)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the parameters cannot be hashed: {error}", "use plain values") from error
    return hashlib.sha256(text.encode()).hexdigest()


def check_joint(steps: int, joint_steps: int) -> None:
    """Refuse a joint count that leaves no step for the tile alone."""
    if joint_steps and joint_steps >= max(steps, 1):
        raise ParameterError(
            f"joint_steps={joint_steps} leaves no single step of steps={steps}",
            "use joint_steps below steps, e.g. joint_steps=2, steps=4",
        )
