"""What an installed eoaug must do with the packages that it finds: `make packages` runs it in several environments.

python packaging/try_wheel.py      in an empty folder, with the interpreter of the environment
"""

from importlib.util import find_spec

import xarray as xr

import eoaug
from eoaug.errors import PackageError
from eoaug.raster.masks import simulate

ITEM = "S2A_MSIL2A_20170617T113321_36_85"
cube = eoaug.open_cube(eoaug.sample(), ids=[ITEM], bands=["B02", "B03", "B04", "B08", "B11"], chunks=None)
cube = cube.isel(x=slice(0, 48), y=slice(0, 48))
mask = xr.DataArray(simulate((48, 48), 0.2), dims=("y", "x"))

filled = cube.eoaug.inpaint(mask=mask, uncertainty=True)
later = cube.eoaug.extend(times=["2017-08-01"])
sharp = cube.eoaug.super_resolve(native="auto")
finer = cube.eoaug.super_resolve(factor=2, generator="classical")
assert bool((filled.B04 == cube.B04).where(~mask, True).all())
assert (later.sizes["time"], sharp.sizes["x"], finer.sizes["x"]) == (2, 48, 96)

eoaug.write(filled, "catalog")
eoaug.write(later, "catalog", collection="later", format="zarr")
again = eoaug.open_cube("catalog", collections=["later"]).load()
assert float(abs(again.B04 - later.B04).max()) <= 1e-4, "stored as integers"
report = eoaug.run_job(
    {
        "source": {"catalog": "sample", "collections": ["sentinel-2-l2a"], "bands": ["B04"], "limit": 1},
        "verb": "super_resolve",
        "parameters": {"factor": 2},
        "generator": "classical",
        "output": {"catalog": "job"},
    },
    progress=False,
)
print(report)


def refusal(call):
    """Return what a call says is missing, or None."""
    try:
        call()
    except PackageError as error:
        return error
    return None


for package, call in (
    ("torch", lambda: cube.eoaug.super_resolve(factor=2)),
    ("torch", lambda: eoaug.gate),
    ("matplotlib", lambda: filled.eoaug.compare(cube).savefig("compare.png")),
):
    refused = refusal(call)
    assert (refused is None) == (find_spec(package) is not None), package
    print(refused or f"{package} is here")
print("eoaug", eoaug.__version__, "works here")
