"""Units of the land that the network draws: log reflectance of blue, green and red, standardised by class.

Numpy. Sea varies a hundred times less than a town. In units of its class every chip has a similar contrast, so the
network learns the structure of dark and flat classes as well. Units are a function of the class of a pixel alone: no
statistic of an image enters, and windows of one plane agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.arrays import Float32Array

__all__ = ["BANDS", "TONES", "LandUnits", "conditions"]


BANDS = 3
"""Blue, green and red."""
TONES = 4
"""Length of a tone: mean of the three components of a window, and its contrast."""
_AXES = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
"""Brightness, red against blue, and green against both: nearly the principal axes of log reflectance in all classes."""
_LEAST_SHARE = 0.35
"""Least unit of a component relative to that of brightness. Smaller differences of colour are noise and compression."""
_LEAST_UNIT = 0.02
_LEAST_CONTRAST = 0.05


@dataclass(frozen=True, eq=False)
class LandUnits:
    """Statistics of K classes by which log reflectance is standardised."""

    mean: NDArray[np.float64]
    """Shape (K, 3): mean of the components."""
    unit: NDArray[np.float64]
    """Shape (K, 3): one unit of the components."""
    contrast: NDArray[np.float64]
    """Shape (K, 2): mean and standard deviation of the log contrast of windows."""
    tones: NDArray[np.float64]
    """Shape (K, m, 4): tones of m real windows of each class (`tone`)."""

    @classmethod
    def fit(cls, logs: NDArray[np.floating], classes: NDArray[np.intp], *, kept: int) -> LandUnits:
        """Return the statistics of real windows.

        Parameters
        ----------
        logs
            Shape (n, 3, H, W), log reflectance (`features.to_log`).
        classes
            Shape (n,), 0 to K - 1; each class has windows.
        kept
            Tones to keep per class: evenly spread over its windows from dark to bright.
        """
        groups = [_components(np.asarray(logs[classes == k], np.float64)) for k in range(classes.max() + 1)]
        mean = np.stack([group.mean(axis=(0, 2, 3)) for group in groups])
        spread = np.stack([group.std(axis=(0, 2, 3)) for group in groups])
        unit = np.maximum(spread, np.maximum(_LEAST_SHARE * spread[:, :1], _LEAST_UNIT))
        scaled = [
            (g - m[:, None, None]) / u[:, None, None] for g, m, u in zip(groups, mean, unit, strict=True)
        ]
        raw = [_log_contrast(group) for group in scaled]
        contrast = np.array([(values.mean(), max(values.std(), 1e-3)) for values in raw])
        tones = []
        for group, values, (centre, width) in zip(scaled, raw, contrast, strict=True):
            own = np.column_stack([group.mean(axis=(2, 3)), (values - centre) / width])
            order = np.argsort(own[:, 0], kind="stable")
            tones.append(own[order[((np.arange(kept) + 0.5) / kept * len(own)).astype(np.intp)]])
        return cls(mean, unit, contrast, np.stack(tones))

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> LandUnits:
        """Return the statistics that `tensors` wrote."""
        return cls(
            **{name: tensors[name].astype(np.float64) for name in ("mean", "unit", "contrast", "tones")}
        )

    def tensors(self) -> dict[str, Float32Array]:
        """Return the statistics as tensors to save."""
        parts = {"mean": self.mean, "unit": self.unit, "contrast": self.contrast, "tones": self.tones}
        return {name: part.astype(np.float32) for name, part in parts.items()}

    def to_units(self, logs: NDArray[np.floating], classes: NDArray[np.intp]) -> Float32Array:
        """Return units of log reflectance, shape (..., 3, H, W); ``classes`` has shape (..., H, W) or (..., 1, 1)."""
        mean, unit = self._maps(classes)
        return ((_components(np.asarray(logs, np.float64)) - mean) / unit).astype(np.float32)

    def from_units(self, units: NDArray[np.floating], classes: NDArray[np.intp]) -> Float32Array:
        """Return log reflectance, the inverse of `to_units`."""
        mean, unit = self._maps(classes)
        components = np.asarray(units, np.float64) * unit + mean
        return _rotated(_AXES.T, components).astype(np.float32)

    def tone(self, units: NDArray[np.floating], classes: NDArray[np.intp]) -> Float32Array:
        """Return the tone of windows of one class each, shape (n, 4).

        The means of the three components, and the log of the contrast in standard deviations around the mean of the class.

        Parameters
        ----------
        units
            Shape (n, 3, H, W).
        classes
            Shape (n,).
        """
        centre, width = self.contrast[classes].T
        own = (_log_contrast(units) - centre) / width
        return np.column_stack([units.mean(axis=(2, 3)), own]).astype(np.float32)

    def _maps(self, classes: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.moveaxis(self.mean[classes], -1, -3), np.moveaxis(self.unit[classes], -1, -3)


def conditions(
    classes: NDArray[np.floating],
    tone: NDArray[np.floating] | None,
    values: Float32Array,
    known: NDArray[np.bool_],
) -> Float32Array:
    """Return the conditioning image of the land network, shape (3 + 1 + K + 4 + 1, H, W).

    Parameters
    ----------
    classes
        Shape (K, H, W): share of each class in a cell; all 0: no class.
    tone
        Shape (4, H, W); None: not given.
    values, known
        Shape (3, H, W) and (H, W): units that neighbouring windows have already, and where.
    """
    size = known.shape
    toned = np.zeros((TONES + 1, *size), np.float32)
    if tone is not None:
        toned[:TONES], toned[TONES] = tone, 1
    return np.concatenate([np.where(known, values, 0), known[None], classes, toned]).astype(np.float32)


def _components(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    return _rotated(_AXES, logs)


def _rotated(axes: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a 3 x 3 matrix times the bands of an image, shape (..., 3, H, W), in a fixed order of sums."""
    rows = [sum(axes[i, j] * image[..., j, :, :] for j in range(BANDS)) for i in range(BANDS)]
    return np.stack(rows, axis=-3)


def _log_contrast(units: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the log of the standard deviation of brightness within windows, shape (n,)."""
    return np.asarray(np.log(np.asarray(units[:, 0], np.float64).std(axis=(1, 2)) + _LEAST_CONTRAST))
