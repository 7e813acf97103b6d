"""Damage, full disks, power loss, long runs, and a machine that does everything in any order."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eoaug.errors import TargetError
from eoaug.formats.zarr import write_zarr
from eoaug.generators import load
from eoaug.jobs.config import read_job
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.runner import run_job
from eoaug.jobs.status import resumable
from eoaug.stac.validate import validate
from eoaug.storage import crash_points
from eoaug.storage.atomic import checksum
from eoaug.testing import scene
from tests.forks import Forks, shared

from .conftest import (
    LONG,
    READER,
    Launcher,
    a_job,
    add_item,
    counts,
    list_items,
    make_source,
    pixels,
    snapshot,
    strays,
)

look: Any = None
exec(READER)  # the same code that the independent process runs


# -- R3: every flipped bit, every lost byte -----------------------------------------------------------------


@pytest.mark.parametrize(("count", "part"), counts(16, 1000, parts=4))
@pytest.mark.parametrize("form", ["cog", "zarr", "icechunk"])
def test_validate_finds_every_truncation_and_every_flipped_bit(
    count: int, part: int, form: str, source: Path, tmp_path: Path
) -> None:
    """R3: half of them truncations, half of them single bits, anywhere in what was published."""
    out = tmp_path / "out"
    run_job(a_job(source, out, source={"limit": 2}, output={"format": form}))
    assert validate(out).sound
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and ".eoaug" not in path.parts]
    chance, missed = random.Random(part), []
    for number in range(count):
        victim = chance.choice(files)
        content = victim.read_bytes()
        if number % 2:
            victim.write_bytes(content[: chance.randrange(len(content))])
        else:
            changed = bytearray(content)
            changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            victim.write_bytes(changed)
        if validate(out).sound:
            missed.append((victim.name, number))
        victim.write_bytes(content)
    assert missed == []
    assert validate(out).sound
    print(f"{count - len(missed)} of {count} damages found in {len(files)} files, {form}")


def test_validate_tells_what_else_is_wrong(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(a_job(source, out, source={"limit": 2}))
    home = next((out / "source-eoaug").glob("item-*"))
    data = next(path for path in home.iterdir() if path.is_dir())
    cases = {
        "is not there": lambda: (data / "B04.tif").unlink(),
        "is listed 0 times": lambda: shutil.copytree(home, home.with_name("twin")),
        "which is not there": lambda: shutil.rmtree(home),
    }
    for told, harm in cases.items():
        saved = tmp_path / "saved"
        shutil.copytree(out, saved)
        harm()
        assert told in str(validate(out))
        shutil.rmtree(out)
        saved.rename(out)
    with pytest.raises(TargetError, match="no catalog"):
        validate(tmp_path / "nowhere")


# -- R9: no space --------------------------------------------------------------------------------------------

_FULL = """
import json, resource, signal, sys, warnings
warnings.simplefilter("ignore")
from eoaug.jobs.config import read_job
from eoaug.jobs.runner import run_job
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
report = run_job(json.loads(sys.argv[1]), progress=False)
print(json.dumps([report.published, [one.problem for one in report.failures], [one.error for one in report.failures]]))
"""


def test_a_full_disk_is_told_and_leaves_nothing(source: Path, tmp_path: Path, forks: Forks) -> None:
    """R9: a file that may not grow is what a full disk is to its writer."""
    add_item(source, 6, values=pixels(6, edge=200))
    list_items(source)
    out = tmp_path / "out"
    job = a_job(source, out)
    config = job.model_dump(mode="json")
    done = forks.run(_FULL, json.dumps(config), 60_000)
    published, problems, errors = json.loads(done.stdout)
    assert (published, errors) == (6, ["TargetError"])
    assert "item-00006" in problems[0] or "writing" in problems[0]
    assert not strays(out)
    assert validate(out).items == 6
    assert run_job(job).published == 1


@pytest.mark.parametrize("word", ["fsync", "replace"])
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_fails_anywhere_harms_no_other_item(
    word: str, every: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: the n-th flush or rename fails, for every n (in short form every eighth) that a job of two items has."""
    quiet = tmp_path / "quiet" / "out"
    run_job(a_job(source, quiet, source={"limit": 2}))
    expected, true = snapshot(quiet), getattr(os, word)
    for number in range(0, 100, every):
        left, out = [number], tmp_path / f"{number}" / "out"
        code = (errno.EIO, errno.ENOSPC, errno.EROFS)[number % 3]

        def fail(*arguments: Any, left: list[int] = left, code: int = code, **how: Any) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(code, os.strerror(code))
            true(*arguments, **how)

        monkeypatch.setattr(os, word, fail)
        job = a_job(source, out, source={"limit": 2})
        told = ""
        try:
            report = run_job(job)
            assert len(report.failures) <= 1
            told = "".join(one.problem for one in report.failures)
        except TargetError as error:  # the books themselves could not be written
            told = error.problem
        monkeypatch.undo()
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        if told:
            assert os.strerror(code) in told
        look(out)
        assert not run_job(job).failures
        collect_garbage(out)
        assert snapshot(out) == expected
        assert not strays(out)
        if left[0] >= 0:
            break
    assert 10 < number < 99
    print(f"an error at each of {number} calls of {word}: told, and nothing else harmed")


