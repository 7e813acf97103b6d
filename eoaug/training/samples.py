"""Training samples: a window of a training cube becomes a `Sample`, a request with its true answer.

A sample's request is exactly what the engine would write, so that networks are trained on what they get in use.
Windows lie at random places and on dates that are nearly free of cloud. Samplers of xbatcher (a fixed grid) and
torchgeo (an index in a reference system, which some cubes lack) do not look at cloud masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.datasets.training_cubes import TrainingCube, metadata
from eoaug.errors import ParameterError, SourceError
from eoaug.generators.base import Request
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.raster.masks import random_gap
from eoaug.raster.sensor import Sensor

__all__ = ["MIN_CLEAR", "SAMPLE_KINDS", "Sample", "SampleKind", "draw"]


SampleKind = Literal["holes", "dates", "x2", "x4", "x8", "free"]

SAMPLE_KINDS: tuple[SampleKind, ...] = ("holes", "dates", "x2", "x4", "x8", "free")
"""What a sample requests: masked pixels, a whole date from others, detail below a pixel 2, 4 or 8 times coarser,
unconditional synthesis."""

MIN_CLEAR = 0.95
"""Smallest share of a window that must be free of cloud and cloud shadow (as in data/README.md)."""
_ATTEMPTS = 200
"""Windows that are tried before a cube set counts as unusable."""
_MIN_CONTEXT_CLEAR = 0.3
"""Share of a window that must be measured and clear on a context date."""
_NEAREST_DATES = 10
"""Context dates come from so many nearest ones."""
_FEWER_BANDS = 0.15
"""Probability that one band is removed, so that networks are trained on every combination of bands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A request and its true answer."""

    request: Request
    """As the engine writes it: model units, absent bands unknown."""
    truth: NDArray[np.float32]
    """Shape (C, H, W), model units, the target date; 0 where not measured."""
    measured: NDArray[np.bool_]
    """Shape (C, H, W), True where ``truth`` is a clear measurement; only these pixels enter a loss."""
    kind: SampleKind
    source: str
    """`TrainingCube.name`."""
    calibrated: bool
    """`TrainingCube.calibrated`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _CubeWindow:
    """A location in a cube, with its target and context dates."""

    cube: TrainingCube
    dates: NDArray[np.intp]
    """Ascending indices of the target and the context dates."""
    rows: slice
    cols: slice
    target: int
    """Position of the target in ``dates``."""

    @property
    def metadata(self) -> NDArray[np.float64]:
        """Shape (dates, 7), as in `Request`."""
        return metadata(self.cube, self.dates)


def draw(
    rng: np.random.Generator,
    cubes: Sequence[TrainingCube],
    kind: SampleKind,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    tile_px: int = 64,
    context: int = 2,
) -> Sample:
    """Draw one sample from the cubes that can provide its kind.

    Parameters
    ----------
    rng
        The only source of randomness.
    cubes
        Cubes to sample; a cube's probability is proportional to the square root of its pixels, so that one long
        series of one place does not outweigh all others.
    kind
        One of `SAMPLE_KINDS`.
    mean, std
        Reflectance at model unit 0, and per model unit, by slot.
    tile_px
        Window edge in pixels.
    context
        Largest number of context dates.

    Raises
    ------
    ParameterError
        ``kind`` is unknown.
    SourceError
        No cube can provide the kind, or no usable window was found.
    """
    if kind not in SAMPLE_KINDS:
        raise ParameterError(f"drawing a sample: kind is {kind!r}", f"use one of {', '.join(SAMPLE_KINDS)}")
    # The order of random numbers is part of the shipped weights: see `make train-embedded`.
    dates = 0
    factor = int(kind[1:]) if kind.startswith("x") else 1
    suitable = _suitable(cubes, kind)
    if kind == "dates" or (kind == "holes" and rng.random() < 0.5):
        dates = int(rng.integers(1, context + 1))
    window = _draw_window(rng, suitable, kind, tile_px, dates)
    cube, target = window.cube, window.target
    centre = np.asarray(mean, np.float32)[:, None, None]
    unit = np.asarray(std, np.float32)[:, None, None]
    values = (cube.values[window.dates][:, :, window.rows, window.cols] - centre) / unit
    measured = np.isfinite(values) & cube.clear[window.dates][:, None, window.rows, window.cols]
    values = np.where(measured, values, 0).astype(np.float32)
    present = cube.bands.copy()
    if kind in ("free", "holes", "dates") and rng.random() < _FEWER_BANDS:
        removed = int(rng.choice(np.flatnonzero(present)))
        present[removed] = present.sum() == 1
    measured = measured & present[:, None, None]
    known, fill = measured.copy(), np.zeros_like(measured)
    fill[target] = present[:, None, None]
    gap = random_gap(rng, (tile_px, tile_px)) if kind == "holes" else np.ones((tile_px, tile_px), bool)
    known[target] &= ~gap
    fill[target] &= gap | ~known[target]
    sensor = coarse = None
    if factor > 1:
        # An ideal detector, or a softer one (MTF at Nyquist).
        sensor = Sensor(factor=factor, mtf=None if rng.random() < 0.5 else (float(rng.uniform(0.15, 0.45)),))
        coarse = _coarse(window, sensor, present, centre, unit)
    request = Request(
        values=np.where(known, values, 0).astype(np.float32),
        known=known,
        fill=fill,
        times=cube.times[window.dates],
        metadata=window.metadata,
        coarse=coarse,
        factor=factor,
        sensor=sensor,
    )
    return Sample(
        request=request,
        truth=np.where(measured[target], values[target], 0).astype(np.float32),
        measured=measured[target].copy(),
        kind=kind,
        source=cube.name,
        calibrated=cube.calibrated,
    )


