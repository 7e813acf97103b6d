"""Redrawn regions, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.synthetic import GENERATED, MEASURED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.engine.values import Chunking
from eoaug.pairs.redraws import Redraw
from eoaug.raster.radiometry import cast
from eoaug.raster.tiles import Window

__all__ = ["AFTER", "CHANGE", "REDRAWN", "PairBand", "RedrawWork"]

CHANGE, REDRAWN, AFTER = "change", "redrawn", "after label"
"""Names of the map of what changed, of the regions that were redrawn, and (of the work only) of the label after it."""


@dataclass(frozen=True)
class PairBand:
    """What the work knows of a band."""

    name: str
    dtype: str
    nodata: float | None


@dataclass(frozen=True)
class RedrawWork:
    """Redraws of one cube, as the engine runs them.

    The inputs are the bands, the label, and the synthetic mask if there is one, of shape (1, Y, X) each.
    """

    bands: tuple[PairBand, ...]
    label_dtype: str
    redraws: tuple[Redraw, ...]
    scene: Window
    """All pixels, counted from the first one."""
    chunking: Chunking
    token: str

    @property
    def name(self) -> str:
        """Of the tasks."""
        return "redraw"

    @property
    def lengths(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Chunk lengths."""
        return self.chunking.lengths

    @property
    def dtypes(self) -> Mapping[str, np.dtype[Any]]:
        """Types of the bands, of the marks, of the label and of the maps."""
        bands = {band.name: np.dtype(band.dtype) for band in self.bands}
        maps = {name: np.dtype(np.uint8) for name in (SYNTHETIC, CHANGE, REDRAWN)}
        return {**bands, **maps, AFTER: np.dtype(self.label_dtype)}

    def _within(self, core: Window) -> list[Redraw]:
        return [one for one in self.redraws if not (one.window & core).empty]

    def needs(self, index: tuple[int, int, int]) -> tuple[range, Window]:
        """Return the dates and the pixels that a chunk needs."""
        core = self.chunking.window(*index[1:])
        boxes = [core]
        for one in self._within(core):
            part = one.window & core
            boxes += [part.shift(*shift) & self.scene for shift in one.shifts]
        boxes = [box for box in boxes if not box.empty]
        whole = Window(
            min(box.top for box in boxes),
            min(box.left for box in boxes),
            max(box.bottom for box in boxes),
            max(box.right for box in boxes),
        )
        return range(1), whole

    def run(self, index: tuple[int, int, int], arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the bands of a chunk after the change, its label, marks and maps."""
        core, around = self.chunking.window(*index[1:]), self.needs(index)[1]
        inner = core.within(around)
        count = len(self.bands)
        images = [array[0] for array in arrays]
        out = {band.name: image[inner].copy() for band, image in zip(self.bands, images, strict=False)}
        label = images[count][inner].copy()
        maps = np.zeros((2, *core.shape), np.uint8)
        zone = np.zeros(core.shape, bool)
        generated = np.zeros(core.shape, bool)
        for one in self._within(core):
            part = one.window & core
            here, own = part.within(core), part.within(one.window)
            weights = one.weights()[:, *own]
            windows = [part, *(part.shift(*shift) for shift in one.shifts)]
            changed = weights[0] < 1
            for band, image in zip(self.bands, images, strict=False):
                before = out[band.name][here]
                out[band.name][here] = _blended(
                    band, before, [_cut(image, around, w, band.nodata) for w in windows], weights
                )
            mask = one.parts[own] > 0
            label[here][mask] = one.code
            maps[0][here][mask] = 1 if one.changes else 0
            maps[1][here][mask] = 1 if one.changes else 2
            zone[here] |= changed
            if len(images) > count + 1:
                marks = [_cut(images[count + 1], around, w, None) == GENERATED for w in windows]
                generated[here] |= (np.stack(marks) & (weights > 0)).any(axis=0) & changed
        missing = np.ones(core.shape, bool)
        for band in self.bands:
            missing &= ~_valid(out[band.name], band.nodata)
        earlier = images[count + 1][inner] if len(images) > count + 1 else MEASURED
        synthetic = np.where(generated, GENERATED, np.where(zone, TRANSFERRED, earlier))
        # The label differs under a missing pixel too, and nothing was drawn there.
        out[SYNTHETIC] = np.where(missing, OUTSIDE, synthetic).astype(np.uint8)
        out |= {AFTER: label, CHANGE: maps[0], REDRAWN: maps[1]}
        return {name: values[None] for name, values in out.items()}


def _blended(
    band: PairBand, before: NDArray[Any], images: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]
) -> NDArray[Any]:
    """Return stored numbers; where the image is missing, or no source has data, it is as it was."""
    stack = np.stack(images)
    known = np.isfinite(stack) & (weights > 0)
    total = np.where(known, weights, 0).sum(axis=0)
    moved = (weights[0] < 1) & np.isfinite(stack[0]) & known[1:].any(axis=0)
    mean = (np.where(known, stack, 0) * weights).sum(axis=0) / np.where(moved, total, 1)
    after = before.copy()
    after[moved] = cast(mean[moved], before.dtype, band.nodata)
    return after


def _valid(image: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    found = np.isfinite(image) if image.dtype.kind == "f" else np.ones(image.shape, bool)
    return np.asarray(found if nodata is None else found & (image != nodata))


def _cut(image: NDArray[Any], around: Window, window: Window, nodata: float | None) -> NDArray[np.float64]:
    """Return a window of an image that covers ``around``, NaN where it has no data."""
    out = np.full(window.shape, np.nan)
    inside = window & around
    if not inside.empty:
        part = image[inside.within(around)]
        out[inside.within(window)] = np.where(_valid(part, nodata), part, np.nan)
    return out
