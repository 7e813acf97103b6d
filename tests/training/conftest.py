"""A cube file that a test can write with any flaw."""

import numpy as np
import pytest
import xarray as xr


def _write(
    path, *, dates=4, px=96, names=("blue", "red", "nir08"), gsd_m=10.0, attrs=None, cloudy=(), **extra
):
    """A cube whose digital number tells date, row and column; band b is 100 b brighter."""
    t, y, x = np.meshgrid(np.arange(dates), np.arange(px), np.arange(px), indexing="ij")
    ds = xr.Dataset(coords={"time": np.arange(dates).astype("datetime64[D]").astype("datetime64[ns]")})
    scale = {"reflectance_scale": 1e-4, "reflectance_offset": -0.1} if attrs is None else attrs
    for number, name in enumerate(names):
        values = 1100 + 100 * number + 10 * t + y + x
        ds[f"B{number}"] = (("time", "y", "x"), values.astype(np.uint16))
        ds[f"B{number}"].attrs = (
            {"common_name": name, "gsd_m": gsd_m, "_FillValue": np.uint16(0)} | scale | extra
        )
    scl = np.full((dates, px, px), 4, np.uint8)
    for date in cloudy:
        scl[date, :, : px // 2] = 9
    ds["scl"] = (("time", "y", "x"), scl)
    ds.attrs["bbox_lonlat"] = [10.0, 45.0, 12.0, 47.0]
    ds.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="session")
def write():
    pytest.importorskip("h5netcdf")
    pytest.importorskip("h5py", reason="h5netcdf reads and writes through h5py")
    return _write
