"""Gaps filled from other dates: dirty masks, few clear pixels, limits."""

from dataclasses import replace

import numpy as np
import pytest

from eoaug.generators.base import Request
from eoaug.generators.classical import Classical
from eoaug.generators.interpolation import best_estimate, evidence, from_dates, regression, time_series
from eoaug.generators.interpolation.texture import texture

DAY = 86_400
CLOUD = 6.0
"""Brightness of a cloud above the land, model units."""


def land(count: int, size: int = 64, bands: int = 4) -> np.ndarray:
    """Dates (T, C, H, W) of one place: the same fields, a season, and noise."""
    fields = texture((0, 0), (bands, size, size), seed=1, member=0, time=0)
    crops = texture((0, 0), (bands, size, size), seed=2, member=0, time=0) > 0.5
    noise = np.random.default_rng(0).standard_normal((count, bands, size, size))
    season = np.sin(np.arange(count) / 2)[:, None, None, None]
    return (0.5 * fields + 0.3 * season * crops + 0.03 * noise).astype(np.float32)


def asked(values: np.ndarray, known: np.ndarray, fill: np.ndarray, target: int) -> Request:
    """A request to fill (H, W) of one date; known has the shape of ``values``."""
    filled = np.zeros(known.shape, bool)
    filled[target] = fill
    known = known & ~filled
    return Request(
        values=np.where(known, values, 0).astype(np.float32),
        known=known,
        fill=filled,
        times=np.arange(len(values)) * 5 * DAY,
        metadata=np.full((len(values), 7), np.nan),
    )


def disk(radius: float, row: int = 32, col: int = 32, size: int = 64) -> np.ndarray:
    rows, cols = np.mgrid[:size, :size]
    return np.hypot(rows - row, cols - col) <= radius


def filled(request: Request) -> np.ndarray:
    target = int(np.flatnonzero(request.target)[0])
    return best_estimate.best_linear_estimate(request, target).image


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a - b))))


@pytest.mark.parametrize("target", [0, 3, 5])
def test_a_rim_of_cloud_around_the_hole_does_not_colour_the_fill(target):
    truth = land(6)
    cloud, mask = disk(18), disk(15)
    values = truth.copy()
    values[target][:, cloud] += CLOUD
    got = filled(asked(values, np.ones(values.shape, bool), mask, target))
    clean = filled(asked(truth, np.ones(values.shape, bool), mask, target))
    assert rmse(got[:, mask], truth[target][:, mask]) < rmse(clean[:, mask], truth[target][:, mask]) + 0.1
    # The rim itself was measured: it comes back as it is.
    np.testing.assert_array_equal(got[:, cloud & ~mask], values[target][:, cloud & ~mask])
    request = asked(values, np.ones(values.shape, bool), mask, target)
    spoilt = Classical().generate([request])[0, target]
    assert rmse(spoilt[:, mask], truth[target][:, mask]) > 1


def test_a_cloudy_corner_that_passes_for_clear_colours_nothing():
    truth = land(6)
    corner = np.zeros((64, 64), bool)
    corner[:16, :24] = True
    values = truth.copy()
    values[2][:, corner] += CLOUD * np.linspace(0.5, 1.5, corner.sum(), dtype=np.float32)
    got = filled(asked(values, np.ones(values.shape, bool), ~corner, 2))
    assert rmse(got[:, ~corner], truth[2][:, ~corner]) < 0.35


def test_a_cloud_on_another_date_does_not_show():
    truth = land(7)
    values = truth.copy()
    for date, (row, col) in {1: (10, 20), 2: (32, 32), 4: (40, 25)}.items():
        values[date][:, disk(12, row, col)] += CLOUD + date
    got = filled(asked(values, np.ones(values.shape, bool), np.ones((64, 64), bool), 3))
    assert rmse(got, truth[3]) < 0.35
    assert got.max() < truth.max() + 0.3


