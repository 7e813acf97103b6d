"""Windows of landscapes: what the network that draws land from nothing is trained on.

Imports the ground, the generators' numpy modules and this package's samples. A window is log reflectance around
the level of its scene, in units of the scene's spread: the network learns landforms, and a level and a
spread make them bright or dark, dull or varied (`Palettes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import SourceError
from eoaug.generators import landscape
from eoaug.generators.conditions import log_moments, to_log
from eoaug.training.samples import Cube, halve, metadata

__all__ = ["Scene", "Window", "draw", "palettes", "scenes"]

_LEAST_CLEAR = 0.97
_DRAWS = 500
_MOST = 6.0
"""Limit of a window's values, in spreads."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One cube on one date."""

    place: str
    """The cube's name, without its scale."""
    values: NDArray[np.float32]
    """Shape (C, H, W), log reflectance (`conditions.to_log`); NaN where missing or cloudy."""
    palette: NDArray[np.float64]
    """Shape (2 C,): level and log of the spread per band; NaN for absent bands."""
    calibrated: bool
    gsd_m: float
    """Pixel size of ``values``."""
    metadata: NDArray[np.float64]
    """Shape (7,)."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Shape (C,), True for the bands that there are."""
        return np.isfinite(self.palette[: len(self.values)])


@dataclass(frozen=True, eq=False)
class Window:
    """One training sample."""

    values: NDArray[np.float32]
    """Shape (C, N, N), spreads around the level; 0 for absent bands."""
    measured: NDArray[np.bool_]
    """The same shape."""
    known: NDArray[np.bool_]
    """Shape (N, N), True where the network is told."""
    facts: NDArray[np.float32]
    """`landscape.facts`."""
    kind: str
    """Which part of the plane it stands for (`landscape.KINDS`)."""


def scenes(
    cubes: Sequence[Cube], *, mean: Sequence[float], std: Sequence[float], window: int
) -> list[list[Scene]]:
    """Return the dates of every cube at every scale that holds a window, a list per cube and scale.

    A halved image is as sharp as its pixels allow, a native one is not: that serves only where it is sharp
    and too small to be halved.
    """
    found = []
    for cube in cubes:
        level = cube
        if not cube.sharp or min(cube.values.shape[2:]) >= 2 * window:
            level = halve(cube)
        while min(level.values.shape[2:]) >= window:
            dates = [
                scene
                for date in range(len(level.values))
                if (scene := _scene(cube.name, level, date, mean, std)) is not None
            ]
            if dates:
                found.append(dates)
            level = halve(level)
    return found


def _scene(place: str, cube: Cube, date: int, mean: Sequence[float], std: Sequence[float]) -> Scene | None:
    units = (cube.values[date] - np.asarray(mean)[:, None, None]) / np.asarray(std)[:, None, None]
    values = np.where(cube.clear[date], units, np.nan)
    there = np.isfinite(values)
    if there[cube.bands].mean() < 0.2:
        return None
    logs = np.where(there, to_log(np.nan_to_num(values), mean, std), np.float32(np.nan))
    palette = np.full((2, len(logs)), np.nan)
    palette[0, cube.bands] = np.nanmean(logs[cube.bands], axis=(1, 2))
    palette[1, cube.bands] = np.log(np.nanstd(logs[cube.bands], axis=(1, 2)) + 0.05)
    return Scene(
        place, logs.astype(np.float32), palette.reshape(-1), cube.calibrated, cube.gsd_m,
        metadata(cube, np.array([date]))[0],
    )  # fmt: skip


def draw(rng: np.random.Generator, groups: Sequence[Sequence[Scene]], *, window: int, context: int) -> Window:
    """Return one sample: large groups more often, by the root of their size.

    Half the samples do not know where and when they are, and some lack a band that their cube has.
    """
    weight = np.sqrt([sum(scene.values[0].size for scene in group) for group in groups])
    for _ in range(_DRAWS):
        group = groups[int(rng.choice(len(groups), p=weight / weight.sum()))]
        scene = group[int(rng.integers(len(group)))]
        H, W = scene.values.shape[1:]
        top, left = int(rng.integers(H - window + 1)), int(rng.integers(W - window + 1))
        part = scene.values[:, top : top + window, left : left + window]
        if np.isfinite(part[scene.present]).mean() >= _LEAST_CLEAR:
            break
    else:
        raise SourceError(
            f"no clear window of {window} pixels in {_DRAWS} draws", "add cubes with clear land"
        )
    present = scene.present.copy()
    if rng.random() < 0.15:
        drop = int(rng.choice(np.flatnonzero(present)))
        present[drop] = present.sum() == 1
    C = len(part)
    level, spread = scene.palette[:C, None, None], np.exp(scene.palette[C:, None, None])
    measured = np.isfinite(part) & present[:, None, None]
    values = np.where(measured, np.clip((np.nan_to_num(part) - level) / spread, -_MOST, _MOST), 0)
    kind = str(rng.choice(list(landscape.KINDS), p=list(landscape.KINDS.values())))
    told = scene.metadata.copy()
    if rng.random() < 0.5:
        told[[0, 1, 3, 4, 5, 6]] = np.nan
    palette = np.where(np.tile(present, 2), scene.palette, np.nan)
    return Window(
        values=values.astype(np.float32),
        measured=measured,
        known=landscape.known(kind, window, context),
        facts=landscape.facts(palette, scene.gsd_m, told),
        kind=kind,
    )


def palettes(
    groups: Sequence[Sequence[Scene]], *, mean: Sequence[float], std: Sequence[float]
) -> Mapping[str, NDArray[np.float64]]:
    """Return the Gaussian of palettes, every place counting alike, with the bands' moments of the card.

    A few dark or bright scenes count for much in the logarithm's own moments. 8-bit cubes without calibration
    know no reflectance and are left out.
    """
    places: dict[str, list[NDArray[np.float64]]] = {}
    for group in groups:
        for scene in group:
            if scene.calibrated:
                places.setdefault(scene.place, []).append(scene.palette)
    rows = np.concatenate(list(places.values()))
    weight = np.concatenate([np.full(len(rows), 1 / len(rows)) for rows in places.values()])[:, None]
    there = np.isfinite(rows)
    centre = np.nansum(weight * rows, 0) / (weight * there).sum(0)
    off = np.where(there, rows - centre, 0)
    pairs = np.maximum((weight * there).T @ there, 1e-9)
    covariance = (weight * off).T @ off / pairs
    variance, axes = np.linalg.eigh(covariance)
    covariance = (axes * np.maximum(variance, 1e-6)) @ axes.T
    # Between scenes and within them as found; both stretched alike to the card's spread.
    C = len(mean)
    between, within = np.diag(covariance)[:C], np.exp(2 * centre[C:] + 2 * np.diag(covariance)[C:])
    middle, spread = log_moments(mean, std)
    gain = spread / np.sqrt(between + within)
    stretch = np.concatenate([gain, np.ones(C)])
    covariance = covariance * np.outer(stretch, stretch)
    variance, axes = np.linalg.eigh(covariance)
    return {
        "mean": np.concatenate([middle, centre[C:] + np.log(gain)]),
        "root": (axes * np.sqrt(np.maximum(variance, 0))) @ axes.T,
    }
