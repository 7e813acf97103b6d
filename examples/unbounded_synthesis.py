"""A landscape of a million by a million pixels that is never computed as a whole.

python examples/unbounded_synthesis.py [generator]
"""

import sys

import numpy as np

import eoaug

generator = sys.argv[1] if len(sys.argv) > 1 else "embedded"
world = {"crs": "EPSG:6933", "resolution": 10, "times": ["2024-06-01"], "generator": generator}


def window(left: float, top: float, edge: float) -> np.ndarray:
    """Red reflectance of a square of ``edge`` metres."""
    cube = eoaug.synthesize(like=(left, top - edge, left + edge, top), chunks=512, **world)
    return cube["red"].values[0]


half = 5_000_000.0
plan = eoaug.plan("synthesize", like=(-half, -half, half, half), chunks=2048, **world)
print(plan.explain())

# Every pixel is a function of its place: two windows are equal where they overlap, beyond the margin.
margin = plan.margin_px
side = 2 * margin + 96
here = window(1_500_000, 4_500_000, side * 10)
shifted = window(1_500_000 + 160, 4_500_000 - 160, side * 10)
inner = slice(margin + 16, side - margin)
same = np.array_equal(here[inner, inner], shifted[margin : side - margin - 16, margin : side - margin - 16])
print(f"two windows of {side} x {side} pixels, 16 pixels apart: their common middle is equal: {same}")
