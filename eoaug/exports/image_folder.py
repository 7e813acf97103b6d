"""Imagefolder: folders of images with ``metadata.jsonl``, as the library ``datasets`` and diffusers' scripts read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingSet
from eoaug.exports.images import FOLDERS, ImageForm, opened, write_images, write_label

__all__ = ["write_image_folder"]


def write_image_folder(train: TrainingSet, out: Path, *, image: ImageForm, class_folders: bool) -> None:
    """Write a folder per split, with a folder per class or not.

    Parameters
    ----------
    train, out, image
        The set, the folder to write, and the form of the images.
    class_folders
        With the task ``classes``, put images into folders of their class.
    """
    lines: dict[str, list[str]] = {}
    for item in train:
        folder = FOLDERS[item.split]
        inner = Path(item.label or "") if class_folders and train.task == "classes" else Path()
        one = opened(item, train)
        files = write_images(one, out / folder / inner / item.id, image)
        row: dict[str, Any] = {"id": item.id}
        keys = ["file_name"] if len(files) == 1 else [f"image_{k + 1}_file_name" for k in range(len(files))]
        row |= {key: file.relative_to(out / folder).as_posix() for key, file in zip(keys, files, strict=True)}
        if train.task == "classes":
            row["label"] = item.label
        else:
            mask = write_label(one, train, out / folder / f"{item.id}_mask", image)
            row["mask_file_name"] = mask.relative_to(out / folder).as_posix()
        place = item.place
        if place is not None:
            row |= {"longitude": round(place[0], 6), "latitude": round(place[1], 6)}
        lines.setdefault(folder, []).append(json.dumps(row | one.marks))
    for folder, rows in lines.items():
        (out / folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
