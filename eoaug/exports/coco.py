"""COCO: images, and a JSON file per split with boxes and polygons of the connected regions of label rasters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cube.labels import class_numbers
from eoaug.errors import ParameterError
from eoaug.exports.images import FOLDERS, ImageForm, OpenedItem, label_of, opened, write_images
from eoaug.exports.polygons import background_of
from eoaug.exports.regions import regions

__all__ = ["write_coco"]


def write_coco(train: TrainingSet, out: Path, *, image: ImageForm, background: str | None) -> None:
    """Write ``annotations/instances_<split>.json`` and a folder of images per split.

    Parameters
    ----------
    train
        A set with classes of pixels, or maps of change.
    out
        The folder to write.
    image
        Form of the images.
    background
        Name of a class without regions. Default: none; of maps of change, the first class.
    """
    if train.task == "classes":
        raise ParameterError(
            "COCO holds boxes and polygons, and the label is a class of the whole image",
            "use --format imagefolder, or a label of pixels: task='pixels'",
        )
    skipped = background_of(train, background)
    documents: dict[str, dict[str, Any]] = {}
    for item in train:
        folder = FOLDERS[item.split]
        document = documents.setdefault(folder, {"images": [], "annotations": [], "categories": []})
        one = opened(item, train)
        _add(document, one, train, write_images(one, out / folder / item.id, image), skipped)
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for folder, document in documents.items():
        used = {entry["category_id"] - 1 for entry in document["annotations"]}
        names = train.classes or tuple(str(number) for number in range(max(used, default=0) + 1))
        document["categories"] = [
            {"id": number + 1, "name": name, "supercategory": train.label}
            for number, name in enumerate(names)
            if number != skipped
        ]
        path = out / "annotations" / f"instances_{folder}.json"
        path.write_text(json.dumps({"info": {"description": str(train)}, **document}), encoding="utf-8")


def _add(
    document: dict[str, Any], one: OpenedItem, train: TrainingSet, files: list[Path], skipped: int | None
) -> None:
    item: TrainingItem = one.item
    height, width = one.cube.shape_yx
    number = len(document["images"]) + 1
    names = [file.name for file in files]
    entry: dict[str, Any] = {"id": number, "file_name": names[-1], "height": height, "width": width}
    if len(names) == 2:  # of a pair, the map of change lies on the second image
        entry["before_file_name"] = names[0]
    geobox = one.cube.geobox if one.cube.georeferenced else None
    if geobox is not None and geobox.crs is not None:
        entry |= {"crs": str(geobox.crs), "transform": list(geobox.affine)[:6]}
    document["images"].append(entry | {"item": item.id} | one.marks)
    for region in regions(class_numbers(label_of(one, train), one.cube.names_yx)):
        if region.number == skipped:
            continue
        left, top, right, bottom = region.polygon.bounds
        annotation = {
            "id": len(document["annotations"]) + 1,
            "image_id": number,
            "category_id": region.number + 1,
            "segmentation": region.rings,
            "area": region.polygon.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }
        if geobox is not None and (outline := region.lonlat(geobox)) is not None:
            annotation["geometry"] = outline
        document["annotations"].append(annotation)
