"""Labels are passengers: which variables are labels, and that nothing changes their pixels."""

from __future__ import annotations

import tempfile
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eoaug
from eoaug.cube.roles import label_variables, quality_variable, with_labels
from eoaug.errors import EoaugError, EoaugWarning, ParameterError
from eoaug.raster.variables import LABEL, ROLE
from eoaug.testing import TinyDenoiser, scene

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


# -- through verbs and files ----------------------------------------------------------------------------

KINDS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
NAMES = [
    "lc",
    "landcover",
    "mask",
    "clouds",
    "crop_type",
    "B11",
    "dem",
    "SCL",
    "y_true",
    "classes",
    "target mask",
    "nir",
]


@st.composite
def labelled(draw) -> tuple[xr.Dataset, str, bool]:
    """A cube with a label, its name, and whether the cube says itself that it is one."""
    dates = draw(st.integers(1, 2))
    ds = scene((8, 9), dates=dates, bands=("blue", "red"))
    dims = draw(st.permutations(draw(st.sampled_from([("y", "x"), ("time", "y", "x")]))))
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    name = draw(st.sampled_from(NAMES))
    declared = draw(st.sampled_from(["flags", "role", "user"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, 5, tuple(ds.sizes[d] for d in dims)).astype(kind)
    if kind.kind in "iu" and draw(st.booleans()):
        values.flat[0], values.flat[1] = np.iinfo(kind).min, np.iinfo(kind).max
    attrs = {"grid_mapping": "spatial_ref"} if draw(st.booleans()) else {}
    if kind.kind in "iu" and draw(st.booleans()):
        attrs["nodata"] = int(draw(st.sampled_from([0, 4, 120])))
    if declared == "flags":
        attrs |= {"flag_values": np.arange(5), "flag_meanings": "water wood field town rock"}
    elif declared == "role":
        attrs[ROLE] = LABEL
    ds[name] = (dims, values, attrs)
    if kind.kind == "f":
        holes = draw(st.booleans())
        if holes:
            ds[name].values[..., :2] = np.nan
        if draw(st.booleans()):
            ds[name].encoding = {"dtype": "uint8", "_FillValue": 255}
    if draw(st.booleans()):
        ds = ds.chunk({"y": 4, "x": 5})
    return ds, name, declared == "role" or (declared == "flags" and name not in ("SCL", "clouds"))


def equal(given: xr.DataArray, found: xr.DataArray) -> bool:
    """The same numbers at the same places; missing ones may be NaN or a nodata value."""
    given, found = xr.broadcast(given.drop_vars(given.coords), found.drop_vars(found.coords))
    one, two = given.transpose(*found.dims).values, found.values
    if two.dtype.kind in "iu" and one.dtype.kind == "f":
        return bool(np.array_equal(np.where(np.isnan(one), 255, one), two))
    return bool(np.array_equal(one, two, equal_nan=one.dtype.kind == "f"))


VERBS = {
    "synthesize": {"strength": 0.5, "mask": "none"},
    "inpaint": {"fill": "all"},
    "super_resolve": {"factor": 2, "sensor": "box", "mask": "none"},
    "extend": {"times": ["2021-06-01"], "mask": "none"},
}


def check_label(case: tuple[xr.Dataset, str, bool], verb: str, format: str, folder) -> None:  # noqa: A002
    ds, name, declared = case
    given = ds[name].compute()
    options = {"generator": "classical", **VERBS[verb]} | ({} if declared else {"labels": [name]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EoaugWarning)
        result = getattr(eoaug, verb)(ds, **options)
        if verb == "extend" and "time" in given.dims:
            assert name not in result
            return
        item, *_ = eoaug.write(result, folder, format=format, overwrite=True)
        back = eoaug.open_cube(str(folder), chunks=None)
    assert result[name].dtype == given.dtype
    if verb == "super_resolve":
        for row, col in ((0, 0), (0, 1), (1, 0), (1, 1)):
            corner = result[name].isel(y=slice(row, None, 2), x=slice(col, None, 2))
            assert equal(given, corner.compute())
        given = result[name].compute()
    else:
        assert result[name].variable.identical(with_labels(ds, name if not declared else None)[name].variable)
    assert equal(given, back[name])
    assert label_variables(back) == (name,)
    roles = item.assets[name].roles
    assert "labels" in roles
    assert "synthetic" not in roles


@given(labelled(), st.sampled_from(sorted(VERBS)), st.sampled_from(["cog", "zarr"]))
@settings(max_examples=4)
def test_no_verb_and_no_file_changes_a_label(case, verb, format):  # noqa: A002
    with tempfile.TemporaryDirectory() as folder:
        check_label(case, verb, format, folder)


@pytest.mark.long
@given(labelled(), st.sampled_from(sorted(VERBS)), st.sampled_from(["cog", "zarr"]))
@settings(max_examples=500)
def test_no_verb_and_no_file_changes_any_label(case, verb, format):  # noqa: A002
    with tempfile.TemporaryDirectory() as folder:
        check_label(case, verb, format, folder)


# -- remedies -------------------------------------------------------------------------------------------


@st.composite
def undeclared(draw) -> tuple[xr.Dataset, str]:
    """A cube with classes that nothing declares, and their name."""
    ds = scene((8, 9), dates=draw(st.integers(1, 2)), bands=("blue", "red"))
    dims = draw(st.permutations(draw(st.sampled_from([("y", "x"), ("time", "y", "x")]))))
    kind = draw(st.sampled_from([k for k in KINDS if k != "bool"]))
    name = draw(st.sampled_from(["lc", "y_true", "target 1", "lu2018", "ct", "parcels"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, draw(st.integers(2, 40)), tuple(ds.sizes[d] for d in dims)).astype(kind)
    ds[name] = (dims, values, draw(st.sampled_from([{}, {"long_name": "land use"}, {"nodata": 0}])))
    if values.dtype.kind == "f" and draw(st.booleans()):
        ds[name].encoding = {"dtype": "uint8", "_FillValue": 255}
    return (ds.chunk({"y": 4, "x": 5}) if draw(st.booleans()) else ds), name


def check_remedy(case: tuple[xr.Dataset, str], verb: str, generator) -> None:
    ds, name = case
    before = ds[name].compute()
    options = {"generator": generator, **VERBS[verb]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EoaugWarning)
        try:
            result = getattr(eoaug, verb)(ds, **options)
        except EoaugError as error:
            first = error.remedy.split(";")[0] if "labels=" in error.remedy.split(";")[0] else error.remedy
            assert f"labels=['{name}']" in first
            result = getattr(eoaug, verb)(ds, **options, labels=[name])
    if verb == "extend" and "time" in before.dims:
        assert name not in result
    elif verb == "super_resolve":
        assert name not in result or np.array_equal(
            result[name].isel(y=slice(1, None, 2), x=slice(0, None, 2)), before
        )
    else:
        np.testing.assert_array_equal(result[name].values, before.values)


GENERATORS = ["classical", TinyDenoiser(bands=("blue", "red"))]


@given(undeclared(), st.sampled_from(sorted(VERBS)), st.sampled_from(GENERATORS))
@settings(max_examples=8)
def test_no_remedy_changes_a_label(case, verb, generator):
    check_remedy(case, verb, generator)


@pytest.mark.long
@given(undeclared(), st.sampled_from(sorted(VERBS)), st.sampled_from(GENERATORS))
@settings(max_examples=500)
def test_no_remedy_changes_any_label(case, verb, generator):
    check_remedy(case, verb, generator)
