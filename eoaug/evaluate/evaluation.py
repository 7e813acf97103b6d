"""The whole evaluation of a generator: every task that its card serves, on every file of a folder.

Imports the other modules of this package; ``report`` writes what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from eoaug.datasets.series import WINDOW_PX, Series, history_of, read_masks, read_series
from eoaug.errors import EoaugError, GeneratorError, ParameterError, RadiometryError, SourceError
from eoaug.evaluate.cases import DATED, SLOTS, TASKS, Case, EvaluationTask, cases, evenly
from eoaug.evaluate.scores import Effort, Example, answers, planned, score, threads
from eoaug.evaluate.synthesis import SAMPLES, Sheet, real_windows, synthesise
from eoaug.evaluate.table import Figure, Table
from eoaug.generators.base import Card, Generator
from eoaug.progress import Progress, ProgressCounter, track

__all__ = ["PARTS", "Evaluation", "evaluate"]


PARTS: tuple[str, ...] = (*TASKS, "synthesis", "throughput")
"""What can be asked for: the tasks with a known answer, sets of synthetic images, and speed."""

_SPEED_STEPS = 4
_SPEED_CALLS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A table, and what there is to look at."""

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
    """Score a generator beside the classical methods on real cubes.

    Parameters
    ----------
    generator
        Any; asked directly with requests of 64 x 64 pixels. Its best estimate (the card's default steps), one
        sample (the card's member steps, where it names any) and, on request, its members are judged as
        the engine hands them out: projected onto a coarse measurement, known pixels put back.
    data_dir
        Folder of netCDF cubes (see `windows.read_series`) on which the generator was not trained. Each
        file is taken for a place of its own; what cannot be used is left out and listed.
    train_dir
        Folder of the cubes that it was trained on: how near synthetic images come to them is told only with
        it. Files that cubes continue (attribute ``context_file``) are looked for there, and above
        ``data_dir``: their dates are told, never asked for.
    tasks
        Which of `PARTS` to ask; those that the card does not serve are passed over.
    limit
        Most windows per task and place, spread evenly over the file; None: all. Figures of single
        sensors are stated from 100 windows on.
    members
        Size of the ensembles, of which coverage (from 19 members on) and CRPS are told, and with 8 or more
        what further steps bring; 0: none.
    samples
        Number of images made from nothing, and of variations.
    steps
        Denoising steps of samples and members; None: the card's.
    seed
        Of the holes and of the generator's noise.
    progress
        Whether to draw a bar; None: after some seconds, on a terminal.

    Raises
    ------
    SourceError
        The folder has no usable file.
    """
    _checked(tasks, limit, members, samples)
    card = generator.card
    slots = card.bands or SLOTS
    if WINDOW_PX % card.multiple_of:
        raise GeneratorError(
            f"{card.name} wants edges that are multiples of {card.multiple_of} px; windows have {WINDOW_PX}.",
            "Evaluate a generator whose card.multiple_of divides 64.",
        )
    skipped: dict[str, str] = {}
    places = _places(Path(data_dir), slots, skipped)
    if not places:
        raise SourceError(
            f"None of the files in {data_dir} can be used: "
            + "; ".join(f"{name}: {why}" for name, why in skipped.items()),
            "Pass the folder of the validation cubes, calibrated and at least 64 x 64 pixels large.",
        )
    dated = places
    if set(DATED) & set(tasks):
        dated = _dated(Path(data_dir), slots, skipped, None if train_dir is None else Path(train_dir))
    effort = Effort(members=members, steps=steps)
    asked = {
        task: _asked(task, dated if task in DATED else places, Path(data_dir), card, limit, seed)
        for task in TASKS
        if task in tasks
    }
    asked = {task: found for task, found in asked.items() if found}
    figures: list[Figure] = []
    examples: list[Example] = []
    sheets: list[Sheet] = []
    synthesises = "synthesis" in tasks and "synthesize" in card.verbs
    total = sum(planned(found, effort) for found in asked.values()) + 2 * samples * synthesises
    with track(total, what=f"evaluating {card.name}", unit="image", progress=progress) as bar:
        for task, found in asked.items():
            try:
                scored = score(generator, task, found, effort, seen=bar)
            except EoaugError as error:
                skipped[task] = error.problem
                continue
            figures += scored.figures
            examples += scored.examples
        if synthesises:
            trained: Mapping[str, Sequence[Series]] = {}
            if train_dir is not None:
                trained = _places(Path(train_dir), slots, skipped)
            made = synthesise(
                generator,
                slots,
                real_windows(places),
                real_windows(trained, None),
                samples=samples,
                seed=seed,
                seen=bar,
            )
            figures += made.figures
            sheets += made.sheets
            skipped |= made.skipped
        if "throughput" in tasks and asked:
            figures += _throughput(generator, next(iter(asked.values())), steps, bar)
    sensors: dict[str, int] = {}
    for found in asked.values():
        for sensor in {case.sensor for case in found}:
            count = sum(case.sensor == sensor for case in found)
            sensors[sensor] = max(sensors.get(sensor, 0), count)
    table = Table(
        generator=card.name,
        figures=tuple(figures),
        skipped=skipped,
        settings={
            "sha256": card.sha256,
            "tasks": list(tasks),
            "limit": limit,
            "members": members,
            "samples": samples,
            "steps": steps,
            "seed": seed,
            "with_training_data": train_dir is not None,
        },
        sensors=dict(sorted(sensors.items())),
    )
    return Evaluation(table=table, slots=tuple(slots), examples=tuple(examples), sheets=tuple(sheets))


