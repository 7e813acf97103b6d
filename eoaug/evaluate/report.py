"""An evaluation as files: JSON, Markdown, one HTML page with pictures, sheets of synthetic images.

Imports quicklook for pictures. All pictures have one fixed stretch, so that they can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.evaluate.evaluation import Evaluation
from eoaug.evaluate.scores import Example
from eoaug.evaluate.synthesis import Sheet
from eoaug.quicklook import Picture, Section, enlarge, page, rgb, shade, sheet
from eoaug.raster.arrays import FloatArray

__all__ = ["montage", "picture", "write_report"]


_EDGE_PX = 192
_GAP_PX = 2
_COLUMNS = 4
_STD_WHITE = 0.1
"""Reflectance of standard deviation that is shown as white."""


def write_report(evaluation: Evaluation, folder: str | os.PathLike[str]) -> Path:
    """Write ``table.json``, ``table.md``, ``index.html`` and a PNG per sheet of images.

    Parameters
    ----------
    evaluation
        From `evaluate`.
    folder
        Made if need be; files of these names are replaced.

    Returns
    -------
    pathlib.Path
        The HTML page, which holds all that it shows.
    """
    out, table, slots = Path(folder), evaluation.table, evaluation.slots
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(table.to_json() + "\n", encoding="utf-8")
    (out / "table.md").write_text(table.to_markdown(), encoding="utf-8")
    shown: dict[str, list[Example]] = {}
    for example in evaluation.examples:
        shown.setdefault(example.case.task, []).append(example)
    sections = []
    for title, text, rows in table.sections():
        found = [_row(example, table.generator, slots) for example in shown.get(title, [])]
        sheets = [_pictured(one, slots) for one in evaluation.sheets if one.title == title]
        told = [text, *(one.text for one in evaluation.sheets if one.title == title)]
        sections.append(Section(title=title, text="\n\n".join(told), table=rows, rows=[*found, *sheets]))
    for task, examples in shown.items():
        rows_of_pictures = [_row(example, table.generator, slots) for example in examples]
        name = f"{task.replace(' ', '-')}.png"
        sheet([Section(title=task, rows=rows_of_pictures)], out / name, edge_px=_EDGE_PX)
    for one in evaluation.sheets:
        sheet([Section(title=one.text, rows=[_pictured(one, slots)])], out / f"{one.title}.png")
    return page(
        f"Evaluation of {table.generator}",
        sections,
        out / "index.html",
        lead="Beside classical methods, on real cubes whose truth the generator was not shown.\n\n"
        "Pictures: reflectance 0 to 0.3 from black to white (near infrared to 0.5), the same for all. Per task the "
        "windows of the median and of the worst gain over the best classical method are shown.",
        foot="\n\n".join(f"{name}: {value}" for name, value in table.settings.items()),
    )


def picture(image: FloatArray, slots: Sequence[str]) -> NDArray[np.uint8]:
    """Return an image (C, H, W) in reflectance as colours, (H, W, 3).

    Parameters
    ----------
    image
        NaN for the slots that are not there.
    slots
        Their common names.
    """
    there = {slot: plane for slot, plane in zip(slots, image, strict=True) if np.isfinite(plane).all()}
    ds = xr.Dataset(
        {
            slot: (("y", "x"), np.asarray(plane, np.float32), {"common_name": slot})
            for slot, plane in there.items()
        }
    )
    return rgb(ds)


def montage(
    images: Sequence[FloatArray], slots: Sequence[str], *, columns: int = _COLUMNS
) -> NDArray[np.uint8]:
    """Return one picture of many images of one size, row by row, with thin lines between them."""
    pictures = [picture(image, slots) for image in images]
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    step_y, step_x = height + _GAP_PX, width + _GAP_PX
    canvas = np.full((rows * step_y - _GAP_PX, columns * step_x - _GAP_PX, 3), 255, np.uint8)
    for index, one in enumerate(pictures):
        row, col = divmod(index, columns)
        canvas[row * step_y : row * step_y + height, col * step_x : col * step_x + width] = one
    return canvas


def _pictured(one: Sheet, slots: Sequence[str]) -> list[Picture]:
    """Return a sheet as two halves side by side."""
    bands = _common(one.images)
    images = [np.where(bands[:, None, None], image, np.nan) for image in one.images]
    half = -(-len(images) // 2)
    return [
        Picture(montage(part, slots, columns=_COLUMNS), f"{one.title}, {words} half")
        for part, words in ((images[:half], "first"), (images[half:], "second"))
        if part
    ]


def _common(images: Sequence[FloatArray]) -> NDArray[np.bool_]:
    return np.asarray(np.all([np.isfinite(image).all(axis=(1, 2)) for image in images], axis=0))


def _row(example: Example, name: str, slots: Sequence[str]) -> list[Picture]:
    """Return what was given, the answers and the truth, side by side."""
    case = example.case
    bands = case.counts.any(axis=(1, 2))

    def shown(image: FloatArray) -> NDArray[np.uint8]:
        return picture(np.where(bands[:, None, None], image, np.nan), slots)

    row, col = case.request.origin
    where = f"{case.place}, row {row}, column {col}"
    pictures = [Picture(enlarge(shown(case.truth), _EDGE_PX), f"truth ({example.kind})", where)]
    for words, (image, hidden) in example.given.items():
        seen = shown(image)
        pictures.append(Picture(enlarge(seen if hidden is None else shade(seen, hidden), _EDGE_PX), words))
    for method, image in example.results.items():
        counts = case.counts[bands]
        error = np.sqrt(np.mean((image[bands] - case.truth[bands])[counts] ** 2))
        words = f"{method}, best estimate" if method == name else method
        decibel = "exact" if error == 0 else f"{-20 * np.log10(error):.2f} dB"
        pictures.append(Picture(enlarge(shown(image), _EDGE_PX), words, decibel))
    if example.spread is not None:
        mean = example.spread[bands].mean(axis=0)
        grey = np.rint(np.clip(mean / _STD_WHITE, 0, 1) * 255).astype(np.uint8)
        note = f"white: deviation {_STD_WHITE:g}"
        wide = enlarge(np.repeat(grey[..., None], 3, axis=-1), _EDGE_PX)
        pictures.append(Picture(wide, "spread of members", note))
    return pictures
