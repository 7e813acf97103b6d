"""openEO and OGC API - Processes: windows that agree, sizes that are right, descriptions that follow the options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import GridError, ParameterError
from eoaug.services import ogc, openeo
from eoaug.testing import scene
from eoaug.verbs.options import OWN_OPTIONS, yaml_keys

BANDS = ["B03", "B08"]
OFFERED = {"patches": "sample"}
SHARPEN: dict[str, Any] = {
    "verb": "super_resolve",
    "parameters": {"factor": 2, "sensor": "gaussian", "sensor_noise": 0},
    "generator": "classical",
    "crs": "EPSG:32633",
}


def cube(edge: int = 96) -> xr.DataArray:
    """A cube as a user-defined function gets it: floating digital numbers, without attributes."""
    ds = scene((edge, edge), dates=1, bands=tuple(BANDS))
    array = ds[BANDS].to_dataarray("bands").astype("float32").rename(time="t").drop_vars("spatial_ref")
    return array.drop_attrs().transpose("t", "bands", "y", "x")


def back_end(function: Any, whole: xr.DataArray, size: int, overlap: int, factor: int) -> np.ndarray:
    """Apply a function to windows as apply_neighborhood does, with overlap and size in pixels of the cube."""
    step = {axis: float(whole[axis][1] - whole[axis][0]) for axis in ("y", "x")}
    padded = whole.pad({"y": overlap, "x": overlap}, constant_values=np.nan)
    for axis in ("y", "x"):
        places = float(whole[axis][0]) + step[axis] * np.arange(-overlap, whole.sizes[axis] + overlap)
        padded = padded.assign_coords({axis: places})
    rows = []
    for top in range(0, whole.sizes["y"], size):
        row = []
        for left in range(0, whole.sizes["x"], size):
            window = padded.isel(
                y=slice(top, top + size + 2 * overlap), x=slice(left, left + size + 2 * overlap)
            )
            made = function(window)
            assert made.shape[-2:] == tuple(n * factor for n in window.shape[-2:])
            cut = slice(overlap * factor, (overlap + size) * factor)
            row.append(made.isel(y=cut, x=cut))
        rows.append(xr.concat(row, "x"))
    return xr.concat(rows, "y").values


def test_windows_of_a_finer_result_join_without_a_seam() -> None:
    """The case of openeo-geopyspark-driver #604 and #664: size and overlap are rescaled with the pixels."""
    whole = cube()
    options = {name: value for name, value in SHARPEN.items() if name != "verb"}
    found = openeo.neighborhood("super_resolve", BANDS, gsd_m=10, size_px=48, **options)
    size, overlap = found["size"][0]["value"], found["overlap"][0]["value"]
    joined = back_end(lambda window: openeo.run(window, SHARPEN), whole, size, overlap, 2)
    at_once = openeo.run(whole, SHARPEN)
    assert at_once.sizes == {"t": 1, "bands": 3, "y": 192, "x": 192}
    np.testing.assert_array_equal(joined, at_once.values)
    assert float(at_once.x[1] - at_once.x[0]) == 5
    assert float(at_once.x[0]) == float(whole.x[0]) - 2.5


def test_an_overlap_larger_than_the_window_is_refused() -> None:
    """The case of openeo-geopyspark-driver #1191: back ends shift such results in silence, or fail."""
    with pytest.raises(ParameterError, match="size_px=32 is less than the overlap") as caught:
        openeo.neighborhood(
            "super_resolve", BANDS, gsd_m=10, size_px=32, **{k: v for k, v in SHARPEN.items() if k != "verb"}
        )
    assert "size_px=64" in caught.value.remedy
    found = openeo.neighborhood(
        "inpaint", [*BANDS, "SCL"], gsd_m=10, parameters={"mask": "SCL"}, generator="classical"
    )
    assert found["overlap"][0]["value"] <= found["size"][0]["value"] == 256


def test_clouds_are_filled_and_clear_pixels_stay() -> None:
    given = cube(40)
    scl = xr.full_like(given.isel(bands=[0]), 4).assign_coords(bands=["SCL"])
    scl[..., 5:12, 5:12] = 9
    given = xr.concat([given, scl], "bands")
    made = openeo.run(
        given,
        {
            "verb": "inpaint",
            "parameters": {"mask": "SCL", "mask_buffer": 0},
            "generator": "classical",
            "crs": "EPSG:32633",
        },
    )
    marks = made.sel(bands="synthetic").values[0]
    np.testing.assert_array_equal(marks == 1, scl.values[0, 0] == 9)
    clear = np.broadcast_to(marks == 0, (3, 40, 40))
    np.testing.assert_array_equal(made.values[0, :3][clear], given.values[0][clear])
    assert made.dims == given.dims


