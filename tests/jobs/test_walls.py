"""Whatever one item, link, lease or line of a journal holds, the others are made: fuzzes of jobs with filters set."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from eoaug.cli.app import app
from eoaug.errors import EoaugError, JobError
from eoaug.generators import load
from eoaug.jobs.config import read_job
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.runner import run_job
from eoaug.jobs.status import Word, job_status, resumable
from eoaug.stac.integrity import json_bytes, with_checksum
from eoaug.stac.validate import validate
from eoaug.storage.locks import is_live, machine_id, read_lease

from .conftest import a_job, add_item, counts, list_items, make_source

ODD: list[Any] = [
    None, True, -1, 2**70, 1e400, "", "x" * 5000, "\ud800", "a\n\x1b[2J\u202e", [], {}, [[[]]], {"a": {"b": 1}},
    "last summer", "http://[half", "../../etc/passwd", "file:///etc/passwd", [1, 2, 3, 4, 5], ["a", "b", "c", "d"],
]  # fmt: skip
FILTERS = {
    "bbox": [0, 0, 90, 90],
    "datetime": "2021",
    "query": {"platform": {"neq": "x"}},
    "filter": "platform <> 'y'",
}


def odd(chance: random.Random) -> Any:
    return chance.choice(ODD)


def mutated(document: Any, chance: random.Random) -> Any:
    """A document with one value anywhere in it replaced."""
    places = [(document, key) for key in document]
    for holder, key in places:
        inner = holder[key]
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, k) for k in keys]
    holder, key = chance.choice(places)
    holder[key] = odd(chance)
    return document


@pytest.mark.parametrize(("count", "part"), counts(25, 5000, parts=10))
def test_mutated_items_links_leases_and_lines_stop_no_other(count: int, part: int, tmp_path: Path) -> None:
    chance = random.Random(part)
    source, out = make_source(tmp_path / "in", 3), tmp_path / "out"
    links: list[Any] = []
    for number in range(count):
        kind = chance.choice(("item", "item", "link", "lease", "line"))
        if kind == "item":
            home = add_item(source, 10 + number)
            file = home / f"{home.name}.json"
            file.write_text(json.dumps(mutated(json.loads(file.read_text()), chance)))
        elif kind == "link":
            links.append(
                chance.choice(({"rel": "item", "href": odd(chance)}, odd(chance), {"rel": odd(chance)}))
            )
        elif kind == "lease":
            lease = out / ".eoaug" / "leases" / "source-eoaug" / f"item-0000{number % 3}-super-resolve-x.json"
            lease.parent.mkdir(parents=True, exist_ok=True)
            lease.write_text(
                json.dumps({key: odd(chance) for key in ("owner", "machine", "process", "until")})
            )
        else:
            journal = out / ".eoaug" / "journal" / "x" / f"{number}.jsonl"
            journal.parent.mkdir(parents=True, exist_ok=True)
            journal.write_text(json.dumps({"journal": odd(chance), "job": odd(chance)}))
    list_items(source)
    collection = source / "source" / "collection.json"
    document = json.loads(collection.read_text())
    collection.write_text(json.dumps({**document, "links": [*document["links"], *links]}))
    job = a_job(source, out, source=FILTERS, run={"retries": 0})
    report = run_job(job, progress=False)
    assert {f"item-{n:05d}" for n in range(3)} <= {p.name[:10] for p in (out / "source-eoaug").iterdir()}
    assert all(failure.error.endswith("Error") and failure.item.isprintable() for failure in report.failures)
    for done in (job_status(job), collect_garbage(out), validate(out)):
        assert str(done).replace("\n", "").isprintable()
    assert validate(out).sound


@pytest.mark.parametrize(
    ("terms", "live"),
    [
        ({}, False),
        ({"process": "abc"}, False),
        ({"process": 2**70}, False),
        ({"until": None}, False),
        ({"ends_in": 3e7}, False),  # its clock was a year ahead
        ({"ends_in": 50}, True),
        ({"ends_in": 300}, True),  # a clock that is minutes ahead, believed for a term
        ({"ends_in": -1}, False),
        ({"seconds": "x"}, False),
    ],
)
def test_a_lease_that_makes_no_sense_is_nobodys(
    terms: dict[str, Any], live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: dict[str, Any] = {
        "owner": str(terms),
        "machine": "other",
        "process": 1,
        "begun": "",
        "seconds": 60.0,
    }
    whole["until"] = time.time() + terms.get("ends_in", 50)
    lease = read_lease(json.dumps({**whole, **terms}).encode()) if terms else read_lease(b"[" * 9999)
    assert is_live(lease) == live
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not is_live(lease)  # not renewed for its own term, whatever its clock said
    assert machine_id() != "other"


class _Panic(BaseException):
    """What bindings to Rust raise when it panics."""


@pytest.mark.parametrize(
    "error", [SystemExit(1), TimeoutError("no answer"), OSError(5, "io"), _Panic("boom")]
)
def test_what_a_generator_raises_fails_its_item_by_name(error: BaseException, tmp_path: Path) -> None:
    class Bad:
        card = load("classical").card

        def generate(self, requests: Any) -> Any:
            raise error

    source = make_source(tmp_path / "in", 2)
    report = run_job(a_job(source, tmp_path / "out", Bad(), run={"retries": 0}), progress=False)
    assert [failure.item for failure in report.failures] == ["item-00000", "item-00001"]
    assert all(type(error).__name__ in failure.problem for failure in report.failures)
    assert not any("free space" in failure.remedy for failure in report.failures)


def test_a_journal_names_nothing_that_the_user_did_not(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "in", 1), tmp_path / "out"
    run_job(a_job(source, out), progress=False)
    (journal,) = (out / ".eoaug" / "journal").rglob("*.jsonl")
    (head, *_) = [json.loads(line.partition(" ")[2]) for line in journal.read_text().splitlines()]
    assert "catalog" not in head["config"]["output"]
    for change, word in (
        ({"output": {"api": "https://api.example"}}, Word(api="https://api.example")),
        ({"generator": "/a/checkpoint"}, Word(generator="/a/checkpoint")),
        ({"source": {**head["config"]["source"], "allow": ["/etc"]}}, Word(allow=("/etc",))),
        ({"source": {"catalog": "https://elsewhere.example/c.json"}}, Word(allow=("elsewhere.example",))),
        ({"output": {"catalog": str(tmp_path / "home")}}, None),
    ):
        _write_journal(journal, {**head, "config": {**head["config"], **change}})
        if word is not None:
            with pytest.raises(JobError, match="a journal may come from others"):
                resumable(out)
        (config,) = resumable(out, word)
        assert config["output"]["catalog"] == str(out / "catalog.json")


def _write_journal(file: Path, head: dict[str, Any]) -> None:
    from eoaug.jobs.journal import _line

    file.write_bytes(_line(head))


def test_a_job_is_resumed_from_anywhere_and_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(tmp_path / "in", 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    config = {**a_job("in", "out").model_dump(mode="json", exclude_defaults=True), "generator": "classical"}
    first = read_job(config)
    assert run_job(first, progress=False).published == 2
    os.rename("out", "moved")
    monkeypatch.chdir(elsewhere)
    (again,) = map(read_job, resumable("../moved"))
    assert again.id == first.id
    assert run_job(again, progress=False).skipped == 2
    assert not list(elsewhere.iterdir())


def test_gc_removes_only_what_eoaug_made(tmp_path: Path) -> None:
    out = make_source(tmp_path / "cat", 2)
    run_job(a_job(out, out), progress=False)
    home = next(path for path in (out / "source-eoaug").iterdir() if path.is_dir())
    own = next(path for path in home.iterdir() if path.is_dir())
    stale = home / own.name[::-1]
    foreign = [
        out / "source" / "item-00000" / "0123456789abcdef" / "a.tif", home / "fedcba9876543210" / "notes.txt",
        out / ".research.lock", out / "source" / ".paper.lock",
    ]  # fmt: skip
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("of another program")
    item = json.loads((home / f"{home.name}.json").read_text())
    assets = {name: {**fields, "href": "./elsewhere.tif"} for name, fields in item["assets"].items()}
    (home / f"{home.name}.json").write_bytes(json_bytes(with_checksum({**item, "assets": assets})))
    assert collect_garbage(out).data == 1  # the replaced data, by the hash of its content
    assert not own.exists()
    assert not stale.exists()
    assert all(file.exists() for file in foreign)


def test_links_and_pipes_in_a_catalog_are_not_followed(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "in", 1), tmp_path / "out"
    job = a_job(source, out)
    run_job(job, progress=False)
    outside = tmp_path / "outside"
    os.rename(out / ".eoaug", outside)
    os.symlink(outside, out / ".eoaug")
    before = sorted(outside.rglob("*"))
    for call in (lambda: run_job(job, recompute=True), lambda: job_status(job), lambda: collect_garbage(out)):
        with pytest.raises(EoaugError, match="leads through a link"):
            call()
    assert sorted(outside.rglob("*")) == before
    os.mkfifo(tmp_path / "job.yaml")
    assert CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml")]).exit_code == 2
    (source / "source" / "item-00000" / "B04.tif").unlink()
    os.mkfifo(source / "source" / "item-00000" / "B04.tif")
    report = run_job(a_job(source, tmp_path / "more", run={"retries": 0}), progress=False)
    assert len(report.failures) == 1
    assert yaml.safe_load("a: 1") == {"a": 1}
