"""Training sets in folders: a folder per class, images with masks, or pairs of images with a map of what changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eoaug.augmentation.training_items import TrainingItem, TrainingSet, label_properties, split_named
from eoaug.errors import GridError, SourceError
from eoaug.stac.images import IMAGE_SUFFIXES, ImageFile, label_attributes, read_image
from eoaug.storage.names import safe_id

__all__ = ["EUROSAT", "LabelledImage", "change_folders", "class_folders", "file_options", "mask_folders"]

EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
    "Residential", "River", "SeaLake",
)  # fmt: skip
"""Classes of EuroSAT (Helber et al. 2019), by which its files are recognised."""
_EUROSAT_RGB = (2750 / 254 * 1e-4, -2750 / 254 * 1e-4)
"""Scale and offset to top-of-atmosphere reflectance of its RGB version: its README maps DN 0 to 2750 onto 1 to 255."""
_IMAGES = ("images", "image", "img", "imgs", "x")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "gt", "groundtruth", "y")
_PAIRS = (("A", "B"), ("before", "after"), ("im1", "im2"), ("T1", "T2"), ("t1", "t2"), ("pre", "post"))
_NOMINAL = np.array(["2000-01-01", "2001-01-01"], "datetime64[ns]")
"""Dates of a pair whose own are not known."""


@dataclass(frozen=True)
class LabelledImage:
    """An image file, or two of different dates, with a file of classes on the same grid."""

    images: tuple[ImageFile, ...]
    mask: ImageFile
    name: str
    """Of the label among the variables."""
    classes: tuple[tuple[int, str], ...] = ()

    def open(self) -> xr.Dataset:
        """Return the bands over (y, x), or (time, y, x) for two images, and the label over (y, x)."""
        parts = [image.open() for image in self.images]
        ds = parts[0]
        if len(parts) == 2:
            comment = "nominal: the dates of the pair are not known"
            time = xr.DataArray(_NOMINAL, dims="time", name="time", attrs={"comment": comment})
            if parts[0].sizes != parts[1].sizes or set(parts[0].data_vars) != set(parts[1].data_vars):
                raise GridError(
                    f"images {self.images[0].path!r} and {self.images[1].path!r} have {dict(parts[0].sizes)} px with "
                    f"{sorted(map(str, parts[0].data_vars))}, and {dict(parts[1].sizes)} px with {sorted(map(str, parts[1].data_vars))}",
                    "give pairs of one grid and the same bands",
                )
            ds = xr.concat(parts, time, join="override", combine_attrs="override")
        label = read_image(self.mask.path).values
        y, x = list(ds.sizes)[-2:]
        if len(label) != 1 or label.shape[1:] != (ds.sizes[y], ds.sizes[x]):
            raise GridError(
                f"mask {self.mask.path!r} has the shape {label.shape}, its image {ds.sizes[y]} x {ds.sizes[x]} px",
                "give masks of one band with the pixels of their images",
            )
        attrs = label_attributes(dict(self.classes))
        if "spatial_ref" in ds.coords:
            attrs["grid_mapping"] = "spatial_ref"
        return ds.assign({self.name: ((y, x), label[0], attrs)})

    def place(self) -> tuple[float, float] | None:
        """Return longitude and latitude of the centre in degrees; None without a georeference."""
        return self.images[0].place()

    def identity(self) -> str:
        """Return a hash of all files."""
        return hashlib.sha256(
            "".join(part.identity() for part in (*self.images, self.mask)).encode()
        ).hexdigest()


def class_folders(root: Path, how: Mapping[str, Any], *, label: str) -> TrainingSet:
    """Return a training set of a folder with a folder of images per class, split or not.

    Parameters
    ----------
    root
        Holds folders of classes, or ``train``, ``val`` and ``test`` with such folders, or leads to them through
        folders with nothing else. Text files such as ``eurosat-train.txt`` list the images of a split.
    how
        ``bands``, ``scale`` and ``offset`` of all images.
    label
        Name of the class among the properties.
    """
    home = _only(root)
    files: list[tuple[Path, str, str]] = []
    for split, folder in _split_folders(home):
        for classes in _folders(folder):
            files += [(file, classes.name, split) for file in _images(classes)]
    if not files:
        raise SourceError(
            f"folder {str(root)!r} holds no folders of images; it holds {_shown(root)}",
            f"give the folder whose folders are classes, with images of {', '.join(IMAGE_SUFFIXES)}",
        )
    classes_of = tuple(sorted({name for _, name, _ in files}))
    listed = _listed_splits(root) | (_listed_splits(home) if home != root else {})
    options = file_options(how, classes_of)
    ids = _ids([file for file, _, _ in files])
    items = []
    for identifier, (file, name, split) in zip(ids, files, strict=True):
        assigned = split or listed.get(file.stem, "")
        items.append(
            TrainingItem(
                id=identifier,
                source=ImageFile(str(file), **options(file)),
                label=name,
                split=assigned,
                href=str(file),
                properties=label_properties("classes", label, classes_of, value=name, split=assigned),
            )
        )
    return TrainingSet(tuple(items), "classes", label, classes_of)


def mask_folders(
    root: Path, how: Mapping[str, Any], *, label: str | None, classes: Mapping[int, str]
) -> TrainingSet:
    """Return a training set of a folder ``images`` and a folder of masks with files of the same names."""
    items: list[TrainingItem] = []
    name = label or ""
    for split, folder in _split_folders(_only(root, _IMAGES)):
        images = _one_of(folder, _IMAGES, "images")
        masks = _one_of(folder, (label,) if label else _MASKS, "masks")
        name = name or masks.name
        items += _labelled([images], masks, split, how, "pixels", name, classes)
    return TrainingSet(_distinct(items), "pixels", name, tuple(classes.values()))


def change_folders(
    root: Path, how: Mapping[str, Any], *, label: str | None, classes: Mapping[int, str]
) -> TrainingSet:
    """Return a training set of two folders of images, before and after, and one of maps of what changed."""
    items: list[TrainingItem] = []
    name = label or ""
    known = [one for pair in _PAIRS for one in pair]
    for split, folder in _split_folders(_only(root, known)):
        there = {entry.name for entry in _folders(folder)}
        pair = next((pair for pair in _PAIRS if set(pair) <= there), None)
        if pair is None:
            raise SourceError(
                f"folder {str(folder)!r} holds no folders of images before and after; it holds {_shown(folder)}",
                f"call them {' or '.join('/'.join(pair) for pair in _PAIRS[:3])}",
            )
        masks = _one_of(folder, (label,) if label else _MASKS, "maps of what changed")
        name = name or masks.name
        items += _labelled([folder / one for one in pair], masks, split, how, "change", name, classes)
    return TrainingSet(_distinct(items), "change", name, tuple(classes.values()))


def _labelled(
    folders: Sequence[Path],
    masks: Path,
    split: str,
    how: Mapping[str, Any],
    task: Any,
    name: str,
    classes: Mapping[int, str],
) -> Iterator[TrainingItem]:
    by_stem = [{file.stem: file for file in _images(folder)} for folder in (*folders, masks)]
    options = file_options(how, ())
    for stem, file in by_stem[0].items():
        for others, folder in zip(by_stem[1:], (*folders[1:], masks), strict=True):
            if stem not in others:
                raise SourceError(
                    f"image {str(file)!r} has no file {stem!r} in {str(folder)!r}",
                    "add it, or remove the image",
                )
        images = tuple(ImageFile(str(one[stem]), **options(one[stem])) for one in by_stem[:-1])
        yield TrainingItem(
            id=safe_id(stem),
            source=LabelledImage(images, ImageFile(str(by_stem[-1][stem])), name, tuple(classes.items())),
            split=split,
            href=str(file),
            properties=label_properties(task, name, tuple(classes.values()), split=split),
        )


def _distinct(items: Sequence[TrainingItem]) -> tuple[TrainingItem, ...]:
    """Return items whose ids differ: the split tells those of one name apart."""
    counts = Counter(item.id for item in items)
    return tuple(
        replace(item, id=f"{item.split}-{item.id}") if counts[item.id] > 1 else item for item in items
    )


def file_options(how: Mapping[str, Any], classes: Sequence[str]) -> Any:
    """Return the options of `ImageFile` by file; those of EuroSAT are known."""
    given = {name: value for name, value in how.items() if value is not None}
    eurosat = len(classes) >= 2 and set(classes) <= set(EUROSAT) and "scale" not in given

    def of(file: Path) -> dict[str, Any]:
        if not eurosat:
            return given
        picture = file.suffix.lower() in (".jpg", ".jpeg", ".png")
        scale, offset = _EUROSAT_RGB if picture else (1e-4, 0.0)
        return {**given, "scale": scale, "offset": offset}

    return of


def _ids(files: Sequence[Path]) -> list[str]:
    """Return an id per file: its name, with that of its folder where names repeat."""
    counts = Counter(safe_id(file.stem) for file in files)
    ids = [
        safe_id(file.stem) if counts[safe_id(file.stem)] == 1 else safe_id(f"{file.parent.name}-{file.stem}")
        for file in files
    ]
    again = Counter(ids)
    return [
        name if again[name] == 1 else safe_id(f"{file.parent.parent.name}-{name}")
        for name, file in zip(ids, files, strict=True)
    ]


def _listed_splits(folder: Path) -> dict[str, str]:
    """Return the split by name of image from text files such as ``eurosat-train.txt``."""
    out: dict[str, str] = {}
    for file in sorted(folder.glob("*.txt")):
        split = split_named(file.stem.replace("_", "-").rpartition("-")[2])
        if split is not None and file.stat().st_size < 2**26:
            lines = file.read_text(encoding="utf-8", errors="replace").split()
            out |= {Path(line).stem: split for line in lines}
    return out


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    """Return split and folder; one without a split where the folders have other names."""
    folders = _folders(root)
    splits = [(split, folder) for folder in folders if (split := split_named(folder.name)) is not None]
    if splits and len(splits) == len(folders):
        return splits
    return [("", root)]


def _only(root: Path, stop: Sequence[str] = ()) -> Path:
    """Return the folder that a chain of folders with nothing else leads to."""
    folder = root
    for _ in range(12):
        inside = _folders(folder)
        end = len(inside) != 1 or _images(folder) or inside[0].name in stop or split_named(inside[0].name)
        if end or _images(inside[0]):
            break
        folder = inside[0]
    return folder


def _one_of(folder: Path, names: Sequence[str], what: str) -> Path:
    for entry in _folders(folder):
        if entry.name in names or entry.name.lower() in names:
            return entry
    raise SourceError(
        f"folder {str(folder)!r} holds no folder of {what}; it holds {_shown(folder)}",
        f"call it {names[0]!r}" + ("" if what == "images" else ", or name it: label='...'"),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def _shown(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"
