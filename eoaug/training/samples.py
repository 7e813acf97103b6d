"""Training samples from real cubes: a netCDF file becomes a `Cube`, a window of it a `Sample`.

Imports the ground, ``generators.base``, ``cube.geo`` and xarray. A sample is a `Request`, exactly as the engine would
write it, beside the truth: what a network is trained on is what it will be asked. Windows are plain slices at random
places and dates that clouds leave clear: xbatcher walks a fixed grid, and torchgeo's samplers want an index in a
reference system, which some cubes have not, and look at no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.datasets.training_cubes import TrainingCube, metadata
from eoaug.errors import ParameterError, SourceError
from eoaug.generators.base import Request
from eoaug.raster.sensor import Sensor

__all__ = ["TASKS", "Sample", "draw", "hole"]


SampleKind = Literal["holes", "dates", "x2", "x4", "x8", "free"]

TASKS: tuple[SampleKind, ...] = ("holes", "dates", "x2", "x4", "x8", "free")
"""What a sample can ask for: masked pixels, a whole date, detail below a coarser pixel, everything."""

MIN_CLEAR = 0.95
"""Least share of a window that clouds and their shadows may leave (shared with data/README.md)."""
_DRAWS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A request and what would have been the right answer."""

    request: Request
    """As the engine writes it: model units, absent bands unknown."""
    truth: NDArray[np.float32]
    """Shape (C, H, W), model units, the target date; 0 where not measured."""
    measured: NDArray[np.bool_]
    """Shape (C, H, W), True where ``truth`` is a clear measurement; a loss counts these alone."""
    task: SampleKind
    """What was asked."""
    source: str
    """`Cube.name`."""
    calibrated: bool
    """`Cube.calibrated`."""


