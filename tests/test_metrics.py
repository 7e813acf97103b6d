"""Metrics against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from eoaug import metrics
from eoaug.errors import ParameterError
from eoaug.raster.sensor import Sensor

seeds = st.integers(0, 2**32 - 1)


def field(seed, shape=(3, 32, 40)):
    return np.random.default_rng(seed).normal(size=shape)


@given(seeds, st.floats(1e-3, 10))
def test_a_constant_error(seed, error):
    truth = field(seed)
    assert metrics.rmse(truth + error, truth) == pytest.approx(error)
    assert metrics.psnr(truth + error, truth, data_range=2) == pytest.approx(20 * np.log10(2 / error))
    where = np.zeros(truth.shape[1:], bool)
    where[3, 4] = True
    assert metrics.rmse(truth + error * where, truth, where=where) == pytest.approx(error)
    assert metrics.ergas(truth + error, truth - truth.mean(axis=(1, 2), keepdims=True) + 5, factor=4) >= 0


@given(seeds)
def test_the_truth_is_perfect(seed):
    truth = np.abs(field(seed)) + 0.1
    assert metrics.psnr(truth, truth, data_range=1) == np.inf
    assert metrics.ssim(truth, truth, data_range=1) == pytest.approx(1)
    assert metrics.sam(truth, truth) == pytest.approx(0, abs=1e-9)
    assert metrics.ergas(truth, truth, factor=2) == 0
    assert metrics.spectrum_ratio(truth, truth) == pytest.approx(1)
    assert metrics.crps(truth[None], truth) == 0


def test_ergas_of_a_known_error():
    truth = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 4.0)])
    assert metrics.ergas(truth + 1, truth, factor=4) == pytest.approx(25 * np.sqrt((1 / 4 + 1 / 16) / 2))


@given(seeds, st.floats(0.1, 10), st.floats(0.001, 1.5))
def test_spectral_angle(seed, gain, angle):
    truth = np.abs(field(seed, (2, 5, 6))) + 0.1
    assert metrics.sam(gain * truth, truth) == pytest.approx(0, abs=1e-6)
    turned = np.stack(
        [
            np.cos(angle) * truth[0] - np.sin(angle) * truth[1],
            np.sin(angle) * truth[0] + np.cos(angle) * truth[1],
        ]
    )
    assert metrics.sam(turned, truth) == pytest.approx(np.degrees(angle), rel=1e-6)


def test_ssim_falls_with_noise_and_blur():
    truth = ndimage.gaussian_filter(field(0), (0, 1, 1))
    noisy = truth + 0.3 * field(1)
    assert (
        metrics.ssim(noisy, truth, data_range=2) < metrics.ssim((noisy + truth) / 2, truth, data_range=2) < 1
    )


def test_consistency_counts_measured_pixels_alone():
    sensor = Sensor.of("gaussian", 4, 3)
    fine = field(0)
    coarse = sensor.degrade(fine) + 0.25
    coarse[:, 2:5] = np.nan
    assert metrics.consistency(fine, coarse, sensor=sensor) == pytest.approx(0.25, rel=1e-5)


@given(seeds, st.floats(0.1, 3))
def test_spectrum_ratio_is_energy(seed, gain):
    truth = field(seed)
    assert metrics.spectrum_ratio(gain * truth + 7, truth) == pytest.approx(gain**2)
    assert metrics.spectrum_ratio(ndimage.gaussian_filter(truth, (0, 2, 2)), truth) < 0.05


@settings(max_examples=20)
@given(seeds, st.integers(8, 20), st.tuples(st.integers(-30, 30), st.integers(-30, 30)))
def test_seams_are_found_where_they_are(seed, stride, origin):
    rows, cols = np.ogrid[origin[0] : origin[0] + 120, origin[1] : origin[1] + 130]
    scene = ndimage.gaussian_filter(field(seed, (120, 130)), 1)
    tiled = scene + 0.5 * ((rows // stride + cols // stride) % 2)
    smooth = metrics.seam_ratio(scene[None], stride=stride, origin=origin)
    seamed = metrics.seam_ratio(tiled[None], stride=stride, origin=origin)
    assert 0.7 < smooth.ratio < 1.4
    assert seamed.ratio > 2 > seamed.elsewhere.max()
    assert seamed.elsewhere.shape == (stride - 1,)
    assert metrics.seam_ratio(np.ones((120, 130)), stride=stride).ratio == 1


@given(seed=st.integers(0, 100), origin=st.tuples(st.integers(-50, 50), st.integers(-50, 50)))
def test_averaged_overlaps_are_found_and_others_not(seed, origin):
    """Independent samples, blended where they overlap, lose half of their variance there."""
    stride, overlap, shape = 28, 6, (230, 240)
    inside = [
        ((np.arange(start, start + length) % stride) < overlap)
        for start, length in zip(origin, shape, strict=True)
    ]
    first, second = field(seed, shape), field(seed + 1000, shape)
    shared = inside[0][:, None] | inside[1]
    ghosted = np.where(shared, (first + second) / 2, first)
    plain = metrics.ghost_ratio(first[None], stride=stride, overlap=overlap, origin=origin)
    found = metrics.ghost_ratio(ghosted[None], stride=stride, overlap=overlap, origin=origin)
    assert 0.9 < plain.ratio < 1.1
    assert found.ratio < 0.75 < found.elsewhere.min()
    assert found.elsewhere.shape == (stride - 2 * overlap + 1,)


def test_crps_by_its_definition_and_fair():
    members, truth = field(0, (5, 7)), field(1, (7,))
    want = np.abs(members - truth).mean() - np.abs(members[:, None] - members).sum() / (2 * 5 * 4 * 7)
    assert metrics.crps(members, truth) == pytest.approx(want)
    many = field(2, (40_000, 2))
    normal = 2 * 0.3989423 - 1 / np.sqrt(np.pi)  # of a standard normal at its centre
    assert metrics.crps(many, np.zeros(2)) == pytest.approx(normal, abs=0.01)
    few = np.mean([metrics.crps(pair, np.zeros(2)) for pair in many.reshape(-1, 2, 2)])
    assert few == pytest.approx(normal, abs=0.02)


def test_the_bootstrap_draws_places():
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(20), 50)
    values = rng.normal(size=20)[places] + 0.01 * rng.normal(size=1000)
    by_place = metrics.bootstrap_interval(values, places.tolist())
    by_window = metrics.bootstrap_interval(values, range(1000))
    assert by_place.low < values.mean() < by_place.high
    assert by_place.high - by_place.low > 4 * (by_window.high - by_window.low)
    assert by_place == metrics.bootstrap_interval(values, places.tolist())
    assert np.isnan(metrics.bootstrap_interval([1.0, 2.0], ["a", "a"]).low)


def test_misuse_is_refused():
    a, b = field(0), field(0)[:, 1:]
    with pytest.raises(ParameterError, match=r"\(3, 31, 40\)"):
        metrics.rmse(a, b)
    with pytest.raises(ParameterError, match="data_range is 0"):
        metrics.psnr(a, a, data_range=0)
    with pytest.raises(ParameterError, match="stride 64"):
        metrics.seam_ratio(a, stride=64)
    with pytest.raises(ParameterError, match="overlap of 9 px"):
        metrics.ghost_ratio(np.ones((30, 30)), stride=16, overlap=9)
    with pytest.raises(ParameterError, match="first axis"):
        metrics.crps(a, a)
    with pytest.raises(ParameterError, match="2 group labels"):
        metrics.bootstrap_interval([1.0], ["a", "b"])


@given(seeds, st.floats(0.2, 5))
def test_spectrum_distance_is_the_gain_in_decibels(seed, gain):
    truth = field(seed)
    expected = abs(20 * np.log10(gain))
    assert metrics.spectrum_distance(gain * truth + 3, truth) == pytest.approx(expected, abs=1e-6)
    assert metrics.spectrum_distance(np.zeros_like(truth), truth) == 60


@settings(max_examples=10)
@given(seeds, st.floats(0.3, 3))
def test_spectra_inside_a_hole_do_not_see_the_rest(seed, gain):
    """Steep spectra, as of land: what lies around leaks in too little to matter."""
    rough = field(seed, (2, 64, 64))
    truth = ndimage.gaussian_filter(rough, (0, 8, 8)) * 100 + 0.3 * rough
    where = np.zeros((64, 64), bool)
    where[10:50, 5:45] = True
    smooth = ndimage.gaussian_filter(rough, (0, 8, 8)) * 100
    changed = np.where(where, smooth + gain * (truth - smooth), truth)
    assert metrics.spectrum_ratio(changed, truth, where=where) == pytest.approx(gain**2, rel=0.15)
    elsewhere = np.where(where, truth, 0)
    assert metrics.spectrum_ratio(elsewhere, truth, where=where) == pytest.approx(1, rel=0.2)


@settings(max_examples=10)
@given(seeds, st.sampled_from([2, 4, 8]))
def test_patterns_are_found_at_their_period(seed, period):
    scene = ndimage.gaussian_filter(field(seed, (2, 64, 64)), (0, 1, 1))
    printed = scene + 0.2 * (np.arange(64) % period == 0)
    assert metrics.pattern_ratio(field(seed, (2, 64, 64)), period_px=period) == pytest.approx(1, abs=0.5)
    assert metrics.pattern_ratio(printed, period_px=period) > 3 * metrics.pattern_ratio(
        scene, period_px=period
    )
    assert metrics.pattern_ratio(np.ones((1, 64, 64)), period_px=period) == 1


def test_coverage_of_exchangeable_members():
    """A truth that is drawn like the members lies inside at the level, whatever their number."""
    for size in (19, 32, 99):
        members, truth = field(size, (size, 40_000)), field(1000 + size, (40_000,))
        assert metrics.coverage(members, truth) == pytest.approx(0.9, abs=0.01)
        assert metrics.coverage(members / 2, truth) < 0.7
    with pytest.raises(ParameterError, match="18 members"):
        metrics.coverage(field(0, (18, 5)), field(0, (5,)))
    with pytest.raises(ParameterError, match="first axis"):
        metrics.coverage(field(0, (20, 5)), field(0, (6,)))


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(0)
    equal = [metrics.kernel_distance(*rng.normal(size=(2, 10, 4))) for _ in range(2000)]
    assert abs(np.mean(equal)) < 4 * np.std(equal) / np.sqrt(len(equal))
    a, b = rng.normal(size=(2, 6, 3))
    b = b[:5]
    k = [[(x @ y / 3 + 1) ** 3 for y in b] for x in a]
    within = [
        np.mean([(x @ y / 3 + 1) ** 3 for i, x in enumerate(s) for j, y in enumerate(s) if i != j])
        for s in (a, b)
    ]
    assert metrics.kernel_distance(a, b) == pytest.approx(sum(within) - 2 * np.mean(k))
    with pytest.raises(ParameterError, match="cannot be compared"):
        metrics.kernel_distance(a, b[:, :2])


def test_ssim_of_some_pixels():
    truth = ndimage.gaussian_filter(field(0), (0, 1, 1))
    where = np.zeros(truth.shape[1:], bool)
    where[:, 30:] = True
    spoilt = np.where(np.arange(40) < 12, 0, truth)
    assert metrics.ssim(spoilt, truth, data_range=2, where=where) == pytest.approx(1)
    assert metrics.ssim(spoilt, truth, data_range=2, where=~where) < 0.9
    assert np.isnan(metrics.ssim(truth, truth, data_range=2, where=where & False))
