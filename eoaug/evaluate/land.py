"""Land by class compared with real chips of these classes: edges and lines first.

Every figure of drawn images has a yardstick: the same figure of real images against other real images. Single figures
deceive. Textures of the right colours are named as asked and have near-real features, but no lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from eoaug.datasets.eurosat import BANDS, CHIP_PX, CLASSES, GSD_M, EurosatChips, read_eurosat, surface
from eoaug.errors import GeneratorError, ParameterError, SourceError
from eoaug.evaluate.structure import STATISTICS, structure
from eoaug.evaluate.synthesis import features
from eoaug.evaluate.table import Figure
from eoaug.generators.base import Generator
from eoaug.progress import Progress, track
from eoaug.raster.arrays import Float32Array, FloatArray
from eoaug.training.contact_sheet import write_sheet
from eoaug.verbs.synthesize import synthesize

__all__ = ["FeatureClassifier", "ImageSet", "LandEvaluation", "LandJudge", "described", "evaluate_land"]


_SHOWN = 10
"""Images per class on a sheet."""
_BRIGHTEST = 0.2
"""Reflectance that is white on a sheet."""
_LARGEST = surface(np.full((3, 1, 1), 0.275))[:, 0, 0]
"""Reflectance of the largest grey level of a chip."""
_REAL, _TRAIN = 60, 150
"""Real chips per class to compare with, and to learn from."""


_DRAWS = 40
"""Pairs of real draws by which the yardstick of a distribution is found."""
_NEAREST = 5
"""Neighbours that reach how far a set extends (Kynkaanniemi et al. 2019, arXiv:1904.06991)."""
_WAVES = 1500
"""Random Fourier features of the classifier (Rahimi & Recht 2007)."""
_RIDGE = 3.0
_QUANTILES = (5, 25, 75, 95)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of classes, described: every row is one image."""

    classes: NDArray[np.intp]
    """Shape (n,)."""
    images: Float32Array
    """Shape (n, 3, H, W), reflectance of blue, green and red."""
    structures: NDArray[np.float64]
    """Shape (n, `STATISTICS`)."""
    features: NDArray[np.float64]
    """Shape (n, m): filter responses (`synthesis.features`) and quantiles of the bands."""

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, rows: NDArray[np.intp]) -> ImageSet:
        """Return some of the images."""
        return ImageSet(self.classes[rows], self.images[rows], self.structures[rows], self.features[rows])


def described(images: FloatArray, classes: Sequence[int]) -> ImageSet:
    """Return images of classes with their statistics and features; ``images`` has shape (n, 3, H, W), reflectance."""
    levels = np.moveaxis(np.percentile(images, _QUANTILES, axis=(2, 3)), 0, -1).reshape(len(images), -1)
    return ImageSet(
        np.asarray(classes, np.intp),
        np.asarray(images, np.float32),
        np.array([astuple(structure(image)) for image in images]),
        np.column_stack([[features(image) for image in images], np.log(np.maximum(levels, 0) + 0.02)]),
    )


