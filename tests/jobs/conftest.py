"""Catalogs of many small items, jobs over them, and what an independent reader makes of the result."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from eoaug.generators import load
from eoaug.generators.base import Card, Request
from eoaug.jobs.config import Job, read_job
from eoaug.stac.open import open_cube
from tests.forks import Forks

EDGE_PX = 24


LONG = pytest.mark.long


def counts(short: int, full: int, *, parts: int = 1) -> list[Any]:
    """Parameters (count, part): a short form, and the full count in parts, each by its own chance."""
    share = full // parts
    assert share * parts == full
    long = [pytest.param(share, part, marks=LONG, id=f"{share}-{part}") for part in range(1, parts + 1)]
    return [pytest.param(short, 0, id=f"{short}"), *long]


def pixels(number: int, edge: int = EDGE_PX) -> NDArray[np.uint16]:
    return np.random.default_rng(number).integers(500, 5000, (edge, edge)).astype(np.uint16)


def add_item(folder: Path, number: int, *, values: NDArray[np.uint16] | None = None) -> Path:
    """Write one item of a band; the caller lists it."""
    name = f"item-{number:05d}"
    home = folder / "source" / name
    home.mkdir(parents=True, exist_ok=True)
    grid = Affine(10, 0, 500000 + 1000 * (number % 100), 0, -10, 5000000 - 1000 * (number // 100))
    band = pixels(number) if values is None else values
    profile = {
        "driver": "GTiff",
        "height": band.shape[0],
        "width": band.shape[1],
        "count": 1,
        "dtype": "uint16",
    }
    with rasterio.open(home / "B04.tif", "w", crs="EPSG:32633", transform=grid, nodata=0, **profile) as file:
        file.write(band, 1)
    content = (home / "B04.tif").read_bytes()
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": name,
        "collection": "source",
        "geometry": {"type": "Polygon", "coordinates": [[[15, 45], [15.1, 45], [15.1, 45.1], [15, 45]]]},
        "bbox": [15, 45, 15.1, 45.1],
        "properties": {
            "datetime": "2021-06-01T10:00:00Z",
            "platform": "sentinel-2a",
            "proj:code": "EPSG:32633",
        },
        "links": [],
        "assets": {
            "B04": {
                "href": "./B04.tif",
                "type": "image/tiff; application=geotiff",
                "roles": ["data"],
                "data_type": "uint16",
                "nodata": 0,
                "raster:scale": 1e-4,
                "raster:offset": 0.0,
                "proj:shape": list(band.shape),
                "proj:transform": list(grid)[:6],
                "bands": [{"name": "B04", "eo:common_name": "red"}],
                "file:checksum": "1220" + hashlib.sha256(content).hexdigest(),
            }
        },
    }
    (home / f"{name}.json").write_text(json.dumps(document))
    return home


def list_items(folder: Path) -> None:
    """Write collection and catalog of the items that are there."""
    names = sorted(home.name for home in (folder / "source").iterdir() if home.is_dir())
    links = [{"rel": "item", "href": f"./{name}/{name}.json"} for name in names]
    about = {"stac_version": "1.1.0", "description": "made for a test"}
    extent = {
        "spatial": {"bbox": [[15, 45, 15.1, 45.1]]},
        "temporal": {"interval": [["2021-06-01T10:00:00Z", None]]},
    }
    collection = {
        "type": "Collection",
        "id": "source",
        "license": "other",
        "extent": extent,
        "links": links,
        **about,
    }
    (folder / "source" / "collection.json").write_text(json.dumps(collection))
    child = [{"rel": "child", "href": "./source/collection.json"}]
    (folder / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": child, **about}))


def make_source(folder: Path, count: int) -> Path:
    for number in range(count):
        add_item(folder, number)
    list_items(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six items."""
    return make_source(tmp_path / "in", 6)


def a_job(inputs: Path, out: Path, generator: Any = "classical", **changes: Any) -> Job:
    config: dict[str, Any] = {
        "source": {"catalog": str(inputs), **changes.pop("source", {})},
        "verb": changes.pop("verb", "super_resolve"),
        "parameters": changes.pop("parameters", {"factor": 2}),
        "generator": generator,
        "output": {"catalog": str(out), **changes.pop("output", {})},
        "run": {"pictures": 0, "retries": 0, **changes.pop("run", {})},
    }
    assert not changes, changes
    return read_job(config)


# -- generators, at module level so that workers find them -------------------------------------------------


