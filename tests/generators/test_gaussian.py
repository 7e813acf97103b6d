"""The closed form is the conditional mean of a Gaussian field, and draws fields of its spectrum."""

import numpy as np
import pytest

from eoaug.generators.embedded import flow_samplers
from eoaug.generators.embedded.spectral_gaussian import Gaussian, equalised

RNG = np.random.default_rng(0)
N, C = 16, 3
ALL = np.ones(C, bool)


def fields(count):
    """Smooth correlated fields with mean (1, 2, 3)."""
    white = RNG.standard_normal((count, C, N, N))
    smooth = sum(np.roll(white, (i, j), (2, 3)) for i in range(3) for j in range(3)) / 3
    mixed = smooth + 2 * smooth[:, :1]
    return (mixed + np.array([1, 2, 3])[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module")
def field():
    images = fields(400)
    return Gaussian.fit(images, np.ones(images.shape, bool))


def test_at_noise_it_is_the_mean_and_at_the_end_the_point(field):
    x = fields(1)[0]
    at_noise = field.estimate(x, 0.0, ALL)
    np.testing.assert_allclose(at_noise, np.broadcast_to(field.mean[:, None, None], x.shape), atol=1e-5)
    np.testing.assert_allclose(field.estimate(x, 1.0, ALL), x, atol=1e-4)


def test_it_beats_the_point_and_the_mean_in_between(field):
    x, e = fields(20), RNG.standard_normal((20, C, N, N)).astype(np.float32)
    found = np.stack(
        [field.estimate(flow_samplers.noised(a, b, 0.5), 0.5, ALL) for a, b in zip(x, e, strict=True)]
    )
    error = np.square(found - x).mean()
    assert error < 0.5 * np.square(e).mean()
    assert error < 0.5 * x.var(axis=(0, 2, 3)).mean()


def test_absent_bands_come_back_empty_and_do_not_matter(field):
    x = fields(1)[0]
    present = np.array([True, False, True])
    found = field.estimate(x, 0.4, present)
    assert not found[1].any()
    x[1] = 1e6
    np.testing.assert_array_equal(field.estimate(x, 0.4, present), found)


def test_samples_have_the_data_s_level_spread_and_correlation(field):
    schedule = flow_samplers.karras(30)
    noise = RNG.standard_normal((60, C, N, N)).astype(np.float32) * (1 - schedule[0])
    drawn = np.stack(
        [
            flow_samplers.sample_dpmpp_2m(lambda x, t: field.estimate(x, t, ALL), one, schedule)
            for one in noise
        ]
    )
    data = fields(400)
    np.testing.assert_allclose(drawn.mean(axis=(0, 2, 3)), [1, 2, 3], atol=0.4)
    np.testing.assert_allclose(drawn.std(axis=(0, 2, 3)), data.std(axis=(0, 2, 3)), rtol=0.15)
    both = [np.corrcoef(a[:, 0].ravel(), a[:, 1].ravel())[0, 1] for a in (drawn, data)]
    assert both[0] == pytest.approx(both[1], abs=0.1)


def test_equalising_weighs_each_octave_and_nothing_else():
    image = fields(1)[0]
    np.testing.assert_allclose(equalised(image, (1, 1, 1, 1, 1)), image, atol=1e-5)
    columns = np.arange(64) + 0.5
    for cycles_per_px, gain in ((1 / 32, 2.0), (1 / 8, 4.0), (3 / 8, 5.0)):
        wave = np.tile(np.cos(2 * np.pi * cycles_per_px * columns), (1, 64, 1)).astype(np.float32)
        np.testing.assert_allclose(equalised(wave, (1, 2, 3, 4, 5)), gain * wave, atol=1e-4)