# -- R8: who writes what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "part"), counts(20, 1000, parts=4))
def test_blocks_of_any_shape_make_the_same_group(count: int, part: int) -> None:
    """R8: chunks of the computation need not be those of the group, since one thread writes them all."""
    writers: set[int] = set()
    true = zarr.Array.__setitem__

    def put(self: Any, region: Any, values: Any) -> None:
        writers.add(threading.get_ident())
        true(self, region, values)

    @seed(part)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.tuples(st.integers(1, 3), st.integers(1, 1100), st.integers(1, 700)),
        chunks=st.tuples(st.integers(1, 3), st.integers(40, 900), st.integers(40, 900)),
    )
    def check(shape: tuple[int, int, int], chunks: tuple[int, int, int]) -> None:
        ds = scene((shape[1], shape[2]), dates=shape[0], bands=["red"])
        writers.clear()
        with tempfile.TemporaryDirectory() as folder:
            write_zarr(ds.chunk(dict(zip(("time", "y", "x"), chunks, strict=True))), Path(folder) / "a.zarr")
            with xr.open_zarr(Path(folder) / "a.zarr", mask_and_scale=False) as back:
                assert np.array_equal(back.red.values, ds.red.values)
        assert writers == {threading.get_ident()}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zarr.Array, "__setitem__", put)
        check()
    print(f"{count} random shapes and chunks: equal pixels, one writer")


