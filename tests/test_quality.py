"""Quality bands: the right pixels, or a refusal; never the inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoaug.errors import ParameterError
from eoaug.raster import masks
from eoaug.raster.quality import (
    boolean_mask,
    declared_quality,
    is_validity_name,
    known_quality,
    quality_of,
)

CASES = {
    # name: (product, clear values, cloudy values, unmeasured values)
    "SCL": ("", [2, 4, 5, 6, 7, 11, 1], [3, 8, 9, 10], [0]),
    "SCL_20m": ("", [4], [9], [0]),
    "scene_classification": ("", [4], [9], [0]),
    "QA_PIXEL": ("", [0b1000000, 0b100000, 0b10000000], [0b10, 0b100, 0b1000, 0b10000, 0b1001000], [1, 0b1001]),
    "pixel_qa": ("", [0b10, 0b100, 0b10000, 0b0100000010], [0b1000, 0b100000, 0b1100000010], [1, 0b100001]),
    "BQA": ("", [0b1010100000, 0], [0b10000, 0b1100000, 0b110000000, 0b1100000000000], [1]),
    "Fmask": ("HLSL30", [0, 0b10000, 0b100000, 0b11000000], [1, 2, 4, 8, 0b1010], [255]),
    "udm": ("", [0], [2], [1, 3]),
    "CLM": ("", [0], [1], [255]),
    "QA60": ("", [0], [1 << 10, 1 << 11], []),
    "dataMask": ("", [1], [0], []),
    "valid_mask": ("", [1], [0], []),
    "clear": ("", [1], [0], []),
    "cloud_mask": ("", [0], [1], []),
    "clouds": ("", [0], [1], []),
    "cloud_shadow": ("", [0], [1], []),
    "cloud_prob": ("", [0, 39], [40, 100], []),
    "MSK_CLDPRB_20m": ("", [0, 39], [40, 100], []),
    "CLP": ("", [0, 101], [102, 255], []),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", "int64"])
@pytest.mark.parametrize("name", CASES)
def test_products_fill_clouds_and_nothing_else(name, dtype):
    product, clear, cloudy, unmeasured = CASES[name]
    quality = quality_of(name, {}, product)
    for values, expected in ((clear, False), (cloudy, True), (unmeasured, False)):
        if values and max(values) > (255 if dtype == "uint8" else 32767):
            continue
        assert (quality.mask(np.array(values, dtype)) == expected).all(), (name, values)
    if dtype.startswith("float"):
        unknown = np.array([np.nan], dtype)
        if quality.two_valued:
            with pytest.raises(ParameterError, match=r"1 pixels .* are NaN"):
                quality.mask(unknown)
        else:
            assert not quality.mask(unknown).any()


def test_the_older_readers_agree():
    scl = np.arange(12, dtype=np.uint8)
    assert (quality_of("scl", {}).mask(scl) == masks.scl_mask(scl)).all()
    bits = np.arange(2**12, dtype=np.uint16)
    assert (quality_of("qa_pixel", {}).mask(bits) == masks.qa_pixel_mask(bits)).all()


def test_fmask_of_an_unknown_product_is_not_guessed():
    assert known_quality("Fmask") is None
    assert known_quality("Fmask", "HLS.L30").product == "HLS Fmask"


def test_classes_are_chosen_by_name_and_no_data_only_so():
    quality = quality_of("scl", {})
    values = np.array([0, 4, 9, 11])
    assert quality.mask(values, ["snow_or_ice"]).tolist() == [False, False, False, True]
    assert quality.mask(values, ["no_data", "cloud_high"]).tolist() == [True, False, True, False]
    with pytest.raises(ParameterError, match=r"'fog'.*\n.*cloud_high"):
        quality.mask(values, ["fog"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scl", [4, 12]),
        ("scl", [4.0, 6.5]),
        ("cloud_mask", [0, 1, 2]),
        ("valid", [0, 1, 255]),
        ("CLM", [0, 3]),
    ],
)
def test_numbers_that_no_class_explains_are_refused(name, values):
    with pytest.raises(ParameterError, match="none of its classes explains"):
        quality_of(name, {}).mask(np.array(values))


@given(st.data())
def test_declared_flags_win_over_any_name_and_order(data):
    """Any values, any order, any form of attribute: the pixels of the classes called cloud, and no others."""
    meanings = [
        "clear",
        "cloud",
        "cloud_shadow",
        "not_cloudy",
        "cloud_free",
        "snow",
        "thin_cirrus",
        "no_cloud",
    ]
    meanings = data.draw(st.permutations(meanings))
    numbers = data.draw(st.lists(st.integers(0, 200), min_size=8, max_size=8, unique=True))
    name = data.draw(st.sampled_from(["quality", "scl", "valid_mask", "cloud_mask", "qa_pixel", "B04"]))
    form = data.draw(st.sampled_from([np.array, list, lambda v: " ".join(map(str, v)), lambda v: ", ".join(f"{n}b" for n in v)]))  # fmt: skip
    quality = quality_of(name, {"flag_values": form(numbers), "flag_meanings": " ".join(meanings)})
    wanted = [
        n for n, m in zip(numbers, meanings, strict=True) if m in ("cloud", "cloud_shadow", "thin_cirrus")
    ]
    values = np.array(numbers)
    assert (quality.mask(values) == np.isin(values, wanted)).all()


def test_bit_fields_of_cf():
    attrs = {
        "flag_masks": [1, 2, 12, 12],
        "flag_values": [1, 2, 4, 12],
        "flag_meanings": "fill cloud shadow_low shadow_high",
    }
    quality = declared_quality("qa", attrs)
    assert quality.cloud == ("cloud", "shadow_high")
    assert quality.mask(np.array([1, 2, 3, 4, 8, 12, 0])).tolist() == [
        False,
        True,
        False,
        False,
        False,
        True,
        False,
    ]


def test_flags_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ParameterError, match=r"'q' has 2 flag_values and 3 flag_meanings"):
        declared_quality("q", {"flag_values": [0, 1], "flag_meanings": "a b c"})
    with pytest.raises(ParameterError, match=r"flag_values='x y'"):
        declared_quality("q", {"flag_values": "x y", "flag_meanings": "a b"})


@pytest.mark.parametrize(
    "name", ["valid_mask", "dataMask", "VALID", "clear_mask", "clear", "is_valid", "validity"]
)
def test_masks_of_valid_pixels_are_known_by_name(name):
    assert is_validity_name(name)


@pytest.mark.parametrize(
    "name", ["invalid", "invalid_mask", "cloud_mask", "unclear", "nuclear", "mask", "scl"]
)
def test_other_masks_are_not_taken_for_valid_pixels(name):
    assert not is_validity_name(name)


def test_two_values_are_a_mask_and_others_are_refused():
    assert boolean_mask(np.array([0.0, 1.0]), "the mask").tolist() == [False, True]
    assert boolean_mask(np.array([True, False]), "the mask").tolist() == [True, False]
    with pytest.raises(ParameterError, match="1 pixels of the mask are NaN"):
        boolean_mask(np.array([0.0, np.nan]), "the mask")
    with pytest.raises(ParameterError, match=r"the values 0, 4, 9, and nothing"):
        boolean_mask(np.array([0, 4, 9]), "the mask")
