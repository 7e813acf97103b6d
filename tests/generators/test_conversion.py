"""Conversion between sensors and processing levels: known pairs, round trips, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eoaug.errors import BandError
from eoaug.generators.translation.atmosphere import Atmosphere, corrected_bands, overpass_zenith
from eoaug.generators.translation.conversion import BandOfProduct, can_be_converted, convert
from eoaug.raster.products import Product, product_named, product_of_band

SURFACE, TOP = Product("sentinel-2", 2), Product("sentinel-2", 1)
OLI = Product("landsat-8", 2)


@pytest.mark.parametrize(
    ("text", "product"),
    [
        ("sentinel-2", Product("sentinel-2")),
        ("sentinel-2-l2a", SURFACE),
        ("Sentinel-2-L1C", TOP),
        ("landsat-8", Product("landsat-8")),
        ("landsat-9-l2", Product("landsat-9", 2)),
        ("B04", None),
        ("sentinel-2-ndvi", None),
        ("red", None),
    ],
)
def test_a_product_is_named_by_sensor_and_level(text, product):
    assert product_named(text) == product


@pytest.mark.parametrize(
    ("name", "attrs", "cube", "product"),
    [
        ("B04", {}, {}, Product("sentinel-2")),
        ("B04_l1c", {}, {}, TOP),
        ("B04", {"processing:level": "L2A"}, {"platform": "sentinel-2a"}, SURFACE),
        ("B04", {}, {"platform": "Sentinel-2B", "processing:level": "L1C"}, TOP),
        ("B04", {"long_name": "top-of-atmosphere reflectance"}, {"platform": "sentinel-2a"}, TOP),
        ("B4", {}, {"platform": "landsat-8"}, Product("landsat-8")),
        ("SR_B4", {}, {"platform": "LC09"}, Product("landsat-9", 2)),
        ("SR_B4", {"platform": "landsat-8"}, {"platform": "sentinel-2a", "processing:level": "L1C"}, OLI),
        ("red", {}, {}, Product()),
        ("red", {}, {"id": "S2A_MSIL1C_20200101T000000"}, Product("", 1)),
        ("red", {"long_name": "level of a river"}, {}, Product()),
    ],
)
def test_a_band_says_its_product(name, attrs, cube, product):
    assert product_of_band(name, attrs, platform=cube.get("platform"), origin=cube) == product


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(corrected_bands)),
    zenith=st.floats(0, 80),
    haze=st.floats(0, 1.5),
    value=st.floats(0, 0.8),
)
def test_the_way_through_the_atmosphere_and_back_is_exact(name, zenith, haze, value):
    air = Atmosphere.over([name], zenith, haze)
    image = np.array([[value]])
    np.testing.assert_allclose(air.surface(air.top(image)), image, atol=1e-9)
    assert 0 < air.path.item() < 1.5
    assert 0 < air.transmittance.item() < 1
    assert air.top(image + 0.01).item() > air.top(image).item()


def test_molecules_scatter_as_published():
    """Rayleigh reflectance at nadir, sun at 30 degrees: 6S gives about .09, .06 and .02 at .44, .49 and .66 um."""
    path = Atmosphere.over(["coastal", "blue", "red"], 30, haze=0.0).path.ravel()
    np.testing.assert_allclose(path, [0.089, 0.057, 0.017], rtol=0.12)


def test_the_sun_is_that_of_the_overpass():
    assert overpass_zenith(11.3, 46.5, 2022, 6, 21) == pytest.approx(29, abs=4)
    assert overpass_zenith(11.3, 46.5, 2022, 12, 21) == pytest.approx(72, abs=4)
    assert overpass_zenith(11.3, 80.0, 2022, 12, 21) == 80
    assert overpass_zenith(np.nan, 46.5, 2022, 6, 21) == overpass_zenith(11.3, 46.5, np.nan, 6, 21) == 40


def test_sensors_and_levels_go_through_one_reference_and_back():
    image = np.linspace(0.02, 0.5, 20)[None]
    for product in (TOP, OLI, Product("landsat-8", 1)):
        there, error = convert(image, [BandOfProduct("red", SURFACE)], [BandOfProduct("red", product)], 35.0)
        back, _ = convert(there, [BandOfProduct("red", product)], [BandOfProduct("red", SURFACE)], 35.0)
        np.testing.assert_allclose(back, image, atol=1e-9)
        assert (error > 0.002).all()
    same, error = convert(image, [BandOfProduct("red", SURFACE)], [BandOfProduct("red", Product())], 35.0)
    assert (same == image).all()
    assert (error == 0).all()


def test_a_band_without_conversion_counts_before_one_with():
    image = np.array([[0.1], [0.3]])
    given = [BandOfProduct("red", TOP), BandOfProduct("red", SURFACE)]
    assert convert(image, given, [BandOfProduct("red", SURFACE)], 40.0)[0].item() == 0.3


def test_what_is_not_known_is_not_converted():
    red = [BandOfProduct("red", SURFACE)]
    assert not can_be_converted(BandOfProduct("red", Product("landsat-7", 2)), red)
    assert not can_be_converted(BandOfProduct("cirrus", SURFACE), red)
    assert not can_be_converted(BandOfProduct("nir09", TOP), [BandOfProduct("nir09", SURFACE)])
    assert np.isnan(convert(np.ones((1, 3)), red, [BandOfProduct("red", Product("naip"))], 40.0)[0]).all()


# -- through the verb --------------------------------------------------------------------------------


def scene(names: dict[str, str], **attrs: str) -> xr.Dataset:
    rng = np.random.default_rng(0)
    base = 0.05 + 0.2 * rng.random((1, 40, 40), np.float32)
    bands = {
        name: (("time", "y", "x"), base * (1 + 0.3 * i), {"common_name": common, "units": "1"})
        for i, (name, common) in enumerate(names.items())
    }
    return xr.Dataset(bands, {"time": [np.datetime64("2020-06-01", "ns")]}, attrs)


MSI = {"B02": "blue", "B03": "green", "B04": "red", "B8A": "nir08", "B11": "swir16"}


def test_sentinel_2_becomes_landsat_and_back():
    ds = scene(MSI, platform="sentinel-2a")
    made = ds.eoaug.translate(to="landsat-8", mask="none", generator="classical")
    assert {"SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"} <= set(made.data_vars)
    np.testing.assert_allclose(made.SR_B4, 0.9765 * ds.B04 + 0.0009, atol=2e-6)
    assert made.SR_B4.attrs["platform"] == "landsat-8"
    # As if Landsat had measured them.
    oli = scene(
        {name: made[name].attrs["common_name"] for name in made if name.startswith("SR_")},
        platform="landsat-8",
    )
    for name in oli:
        oli[name].values[:] = made[name].values
    back = oli.eoaug.translate(to="sentinel-2", mask="none", generator="classical")
    np.testing.assert_allclose(back.B04, ds.B04, atol=2e-6)
    assert {"B02", "B05", "B08", "B12"} <= set(back.data_vars)
    for name in oli.data_vars:
        assert back[name].values.tobytes() == oli[name].values.tobytes()


def test_levels_are_told_apart_and_named_apart():
    ds = scene(MSI, platform="sentinel-2a", **{"processing:level": "L1C"})
    made = ds.eoaug.translate(to="sentinel-2-l2a", mask="none", generator="classical")
    assert {f"{name}_l2a" for name in MSI} | {*MSI, "synthetic"} == set(made.data_vars)
    assert made.B02_l2a.attrs["processing:level"] == "L2A"
    assert float(made.B02_l2a.mean()) < float(ds.B02.mean()) - 0.04
    more = ds.eoaug.translate(to="sentinel-2-l1c", mask="none", generator="classical")
    assert more.B08.attrs["processing:level"] == "L1C"


def test_what_no_response_is_known_of_is_refused():
    ds = scene(MSI, platform="sentinel-2a")
    with pytest.raises(BandError, match="how landsat-7 measures"):
        ds.eoaug.translate(to="landsat-7", mask="none", generator="classical")
    with pytest.raises(BandError, match="a date, or a part of one"):
        ds.eoaug.translate(to=["B10"], mask="none", generator="classical")


@pytest.fixture(scope="module")
def levels(eoaug_data: Path) -> tuple[xr.Dataset, xr.Dataset, np.ndarray]:
    """One scene at both levels, to which nothing was fitted, and its pixels that are whole at both."""
    folder = eoaug_data / "cubes/train"
    scenes = []
    for level in ("l1c", "l2a"):
        with xr.open_dataset(
            folder / f"satsense_bangalore_s2{level}.nc", engine="h5netcdf", mask_and_scale=False
        ) as ds:
            scenes.append(ds.isel(y=slice(96), x=slice(128)).load())
    top, surface = scenes
    whole = (top.B04.values[0] > 0) & (surface.B04.values[0] > 0) & (surface.B02.values[0] < 9800)
    return top, surface, whole


def error(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((made - truth) ** 2)))


def test_an_ordinary_atmosphere_is_better_than_none(levels):
    top, surface, whole = levels
    made = top.eoaug.translate(to="sentinel-2-l2a", mask="none", generator="classical")
    for name in ("B02", "B03", "B04", "B08"):
        truth = surface[name].values[0][whole] * 1e-4
        before = error(top[name].values[0][whole] * 1e-4, truth)
        assert error(made[f"{name}_l2a"].values[0][whole], truth) < 0.85 * before, name


@pytest.mark.parametrize("generator", ["classical", "embedded"])
def test_a_measured_part_of_the_scene_teaches_the_rest(levels, generator):
    """Also tiles that hold none of it, and with saturated pixels: as good as a linear regression on the whole of them."""
    top, surface, whole = levels
    hidden = np.broadcast_to(np.arange(128) >= 56, whole.shape)
    both = top.copy()
    for name in ("B02", "B04", "B08"):
        kept = surface[name].copy(deep=True)
        kept.values[0][hidden] = 0
        both[f"{name}_l2a"] = kept
    made = both.eoaug.translate(to="sentinel-2-l2a", mask="none", generator=generator)
    given = np.concatenate(
        [np.ones((1, *whole.shape)), np.stack([top[n].values[0] * 1e-4 for n in top if n[0] == "B"])]
    )
    ours = fitted = 0.0
    for name in ("B02", "B04", "B08"):
        truth = surface[name].values[0] * 1e-4
        slopes = np.linalg.lstsq(given[:, whole & ~hidden].T, truth[whole & ~hidden], rcond=None)[0]
        scored = whole & hidden
        ours += np.log(error(made[f"{name}_l2a"].values[0][scored] * 1e-4, truth[scored]))
        fitted += np.log(error((slopes @ given[:, scored]), truth[scored]))
        unchanged = made[f"{name}_l2a"].values[0][whole & ~hidden]
        assert (unchanged == surface[name].values[0][whole & ~hidden]).all()
    assert ours < fitted
