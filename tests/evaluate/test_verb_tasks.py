"""Tasks through the verbs: what they hide, what they count as wrong, which files they take, on tiny cubes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import xarray as xr
import yaml
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from eoaug.datasets.positions import Positions, radar_at
from eoaug.datasets.series import read_series
from eoaug.datasets.snow import snow_by_index, snow_by_neighbours
from eoaug.evaluate import dirty_masks, evaluate, unknown_sensor, write_report
from eoaug.evaluate.model_index import model_index
from eoaug.evaluate.scenes import read_scenes
from eoaug.evaluate.table import Table
from eoaug.evaluate.tally import Tally, psnr_of
from eoaug.generators.base import Card
from eoaug.generators.classical import Classical
from eoaug.generators.translation.atmosphere import Atmosphere, overpass_zenith

pytest.importorskip("h5py", reason="h5netcdf reads netCDF4 through h5py")

SCALE = {"reflectance_scale": 1e-4, "reflectance_offset": 0.0, "_FillValue": 0}
COMMON = {"B02": "blue", "B04": "red", "B08": "nir", "B11": "swir16", "B03": "green"}


class Constant:
    """Fills everything with one reflectance."""

    def __init__(self, value):
        self.value = value
        self.card = Card(name=f"constant {value}", context=8, tile_px=32, overlap_px=0, mean=(), std=())

    def generate(self, requests):
        shape = (len(requests), *requests[0].values.shape)
        return np.full(shape, (self.value - 0.15) / 0.05, np.float32)


def land(edge, seed=0):
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:edge, :edge]
    return 0.1 + 0.03 * ((rows // 8 + cols // 8) % 3) + 0.004 * rng.random((edge, edge))


def cube(bands, days=(0,), gsd=10.0, *, origin=(500_000.0, 5_600_000.0), **extra):
    """A file of integer reflectance on a grid of UTM; bands are (T, H, W)."""
    first = next(iter(bands.values()))
    west, north = origin
    box = GeoBox.from_bbox(
        (west, north - gsd * first.shape[1], west + gsd * first.shape[2], north), "EPSG:32631", resolution=gsd
    )
    times = np.datetime64("2020-01-01", "ns") + np.array(days) * np.timedelta64(1, "D")
    variables = {
        name: (
            ("time", "y", "x"),
            np.rint(values * 1e4).astype("uint16"),
            {"common_name": COMMON.get(name, name), **SCALE, "gsd_m": gsd},
        )
        for name, values in bands.items()
    }
    return xr.Dataset({**variables, **extra}, {"time": times, **xr_coords(box)})


def write(ds, path):
    for name in [*ds.coords, *ds.data_vars]:
        ds[name].encoding.clear()
    ds.to_netcdf(path, engine="h5netcdf")


EDGE = 48


def cloudy_series():
    """Twelve dates; every third has a cloud with a bright rim of 160 m that its SCL misses."""
    days = 10 * np.arange(12)
    images = np.stack([land(EDGE)] * len(days)) + 0.0002 * days[:, None, None]
    scl = np.full(images.shape, 4, np.uint8)
    for number, date in enumerate(range(1, 12, 3)):
        top = 6 * number
        images[date, top : top + 28, 2:30] = 0.4
        scl[date, top + 8 : top + 20, 10:22] = 9
    bands = {name: images * level for name, level in (("B02", 0.8), ("B04", 1.0), ("B08", 1.6))}
    return cube(bands, days, gsd=20.0, scl=(("time", "y", "x"), scl))


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    write(cloudy_series(), folder / "series.nc")
    return folder


# -- dirty masks -------------------------------------------------------------------------------------


def test_an_envelope_is_that_of_the_clear_dates():
    values = np.array([0.1, 0.2, 0.9], np.float32).reshape(3, 1, 1, 1)
    known = np.array([True, True, False]).reshape(3, 1, 1)
    low, high = dirty_masks.envelope(values, known, [0, 1, 2])
    assert (low.item(), high.item()) == (pytest.approx(0.06), pytest.approx(0.27))
    images = np.array([0.05, 0.07, 0.26, 0.28], np.float32).reshape(4, 1, 1, 1)
    assert [dirty_masks.outside(image, (low, high)).item() for image in images] == [True, False, False, True]
    nothing = dirty_masks.envelope(values, np.zeros_like(known), [0])
    assert not dirty_masks.outside(images[0], nothing).any()


@pytest.fixture(scope="module")
def judged(series):
    return evaluate(Constant(0.5), series, tasks=["dirty masks"], limit=2)


def test_dirty_masks_see_a_cloud_that_is_filled_with_cloud(judged):
    for task in dirty_masks.VARIANTS.values():
        of = partial(judged.table.figure, task)
        assert of("Whittaker", "outside").value < 5, task
        assert of("Whittaker").value > 25, task  # rims on the other dates
        assert of("constant 0.5", "outside").value == 100, task
        assert of("constant 0.5").value < 12, task
        # It takes the bright rim for what is known of the date.
        assert of("classical", "outside").value > 50, task
    gain = judged.table.figure("dirty masks", f"constant 0.5 - {judged.table.best('dirty masks')}")
    assert gain.value < -15
    assert len(judged.strips) == 2
    whole, given, filled = judged.strips[0].images[:3]
    np.testing.assert_array_equal(filled.image[:, ~given.hidden], whole.image[:, ~given.hidden])
    assert (filled.image[:, given.hidden] == np.float32(0.5)).all()


def test_moved_clouds_leave_their_rim_outside_the_mask(series):
    scene = read_scenes(series, EDGE, {})[0]
    dirty = dirty_masks._Dirty.of(scene, "as it is")
    assert dirty.clear == [0, 2, 3, 5, 6, 8, 9, 11]
    found = list(dirty._signals([2, 6]))
    assert len(found) == 2
    for date, source, signal in found:
        assert source % 3 == 1
        assert abs(source - date) <= 5
        bright = (signal > 0.1).any(axis=0)
        assert bright[scene.cloud[source]].all()
        rim = bright & ~scene.cloud[source]
        assert 0.9 * (28 * 28 - 12 * 12) < rim.sum() < 1.1 * (28 * 28 - 12 * 12)


def test_variants_of_a_mask():
    cloud = np.zeros((1, 20, 20), bool)
    cloud[0, 5:15, 5:15] = True
    eroded = dirty_masks._variant(cloud, "eroded", (10.0, 10.0))
    assert eroded[0].sum() == 2 * 2
    shifted = dirty_masks._variant(cloud, "shifted", (20.0, 20.0))
    np.testing.assert_array_equal(shifted[0, 7:17, 7:17], True)
    assert shifted.sum() == cloud.sum()


def test_a_date_of_cloud_that_its_mask_calls_land_is_not_clear(tmp_path):
    ds = cloudy_series()
    for name in ("B02", "B04", "B08"):
        ds[name][3] = 4000
    write(ds, tmp_path / "a.nc")
    assert 3 not in dirty_masks._Dirty.of(read_scenes(tmp_path, EDGE, {})[0], "as it is").clear
    # Snow is as bright, and dark at 1.6 um.
    snow = ds.assign(B03=ds.B04.copy().assign_attrs(common_name="green"), B11=ds.B04.copy())
    snow.B11.attrs["common_name"] = "swir16"
    snow.B11[3] //= 8
    write(snow, tmp_path / "a.nc")
    dirty = dirty_masks._Dirty.of(read_scenes(tmp_path, EDGE, {})[0], "as it is")
    assert 3 in dirty.clear
    # The few clear dates with snow are no envelope for a date with snow.
    assert dirty._snowy(3)
    assert not dirty._snowy(1)


# -- the other tasks ---------------------------------------------------------------------------------


def test_images_are_made_as_they_are_called():
    fine = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    box = unknown_sensor.made_by(fine, "box", 4)
    np.testing.assert_allclose(box, fine.reshape(2, 4, 4, 4, 4).mean(axis=(2, 4)), atol=1e-6)
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (1, 32, 32))
    for kind in unknown_sensor.KINDS:
        coarse = unknown_sensor.made_by(ramp, kind, 2)
        np.testing.assert_allclose(coarse[0, 8, 4:12], np.arange(16)[4:12] * 2 + 0.5, atol=0.01)


def test_an_unknown_sensor_is_judged_by_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(unknown_sensor, "KINDS", ("box", 0.3))
    monkeypatch.setattr(unknown_sensor, "FACTORS", (2,))
    write(cube({"B04": land(64)[None]}), tmp_path / "a.nc")
    skipped = evaluate(Classical(), tmp_path, tasks=["unknown sensor"])
    table = skipped.table
    assert {figure.task for figure in table.figures} == {
        "unknown sensor, x2",
        "unknown sensor, x2, box",
        "unknown sensor, x2, MTF 0.3",
    }
    both = table.figure("unknown sensor, x2", "bicubic")
    parts = [table.figure(f"unknown sensor, x2, {kind}", "bicubic").value for kind in ("box", "MTF 0.3")]
    assert both.value == pytest.approx(np.mean(parts))
    assert both.windows == 2
    worst = table.figure("unknown sensor, x2", "classical - bicubic", "worst_db").value
    assert worst <= table.figure("unknown sensor, x2", "classical - bicubic").value
    assert table.figure("unknown sensor, x2", "classical - classical, sensor named").value < 1


def test_all_bands_of_a_file_are_judged(tmp_path):
    rng = np.random.default_rng(3)
    days = (0, 10, 20, 30)
    images = np.stack([land(EDGE) + 0.0005 * day for day in days])
    ds = cube({"B02": images, "B04": 1.5 * images}, days)
    decibels = (-12 + 20 * images + 0.1 * rng.normal(size=images.shape)).astype(np.float32)
    ds = ds.assign(
        VV=(("time", "y", "x"), decibels, {"units": "dB"}),
        NDVI=(("time", "y", "x"), (2 * images).astype(np.float32), {}),
    )
    write(ds, tmp_path / "a.nc")
    table = evaluate(Classical(), tmp_path, tasks=["all bands"], limit=2).table
    gain = {
        name: table.figure("all bands, gaps with dates", f"{name}: classical - linear in time")
        for name in ("blue", "red", "vv", "NDVI")
    }
    assert {figure.windows for figure in gain.values()} == {2}
    assert table.figure("all bands, x2", "classical").windows == 2
    assert {figure.metric for figure in table.figures} == {"psnr_db", "median_db", "worst_db"}


def test_coarse_bands_are_sharpened_at_the_reduced_resolution(tmp_path):
    fine = np.stack([land(96, 1)])
    rng = np.random.default_rng(4)
    detail = rng.random((1, 96, 96)) * 0.05
    coarse = (0.5 * fine + detail).reshape(1, 48, 2, 48, 2).mean(axis=(2, 4))
    write(cube({"B04": fine + detail, "B08": 2 * fine}), tmp_path / "a.nc")
    write(cube({"B11": coarse}, gsd=20.0), tmp_path / "a_20m.nc")
    table = evaluate(Classical(), tmp_path, tasks=["20 m to 10 m"]).table
    for kind in ("MTF 0.3", "box"):
        label = f"classical - {table.best(f'20 m to 10 m, {kind}')}"
        assert table.figure(f"20 m to 10 m, {kind}", label).value > 1
        assert table.figure(f"20 m to 10 m, {kind}", f"swir16: {label}").windows == 1
    assert "a_20m.nc" in table.skipped


# -- places, radar, snow, small files ----------------------------------------------------------------


def test_two_levels_of_one_chip_are_one_place(tmp_path):
    images = {"B04": land(64)[None], "B08": 2 * land(64)[None]}
    for name, origin in (
        ("l1c", (500_000, 5_600_000)),
        ("l2a", (500_000, 5_600_000)),
        ("far", (520_000, 5_600_000)),
    ):
        write(cube(images, origin=origin), tmp_path / f"{name}.nc")
    write(cube({"B11": land(32)[None]}, gsd=20.0), tmp_path / "far_20m.nc")  # its position wins over its name
    places = Positions.of(sorted(tmp_path.glob("*.nc"))).place_of
    assert places == {"far": "far", "far_20m": "far_20m", "l1c": "far_20m", "l2a": "far_20m"}
    table = evaluate(Classical(), tmp_path, tasks=["x2"], limit=2).table
    assert (table.figure("x2", "classical").windows, table.figure("x2", "classical").places) == (
        3,
        2,
    )


def test_radar_of_another_file_is_joined_by_place_and_date(tmp_path):
    optical = cube({"B04": np.stack([land(64)] * 3)}, (0, 10, 40))
    coarse = np.arange(32 * 32, dtype=np.float32).reshape(1, 32, 32) / 100 - 20
    radar = np.concatenate([coarse, coarse + 1])
    times = np.datetime64("2020-01-01", "ns") + np.array([4, 12]) * np.timedelta64(1, "D")
    grid = cube({"B11": np.stack([land(32)] * 2)}, (4, 12), gsd=20.0)
    bands = {name: (("time", "y", "x"), 10 ** ((radar - less) / 10)) for name, less in (("VV", 0), ("VH", 7))}
    write(xr.Dataset(bands, grid.coords).assign_coords(time=times), tmp_path / "radar.nc")
    write(optical, tmp_path / "optical.nc")
    (window,) = read_series(tmp_path / "optical.nc", ("red",), radar_files=[tmp_path / "radar.nc"])
    decibels = window.radar
    np.testing.assert_allclose(decibels[0, 0], coarse[0].repeat(2, 0).repeat(2, 1), atol=1e-4)
    np.testing.assert_allclose(decibels[1, 1], coarse[0].repeat(2, 0).repeat(2, 1) - 6, atol=1e-4)
    assert np.isnan(decibels[2]).all()
    away = cube({"B04": land(64)[None]}, origin=(530_000.0, 5_600_000.0))
    assert radar_at(away, np.array([1]), [tmp_path / "radar.nc"]) is None


def test_snow_is_not_cloud(tmp_path):
    images = np.stack([land(64), land(64)])
    bright = images.copy()
    bright[1] += 0.5
    bands = {"B02": bright, "B03": bright, "B04": bright, "B11": np.stack([images[0], images[1] * 0.5])}
    write(cube(bands, (0, 10)), tmp_path / "snow.nc")
    (window,) = read_series(tmp_path / "snow.nc", ("blue", "red"))
    assert window.usable.tolist() == [0, 1]
    bands["B11"][1] += 0.5
    write(cube(bands, (0, 10)), tmp_path / "cloud.nc")
    (window,) = read_series(tmp_path / "cloud.nc", ("blue", "red"))
    assert window.usable.tolist() == [0]


def test_what_snow_is():
    green, swir = np.array([0.7, 0.7, 0.05, np.nan, 0.8]), np.array([0.1, 0.5, 0.01, 0.1, 0.3])
    assert snow_by_index(green, swir).tolist() == [True, False, False, False, False]
    classes = np.zeros((4, 2, 2), bool)
    classes[[0, 1, 3]] = True
    times = np.array([0, 30, 60, 300]) * 86_400
    # Sen2Cor takes a single cloud deck for snow.
    assert snow_by_neighbours(classes, times).any(axis=(1, 2)).tolist() == [True, True, False, False]


def test_files_of_32_pixels_are_judged(series):
    table = evaluate(Classical(), series, tasks=["inpaint with dates", "x2"], limit=2).table
    for task in ("inpaint with dates", "x2"):
        assert table.figure(task, "classical").windows == 2, task


# -- figures and files -------------------------------------------------------------------------------


def test_gains_are_paired_and_the_best_baseline_comes_first():
    tally = Tally("task", ("ours", "ours, named"))
    for place, ours, one, two in (("a", 30.0, 29.0, 20.0), ("a", 32.0, 33.0, 21.0), ("b", 40.0, 38.0, 22.0)):
        tally.add("ours", place, {"red": ours, "nir": ours + 1})
        tally.add("ours, named", place, {"red": ours + 0.1, "nir": ours + 1.1})
        tally.add("weak", place, {"red": two, "nir": two})
        tally.add("strong", place, {"red": one, "nir": one})
    table = Table(generator="ours", figures=tuple(tally.figures(by_band=True)), skipped={})
    assert table.best("task") == "strong"
    # The mean over places of the mean over windows: (1.5 - 0.5) / 2 and 2.5.
    assert table.figure("task", "ours - strong").value == pytest.approx(1.5)
    assert table.figure("task", "ours - strong", "worst_db").value == pytest.approx(-0.5)
    assert table.figure("task", "ours - strong", "median_db").value == pytest.approx(1.5)
    assert table.figure("task", "nir: ours - strong", "worst_db").value == pytest.approx(0.0)
    assert table.figure("task", "ours - ours, named").value == pytest.approx(-0.1)


def test_pixels_without_truth_are_not_scored():
    truth = np.full((2, 4, 4), 0.5)
    truth[1] = np.nan
    where = np.ones((4, 4), bool)
    found = psnr_of(truth + 0.1, truth, where, {"red": 1.0, "vv": 30.0})
    assert found == {"red": pytest.approx(20.0)}


def test_the_report_holds_the_worst_dates_and_an_index_for_hubs(judged, tmp_path):
    hub = pytest.importorskip("huggingface_hub.repocard_data")
    page = write_report(judged, tmp_path)
    assert (tmp_path / "dirty-masks.png").is_file()
    # The date, what is given, three methods, where it is outside, the nearest clear date.
    assert page.read_text().count("<img") == 2 * 7
    index = yaml.safe_load((tmp_path / "model-index.yaml").read_text())["model-index"]
    name, results = hub.model_index_to_eval_results(index)
    assert name == "eoaug-constant 0.5"
    by_task = {(result.task_name, result.metric_type): result for result in results}
    shown = judged.table.figure("dirty masks", "constant 0.5", "outside").value
    assert by_task["dirty masks", "outside"].metric_value == shown
    assert by_task["dirty masks", "psnr_gain"].metric_value < 0
    assert {result.task_type for result in results} == {"image-to-image"}


def test_an_index_without_figures_is_empty():
    text = model_index(Table(generator="none", figures=(), skipped={}))
    assert yaml.safe_load(text) == {"model-index": [{"name": "eoaug-none", "results": []}]}


# -- translate ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several_sensors(tmp_path_factory):
    """Sentinel-2, Landsat and radar of two places on five dates, and one scene at two levels."""
    folder = tmp_path_factory.mktemp("sensors")
    rng = np.random.default_rng(0)
    days = 10 * np.arange(5)
    for number, place in enumerate(("a", "b")):
        where = {"origin": (500_000.0 + 20_000 * number, 5_600_000.0)}
        red = np.stack([land(EDGE, number)] * 5) * (1 + 0.05 * days[:, None, None] / 10)
        levels = (("B02", 0.7), ("B03", 0.9), ("B04", 1.0))
        bands = {name: red * level + 0.002 * rng.random(red.shape) for name, level in levels}
        write(cube(bands, days, **where).assign_attrs(platform="Sentinel-2A/2B"), folder / f"{place}_s2.nc")
        own = {f"SR_B{n}": 0.98 * bands[f"B0{n}"] + 0.001 for n in (2, 3, 4)}
        oli = cube(own, days, **where).assign_attrs(platform="landsat-8")
        for name, common in (("SR_B2", "blue"), ("SR_B3", "green"), ("SR_B4", "red")):
            oli[name].attrs["common_name"] = common
        write(oli, folder / f"{place}_l8.nc")
        power = {"VV": 0.1 * rng.gamma(4, 0.25, red.shape), "VH": 0.02 * rng.gamma(4, 0.25, red.shape)}
        radar = cube({name: np.zeros_like(red) for name in power}, days, **where)
        for name, image in power.items():
            decibels = np.rint(1e3 * 10 * np.log10(image)).astype("int16")
            radar[name] = (("time", "y", "x"), decibels, {"db_scale": 1e-3, "_FillValue": -32768})
        write(radar, folder / f"{place}_s1.nc")
    surface = {"B02": land(EDGE)[None], "B04": 1.2 * land(EDGE)[None] + 0.01 * rng.random((1, EDGE, EDGE))}
    hazy = Atmosphere.over(["blue", "red"], overpass_zenith(4.4, 50.5, 2020, 1, 1), haze=0.3)
    both = hazy.top(np.stack([surface["B02"].ravel(), surface["B04"].ravel()])).reshape(2, 1, EDGE, EDGE)
    top = {"B02": both[0], "B04": both[1]}
    far = {"origin": (600_000.0, 5_600_000.0)}
    for level, bands in (("L1C", top), ("L2A", surface)):
        file = cube(bands, **far).assign_attrs({"platform": "sentinel-2a", "processing:level": level})
        write(file, folder / f"c_{level.lower()}.nc")
    return folder


def test_translate_is_scored_on_sensors_levels_and_radar_that_lie_in_other_files(several_sensors):
    table = evaluate(Classical(), several_sensors, tasks=["translate"], limit=1).table
    found = {figure.task: (figure.windows, figure.places) for figure in table.figures}
    assert found["translate, radar and other dates to optical"] == (4, 2)  # of both optical sensors
    assert found["translate, optical and other dates to radar"] == (4, 2)
    assert found["translate, Landsat to Sentinel-2"] == (2, 2)
    assert found["translate, L1C to L2A"] == (1, 1)
    of = table.figure
    assert of("translate, Landsat to Sentinel-2", "classical").value > 40
    assert of("translate, L1C to L2A, a part measured", "classical").value > 40
    assert (
        of("translate, L1C to L2A", "classical").value > of("translate, L1C to L2A", "taken as it is").value
    )
    task = "translate, radar and other dates to optical"
    assert of(task, "classical").value > 20
    assert of(task, "classical", "sam_deg").value < 3


def test_what_is_hidden_does_not_leak_into_a_translation(several_sensors):
    """A generator that fills with one number has the error of that number, on the hidden pixels alone."""
    blind = Constant(0.9)
    blind.card = Card(
        name="blind", verbs=frozenset({"translate"}), tile_px=64, overlap_px=0, extra_bands=True
    )
    table = evaluate(blind, several_sensors, tasks=["translate"], limit=1).table
    for task in ("translate, radar and other dates to optical", "translate, L1C to L2A, a part measured"):
        assert table.figure(task, "blind").value < 6
