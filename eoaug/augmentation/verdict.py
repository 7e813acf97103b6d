"""`Verdict`: what the gate found about images that were made of a training set, as a file that training obeys."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eoaug.display import Shown
from eoaug.errors import ParameterError, first_line
from eoaug.storage.atomic import atomic_write

__all__ = ["VERDICT", "Verdict", "read_verdict"]

VERDICT = "verdict.json"
"""Name of the file."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict(Shown):
    """Whether made images improve a model of the task, and in which share."""

    use: bool
    """Whether the whole interval of the gain is above 0."""
    p: float
    """Share of the real images to replace; 0 where the made images are not to be used."""
    augmentation: str
    """Augmentation of the arm with made images that was chosen on the validation split."""
    rival: str
    """Augmentation of the arm of real images with the best score on the test split."""
    metric: str
    score: float
    """Of the chosen arm on the test split, mean over seeds, 0 to 1."""
    gain: float
    """Score of the chosen arm minus that of the rival."""
    low: float
    high: float
    """Interval of the gain of 95 %, over test places and seeds."""
    tried: float
    """Share of replaced images of the chosen arm, whether or not it is to be used."""
    arms: int
    """Number of arms that were trained."""
    seeds: int
    updates: int
    """Of every arm and seed."""
    report: Mapping[str, Any]
    """All scores, by share of the training set, arm and class; see the page next to the file."""

    def __str__(self) -> str:
        """Return one line."""
        rival = f"over the best classical arm ({self.rival})"
        gain = f"{100 * self.gain:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}] points of {self.metric} {rival}"
        return f"use p={self.p:g}: {gain}" if self.use else f"do not use: p={self.tried:g} gives {gain}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def write(self, folder: Path) -> Path:
        """Write the file into a folder; the same verdict has the same bytes."""
        path = folder / VERDICT
        with atomic_write(path, overwrite=True) as scratch:
            scratch.write_text(json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return path


def read_verdict(source: Any) -> tuple[bool, float]:
    """Return whether to use made images, and the share of real images that they replace.

    Parameters
    ----------
    source
        A `Verdict`, an object with ``use`` and ``p``, or the address of a ``verdict.json`` or of the folder that holds it.

    Raises
    ------
    ParameterError
        There is no such file, or it holds no verdict.
    """
    if not isinstance(source, str | os.PathLike):
        use, p = source.use, source.p
    else:
        path = Path(source).expanduser()
        path = path / VERDICT if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            use, p = content["use"], content["p"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ParameterError(
                f"verdict={str(source)!r} cannot be read: {first_line(error)}",
                f"give the {VERDICT} that eoaug.gate has written",
            ) from error
    if not isinstance(use, bool) or isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ParameterError(
            f"the verdict has use={use!r} and p={p!r}", f"give the {VERDICT} that eoaug.gate has written"
        )
    return use, float(p)
