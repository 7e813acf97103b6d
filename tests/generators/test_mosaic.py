"""The mosaic of parcels: a function of the absolute pixel, made of pieces of one colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoaug.generators.mosaic import parcels


@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(-10_000_000, 10_000_000),
    col=st.integers(-10_000_000, 10_000_000),
    down=st.integers(0, 40),
    right=st.integers(0, 40),
    gsd_m=st.sampled_from([1.0, 10.0, 30.0, 120.0, float("nan")]),
    seed=st.integers(0, 2**31),
)
def test_a_window_is_cut_from_the_whole_plane(row, col, down, right, gsd_m, seed):
    whole = parcels((row, col), (2, 56, 60), gsd_m=gsd_m, seed=seed)
    part = parcels((row + down, col + right), (2, 16, 20), gsd_m=gsd_m, seed=seed)
    assert part.tobytes() == whole[:, down : down + 16, right : right + 20].tobytes()


@pytest.mark.parametrize("changed", [{"seed": 1}, {"member": 1}, {"time": 1}])
def test_another_identity_is_another_plane(changed):
    identity = {"seed": 0, "member": 0, "time": 0}
    one = parcels((0, 0), (1, 64, 64), gsd_m=10.0, **identity)
    other = parcels((0, 0), (1, 64, 64), gsd_m=10.0, **(identity | changed))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


def test_parcels_are_of_one_colour_and_some_hundred_metres_wide():
    """Neighbours are equal but for boundaries; finer pixels see wider parcels; the numbers are standard."""
    shares = []
    for gsd_m in (10.0, 30.0):
        planes = np.stack([parcels((0, 0), (3, 256, 256), gsd_m=gsd_m, seed=seed) for seed in range(12)])
        differs = np.diff(planes[:, 0], axis=-1) != 0
        shares.append(differs.mean())
    assert 0.02 < shares[0] < 0.1
    assert 1.5 < shares[1] / shares[0] < 4.0
    assert abs(planes.mean()) < 0.15
    assert 0.9 < planes.std() < 1.1
