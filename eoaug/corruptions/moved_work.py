"""Corruptions that move image, labels and grid together, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from eoaug.corruptions.request import drawn
from eoaug.corruptions.resampling import Taps, source_window
from eoaug.corruptions.units import ImageBand
from eoaug.cube.synthetic import GENERATED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.engine.values import Chunking
from eoaug.raster.tiles import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from eoaug.corruptions.request import CorruptionRequest

__all__ = ["MovedLayer", "MovedWork", "moved_grid"]


def moved_grid(request: CorruptionRequest) -> tuple[GeoBox, Affine]:
    """Return the new grid, and the map from its (column, row) to those of the cube.

    The grid moves the other way round than the picture, so that everything stays where it is on the ground.
    """
    from odc.geo.geobox import GeoBox

    height, width = request.extent.shape
    values, middle = request.values, (width / 2, height / 2)
    sign = 1.0 if drawn(request, "direction") < 0.5 else -1.0
    if request.kind == "rotation":
        change = Affine.rotation(sign * values["angle_deg"], middle)
    elif request.kind == "scale":
        change = (
            Affine.translation(*middle)
            @ Affine.scale(1 / values["factor"])
            @ Affine.translation(*(-m for m in middle))
        )
    else:
        bearing = values["bearing_deg"]
        angle = 2 * math.pi * drawn(request, "bearing") if bearing is None else math.radians(bearing)
        shift = values["shift_px"]
        change = Affine.translation(-shift * math.sin(angle), shift * math.cos(angle))
    return GeoBox((height, width), request.geobox.affine @ change, request.geobox.crs), change


@dataclass(frozen=True)
class MovedLayer:
    """One array to move."""

    name: str
    how: Literal["cubic", "nearest", "any"]
    dtype: str
    ignore: float | int | bool = 0
    """Of layers that are not bands: stored number beyond the cube."""
    band: ImageBand | None = None


@dataclass(frozen=True)
class MovedWork:
    """A geometric corruption of arrays of one shape, as the engine runs it."""

    layers: tuple[MovedLayer, ...]
    to_source: Affine
    extent: Window
    """All pixels of the cube, from (0, 0)."""
    chunking: Chunking
    token: str
    name: str = "corrupt-moved"

    @property
    def lengths(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Chunk lengths."""
        return self.chunking.lengths

    @property
    def dtypes(self) -> Mapping[str, np.dtype[Any]]:
        """Types of the layers, and of the marks if there are bands."""
        out = {layer.name: np.dtype(layer.dtype) for layer in self.layers if layer.how != "any"}
        return out | ({SYNTHETIC: np.dtype(np.uint8)} if self._bands else {})

    @property
    def _bands(self) -> list[MovedLayer]:
        return [layer for layer in self.layers if layer.band is not None]

    def needs(self, index: tuple[int, int, int]) -> tuple[range, Window]:
        """Return the dates and the pixels that a chunk needs."""
        window = source_window(self.chunking.window(*index[1:]), self.to_source, self.extent)
        if window.empty:  # beyond the cube: a window of no pixels that lies inside
            window = Window(0, 0, 0, 0)
        return self.chunking.dates(index[0]), window

    def run(self, index: tuple[int, int, int], arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the layers of a chunk, and its marks."""
        core = self.chunking.window(*index[1:])
        dates, source = self.needs(index)
        taps = Taps(core, self.to_source, source)
        out: dict[str, NDArray[Any]] = {}
        missing = np.ones((len(dates), *core.shape), bool)
        generated = ~missing
        for layer, array in zip(self.layers, arrays, strict=True):
            images = np.stack([_moved(layer, array[k], taps) for k in range(len(dates))])
            if layer.how == "any":
                generated |= images
                continue
            out[layer.name] = images.astype(layer.dtype, copy=False)
            if layer.band is not None:
                missing &= np.isnan(layer.band.physical(images))
        if self._bands:
            marks = np.where(generated, GENERATED, TRANSFERRED)
            out[SYNTHETIC] = np.where(missing, OUTSIDE, marks).astype(np.uint8)
        return out


def _moved(layer: MovedLayer, image: NDArray[Any], taps: Taps) -> NDArray[Any]:
    if layer.how == "any":
        return taps.any_near(image)
    if layer.how == "nearest" or layer.band is None:
        return taps.nearest(image, layer.ignore)
    return layer.band.stored(taps.cubic(layer.band.physical(image)))
