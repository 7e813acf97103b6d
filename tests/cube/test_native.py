"""super_resolve(native=...): bands of coarser pixels sharpened on the grid with the fine bands as guide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from odc.geo.xr import assign_crs
from scipy import ndimage
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import BandError, GeneratorError, GridError, ParameterError
from eoaug.raster.cells import cell_means, repeat_phase
from eoaug.raster.sensor import Sensor
from eoaug.testing.fakes import TinyDenoiser

pytestmark = pytest.mark.filterwarnings("ignore::eoaug.errors.EoaugWarning")

_SIDE = 120


def _land(side: int = _SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Return fine bands (2, side, side) and the truth of a band that follows from them."""
    noise = np.random.default_rng(3).normal(size=(3, side, side))
    fields = np.stack([ndimage.gaussian_filter(n, 1.0, mode="wrap") for n in noise]) * 0.1
    red, nir = 0.1 + fields[0], 0.3 + fields[1] - 0.5 * fields[0]
    return np.stack([red, nir]).astype(np.float32), (0.05 + 0.6 * red + 0.4 * nir).astype(np.float32)


def _repeated(truth: np.ndarray, factor: int = 2, sensor: Any = "box") -> np.ndarray:
    coarse = Sensor.of(sensor, factor, 1).degrade(truth[None])[0]
    return coarse.repeat(factor, 0).repeat(factor, 1)


def _cube(factor: int = 2, sensor: Any = "box") -> tuple[xr.Dataset, np.ndarray]:
    (red, nir), truth = _land()
    coords = {"y": 5e6 - 10.0 * np.arange(_SIDE) - 5, "x": 4e5 + 10.0 * np.arange(_SIDE) + 5}
    bands = {"B04": red, "B08": nir, "B05": _repeated(truth, factor, sensor)}
    cube = xr.Dataset({name: (("y", "x"), image) for name, image in bands.items()}, coords)
    return assign_crs(cube, "EPSG:32631"), truth


def _error(image: Any, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(image) - truth) ** 2)))


@pytest.mark.parametrize("generator", ["embedded", "classical"])
def test_a_coarse_band_gets_the_detail_of_the_fine_ones(generator: str) -> None:
    cube, truth = _cube()
    plain = eoaug.super_resolve(cube[["B05"]][{"y": slice(0, None, 2), "x": slice(0, None, 2)}], sensor="box",
                                generator="classical")  # fmt: skip
    fine = eoaug.super_resolve(cube, native="auto", sensor="box", generator=generator)
    assert _error(fine.B05, truth) < 0.6 * _error(plain.B05, truth)
    assert fine.B04.identical(cube.B04.assign_attrs(fine.B04.attrs))
    np.testing.assert_allclose(
        Sensor.of("box", 2, 1).degrade(fine.B05.values[None])[0], cube.B05[::2, ::2], atol=1e-6
    )
    assert (fine.synthetic == 2).all()
    record = fine.eoaug.provenance
    assert record.bands == {"B04": "observed", "B08": "observed", "B05": "transferred"}
    assert record.parameters["native"] == {"B05": {"factor": 2, "mtf": "box", "sensor": "given"}}
    assert record.residual["B05"] < 1e-6
    assert "eoaug_synthetic" not in fine.B04.attrs


@pytest.mark.parametrize("origin", [(0, 0), (3, 1), (-7, 4)])
def test_chunks_crops_and_offsets_change_no_pixel(origin: tuple[int, int]) -> None:
    cube, _ = _cube()
    row, col = origin
    cube = cube.assign_coords(y=cube.y - 10.0 * row, x=cube.x + 10.0 * col)
    whole = eoaug.super_resolve(cube, native={"B05": 20.0})
    lazy = eoaug.super_resolve(cube.chunk(y=50, x=37), native={"B05": 20.0}, chunks={"y": 31, "x": 64})
    assert lazy.B05.values.tobytes() == whole.B05.values.tobytes()
    assert np.isfinite(whole.B05).all()
    # A crop that cuts through native pixels sees the same values; what lies beyond it is unknown.
    crop = eoaug.super_resolve(cube.isel(y=slice(5, None), x=slice(3, 100)), native={"B05": 20.0})
    assert _error(crop.B05, whole.B05[5:, 3:100]) < 0.3 * _error(cube.B05[5:, 3:100], whole.B05[5:, 3:100])


def test_a_band_that_the_fine_ones_do_not_predict_is_back_projected() -> None:
    cube, truth = _cube()
    other = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=truth.shape), 1.2, mode="wrap")
    cube["B05"] = cube.B05.copy(data=_repeated(other.astype(np.float32)))
    fine = eoaug.super_resolve(cube, native="auto", sensor="box")
    plain = eoaug.super_resolve(cube[["B05"]][{"y": slice(0, None, 2), "x": slice(0, None, 2)}], sensor="box",
                                generator="classical")  # fmt: skip
    assert _error(fine.B05, other) < 1.02 * _error(plain.B05, other)


