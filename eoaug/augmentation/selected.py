"""What `select` found about made images, as a file of which every line is an image; made images themselves stay as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.errors import ParameterError, SourceError, first_line
from eoaug.storage.atomic import atomic_write

__all__ = ["SELECTION", "dropped_of", "kept_of", "read_selection", "write_selection"]

SELECTION = "selection.jsonl"
"""Name of the file, in the folder ``selection`` of a catalog."""


def write_selection(lines: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write a line per made image into a folder; equal lines give equal bytes."""
    path = folder / SELECTION
    with atomic_write(path, overwrite=True) as scratch:
        text = "".join(json.dumps(dict(line), sort_keys=True) + "\n" for line in lines)
        scratch.write_text(text, encoding="utf-8")
    return path


def read_selection(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the reasons to drop each made image, by id; none for those that are kept.

    Raises
    ------
    SourceError
        The file cannot be read.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(line["keep"], bool) for line in lines):
            raise ValueError("a value of keep is neither true nor false")
        return {
            line["id"]: () if line["keep"] else tuple(map(str, line.get("reasons") or ["no reason"]))
            for line in lines
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(
            f"the selection {str(path)!r} cannot be read: {first_line(error)}", "run `eoaug select` again"
        ) from error


def _file_of(source: Any) -> Path | None:
    """Return the selection of a catalog; None where there is none."""
    if not isinstance(source, str | os.PathLike) or "://" in str(source):
        return None
    path = Path(source).expanduser() / "selection" / SELECTION
    return path if path.is_file() else None


def dropped_of(made: TrainingSet, source: Any) -> list[tuple[TrainingItem, tuple[str, ...]]]:
    """Return the made images that a selection drops, with the reasons; none where there is no selection.

    Parameters
    ----------
    made, source
        As for `kept_of`.
    """
    path = _file_of(source)
    if path is None:
        return []
    reasons = read_selection(path)
    return [(item, reasons[item.id]) for item in made if reasons.get(item.id)]


def kept_of(made: TrainingSet, source: Any) -> TrainingSet:
    """Return the made images that a selection keeps; all where there is no selection.

    Parameters
    ----------
    made
        The images of a catalog.
    source
        Its address.

    Raises
    ------
    ParameterError
        The selection is of other images, or keeps none.
    """
    path = _file_of(source)
    if path is None:
        return made
    reasons = read_selection(path)
    unknown = [item.id for item in made if item.id not in reasons]
    if unknown:
        raise ParameterError(
            f"{len(unknown)} of {len(made)} made images, such as {unknown[0]!r}, are not in {str(path)!r}: it was written "
            "before they were",
            "run `eoaug select` again, or remove that file",
        )
    items = tuple(item for item in made if not reasons[item.id])
    if not items:
        raise ParameterError(
            f"the selection {str(path)!r} keeps no image", "relax policy.keep, and select again"
        )
    return replace(made, items=items)
