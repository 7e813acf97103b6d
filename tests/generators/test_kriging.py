"""Kriging is the conditional mean of the field that it assumes, in space and in time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage

from eoaug.generators.base import CONTEXT_CELLS, Request
from eoaug.generators.interpolation import best_estimate, kriging, push_pull, texture, time_kriging
from eoaug.metrics import rmse

PX = 24
DAY = 86_400


def scene(seed: int, edge: int = PX) -> np.ndarray:
    return texture.texture((0, 0), (2, edge, edge), seed=seed)


def hole(seed: int, edge: int = PX) -> np.ndarray:
    """False in a disc."""
    row, col = np.random.default_rng(seed).integers(edge // 4, 3 * edge // 4, 2)
    rows, cols = np.indices((edge, edge))
    return np.broadcast_to(np.hypot(rows - row, cols - col) > edge / 5, (2, edge, edge)).copy()


def stripes(degrees: float, edge: int = 64) -> np.ndarray:
    """A field that goes on along one direction and varies across it."""
    rows, cols = np.indices((edge, edge))
    across = rows * np.cos(np.radians(degrees)) - cols * np.sin(np.radians(degrees))
    profile = np.cumsum(np.random.default_rng(5).standard_normal(400))
    return np.interp(across, np.arange(400) - 200, ndimage.gaussian_filter1d(profile, 1.5))[None]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_fill_is_the_conditional_mean(noise):
    """Against a dense solve with the same covariance on the same torus."""
    values, known = scene(1), hole(1)
    found = kriging.fill(values, known, noise=noise, mean=0.0)
    edge = fft.next_fast_len(PX + 2 * kriging._BEYOND_PX, real=True)
    spectrum = kriging._spectrum(edge, edge, kriging._texture(values, known), noise, kriging._NEAREST)
    lags = fft.irfft2(spectrum.astype(np.float64), s=(edge, edge))
    rows, cols = np.indices((PX, PX)).reshape(2, -1)
    covariance = lags[np.subtract.outer(rows, rows) % edge, np.subtract.outer(cols, cols) % edge]
    for plane, told, one in zip(values, known, found, strict=True):
        seen = told.ravel()
        weights = np.linalg.solve(covariance[np.ix_(seen, seen)], plane.ravel()[seen].astype(np.float64))
        exact = covariance[np.ix_(~seen, seen)] @ weights
        assert rmse(one[~told], exact) < 0.03 * plane.std()


@given(seed=st.integers(0, 1000), gain=st.floats(0.01, 100), shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_units_do_not_matter_and_known_pixels_stay(seed, gain, shift):
    values, known = scene(seed), hole(seed)
    plain = kriging.fill(values, known)
    np.testing.assert_array_equal(plain[known], values[known])
    other = kriging.fill((gain * values + shift).astype(np.float32), known)
    tolerance = 3e-2 * gain + 1e-4 * abs(shift)
    np.testing.assert_allclose(other, gain * plain + shift, atol=tolerance)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_image_is_filled_in_the_same_way(turns):
    values, known = scene(3, 32), hole(3, 32)
    straight = kriging.fill(values, known)
    turned = kriging.fill(np.rot90(values, turns, (1, 2)).copy(), np.rot90(known, turns, (1, 2)).copy())
    np.testing.assert_allclose(turned, np.rot90(straight, turns, (1, 2)), atol=2e-3)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 120, 160])
def test_what_goes_on_is_continued_in_any_direction(degrees):
    values = stripes(degrees).astype(np.float32)
    known = np.ones(values.shape, bool)
    known[:, 24:40, 24:40] = False
    gap = ~known
    found, membrane = kriging.fill(values, known), push_pull.push_pull(values, known)
    assert rmse(found[gap], values[gap]) < 0.7 * rmse(membrane[gap], values[gap])


def test_a_plane_without_pixels_is_empty():
    values, known = scene(2), hole(2)
    known[1] = False
    found = kriging.fill(values, known)
    assert not found[1].any()
    assert np.isfinite(found).all()


def dates(*days: float) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([scene(int(day)) for day in days])
    return images, np.array([int(day * DAY) for day in days])


def asked_of(images: np.ndarray, times: np.ndarray, when: int) -> Request:
    """A whole date after or between others."""
    at = int(np.searchsorted(times, when))
    values = np.insert(images, at, 0, axis=0)
    known = np.ones(values.shape, bool)
    known[at] = False
    return Request(
        values=values,
        known=known,
        fill=~known,
        times=np.insert(times, at, when),
        metadata=np.full((len(values), 7), np.nan),
    )


def test_one_date_keeps_its_level_and_is_the_softer_the_older_it_is():
    images, times = dates(10)
    images = images + 3
    kept = time_kriging.in_time(images, times, 50 * DAY, sharp=True)
    np.testing.assert_allclose(kept, images[0], atol=1e-4)
    contrast = []
    for days in (0, 3, 30, 150):
        found = time_kriging.in_time(images, times, (10 + days) * DAY)
        assert found.mean() == pytest.approx(images[0].mean(), abs=1e-3)
        contrast.append(found.std() / images[0].std())
    assert contrast[0] == pytest.approx(1, abs=1e-4)
    assert (np.diff(contrast) < 0).all()
    assert contrast[-1] > 0.3


@pytest.mark.parametrize("covariance", time_kriging.COVARIANCES)
def test_the_shares_of_a_covariance_are_whole_and_last_year_counts_more_than_last_winter(covariance):
    now, winter, year = covariance.at_lag(np.array([0.0, 182.6, 365.25]))
    assert now == pytest.approx(1)
    assert winter < year < now


@pytest.mark.parametrize("sharp", [False, True])
def test_no_other_weights_have_less_variance(sharp):
    away = np.array([-400.0, -365, -90, -20, -12, 30])
    rng = np.random.default_rng(3)
    for scale, (covariance, weights) in enumerate(
        zip(time_kriging.COVARIANCES, time_kriging.kriging_weights(away, sharp), strict=True)
    ):
        others = weights + 0.01 * rng.standard_normal((50, len(away)))
        if sharp or scale == 0:
            assert weights.sum() == pytest.approx(1)
            others -= (others.sum(axis=1, keepdims=True) - 1) / len(away)
        between, ahead = covariance.at_lag(np.subtract.outer(away, away)), covariance.at_lag(away)

        def error(w, between=between, ahead=ahead):
            return 1 - 2 * w @ ahead + np.einsum("...i,ij,...j->...", w, between, w)

        assert (error(others) > error(weights)).all()
        assert 0 < error(weights) < 1


def test_two_dates_of_one_moment_are_averaged():
    images, times = dates(10, 10, 40)
    images[1] += 0.1
    found = time_kriging.in_time(images, times, 10 * DAY)
    np.testing.assert_allclose(found, images[:2].mean(axis=0), atol=1e-3)


def test_a_whole_date_is_what_its_neighbours_foretell_and_its_errors_grow_with_time():
    images, times = dates(0, 10, 20, 40, 60, 70)
    errors = []
    for days in (25, 75, 100, 200):
        asked = asked_of(images, times, days * DAY)
        target = int(np.flatnonzero(asked.target)[0])
        made = best_estimate.best_linear_estimate(asked, target)
        found, expected_error = made.image, made.error
        kriged = time_kriging.in_time(images, times, days * DAY)
        # A trend may leave the range of the dates by a fifth of a model unit and by 0.3 of that range.
        low, high = images.min(axis=0), images.max(axis=0)
        beyond = 0.2 + 0.3 * (high - low)
        np.testing.assert_allclose(found, np.clip(kriged, low - beyond, high + beyond), atol=1e-6)
        assert (expected_error >= best_estimate._ERROR_FLOOR).all()
        errors.append(expected_error.mean())
    assert (np.diff(errors) > 0).all()
    flat, _ = dates(0)
    asked = asked_of(0 * flat + 1, times[:1], 9 * DAY)
    made = best_estimate.best_linear_estimate(asked, 1)
    found, expected_error = made.image, made.error
    np.testing.assert_allclose(found, 1, atol=1e-5)
    np.testing.assert_allclose(expected_error, best_estimate._ERROR_FLOOR, atol=1e-5)


@given(count=st.integers(1, 7), when=st.integers(-100, 300))
@settings(max_examples=20, deadline=None)
def test_what_never_changes_is_expected_again(count, when):
    images = np.repeat(scene(0)[None], count, axis=0)
    times = np.arange(count) * 20 * DAY
    np.testing.assert_allclose(
        time_kriging.in_time(images, times, when * DAY, sharp=True), images[0], atol=1e-3
    )
    level = time_kriging.in_time(0 * images + 2, times, when * DAY)
    np.testing.assert_allclose(level, 2, atol=1e-3)


def test_many_dates_average_out_what_is_new_on_each():
    still = scene(0)
    noise = np.random.default_rng(1).standard_normal((7, *still.shape)).astype(np.float32)
    times = np.arange(7) * 5 * DAY
    found = time_kriging.in_time(still + 0.5 * noise[:6], times[:6], int(times[6]))
    assert rmse(found, still) < 0.8 * rmse(still + 0.5 * noise[5], still)


def test_surroundings_that_end_at_the_tile_change_nothing():
    values, known = scene(4, 32)[None], hole(4, 32)[None]
    alone = Request(
        values=np.where(known, values, 0),
        known=known,
        fill=~known,
        times=np.zeros(1, np.int64),
        metadata=np.full((1, 7), np.nan),
    )
    cells = np.full((1, 2, 4 + 2 * CONTEXT_CELLS, 4 + 2 * CONTEXT_CELLS), np.nan, np.float32)
    cells[..., CONTEXT_CELLS:-CONTEXT_CELLS, CONTEXT_CELLS:-CONTEXT_CELLS] = 1.0
    expected = best_estimate.best_linear_estimate(alone, 0).image
    np.testing.assert_array_equal(
        best_estimate.best_linear_estimate(replace(alone, context_cells=cells), 0).image, expected
    )
    cells[..., :4, :4] = 3.0
    assert (
        best_estimate.best_linear_estimate(replace(alone, context_cells=cells), 0).image != expected
    ).any()


def tile_of(values: np.ndarray, known: np.ndarray, row: int, col: int) -> Request:
    """A tile of 64 px of dates (T, C, H, W), the first to be filled, told of its surroundings."""
    T, C, H, W = values.shape
    shape = (T, C, H // 8, 8, W // 8, 8)
    count = known.reshape(shape).sum(axis=(3, 5))
    total = np.where(known, values, 0).reshape(shape).sum(axis=(3, 5))
    cells = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    beyond = [(0, 0), (0, 0), (CONTEXT_CELLS, CONTEXT_CELLS), (CONTEXT_CELLS, CONTEXT_CELLS)]
    cells = np.pad(cells, beyond, constant_values=np.nan)
    tile = np.s_[..., row : row + 64, col : col + 64]
    return Request(
        values=np.where(known, values, 0)[tile],
        known=known[tile],
        fill=~known[tile],
        times=np.arange(T) * 10 * DAY,
        metadata=np.full((T, 7), np.nan),
        context_cells=cells[..., row // 8 : row // 8 + 40, col // 8 : col // 8 + 40],
    )


@pytest.mark.parametrize("others", [0, 1, 3])
def test_neighbours_in_a_wide_gap_foretell_the_same_estimate_and_errors(others):
    values = np.stack([scene(8, 256) + 0.5 * scene(9 + date, 256) for date in range(1 + others)])
    known = np.ones(values.shape, bool)
    known[0, :, 40:220, 40:220] = False
    rim, first, second = (
        best_estimate.best_linear_estimate(tile_of(values, known, 96, col), 0) for col in (16, 72, 128)
    )
    truth = values[0, :, 96:160, 72:136]
    for one, other in ((first.image, second.image), (first.error, second.error)):
        assert np.abs(one[..., -8:] - other[..., :8]).mean() < 0.1 * truth.std()
    for one, other in ((rim.image, first.image), (rim.error, first.error)):
        assert np.abs(one[..., -8:] - other[..., :8]).mean() < 0.2 * truth.std()
    # There is something to draw where nothing is seen, as much as is missing.
    estimate, expected_error = first.image, first.error
    assert 0.5 < rmse(estimate, truth) / np.sqrt(np.square(expected_error).mean()) < 2


def guided_request(values: np.ndarray, known: np.ndarray, layout: np.ndarray | None) -> Request:
    return Request(
        values=np.where(known, values, 0).astype(np.float32)[None],
        known=known[None],
        fill=~known[None],
        times=np.zeros(1, np.int64),
        metadata=np.full((1, 7), np.nan),
        layout=layout,
    )


def estimated(values: np.ndarray, known: np.ndarray, layout: np.ndarray | None = None) -> np.ndarray:
    return best_estimate.best_linear_estimate(guided_request(values, known, layout), 0).image


@pytest.mark.parametrize("seed", range(4))
def test_a_guide_tells_what_it_shares_with_the_bands(seed):
    """Bands that are half the guide, half their own: two thirds of the squared error go, and no more can."""
    edge = 64
    guide = ndimage.gaussian_filter(scene(seed, edge)[:1], (0, 1, 1))
    own = scene(seed + 100, edge)
    values = (3 * guide / guide.std() + own / own.std()).astype(np.float32)
    known = hole(seed, edge)
    alone, told = (rmse(estimated(values, known, layout)[~known], values[~known]) for layout in (None, guide))
    assert told < 0.6 * alone


@given(seed=st.integers(0, 1000), gain=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
@settings(max_examples=15, deadline=None)
def test_a_guide_comes_in_any_unit(seed, gain, shift):
    values, known, guide = scene(seed), hole(seed), scene(seed + 1).astype(np.float64)
    found = estimated(values, known, guide)
    np.testing.assert_array_equal(found[known], values.astype(np.float32)[known])
    np.testing.assert_allclose(estimated(values, known, gain * guide + shift), found, atol=1e-3)


def test_a_guide_that_tells_nothing_changes_little_and_a_flat_one_nothing():
    errors = []
    for seed in range(6):
        values, known = scene(seed, 64), hole(seed, 64)
        noise = np.random.default_rng(seed).standard_normal((2, 64, 64))
        plain = estimated(values, known)
        errors.append([rmse(one[~known], values[~known]) for one in (plain, estimated(values, known, noise))])
        for flat in (np.ones((2, 64, 64)), np.full((1, 64, 64), np.nan)):
            np.testing.assert_array_equal(estimated(values, known, flat), plain)
    plain, told = np.mean(errors, axis=0)
    assert told < 1.05 * plain


def test_a_guide_with_a_hole_tells_what_it_can():
    values, known = scene(2, 64), hole(2, 64)
    guide = values[:1].astype(np.float64)
    torn = guide.copy()
    torn[:, :6] = np.nan
    found = estimated(values, known, torn)
    assert np.isfinite(found).all()
    assert rmse(found[~known], values[~known]) < rmse(estimated(values, known)[~known], values[~known])


def test_errors_are_foretold_the_smaller_the_more_a_guide_tells():
    values, known = scene(3, 64), hole(3, 64)
    errors = [
        best_estimate.best_linear_estimate(guided_request(values, known, layout), 0).error[~known].mean()
        for layout in (None, ndimage.gaussian_filter(values, (0, 1, 1)))
    ]
    assert errors[1] < 0.8 * errors[0]
