"""Corruptions that keep the grid, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.corruptions.atmosphere import clouded, clouds_at, hazy
from eoaug.corruptions.clouds import CloudLayers
from eoaug.corruptions.compression import compressed, tiles_around
from eoaug.corruptions.filters import blurred, reach_px
from eoaug.corruptions.losses import lossy
from eoaug.corruptions.pointwise import pointwise
from eoaug.corruptions.request import CorruptionRequest, ImageAt
from eoaug.cube.synthetic import MEASURED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.engine.values import Chunking
from eoaug.raster.arrays import Float64Array
from eoaug.raster.tiles import Window

__all__ = ["CLOUD_MASK", "OPACITY", "ImageWork", "changed_image", "margin_px"]

CLOUD_MASK, OPACITY = "added_cloud_mask", "added_cloud_opacity"
"""Names of the variables that come with clouds."""
_CLOUDY, _SHADOWED = 0.5, 0.1
"""Share of a pixel's area that makes it cloud, and share of the sunlight that makes it shadow."""


def margin_px(request: CorruptionRequest) -> int | None:
    """Return how far from the edge of a crop its pixels are those of the whole; None: all depend on the extent."""
    if request.corruption.scope == "cube":
        return None
    if request.kind == "compression":
        return tiles_around(Window(0, 0, 1, 1)).bottom
    return reach_px(request) if request.corruption.group == "filter" else 0


@dataclass(frozen=True)
class ImageWork:
    """A corruption on the grid of the cube, as the engine runs it."""

    request: CorruptionRequest
    chunking: Chunking
    token: str

    @property
    def name(self) -> str:
        """Of the tasks."""
        return f"corrupt-{self.request.kind}"

    @property
    def lengths(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Chunk lengths."""
        return self.chunking.lengths

    @property
    def dtypes(self) -> Mapping[str, np.dtype[Any]]:
        """Types of the bands, of the marks, and of what comes with clouds."""
        out = {band.name: np.dtype(band.dtype) for band in self.request.bands}
        if self.request.kind == "clouds":
            out |= {CLOUD_MASK: np.dtype(np.uint8), OPACITY: np.dtype(np.float32)}
        return out | {SYNTHETIC: np.dtype(np.uint8)}

    def _core(self, index: tuple[int, int, int]) -> Window:
        extent = self.request.extent
        return self.chunking.window(*index[1:]).shift(extent.top, extent.left)

    def _around(self, index: tuple[int, int, int]) -> Window:
        """Return the absolute pixels that a chunk needs."""
        core = self._core(index)
        if self.request.kind == "compression":
            core = tiles_around(core)
        elif self.request.corruption.group == "filter":
            core = core.pad(reach_px(self.request))
        return core & self.request.extent

    def needs(self, index: tuple[int, int, int]) -> tuple[range, Window]:
        """Return the dates and the pixels that a chunk needs."""
        extent = self.request.extent
        return self.chunking.dates(index[0]), self._around(index).shift(-extent.top, -extent.left)

    def run(self, index: tuple[int, int, int], arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the bands of a chunk, its marks, and what comes with clouds."""
        around = self._around(index)
        inner = self._core(index).within(around)
        images: dict[str, list[NDArray[Any]]] = {name: [] for name in self.dtypes}
        for k, date in enumerate(self.chunking.dates(index[0])):
            at = ImageAt(self.request, around, date)
            for name, image in self._image(at, [array[k] for array in arrays], inner).items():
                images[name].append(image)
        return {name: np.stack(parts) for name, parts in images.items()}

    def _image(
        self, at: ImageAt, stored: Sequence[NDArray[Any]], inner: tuple[slice, slice]
    ) -> dict[str, NDArray[Any]]:
        request = self.request
        given = [band.physical(image) for band, image in zip(request.bands, stored, strict=True)]
        out: dict[str, NDArray[Any]] = {}
        new, layers = changed_image(given, at)
        if layers is not None:
            classes = np.where(layers.shadow > _SHADOWED, 2, 0)
            out[CLOUD_MASK] = np.where(layers.covered >= _CLOUDY, 1, classes).astype(np.uint8)[inner]
            out[OPACITY] = layers.opacity.astype(np.float32)[inner]
        changed = np.zeros(out[OPACITY].shape if out else given[0][inner].shape, bool)
        missing = ~changed
        for band, before, after, image in zip(request.bands, given, new, stored, strict=True):
            old, number = before[inner], image[inner]
            value = np.where(np.isnan(old), np.nan, after[inner])
            same = (value == old) | (np.isnan(value) & np.isnan(old))
            written = (
                number if same.all() else np.where(same, number, band.stored(np.where(same, old, value)))
            )
            out[band.name] = np.asarray(written, band.dtype)
            changed |= ~same & ~_equal(written, number)
            missing &= np.isnan(value)
        out[SYNTHETIC] = np.where(missing, OUTSIDE, np.where(changed, TRANSFERRED, MEASURED)).astype(np.uint8)
        return out


def _equal(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    equal = one == other
    if one.dtype.kind == "f":
        equal |= np.isnan(one) & np.isnan(other)
    return np.asarray(equal)


def changed_image(
    images: Sequence[Float64Array], at: ImageAt
) -> tuple[list[Float64Array], CloudLayers | None]:
    """Return the bands of one image after a corruption, and the clouds if there are any.

    Parameters
    ----------
    images
        Physical values of every band over the window of ``at``, NaN where missing.
    at
        Request, window and date.
    """
    kind = at.request.kind
    if kind == "clouds":
        _, layers = clouds_at(at)
        return clouded(images, at, layers), layers
    if kind == "haze":
        return hazy(images, at), None
    if kind == "compression":
        return compressed(images, at), None
    rule = {"pointwise": pointwise, "filter": blurred, "missing": lossy}[at.request.corruption.group]
    return rule(images, at), None
