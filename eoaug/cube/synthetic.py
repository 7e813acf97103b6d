"""The synthetic mask: its name and its codes."""

from __future__ import annotations

import numpy as np

__all__ = ["GENERATED", "MEASURED", "OUTSIDE", "SYNTHETIC", "TRANSFERRED"]


MEASURED, GENERATED, TRANSFERRED, OUTSIDE = (np.uint8(n) for n in (0, 1, 2, 255))

SYNTHETIC = "synthetic"
"""Name of the variable that marks where each pixel comes from."""
