"""Labels are passengers: which variables are labels, and that nothing changes their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from eoaug.cube.roles import label_variables, quality_variable, with_labels
from eoaug.errors import ParameterError
from eoaug.raster.variables import LABEL, ROLE

CLASSES = {"flag_values": np.array([0, 1, 2], "uint8"), "flag_meanings": "water wood field"}
CLOUDS = {"flag_values": np.array([0, 1], "uint8"), "flag_meanings": "clear cloud"}


def small(**variables) -> xr.Dataset:
    ds = xr.Dataset({"red": (("y", "x"), np.full((4, 4), 0.1, "float32"))})
    return ds.assign(
        {name: (("y", "x"), np.zeros((4, 4), "uint8"), attrs) for name, attrs in variables.items()}
    )


@pytest.mark.parametrize(
    ("name", "attrs", "expected"),
    [
        ("odd", CLASSES, True),
        ("B04", CLASSES, True),
        ("odd", {ROLE: LABEL}, True),
        ("landcover", {}, True),
        ("odd", {}, False),
        ("SCL", {}, False),
        ("SCL", CLASSES, False),
        ("odd", CLOUDS, False),
        ("valid_mask", {"flag_values": [0, 1], "flag_meanings": "invalid valid"}, False),
    ],
)
def test_what_a_label_is(name, attrs, expected):
    assert (name in label_variables(small(**{name: attrs}))) == expected


@pytest.mark.parametrize("name", ["odd", "B04", "SCL", "clouds", "dem"])
@pytest.mark.parametrize("attrs", [{}, CLOUDS], ids=["plain", "clouds"])
def test_the_user_decides_first(name, attrs):
    ds = small(**{name: attrs})
    marked = with_labels(ds, name)
    assert label_variables(ds, name) == label_variables(marked) == (name,)
    assert ds[name].attrs == attrs
    assert marked[name].variable._data is ds[name].variable._data
    assert quality_variable(marked, ("y", "x")) is None


@pytest.mark.parametrize("labels", [["lands"], ["land", "x"], "synthetic", [3], [""]])
def test_names_of_no_variable_are_refused(labels):
    with pytest.raises(ParameterError, match="labels="):
        with_labels(small(land={}), labels)
