"""Items of training sets, with labels and splits, and the sets: no pixel is in memory before an item is opened."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, overload

import xarray as xr

from eoaug.cube.carried import PROPERTIES, SPLIT, as_text
from eoaug.display import Shown
from eoaug.errors import EoaugError, ParameterError, did_you_mean

__all__ = ["SPLITS", "ItemSource", "Task", "TrainingItem", "TrainingSet", "label_properties", "split_named"]

Task = Literal["classes", "pixels", "change"]
"""``classes``: an image has a class. ``pixels``: every pixel has one. ``change``: two dates and a map of what changed."""

SPLITS = ("train", "validate", "test")
"""Names of the splits, those of the ml-aoi extension."""
_MOST_DAMAGED = 100
"""Images in a row that may be damaged before a set is taken for unreadable."""
_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "validate"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_named(text: Any) -> str | None:
    """Return the split that a name means (``val`` is ``validate``), or None."""
    return _SPELLINGS.get(str(text).strip().lower())


class ItemSource(Protocol):
    """Where the pixels of an item are; small when pickled."""

    def open(self) -> xr.Dataset:
        """Return the item as a cube."""

    def place(self) -> tuple[float, float] | None:
        """Return longitude and latitude of its centre in degrees; None where they are not known."""

    def identity(self) -> str:
        """Return a hash of what the item holds."""


@dataclass(frozen=True)
class TrainingItem:
    """One image with its label; its pixels are read by `open`."""

    id: str
    """Unique within the set; the name of a folder."""
    source: ItemSource
    label: str | None = None
    """Class of the image (task ``classes``); None where a variable of the cube is the label."""
    split: str = ""
    """``train``, ``validate``, ``test``, or empty: not assigned, or left out."""
    href: str = ""
    """Address of its document or file."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Properties that items made from it inherit; see `eoaug.cube.carried`."""
    made_from: tuple[str, ...] = ()
    """Ids or addresses of the items that it was made from; empty for a real one."""

    def open(self) -> xr.Dataset:
        """Return the item as a cube with its properties; labels of pixels are a variable of it."""
        ds = self.source.open()
        own = {"item_id": self.id, "item_href": self.href, PROPERTIES: as_text(self.properties)}
        new = {name: text for name, text in own.items() if name == PROPERTIES or name not in ds.coords}
        if "time" not in ds.dims:
            return ds.assign_coords(new)
        return ds.assign_coords({name: ("time", [text] * ds.sizes["time"]) for name, text in new.items()})

    @property
    def place(self) -> tuple[float, float] | None:
        """Longitude and latitude of the centre in degrees; None where they are not known."""
        return self.source.place()

    @property
    def identity(self) -> str:
        """Hash of pixels, label and split."""
        content = [self.id, self.label, self.split, self.source.identity()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, repr=False)