class Fickle:
    """The classical generator with something amiss, chosen per item by its seed-independent first pixel.

    Parameters
    ----------
    folder
        Every call leaves a file here, so that calls are counted over processes.
    trouble
        ``""``, ``"raise"``, ``"hang"``, ``"memory"``, ``"die"`` or ``"eat"``.
    marked
        Values of the first coarse pixel of the items that get into trouble; empty: all.
    """

    def __init__(self, folder: str, trouble: str = "", marked: Sequence[int] = ()) -> None:
        self.folder, self.trouble, self.marked = folder, trouble, tuple(marked)

    @property
    def card(self) -> Card:
        return load("classical").card

    def generate(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        name = hashlib.sha256(os.urandom(16)).hexdigest()[:16]
        (Path(self.folder) / f"{os.getpid()}-{name}").touch()
        if self.trouble and self._is_marked(requests[0]):
            if self.trouble == "raise":
                raise RuntimeError("the generator is in trouble")
            if self.trouble == "memory":
                raise MemoryError
            if self.trouble == "die":
                os.kill(os.getpid(), 9)
            held = []
            while self.trouble == "eat":  # until somebody ends this process
                held.append(np.ones(2**21))
                time.sleep(0.01)
            release = Path(self.folder).with_name("release")
            while not release.exists():  # so that the process that tests it can end
                time.sleep(0.05)
            raise RuntimeError("released")
        return load("classical").generate(requests)

    def _is_marked(self, request: Request) -> bool:
        if not self.marked:
            return True
        coarse = request.coarse_tile if request.coarse is not None else request.values
        return any(np.isclose(coarse, mark, rtol=0, atol=1e-3).any() for mark in self.marked)


def coarse_unit(source: Path) -> float:
    """What the generator sees where the item says 7777."""
    seen: list[float] = []

    class Spy:
        card = load("classical").card

        def generate(self, requests: Any) -> Any:
            seen.append(float(np.nanmax(requests[0].coarse_tile)))
            return load("classical").generate(requests)

        def __reduce__(self) -> Any:
            return load, ("classical",)

    cube = open_cube(source, ids=["item-00004"], chunks=None)
    cube.eoaug.super_resolve(factor=2, generator=Spy())
    return seen[0]


def calls(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


# -- the independent reader ---------------------------------------------------------------------------------


def snapshot(out: Path) -> dict[str, bytes]:
    """Every published file by name: what two runs must share to the last byte."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith(".eoaug/"):
            found[name] = path.read_bytes()
    return found


def strays(out: Path) -> list[str]:
    """Scratch, locks and leases of nobody."""
    found = [p for p in out.rglob("*") if p.name.startswith(".") and p.name != ".eoaug"]
    found += list((out / ".eoaug" / "leases").rglob("*.json"))
    return [path.relative_to(out).as_posix() for path in found]


READER = """
import hashlib, json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, pystac, rasterio, xarray as xr
from pathlib import Path

def look(out):
    catalog = Path(out) / "catalog.json"
    if not catalog.is_file():
        return 0
    count = 0
    for child in pystac.Catalog.from_file(str(catalog)).get_children():
        hrefs = [link.get_absolute_href() for link in child.get_links("item")]
        assert len(hrefs) == len(set(hrefs)), "an item is listed twice"
        for href in hrefs:
            item = pystac.Item.from_file(href)
            for name, asset in item.assets.items():
                path = Path(asset.get_absolute_href())
                told = asset.extra_fields
                if path.suffix == ".tif":
                    content = path.read_bytes()
                    assert told["file:size"] == len(content), path
                    assert told["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest(), path
                    with rasterio.open(path) as file:
                        assert list(file.shape) == told["proj:shape"]
                        assert file.read(1).any()
                elif name == "data":
                    store = path
                    if path.suffix == ".icechunk":
                        import icechunk
                        icechunk.set_logs_filter("error")
                        storage = icechunk.local_filesystem_storage(str(path))
                        store = icechunk.Repository.open(storage).readonly_session("main").store
                    with xr.open_zarr(store) as group:
                        assert all(np.isfinite(v).all() for v in group.data_vars.values() if v.ndim > 1)
            count += 1
    return count
"""
"""An independent reader: pystac, rasterio, xarray and icechunk, nothing of eoaug."""

_WATCH = (
    READER
    + """
import select
outs, looks = None, 0

def catalogs():
    found = list(outs.iterdir()) if outs and outs.is_dir() else []
    return sorted(found, key=lambda out: out.stat().st_mtime)

while True:
    # A reader that never rests would take the time of the job.
    if outs is None or select.select([sys.stdin], [], [], 0.3)[0]:
        verb, _, path = sys.stdin.readline().strip().partition(" ")
        if verb == "watch":
            outs, looks = Path(path), 0
            print("watching", flush=True)
        elif verb == "look":
            print(look(path), flush=True)
        elif verb == "end":
            print(json.dumps({"looks": looks, "last": sum(map(look, catalogs()))}), flush=True)
            outs = None
        else:
            break
    else:
        # Those that something happens to; the others are looked at in the end.
        for out in catalogs()[-2:]:
            look(out)
        looks += 1
"""
)


class Watcher:
    """A process that reads the catalogs in a folder over and over, and fails at the first thing that is not complete."""

    def __init__(self) -> None:
        self.rests = True
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _tell(self, verb: str, path: Path | str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {path}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        told = self._process.stdout.readline()
        assert told, self._process.stderr.read()
        return told

    def watch(self, outs: Path) -> None:
        """Look at what is in this folder from now on."""
        self.rests = False
        self._tell("watch", outs)
        assert self._answer().strip() == "watching"

    def look(self, out: Path) -> int:
        """Look at one catalog as it is now; return the number of its items, all complete."""
        self._tell("look", out)
        return int(self._answer())

    def result(self) -> dict[str, int]:
        """Look at everything once more, and stop; return how often it was looked at, and the number of items."""
        self._tell("end")
        told: dict[str, int] = json.loads(self._answer())
        self.rests = True
        return told

    def end(self) -> None:
        self.rests = False
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def watchers() -> Iterator[list[Watcher]]:
    """The watcher that rests, if there is one: what it imports takes longer than most jobs that it looks at."""
    resting: list[Watcher] = []
    yield resting
    for watcher in resting:
        watcher.end()


@pytest.fixture
def watch(watchers: list[Watcher]) -> Iterator[Any]:
    """Give a function that starts watching a folder."""
    watcher = watchers.pop() if watchers else Watcher()

    def start(outs: Path) -> Watcher:
        watcher.watch(outs)
        return watcher

    yield start
    if watcher.rests:
        watchers.append(watcher)
    else:
        watcher.end()


_JOB = """
import json, os, signal, sys, time
from pathlib import Path
from tests.jobs.conftest import Fickle
from eoaug.storage import crash_points
from eoaug.stac.catalog import Root
from eoaug.jobs.runner import run_job

told = json.loads(sys.argv[1])
times = told["times"]

def list_on(out):
    root, number = Root.at(Path(out)), times
    about = {"bbox": [15, 45, 15.1, 45.1], "properties": {"datetime": "2021-06-01T10:00:00Z"}}
    while True:
        root.register("c", [{"id": f"item-{number:05d}", **about}], "Made for a test.")
        number += 1

def stop(reached):
    global times
    if reached == told["point"]:
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)

if told["lists"]:
    list_on(told["lists"])
crash_points.set_hook(stop)
real, ahead = time.time, told["ahead_s"]
time.time = lambda: real() + ahead
config = told["config"]
if told["calls"]:
    config["generator"] = Fickle(told["calls"])
report = run_job(config, progress=False)
with open(told["said"], "w") as file:
    json.dump([report.published, report.skipped, report.adopted, len(report.failures)], file)
"""


class Launcher:
    """Runs jobs in processes of their own, which kill themselves when they reach a point for the n-th time."""

    def __init__(self, forks: Forks, room: Path) -> None:
        self._forks, self._room, self._count = forks, room, 0

    def _started(self, told: dict[str, Any]) -> int:
        return self._forks.start(_JOB, json.dumps(told)).pid

    def start(
        self, job: Any, *, point: str = "", times: int = 0, counted: Path | None = None, ahead_s: float = 0.0
    ) -> tuple[int, Path]:
        """Return the process and the file where it says what it did, if it lives so long.

        ``ahead_s``: how many seconds its clock is ahead.
        """
        self._count += 1
        said = self._room / f"said-{self._count}"
        config = job.model_dump(mode="json", exclude={"generator"}) | {"generator": "classical"}
        told = {
            "config": config,
            "point": point,
            "times": times,
            "calls": str(counted or ""),
            "said": str(said),
            "lists": "",
            "ahead_s": ahead_s,
        }
        return self._started(told), said

    def list_on(self, out: Path, number: int) -> int:
        """Start a process that adds items to a collection until it is killed; return the process."""
        return self._started({"lists": str(out), "times": number})

    def kill(self, pid: int) -> None:
        """Kill a process with all that it has started."""
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)  # so early that it has no group yet
        self.wait(pid)

    def wait(self, pid: int) -> int:
        return self._forks.ask({"wait": pid})


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of writing is the one thing in an item that differs between runs."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
