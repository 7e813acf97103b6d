"""The layout of land: a function of the absolute pixel, made of pieces of one colour, with roads and rivers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoaug.generators.embedded.parcels import layout


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
    whole = layout((row, col), (2, 56, 60), gsd_m=gsd_m, seed=seed)
    part = layout((row + down, col + right), (2, 16, 20), gsd_m=gsd_m, seed=seed)
    assert part.tobytes() == whole[:, down : down + 16, right : right + 20].tobytes()


@pytest.mark.parametrize("changed", [{"seed": 1}, {"member": 1}])
def test_another_identity_is_another_plane(changed):
    identity = {"seed": 0, "member": 0}
    one = layout((0, 0), (1, 64, 64), gsd_m=10.0, **identity)
    other = layout((0, 0), (1, 64, 64), gsd_m=10.0, **(identity | changed))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


def test_another_date_is_the_same_land_with_some_of_its_ground_changed():
    for seed in range(8):
        one, other = (layout((0, 0), (1, 160, 160), gsd_m=20.0, seed=seed, time=time)[0] for time in (0, 9))
        np.testing.assert_array_equal(np.diff(one, axis=0) != 0, np.diff(other, axis=0) != 0)
        lasting = (one == np.float32(1.7)) | (one == np.float32(-2.2))
        np.testing.assert_array_equal(one[lasting], other[lasting])
        assert 0.5 < np.corrcoef(one[~lasting], other[~lasting])[0, 1] < 0.99


def test_pieces_are_of_one_colour_and_some_hundred_metres_wide():
    """Neighbours are equal but for borders; finer pixels see wider pieces; the numbers are standard."""
    shares = []
    for gsd_m in (10.0, 30.0):
        planes = np.stack([layout((0, 0), (3, 192, 192), gsd_m=gsd_m, seed=seed) for seed in range(8)])
        differs = np.diff(planes[:, 1], axis=-1) != 0
        shares.append(differs.mean())
    assert 0.02 < shares[0] < 0.15
    assert 1.5 < shares[1] / shares[0] < 4.0
    assert abs(planes[:, 1:].mean()) < 0.15
    assert 0.9 < planes[:, 1:].std() < 1.1


def test_some_planes_have_roads_and_some_rivers():
    """Roads part blocks: thin everywhere. Rivers are wider, and there are fewer."""
    planes = np.stack([layout((0, 0), (1, 128, 128), gsd_m=20.0, seed=seed)[0] for seed in range(24)])
    road, river = (planes == np.float32(number) for number in (1.7, -2.2))
    with_roads, with_rivers = road.any(axis=(1, 2)).mean(), river.any(axis=(1, 2)).mean()
    assert 0.4 < with_roads < 0.8
    assert 0.05 < with_rivers < with_roads
    inside = (
        road[:, 2:-2, 2:-2] & road[:, :-4, 2:-2] & road[:, 4:, 2:-2] & road[:, 2:-2, :-4] & road[:, 2:-2, 4:]
    )
    assert inside.sum() < 0.1 * road.sum(), "no wider than a few pixels, but where they cross"