def test_two_resolutions_and_missing_pixels() -> None:
    cube, truth = _cube()
    cube["B01"] = cube.B05.copy(data=_repeated(truth, 6))
    cube["B05"] = cube.B05.where((cube.y < cube.y[20]) | (cube.x > cube.x[29]))
    cube["B04"] = cube.B04.where(cube.y > cube.y[90])
    fine = eoaug.super_resolve(cube, native="auto", sensor="box")
    assert (fine.B05.isnull() == cube.B05.isnull()).all()
    assert (fine.B04.isnull() == cube.B04.isnull()).all()
    assert np.isfinite(fine.B01).all()
    assert _error(fine.B01, truth) < 0.8 * _error(cube.B01, truth)
    assert _error(np.asarray(fine.B05)[40:80, 40:], truth[40:80, 40:]) < 0.02
    assert set(fine.eoaug.provenance.parameters["native"]) == {"B05", "B01"}


def test_a_tree_of_resolutions_is_put_on_the_finest_grid() -> None:
    cube, _ = _cube()
    coarse = cube[["B05"]].coarsen(y=2, x=2).mean()
    tree = xr.DataTree.from_dict({"r10m": cube[["B04", "B08"]], "r20m": coarse})
    joined = eoaug.super_resolve(tree, native="auto")
    assert joined.B05.values.tobytes() == eoaug.super_resolve(cube, native="auto").B05.values.tobytes()
    with pytest.raises(GridError, match="ends at"):
        eoaug.super_resolve(
            xr.DataTree.from_dict({"a": cube[["B04"]], "b": coarse.isel(x=slice(3, 40))}), native="auto"
        )


def test_marks_of_an_earlier_verb_stay() -> None:
    cube, _ = _cube()
    hidden = np.zeros((_SIDE, _SIDE), bool)
    hidden[10:20, 10:20] = True
    filled = eoaug.inpaint(cube[["B04", "B08"]], mask=cube.B04.copy(data=hidden), generator="classical")
    fine = eoaug.super_resolve(filled.assign(B05=cube.B05), native="auto")
    assert (fine.synthetic == np.where(hidden, 1, 2)).all()


def test_what_cannot_be_sharpened_is_refused_with_a_remedy() -> None:
    cube, _ = _cube()
    smooth = cube.assign(B05=cube.B05.copy(data=ndimage.zoom(cube.B05.values[::2, ::2], 2, order=1)))
    for given, arguments, error, text in (
        (smooth, {"native": "auto"}, BandError, "was interpolated"),
        (cube[["B05"]], {"native": {"B05": 20}}, BandError, "all bands are coarser"),
        (cube[["B04", "B08"]], {"native": "auto"}, BandError, "no band is known to be coarser"),
        (cube, {"native": {"B05": 25}}, ParameterError, "2.5 pixels"),
        (cube, {"native": {"B06": 20}}, ParameterError, "B06"),
        (cube, {"native": "20 m"}, ParameterError, "neither 'auto'"),
        (cube, {"native": "auto", "factor": 4}, ParameterError, "do not go with native"),
        (cube, {"native": "auto", "members": 2}, ParameterError, "no samples"),
        (cube, {"native": "auto", "generator": TinyDenoiser()}, GeneratorError, "does not sharpen"),
    ):
        with pytest.raises(error, match=text) as refusal:
            eoaug.super_resolve(given, **arguments)
        assert refusal.value.remedy


def test_a_result_is_written_and_opened_again(tmp_path: Path) -> None:
    cube, _ = _cube()
    cube = cube.expand_dims(time=[np.datetime64("2024-06-01", "ns")])
    fine = eoaug.super_resolve(cube, native="auto")
    eoaug.write(fine, tmp_path / "out")
    again = eoaug.open_cube(tmp_path / "out", chunks=None)
    np.testing.assert_allclose(again.B05, fine.B05, atol=1e-4)
    assert (again.synthetic == 2).all()
    assert again.eoaug.provenance is None or again.eoaug.provenance.bands["B05"] == "transferred"


def test_phases_and_means_of_repeated_cells() -> None:
    values = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    image = values.repeat(3, 0).repeat(3, 1)
    assert repeat_phase([(0, 0, image)], 3) == (0, 0)
    assert repeat_phase([(7, 2, image)], 3) == (1, 2)
    assert repeat_phase([(0, 0, image[1:, 2:])], 3) == (2, 1)
    assert repeat_phase([(0, 0, image * 0)], 3) == (None, None)
    assert repeat_phase([(0, 0, ndimage.zoom(values, 3, order=1))], 3) is None
    assert (cell_means(image[None], 3)[0] == values).all()
    image[0, 0] = image[3:6, 3:6] = np.nan
    assert np.isnan(cell_means(image[None], 3)[0]).sum() == 1


def test_the_command_line_takes_auto_and_metres_by_band(tmp_path: Path) -> None:
    cube, _ = _cube()
    cube.expand_dims(time=[np.datetime64("2024-06-01", "ns")]).to_netcdf(tmp_path / "cube.nc")
    for given in ("auto", "B05=20"):
        run = [str(tmp_path / "cube.nc"), "--native", given, "--generator", "classical"]
        assert CliRunner().invoke(app, ["plan", "super-resolve", *run]).exit_code == 0
