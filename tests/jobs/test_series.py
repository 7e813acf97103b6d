"""Jobs over series: a date of a place is filled from the dates next to it."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import eoaug
from eoaug.errors import ParameterError
from eoaug.jobs import clusters, content_key
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.clusters import local_cluster
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.planning import plan_job
from eoaug.jobs.runner import run_job
from eoaug.jobs.series_units import SeriesItem, series_items_of
from eoaug.jobs.sources import work_items_of
from eoaug.jobs.status import job_status
from eoaug.jobs.work_items import WorkResult
from eoaug.stac import items
from eoaug.stac.catalog import Root
from eoaug.stac.search import SourceItem
from eoaug.storage.access import AccessPolicy
from tests.forks import Forks

from .conftest import Launcher, a_job, snapshot, strays

DAYS = ("2021-05-02", "2021-05-12", "2021-05-22", "2021-06-01", "2021-06-11", "2021-06-21")
EDGE_PX = 32
CLOUD, LAND = 9, 4


def series(days: Sequence[str], left_m: int, cloud: dict[str, slice]) -> xr.Dataset:
    """Fields that grow over the season, with clouds on the rows that are given by day."""
    grid = GeoBox.from_bbox((left_m, 0, left_m + 10 * EDGE_PX, 10 * EDGE_PX), "EPSG:32633", resolution=10)
    fields = np.random.default_rng(left_m).integers(800, 3000, (4, 4)).repeat(8, 0).repeat(8, 1)
    red = np.stack([fields + 20 * n for n, _ in enumerate(days)]).astype(np.uint16)
    scl = np.full(red.shape, LAND, np.uint8)
    for number, day in enumerate(days):
        if day in cloud:
            red[number, cloud[day]], scl[number, cloud[day]] = 9000, CLOUD
    dims = ("time", *grid.dims)
    ds = xr.Dataset(
        {"B04": (dims, red, {"scale_factor": 1e-4, "add_offset": 0.0, "units": "1"}), "SCL": (dims, scl)},
        coords={"time": np.array([f"{day}T10:00" for day in days], "datetime64[ns]"), **xr_coords(grid)},
    )
    ds["B04"].encoding["_FillValue"] = 0
    return ds


CLOUDS = {"2021-05-12": slice(None), "2021-06-01": slice(0, 12)}


def write_place(folder: Path, days: Sequence[str] = DAYS, left_m: int = 500_000, **clouds: Any) -> None:
    eoaug.write(series(days, left_m, clouds.get("cloud", CLOUDS)), folder, collection="source",
                ids=[f"P{left_m}-{day}" for day in days])  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Six dates of a place, one of them all cloud."""
    write_place(tmp_path / "in")
    return tmp_path / "in"


def job_of(folder: Path, out: Path, **more: Any) -> Any:
    source = {"group": "place", **more.pop("source", {})}
    parameters = {"mask": "SCL", "mask_buffer": 0}
    return a_job(folder, out, **{"verb": "inpaint", "parameters": parameters, "source": source, **more})


def opened(out: Path, **how: Any) -> xr.Dataset:
    return eoaug.open_cube(out, chunks=None, **how).transpose("time", "y", "x")


def sources(out: Path, day: str) -> set[str]:
    """The days that the item of a day names as its sources."""
    (file,) = out.glob(f"*/*{day}-inpaint-*/*.json")
    links = json.loads(file.read_text())["links"]
    return {
        link["href"][-15:-5] for link in links if link["rel"] == "derived_from" and "-2021-" in link["href"]
    }