def _suitable(cubes: Sequence[TrainingCube], kind: SampleKind) -> list[TrainingCube]:
    """Return the cubes that can provide a kind: detail needs sharp pixels, synthesis colour, dates several."""
    suitable = [
        cube
        for cube in cubes
        if (cube.sharp or not (kind.startswith("x") or kind == "free"))
        and (cube.calibrated or kind != "free")
        and (cube.values.shape[0] > 1 or kind != "dates")
    ]
    if not suitable:
        raise SourceError(
            f"drawing a sample of {kind}: none of {len(cubes)} cubes can provide it", "add cubes"
        )
    return suitable


def _draw_window(
    rng: np.random.Generator, cubes: Sequence[TrainingCube], kind: SampleKind, tile_px: int, dates: int
) -> _CubeWindow:
    weight = np.sqrt([cube.values[:, 0].size for cube in cubes])
    for _ in range(_ATTEMPTS):
        cube = cubes[int(rng.choice(len(cubes), p=weight / weight.sum()))]
        window = _window(rng, cube, tile_px, min(dates, cube.values.shape[0] - 1))
        if window is not None:
            return window
    raise SourceError(
        f"drawing a sample of {kind}: no usable window in {_ATTEMPTS} draws", "check the cubes' cloud masks"
    )


def _window(rng: np.random.Generator, cube: TrainingCube, tile_px: int, context: int) -> _CubeWindow | None:
    """Return a window with a whole, clear target date and up to ``context`` other dates; None if none was found."""
    T, _, H, W = cube.values.shape
    for _ in range(_ATTEMPTS):
        target = int(rng.integers(T))
        top, left = int(rng.integers(H - tile_px + 1)), int(rng.integers(W - tile_px + 1))
        rows, cols = slice(top, top + tile_px), slice(left, left + tile_px)
        values = cube.values[target, :, rows, cols][cube.bands]
        if not np.isfinite(values).all() or cube.clear[target, rows, cols].mean() < MIN_CLEAR:
            continue
        nearest = np.argsort(np.abs(np.arange(T) - target) + rng.random(T) * 4.0)
        nearest = np.array([date for date in nearest if date != target], dtype=np.intp)
        others = [
            date
            for date in nearest[:_NEAREST_DATES]
            if _measured(cube, date, rows, cols).mean() > _MIN_CONTEXT_CLEAR
        ]
        if context and not others:
            continue
        dates = np.sort(np.array([target, *others[:context]], dtype=np.intp))
        position = int(np.flatnonzero(dates == target)[0])
        return _CubeWindow(cube=cube, dates=dates, rows=rows, cols=cols, target=position)
    return None


def _measured(cube: TrainingCube, date: int, rows: slice, cols: slice) -> BoolArray:
    """Return True where all bands of a window are measured and clear on a date."""
    finite = np.isfinite(cube.values[date][cube.bands][:, rows, cols]).all(0)
    return np.asarray(finite & cube.clear[date, rows, cols])


def _coarse(
    window: _CubeWindow, sensor: Sensor, present: BoolArray, centre: Float32Array, unit: Float32Array
) -> Float32Array:
    """Return the coarse measurement of the target date, NaN for absent bands and on context dates."""
    bands = present[:, None, None]
    target = window.cube.values[window.dates[window.target]][:, window.rows, window.cols]
    values = (np.where(bands, target, 0) - centre) / unit * bands
    coarse = sensor.degrade(np.where(np.isfinite(values), values, 0).astype(np.float32))
    coarse = np.where(bands, coarse, np.nan).astype(np.float32)
    absent = np.full_like(coarse, np.nan)
    return np.stack([coarse if date == window.target else absent for date in range(len(window.dates))])
