"""`.odc` and `.rio` work after ``import eoaug`` alone, and importing their libraries later warns of nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

CUBE = "import warnings, xarray.core.extensions as e; warnings.simplefilter('error', e.AccessorRegistrationWarning); "
CUBE += "import eoaug, numpy as np, xarray as xr; ds = xr.Dataset({'red': (('y', 'x'), np.zeros((2, 3)))})"


@pytest.mark.parametrize(
    "use",
    [
        "; assert ds.odc.assign_crs('EPSG:32633').odc.crs.epsg == 32633",
        "; assert ds.red.rio.write_crs('EPSG:32633').rio.crs.to_epsg() == 32633",
        "; import rioxarray, odc.geo.xr; assert ds.rio.width == 3",
    ],
)
def test_accessors_of_other_libraries_load_at_their_first_use(use):
    subprocess.run([sys.executable, "-c", CUBE + use], check=True)
