"""Bands that the generator's networks do not know: made by its priors, said, and without influence on the others."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import eoaug
from eoaug.cube.read import read_cube
from eoaug.cube.typical import typical_of
from eoaug.errors import BandError, EoaugWarning
from eoaug.generators.classical import Classical
from eoaug.raster import noise
from eoaug.raster.bands import assign_bands
from eoaug.testing import scene

pytestmark = pytest.mark.filterwarnings("ignore::eoaug.errors.EoaugWarning")

_SIDE = 40
_LEVELS = {
    "B02": (0.08, 0.02),
    "B04": (0.1, 0.03),
    "B08": (0.25, 0.08),
    "B8A": (0.26, 0.08),
    "B05": (0.12, 0.04),
}
_OTHERS = {"VV": (-11.0, 2.0), "lwir11": (295.0, 3.0), "ndvi": (0.4, 0.2), "texture": (5200.0, 900.0)}


def _cube(*names: str, dates: int = 1) -> xr.Dataset:
    """Return a cube of smooth land: a plane per band, which changes a little from date to date."""
    from scipy import ndimage

    levels = _LEVELS | _OTHERS
    times = np.datetime64("2021-05-01", "ns") + 10 * np.timedelta64(1, "D") * np.arange(dates)
    coords = {"time": times, "y": 5e6 - 10.0 * np.arange(_SIDE), "x": 4e5 + 10.0 * np.arange(_SIDE)}
    planes = {}
    for name in names:
        number = list(levels).index(name)
        land = noise.normal((0, 0), (1, _SIDE, _SIDE), seed=number)
        change = noise.normal((0, 0), (dates, _SIDE, _SIDE), seed=100 + number)
        shape = ndimage.gaussian_filter(land + 0.3 * change, (0, 3, 3)) * 8
        planes[name] = (("time", "y", "x"), (levels[name][0] + levels[name][1] * shape).astype(np.float32))
    return xr.Dataset(planes, coords, {"platform": "sentinel-2a"})


def _mask(cube: xr.Dataset) -> xr.DataArray:
    hidden = np.zeros((cube.sizes["time"], _SIDE, _SIDE), bool)
    hidden[-1, 10:28, 12:32] = True
    return xr.DataArray(hidden, dims=("time", "y", "x"), coords={d: cube[d] for d in ("time", "y", "x")})


def test_channels_of_bands_with_and_without_a_slot() -> None:
    have = {"B8A": "nir08", "VV": "vv", "B08": "nir", "x": None, "B04": "red", "other": "red", "red": None}
    assert assign_bands(have, ("red", "nir", "swir16")) == {
        "B08": 1,
        "B04": 0,
        "B8A": 3,
        "VV": 4,
        "x": 5,
        "other": 6,
        "red": 7,
    }
    assert assign_bands({"SR_B5": "nir08", "B8A": "nir08"}, ("red", "nir")) == {"SR_B5": 1, "B8A": 2}


@pytest.mark.sweep
@pytest.mark.parametrize("verb", ["inpaint", "super_resolve", "extend", "synthesize"])
def test_bands_that_are_known_do_not_depend_on_the_others(verb: str) -> None:
    cube = _cube("B02", "B04", "B08", "B8A", "VV", "texture", dates=2 if verb in ("inpaint", "extend") else 1)
    arguments: dict[str, Any] = {"extend": {"times": "2021-06-20"}, "super_resolve": {"sensor": "box"}}.get(
        verb, {}
    )
    if verb == "inpaint":
        arguments = {"mask": _mask(cube)}
    run = getattr(eoaug, verb)
    whole, known = run(cube, **arguments), run(cube[["B02", "B04", "B08"]], **arguments)
    for name in ("B02", "B04", "B08"):
        assert whole[name].values.tobytes() == known[name].values.tobytes()
    assert np.isfinite(whole.to_dataarray()).all()
    assert (whole.synthetic == known.synthetic).all()


@pytest.mark.parametrize("name", ["B8A", "B05", "VV", "lwir11", "ndvi", "texture"])
def test_a_band_alone_is_filled_and_extended_near_the_truth(name: str) -> None:
    cube, spread = _cube(name, dates=3), (_LEVELS | _OTHERS)[name][1]
    mask = _mask(cube)
    filled = eoaug.inpaint(cube.where(~mask), mask=mask)
    assert (filled[name].where(~mask) == cube[name]).sum() == (~mask).sum()
    assert float(np.abs(filled[name] - cube[name]).max()) < spread
    new = eoaug.extend(cube.isel(time=[0, 2]), times=cube.time.values[1])
    assert float(np.abs(new[name] - cube[name]).mean()) < spread / 4


def test_members_of_a_band_without_a_slot_differ() -> None:
    cube = _cube("B04", "VV")
    made = eoaug.inpaint(cube, mask=_mask(cube), members=2)
    for name in cube.data_vars:
        apart = float(np.abs(made[name][0] - made[name][1]).where(_mask(cube)).mean())
        assert 0.01 < apart / _LEVELS.get(name, _OTHERS.get(name))[1] < 2


def test_the_unit_of_an_unknown_band_is_one_of_the_scene() -> None:
    cube = _cube("texture", dates=3)
    (band,) = read_cube(cube).bands
    level, unit = typical_of(band)
    assert abs(level - 5200) < 900
    assert unit in (512, 1024)
    for chunks in ({"time": 1, "y": 7, "x": 40}, {"time": 3, "y": 40, "x": 9}):
        assert typical_of(read_cube(cube.chunk(chunks)).bands[0]) == (level, unit)
    (dirty,) = read_cube(cube.where(cube.texture > 4000)).bands
    assert typical_of(dirty)[1] in (unit / 2, unit, 2 * unit)
    (empty,) = read_cube(cube * np.nan).bands
    (flat,) = read_cube(cube * 0 + 7).bands
    assert typical_of(empty) == (0.0, 1.0)
    assert typical_of(flat) == (7.0, 1.0)


def test_chunks_do_not_change_a_pixel_of_an_unknown_band() -> None:
    cube = _cube("B04", "texture", dates=2)
    mask = _mask(cube)
    whole = eoaug.inpaint(cube, mask=mask)
    lazy = eoaug.inpaint(cube.chunk(time=1, y=20, x=30), mask=mask.chunk(y=20), chunks={"y": 16, "x": 40})
    assert isinstance(lazy.texture.data, da.Array)
    assert lazy.texture.values.tobytes() == whole.texture.values.tobytes()


def test_record_explanation_and_message_name_the_bands_of_the_prior() -> None:
    cube = _cube("B04", "B08", "B8A", "texture")
    with pytest.warns(EoaugWarning, match="no slot for B8A, texture; its priors make them"):
        fine = eoaug.super_resolve(cube)
    record = fine.eoaug.provenance
    assert record.prior_bands == ("B8A", "texture")
    assert record.model_units["B8A"] == [0.25, 0.11]
    assert record.model_units["B04"] == [0.097, 0.066]
    assert record.model_units["texture"][1] in (512, 1024)
    assert (
        eoaug.cube.provenance.Provenance.from_properties(record.to_properties(written="")).prior_bands
        == record.prior_bands
    )
    assert "by the prior alone      B8A, texture" in str(eoaug.plan("super_resolve", cube).explain())
    changed = cube.assign(texture=cube.texture * 8)
    assert eoaug.plan("super_resolve", changed).token != eoaug.plan("super_resolve", cube).token


def test_land_from_nothing_is_refused_for_unknown_bands() -> None:
    cube = _cube("B04", "VV")
    with pytest.raises(BandError, match="no new land") as refusal:
        eoaug.synthesize(cube, strength=0.9)
    assert "strength=0.6" in refusal.value.remedy
    assert eoaug.synthesize(cube, strength=0.6).VV.notnull().all()


def test_terrain_is_a_band_where_it_is_the_only_one() -> None:
    cube = _cube("texture").rename(texture="dem").astype(np.int16)
    cube.dem.attrs["units"] = "m"
    fine = eoaug.super_resolve(cube, sensor="box")
    assert fine.dem.dtype == np.int16
    assert eoaug.super_resolve(_cube("B04").merge(cube), generator=Classical()).data_vars.keys() == {
        "B04",
        "synthetic",
    }


def test_a_tile_with_nothing_known_around_it_is_made_too() -> None:
    """Far from every known pixel the networks draw land, and a band without a slot gets its typical value."""
    cube = scene((64, 304), dates=1, bands=("red", "nir"), dtype="float32")
    cube = cube.assign(B05=cube.red.copy())
    narrow = cube.where(cube.x < cube.x[40])
    with pytest.warns(EoaugWarning, match="no slot for B05"):
        result = narrow.eoaug.inpaint(fill="all")
    assert np.isfinite(result.B05).all()
    assert np.isfinite(result.red).all()
    assert (result.synthetic.values[..., 40:] == 1).all()
    assert 0.05 < float(result.B05[..., 296:].mean()) < 0.2
