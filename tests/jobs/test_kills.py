"""Jobs that are killed: at every named instant, at random ones, by worker and as a whole. The kills are real."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pystac
import pytest

from eoaug.jobs.clusters import local_cluster
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.runner import run_job
from eoaug.stac.integrity import checksum_error, json_bytes, with_checksum
from eoaug.stac.open import open_cube
from eoaug.stac.validate import validate
from eoaug.storage.crash_points import CRASH_POINTS
from tests.forks import Forks

from .conftest import (
    LONG,
    Fickle,
    Launcher,
    Watcher,
    a_job,
    add_item,
    calls,
    coarse_unit,
    counts,
    make_source,
    snapshot,
    strays,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes")


@pytest.fixture(scope="module")
def launcher(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    yield Launcher(forks, tmp_path_factory.mktemp("said"))
    del os.environ["SOURCE_DATE_EPOCH"]


def finish(job: Any, quiet: dict[str, bytes], out: Path) -> None:
    """Run the same job again; it ends with what the quiet run made, and nothing else."""
    report = run_job(job, progress=False)
    assert not report.failures
    collect_garbage(out)
    made = snapshot(out)
    assert set(made) == set(quiet)
    assert {name: content for name, content in made.items() if content != quiet[name]} == {}
    assert not strays(out)


@pytest.fixture(scope="module")
def small(
    launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, bytes]]]:
    """Three items, and what quiet runs make of them in each format."""
    folder = tmp_path_factory.mktemp("small")
    source, quiet = make_source(folder / "in", 3), {}
    for form in ("cog", "zarr"):
        run_job(a_job(source, folder / form / "out", output={"format": form}), progress=False)
        quiet[form] = snapshot(folder / form / "out")
    return source, quiet


def other_files(out: Path, quiet: dict[str, bytes]) -> list[str]:
    """Return names of published items and their data that differ from what the quiet run made."""
    made = {name: content for name, content in snapshot(out).items() if "/." not in f"/{name}"}
    lists = ("catalog.json", "collection.json")
    return [n for n, content in made.items() if not n.endswith(lists) and quiet.get(n) != content]


def _sum(told: dict[str, int]) -> str:
    return f"all complete in {told['looks']} looks of another process, the reruns equal byte for byte"


def named(quiet: dict[str, bytes], out: Path) -> dict[str, bytes]:
    """What the quiet run made, but for the id of the catalog: that is the name of its folder."""
    told = json.loads(quiet["catalog.json"])
    return quiet | {"catalog.json": json_bytes(with_checksum(told | {"id": out.name}))}


FULL = [(form, n) for form in ("cog", "zarr") for n in (1, 2, 3, 4, 6)]


@pytest.mark.parametrize(
    ("form", "time_reached"),
    [("cog", 1), *(pytest.param(form, n, marks=LONG) for form, n in FULL if (form, n) != ("cog", 1))],
)
def test_a_job_killed_at_any_point_is_finished_by_the_same_command(
    form: str, time_reached: int, small: tuple[Path, Any], launcher: Launcher, tmp_path: Path, watch: Any
) -> None:
    """R2, R3, R4: after each kill, before anything is mended, what is listed is complete."""
    source, quiet = small
    reached = 0
    # As deep as the quiet run's: items point to their sources by relative paths.
    outs = source.parent / f"points-{form}-{time_reached}"
    watcher: Watcher = watch(outs)
    for point in CRASH_POINTS:
        out = outs / f"{point}".replace(" ", "-")
        job = a_job(source, out, output={"format": form})
        pid, _ = launcher.start(job, point=point, times=time_reached)
        code = launcher.wait(pid)
        assert code == -signal.SIGKILL or time_reached > 1, f"{point} was not reached"
        reached += code == -signal.SIGKILL
        watcher.look(out)
        assert other_files(out, named(quiet[form], out)) == []
        finish(job, named(quiet[form], out), out)
    assert validate(out).sound
    told = watcher.result()
    assert told["last"] == 3 * len(CRASH_POINTS)
    print(f"{reached} kills at named points, each reached {time_reached} times, {form}: {_sum(told)}")


@pytest.mark.parametrize("form", ["cog", pytest.param("zarr", marks=LONG)])
@pytest.mark.parametrize(("rounds", "part"), counts(3, 50, parts=5))
def test_a_process_group_killed_at_random_instants(
    rounds: int, part: int, form: str, small: tuple[Path, Any], launcher: Launcher, tmp_path: Path, watch: Any
) -> None:
    """R2, R3, R4: kills spread over the time that the job takes."""
    source, quiet = small
    chance = random.Random(f"{form}-{part}")
    begun = time.monotonic()
    pid, _ = launcher.start(a_job(source, tmp_path / "out", output={"format": form}))
    launcher.wait(pid)
    lasts = time.monotonic() - begun
    outs = source.parent / f"random-{form}-{part}"
    watcher: Watcher = watch(outs)
    seen: list[int] = []
    unlike: list[str] = []
    for number in range(rounds):
        # Every third kill meets a job that has nothing yet, the others one that was killed before.
        out = outs / f"{number // 3}"
        job = a_job(source, out, output={"format": form})
        pid, _ = launcher.start(job)
        time.sleep(chance.uniform(0.0, 1.2 * lasts))
        launcher.kill(pid)
        unlike += other_files(out, named(quiet[form], out))
        seen.append(watcher.look(out))
    for number in range((rounds + 2) // 3):
        out = outs / f"{number}"
        finish(a_job(source, out, output={"format": form}), named(quiet[form], out), out)
        assert validate(out).sound
    told = watcher.result()
    assert told["last"] == 3 * ((rounds + 2) // 3)
    assert unlike == []
    print(
        f"{rounds} kills at random instants of {lasts:.2f} s, {form}: {sum(seen)} items listed right after them, {_sum(told)}"
    )


@pytest.fixture(scope="module")
def quiet_run(
    launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[Path, dict[str, bytes]]]:
    """Give a source of so many items, and what a quiet run makes of it; one run serves all seeds."""
    folder = tmp_path_factory.mktemp("many")

    @cache
    def made(count: int) -> tuple[Path, dict[str, bytes]]:
        source = make_source(folder / str(count) / "in", count)
        out = source.parent / "quiet" / "out"
        run_job(a_job(source, out), progress=False)
        return source, snapshot(out)

    return made


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("kills", [3, *(pytest.param(25, marks=LONG, id=f"25-{k}") for k in range(20))])
def test_workers_killed_again_and_again(
    kills: int, quiet_run: Any, watch: Any, request: pytest.FixtureRequest
) -> None:
    """R1: random SIGKILLs over two workers, after the first published item."""
    chance = random.Random(request.node.name)
    count = 100 if kills >= 25 else 12
    source, quiet = quiet_run(count)
    out = source.parent / request.node.callspec.id / "out"
    job = a_job(source, out, run={"retries": 20})
    watcher: Watcher = watch(out.parent)
    done = []
    over = threading.Event()

    def kill(workers: Any) -> None:
        while not list(out.glob("source-eoaug/*/item-*.json")) and not over.wait(0.01):
            pass
        while len(done) < kills and not over.is_set():
            found = workers()
            if found:
                chance.choice(found).kill()
                done.append(time.monotonic())
            over.wait(chance.uniform(0.05, 0.6))

    with local_cluster(2) as client:
        killer = threading.Thread(target=kill, args=[_workers_of(client)], daemon=True)
        killer.start()
        report = run_job(job, client, progress=False)
        deleted = False
        while len(done) < kills:  # the job was faster than the killer: give it more to do
            deleted = True
            for number in range(0, count, 3):
                shutil.rmtree(out / "source-eoaug" / f"item-{number:05d}-super-resolve-{job.request[:8]}")
            assert not run_job(job, client, progress=False).failures
        over.set()
        killer.join()
    assert not report.failures, report.failures[:3]
    finish(job, quiet, out)
    if not deleted:
        assert watcher.result()["last"] == count
    assert validate(out).items == count
    took = done[-1] - done[0]
    print(f"{len(done)} workers killed in {took:.0f} s over {count} items: equal bytes, 0 strays")


def _workers_of(client: Any) -> Any:
    """Return a function that lists the workers that are at work, not those that still start."""

    def found() -> list[psutil.Process]:
        nannies = [n for n in list(client.cluster.workers.values()) if n.process is not None]
        pids = [n.process.pid for n in nannies if n.process.status.name == "running"]
        return [psutil.Process(pid) for pid in pids if pid and psutil.pid_exists(pid)]

    return found


@pytest.mark.parametrize("processes", [4, pytest.param(2, marks=LONG)])
@pytest.mark.parametrize(("rounds", "part"), counts(1, 20, parts=4))
def test_several_processes_on_one_job_make_each_item_once(
    processes: int, rounds: int, part: int, launcher: Launcher, tmp_path: Path, watch: Any
) -> None:
    """R6: the calls of the generator, counted over all processes, are those of one."""
    source = make_source(tmp_path / "in", count := 12 if part else 6)
    alone = tmp_path / "alone"
    alone.mkdir()
    run_job(a_job(source, tmp_path / "quiet" / "out", Fickle(str(alone))), progress=False)
    watcher: Watcher = watch(tmp_path / "outs")
    for number in range(rounds):
        out, counted = tmp_path / "outs" / str(number), tmp_path / f"calls-{number}"
        counted.mkdir(parents=True)
        running = [launcher.start(a_job(source, out), counted=counted) for _ in range(processes)]
        assert [launcher.wait(pid) for pid, _ in running] == [0] * processes
        sums = [json.loads(said.read_text()) for _, said in running]
        assert sum(made for made, *_ in sums) == count
        assert calls(counted) == calls(alone)
        assert validate(out).items == count
        assert not strays(out)
    assert watcher.result()["last"] == count * rounds
    print(f"{processes} processes on one job, {rounds} times: {count * rounds} items, each made once")


@pytest.mark.parametrize("kills", [10, pytest.param(500, marks=LONG)])
def test_lists_are_old_or_new_whenever_their_writer_is_killed(
    kills: int, launcher: Launcher, tmp_path: Path
) -> None:
    """R7: a collection that grows without end, and its writer killed again and again."""
    chance, out, known = random.Random(7), tmp_path / "out", 0
    for number in range(kills):
        pid = launcher.list_on(out, known)
        while number == 0 and not (out / "c" / "collection.json").exists():  # however busy this machine is
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.06))
        launcher.kill(pid)
        for file in (out / "catalog.json", out / "c" / "collection.json"):
            assert not file.exists() or not checksum_error(file.read_bytes())
        if (out / "c" / "collection.json").exists():
            links = json.loads((out / "c" / "collection.json").read_text())["links"]
            items = [link["href"] for link in links if link["rel"] == "item"]
            assert items == [f"./item-{n:05d}/item-{n:05d}.json" for n in range(len(items))]
            assert len(items) >= known
            known = len(items)
    assert known > 0
    collect_garbage(out)
    assert not strays(out)
    print(f"{kills} kills of a writer that listed {known} items: never torn, none lost")


@pytest.mark.parametrize(("rounds", "part"), counts(2, 50, parts=5))
def test_a_repository_appears_whole_or_not_at_all(
    rounds: int, part: int, small: tuple[Path, Any], launcher: Launcher, watch: Any
) -> None:
    """R4: Icechunk names its files by chance, so pixels are compared, not bytes."""
    pytest.importorskip("icechunk")
    source, _ = small
    chance, outs = random.Random(part), source.parent / f"repositories-{part}"
    watcher: Watcher = watch(outs)
    expected = pixels_of(source.parent / "zarr" / "out")
    seen = []
    for number in range(rounds):
        out = outs / str(number)
        job = a_job(source, out, output={"format": "icechunk"})
        if number % 2:
            pid, _ = launcher.start(
                job,
                point=CRASH_POINTS[(part * rounds + number) // 2 % len(CRASH_POINTS)],
                times=chance.randint(1, 3),
            )
            launcher.wait(pid)
        else:
            pid, _ = launcher.start(job)
            time.sleep(chance.uniform(0.1, 1.2))
            launcher.kill(pid)
        seen.append(watcher.look(out))
        for name, values in pixels_of(out).items():
            assert np.array_equal(values, expected[name])
        assert not run_job(job, progress=False).failures
        collect_garbage(out)
        assert validate(out).sound
        assert not strays(out)
        made = pixels_of(out)
        assert all(np.array_equal(made[name], values) for name, values in expected.items())
        assert len(list(out.rglob("*.icechunk"))) == 3
    assert watcher.result()["last"] == 3 * rounds
    print(f"{rounds} kills while repositories were written: {sum(seen)} items seen right after, all whole")


def pixels_of(out: Path) -> dict[str, Any]:
    """Pixels of every listed item, by the id of its source."""
    if not (out / "catalog.json").exists():
        return {}
    items = pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True)
    cubes = {i.id: open_cube(i, chunks=None) for i in items if "eoaug:operation" in i.properties}
    return {name.partition("-super")[0]: cube.B04.values for name, cube in cubes.items()}


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(
    "trouble",
    # The short form of "hang" is that of one process, in `test_jobs`.
    ["die", "eat", pytest.param("hang", marks=pytest.mark.slow)],
)
def test_an_item_that_takes_its_workers_down_fails_alone(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10, R11 on a cluster: workers that die, that eat all memory, and that hang are replaced."""
    source, counted = make_source(tmp_path / "in", 6), tmp_path / "calls"
    counted.mkdir()
    add_item(source, 4, values=np.full((24, 24), 7777, np.uint16))
    generator = Fickle(str(counted), trouble, [coarse_unit(source)])
    run = {"retries": 1, "timeout_s": 15} if trouble == "hang" else {"retries": 1}
    job = a_job(source, tmp_path / "out", generator, run=run)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        local_cluster(2, memory="1GB" if trouble == "eat" else "auto") as client,
    ):
        report = run_job(job, client, progress=False)
    assert [one.item for one in report.failures] == ["item-00004"]
    assert report.published == 5
    assert report.timed_out == (trouble == "hang")
    told = "timeout_s" if trouble == "hang" else "crashed its workers"
    assert told in report.failures[0].problem
    collect_garbage(tmp_path / "out")
    assert validate(tmp_path / "out").items == 5
    assert not strays(tmp_path / "out")


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("count", [8, pytest.param(10_000, marks=LONG)])
def test_two_workers_stay_busy_and_the_graph_stays_small(count: int, tmp_path: Path) -> None:
    """Items are sent as workers finish others, so that the scheduler never knows more than a few."""
    source, known, over = make_source(tmp_path / "in", count), [0], threading.Event()
    with local_cluster(2) as client:

        def look() -> None:
            while not over.wait(0.02):
                known.append(len(client.cluster.scheduler.tasks))

        watching = threading.Thread(target=look, daemon=True)
        watching.start()
        report = run_job(a_job(source, tmp_path / "out"), client, progress=False)
        over.set()
        watching.join()
    assert (report.published, report.failures) == (count, ())
    assert 0 < max(known) <= 8
    share = report.work_seconds / report.seconds / 2
    assert share > 0.8 or count < 10_000  # the short form is mostly beginning and end
    print(
        f"{count} items by two workers in {report.seconds:.0f} s, {report.work_seconds:.0f} s of work: throughput "
        f"{share:.2f} of what they could do, at most {max(known)} tasks known"
    )