def _checked(tasks: Sequence[str], limit: int | None, members: int, samples: int) -> None:
    if limit is not None and limit < 1:
        raise ParameterError(f"The limit of windows per place is {limit}.", "Give limit=1 or more, or None.")
    if members < 0:
        raise ParameterError(f"Ensembles of {members} members were asked for.", "Give members=0 or more.")
    if samples < 2:
        raise ParameterError(f"{samples} synthetic images were asked for.", "Give samples=2 or more.")
    if unknown := [task for task in tasks if task not in PARTS]:
        raise ParameterError(f"No task is called {unknown[0]!r}.", f"Give some of {', '.join(PARTS)}.")


def _places(folder: Path, slots: Sequence[str], skipped: dict[str, str]) -> dict[str, list[Series]]:
    """Return the windows of every usable file of a folder; note the others in ``skipped``."""
    paths = sorted(folder.glob("*.nc"))
    if not paths:
        raise SourceError(f"{folder} holds no *.nc file.", "Pass a folder of netCDF cubes.")
    places: dict[str, list[Series]] = {}
    for path in paths:
        try:
            found = read_series(path, slots)
        except (SourceError, RadiometryError) as error:
            skipped[path.name] = error.problem
            continue
        if any(series.usable.size for series in found):
            places[path.stem] = found
        else:
            skipped[path.name] = f"{path.name} has no clear window of {WINDOW_PX} x {WINDOW_PX} pixels."
    return places


def _dated(
    folder: Path, slots: Sequence[str], skipped: dict[str, str], train_dir: Path | None
) -> dict[str, list[Series]]:
    """Return the windows of every file that tasks with other dates can ask, with the dates it continues."""
    places: dict[str, list[Series]] = {}
    for path in sorted(folder.glob("*.nc")):
        try:
            found = read_series(path, slots, history=history_of(path, train_dir), display_values=True)
        except (SourceError, RadiometryError) as error:
            skipped.setdefault(path.name, error.problem)
            continue
        if any(series.own[series.usable].any() and len(series.usable) > 1 for series in found):
            places[path.stem] = found
            if path.name in skipped:
                skipped[path.name] += " Asked for its dates alone, 255 taken for reflectance 0.5."
    return places


def _asked(
    task: EvaluationTask,
    places: Mapping[str, Sequence[Series]],
    folder: Path,
    card: Card,
    limit: int | None,
    seed: int,
) -> list[Case]:
    """Return the cases of a task, at most ``limit`` per place."""
    masks = {}
    if task == "inpaint with dates":
        for path in sorted(folder.glob("*.nc")):
            try:
                masks[path.stem] = read_masks(path)
            except SourceError:
                continue
    asked: list[Case] = []
    for place, windows in places.items():
        own = masks.get(place, [])
        others = [mask for name, found in masks.items() if name != place for mask in found]
        found = [
            case for series in windows for case in cases(task, series, card, masks=[*own, *others], seed=seed)
        ]
        asked += [found[i] for i in evenly(len(found), limit)]
    return asked


def _throughput(
    generator: Generator, asked: Sequence[Case], steps: int | None, seen: ProgressCounter
) -> list[Figure]:
    """Return how many pixels a second come from all cores at a few steps, as the engine would run them."""
    steps = steps or _SPEED_STEPS
    shape = asked[0].request.values.shape
    alike = [case.request for case in asked if case.request.values.shape == shape]
    count = _SPEED_CALLS * threads() * max(generator.card.batch, 1)
    requests = [replace(alike[i % len(alike)], steps=steps, member=i) for i in range(count)]
    answers(generator, requests[:1], seen=seen)
    begun = perf_counter()
    answers(generator, requests, seen=seen)
    seconds = perf_counter() - begun
    pixels = count * shape[-2] * shape[-1]
    nan = float("nan")
    return [
        Figure(
            task="throughput",
            method=f"{generator.card.name}, {steps} steps, {threads()} threads, {asked[0].task}",
            metric="mpx_per_s",
            value=pixels / seconds / 1e6,
            low=nan,
            high=nan,
            windows=count,
            places=1,
        )
    ]
