"""Baselines for time series are what they are called: exact where the method is, and equal to the libraries."""

from __future__ import annotations

import numpy as np
import pytest

from eoaug.evaluate.series_methods import (
    SERIES_METHODS,
    SeriesPixels,
    harmonic,
    linear_in_time,
    median_composite,
    similar_pixels,
    whittaker,
    whittaker_smooth,
)

DAY = 86_400
EDGE = 16


def series(images, days, hidden=()):
    """A series (T, H, W) in one band with pixels hidden by (date, mask)."""
    values = np.asarray(images, np.float32)[:, None]
    known = np.ones(values.shape, bool)
    for date, mask in hidden:
        known[date, 0] &= ~mask
    times = (np.asarray(days) * DAY).astype(np.int64)
    return SeriesPixels(values=np.where(known, values, 0), known=known, times=times)


HOLE = np.zeros((EDGE, EDGE), bool)
HOLE[4:12, 4:12] = True
LAND = 0.1 + 0.05 * np.random.default_rng(0).random((EDGE, EDGE))


def test_the_smoother_solves_its_equation():
    """Against the dense normal equations of Eilers 2003, with missing values and uneven dates."""
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.uniform(0.2, 3.0, 20))
    weights = (rng.random((20, 5)) > 0.4).astype(float)
    columns = rng.normal(size=(20, 5)) * weights
    slopes = np.diff(np.eye(20), axis=0) / np.diff(x)[:, None]
    bends = np.diff(slopes, axis=0) / (x[2:] - x[:-2])[:, None]
    found = whittaker_smooth(columns, weights, x, 7.0)
    for each in range(5):
        matrix = np.diag(weights[:, each]) + 7.0 * bends.T @ bends
        np.testing.assert_allclose(found[:, each], np.linalg.solve(matrix, columns[:, each]), rtol=1e-6)


def test_the_smoother_is_that_of_the_library():
    library = pytest.importorskip("whittaker_eilers")
    rng = np.random.default_rng(2)
    x = np.cumsum(rng.uniform(0.5, 2.0, 30))
    weights = (rng.random(30) > 0.3).astype(float)
    y = np.sin(x / 5) + 0.1 * rng.normal(size=30)
    smoother = library.WhittakerSmoother(
        lmbda=20.0, order=2, data_length=30, x_input=x.tolist(), weights=weights.tolist()
    )
    expected = smoother.smooth(y.tolist())
    found = whittaker_smooth((y * weights)[:, None], weights[:, None], x, 20.0)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("name", SERIES_METHODS)
def test_land_that_does_not_change_is_returned(name):
    days = np.arange(0, 200, 10)
    data = series([LAND] * 20, days, [(7, HOLE), (8, HOLE), (12, np.ones_like(HOLE))])
    found = SERIES_METHODS[name](data, [7, 12])
    assert found.shape == (2, 1, EDGE, EDGE)
    np.testing.assert_allclose(found[0, 0][HOLE], LAND[HOLE], atol=2e-4)
    np.testing.assert_allclose(found[1, 0], LAND, atol=2e-4)


@pytest.mark.parametrize("method", [linear_in_time, whittaker, similar_pixels])
def test_a_trend_is_followed(method):
    days = np.array([0, 5, 20, 30, 33, 60, 80, 90, 95, 120])
    images = LAND + 0.001 * days[:, None, None]
    found = method(series(images, days, [(5, HOLE)]), [5])[0, 0]
    np.testing.assert_allclose(found[HOLE], images[5][HOLE], atol=1e-3)


def test_a_season_is_followed_by_harmonics():
    days = np.arange(0, 730, 20)
    images = LAND + 0.04 * np.cos(2 * np.pi * days / 365.2425)[:, None, None]
    found = harmonic(series(images, days, [(9, np.ones_like(HOLE))]), [9])[0, 0]
    np.testing.assert_allclose(found, images[9], atol=1e-3)
    # Few dates do not carry a season: the mean.
    few = harmonic(series(images[:4], days[:4], [(1, HOLE)]), [1])[0, 0]
    np.testing.assert_allclose(few[HOLE], images[[0, 2, 3]].mean(axis=0)[HOLE], atol=1e-4)


def test_a_median_ignores_one_cloud():
    images = np.array([LAND, LAND, LAND + 0.6, LAND, LAND])
    found = median_composite(series(images, range(5), [(0, HOLE)]), [0])[0, 0]
    np.testing.assert_allclose(found, LAND, atol=1e-6)


def test_similar_pixels_find_what_only_they_can_know():
    """Fields of two kinds, of which one changed on the target date alone: both kinds are seen around the hole."""
    kind = np.indices((EDGE, EDGE)).sum(axis=0) % 4 < 2
    before = np.where(kind, 0.1, 0.2) + 0.001 * LAND
    after = np.where(kind, 0.3, 0.2) + 0.001 * LAND
    data = series([before, after, before], [0, 10, 20], [(1, HOLE)])
    found, expected = similar_pixels(data, [1])[0, 0], linear_in_time(data, [1])[0, 0]
    assert np.abs(found - after)[HOLE].max() < 0.01
    assert np.abs(expected - after)[HOLE].max() > 0.15


def test_pixels_that_no_date_shows_are_filled_from_their_neighbours():
    data = series([LAND] * 5, range(5), [(date, HOLE) for date in range(5)])
    for name, method in SERIES_METHODS.items():
        found = method(data, [2])[0, 0]
        assert np.isfinite(found).all(), name
        assert LAND.min() - 0.02 < found[HOLE].min() <= found[HOLE].max() < LAND.max() + 0.02, name
