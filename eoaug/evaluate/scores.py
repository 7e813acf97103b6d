"""Scores of one task: the generator's best estimate, one sample and its ensemble, and every baseline.

A result is scored as the engine would return it: projected onto the coarse measurement, with the known pixels
restored.
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
from eoaug.evaluate.baselines import BASELINES, Baseline
from eoaug.evaluate.cases import Case, EvaluationTask, evenly, reflectance, verb_of
from eoaug.evaluate.table import LEAST_PER_SENSOR, Figure, figure_of
from eoaug.generators.base import Card, Generator, Request
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import FloatArray

__all__ = ["Effort", "Example", "Scored", "answers", "planned", "score", "threads"]


_DATA_RANGE = 1.0
"""Reflectance from 0 to 1."""
_PERIODS_PX = (2, 4, 8)
"""Periods of grid artefacts: the pixel unshuffle of the embedded network, and those of its coarser levels."""
_ALWAYS = ("bicubic, back-projected", "nearest date", "mean of all dates")
"""Baselines over which delta PSNR is reported even if they are not the best."""
_FEW = 8
"""Members of an ensemble mean whose numbers of steps are compared."""
_STEPS = (4, 16)
"""Numbers of denoising steps that are compared."""
_MIN_MEMBERS = 19
"""Fewest members whose Weibull quantiles bound a 90 % interval."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What is computed beyond best estimates and single samples."""

    members: int = 0
    """Size of the ensembles; 0: none."""
    member_windows: int = 8
    """Largest number of windows per place with ensembles."""
    step_windows: int = 3
    """Largest number of windows per place on which numbers of steps are compared."""
    steps: int | None = None
    """Steps of samples and members; None: the generator's default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One window of the report; images (C, H, W) in reflectance."""

    case: Case
    reason: str
    """Why this window is shown."""
    gain_db: float
    """Delta PSNR of the best estimate vs the best baseline."""
    given: Mapping[str, tuple[FloatArray, NDArray[np.bool_] | None]]
    """Inputs of the request: image, and the mask of its hidden pixels."""
    results: Mapping[str, FloatArray]
    """Results by method."""
    spread: FloatArray | None
    """Standard deviation of ensemble members; None without an ensemble."""


@dataclass(eq=False)
class Scored:
    """The result of one task."""

    figures: list[Figure] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


def answers(
    generator: Generator, requests: Sequence[Request], *, progress: ProgressCounter
) -> list[NDArray[np.float32]]:
    """Return the target date of every request, shape (C, H, W), model units, in the order of the requests.

    Parameters
    ----------
    generator
        Called with batches of one shape, of at most ``card.batch`` requests, by one thread per core.
    requests
        One target date each; any shapes.
    progress
        Advances by one per request.

    Raises
    ------
    GeneratorError
        The generator returned another shape, or filled a pixel with a value that is not finite.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        by_shape[request.values.shape].append(index)
    batch = max(generator.card.batch, 1)
    batches = [
        indices[start : start + batch]
        for indices in by_shape.values()
        for start in range(0, len(indices), batch)
    ]

    def generate(indices: list[int]) -> list[NDArray[np.float32]]:
        images = _target_dates(generator, [requests[index] for index in indices])
        progress.tiles(len(indices))
        return images

    results: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(requests)
    with ThreadPoolExecutor(threads()) as pool:
        for indices, images in zip(batches, pool.map(generate, batches), strict=True):
            for index, image in zip(indices, images, strict=True):
                results[index] = image
    return results


def threads() -> int:
    """Return the number of threads that call the generator: one per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _target_dates(generator: Generator, requests: Sequence[Request]) -> list[NDArray[np.float32]]:
    """Return the target dates that one call generates, and check them."""
    name, shape = generator.card.name, requests[0].values.shape
    results = np.asarray(generator.generate(requests))
    if results.shape != (len(requests), *shape):
        raise GeneratorError(
            f"{name} answered {len(requests)} requests of shape {shape} with shape {results.shape}",
            "return (B, T, C, H, W); eoaug.testing.check_generator checks the whole contract",
        )
    images = []
    for request, image in zip(requests, results, strict=True):
        target = int(np.flatnonzero(request.target)[0])
        if not np.isfinite(image[target][request.fill[target]]).all():
            raise GeneratorError(
                f"{name} filled a {request.verb} request with values that are not finite",
                "fix the generator; such pixels cannot be scored",
            )
        images.append(image[target])
    return images


