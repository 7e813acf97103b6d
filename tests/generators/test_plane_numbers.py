"""Numbers of an unbounded plane: the same however they are asked for, with the shapes that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial

from eoaug.generators.embedded.plane_numbers import PlaneNumbers, joined

PLANE = PlaneNumbers(7, 1, 86_400)


def points(row, col, rows=24, cols=30):
    y, x = np.meshgrid(
        np.arange(row, row + rows, dtype=float), np.arange(col, col + cols, dtype=float), indexing="ij"
    )
    return y.ravel(), x.ravel()


def everything(y, x):
    blocks = PLANE.blocks("a", y, x, 9.0)
    along, across = blocks.turned(PLANE.of("turn", blocks.cells)[0])
    strip, side = PLANE.strips("s", across, blocks.cells, 3.0)
    return np.stack([
        PLANE.smooth("f", y, x, 7.0), PLANE.rough("r", y, x, [5, 2], [1, 0.5]), *blocks.cells, blocks.border,
        along, across, side, *strip, PLANE.dated("d", strip), *PLANE.of("n", strip, 2),
    ])  # fmt: skip


@settings(deadline=None)
@given(
    row=st.integers(-10_000, 10_000),
    col=st.integers(-10_000, 10_000),
    order=st.randoms(use_true_random=False),
)
def test_a_point_has_the_same_numbers_in_any_company(row, col, order):
    y, x = points(row, col)
    whole = everything(y, x)
    chosen = order.sample(range(len(y)), 40)
    np.testing.assert_array_equal(everything(y[chosen], x[chosen]), whole[:, chosen])


@pytest.mark.parametrize("other", [PlaneNumbers(8, 1), PlaneNumbers(7, 2)])
def test_planes_are_independent(other):
    y, x = points(0, 0, 200, 200)
    for step in (3.0, 20.0):
        first, second = PLANE.smooth("f", y, x, step), other.smooth("f", y, x, step)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.35
    assert (PLANE.of_plane("p", 3) != other.of_plane("p", 3)).all()


def test_only_dated_numbers_change_with_the_date_and_only_a_little():
    cells = np.stack([np.arange(400), np.arange(400) // 20])
    later = PlaneNumbers(7, 1, 0)
    np.testing.assert_array_equal(PLANE.of("n", cells), later.of("n", cells))
    first, second = PLANE.dated("n", cells), later.dated("n", cells)
    assert (first != second).all()
    assert 0.65 < np.corrcoef(first, second)[0, 1] < 0.85


def test_blocks_are_voronoi_cells_and_know_their_border():
    y, x = points(-60, 40, 80, 90)
    blocks = PLANE.blocks("v", y, x, 10.0)
    centres = np.unique(np.stack([y - blocks.down, x - blocks.right]).round(6), axis=1).T
    inner = (y > -40) & (y < 0) & (x > 60) & (x < 110)
    away = spatial.distance.cdist(np.stack([y, x], 1), centres)[inner]
    own, nearest = away.argmin(axis=1), away.min(axis=1)
    np.testing.assert_allclose(nearest, np.hypot(blocks.down, blocks.right)[inner], atol=1e-5)
    apart = spatial.distance.cdist(centres[own], centres)
    gaps = np.where(apart > 0, (away**2 - nearest[:, None] ** 2) / np.maximum(2 * apart, 1e-9), np.inf)
    np.testing.assert_allclose(blocks.border[inner], gaps.min(axis=1), atol=1e-4)


def test_strips_have_the_width_they_are_given_and_straight_borders():
    y, x = points(0, 0, 400, 3)
    cells = np.zeros((2, y.size), np.int64)
    strip, side = PLANE.strips("s", y, cells, 8.0)
    changes = (np.diff(strip[:, x == 0], axis=1) != 0).any(axis=0)
    assert 400 / 8 * 0.9 <= changes.sum() <= 400 / 8 * 1.1
    assert (side >= 0).all()
    assert side[x == 0][1:][changes].max() < 1
    np.testing.assert_array_equal(strip[:, x == 0], strip[:, x == 2])


def test_joined_keys_spread():
    cells = np.stack(np.meshgrid(np.arange(-20, 20), np.arange(-20, 20))).reshape(2, -1)
    keys = joined(cells, np.arange(cells.shape[1]) % 7)
    assert len(np.unique(keys, axis=1).T) > 0.9 * cells.shape[1]