class LandJudge:
    """Compares images drawn by class with real ones.

    Parameters
    ----------
    names
        Of the classes.
    real
        Images of places that the generator was not trained on, all classes.
    train
        Images of the training data; the classifier learns from them.
    seed
        Of the draws.
    """

    def __init__(self, names: Sequence[str], real: ImageSet, train: ImageSet, *, seed: int) -> None:
        if missing := [name for k, name in enumerate(names) if not (real.classes == k).sum() > 1]:
            raise SourceError(
                f"land by class: fewer than two real images of {', '.join(missing)}", "give more chips"
            )
        self.names, self.real, self.train, self._seed = tuple(names), real, train, seed
        self._centre, self._unit = train.features.mean(axis=0), train.features.std(axis=0) + 1e-6
        self._encoded = {id(images): self._standard(images) for images in (real, train)}
        self._classifier = FeatureClassifier(self._encoded[id(train)], train.classes, len(names), seed)

    def figures(self, method: str, made: ImageSet) -> Iterator[Figure]:
        """Yield the figures of a set of images that were drawn by class, and of as many real ones in their place.

        Parameters
        ----------
        method
            Name of what drew them.
        made
            Images of one or more of the classes.
        """
        rng = np.random.default_rng(self._seed)
        for k in np.unique(made.classes).tolist():
            yield from self._structures(k, method, made, rng)
        control = self._control(made, rng)
        rest = self.real.take(np.setdiff1d(np.arange(len(self.real)), control))
        for label, images in ((method, made), ("real, another draw", self.real.take(control))):
            yield from self._named(label, images)
            yield from self._spread(label, images, rest)

    def kept(self, method: str, before: ImageSet, after: ImageSet) -> Iterator[Figure]:
        """Yield how far real images and their variations, in the same order, are named alike, and the difference in reflectance."""
        names = [self._classifier.classes(self._standard(images)) for images in (before, after)]
        yield self._figure("variation", method, "agreement", (names[0] == names[1]).mean(), len(after))
        yield self._figure("variation", method, "named", (names[1] == after.classes).mean(), len(after))
        yield self._figure("variation", "real", "named", (names[0] == before.classes).mean(), len(before))
        rms = float(np.sqrt(np.mean((after.images - before.images) ** 2, dtype=np.float64)))
        yield self._figure("variation", method, "rms", rms, len(after))

    def _structures(self, k: int, method: str, made: ImageSet, rng: np.random.Generator) -> Iterator[Figure]:
        """Yield how far each statistic of a class is from that of real images, in units of the yardstick."""
        own = made.structures[made.classes == k]
        real = self.real.structures[self.real.classes == k]
        unit = real.std(axis=0) + 1e-9
        count = min(len(own), len(real) // 2)
        yardstick = []
        for _ in range(_DRAWS):
            order = rng.permutation(len(real))
            yardstick.append(_apart(real[order[:count]], real[order[count:]]) / unit)
        limit = np.quantile(yardstick, 0.95, axis=0)
        away = _apart(own, real) / unit
        task = f"land, {self.names[k]}"
        for index, name in enumerate(STATISTICS):
            yield self._figure(task, method, name, own[:, index].mean(), len(own))
            yield self._figure(task, "real", name, real[:, index].mean(), len(real))
            yield self._figure(task, method, f"{name}_distance", away[index] / limit[index], len(own))
        yield self._figure(task, method, "structures_in_range", float((away <= limit).mean()), len(own))

    def _control(self, made: ImageSet, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return real images of the same classes, as many as half of the real ones allow."""
        rows = []
        for k in np.unique(made.classes):
            own = np.flatnonzero(self.real.classes == k)
            rows.append(rng.permutation(own)[: min(int((made.classes == k).sum()), len(own) // 2)])
        return np.concatenate(rows)

    def _named(self, label: str, images: ImageSet) -> Iterator[Figure]:
        """Yield the share of the images that the classifier names as asked."""
        right = self._classifier.classes(self._standard(images)) == images.classes
        yield self._figure("land", label, "named", right.mean(), len(images))
        for k in np.unique(images.classes).tolist():
            own = images.classes == k
            yield self._figure(f"land, {self.names[k]}", label, "named", right[own].mean(), int(own.sum()))

    def _spread(self, label: str, images: ImageSet, real: ImageSet) -> Iterator[Figure]:
        """Yield precision, recall, distances within the set and to the training data, and the range of the values."""
        ours, theirs = self._standard(images), self._standard(real)
        yield self._figure("land", label, "precision", _within(ours, theirs), len(images))
        yield self._figure("land", label, "recall", _within(theirs, ours), len(images))
        inner = [
            _mean_distance(part[images.classes == k]) for part in (ours,) for k in np.unique(images.classes)
        ]
        outer = [_mean_distance(theirs[real.classes == k]) for k in np.unique(images.classes)]
        yield self._figure("land", label, "intra_set", float(np.mean(inner) / np.mean(outer)), len(images))
        nearest = cdist(ours, self._encoded[id(self.train)]).min(axis=1)
        yield self._figure("land", label, "nearest_feature", float(np.median(nearest)), len(images))
        yield self._figure("land", label, "least", float(images.images.min()), len(images))
        yield self._figure("land", label, "largest", float(images.images.max()), len(images))
        blue, _, red = images.images.mean(axis=(0, 2, 3))
        yield self._figure("land", label, "blue_over_red", float(blue / red), len(images))

    def _standard(self, images: ImageSet) -> NDArray[np.float64]:
        return np.asarray((images.features - self._centre) / self._unit)

    def _figure(self, task: str, method: str, metric: str, value: float, windows: int) -> Figure:
        nan = float("nan")
        return Figure(task=task, method=method, metric=metric, value=float(value), low=nan, high=nan,
                      windows=windows, places=windows)  # fmt: skip


class FeatureClassifier:
    """A kernel ridge on random Fourier features of standardised rows: it sees no image that a network saw as such."""

    def __init__(self, rows: NDArray[np.float64], classes: NDArray[np.intp], count: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        width = np.sqrt(2 * rows.shape[1])
        self._waves = rng.standard_normal((rows.shape[1], _WAVES)) / width
        self._phases = rng.uniform(0, 2 * np.pi, _WAVES)
        mapped = self._mapped(rows)
        targets = np.eye(count)[classes]
        self._weights = np.linalg.solve(
            mapped.T @ mapped + _RIDGE * np.eye(mapped.shape[1]), mapped.T @ targets
        )

    def classes(self, rows: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the most likely classes of rows."""
        return np.asarray((self._mapped(rows) @ self._weights).argmax(axis=1))

    def _mapped(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        waves = np.cos(rows @ self._waves + self._phases)
        return np.column_stack([waves, rows / np.sqrt(rows.shape[1]), np.ones(len(rows))])


def _apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Wasserstein distance of the distributions of every column."""
    levels = (np.arange(64) + 0.5) / 64
    return np.abs(np.quantile(first, levels, axis=0) - np.quantile(second, levels, axis=0)).mean(axis=0)


def _within(points: NDArray[np.float64], of: NDArray[np.float64]) -> float:
    """Return the share of points that lie no farther from a point of a set than its fifth-nearest neighbour there."""
    near = min(_NEAREST, len(of) - 1)
    radius = np.sort(cdist(of, of), axis=1)[:, near]
    return float((cdist(points, of) <= radius).any(axis=1).mean())


def _mean_distance(rows: NDArray[np.float64]) -> float:
    count = len(rows)
    return float(cdist(rows, rows).sum() / max(count * (count - 1), 1))


@dataclass(frozen=True, eq=False)
class LandEvaluation:
    """The result of `evaluate_land`."""

    figures: tuple[Figure, ...]
    made: ImageSet
    real: ImageSet

    def to_markdown(self) -> str:
        """Return a table per task, a row per method."""
        tasks: dict[str, dict[str, dict[str, float]]] = {}
        for figure in self.figures:
            own = tasks.setdefault(figure.task, {}).setdefault(figure.method, {})
            own[figure.metric] = figure.value
        lines = []
        for task, methods in sorted(tasks.items()):
            metrics = list(dict.fromkeys(name for row in methods.values() for name in row))
            lines += [
                f"## {task}",
                "",
                "| | " + " | ".join(metrics) + " |",
                "|---" * (len(metrics) + 1) + "|",
            ]
            for method, row in methods.items():
                cells = [f"{row[name]:.3g}" if name in row else "" for name in metrics]
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
            lines.append("")
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``land.json``, ``land.md``, and ``land.png`` and ``real.png``: ten images of each class per row."""
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        content = [asdict(figure) for figure in self.figures]
        (out / "land.json").write_text(json.dumps(content, indent=1, allow_nan=True) + "\n", encoding="utf-8")
        (out / "land.md").write_text(self.to_markdown(), encoding="utf-8")
        for name, images in (("land", self.made), ("real", self.real)):
            rows = [images.images[images.classes == k][:_SHOWN] for k in np.unique(images.classes)]
            shown = np.stack([row[: min(map(len, rows))] for row in rows])
            write_sheet(out / f"{name}.png", np.clip(shown[:, :, ::-1] / _BRIGHTEST, 0, 1))


def evaluate_land(
    generator: Generator, chips_dir: str | Path, *, images: int = 10, seed: int = 0, progress: Progress = None
) -> LandEvaluation:
    """Draw images of every class by `synthesize` with its name as prompt, and compare them with chips of EuroSAT.

    Real chips are varied, too: a classifier of real chips should name a variation as it names its start.

    Parameters
    ----------
    generator
        Its card has the condition ``prompt`` and the bands blue, green and red.
    chips_dir
        Folder with ``eurosat_rgb_train.zip``, from which the classifier learns, and ``eurosat_rgb_val.zip``.
    images
        Images per class, 2 or more, of 64 x 64 pixels of 10 m; and so many real ones are varied, if there are as many.
    seed
        Of the images and of the choice of chips.
    progress
        Whether to show a progress bar; None: after some seconds, on a terminal.
    """
    card = generator.card
    if "prompt" not in card.conditions or not set(BANDS) <= set(card.bands):
        raise GeneratorError(
            f"{card.name} draws no blue, green and red by prompt", "evaluate a generator that takes a prompt"
        )
    if images < 2:
        raise ParameterError(f"{images} images per class have no distribution", "use images=2 or more")
    folder, rng = Path(chips_dir), np.random.default_rng(seed)
    real = _chosen(read_eurosat(folder / "eurosat_rgb_val.zip"), _REAL, rng)
    train = _chosen(read_eurosat(folder / "eurosat_rgb_train.zip"), _TRAIN, rng)
    numbers = [number for number in range(len(CLASSES)) for _ in range(images)]
    edge = CHIP_PX * GSD_M
    drawn = []
    chosen = np.concatenate([np.flatnonzero(real.classes == k)[:images] for k in range(len(CLASSES))])
    total = len(numbers) + len(chosen)
    with track(total, what=f"evaluating {card.name}", unit="image", progress=progress) as bar:
        for index, number in enumerate(numbers):
            cube = synthesize(
                like=(0.0, 0.0, edge, edge), crs="EPSG:32632", resolution=GSD_M, generator=generator,
                prompt=_phrase(CLASSES[number]), seed=seed + index, progress=False,
            )  # fmt: skip
            # Chips end where their grey levels do.
            image = np.stack([np.squeeze(cube[band].values) for band in BANDS])
            drawn.append(np.minimum(image, _LARGEST[:, None, None]))
            bar.tiles(1)
        varied = []
        for row in chosen.tolist():
            varied.append(_varied(real.images[row], generator, seed + row))
            bar.tiles(1)
    made = described(np.stack(drawn), numbers)
    judge = LandJudge(CLASSES, real, train, seed=seed)
    after = described(np.stack(varied), real.classes[chosen].tolist())
    figures = *judge.figures(card.name, made), *judge.kept(card.name, real.take(chosen), after)
    return LandEvaluation(figures, made, real)


def _varied(image: Float32Array, generator: Generator, seed: int) -> Float32Array:
    """Return a variation of a chip, shape (3, H, W), at the default strength."""
    height, width = image.shape[1:]
    place = {"y": -GSD_M * np.arange(height), "x": GSD_M * np.arange(width)}
    bands = {
        band: xr.DataArray(values, place, ("y", "x"), attrs={"common_name": band, "units": "1"})
        for band, values in zip(BANDS, image, strict=True)
    }
    made = synthesize(xr.Dataset(bands), generator=generator, seed=seed, progress=False)
    varied: Float32Array = np.minimum(
        np.stack([made[band].values for band in BANDS]), _LARGEST[:, None, None]
    )
    return varied


def _chosen(chips: EurosatChips, count: int, rng: np.random.Generator) -> ImageSet:
    rows = [rng.permutation(np.flatnonzero(chips.classes == k))[:count] for k in range(len(CLASSES))]
    chosen = np.concatenate(rows)
    return described(surface(chips.reflectance(chosen)), chips.classes[chosen].tolist())


def _phrase(name: str) -> str:
    """Return the name of a class of EuroSAT as a prompt, e.g. ``annual_crop``."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
