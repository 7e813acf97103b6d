"""The compiled loops do what numpy and scipy do."""

import numpy as np
import pytest
from scipy import ndimage

from eoaug.generators.interpolation import regression, spread
from eoaug.generators.interpolation.compiled import agreement


@pytest.mark.parametrize("width", [0.1, 0.8, 8.0, 20.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_smoothing_is_that_of_scipy(width, dtype):
    images = np.random.default_rng(0).standard_normal((2, 3, 40, 37)).astype(dtype)
    expected = ndimage.gaussian_filter(images, (0, 0, width, width), mode="reflect")
    found = spread.smoothed(images, width)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=20 * np.finfo(dtype).eps)
    # A plane does not depend on those that it comes with.
    np.testing.assert_array_equal(spread.smoothed(images[1, 2], width), found[1, 2])


def test_a_patch_is_wrong_where_more_than_half_of_what_is_shown_around_is():
    rng = np.random.default_rng(1)
    shown = rng.random((2, 17, 20)) < 0.8
    wrong = shown & (ndimage.gaussian_filter(rng.standard_normal(shown.shape), (0, 2, 2)) > 0.05)
    square = np.ones((1, 5, 5))
    most, bad = (ndimage.convolve(x.astype(int), square, mode="constant") for x in (shown, wrong))
    patches = shown & (2 * bad > most)
    assert (shown & (2 * bad == most)).any()  # one half is no majority
    expected = patches | wrong & ndimage.binary_dilation(patches, square)
    np.testing.assert_array_equal(agreement.in_patches(wrong, shown, 5), expected)


def test_differences_between_dates_are_medians():
    rng = np.random.default_rng(2)
    planes, shown = rng.standard_normal((4, 2, 61)).astype(np.float32), rng.random((4, 61)) < 0.7
    shown[3] = False
    out = np.full((6, 2), np.nan)
    assert agreement.typical_differences(planes, shown, 16, out) == 3
    for row, (one, other) in zip(out, ((0, 1), (0, 2), (1, 2)), strict=False):
        both = shown[one] & shown[other]
        np.testing.assert_allclose(
            row, np.median(abs(planes[one] - planes[other])[:, both], axis=1), rtol=1e-6
        )


def test_a_departure_that_is_linear_in_the_dates_is_predicted():
    rng = np.random.default_rng(3)
    dates = rng.standard_normal((2, 1, 64, 64)).astype(np.float32)
    departure = 0.5 * dates[0] - 0.25 * dates[1]
    known = np.ones(departure.shape, bool)
    known[:, 20:40, 20:40] = False
    (move,) = regression.predict_departure([regression.Residuals(dates, departure, known)])
    # A ridge of 0.3 leaves 1 / 1.3 of a slope.
    np.testing.assert_allclose(move[~known], departure[~known] / 1.3, atol=0.25)
    assert np.corrcoef(move[~known], departure[~known])[0, 1] > 0.99
