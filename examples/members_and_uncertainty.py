"""Fill clouds with an ensemble of eight, and check whether its spread predicts the error.

python examples/members_and_uncertainty.py [generator]
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

import eoaug
from eoaug import metrics
from eoaug.raster import masks

SAMPLE = Path(__file__).resolve().parents[1] / "catalogs" / "sample"
ITEM = "S2A_MSIL2A_20170617T113321_36_85"
BANDS = ["B02", "B03", "B04", "B08"]
generator = sys.argv[1] if len(sys.argv) > 1 else "embedded"

cube = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=BANDS, chunks=None)
clouds = masks.simulate(cube.odc.geobox.shape.yx, 0.30, seed=1)
mask = xr.DataArray(clouds, dims=("y", "x"))
# steps=0 gives the best estimate, which is the same for all members; samples need denoising steps.
drawn = cube.eoaug.inpaint(mask=mask, members=8, steps=4, generator=generator)

members = np.stack([drawn[b].values[:, 0] for b in BANDS], axis=1)
truth = np.stack([cube[b].values[0] for b in BANDS])
mean, spread = members.mean(axis=0), members.std(axis=0, ddof=1)
error = np.abs(mean - truth)
print(f"in the clouds: mean error {error[:, clouds].mean():.4f}, mean spread {spread[:, clouds].mean():.4f}")
print(f"outside, every member equals the measurement: {(members == truth)[:, :, ~clouds].all()}")
print(
    f"CRPS {metrics.crps(members, truth, where=clouds):.4f}; of the mean alone {error[:, clouds].mean():.4f}"
)
