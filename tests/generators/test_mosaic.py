"""The mosaic of parcels: a function of the absolute pixel, made of pieces of one colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoaug.generators.mosaic import draft, parcels


@pytest.mark.parametrize("plane", [parcels, draft])
@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(-10_000_000, 10_000_000),
    col=st.integers(-10_000_000, 10_000_000),
    down=st.integers(0, 40),
    right=st.integers(0, 40),
    gsd_m=st.sampled_from([1.0, 10.0, 30.0, 120.0, float("nan")]),
    seed=st.integers(0, 2**31),
)
def test_a_window_is_cut_from_the_whole_plane(plane, row, col, down, right, gsd_m, seed):
    whole = plane((row, col), (2, 56, 60), gsd_m=gsd_m, seed=seed)
    part = plane((row + down, col + right), (2, 16, 20), gsd_m=gsd_m, seed=seed)
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


def test_a_draft_is_standard_and_rough_here_and_plain_there():
    planes = np.stack([draft((0, 0), (2, 192, 192), gsd_m=20.0, seed=seed) for seed in range(24)])
    assert abs(planes.mean()) < 0.1
    assert 0.9 < planes.std() < 1.1
    assert abs(np.corrcoef(planes[:, 0].ravel(), planes[:, 1].ravel())[0, 1]) < 0.1
    steps = np.abs(np.diff(planes[:, 0], axis=-1))
    blocks = np.median(steps[..., :184].reshape(24, 12, 16, 23, 8), axis=(2, 4))
    assert (np.quantile(blocks, 0.9, axis=(1, 2)) / np.quantile(blocks, 0.1, axis=(1, 2))).mean() > 1.8
