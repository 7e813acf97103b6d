"""Jobs in one process: what they make, what they skip, what they do with bad items and wrong descriptions."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import yaml
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import EoaugError, JobError, ParameterError, SourceError
from eoaug.jobs import bookkeeping, clusters, content_key, runner, sources, worker
from eoaug.jobs.catalog_work import CatalogWork
from eoaug.jobs.config import job_schema, read_job
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.journal import Journal, read_journals
from eoaug.jobs.leases import leased
from eoaug.jobs.planning import plan_job
from eoaug.jobs.runner import run_job
from eoaug.jobs.status import job_status, resumable
from eoaug.jobs.work_items import JobContext
from eoaug.stac.catalog import Root
from eoaug.stac.validate import validate
from eoaug.storage.locations import as_location
from eoaug.testing import CountingGenerator
from tests.forks import ROOT

from .conftest import (
    Fickle,
    a_job,
    add_item,
    coarse_unit,
    list_items,
    make_source,
    pixels,
    snapshot,
    strays,
)


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file and folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def items_of(out: Path) -> list[pystac.Item]:
    return list(pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True))


# -- what is made ---------------------------------------------------------------------------------------


def test_a_job_makes_what_the_verb_makes(source: Path, tmp_path: Path) -> None:
    report = run_job(a_job(source, tmp_path / "out"))
    assert (report.published, report.failures, report.seen) == (6, (), 6)
    items = {item.id.rpartition("-super")[0]: item for item in items_of(tmp_path / "out")}
    cube = eoaug.open_cube(source, ids=["item-00002"])
    expected = cube.eoaug.super_resolve(factor=2, generator="classical").B04.values[0]
    with rasterio.open(items["item-00002"].assets["B04"].get_absolute_href()) as file:
        assert np.abs(file.read(1) * 1e-4 - expected.clip(1e-4)).max() <= 0.51e-4
    assert validate(tmp_path / "out").sound
    assert not strays(tmp_path / "out")


@pytest.mark.parametrize(
    "run", [{"chunks": 16}, {"chunks": 1000}, {"batch_tiles": 1}, {"timeout_s": 60}, {"memory": "2GB"}]
)
def test_how_it_is_done_changes_no_byte(run: dict[str, Any], tmp_path: Path) -> None:
    source = make_source(tmp_path / "in", 1)
    add_item(source, 0, values=pixels(0, edge=70))
    for name, how in (("a", {}), ("b", run)):
        run_job(a_job(source, tmp_path / name, run=how))
    one, two = snapshot(tmp_path / "a"), snapshot(tmp_path / "b")
    assert {k: v for k, v in one.items() if k != "catalog.json"} == {
        k: v for k, v in two.items() if k != "catalog.json"
    }
    assert len(one) > 4


def test_an_item_that_does_not_fit_into_the_memory_fails_by_name_with_a_size_that_is_enough(
    tmp_path: Path,
) -> None:
    source = make_source(tmp_path / "in", 1)
    job = a_job(source, tmp_path / "out", run={"memory": "20MB"})
    (failed,) = run_job(job).failures
    assert failed.item == "item-00000"
    assert "memory='20MB' is not enough" in failed.problem
    assert re.search(r'memory="\d+MB"', failed.remedy)


def test_a_context_is_sent_to_a_process_without_the_progress_bar(source: Path, tmp_path: Path) -> None:
    job = a_job(source, tmp_path / "out")
    bar = threading.Lock()  # cannot be pickled
    context = JobContext(job, Root.at(tmp_path / "out"), CatalogWork(job, ()), advance=bar.acquire)
    pickle.loads(pickle.dumps(context)).advance(3)
    assert not bar.locked()


@pytest.mark.parametrize("form", ["cog", "zarr"])
def test_members_and_dates_of_one_item_stand_together(form: str, source: Path, tmp_path: Path) -> None:
    parameters = {"times": ["2021-07-01", "2021-08-01"], "members": 2}
    how = {"verb": "extend", "parameters": parameters, "output": {"format": form}, "source": {"limit": 2}}
    job = a_job(source, tmp_path / "out", **how)
    assert run_job(job).published == 2
    items = items_of(tmp_path / "out")
    assert len(items) == (2 * 3 * 2 if form == "cog" else 2)
    assert run_job(job).skipped == 2
    if form == "cog":
        # The first of an item's results is the one that stands for all; without a sibling nothing does.
        first = next(item for item in items if "eoaug:siblings" in item.properties)
        home = tmp_path / "out" / "source-eoaug" / first.properties["eoaug:siblings"][3]
        shutil.rmtree(home)
        assert run_job(job).published == 1
    assert validate(tmp_path / "out").sound


def test_results_may_go_into_the_source_catalog(source: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    job = a_job(source, source, source={"collections": ["source"]})
    assert run_job(job).published == 6
    assert run_job(job).skipped == 6
    assert [path.name for path, content in before.items() if path.read_bytes() != content] == ["catalog.json"]


# -- R5: what is done is not done again -------------------------------------------------------------------


def test_a_second_run_calls_no_model_and_writes_no_byte(source: Path, tmp_path: Path) -> None:
    counting = CountingGenerator(eoaug.load("classical"))
    job = a_job(source, tmp_path / "out", counting)
    run_job(job)
    assert counting.calls > 0
    before = everything(tmp_path / "out")
    counting.reset()
    report = run_job(job)
    assert (counting.calls, report.skipped, report.published) == (0, 6, 0)
    assert everything(tmp_path / "out") == before


def test_exactly_what_is_affected_is_made_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_job(a_job(source, out))
    add_item(source, 3, values=pixels(99))
    changed = run_job(a_job(source, out))
    assert (changed.published, changed.skipped) == (1, 5)
    assert len(items_of(out)) == 6
    add_item(source, 6)
    list_items(source)
    grown = run_job(a_job(source, out))
    assert (grown.published, grown.skipped) == (1, 6)
    other = run_job(a_job(source, out, parameters={"factor": 2, "seed": 1}))
    assert (other.published, other.skipped) == (7, 0)
    assert len(items_of(out)) == 14
    # Other weights under the same name take the place of what the old ones made.
    card = eoaug.load("classical").card
    monkeypatch.setattr(
        type(eoaug.load("classical")), "card", property(lambda self: replace(card, sha256="ab" * 32))
    )
    assert run_job(a_job(source, out)).published == 7
    assert len(items_of(out)) == 14
    assert validate(out).sound
    assert collect_garbage(out).data == 8  # of the changed input, and of the other weights
    assert validate(out).sound
    assert not strays(out)


def test_what_is_damaged_is_made_anew_on_demand(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(a_job(source, out))
    whole = snapshot(out)
    victim = next(iter(out.rglob("B04.tif")))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert run_job(a_job(source, out)).skipped == 6  # sizes alone do not tell
    assert not validate(out).sound
    assert run_job(a_job(source, out, run={"verify": True})).published == 1
    assert snapshot(out) == whole
    victim.write_bytes(content[:-1])
    assert run_job(a_job(source, out)).published == 1
    assert snapshot(out) == whole


# -- R6: several jobs on one output --------------------------------------------------------------------------


def test_an_item_under_work_elsewhere_is_waited_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, out = a_job(source, tmp_path / "out"), tmp_path / "out"
    (unit,) = [unit for unit in sources.work_items_of(job, None) if unit.id == "item-00001"]
    monkeypatch.setattr(runner, "_BUSY_S", 0.01)
    waits = []
    with leased(as_location(out), f"{unit.collection}/{unit.label}", seconds=60) as lease:
        assert lease is not None
        assert job_status(job).working == (f"{unit.collection}/{unit.label}",)
        monkeypatch.setattr(runner.time, "sleep", lambda s: (waits.append(s), lease.give_back()))
        assert run_job(job).published == 6
    assert waits == [0.01]


def test_who_has_lost_the_lease_publishes_nothing(source: Path, tmp_path: Path) -> None:
    """A process that was asleep while another took its item over wakes up."""
    out = tmp_path / "out"

    class Thief:
        card = eoaug.load("classical").card

        def generate(self, requests: Any) -> Any:
            for file in (out / ".eoaug" / "leases").rglob("*.json"):
                file.write_text(json.dumps({**json.loads(file.read_text()), "owner": "another"}))
            return eoaug.load("classical").generate(requests)

        def __reduce__(self) -> Any:
            return eoaug.load, ("classical",)

    report = run_job(a_job(source, out, Thief()))
    assert [one.error for one in report.failures] == ["TargetError"] * 6
    assert "lease" in report.failures[0].problem
    assert not list(out.rglob("item-*.json")) or not list((out / "source-eoaug").rglob("item-*.json"))


# -- one bad item never stops the job -------------------------------------------------------------------------


def test_bad_items_are_reported_and_the_others_made(source: Path, tmp_path: Path) -> None:
    home = source / "source"
    (home / "item-00000" / "item-00000.json").write_text("{")
    (home / "item-00001" / "B04.tif").write_bytes(b"torn")
    (home / "item-00002" / "B04.tif").unlink()
    document = json.loads((home / "item-00003" / "item-00003.json").read_text())
    document["properties"]["datetime"] = None
    (home / "item-00003" / "item-00003.json").write_text(json.dumps(document))
    out = tmp_path / "out"
    report = run_job(a_job(source, out))
    assert report.published == 2
    assert len(report.failures) == 4
    told = {one.item.rpartition("/")[2].removesuffix(".json"): one for one in report.failures}
    assert set(told) == {f"item-0000{k}" for k in range(4)}
    assert all(one.remedy for one in report.failures)
    assert len(items_of(out)) == 2
    assert len(job_status(a_job(source, out)).failures) == 4
    for number in range(4):
        add_item(source, number)
    assert run_job(a_job(source, out)).published == 4
    assert job_status(a_job(source, out)).failures == ()


@pytest.mark.parametrize(
    ("trouble", "word"), [("raise", "RuntimeError"), ("memory", "memory"), ("hang", "timeout_s")]
)
def test_a_generator_in_trouble_fails_its_item_alone(
    trouble: str, word: str, source: Path, tmp_path: Path
) -> None:
    """R10 and R11 without workers, in this process and in one for `timeout_s`: an item in trouble, and the others."""
    (tmp_path / "calls").mkdir()
    add_item(source, 4, values=np.full((24, 24), 7777, np.uint16))
    mark = coarse_unit(source)
    job = a_job(
        source,
        tmp_path / "out",
        Fickle(str(tmp_path / "calls"), trouble, [mark]),
        run={"hang": {"timeout_s": 10}, "memory": {"timeout_s": 60}, "raise": {}}[trouble],
    )
    try:
        report = run_job(job)
    finally:
        (tmp_path / "release").touch()
    assert report.published == 5
    (failure,) = report.failures
    assert failure.item == "item-00004"
    assert word in failure.problem
    assert report.timed_out == (trouble == "hang")
    assert validate(tmp_path / "out").sound
    # The item that hung is let go only now, and clears up its room in its own time.
    end = time.monotonic() + 60
    while strays(tmp_path / "out") and time.monotonic() < end:
        time.sleep(0.1)
    assert not strays(tmp_path / "out")


_RUN = "import sys; from eoaug.cli.app import main; main()"


def test_a_run_ends_with_its_code_though_items_hang(source: Path, tmp_path: Path) -> None:
    """R11: here every item takes longer than it may; the process ends all the same."""
    job = a_job(source, tmp_path / "out", source={"limit": 1}, run={"timeout_s": 0.001})
    config = job.model_dump(mode="json")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-W", "ignore", "-c", _RUN, "run", "job.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    assert "1, 1 by time" in done.stdout
    assert not list((tmp_path / "out").glob("source-eoaug/*/item-*.json"))
    collect_garbage(tmp_path / "out")
    assert not strays(tmp_path / "out")


def test_chunks_and_batches_change_no_byte(tmp_path: Path) -> None:
    """R12, of what a job writes."""
    add_item(tmp_path / "in", 0, values=pixels(0, edge=100))
    list_items(tmp_path / "in")
    ways = [
        {"chunks": 1024},
        {"chunks": 16, "batch_tiles": 1},
        {"chunks": 37, "batch_tiles": 5},
        {"chunks": 100, "batch_tiles": 2},
    ]
    made = []
    for number, way in enumerate(ways):
        out = tmp_path / str(number) / "out"
        assert run_job(a_job(tmp_path / "in", out, run=way)).published == 1
        made.append(snapshot(out))
    assert all(one == made[0] for one in made)


def test_passing_errors_are_tried_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OSError(5, "Input/output error")] * 2)
    true = worker._work

    def flaky(*arguments: Any) -> Any:
        for error in failures:
            raise error
        return true(*arguments)

    monkeypatch.setattr(worker, "_work", flaky)
    assert run_job(a_job(source, tmp_path / "out", run={"retries": 2})).published == 6


# -- the description ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "culprit", "hint"),
    [
        ({"sorce": {}}, "'sorce'", "'source'"),
        ({"source": {"catalog": "c", "collection": ["a"]}}, "source.collection", "'collections'"),
        ({"run": {"retry": 1}}, "run.retry", "'retries'"),
        ({"cluster": {"queu": "gpu"}}, "cluster.queu", "'queue'"),
        ({"verb": "sharpen"}, "verb", "super_resolve"),
        ({"output": {}}, "output.catalog", "augmented"),
        ({"run": {"retries": -1}}, "run.retries=-1", ""),
        ({"source": {"catalog": "c", "limit": "many"}}, "source.limit='many'", ""),
        ({"generator": 3}, "generator=3", ""),
        ({"parameters": {"fctor": 2}}, "'fctor'", "'factor'"),
        ({"parameters": {"chunks": 64}}, "'chunks'", "run"),
    ],
)
def test_a_wrong_description_is_told_by_key(change: dict[str, Any], culprit: str, hint: str) -> None:
    base = {"source": {"catalog": "c"}, "verb": "super_resolve", "output": {"catalog": "o"}}
    with pytest.raises(ParameterError) as caught:
        read_job({**base, **change})
    assert culprit in caught.value.problem
    assert hint in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "a: &x [1]\nb: [*x, *x]",
        "a: 1\na: 2",
        "- 1\n- 2",
        "just text",
        "a: [1",
        "a: " + "[" * 5000,
        "",
    ],
)
def test_yaml_holds_plain_values_only(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ParameterError):
        read_job("job.yaml")
    assert not (tmp_path / "canary").exists()


def test_the_schema_describes_the_description(source: Path, tmp_path: Path) -> None:
    import jsonschema

    schema = job_schema()
    good = {"source": {"catalog": "c"}, "verb": "inpaint", "output": {"catalog": "o"}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "sorce": 1}, schema)


def test_an_id_says_what_is_asked_for(source: Path, tmp_path: Path) -> None:
    base = a_job(source, tmp_path / "out")
    assert a_job(source, tmp_path / "out", run={"chunks": 64}).id == base.id
    assert a_job(source, tmp_path / "other").request == base.request
    others = [
        a_job(source, tmp_path / "out", parameters={"factor": 4}),
        a_job(source, tmp_path / "out", source={"bands": "B04"}),
        a_job(source, tmp_path / "out", output={"format": "zarr"}),
        a_job(source, tmp_path / "out", Fickle("x")),
    ]
    assert len({job.request for job in [base, *others]}) == 5


# -- journal, status, resume, versions (R20) ------------------------------------------------------------------


def test_a_job_resumes_from_its_journal(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = a_job(source, out, source={"limit": 2})
    assert run_job(job).published == 2
    (again,) = map(read_job, resumable(out))
    assert again.id == job.id
    assert run_job(again).skipped == 2
    with pytest.raises(EoaugError, match="no journal"):
        resumable(source)


def test_a_torn_or_changed_line_is_no_line(tmp_path: Path) -> None:
    journal = Journal(as_location(tmp_path), "job", {"eoaug": "1"})
    journal.append([{"event": "published", "item": name} for name in "abc"])
    (file,) = tmp_path.rglob("*.jsonl")
    content = file.read_bytes()
    for cut in range(len(content)):
        file.write_bytes(content[:cut])
        found = list(read_journals(as_location(tmp_path)))
        names = [event["item"] for _, events in found for event in events]
        assert names == ["a", "b", "c"][: len(names)]
    changed = content.replace(b'"b"', b'"x"')
    file.write_bytes(changed)
    ((_, events),) = read_journals(as_location(tmp_path))
    assert [event["item"] for event in events] == ["a", "c"]


def test_journals_of_every_release_are_read_and_newer_ones_refused(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "journal-v1.jsonl"
    folder = tmp_path / ".eoaug" / "journal" / "job"
    folder.mkdir(parents=True)
    shutil.copy(golden, folder)
    ((head, events),) = read_journals(as_location(tmp_path))
    assert head["journal"] == 1
    assert [event["event"] for event in events] == ["published", "failed", "adopted"]
    Journal(as_location(tmp_path), "job", {"journal": 2}).append([{"event": "published"}])
    with pytest.raises(SourceError, match="version 2"):
        list(read_journals(as_location(tmp_path)))


def test_another_version_goes_on_only_when_told_to(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(source, tmp_path / "out")
    run_job(job)
    for module in (content_key, bookkeeping, runner):
        monkeypatch.setattr(module, "version", lambda: "99.0")
    with pytest.raises(JobError, match="--recompute"):
        run_job(job)
    assert run_job(job, recompute=True).published == 6
    assert len(items_of(tmp_path / "out")) == 6
    assert validate(tmp_path / "out").sound


# -- the plan, the report, the command line -----------------------------------------------------------------


def test_a_plan_calls_no_model_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    counting = CountingGenerator(eoaug.load("classical"))
    job = a_job(source, tmp_path / "out", counting)
    told = plan_job(job)
    assert (told.items, told.existing, counting.calls) == (6, 0, 0)
    assert told.model_calls > 0
    assert not (tmp_path / "out").exists()
    run_job(job)
    assert counting.calls == told.model_calls
    assert plan_job(job).existing == 6


def test_the_report_escapes_what_items_call_themselves(source: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|`x`"
    home = add_item(source, 7)
    document = json.loads((home / "item-00007.json").read_text())
    document["id"] = evil
    (home / "item-00007.json").write_text(json.dumps(document))
    (home / "B04.tif").write_bytes(b"torn")
    list_items(source)
    report = run_job(a_job(source, tmp_path / "out", run={"pictures": 2}))
    assert report.failures[0].item == evil
    folder = Path(report.folder)
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "<script" not in text
        assert "alert(1)" in text
    assert json.loads((folder / "report.json").read_text())["published"] == 6
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 4  # two items, before and after
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_command_line_tells_and_returns_codes(source: Path, tmp_path: Path) -> None:
    config = a_job(source, tmp_path / "out").model_dump(mode="json", exclude_defaults=True)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({**config, "generator": "classical"}))

    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    # In its own process, `eoaug run` locks GDAL; here it would lock it for the tests that follow.
    before = dict(os.environ)
    try:
        planned = run("plan", file)
        assert planned.exit_code == 0, planned.output
        assert "6, of which 0 exist" in planned.output
        assert run("run", file).exit_code == 0
        assert "published    6" in run("status", file).output
        assert run("resume", tmp_path / "out").exit_code == 0
        assert run("validate", tmp_path / "out").output.strip().endswith("all sound")
        assert run("gc", tmp_path / "out").exit_code == 0
        assert json.loads(run("run", "--schema").output)["title"] == "Job"
        (source / "source" / "item-00001" / "B04.tif").write_bytes(b"torn")
        assert run("run", file).exit_code == 3
        next(iter((tmp_path / "out").rglob("B04.tif"))).write_bytes(b"torn")
        broken = run("validate", tmp_path / "out")
        assert broken.exit_code == 1
        assert "bytes instead of" in broken.output
        file.write_text("verb: [")
        assert run("run", file).exit_code == 2
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_an_open_scheduler_is_warned_of() -> None:
    class Client:
        class scheduler:  # noqa: N801
            address = "tcp://192.0.2.1:8786"

    job = read_job({"source": {"catalog": "c"}, "verb": "inpaint", "output": {"catalog": "o"}})
    with pytest.warns(UserWarning, match="TLS"):
        clusters.DaskExecutor(Client(), job)
    Client.scheduler.address = "tls://192.0.2.1:8786"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clusters.DaskExecutor(Client(), job)
