"""Captions as a file of which every line is a caption; images themselves stay as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingSet
from eoaug.errors import SourceError, first_line
from eoaug.storage.atomic import atomic_write

__all__ = ["CAPTIONS", "read_captions", "with_captions", "write_captions"]

CAPTIONS = "captions.jsonl"
"""Name of the file."""


def write_captions(lines: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Write a line per caption; equal lines give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, overwrite=True) as scratch:
        text = "".join(json.dumps(dict(line), sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
        scratch.write_text(text, encoding="utf-8")
    return path


def read_captions(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Return the captions of every image without a problem, by id.

    Raises
    ------
    SourceError
        The file cannot be read.
    """
    file = Path(path).expanduser()
    out: dict[str, list[str]] = {}
    try:
        for text in file.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if not isinstance(line["caption"], str) or not isinstance(line["id"], str):
                raise ValueError("a line has no id or no caption")
            out.setdefault(line["id"], [])
            if not line.get("problems"):
                out[line["id"]].append(line["caption"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(
            f"the captions {str(file)!r} cannot be read: {first_line(error)}", "run `eoaug caption` again"
        ) from error
    return out


def with_captions(train: TrainingSet, path: str | os.PathLike[str]) -> TrainingSet:
    """Return a training set whose items have their first caption without a problem as ``description``.

    A policy uses it as the slot ``description`` of a prompt, and items that are made inherit it.

    Raises
    ------
    SourceError
        The file cannot be read, or has none of the images.
    """
    captions = read_captions(path)
    if not any(item.id in captions for item in train):
        raise SourceError(
            f"the captions {str(path)!r} are of none of the {len(train)} images",
            "caption this training set: `eoaug caption SET`",
        )
    items = []
    for item in train:
        own = captions.get(item.id)
        items.append(replace(item, properties={**item.properties, "description": own[0]}) if own else item)
    return replace(train, items=tuple(items))
