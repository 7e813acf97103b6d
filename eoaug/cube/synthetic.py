"""The synthetic mask: its codes, its attributes, and the share of pixels that were not measured.

Every result carries it as the uint8 variable `SYNTHETIC`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.bands import SYNTHETIC

__all__ = [
    "ATTRIBUTES",
    "GENERATED",
    "MEASURED",
    "OUTSIDE",
    "SYNTHETIC",
    "TRANSFERRED",
    "SyntheticShare",
]

MEASURED, GENERATED, TRANSFERRED, OUTSIDE = (np.uint8(n) for n in (0, 1, 2, 255))
"""Codes of a pixel: as given; made by the generator; derived from generated bands; beyond the scene."""

ATTRIBUTES: Mapping[str, Any] = {
    "long_name": "origin of the pixel",
    "flag_values": np.array([MEASURED, GENERATED, TRANSFERRED, OUTSIDE], dtype=np.uint8),
    "flag_meanings": "measured generated transferred outside",
}
"""CF attributes of the variable."""


@dataclass
class SyntheticShare:
    """Counts, block by block, which share of the pixels inside the scene was not measured."""

    inside: int = 0
    """Pixels that are not `OUTSIDE`."""
    synthetic: int = 0
    """Pixels that are `GENERATED` or `TRANSFERRED`."""

    def add(self, mask: NDArray[np.uint8]) -> None:
        """Count a block of the mask, of any shape."""
        self.inside += int((mask != OUTSIDE).sum())
        self.synthetic += int(((mask == GENERATED) | (mask == TRANSFERRED)).sum())

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None without a pixel inside the scene."""
        return self.synthetic / self.inside if self.inside else None
