"""Catalogs in a real S3 service, behind a proxy that loses, delays, cuts and repeats, with clients that are killed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

import eoaug
from eoaug.errors import EoaugError
from eoaug.jobs.clusters import local_cluster
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.runner import run_job
from eoaug.stac.validate import validate
from eoaug.storage.crash_points import CRASH_POINTS
from eoaug.storage.locations import as_location
from tests.forks import ROOT, Forks
from tests.jobs.conftest import Launcher, a_job, make_source

from .conftest import CANARY, Bucket
from .proxy import FAULTS, Proxy

pytestmark = pytest.mark.services

RUNS = 20
ITEMS = 3


@pytest.fixture(autouse=True)
def calm(proxy: Proxy) -> Iterator[None]:
    proxy.calm()
    yield
    proxy.calm()


@pytest.fixture(scope="module")
def source(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A catalog in the bucket."""
    folder = make_source(tmp_path_factory.mktemp("objects") / "in", ITEMS)
    bucket.put_tree(folder, "in")
    return f"s3://{bucket.name}/in"


@pytest.fixture(scope="module")
def quiet(source: str, bucket: Bucket, proxy: Proxy) -> dict[str, dict[str, bytes]]:
    """What runs without trouble make."""
    proxy.calm()
    found = {}
    for form in ("cog", "zarr"):
        job = a_job(source, f"s3://{bucket.name}/quiet/{form}/out", output={"format": form})  # type: ignore[arg-type]
        assert run_job(job, progress=False).published == ITEMS
        found[form] = bucket.snapshot(f"quiet/{form}/out")
    return found


