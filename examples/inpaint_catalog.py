"""Fill 30 % clouds in every Sentinel-2 item of a catalog, and write the results into a new one.

python examples/inpaint_catalog.py [generator] [output catalog]
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

import eoaug
from eoaug import metrics
from eoaug.raster import masks
from eoaug.stac.summary import summarise

SAMPLE = Path(__file__).resolve().parents[1] / "catalogs" / "sample"
BANDS = ["B02", "B03", "B04", "B08"]
generator = sys.argv[1] if len(sys.argv) > 1 else "embedded"
target = sys.argv[2] if len(sys.argv) > 2 else "examples-output"

(collection,) = summarise(SAMPLE, collections=["sentinel-2-l2a"])
for seed, name in enumerate(collection.items):
    # The patches are far apart, so each is opened as a separate cube.
    cube = eoaug.open_cube(SAMPLE, ids=[name], bands=BANDS, chunks=None)
    clouds = masks.simulate(cube.odc.geobox.shape.yx, 0.30, seed=seed)
    filled = cube.eoaug.inpaint(mask=xr.DataArray(clouds, dims=("y", "x")), generator=generator)
    (item,) = eoaug.write(filled, target, collection="inpainted", overwrite=True)

    made, truth = (np.stack([ds[b].values[0] for b in BANDS]) for ds in (filled, cube))
    print(f"{item.id}: {metrics.psnr(made, truth, data_range=1.0, where=clouds):.1f} dB in the clouds")
