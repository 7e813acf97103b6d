"""The lattice: anchored at absolute pixel 0, complete, and with weights that sum to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoaug.raster.tiles import Lattice, Tile, Window


@st.composite
def lattices(draw):
    stride = draw(st.integers(1, 64))
    return Lattice(draw(st.integers(stride, 2 * stride)), stride)


@st.composite
def windows(draw, at=300, size=150):
    top, left = draw(st.integers(-at, at)), draw(st.integers(-at, at))
    return Window(top, left, top + draw(st.integers(1, size)), left + draw(st.integers(1, size)))


@given(lattices(), windows())
def test_exactly_the_tiles_that_touch_a_window_cover_it(lattice, window):
    (tiles,) = lattice.rings(window, 0)
    reach = range(-400 // lattice.stride - 2, 500 // lattice.stride + 2)
    rows = [
        r for r in reach if not (lattice.window(Tile(r, 0)) & Window(window.top, 0, window.bottom, 1)).empty
    ]
    cols = [
        c for c in reach if not (lattice.window(Tile(0, c)) & Window(0, window.left, 1, window.right)).empty
    ]
    assert tiles == [Tile(r, c) for r in rows for c in cols]
    rows_spanned, cols_spanned = lattice.spans(window)
    assert [list(rows_spanned), list(cols_spanned)] == [rows, cols]


@given(lattices(), windows(size=60), st.integers(0, 3))
def test_rings_are_the_neighbours_in_order(lattice, window, rings):
    levels = lattice.rings(window, rings)
    assert levels[:1] == lattice.rings(window, 0)
    assert len(levels) == rings + 1
    seen = set(levels[0])
    for level in levels[1:]:
        around = {Tile(t.row + i, t.col + j) for t in seen for i in (-1, 0, 1) for j in (-1, 0, 1)}
        assert set(level) == around - seen
        assert level == sorted(level)
        seen |= set(level)
    hull = lattice.hull(window, rings)
    spans = [lattice.window(tile) for tile in seen]
    assert hull == Window(
        min(w.top for w in spans), min(w.left for w in spans),
        max(w.bottom for w in spans), max(w.right for w in spans),
    )  # fmt: skip


@given(st.integers(1, 16), st.integers(0, 8), st.sampled_from([1, 2, 4]))
def test_weights_are_a_partition_of_unity(stride, overlap, cell):
    overlap = min(overlap, stride)
    lattice = Lattice((stride + overlap) * cell, stride * cell)
    weights = lattice.weights(cell).astype(np.float64)
    assert weights.shape == (stride + overlap,) * 2
    assert (weights > 0).all()
    total = np.zeros((4 * stride + overlap,) * 2)
    for row in range(4):
        for col in range(4):
            total[row * stride :, col * stride :][: stride + overlap, : stride + overlap] += weights
    inner = slice(overlap, 4 * stride)
    np.testing.assert_allclose(total[inner, inner], 1, rtol=0, atol=3e-7)


@pytest.mark.parametrize(("size", "stride"), [(8, 9), (9, 4), (0, 0), (4, 0)])
def test_lattices_that_leave_gaps_or_overlap_twice_are_refused(size, stride):
    with pytest.raises(AssertionError, match="does not fit"):
        Lattice(size, stride)


@given(windows(), windows())
def test_windows_meet_where_their_pixels_do(one, other):
    def pixels(window):
        return {(r, c) for r in range(window.top, window.bottom) for c in range(window.left, window.right)}

    small = [Window(w.top // 20, w.left // 20, w.bottom // 20, w.right // 20) for w in (one, other)]
    common = small[0] & small[1]
    assert pixels(common) == pixels(small[0]) & pixels(small[1])
    assert common.empty == (not pixels(common))
    assert common.shape[0] * common.shape[1] == len(pixels(common))


@given(windows(), st.integers(1, 8))
def test_coarsen_covers_and_scale_returns(window, factor):
    coarse = window.coarsen(factor)
    assert coarse.scale(factor) & window == window
    inner = coarse.scale(factor)
    assert inner.top > window.top - factor
    assert inner.right < window.right + factor
    assert window.scale(factor).coarsen(factor) == window


@given(windows(), st.integers(-500, 500), st.integers(-500, 500))
def test_shift_moves_every_edge(window, rows, cols):
    moved = window.shift(rows, cols)
    assert moved.shape == window.shape
    assert (moved.top - window.top, moved.left - window.left) == (rows, cols)
    assert moved.shift(-rows, -cols) == window


@given(windows(), st.integers(0, 20))
def test_within_cuts_the_window_out_of_a_larger_array(window, pad):
    outer = window.pad(pad)
    rows, cols = np.mgrid[outer.top : outer.bottom, outer.left : outer.right]
    cut = window.within(outer)
    assert rows[cut][0, 0] == window.top
    assert cols[cut][-1, -1] == window.right - 1
    assert rows[cut].shape == window.shape
