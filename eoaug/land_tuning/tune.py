"""`tune_land`: the embedded generator with the land of a training set, judged by images that were held back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eoaug.augmentation.training_items import TrainingSet
from eoaug.display import Shown
from eoaug.errors import ParameterError, SourceError, TargetError, did_you_mean
from eoaug.generators.embedded.ground_cover import AREAS
from eoaug.generators.embedded.land import VISIBLE, Land, LandStatistics
from eoaug.generators.embedded.weights_config import CONFIG, LAND, GeneratorConfig, land_for, load_config
from eoaug.generators.weights import save_weights
from eoaug.land_tuning.covers import (
    LIKE,
    CoverChoice,
    cover_of_name,
    cover_of_word,
    likeness,
    structures_of,
)
from eoaug.land_tuning.fit import LandFit
from eoaug.land_tuning.gate import Compared, LandGate, draw_class
from eoaug.land_tuning.windows import LandWindows, read_windows
from eoaug.progress import Progress, track
from eoaug.raster.arrays import Float32Array
from eoaug.storage.names import safe_id
from eoaug.training.contact_sheet import write_sheet

__all__ = ["LandTuning", "TunedClass", "tune_land"]


CARD = "tuning.json"
"""What was tuned and how it was judged."""
_FEWEST, _FEWEST_HELD = 8, 4
"""Windows of a class that are needed to tune on, and to judge by."""
_TRIED = 6
"""Images that are drawn with a ground cover to measure its likeness."""
_TRIED_SEED, _JUDGED_SEED = 1_000_000, 2_000_000
_SHOWN = 4
"""Images of each kind in a row of the sheet."""


@dataclass(frozen=True, kw_only=True)
class TunedClass:
    """What became of a class of the set."""

    name: str
    cover: str | None
    """Ground cover that gives it its shapes; None: none."""
    how: str
    """How that was found: by its ``name``, by the user's ``word``, or by ``likeness`` of structure."""
    likeness: float
    """Distance of the structure of images drawn with it from that of real windows (`covers.likeness`); NaN without one."""
    tuned: int
    """Windows that it was tuned on."""
    held: int
    """Windows that it was judged by."""
    named: Compared | None
    """Share of images that a classifier of real windows names so; None where it was not judged."""
    colours: Compared | None
    """Distance of colours from windows held back."""
    offered: bool
    """Whether a prompt or a class map can ask for it."""
    reason: str
    """Why it does not pass; empty for one that passes."""


@dataclass(frozen=True, kw_only=True, repr=False)
class LandTuning(Shown):
    """The result of `tune_land`."""

    path: Path
    """Folder for ``generator=``."""
    name: str
    bands: tuple[str, ...]
    """Bands whose colours are those of the set."""
    held_by: str
    """How images were held back: ``split validate``, ``place`` or ``image``."""
    classes: tuple[TunedClass, ...]

    def __str__(self) -> str:
        """Return a table of the classes, and what they mean together."""
        rows: list[tuple[str, ...]] = [
            (
                "class",
                "shapes of",
                "windows",
                "named before / after / real",
                "colours before / after / real",
                "",
            )
        ]
        rows += [_cells(one) for one in self.classes]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        offered = sum(one.offered for one in self.classes)
        return "\n".join(
            [*lines, f"{offered} of {len(self.classes)} classes are offered; held back by {self.held_by}"]
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "path": None}


