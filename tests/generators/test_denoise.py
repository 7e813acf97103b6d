"""The samplers against a problem with a known answer: Gaussian data, whose clean estimate is linear."""

import itertools

import numpy as np
import pytest

from eoaug.generators.embedded import flow_samplers

MEAN, STD = 0.7, 0.5


def exact(x_t, t):
    """E[x | x_t] for x ~ N(MEAN, STD^2), x_t = t x + (1 - t) e."""
    gain = t * STD**2 / (t**2 * STD**2 + (1 - t) ** 2)
    return MEAN + gain * (x_t - t * MEAN)


def transported(noise):
    """Where the probability flow takes a point of the noise: the monotone map between two Gaussians."""
    return MEAN + STD * noise


NOISE = np.random.default_rng(0).standard_normal(200)
EVEN = (*(i / 200 for i in range(200)), 1.0)


def sample_euler(model, noise, schedule, *, correct=lambda clean: clean):
    """The sampler of first order that DPM-Solver++ is compared with."""
    x = noise
    for t, t_next in itertools.pairwise(schedule):
        x = flow_samplers.euler(x, correct(model(x, t)), t, t_next)
    return x


SAMPLERS = (sample_euler, flow_samplers.sample_dpmpp_2m)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_follow_the_flow_of_a_gaussian(sampler):
    found = sampler(exact, NOISE, EVEN)
    assert np.abs(found - transported(NOISE)).max() < 0.02


def test_second_order_beats_first_at_equal_steps():
    schedule = flow_samplers.karras(10, sigma_max=80)
    start = NOISE * (1 - schedule[0])
    error = [
        np.abs(s(exact, start, schedule) - transported(NOISE)).mean()
        for s in (flow_samplers.sample_dpmpp_2m, sample_euler)
    ]
    assert error[0] < error[1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_is_the_estimate_itself(sampler):
    np.testing.assert_allclose(sampler(exact, NOISE, (0.0, 1.0)), exact(NOISE, 0.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_correction_has_the_last_word(sampler):
    def known_is_three(clean):
        return np.where(np.arange(clean.size) < 5, 3.0, clean)

    found = sampler(exact, NOISE, flow_samplers.karras(6), correct=known_is_three)
    np.testing.assert_array_equal(found[:5], 3.0)


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 30])
def test_schedules_ascend_to_clean(steps):
    times = flow_samplers.karras(steps)
    assert len(times) == steps + 1
    assert times[-1] == 1.0
    assert all(a < b for a, b in itertools.pairwise(times))
    assert times[0] >= 0


@pytest.mark.parametrize("sigma_max", [0.01, 0.05, 0.2, 1.0])
def test_a_path_from_near_the_end_ascends_too(sigma_max):
    times = flow_samplers.karras(4, sigma_max=sigma_max, sigma_min=0.05)
    assert times[0] == pytest.approx(1 / (1 + sigma_max))
    assert (np.diff(times) > 0).all()


def test_karras_starts_where_it_is_told():
    assert flow_samplers.karras(5, sigma_max=4.0)[0] == pytest.approx(1 / 5)
    assert flow_samplers.karras(1, sigma_max=4.0) == (pytest.approx(1 / 5), 1.0)


def test_euler_is_exact_for_a_constant_estimate_in_any_number_of_steps():
    clean = np.full_like(NOISE, 2.0)
    once = flow_samplers.euler(NOISE, clean, 0.0, 0.6)
    twice = flow_samplers.euler(flow_samplers.euler(NOISE, clean, 0.0, 0.25), clean, 0.25, 0.6)
    np.testing.assert_allclose(once, twice)
    np.testing.assert_allclose(once, flow_samplers.noised(clean, NOISE, 0.6))
