"""Pairs of images with known changes."""

from __future__ import annotations

import numpy as np
import pystac
import pytest
import xarray as xr
from scipy import ndimage

import eoaug
from eoaug.errors import EoaugError
from eoaug.raster import noise

NAMES = "field woods town"


def scene(size: int = 160, seed: int = 0, dtype: str = "uint16") -> xr.Dataset:
    """Return blocks of three classes with a level and a roughness of their own."""
    rng = np.random.default_rng(seed)
    label = rng.integers(1, 4, (size // 16, size // 16)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    level, rough = np.array([0, 2000, 800, 3000])[label], np.array([0, 20, 60, 250])[label]
    drawn = noise.normal((0, 0), (2, size, size), seed=seed, stream="test")
    bands = {
        name: (
            ("time", "y", "x"),
            (level + rough * drawn[i])[None].astype(dtype),
            {"scale_factor": 1e-4, "nodata": 0},
        )
        for i, name in enumerate(("B03", "B04"))
    }
    flags = {"flag_values": np.array([1, 2, 3], np.uint8), "flag_meanings": NAMES}
    ds = xr.Dataset(
        {**bands, "landcover": (("y", "x"), label, flags)},
        {
            "time": np.array(["2020-06-01"], "datetime64[ns]"),
            "y": 5_000_000 - 10 * (np.arange(size) + 0.5),
            "x": 400_000 + 10 * (np.arange(size) + 0.5),
        },
    )
    return ds.odc.assign_crs("EPSG:32633")


def same(one: xr.Dataset, other: xr.Dataset) -> bool:
    return all(one[name].identical(other[name]) or one[name].equals(other[name]) for name in one.data_vars)


@pytest.mark.parametrize(("to", "blend_px"), [(None, 2), ("woods", 0), ({"field": "town"}, 5)])
def test_labels_and_maps_agree_and_the_rest_is_as_it_was(to, blend_px):
    ds = scene()
    pair = ds.eoaug.change(label="landcover", to=to, share=0.15, blend_px=blend_px, seed=3)
    before, after = pair.isel(time=0), pair.isel(time=1)
    differs = before.landcover.values != after.landcover.values
    assert np.array_equal(pair.change.values == 1, differs)
    assert differs.any()
    assert np.array_equal(pair.redrawn.values == 1, differs)
    assert (pair.redrawn.values == 2).any()
    decoy = pair.redrawn.values == 2
    near = ndimage.maximum_filter(pair.redrawn.values > 0, 2 * blend_px + 1)
    for name in ("B03", "B04"):
        assert np.array_equal(before[name].values, ds[name].values[0])
        assert before[name].dtype == after[name].dtype == ds[name].dtype
        assert np.array_equal(after[name].values[~near], before[name].values[~near])
        assert (after[name].values[decoy] != before[name].values[decoy]).mean() > 0.9
    assert np.array_equal(before.landcover.values, ds.landcover.values)
    assert (before.synthetic.values == 0).all()
    assert (after.synthetic.values[pair.redrawn.values > 0] == 2).all()
    assert (after.synthetic.values[~near] == 0).all()
    names = dict(enumerate(NAMES.split(), 1))
    became = {
        (names[a], names[b])
        for a, b in zip(before.landcover.values[differs], after.landcover.values[differs], strict=True)
    }
    if to == "woods":
        assert {b for _, b in became} == {"woods"}
    if isinstance(to, dict):
        assert became == {("field", "town")}


def test_new_pixels_look_like_their_class():
    pair = scene(320).eoaug.change(label="landcover", share=0.15, seed=1)
    after, drawn = pair.isel(time=1), pair.redrawn.values > 0
    for code, level, rough in ((1, 2000, 20), (2, 800, 60), (3, 3000, 250)):
        own = after.B03.values[drawn & (after.landcover.values == code)].astype(float)
        assert own.mean() == pytest.approx(level, abs=4 * rough / 10)
        assert own.std() == pytest.approx(rough, rel=0.15)


def test_a_lazy_cube_gives_the_bytes_of_an_eager_one():
    ds = scene()
    eager = ds.eoaug.change(label="landcover", share=0.2, seed=2)
    for chunks in ({"y": 50, "x": 70}, {"y": 160, "x": 23}):
        lazy = ds.chunk(chunks).eoaug.change(label="landcover", share=0.2, seed=2)
        assert lazy.B03.chunks is not None
        assert same(lazy.compute(), eager)
    assert not same(ds.eoaug.change(label="landcover", share=0.2, seed=4), eager)


def test_missing_pixels_stay_missing_and_generated_ones_stay_marked():
    ds = scene()
    for name in ("B03", "B04"):
        ds[name].values[:, 40:60] = 0
    pair = ds.eoaug.change(label="landcover", share=0.2, seed=2)
    after = pair.isel(time=1)
    assert (after.B03.values[40:60] == 0).all()
    assert (after.B03.values[60:] != 0).all()
    assert (after.synthetic.values[40:60] == 255).all()
    marked = scene().assign(synthetic=(("time", "y", "x"), np.ones((1, 160, 160), np.uint8)))
    assert (marked.eoaug.change(label="landcover", seed=2).synthetic.values == 1).all()


def test_regions_may_be_given_and_large_ones_are_cut():
    ds = scene()
    numbers = np.zeros((160, 160), np.int32)
    numbers[16:32, 16:32], numbers[64:80, 96:112] = 1, 2
    given = ds.assign(parcel=(("y", "x"), numbers, {"eoaug_role": "label"}))
    pair = given.eoaug.change(label="landcover", regions="parcel", share=1.0, decoys=0.0)
    assert set(np.unique(pair.parcel.values[pair.change.values == 1])) == {1, 2}
    half = ds.assign(
        landcover=ds.landcover.copy(
            data=np.where(np.arange(160) < 80, 1, 2)[None].repeat(160, 0).astype(np.uint8)
        )
    )
    cut = half.eoaug.change(label="landcover", to=2, share=0.3, decoys=0.0)
    parts, count = ndimage.label(cut.change.values)
    assert count
    assert max(np.ptp(np.argwhere(parts == n), axis=0).max() for n in range(1, count + 1)) < 96


def test_a_written_pair_opens_as_a_training_set(tmp_path):
    pair = scene().eoaug.change(label="landcover", share=0.2, seed=2)
    (item,) = eoaug.write(pair, tmp_path / "pairs", format="zarr")
    assert {"labels", "data"} <= set(item.assets["change"].roles)
    assert "synthetic" not in item.assets["landcover"].roles
    assert "synthetic" in item.assets["B03"].roles
    train = eoaug.training_set(tmp_path / "pairs", "change", task="change")
    opened = train[0].open()
    assert opened.sizes["time"] == 2
    assert train.classes == ("unchanged", "changed")
    label = opened.change.isel(time=1) if "time" in opened.change.dims else opened.change
    assert np.array_equal(label.values, pair.change.values)


def test_label_items_that_link_to_two_images_open_as_a_pair(tmp_path):
    pair = scene().eoaug.change(label="landcover", share=0.2, seed=2)
    images = eoaug.write(pair[["B03", "B04", "synthetic"]], tmp_path / "c", collection="images")
    (truth,) = eoaug.write(
        pair[["change"]].assign_coords(time=pair.time.values[1]).drop_attrs(deep=False),
        tmp_path / "c", collection="truth", ids=["truth"],
    )  # fmt: skip
    for image in images:
        truth.add_link(pystac.Link("source", image.get_self_href()))
    train = eoaug.training_set([truth], "change", task="change", bands=["B03", "B04"], allow=[str(tmp_path)])
    opened = train[0].open()
    assert opened.sizes["time"] == 2
    assert np.array_equal(opened.change.values, pair.change.values)
    scaled = pair.B03.values * 1e-4
    assert np.allclose(opened.B03.values, scaled, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"label": "landcove"}, "landcover"),
        ({"label": "landcover", "to": "water"}, "woods"),
        ({"label": "landcover", "share": 2}, "share"),
        ({"label": "landcover", "regions": "parcels"}, "parcels"),
    ],
)
def test_wrong_arguments_are_refused(arguments, word):
    with pytest.raises(EoaugError, match=word):
        scene(48).eoaug.change(**arguments)


def test_a_cube_of_several_dates_is_refused():
    ds = scene(48)
    with pytest.raises(EoaugError, match="2 dates"):
        ds.isel(time=[0, 0]).assign_coords(time=ds.time.values[0] + np.array([0, 1], "m8[D]")).eoaug.change(
            label="landcover"
        )
