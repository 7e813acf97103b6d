"""The task "translate": bands whose truth is known are hidden, and made from radar, other bands, sensors, levels and dates.

The verb learns from the cube that it is given and from no other file; what is fitted across places, here and by
baselines, leaves the place out that is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug import metrics
from eoaug.datasets.positions import RADAR, Positions
from eoaug.errors import EoaugError
from eoaug.evaluate.cases import evenly
from eoaug.evaluate.scenes import Scene
from eoaug.evaluate.table import Figure
from eoaug.evaluate.tally import Tally, psnr_of
from eoaug.evaluate.translation_series import SensorSeries, on_grid_of, series_of, with_radar
from eoaug.generators.base import TRANSLATE_CONTEXT, Generator
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.training.spectra import fit_mixture
from eoaug.verbs.translate import translate

__all__ = ["translations"]

_TO_OPTICAL = "translate, radar and other dates to optical"
_TO_RADAR = "translate, optical and other dates to radar"
_MISSING = "translate, one missing band"
_UNSEEN = "translate, bands never measured"
_SENSORS_DATED = "translate, Landsat and other dates to Sentinel-2"
_SENSORS = "translate, Landsat to Sentinel-2"
_LEVELS_PARTLY = "translate, L1C to L2A, a part measured"
_LEVELS = "translate, L1C to L2A"
TASKS = (_TO_OPTICAL, _TO_RADAR, _MISSING, _UNSEEN, _SENSORS_DATED, _SENSORS, _LEVELS_PARTLY, _LEVELS)

_LEAST_DATES = 4
_SPAN_DB = 30.0
_DAYS = 1.2
"""Largest distance of a Landsat image from one of Sentinel-2 that it is compared with."""
_GIVEN = ("blue", "green", "red", "nir")
_PIXELS = 3000
"""Pixels of a place that fits across places use."""
_DARK = 0.01
"""Reflectance that dark object subtraction gives the darkest percent."""


@dataclass(frozen=True, eq=False)
class _TranslationJudge:
    """Runs one generator and scores images."""

    generator: Generator
    tallies: Mapping[str, Tally]

    def made(
        self, series: SensorSeries, names: Sequence[str], dates: Sequence[int], to: Any, **hidden: BoolArray
    ) -> Any:
        """Return the result of the verb on a cube with hidden bands."""
        cube = series.cube(names, dates, hidden)
        return translate(cube, to=to, mask="none", generator=self.generator)

    def add(
        self,
        task: str,
        place: str,
        images: Mapping[str, Float32Array],
        truth: Float32Array,
        labels: Sequence[str],
        where: BoolArray | None = None,
    ) -> None:
        """Score images (C, H, W) of one date by all methods."""
        scored = np.isfinite(truth).all(axis=0) if where is None else where & np.isfinite(truth).all(axis=0)
        span = _SPAN_DB if set(labels) <= set(RADAR) else 1.0
        for method, image in images.items():
            parts = psnr_of(image, truth, scored, dict.fromkeys(labels, span))
            angle = {}
            if span == 1.0 and len(labels) > 1:
                pair = (np.maximum(each[:, scored], 1e-4)[:, None] for each in (image, truth))
                angle = {"sam_deg": metrics.sam(*pair)}
            self.tallies[task].add(method, place, parts, **angle)


def translations(
    generator: Generator,
    folder: Path,
    scenes: Sequence[Scene],
    skipped: dict[str, str],
    *,
    limit: int | None,
    progress: ProgressCounter,
) -> list[Figure]:
    """Return the figures of all tasks of the verb translate that the files of a folder can pose.

    Parameters
    ----------
    generator
        Called by the verb with everything at its default.
    folder
        Of the files, among which radar is searched for.
    scenes
        The files. Those of one place at several sensors or levels are put together.
    skipped
        Files that the verb refuses are added.
    limit
        Largest number of dates per file.
    progress
        Advances by one per scene.
    """
    name = generator.card.name
    judge = _TranslationJudge(generator, {task: Tally(task, (name,)) for task in TASKS})
    radars = Positions.of(sorted(folder.glob("*.nc"))).radar
    series = {scene.name: series_of(scene, scene.reflectances) for scene in scenes if scene.reflectances}
    for scene in scenes:
        progress.tiles(1)
        if scene.name not in series:
            continue
        try:
            _within(judge, series[scene.name], radars, limit)
        except EoaugError as error:
            skipped.setdefault(f"{scene.name}.nc", f"translate: {error.problem}")
    _across_sensors(judge, list(series.values()), limit)
    _across_levels(judge, [series_of(s, s.reflectances, all_dates=True) for s in scenes if s.reflectances])
    _never_measured(judge, list(series.values()))
    return [figure for tally in judge.tallies.values() for figure in tally.figures()]


# -- one file and its radar --------------------------------------------------------------------------


def _within(
    judge: _TranslationJudge, series: SensorSeries, radars: Sequence[Path], limit: int | None
) -> None:
    optical = list(series.layers)
    _one_band(judge, series, optical, limit)
    joined = with_radar(series, radars)
    if joined is None:
        return
    dates = joined.whole_dates([*optical, *RADAR])
    if len(dates) < _LEAST_DATES:
        return
    for target in (dates[i] for i in evenly(len(dates), limit)):
        chosen = joined.near(dates, target, TRANSLATE_CONTEXT)
        for task, wanted, given in (
            (_TO_OPTICAL, optical, list(RADAR)),
            (_TO_RADAR, list(RADAR), optical),
        ):
            _hidden_date(judge, task, joined, chosen, target, wanted, given)


def _one_band(judge: _TranslationJudge, series: SensorSeries, optical: list[str], limit: int | None) -> None:
    """Hide one band of a date, another one on each."""
    dates = series.whole_dates(optical)
    if len(dates) < _LEAST_DATES or len(optical) < 3:
        return
    for number, target in enumerate(dates[i] for i in evenly(len(dates), limit)):
        wanted = [optical[number % len(optical)]]
        given = [name for name in optical if name not in wanted]
        chosen = series.near(dates, target, TRANSLATE_CONTEXT)
        _hidden_date(judge, _MISSING, series, chosen, target, wanted, given)


def _hidden_date(
    judge: _TranslationJudge,
    task: str,
    series: SensorSeries,
    dates: list[int],
    target: int,
    wanted: list[str],
    given: list[str],
) -> None:
    """Hide bands on a date, and score the verb and the baselines that see the same dates."""
    at = dates.index(target)
    there = np.zeros((len(dates), 1, 1), bool)
    there[at] = True
    result = judge.made(series, [*wanted, *given], dates, wanted, **dict.fromkeys(wanted, there))
    x, y = series.values(given)[dates], series.values(wanted)[dates]
    others = [i for i in range(len(dates)) if i != at]
    images = {
        judge.generator.card.name: np.stack([result[name].values[at] for name in wanted]),
        f"regression on {_called(given)}": _Regression.of(x[others], y[others])(x[at]),
        "mean of the other dates": np.nanmean(y[others], axis=0),
    }
    judge.add(task, series.scene.place, images, y[at], wanted)


def _called(given: Sequence[str]) -> str:
    return "the radar of the date" if set(given) <= set(RADAR) else "the given bands"


@dataclass(frozen=True, eq=False)
class _Regression:
    """Least squares of bands on others."""

    slopes: NDArray[np.float64]
    """Shape (1 + F, C)."""

    @classmethod
    def of(cls, x: NDArray[np.floating], y: NDArray[np.floating]) -> _Regression:
        """Return the regression of y (T, C, H, W) on x (T, F, H, W)."""
        left, right = (np.moveaxis(each, 1, 0).reshape(each.shape[1], -1) for each in (x, y))
        clear = np.isfinite(left).all(axis=0) & np.isfinite(right).all(axis=0)
        design = np.column_stack([np.ones(clear.sum()), left[:, clear].T.astype(np.float64)])
        return cls(np.linalg.lstsq(design, right[:, clear].T.astype(np.float64), rcond=None)[0])

    def __call__(self, x: NDArray[np.floating]) -> Float32Array:
        """Return the bands of an image (F, H, W)."""
        image = self.slopes[0][:, None, None] + np.tensordot(self.slopes[1:].T, x.astype(np.float64), 1)
        return np.asarray(image, np.float32)


# -- two sensors -------------------------------------------------------------------------------------


def _across_sensors(judge: _TranslationJudge, series: Sequence[SensorSeries], limit: int | None) -> None:
    pairs = []
    for own in series:
        if _sensor(own) != "sentinel-2" or own.scene.cube.geobox.crs is None:
            continue
        for other in series:
            if other.scene.place == own.scene.place and _sensor(other) in ("landsat-8", "landsat-9"):
                pairs.append(_SensorPair.of(own, other))
    for pair in pairs:
        if not pair.wanted or len(pair.dates) < _LEAST_DATES:
            continue
        elsewhere = [p for p in pairs if p.series.scene.place != pair.series.scene.place]
        for target in (pair.dates[i] for i in evenly(len(pair.dates), limit)):
            chosen = pair.series.near(pair.dates, target, TRANSLATE_CONTEXT)
            wanted, given = pair.wanted, list(pair.same.values())
            _hidden_date(judge, _SENSORS_DATED, pair.series, chosen, target, wanted, pair.landsat)
            made = judge.made(pair.series, pair.landsat, [target], "sentinel-2")
            truth = pair.series.values(wanted)[target]
            images = {
                judge.generator.card.name: np.stack([made[name].values[0] for name in wanted]),
                "taken as it is": pair.series.values(given)[target],
            }
            fitted = pair.of_other_places(elsewhere, target)
            if fitted is not None:
                images["regression of other places"] = fitted
                judge.add(_SENSORS, pair.series.scene.place, images, truth, wanted)


def _sensor(series: SensorSeries) -> str:
    sensors = {layer.attrs.get("platform", "") for layer in series.layers.values()}
    return str(sensors.pop()) if len(sensors) == 1 else ""


@dataclass(frozen=True, eq=False)
class _SensorPair:
    """Sentinel-2 and Landsat of one place."""

    series: SensorSeries
    same: Mapping[str, str]
    """Landsat's band by Sentinel-2's of the same common name."""
    landsat: list[str]
    dates: list[int]
    """On which both are whole."""

    @classmethod
    def of(cls, own: SensorSeries, other: SensorSeries) -> _SensorPair:
        joined = on_grid_of(own, other, within_days=_DAYS)
        theirs = {layer.attrs["common_name"]: name for name, layer in other.layers.items()}
        same = {
            name: theirs[common]
            for name, layer in own.layers.items()
            if (common := layer.attrs.get("common_name")) in theirs
        }
        landsat = list(other.layers)
        return cls(joined, same, landsat, joined.whole_dates([*own.layers, *landsat]))

    @property
    def wanted(self) -> list[str]:
        """The bands of Sentinel-2 that Landsat has as well."""
        return list(self.same)

    def on_whole_dates(self, name: str) -> Float32Array:
        """Return all pixels of a band on those dates, shape (n,)."""
        return self.series.layers[name].values[self.dates].ravel()

    def of_other_places(self, others: Sequence[_SensorPair], target: int) -> Float32Array | None:
        """Return a date as regressions say it that were fitted to other places; None if a band lies nowhere else."""
        planes = []
        for name, given in self.same.items():
            fits = [pair for pair in others if name in pair.same and pair.dates]
            if not fits:
                return None
            x = np.concatenate([pair.on_whole_dates(pair.same[name]) for pair in fits])
            y = np.concatenate([pair.on_whole_dates(name) for pair in fits])
            line = _Regression.of(x[None, None, None], y[None, None, None])
            planes.append(line(self.series.values([given])[target])[0])
        return np.stack(planes)


# -- two levels --------------------------------------------------------------------------------------


def _across_levels(judge: _TranslationJudge, series: Sequence[SensorSeries]) -> None:
    for top in series:
        for surface in series:
            levels = [next(iter(s.layers.values())).attrs.get("processing:level") for s in (top, surface)]
            same = top.scene.place == surface.scene.place and _sensor(top) == _sensor(surface)
            if same and levels == ["L1", "L2"] and top.layers.keys() <= surface.layers.keys():
                _one_scene(judge, top, surface)


def _one_scene(judge: _TranslationJudge, top: SensorSeries, surface: SensorSeries) -> None:
    """Hide the right half of the surface reflectance, then squares of 24 px, then all of it."""
    names = list(top.layers)
    below = {
        f"{name}_l2a": replace(surface.layers[name], values=surface.layers[name].values) for name in names
    }
    both = replace(top, layers={**top.layers, **below})
    x, y = top.values(names)[0], surface.values(names)[0]
    whole = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0)
    rows, cols = np.indices(whole.shape)
    place, own = top.scene.place, judge.generator.card.name
    for hidden in (cols >= whole.shape[1] // 2, (rows // 24 + cols // 24) % 2 == 0):
        made = judge.made(both, [*names, *below], [0], "sentinel-2-l2a", **dict.fromkeys(below, hidden))
        fitted = _Regression.of(x[None], np.where(hidden, np.nan, y)[None])
        images = {own: _stacked(made, list(below)), "regression on the given bands": fitted(x)}
        judge.add(_LEVELS_PARTLY, place, images, y, names, whole & hidden)
    made = judge.made(top, names, [0], "sentinel-2-l2a")
    dark = np.nanpercentile(np.where(whole, x, np.nan), 1, axis=(1, 2))[:, None, None]
    images = {
        own: _stacked(made, list(below)),
        "taken as it is": x,
        "dark object subtraction": x - dark + _DARK,
    }
    judge.add(_LEVELS, place, images, y, names, whole)


def _stacked(made: Any, names: Sequence[str]) -> Float32Array:
    return np.stack([made[name].values[0] for name in names])


# -- bands that a place never had --------------------------------------------------------------------


def _never_measured(judge: _TranslationJudge, series: Sequence[SensorSeries]) -> None:
    """Predict bands from four others by what other places show."""
    sets = [pixels for one in series if (pixels := _SpectralPixels.of(one)) is not None]
    for own in sets:
        others = [each for each in sets if each.place != own.place and set(each.names) >= set(own.names)]
        wanted = [name for name in own.names if name not in _GIVEN]
        if len({each.place for each in others}) < 2:
            continue
        pool = np.concatenate([each.columns(own.names) for each in others], axis=1)
        mixture = fit_mixture(pool.T, own.names)
        given = own.columns(_GIVEN)
        line = _Regression.of(pool[: len(_GIVEN), None][None], pool[len(_GIVEN) :, None][None])
        images = {
            judge.generator.card.name: mixture.estimate(given, _GIVEN, wanted)[0].astype(np.float32)[:, None],
            "regression of other places": line(given[:, None]),
        }
        truth = own.columns(wanted)[:, None]
        judge.add(_UNSEEN, own.place, images, truth, wanted)


@dataclass(frozen=True, eq=False)
class _SpectralPixels:
    """Spectra of surface reflectance of one place."""

    place: str
    names: tuple[str, ...]
    """Common names, those of `_GIVEN` first."""
    values: Float32Array
    """Shape (bands, n)."""

    @classmethod
    def of(cls, series: SensorSeries) -> _SpectralPixels | None:
        """Return pixels spread over all dates; None without the given bands and another."""
        known = {layer.attrs.get("common_name"): layer for layer in series.layers.values()}
        if not set(_GIVEN) <= known.keys() or len(known) == len(_GIVEN) or _sensor(series) != "sentinel-2":
            return None
        if any(layer.attrs.get("processing:level") == "L1" for layer in known.values()):
            return None
        names = (
            *_GIVEN,
            *(str(name) for name in known if name not in (*_GIVEN, "coastal", "nir09", "cirrus", None)),
        )
        columns = np.stack([known[name].values.ravel() for name in names])
        columns = columns[:, np.isfinite(columns).all(axis=0)]
        if not columns.shape[1] or len(names) == len(_GIVEN):
            return None
        return cls(series.scene.place, names, columns[:, evenly(columns.shape[1], _PIXELS)])

    def columns(self, names: Sequence[str]) -> Float32Array:
        """Return shape (names, n)."""
        return self.values[[self.names.index(name) for name in names]]
