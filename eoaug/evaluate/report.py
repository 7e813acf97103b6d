"""An evaluation as files: JSON, Markdown, one HTML page with pictures, sheets of synthetic images.

All pictures have the same fixed stretch, so that they can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.evaluate.evaluation import Evaluation
from eoaug.evaluate.model_index import model_index
from eoaug.evaluate.scenes import Strip
from eoaug.evaluate.scores import Example
from eoaug.evaluate.synthesis import Sheet
from eoaug.quicklook import Picture, Section, enlarge, page, rgb, shade, sheet
from eoaug.raster.arrays import FloatArray
from eoaug.raster.montage import montage

__all__ = ["picture", "write_report"]


_EDGE_PX = 192
_GAP_PX = 2
_COLUMNS = 4
_STD_WHITE = 0.1
"""Standard deviation of reflectance that is shown as white."""


def write_report(evaluation: Evaluation, folder: str | os.PathLike[str]) -> Path:
    """Write ``table.json``, ``table.md``, ``model-index.yaml``, ``index.html`` and a PNG per sheet of images.

    Parameters
    ----------
    evaluation
        From `evaluate`.
    folder
        Created if it does not exist; files of these names are replaced.

    Returns
    -------
    pathlib.Path
        The HTML page, which embeds its pictures.
    """
    out, table, slots = Path(folder), evaluation.table, evaluation.slots
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(table.to_json() + "\n", encoding="utf-8")
    (out / "table.md").write_text(table.to_markdown(), encoding="utf-8")
    (out / "model-index.yaml").write_text(model_index(table), encoding="utf-8")
    pictures: dict[str, list[list[Picture]]] = {}
    for example in evaluation.examples:
        row = _row(example, table.generator, slots)
        pictures.setdefault(example.case.task, []).append(row)
    for strip in evaluation.strips:
        pictures.setdefault(strip.task, []).append(_strip(strip))
    sections = []
    for title, text, rows in table.sections():
        sheets = [images for images in evaluation.sheets if images.title == title]
        texts = [text, *(images.text for images in sheets)]
        rows_of_pictures = [*pictures.get(title, []), *(_halves(images, slots) for images in sheets)]
        sections.append(Section(title=title, text="\n\n".join(texts), table=rows, rows=rows_of_pictures))
    for task, rows_of_task in pictures.items():
        name = f"{task.replace(' ', '-')}.png"
        sheet([Section(title=task, rows=rows_of_task)], out / name, edge_px=_EDGE_PX)
    for images in evaluation.sheets:
        sheet([Section(title=images.text, rows=[_halves(images, slots)])], out / f"{images.title}.png")
    return page(
        f"Evaluation of {table.generator}",
        sections,
        out / "index.html",
        lead="Comparison with classical baselines on real cubes that the generator was not trained on.\n\n"
        "Pictures: reflectance 0 to 0.3 from black to white (near infrared to 0.5), the same for all. Per task the "
        "windows with the median and the worst delta PSNR over the best baseline are shown, of dirty masks the dates with "
        "most implausible values.",
        foot="\n\n".join(f"{name}: {value}" for name, value in table.settings.items()),
    )


def picture(image: FloatArray, slots: Sequence[str]) -> NDArray[np.uint8]:
    """Return an image (C, H, W) in reflectance as RGB, (H, W, 3).

    Parameters
    ----------
    image
        NaN in absent bands.
    slots
        Common names of the bands.
    """
    present = {slot: plane for slot, plane in zip(slots, image, strict=True) if np.isfinite(plane).all()}
    ds = xr.Dataset(
        {
            slot: (("y", "x"), np.asarray(plane, np.float32), {"common_name": slot})
            for slot, plane in present.items()
        }
    )
    return rgb(ds)


def _strip(strip: Strip) -> list[Picture]:
    """Return the pictures of a date side by side."""
    names = _shown_as(strip.bands)
    pictures = []
    for one in strip.images:
        pixels = picture(one.image, names)
        pixels = pixels if one.hidden is None else shade(pixels, one.hidden, colour=one.colour)
        pictures.append(Picture(enlarge(pixels, _EDGE_PX), one.caption, one.note))
    return pictures


def _shown_as(bands: Sequence[str]) -> list[str]:
    """Return common names under which a picture shows bands; red edge and narrow infrared stand in where others lack."""
    names = list(bands)
    for wanted, stand_in in (("red", "rededge071"), ("nir", "nir08")):
        if wanted not in names and stand_in in names:
            names[names.index(stand_in)] = wanted
    return names


def _halves(images: Sheet, slots: Sequence[str]) -> list[Picture]:
    """Return a sheet as two halves side by side."""
    bands = _common(images.images)
    planes = [np.where(bands[:, None, None], image, np.nan) for image in images.images]
    half = -(-len(planes) // 2)
    return [
        Picture(
            montage([picture(image, slots) for image in group], _COLUMNS, gap_px=_GAP_PX, fill=255),
            f"{images.title}, {words} half",
        )
        for group, words in ((planes[:half], "first"), (planes[half:], "second"))
        if group
    ]


def _common(images: Sequence[FloatArray]) -> NDArray[np.bool_]:
    return np.asarray(np.all([np.isfinite(image).all(axis=(1, 2)) for image in images], axis=0))


def _row(example: Example, name: str, slots: Sequence[str]) -> list[Picture]:
    """Return truth, input and results side by side."""
    case = example.case
    bands = case.scored.any(axis=(1, 2))

    def shown(image: FloatArray) -> NDArray[np.uint8]:
        return picture(np.where(bands[:, None, None], image, np.nan), slots)

    row, col = case.request.origin
    where = f"{case.place}, row {row}, column {col}"
    pictures = [Picture(enlarge(shown(case.truth), _EDGE_PX), f"truth ({example.reason})", where)]
    for words, (image, hidden) in example.given.items():
        pixels = shown(image)
        pictures.append(
            Picture(enlarge(pixels if hidden is None else shade(pixels, hidden), _EDGE_PX), words)
        )
    for method, image in example.results.items():
        scored = case.scored[bands]
        error = np.sqrt(np.mean((image[bands] - case.truth[bands])[scored] ** 2))
        words = f"{method}, best estimate" if method == name else method
        decibel = "exact" if error == 0 else f"{-20 * np.log10(error):.2f} dB"
        pictures.append(Picture(enlarge(shown(image), _EDGE_PX), words, decibel))
    if example.spread is not None:
        mean = example.spread[bands].mean(axis=0)
        grey = np.rint(np.clip(mean / _STD_WHITE, 0, 1) * 255).astype(np.uint8)
        note = f"white: standard deviation {_STD_WHITE:g}"
        pixels = enlarge(np.repeat(grey[..., None], 3, axis=-1), _EDGE_PX)
        pictures.append(Picture(pixels, "ensemble spread", note))
    return pictures
