"""The classical generator: exact where known, blind to other bands, tiles and requests."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoaug.errors import GeneratorError
from eoaug.generators.base import Generator, Request
from eoaug.generators.classical import Classical, estimate
from eoaug.generators.interpolation.back_projection import coarse_prior
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.texture import texture
from eoaug.generators.interpolation.time_series import gap_filled, temporal
from eoaug.raster.masks import simulate
from eoaug.raster.sensor import Sensor

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def field(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def request_of(verb, seed=0, bands=3, size=32, **changes):
    """A request of a verb with three dates, the middle one the target."""
    rng = np.random.default_rng(seed)
    shape = (3, bands, size, size)
    known, fill = np.ones(shape, bool), np.zeros(shape, bool)
    known[0] = rng.random(shape[1:]) < 0.8
    hole = simulate((size, size), 0.4, seed=seed)
    fill[1] = True if verb != "inpaint" else hole
    known[1] = ~fill[1]
    sensor = coarse = None
    if verb == "super_resolve":
        sensor, known[:], fill[:] = Sensor.of(0.3, 2, bands), False, True
        coarse = field(seed + 1, (3, bands, size // 2, size // 2))
        coarse[:, :, 2, 3] = np.nan
    if verb == "synthesize":
        known[:], fill[:] = False, True
    return Request(
        values=np.where(known, field(seed, shape), 0).astype(np.float32),
        known=known,
        fill=fill,
        times=np.array([0, 10, 30], np.int64) * 86_400,
        metadata=np.full((3, 7), np.nan),
        coarse=coarse,
        factor=2 if sensor else 1,
        sensor=sensor,
        **changes,
    )


VERBS = ["synthesize", "inpaint", "extend", "super_resolve"]


def variation(seed=0):
    request = request_of("inpaint", seed)
    everything = np.ones_like(request.known)
    return replace(
        request, values=field(seed, everything.shape), known=everything, fill=everything, strength=0.5
    )


@given(sizes, seeds, st.floats(0, 1))
def test_push_pull_keeps_the_known_and_stays_between(size, seed, share):
    values = field(seed, (2, *size))
    known = np.random.default_rng(seed).random(values.shape) < share
    filled = push_pull(np.where(known, values, np.nan), known)
    assert filled.dtype == np.float32
    assert filled[known].tobytes() == values[known].tobytes()
    for plane, seen, truth in zip(filled, known, values, strict=True):
        if seen.any():
            assert truth[seen].min() - 1e-5 <= plane.min() <= plane.max() <= truth[seen].max() + 1e-5
        else:
            assert not plane.any()


def test_push_pull_follows_a_slope_into_the_hole():
    rows, cols = np.mgrid[:48, :48].astype(np.float32) / 48
    truth = (rows * 2 - cols)[None]
    smooth = flat = 0.0
    for seed in range(8):
        known = ~simulate((48, 48), 0.3, seed=seed)[None]
        smooth += np.abs(push_pull(truth, known) - truth)[~known].mean()
        flat += np.abs(truth[known].mean() - truth)[~known].mean()
    assert smooth < 0.3 * flat


@given(seeds, st.floats(-2, 2, width=32), st.integers(0, 2))
def test_temporal_is_linear_between_and_persists_outside(seed, slope, target):
    times = np.array([0, 7, 30], np.int64)
    start = field(seed, (2, 9, 11))
    values = np.stack([start + np.float32(slope * t) for t in times])
    known = np.ones(values.shape, bool)
    known[target] = False
    want = {0: values[1], 1: values[1], 2: values[1]}[target]
    np.testing.assert_allclose(temporal(values, known, times, target), want, atol=2e-4 * (1 + abs(slope)))


@given(seeds, st.floats(-1, 1, width=32))
def test_temporal_learns_an_offset_from_clear_pixels(seed, offset):
    other = field(seed, (1, 24, 24))
    values = np.stack([other, other + np.float32(offset)])
    known = np.stack([np.ones(other.shape, bool), ~simulate((24, 24), 0.5, seed=seed)[None]])
    got = temporal(values, known, np.array([0, 5], np.int64), 1)
    shown = values[known]
    np.testing.assert_allclose(got, np.clip(values[1], shown.min(), shown.max()), atol=1e-5)
    assert got[known[1]].tobytes() == values[1][known[1]].tobytes()


def test_an_error_found_on_bright_land_does_not_make_dark_land_darker_than_all_land():
    """Bright land that lost half of its reflectance says nothing of water beside it, which would become negative."""
    values = np.full((3, 1, 16, 16), 0.4, np.float32)
    values[:, :, 6:10, 6:10] = 0.04
    values[1] /= 2
    known = np.ones(values.shape, bool)
    known[1, :, 5:11, 5:11] = False
    times = np.arange(3)
    got = temporal(values, known, times, 1)[0]
    assert got[6:10, 6:10].max() == got.min() == np.float32(0.04)
    np.testing.assert_allclose(got[5, 5:11], 0.2, atol=1e-6)
    np.testing.assert_array_equal(gap_filled(values, known, times)[1, 0], got)


def test_temporal_of_dates_at_one_moment_takes_half_each():
    values = np.stack([np.full((1, 4, 4), v, np.float32) for v in (1, 0, 3)])
    known = np.array([True, False, True])[:, None, None, None] & np.ones(values.shape, bool)
    np.testing.assert_allclose(temporal(values, known, np.zeros(3, np.int64), 1), 2.0)


def test_temporal_fills_what_no_date_knows():
    values, known = field(0, (2, 1, 16, 16)), np.ones((2, 1, 16, 16), bool)
    known[:, :, 4:9, 4:9] = False
    assert np.abs(temporal(values, known, np.array([0, 1], np.int64), 1)[:, 4:9, 4:9]).min() > 0


@given(st.sampled_from([None, (0.3,)]), st.integers(2, 4), seeds)
def test_coarse_prior_agrees_with_the_measurement(mtf, factor, seed):
    sensor = Sensor(factor=factor, mtf=mtf)
    coarse = field(seed, (2, 8, 8))
    np.testing.assert_allclose(sensor.degrade(coarse_prior(coarse, sensor)), coarse, atol=6e-3)
    coarse[:, 3, 4] = np.nan
    assert np.isfinite(coarse_prior(coarse, sensor)).all()


@settings(max_examples=25)
@given(seeds, st.tuples(*[st.integers(-(10**6), 10**6)] * 2), st.tuples(*[st.integers(0, 40)] * 2))
def test_texture_belongs_to_the_place(seed, origin, shift):
    whole = texture(origin, (2, 60, 61), seed=seed)
    part = texture((origin[0] + shift[0], origin[1] + shift[1]), (1, 20, 21), seed=seed)
    window = whole[:1, shift[0] : shift[0] + 20, shift[1] : shift[1] + 21]
    assert part.tobytes() == np.ascontiguousarray(window).tobytes()


def test_texture_is_standard_and_its_identities_are_independent():
    fields = [texture((0, 0), (2, 512, 512), seed=1), *[texture((0, 0), (2, 512, 512), **i) for i in (
        {"seed": 2}, {"seed": 1, "member": 1}, {"seed": 1, "time": 1}
    )]]  # fmt: skip
    for one in fields:
        assert abs(one.mean()) < 0.2
        assert one.std() == pytest.approx(1, abs=0.08)
        assert np.corrcoef(one[0].ravel(), one[1].ravel())[0, 1] == pytest.approx(0.8, abs=0.06)
        assert sum(abs(np.corrcoef(one[0].ravel(), other[0].ravel())[0, 1]) > 0.15 for other in fields) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_the_requests_are_of_their_verb(verb):
    assert request_of(verb).verb == verb
    assert variation().verb == "synthesize"


@pytest.mark.parametrize("verb", VERBS)
def test_generate_keeps_what_is_known_and_treats_requests_alone(verb):
    requests = [request_of(verb, seed) for seed in range(3)]
    together = Classical().generate(requests)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for request, result in zip(requests, together, strict=True):
        assert Classical().generate([request])[0].tobytes() == result.tobytes()
        kept = request.known & ~request.fill
        assert result[kept].tobytes() == request.values[kept].tobytes()
        assert not result[~request.known & ~request.fill].any()
        assert result[request.fill].std() > 0


@pytest.mark.parametrize("verb", ["inpaint", "extend", "super_resolve"])
@pytest.mark.parametrize("band", [0, 2])
def test_bands_do_not_mix(verb, band):
    request = request_of(verb)
    one = slice(band, band + 1)
    alone = replace(
        request,
        values=request.values[:, one],
        known=request.known[:, one],
        fill=request.fill[:, one],
        coarse=None if request.coarse is None else request.coarse[:, one],
    )
    assert estimate(alone).tobytes() == np.ascontiguousarray(estimate(request)[:, one]).tobytes()


def in_gap(cells, column):
    """A request for a tile without a known pixel in a field of cells, its first cell at (20, column)."""
    shape = (len(cells), 64, 64)
    return Request(
        values=np.zeros((1, *shape), np.float32),
        known=np.zeros((1, *shape), bool),
        fill=np.ones((1, *shape), bool),
        times=np.zeros(1, np.int64),
        metadata=np.full((1, 7), np.nan),
        context_cells=cells[None, :, 4:44, column - 16 : column + 24],
    )


@given(seeds)
def test_neighbours_within_a_gap_agree(seed):
    cells = field(seed, (2, 48, 60))
    cells[:, 10:36, 14:44] = np.nan  # 26 cells across: no place is further than 13 from a known one
    left, right = (estimate(in_gap(cells, column))[0] for column in (20, 27))
    np.testing.assert_allclose(left[..., 56:], right[..., :8], atol=0.03)
    assert left.std() > 0.01


def test_bands_do_not_mix_in_a_gap():
    cells = field(0, (2, 48, 60))
    cells[:, 10:36, 14:44] = np.nan
    both, one = estimate(in_gap(cells, 20)), estimate(in_gap(cells[:1], 20))
    assert both[:, :1].tobytes() == one.tobytes()


def test_a_pixel_to_fill_is_unknown_even_where_a_value_is_given():
    request = request_of("inpaint")
    given_ = replace(request, known=request.known | request.fill)
    spoilt = replace(given_, values=np.where(request.fill, np.float32(99), request.values))
    assert estimate(given_).tobytes() == estimate(spoilt).tobytes()


def test_a_variation_departs_from_its_start_by_its_strength():
    start = variation()
    generator = Classical()
    weak, strong = (generator.generate([replace(start, strength=s)])[0] - start.values for s in (0.1, 0.4))
    np.testing.assert_allclose(strong, 4 * weak, atol=1e-4)
    np.testing.assert_allclose(strong[1], 0.4 * texture((0, 0), strong.shape[1:], time=864_000), atol=1e-6)
    other = generator.generate([replace(start, member=1)])[0] - start.values
    assert abs(np.corrcoef(other.ravel(), strong.ravel())[0, 1]) < 0.5


def test_it_is_a_generator_by_specification():
    generator = Classical()
    assert isinstance(generator, Generator)
    assert pickle.loads(pickle.dumps(generator)) == generator
    assert generator.card.name == "classical"
    assert generator.card.bands == ()
    assert len(generator.card.verbs) == 5


def test_what_it_cannot_do_is_refused():
    with pytest.raises(GeneratorError, match="2 shapes"):
        Classical().generate([request_of("inpaint"), request_of("inpaint", bands=2)])
    with pytest.raises(GeneratorError, match="0 shapes"):
        Classical().generate([])
    with pytest.raises(GeneratorError, match="super-resolve by 2"):
        estimate(replace(request_of("super_resolve"), sensor=None))
