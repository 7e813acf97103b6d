"""Chips of EuroSAT (Helber et al. 2019, doi:10.1109/JSTARS.2019.2918242): calibrated reflectance and a class each."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eoaug.errors import SourceError
from eoaug.raster.arrays import Float32Array, FloatArray

__all__ = [
    "BANDS", "CHIP_PX", "CLASSES", "GSD_M", "SPECTRUM", "EurosatChips", "read_eurosat", "read_eurosat_spectra", "surface",
    "top_of_atmosphere",
]  # fmt: skip


BANDS = ("blue", "green", "red")
CHIP_PX = 64
GSD_M = 10.0
CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
"""By number from 0."""
SPECTRUM = ("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir09", "cirrus",
            "swir16", "swir22", "nir08")  # fmt: skip
"""Common names of the thirteen bands, in the order of their files."""
_ATMOSPHERE = {
    "coastal": (0.085, 0.82), "blue": (0.062, 0.85), "green": (0.036, 0.90), "red": (0.018, 0.93),
    "rededge071": (0.014, 0.93), "rededge075": (0.012, 0.94), "rededge078": (0.010, 0.95), "nir": (0.008, 0.95),
    "nir08": (0.007, 0.96), "nir09": (0.004, 0.50), "swir16": (0.002, 0.97), "swir22": (0.001, 0.95),
}  # fmt: skip
"""Path reflectance and transmittance of clear air by band. Rough: Rayleigh scattering at middle latitudes and a little
aerosol, so that woods of the chips get .022, .034 and .026 in blue, green and red."""
_STEP = 2750 / 254 / 10_000
"""Top-of-atmosphere reflectance of one grey level; level 1 is 0, and 255 stands for 0.275 and everything above."""


@dataclass(frozen=True, eq=False)
class EurosatChips:
    """n chips of 64 x 64 pixels of 10 m, Sentinel-2 L1C."""

    names: tuple[str, ...]
    """Files within the archive, e.g. ``River/River_7.jpg``."""
    classes: NDArray[np.intp]
    """Shape (n,), indices of `CLASSES`."""
    levels: NDArray[np.uint8]
    """Shape (n, 3, 64, 64), grey levels of `BANDS`."""

    def __len__(self) -> int:
        return len(self.names)

    def reflectance(self, chosen: slice | NDArray[np.intp] = slice(None)) -> Float32Array:
        """Return top-of-atmosphere reflectance of some chips, shape (n, 3, 64, 64)."""
        return ((self.levels[chosen].astype(np.float32) - 1).clip(0) * np.float32(_STEP)).astype(np.float32)


def _air(bands: Sequence[str]) -> NDArray[np.float64]:
    """Return path reflectance and transmittance of bands, shape (2, C, 1, 1)."""
    return np.array([_ATMOSPHERE[band] for band in bands]).T[:, :, None, None]


def surface(reflectance: FloatArray, bands: Sequence[str] = BANDS) -> Float32Array:
    """Return reflectance at the surface, roughly, from that at the top of the atmosphere, shape (..., C, H, W)."""
    path, through = _air(bands)
    found: Float32Array = ((np.asarray(reflectance, np.float64) - path) / through).astype(np.float32)
    return found


def top_of_atmosphere(reflectance: FloatArray, bands: Sequence[str] = BANDS) -> Float32Array:
    """Return what `surface` is given for a reflectance at the surface, shape (..., C, H, W)."""
    path, through = _air(bands)
    found: Float32Array = (np.asarray(reflectance, np.float64) * through + path).astype(np.float32)
    return found


def read_eurosat_spectra(path: str | Path) -> tuple[Float32Array, NDArray[np.intp]]:
    """Read the chips with thirteen bands of a zip archive with a folder per class.

    Returns
    -------
    Top-of-atmosphere reflectance of `SPECTRUM`, shape (n, 13, 64, 64), and indices of `CLASSES`, shape (n,).

    Raises
    ------
    SourceError
        The file is no zip archive, or holds no GeoTIFF of thirteen bands in a folder of a class.
    """
    import rasterio

    chips, classes = [], []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                if not name.lower().endswith(".tif") or len(parts) < 2 or parts[-2] not in CLASSES:
                    continue
                with rasterio.MemoryFile(archive.read(name)) as file, file.open() as image:
                    if image.shape != (CHIP_PX, CHIP_PX) or image.count != len(SPECTRUM):
                        raise SourceError(
                            f"chips: {name} has {image.count} bands of {image.height} x {image.width} pixels",
                            f"use the original chips of {len(SPECTRUM)} bands of {CHIP_PX} x {CHIP_PX}",
                        )
                    chips.append(image.read())
                classes.append(CLASSES.index(parts[-2]))
    except (OSError, zipfile.BadZipFile, rasterio.errors.RasterioError) as error:
        raise SourceError(
            f"chips: {path} cannot be read as a zip archive of GeoTIFFs ({error})",
            "give the path of eurosat_ms_train.zip",
        ) from error
    if not chips:
        raise SourceError(
            f"chips: {path} holds no GeoTIFF in a folder named after one of the classes {', '.join(CLASSES)}",
            "give an archive of the version with thirteen bands, e.g. eurosat_ms_train.zip",
        )
    return (np.stack(chips) / np.float32(10_000)).astype(np.float32), np.array(classes, np.intp)


def read_eurosat(path: str | Path, *, limit: int | None = None) -> EurosatChips:
    """Read the RGB chips of a zip archive with a folder per class.

    Parameters
    ----------
    path
        Zip of JPEG files ``<class>/<class>_<number>.jpg``, in any folder.
    limit
        Largest number of chips per class, in the order of their names; None: all.

    Raises
    ------
    SourceError
        The file is no zip archive, holds no chip of a class of EuroSAT, or a chip has another size.
    """
    members: dict[str, list[str]] = {name: [] for name in CLASSES}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                if name.lower().endswith((".jpg", ".jpeg")) and len(parts) > 1 and parts[-2] in members:
                    members[parts[-2]].append(name)
            kept = [(name, number) for number, key in enumerate(CLASSES) for name in members[key][:limit]]
            chips = [_chip(archive.read(name), name) for name, _ in kept]
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"chips: {path} cannot be read as a zip archive ({error})",
            "give the path of eurosat_rgb_train.zip",
        ) from error
    if not kept:
        raise SourceError(
            f"chips: {path} holds no JPEG in a folder named after one of the classes {', '.join(CLASSES)}",
            "give an archive of the RGB version, e.g. eurosat_rgb_train.zip",
        )
    names, classes = zip(*kept, strict=True)
    return EurosatChips(names, np.array(classes, np.intp), np.stack(chips))


def _chip(content: bytes, name: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[:2] != (CHIP_PX, CHIP_PX):
        raise SourceError(
            f"chips: {name} has {pixels.shape[0]} x {pixels.shape[1]} pixels instead of {CHIP_PX} x {CHIP_PX}",
            "use the original chips",
        )
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)[::-1])
