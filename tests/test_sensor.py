"""The sensor's algebra: adjoint, consistency, locality to the bit, no shift."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eoaug.errors import ParameterError
from eoaug.raster.sensor import Sensor
from eoaug.raster.sensor_kernels import RESAMPLINGS, kernel_of

factors = st.integers(2, 8)
mtfs = st.one_of(st.none(), st.one_of(st.floats(0.06, 0.6), st.sampled_from(RESAMPLINGS)).map(lambda m: (m,)))
sensors = st.builds(lambda f, m: Sensor(factor=f, mtf=m), factors, mtfs)
seeds = st.integers(0, 2**32 - 1)


def field(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def measured(sensor, seed, cells=(6, 7), bands=2):
    """A coarse measurement of a rough image, and its cubic start."""
    f = sensor.factor
    truth = field(seed, (bands, cells[0] * f, cells[1] * f))
    coarse = sensor.degrade(truth)
    return coarse, sensor.upsample(coarse)


@given(sensors, seeds)
def test_adjoint(sensor, seed):
    f = sensor.factor
    x, y = field(seed, (2, 3 * f, 4 * f)), field(seed + 1, (2, 3, 4))
    left = np.vdot(sensor.degrade(x).astype(float), y)
    right = np.vdot(x, sensor.adjoint(y).astype(float)) / f**2
    assert left == pytest.approx(right, rel=1e-4, abs=1e-4)


@given(sensors, st.floats(-5, 5, width=32))
def test_a_constant_stays(sensor, value):
    f = sensor.factor
    coarse = np.full((1, 5, 4), value, np.float32)
    fine = np.full((1, 5 * f, 4 * f), value, np.float32)
    for got, want in (
        (sensor.degrade(fine), coarse),
        (sensor.upsample(coarse), fine),
        (sensor.project(fine, coarse), fine),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@given(sensors, st.sampled_from([-2, -1]))
def test_a_ramp_is_not_shifted(sensor, axis):
    f, n = sensor.factor, 12
    position = (np.arange(n * f) + 0.5) / f
    fine = np.moveaxis(np.broadcast_to(position, (1, n * f, n * f)), -1, axis).astype(np.float32)
    coarse = np.moveaxis(np.broadcast_to(np.arange(n) + 0.5, (1, n, n)), -1, axis).astype(np.float32)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(sensor.degrade(fine)[inner], coarse[inner], atol=2e-6)
    fine_inner = (slice(None), slice(3 * f, -3 * f), slice(3 * f, -3 * f))
    np.testing.assert_allclose(sensor.upsample(coarse)[fine_inner], fine[fine_inner], atol=2e-6)


@given(factors, seeds)
def test_box_projection_is_exact(factor, seed):
    sensor = Sensor(factor=factor, mtf=None)
    coarse, start = measured(sensor, seed)
    assert np.abs(sensor.degrade(sensor.project(start, coarse)) - coarse).max() < 1e-6
    # The box is the mean of the cell, and what it does is the smallest change that fits.
    np.testing.assert_allclose(
        start + np.kron(coarse - sensor.degrade(start), np.ones((1, factor, factor))),
        sensor.project(start, coarse),
        atol=1e-6,
    )


@pytest.mark.parametrize(("mtf", "left"), [(0.1, 0.06), (0.2, 0.01), (0.3, 2e-3), (0.4, 2e-3), (0.6, 2e-3)])
@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_one_pass_is_nearly_consistent(factor, mtf, left):
    sensor = Sensor(factor=factor, mtf=(mtf,))
    coarse, start = measured(sensor, factor, cells=(16, 16))
    before = np.abs(sensor.degrade(start) - coarse).max()
    once, twice = (
        np.abs(sensor.degrade(sensor.project(start, coarse, passes=n)) - coarse).max() for n in (1, 2)
    )
    assert once < left * before
    assert twice < max(left**2 * before, 2e-6)


@given(sensors, seeds)
def test_nothing_beyond_the_radius_matters(sensor, seed):
    f, radius = sensor.factor, sensor.radius_px
    cells = 2 * (radius // f + 2) + 1
    coarse, start = measured(sensor, seed, cells=(3, cells), bands=1)
    middle = start.shape[-1] // 2
    moved = start.copy()
    moved[..., :, middle] += 1.0
    changed = np.flatnonzero(
        (sensor.project(moved, coarse) != sensor.project(start, coarse)).any(axis=(0, 1))
    )
    reach = max(middle - changed.min(), changed.max() - middle)
    assert reach <= radius


@pytest.mark.parametrize("mtf", [None, (0.1,), (0.3,), (0.6,)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_radius_is_reached(factor, mtf):
    sensor = Sensor(factor=factor, mtf=mtf)
    cells = 2 * (sensor.radius_px // factor + 2) + 1
    start, coarse = np.zeros((1, factor, cells * factor)), np.zeros((1, 1, cells))
    reach = 0
    for pixel in range(cells // 2 * factor, cells // 2 * factor + factor):
        start[...] = 0.0
        start[..., pixel] = 1e6
        changed = np.flatnonzero(sensor.project(start, coarse).any(axis=(0, 1)))
        reach = max(reach, pixel - changed.min(), changed.max() - pixel)
    assert reach == sensor.radius_px


@settings(max_examples=40)
@given(
    st.integers(2, 4),
    mtfs,
    seeds,
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.booleans(),
    st.sampled_from([(), (0.1,)]),
)
def test_a_crop_gives_the_same_bits(factor, mtf, seed, cut, with_gaps, noise):
    sensor = Sensor(factor=factor, mtf=mtf, noise=noise)
    margin = -(-sensor.radius_px // factor)
    cells = 2 * margin + 9
    coarse, start = measured(sensor, seed, cells=(cells, cells), bands=1)
    if with_gaps:
        coarse = np.where(field(seed, coarse.shape) > 0.5, np.nan, coarse)
    whole = sensor.project(start, coarse)
    (top, left), f = cut, factor
    part = sensor.project(start[:, top * f :, left * f :], coarse[:, top:, left:])
    inner = margin * f
    a = whole[:, top * f + (inner if top else 0) :, left * f + (inner if left else 0) :]
    b = part[:, inner if top else 0 :, inner if left else 0 :]
    assert a.tobytes() == b.tobytes()


@given(sensors, seeds)
def test_bands_do_not_mix(sensor, seed):
    f = sensor.factor
    several = Sensor(factor=f, mtf=None if sensor.mtf is None else (sensor.mtf[0], 0.5, 0.25))
    x, y = field(seed, (3, 4 * f, 4 * f)), field(seed + 1, (3, 4, 4))
    assert several.degrade(x)[0].tobytes() == sensor.degrade(x[:1])[0].tobytes()
    assert several.project(x, y)[0].tobytes() == sensor.project(x[:1], y[:1])[0].tobytes()


@given(sensors, seeds)
def test_gaps_in_the_coarse_image_demand_nothing(sensor, seed):
    coarse, start = measured(sensor, seed)
    assert sensor.project(start, np.full_like(coarse, np.nan)).tobytes() == start.tobytes()
    coarse[:, 2, 3] = np.nan
    after = sensor.degrade(sensor.project(start, coarse, passes=4))
    seen = np.isfinite(coarse)
    before = np.abs(sensor.degrade(start) - coarse)[seen].max()
    assert np.abs(after - coarse)[seen].max() < 0.1 * before + 1e-5


@given(sensors, seeds, st.floats(-3, 3, width=32))
def test_gaps_in_the_fine_image_are_left_out(sensor, seed, value):
    f = sensor.factor
    fine = np.full((1, 4 * f, 4 * f), value, np.float32)
    fine[np.random.default_rng(seed).random(fine.shape) < 0.7] = np.nan
    fine[:, :f, :f] = np.nan
    seen = np.isfinite(fine).reshape(1, 4, f, 4, f).any(axis=(2, 4))
    coarse = sensor.degrade(fine)
    np.testing.assert_array_equal(np.isfinite(coarse), seen)
    np.testing.assert_allclose(coarse[seen], value, atol=1e-5)


@given(factors, st.floats(0.06, 0.6))
def test_the_kernel_has_the_mtf(factor, mtf):
    n = 32
    phase = np.pi * (np.arange(n * factor) + 0.5) / factor
    wave = np.cos(phase - np.pi / 2)
    fine = np.broadcast_to(wave, (1, factor, n * factor))
    inner = Sensor(factor=factor, mtf=(mtf,)).degrade(fine)[0, 0, 8:-8]
    np.testing.assert_allclose(np.abs(inner), mtf, atol=0.03)


@pytest.mark.parametrize("name", RESAMPLINGS)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_resampling_is_that_of_its_name(factor, name):
    """Pillow's reduction; nearest, which has no filter, is the middle pixel or the interpolation between the middle ones."""
    fine = field(factor, (1, 24, 24))
    seen = Sensor.of(name, factor, 1).degrade(fine)[0]
    if name == "nearest":
        assert kernel_of(factor, name).max() == (1.0 if factor % 2 else 0.5625)
        return
    size = (24 // factor, 24 // factor)
    pillow = Image.fromarray(fine[0]).resize(
        size, getattr(Image.Resampling, name.replace("cubic", "bicubic").upper())
    )
    inner = np.s_[2:-2, 2:-2] if factor < 4 else np.s_[2:4, 2:4]
    np.testing.assert_allclose(seen[inner], np.asarray(pillow)[inner], atol=2e-5)


@pytest.mark.parametrize("mtf", [0.3, "box", "cubic"])
def test_noise_is_not_sharpened_and_edges_are(mtf):
    noise = field(1, (2, 40, 40))
    plain, knowing = Sensor(factor=2, mtf=(mtf,)), Sensor(factor=2, mtf=(mtf,), noise=(1.0,))
    start = plain.upsample(noise)
    assert knowing.project(start, noise).std() < 1.3 * start.std()
    assert knowing.project(start, noise).std() < 0.9 * plain.project(start, noise).std()
    # Edges of a hundred times the noise are sharpened: what is left of their residual lies within it.
    edges = np.where(np.add.outer(np.arange(40), np.arange(40)) % 20 < 10, 100.0, 0.0)[None] + noise
    sharp = knowing.project(plain.upsample(edges), edges)
    assert np.abs(plain.degrade(sharp) - edges).max() < 5
    assert np.abs(plain.degrade(plain.upsample(edges)) - edges).max() > 5


def test_noise_is_per_band_and_checked():
    coarse = field(2, (2, 12, 12))
    sensor = Sensor(factor=2, mtf=(0.3,), noise=(0.0, 1.0))
    start = sensor.upsample(coarse)
    out = sensor.project(start, coarse)
    assert out[:1].tobytes() == Sensor(factor=2, mtf=(0.3,)).project(start[:1], coarse[:1]).tobytes()
    assert out[1:].tobytes() == sensor.of_band(1).project(start[1:], coarse[1:]).tobytes()
    assert sensor.of_bands([1]).noise == (1.0,)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match=str(value)):
            Sensor(factor=2, mtf=None, noise=(value,))