def tune_land(
    train: TrainingSet,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    classes: Mapping[str, str] | None = None,
    gsd_m: float | None = None,
    images: int = 24,
    offer_all: bool = False,
    seed: int = 0,
    progress: Progress = None,
) -> LandTuning:
    """Tune the land of the embedded generator on a training set, and write a generator that draws the classes of the set.

    Shapes are those of the ten ground covers that `embedded` knows; colours, their contrast and roughness, and the bands
    become those of the set. Every class is judged by images that were held back: a classifier of real windows names drawn
    ones, and their colours are compared. A class that does not pass is named in the result and is not offered.

    Parameters
    ----------
    train
        Classes of images or of pixels, with bands of reflectance, or of grey levels instead, of any pixel size. The
        splits ``train`` and ``validate`` are used, never ``test``; without ``validate`` a quarter of the images is held
        back, by place where places are known.
    out
        Folder to write, for ``generator=``; it may hold an earlier tuning, which is replaced.
    name
        Of the generator. Default: that of the folder.
    classes
        Ground cover by class, for classes whose names say none: ``{"maize": "annual_crop"}``; ``"none"`` leaves a class
        out. Other classes get the cover whose drawn structure is most like theirs, if one is like it at all; lines (roads,
        rivers) are found by name alone.
    gsd_m
        Pixel size in metres of images that do not say it. Default: 10 m.
    images
        Images that are drawn of every class to judge it, 8 or more.
    offer_all
        Offer also classes that were drawn and did not pass.
    seed
        Of windows and images.
    progress
        Whether to show a progress bar; None: after some seconds, on a terminal.

    Returns
    -------
    LandTuning
        The folder, and the figures of every class.

    Raises
    ------
    ParameterError
        An argument that cannot be used.
    SourceError
        The images hold no window of a class, or no class passes.
    TargetError
        ``out`` holds something else.
    """
    if images < 8:
        raise ParameterError(f"images={images} tell little of a class", "use images=8 or more")
    if gsd_m is not None and not gsd_m > 0:
        raise ParameterError(f"gsd_m={gsd_m!r} is no pixel size in metres", "e.g. gsd_m=10")
    folder = Path(out)
    _refuse_target(folder)
    words = dict(classes or {})
    for word in words.keys() - set(train.classes):
        hint = did_you_mean(word, train.classes)
        raise ParameterError(
            f"classes names {word!r}, which is no class of the set",
            hint or f"use some of {', '.join(train.classes)}",
        )
    chosen = {name: cover_of_word(name, word) for name, word in words.items()}
    config = load_config(None)
    windows = read_windows(train, seed=seed, progress=progress)
    fit = LandFit(windows, land_for(config))
    work = _TuningWork(
        train, windows, fit, config, gsd_m=windows.gsd_m if gsd_m is None else gsd_m, images=images, seed=seed
    )
    found = work.judged(chosen, offer_all=offer_all, progress=progress)
    if not any(one.offered for one in found):
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in found)
        raise SourceError(
            f"no class of the set can be drawn ({reasons})",
            "name their ground covers, classes={...}, or give more images",
        )
    result = LandTuning(
        path=folder,
        name=safe_id(name or folder.resolve().name),
        bands=windows.bands,
        held_by=windows.held_by,
        classes=tuple(found),
    )
    _write(result, work)
    return result


def _refuse_target(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CARD).is_file())):
        raise TargetError(f"{str(folder)!r} exists, and is no tuning of land", "give a new folder")


