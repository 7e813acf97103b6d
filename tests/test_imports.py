"""What `import eoaug` does not import, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "torchgeo", "kornia", "lightning", "geopandas", "diffusers", "transformers", "peft", "dask", "distributed", "odc", "rasterio", "zarr", "pystac",
         "pystac_client", "scipy.ndimage", "scipy.interpolate", "skimage", "matplotlib", "tqdm", "hypothesis", "typer"]  # fmt: skip


def loaded_after(code: str) -> set[str]:
    report = "import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_eoaug_is_light():
    # What xarray itself loads is xarray's affair.
    before, after = loaded_after("import xarray"), loaded_after("import eoaug")
    assert not [name for name in HEAVY if name in after - before]


@pytest.mark.parametrize(
    "code",
    [
        "import eoaug; eoaug.load('classical').card",
        "import eoaug, xarray as xr; xr.Dataset().eoaug; dir(eoaug)",
        "import eoaug.testing.scenes; eoaug.testing.TinyDenoiser().card",
    ],
    ids=["classical", "accessor", "testing"],
)
def test_light_work_stays_light(code):
    loaded = loaded_after(code)
    assert not {"torch", "diffusers", "transformers", "distributed", "rasterio", "hypothesis"} & loaded


def test_the_stac_floor_comes_with_its_names():
    loaded = loaded_after("import eoaug; eoaug.open_cube; eoaug.write")
    assert {"pystac", "odc.stac"} <= loaded
    assert not {"torch", "distributed"} & loaded
