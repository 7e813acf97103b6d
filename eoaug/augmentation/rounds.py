"""Further rounds of an augmentation: what each needs to know of the earlier ones, kept in the catalog."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eoaug.augmentation.augment_job import AugmentJob
from eoaug.augmentation.draw_work import COLLECTION, drawn_items, label_of
from eoaug.augmentation.policy import KeepRules
from eoaug.augmentation.training_items import TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.errors import SourceError, first_line
from eoaug.jobs.config import hash_of
from eoaug.jobs.content_key import version
from eoaug.jobs.report import Report
from eoaug.stac.catalog import STATE, Root

__all__ = ["chances_of_round", "joined_reports", "known_chances"]

Chances = dict[str, float]
"""Probability of its label that a classifier which did not see it gives a real image, by id."""


def known_chances(job: AugmentJob, train: TrainingSet) -> list[Chances]:
    """Return what is known of the further rounds of an augmentation: one mapping for each that was begun."""
    out: list[Chances] = []
    for number in range(2, job.policy.rounds + 1):
        file = _file(job, train, number)
        if not file.is_file():
            break
        out.append(_read(file))
    return out


def chances_of_round(
    job: AugmentJob, train: TrainingSet, earlier: Sequence[Chances], progress: bool | None
) -> Chances:
    """Return the probabilities of the next round, from the catalog or by training classifiers.

    They are trained on real images and on what the earlier rounds made of them and ``policy.keep`` keeps, of all folds but
    one, and asked about that one.

    Parameters
    ----------
    job, train
        The augmentation, whose earlier rounds are complete.
    earlier
        Probabilities of the rounds from the second on.
    progress
        As for `eoaug.augment`.
    """
    file = _file(job, train, len(earlier) + 2)
    if file.is_file():
        return _read(file)
    names = {
        label_of(item, draw, job.request[:8])
        for some in drawn_items(job, train, earlier)
        for item, draw in some.draws
    }
    collection = job.output.collection or COLLECTION
    made = training_set(job.output.catalog, train.label, task=train.task, collections=(collection,))
    made = replace(made, items=tuple(item for item in made if item.id in names))
    how = job.select.model_dump()
    # By name: torch stays out of this floor until it is asked for.
    classify = importlib.import_module("eoaug.selection.agreement").chances_by_id
    found: Chances = classify(train, _kept(job, train, made, progress), **how, progress=progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.put((json.dumps(found, sort_keys=True, indent=1) + "\n").encode())
    return found


def _kept(
    job: AugmentJob, train: TrainingSet, made: TrainingSet, progress: bool | None
) -> TrainingSet | None:
    """Return the made images that the rules of the policy keep, from which the classifiers of a round may learn."""
    rules = job.policy.keep
    if rules == KeepRules():
        return made
    select = importlib.import_module("eoaug.selection.select").select
    lines = select(train, made, keep=rules, **job.select.model_dump(), progress=progress).lines
    kept = {line["id"] for line in lines if line["keep"]}
    items = tuple(item for item in made if item.id in kept)
    return replace(made, items=items) if items else None


def joined_reports(reports: Sequence[Report]) -> Report:
    """Return the reports of several rounds as one."""
    last = next((report for report in reversed(reports) if report.folder), reports[-1])
    if len(reports) == 1:
        return last
    counts = (
        "published",
        "skipped",
        "adopted",
        "timed_out",
        "sent",
        "seconds",
        "work_seconds",
        "stored_bytes",
    )
    summed: dict[str, Any] = {name: sum(getattr(report, name) for report in reports) for name in counts}
    for name in ("failures", "too_cloudy", "notes"):
        summed[name] = tuple(one for report in reports for one in getattr(report, name))
    return replace(last, **summed)


def _file(job: AugmentJob, train: TrainingSet, number: int) -> Any:
    """Return the file of a round: of this policy, these images, this generator and these classifiers."""
    own = hash_of([version(), job.request, job.described()["generator"], job.select.model_dump(mode="json"), job.policy.keep.model_dump(mode="json"),
                   [item.id for item in train.split("train")]])  # fmt: skip
    return Root.at(job.output.catalog).folder / STATE / "rounds" / f"{own[:16]}-{number}.json"


def _read(file: Any) -> Chances:
    try:
        content = json.loads(file.read_bytes())
        return {str(name): float(chance) for name, chance in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"the round {str(file)!r} cannot be read: {first_line(error)}",
            "remove that file: it is made again",
        ) from error
