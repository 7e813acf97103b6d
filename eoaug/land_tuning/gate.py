"""Judges tuned land by windows that were held back: a classifier of real windows names drawn ones, and colours are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.evaluate.land import FeatureClassifier, ImageSet, described
from eoaug.generators.embedded.land import FLOOR, Land, LandPlane
from eoaug.land_tuning.fit import LandFit
from eoaug.land_tuning.windows import LandWindow, LandWindows
from eoaug.raster.arrays import Float32Array

__all__ = ["Compared", "LandGate", "draw_class"]


_NAMED = 0.5
"""Share of the real windows' rate of being named right that drawn images must reach."""
_COLOURS = 2.0
"""Distance of colours, in that of real windows to tune on from those held back, that is near enough in any case."""
_FURTHER = ("nir", "nir08", "swir16", "rededge071")
"""Bands of which the classifier sees two in addition to the painted ones: twelve would tell it little more."""
_LEVELS = (np.arange(64) + 0.5) / 64
"""Quantiles at which distributions of colours are compared."""


@dataclass(frozen=True)
class Compared:
    """One figure of a class: of images that the shipped statistics draw, of tuned ones, and of real windows."""

    before: float
    """NaN where the shipped statistics do not know a band of the set."""
    after: float
    real: float


def draw_class(
    land: Land, k: int, *, count: int, gsd_m: float, edge: int, bands: Sequence[str], seed: int
) -> Float32Array:
    """Return images of one kind of land, shape (count, C, edge, edge), reflectance: what `synthesize` draws for its prompt.

    Parameters
    ----------
    land
        What draws.
    k
        Number of the kind.
    count, edge, bands
        Of the images.
    gsd_m
        Pixel size in metres; NaN: not known.
    seed
        Of the first image; the others have the seeds that follow.
    """
    shares = tuple(float(i == k) for i in range(len(land.legend.kinds)))
    planes = (LandPlane(seed + number, 0, 0, shares, gsd_m) for number in range(count))
    return np.stack([land.pixels(plane, (0, 0), (edge, edge), bands=bands) for plane in planes])


class LandGate:
    """Compares drawn land with windows of a set.

    Parameters
    ----------
    windows
        Of the set.
    fit
        What was fitted to them.
    gsd_m
        Pixel size of the images that are drawn; NaN: not known.
    images
        Images per class.
    seed
        Of images and classifier.
    """

    def __init__(self, windows: LandWindows, fit: LandFit, *, gsd_m: float, images: int, seed: int) -> None:
        self._windows, self._gsd_m, self._images, self._seed = windows, gsd_m, images, seed
        more = [name for name in _FURTHER if name in fit.further][:2]
        self._judged = [windows.bands.index(name) for name in (*fit.painted, *more)]
        self.names = [name for name, own in windows.tuned.items() if own]
        # Stored numbers end somewhere: being brighter must not give drawn images away.
        self._largest = np.max(
            [one.values.max(axis=(1, 2)) for own in windows.tuned.values() for one in own], axis=0
        )
        train = self._described(
            np.concatenate([_stacked(windows.tuned[name]) for name in self.names]),
            [k for k, name in enumerate(self.names) for _ in windows.tuned[name]],
        )
        self._centre, self._unit = train.features.mean(axis=0), train.features.std(axis=0) + 1e-6
        rows = self._standard(train)
        self._classifier = FeatureClassifier(rows, train.classes, len(self.names), seed)

    def drawn(self, land: Land, k: int) -> Float32Array:
        """Return images of a kind in the bands of the set, shape (n, C, edge, edge)."""
        windows = self._windows
        images = draw_class(
            land,
            k,
            count=self._images,
            gsd_m=self._gsd_m,
            edge=windows.edge,
            bands=windows.bands,
            seed=self._seed,
        )
        return np.minimum(images, self._largest[:, None, None])

    def named(self, name: str, images: Float32Array) -> float:
        """Return the share of images of a class that the classifier names so; NaN where a band is missing."""
        if np.isnan(images[:, self._judged]).any():
            return float("nan")
        k = self.names.index(name)
        found = self._classifier.classes(self._standard(self._described(images, [k] * len(images))))
        return float((found == k).mean())

    def compare(self, name: str, before: Float32Array, after: Float32Array) -> tuple[Compared, Compared]:
        """Return how often images of a class are named so, and how far their colours are from windows held back.

        The distance is the mean difference of quantiles of log (reflectance + 0.02), over the bands of the set.
        """
        held = _stacked(self._windows.held[name])
        inside = np.stack([one.inside for one in self._windows.held[name]])
        tuned = self._windows.tuned[name]
        theirs = _quantiles(held, inside)
        ours = _quantiles(_stacked(tuned), np.stack([one.inside for one in tuned]))
        far = {
            key: float(np.abs(one - theirs).mean())
            for key, one in (("before", _quantiles(before)), ("after", _quantiles(after)), ("real", ours))
        }
        named = {"before": before, "after": after, "real": held}
        return Compared(**{key: self.named(name, images) for key, images in named.items()}), Compared(**far)

    def reason_against(self, named: Compared, colours: Compared) -> str:
        """Return why a class does not pass; empty for one that passes."""
        needed = max(_NAMED * named.real, 1 / len(self.names))
        if named.after < needed:
            return f"{named.after:.0%} of its images are named as asked, {needed:.0%} are needed"
        known = colours.before if np.isfinite(colours.before) else np.inf
        if colours.after > max(known, _COLOURS * colours.real):
            return f"its colours are {colours.after:.3f} from real ones, with the shipped statistics {colours.before:.3f}"
        return ""

    def _described(self, images: Float32Array, classes: Sequence[int]) -> ImageSet:
        return described(images[:, self._judged], classes)

    def _standard(self, images: ImageSet) -> NDArray[np.float64]:
        return np.asarray((images.features - self._centre) / self._unit)


def _stacked(windows: Sequence[LandWindow]) -> Float32Array:
    return np.stack([one.values for one in windows])


def _quantiles(images: Float32Array, inside: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return quantiles of the logarithms of the pixels of images, shape (C, 64)."""
    pixels = np.moveaxis(images, 1, 0).reshape(images.shape[1], -1)
    if inside is not None:
        pixels = pixels[:, inside.ravel()]
    return np.quantile(np.log(np.maximum(pixels, 0).astype(np.float64) + FLOOR), _LEVELS, axis=1).T
