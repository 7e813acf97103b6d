"""The report of a study of fine-tuning on radar images: JSON, Markdown and a page with pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eoaug.evaluate.sar_study import ArmResult, SarStudy, replace_text
from eoaug.quicklook import Picture, Section, enlarge, page, sheet
from eoaug.raster.arrays import Float32Array

__all__ = ["report_study"]

_COLUMNS = {
    "amplitude kl": "KL",
    "amplitude js": "JS",
    "amplitude wasserstein": "Wasserstein",
    "amplitude ks": "KS",
    "contrast": "contrast",
    "dissimilarity": "dissimilarity",
    "homogeneity": "homogeneity",
    "energy": "energy",
    "correlation": "correlation",
    "entropy": "entropy",
    "enl": "ENL",
    "looks": "looks",
    "clip": "CLIP",
    "clip shuffled": "CLIP shuffled",
}
_PICTURE_PX, _CUT_PX = 96, 32
_LEAD = (
    "Every arm was trained for the same number of steps on the same windows. KL, JS, Wasserstein and KS compare the "
    "amplitudes, over mean + 3 standard deviations, with those of training; contrast to entropy are 1-Wasserstein distances of "
    "co-occurrence descriptors over patches, in standard deviations of the real ones, as means over 1, 2, 4 and 8 px. Lower is "
    "nearer. ENL and looks are to be near those of real images. CLIP is the mean cosine of images and captions, and of shuffled "
    "captions.\n\nThe row 'real' is another place against the places of training: an arm below it is not better than real, its "
    "images are too much those of training."
)


def report_study(study: SarStudy) -> Path:
    """Write ``study.md``, ``figures.json``, ``samples.png`` and ``index.html`` to the folder of a study; return the page."""
    folder = study.folder
    rows = _rows(study)
    figures = [asdict(arm) for arm in (study.null, *study.arms)]
    replace_text(folder / "figures.json", json.dumps(figures, indent=1) + "\n")
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    replace_text(folder / "study.md", "\n".join(lines) + f"\n\n{_LEAD}\n")
    named = {arm.name: _label(arm) for arm in study.arms}
    images = [
        Section(named.get(name, f"real: {name}"), rows=[_pictures(stack)])
        for name, stack in study.samples.items()
    ]
    sheet(images, folder / "samples.png", edge_px=_PICTURE_PX)
    return page(
        "Fine-tuning on radar images",
        [
            Section("Figures", table=rows),
            Section("Texture by distance", table=_texture(study)),
            *images,
        ],
        folder / "index.html",
        lead=_LEAD,
    )


def _rows(study: SarStudy) -> list[list[str]]:
    present = [key for key in _COLUMNS if any(key in arm.figures for arm in study.arms)]
    heading = ["arm", "loss", *(_COLUMNS[key] for key in present)]
    return [heading, *([_label(arm), _number(arm.loss), *_numbers(arm, present)] for arm in _ordered(study))]


def _texture(study: SarStudy) -> list[list[str]]:
    keys = [key for key in study.null.figures if key.endswith(" px")]
    return [["arm", *keys], *([_label(arm), *_numbers(arm, keys)] for arm in _ordered(study))]


def _ordered(study: SarStudy) -> list[ArmResult]:
    """Return the yardstick, then the arms by the distance of their amplitudes."""
    return [study.null, *sorted(study.arms, key=lambda arm: arm.figures["amplitude wasserstein"])]


def _label(arm: ArmResult) -> str:
    """Return the name of an arm for readers; that of a place is as it is."""
    return arm.name.replace("_", ", ").replace("-", " ") if arm.name.startswith("unet-") else arm.name


def _numbers(arm: ArmResult, keys: Sequence[str]) -> list[str]:
    return [_number(arm.figures.get(key, float("nan"))) for key in keys]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def _pictures(images: Float32Array) -> list[Picture]:
    # Of one size, so that training chips and samples can be compared.
    return [
        Picture(enlarge(_grey(image[:edge, :edge]), _PICTURE_PX), "")
        for image in images
        for edge in [_CUT_PX]
    ]


def _grey(image: Float32Array) -> NDArray[np.uint8]:
    """Return an amplitude from 0 to 1 as grey; the root shows dark land."""
    return np.repeat((np.sqrt(np.clip(image, 0, 1)) * 255).astype(np.uint8)[..., None], 3, axis=2)
