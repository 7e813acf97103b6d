"""Images and masks of a training set as PNG and GeoTIFF files, with what is synthetic in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug import quicklook
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cube import provenance
from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import GENERATED, SYNTHETIC, TRANSFERRED

__all__ = ["FOLDERS", "ImageForm", "OpenedItem", "label_of", "opened", "write_images", "write_label"]

ImageForm = Literal["png", "tif"]

FOLDERS: Mapping[str, str] = {"train": "train", "validate": "validation", "test": "test", "": "all"}
"""Names of folders by split, as the ``datasets`` library reads them."""


@dataclass(frozen=True)
class OpenedItem:
    """An item of a training set with its pixels in memory."""

    item: TrainingItem
    ds: xr.Dataset
    cube: Cube

    @property
    def marks(self) -> dict[str, Any]:
        """What is synthetic in it, as JSON values: share of the pixels, and how they were made."""
        record = provenance.of(self.ds)
        marks = np.asarray(self.ds[SYNTHETIC].values) if SYNTHETIC in self.ds else np.zeros(1, np.uint8)
        made: dict[str, Any] = {
            "synthetic_fraction": round(float(np.isin(marks, (GENERATED, TRANSFERRED)).mean()), 6)
        }
        if record is not None:
            made |= {"operation": record.operation, "generator": record.generator, "seed": record.seed}
        return made


def opened(item: TrainingItem, train: TrainingSet) -> OpenedItem:
    """Read an item."""
    ds = item.open().load()
    return OpenedItem(item, ds, read_cube(ds, [train.label] if train.task != "classes" else None))


def label_of(one: OpenedItem, train: TrainingSet) -> xr.DataArray:
    """Return the label raster of an item, shape (H, W)."""
    label = one.ds[train.label]
    return label.isel({dim: 0 for dim in label.dims if dim not in one.cube.names_yx}).transpose(
        *one.cube.names_yx
    )


def write_images(
    one: OpenedItem, stem: Path, form: ImageForm, bands: Sequence[str] | None = None
) -> list[Path]:
    """Write the image of an item, or one per date, and return the paths.

    A PNG has 8 bits: the stored numbers of pictures of three bands, else the colours of `eoaug.quicklook.rgb`. A GeoTIFF has
    the stored numbers of all bands, with their names, scales, offsets and the georeference.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    count = 1 if one.cube.times is None else len(one.cube.times)
    paths = []
    for date in range(count):
        path = stem.with_name(f"{stem.name}{'' if count == 1 else f'_{date}'}.{form}")
        if form == "png":
            _write_png(path, _picture(one, date), one.marks)
        else:
            _write_tiff(path, one, date, bands)
        paths.append(path)
    return paths


def write_label(one: OpenedItem, train: TrainingSet, stem: Path, form: ImageForm) -> Path:
    """Write the label raster of an item with its own numbers, and return the path."""
    label = label_of(one, train)
    path = stem.with_name(f"{stem.name}.{form}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "png":
        values = label.values
        fits = values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535
        _write_png(path, values.astype(np.uint8 if values.max() < 256 else np.uint16) if fits else values, {})
    else:
        _raster(path, label.values[None], one, {"names": [train.label], "nodata": label.attrs.get("nodata")})
    return path


def _picture(one: OpenedItem, date: int) -> NDArray[np.uint8]:
    bands = {band.name: band for band in one.cube.bands}
    names = ("red", "green", "blue")
    if set(bands) == set(names) and all(band.dtype == np.uint8 for band in bands.values()):
        return np.stack([np.asarray(bands[name].data[date]) for name in names], axis=-1)
    kept = one.ds[[*bands, *([SYNTHETIC] if SYNTHETIC in one.ds else [])]]
    return quicklook.rgb(kept, date)


def _write_png(path: Path, values: NDArray[Any], marks: Mapping[str, Any]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, value in marks.items():
        info.add_text(f"eoaug:{name}", str(value))
    Image.fromarray(values).save(path, pnginfo=info)


def _write_tiff(path: Path, one: OpenedItem, date: int, wanted: Sequence[str] | None) -> None:
    bands = [band for band in one.cube.bands if wanted is None or band.name in wanted]
    dtype = np.result_type(*(band.dtype for band in bands))
    values = np.stack([np.asarray(band.data[date]).astype(dtype) for band in bands])
    numbers = {band.nodata for band in bands}
    fields = {
        "names": [band.name for band in bands],
        "scales": [band.scaling.stored.scale for band in bands],
        "offsets": [band.scaling.stored.offset for band in bands],
        "nodata": numbers.pop() if len(numbers) == 1 else None,
        "tags": {f"EOAUG_{name.upper()}": str(value) for name, value in one.marks.items()},
    }
    _raster(path, values, one, fields)


def _raster(path: Path, values: NDArray[Any], one: OpenedItem, fields: Mapping[str, Any]) -> None:
    import rasterio

    count, height, width = values.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": values.dtype.name,
    }
    profile |= {"compress": "deflate", "nodata": fields["nodata"]}
    if one.cube.georeferenced:
        crs = one.cube.geobox.crs
        profile |= {"crs": None if crs is None else crs.to_wkt(), "transform": one.cube.geobox.affine}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        for number, name in enumerate(fields["names"], 1):
            file.set_band_description(number, name)
        if "scales" in fields:
            file.scales, file.offsets = fields["scales"], fields["offsets"]
        file.update_tags(**fields.get("tags", {}))