class _TuningWork:
    """The work of one tuning."""

    def __init__(
        self,
        train: TrainingSet,
        windows: LandWindows,
        fit: LandFit,
        config: GeneratorConfig,
        *,
        gsd_m: float,
        images: int,
        seed: int,
    ) -> None:
        self.windows, self.config, self.gsd_m = windows, config, gsd_m
        self._train, self._fit, self._images, self._seed = train, fit, images, seed
        self.sheet: dict[str, list[Float32Array]] = {}
        """Images by class: held back, drawn by the shipped statistics, drawn by the tuned ones."""

    def judged(
        self, words: Mapping[str, str | None], *, offer_all: bool, progress: Progress
    ) -> list[TunedClass]:
        """Choose a ground cover for every class, and judge what is drawn with it."""
        windows = self.windows
        enough = [
            name
            for name in self._train.classes
            if len(windows.tuned[name]) >= _FEWEST and len(windows.held[name]) >= _FEWEST_HELD
        ]
        out = []
        gate = None
        with track(2 * len(enough), what="tuning land", unit="step", progress=progress) as bar:
            choices = {}
            for name in enough:
                choices[name] = self._choice(name, words)
                bar.tiles(1)
            covers = {name: one.cover for name, one in choices.items() if one.cover is not None}
            land = self.land(covers) if covers else None
            for name in self._train.classes:
                if name not in enough:
                    out.append(self._left_out(name, words))
                    continue
                if land is None or name not in covers:
                    out.append(self._without_cover(name, choices[name]))
                else:
                    gate = gate or LandGate(
                        windows, self._fit, gsd_m=self.gsd_m, images=self._images, seed=self._seed
                    )
                    out.append(self._compared(gate, land, name, choices[name], offer_all))
                bar.tiles(1)
        return out

    def land(self, covers: Mapping[str, str]) -> Land:
        """Return land of classes by their covers, as its file will hold it."""
        own = self._train.split("train") if "train" in self._train.splits else self._train
        shares = {name: float(own.counts.get(name, 1)) for name in covers}
        made = self._fit.land(covers, shares, self.config.card.bands)
        half = {name: array.astype(np.float16) for name, array in _tensors(made.statistics).items()}
        stored = LandStatistics.of_tensors(
            half, made.statistics.infrared_bands, made.statistics.painted_bands
        )
        return Land(stored, self.config.card.bands, made.legend)

    def _choice(self, name: str, words: Mapping[str, str | None]) -> CoverChoice:
        if name in words:
            cover = words[name]
            return CoverChoice(cover, "word", self._distance(name, cover) if cover else float("nan"))
        if cover := cover_of_name(name):
            return CoverChoice(cover, "name", self._distance(name, cover))
        distances = {cover: self._distance(name, cover) for cover in AREAS}
        best = min(distances, key=lambda cover: distances[cover])
        return CoverChoice(best if distances[best] <= LIKE else None, "likeness", distances[best])

    def _distance(self, name: str, cover: str) -> float:
        """Return the distance of the structure of images with a cover, in the colours of the class, from real windows."""
        land = self._fit.land({name: cover}, {name: 1.0}, self._fit.painted)
        drawn = draw_class(
            land, 0, count=_TRIED, gsd_m=self.gsd_m, edge=self.windows.edge, bands=self._fit.painted,
            seed=self._seed + _TRIED_SEED,
        )  # fmt: skip
        index = [self.windows.bands.index(band) for band in self._fit.painted]
        real = [one.values[index] for one in self.windows.tuned[name]]
        return likeness(structures_of(list(drawn)), structures_of(real))

    def _compared(
        self, gate: LandGate, land: Land, name: str, choice: CoverChoice, offer_all: bool
    ) -> TunedClass:
        base = land_for(self.config)
        covers = [kind.cover for kind in base.legend.kinds]
        before = gate.drawn(base, covers.index(str(choice.cover)))
        after = gate.drawn(land, land.legend.names.index(name))
        named, colours = gate.compare(name, before, after)
        reason = gate.reason_against(named, colours)
        held = np.stack([one.values for one in self.windows.held[name]])
        self.sheet[name] = [images[:_SHOWN] for images in (held, before, after)]
        return self._tuned_class(
            name, choice, named=named, colours=colours, offered=offer_all or not reason, reason=reason
        )

    def _left_out(self, name: str, words: Mapping[str, str | None]) -> TunedClass:
        cover = words.get(name) or cover_of_name(name)
        how = "word" if name in words else "name"
        tuned, held = len(self.windows.tuned[name]), len(self.windows.held[name])
        reason = f"{tuned} windows to tune on and {held} held back; {_FEWEST} and {_FEWEST_HELD} are needed"
        return self._tuned_class(name, CoverChoice(cover, "word" if how == "word" else "name"), reason=reason)

    def _without_cover(self, name: str, choice: CoverChoice) -> TunedClass:
        reason = f"no ground cover has its structure: the nearest is {choice.distance:.2f} away, {LIKE:.1f} is like it"
        return self._tuned_class(name, choice, reason="left out" if choice.how == "word" else reason)

    def _tuned_class(
        self,
        name: str,
        choice: CoverChoice,
        *,
        named: Compared | None = None,
        colours: Compared | None = None,
        offered: bool = False,
        reason: str,
    ) -> TunedClass:
        return TunedClass(
            name=name, cover=choice.cover, how=choice.how, likeness=choice.distance, tuned=len(self.windows.tuned[name]),
            held=len(self.windows.held[name]), named=named, colours=colours, offered=offered, reason=reason,
        )  # fmt: skip


def _tensors(statistics: LandStatistics) -> dict[str, Float32Array]:
    return {**statistics.tensors(), "silt": statistics.silt.astype(np.float32)}


