"""A catalog that release 0.1.0 has written: it is read, checked, told and gone on with."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

import eoaug
from eoaug.errors import JobError
from eoaug.jobs.garbage import collect_garbage
from eoaug.jobs.runner import run_job
from eoaug.jobs.status import catalog_status, resumable
from eoaug.stac.validate import validate

from .conftest import a_job, snapshot

GOLDEN = Path(__file__).parent / "golden" / "catalog-0.1.0.tar.gz"
"""Two items by `super_resolve` with ``classical``: in the collection ``cog`` both, in ``zarr`` the first."""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "catalog-0.1.0"


def test_it_is_sound_and_read(written: Path) -> None:
    result = validate(written / "out")
    assert result.sound, str(result)
    cubes = {}
    for item in sorted(written.glob("out/*/item-*/*.json")):
        cube = cubes[item.parts[-3], item.stem[:10]] = eoaug.open_cube(item, chunks=None).squeeze()
        assert (cube["synthetic"] == 1).all()
    for file in sorted(written.glob("out/cog/*/*/B04.tif")):
        with rasterio.open(file) as stored:
            # Stored as uint16 with this scale.
            np.testing.assert_allclose(
                cubes["cog", file.parts[-3][:10]]["B04"], stored.read(1) * 1e-4, rtol=1e-6
            )
    # Both formats hold the same numbers.
    np.testing.assert_array_equal(cubes["zarr", "item-00000"]["B04"], cubes["cog", "item-00000"]["B04"])


def test_its_jobs_are_told_and_nothing_of_it_is_garbage(written: Path) -> None:
    assert [(status.published, status.failures) for status in catalog_status(written / "out")] == [
        (2, ()),
        (1, ()),
    ]
    before = snapshot(written / "out")
    collect_garbage(written / "out", unlisted=True)
    assert snapshot(written / "out") == before


def test_its_jobs_go_on_only_by_computing_again(written: Path) -> None:
    with pytest.raises(JobError, match=r"is of eoaug 0\.1\.0(?s:.*)eoaug run job\.yaml --recompute"):
        resumable(written / "out")
    job = a_job(written / "in", written / "out", output={"collection": "cog"})
    assert run_job(job, progress=False, recompute=True).published == 2
    assert validate(written / "out").sound
