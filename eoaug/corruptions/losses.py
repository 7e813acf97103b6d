"""Corruptions that lose pixels: gaps in images, missing bands, missing dates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eoaug.corruptions.request import CorruptionRequest, ImageAt, drawn
from eoaug.errors import ParameterError
from eoaug.raster import noise
from eoaug.raster.arrays import BoolArray, Float64Array

__all__ = ["check_losses", "lossy", "lost_names"]

_BLOCK_PX = 32
"""Edge of the blocks that are lost as a whole."""
_SEGMENT_PX = 4096
"""Length of a lost scan line."""
_SWATH_PX, _PERIOD_PX, _SLOPE = 2048, 14, 0.12
"""Width of the swath whose wedges grow from its middle to its edges, their distance in rows, and their slope: Landsat-7
without its scan line corrector, where 22 % of a scene are missing (USGS)."""
_WIDTH = 0.15
"""Mean width of a wedge in periods; more for shares above it."""


def lossy(images: Sequence[Float64Array], at: ImageAt) -> list[Float64Array]:
    """Return the bands of one image with pixels lost; of all bands at once."""
    request = at.request
    if request.kind == "data_gaps":
        gaps = _gaps(at)
        return [np.where(gaps, np.nan, image) for image in images]
    lost = lost_names(request)
    gone = [at.time in lost if request.kind == "missing_dates" else b.name in lost for b in request.bands]
    return [np.full_like(image, np.nan) if away else image for image, away in zip(images, gone, strict=True)]


def lost_names(request: CorruptionRequest) -> list[str] | list[int]:
    """Return the names of the bands, or the dates, that are missing; those of a milder severity are among them."""
    if request.kind == "missing_bands":
        return _first_drawn(request, [band.name for band in request.bands])
    return _first_drawn(request, list(request.times)) if request.kind == "missing_dates" else []


def _first_drawn[T: (str, int)](request: CorruptionRequest, of: list[T]) -> list[T]:
    count = max(1, round(request.values["share"] * len(of)))
    return sorted(of, key=lambda one: drawn(request, one))[:count]


def check_losses(request: CorruptionRequest) -> None:
    """Refuse to lose everything, and to lose pixels of a type that cannot say so."""
    for kind, what, count in (
        ("missing_bands", "band", len(request.bands)),
        ("missing_dates", "date", len(request.times)),
    ):
        if request.kind == kind and count < 2:
            raise ParameterError(f"{kind} would leave nothing of a cube with one {what}", "use 'data_gaps'")
    enlarged = request.kind == "scale" and request.number("factor") >= 1
    if request.corruption.loses and not enlarged:
        for band in request.bands:
            if np.dtype(band.dtype).kind in "iu" and band.nodata is None:
                raise ParameterError(
                    f"{request.kind} makes pixels missing, and band {band.name!r} ({band.dtype}) has no number for them",
                    f"declare one, e.g. ds[{band.name!r}].attrs['nodata'] = 0",
                )


def _gaps(at: ImageAt) -> BoolArray:
    """Return blocks, scan lines and wedges that are lost, each a third of the share."""
    window, share = at.window, 1 - (1 - at.number("share")) ** (1 / 3)
    rows, cols = np.arange(window.top, window.bottom), np.arange(window.left, window.right)
    blocks = _uniform_cells(at, rows // _BLOCK_PX, cols // _BLOCK_PX, "blocks") < share
    lines = _uniform_cells(at, rows, cols // _SEGMENT_PX, "lines") < share
    middle = (cols % _SWATH_PX - _SWATH_PX / 2 + 0.5) / (_SWATH_PX / 2)
    # Of a small share, only some of the wedges: a width of less than a pixel would be a dotted line.
    active = min(1.0, share / _WIDTH)
    # The width is twice the mean at the edges of the swath and nothing in the middle.
    width = np.clip(2 * share / active * np.abs(middle), 0, 1)
    phase = drawn(at.request, "wedges", at.time)
    across = rows[:, None] / _PERIOD_PX + phase + _SLOPE * cols[None, :] / _PERIOD_PX
    number = np.floor(across).astype(np.int64)
    chosen = (
        _uniform_cells(at, np.arange(number.min(), number.max() + 1), np.zeros(1, np.int64), "wedges")
        < active
    )
    wedges = chosen[number - number.min(), 0] & (across - number < width[None, :])
    return np.asarray(blocks | lines | wedges)


def _uniform_cells(
    at: ImageAt, rows: NDArray[np.int64], cols: NDArray[np.int64], stream: str
) -> Float64Array:
    """Return one uniform number per cell, for the cell of every pixel."""
    from scipy import special

    first = int(rows[0]), int(cols[0])
    shape = (1, int(rows[-1]) - first[0] + 1, int(cols[-1]) - first[1] + 1)
    cells = noise.normal(
        first, shape, seed=at.request.seed, stream=f"corrupt data_gaps {stream}", time=at.time
    )[0]
    uniform = special.ndtr(cells.astype(np.float64))
    return np.asarray(uniform[np.ix_(rows - first[0], cols - first[1])])
