"""What is known of an image: class, shares of a label map, season, place, pixel size, sensor and indices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.corruptions.units import band_of_cube
from eoaug.cube.labels import IGNORED, class_numbers
from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.raster.arrays import Float64Array
from eoaug.raster.grid import gsd_m

__all__ = ["SEASONS", "ImageFacts", "facts_of", "facts_without_pixels", "season_of", "words_of"]

SEASONS = ("winter", "spring", "summer", "autumn")
_TROPICS_DEG = 23.5
"""Between the tropics there is no winter and no summer."""
_SENSORS = (
    (re.compile(r"B(8A|05|06|07|11|12)|rededge\d*"), "Sentinel-2"),
    (re.compile(r"v[vh]|h[vh]", re.IGNORECASE), "Sentinel-1"),
    (re.compile(r"SR_B\d|ST_B10"), "Landsat"),
)


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image; None, or empty, where it is not."""

    label: str | None = None
    """Class of the image."""
    classes: tuple[str, ...] = ()
    """Classes of the set."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of the pixels by class of a label map, largest first; classes without a pixel are not in it."""
    season: str | None = None
    month: int | None = None
    lonlat: tuple[float, float] | None = None
    """Longitude and latitude of the centre in degrees."""
    gsd_m: float | None = None
    """Pixel size in metres."""
    sensor: str | None = None
    indices: Mapping[str, float] = field(default_factory=dict)
    """Means of ``ndvi``, ``ndwi`` and ``nbr``, where the bands allow."""

    def as_slots(self) -> dict[str, Any]:
        """Return the values that templates may use."""
        return {
            "class": words_of(self.label) if self.label else "",
            "shares": {words_of(name): share for name, share in self.shares.items()},
            "season": self.season or "",
            "month": self.month,
            "latitude": None if self.lonlat is None else self.lonlat[1],
            "longitude": None if self.lonlat is None else self.lonlat[0],
            "gsd_m": self.gsd_m,
            "sensor": self.sensor or "",
            **{name: self.indices.get(name) for name in ("ndvi", "ndwi", "nbr")},
        }


def words_of(name: str) -> str:
    """Return the name of a class in words: ``AnnualCrop`` is annual crop, ``sea_lake`` is sea lake."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-]+", " ", name)
    return " ".join(spaced.split()).lower()


def season_of(month: int, latitude: float) -> str | None:
    """Return the season of a month; None between the tropics.

    Parameters
    ----------
    month
        1 to 12.
    latitude
        In degrees.
    """
    if abs(latitude) < _TROPICS_DEG:
        return None
    north = SEASONS[month % 12 // 3]
    return north if latitude > 0 else SEASONS[(SEASONS.index(north) + 2) % 4]


def facts_without_pixels(item: TrainingItem) -> ImageFacts:
    """Return what is known of an image of a class without opening it: class, place, and season where it has a date."""
    place = item.place
    found = re.match(r"\d{4}-(\d{2})", str(item.properties.get("datetime") or ""))
    month = int(found[1]) if found and 1 <= int(found[1]) <= 12 else None
    season = None if month is None or place is None else season_of(month, place[1])
    return ImageFacts(label=item.label, season=season, month=month, lonlat=place)


def facts_of(item: TrainingItem, train: TrainingSet, *, sensor: str | None = None) -> ImageFacts:
    """Return what is known of an item of a training set.

    Parameters
    ----------
    item
        The item; it is opened.
    train
        Its set, for task, label and classes.
    sensor
        Name of the sensor. Default: what the names of the bands say.
    """
    ds = item.open()
    cube = read_cube(ds)
    place = item.place
    month = None if cube.times is None else int(cube.times[0].astype("datetime64[M]").astype(int)) % 12 + 1
    if "time" in ds.coords and "nominal" in str(ds.time.attrs.get("comment", "")):
        month = None
    return ImageFacts(
        label=item.label,
        classes=train.classes,
        shares={} if train.task == "classes" else _shares(ds, cube, train),
        season=None if month is None or place is None else season_of(month, place[1]),
        month=month,
        lonlat=place,
        gsd_m=round(gsd_m(cube.geobox), 3) if cube.georeferenced else None,
        sensor=sensor or _sensor(cube),
        indices=_indices(cube),
    )


def _shares(ds: xr.Dataset, cube: Cube, train: TrainingSet) -> dict[str, float]:
    numbers = class_numbers(ds[train.label], cube.names_yx)
    known = numbers[numbers != IGNORED]
    if not known.size:
        return {}
    values, counts = np.unique(known, return_counts=True)
    names = dict(enumerate(train.classes))
    found = {
        names.get(int(v), f"class {int(v)}"): int(n) / known.size for v, n in zip(values, counts, strict=True)
    }
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _sensor(cube: Cube) -> str | None:
    names = [band.name for band in cube.bands]
    return next(
        (sensor for pattern, sensor in _SENSORS if any(pattern.fullmatch(name) for name in names)), None
    )


def _indices(cube: Cube) -> dict[str, float]:
    bands = {str(band.common_name or band.name): band for band in cube.bands}

    def mean(first: str, second: str) -> float | None:
        if first not in bands or second not in bands:
            return None
        a, b = (_physical(bands[name]) for name in (first, second))
        total = a + b
        ratio = np.divide(a - b, total, out=np.full_like(a, np.nan), where=np.abs(total) > 1e-6)
        return float(np.nanmean(ratio)) if np.isfinite(ratio).any() else None

    pairs = {"ndvi": ("nir", "red"), "ndwi": ("green", "nir"), "nbr": ("nir", "swir22")}
    found = {name: mean(*pair) for name, pair in pairs.items()}
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def _physical(band: Any) -> Float64Array:
    return np.asarray(band_of_cube(band).physical(np.asarray(band.data[0])), np.float64)