@pytest.fixture(scope="module")
def launcher(proxy: Proxy, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(forks, tmp_path_factory.mktemp("said"))


def look(bucket: Bucket, prefix: str) -> int:
    """Read what is listed as anybody would: all of it must be there, whole."""
    keys = set(bucket.keys(f"{prefix}/"))
    count = 0
    for key in sorted(keys):
        if not key.endswith("/collection.json"):
            continue
        links = [one["href"] for one in json.loads(bucket.get(key))["links"] if one["rel"] == "item"]
        assert len(links) == len(set(links)), "an item is listed twice"
        for href in links:
            home = key.rpartition("/")[0] + "/" + href[2:].rpartition("/")[0]
            item = json.loads(bucket.get(f"{home}/{href.rpartition('/')[2]}"))
            for asset in item["assets"].values():
                if "file:checksum" in asset:
                    content = bucket.get(f"{home}/{asset['href'][2:]}")
                    assert asset["file:size"] == len(content)
                    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
                    if asset["href"].endswith(".tif"):
                        with MemoryFile(content) as memory, memory.open() as file:
                            assert list(file.shape) == asset["proj:shape"]
            count += 1
    return count


def items_are_whole(bucket: Bucket, prefix: str) -> None:
    """Every object at a final key is whole, listed or not."""
    for name, content in bucket.snapshot(prefix).items():
        if name.endswith(".tif"):
            with MemoryFile(content) as memory, memory.open() as file:
                assert file.read(1).any()
        elif name.endswith(".json"):
            assert isinstance(json.loads(content), dict)


class Reader:
    """Looks at all runs over and over, past the proxy, while they are made and killed."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self.looks, self.problems = 0, []
        self._stop = threading.Event()

        def go() -> None:
            while not self._stop.wait(0.05):
                try:
                    look(bucket, prefix)
                except Exception as error:
                    self.problems.append(repr(error))
                self.looks += 1

        self._thread = threading.Thread(target=go, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def test_runs_in_trouble_are_finished_by_the_same_command(
    source: str, quiet: Any, bucket: Bucket, proxy: Proxy, launcher: Launcher
) -> None:
    """Point 1 of the issue: 20 runs with lost, late, cut and repeated answers and killed clients."""
    chance, kills, commands = random.Random(7), 0, 0
    reader = Reader(bucket, "troubled")
    for number in range(RUNS):
        form, plain = ("cog", "zarr")[number % 2], number % 5 == 4
        prefix = f"troubled/{number}/out"
        job = a_job(
            source,  # type: ignore[arg-type]
            f"s3://{bucket.name}/{prefix}",  # type: ignore[arg-type]
            output={"format": form},
            run={"retries": 3, "lease_s": 20},
        )
        proxy.trouble(0.12, number, plain=plain)
        if number % 2 == 0:
            pid, _ = launcher.start(
                job, point=CRASH_POINTS[number * 5 // 8 % len(CRASH_POINTS)], times=chance.randint(1, 3)
            )
        else:
            pid, _ = launcher.start(job)
            time.sleep(chance.uniform(0.3, 3.0))
            os.kill(pid, signal.SIGKILL)
        kills += launcher.wait(pid) == -signal.SIGKILL
        items_are_whole(bucket, prefix)
        for _ in range(5):
            commands += 1
            pid, said = launcher.start(job)
            if launcher.wait(pid) == 0 and json.loads(said.read_text())[3] == 0:
                break
        else:
            raise AssertionError("five times the same command were not enough")
        collect_garbage(
            f"s3://{bucket.name}/{prefix}"
        )  # leases of processes that died after they had published
        made = bucket.snapshot(prefix)
        assert set(made) == set(quiet[form])
        assert {name for name, content in made.items() if content != quiet[form][name]} == set()
        assert list(bucket.keys(f"{prefix}/.eoaug/leases")) == []
        assert look(bucket, prefix) == ITEMS
    reader.end()
    assert reader.problems == []
    assert kills >= RUNS // 2
    assert all(proxy.counts[fault] > 0 for fault in FAULTS)
    told = {fault or "none": count for fault, count in sorted(proxy.counts.items())}
    print(
        f"\n{RUNS} runs, {kills} killed, {commands} further commands, requests by fault: {told}; {reader.looks} looks"
    )


def test_repositories_in_trouble_are_finished_too(
    source: str, quiet: Any, bucket: Bucket, proxy: Proxy, launcher: Launcher
) -> None:
    """Icechunk names its files by chance, so pixels are compared, not bytes."""
    pytest.importorskip("icechunk")
    chance, kills, rounds = random.Random(11), 0, 6
    expected = pixels_of(bucket, "quiet/zarr/out")
    for number in range(rounds):
        prefix = f"repositories/{number}/out"
        out = f"s3://{bucket.name}/{prefix}"
        job = a_job(source, out, output={"format": "icechunk"}, run={"retries": 3, "lease_s": 20})  # type: ignore[arg-type]
        proxy.trouble(0.12, 100 + number)
        pid, _ = launcher.start(
            job, point=CRASH_POINTS[2 * number % len(CRASH_POINTS)], times=chance.randint(1, 3)
        )
        kills += launcher.wait(pid) == -signal.SIGKILL
        look(bucket, prefix)
        items_are_whole(bucket, prefix)
        for _ in range(5):
            pid, said = launcher.start(job)
            if launcher.wait(pid) == 0 and json.loads(said.read_text())[3] == 0:
                break
        else:
            raise AssertionError("five times the same command were not enough")
        proxy.calm()
        collect_garbage(out)
        assert look(bucket, prefix) == ITEMS
        assert validate(out).sound
        made = pixels_of(bucket, prefix)
        assert set(made) == set(expected)
        assert all(np.array_equal(made[name], values) for name, values in expected.items())
    assert kills >= rounds // 2
    print(f"\n{rounds} runs with repositories, {kills} killed: equal pixels, all sound")


def pixels_of(bucket: Bucket, prefix: str) -> dict[str, Any]:
    """Pixels of every item, by the id of its source."""
    homes = {key.split("/")[-2] for key in bucket.keys(f"{prefix}/source-eoaug/") if key.endswith(".json")}
    labels = [name for name in homes if f"{prefix}/source-eoaug/{name}/{name}.json" in bucket.keys(prefix)]
    out = f"s3://{bucket.name}/{prefix}"
    return {
        label.partition("-super")[0]: eoaug.open_cube(out, ids=[label], chunks=None).B04.values
        for label in labels
    }


def test_a_second_run_writes_nothing(source: str, quiet: Any, bucket: Bucket, proxy: Proxy) -> None:
    job = a_job(source, f"s3://{bucket.name}/quiet/cog/out")  # type: ignore[arg-type]
    before = bucket.snapshot("quiet/cog")
    proxy.requests.clear()
    report = run_job(job, progress=False)
    assert (report.skipped, report.published) == (ITEMS, 0)
    assert not proxy.requests["PUT"]
    assert bucket.snapshot("quiet/cog") == before


def test_what_stands_in_a_store_is_judged_and_repaired(
    source: str, bucket: Bucket, proxy: Proxy, quiet: Any
) -> None:
    prefix = "repaired/out"
    job = a_job(source, f"s3://{bucket.name}/{prefix}")  # type: ignore[arg-type]
    run_job(job, progress=False)
    assert str(validate(f"s3://{bucket.name}/{prefix}")) == f"{ITEMS} items, {2 * ITEMS} files: all sound"
    victim = next(key for key in bucket.keys(prefix) if key.endswith("B04.tif"))
    content = bytearray(bucket.get(victim))
    content[len(content) // 2] ^= 1
    bucket.put(victim, bytes(content))
    assert not validate(f"s3://{bucket.name}/{prefix}").sound
    again = a_job(source, f"s3://{bucket.name}/{prefix}", run={"verify": True})  # type: ignore[arg-type]
    assert run_job(again, progress=False).published == 1
    assert bucket.snapshot(prefix) == quiet["cog"]
    assert collect_garbage(f"s3://{bucket.name}/{prefix}").data == 0


def test_a_store_and_a_folder_hold_the_same_pixels(
    source: str, quiet: Any, bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    run_job(a_job(source, tmp_path / "out"), progress=False)  # type: ignore[arg-type]
    inside = {name: content for name, content in quiet["cog"].items() if name.endswith(".tif")}
    for name, content in inside.items():
        (file,) = tmp_path.glob(f"out/*/{name.split('/')[1]}/*/{name.rpartition('/')[2]}")
        with MemoryFile(content) as memory, memory.open() as one, rasterio.open(file) as two:
            assert (one.read(1) == two.read(1)).all()
    cube = eoaug.open_cube(f"s3://{bucket.name}/quiet/zarr/out", ids=None, limit=1)
    assert cube.B04.shape[-2:] == (48, 48)
    assert float(cube.B04.mean()) > 0


def test_write_goes_to_a_store(source: str, bucket: Bucket, proxy: Proxy) -> None:
    cube = eoaug.open_cube(source, ids=["item-00001"])
    fine = cube.eoaug.super_resolve(factor=2, generator="classical")
    (item,) = eoaug.write(fine, f"s3://{bucket.name}/written")
    assert item.get_self_href() == f"s3://{bucket.name}/written/source-eoaug/{item.id}/{item.id}.json"
    back = eoaug.open_cube(f"s3://{bucket.name}/written")
    assert back.B04.shape == fine.B04.shape


@pytest.mark.parametrize("plain", [False, True], ids=["conditions", "tickets"])
def test_edits_through_lost_answers_are_made_once(plain: bool, bucket: Bucket, proxy: Proxy) -> None:
    """R24: no duplicate and no false conflict, with conditional writes and without."""
    proxy.trouble(0.2, 24, plain=plain)
    name = "tickets" if plain else "conditions"
    # One bucket for each: what a store can is learnt once.
    other = Bucket(int(proxy._upstream), f"eoaug-{name}")
    place = as_location(f"s3://{other.name}/edits/counted.json")

    def add(worker: int) -> None:
        for number in range(8):
            word = f"{worker}-{number}"

            def change(before: bytes | None, word: str = word) -> bytes | None:
                words = json.loads(before or b"[]")
                return None if word in words else json.dumps([*words, word]).encode()

            place.edit(change)

    threads = [threading.Thread(target=add, args=[worker]) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = json.loads(other.get("edits/counted.json"))
    assert Counter(words) == Counter(f"{worker}-{number}" for worker in range(4) for number in range(8))
    assert [key for key in other.keys("edits/") if key != "edits/counted.json"] == []


_UPLOAD = """
import sys
from pathlib import Path
from eoaug.storage import s3
print("ready", flush=True)
sys.stdin.readline()
s3.put(sys.argv[2], Path(sys.argv[1]))
"""


def test_a_large_object_is_there_as_a_whole_or_not_at_all(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    file, chance = tmp_path / "large.tif", random.Random(3)
    file.write_bytes(chance.randbytes(50 * 2**20))
    dead = 0
    for number in range(6):
        address = f"s3://{bucket.name}/large/{number}.tif"
        command = [sys.executable, "-c", _UPLOAD, str(file), address]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdout.readline()
            client.stdin.write(b"\n")
            client.stdin.flush()
            time.sleep(chance.uniform(0.02, 0.5))
            client.kill()
        whole = f"large/{number}.tif" in bucket.keys("large/")
        dead += not whole
        if whole:
            assert bucket.get(f"large/{number}.tif") == file.read_bytes()
    assert dead > 0


def test_workers_on_a_store(
    source: str, bucket: Bucket, proxy: Proxy, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No credential is in the graph: the workers have them from their environment."""
    job, sent = a_job(source, f"s3://{bucket.name}/workers/out"), []  # type: ignore[arg-type]
    with local_cluster(2) as client:
        submit = client.submit

        def seen(*arguments: Any, **how: Any) -> Any:
            sent.append(cloudpickle.dumps((arguments, how)))
            return submit(*arguments, **how)

        monkeypatch.setattr(client, "submit", seen)
        assert run_job(job, client, progress=False).published == ITEMS
        logs = json.dumps([client.get_worker_logs(), client.get_scheduler_logs()])
    assert bucket.snapshot("workers/out") == quiet["cog"]
    assert len(sent) == ITEMS
    assert [task for task in sent if CANARY.encode() in task] == []
    assert CANARY not in logs
    print(f"\n0 of {len(sent)} tasks with credentials")


def test_signed_addresses_leave_no_signature(
    source: str, bucket: Bucket, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Point 4 of the issue: catalog and assets by signed URLs, as stores hand them out."""
    caplog.set_level(logging.DEBUG)
    signature = f"X-Amz-Signature={CANARY}"
    folder = make_source(tmp_path / "in", ITEMS)
    for file in folder.rglob("*.json"):
        document = json.loads(file.read_text())
        for one in [*document["links"], *document.get("assets", {}).values()]:
            one["href"] += f"?{signature}"
        file.write_text(json.dumps(document))
    bucket.put_tree(folder, "signed")
    before = len(proxy.lines)
    url = f"{proxy.url}/{bucket.name}/signed/catalog.json?{signature}"
    job = a_job(url, f"s3://{bucket.name}/signed-out", run={"pictures": 2})  # type: ignore[arg-type]
    report = run_job(job, progress=False)
    assert (report.published, report.failures) == (ITEMS, ())
    asked = proxy.lines[before:]
    assert sum(f"?{signature}" in line for line in asked if "/signed/" in line) > 2 * ITEMS
    assert sum("/signed/" in line and signature not in line for line in asked) == 0
    assert CANARY not in caplog.text + str(report) + report.to_json()
    made = bucket.keys("signed-out")
    assert [key for key in made if CANARY.encode() in bucket.get(key)] == []
    print(f"\nsigned catalog and assets: 0 of {len(made)} objects and 0 logs with the signature")


def test_what_a_store_refuses_is_told_without_credentials(
    source: str,
    bucket: Bucket,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Stores repeat key ids in what they answer."""
    caplog.set_level(logging.DEBUG)
    key = os.environ["AWS_ACCESS_KEY_ID"]
    told = f"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{key}</AWSAccessKeyId></Error>".encode()
    monkeypatch.setattr(proxy, "_ask", lambda *_: (403, [("Content-Type", "application/xml")], told))
    job = a_job(source, f"s3://{bucket.name}/refused/out")  # type: ignore[arg-type]
    with pytest.raises(EoaugError, match="403") as caught:
        run_job(job, progress=False)
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_no_credential_is_in_any_object(bucket: Bucket, proxy: Proxy) -> None:
    """Of all that the tests before have made, killed runs included."""
    keys = [key for key in bucket.keys("") if not key.startswith(("signed/", "large/"))]
    assert [key for key in keys if CANARY.encode() in bucket.get(key)] == []
    assert keys
    print(f"\n0 of {len(keys)} objects with credentials")