@pytest.mark.parametrize(
    ("spec", "factor", "culprit"),
    [
        ("sinc", 2, "sinc"),
        ("box", 3.5, "3.5"),
        ("box", 1, "1"),
        ("box", 9, "9"),
        (0.02, 2, "0.02"),
        (0.99, 2, "0.99"),
        (0.9, 2, "0.9"),
        (float("nan"), 2, "nan"),
        ((0.3, 0.4), 2, "2 MTF"),
        ((0.3, 0.4, None), 2, "None"),
        (None, 2, "None"),
        ((), 2, "0 MTF"),
    ],
)
def test_bad_sensors_are_refused(spec, factor, culprit):
    with pytest.raises(ParameterError, match=culprit):
        Sensor.of(spec, factor, 3)


def test_bad_arrays_are_refused():
    sensor = Sensor.of("gaussian", 4, 2)
    with pytest.raises(ParameterError, match="10 x 8"):
        sensor.degrade(np.zeros((2, 10, 8)))
    with pytest.raises(ParameterError, match=r"\(2, 3, 2\)"):
        sensor.project(np.zeros((2, 8, 8)), np.zeros((2, 3, 2)))
    with pytest.raises(ParameterError, match="1 values"):
        sensor.project(np.where(np.arange(128).reshape(2, 8, 8) == 5, np.nan, 0), np.zeros((2, 2, 2)))
    with pytest.raises(ParameterError, match="2 bands"):
        Sensor.of((0.2, 0.3, 0.4), 2, 3).degrade(np.zeros((2, 4, 4)))


