"""Which pixels are cloud in training and evaluation: the quality band that the verbs would take, or a warning."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from eoaug.datasets.netcdf import cloud_mask
from eoaug.errors import EoaugWarning
from eoaug.stac.publish import write
from eoaug.testing import scene
from eoaug.training.finetune import _read_cubes

SIZE = (16, 20)


def cube(name: str, good: int, cloud: int, **attrs) -> xr.Dataset:
    ds = scene(SIZE, dates=1, dtype="float32")[["blue", "red"]]
    values = np.full((1, *SIZE), good, np.uint8)
    values[:, :5] = cloud
    return ds.assign({name: (("time", "y", "x"), values, attrs)})


@pytest.mark.parametrize(
    ("name", "good", "cloud", "attrs"),
    [
        ("SCL", 4, 9, {}),
        ("CLM", 0, 1, {}),
        ("clouds", 1, 2, {"flag_values": np.uint8([1, 2]), "flag_meanings": "clear cloud"}),
    ],
)
def test_finetune_takes_the_quality_band_that_the_verbs_take(name, good, cloud, attrs, tmp_path):
    write(cube(name, good, cloud, **attrs), tmp_path)
    (read,) = _read_cubes(tmp_path, ["blue", "red"], {})
    assert not read.clear[0, :5].any()
    assert read.clear[0, 5:].all()


def test_an_item_without_a_quality_band_is_clear(tmp_path):
    write(cube("SCL", 4, 9)[["blue", "red"]], tmp_path)
    (read,) = _read_cubes(tmp_path, ["blue", "red"], {})
    assert read.clear.all()


def test_finetune_names_a_quality_band_that_nothing_explains(tmp_path):
    write(cube("Fmask", 0, 2), tmp_path)
    with pytest.warns(EoaugWarning, match="'Fmask'"):
        (read,) = _read_cubes(tmp_path, ["blue", "red"], {})
    assert read.clear.all()


def test_a_quality_band_that_nothing_explains_is_named():
    ds = cube("quality_mask", 3, 7)
    with pytest.warns(EoaugWarning, match=r"'quality_mask'.*flag_values") as caught:
        assert cloud_mask(ds) is None
    assert len(caught) == 1
    ds.quality_mask.attrs.update(flag_values=[3, 7], flag_meanings="clear cloud")
    assert np.array_equal(cloud_mask(ds).values, ds.quality_mask.values == 7)