def test_the_text_runs_as_a_back_end_runs_it() -> None:
    text = openeo.udf(**SHARPEN)
    names: dict[str, Any] = {}
    exec(compile(text, "udf.py", "exec"), names)
    made = names["apply_datacube"](cube(48), {})
    np.testing.assert_array_equal(made.values, openeo.run(cube(48), SHARPEN).values)


@dataclass
class Dimension:
    """Of openeo.metadata, as far as it is used."""

    name: str
    type: str = "spatial"
    extent: Any = None
    crs: Any = None
    step: float | None = 10.0


@dataclass
class Metadata:
    _dimensions: list[Dimension] = field(default_factory=list)

    def _clone_and_update(self, dimensions: list[Dimension]) -> Metadata:
        return Metadata(dimensions)


def test_the_pixel_size_in_the_metadata_is_that_of_the_result() -> None:
    metadata = Metadata([Dimension("x"), Dimension("y"), Dimension("t", "temporal", step=None)])
    assert [one.step for one in openeo.rescaled(metadata, SHARPEN)._dimensions] == [5.0, 5.0, None]
    assert openeo.rescaled(metadata, {"verb": "inpaint"}) is metadata


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"verb": "extend"}, "changes the dates"),
        ({"verb": "super_resolve"}, "sensor='auto'"),
        ({"verb": "super_resolve", "parameters": {"factr": 2}}, "factr"),
        ({"verb": "inpaint", "scal": 1}, "'scal' is no part"),
        ({"verb": "super_resolve", "parameters": {"native": "auto", "sensor": "box"}}, "native='auto'"),
    ],
)
def test_what_a_window_cannot_serve_is_refused(request_: dict[str, Any], problem: str) -> None:
    with pytest.raises(ParameterError, match=problem) as caught:
        openeo.udf(**request_)
    assert caught.value.remedy


def test_a_window_without_bands_is_refused() -> None:
    with pytest.raises(GridError, match="no dimension 'bands'"):
        openeo.run(cube(40).isel(bands=0, drop=True), {"verb": "inpaint"})


@pytest.mark.parametrize("verb", OWN_OPTIONS)
def test_descriptions_have_every_option_of_a_job(verb: Any) -> None:
    description = ogc.process_description(verb)
    assert set(yaml_keys(verb)) - {"layout"} <= set(description["inputs"])
    for one in description["inputs"].values():
        jsonschema.Draft202012Validator.check_schema(one["schema"])
        assert one["description"].endswith((".", "]", ")")), one
    assert description["version"] == eoaug.__version__
    json.dumps(description)


def test_a_request_becomes_the_job() -> None:
    job = ogc.execution_job(
        "super_resolve",
        {"catalog": "patches", "bands": ["B04"], "factor": 2, "generator": "classical", "chunks": 512},
        catalogs=OFFERED,
        out="results",
    )
    assert (job.verb, job.generator, job.output.catalog) == ("super_resolve", "classical", "results")
    assert job.source.catalog == str(eoaug.sample())
    assert job.parameters == {"factor": 2}
    assert job.run.chunks == 512


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"catalog": "patches", "factr": 2}, "'factr' is no input"),
        ({"catalog": "/etc"}, "catalog='/etc' is not offered"),
        (
            {"catalog": "patches", "generator": "checkpoints/mine"},
            "generator='checkpoints/mine' is not offered",
        ),
    ],
)
def test_a_client_names_only_what_is_offered(inputs: dict[str, Any], problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        ogc.execution_job("super_resolve", inputs, catalogs=OFFERED, out="results")


def test_commands_print_what_the_functions_return() -> None:
    done = CliRunner().invoke(app, ["process", "super-resolve"])
    assert json.loads(done.output) == ogc.process_description("super_resolve")
    parameters = json.dumps(SHARPEN["parameters"])
    options = ["--parameters", parameters, "--generator", "classical", "--crs", "EPSG:32633"]
    done = CliRunner().invoke(
        app, ["udf", "super-resolve", *options, "--gsd", "10", "--bands", "B03,B08", "--size", "48"]
    )
    assert done.stdout.rstrip() == openeo.udf(**SHARPEN).rstrip()
    assert json.loads(done.stderr)["size"][0]["value"] == 48
    assert CliRunner().invoke(app, ["udf", "inpaint", "--parameters", "{"]).exit_code == 2
