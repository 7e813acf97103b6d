"""`open_cube` as an engine of xarray."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import xarray as xr

import eoaug
from eoaug.errors import GridError
from eoaug.stac.xarray_engine import EoaugEngine
from eoaug.testing import scene


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine") / "catalog"
    ds = scene((32, 40), dates=2, bands=("B03", "B04"))
    ds["B03"][0, :4] = ds["B04"][0, :4] = 0
    eoaug.write(ds.eoaug.inpaint(generator="classical"), out)
    return out


def test_the_engine_gives_what_open_cube_gives(catalog: Path) -> None:
    opened = xr.open_dataset(str(catalog), engine=EoaugEngine, bands=["B04", "synthetic"])
    expected = eoaug.open_cube(catalog, bands=["B04", "synthetic"])
    xr.testing.assert_identical(opened.load(), expected.load())
    tree = xr.open_datatree(str(catalog), engine=EoaugEngine, drop_variables="B03")
    assert "B03" not in tree.data_vars
    assert "B04" in tree.data_vars


def test_the_engine_is_registered_and_opens_only_what_it_is_named_for() -> None:
    (found,) = entry_points(group="xarray.backends", name="eoaug")
    assert found.load() is EoaugEngine
    assert not EoaugEngine().guess_can_open("scene.tif")


def test_bands_on_several_grids_are_a_tree() -> None:
    tree = xr.DataTree.from_dict({"/10m": scene((8, 8), dates=1), "/20m": scene((4, 4), dates=1)})
    with pytest.raises(GridError, match=r"(?s)several grids: 10m, 20m.*open_datatree"):
        EoaugEngine().open_dataset(tree)
