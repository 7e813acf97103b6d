"""What a variable is: bands are drawn, everything else is left alone."""

from __future__ import annotations

import pytest

from eoaug.raster.variables import holds_classes, plain_name, role_of

ROLES = {
    "band": ["B02", "B8A", "red", "nir", "SR_B4", "VV", "vh", "B04_10m", "lwir11", "band1", "values", "ndvi", "S1_VV"],
    "quality": ["SCL", "SCL_20m", "QA_PIXEL", "pixel_qa", "Fmask", "dataMask", "valid_mask", "cloud_mask", "qa_radsat",
                "CLM", "QA60", "udm", "water_mask"],
    "probability": ["cloud_prob", "cloud_probability", "MSK_CLDPRB_20m", "CLP"],
    "angle": ["sun_zenith", "solar_azimuth_angle", "view_zenith", "SAA", "VZA", "incidence_angle", "mean_sun_zenith"],
    "ancillary": ["AOT", "WVP", "dem", "slope", "aspect", "elevation", "distance_to_coast"],
    "mark": ["synthetic"],
}  # fmt: skip


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in ROLES.items() for name in names])
def test_names_say_what_a_variable_is(role, name):
    assert role_of(name, {}) == role


def test_flags_say_more_than_names():
    def role(name, meanings):
        return role_of(name, {"flag_values": [0, 1, 2], "flag_meanings": meanings})

    assert role("quality", "clear cloud shadow") == "quality"
    assert role("landcover", "water forest urban") == "label"
    assert role("B04", "water forest urban") == "label"
    assert role("scl", "no_data saturated vegetation") == "quality"
    assert role_of("odd", {"flag_values": [0, 1], "flag_meanings": "one"}) == "quality"


def test_a_band_keeps_its_role_whatever_its_units():
    assert role_of("ST_B10", {"units": "K"}) == "band"
    assert role_of("odd", {"units": "m"}) == "ancillary"
    assert role_of("odd", {"units": "Degrees"}) == "angle"
    assert role_of("odd", {"units": "dB"}) == "band"
    assert role_of("odd", {"common_name": "red", "units": "percent"}) == "band"


def test_the_user_names_labels():
    assert role_of("B04", {}, labels=["B04"]) == "label"


@pytest.mark.parametrize(
    "name", ["scl", "SCL", "qa_pixel", "pixel_qa", "bqa", "cloud_mask", "valid_mask", "synthetic"]
)
def test_mask_names(name):
    assert holds_classes(name, {})


def test_flags_make_a_mask_and_names_alone_do_not():
    assert holds_classes("classes", {"flag_values": [0, 1]})
    assert not holds_classes("B02", {"units": "1"})


def test_names_that_a_reader_made_up_give_way_to_the_description_in_the_file():
    assert plain_name("band_1", {"long_name": "B02"}) == "B02"
    assert plain_name("B02", {"long_name": "SCL"}) == "B02"
    assert plain_name("band_1", {"long_name": ("B02", "B03")}) == "band_1"
    assert role_of("band_5", {"long_name": "SCL"}) == "quality"
    assert role_of("band_5", {}) == "band"


@pytest.mark.parametrize("name", ["landcover", "LULC", "labels", "worldcover", "class"])
def test_labels_by_name(name):
    assert role_of(name, {}) == "label"


def test_numbered_bands_stay_bands_in_percent():
    assert role_of("B4", {"units": "percent"}) == "band"
    assert role_of("humidity", {"units": "percent"}) == "ancillary"
