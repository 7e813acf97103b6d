"""The operator's page, as it stands: its job and its commands, between an API, an object store and SLURM."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pystac_client
import pytest
import yaml

from tests.forks import ROOT
from tests.jobs.conftest import make_source

from .conftest import CANARY, Bucket, Service, post
from .proxy import Proxy

pytestmark = pytest.mark.services

PAGE = ROOT / "examples" / "operator.md"
ITEMS = 8


def its_job() -> dict[str, Any]:
    found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    job: dict[str, Any] = yaml.safe_load(found[1])
    return job


def its_commands() -> list[str]:
    return re.findall(r"^    (eoaug [^#\n]*[^#\s])", PAGE.read_text(), re.MULTILINE)


@pytest.fixture
def source(service: Service, bucket: Bucket, tmp_path: Path) -> str:
    """A collection of the API whose files are in the store; half of it has too many clouds."""
    folder = make_source(tmp_path / "in", ITEMS)
    bucket.put_tree(folder, "scenes")
    collection = json.loads((folder / "source" / "collection.json").read_text())
    post(f"{service.url}/collections", {**collection, "id": "scenes", "links": []})
    for number, file in enumerate(sorted(folder.glob("source/*/*.json"))):
        item = json.loads(file.read_text())
        item["collection"] = "scenes"
        item["properties"] |= {"datetime": "2024-06-02T10:00:00Z", "eo:cloud_cover": 5 * number}
        item["assets"]["B04"]["href"] = f"s3://{bucket.name}/scenes/source/{file.stem}/B04.tif"
        post(f"{service.url}/collections/scenes/items", item)
    return f"s3://{bucket.name}/scenes"


def test_every_command_of_the_page_runs(
    source: str,
    slurm: Path,
    service: Service,
    bucket: Bucket,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what names this machine's services is put in the place of the page's names."""
    monkeypatch.setenv("EOAUG_API_TOKEN", f"token{CANARY}")
    results = f"s3://{bucket.name}/augmented"
    job = its_job()
    job["source"] |= {"catalog": service.url, "collections": ["scenes"], "bands": ["B04"], "allow": [source]}
    job["output"] |= {"catalog": results, "api": service.url}
    job["cluster"] |= {"queue": "tests", "jobs": 2, "cores": 1, "memory": "2500MB", "interface": "lo"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said: dict[str, str] = {}
    for command in [*its_commands(), "eoaug run job.yaml --cluster slurm"]:
        words = shlex.split(command.replace("s3://results/augmented", results))
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        print(f"\n$ {command}\n{done.stdout}")
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
        again = " again" if command in said else ""
        said[command + again] = done.stdout
    kinds = [command.split()[1] for command in said]
    assert kinds == ["plan", "job-script", "run", "status", "validate", "gc", "run"]
    assert "4, of which 0 exist" in said["eoaug plan job.yaml"]
    assert "#SBATCH" in said["eoaug job-script job.yaml"]
    assert re.search(r"^published +4$", said["eoaug run job.yaml --cluster slurm"], re.MULTILINE)
    assert re.search(r"^published +4$", said["eoaug status job.yaml"], re.MULTILINE)
    assert "4 items" in said["eoaug validate s3://results/augmented"]
    assert re.search(r"^skipped.* 4$", said["eoaug run job.yaml --cluster slurm again"], re.MULTILINE)
    made = list(pystac_client.Client.open(service.url).search(collections=["scenes-eoaug"]).items())
    assert len(made) == 4
    assert all(item.assets["B04"].href.startswith(f"{results}/scenes-eoaug/{item.id}/") for item in made)
    left = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    left += [bucket.get(key) for key in bucket.keys("augmented")]
    left += [json.dumps(item.to_dict()).encode() for item in made]
    assert not any(CANARY.encode() in content for content in left)
    print(f"0 of {len(left)} files, objects and items of the API with credentials")
