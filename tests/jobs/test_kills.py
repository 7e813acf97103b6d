"""Jobs that are killed: at every named instant, at random ones, by worker and as a whole. The kills are real."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from eoaug.faults import POINTS
from eoaug.stac.audit import collect_garbage, validate
from eoaug.stac.pipeline import local_cluster, run_job

from .conftest import ROOT, Fickle, Watcher, a_job, calls, make_source, snapshot, strays

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes")

_JOB = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")
from tests.jobs.conftest import Fickle
from eoaug import faults
from eoaug.stac.pipeline import run_job

told = json.loads(sys.argv[1])
point, times = told["point"], told["times"]

def stop(reached):
    global times
    if reached == point:
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)

faults.set_hook(stop)
config = told["config"]
if told["calls"]:
    config["generator"] = Fickle(told["calls"])
print("ready", flush=True)
report = run_job(config, progress=False)
print(report.published, report.skipped, report.adopted, len(report.failures))
"""
"""A job in a process of its own, which kills itself when it reaches a point for the n-th time."""


def start(job: Any, *, point: str = "", times: int = 0, counted: Path | None = None) -> subprocess.Popen[str]:
    config = job.model_dump(mode="json", exclude={"generator"}) | {"generator": "classical"}
    told = {"config": config, "point": point, "times": times, "calls": str(counted) if counted else ""}
    return subprocess.Popen(
        [sys.executable, "-c", _JOB, json.dumps(told)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(job: Any, quiet: dict[str, bytes], out: Path) -> None:
    """Run the same job again; it ends with what the quiet run made, and nothing else."""
    report = run_job(job, progress=False)
    assert not report.failures
    collect_garbage(out)
    assert snapshot(out) == quiet
    assert not strays(out)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, bytes]]]:
    """Three items, and what quiet runs make of them in each format."""
    folder = tmp_path_factory.mktemp("small")
    source, quiet = make_source(folder / "in", 3), {}
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    try:
        for form in ("cog", "zarr"):
            run_job(a_job(source, folder / form / "out", output={"format": form}), progress=False)
            quiet[form] = snapshot(folder / form / "out")
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
    return source, quiet


@pytest.mark.parametrize("point", POINTS)
def test_a_job_killed_at_any_point_is_finished_by_the_same_command(
    point: str, small: tuple[Path, Any], tmp_path: Path, watch: Any
) -> None:
    source, quiet = small
    out = tmp_path / "out"
    job = a_job(source, out)
    watcher: Watcher = watch(out)
    process = start(job, point=point, times=1)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, f"{point} was not reached"
    finish(job, quiet["cog"], out)
    seen = watcher.result()
    assert seen["last"] == 3
    assert validate(out).sound


@pytest.mark.long
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("form", ["cog", "zarr"])
@pytest.mark.parametrize("point", POINTS)
def test_every_point_of_every_format(
    point: str, form: str, times: int, small: tuple[Path, Any], tmp_path: Path, watch: Any
) -> None:
    source, quiet = small
    out = tmp_path / "out"
    job = a_job(source, out, output={"format": form})
    watcher = watch(out)
    process = start(job, point=point, times=times)
    process.communicate(timeout=120)
    finish(job, quiet[form], out)
    assert watcher.result()["last"] == 3
    assert validate(out).sound


@pytest.mark.parametrize(
    ("rounds", "form"),
    [
        (3, "cog"),
        pytest.param(50, "cog", marks=pytest.mark.long),
        pytest.param(50, "zarr", marks=pytest.mark.long),
    ],
)
def test_a_process_group_killed_at_random_instants(
    rounds: int, form: str, small: tuple[Path, Any], tmp_path: Path, watch: Any
) -> None:
    source, quiet = small
    chance = random.Random(6)
    out = tmp_path / "out"
    job = a_job(source, out, output={"format": form})
    watcher = watch(out)
    for _ in range(rounds):
        process = start(job)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.0, 1.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if chance.random() < 0.5 and out.exists():
            # Half of the kills meet a job that has nothing yet, the others one that has something.
            finish(job, quiet[form], out)
            for home in (out / f"{'source'}-eoaug").glob("item-*"):
                (home / f"{home.name}.json").unlink()
            collect_garbage(out)
    finish(job, quiet[form], out)
    watcher.end()  # items are deleted under its eyes; what it saw while none was is told by the other tests
    assert validate(out).sound


@pytest.mark.parametrize(
    "kills", [8, *(pytest.param(25, marks=pytest.mark.long, id=f"25-{k}") for k in range(20))]
)
def test_workers_killed_again_and_again(
    kills: int, tmp_path: Path, watch: Any, request: pytest.FixtureRequest
) -> None:
    """R1: random SIGKILLs over two workers, after the first published item."""
    chance = random.Random(request.node.name)
    source = make_source(tmp_path / "in", 100 if kills >= 25 else 30)
    job = a_job(source, tmp_path / "quiet" / "out", run={"retries": 20})
    run_job(job, progress=False)
    quiet, out = snapshot(tmp_path / "quiet" / "out"), tmp_path / "out"
    job = a_job(source, out, run={"retries": 20})
    watcher = watch(out)
    done = 0
    with local_cluster(2) as client:
        import threading

        over = threading.Event()

        def kill() -> None:
            nonlocal done
            while not list(out.rglob("item-*.json")) and not over.wait(0.01):
                pass
            while done < kills and not over.is_set():
                workers = [
                    child
                    for child in psutil.Process().children(recursive=True)
                    if child.is_running()
                    and "multiprocessing" in " ".join(child.cmdline())
                    and "spawn_main" in " ".join(child.cmdline())
                ]
                if workers:
                    chance.choice(workers).kill()
                    done += 1
                over.wait(chance.uniform(0.05, 0.6))

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        report = run_job(job, client, progress=False)
        rounds = 1
        while done < kills:  # the job was faster than the killer: give it more to do
            shutil.rmtree(out / "source-eoaug" / f"item-00000-super-resolve-{job.request[:8]}")
            again = run_job(job, client, progress=False)
            assert not again.failures
            rounds += 1
        over.set()
        killer.join()
    assert not report.failures, report.failures[:3]
    assert done >= kills
    finish(job, {name.replace("quiet", "out"): content for name, content in quiet.items()}, out)
    watcher.end()
    assert validate(out).items == (100 if kills >= 25 else 30)


@pytest.mark.parametrize(("processes", "rounds"), [(4, 1), pytest.param(4, 20, marks=pytest.mark.long)])
def test_several_processes_on_one_job_make_each_item_once(
    processes: int, rounds: int, tmp_path: Path, watch: Any
) -> None:
    """R6: the calls of the generator, counted over all processes, are those of one."""
    source = make_source(tmp_path / "in", 12)
    alone = tmp_path / "alone"
    alone.mkdir()
    run_job(a_job(source, tmp_path / "quiet" / "out", Fickle(str(alone))), progress=False)
    for number in range(rounds):
        out, counted = tmp_path / str(number) / "out", tmp_path / str(number) / "calls"
        counted.mkdir(parents=True)
        job = a_job(source, out)
        watcher = watch(out)
        running = [start(job, counted=counted) for _ in range(processes)]
        told = [process.communicate(timeout=300) for process in running]
        sums = [list(map(int, text.split()[1:])) for text, _ in told]
        assert [process.returncode for process in running] == [0] * processes, told
        assert sum(made for made, *_ in sums) == 12
        assert calls(counted) == calls(alone)
        assert watcher.result()["last"] == 12
        assert validate(out).sound
        (tmp_path / "stop-watching").unlink()
