"""`gate`: whether images that were made of a training set improve a model of its task, by a fair comparison."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eoaug.augmentation.selected import dropped_of
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.augmentation.verdict import Verdict
from eoaug.errors import ParameterError
from eoaug.jobs.content_key import version
from eoaug.progress import Progress, track
from eoaug.stac.sidecars import add_sidecars
from eoaug.torch.augmented import children_of, made_before, opened_made
from eoaug.torch.chips import Chips
from eoaug.trials.arms import Arm, SampleOrder, all_arms, drawn_share
from eoaug.trials.augmentations import AUGMENTATIONS, checked_augmentations
from eoaug.trials.checks import (
    check_children,
    check_copies,
    check_labels,
    check_numbers,
    check_places,
    check_splits,
    places_of_test,
)
from eoaug.trials.decision import decided
from eoaug.trials.images import band_scale, image_arrays
from eoaug.trials.page import write_page
from eoaug.trials.results import results_folder
from eoaug.trials.trial import Trial, TrialImages, TrialOptions, read_trial, run_trial

__all__ = ["gate"]


def gate(
    train: TrainingSet,
    augmented: TrainingSet | str | os.PathLike[str],
    *,
    seeds: int = 5,
    fractions: Sequence[float] = (1.0,),
    doses: Sequence[float] = (0.25, 0.5),
    augmentations: Sequence[str] = tuple(AUGMENTATIONS),
    model: Any = "small",
    updates: int = 1000,
    batch: int = 32,
    block_km: float = 10.0,
    gap_km: float = 1.0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress = None,
) -> Verdict:
    """Return whether made images improve a model of the task of a training set.

    Arms of real images, by four classical augmentations, are compared with the same arms in which a share p of the real
    images is replaced by images made from them, with made images only, and with real images in another order. All arms have
    the same number of updates, batch and schedule, and per seed the same initial weights and order. The mixture is chosen
    on the split ``validate``; its rival is the real arm that is best on the split ``test``, so that the choice of the rival
    favours the rival. Made images are to be used only if the whole interval of 95 % of their gain, over test places and
    seeds together, is above 0. "Do not use" is a normal result.

    Parameters
    ----------
    train
        Images with the splits ``train``, ``validate`` and ``test``, which should lie in different places.
    augmented
        What `eoaug.augment` has made of the split ``train``: a catalog, of which the images that `eoaug.select` keeps are
        used, where it was run; or a training set.
    seeds
        Number of seeds, at least 2.
    fractions
        Sizes of the training set to compare on: up to 1 a share of the images of every class, above 1 their number per
        class. The verdict is that of the largest.
    doses
        Shares p to try.
    augmentations
        Some of ``none``, ``basic``, ``advanced``, ``randaugment``. Leave none out for a decision: against ``none`` alone,
        mirrored copies are a benefit.
    model
        ``"small"``: a small network for a CPU. ``"timm:resnet18"``, ``"smp:unet:resnet18"`` and others by name, with
        random weights; or a function of the numbers of channels and classes that returns a module.
    updates, batch
        Updates of every arm, and images per update.
    block_km
        Edge of the blocks of test places that are resampled together.
    gap_km
        Least distance between images of different splits.
    out
        Folder for ``verdict.json``, ``index.html`` and the trials. Default: ``gate`` in the catalog ``augmented``; nothing
        is written for a training set. The same call goes on where a killed one ended.
    progress
        True or False; default: a bar on a terminal, elsewhere a line every 30 s.

    Returns
    -------
    Verdict
        Equal calls give the same verdict, byte for byte on the same machine. `eoaug.torch.Augmented` obeys it.

    Raises
    ------
    ParameterError
        Splits that are missing or overlap, children of images held back, classes that differ.

    References
    ----------
    Roberts et al. (2017), doi:10.1111/ecog.02881, on splits by place; Owen (2007), doi:10.1214/07-AOAS122, on resampling
    two factors.

    Examples
    --------
    >>> verdict = eoaug.gate(train, "augmented")  # doctest: +SKIP
    >>> print(verdict)  # doctest: +SKIP
    use p=0.5: +1.8 [+0.6, +3.1] points of accuracy over the best classical arm (advanced)
    """
    plan = _TrialPlan(
        seeds=_checked(seeds, 2, "seeds"),
        fractions=_fractions(fractions),
        arms=all_arms(checked_augmentations(tuple(augmentations)), doses),
        model=model,
        updates=_checked(updates, 1, "updates"),
        batch=_checked(batch, 1, "batch"),
    )
    if not isinstance(train, TrainingSet):
        raise ParameterError(f"train={train!r} is no training set", "give eoaug.training_set(...)")
    check_splits(train)
    made = _opened(augmented, train)
    check_labels(train, made)
    check_children(train, made)
    note = check_places(train, gap_km)
    comparison = _TrialSet(train, made, plan)
    with results_folder(out, augmented, "gate") as (folder, kept):
        trials = comparison.trials(folder, progress)
        places = places_of_test(train.split("test").items, block_km)
        verdict = decided(plan.arms, trials, places, comparison.facts([note] if note else []))
        if kept:
            write_page(verdict, train, made, folder, _dropped(augmented, train))
            verdict.write(folder)
    if out is None and kept:
        add_sidecars(str(augmented))
    return verdict


def _checked(value: int, least: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ParameterError(f"{name}={value!r} is too small", f"give a whole number from {least}")
    return value


def _fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    whole = tuple(dict.fromkeys(float(one) for one in fractions))
    if not whole or not all(one > 0 and (one <= 1 or one == int(one)) for one in whole):
        raise ParameterError(
            f"fractions={list(fractions)!r} are no sizes of a training set",
            "give shares up to 1, or whole numbers of images per class",
        )
    return whole


def _opened(augmented: Any, train: TrainingSet) -> TrainingSet:
    if isinstance(augmented, TrainingSet):
        return augmented
    return opened_made(augmented, train)


def _dropped(augmented: Any, train: TrainingSet) -> list[tuple[TrainingItem, tuple[str, ...]]]:
    if isinstance(augmented, TrainingSet):
        return []
    return dropped_of(training_set(augmented, train.label, task=train.task), augmented)


@dataclass(frozen=True, kw_only=True)
class _TrialPlan:
    seeds: int
    fractions: tuple[float, ...]
    arms: tuple[Arm, ...]
    model: Any
    updates: int
    batch: int


Trials = Mapping[float, Mapping[Arm, Sequence[Trial]]]


class _TrialSet:
    """All trials of a training set and the images that were made of it."""

    def __init__(self, train: TrainingSet, made: TrainingSet, plan: _TrialPlan) -> None:
        self.train = train
        self.real = Chips(train.split("train"))
        sizes = {fraction: len(drawn_share(self.real.source, fraction, 0)) for fraction in plan.fractions}
        self.plan = replace(plan, fractions=tuple(sorted(sizes, key=sizes.__getitem__)))
        self.made = made_before(made, self.real)
        self.held_back = {
            name: Chips(train.split(name), bands=self.real.bands) for name in ("validate", "test")
        }
        self.children = children_of(self.real.source, self.made.source)

    def facts(self, notes: Sequence[str]) -> dict[str, Any]:
        """Return what the verdict says about data and settings."""
        plan = self.plan
        return {
            "task": self.train.task,
            "classes": list(self.train.classes),
            "images": {**self.train.splits, "made": len(self.made)},
            "model": plan.model
            if isinstance(plan.model, str)
            else getattr(plan.model, "__name__", "a function"),
            "updates": plan.updates,
            "batch": plan.batch,
            "seeds": plan.seeds,
            "eoaug": version(),
            "notes": list(notes),
        }

    def _key(self, fraction: float, arm: Arm, seed: int) -> str:
        plan = self.plan
        model = (
            plan.model
            if isinstance(plan.model, str)
            else repr(getattr(plan.model, "__qualname__", plan.model))
        )
        content = [self._identity, model, plan.updates, plan.batch, fraction, asdict(arm), seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]

    def trials(self, folder: Path, progress: Progress) -> Trials:
        """Run all trials that are not in the folder yet, and return all."""
        self._identity = self._identify()
        cells = [
            (fraction, arm, seed)
            for fraction in self.plan.fractions
            for arm in self.plan.arms
            for seed in range(self.plan.seeds)
        ]
        paths = {cell: folder / "trials" / f"{self._key(*cell)}.npz" for cell in cells}
        missing = [cell for cell in cells if not paths[cell].is_file()]
        if missing:
            (folder / "trials").mkdir(parents=True, exist_ok=True)
            images = self._images(folder / "arrays" / self._identity[:16], progress)
            with track(len(missing), what="training", unit="trial", progress=progress) as counter:
                for fraction, arm, seed in missing:
                    order = SampleOrder(
                        arm, seed, drawn_share(self.real.source, fraction, seed), self.children
                    )
                    run_trial(order, images, self._options()).write(paths[fraction, arm, seed])
                    counter.tiles(1)
            del images
        shutil.rmtree(folder / "arrays", ignore_errors=True)
        return {
            fraction: {
                arm: [read_trial(paths[fraction, arm, seed]) for seed in range(self.plan.seeds)]
                for arm in self.plan.arms
            }
            for fraction in self.plan.fractions
        }

    def _identify(self) -> str:
        """Return a hash of all images, and of what reads them."""
        digest = hashlib.sha256(json.dumps([version(), self.real.bands, self.train.classes]).encode())
        for chips in (self.real, *self.held_back.values(), self.made):
            for item in chips.source:
                digest.update(item.identity.encode())
        return digest.hexdigest()

    def _images(self, folder: Path, progress: Progress) -> TrialImages:
        parts = {"train": self.real, "made": self.made, **self.held_back}
        scale = band_scale(self.real)
        total = sum(map(len, parts.values()))
        with track(total, what="reading", unit="image", progress=progress) as counter:
            arrays = {
                name: image_arrays(chips, scale, folder / name, counter) for name, chips in parts.items()
            }
        for name, chips in parts.items():
            check_numbers(chips.source, arrays[name], self.train.classes)
        check_copies({name: (chips.source, arrays[name]) for name, chips in parts.items()})
        return TrialImages(**arrays)

    def _options(self) -> TrialOptions:
        return TrialOptions(
            model=self.plan.model,
            updates=self.plan.updates,
            batch=self.plan.batch,
            classes=len(self.train.classes),
            pixels=self.train.task != "classes",
        )
