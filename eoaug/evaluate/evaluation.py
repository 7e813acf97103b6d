"""The evaluation of a generator: every task that its card supports, on every file of a folder.

`evaluate.report` writes the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from eoaug.datasets.series import WINDOW_PX
from eoaug.errors import EoaugError, GeneratorError, ParameterError
from eoaug.evaluate.cases import SLOTS, TASKS, Case, EvaluationTask
from eoaug.evaluate.scenes import Strip
from eoaug.evaluate.scores import Effort, Example, Scored, answers, planned, score, threads
from eoaug.evaluate.synthesis import SAMPLES, Sheet, real_windows, synthesise
from eoaug.evaluate.table import Figure, Table
from eoaug.evaluate.verb_tasks import VERB_TASKS, judge_by_verbs
from eoaug.evaluate.windows import WindowsByPlace
from eoaug.generators.base import Card, Generator
from eoaug.progress import Progress, ProgressCounter, track

__all__ = ["DEFAULT_PARTS", "PARTS", "Evaluation", "evaluate"]


DEFAULT_PARTS: tuple[str, ...] = (*TASKS, "synthesis", "throughput")
"""What is evaluated if nothing is named: the tasks with requests of their own, sets of synthetic images, and speed."""
PARTS: tuple[str, ...] = (*DEFAULT_PARTS, *VERB_TASKS)
"""Parts of an evaluation. Those of `VERB_TASKS` are judged through the verbs, with everything at its default."""

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
    strips: tuple[Strip, ...] = ()


def evaluate(
    generator: Generator,
    data_dir: str | Path,
    *,
    train_dir: str | Path | None = None,
    tasks: Sequence[str] = DEFAULT_PARTS,
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
        Folder of netCDF cubes (see `series.read_series`) on which the generator was not trained. Files of one
        position are one place; files that cannot be used are skipped and listed.
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
    card, folder = generator.card, Path(data_dir)
    train = None if train_dir is None else Path(train_dir)
    asked = _Asked(tasks=tuple(tasks), limit=limit, members=members, samples=samples, steps=steps, seed=seed)
    requested = _Requested()
    if not set(tasks) <= set(VERB_TASKS):
        _check_card(card)
        requested = _by_requests(generator, folder, train, asked, progress)
    by_verbs = judge_by_verbs(
        generator, folder, tasks, requested.skipped, limit=limit, seed=seed, progress=progress
    )
    settings: dict[str, Any] = {"sha256": card.sha256, **asdict(asked), "tasks": list(tasks)}
    settings |= {"with_training_data": train is not None, "data": folder.resolve().name}
    table = Table(
        generator=card.name,
        figures=(*requested.figures, *by_verbs.figures),
        skipped=requested.skipped,
        settings=settings,
        sensors=requested.sensors,
    )
    return Evaluation(
        table=table,
        slots=tuple(card.bands or SLOTS),
        examples=tuple(requested.examples),
        sheets=tuple(requested.sheets),
        strips=tuple(by_verbs.strips),
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The arguments of `evaluate` that decide what is computed."""

    tasks: tuple[str, ...]
    limit: int | None
    members: int
    samples: int
    steps: int | None
    seed: int


@dataclass(eq=False)
class _Requested:
    """What the tasks with requests of their own gave."""

    figures: list[Figure] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    sensors: dict[str, int] = field(default_factory=dict)


def _by_requests(
    generator: Generator, folder: Path, train: Path | None, asked: _Asked, progress: Progress
) -> _Requested:
    """Evaluate the tasks with requests of their own, synthesis and speed."""
    card, slots, tasks = generator.card, generator.card.bands or SLOTS, asked.tasks
    data = WindowsByPlace.read(folder, slots, train, tasks, card)
    found = {
        task: cases
        for task in TASKS
        if task in tasks and (cases := data.cases_of(task, card, asked.limit, asked.seed))
    }
    out = _Requested(skipped=data.skipped, sensors=_windows_by_sensor(found))
    effort = Effort(members=asked.members, steps=asked.steps)
    synthesises = "synthesis" in tasks and "synthesize" in card.verbs
    total = sum(planned(cases, effort) for cases in found.values()) + 2 * asked.samples * synthesises
    with track(total, what=f"evaluating {card.name}", unit="image", progress=progress) as bar:
        scored = _score_requests(generator, found, effort, out.skipped, bar)
        out.figures, out.examples = scored.figures, scored.examples
        if synthesises:
            real, trained = real_windows(data.places), real_windows(data.training_places(), None)
            made = synthesise(
                generator, slots, real, trained, samples=asked.samples, seed=asked.seed, progress=bar
            )
            out.figures += made.figures
            out.sheets += made.sheets
            out.skipped.update(made.skipped)
        if "throughput" in tasks and found:
            out.figures += _throughput(generator, next(iter(found.values())), asked.steps, bar)
    return out


def _score_requests(
    generator: Generator,
    cases_by_task: Mapping[EvaluationTask, Sequence[Case]],
    effort: Effort,
    skipped: dict[str, str],
    progress: ProgressCounter,
) -> Scored:
    """Return the figures and examples of all tasks with requests of their own."""
    out = Scored()
    for task, found in cases_by_task.items():
        try:
            scored = score(generator, task, found, effort, progress=progress)
        except EoaugError as error:
            skipped[task] = error.problem
            continue
        out.figures += scored.figures
        out.examples += scored.examples
    return out


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
