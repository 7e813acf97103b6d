"""Every verb of every tiny checkpoint on real cubes: grid kept, marks right, bytes equal however it is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import BandError, EoaugError, GeneratorError, ParameterError
from tests.later import Later

diffusionsat: Any = Later("eoaug.generators.checkpoints.diffusionsat")

Make = Callable[..., Path]
LANDSAT = "LC08_L2SP_008059_20191201_20200825_02_T1.json"
BANDS = ["red", "green", "blue", "nir08"]


def options_of(tiny: Make, case: str) -> dict[str, Any]:
    """Return base and options of a case, as a JSON file holds them."""
    more = {
        "sd": {"base": tiny("sd"), "lift": "regress"},
        "sd, controlnet": {"base": tiny("sd"), "controlnets": [tiny("controlnet")], "lift": "keep"},
        "inpaint": {"base": tiny("inpaint"), "lift": "inject"},
        "xl": {"base": tiny("xl"), "lift": "inject"},
        "upscaler": {"base": tiny("upscaler"), "lift": "inject"},
        "diffusionsat": {"base": tiny("diffusionsat"), "lift": "regress", "guidance": 2.0},
        "diffusionsat, 2D": {
            "base": tiny("diffusionsat"),
            "controlnets": [tiny("sat_controlnet", frames=False, channels=10, scale=2)],
        },
        "diffusionsat, 3D": {
            "base": tiny("diffusionsat"),
            "controlnets": [tiny("sat_controlnet", frames=True, channels=3)],
            "lift": "regress",
        },
    }[case]
    return {"steps": 2, "joint_steps": 1, **more}


SERVED = {
    "sd": ["synthesize", "inpaint"],
    "sd, controlnet": ["synthesize", "inpaint"],
    "inpaint": ["inpaint"],
    "xl": ["synthesize", "inpaint"],
    "upscaler": ["super_resolve"],
    "diffusionsat": ["synthesize", "inpaint"],
    "diffusionsat, 2D": ["super_resolve"],
    "diffusionsat, 3D": ["inpaint", "extend", "super_resolve"],
}
PAIRS = [(case, verb) for case, verbs in SERVED.items() for verb in verbs]
SLOW = {
    *(pair for pair in PAIRS if pair[0] in ("diffusionsat, 3D", "xl")),
    *(pair for pair in PAIRS if pair[0] == "sd, controlnet"),
    *(("diffusionsat", "synthesize"), ("upscaler", "super_resolve"), ("sd", "synthesize")),
}
"""The same code as others, or large for what it is."""
QUICK = {("sd, controlnet", "synthesize"), ("inpaint", "inpaint"), ("upscaler", "super_resolve")}
"""Each verb once; a sequence has a test of its own."""
COMMANDS = [pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in QUICK)) for pair in PAIRS]
RUNS = [pytest.param(*pair, marks=[pytest.mark.slow] * (pair in SLOW)) for pair in PAIRS]


def load(tiny: Make, case: str) -> Any:
    options = options_of(tiny, case)
    return eoaug.load(options.pop("base"), **options)


@pytest.fixture(scope="module")
def scene(eoaug_data: Path) -> xr.Dataset:
    """52 x 66 pixels of a Landsat 8 scene in reflectance: over the edges of chunks of 48 and of 64."""
    cube = eoaug.open_cube(eoaug_data / "catalogs/stac_landsat" / LANDSAT, bands=BANDS, chunks=None)
    return cube.isel(x=slice(150, 216), y=slice(170, 222)).load()


@pytest.fixture(scope="module")
def series(eoaug_data: Path) -> xr.Dataset:
    """Four dates of 64 x 64 Sentinel-2 pixels."""
    cube = eoaug.open_cube(
        eoaug_data / "catalogs/worldcereal_s2", bands=["B02", "B03", "B04", "B08"], chunks=None
    )
    return cube.isel(time=slice(0, 4)).load()


def arguments(verb: str, case: str, cube: xr.Dataset) -> tuple[xr.Dataset, dict[str, Any]]:
    """Return the cube and the arguments of a verb."""
    y, x = cube.odc.geobox.dimensions
    given: dict[str, Any] = {"guidance": 3.0}
    if verb == "inpaint":
        hole = np.zeros(tuple(cube.odc.geobox.shape.yx), bool)
        hole[20:70, 10:140] = True
        given["mask"] = xr.DataArray(hole, dims=(y, x))
    if verb == "super_resolve":
        cube = cube.isel({x: slice(0, 22), y: slice(0, 22)})
        given["factor"] = 4
    if verb == "extend":
        given["times"] = ["2018-01-15"]
    if "controlnet" in case:
        rows, cols = cube.odc.geobox.shape.yx
        ramp = np.linspace(0, 1, rows * cols, dtype=np.float32).reshape(1, rows, cols)
        given["layout"] = xr.DataArray(ramp, dims=("layer", y, x))
    return cube, given


def bytes_of(ds: xr.Dataset) -> dict[str, bytes]:
    return {str(name): np.ascontiguousarray(ds[name].values).tobytes() for name in ds.data_vars}


@pytest.fixture(scope="module")
def two_processes(quick_workers: None) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize(("case", "verb"), RUNS)
def test_bytes_are_equal_however_computed(
    tiny: Make, scene: xr.Dataset, series: xr.Dataset, case: str, verb: str
) -> None:
    generator = load(tiny, case)
    whole, given = arguments(verb, case, series if verb == "extend" else scene)
    run = getattr(eoaug, verb)
    reference = run(whole, generator=generator, batch_tiles=1, **given)
    expected = bytes_of(reference)
    before, after = whole.odc.geobox, reference.odc.geobox
    assert after.crs == before.crs
    if verb == "super_resolve":
        assert after.affine.almost_equals(before.affine * before.affine.scale(1 / 4))
    else:
        assert after == before
    assert any(np.any(reference[str(name)].values != 0) for name in whole.data_vars)
    for chunks, batch in ((48, 4), (64, 1)):
        lazy = run(whole, generator=generator, chunks=chunks, batch_tiles=batch, **given)
        # What a cluster is sent: the graph and the generator as pickles.
        sent = cloudpickle.loads(cloudpickle.dumps(lazy))
        assert bytes_of(sent.compute(scheduler="synchronous")) == expected, (chunks, batch)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "verb"), PAIRS)
def test_bytes_are_equal_on_a_cluster(
    tiny: Make, scene: xr.Dataset, series: xr.Dataset, two_processes: Any, case: str, verb: str
) -> None:
    generator = load(tiny, case)
    whole, given = arguments(verb, case, series if verb == "extend" else scene)
    run = getattr(eoaug, verb)
    expected = bytes_of(run(whole, generator=generator, chunks=256, **given).compute(scheduler="synchronous"))
    assert bytes_of(run(whole, generator=generator, batch_tiles=1, **given)) == expected
    lazy = run(whole, generator=generator, chunks=64, **given)
    assert bytes_of(two_processes.compute(lazy).result()) == expected


SEQUENCE = ["2018-01-15", "2018-02-15", "2016-12-01"]
"""After the given dates, after that, and before them."""


@pytest.mark.slow
def test_a_sequence_is_autoregressive_and_its_bytes_are_equal_however_computed(
    tiny: Make, series: xr.Dataset, two_processes: Any
) -> None:
    generator = load(tiny, "diffusionsat, 3D")
    cube = series.isel(time=slice(0, 2))
    # The card says that several dates are made one after the other, as the paper does.
    made = cube.eoaug.extend(times=SEQUENCE, generator=generator)
    assert made.eoaug.provenance.parameters["sequence"] is True
    by_hand = cube
    for date in SEQUENCE:
        by_hand = by_hand.eoaug.extend(times=date, generator=generator)
    assert bytes_of(made) == bytes_of(by_hand)
    apart = cube.eoaug.extend(times=SEQUENCE, sequence=False, generator=generator)
    assert bytes_of(made.sel(time=SEQUENCE[0])) == bytes_of(apart.sel(time=SEQUENCE[0]))
    assert bytes_of(made.sel(time=SEQUENCE[1])) != bytes_of(apart.sel(time=SEQUENCE[1]))
    for chunks, batch in ((32, 4), (64, 1)):
        lazy = cube.eoaug.extend(times=SEQUENCE, generator=generator, chunks=chunks, batch_tiles=batch)
        assert bytes_of(lazy.compute(scheduler="synchronous")) == bytes_of(made), (chunks, batch)
    lazy = cube.eoaug.extend(times=SEQUENCE, generator=generator, chunks=32)
    assert bytes_of(two_processes.compute(lazy).result()) == bytes_of(made)


def test_frames_of_a_sequence_ascend_and_hold_what_was_made(
    tiny: Make, series: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(tiny, "diffusionsat, 3D")
    seen: list[tuple[list[str], int]] = []
    condition = diffusionsat.DiffusionSat._condition

    def noted(self: Any, request: Any, target: int) -> Any:
        seen.append(([str(np.datetime64(int(t), "s"))[:10] for t in request.times], target))
        return condition(self, request, target)

    monkeypatch.setattr(diffusionsat.DiffusionSat, "_condition", noted)
    one = series.isel(time=slice(0, 1))
    given = str(one.time.values[0].astype("datetime64[D]"))
    one.eoaug.extend(times=SEQUENCE, generator=generator)
    onward = [given, *SEQUENCE[:2]]
    expected = [(onward[:2], 1), (onward, 2), ([SEQUENCE[2], *onward], 0)]
    assert [told for i, told in enumerate(seen) if told not in seen[:i]] == expected


@pytest.mark.parametrize(
    ("flag", "sequence"), [([], True), pytest.param(["--apart"], False, marks=pytest.mark.slow)]
)
def test_the_command_line_makes_a_sequence(
    tiny: Make, eoaug_data: Path, tmp_path: Path, flag: list[str], sequence: bool
) -> None:
    case = "diffusionsat, 3D"
    recipe = tmp_path / "generator.json"
    recipe.write_text(json.dumps(options_of(tiny, case), default=str))
    source = eoaug_data / "catalogs/worldcereal_s2"
    items = pystac.Collection.from_file(source / "collection.json").get_items(recursive=True)
    some = sorted(item.id for item in items)[:2]
    one = [str(source), "--ids", ",".join(some), "--bands", "B02,B03,B04", "--generator", str(recipe)]
    dates = ["--times", ",".join(SEQUENCE[:2])]
    cube = eoaug.open_cube(source, ids=some, bands=["B02", "B03", "B04"], chunks=None)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["extend", *one, *dates, *flag, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    expected = cube.eoaug.extend(times=SEQUENCE[:2], sequence=sequence, generator=eoaug.load(recipe))
    written = eoaug.open_cube(out, bands=["B04"], chunks=None)
    low = np.clip(expected.B04.values, 1e-4, None)
    np.testing.assert_allclose(np.nan_to_num(written.B04.values), np.nan_to_num(low), atol=0.51e-4)


@pytest.mark.parametrize("case", SERVED)
def test_other_verbs_are_refused_by_name(tiny: Make, series: xr.Dataset, case: str) -> None:
    generator = load(tiny, case)
    rgb = series[["B02", "B03", "B04"]]
    calls: dict[str, Callable[[], Any]] = {
        "synthesize": lambda: rgb.eoaug.synthesize(generator=generator),
        "inpaint": lambda: rgb.eoaug.inpaint(generator=generator),
        "extend": lambda: rgb.eoaug.extend(generator=generator, times=["2018-01-15"]),
        "super_resolve": lambda: rgb.eoaug.super_resolve(generator=generator, factor=4),
    }
    for verb in calls.keys() - set(SERVED[case]):
        with pytest.raises(GeneratorError, match=f"cannot {verb.replace('_', '-')}"):
            calls[verb]()


def test_marks_and_record_tell_the_bands_apart(tiny: Make, scene: xr.Dataset, tmp_path: Path) -> None:
    whole, given = arguments("inpaint", "sd", scene)
    hole = given["mask"].values
    made = whole.eoaug.inpaint(generator=load(tiny, "sd"), **given)
    assert np.array_equal(made.synthetic.values[0] == 1, hole)
    record = made.eoaug.provenance
    flags = {band: "transferred" if band == "nir08" else "generated" for band in BANDS}
    assert record.bands == flags
    assert all(tuple(pair) == (0.15, 0.15) for pair in record.model_units.values())
    assert record.model_files["unet/config.json"]
    assert {"diffusers", "transformers", "torch"} <= record.software.keys()
    (item,) = eoaug.write(made, tmp_path)
    assert item.properties["eoaug:bands"] == dict(record.bands)
    assert item.properties["eoaug:model_files"] == dict(record.model_files)


def test_only_transferred_pixels_are_marked_2(tiny: Make, scene: xr.Dataset) -> None:
    # The near infrared alone is missing: it is derived from colours that were measured.
    lacking = scene.copy()
    hole = np.zeros(scene.odc.geobox.shape.yx, bool)
    hole[30:60, 40:80] = True
    name = next(str(band) for band in scene.data_vars if scene[band].attrs.get("common_name") == "nir08")
    lacking[name] = lacking[name].where(~hole)
    made = lacking.eoaug.inpaint(generator=load(tiny, "sd"), fill="all")
    inside = hole & np.isfinite(made[name].values[0])
    assert inside.any()
    assert (made.synthetic.values[0][inside] == 2).all()
    assert made.eoaug.provenance.synthetic_fraction == pytest.approx(
        float(np.isin(made.synthetic, (1, 2)).sum() / (made.synthetic != 255).sum())
    )


def test_kept_bands_come_back_bit_for_bit(tiny: Make, scene: xr.Dataset, tmp_path: Path) -> None:
    name = next(str(band) for band in scene.data_vars if scene[band].attrs.get("common_name") == "nir08")
    keeping = eoaug.load(tiny("sd"), lift="keep", steps=2)
    made = scene.eoaug.synthesize(generator=keeping, strength=0.7)
    assert made[name].values.tobytes() == scene[name].values.tobytes()
    assert made.eoaug.provenance.bands[name] == "observed"
    (item,) = eoaug.write(made, tmp_path)
    assert item.assets[name].roles == ["data"]
    three_d = load(tiny, "diffusionsat, 3D")
    options = options_of(tiny, "diffusionsat, 3D") | {"lift": "keep"}
    three_d = eoaug.load(options.pop("base"), **options)
    with pytest.raises(BandError, match="keeps"):
        scene.eoaug.super_resolve(generator=three_d, factor=2)


def test_nothing_is_silently_rgb(tiny: Make, scene: xr.Dataset) -> None:
    with pytest.raises(BandError, match="no slot for band"):
        scene.eoaug.synthesize(generator=eoaug.load(tiny("sd")))


def test_a_scene_from_nothing_has_the_generated_bands(tiny: Make) -> None:
    made = eoaug.synthesize(
        like=(500000, 5000000, 500640, 5000640), crs="EPSG:32633", resolution=10, times=["2024-06-01"],
        generator=load(tiny, "sd"), prompt="a village",
    )  # fmt: skip
    assert set(made.data_vars) == {"red", "green", "blue", "synthetic"}
    corner = made.isel(x=slice(40, 64), y=slice(40, 64)).compute(scheduler="synchronous")
    whole = made.compute(scheduler="synchronous").isel(x=slice(40, 64), y=slice(40, 64))
    assert bytes_of(corner) == bytes_of(whole)
    assert float(made.red.min()) >= 0
    assert float(made.red.max()) <= 0.3 + 1e-6


def test_the_stretch_is_invertible_and_recorded(tiny: Make, scene: xr.Dataset) -> None:
    generator = eoaug.load(tiny("sd"), lift="regress", stretch=(-0.1, 0.6), steps=1)
    made = scene.eoaug.synthesize(generator=generator, strength=0.0)
    for name in made.eoaug.provenance.model_units:
        zero, unit = made.eoaug.provenance.model_units[name]
        assert (zero - unit, zero + unit) == pytest.approx((-0.1, 0.6))
        # Strength 0 walks the stretch there and back; what is beyond black and white is cut off.
        values = scene[name].values
        inside = np.isfinite(values) & (values > -0.1) & (values < 0.6)
        np.testing.assert_allclose(made[name].values[inside], values[inside], atol=2e-6)


def test_a_factor_that_is_not_served_is_told_before_work(tiny: Make, scene: xr.Dataset) -> None:
    with pytest.raises(ParameterError, match="use factor=4"):
        scene.eoaug.super_resolve(generator=load(tiny, "upscaler"), factor=2)


@pytest.mark.parametrize(("case", "verb"), COMMANDS)
def test_the_command_line_does_the_same(
    tiny: Make, eoaug_data: Path, tmp_path: Path, case: str, verb: str
) -> None:
    recipe = tmp_path / "generator.json"
    recipe.write_text(json.dumps(options_of(tiny, case), default=str))
    source = eoaug_data / "catalogs/worldcereal_s2"
    items = sorted(
        item.id for item in pystac.Collection.from_file(source / "collection.json").get_items(recursive=True)
    )
    some = items[: 1 if verb == "super_resolve" else 2]
    chosen = ",".join(some)
    one = [str(source), "--ids", chosen, "--bands", "B02,B03,B04,B08", "--generator", str(recipe)]
    cube = eoaug.open_cube(source, ids=some, bands=["B02", "B03", "B04", "B08"], chunks=None)
    geobox = cube.odc.geobox
    more: dict[str, list[str]] = {
        "inpaint": ["--mask", str(tmp_path / "mask.tif")],
        "extend": ["--times", "2018-01-15"],
        "super_resolve": ["--factor", "4"],
        "synthesize": ["--strength", "0.6"],
    }
    hole = np.zeros(geobox.shape.yx, np.uint8)
    hole[10:40, 20:50] = 1
    given: dict[str, Any] = {
        "inpaint": {"mask": xr.DataArray(hole != 0, dims=geobox.dimensions)},
        "extend": {"times": ["2018-01-15"]},
        "super_resolve": {"factor": 4},
        "synthesize": {"strength": 0.6},
    }[verb]
    shape = {
        "width": hole.shape[1],
        "height": hole.shape[0],
        "crs": str(geobox.crs),
        "transform": geobox.affine,
    }
    with rasterio.open(tmp_path / "mask.tif", "w", driver="GTiff", count=1, dtype="uint8", **shape) as file:
        file.write(hole, 1)
    if "controlnet" in case:
        ramp = np.linspace(0, 1, hole.size, dtype=np.float32).reshape(hole.shape)
        with rasterio.open(
            tmp_path / "map.tif", "w", driver="GTiff", count=1, dtype="float32", **shape
        ) as file:
            file.write(ramp, 1)
        more[verb] += ["--layout", str(tmp_path / "map.tif")]
        given["layout"] = xr.DataArray(ramp[None], dims=("layer", *geobox.dimensions))
    arguments = [verb.replace("_", "-"), *one, *more[verb], "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    expected = getattr(eoaug, verb)(cube, generator=eoaug.load(recipe), **given)
    written = eoaug.open_cube(tmp_path / "out", bands=["B04"], chunks=None)
    assert written.odc.geobox.crs == geobox.crs
    assert written.odc.geobox.affine.almost_equals(expected.odc.geobox.affine)
    # Files hold the source's type: digital numbers of 1e-4.
    low = np.clip(expected.B04.values, 1e-4, None)
    np.testing.assert_allclose(np.nan_to_num(written.B04.values), np.nan_to_num(low), atol=0.51e-4)


def test_errors_of_checkpoints_are_eoaugs_own(tiny: Make) -> None:
    with pytest.raises(EoaugError):
        eoaug.load(tiny("controlnet")).generate([])
