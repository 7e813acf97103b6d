"""The evaluation of a generator: every task that its card supports, on every file of a folder.

`evaluate.report` writes the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from eoaug.datasets.series import WINDOW_PX, Series, history_of, read_masks, read_series
from eoaug.errors import EoaugError, GeneratorError, ParameterError, RadiometryError, SourceError
from eoaug.evaluate.cases import DATED, SLOTS, TASKS, Case, EvaluationTask, cases, evenly
from eoaug.evaluate.scores import Effort, Example, answers, planned, score, threads
from eoaug.evaluate.synthesis import SAMPLES, Sheet, real_windows, synthesise
from eoaug.evaluate.table import Figure, Table
from eoaug.generators.base import Card, Generator
from eoaug.progress import Progress, ProgressCounter, track
from eoaug.raster.arrays import BoolArray

__all__ = ["PARTS", "Evaluation", "evaluate"]


PARTS: tuple[str, ...] = (*TASKS, "synthesis", "throughput")
"""Parts of an evaluation: the tasks with a known answer, sets of synthetic images, and speed."""

_SPEED_STEPS = 4
_SPEED_CALLS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Tables of figures, and images to look at."""

    table: Table
    slots: tuple[str, ...]
    """Common names of the bands of all images."""
    examples: tuple[Example, ...]
    sheets: tuple[Sheet, ...]


