"""Figures of tasks that are judged through the verbs: scores of windows become means over places and gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eoaug import metrics
from eoaug.evaluate.table import Figure, figure_of
from eoaug.raster.arrays import BoolArray, FloatArray

__all__ = ["Tally", "psnr_of"]


@dataclass(frozen=True)
class _Score:
    place: str
    values: Mapping[str, float]
    """By metric."""
    parts: Mapping[str, float]
    """PSNR in dB by band."""


def psnr_of(
    result: FloatArray, truth: FloatArray, where: BoolArray, ranges: Mapping[str, float]
) -> dict[str, float]:
    """Return the PSNR in dB of each band; bands without a scored pixel are left out.

    Parameters
    ----------
    result, truth
        Shape (C, H, W), physical values.
    where
        Shape (H, W) or (C, H, W), True for scored pixels; those whose truth is not finite are not scored.
    ranges
        Span of the values by name of the band, in the order of the channels.
    """
    scored = np.broadcast_to(where, truth.shape) & np.isfinite(truth)
    return {
        name: metrics.psnr(result[band], truth[band], data_range=span, where=scored[band])
        for band, (name, span) in enumerate(ranges.items())
        if scored[band].any()
    }


class Tally:
    """Collects the scores of one task by method, window by window.

    Every method must be scored on the same windows.
    """

    def __init__(self, task: str, own: Sequence[str]) -> None:
        """Begin the task.

        Parameters
        ----------
        task
            Its name in the table.
        own
            Methods that are not baselines; the first is the one that gains are reported of.
        """
        self.task, self.own = task, tuple(own)
        self._scores: dict[str, list[_Score]] = {}

    def add(
        self,
        method: str,
        place: str,
        parts: Mapping[str, float] | None = None,
        **values: float,
    ) -> None:
        """Add a window.

        Parameters
        ----------
        method, place
            Which method was scored, and where.
        parts
            PSNR by band; their mean is the window's PSNR.
        **values
            Other metrics.
        """
        parts = parts or {}
        scores = dict(values)
        if parts:
            scores = {"psnr_db": float(np.mean(list(parts.values()))), **scores}
        self._scores.setdefault(method, []).append(_Score(place, scores, parts))

    def figures(self, *, by_band: bool = False) -> list[Figure]:
        """Return the figures: each method's, then what the first one gains on each baseline, the best first.

        Parameters
        ----------
        by_band
            Also the gain on the best baseline in each band.
        """
        figures = [
            self._figure(method, metric, method)
            for method in self._scores
            for metric in self._metrics(method)
        ]
        name = self.own[0]
        baselines = [method for method in self._scores if method not in self.own]
        if name not in self._scores:
            return figures
        quality = "psnr_db" if "psnr_db" in self._metrics(name) else self._metrics(name)[0]
        sign = -1.0 if quality == "psnr_db" else 1.0
        level = {
            method: sign * self._figure(method, quality, method).value for method in (*baselines, *self.own)
        }
        baselines.sort(key=level.__getitem__)
        for other in (*baselines, *self.own[1:]):
            figures += self._gains(name, other)
        if by_band and baselines:
            figures += self._gains_by_band(name, baselines[0])
        return figures

    def _metrics(self, method: str) -> list[str]:
        return list(dict.fromkeys(metric for score in self._scores[method] for metric in score.values))

    def _figure(self, method: str, metric: str, label: str, other: str = "") -> Figure:
        scores, values = self._scores[method], []
        for index, score in enumerate(scores):
            value = score.values.get(metric, np.nan)
            values.append(value - self._scores[other][index].values.get(metric, np.nan) if other else value)
        return figure_of(self.task, label, metric, values, [score.place for score in scores])

    def _gains(self, name: str, other: str) -> list[Figure]:
        label = f"{name} - {other}"
        figures = [self._figure(name, metric, label, other) for metric in self._metrics(name)]
        gains = [
            (score.values["psnr_db"] - against.values["psnr_db"], score.place)
            for score, against in zip(self._scores[name], self._scores[other], strict=True)
            if "psnr_db" in score.values
        ]
        if gains:
            figures += self._spread(label, gains)
        return figures

    def _gains_by_band(self, name: str, other: str) -> list[Figure]:
        by_band: dict[str, list[tuple[float, str]]] = {}
        for score, against in zip(self._scores[name], self._scores[other], strict=True):
            for band, value in score.parts.items():
                by_band.setdefault(band, []).append((value - against.parts[band], score.place))
        figures = []
        for band, gains in by_band.items():
            label = f"{band}: {name} - {other}"
            values, places = zip(*gains, strict=True)
            figures.append(figure_of(self.task, label, "psnr_db", values, places))
            figures += self._spread(label, gains)
        return figures

    def _spread(self, label: str, gains: Sequence[tuple[float, str]]) -> list[Figure]:
        values, nan = [gain for gain, _ in gains], float("nan")
        return [
            Figure(
                task=self.task,
                method=label,
                metric=metric,
                value=float(number),
                low=nan,
                high=nan,
                windows=len(gains),
                places=len({place for _, place in gains}),
            )
            for metric, number in (("median_db", np.median(values)), ("worst_db", np.min(values)))
        ]
