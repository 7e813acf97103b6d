"""The table: every task, the generator and its opponents, with windows, places and intervals.

A figure is the mean over places of the mean over a place's windows, so that one large scene does not
outweigh the others; its interval comes from drawing places anew, because windows of a place resemble
each other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug import metrics
from eoaug.errors import ParameterError, RadiometryError, SourceError
from eoaug.evaluate.opponents import OPPONENTS
from eoaug.evaluate.windows import TASKS, Case, Series, Task, cases, read_series
from eoaug.generators.base import Card, Generator

__all__ = ["Figure", "Table", "evaluate"]

_BANDS = ("blue", "green", "red", "nir")
"""Slots for generators that name none."""
_DATA_RANGE = 1.0
"""Reflectance from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of the table."""

    task: Task
    method: str
    """The generator, an opponent, or ``"A - B"`` for the generator less the best opponent, window by
    window."""
    metric: str
    """``psnr_db`` (pixels to generate, reflectance, range 1), ``ssim`` (range 1), or ``residual`` (root mean
    square of degrade(result) - coarse, reflectance)."""
    value: float
    low: float
    """Lower end of the 95 % interval over places; NaN with one place."""
    high: float
    """Upper end."""
    windows: int
    places: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """What `evaluate` found."""

    generator: str
    figures: tuple[Figure, ...]
    skipped: Mapping[str, str]
    """Files of the folder that were left out, and why."""

    def figure(self, task: Task, method: str, metric: str = "psnr_db") -> Figure:
        """Return one figure, or raise KeyError."""
        for one in self.figures:
            if (one.task, one.method, one.metric) == (task, method, metric):
                return one
        raise KeyError((task, method, metric))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers; NaN becomes None."""
        figures = [
            {key: None if value != value else value for key, value in asdict(figure).items()}
            for figure in self.figures
        ]
        return {"generator": self.generator, "figures": figures, "skipped": dict(self.skipped)}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """Return a table in Markdown, and a line per file left out."""
        lines = [
            "| task | method | metric | value | 95 % over places | windows | places |",
            "|---|---|---|---|---|---|---|",
        ]
        for f in self.figures:
            form = {"psnr_db": ".2f", "ssim": ".4f"}.get(f.metric, ".1e")
            interval = "-" if np.isnan(f.low) else f"{f.low:{form}} to {f.high:{form}}"
            lines.append(
                f"| {f.task} | {f.method} | {f.metric} | {f.value:{form}} | {interval} "
                f"| {f.windows} | {f.places} |"
            )
        left_out = [f"- {name} was left out: {why}" for name, why in self.skipped.items()]
        return "\n".join([*lines, "", *left_out]).rstrip() + "\n"


def evaluate(
    generator: Generator,
    data_dir: str | Path,
    *,
    tasks: Sequence[Task] = TASKS,
    limit: int | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Table:
    """Score a generator beside the classical methods on real cubes.

    Parameters
    ----------
    generator
        Asked directly with requests of 64 x 64 pixels. What it makes for super-resolution is projected
        onto the measurement as the engine does; the residual is that before the projection.
    data_dir
        Folder of netCDF cubes (see `windows.read_series`) on which the generator was not trained. Each
        file is taken for a place of its own; 8-bit files without a scale are left out and listed.
    tasks
        Which of `TASKS` to ask; those that the card does not serve are passed over.
    limit
        Most windows per task and place, spread evenly over the file; None: all.
    steps
        Denoising steps; None: the card's.
    seed
        Of the synthetic clouds and of the generator's noise.
    """
    if limit is not None and limit < 1:
        raise ParameterError(f"The limit of windows per place is {limit}.", "Give limit=1 or more, or None.")
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ParameterError(f"No task is called {unknown[0]!r}.", f"Give some of {', '.join(TASKS)}.")
    card = generator.card
    paths = sorted(Path(data_dir).glob("*.nc"))
    if not paths:
        raise SourceError(f"{data_dir} holds no *.nc file.", "Pass the folder of the validation cubes.")
    places: dict[str, list[Series]] = {}
    skipped: dict[str, str] = {}
    for path in paths:
        try:
            places[path.stem] = read_series(path, card.bands or _BANDS)
        except (SourceError, RadiometryError) as error:
            skipped[path.name] = error.problem
    figures: list[Figure] = []
    for task in tasks:
        asked: list[Case] = []
        for windows in places.values():
            found = [case for series in windows for case in cases(task, series, card, steps=steps, seed=seed)]
            asked += _spread(found, limit)
        if asked:
            figures += _score(generator, task, asked)
    return Table(generator=card.name, figures=tuple(figures), skipped=skipped)


def _spread(found: list[Case], limit: int | None) -> list[Case]:
    if limit is None or len(found) <= limit:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int).tolist()]


