"""The mask of the extra omnicloudmask: what the package is called with, and what is said where something is missing."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

import eoaug
from eoaug.errors import BandError, EoaugError, GeneratorError, GridError
from eoaug.verbs.inpaint import prepare_inpaint
from tests.cube.test_mask_buffer import N, cube


def series():
    ds = cube().drop_vars("scl")
    ds["green"] = ds.red * 0.8
    ds.red.values[0, :6, :9] = np.nan
    ds.red.values[:, 30:34, 20:25] = 0.95
    return ds


def filled(ds, mask="omnicloudmask", **arguments):
    return np.asarray(prepare_inpaint(ds, {"generator": "classical"}, mask=mask, **arguments).inputs.mask)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A stub of the package: cloud where red is bright; its weights lie in a folder."""
    calls = []

    def predict_from_array(array, **options):
        calls.append((array, options))
        return np.where(array[0] > 0.9, 2, 0).astype("uint8")[None]

    stub, downloads = ModuleType("omnicloudmask"), ModuleType("omnicloudmask.download_models")
    stub.__spec__ = importlib.util.spec_from_loader("omnicloudmask", None)
    index = tmp_path / "index.csv"
    index.write_text("file_name,version\nold.pth,1\na.safetensors,4\nb.safetensors,4\n")
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("a", "b"):
        (weights / f"{name}.safetensors").write_bytes(bytes(1024 * 1024 + 1))
    downloads.model_index_path = index
    downloads.get_latest_model_version = lambda: 4.0
    downloads.get_model_data_dir = lambda: weights
    stub.predict_from_array, stub.download_models = predict_from_array, downloads
    monkeypatch.setitem(sys.modules, "omnicloudmask", stub)
    monkeypatch.setitem(sys.modules, "omnicloudmask.download_models", downloads)
    return calls, weights


def test_the_package_gets_red_green_and_nir_of_a_date(package):
    calls, weights = package
    ds = series()
    expected = np.zeros((2, N, N), bool)
    expected[:, 30:34, 20:25] = True
    np.testing.assert_array_equal(filled(ds, mask_buffer=0), expected)
    assert filled(ds).sum() > 3 * expected.sum()
    array, options = calls[0]
    assert array.shape == (3, N, N)
    assert array.dtype == np.float32
    assert (array[:, :6, :9] == 0).all()
    for plane, name in zip(array, ("red", "green", "nir"), strict=True):
        np.testing.assert_array_equal(plane[6:], ds[name].values[0, 6:])
    assert options["destination_model_dir"] == str(weights)
    assert options["no_data_value"] == 0
    assert options["patch_overlap"] < options["patch_size"] <= N


def test_chunks_change_no_pixel_and_the_mask_is_recorded(package):
    ds, folder = series(), package[1]
    for name in ("omnicloudmask", f"omnicloudmask:{folder}"):
        np.testing.assert_array_equal(filled(ds.chunk(y=11, x=17), name), filled(ds))
    record = eoaug.inpaint(ds, mask="omnicloudmask", generator="classical").eoaug.provenance
    assert record.parameters["mask"] == "omnicloudmask"
    assert record.parameters["mask_buffer"] == 100.0


def test_what_is_missing_is_named_with_its_remedy(package, monkeypatch, tmp_path):
    ds = series()
    with pytest.raises(BandError, match="needs the bands red, green and nir, and green"):
        filled(ds.drop_vars("green"))
    with pytest.raises(GridError, match="32 px or more"):
        filled(ds.isel(x=slice(0, 20)))
    with pytest.raises(
        GeneratorError, match=r"(?s)a\.safetensors are not in .*get_models\(model_dir="
    ) as refused:
        filled(ds, f"omnicloudmask:{tmp_path}")
    assert "fetches none" in str(refused.value)
    (package[1] / "b.safetensors").write_bytes(b"half")
    with pytest.raises(GeneratorError, match=r"b\.safetensors"):
        filled(ds)
    monkeypatch.setattr("eoaug.verbs.omnicloudmask.find_spec", lambda name: None)
    with pytest.raises(GeneratorError, match=r"pip install 'eoaug\[omnicloudmask\]'"):
        filled(ds)


def test_the_package_itself():
    pytest.importorskip(
        "omnicloudmask", reason="omnicloudmask is not installed: pip install 'eoaug[omnicloudmask]'"
    )
    try:
        mask = filled(series(), mask_buffer=0)
    except EoaugError as error:
        pytest.skip(error.problem)
    assert mask.shape == (2, N, N)