class TrainingSet(Shown, Sequence[TrainingItem]):
    """Images with labels and splits, in a fixed order."""

    items: tuple[TrainingItem, ...]
    task: Task
    label: str
    """Name of the label: a property of items, or the variable of cubes."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers; empty where they are not known."""

    def __post_init__(self) -> None:
        counts = Counter(item.id for item in self.items)
        if not counts:
            raise ParameterError("the training set has no item", "check the source and split=")
        name, most = counts.most_common(1)[0]
        if most > 1:
            raise ParameterError(
                f"{most} items of the training set have the id {name!r}", "give each its own"
            )

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> TrainingItem: ...
    @overload
    def __getitem__(self, index: slice) -> TrainingSet: ...
    def __getitem__(self, index: int | slice) -> TrainingItem | TrainingSet:
        return replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]

    def __iter__(self) -> Iterator[TrainingItem]:
        return iter(self.items)

    @property
    def splits(self) -> dict[str, int]:
        """Number of items by split; those of none under the empty name."""
        return dict(Counter(item.split for item in self.items))

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by class (task ``classes``), in the order of the classes."""
        found = Counter(item.label for item in self.items)
        return {name: found[name] for name in self.classes if name in found}

    def split(self, name: str) -> TrainingSet:
        """Return the items of a split.

        Raises
        ------
        ParameterError
            No item is in it.
        """
        wanted = split_named(name)
        if wanted is None:
            raise ParameterError(f"split {name!r} is unknown", f"use one of {', '.join(SPLITS)}")
        kept = tuple(item for item in self.items if item.split == wanted)
        if not kept:
            raise ParameterError(
                f"no item of the training set is in the split {wanted!r}; there are {self.splits}",
                "assign splits by place, training_set(..., split='place'), or to all, split='train'",
            )
        return replace(self, items=kept)

    def first_readable(self) -> TrainingItem:
        """Return the first image that can be read: one that is damaged must not stop work on the others.

        Raises
        ------
        EoaugError
            None of the first hundred can be read; the error is that of the first.
        """
        first: EoaugError | None = None
        for item in self.items[:_MOST_DAMAGED]:
            try:
                item.open()
            except EoaugError as error:
                first = first or error
            else:
                return item
        assert first is not None
        raise first

    def torch(self, split: str | None = None, **options: Any) -> Any:
        """Return the images of a split as a torch dataset.

        Parameters
        ----------
        split
            Default: all items.
        **options
            Of `eoaug.torch.Chips`: ``bands``, ``missing``, ``transforms``.
        """
        # By name: torch stays out of this floor until it is asked for.
        chips = importlib.import_module("eoaug.torch.chips").Chips
        return chips(self if split is None else self.split(split), **options)

    def index_of(self, name: str) -> int:
        """Return the number of a class."""
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def with_splits(self, splits: Mapping[str, str]) -> TrainingSet:
        """Return the set with other splits.

        Parameters
        ----------
        splits
            By id; items that are not in it keep theirs. An empty text leaves an item out of every split.
        """
        unknown = splits.keys() - {item.id for item in self.items}
        if unknown:
            name = min(unknown)
            hint = did_you_mean(name, [item.id for item in self.items])
            raise ParameterError(
                f"split= names the item {name!r}, which is not in the set", hint or "correct it"
            )
        return replace(
            self, items=tuple(_in_split(item, splits.get(item.id, item.split)) for item in self.items)
        )

    def __str__(self) -> str:
        splits = ", ".join(f"{name or 'no split'} {count}" for name, count in self.splits.items())
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"TrainingSet for {self.task}: {len(self)} items ({splits}), label {self.label!r}{classes}"


def _in_split(item: TrainingItem, given: str) -> TrainingItem:
    split = split_named(given) if given else ""
    if split is None:
        raise ParameterError(
            f"split {given!r} of item {item.id!r} is unknown",
            f"use one of {', '.join(SPLITS)}, or an empty text",
        )
    properties = {name: value for name, value in item.properties.items() if name != SPLIT}
    if split:
        properties[SPLIT] = split
    return replace(item, split=split, properties=properties)


_TASKS = {"classes": "classification", "pixels": "segmentation", "change": "segmentation"}
"""Tasks of the extension label."""


def label_properties(
    task: Task, label: str, classes: Sequence[str], *, value: str | None = None, split: str = ""
) -> dict[str, Any]:
    """Return the properties of an item in the extensions label and ml-aoi.

    Parameters
    ----------
    task, label, classes
        Of the set.
    value
        Class of the item, with the task ``classes``.
    split
        Of the item.
    """
    whole = task == "classes"
    properties: dict[str, Any] = {
        "label:type": "vector" if whole else "raster",
        "label:properties": [label] if whole else None,
        "label:description": f"{label}: {'class of the image' if whole else 'class of every pixel'}",
        "label:tasks": [_TASKS[task]],
    }
    if classes:
        properties["label:classes"] = [{"name": label if whole else None, "classes": list(classes)}]
    if value is not None:
        properties[label] = value
    if split:
        properties[SPLIT] = split
    return properties
