"""What an operator reads: plans, states and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from eoaug.cli.app import app
from eoaug.errors import SourceError, TargetError
from eoaug.jobs.config import read_job
from eoaug.jobs.planning import plan_job
from eoaug.jobs.runner import run_job
from eoaug.jobs.status import catalog_status

from .conftest import add_item, list_items


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(4):
        add_item(tmp_path / "in", number)
    list_items(tmp_path / "in")
    return tmp_path / "in"


def config(catalog: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": {"catalog": str(catalog), **more.pop("source", {})},
        "verb": "super_resolve",
        "parameters": {"factor": 2},
        "generator": "classical",
        "output": {"catalog": str(out)},
        **more,
    }


def written(folder: Path, job: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return result.exit_code, result.output


def test_equal_problems_are_one_line_of_a_plan(source: Path, tmp_path: Path) -> None:
    for number in range(3):
        next(source.rglob(f"item-{number:05d}/B04.tif")).unlink()
    file = written(tmp_path, config(source, tmp_path / "out"))
    plan = plan_job(file)
    assert (plan.items, plan.planned, plan.runnable, len(plan.unreadable)) == (4, 1, 1, 3)
    ((problem, _),) = plan.problems()
    assert "item-0000" not in problem
    assert str(plan).count("cannot run") == 1
    assert "3 items: " in str(plan)
    assert run("plan", file)[0] == 0
    next(source.rglob("item-00003/B04.tif")).unlink()
    code, text = run("plan", file)
    assert code == 3
    assert "4 items: " in text
    code, text = run("plan", file, "--json")
    assert code == 3
    assert json.loads(text)["runnable"] == 0
    assert len(json.loads(text)["problems"][0]["items"]) == 4


def test_a_verb_that_cannot_run_on_any_item_is_one_problem(source: Path, tmp_path: Path) -> None:
    file = written(tmp_path, config(source, tmp_path / "out", verb="inpaint", parameters={"mask": "SCL"}))
    code, text = run("plan", file)
    assert code == 3
    assert text.count("cannot run") == 1


def test_a_plan_without_items_says_so(source: Path, tmp_path: Path) -> None:
    job = config(source, tmp_path / "out", source={"ids": ["nothing"]})
    with pytest.raises(SourceError, match="no item of"):
        plan_job(job)
    assert run("plan", written(tmp_path, job))[0] == 2


def test_status_takes_a_job_or_a_catalog(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = config(source, out, source={"ids": ["item-00000"]})
    second = config(source, out, parameters={"factor": 4})
    for job in (first, second):
        run_job(job)
    states = catalog_status(out)
    assert [state.job for state in states] == [read_job(first).id, read_job(second).id]
    assert [state.published for state in states] == [1, 4]
    file = written(tmp_path, second)
    for place in (out, out / "catalog.json"):
        code, text = run("status", place, "--json")
        assert (code, [state["published"] for state in json.loads(text)]) == (0, [1, 4])
    code, text = run("status", file, "--json")
    assert (code, json.loads(text)["published"]) == (0, 4)
    assert run("status", file)[1].strip() in run("status", out)[1]
    assert run("status", source)[0] == 2
    with pytest.raises(TargetError, match="no journal"):
        catalog_status(source)
    code, text = run("validate", out, "--json")
    assert (code, json.loads(text)["sound"], json.loads(text)["items"]) == (0, True, 5)
    code, text = run("inspect", out, "--json")
    assert (code, len(json.loads(text)[0]["items"])) == (0, 5)


def test_the_report_ranks_and_shows_before_and_after(source: Path, tmp_path: Path) -> None:
    report = run_job(config(source, tmp_path / "out", run={"pictures": 2}))
    assert len(report.most_generated) == 4
    assert [share for _, share in report.most_generated] == [1.0] * 4
    page = (Path(report.folder) / "report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "Before and after" in page
    assert "Most generated" in page
    assert "100.0%" in (Path(report.folder) / "report.md").read_text()
    assert json.loads((Path(report.folder) / "report.json").read_text())["most_generated"][0][1] == 1.0


def test_the_report_says_why_a_picture_is_missing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eoaug.jobs.catalog_work import CatalogWork

    def fail(work: CatalogWork, work_item: Any) -> Any:
        raise SourceError("the disk is on fire", "leave the building")

    monkeypatch.setattr(CatalogWork, "source", fail)
    report = run_job(config(source, tmp_path / "out", run={"pictures": 1}))
    page = (Path(report.folder) / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "Missing pictures" in page
    assert "the disk is on fire" in page