def hole(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a random hole, True where to be filled: blobs like clouds, a box, or stripes like a scan gap.

    Covers 3 % to 90 % of the window, never all of it.
    """
    kind = rng.choice(["blobs", "box", "stripes"], p=[0.7, 0.18, 0.12])
    H, W = shape
    if kind == "blobs":
        field = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(2.5, 11.0), mode="wrap")
        cover = rng.beta(1.6, 2.4) * 0.85 + 0.03
        return np.asarray(field > np.quantile(field, 1 - cover))
    out = np.zeros(shape, bool)
    if kind == "box":
        h, w = rng.integers(8, H - 4), rng.integers(8, W - 4)
        top, left = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
        out[top : top + h, left : left + w] = True
        return out
    period, width = rng.integers(6, 20), rng.integers(2, 6)
    rows, cols = np.mgrid[:H, :W]
    slope = rng.uniform(-0.3, 0.3)
    out = (rows + slope * cols + rng.integers(0, period)) % period < width
    return np.asarray(out.T if rng.random() < 0.3 else out)


def _window(
    rng: np.random.Generator, cube: TrainingCube, tile_px: int, dates: int
) -> tuple[NDArray[np.intp], slice, slice, int] | None:
    """Return (dates ascending, rows, columns, position of the target) of a usable window, or None."""
    T, _, H, W = cube.values.shape
    for _ in range(_DRAWS):
        target = int(rng.integers(T))
        top, left = int(rng.integers(H - tile_px + 1)), int(rng.integers(W - tile_px + 1))
        rows, cols = slice(top, top + tile_px), slice(left, left + tile_px)
        window = cube.values[target, :, rows, cols][cube.bands]
        usable = np.isfinite(window).all() and cube.clear[target, rows, cols].mean() >= MIN_CLEAR
        if not usable:
            continue
        near = np.argsort(np.abs(np.arange(T) - target) + rng.random(T) * 4.0)
        near = np.array([i for i in near if i != target], dtype=np.intp)
        seen = [
            i
            for i in near[:10]
            if (
                np.isfinite(cube.values[i][cube.bands][:, rows, cols]).all(0) & cube.clear[i, rows, cols]
            ).mean()
            > 0.3
        ]
        if dates and not seen:
            continue
        chosen = np.sort(np.array([target, *seen[:dates]], dtype=np.intp))
        return chosen, rows, cols, int(np.flatnonzero(chosen == target)[0])
    return None


def draw(
    rng: np.random.Generator,
    cubes: Sequence[TrainingCube],
    task: SampleKind,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    tile_px: int = 64,
    context: int = 2,
) -> Sample:
    """Draw one sample of a task from cubes that can serve it.

    Parameters
    ----------
    rng
        The only source of chance.
    cubes
        Where to draw from; a cube counts by the square root of its pixels, so that one long series of one
        place does not outweigh all others.
    task
        One of `TASKS`.
    mean, std
        Reflectance that model unit 0 stands for and that one model unit is, per slot.
    tile_px
        Window edge in pixels.
    context
        Most dates beside the target.
    """
    if task not in TASKS:
        raise ParameterError(f"drawing a sample: task is {task!r}", f"use one of {', '.join(TASKS)}")
    factor = int(task[1:]) if task.startswith("x") else 1
    able = [
        cube
        for cube in cubes
        if (cube.sharp or not (factor > 1 or task == "free"))
        and (cube.calibrated or task != "free")
        and (cube.values.shape[0] > 1 or task != "dates")
    ]
    if not able:
        raise SourceError(f"drawing a sample of {task}: none of {len(cubes)} cubes can serve it", "add cubes")
    weight = np.sqrt([cube.values[:, 0].size for cube in able])
    dates = 0
    if task == "dates" or (task == "holes" and rng.random() < 0.5):
        dates = int(rng.integers(1, context + 1))
    for _ in range(_DRAWS):
        cube = able[int(rng.choice(len(able), p=weight / weight.sum()))]
        dates_here = min(dates, cube.values.shape[0] - 1)
        found = _window(rng, cube, tile_px, dates_here)
        if found is not None:
            break
    else:
        raise SourceError(
            f"drawing a sample of {task}: no usable window in {_DRAWS} draws", "check the cubes' cloud masks"
        )
    chosen, rows, cols, target = found
    centre = np.asarray(mean, np.float32)[:, None, None]
    spread = np.asarray(std, np.float32)[:, None, None]
    values = (cube.values[chosen][:, :, rows, cols] - centre) / spread
    measured = np.isfinite(values) & cube.clear[chosen][:, None, rows, cols]
    values = np.where(measured, values, 0).astype(np.float32)
    present = cube.bands.copy()
    if task in ("free", "holes", "dates") and rng.random() < 0.15:
        # Fewer bands than the cube has: the network meets every combination.
        drop = int(rng.choice(np.flatnonzero(present)))
        present[drop] = present.sum() == 1
    measured = measured & present[:, None, None]
    truth, truth_measured = np.where(measured[target], values[target], 0), measured[target].copy()
    known, fill = measured.copy(), np.zeros_like(measured)
    fill[target] = present[:, None, None]
    coarse: NDArray[np.float32] | None = None
    sensor: Sensor | None = None
    if task == "holes":
        gap = hole(rng, (tile_px, tile_px))
        known[target] &= ~gap
        fill[target] &= gap | ~known[target]
    else:
        known[target] = False
    if factor > 1:
        # An ideal detector, or a softer one (MTF at Nyquist).
        sensor = Sensor(factor=factor, mtf=None if rng.random() < 0.5 else (float(rng.uniform(0.15, 0.45)),))
        dense = np.where(present[:, None, None], cube.values[chosen[target]][:, rows, cols], 0)
        dense = (dense - centre) / spread * present[:, None, None]
        coarse = sensor.degrade(np.where(np.isfinite(dense), dense, 0).astype(np.float32))
        coarse = np.where(present[:, None, None], coarse, np.nan).astype(np.float32)
        coarse = np.stack(
            [coarse if i == target else np.full_like(coarse, np.nan) for i in range(len(chosen))]
        )
    request = Request(
        values=np.where(known, values, 0).astype(np.float32),
        known=known,
        fill=fill,
        times=cube.times[chosen],
        metadata=metadata(cube, chosen),
        coarse=coarse,
        factor=factor,
        sensor=sensor,
    )
    return Sample(
        request=request,
        truth=truth.astype(np.float32),
        measured=truth_measured,
        task=task,
        source=cube.name,
        calibrated=cube.calibrated,
    )
