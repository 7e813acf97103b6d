"""The synthetic mask's codes, and the share that they count."""

from __future__ import annotations

import numpy as np
import pytest

from eoaug.cube.synthetic import ATTRIBUTES, GENERATED, MEASURED, OUTSIDE, TRANSFERRED, SyntheticShare


def test_codes_and_attributes_are_those_of_the_files():
    assert [int(code) for code in (MEASURED, GENERATED, TRANSFERRED, OUTSIDE)] == [0, 1, 2, 255]
    meanings = dict(zip(ATTRIBUTES["flag_meanings"].split(), ATTRIBUTES["flag_values"].tolist(), strict=True))
    assert meanings == {"measured": 0, "generated": 1, "transferred": 2, "outside": 255}


def test_the_share_is_of_pixels_inside_the_scene_block_by_block():
    count = SyntheticShare()
    assert count.share is None
    count.add(np.full((2, 3), OUTSIDE))
    assert count.share is None
    count.add(np.array([[MEASURED, GENERATED], [TRANSFERRED, OUTSIDE]]))
    count.add(np.full((1, 5), MEASURED))
    assert count.share == pytest.approx(2 / 8)
