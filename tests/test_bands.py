from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoaug.errors import BandError
from eoaug.raster.bands import EO_COMMON_NAMES, SENSORS, band_of, common_name, match_bands

S2 = [band.common_name for band in SENSORS["sentinel-2"]]


@pytest.mark.parametrize("sensor", SENSORS)
def test_tables_hold_what_their_fields_promise(sensor):
    for band in SENSORS[sensor]:
        assert band.gsd_m > 0
        assert band.mtf is None or 0 < band.mtf < 1
        if band.kind == "sar":
            assert band.wavelength_um is None
        else:
            assert band.common_name in EO_COMMON_NAMES
            assert 0.4 < band.wavelength_um < 13
        assert band_of(band.name, sensor) == band


@pytest.mark.parametrize(
    ("name", "attrs", "platform", "expected"),
    [
        ("B02", {}, None, "blue"),
        ("b8a", {}, None, "nir08"),
        ("SR_B4", {}, None, None),
        ("SR_B4", {}, "landsat-8", "red"),
        ("SR_B4", {}, "LANDSAT_7", "nir08"),
        ("B4", {}, "S2B", "red"),
        ("B4", {}, "sentinel-2a", "red"),
        ("B4", {}, None, None),
        ("VV", {}, "Sentinel-1A", "vv"),
        ("red", {}, None, "red"),
        ("dem", {}, None, None),
        ("x", {"common_name": "green"}, None, "green"),
        ("x", {"eo:common_name": "green"}, None, "green"),
        ("x", {"bands": [{"eo:common_name": "swir16"}]}, None, "swir16"),
        ("x", {"bands": '[{"eo:common_name": "swir16"}]'}, None, "swir16"),
        ("x", {"bands": [{"eo:common_name": "red"}, {"eo:common_name": "green"}]}, None, None),
        ("B02", {"common_name": "nonsense"}, None, "blue"),
        ("rededge2", {"common_name": "rededge", "center_wavelength": 0.740}, None, "rededge075"),
        ("B07", {"common_name": "rededge"}, None, "rededge078"),
    ],
)
def test_common_name(name, attrs, platform, expected):
    assert common_name(name, attrs, platform) == expected


@given(st.lists(st.sampled_from(S2), min_size=1, unique=True), st.randoms())
def test_every_variable_finds_its_slot_whatever_the_order(slots, random):
    have = [(f"v_{slot}", slot) for slot in slots]
    random.shuffle(have)
    matched = match_bands(dict(have), S2, what="generator 'test'")
    assert matched == {slot: f"v_{slot}" for slot in S2 if slot in slots}
    assert list(matched) == [slot for slot in S2 if slot in slots]


def test_a_narrow_near_infrared_stands_in_where_there_is_no_other():
    need = ["red", "nir"]
    assert match_bands({"B4": "red", "B5": "nir08"}, need, what="it") == {"red": "B4", "nir": "B5"}
    with pytest.raises(BandError, match="no slot for band 'B8A'"):
        match_bands({"B08": "nir", "B8A": "nir08"}, need, what="it")
    assert match_bands({"a": "nir", "b": "nir08"}, ["nir08", "nir"], what="it") == {"nir08": "b", "nir": "a"}


@pytest.mark.parametrize(
    ("have", "culprit"),
    [
        ({"B02": "blue", "other": "blue"}, "'other'"),
        ({"B02": "blue", "dem": None}, "'dem'"),
        ({"B10": "cirrus"}, "'B10'"),
        ({}, "no band"),
    ],
)
def test_a_band_that_does_not_fit_is_named_with_the_slots(have, culprit):
    with pytest.raises(BandError) as caught:
        match_bands(have, ["blue", "red"], what="generator 'embedded'")
    assert culprit in caught.value.problem
    assert "blue, red" in str(caught.value) or "'blue'" in str(caught.value)
    assert caught.value.remedy
