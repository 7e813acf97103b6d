"""Icechunk repositories: what comes back, what is refused, and what happens without the library."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
import zarr

from eoaug.errors import ParameterError, SourceError
from eoaug.jobs.runner import run_job
from eoaug.stac import validate
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write
from tests.jobs.conftest import a_job, make_source

from .conftest import augmented, grid, made_cube, told_anew

icechunk = pytest.importorskip("icechunk")


@pytest.fixture
def result():
    ds = made_cube(grid(size=64), times=3, names=("B02", "B11"))
    ds.B02[1, 5:9, 3:8] = np.nan
    return augmented(ds.assign_coords(item_id=("time", list("abc")), item_href=("time", ["/a", "/b", "/c"])))


def repository(item) -> Path:
    return Path(item.assets["data"].get_absolute_href())


def storage(folder: Path):
    return icechunk.local_filesystem_storage(str(folder))


def test_a_repository_comes_back_as_the_group_does(result, tmp_path, validate):
    (item,) = write(result, tmp_path / "ice", format="icechunk", ids=["g"])
    write(result, tmp_path / "zarr", format="zarr", ids=["g"])
    assert validate(tmp_path / "ice" / "catalog.json") == 1
    one, two = (open_cube(tmp_path / name, bands=["B02", "B11", "synthetic"]) for name in ("ice", "zarr"))
    xr.testing.assert_identical(*(ds.drop_vars("item_href").drop_attrs(deep=False) for ds in (one, two)))
    assert item.assets["synthetic"].roles == ["synthetic-mask"]


def test_other_readers_see_one_commit(result, tmp_path):
    (item,) = write(result, tmp_path, format="icechunk", ids=["g"])
    found = icechunk.Repository.open(storage(repository(item)))
    messages = [commit.message for commit in found.ancestry(branch="main")]
    assert messages == ["Written by eoaug.", "Repository initialized"]
    with xr.open_zarr(found.readonly_session("main").store, consolidated=False) as group:
        assert group.B02.odc.geobox == result.B02.odc.geobox
        assert np.allclose(group.B02, result.B02, atol=1e-4, equal_nan=True)


def test_damage_is_found_and_refused(result, tmp_path):
    (item,) = write(result, tmp_path, format="icechunk", ids=["g"])
    chunk = max((p for p in repository(item).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1])
    assert not validate.validate(tmp_path).sound
    with pytest.raises(SourceError, match="bytes instead of"):
        open_cube(item)
    chunk.unlink()
    with pytest.raises(SourceError, match="is not there"):
        open_cube(item)


def test_references_to_files_outside_are_not_followed(tmp_path):
    """S7: a repository may say that its chunks lie in any file of this machine."""
    (item,) = write(made_cube(grid()), tmp_path / "out", format="icechunk", ids=["g"])
    folder, secret = repository(item), tmp_path / "secret"
    secret.write_bytes(b"TOPSECRET" * 1000)
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(f"file://{tmp_path}/", icechunk.local_filesystem_store(str(tmp_path)))
    )
    hostile = icechunk.Repository.open(storage(folder), config=config)
    hostile.save_config()
    session = hostile.writable_session("main")
    plain = zarr.create_array(
        session.store, name="B02", shape=(1, 32, 32), chunks=(1, 32, 32), dtype="uint16", compressors=None,
        dimension_names=("time", "y", "x"), overwrite=True,
    )  # fmt: skip
    assert plain.shape == (1, 32, 32)
    session.store.set_virtual_ref("B02/c/0/0/0", f"file://{secret}", offset=0, length=2048)
    session.commit("evil")
    told_anew(folder)
    with pytest.raises(SourceError, match="virtual"):
        open_cube(item).compute()


def test_without_the_library_the_error_says_what_to_install(tmp_path, monkeypatch):
    (item,) = write(made_cube(grid()), tmp_path / "out", format="icechunk", ids=["g"])
    monkeypatch.setitem(sys.modules, "icechunk", None)
    source = make_source(tmp_path / "in", 1)
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump(
            a_job(source, tmp_path / "jobs", output={"format": "icechunk"}).model_dump(mode="json")
        )
    )
    calls = {
        ParameterError: [
            lambda: write(made_cube(grid()), tmp_path / "new", format="icechunk"),
            lambda: run_job(tmp_path / "job.yaml"),
        ],
        SourceError: [lambda: open_cube(item)],
    }
    for kind, uses in calls.items():
        for use in uses:
            with pytest.raises(kind, match="not installed") as caught:
                use()
            assert "eoaug[icechunk]" in caught.value.remedy
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "jobs").exists()
