"""Jobs of composites: an image per period of a place, equal to that of `open_cube`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eoaug
from eoaug.errors import ParameterError
from eoaug.jobs.config import read_job
from eoaug.jobs.planning import plan_job
from eoaug.jobs.runner import run_job
from eoaug.stac.validate import validate

from .conftest import snapshot
from .test_series import DAYS, opened, write_place

CLOUDS = {"2021-05-12": slice(0, 20), "2021-05-22": slice(8, 32), "2021-06-01": slice(0, 12)}


def job_of(folder: Path, out: Path, times: str | None = None, **source: Any) -> Any:
    parameters = {} if times is None else {"times": times}
    return job_with(folder, out, parameters=parameters, source={"group": "place", **source})


def job_with(folder: Path, out: Path, *, source: Any, **more: Any) -> Any:
    config = {
        "source": {"catalog": str(folder), **source},
        "verb": "composite",
        "output": {"catalog": str(out)},
    }
    return read_job({**config, "run": {"pictures": 0, "retries": 0}, **more})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_place(tmp_path / "in", cloud=CLOUDS)
    return tmp_path / "in"


@pytest.mark.parametrize("times", [None, "best", "every 20d"])
def test_images_are_those_of_open_cube(place: Path, tmp_path: Path, times: str | None) -> None:
    job = job_of(place, tmp_path / "out", times, min_clear=0.1)
    wanted = eoaug.open_cube(place, composite=times or "monthly").transpose("time", "y", "x").compute()
    plan = plan_job(job)
    assert (plan.planned, plan.model_calls) == (wanted.sizes["time"], 0)
    report = run_job(job, progress=False)
    assert (report.published, report.failures) == (wanted.sizes["time"], ())
    made = opened(tmp_path / "out")
    for name in ("B04", "SCL", "source_date"):
        np.testing.assert_array_equal(made[name], wanted[name])
    assert (made["source_date"] >= 0).any()
    np.testing.assert_array_equal(made["time"].dt.date, wanted["time"].dt.date)
    before = snapshot(tmp_path / "out")
    assert run_job(job, progress=False).skipped == wanted.sizes["time"]
    assert snapshot(tmp_path / "out") == before
    assert validate(tmp_path / "out").sound
    about = [
        json.loads(file.read_text())["properties"]["eoaug:composite"]
        for file in (tmp_path / "out").glob("*/*/*.json")
    ]
    assert sum(one["dates"] for one in about) == len(DAYS)
    assert {one["method"] for one in about} == {times or "monthly"}


def test_an_item_changes_the_image_of_its_period_alone(place: Path, tmp_path: Path) -> None:
    job = job_of(place, tmp_path / "out")
    run_job(job, progress=False)
    (june,) = (tmp_path / "out").glob("*/*2021-06-01-composite-*/*.json")
    links = json.loads(june.read_text())["links"]
    used = sorted(link["href"][-15:-5] for link in links if link["rel"] == "derived_from")
    assert used == [day for day in DAYS if day.startswith("2021-06")]
    write_place(place, ("2021-06-29",))
    report = run_job(job, progress=False)
    assert (report.published, report.skipped) == (1, 1)


def test_a_period_without_clear_ground_is_left_out(tmp_path: Path) -> None:
    write_place(tmp_path / "in", cloud=dict.fromkeys(DAYS[:3], slice(0, 24)))
    report = run_job(job_of(tmp_path / "in", tmp_path / "out"), progress=False)
    assert report.published == 1
    ((name, why),) = report.too_cloudy
    assert name.endswith("2021-05-01")
    assert "of the ground is clear" in why


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": {}}, "no source.group"),
        ({"source": {"group": "place", "window": "9d"}}, "source.window='9d'"),
        ({"source": {"group": "place"}, "parameters": {"times": "weekly"}}, "'weekly' is unknown"),
        ({"source": {"group": "place"}, "parameters": {"mask": "SCL"}}, "no argument 'mask'"),
        ({"source": {"group": "place"}, "generator": "classical"}, "generator 'classical'"),
    ],
)
def test_a_composite_that_cannot_be_is_refused(tmp_path: Path, change: Any, problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        job_with(tmp_path, tmp_path / "out", **change)
