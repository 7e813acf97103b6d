"""Several processes in one catalog, and what a killed one leaves behind. The processes are real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pystac
import pytest

from eoaug.errors import TargetError
from eoaug.stac.publish import write
from eoaug.storage import locks
from eoaug.storage.atomic import atomic_write, remove_stale_scratch, scratch_dir

from .conftest import grid, made_cube

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes")

_OTHER = """
import sys, time
from pathlib import Path
import dask.array as da
import numpy as np
from tests.stac.conftest import grid, made_cube
from eoaug.stac.publish import write

folder = Path(sys.argv[1])
ds = made_cube(grid(size=8), times=8)
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
write(ds, folder / "catalog", collection="both", ids=[f"b-{n}" for n in range(8)])
write(ds, folder / "catalog", collection="b", format="zarr", ids=["b-group"])

def hang(block):
    if block.size:
        (folder / "hangs").touch()
        time.sleep(600)
    return block

lazy = da.from_array(ds.B02.values, chunks=(1, 8, 8)).map_blocks(hang, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
(folder / "done").touch()
write(ds.assign(B02=(ds.B02.dims, lazy)), folder / "killed", collection="c")
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory, forks):
    """Another process: writes eight items and a group once told to go, then hangs in a third write."""
    folder = tmp_path_factory.mktemp("other")
    process = forks.start(_OTHER, folder)
    yield process, folder
    if process.lives:
        process.kill()


def wait_for(process, path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.lives, "the other process has ended"
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.001)


def hidden(folder):
    return [path.name for path in folder.rglob(".*")]


def test_two_processes_lose_no_link(other, validate):
    process, folder = other
    ds = made_cube(grid(size=8), times=8)
    wait_for(process, folder / "ready")
    (folder / "go").touch()
    write(ds, folder / "catalog", collection="both", ids=[f"a-{n}" for n in range(8)])
    write(ds, folder / "catalog", collection="a", format="zarr", ids=["a-group"])
    wait_for(process, folder / "done")
    root = folder / "catalog"
    links = json.loads((root / "both" / "collection.json").read_text())["links"]
    items = [link["href"].split("/")[1] for link in links if link["rel"] == "item"]
    assert sorted(items) == sorted(f"{name}-{n}" for name in "ab" for n in range(8))
    top = pystac.Catalog.from_file(str(root / "catalog.json"))
    assert {child.id for child in top.get_children()} == {"a", "b", "both"}
    assert validate(root / "catalog.json") == 18
    assert not hidden(root)


def test_the_next_write_clears_away_what_a_killed_one_left(other):
    process, folder = other
    (folder / "go").touch()
    wait_for(process, folder / "hangs")
    root, ds = folder / "killed", made_cube(grid(size=8))
    alive = hidden(root / "c")
    assert alive
    write(ds, root, collection="c", ids=["during"])
    assert set(alive) <= set(hidden(root / "c"))
    process.kill()
    write(ds, root, collection="c", ids=["after"])
    assert not hidden(root)
    assert {path.name for path in (root / "c").iterdir()} == {"after", "during", "collection.json"}


@pytest.fixture
def dead():
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_scratch_of_dead_processes_of_this_machine_goes(tmp_path, dead):
    with scratch_dir(tmp_path) as room:
        begin = room.name.split(f"{os.getpid()}-")[0]
    stale = f"{begin}{dead}-abc"
    kept = [
        f"{begin}{os.getpid()}-abc", f"{begin}1-abc", f"{begin}x-abc", f".eoaug-00000000-{dead}-abc",
        f".eoaug-{dead}", ".other", "item",
    ]  # fmt: skip
    for name in [stale, *kept]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "pixels").write_text("x")
    outside = tmp_path / "item"
    (tmp_path / f"{begin}{dead}-link").symlink_to(outside)
    (tmp_path / f"{begin}{dead}-file").write_text("x")
    remove_stale_scratch(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, f"{begin}{dead}-link", f"{begin}{dead}-file"}
    assert (outside / "pixels").exists()


def test_what_a_killed_write_was_replacing_comes_back(tmp_path, dead):
    with scratch_dir(tmp_path) as mine:
        room = tmp_path / mine.name.replace(f"{os.getpid()}-", f"{dead}-")
    for name in ("gone.old", "there.old"):
        (room / name).mkdir(parents=True)
        (room / name / "mine").write_text("old")
    (tmp_path / "there").mkdir()
    remove_stale_scratch(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"gone", "there"}
    assert (tmp_path / "gone" / "mine").read_text() == "old"
    assert not list((tmp_path / "there").iterdir())


def test_a_replacement_that_fails_leaves_the_old(tmp_path, monkeypatch):
    target = tmp_path / "item"
    target.mkdir()
    (target / "old").touch()

    def fail(self, other):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(TargetError, match="Input/output"), atomic_write(target, overwrite=True) as scratch:
        scratch.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["item", "old"]


def test_a_document_that_stays_locked_is_an_error_and_a_dead_lock_is_none(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    write(made_cube(grid(size=8)), tmp_path, ids=["a"])
    lock = tmp_path / "eoaug" / ".collection.json.lock"
    lock.touch()  # left by a process that died
    write(made_cube(grid(size=8)), tmp_path, ids=["b"])
    assert not lock.exists()
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.1)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match=r"collection.json' for more than 0.1 s"):
            write(made_cube(grid(size=8)), tmp_path, ids=["c"])
    write(made_cube(grid(size=8)), tmp_path, ids=["c"], overwrite=True)
    links = json.loads((tmp_path / "eoaug" / "collection.json").read_text())["links"]
    assert [link["href"] for link in links if link["rel"] == "item"] == [f"./{n}/{n}.json" for n in "abc"]


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.warns(UserWarning, match="one process at a time"):
        (item,) = write(made_cube(grid(size=8)), tmp_path)
    assert np.isfinite(item.bbox).all()
