"""`.odc` and `.rio` work after ``import eoaug`` alone, and importing their libraries later warns of nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, sys, warnings, xarray.core.extensions as extensions
warnings.simplefilter("error", extensions.AccessorRegistrationWarning)
import eoaug, numpy as np, xarray as xr
ds = xr.Dataset({"red": (("y", "x"), np.zeros((2, 3)))})
uses = [
    "assert ds.odc.assign_crs('EPSG:32633').odc.crs.epsg == 32633",
    "assert ds.red.rio.write_crs('EPSG:32633').rio.crs.to_epsg() == 32633",
    "import rioxarray, odc.geo.xr; assert ds.rio.width == 3",
]
assert not {"odc.geo", "rioxarray"} & sys.modules.keys()
for use in uses:
    child = os.fork()  # each use is the first one of its process, which need not import eoaug again
    if child == 0:
        exec(use)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, use
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_accessors_of_other_libraries_load_at_their_first_use():
    subprocess.run([sys.executable, "-c", CODE], check=True)