def planned(cases: Sequence[Case], effort: Effort) -> int:
    """Return the largest number of images that `score` will count.

    Parameters
    ----------
    cases, effort
        As for `score`.
    """
    total = 3 * len(cases)
    if effort.members > 1:
        by_place = Counter(case.place for case in cases).values()
        total += effort.members * sum(min(count, effort.member_windows) for count in by_place)
        total += 2 + 2 * min(effort.members, _FEW)
        if effort.members >= _FEW:
            total += 2 * _FEW * sum(min(count, effort.step_windows) for count in by_place)
    return total


def score(
    generator: Generator,
    task: EvaluationTask,
    cases: Sequence[Case],
    effort: Effort,
    *,
    progress: ProgressCounter,
) -> Scored:
    """Return the figures of one task, the generator's first, and example windows.

    Parameters
    ----------
    generator
        Its best estimate (the card's default steps) and one sample (the card's member steps, if it names
        any) are scored.
    task, cases
        The task and its cases; at least one.
    effort
        Ensembles and comparisons beyond that.
    progress
        Advances by one per request, and by one per case for the baselines.
    """
    return _Scoring(generator, task, list(cases), effort, progress).run()


class _Scoring:
    """Scores one task."""

    def __init__(
        self,
        generator: Generator,
        task: EvaluationTask,
        cases: list[Case],
        effort: Effort,
        progress: ProgressCounter,
    ) -> None:
        self.generator, self.task, self.cases = generator, task, cases
        self.effort, self.progress = effort, progress
        self.card, self.name = generator.card, generator.card.name
        self.steps = effort.steps or self.card.member_steps.get(verb_of(task))
        self.results: dict[str, list[FloatArray]] = {}
        self.figures: list[Figure] = []
        self.labels = [case.place for case in cases]

    def run(self) -> Scored:
        """Return figures and examples."""
        baselines = BASELINES[self.task]
        self._generate(baselines)
        scores = self._scores()
        means = {name: self._figure(name, "psnr_db", scores[name]["psnr_db"]).value for name in baselines}
        best = max(means, key=means.__getitem__)
        gains = np.subtract(scores[self.name]["psnr_db"], scores[best]["psnr_db"])
        # The best baseline comes first: `Table.best` reads it from the order.
        for other in dict.fromkeys([best, *(name for name in _ALWAYS if name in baselines)]):
            for method in list(self.results):
                if method not in baselines:
                    delta = np.subtract(scores[method]["psnr_db"], scores[other]["psnr_db"])
                    scores[f"{method} - {other}"] = {"psnr_db": delta.tolist()}
        for method, by_metric in scores.items():
            for metric, values in by_metric.items():
                self.figures.append(self._figure(method, metric, values))
                self.figures += self._by_sensor(method, metric, values)
        self._patterns(best)
        stochastic = self.effort.members > 1 and self._is_stochastic()
        if stochastic:
            self._ensembles(best)
            if self.steps and self.effort.members >= _FEW:
                self._compare_steps()
        return Scored(self.figures, self._examples(best, gains, stochastic=stochastic))

    def _generate(self, baselines: Mapping[str, Baseline]) -> None:
        """Fill ``results`` with the images of the generator and of the baselines, in reflectance."""
        self.results[self.name] = self._images([case.request for case in self.cases])
        if self.steps:
            requests = [replace(case.request, steps=self.steps) for case in self.cases]
            self.results[f"{self.name}, one sample"] = self._images(requests)
        for method in baselines:
            self.results[method] = []
        for case in self.cases:
            for method, baseline in baselines.items():
                image = reflectance(baseline(case), self.card).astype(np.float32)
                self.results[method].append(image)
            self.progress.tiles(1)

    def _scores(self) -> dict[str, dict[str, list[float]]]:
        """Return the values of every window by method and metric."""
        scores = {}
        for method, images in self.results.items():
            windows = [
                _window_scores(image, case, self.card) for image, case in zip(images, self.cases, strict=True)
            ]
            scores[method] = {metric: [window[metric] for window in windows] for metric in windows[0]}
        return scores

    def _images(self, requests: Sequence[Request], cases: Sequence[Case] | None = None) -> list[FloatArray]:
        """Return the images that the engine would return, in reflectance."""
        images = answers(self.generator, requests, progress=self.progress)
        cases = self.cases if cases is None else cases
        return [
            _as_returned(image, case, self.card).astype(np.float32)
            for image, case in zip(images, cases, strict=True)
        ]

    def _ensemble(self, case: Case, members: int, steps: int | None) -> FloatArray:
        requests = [replace(case.request, member=member, steps=steps) for member in range(members)]
        return np.stack(self._images(requests, [case] * members))

    def _figure(self, method: str, metric: str, values: Sequence[float], indices: Any = None) -> Figure:
        labels = self.labels if indices is None else [self.labels[index] for index in indices]
        return figure_of(self.task, method, metric, values, labels)

    def _by_sensor(self, method: str, metric: str, values: Sequence[float]) -> list[Figure]:
        figures = []
        for sensor in dict.fromkeys(case.sensor for case in self.cases):
            indices = [index for index, case in enumerate(self.cases) if case.sensor == sensor]
            if len(indices) >= LEAST_PER_SENSOR:
                of_sensor = [values[index] for index in indices]
                labels = [self.labels[index] for index in indices]
                figures.append(figure_of(self.task, method, metric, of_sensor, labels, sensor=sensor))
        return figures

    def _patterns(self, best: str) -> None:
        """Measure grid artefacts of whole images, and of the truth."""
        if verb_of(self.task) == "inpaint":
            return
        own = [method for method in self.results if method not in BASELINES[self.task]]
        for method in ["truth", *own, best]:
            for period in _PERIODS_PX:
                ratios = []
                for index, case in enumerate(self.cases):
                    bands = case.scored.any(axis=(1, 2))
                    image = case.truth if method == "truth" else self.results[method][index]
                    ratios.append(metrics.pattern_ratio(image[bands], period_px=period))
                self.figures.append(self._figure(method, f"pattern_{period}", ratios))

    def _evenly_by_place(self, limit: int) -> list[int]:
        """Return the indices of at most ``limit`` cases per place, evenly spread."""
        chosen = []
        for place in dict.fromkeys(self.labels):
            indices = [index for index, label in enumerate(self.labels) if label == place]
            chosen += [indices[i] for i in evenly(len(indices), limit)]
        return sorted(chosen)

    def _is_stochastic(self) -> bool:
        """Return whether two members of the first case differ."""
        first, second = self._ensemble(self.cases[0], 2, self.steps)
        return not np.array_equal(first, second)

    def _ensembles(self, best: str) -> None:
        members, indices = self.effort.members, self._evenly_by_place(self.effort.member_windows)
        method = f"{self.name}, {members} members"
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for index in indices:
            case = self.cases[index]
            ensemble = self._ensemble(case, members, self.steps)
            truth, where = np.nan_to_num(case.truth), case.scored
            values[method, "psnr_db"].append(
                metrics.psnr(ensemble.mean(axis=0), truth, data_range=_DATA_RANGE, where=where)
            )
            if members >= _MIN_MEMBERS:
                values[method, "coverage"].append(metrics.coverage(ensemble, truth, where=where))
            values[method, "crps"].append(metrics.crps(ensemble, truth, where=where))
            for other in (self.name, best):
                single = self.results[other][index][None]
                values[f"{other} (as one member)", "crps"].append(metrics.crps(single, truth, where=where))
        self.figures += [self._figure(*key, of_windows, indices) for key, of_windows in values.items()]

    def _compare_steps(self) -> None:
        indices = self._evenly_by_place(self.effort.step_windows)
        psnr: dict[int, list[float]] = defaultdict(list)
        for index in indices:
            case = self.cases[index]
            for steps in _STEPS:
                mean = self._ensemble(case, _FEW, steps).mean(axis=0)
                truth = np.nan_to_num(case.truth)
                psnr[steps].append(metrics.psnr(mean, truth, data_range=_DATA_RANGE, where=case.scored))
        names = {steps: f"{self.name}, mean of {_FEW} in {steps} steps" for steps in _STEPS}
        for steps, values in psnr.items():
            self.figures.append(self._figure(names[steps], "psnr_db", values, indices))
        few, many = _STEPS
        difference = np.subtract(psnr[few], psnr[many]).tolist()
        self.figures.append(self._figure(f"{names[few]} - in {many}", "psnr_db", difference, indices))

    def _examples(self, best: str, gains: NDArray[np.float64], *, stochastic: bool) -> list[Example]:
        """Return the windows with the median and with the worst delta PSNR."""
        order = np.argsort(gains, kind="stable")
        chosen = {"median delta PSNR": int(order[len(order) // 2]), "worst delta PSNR": int(order[0])}
        shown = [method for method in self.results if method not in BASELINES[self.task]]
        examples = []
        for reason, index in chosen.items():
            case = self.cases[index]
            spread = None
            if stochastic:
                count = min(self.effort.members, _FEW)
                spread = self._ensemble(case, count, self.steps).std(axis=0, ddof=1)
            examples.append(
                Example(
                    case=case,
                    reason=reason,
                    gain_db=float(gains[index]),
                    given=_inputs(case, self.card),
                    results={method: self.results[method][index] for method in (best, *shown)},
                    spread=spread,
                )
            )
        return examples


def _as_returned(image: NDArray[np.floating[Any]], case: Case, card: Card) -> FloatArray:
    """Return an image in reflectance after the engine's last step."""
    request = case.request
    if request.coarse is None:
        return reflectance(
            np.where(case.request.known[case.target], request.values[case.target], image), card
        )
    assert request.sensor is not None  # given with coarse
    # The engine works band by band, so absent bands have no influence.
    bands = request.fill[case.target].any(axis=(1, 2))
    out = np.array(image, dtype=np.float32)
    out[bands] = request.sensor.project(image[bands], request.coarse_tile[case.target][bands])
    return reflectance(out, card)


def _window_scores(result: FloatArray, case: Case, card: Card) -> dict[str, float]:
    """Return the metrics of one window."""
    request, bands = case.request, case.scored.any(axis=(1, 2))
    scored, truth = case.scored[bands], case.truth[bands].astype(np.float64)
    image = np.where(scored, result[bands], truth)
    where = scored.all(axis=0)
    window = None if where.mean() > 0.9 else where
    pixels, true_pixels = image[:, where][..., None], truth[:, where][..., None]
    scores = {
        "psnr_db": metrics.psnr(image, truth, data_range=_DATA_RANGE, where=scored),
        "ssim": metrics.ssim(image, truth, data_range=_DATA_RANGE, where=scored),
        "sam_deg": metrics.sam(pixels, true_pixels),
        "ergas": metrics.ergas(pixels, true_pixels, factor=request.factor),
        "spectrum_db": metrics.spectrum_distance(image, truth, where=window),
        "detail": metrics.spectrum_ratio(image, truth, where=window),
    }
    if request.coarse is not None:
        assert request.sensor is not None  # given with coarse
        coarse = reflectance(request.coarse_tile[case.target], card)[bands]
        scores["residual"] = metrics.consistency(result[bands], coarse, sensor=request.sensor)
    return scores


def _inputs(case: Case, card: Card) -> dict[str, tuple[FloatArray, NDArray[np.bool_] | None]]:
    """Return the images of a request in reflectance, each with the mask of its hidden pixels."""
    request, target = case.request, case.target
    dates = reflectance(request.values, card)
    known = request.known.any(axis=1)
    if request.coarse is not None:
        coarse = reflectance(request.coarse_tile[target], card)
        enlarged = coarse.repeat(request.factor, axis=1).repeat(request.factor, axis=2)
        return {"input": (enlarged, None)}
    inputs: dict[str, tuple[FloatArray, NDArray[np.bool_] | None]] = {}
    if known[target].any():
        inputs["input"] = (dates[target], ~known[target])
    sides = (range(target - 1, -1, -1), range(target + 1, len(dates)))
    for words, others in zip(("earlier", "later"), sides, strict=True):
        for date in others[:1]:
            days = abs(int(request.times[date] - request.times[target])) / 86_400
            inputs[f"{days:.0f} days {words}"] = (dates[date], ~known[date])
    return inputs
