"""Attributes of Zarr groups: stored, or refused by name before anything is written."""

from __future__ import annotations

import numpy as np
import pytest

import eoaug
from eoaug.errors import TargetError
from eoaug.testing import scene


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", 1 + 2j, np.datetime64("2020-01-01")])
@pytest.mark.parametrize("of", ["the cube", "blue"])
def test_attributes_that_json_cannot_hold_are_refused_by_name(value, of, tmp_path):
    ds = scene((12, 14), dates=1, bands=("blue", "nir"))
    (ds if of == "the cube" else ds[of]).attrs["origin"] = value
    result = eoaug.synthesize(ds, generator="classical")
    with pytest.raises(TargetError, match=rf"attribute 'origin' of {of} is"):
        eoaug.write(result, tmp_path, format="zarr")
    assert not list(tmp_path.rglob("zarr.json"))


def test_flags_of_a_range_are_stored_as_a_list(tmp_path):
    ds = scene((12, 14), dates=1, bands=("blue", "nir"))
    classes = {"flag_values": range(3), "flag_meanings": "water wood field"}
    ds["landcover"] = (ds.blue.dims, np.ones(ds.blue.shape, np.uint8), classes)
    result = eoaug.synthesize(ds, generator="classical")
    eoaug.write(result, tmp_path, format="zarr")
    back = eoaug.open_cube(tmp_path, chunks=None)
    assert list(back.landcover.attrs["flag_values"]) == [0, 1, 2]
