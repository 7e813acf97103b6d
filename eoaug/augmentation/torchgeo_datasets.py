"""torchgeo datasets as training sets: the only module that knows torchgeo's samples; it imports neither torchgeo nor torch.

A sample of torchgeo is a mapping with ``image`` (C, H, W), or (2, C, H, W) of two dates, and ``label`` or ``mask``. A
`GeoDataset` is cut into patches along the multiples of their size, so that a patch does not depend on the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.augmentation.training_items import Task, TrainingItem, TrainingSet, label_properties, split_named
from eoaug.errors import BandError, ParameterError, SourceError
from eoaug.stac.images import ImageFile, Pixels, band_names, cube_of, label_attributes
from eoaug.storage.names import safe_id

__all__ = ["TorchgeoSample", "is_torchgeo", "torchgeo_set"]

_KEYS: Mapping[str, Sequence[str]] = {"classes": ("label",), "pixels": ("mask",), "change": ("mask",)}
_PATCH_PX = 256
_NOMINAL = np.array(["2000-01-01", "2001-01-01"], "datetime64[ns]")


def is_torchgeo(source: Any) -> bool:
    """Tell whether an object is a dataset of torchgeo, or of a class derived from one."""
    return any(kind.__module__.split(".")[0] == "torchgeo" for kind in type(source).__mro__)


@dataclass(frozen=True, eq=False)
class TorchgeoSample:
    """One sample of a torchgeo dataset, which is read when it is opened."""

    dataset: Any
    query: Any
    """Index of the sample, or slices along x, y and time."""
    bands: tuple[str, ...]
    label: str
    """Name of the label variable; empty where the class of the whole image is the label."""
    classes: tuple[str, ...]
    attrs: tuple[tuple[str, float], ...] = ()
    """Scale and offset of the bands."""
    geobox: GeoBox | None = None
    time: np.datetime64 | None = None

    def open(self) -> xr.Dataset:
        """Return the sample as a cube over (y, x), or (time, y, x) for two dates."""
        sample = self.dataset[self.query]
        image = _image(sample)
        geobox = self.geobox
        if geobox is not None and tuple(geobox.shape) != image.shape[-2:]:  # rounding at the edge of a patch
            raise SourceError(
                f"the patch {self.query} has {image.shape[-2:]} px, not {tuple(geobox.shape)}",
                "give another size=",
            )
        names = band_names(
            Pixels(image[0] if image.ndim == 4 else image, ("",) * image.shape[-3], None),
            self.bands,
            "the sample",
        )
        coords: dict[str, Any] = {}
        if image.ndim == 4:
            coords["time"] = ("time", _NOMINAL, {"comment": "nominal: the dates of the pair are not known"})
        elif self.time is not None:
            coords["time"] = self.time
        ds = cube_of(
            {name: image[..., k, :, :] for k, name in enumerate(names)},
            geobox,
            attrs=dict(self.attrs),
            coords=coords,
        )
        if not self.label:
            return ds
        mask = np.squeeze(_array(sample["mask"]))
        y, x = list(ds.sizes)[-2:]
        own = label_attributes(dict(enumerate(self.classes)))
        return ds.assign(
            {self.label: ((y, x), mask, own | ({} if geobox is None else {"grid_mapping": "spatial_ref"}))}
        )

    def place(self) -> tuple[float, float] | None:
        """Return longitude and latitude of the centre in degrees; None without a georeference."""
        if self.geobox is None:
            return None
        box = self.geobox.extent.to_crs("EPSG:4326").boundingbox
        return (box.left + box.right) / 2, (box.bottom + box.top) / 2

    def identity(self) -> str:
        """Return a hash of the pixels of the sample, which is read for it."""
        sample = self.dataset[self.query]
        parts = [_array(sample[key]) for key in sorted(sample) if hasattr(sample[key], "shape")]
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def torchgeo_set(
    dataset: Any, task: Task, label: str | None, how: Mapping[str, Any], size_px: int | None
) -> TrainingSet:
    """Return the samples of a torchgeo dataset.

    Parameters
    ----------
    dataset
        A `NonGeoDataset` or `GeoDataset`; for labels of pixels the intersection of images and masks.
    task, label
        As for `eoaug.training_set`.
    how
        ``bands``, ``scale``, ``offset`` and ``classes``; bands and classes default to those that the dataset names.
    size_px
        Edge of the patches of a `GeoDataset`; None: 256.
    """
    classes = tuple(how.get("classes") or map(str, getattr(dataset, "classes", None) or ()))
    name = label or ("class" if task == "classes" else "mask")
    bands = tuple(how.get("bands") or ()) or _bands_of(dataset)
    split = split_named(getattr(dataset, "split", "")) or ""
    scale, offset = how.get("scale"), how.get("offset") or 0.0
    attrs = () if scale is None else (("scale_factor", float(scale)), ("add_offset", float(offset)))
    geo = hasattr(dataset, "index") and hasattr(dataset, "res")
    if geo and task == "classes":
        raise ParameterError("a GeoDataset has no class per image", "use task='pixels', or a NonGeoDataset")
    if not geo and task == "classes" and (files := _files_of(dataset)):
        return _of_files(files, classes, name, split, {"bands": bands, "scale": scale, "offset": offset})
    queries = (
        _patches(dataset, size_px or _PATCH_PX)
        if geo
        else ((f"{k:06d}", k, None, None) for k in range(len(dataset)))
    )
    items = []
    for identifier, query, geobox, time in queries:
        own = "" if task == "classes" else name
        source = TorchgeoSample(dataset, query, bands, own, classes, attrs, geobox, time)
        value = _class_of(dataset, query, classes) if task == "classes" else None
        properties = label_properties(task, name, classes, value=value, split=split)
        items.append(TrainingItem(identifier, source, value, split, properties=properties))
    found = classes or tuple(sorted({item.label for item in items if item.label}))
    return TrainingSet(tuple(items), task, name, found)


def _files_of(dataset: Any) -> list[tuple[str, int]]:
    """Return file and number of the class of datasets of class folders (`NonGeoClassificationDataset`)."""
    listed = getattr(dataset, "samples", None)
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], tuple):
        return []
    return [(str(path), int(number)) for path, number in listed] if Path(str(listed[0][0])).is_file() else []


def _of_files(
    files: Sequence[tuple[str, int]], classes: tuple[str, ...], name: str, split: str, how: Mapping[str, Any]
) -> TrainingSet:
    """Return a set of the files themselves, which keep their type and georeference."""
    from eoaug.augmentation.image_folders import file_options

    options = file_options(how, classes)
    items = [
        TrainingItem(
            id=safe_id(Path(path).stem),
            source=ImageFile(path, **options(Path(path))),
            label=classes[number],
            split=split,
            href=path,
            properties=label_properties("classes", name, classes, value=classes[number], split=split),
        )
        for path, number in files
    ]
    return TrainingSet(tuple(items), "classes", name, classes)


def _bands_of(dataset: Any) -> tuple[str, ...]:
    """Return the names of the bands that a dataset lists, of the first one in an intersection."""
    for holder in (dataset, *(getattr(dataset, "datasets", None) or ())):
        for key in ("bands", "all_bands"):
            names = getattr(holder, key, None)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


def _class_of(dataset: Any, query: Any, classes: tuple[str, ...]) -> str:
    targets = getattr(dataset, "targets", None)
    value = _array(targets[query] if targets is not None else dataset[query]["label"])
    if value.size != 1:
        raise SourceError(
            f"sample {query} has {value.size} labels", "give a dataset with one class per image"
        )
    number = int(value)
    return classes[number] if classes else str(number)


def _patches(dataset: Any, size: int) -> Iterator[tuple[str, Any, GeoBox, np.datetime64 | None]]:
    """Yield id, slices, grid and date of the patches inside the footprints, along multiples of their size."""
    res = dataset.res if isinstance(dataset.res, tuple) else (dataset.res, dataset.res)
    width, height = size * res[0], size * res[1]
    seen = set()
    for interval, geometry in zip(dataset.index.index, dataset.index.geometry, strict=True):
        left, bottom, right, top = geometry.bounds
        start = np.datetime64(interval.left.to_datetime64(), "ns")
        known = np.datetime64("1970-01-02") < start < np.datetime64("2100-01-01")
        for row in range(math.ceil(bottom / height - 1e-6), math.floor(top / height + 1e-6)):
            for col in range(math.ceil(left / width - 1e-6), math.floor(right / width + 1e-6)):
                date = f"-{start.astype('datetime64[D]')}".replace("-", "") if known else ""
                identifier = "_".join(part for part in (f"{col}_{row}", date) if part).replace("-", "m")
                if identifier in seen:
                    continue
                seen.add(identifier)
                x, y = col * width, row * height
                grid = GeoBox((size, size), Affine(res[0], 0, x, 0, -res[1], y + height), str(dataset.crs))
                query = (slice(x, x + width), slice(y, y + height), slice(interval.left, interval.right))
                yield identifier, query, grid, start if known else None


def _image(sample: Mapping[str, Any]) -> NDArray[Any]:
    """Return the image of a sample: (C, H, W), or (2, C, H, W) of two dates."""
    if "image" in sample:
        image = _array(sample["image"])
    elif {"image1", "image2"} <= sample.keys():
        image = np.stack([_array(sample["image1"]), _array(sample["image2"])])
    else:
        raise BandError(f"the sample has no image among {sorted(sample)}", "give a dataset of images")
    if image.ndim not in (3, 4) or (image.ndim == 4 and len(image) != 2):
        raise BandError(
            f"the image of the sample has the shape {image.shape}", "give images of (bands, rows, columns)"
        )
    return image


def _array(value: Any) -> NDArray[Any]:
    """Return a tensor as an array, without importing torch."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