def evaluate(
    generator: Generator,
    data_dir: str | Path,
    *,
    train_dir: str | Path | None = None,
    tasks: Sequence[str] = PARTS,
    limit: int | None = 16,
    members: int = 0,
    samples: int = SAMPLES,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Evaluation:
    """Score a generator and the baselines on real cubes.

    Parameters
    ----------
    generator
        Any generator; called directly with requests of 64 x 64 pixels. Its best estimate (the card's default steps),
        one sample (the card's member steps, if it names any) and, optionally, an ensemble are scored as
        the engine would return them: projected onto a coarse measurement, known pixels restored.
    data_dir
        Folder of netCDF cubes (see `series.read_series`) on which the generator was not trained. Every
        file counts as a place; files that cannot be used are skipped and listed.
    train_dir
        Folder of the cubes that it was trained on: needed for distances of synthetic images to the training data.
        Files that cubes continue (attribute ``context_file``) are searched for there, and above
        ``data_dir``: their dates are context only.
    tasks
        Which of `PARTS` to run; those that the card does not support are skipped.
    limit
        Largest number of windows per task and place, spread evenly over the file; None: all. Figures of single
        sensors are given from 100 windows on.
    members
        Size of the ensembles: CRPS, from 19 members on coverage of the 90 % interval, and from 8 members on a
        comparison of numbers of steps; 0: none.
    samples
        Number of unconditionally synthesised images, and of variations.
    steps
        Denoising steps of samples and members; None: the card's.
    seed
        Seed of the holes and of the generator's noise.
    progress
        Whether to show a progress bar; None: after some seconds, on a terminal.

    Raises
    ------
    SourceError
        The folder has no usable file.
    """
    _check_arguments(tasks, limit, members, samples)
    card = generator.card
    _check_card(card)
    slots = card.bands or SLOTS
    data = _Data.read(Path(data_dir), slots, None if train_dir is None else Path(train_dir), tasks)
    effort = Effort(members=members, steps=steps)
    cases_by_task = {
        task: found for task in TASKS if task in tasks and (found := data.cases_of(task, card, limit, seed))
    }
    figures: list[Figure] = []
    examples: list[Example] = []
    sheets: list[Sheet] = []
    synthesises = "synthesis" in tasks and "synthesize" in card.verbs
    total = sum(planned(found, effort) for found in cases_by_task.values()) + 2 * samples * synthesises
    with track(total, what=f"evaluating {card.name}", unit="image", progress=progress) as bar:
        for task, found in cases_by_task.items():
            try:
                scored = score(generator, task, found, effort, progress=bar)
            except EoaugError as error:
                data.skipped[task] = error.problem
                continue
            figures += scored.figures
            examples += scored.examples
        if synthesises:
            real, train = real_windows(data.places), real_windows(data.training_places(), None)
            synthesised = synthesise(generator, slots, real, train, samples=samples, seed=seed, progress=bar)
            figures += synthesised.figures
            sheets += synthesised.sheets
            data.skipped.update(synthesised.skipped)
        if "throughput" in tasks and cases_by_task:
            figures += _throughput(generator, next(iter(cases_by_task.values())), steps, bar)
    settings: dict[str, Any] = {"sha256": card.sha256, "tasks": list(tasks), "limit": limit}
    settings |= {"members": members, "samples": samples, "steps": steps, "seed": seed}
    settings |= {"with_training_data": train_dir is not None}
    table = Table(
        generator=card.name,
        figures=tuple(figures),
        skipped=data.skipped,
        settings=settings,
        sensors=_windows_by_sensor(cases_by_task),
    )
    return Evaluation(table=table, slots=tuple(slots), examples=tuple(examples), sheets=tuple(sheets))


def _check_arguments(tasks: Sequence[str], limit: int | None, members: int, samples: int) -> None:
    if limit is not None and limit < 1:
        raise ParameterError(f"limit of windows per place is {limit}", "use limit=1 or more, or None")
    if members < 0:
        raise ParameterError(f"the ensemble size is {members} members", "use members=0 or more")
    if samples < 2:
        raise ParameterError(f"the number of synthetic images is {samples}", "use samples=2 or more")
    if unknown := [task for task in tasks if task not in PARTS]:
        raise ParameterError(f"unknown task {unknown[0]!r}", f"use some of {', '.join(PARTS)}")


def _check_card(card: Card) -> None:
    if WINDOW_PX % card.multiple_of:
        raise GeneratorError(
            f"{card.name} needs edges that are multiples of {card.multiple_of} px, but windows have {WINDOW_PX} px",
            "evaluate a generator whose card.multiple_of divides 64",
        )


def _windows_by_sensor(cases_by_task: Mapping[EvaluationTask, Sequence[Case]]) -> dict[str, int]:
    """Return the largest number of windows that one task has of each sensor."""
    sensors: dict[str, int] = {}
    for found in cases_by_task.values():
        for sensor in {case.sensor for case in found}:
            count = sum(case.sensor == sensor for case in found)
            sensors[sensor] = max(sensors.get(sensor, 0), count)
    return dict(sorted(sensors.items()))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """The windows of a folder of cubes, by place."""

    folder: Path
    slots: Sequence[str]
    train_dir: Path | None
    places: Mapping[str, Sequence[Series]]
    """Calibrated files."""
    dated_places: Mapping[str, Sequence[Series]]
    """Files with several dates, 8-bit display values and earlier dates of other files included."""
    skipped: dict[str, str]
    """Files that cannot be used, and the reason."""

    @classmethod
    def read(cls, folder: Path, slots: Sequence[str], train_dir: Path | None, tasks: Sequence[str]) -> _Data:
        """Read a folder; the files with several dates only if ``tasks`` need them."""
        skipped: dict[str, str] = {}
        places = _places(folder, slots, skipped)
        if not places:
            raise SourceError(
                f"no file in {folder} can be used: "
                + "; ".join(f"{name}: {why}" for name, why in skipped.items()),
                "pass the folder of the validation cubes, calibrated and at least 64 x 64 pixels large",
            )
        dated: Mapping[str, Sequence[Series]] = places
        if set(DATED) & set(tasks):
            dated = _dated_places(folder, slots, skipped, train_dir)
        return cls(
            folder=folder,
            slots=slots,
            train_dir=train_dir,
            places=places,
            dated_places=dated,
            skipped=skipped,
        )

    def training_places(self) -> Mapping[str, Sequence[Series]]:
        """Return the windows of the training cubes, if their folder is given."""
        return {} if self.train_dir is None else _places(self.train_dir, self.slots, self.skipped)

    def cases_of(self, task: EvaluationTask, card: Card, limit: int | None, seed: int) -> list[Case]:
        """Return the cases of a task, at most ``limit`` per place."""
        masks = self._masks() if task == "inpaint with dates" else {}
        places = self.dated_places if task in DATED else self.places
        selected: list[Case] = []
        for place, windows in places.items():
            others = [mask for name, of_file in masks.items() if name != place for mask in of_file]
            all_masks = [*masks.get(place, []), *others]
            found = [
                case for series in windows for case in cases(task, series, card, masks=all_masks, seed=seed)
            ]
            selected += [found[i] for i in evenly(len(found), limit)]
        return selected

    def _masks(self) -> dict[str, list[BoolArray]]:
        masks = {}
        for path in sorted(self.folder.glob("*.nc")):
            with suppress(SourceError):
                masks[path.stem] = read_masks(path)
        return masks


def _places(folder: Path, slots: Sequence[str], skipped: dict[str, str]) -> dict[str, list[Series]]:
    """Return the windows of every usable file of a folder; record the others in ``skipped``."""
    paths = sorted(folder.glob("*.nc"))
    if not paths:
        raise SourceError(f"{folder} holds no *.nc file", "pass a folder of netCDF cubes")
    places: dict[str, list[Series]] = {}
    for path in paths:
        try:
            windows = read_series(path, slots)
        except (SourceError, RadiometryError) as error:
            skipped[path.name] = error.problem
            continue
        if any(series.usable.size for series in windows):
            places[path.stem] = windows
        else:
            skipped[path.name] = f"{path.name} has no clear window of {WINDOW_PX} x {WINDOW_PX} pixels"
    return places


def _dated_places(
    folder: Path, slots: Sequence[str], skipped: dict[str, str], train_dir: Path | None
) -> dict[str, list[Series]]:
    """Return the windows of every file fit for tasks with other dates, with the dates that it continues."""
    places: dict[str, list[Series]] = {}
    for path in sorted(folder.glob("*.nc")):
        try:
            history = history_of(path, train_dir)
            windows = read_series(path, slots, history=history, display_values=True)
        except (SourceError, RadiometryError) as error:
            skipped.setdefault(path.name, error.problem)
            continue
        if any(series.own[series.usable].any() and len(series.usable) > 1 for series in windows):
            places[path.stem] = windows
            if path.name in skipped:
                skipped[path.name] += "; used for tasks with other dates only, 255 as reflectance 0.5"
    return places


def _throughput(
    generator: Generator, cases_: Sequence[Case], steps: int | None, progress: ProgressCounter
) -> list[Figure]:
    """Return the pixels per second of all cores at a few steps, batched as in the engine."""
    steps = steps or _SPEED_STEPS
    shape = cases_[0].request.values.shape
    same_shape = [case.request for case in cases_ if case.request.values.shape == shape]
    count = _SPEED_CALLS * threads() * max(generator.card.batch, 1)
    requests = [replace(same_shape[i % len(same_shape)], steps=steps, member=i) for i in range(count)]
    answers(generator, requests[:1], progress=progress)
    start = perf_counter()
    answers(generator, requests, progress=progress)
    seconds = perf_counter() - start
    pixels = count * shape[-2] * shape[-1]
    nan = float("nan")
    return [
        Figure(
            task="throughput",
            method=f"{generator.card.name}, {steps} steps, {threads()} threads, {cases_[0].task}",
            metric="mpx_per_s",
            value=pixels / seconds / 1e6,
            low=nan,
            high=nan,
            windows=count,
            places=1,
        )
    ]
