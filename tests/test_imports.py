"""What `import eoaug` does not import, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "torchgeo", "kornia", "lightning", "geopandas", "diffusers", "transformers", "peft", "dask", "distributed", "odc", "rasterio", "zarr", "pystac",
         "pystac_client", "scipy.ndimage", "scipy.interpolate", "skimage", "matplotlib", "tqdm", "hypothesis", "typer"]  # fmt: skip


STAGES = {
    # What xarray itself loads is xarray's affair.
    "xarray": "import xarray",
    "eoaug": "import eoaug",
    "classical": "eoaug.load('classical').card",
    "engine": "import eoaug.stac.xarray_engine",
    "accessor": "xarray.Dataset().eoaug; dir(eoaug)",
    "testing": "import eoaug.testing.scenes; eoaug.testing.TinyDenoiser().card",
    "stac": "eoaug.open_cube; eoaug.write",
}
"""Lines of one process: what a line must not load, no line before it may load either."""


@pytest.fixture(scope="module")
def loaded():
    """Return the names of the modules that are loaded after each stage."""
    report = "print('{}', *sys.modules)"
    code = "\n".join(f"{line}\n{report.format(stage)}" for stage, line in STAGES.items())
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True
    )
    return {stage: set(names) for stage, *names in map(str.split, done.stdout.splitlines())}


def test_importing_eoaug_is_light(loaded):
    assert not [name for name in HEAVY if name in loaded["eoaug"] - loaded["xarray"]]


@pytest.mark.parametrize("stage", ["classical", "engine", "accessor", "testing"])
def test_light_work_stays_light(loaded, stage):
    assert not {"torch", "diffusers", "transformers", "distributed", "rasterio", "hypothesis"} & loaded[stage]


def test_xarray_pays_nothing_for_the_engine(loaded):
    """It loads the engine for whoever opens a file without naming one."""
    assert not [name for name in HEAVY if name in loaded["engine"] - loaded["classical"]]


def test_the_stac_floor_comes_with_its_names(loaded):
    assert {"pystac", "odc.stac"} <= loaded["stac"]
    assert not {"torch", "distributed"} & loaded["stac"]
