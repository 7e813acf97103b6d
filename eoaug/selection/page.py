"""The page of a selection: numbers by class, measures, and images that were dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from eoaug.augmentation.training_items import TrainingSet
from eoaug.quicklook import Picture, Section, enlarge, page, rgb

__all__ = ["write_page"]

_SHOWN = 12
_EDGE_PX = 128


class SelectionResult(Protocol):
    """What the page reads of a selection."""

    @property
    def lines(self) -> Sequence[Mapping[str, Any]]:
        """A line per made image."""

    @property
    def measures(self) -> Mapping[str, float]:
        """Descriptive measures."""

    @property
    def by_class(self) -> Mapping[str, tuple[int, int]]:
        """Numbers of made and kept images."""


def write_page(selection: SelectionResult, made: TrainingSet, folder: Path) -> Path:
    """Write ``index.html`` into a folder.

    Parameters
    ----------
    selection
        What it shows.
    made
        Where the images are.
    folder
        Exists.
    """
    items = {item.id: item for item in made}
    table = [["class", "made", "kept"]]
    table += [[name, f"{count:,}", f"{kept:,}"] for name, (count, kept) in selection.by_class.items()]
    measures = [["measure", "value"], *([name, f"{value:.4g}"] for name, value in selection.measures.items())]
    sections = [
        Section(title="Classes", table=table),
        Section(
            title="Measures",
            text="Of features of made images against real ones. They describe; they do not predict whether made images help.",
            table=measures,
        ),
    ]
    for reason, words in _WORDS.items():
        dropped = [line for line in selection.lines if reason in line["reasons"]][:_SHOWN]
        rows = [
            [_picture(items[line["id"]], line, words) for line in dropped[at : at + 6]]
            for at in range(0, len(dropped), 6)
        ]
        if rows:
            sections.append(Section(title=f"Dropped: {reason}", text=_ABOUT[reason], rows=rows))
    kept = [line for line in selection.lines if line["keep"]]
    spread = kept[:: max(1, len(kept) // _SHOWN)][:_SHOWN]
    rows = [
        [_picture(items[line["id"]], line, "agreement") for line in spread[at : at + 6]]
        for at in range(0, len(spread), 6)
    ]
    sections.append(Section(title="Kept", rows=rows))
    return page(
        "Selection of made images", sections, folder / "index.html", lead=str(selection).replace("\n", "\n\n")
    )


_WORDS = {"agreement": "agreement", "duplicate": "duplicate_of", "memorised": "nearest"}
_ABOUT = {
    "agreement": "A classifier of real images, which did not see their source, finds their label improbable.",
    "duplicate": "The same as an earlier made image, perhaps turned or mirrored.",
    "memorised": "The same as a real image that is not their source, perhaps turned or mirrored.",
}


def _picture(item: Any, line: Mapping[str, Any], field: str) -> Picture:
    return Picture(
        enlarge(rgb(item.open()), _EDGE_PX),
        str(line["label"] or line["id"]),
        f"{field.replace('_', ' ')} {line[field]}",
    )
