"""Units that values contradict are told before the work, with band and values; the remedy works."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import eoaug
from eoaug.errors import RadiometryError, UnitsWarning

BOX = GeoBox((16, 16), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")


def cube(low, high, dtype="float32", name="B04", **attrs):
    values = np.linspace(low, high, BOX.shape[0] * BOX.shape[1]).reshape(1, *BOX.shape).astype(dtype)
    coords = {**xr_coords(BOX), "time": np.array(["2024-06-01"], "datetime64[ns]")}
    return xr.Dataset({name: (("time", "y", "x"), values, attrs)}, coords)


IDENTITY = {"scale_factor": 1.0, "add_offset": 0.0}
WRONG = {
    "float digital numbers": (cube(200, 3000), "'B04' .* 200 to 3000 .* digital numbers"),
    "rioxarray's scale of 1": (cube(200, 3000, "uint16", **IDENTITY), "digital numbers"),
    "grey levels with scale 1": (cube(3, 240, "uint8", **IDENTITY), "8-bit grey levels"),
    "percent": (cube(2, 45), "percent"),
    "kelvins": (cube(285, 305), "kelvins"),
    "an undeclared nodata value": (
        cube(0.1, 0.3).where(lambda ds: ds.x < 500100, -9999.0),
        "-9999 looks like a nodata",
    ),
    "degrees Celsius": (cube(10, 35, name="lwir11"), "no temperatures in kelvins"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("lazy", [False, True])
def test_implausible_units_are_told(kind, lazy):
    ds, words = WRONG[kind]
    if lazy:
        result = eoaug.super_resolve(ds.chunk(x=8), generator="classical")
        with pytest.raises(RadiometryError, match=f"(?s){words}"):
            result.compute()
    else:
        with pytest.raises(RadiometryError, match=f"(?s){words}"):
            eoaug.plan("super_resolve", ds, generator="classical")


def test_the_remedy_works():
    ds = cube(200, 3000, "uint16", **IDENTITY)
    ds["B04"].attrs.update(scale_factor=1e-4, add_offset=0.0)
    assert eoaug.super_resolve(ds, generator="classical").B04.dtype == "uint16"


@pytest.mark.parametrize(
    "ds",
    [cube(0.01, 1.1), cube(270, 310, name="lwir11"), cube(-25, 3, name="vv"), cube(0, 1500, name="depth")],
)
def test_plausible_and_unknown_bands_pass(ds):
    eoaug.super_resolve(ds, generator="classical")


def test_decibels_next_to_power_are_refused_and_power_alone_is_told():
    ds = cube(-25, -3, name="vv").assign(vh=cube(0.001, 0.3, name="vh").vh)
    with pytest.raises(RadiometryError, match=r"'vh' \(median 0.15.* linear power.*'vv'.*decibels"):
        eoaug.super_resolve(ds, generator="classical")
    with pytest.warns(UnitsWarning, match="'vh' .* linear power"):
        eoaug.super_resolve(ds[["vh"]], generator="classical")
    ds["vh"] = 10 * np.log10(ds["vh"].where(ds["vh"] > 0))  # the remedy
    eoaug.super_resolve(ds, generator="classical")
