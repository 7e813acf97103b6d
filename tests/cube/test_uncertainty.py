"""Expected errors of results, and intervals that are calibrated on the scene's own clear pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import eoaug
from eoaug.errors import EoaugError
from eoaug.generators.base import Card, Request, UncertaintyGenerator
from eoaug.generators.classical import Classical
from eoaug.testing import scene


class Flat:
    """Fills with 0 and believes to be wrong by 1."""

    card = Card(name="flat", tile_px=32, overlap_px=8)

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def generate(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        return self.generate_with_error(requests)[0]

    def generate_with_error(
        self, requests: Sequence[Request]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values = np.stack([np.where(r.known & ~r.fill, r.values, 0) for r in requests]).astype(np.float32)
        return values, np.ones_like(values)


def noise_cube(true_error: float, dates: int = 2, edge: int = 128) -> xr.Dataset:
    """Return a cube of white noise around 0.3; the engine's constants make model unit 1 a reflectance of some tenths."""
    cube = scene((edge, edge), dates=dates, bands=("red", "nir"), dtype="float32")
    rng = np.random.default_rng(1)
    values = {
        name: rng.normal(0.3, true_error, cube[name].shape).astype(np.float32) for name in ("red", "nir")
    }
    return cube.assign({name: cube[name].copy(data=data) for name, data in values.items()})


def holes(cube: xr.Dataset, share: float = 0.2) -> xr.DataArray:
    rows = cube.sizes["y"]
    mask = np.zeros((cube.sizes["time"], rows, cube.sizes["x"]), bool)
    mask[:, rows // 8 : rows // 8 + int(share * rows), 5:-9] = True
    return xr.DataArray(mask, dims=("time", "y", "x"), coords={n: cube[n] for n in ("time", "y", "x")})


def test_measured_pixels_have_no_error_and_filled_ones_have_it_in_physical_units() -> None:
    cube = scene((64, 64), dates=1, bands=("red", "nir"))
    mask = holes(cube)
    result = cube.eoaug.inpaint(mask=mask, uncertainty=True)
    decoded = cube.astype(np.float32) * 1e-4
    for name in ("red", "nir"):
        decoded[name].attrs = {}
    as_floats = decoded.eoaug.inpaint(mask=mask, uncertainty=True)
    for name in ("red", "nir"):
        error = result[f"{name}_std"]
        assert error.dtype == np.float32
        assert error.dims == cube[name].dims
        assert (error.values[~mask.values] == 0).all()
        assert (error.values[mask.values] > 0).all()
        np.testing.assert_allclose(error, as_floats[f"{name}_std"], rtol=1e-3)
    plain = cube.eoaug.inpaint(mask=mask)
    np.testing.assert_array_equal(plain.red, result.red)


@pytest.mark.parametrize("chunk", [40, 64])
def test_chunks_change_no_byte(chunk: int) -> None:
    cube = scene((96, 80), dates=2, bands=("red", "nir"))
    mask = holes(cube)
    whole = cube.eoaug.inpaint(mask=mask, uncertainty=True)
    lazy = cube.chunk(x=chunk, y=chunk).eoaug.inpaint(mask=mask, uncertainty=True)
    xr.testing.assert_equal(whole.drop_attrs(), lazy.compute().drop_attrs())


@pytest.mark.parametrize("true_error", [0.01, 0.3])
def test_calibrated_intervals_hold_and_report_it(true_error: float) -> None:
    """A generator whose expected error has nothing to do with the actual one is put right."""
    cube = noise_cube(true_error)
    mask = holes(cube)
    hidden = cube.where(~mask)
    generator = Flat()
    assert isinstance(generator, UncertaintyGenerator)
    before = hidden.eoaug.inpaint(fill="all", generator=generator, uncertainty=True)
    result = hidden.eoaug.inpaint(fill="all", generator=generator, uncertainty=True, calibrate=True)
    for name in ("red", "nir"):
        wrong = np.abs(result[name] - cube[name]).values[mask.values]
        error = result[f"{name}_std"].values[mask.values]
        assert 0.87 < (wrong <= 1.645 * error).mean() < 0.93
        assert 0.88 < result[f"{name}_std"].attrs["coverage"] < 0.92
        was = np.mean(wrong <= 1.645 * before[f"{name}_std"].values[mask.values])
        assert abs(was - 0.9) > 0.05
    np.testing.assert_array_equal(before.red, result.red)


def test_what_was_filled_earlier_keeps_its_error() -> None:
    cube = scene((64, 64), dates=1, bands=("red",))
    first = holes(cube)
    once = cube.eoaug.inpaint(mask=first, uncertainty=True)
    second = first.roll(y=32)
    twice = once.eoaug.inpaint(mask=second, uncertainty=True)
    kept = (first & ~second).values
    assert kept.any()
    np.testing.assert_array_equal(twice.red_std.values[kept], once.red_std.values[kept])
    assert (twice.red_std.values[second.values] > 0).all()


def test_errors_travel_through_a_catalog(tmp_path: Path) -> None:
    cube = scene((64, 64), dates=1, bands=("red", "nir"))
    result = cube.eoaug.inpaint(mask=holes(cube), uncertainty=True)
    eoaug.write(result, tmp_path / "out", format="zarr")
    back = eoaug.open_cube(tmp_path / "out").squeeze()
    np.testing.assert_array_equal(back.red_std, result.red_std.squeeze())
    again = back.eoaug.inpaint(mask=holes(cube).isel(time=0, drop=True))
    np.testing.assert_array_equal(again.red_std, back.red_std)


@pytest.mark.parametrize(
    ("verb", "options", "told"),
    [
        ("inpaint", {"generator": Classical()}, "has no expected error"),
        ("inpaint", {"members": 3}, "members=3"),
        ("inpaint", {"steps": 2}, "steps=2"),
        ("inpaint", {"uncertainty": "yes"}, "uncertainty='yes'"),
        ("inpaint", {"uncertainty": False, "calibrate": True}, "needs uncertainty"),
        ("synthesize", {}, "no truth"),
        ("super_resolve", {"calibrate": True}, "super_resolve has none"),
        ("inpaint", {"calibrate": True, "chunks": 32}, "lazy"),
        ("super_resolve", {"native": {"nir": 20}}, "guide has no expected error"),
    ],
)
def test_what_cannot_be_served_is_refused(verb: str, options: dict[str, Any], told: str) -> None:
    cube = scene((32, 32), dates=1, bands=("red", "nir"))
    with pytest.raises(EoaugError, match=told):
        getattr(cube.eoaug, verb)(**{"uncertainty": True, **options})


def test_an_array_is_refused_with_a_remedy_that_works() -> None:
    array = scene((32, 32), dates=1, bands=("red",)).red
    with pytest.raises(EoaugError, match="to_dataset"):
        array.eoaug.inpaint(fill="all", uncertainty=True)
    holed = array.where(array.x > array.x[4]).to_dataset(name="red")
    assert "red_std" in holed.eoaug.inpaint(fill="all", uncertainty=True)


def test_a_scene_without_gaps_cannot_be_calibrated() -> None:
    cube = scene((32, 32), dates=1, bands=("red",))
    with pytest.raises(EoaugError, match="no clear pixel can be hidden"):
        cube.eoaug.inpaint(mask=xr.zeros_like(cube.red, bool), uncertainty=True, calibrate=True)