def _write(result: LandTuning, work: _TuningWork) -> None:
    """Write the generator: its configuration last, so that a folder is a generator only when it is complete."""
    out, config = result.path, work.config
    land = work.land({one.name: str(one.cover) for one in result.classes if one.offered})
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).unlink(missing_ok=True)
    raw: dict[str, Any] = json.loads((config.folder / CONFIG).read_text(encoding="utf-8"))
    for name, entry in raw["networks"].items():
        if name != LAND:
            shutil.copyfile(config.folder / entry["file"], out / entry["file"])
    file = f"{LAND}.safetensors"
    raw["networks"][LAND] = {
        "file": file,
        "sha256": save_weights(out / file, _tensors(land.statistics)),
        "infrared_bands": list(land.statistics.infrared_bands),
        "painted_bands": list(land.statistics.painted_bands),
        "classes": [asdict(one) for one in land.legend.classes],
        "around": [asdict(one) for one in land.legend.around],
    }
    names = ", ".join(land.legend.names)
    raw["card"] |= {
        "name": result.name,
        "description": f"The embedded generator, whose land was tuned on a training set: it draws {names}.",
    }
    (out / CARD).write_text(
        _json({"base_sha256": config.card.sha256, "gsd_m": work.gsd_m, **result.as_dict()}), encoding="utf-8"
    )
    (out / "README.md").write_text(_model_card(result), encoding="utf-8")
    _draw_sheet(out / "land.png", work)
    (out / CONFIG).write_text(_json(raw), encoding="utf-8")


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(_without_nan(values), indent=1) + "\n"


def _without_nan(value: Any) -> Any:
    """Return JSON values with null for NaN."""
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _model_card(result: LandTuning) -> str:
    """Return the page of the generator."""
    lines = [
        f"# {result.name}",
        "",
        f"The generator `embedded` of eoaug, whose land was tuned on a training set with the bands {', '.join(result.bands)}.",
        'Use it as `generator="FOLDER"` with every verb; a prompt or a class map names the classes below. Its other verbs are',
        "those of `embedded`. Shapes follow rules; colours are those of the set. No image is a copy, none is a real place.",
        "",
        f"Judged by images that were held back ({result.held_by}): a classifier of real windows names drawn images; colours are",
        "distances of quantiles of log (reflectance + 0.02). `before` is the shipped generator, `real` are real windows.",
        "",
        "| class | shapes of | windows | named before, after, real | colours before, after, real | |",
        "|---|---|---|---|---|---|",
    ]
    for one in result.classes:
        lines.append("| " + " | ".join(_cells(one)) + " |")
    lines += ["", "![held back, drawn before, drawn after](land.png)", ""]
    return "\n".join(lines)


def _cells(one: TunedClass) -> tuple[str, ...]:
    """Return the cells of a class in a table."""
    shapes = f"{one.cover or 'none'} ({one.how}, {_or_dash(one.likeness, '.2f')})"
    windows = f"{one.tuned} + {one.held}"
    return one.name, shapes, windows, _percent(one.named), _distances(one.colours), _fate(one)


def _percent(figure: Compared | None) -> str:
    return (
        ""
        if figure is None
        else " / ".join(_or_dash(v, ".0%") for v in (figure.before, figure.after, figure.real))
    )


def _distances(figure: Compared | None) -> str:
    return (
        ""
        if figure is None
        else " / ".join(_or_dash(v, ".3f") for v in (figure.before, figure.after, figure.real))
    )


def _or_dash(value: float, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)


def _fate(one: TunedClass) -> str:
    if one.offered:
        return "offered" if not one.reason else f"offered, does not pass: {one.reason}"
    return f"not offered: {one.reason}"


def _draw_sheet(path: Path, work: _TuningWork) -> None:
    """Write a row per class: windows held back, images of the shipped statistics, images of the tuned ones."""
    if not work.sheet:
        return
    bands = work.windows.bands
    shown = VISIBLE[::-1] if set(VISIBLE) <= set(bands) else tuple(bands[i % len(bands)] for i in range(3))
    index = [bands.index(name) for name in shown]
    rows = []
    for images in work.sheet.values():
        white = np.quantile(images[0][:, index], 0.98)
        parts = [np.nan_to_num(np.resize(part, (_SHOWN, *part.shape[1:])))[:, index] for part in images]
        rows.append(np.clip(np.concatenate(parts) / max(float(white), 1e-6), 0, 1))
    write_sheet(path, np.stack(rows))
