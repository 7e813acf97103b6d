"""Chips of EuroSAT (Helber et al. 2019, doi:10.1109/JSTARS.2019.2918242): calibrated reflectance and a class each."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eoaug.errors import SourceError
from eoaug.raster.arrays import Float32Array

__all__ = ["BANDS", "CHIP_PX", "CLASSES", "GSD_M", "EurosatChips", "read_eurosat"]


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
