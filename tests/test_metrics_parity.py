"""Our metrics against independent implementations: torchmetrics, scikit-image, scoringrules, scipy.

Ours are kept because they take masks and NaN by declared rules; where a mask is given, the reference sees the
masked pixels alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from eoaug import metrics
from tests.later import Later

torch: Any = Later("torch")
functional: Any = Later("torchmetrics.functional.image")
kid: Any = Later("torchmetrics.image.kid")
scoringrules: Any = Later("scoringrules")
stats: Any = Later("scipy.stats")
skimage_metrics: Any = Later("skimage.metrics")

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=10, deadline=None)


def pair(seed, shape=(4, 32, 40)):
    """A smooth scene of reflectance about 0.05 to 0.5, and an estimate with an error of about 0.02."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2))
    truth = 0.25 + 0.2 * np.tanh(truth / truth.std())
    return truth + 0.02 * rng.normal(size=shape), truth


def batch(image):
    return torch.from_numpy(image[None])


@few
@given(seeds, st.sampled_from([1.0, 0.3]))
def test_psnr(seed, data_range):
    estimate, truth = pair(seed)
    ours = metrics.psnr(estimate, truth, data_range=data_range)
    theirs = skimage_metrics.peak_signal_noise_ratio(truth, estimate, data_range=data_range)
    assert ours == pytest.approx(theirs, abs=1e-9)
    other = functional.peak_signal_noise_ratio(batch(estimate), batch(truth), data_range=data_range)
    assert ours == pytest.approx(float(other), abs=1e-4)


@few
@given(seeds)
def test_psnr_and_rmse_of_some_pixels(seed):
    estimate, truth = pair(seed)
    where = np.random.default_rng(seed).random(truth.shape) < 0.3
    error = float(np.sqrt(skimage_metrics.mean_squared_error(truth[where], estimate[where])))
    assert metrics.rmse(estimate, truth, where=where) == pytest.approx(error, abs=1e-12)
    theirs = skimage_metrics.peak_signal_noise_ratio(truth[where], estimate[where], data_range=1.0)
    assert metrics.psnr(estimate, truth, data_range=1.0, where=where) == pytest.approx(theirs, abs=1e-9)


@few
@given(seeds, st.sampled_from([1.0, 0.3]))
def test_ssim(seed, data_range):
    estimate, truth = pair(seed)
    ours = metrics.ssim(estimate, truth, data_range=data_range)
    settings_ = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    bands = [
        skimage_metrics.structural_similarity(t, e, data_range=data_range, **settings_)
        for t, e in zip(truth, estimate, strict=True)
    ]
    assert ours == pytest.approx(np.mean(bands), abs=1e-9)
    # torchmetrics averages over mirrored borders too; ours leaves out the five outermost pixels, as the paper does.
    _, image = functional.structural_similarity_index_measure(
        batch(estimate), batch(truth), data_range=data_range, sigma=1.5, return_full_image=True
    )
    assert ours == pytest.approx(float(image[..., 5:-5, 5:-5].mean()), abs=1e-9)
    where = np.random.default_rng(seed).random(truth.shape) < 0.3
    where[:, :6], where[:, -6:], where[..., :6], where[..., -6:] = False, False, False, False
    masked = metrics.ssim(estimate, truth, data_range=data_range, where=where)
    assert masked == pytest.approx(float(image[0][torch.from_numpy(where)].mean()), abs=1e-9)


@few
@given(seeds)
def test_sam(seed):
    estimate, truth = pair(seed)
    theirs = functional.spectral_angle_mapper(batch(estimate), batch(truth))
    assert metrics.sam(estimate, truth) == pytest.approx(np.degrees(float(theirs)), abs=1e-4)


def test_sam_leaves_out_pixels_that_are_zero_in_all_bands():
    estimate, truth = pair(0)
    truth[:, 3:9, 5:20] = 0
    kept = (truth != 0).any(axis=0)
    theirs = functional.spectral_angle_mapper(
        batch(estimate[:, kept][..., None]), batch(truth[:, kept][..., None])
    )
    assert metrics.sam(estimate, truth) == pytest.approx(np.degrees(float(theirs)), abs=1e-4)


@few
@given(seeds, st.sampled_from([2, 4, 8]))
def test_ergas(seed, factor):
    """torchmetrics divides by its ``ratio``, which is therefore fine pixels per coarse pixel."""
    estimate, truth = pair(seed)
    theirs = functional.error_relative_global_dimensionless_synthesis(
        batch(estimate), batch(truth), ratio=factor
    )
    assert metrics.ergas(estimate, truth, factor=factor) == pytest.approx(float(theirs), rel=1e-5)


@few
@given(seeds, st.integers(2, 12))
def test_crps_is_the_fair_estimator(seed, size):
    rng = np.random.default_rng(seed)
    members, truth = rng.normal(size=(size, 30)), rng.normal(size=30)
    theirs = scoringrules.crps_ensemble(truth, members.T, estimator="fair")
    assert metrics.crps(members, truth) == pytest.approx(float(np.mean(theirs)), abs=1e-9)
    where = rng.random(30) < 0.5
    if where.any():
        masked = float(np.mean(np.asarray(theirs)[where]))
        assert metrics.crps(members, truth, where=where) == pytest.approx(masked, abs=1e-9)


def test_crps_of_many_members_is_that_of_their_normal_distribution():
    rng = np.random.default_rng(1)
    members, truth = rng.normal(0.3, 0.1, size=(4000, 50)), rng.normal(0.3, 0.1, size=50)
    theirs = float(np.mean(scoringrules.crps_normal(truth, 0.3, 0.1)))
    assert metrics.crps(members, truth) == pytest.approx(theirs, abs=1e-3)


@few
@given(seeds)
def test_kernel_distance(seed):
    """The unbiased polynomial MMD of torchmetrics, without its Inception network."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(12, 6)), rng.normal(0.2, 1.1, size=(12, 6))
    theirs = kid.poly_mmd(torch.from_numpy(first), torch.from_numpy(second), degree=3, gamma=None, coef=1.0)
    assert metrics.kernel_distance(first, second) == pytest.approx(float(theirs), rel=1e-6, abs=1e-9)


def test_the_cluster_bootstrap_is_scipys_when_every_group_has_one_value():
    values = np.random.default_rng(3).normal(size=40)
    ours = metrics.bootstrap_interval(values, range(40), draws=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


@few
@given(seeds)
def test_coverage_uses_scipys_weibull_quantiles(seed):
    rng = np.random.default_rng(seed)
    members, truth = rng.normal(size=(24, 200)), rng.normal(size=200)
    low, high = stats.mstats.mquantiles(members, [0.05, 0.95], alphap=0, betap=0, axis=0)
    inside = (low <= truth) & (truth <= high)
    assert metrics.coverage(members, truth) == pytest.approx(float(inside.mean()), abs=1e-12)
