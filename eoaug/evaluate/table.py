"""Tables of figures with their numbers of windows and places, their intervals, and their text.

A figure is the mean over places of the mean over a place's windows, so that one large scene does not
outweigh the others. Its interval is a bootstrap over places, because windows of one place are correlated.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from eoaug import metrics

__all__ = ["LEAST_PER_SENSOR", "METRICS", "Figure", "Metric", "Table", "figure_of"]


class Metric(NamedTuple):
    """How a metric is printed and averaged."""

    heading: str
    form: str
    """Format of one value."""
    meaning: str
    """Unit, perfect value and pixels, in one phrase."""
    ratio: bool = False
    """Averaged as a logarithm, so that 2 and 0.5 average to 1."""


METRICS: Mapping[str, Metric] = {
    "psnr_db": Metric("PSNR dB", ".2f", "generated pixels, reflectance, peak 1; higher is better"),
    "median_db": Metric("median dB", ".2f", "median over windows of a difference of PSNR"),
    "worst_db": Metric("worst dB", ".2f", "smallest difference of PSNR in one window"),
    "outside": Metric(
        "outside %",
        ".1f",
        "share of filled values beyond the clear dates of their place: below 0.7 times the least reflectance less 0.01, or "
        "above 1.3 times the largest plus 0.01",
    ),
    "ssim": Metric("SSIM", ".4f", "generated pixels, peak 1; 1 is perfect"),
    "sam_deg": Metric("SAM deg", ".2f", "spectral angle of the generated pixels; 0 is perfect"),
    "ergas": Metric("ERGAS", ".2f", "relative error over bands, divided by the factor; 0 is perfect"),
    "spectrum_db": Metric(
        "spectrum dB", ".2f", "distance of the radially averaged log power spectra; 0 is perfect"
    ),
    "detail": Metric(
        "detail", ".2f", "energy above half the Nyquist frequency relative to the truth; 1 is perfect", True
    ),
    "residual": Metric(
        "residual",
        ".1e",
        "root mean square of degrade(result) - coarse, reflectance; data are stored in steps of 1e-4",
    ),
    "coverage": Metric(
        "coverage", ".3f", "share of pixels inside the members' 90 % interval (Weibull's quantiles)"
    ),
    "crps": Metric(
        "CRPS",
        ".5f",
        "continuous ranked probability score, reflectance; for a single image the mean absolute error",
    ),
    "pattern_2": Metric(
        "2 px",
        ".2f",
        "power at the frequencies of a 2 px pattern relative to neighbouring frequencies; 1 is none",
        True,
    ),
    "pattern_4": Metric("4 px", ".2f", "the same for 4 px", True),
    "pattern_8": Metric("8 px", ".2f", "the same for 8 px", True),
    "kid": Metric(
        "KID",
        ".4f",
        "kernel distance of the filter-bank features (`synthesis.features`); 0 for equal distributions",
    ),
    "nearest_feature": Metric(
        "nearest, features", ".2f", "median distance to the nearest training window, features"
    ),
    "nearest_pixel": Metric(
        "nearest, pixels", ".4f", "median RMSE to the nearest training window over rotations and reflections"
    ),
    "closest_pixel": Metric("closest, pixels", ".4f", "the smallest of these distances"),
    "mpx_per_s": Metric("Mpx/s", ".3f", "throughput, millions of pixels per second"),
    "mean": Metric("mean", ".2f", "mean of the images relative to the real data"),
    "std": Metric("std", ".2f", "standard deviation of the images relative to the real data"),
    "mean_trained": Metric("mean / training", ".2f", "mean relative to the training data"),
    "std_trained": Metric("std / training", ".2f", "standard deviation relative to the training data"),
}
"""Metrics in the order of the columns."""

LEAST_PER_SENSOR = 100
"""Fewest windows of a sensor with figures of its own."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of the table."""

    task: str
    method: str
    """The generator, a baseline, or ``"A - B"`` for the difference of both, window by window."""
    metric: str
    """A key of `METRICS`."""
    value: float
    low: float
    """Lower end of the 95 % interval over places; NaN with one place, or without an interval."""
    high: float
    """Upper end."""
    windows: int
    places: int
    sensor: str = ""
    """Windows of this sensor only; empty: of all."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The figures of an evaluation."""

    generator: str
    figures: tuple[Figure, ...]
    skipped: Mapping[str, str]
    """Files and tasks that were skipped, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the evaluation, and versions."""
    sensors: Mapping[str, int] = field(default_factory=dict)
    """Largest number of windows of one task, by sensor."""

    def figure(self, task: str, method: str, metric: str = "psnr_db", *, sensor: str = "") -> Figure:
        """Return one figure, or raise KeyError."""
        for figure in self.figures:
            if (figure.task, figure.method, figure.metric, figure.sensor) == (task, method, metric, sensor):
                return figure
        raise KeyError((task, method, metric, sensor))

    def best(self, task: str) -> str:
        """Return the baseline of the highest PSNR of a task, or raise KeyError."""
        start = f"{self.generator} - "
        for figure in self.figures:
            if figure.task == task and figure.method.startswith(start) and not figure.sensor:
                return figure.method.removeprefix(start)
        raise KeyError(task)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers; NaN and infinity become None."""
        figures = [
            {key: None if _is_undefined(value) else value for key, value in asdict(figure).items()}
            for figure in self.figures
        ]
        return {
            "generator": self.generator,
            "settings": dict(self.settings),
            "metrics": {name: metric.meaning for name, metric in METRICS.items()},
            "figures": figures,
            "sensors": dict(self.sensors),
            "skipped": dict(self.skipped),
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """Return all tables in Markdown, each with its numbers of windows and places."""
        lines = [f"# {self.generator}", ""]
        for title, text, rows in self.sections():
            lines += [f"## {title}", "", text, ""] if text else [f"## {title}", ""]
            if rows:
                lines += [_row(rows[0]), "|" + "---|" * len(rows[0]), *map(_row, rows[1:]), ""]
        return "\n".join(lines).rstrip() + "\n"

    def sections(self) -> Iterator[tuple[str, str, list[list[str]]]]:
        """Yield (title, text, rows of cells with the heading first) of every table, the summary first."""
        if summary := self._summary():
            yield "Summary", _SUMMARY, summary
        for task in dict.fromkeys(figure.task for figure in self.figures):
            yield task, *_grid([f for f in self.figures if f.task == task and not f.sensor])
        of_sensors = [f for f in self.figures if f.sensor]
        for sensor, count in self.sensors.items():
            title = f"Sensor: {sensor or 'unnamed'}"
            if count < LEAST_PER_SENSOR:
                yield title, f"Not reported: {count} windows, fewer than {LEAST_PER_SENSOR}.", []
            elif rows := [f for f in of_sensors if f.sensor == sensor]:
                yield title, *_grid(rows, with_task=True)
        skipped = "\n".join(f"- {name}: {why}" for name, why in self.skipped.items())
        if skipped:
            yield "Skipped", skipped, []
        used = [METRICS[name] for name in METRICS if any(f.metric == name for f in self.figures)]
        meaning = "\n".join(f"- {metric.heading}: {metric.meaning}" for metric in used)
        yield "Metrics", f"{_ABOUT}\n\n{meaning}", []

    def _summary(self) -> list[list[str]]:
        rows = [["task", "windows / places", "best baseline", "PSNR",
                 "delta PSNR of the best estimate vs best baseline",
                 "delta PSNR of one sample vs best baseline", "detail: baseline, sample",
                 "spectrum: baseline, sample", "residual: best estimate, sample"]]  # fmt: skip
        name = self.generator
        for task in dict.fromkeys(figure.task for figure in self.figures):
            try:
                best = self.best(task)
                psnr = self.figure(task, best)
            except KeyError:
                continue
            sample = f"{name}, one sample"

            def shown(method: str, metric: str = "psnr_db", *, task: str = task, bare: bool = True) -> str:
                try:
                    return _cell(self.figure(task, method, metric), bare=bare)
                except KeyError:
                    return "-"

            rows.append(
                [
                    task,
                    f"{psnr.windows} / {psnr.places}",
                    best,
                    shown(best),
                    shown(f"{name} - {best}", bare=False),
                    shown(f"{sample} - {best}", bare=False),
                    f"{shown(best, 'detail')}, {shown(sample, 'detail')}",
                    f"{shown(best, 'spectrum_db')}, {shown(sample, 'spectrum_db')}",
                    f"{shown(name, 'residual')}, {shown(sample, 'residual')}",
                ]
            )
        return rows if len(rows) > 1 else []


_SUMMARY = (
    "PSNR in dB with its 95 % interval over places. Detail is the energy at high frequencies relative to the truth "
    "(1 is perfect), spectrum the distance to the spectrum of the truth in dB. A best estimate maximises PSNR and is "
    "smooth; a sample has detail and loses up to 3 dB."
)
_ABOUT = (
    "Every figure is the mean over places of the mean over a place's windows of 64 x 64 pixels; in brackets "
    "the 95 % bootstrap interval over places. Files of one position are one place. Tasks with other dates also use the dates of "
    "the file that a file continues (context_file), and 8-bit display values with 255 as reflectance 0.5: delta PSNR "
    "does not depend on that scale."
)


def figure_of(
    task: str,
    method: str,
    metric: str,
    values: Sequence[float],
    labels: Sequence[str],
    *,
    sensor: str = "",
) -> Figure:
    """Return the figure of per-window values.

    Parameters
    ----------
    task, method, metric, sensor
        As in `Figure`.
    values
        One per window; NaN is ignored.
    labels
        The place of each window.
    """
    ratio = METRICS[metric].ratio
    by_place: dict[str, list[float]] = defaultdict(list)
    for value, label in zip(values, labels, strict=True):
        if not np.isnan(value):
            by_place[label].append(float(np.log(np.clip(value, 1e-6, 1e6))) if ratio else value)
    means = [float(np.mean(of_windows)) for of_windows in by_place.values()]
    interval = metrics.bootstrap_interval(means, list(by_place))
    numbers = np.array([np.mean(means) if means else np.nan, interval.low, interval.high])
    value, low, high = (np.exp(numbers) if ratio else numbers).tolist()
    return Figure(
        task=task,
        method=method,
        metric=metric,
        value=value,
        low=low,
        high=high,
        windows=sum(map(len, by_place.values())),
        places=len(by_place),
        sensor=sensor,
    )


def _grid(figures: Sequence[Figure], *, with_task: bool = False) -> tuple[str, list[list[str]]]:
    """Return a line on the numbers of windows, and a row per method with a column per metric."""
    names = {figure.metric for figure in figures}
    columns = [name for name in METRICS if name in names]
    counts = [(f.windows, f.places) for f in figures]
    usual = max(set(counts), key=counts.count)
    head = ["task"] if with_task else []
    rows = [[*head, "method", *(METRICS[name].heading for name in columns)]]
    by_method: dict[tuple[str, str], dict[str, Figure]] = defaultdict(dict)
    for figure in figures:
        by_method[figure.task, figure.method][figure.metric] = figure
    for (task, method), by_metric in by_method.items():
        first = next(iter(by_metric.values()))
        count = "" if (first.windows, first.places) == usual else f" ({first.windows} / {first.places})"
        cells = [
            _cell(by_metric[name], bare=name not in ("psnr_db", "coverage")) if name in by_metric else "-"
            for name in columns
        ]
        rows.append([*([task] if with_task else []), method + count, *cells])
    return f"{usual[0]} windows of {usual[1]} places; deviating numbers follow the method.", rows


def _cell(figure: Figure, *, bare: bool) -> str:
    form = METRICS[figure.metric].form
    if _is_undefined(figure.value):
        return "-"
    sign = "+" if " - " in figure.method else ""
    shown = f"{figure.value:{sign}{form}}"
    if bare or _is_undefined(figure.low):
        return shown
    return f"{shown} ({figure.low:{sign}{form}} to {figure.high:{sign}{form}})"


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not np.isfinite(value)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
