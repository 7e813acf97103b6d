"""One task scored: the generator's best estimate, its sample and its members, beside every opponent.

Numpy. A result is judged as the engine hands it out: projected onto the coarse measurement, with the
known pixels put back.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug import metrics
from eoaug.errors import GeneratorError
from eoaug.evaluate.baselines import BASELINES
from eoaug.evaluate.cases import Case, EvaluationTask, evenly, reflectance, verb_of
from eoaug.evaluate.table import LEAST_PER_SENSOR, Figure, figure_of
from eoaug.generators.base import Card, Generator, Request
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import FloatArray

__all__ = ["Effort", "Example", "Scored", "answers", "planned", "score", "threads"]


_DATA_RANGE = 1.0
"""Reflectance from 0 to 1."""
_PERIODS_PX = (2, 4, 8)
"""Of patterns looked for: the fold of the embedded network, and those of its coarser levels."""
_ALWAYS = ("bicubic, back-projected", "nearest date", "mean of all dates")
"""Opponents over which the gain is stated whether they are best or not."""
_FEW = 8
"""Members of a mean."""
_STEPS = (4, 16)
"""Denoising steps that are compared."""
_LEAST_MEMBERS = 19
"""Below, a 90 % interval has no quantiles to end at."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is asked beyond best estimates and single samples."""

    members: int = 0
    """Size of the ensembles; 0: none."""
    member_windows: int = 8
    """Most windows per place that ensembles are drawn for."""
    step_windows: int = 3
    """Most windows per place on which numbers of steps are compared."""
    steps: int | None = None
    """Steps of samples and members; None: the card's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One window to look at; images (C, H, W) in reflectance."""

    case: Case
    kind: str
    """Why this one."""
    gain_db: float
    """Best estimate less best opponent."""
    given: Mapping[str, tuple[FloatArray, NDArray[np.bool_] | None]]
    """What the request told: image, and what was hidden of it."""
    results: Mapping[str, FloatArray]
    """By method: the answers."""
    spread: FloatArray | None
    """Standard deviation of some members."""


@dataclass(eq=False)
class Scored:
    """What one task gave."""

    figures: list[Figure] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


def answers(
    generator: Generator, requests: Sequence[Request], *, seen: ProgressCounter
) -> list[NDArray[np.float32]]:
    """Return shape (C, H, W) in model units of each request's target date, in the order given.

    Parameters
    ----------
    generator
        Asked with requests of one shape at a time, at most its card's batch, from a thread per core.
    requests
        One target date each; any shapes.
    seen
        Told of every request answered.

    Raises
    ------
    GeneratorError
        The generator returned another shape, or a value to be filled that is not finite.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        by_shape[request.values.shape].append(index)
    batch = max(generator.card.batch, 1)
    parts = [
        indices[start : start + batch]
        for indices in by_shape.values()
        for start in range(0, len(indices), batch)
    ]

    def answered(part: list[int]) -> list[NDArray[np.float32]]:
        made = _checked(generator, [requests[index] for index in part])
        seen.tiles(len(part))
        return made

    found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(requests)
    with ThreadPoolExecutor(threads()) as pool:
        for part, made in zip(parts, pool.map(answered, parts), strict=True):
            for index, one in zip(part, made, strict=True):
                found[index] = one
    return found


def threads() -> int:
    """Return how many forwards run side by side: one per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _checked(generator: Generator, requests: Sequence[Request]) -> list[NDArray[np.float32]]:
    """Return the target dates of one call's results."""
    name, shape = generator.card.name, requests[0].values.shape
    made = np.asarray(generator.generate(requests))
    if made.shape != (len(requests), *shape):
        raise GeneratorError(
            f"{name} answered {len(requests)} requests of shape {shape} with shape {made.shape}.",
            "Return (B, T, C, H, W); eoaug.testing.check_generator tells what else is expected.",
        )
    found = []
    for request, one in zip(requests, made, strict=True):
        target = int(np.flatnonzero(request.target)[0])
        if not np.isfinite(one[target][request.fill[target]]).all():
            raise GeneratorError(
                f"{name} filled a {request.verb} request with values that are not finite.",
                "Look at the generator; a score of such pixels has no meaning.",
            )
        found.append(one[target])
    return found