def test_sensors_are_values():
    sensor = Sensor.of([0.2, 0.3], 2, 2)
    assert pickle.loads(pickle.dumps(sensor)) == sensor == Sensor(factor=2, mtf=(0.2, 0.3))
    assert len({sensor, Sensor.of("gaussian", 2, 2), Sensor.of(0.3, 2, 2)}) == 2


@given(sensors, seeds, st.floats(0.5, 6))
def test_bands_of_decibels_are_averaged_as_power(sensor, seed, unit):
    """The other band stays as it is; the box is reproduced by one pass, others are approached."""
    f = sensor.factor
    fine = field(seed, (2, 6 * f, 7 * f)) * np.float32(2 / unit)
    both = Sensor(factor=f, mtf=sensor.mtf, decibels=(unit, 0.0))
    coarse = both.degrade(fine)
    assert coarse[1].tobytes() == sensor.degrade(fine)[1].tobytes()
    if sensor.mtf is None:
        power = 10 ** (fine[0].astype(float) * unit / 10)
        cells = power.reshape(6, f, 7, f).mean(axis=(1, 3))
        np.testing.assert_allclose(coarse[0], 10 * np.log10(cells) / unit, atol=1e-5)
    start = both.upsample(coarse)
    made = both.project(start, coarse, passes=3)
    before, after = (np.abs(both.degrade(image) - coarse).max() for image in (start, made))
    assert after <= (1e-4 if sensor.mtf is None else 1.01 * before + 1e-4)
    assert made[1].tobytes() == sensor.project(start, coarse, passes=3)[1].tobytes()


def test_a_gap_and_a_choice_of_bands_keep_their_decibels():
    sensor = Sensor(factor=2, mtf=None, decibels=(3.0, 0.0, 1.0))
    fine = field(0, (3, 8, 8))
    coarse = sensor.degrade(fine)
    assert sensor.of_bands([2]).degrade(fine[2:]).tobytes() == coarse[2:].tobytes()
    coarse[1] = np.nan  # not measured: comes back as it is
    made = sensor.project(fine, coarse)
    assert made[1].tobytes() == fine[1].tobytes()
    np.testing.assert_allclose(made, fine, atol=1e-5)
    with pytest.raises(ParameterError, match="decibels"):
        Sensor(factor=2, mtf=None, decibels=(-1.0,))