@pytest.mark.parametrize("dates", [4, 5])
@pytest.mark.parametrize("cloudy", [0, -1])
def test_a_cloudy_date_that_passes_for_clear_is_no_evidence(dates, cloudy):
    """Three or four dates around one that shows nothing, and one of them is cloud from edge to edge."""
    truth = land(dates)
    values, known = truth.copy(), np.ones(truth.shape, bool)
    values[cloudy] += CLOUD
    image = filled(asked(values, known, np.ones((64, 64), bool), dates // 2))
    assert image.max() < truth.max() + 0.5
    assert rmse(image, truth[dates // 2]) < 0.5


def test_of_three_dates_a_darker_one_is_kept():
    """Darker is as likely land as not: a flood, a burnt field."""
    truth = land(4)
    truth[0] -= CLOUD
    evidence_, _ = evidence.evidence_of(
        truth, np.ones(truth.shape, bool) & (np.arange(4) != 2)[:, None, None, None], None, 2
    )
    assert evidence_[[0, 1, 3]].all()


def test_snow_on_clear_land_is_snow_in_the_gap():
    truth = land(6)
    truth[3] += CLOUD
    mask = disk(15)
    got = filled(asked(truth, np.ones(truth.shape, bool), mask, 3))
    assert rmse(got[:, mask], truth[3][:, mask]) < 0.4


@pytest.mark.parametrize("seed", range(3))
def test_sixty_pixels_and_32_features_stay_within_the_dates(seed):
    truth = land(9)
    rng = np.random.default_rng(seed)
    truth[4] += 0.5 * rng.standard_normal((4, 1, 1))
    clear = np.zeros((64, 64), bool)
    clear[5:11, 7:17] = True
    values = truth.copy()
    values[4] += rng.standard_normal(values[4].shape).astype(np.float32)
    got = filled(asked(values, np.ones(values.shape, bool), ~clear, 4))
    others = np.delete(truth, 4, axis=0)
    low, high = others.min(axis=0), others.max(axis=0)
    beyond = np.maximum(low - got, got - high)[:, ~clear]
    spread = np.abs(values[4][:, clear] - others.mean(axis=0)[:, clear]).max()
    assert beyond.max() < spread
    assert np.quantile(beyond, 0.99) < 1.5


@pytest.mark.parametrize("count", [50, 400, 4000])
def test_noise_predicts_nothing(count):
    rng = np.random.default_rng(count)
    dates = rng.standard_normal((8, 4, 64, 64)).astype(np.float32)
    known = np.broadcast_to((np.arange(4096) < count).reshape(64, 64), (4, 64, 64))
    departure = rng.standard_normal((4, 64, 64)).astype(np.float32)
    (move,) = regression.predict_departure([regression.Residuals(dates, departure, known)])
    assert move.std() < 0.25


def test_a_relation_is_found():
    dates = land(8)
    departure = 0.8 * dates[2] - 0.5 * dates[5] + 0.3
    known = np.broadcast_to(~disk(25), departure.shape)
    (move,) = regression.predict_departure([regression.Residuals(dates, departure, known)])
    assert rmse(move[~known], departure[~known]) < 0.7 * np.abs(departure[~known]).mean()


def test_a_relation_is_not_extrapolated_beyond_the_clear_pixels():
    """Fields are clear on a hazy date and a village is not: it gets no more of the haze than the extreme field."""
    dates = land(3)
    village = disk(12)
    dates[:, :, village] = dates[:, :, ~village].max() + 5
    departure = 0.5 * dates[0]
    known = np.broadcast_to(~village, departure.shape)
    (move,) = regression.predict_departure([regression.Residuals(dates, departure, known)])
    assert rmse(move[:, ~village], departure[:, ~village]) < 0.7 * departure[:, ~village].std()
    assert move[:, village].max() < 1.3 * move[:, ~village].max()


def test_the_better_of_two_estimates_gets_the_larger_share():
    truth, noise = land(2)
    known = np.ones(truth.shape, bool)
    worse = regression.Residuals(noise[None], truth - (truth + noise), known)
    share = regression.share_of_second([worse], [-noise])
    assert (share > 0.9).all()
    better = regression.Residuals(noise[None], 0.01 * noise, known)
    assert (regression.share_of_second([better], [noise]) < 0.1).all()


def test_two_dates_that_show_the_same_are_evidence_for_each_other():
    values = land(5)
    values[3:] += CLOUD  # snow on two dates
    known = np.ones(values.shape, bool)
    kept, _ = evidence.evidence_of(values, known, None, 4)
    assert kept[3:].all()
    values[3] -= CLOUD
    values[1][:, disk(10)] += 2 * CLOUD
    kept, _ = evidence.evidence_of(values, known, None, 0)
    assert not kept[1][:, disk(8)].any()
    assert kept[1][:, ~disk(13)].all()
    assert kept[[0, 2, 3]].all()


def test_a_pixel_that_all_dates_contradict_keeps_its_clearest():
    values, known = land(3), np.ones((3, 4, 64, 64), bool)
    spot = disk(9)
    for date in range(3):
        values[date][:, spot] += 5 * date
    known[1, :, :40] = False
    kept, _ = evidence.evidence_of(values, known, None, 0)
    assert kept[2][:, disk(6)].all()


@pytest.mark.parametrize("dates", [1, 2, 3])
def test_few_dates_are_no_reason_to_fail(dates):
    values = land(1 + dates, size=32)
    known = np.ones(values.shape, bool)
    known[1:, :, :4] = False
    for fill in (disk(9, 10, 10, 32), np.ones((32, 32), bool)):
        request = asked(values, known, fill, 0)
        got = filled(request)
        assert np.isfinite(got).all()
        assert rmse(got, values[0]) < 1
        # Bands that the cube lacks change nothing.
        absent = [np.insert(a, 2, 0, axis=1) for a in (request.values, request.known, request.fill)]
        wide = replace(request, values=absent[0], known=absent[1], fill=absent[2])
        np.testing.assert_array_equal(np.delete(filled(wide), 2, axis=0), got)


def test_dates_fill_each_other():
    values = land(4, size=32)
    known = np.random.default_rng(0).random(values.shape) < 0.7
    times = np.arange(4) * DAY
    got = time_series.gap_filled(values, known, times)
    for date in range(4):
        np.testing.assert_allclose(got[date], time_series.temporal(values, known, times, date), atol=1e-5)


def test_what_errors_are_judged_by_knows_whether_the_date_has_evidence():
    values, times = land(4), np.arange(4) * DAY
    known = np.ones(values.shape, bool)
    known[1] = False
    assert from_dates.from_dates(values, known, times, 1).alone
    known[1, :, :30] = True
    found = from_dates.from_dates(values, known, times, 1)
    assert not found.alone
    assert found.dates.shape == (3, 4, 64, 64)
    assert found.clear[:, :25].all()
