"""`training_set`: images with labels and splits, from a catalog, a folder or torchgeo."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from eoaug.augmentation.catalog_items import catalog_set
from eoaug.augmentation.image_folders import change_folders, class_folders, mask_folders
from eoaug.augmentation.places import split_by_place
from eoaug.augmentation.torchgeo_datasets import is_torchgeo, torchgeo_set
from eoaug.augmentation.training_items import Task, TrainingSet, split_named
from eoaug.errors import ParameterError
from eoaug.stac.sample import named_source

__all__ = ["training_set"]


def training_set(
    source: Any,
    label: str | None = None,
    *,
    task: Task = "classes",
    split: str | Mapping[str, str] | None = None,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float = 0.0,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    size_px: int | None = None,
    collections: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    query: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
) -> TrainingSet:
    """Return the images of a source with their labels and splits; no pixel is read before an item is opened.

    Parameters
    ----------
    source
        A STAC catalog, collection, API or list of items, as for `open_cube`; a folder with a folder of images per class
        (GeoTIFF, PNG, JPEG; EuroSAT, UC Merced and RESISC45 as they are unpacked), with ``images`` and ``masks``, or with
        ``A``, ``B`` and ``label``, below ``train``, ``val`` and ``test`` or not; or a dataset of torchgeo.
    label
        Of items, the property with the class (default ``class``) or the band with the classes (default: that with the role
        ``labels``). Of folders, the name of the class, or the folder of the masks. Else the name of the label variable.
    task
        ``"classes"``: every image has a class. ``"pixels"``: every pixel has one; the label is a variable of the cube.
        ``"change"``: two dates, and a label of what changed.
    split
        ``"train"``, ``"validate"`` or ``"test"`` for all items, a split by id, or ``"place"`` for `split_by_place`. Default:
        what the source says: ``ml-aoi:split``, folders, lists such as ``eurosat-train.txt``, or the split of the dataset.
    bands
        Bands of items; of files and torchgeo, the names of their bands in order. Default: those that the source names; three
        bands of 8 bits are red, green and blue, thirteen of 16 bits those of Sentinel-2 in the order of EuroSAT.
    scale, offset
        From stored numbers to physical units, for files and torchgeo. Default: EuroSAT's own for its files, grey levels as a
        share of 255 for other RGB images of 8 bits, none for others.
    classes
        Names of the classes of pixels, in order or by number, where the source does not say them.
    size_px
        Edge of the patches that a `GeoDataset` of torchgeo is cut into. Default 256.
    collections, ids, query, allow
        Of a catalog, as for `open_cube`.

    Returns
    -------
    TrainingSet
        A sequence of items. ``item.open()`` is a cube, without a coordinate reference system where the image has none (its
        grid is in pixels); ``train.split("train")`` holds the items of a split.

    Raises
    ------
    EoaugError
        No image, an image without its label, bands or a split that are not known.

    Examples
    --------
    >>> train = eoaug.training_set("EuroSAT_RGB", split="train")  # doctest: +SKIP
    >>> train.counts["Forest"]  # doctest: +SKIP
    3000
    """
    if task not in get_args(Task):
        raise ParameterError(
            f"task={task!r} is unknown", f"use one of {', '.join(map(repr, get_args(Task)))}"
        )
    named = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes or ()))
    how = {"bands": bands, "scale": scale, "offset": offset if scale is not None else None}
    folder = _folder(source)
    if is_torchgeo(source):
        made = torchgeo_set(source, task, label, {**how, "classes": tuple(named.values())}, size_px)
    elif folder is None:
        chosen = {"collections": collections, "ids": ids, "query": query, "allow": allow}
        where = named_source(source) if isinstance(source, str) else source
        made = catalog_set(where, task, label, {**chosen, "bands": bands})
    elif task == "classes":
        made = class_folders(folder, how, label=label or "class")
    else:
        made = (mask_folders if task == "pixels" else change_folders)(folder, how, label=label, classes=named)
    if named and not made.classes:
        made = replace(made, classes=tuple(named.values()))
    return _split(made, split)


def _folder(source: Any) -> Path | None:
    """Return a folder of images; None for what is opened as a catalog."""
    if not isinstance(source, str | os.PathLike) or "://" in str(source):
        return None
    path = Path(source).expanduser()
    documents = ("catalog.json", "collection.json")
    return path if path.is_dir() and not any((path / name).is_file() for name in documents) else None


def _split(made: TrainingSet, split: str | Mapping[str, str] | None) -> TrainingSet:
    if split is None:
        return made
    if split == "place":
        return split_by_place(made)
    if isinstance(split, str):
        name = split_named(split)
        if name is None:
            raise ParameterError(f"split={split!r} is unknown", "use 'train', 'validate', 'test' or 'place'")
        return made.with_splits({item.id: name for item in made})
    return made.with_splits(split)
