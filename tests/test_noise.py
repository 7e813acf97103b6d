"""Noise belongs to a place: golden bytes, windows that agree, identities that do not correlate."""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoaug.raster.noise import CELL_PX, normal

far = st.integers(-(2**40), 2**40)


def test_golden_bytes():
    """The numbers are a promise: another release must make the same."""
    golden = {
        (0, 0): "2fa2f5f2033a265dff6284e8a1aa102c4e8c448d6aba96b8a0dfbd8cb9f0d691",
        (-70, 1_000_000): "ba71230cda2f2aa3e73a0437aaa004355c3d71c7db786f5d855ddc079c6d36f9",
    }
    for origin, expected in golden.items():
        field = normal(origin, (2, 80, 90), seed=7, stream="golden", member=3, time=1_600_000_000)
        little = np.ascontiguousarray(field, "<f4").tobytes()
        assert hashlib.sha256(little).hexdigest() == expected


@given(
    origin=st.tuples(far, far),
    shift=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    shape=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    seed=st.integers(0, 2**63),
)
def test_windows_agree_where_they_overlap(origin, shift, shape, seed):
    whole = normal(origin, (2, 180, 180), seed=seed)
    start = origin[0] + shift[0], origin[1] + shift[1]
    part = normal(start, (2, *shape), seed=seed)
    rows, cols = (slice(s, s + n) for s, n in zip(shift, shape, strict=True))
    np.testing.assert_array_equal(part, whole[:, rows, cols])


def test_cells_around_the_origin_differ():
    field = normal((-CELL_PX, -CELL_PX), (1, 2 * CELL_PX, 2 * CELL_PX))[0]
    cells = [field[r:, c:][:CELL_PX, :CELL_PX].ravel() for r in (0, CELL_PX) for c in (0, CELL_PX)]
    for one, other in combinations(cells, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08


def test_a_channel_keeps_its_numbers_whatever_comes_after_it():
    three = normal((5, -9), (3, 70, 40), seed=1)
    np.testing.assert_array_equal(normal((5, -9), (1, 70, 40), seed=1), three[:1])
    np.testing.assert_array_equal(normal((5, -9), (2, 70, 40), seed=1), three[:2])


IDENTITIES = [
    {},
    {"seed": 1},
    {"seed": 2**63 - 1},
    {"member": 1},
    {"member": 2},
    {"time": 1},
    {"time": 86_400},
    {"time": -1},
    {"stream": "a"},
    {"stream": "a|1"},
]


def test_identities_are_uncorrelated_at_every_shift():
    """Counters that overlap would show as equal numbers at some offset, not at the same pixel."""
    fields = [normal((0, 0), (1, CELL_PX, CELL_PX), **identity).ravel() for identity in IDENTITIES]
    for one, other in combinations(fields, 2):
        spectrum = np.fft.rfft(one) * np.conj(np.fft.rfft(other))
        correlation = np.fft.irfft(spectrum, len(one)) / len(one)
        assert np.abs(correlation).max() < 0.08
        assert len(np.intersect1d(one, other)) < 8


def test_channels_are_uncorrelated():
    planes = normal((0, 0), (4, 256, 256)).reshape(4, -1)
    for one, other in combinations(planes, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_white_and_standard_normal(seed):
    field = normal((0, 0), (1, 512, 512), seed=seed)[0].astype(np.float64)
    assert abs(field.mean()) < 0.01
    assert abs(field.std() - 1) < 0.01
    assert abs((field**4).mean() - 3) < 0.1
    for rows, cols in ((0, 1), (1, 0), (1, 1), (0, CELL_PX), (CELL_PX, 0)):
        here = field[: 512 - rows, : 512 - cols].ravel()
        there = field[rows:, cols:].ravel()
        assert abs(np.corrcoef(here, there)[0, 1]) < 0.01
    assert field.dtype == np.float64
    assert normal((0, 0), (1, 1, 1)).dtype == np.float32