# -- histories: several jobs and processes on one catalog ------------------------------------------------------


LEASE_S = 0.5
CLOCKS_S = (0, 0, 0, 120, -120, 900, -900)


def jobs_on(source: Path, out: Path) -> list[Any]:
    """Three jobs that write to one catalog: two to the same collection, one to another."""
    run = {"lease_s": LEASE_S, "wait_s": 30}
    return [
        a_job(source, out, output={"collection": "both"}, run=run),
        a_job(source, out, output={"collection": "both"}, parameters={"factor": 3}, run=run),
        a_job(source, out, output={"collection": "groups", "format": "zarr"}, run=run),
    ]


@pytest.fixture(scope="module")
def quiet_three(
    launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes], float]:
    """Two items, what quiet runs of the jobs make of them, and the seconds that it takes."""
    source = make_source(tmp_path_factory.mktemp("quiet") / "in", 2)
    out = source.parent / "histories" / "out"
    begun = time.monotonic()
    for job in jobs_on(source, out):
        launcher.wait(launcher.start(job)[0])
    return source, snapshot(out), time.monotonic() - begun


def live_through(chance: random.Random, launcher: Launcher, jobs: list[Any], lasts: float) -> list[str]:
    """Start five processes of jobs on one catalog, and freeze or kill some of them at random instants; return what was done."""
    picked = [*jobs, *chance.choices(jobs, k=2)]
    clocks = [chance.choice(CLOCKS_S) for _ in picked]
    pids = [launcher.start(job, ahead_s=clock)[0] for job, clock in zip(picked, clocks, strict=True)]
    told = [f"clocks {clocks}"]
    frozen: list[int] = []
    for _ in range(chance.randint(2, 6)):
        time.sleep(chance.uniform(0, lasts / 3))
        pid = chance.choice(pids)
        if pid in frozen:
            frozen.remove(pid)
            os.kill(pid, signal.SIGCONT)
            told.append(f"{pid} goes on")
        elif chance.random() < 0.7:
            frozen.append(pid)
            os.kill(pid, signal.SIGSTOP)
            told.append(f"{pid} frozen")
        else:
            os.kill(pid, signal.SIGKILL)
            told.append(f"{pid} killed")
    time.sleep(chance.choice((0, 2 * LEASE_S)))  # until the others take the leases of the frozen over
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    for pid in pids:
        launcher.wait(pid)
    return told


@pytest.mark.parametrize(("rounds", "part"), counts(1, 500, parts=50))
def test_what_is_listed_is_whole_and_listed_once(
    rounds: int, part: int, quiet_three: tuple[Path, dict[str, bytes], float], launcher: Launcher, watch: Any
) -> None:
    source, expected, lasts = quiet_three
    chance = random.Random(part)
    outs = source.parent / f"histories-{part}"
    watcher: Watcher = watch(outs)
    for number in range(rounds):
        out = outs / f"{number}"  # as deep as the quiet one: items point to their sources by relative paths
        jobs = jobs_on(source, out)
        told = live_through(chance, launcher, jobs, lasts)
        for job in jobs:
            report = run_job(job, progress=False)
            assert not report.failures, (told, report.failures)
        collect_garbage(out)
        made = snapshot(out)
        names = {*made, *expected} - {"catalog.json"}  # its id is the name of the folder
        assert {name for name in names if made.get(name) != expected.get(name)} == set(), told
        assert validate(out).sound, told
        assert not strays(out), told
    print(f"{rounds} histories, part {part}: {watcher.result()}")