# -- R23: power loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cog", "zarr"])
def test_content_is_on_the_disk_before_it_has_its_name(
    form: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23: Every rename to a public name comes after a flush of every byte below it; data before item before catalog."""
    events: list[tuple[str, str]] = []
    true_fsync, true_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        events.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        true_fsync(handle)

    def replace(one: Any, two: Any, **how: Any) -> None:
        if "leases" not in str(two) and "/.eoaug-" not in str(two):
            inside = [str(p) for p in Path(one).rglob("*") if p.is_file()] or [str(one)]
            flushed = {name for kind, name in events if kind == "fsync"}
            assert set(inside) <= flushed, f"{one} was renamed before it was flushed"
            events.append(("rename", str(two)))
        true_replace(one, two, **how)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    run_job(a_job(source, tmp_path / "out", source={"limit": 1}, output={"format": form}))
    renamed = [name.rpartition("out/")[2] for kind, name in events if kind == "rename"]
    kinds = ["data" if "." not in Path(n).name else Path(n).name for n in renamed if ".eoaug" not in n]
    item = next(kind for kind in kinds if kind.startswith("item-"))
    assert kinds == ["data", item, "collection.json", "catalog.json"]
    # The folders that hold the names are flushed too.
    for name in (str(tmp_path / "out" / "source-eoaug" / item[:-5]), str(tmp_path / "out" / "source-eoaug")):
        assert ("fsync", name) in events


# -- R21: long runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=LONG)])
def test_memory_and_handles_stay(count: int, tmp_path: Path) -> None:
    """R21: the memory of so few items as the short form has is noise; its handles are not."""
    source, me, seen = make_source(tmp_path / "in", count), psutil.Process(), []

    def sample(point: str) -> None:
        if point == "item published":
            gc.collect()
            seen.append((me.memory_info().rss, me.num_fds()))

    gc.collect()
    gc.freeze()  # what other tests have left would be walked through at each item
    crash_points.set_hook(sample)
    try:
        run_job(a_job(source, tmp_path / "out"))
    finally:
        crash_points.set_hook(None)
        gc.unfreeze()
    half = len(seen) // 2
    slope = np.polyfit(np.arange(half), [rss for rss, _ in seen[-half:]], 1)[0]
    print(f"{slope / 1e6:.4f} MB per item, handles {seen[half][1]} to {seen[-1][1]}")
    assert slope < 0.2e6 or count < 100
    assert seen[-1][1] <= seen[half][1] + 2


# -- ten thousand items ------------------------------------------------------------------------------------------

_PLAN = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
from eoaug.jobs.planning import plan_job
begun = time.monotonic()
told = plan_job(json.loads(sys.argv[1]))
# Not ru_maxrss, which begins at the size of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([told.items, time.monotonic() - begun, int(peak.split()[1]) / 1024]))
"""


@pytest.mark.parametrize("count", [50, pytest.param(10_000, marks=LONG)])
def test_planning_needs_little_memory_for_any_number_of_items(
    count: int, tmp_path: Path, forks: Forks
) -> None:
    source = make_source(tmp_path / "in", count)
    config = a_job(source, tmp_path / "out").model_dump(mode="json")
    done = forks.run(_PLAN, json.dumps(config))
    items, seconds, megabytes = json.loads(done.stdout)
    print(f"{items} items planned in {seconds:.1f} s, {megabytes:.0f} MB")
    assert items == count
    assert megabytes < 500
    assert seconds < 60


# -- R22: everything in any order ----------------------------------------------------------------------------------


@cache
def _launcher() -> Launcher:
    return Launcher(shared(), Path(tempfile.mkdtemp()))


@cache
def _reference(number: int, content: int, seed: int) -> bytes:
    """What a quiet job of one item makes of it."""
    folder = Path(tempfile.mkdtemp())
    add_item(folder / "in", number, values=pixels(content))
    list_items(folder / "in")
    assert run_job(_job(folder / "in", folder / "out", seed), progress=False).published == 1
    (file,) = (folder / "out").rglob("B04.tif")
    found = file.read_bytes()
    shutil.rmtree(folder)
    return found


def _job(source: Path, out: Path, seed: int) -> Any:
    return a_job(source, out, parameters={"factor": 2, "seed": seed}, run={"verify": True})


class Operator(RuleBasedStateMachine):
    """R22: what an operator, and fate, may do to a catalog of two jobs; the promise holds after each step."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.source, self.out = make_source(self.folder / "in", 1), self.folder / "out"
        self.contents, self.seed = {0: 0}, 0
        self.harmed: set[int] = set()
        """Seeds of jobs whose items may be damaged."""
        self.pending: set[int] = set()
        """Seeds of jobs that were killed and not run to their end since."""
        self.patched = pytest.MonkeyPatch()
        self.patched.setenv("SOURCE_DATE_EPOCH", "1700000000")
        self.calls, kind = 0, type(load("classical"))
        true = kind.generate

        def counted(generator: Any, requests: Any) -> Any:
            self.calls += 1
            return true(generator, requests)

        self.patched.setattr(kind, "generate", counted)
        self.launcher = _launcher()

    def job(self) -> Any:
        return _job(self.source, self.out, self.seed)

    def home(self, number: int, seed: int) -> Path:
        request = _job(self.source, self.out, seed).request[:8]
        return self.out / "source-eoaug" / f"item-{number:05d}-super-resolve-{request}"

    def standing(self) -> dict[Path, int]:
        """Folders of the items that there are, and the seeds that they were made with."""
        if not (self.out / "source-eoaug" / "collection.json").exists():
            return {}
        homes = {self.home(number, seed): seed for number in self.contents for seed in (0, 1)}
        return {h: seed for h, seed in homes.items() if (h / f"{h.name}.json").exists()}

    def check(self) -> None:
        """What holds when a job has come to its end."""
        for number, content in self.contents.items():
            home = self.home(number, self.seed)
            named = json.loads((home / f"{home.name}.json").read_text())["assets"]["B04"]["href"]
            assert (home / named).read_bytes() == _reference(number, content, self.seed)
        if not self.harmed | self.pending:
            assert validate(self.out).sound

    @precondition(lambda self: len(self.contents) < 4)
    @rule()
    def add(self) -> None:
        self.contents[len(self.contents)] = len(self.contents)
        add_item(self.source, len(self.contents) - 1)
        list_items(self.source)

    @rule(number=st.integers(0, 3))
    def change(self, number: int) -> None:
        if number in self.contents:
            self.contents[number] += 100
            add_item(self.source, number, values=pixels(self.contents[number]))

    @rule(seed=st.integers(0, 1))
    def configure(self, seed: int) -> None:
        self.seed = seed

    @rule()
    def run(self) -> None:
        report = run_job(self.job(), progress=False)
        assert not report.failures
        assert report.seen == len(self.contents)
        self.harmed.discard(self.seed)
        self.pending.discard(self.seed)
        self.check()
        before = self.calls
        assert run_job(self.job(), progress=False).skipped == len(self.contents)
        assert self.calls == before

    @precondition(lambda self: not self.harmed and (self.out / ".eoaug" / "journal").is_dir())
    @rule()
    def resume(self) -> None:
        jobs = [read_job(config) for config in resumable(self.out)]
        for job in jobs:
            assert not run_job(job, progress=False).failures
            self.pending.discard(job.parameters["seed"])
        if self.seed in [job.parameters["seed"] for job in jobs]:
            self.check()

    @rule(point=st.sampled_from(crash_points.CRASH_POINTS), times=st.integers(1, 3))
    def kill(self, point: str, times: int) -> None:
        # Not by forking this process: its threads would be missing in the child.
        pid, _ = self.launcher.start(self.job(), point=point, times=times)
        self.launcher.wait(pid)
        self.pending.add(self.seed)

    @precondition(lambda self: self.standing() and (self.out / "catalog.json").exists())
    @rule(data=st.data())
    def corrupt(self, data: Any) -> None:
        home, seed = data.draw(st.sampled_from(sorted(self.standing().items())))
        asset = data.draw(st.sampled_from(["B04", "synthetic"]))
        victim = home / json.loads((home / f"{home.name}.json").read_text())["assets"][asset]["href"]
        content = bytearray(victim.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        victim.write_bytes(content)
        self.harmed.add(seed)
        told = json.loads((home / f"{home.name}.json").read_text())["assets"][asset]["file:checksum"]
        if checksum(victim) != told:  # the same bit, flipped twice
            assert not validate(self.out).sound

    @precondition(lambda self: self.standing())
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        home, seed = data.draw(st.sampled_from(sorted(self.standing().items())))
        shutil.rmtree(home)
        self.harmed.add(seed)

    @precondition(lambda self: self.out.exists())
    @rule()
    def collect(self) -> None:
        collect_garbage(self.out)
        assert not strays(self.out)

    @invariant()
    def what_is_listed_is_complete(self) -> None:
        Operator.steps += 1
        if not self.harmed:
            look(self.out)

    def teardown(self) -> None:
        self.patched.undo()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize(("runs", "part"), counts(4, 50, parts=10))
def test_anything_in_any_order(runs: int, part: int) -> None:
    Operator.steps, steps = 0, 40 if part else 8
    how = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=not part,
    )
    run_state_machine_as_test(Operator, settings=how)
    print(f"{Operator.steps} steps in {runs} runs of {steps}: the promise held after each")
