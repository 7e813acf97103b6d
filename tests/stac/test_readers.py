"""Other people's tools read every catalog that eoaug writes: each reader on COGs, Zarr groups and ensembles of one place."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eoaug.stac.open import open_cube
from eoaug.stac.publish import write
from eoaug.stac.validate import validate

from . import readers
from .conftest import generated, grid, made_cube

MODULES = {
    "odc-stac": "odc.stac",
    "rio-tiler": "rio_tiler",
    "stac-geoparquet": "stac_geoparquet",
}
"""Where the module is not called like the reader."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    """Results of one place: files, a group of several dates, an ensemble, and one with a finer grid and missing pixels."""
    root = tmp_path_factory.mktemp("readers")
    ds = made_cube(grid(), times=3, names=("B02", "data"))
    series = generated(ds)
    series.synthetic[:, :9] = 0
    write(series, root, format="zarr", collection="series")
    write(generated(ds.isel(time=[1])), root, collection="files")
    write(generated(ds.isel(time=[2]).expand_dims(member=2)), root, format="zarr", collection="ensemble")
    fine = made_cube(grid(size=64, res=5.0), names=("B02", "data"), seed=1)
    fine["B02"] = fine.B02.where(fine.B02 > 0.2).assign_attrs(fine.B02.attrs)
    record = {"operation": "super_resolve", "token": "ab", "residual": {"B02": 0.1}}
    write(generated(fine, **record), root, collection="sharp")
    return root


def reader(name: str, *catalogs: Path) -> None:
    """Run a reader here, or with the Python that EOAUG_READERS names; skip it if neither has it."""
    module = MODULES.get(name, name)
    if importlib.util.find_spec(module.partition(".")[0]) is not None:
        for place in catalogs:
            assert readers.READERS[name](readers.items_of(place)) > 0
        return
    python = os.environ.get("EOAUG_READERS")
    if python is None:
        pytest.skip(
            f"{name} is not in the dev group; install it into another venv, with rasterio and pystac, and set "
            "EOAUG_READERS to its python"
        )
    script = Path(readers.__file__)
    run = subprocess.run(
        [python, "-W", "ignore", str(script), name, *map(str, catalogs)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("name", readers.READERS)
def test_pixels_are_equal_in_every_reader(name, catalog):
    more = [Path(path) for path in os.environ.get("EOAUG_READERS_CATALOGS", "").split(os.pathsep) if path]
    reader(name, catalog, *more)


def test_an_array_of_a_group_is_one_band_here(catalog):
    """The asset of the group lists what the assets of its arrays hold: each is read once."""
    items = {item.collection_id: item for item in readers.items_of(catalog)}
    assert set(items["series"].assets) == {
        "B02",
        "data",
        "group",
        "manifest",
        "synthetic",
        "thumbnail",
    }
    assert "3 layers" in items["series"].assets["B02"].title
    cube = open_cube(catalog, collections=["series"], chunks=None)
    assert list(cube.data_vars) == ["B02", "data", "synthetic"]
    assert cube.sizes["time"] == 3
    named = open_cube(catalog, collections=["ensemble"], bands=["blue"], chunks=None)
    assert (dict(named.sizes), set(named.data_vars)) == (
        {"member": 2, "time": 1, "y": 32, "x": 32},
        {"blue", "synthetic"},
    )
    assert validate(catalog).sound


def test_a_reader_that_takes_other_pixels_is_noticed(catalog):
    items = readers.items_of(catalog)
    first = next(item for item in items if item.collection_id == "files")
    first.assets["B02"].href, first.assets["data"].href = (
        first.assets["data"].href,
        first.assets["B02"].href,
    )
    truth = readers.stored(first)
    with pytest.raises(AssertionError, match="other pixels"):
        readers.same(np.flip(truth["B02"], 1), truth["B02"], "B02")


def test_measured_pixels_of_a_mask_are_not_nodata_for_gdal(catalog):
    items = [item for item in readers.items_of(catalog) if item.collection_id in ("series", "ensemble")]
    for item in items:
        with rasterio.open(item.assets["synthetic"].href) as file:
            assert file.nodata in (None, 255.0)
            assert file.read_masks(1).all() == (file.read(1) != 255).all()
