"""Masks: exact cover, the place they belong to, and the classes of the quality bands."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from eoaug.errors import ParameterError
from eoaug.raster.masks import (
    QA_PIXEL_BITS,
    SCL_CLASSES,
    SCL_CLOUD,
    qa_pixel_mask,
    random_gap,
    scl_mask,
    simulate,
)

kinds = st.sampled_from(["clouds", "stripes", "boxes"])
shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))


@settings(max_examples=60)
@given(shapes, st.floats(0, 1), kinds, st.integers(0, 5), st.tuples(*[st.integers(-(10**7), 10**7)] * 2))
def test_cover_is_exact_and_repeatable(shape, cover, kind, seed, origin):
    mask = simulate(shape, cover, kind=kind, seed=seed, origin=origin)
    assert mask.dtype == bool
    assert mask.shape == shape
    assert mask.sum() == round(cover * shape[0] * shape[1])
    np.testing.assert_array_equal(mask, simulate(shape, cover, kind=kind, seed=seed, origin=origin))


@settings(max_examples=30)
@given(shapes, kinds, st.floats(0, 1), st.floats(0, 1))
def test_more_cover_only_adds(shape, kind, one, two):
    less, more = sorted((one, two))
    assert not (simulate(shape, less, kind=kind) & ~simulate(shape, more, kind=kind)).any()


@pytest.mark.parametrize("kind", ["clouds", "stripes", "boxes"])
def test_the_pattern_belongs_to_the_place(kind):
    whole = simulate((160, 160), 0.4, kind=kind, seed=3)
    part = whole[40:120, 24:140]
    again = simulate(part.shape, part.mean(), kind=kind, seed=3, origin=(40, 24))
    np.testing.assert_array_equal(again, part)
    assert (simulate((160, 160), 0.4, kind=kind, seed=4) != whole).any()


def test_clouds_are_blobs_and_stripes_are_lines():
    clouds = simulate((256, 256), 0.34, seed=1)
    assert ndimage.label(clouds)[1] < 120
    stripes = simulate((128, 128), 0.25, kind="stripes", seed=1)
    assert 0.15 < stripes.mean(axis=0).min() <= stripes.mean(axis=0).max() < 0.35
    assert 8 <= ndimage.label(stripes)[1] <= 13


@pytest.mark.parametrize("seed", range(30))
def test_a_random_gap_is_never_everything_nor_nothing(seed):
    gap = random_gap(np.random.default_rng(seed), (64, 64))
    assert gap.dtype == bool
    assert 0 < gap.mean() < 1


def test_random_gaps_are_those_of_the_shipped_weights():
    """Masks of the first fifty seeds: `make train-embedded` reproduces its weights byte for byte."""
    digest = hashlib.sha256()
    for seed in range(50):
        digest.update(np.packbits(random_gap(np.random.default_rng(seed), (64, 64))).tobytes())
    assert digest.hexdigest() == "9296baab044a93e29d63144581191d8c44f3e42d16d7c14a8ced69b5e6d34fd0"


def test_scl_default_is_cloud_and_shadow():
    scl = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(np.flatnonzero(scl_mask(scl)), [3, 8, 9, 10])
    assert sorted(SCL_CLASSES[name] for name in SCL_CLOUD) == [3, 8, 9, 10]
    np.testing.assert_array_equal(scl_mask(np.array([0, 9, np.nan])), [False, True, False])


@given(st.sets(st.sampled_from(sorted(SCL_CLASSES)), min_size=1))
def test_scl_classes_by_name(names):
    mask = scl_mask(np.arange(12, dtype=np.uint8), sorted(names))
    np.testing.assert_array_equal(np.flatnonzero(mask), sorted(SCL_CLASSES[name] for name in names))


@given(st.integers(0, 2**16 - 1), st.sets(st.sampled_from(sorted(set(QA_PIXEL_BITS) - {"fill"}))))
def test_qa_pixel_bits(value, names):
    want = any(value >> QA_PIXEL_BITS[name] & 1 for name in names) and not value & 1
    assert bool(qa_pixel_mask(np.uint16([value]), sorted(names))[0]) == want


def test_qa_pixel_of_real_values():
    # clear land, clear water, cloud high confidence, shadow, cirrus, snow, fill, fill with a cloud bit
    qa = np.array([21824, 21952, 22280, 23888, 54596, 30048, 1, 9], dtype=np.uint16)
    np.testing.assert_array_equal(np.flatnonzero(qa_pixel_mask(qa)), [2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(qa_pixel_mask(qa, "snow")), [5])
    np.testing.assert_array_equal(np.flatnonzero(qa_pixel_mask(qa, ["fill"])), [6, 7])
    np.testing.assert_array_equal(qa_pixel_mask(np.array([np.nan, 22280.0])), [False, True])


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(
        ParameterError, match=r"'cloud_shadows'.*did you mean 'cloud_shadow'.*\n.*thin_cirrus"
    ):
        scl_mask(np.zeros(3, int), ["cloud_shadows"])
    with pytest.raises(ParameterError, match=r"'clouds'.*did you mean 'cloud'"):
        qa_pixel_mask(np.zeros(3, int), ["clouds"])
    with pytest.raises(ParameterError, match=r"'cloud'.*did you mean 'clouds'"):
        simulate((4, 4), 0.5, kind="cloud")
    with pytest.raises(ParameterError, match=r"1\.5"):
        simulate((4, 4), 1.5)
    with pytest.raises(ParameterError, match="0 x 4"):
        simulate((0, 4), 0.5)
    with pytest.raises(ParameterError, match="<U"):
        scl_mask(np.array(["cloud"]))
