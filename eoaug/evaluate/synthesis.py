"""Unconditional synthesis and variations: realism, and distance to the training data.

There is no true image to compare with, so sets of images are compared: statistics of bands, the kernel
distance of features, distances to the nearest training window. The encoder is `features`, a fixed filter bank
without trained weights.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug import metrics
from eoaug.datasets.series import WINDOW_PX, Series
from eoaug.errors import EoaugError
from eoaug.evaluate.cases import evenly, model_units, reflectance
from eoaug.evaluate.scores import answers
from eoaug.evaluate.table import Figure
from eoaug.generators.base import Generator, Request
from eoaug.generators.classical import Classical
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import FloatArray

__all__ = ["SAMPLES", "RealImage", "Sheet", "Synthesised", "features", "real_windows", "synthesise"]


SAMPLES = 64
"""Default number of synthesised images."""
STRENGTH = 0.6
"""Denoising strength of variations: the verb's default."""
_SCALES_PX = (1.0, 2.0, 4.0, 8.0)
_ANGLES = np.deg2rad([0.0, 45.0, 90.0, 135.0])
_FLOOR = 1e-4
"""Step of reflectance in which data are stored: smaller differences are rounding."""
_MAX_PER_PLACE = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class RealImage:
    """A clear window of real data on one date."""

    place: str
    values: NDArray[np.float32]
    """Shape (C, H, W), reflectance; NaN for absent bands."""
    time: int
    metadata: NDArray[np.float64]
    """Shape (7,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """Images of the report."""

    title: str
    text: str
    images: Sequence[FloatArray]
    """Shape (C, H, W) each, reflectance."""


@dataclass(eq=False)
class Synthesised:
    """The result of `synthesise`."""

    figures: list[Figure] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def features(image: FloatArray) -> NDArray[np.float64]:
    """Return the responses of a fixed filter bank to an image.

    An encoder after the texture statistics of Portilla & Simoncelli (2000,
    doi:10.1023/A:1026553619983), with the first-derivative steerable filters of Freeman & Adelson (1991,
    doi:10.1109/34.93808) at 1, 2, 4 and 8 px and 0, 45, 90 and 135 degrees. Per band: log of mean and of
    standard deviation; per scale and angle the log energy; per scale the sparsity of the gradient
    magnitude (log of its mean square over its squared mean: edges versus noise) and its
    correlation with that of the next scale. Per pair of bands: the correlation of pixels and, per scale, of gradient
    magnitudes.

    Parameters
    ----------
    image
        Shape (C, H, W), reflectance.

    Returns
    -------
    Shape (25 C + 5 C (C - 1) / 2,).
    """
    values = np.asarray(image, dtype=np.float64)
    responses: list[float] = []
    magnitudes = []
    for scale in _SCALES_PX:
        rows, cols = (
            ndimage.gaussian_filter(values, (0, scale, scale), order=order, mode="reflect") * scale
            for order in ((0, 1, 0), (0, 0, 1))
        )
        magnitudes.append(np.hypot(rows, cols))
        for row, col, size in zip(rows, cols, magnitudes[-1], strict=True):
            energy = [np.mean((np.cos(a) * col + np.sin(a) * row) ** 2) for a in _ANGLES]
            responses += np.log(np.array(energy) + _FLOOR**2).tolist()
            responses.append(float(np.log((np.mean(size**2) + _FLOOR**2) / (np.mean(size) ** 2 + _FLOOR**2))))
    for small, large in itertools.pairwise(magnitudes):
        responses += [_correlation(a, b) for a, b in zip(small, large, strict=True)]
    for plane in values:
        responses += [
            float(np.log(max(plane.mean(), 0) + 0.01)),
            float(np.log(plane.std() + _FLOOR)),
        ]
    for i in range(len(values)):
        for j in range(i):
            responses.append(_correlation(values[i], values[j]))
            responses += [_correlation(size[i], size[j]) for size in magnitudes]
    return np.array(responses)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(np.mean(a * b) / np.sqrt((np.mean(a**2) + _FLOOR**2) * (np.mean(b**2) + _FLOOR**2)))


def real_windows(
    places: Mapping[str, Sequence[Series]], limit: int | None = _MAX_PER_PLACE
) -> list[RealImage]:
    """Return clear windows of real data, spread evenly over each place.

    Parameters
    ----------
    places
        Windows by place.
    limit
        Largest number of windows per place; None: all.
    """
    images = []
    for place, windows in places.items():
        whole = [series for series in windows if series.values.shape[-1] == WINDOW_PX]
        dates = [(series, date) for series in whole for date in series.usable.tolist()]
        for index in evenly(len(dates), limit):
            series, date = dates[index]
            images.append(
                RealImage(
                    place=place,
                    values=np.where(series.present[:, None, None], series.values[date], np.float32(np.nan)),
                    time=int(series.times[date]),
                    metadata=series.metadata[date],
                )
            )
    return images


def synthesise(
    generator: Generator,
    slots: Sequence[str],
    real: Sequence[RealImage],
    train: Sequence[RealImage],
    *,
    seed: int,
    progress: ProgressCounter,
    samples: int = SAMPLES,
) -> Synthesised:
    """Score the unconditional synthesis of a generator, and its variations of real images.

    Parameters
    ----------
    generator
        Its card supports synthesize. Its requests carry place, date and pixel size of the real windows in turn.
    slots
        Common names of its bands.
    real
        Windows that the images are compared with.
    train
        Windows that the generator was trained on; if empty, distances to them are left out.
    seed
        Seed of the images.
    progress
        Advances by one per request.
    samples
        Number of unconditional images, and of variations.
    """
    shared = np.flatnonzero(np.all([np.isfinite(w.values).all(axis=(1, 2)) for w in real], axis=0))
    result = Synthesised()
    if not shared.size:
        result.skipped["synthesis"] = "the files have no band in common"
    if not real:
        result.skipped["synthesis"] = f"the files have no window of {WINDOW_PX} x {WINDOW_PX} pixels"
    if result.skipped:
        return result
    sources = [real[index % len(real)] for index in range(samples)]
    comparison = _Comparison(slots, shared, real, train)
    result.figures += comparison.real_figures()
    for task, strength in (("synthesis", 1.0), ("variations", STRENGTH)):
        requests = [
            _request(generator, window, strength, seed=seed, member=member)
            for member, window in enumerate(sources)
        ]
        try:
            results = answers(generator, requests, progress=progress)
        except EoaugError as error:
            result.skipped[task] = error.problem
            continue
        images = _in_reflectance(results, requests, generator)
        result.figures += comparison.figures(task, generator.card.name, sources, images)
        texture = Classical().generate(requests)[:, 0]
        baseline = _in_reflectance(texture, requests, generator)
        result.figures += comparison.figures(task, "classical texture", sources, baseline)
        if task == "synthesis":
            result.sheets.append(Sheet(title="synthesis", text="Unconditional synthesis.", images=images))
        else:
            pairs = [x for w, image in zip(sources, images, strict=True) for x in (w.values, image)]
            text = f"Real windows, each followed by its variation with denoising strength {STRENGTH:g}."
            result.sheets.append(
                Sheet(title="variations", text=text, images=pairs[: 2 * len(real)][:samples])
            )
    return result


class _Comparison:
    """Compares sets of images with real windows."""

    def __init__(
        self,
        slots: Sequence[str],
        shared: NDArray[np.intp],
        real: Sequence[RealImage],
        train: Sequence[RealImage],
    ) -> None:
        self.slots, self.shared, self.real = slots, shared, real
        # Files with some of the bands count in the band statistics, but have no distance to an image.
        self.train_statistics = _statistics(train)
        self.train = train = [w for w in train if np.isfinite(w.values[shared]).all()]
        self.places = len({w.place for w in real})
        raw = np.stack([features(w.values[shared]) for w in real])
        self.centre, self.unit = raw.mean(axis=0), raw.std(axis=0) + 1e-6
        self.features = self._standard(raw)
        if train:
            self.trained = np.stack([w.values[shared].ravel() for w in train]).astype(np.float32)
            self.trained_features = self._encoded([w.values for w in train])

    def real_figures(self) -> Iterator[Figure]:
        """Yield the figures of real windows, the reference for generated ones."""
        if not self.train:
            return
        method = "real windows, against training"
        images = [w.values for w in self.real]
        yield self._figure("synthesis", method, "kid", self._kid(self._evenly_trained()), len(images))
        for metric, value in self._nearest(images).items():
            yield self._figure("synthesis", method, metric, value, len(images))
        yield from self._patterns("synthesis", "real windows", images)

    def figures(
        self, task: str, method: str, sources: Sequence[RealImage], images: Sequence[FloatArray]
    ) -> Iterator[Figure]:
        """Yield the figures of generated images, shape (C, H, W) each, reflectance; NaN for absent bands.

        Every place has the same weight in the statistics of variations; ``sources`` gives the place of each image.
        Unconditional images have no place and the same weight each.
        """
        yield self._figure(task, method, "kid", self._kid(self._encoded(images)), len(images))
        if self.train:
            for metric, value in self._nearest(images).items():
                yield self._figure(task, method, metric, value, len(images))
        yield from self._patterns(task, method, images)
        generated = [
            replace(
                window,
                place="" if task == "synthesis" else window.place,
                values=np.asarray(image, np.float32),
            )
            for window, image in zip(sources, images, strict=True)
        ]
        ours, data = _statistics(generated), _statistics(self.real)
        for index, (mean, std) in ours.items():
            label = f"{method}, {self.slots[index]}"
            for suffix, other in (("", data), ("_trained", self.train_statistics)):
                if index in other:
                    ratios = {"mean": mean / other[index][0], "std": std / other[index][1]}
                    for metric, value in ratios.items():
                        yield self._figure(f"{task}, bands", label, metric + suffix, value, len(images))

    def _figure(self, task: str, method: str, metric: str, value: float, windows: int) -> Figure:
        nan = float("nan")
        return Figure(task=task, method=method, metric=metric, value=float(value), low=nan, high=nan,
                      windows=windows, places=self.places)  # fmt: skip

    def _patterns(self, task: str, method: str, images: Sequence[FloatArray]) -> Iterator[Figure]:
        for period in (2, 4, 8):
            logs = [np.log(metrics.pattern_ratio(image[self.shared], period_px=period)) for image in images]
            value = float(np.exp(np.mean(logs)))
            yield self._figure(task, method, f"pattern_{period}", value, len(images))

    def _standard(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((raw - self.centre) / self.unit)

    def _encoded(self, images: Sequence[FloatArray]) -> NDArray[np.float64]:
        return self._standard(np.stack([features(image[self.shared]) for image in images]))

    def _kid(self, other: NDArray[np.float64]) -> float:
        return metrics.kernel_distance(other, self.features)

    def _evenly_trained(self) -> NDArray[np.float64]:
        by_place: dict[str, list[int]] = defaultdict(list)
        for index, window in enumerate(self.train):
            by_place[window.place].append(index)
        chosen = [rows[i] for rows in by_place.values() for i in evenly(len(rows), _MAX_PER_PLACE)]
        return self.trained_features[chosen]

    def _nearest(self, images: Sequence[FloatArray]) -> dict[str, float]:
        """Return distances to the nearest training window."""
        encoded = self._encoded(images)
        nearest = np.stack([((self.trained_features - row) ** 2).mean(axis=1).min() for row in encoded])
        closest = np.sqrt([_least_square(image[self.shared], self.trained) for image in images])
        return {
            "nearest_feature": float(np.median(np.sqrt(nearest))),
            "nearest_pixel": float(np.median(closest)),
            "closest_pixel": float(closest.min()),
        }


def _least_square(image: FloatArray, others: NDArray[np.float32]) -> float:
    """Return the least mean square difference over the eight rotations and reflections of an image."""
    square = np.einsum("nd,nd->n", others, others, dtype=np.float64)
    least = np.inf
    for mirrored in (image, image[:, :, ::-1]):
        for turns in range(4):
            flat = np.rot90(mirrored, turns, axes=(1, 2)).reshape(-1).astype(np.float32)
            total = square + float(flat.astype(np.float64) @ flat) - 2.0 * (others @ flat)
            least = min(least, float(total.min()) / flat.size)
    return max(least, 0.0)


def _statistics(windows: Sequence[RealImage]) -> dict[int, tuple[float, float]]:
    """Return mean and standard deviation by band, every place with the same weight."""
    moments: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for window in windows:
        for index, plane in enumerate(window.values):
            if np.isfinite(plane).all():
                exact = plane.astype(np.float64)
                moments[index][window.place].append((float(exact.mean()), float((exact**2).mean())))
    statistics = {}
    for index, by_place in sorted(moments.items()):
        first, second = np.mean([np.mean(of_windows, axis=0) for of_windows in by_place.values()], axis=0)
        statistics[index] = (float(first), float(np.sqrt(max(second - first**2, 0.0))))
    return statistics


def _in_reflectance(
    images: Iterable[FloatArray], requests: Sequence[Request], generator: Generator
) -> list[FloatArray]:
    """Return images in reflectance, NaN for bands that were not requested."""
    return [
        np.where(request.fill[0], reflectance(image, generator.card), np.nan)
        for image, request in zip(images, requests, strict=True)
    ]


def _request(generator: Generator, window: RealImage, strength: float, *, seed: int, member: int) -> Request:
    """Return the request of an unconditional image, or of a variation of a real window if ``strength`` < 1."""
    card = generator.card
    values = model_units(window.values[None], card)
    present = np.isfinite(values)
    start = np.where(present, values, np.float32(0))
    request = Request(
        values=np.zeros_like(start),
        known=np.zeros_like(present),
        fill=np.ones_like(present),
        times=np.array([window.time], np.int64),
        metadata=window.metadata[None],
        # Far apart, so that no two images share noise.
        origin=(4 * WINDOW_PX * member, 0),
        seed=seed,
        member=member,
    )
    if strength == 1.0:
        return request
    return replace(request, values=start, known=present, fill=present, strength=strength)
