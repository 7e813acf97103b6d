"""A job on a real SLURM of one node: munge, slurmctld and slurmd on loopback, started by these tests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from eoaug.cli.app import app
from eoaug.errors import JobError
from eoaug.jobs.config import read_job
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.runner import run_job
from eoaug.stac.validate import validate
from tests.forks import ROOT
from tests.jobs.conftest import a_job, make_source, snapshot, strays

from .conftest import CANARY, wait_for

pytestmark = pytest.mark.services

ITEMS = 50
CLUSTER = {
    "queue": "tests", "walltime": "00:20:00", "cores": 1, "memory": "1500MB", "jobs": 2, "interface": "lo",
}  # fmt: skip


def queued(state: str) -> list[str]:
    told = subprocess.run(["squeue", "-h", "-t", state, "-o", "%i"], capture_output=True, text=True)
    return told.stdout.split()


def written(job: Any, folder: Path) -> Path:
    """The job as a file, with a cluster."""
    config = job.model_dump(mode="json", exclude_defaults=True) | {"generator": "classical"}
    config["cluster"] = {**CLUSTER, "folder": str(folder / "shared")}
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    return folder / "job.yaml"


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def test_fifty_items_with_a_worker_cancelled(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Point 3 of the issue: equal bytes, and no credential in any file of the job."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"key{CANARY}")
    source = make_source(tmp_path / "in", ITEMS)
    run_job(a_job(source, tmp_path / "quiet" / "out"), progress=False)
    out = tmp_path / "slurm" / "out"
    file = written(a_job(source, out, run={"retries": 5}), tmp_path)
    cancelled: list[str] = []

    def cancel() -> None:
        while sum(1 for _ in out.glob("source-eoaug/*/item-*.json")) < 5:
            time.sleep(0.05)
        victim = queued("RUNNING")[0]
        subprocess.run(["scancel", victim], check=True)
        cancelled.append(victim)

    threading.Thread(target=cancel, daemon=True).start()
    command = [Path(sys.executable).with_name("eoaug"), "run", file, "--cluster", "slurm"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert told.returncode == 0, told.stderr
    (file,) = out.glob(".eoaug/reports/*/report.json")
    report = json.loads(file.read_text())
    # A worker may be cancelled after it has published an item, and before it could tell so.
    assert report["published"] + report["adopted"] == ITEMS
    assert report["failures"] == []
    assert len(cancelled) == 1
    garbage = collect_garbage(out)  # a worker that is cancelled while it writes leaves its scratch
    assert snapshot(out) == snapshot(tmp_path / "quiet" / "out")
    assert not strays(out)
    assert validate(out).items == ITEMS
    wait_for(lambda: not queued("RUNNING") and not queued("PENDING"), "the end of all SLURM jobs")
    assert CANARY not in told.stdout + told.stderr
    # SLURM itself keeps the environment that sbatch hands on, readable to its administrator.
    ours = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in ours if CANARY.encode() in path.read_bytes()] == []
    print(
        f"\n{ITEMS} items on SLURM, its job {cancelled[0]} cancelled after the fifth: equal bytes; gc {garbage}; "
        f"0 of {len(ours)} files with credentials\n{told.stdout}"
    )


def test_what_would_be_submitted_is_printed(slurm: Path, tmp_path: Path) -> None:
    file = written(a_job(tmp_path / "in", tmp_path / "out"), tmp_path)
    told = CliRunner().invoke(app, ["job-script", str(file)], catch_exceptions=False)
    assert told.exit_code == 0
    for line in (
        "#SBATCH -p tests",
        "#SBATCH -t 00:20:00",
        "#SBATCH --mem=",
        "#SBATCH --cpus-per-task=1",
    ):
        assert line in told.output
    assert "tls://" in told.output
    script = tmp_path / "script.sh"
    script.write_text(told.output)
    checked = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert not queued("RUNNING")


def test_gpus_and_more_are_asked_for(tmp_path: Path) -> None:
    from eoaug.jobs.slurm import job_script

    more = {"gpus": 2, "account": "earth", "directives": ["--exclusive"], "prologue": ["module load cuda"]}
    job = read_job(
        {
            "source": {"catalog": "c"},
            "verb": "inpaint",
            "output": {"catalog": "o"},
            "cluster": CLUSTER | more | {"folder": str(tmp_path)},
        }
    )
    script = job_script(job.cluster)
    for line in ("#SBATCH --gres=gpu:2", "#SBATCH -A earth", "#SBATCH --exclusive", "module load cuda"):
        assert line in script
    assert "--resources GPU=1" in script


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(a_job(make_source(tmp_path / "in", 1), tmp_path / "out"), tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    told = CliRunner().invoke(app, ["run", str(file), "--cluster", "slurm"])
    assert told.exit_code == 2
    assert "sbatch" in told.output
    file.write_text(file.read_text().partition("cluster:")[0])
    assert "cluster" in CliRunner().invoke(app, ["run", str(file), "--cluster", "slurm"]).output
    assert JobError