def test_every_date_is_what_the_accessor_makes_of_the_whole_series(place: Path, tmp_path: Path) -> None:
    planned = plan_job(job_of(place, tmp_path / "out")).catalog_bytes
    report = run_job(job_of(place, tmp_path / "out"), progress=False)
    assert report.published == len(DAYS)
    documents = [*tmp_path.glob("out/*-eoaug/**/*.json"), *tmp_path.glob("out/.eoaug/journal/**/*.jsonl")]
    assert sum(file.stat().st_size for file in documents) == pytest.approx(planned, rel=0.3)
    assert [note for _, note in report.notes if "alone" in note]
    whole = eoaug.open_cube(place).eoaug.inpaint(generator="classical", mask="SCL", mask_buffer=0)
    eoaug.write(whole, tmp_path / "whole")
    ours, theirs = opened(tmp_path / "out"), opened(tmp_path / "whole")
    for name in ("B04", "synthetic"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    clear = opened(place)["SCL"] == LAND
    np.testing.assert_array_equal(ours["synthetic"] == 1, ~clear)
    # The date that is all cloud has the fields of the dates next to it.
    truth = series(DAYS, 500_000, {})["B04"][1].values * 1e-4
    assert abs(ours["B04"][1].values - truth).max() < 0.006
    assert sources(tmp_path / "out", "2021-05-12") == set(DAYS)


def test_a_new_item_changes_its_neighbours_alone(place: Path, tmp_path: Path) -> None:
    job = job_of(place, tmp_path / "out", source={"window": "21d"})
    run_job(job, progress=False)
    assert sources(tmp_path / "out", "2021-05-02") == {"2021-05-02", "2021-05-12", "2021-05-22"}
    before = snapshot(tmp_path / "out")
    assert run_job(job, progress=False).skipped == len(DAYS)
    assert snapshot(tmp_path / "out") == before
    write_place(place, ("2021-07-01",))
    report = run_job(job, progress=False)
    # 11 and 21 June lie within 21 days of 1 July.
    assert (report.published, report.skipped) == (3, 4)
    after = snapshot(tmp_path / "out")
    changed = {
        name.split("/")[1] for name in after if after[name] != before.get(name) and name.endswith(".tif")
    }
    assert {name[8:18] for name in changed} <= {"2021-06-11", "2021-06-21", "2021-07-01"}


def test_a_date_without_clear_ground_around_it_is_left_as_it_is(tmp_path: Path) -> None:
    some = slice(0, 24)  # three quarters of the ground
    write_place(tmp_path / "in", cloud=dict.fromkeys(DAYS[:3], some))
    job = job_of(tmp_path / "in", tmp_path / "out", source={"window": "15d", "min_clear": 0.5})
    report = run_job(job, progress=False)
    # 22 May has the clear 1 June next to it.
    assert [item[-10:] for item, _ in report.too_cloudy] == list(DAYS[:2])
    assert "25% of the ground is clear" in report.too_cloudy[0][1]
    assert report.published == 4
    assert not report.failures
    assert "too cloudy" in str(report)
    assert not list((tmp_path / "out").glob("*/*2021-05-02*"))
    status = job_status(job)
    assert (status.published, status.failures) == (4, ())
    again = run_job(job, progress=False)
    assert (again.skipped, len(again.too_cloudy)) == (4, 2)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_an_item_that_cannot_be_read_fails_alone(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "in"
    write_place(place, DAYS[1:4])
    (file,) = place.glob("source/*2021-05-22/*/B04.tif")
    if damage == "missing":
        file.unlink()
    else:
        # Without a checksum, only its pixels show that it is damaged.
        (item,) = place.glob("source/*2021-05-22/*.json")
        document = json.loads(item.read_text())
        for asset in document["assets"].values():
            asset.pop("file:checksum", None)
            asset.pop("file:size", None)
        document["properties"] = {k: v for k, v in document["properties"].items() if "checksum" not in k}
        item.write_text(json.dumps(document))
        content = bytearray(file.read_bytes())
        content[-200:] = bytes(200)
        file.write_bytes(content[:-400])
    report = run_job(job_of(place, tmp_path / "out"), progress=False)
    assert [failure.item[-10:] for failure in report.failures] == ["2021-05-22"]
    assert report.published == 2
    assert sources(tmp_path / "out", "2021-05-12") == {"2021-05-12", "2021-06-01"}


def test_dates_are_added_at_a_place(place: Path, tmp_path: Path) -> None:
    job = job_of(place, tmp_path / "out", verb="extend", parameters={"mask": "SCL", "times": "every 20d"})
    assert plan_job(job).planned == 2
    run_job(job, progress=False)
    made = opened(tmp_path / "out")
    days = made.indexes["time"].to_numpy().astype("datetime64[D]")
    assert [int(d) % 20 for d in days.astype(int)] == [0] * 2
    assert (made["synthetic"] == 1).all()
    before = snapshot(tmp_path / "out")
    write_place(place, ("2021-07-21",))
    assert (
        run_job(job, progress=False).published == 4
    )  # two more, and those that have another date after them
    assert {Path(name).parts[1] for name in before if "/" in name} <= {
        Path(name).parts[1] for name in snapshot(tmp_path / "out") if "/" in name
    }


def units(folder: Path, out: Path, **source: Any) -> list[SeriesItem]:
    job = job_of(folder, out, source=source)
    return list(series_items_of(job, Bookkeeper(job, Root.at(str(out)))))


def test_places_are_told_apart_by_grid_or_by_properties(tmp_path: Path) -> None:
    for left_m in (500_000, 500_320):
        write_place(tmp_path / "in", DAYS[:3], left_m)
    found = units(tmp_path / "in", tmp_path / "out")
    assert [len(unit.others) for unit in found] == [2] * 6
    for unit in found:
        assert {entry.document["id"][:7] for entry in (*unit.own, *unit.others)} == {unit.id[:7]}
    assert pickle.loads(pickle.dumps(found[0])) == found[0]
    # The property joins both places: the items of a day are one date.
    joined = units(tmp_path / "in", tmp_path / "out", group="proj:code")
    assert [(len(unit.own), len(unit.others)) for unit in joined] == [(2, 4)] * 3


def test_at_most_six_dates_on_either_side_are_used(tmp_path: Path) -> None:
    days = [f"2021-{month:02d}-{day:02d}" for month in (5, 6, 7) for day in (1, 6, 11, 16, 21, 26)]
    write_place(tmp_path / "in", days)
    found = units(tmp_path / "in", tmp_path / "out")
    assert [len(unit.others) for unit in found] == [6, 7, 8, 9, 10, 11] + [12] * 6 + [11, 10, 9, 8, 7, 6]
    assert [e.document["id"][-10:] for e in found[8].others] == [*days[2:8], *days[9:15]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verb": "super_resolve", "parameters": {"factor": 2}}, "the verb super_resolve"),
        ({"source": {"group": (), "window": "9d"}}, "source.window is given without source.group"),
        ({"source": {"window": "three weeks"}}, "'three weeks' is not a number of days"),
        ({"source": {"min_clear": 2}}, "min_clear"),
    ],
)
def test_a_job_that_cannot_be_over_series_is_refused(tmp_path: Path, change: Any, problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        job_of(tmp_path, tmp_path / "out", **change)


def test_a_property_that_items_lack_is_named(place: Path, tmp_path: Path) -> None:
    report = run_job(job_of(place, tmp_path / "out", source={"group": "grid:code"}), progress=False)
    assert len(report.failures) == len(DAYS)
    assert "no property 'grid:code'" in report.failures[0].problem
    assert "proj:code" in report.failures[0].problem


@pytest.mark.slow
def test_workers_make_the_same_bytes(place: Path, tmp_path: Path) -> None:
    job = job_of(place, tmp_path / "out")
    run_job(job, progress=False)
    quiet = snapshot(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with local_cluster(2) as client:
        run_job(job, client, progress=False)
    assert snapshot(tmp_path / "out") == quiet


@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(25, marks=pytest.mark.long)]
)
def test_a_killed_job_ends_with_the_bytes_of_a_quiet_one(
    place: Path, tmp_path: Path, kills: int, forks: Forks
) -> None:
    chance, launcher = random.Random(kills), Launcher(forks, tmp_path)
    job = job_of(place, tmp_path / "out")
    begun = time.monotonic()
    pid, _ = launcher.start(job)
    launcher.wait(pid)
    lasts = time.monotonic() - begun
    quiet = snapshot(tmp_path / "out")
    assert len([name for name in quiet if name.endswith("B04.tif")]) == len(DAYS)
    for number in range(kills):
        if number % 4 == 0:
            shutil.rmtree(tmp_path / "out")
        pid, _ = launcher.start(job)
        time.sleep(chance.uniform(0, lasts))
        launcher.kill(pid)
        made = snapshot(tmp_path / "out")
        assert {n for n in made if n.endswith(".tif") and "/." not in n and made[n] != quiet.get(n)} == set()
    run_job(job, progress=False)
    collect_garbage(tmp_path / "out")
    assert snapshot(tmp_path / "out") == quiet
    assert not strays(tmp_path / "out")


def test_a_plan_says_that_items_lie_at_one_place(place: Path, tmp_path: Path) -> None:
    joined = plan_job(job_of(place, tmp_path / "out"))
    apart = plan_job(job_of(place, tmp_path / "out", source={"group": ()}))
    assert "source.group: place" in str(apart)
    assert apart.as_dict()["advice"] in str(apart)
    assert joined.advice == ""


def test_planning_parses_an_item_once_and_opens_no_file_that_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more place of the same grid costs a plan its documents, read once each, and no file."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*given: Any, **how: Any) -> Any:
            counts[name] += 1
            return real(*given, **how)

        monkeypatch.setattr(module, name, call)

    counted(items, "open_raster")
    counted(content_key, "checksum_of")
    counted(pystac.Item, "from_dict")
    seen = []
    for left_m in (500_000, 500_320, 500_640):
        write_place(tmp_path / "in", DAYS[:3], left_m)
        counts.clear()
        plan = plan_job(job_of(tmp_path / "in", tmp_path / "out"))
        assert plan.planned == plan.items == 3 * (len(seen) + 1)
        seen.append(dict(counts))
    # Some files were read when the unit of the first place was planned in full, and are known now.
    assert seen[2] == seen[1] | {"from_dict": seen[1]["from_dict"] + 3}
    assert seen[1]["open_raster"] <= seen[0]["open_raster"]


def created(folder: Path, **by_day: str) -> None:
    """Say when the items of days were created."""
    for day, time_ in by_day.items():
        (file,) = folder.glob(f"source/*{day.replace('_', '-')[1:]}/*.json")
        document = json.loads(file.read_text())
        document["properties"] = {
            name: value for name, value in document["properties"].items() if "checksum" not in name
        } | {"created": time_}
        file.write_text(json.dumps(document))


def test_only_what_a_newer_item_touches_is_due(tmp_path: Path) -> None:
    place, window = tmp_path / "in", {"window": "12d"}
    write_place(place, DAYS[2:])
    job = job_of(place, tmp_path / "out", source=window)
    run_job(job, progress=False)
    # Without created and updated, the date of the item decides: 11 June is 10 days after 1 June.
    late = job_of(place, tmp_path / "out", source={**window, "since": "2021-06-11"})
    assert late.id == job.id
    assert plan_job(late).items == 3
    write_place(place, ("2021-07-01",))
    created(place, d2021_07_01="2030-05-01T10:00:00Z")
    due = job.due_since("2030-05-01")
    assert [unit.id[-10:] for unit in series_items_of(due, Bookkeeper(due, Root.at(str(tmp_path / "out"))))] == [
        "2021-06-21", "2021-07-01",
    ]  # fmt: skip
    report = run_job(due, progress=False)
    assert (report.published, report.skipped) == (2, 0)
    # The whole job finds nothing left to do, and no later date is due.
    assert run_job(job, progress=False).skipped == 5
    nothing = job.due_since("2030-05-02T00:00:00Z")
    assert (plan_job(nothing).items, run_job(nothing, progress=False).published) == (0, 0)
    with pytest.raises(ParameterError, match=r"source.since='soon' is not a date"):
        job.due_since("soon")


def test_items_that_changed_are_due_without_group_too(place: Path, tmp_path: Path) -> None:
    created(place, d2021_05_12="2030-05-01T10:00:00Z", d2021_06_21="2020-01-01T00:00:00Z")
    job = job_of(place, tmp_path / "out", source={"group": ()})
    assert [item.id[-10:] for item in work_items_of(job.due_since("2021-06-11"))] == [
        "2021-05-12",
        "2021-06-11",
    ]


def test_sensors_without_a_band_in_common_are_refused(place: Path, tmp_path: Path) -> None:
    radar = series(DAYS, 500_000, {})[["B04"]].rename(B04="VV")
    eoaug.write(radar, place, collection="radar", ids=[f"R-{day}" for day in DAYS])
    problem = r"joins '\w+' \(.*\) and '\w+' \(.*\), which have no band in common"
    with pytest.raises(ParameterError, match=problem):
        plan_job(job_of(place, tmp_path / "out"))
    assert plan_job(job_of(place, tmp_path / "out", source={"collections": "source"})).planned == len(DAYS)


def test_sensors_with_a_band_in_common_fill_each_other(tmp_path: Path) -> None:
    fine = series(DAYS[:3:2], 500_000, {})[["B04"]]
    fine["B04"].values[0, 10:20, 10:20] = 0
    eoaug.write(fine, tmp_path / "in", collection="ten-metres", ids=["S0", "S2"])
    coarse = series(DAYS[1:2], 500_000, {})["B04"].coarsen(x=2, y=2).mean().astype(np.uint16)
    grid = GeoBox.from_bbox((500_000, 0, 500_320, 320), "EPSG:32633", resolution=20)
    attrs = {"scale_factor": 1e-4, "add_offset": 0.0, "common_name": "red"}
    band = xr.DataArray(
        coarse.values, coords={"time": coarse["time"], **xr_coords(grid)}, dims=("time", *grid.dims)
    )
    ds = band.assign_attrs(attrs).to_dataset(name="SR_B4")
    ds["SR_B4"].encoding["_FillValue"] = 0
    eoaug.write(ds, tmp_path / "in", collection="twenty-metres", ids=["L1"])
    how = {"group": "proj:code", "bands": ["red"], "crs": "EPSG:32633", "resolution": 10.0}
    job = a_job(tmp_path / "in", tmp_path / "out", verb="inpaint", parameters={}, source=how)
    assert run_job(job, progress=False).published == 3
    (file,) = (tmp_path / "out").glob("ten-metres-eoaug/S0-*/*.json")
    item = json.loads(file.read_text())
    assert item["properties"]["eoaug:synthetic_fraction"] == pytest.approx(100 / EDGE_PX**2)
    used = {link["href"].split("/")[-1] for link in item["links"] if link["rel"] == "derived_from"}
    assert used >= {"S0.json", "L1.json", "S2.json"}


def test_the_scheduler_holds_few_units_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "process_item", lambda unit, context: WorkResult(unit, "published"))
    entry, drawn, held, ahead = SourceItem({}, "", AccessPolicy()), [], 0, 0
    units = (SeriesItem(entry, str(n), "c", str(n)) for n in range(60))
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
    )
    with cluster, distributed.Client(cluster) as client:
        executor = clusters.DaskExecutor(client, job_of(tmp_path, tmp_path / "out"))
        for done, _ in enumerate(executor.results((drawn.append(u) or u for u in units), None), 1):
            held = max(held, len(cluster.scheduler.tasks))
            ahead = max(ahead, len(drawn) - done)
    assert len(drawn) == done == 60
    # Twice what the workers process at once and two more, whatever the number of units.
    assert ahead <= 6
    assert held <= 7