def planned(asked: Sequence[Case], effort: Effort) -> int:
    """Return how many images `score` will count at most.

    Parameters
    ----------
    asked, effort
        As for `score`.
    """
    total = 3 * len(asked)
    if effort.members > 1:
        by_place = Counter(case.place for case in asked).values()
        total += effort.members * sum(min(count, effort.member_windows) for count in by_place)
        total += 2 + 2 * min(effort.members, _FEW)
        if effort.members >= _FEW:
            total += 2 * _FEW * sum(min(count, effort.step_windows) for count in by_place)
    return total


def score(
    generator: Generator,
    task: EvaluationTask,
    asked: Sequence[Case],
    effort: Effort,
    *,
    seen: ProgressCounter,
) -> Scored:
    """Return the figures of one task, the generator's first, and windows to look at.

    Parameters
    ----------
    generator
        Whose best estimate (the card's default steps) and sample (the card's member steps, if it names
        any) are judged.
    task, asked
        What is asked, and its cases; at least one.
    effort
        Ensembles and comparisons beyond that.
    seen
        Told of every request answered, and once per case of the opponents.
    """
    return _Round(generator, task, list(asked), effort, seen).scored()


class _Round:
    """The scoring of one task."""

    def __init__(
        self,
        generator: Generator,
        task: EvaluationTask,
        asked: list[Case],
        effort: Effort,
        seen: ProgressCounter,
    ) -> None:
        self.generator, self.task, self.asked, self.effort, self.seen = generator, task, asked, effort, seen
        self.card, self.name = generator.card, generator.card.name
        self.steps = effort.steps or self.card.member_steps.get(verb_of(task))
        self.made: dict[str, list[FloatArray]] = {}
        self.figures: list[Figure] = []
        self.labels = [case.place for case in asked]

    def scored(self) -> Scored:
        """Return figures and examples."""
        self.made[self.name] = self._asked([case.request for case in self.asked])
        if self.steps:
            drawn = [replace(case.request, steps=self.steps) for case in self.asked]
            self.made[f"{self.name}, one sample"] = self._asked(drawn)
        opponents = BASELINES[self.task]
        for method in opponents:
            self.made[method] = []
        for case in self.asked:
            for method, answer in opponents.items():
                self.made[method].append(reflectance(answer(case), self.card).astype(np.float32))
            self.seen.tiles(1)
        scores: dict[str, dict[str, list[float]]] = {}
        for method, images in self.made.items():
            of_windows = [
                _scores(image, case, self.card) for image, case in zip(images, self.asked, strict=True)
            ]
            scores[method] = {metric: [one[metric] for one in of_windows] for metric in of_windows[0]}
        means = {name: self._figure(name, "psnr_db", scores[name]["psnr_db"]).value for name in opponents}
        best = max(means, key=means.__getitem__)
        gains = np.subtract(scores[self.name]["psnr_db"], scores[best]["psnr_db"])
        # The best first; then the one of the same wrong or right assumption, and what needs no method at all.
        for other in dict.fromkeys([best, *(name for name in _ALWAYS if name in opponents)]):
            for method in list(self.made):
                if method not in opponents:
                    gain = np.subtract(scores[method]["psnr_db"], scores[other]["psnr_db"])
                    scores[f"{method} - {other}"] = {"psnr_db": gain.tolist()}
        for method, found in scores.items():
            for metric, values in found.items():
                self.figures.append(self._figure(method, metric, values))
                self.figures += self._by_sensor(method, metric, values)
        self._patterns(best)
        stochastic = self.effort.members > 1 and self._draws()
        if stochastic:
            self._ensembles(best)
            if self.steps and self.effort.members >= _FEW:
                self._compare_steps()
        return Scored(self.figures, self._examples(best, gains, stochastic=stochastic))

    def _asked(self, requests: Sequence[Request], cases: Sequence[Case] | None = None) -> list[FloatArray]:
        """Return what the engine would hand out, reflectance."""
        found = answers(self.generator, requests, seen=self.seen)
        cases = self.asked if cases is None else cases
        handed = (_handed_out(one, case, self.card) for one, case in zip(found, cases, strict=True))
        return [one.astype(np.float32) for one in handed]

    def _ensemble(self, case: Case, members: int, steps: int | None) -> FloatArray:
        requests = [replace(case.request, member=member, steps=steps) for member in range(members)]
        return np.stack(self._asked(requests, [case] * members))

    def _figure(self, method: str, metric: str, values: Sequence[float], indices: Any = None) -> Figure:
        labels = self.labels if indices is None else [self.labels[index] for index in indices]
        return figure_of(self.task, method, metric, values, labels)

    def _by_sensor(self, method: str, metric: str, values: Sequence[float]) -> list[Figure]:
        found = []
        for sensor in dict.fromkeys(case.sensor for case in self.asked):
            indices = [index for index, case in enumerate(self.asked) if case.sensor == sensor]
            if len(indices) >= LEAST_PER_SENSOR:
                part = [values[index] for index in indices]
                labels = [self.labels[index] for index in indices]
                found.append(figure_of(self.task, method, metric, part, labels, sensor=sensor))
        return found

    def _patterns(self, best: str) -> None:
        """Look for patterns in whole images, and in the truth."""
        if verb_of(self.task) == "inpaint":
            return
        mine = [method for method in self.made if method not in BASELINES[self.task] or method == best]
        for method in ["truth", *mine]:
            for period in _PERIODS_PX:
                ratios = []
                for index, case in enumerate(self.asked):
                    bands = case.counts.any(axis=(1, 2))
                    image = case.truth if method == "truth" else self.made[method][index]
                    ratios.append(metrics.pattern_ratio(image[bands], period_px=period))
                self.figures.append(self._figure(method, f"pattern_{period}", ratios))

    def _spread_out(self, most: int) -> list[int]:
        """Return the indices of at most so many cases per place, evenly spread."""
        found = []
        for place in dict.fromkeys(self.labels):
            indices = [index for index, label in enumerate(self.labels) if label == place]
            found += [indices[i] for i in evenly(len(indices), most)]
        return sorted(found)

    def _draws(self) -> bool:
        """Return whether two members of the first case differ."""
        first, second = self._ensemble(self.asked[0], 2, self.steps)
        return not np.array_equal(first, second)

    def _ensembles(self, best: str) -> None:
        members, indices = self.effort.members, self._spread_out(self.effort.member_windows)
        method = f"{self.name}, {members} members"
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for index in indices:
            case = self.asked[index]
            drawn = self._ensemble(case, members, self.steps)
            truth, where = np.nan_to_num(case.truth), case.counts
            found[method, "psnr_db"].append(
                metrics.psnr(drawn.mean(axis=0), truth, data_range=_DATA_RANGE, where=where)
            )
            if members >= _LEAST_MEMBERS:
                found[method, "coverage"].append(metrics.coverage(drawn, truth, where=where))
            found[method, "crps"].append(metrics.crps(drawn, truth, where=where))
            for other in (self.name, best):
                one = self.made[other][index][None]
                found[f"{other} (as one member)", "crps"].append(metrics.crps(one, truth, where=where))
        self.figures += [self._figure(*key, values, indices) for key, values in found.items()]

    def _compare_steps(self) -> None:
        indices = self._spread_out(self.effort.step_windows)
        psnr: dict[int, list[float]] = defaultdict(list)
        for index in indices:
            case = self.asked[index]
            for steps in _STEPS:
                mean = self._ensemble(case, _FEW, steps).mean(axis=0)
                truth = np.nan_to_num(case.truth)
                psnr[steps].append(metrics.psnr(mean, truth, data_range=_DATA_RANGE, where=case.counts))
        names = {steps: f"{self.name}, mean of {_FEW} in {steps} steps" for steps in _STEPS}
        for steps, values in psnr.items():
            self.figures.append(self._figure(names[steps], "psnr_db", values, indices))
        few, many = _STEPS
        difference = np.subtract(psnr[few], psnr[many]).tolist()
        self.figures.append(self._figure(f"{names[few]} - in {many}", "psnr_db", difference, indices))

    def _examples(self, best: str, gains: NDArray[np.float64], *, stochastic: bool) -> list[Example]:
        """Return the windows of the worst and of the median gain."""
        order = np.argsort(gains, kind="stable")
        chosen = {"median gain": int(order[len(order) // 2]), "worst gain": int(order[0])}
        shown = [method for method in self.made if method not in BASELINES[self.task]]
        examples = []
        for kind, index in chosen.items():
            case = self.asked[index]
            sigma = None
            if stochastic:
                count = min(self.effort.members, _FEW)
                sigma = self._ensemble(case, count, self.steps).std(axis=0, ddof=1)
            examples.append(
                Example(
                    case=case,
                    kind=kind,
                    gain_db=float(gains[index]),
                    given=_given(case, self.card),
                    results={method: self.made[method][index] for method in (best, *shown)},
                    spread=sigma,
                )
            )
        return examples


def _handed_out(made: NDArray[np.floating[Any]], case: Case, card: Card) -> FloatArray:
    request = case.request
    if request.coarse is None:
        return reflectance(np.where(case.request.known[case.target], request.values[case.target], made), card)
    assert request.sensor is not None  # given with coarse
    # The engine works band by band; so an absent band, whatever the generator says of it, binds nothing.
    bands = request.fill[case.target].any(axis=(1, 2))
    out = np.array(made, dtype=np.float32)
    out[bands] = request.sensor.project(made[bands], request.coarse_tile[case.target][bands])
    return reflectance(out, card)


def _scores(result: FloatArray, case: Case, card: Card) -> dict[str, float]:
    """Return the metrics of one window."""
    request, bands = case.request, case.counts.any(axis=(1, 2))
    counts, truth = case.counts[bands], case.truth[bands].astype(np.float64)
    # What does not count is as it was.
    image = np.where(counts, result[bands], truth)
    where = counts.all(axis=0)
    window = None if where.mean() > 0.9 else where
    listed, listed_truth = image[:, where][..., None], truth[:, where][..., None]
    found = {
        "psnr_db": metrics.psnr(image, truth, data_range=_DATA_RANGE, where=counts),
        "ssim": metrics.ssim(image, truth, data_range=_DATA_RANGE, where=counts),
        "sam_deg": metrics.sam(listed, listed_truth),
        "ergas": metrics.ergas(listed, listed_truth, factor=request.factor),
        "spectrum_db": metrics.spectrum_distance(image, truth, where=window),
        "detail": metrics.spectrum_ratio(image, truth, where=window),
    }
    if request.coarse is not None:
        assert request.sensor is not None  # given with coarse
        coarse = reflectance(request.coarse_tile[case.target], card)[bands]
        found["residual"] = metrics.consistency(result[bands], coarse, sensor=request.sensor)
    return found


def _given(case: Case, card: Card) -> dict[str, tuple[FloatArray, NDArray[np.bool_] | None]]:
    request, target = case.request, case.target
    dates = reflectance(request.values, card)
    seen = request.known.any(axis=1)
    if request.coarse is not None:
        coarse = reflectance(request.coarse_tile[target], card)
        grown = coarse.repeat(request.factor, axis=1).repeat(request.factor, axis=2)
        return {"given": (grown, None)}
    given: dict[str, tuple[FloatArray, NDArray[np.bool_] | None]] = {}
    if seen[target].any():
        given["given"] = (dates[target], ~seen[target])
    sides = (range(target - 1, -1, -1), range(target + 1, len(dates)))
    for words, others in zip(("earlier", "later"), sides, strict=True):
        for date in others[:1]:
            days = abs(int(request.times[date] - request.times[target])) / 86_400
            given[f"{days:.0f} days {words}"] = (dates[date], ~seen[date])
    return given