def _score(generator: Generator, task: Task, asked: list[Case]) -> Iterable[Figure]:
    """Return the figures of one task, the generator's first."""
    name, card = generator.card.name, generator.card
    answers = _answers(generator, asked)
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case, answer in zip(asked, answers, strict=True):
        if task in ("x2", "x4"):
            _add(scores[name], case, _consistent(answer, case), card)
            scores[name]["residual"].append(_residual(answer, case, card))
        else:
            _add(scores[name], case, answer, card)
        for opponent, method in OPPONENTS[task].items():
            made = method(case.request, case.target)
            _add(scores[opponent], case, made, card)
            if task in ("x2", "x4"):
                scores[opponent]["residual"].append(_residual(made, case, card))
    best = max(OPPONENTS[task], key=lambda opponent: float(np.mean(scores[opponent]["psnr_db"])))
    gain = np.subtract(scores[name]["psnr_db"], scores[best]["psnr_db"])
    scores[f"{name} - {best}"]["psnr_db"] = gain.tolist()
    labels = [case.place for case in asked]
    return [
        _figure(task, method, metric, values, labels)
        for method, by_metric in scores.items()
        for metric, values in by_metric.items()
    ]


def _answers(generator: Generator, asked: list[Case]) -> list[NDArray[np.floating]]:
    """Return (C, H, W) in model units per case; one call holds requests of one shape."""
    answers: list[NDArray[np.floating]] = [np.empty(0)] * len(asked)
    by_dates: dict[int, list[int]] = defaultdict(list)
    for index, case in enumerate(asked):
        by_dates[len(case.request.times)].append(index)
    batch = max(generator.card.batch, 1)
    for indices in by_dates.values():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            results = generator.generate([asked[index].request for index in part])
            for index, result in zip(part, results, strict=True):
                answers[index] = result[asked[index].target]
    return answers


def _add(scores: dict[str, list[float]], case: Case, made: NDArray[np.floating], card: Card) -> None:
    result = _reflectance(made, card)
    truth = np.nan_to_num(case.truth)
    scores["psnr_db"].append(metrics.psnr(result, truth, data_range=_DATA_RANGE, where=case.counts))
    if case.request.coarse is not None:
        seen = np.isfinite(case.truth).all(axis=(1, 2))
        scores["ssim"].append(metrics.ssim(result[seen], case.truth[seen], data_range=_DATA_RANGE))


def _consistent(made: NDArray[np.floating], case: Case) -> NDArray[np.floating]:
    request = case.request
    assert request.sensor is not None  # only asked for super-resolution
    assert request.coarse is not None
    return request.sensor.project(made, request.coarse[case.target])


def _residual(made: NDArray[np.floating], case: Case, card: Card) -> float:
    request = case.request
    assert request.sensor is not None  # only asked for super-resolution
    assert request.coarse is not None
    coarse = _reflectance(request.coarse[case.target], card)
    return metrics.consistency(_reflectance(made, card), coarse, sensor=request.sensor)


def _reflectance(values: NDArray[np.floating], card: Card) -> NDArray[np.float64]:
    unit = np.asarray(card.std or (1.0,))[:, None, None]
    centre = np.asarray(card.mean or (0.0,))[:, None, None]
    return np.asarray(values * unit + centre)


def _figure(task: Task, method: str, metric: str, values: list[float], labels: list[str]) -> Figure:
    by_place: dict[str, list[float]] = defaultdict(list)
    for value, label in zip(values, labels, strict=True):
        by_place[label].append(value)
    means = [float(np.mean(part)) for part in by_place.values()]
    interval = metrics.bootstrap_interval(means, list(by_place))
    return Figure(
        task=task,
        method=method,
        metric=metric,
        value=float(np.mean(means)),
        low=interval.low,
        high=interval.high,
        windows=len(values),
        places=len(by_place),
    )
