"""Land by class: a prompt or a class map chooses it, any part of a plane is cut from the whole, and the class map is its label."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import eoaug
from eoaug.errors import EoaugError, GeneratorError
from eoaug.evaluate.structure import structure
from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.generators.embedded.land import LandPlane
from eoaug.generators.embedded.legend import SHIPPED
from eoaug.generators.embedded.weights_config import land_for, load_config
from eoaug.testing.scenes import scene

PLANE = LandPlane(3, 0, 0, SHIPPED.shares_of("fields with a village, a river and a motorway"))
BOX = (500_000, 5_000_000, 500_640, 5_000_640)


def code(name):
    return CLASSES.index(name) + 1


def of_class(name, seed, size=64):
    return land_for(load_config(None)).pixels(
        LandPlane(seed, 0, 0, SHIPPED.shares_of(name)), (0, 0), (size, size)
    )


@settings(max_examples=8, deadline=None)
@given(
    row=st.integers(-100_000, 100_000),
    col=st.integers(-100_000, 100_000),
    down=st.integers(0, 30),
    right=st.integers(0, 30),
)
def test_a_part_is_cut_from_the_whole_plane_across_borders_of_classes(row, col, down, right):
    land = land_for(load_config(None))
    whole = land.pixels(PLANE, (row, col), (40, 44))
    part = land.pixels(PLANE, (row + down, col + right), (10, 14))
    assert part.tobytes() == whole[:, down : down + 10, right : right + 14].tobytes()
    codes = land.classes(PLANE, (row, col), (40, 44))
    again = land.classes(PLANE, (row + down, col + right), (10, 14))
    assert (codes[down : down + 10, right : right + 14] == again).all()


def test_shares_follow_the_prompt():
    shares = dict(zip(CLASSES, SHIPPED.shares_of("Fields, with a village"), strict=True))
    assert shares["annual_crop"] == pytest.approx(0.7)
    assert shares["residential"] == pytest.approx(0.3)
    assert sum(shares.values()) == pytest.approx(1)
    assert SHIPPED.shares_of("forest") == SHIPPED.shares_of("woods") != SHIPPED.shares_of("river")
    assert SHIPPED.shares_of("permanent_crop")[CLASSES.index("permanent_crop")] == 1
    assert sum(SHIPPED.shares_of(None)) == pytest.approx(1)
    assert SHIPPED.shares_of("land with a lake")[CLASSES.index("sea_lake")] == 1
    with pytest.raises(GeneratorError, match="names no class"):
        SHIPPED.shares_of("nice")


def test_the_plane_has_the_classes_of_the_prompt_in_their_shares():
    shares = SHIPPED.shares_of("fields with a village and woods")
    codes = land_for(load_config(None)).classes(LandPlane(3, 0, 0, shares, 100.0), (-300, 500), (900, 900))
    found = np.bincount(codes.ravel(), minlength=len(CLASSES) + 1)[1:] / codes.size
    np.testing.assert_allclose(found, shares, atol=0.12)
    assert set(np.unique(codes)) == set(np.flatnonzero(shares) + 1)


def test_planes_of_other_seeds_and_members_differ_and_dates_change_fields_alone():
    land, shares = land_for(load_config(None)), SHIPPED.shares_of("fields with a river")
    first = land.pixels(LandPlane(1, 0, 0, shares), (0, 0), (96, 96))
    for other in (LandPlane(2, 0, 0, shares), LandPlane(1, 1, 0, shares)):
        assert (land.pixels(other, (0, 0), (96, 96)) != first).mean() > 0.9
    later = LandPlane(1, 0, 90 * 86_400, shares)
    codes = land.classes(later, (0, 0), (96, 96))
    np.testing.assert_array_equal(codes, land.classes(LandPlane(1, 0, 0, shares), (0, 0), (96, 96)))
    changed = (land.pixels(later, (0, 0), (96, 96)) != first).any(axis=0)
    assert 0.1 < changed[codes == code("annual_crop")].mean() < 0.9
    water = codes == code("river")
    assert water.sum() > 100
    assert not changed[ndimage.binary_erosion(water, np.ones((7, 7)))].any()


@pytest.mark.parametrize("gsd_m", [1.0, 10.0, 120.0, np.nan])
def test_land_is_physical_and_in_natural_colours(gsd_m):
    card = load_config(None).card
    for seed in range(4):
        drawn = land_for(load_config(None)).pixels(
            LandPlane(seed, 0, 0, SHIPPED.shares_of(None), gsd_m), (0, 0), (96, 96)
        )
        assert np.isfinite(drawn).all()
        assert drawn.min() >= 0
        assert drawn.max() <= 1.2
        blue, red, nir = (drawn[card.bands.index(band)].mean() for band in ("blue", "red", "nir"))
        assert blue < 1.1 * red
        assert nir > red


def test_fields_have_long_edges_streets_short_ones_and_water_none():
    def mean(name, statistic):
        return np.mean([getattr(structure(of_class(name, seed)[:3]), statistic) for seed in range(4)])

    fields, town = mean("annual_crop", "line_length"), mean("residential", "line_length")
    # Real chips: 23.5 and 9.3 pixels; their own spread is 8 and 1.
    assert fields > 18
    assert 5 < town < 12
    assert mean("annual_crop", "straightness") > 0.7
    assert mean("sea_lake", "edge_density") < 0.02
    assert mean("residential", "edge_density") > 0.2


def test_vegetation_is_bright_in_infrared_and_water_dark():
    bands = load_config(None).card.bands
    for name, low, high in (("forest", 0.5, 1.0), ("pasture", 0.4, 1.0), ("sea_lake", -1.0, 0.15)):
        drawn = of_class(name, 4)
        red, nir = (drawn[bands.index(band)].mean() for band in ("red", "nir"))
        assert low < (nir - red) / (nir + red) < high, name


def drawn(box=BOX, **options):
    return eoaug.synthesize(
        like=box, crs="EPSG:32633", resolution=10, times=["2024-06-01"], seed=5, labels="landcover", **options
    )


def test_a_prompt_chooses_what_is_drawn_and_the_class_map_is_its_label():
    woods, fields = (drawn(prompt=prompt).compute() for prompt in ("woods", "fields"))
    assert (woods.landcover == code("forest")).all()
    assert (fields.landcover == code("annual_crop")).all()
    assert woods.landcover.attrs["flag_meanings"].split() == list(CLASSES)
    assert (woods.red != fields.red).any()
    crop = drawn((500_160, 5_000_160, 500_480, 5_000_480), prompt="woods").compute()
    inner = woods.sel(x=crop.x, y=crop.y)
    assert inner.landcover.equals(crop.landcover)
    np.testing.assert_array_equal(inner.red.values, crop.red.values)


def test_a_class_map_decides_where_it_has_codes():
    plain = drawn(prompt="fields").compute()
    codes = np.zeros(plain.landcover.shape[1:], np.uint8)
    codes[:, 32:] = code("forest")
    codes[20:24] = code("highway")
    layout = xr.DataArray(codes, dims=("y", "x"), coords={"y": plain.y, "x": plain.x})
    lazy = drawn(prompt="fields", layout=layout, chunks=32)
    result = lazy.compute()
    given = np.where(codes > 0, codes, code("annual_crop"))
    np.testing.assert_array_equal(result.landcover.values[0], given)
    np.testing.assert_array_equal(
        result.red.values, drawn(prompt="fields", layout=layout).compute().red.values
    )
    untouched = (slice(None), slice(28, None), slice(0, 28))
    np.testing.assert_array_equal(result.red.values[untouched], plain.red.values[untouched])
    ndvi = ((result.nir - result.red) / (result.nir + result.red)).values[0]
    assert ndvi[given == code("forest")].mean() > ndvi[given == code("highway")].mean() + 0.2


@pytest.mark.parametrize(
    ("value", "match"), [(11, "the value 11"), (-1, "the value -1"), (1.5, "the value 1.5")]
)
def test_a_class_map_of_other_codes_is_refused(value, match):
    plain = drawn(prompt="fields")
    layout = xr.full_like(plain.landcover[0].compute(), value, dtype=np.float32)
    with pytest.raises(EoaugError, match=match):
        drawn(layout=layout).compute()


def test_a_class_map_of_several_layers_is_refused():
    plain = drawn(prompt="fields").compute()
    layers = xr.concat([plain.landcover[0]] * 2, "layer")
    with pytest.raises(EoaugError, match="2 layers"):
        drawn(layout=layers).compute()


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("synthesize", {"strength": 0.6}),
        ("extend", {"times": ["2021-09-01"]}),
        ("super_resolve", {"factor": 2}),
    ],
)
def test_a_prompt_that_would_have_no_effect_is_refused(verb, options):
    with pytest.raises(EoaugError, match="names new land"):
        getattr(eoaug, verb)(scene((32, 32)), prompt="woods", **options)


def test_a_strong_variation_takes_a_prompt():
    plan = eoaug.plan("synthesize", scene((32, 32)), strength=0.7, prompt="woods")
    assert plan.sampling.prompt == "woods"


def test_a_prompt_without_a_known_word_is_refused_before_the_run():
    with pytest.raises(EoaugError, match=r"'a poem' holds no word that generator 'embedded' knows"):
        drawn(prompt="a poem")


def test_the_longest_phrase_of_a_prompt_counts():
    shares = dict(zip(CLASSES, SHIPPED.shares_of("permanent crops and a forest"), strict=True))
    assert shares["annual_crop"] == 0
    assert shares["permanent_crop"] == shares["forest"] == 0.5


FURTHER = ["rededge075", "red", "nir08", "coastal", "nir", "swir16"]


def test_further_bands_are_drawn_and_change_no_other():
    plain, more = drawn(prompt="woods").compute(), drawn(prompt="woods", bands=FURTHER).compute()
    assert list(more.data_vars)[: len(FURTHER)] == FURTHER
    for band in ("red", "nir", "swir16"):
        np.testing.assert_array_equal(more[band].values, plain[band].values)
    means = {band: float(more[band].mean()) for band in FURTHER}
    assert max(means["coastal"], means["red"]) < 0.05 < means["rededge075"] < means["nir08"]
    assert (more.nir08.values != more.nir.values).any()


def test_a_cube_with_further_bands_becomes_new_land():
    like = drawn(prompt="woods", bands=FURTHER).compute().drop_vars("landcover")
    again = eoaug.synthesize(like, strength=1, prompt="woods", seed=5)
    for band in FURTHER:
        np.testing.assert_allclose(again[band].values, like[band].values, atol=1e-6)
    with pytest.raises(EoaugError, match="no slot for coastal, nir08, rededge075"):
        eoaug.synthesize(like, strength=0.8)


def test_bands_that_are_not_drawn_are_refused():
    with pytest.raises(EoaugError, match=r"no band 'rededge72'\n.*did you mean 'rededge07"):
        drawn(bands=["rededge72"])
    with pytest.raises(EoaugError, match="no names of bands"):
        drawn(bands="red")
    with pytest.raises(EoaugError, match="does not go with a cube to vary"):
        eoaug.synthesize(scene((32, 32)), bands=["red"])
