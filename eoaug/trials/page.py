"""The page of a verdict: the sentence, tables of arms, doses and classes, a curve over the dose, and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.augmentation.verdict import Verdict
from eoaug.quicklook import Picture, Section, enlarge, page, rgb
from eoaug.trials.checks import address

__all__ = ["dose_curve", "write_page"]

_SHOWN = 6
"""Real images shown with images made from them."""
_DROPPED = 12
_EDGE_PX = 128

_LEAD = (
    "All arms have the same number of updates, the same batches and schedule, and per seed the same initial weights. The "
    "mixture was chosen on the split validate. Its rival is the real arm with the best score on the split test, so that this "
    "choice favours the rival. Intervals are of 95 %, over test places and seeds together. Made images are to be used only "
    "if the whole interval is above 0."
)


def write_page(
    verdict: Verdict,
    train: TrainingSet,
    made: TrainingSet,
    folder: Path,
    dropped: Sequence[tuple[TrainingItem, Sequence[str]]] = (),
) -> Path:
    """Write ``index.html`` into a folder.

    Parameters
    ----------
    verdict
        What it shows.
    train, made
        Where the images are.
    folder
        Exists.
    dropped
        Made images that a selection has left out, with the reasons.
    """
    report = verdict.report
    sections = []
    for size in report["sizes"]:
        name = _size_name(size["fraction"])
        sections.append(
            Section(
                title=f"Arms, {name}",
                text=_sentence(size, verdict.metric),
                table=_arm_table(size, verdict.metric),
                rows=[[Picture(dose_curve(size), "score by share of made images", "bars: 95 % of the gain")]],
            )
        )
        sections.append(
            Section(
                title=f"Classes, {name}",
                text="An interval of one class is one of many: by chance about one in twenty does not hold.",
                table=_class_table(size),
            )
        )
    sections.append(
        Section(
            title="Images",
            text="Real images of training, and images made from them.",
            rows=_pictures(train, made),
        )
    )
    if dropped:
        some = dropped[:: max(1, len(dropped) // _DROPPED)][:_DROPPED]
        shown = [_picture(item, item.label or item.id, ", ".join(reasons)) for item, reasons in some]
        sections.append(
            Section(
                title="Dropped images",
                text=f"{len(dropped):,} made images that the selection left out of all arms, such as these, and why.",
                rows=[shown[at : at + _SHOWN] for at in range(0, len(shown), _SHOWN)],
            )
        )
    settings = {key: value for key, value in report.items() if key not in ("sizes", "notes")}
    return page(
        f"Gate: {'use' if verdict.use else 'do not use'}",
        sections,
        folder / "index.html",
        lead="\n\n".join([_upper(str(verdict)) + ".", _LEAD, *report["notes"]]),
        foot="\n\n".join(f"{key}: {value}" for key, value in settings.items()),
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _size_name(fraction: float) -> str:
    if fraction == 1:
        return "all training images"
    return (
        f"{fraction:.0f} images per class" if fraction > 1 else f"{100 * fraction:g} % of the training images"
    )


def _sentence(size: Mapping[str, Any], metric: str) -> str:
    chosen, gain = size["chosen"], size["gain"]
    return (
        f"{'Use' if size['use'] else 'Do not use'}: {chosen['name']} gives {_points(gain)} points of {metric} over "
        f"{size['rival']}, {len(size['arms'])} arms tried."
    )


def _points(gain: Mapping[str, float | None] | None) -> str:
    if gain is None or gain["mean"] is None:
        return "-"
    if gain["low"] is None or gain["high"] is None:
        return f"{100 * gain['mean']:+.1f}"
    return f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _arm_table(size: Mapping[str, Any], metric: str) -> list[list[str]]:
    with_top3 = any(line["top3"] is not None for line in size["arms"])
    head = ["arm", f"{metric}, validate", "test", *(["top 3"] if with_top3 else []), "gain over the rival"]
    rows = [[*head, "updates", "images seen", "made"]]
    for line in size["arms"]:
        is_rival = line["p"] == 0 and not line["repeated"] and line["augmentation"] == size["rival"]
        rows.append(
            [
                line["name"] + (" (rival)" if is_rival else " (chosen)" if line == size["chosen"] else ""),
                _percent(line["validate"]),
                _percent(line["test"]),
                *([_percent(line["top3"])] if with_top3 else []),
                _points(line["gain"]),
                f"{line['updates']:,}",
                f"{line['samples']:,}",
                f"{line['made']:,}",
            ]
        )
    return rows


def _class_table(size: Mapping[str, Any]) -> list[list[str]]:
    chosen = size["chosen"]["name"]
    rows = [["class", f"{size['rival']}, real only", chosen, "gain"]]
    return rows + [
        [line["class"], _percent(line["rival"]), _percent(line["chosen"]), _points(line["gain"])]
        for line in size["classes"]
    ]


def _pictures(train: TrainingSet, made: TrainingSet) -> list[list[Picture]]:
    """Return rows of a real image and some made from it, of different classes where there are classes of images."""
    real: dict[str, TrainingItem] = {}
    for item in train.split("train"):
        real |= {item.id: item, address(item.href): item}
    children: dict[str, list[TrainingItem]] = {}
    for item in made:
        parent = next((real[s] for one in item.made_from for s in (one, address(one)) if s in real), None)
        if parent is not None:
            children.setdefault(parent.id, []).append(item)
    chosen: dict[Any, str] = {}
    for name in children:
        label = real[name].label
        chosen.setdefault(name if label is None else label, name)
    rows = []
    for name in list(chosen.values())[:_SHOWN]:
        item = real[name]
        row = [_picture(item, item.label or item.id, "real")]
        rows.append(row + [_picture(child, child.label or child.id, "made") for child in children[name][:4]])
    return rows


def _picture(item: TrainingItem, caption: str, note: str) -> Picture:
    return Picture(enlarge(rgb(item.open()), _EDGE_PX), caption, note)


_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 360, 64, 24, 24, 48
_COLOURS = ((31, 111, 84), (176, 84, 32), (52, 92, 168), (130, 60, 130))


def dose_curve(size: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return a picture of test scores over the share of made images, a line per augmentation, (H, W, 3)."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for arm in size["arms"]:
        if not arm["repeated"]:
            lines.setdefault(arm["augmentation"], []).append(arm)
    scores = [one for some in lines.values() for arm in some for one in _range(arm)]
    low, high = min(scores), max(scores)
    margin = max(0.1 * (high - low), 0.005)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), (255, 255, 255))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)

    def at(p: float, score: float) -> tuple[float, float]:
        across = _LEFT + p * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (high - score) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    for k in range(5):
        p, score = k / 4, low + k / 4 * (high - low)
        pen.line([at(0, score), at(1, score)], (225, 228, 232))
        pen.text((_LEFT - 8, at(0, score)[1]), f"{100 * score:.1f}", (96, 102, 112), font, anchor="rm")
        pen.text((at(p, low)[0], _HEIGHT - _BOTTOM + 8), f"{p:g}", (96, 102, 112), font, anchor="mt")
    pen.text((_WIDTH / 2, _HEIGHT - 8), "share of made images p", (28, 31, 36), font, anchor="mb")
    for k, (name, some) in enumerate(lines.items()):
        colour, shift = _COLOURS[k % len(_COLOURS)], (k - 1.5) * 3
        points = [(at(arm["p"], arm["test"])[0] + shift, at(arm["p"], arm["test"])[1]) for arm in some]
        pen.line(points, colour, 2)
        for arm, (x, y) in zip(some, points, strict=True):
            bottom, top = _range(arm)
            pen.line([(x, at(0, bottom)[1]), (x, at(0, top)[1])], colour)
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
        pen.text((_LEFT + 8 + 140 * k, 4), name, colour, font)
    return np.asarray(canvas)


def _range(arm: Mapping[str, Any]) -> tuple[float, float]:
    """Return the ends of the bar of an arm: its score with the half interval of its gain; of the rival the score."""
    gain = arm["gain"]
    half = 0.0 if gain is None or gain["high"] is None else gain["high"] - gain["mean"]
    return max(0.0, arm["test"] - half), min(1.0, arm["test"] + half)
