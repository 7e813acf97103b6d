"""`export`: a training set, or what was made of one, in the form of another tool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from eoaug.augmentation.training_items import Task, TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.errors import ParameterError, did_you_mean
from eoaug.exports.coco import write_coco
from eoaug.exports.geoparquet import write_geoparquet
from eoaug.exports.image_folder import write_image_folder
from eoaug.exports.images import ImageForm
from eoaug.exports.label_items import write_label_items
from eoaug.exports.polygons import POLYGON_FILES, write_polygons
from eoaug.storage.atomic import atomic_write

__all__ = ["ExportFormat", "export"]

ExportFormat = Literal["imagefolder", "coco", "label-items", "geoparquet", "polygons"]


def export(
    source: Any,
    out: str | os.PathLike[str],
    *,
    format: ExportFormat,  # noqa: A002
    image: ImageForm = "png",
    class_folders: bool = True,
    background: str | None = None,
    datetime: str | None = None,
    task: Task = "classes",
    label: str | None = None,
    **how: Any,
) -> Path:
    """Write a training set in the form of another tool; the whole of it appears at once.

    Parameters
    ----------
    source
        A training set, or what `eoaug.training_set` takes: a catalog, for instance one that `augment` has written, a folder
        of images, or a dataset of torchgeo.
    out
        Folder, or for ``geoparquet`` and ``polygons`` file, that does not exist yet.
    format
        ``"imagefolder"``: folders by split with ``metadata.jsonl``, for the library ``datasets``. ``"coco"``: images, and boxes
        and polygons of the connected regions of label rasters, in pixels and, as ``geometry``, in degrees.
        ``"label-items"``: STAC items of the extension label. ``"geoparquet"``: a stac-geoparquet file of the items.
        ``"polygons"``: the connected regions of label rasters, such as those that changed, as vectors in degrees in one
        ``.geojson`` or ``.parquet`` (GeoParquet) file.
    image
        Form of the images of ``imagefolder`` and ``coco``: ``"png"``, 8 bits, pictures of three bands as they are and others as
        `eoaug.quicklook.rgb` shows them; ``"tif"``, the stored numbers of all bands, with scale and georeference.
    class_folders
        Of ``imagefolder``: a folder per class in the folder of a split.
    background
        Of ``coco`` and ``polygons``: a class without annotations. Default: none; of maps of change, the first one.
    datetime
        Date or interval of images without a date, for STAC items, e.g. ``"2016-01-01/2017-12-31"``.
    task, label, **how
        As for `eoaug.training_set`, where ``source`` is none.

    Returns
    -------
    Path
        What was written. The share of synthetic pixels and how they were made is with every image.

    Raises
    ------
    EoaugError
        ``out`` exists, an argument that cannot be used, or an item that cannot be read.

    Examples
    --------
    >>> eoaug.export("EuroSAT_RGB", "eurosat", format="imagefolder", split="train")  # doctest: +SKIP
    """
    if format not in get_args(ExportFormat):
        names = get_args(ExportFormat)
        raise ParameterError(
            f"format={format!r} is unknown", did_you_mean(format, names) or f"use one of {', '.join(names)}"
        )
    if image not in get_args(ImageForm):
        raise ParameterError(f"image={image!r} is unknown", "use 'png' or 'tif'")
    suffix = Path(out).suffix.lower()
    if format == "polygons" and suffix not in POLYGON_FILES:
        raise ParameterError(
            f"out={str(out)!r} does not say in which form polygons are written",
            f"end its name with {' or '.join(POLYGON_FILES)}",
        )
    train = source if isinstance(source, TrainingSet) else training_set(source, label, task=task, **how)
    with atomic_write(Path(out).expanduser().absolute(), overwrite=False) as scratch:
        if format == "imagefolder":
            write_image_folder(train, scratch, image=image, class_folders=class_folders)
        elif format == "coco":
            write_coco(train, scratch, image=image, background=background)
        elif format == "label-items":
            write_label_items(train, scratch, datetime=datetime)
        elif format == "polygons":
            write_polygons(train, scratch, form=suffix, background=background)
        else:
            write_geoparquet(train, scratch, datetime=datetime)
    return Path(out)
