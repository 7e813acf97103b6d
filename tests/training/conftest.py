"""A cube file that a test can write with any flaw, and archives of chips like those of EuroSAT."""

import io
import zipfile

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from eoaug.datasets.eurosat import CLASSES, SPECTRUM


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


def _rgb_archive(path, chips, px=64):
    """Write chips (class, grey levels of red, green and blue) as a zip like EuroSAT's."""
    with zipfile.ZipFile(path, "w") as file:
        for number, (name, pixels) in enumerate(chips):
            image = np.broadcast_to(np.asarray(pixels, np.uint8), (px, px, 3))
            content = io.BytesIO()
            Image.fromarray(image).save(content, "JPEG", quality=95, subsampling=0)
            file.writestr(f"a/{name}/{name}_{number}.jpg", content.getvalue())
    return path


def _spectra_archive(path, chips):
    """Write chips (class, reflectance of thirteen bands) as a zip like EuroSAT's."""
    import rasterio

    shape = {"count": len(SPECTRUM), "height": 64, "width": 64}
    with zipfile.ZipFile(path, "w") as file:
        for number, (name, bands) in enumerate(chips):
            with rasterio.MemoryFile() as memory:
                with memory.open(driver="GTiff", dtype="uint16", **shape) as image:
                    image.write(np.broadcast_to(np.round(1e4 * bands), (13, 64, 64)).astype(np.uint16))
                file.writestr(f"{name}/{name}_{number}.tif", memory.read())
    return path


@pytest.fixture(scope="session")
def rgb_archive():
    return _rgb_archive


@pytest.fixture(scope="session")
def spectra_archive():
    return _spectra_archive


@pytest.fixture(scope="session")
def chips_folder(tmp_path_factory):
    """Chips of two halves each, three per class, each class brighter than the one before, with and without further bands."""
    root = tmp_path_factory.mktemp("chips")
    rng = np.random.default_rng(0)
    half = np.where(np.arange(64) < 32, 0, 30)[None, :, None]
    visible = [
        (name, rng.normal(70 + 10 * level, 2, (64, 64, 1)) + half + np.array([0, 5, 40]))
        for level, name in enumerate(CLASSES)
        for _ in range(3)
    ]
    _rgb_archive(root / "eurosat_rgb_train.zip", visible)
    spectra = []
    for level, name in enumerate(CLASSES):
        for chip in range(3):
            bands = 0.09 + 0.005 * level + 0.01 * rng.random((13, 64, 64))
            bands[SPECTRUM.index("nir")] = 2.5 * bands[SPECTRUM.index("red")] + 0.01 * chip
            spectra.append((name, bands))
    _spectra_archive(root / "eurosat_ms_train.zip", spectra)
    return root
