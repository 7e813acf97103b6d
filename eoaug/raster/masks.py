"""Which pixels to fill: clouds from quality bands, and synthetic gaps of exact cover.

Numpy; scipy where gaps are simulated. One convention: a mask here is True where a pixel is to be filled (cloud, shadow, gap);
pixels that were never measured (class 0, fill bit) are not in it unless asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError, did_you_mean
from eoaug.raster import noise

__all__ = [
    "QA_PIXEL_BITS",
    "QA_PIXEL_CLOUD",
    "SCL_CLASSES",
    "SCL_CLOUD",
    "qa_pixel_mask",
    "scl_mask",
    "simulate",
]


SCL_CLASSES: Mapping[str, int] = {
    "no_data": 0,
    "saturated_or_defective": 1,
    "dark_area": 2,
    "cloud_shadow": 3,
    "vegetation": 4,
    "not_vegetated": 5,
    "water": 6,
    "unclassified": 7,
    "cloud_medium": 8,
    "cloud_high": 9,
    "thin_cirrus": 10,
    "snow_or_ice": 11,
}
"""Value of each class of Sentinel-2's scene classification (ESA, Sen2Cor, L2A product)."""

SCL_CLOUD: tuple[str, ...] = ("cloud_shadow", "cloud_medium", "cloud_high", "thin_cirrus")
"""Classes that `scl_mask` takes when none are named. Class 7, unclassified, hides some cloud edges."""

QA_PIXEL_BITS: Mapping[str, int] = {
    "fill": 0,
    "dilated_cloud": 1,
    "cirrus": 2,
    "cloud": 3,
    "cloud_shadow": 4,
    "snow": 5,
    "clear": 6,
    "water": 7,
}
"""Bit of each flag of Landsat Collection 2 QA_PIXEL (USGS LSDS-1619, LSDS-1618)."""

QA_PIXEL_CLOUD: tuple[str, ...] = ("dilated_cloud", "cirrus", "cloud", "cloud_shadow")
"""Flags that `qa_pixel_mask` takes when none are named."""

_CLOUD_SIGMA_PX = (9.0, 3.0)
"""Sizes of cloud bodies and of their ragged edges."""
_CLOUD_AMPLITUDE = (1.0, 0.25)
_STRIPE_PERIOD_PX = 13
"""Near the spacing of the gaps of Landsat-7's failed scan line corrector, in 30 m pixels."""
_STRIPE_SLOPE = 0.15
_BOX_CELL_PX = 48
"""One box grows in each square of so many pixels."""


def scl_mask(scl: NDArray[Any], classes: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Return True where a Sentinel-2 scene classification names a class to fill.

    Parameters
    ----------
    scl
        Any shape, class values 0 to 11 of any number type; NaN is no data.
    classes
        Names from `SCL_CLASSES`; None: `SCL_CLOUD`.
    """
    names = _known_names(SCL_CLOUD if classes is None else classes, SCL_CLASSES, "SCL class")
    values, valid = _whole(scl)
    named = np.isin(values, [SCL_CLASSES[name] for name in names])
    return np.asarray(named if "no_data" in names else named & valid)


def qa_pixel_mask(qa: NDArray[Any], classes: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Return True where Landsat's QA_PIXEL raises a flag to fill.

    Parameters
    ----------
    qa
        Any shape, the bit field of Collection 2 as stored; NaN is fill.
    classes
        Names from `QA_PIXEL_BITS`; None: `QA_PIXEL_CLOUD`.
    """
    names = _known_names(QA_PIXEL_CLOUD if classes is None else classes, QA_PIXEL_BITS, "QA_PIXEL flag")
    bits, valid = _whole(qa)
    filled = (bits & 1).astype(bool) | ~valid
    wanted = sum(1 << QA_PIXEL_BITS[name] for name in names if name != "fill")
    # The other bits of a fill pixel mean nothing, whatever they say.
    flagged = (bits & wanted).astype(bool) & ~filled
    return np.asarray(flagged | filled if "fill" in names else flagged)


def simulate(
    shape_yx: tuple[int, int],
    cover: float,
    *,
    kind: Literal["clouds", "stripes", "boxes"] = "clouds",
    seed: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.bool_]:
    """Return synthetic gaps, True = missing, of exactly ``round(cover * H * W)`` pixels.

    Parameters
    ----------
    shape_yx
        (rows, columns) of the window.
    cover
        Share to hide, 0 to 1.
    kind
        ``"clouds"``: blobs, level sets of smooth noise; ``"stripes"``: slanted lines with a period of 13
        rows, like Landsat-7 without its scan line corrector; ``"boxes"``: unions of rectangles.
    seed
        Another seed, another pattern.
    origin
        Absolute pixel index (row, column) of the window. The pattern belongs to the place; the level at
        which it is cut belongs to the window, because the cover of just this window is exact.
    """
    height, width = shape_yx
    if height < 1 or width < 1:
        raise ParameterError(
            f"Gaps were asked for a window of {height} x {width} pixels.", "Give 1 x 1 or more."
        )
    if not 0.0 <= cover <= 1.0:
        raise ParameterError(f"The share of pixels to hide is {cover}.", "Give cover from 0 to 1.")
    fields = {"clouds": _clouds, "stripes": _stripes, "boxes": _boxes}
    if kind not in fields:
        raise ParameterError(
            f"No kind of gap is called {kind!r}.{_hint(kind, fields)}", f"Give one of {', '.join(fields)}."
        )
    field = fields[kind](shape_yx, seed, origin)
    hidden = np.zeros(height * width, dtype=bool)
    # A stable sort: pixels of equal value are taken row by row.
    hidden[np.argsort(field.ravel(), kind="stable")[: round(cover * height * width)]] = True
    return hidden.reshape(height, width)


def _known_names(names: Sequence[str], table: Mapping[str, int], what: str) -> tuple[str, ...]:
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in table:
            raise ParameterError(
                f"no {what} is called {name!r}{_hint(name, table)}", f"give names of {', '.join(table)}"
            )
    return wanted


def _hint(name: object, known: Mapping[str, object]) -> str:
    hint = did_you_mean(name, known, cutoff=0.5)
    return f"; {hint}" if hint else ""


def _whole(quality: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    values = np.asarray(quality)
    if not np.issubdtype(values.dtype, np.number):
        raise ParameterError(
            f"A quality band holds {values.dtype} values.", "Give its class numbers or bit field as stored."
        )
    valid = np.isfinite(values)
    return np.where(valid, values, 0).astype(np.int64), np.asarray(valid)


# A field for each kind: the pixels of the smallest values are hidden first.


def _clouds(shape_yx: tuple[int, int], seed: int, origin: tuple[int, int]) -> NDArray[np.float64]:
    from scipy import ndimage

    height, width = shape_yx
    field = np.zeros(shape_yx)
    for sigma, amplitude in zip(_CLOUD_SIGMA_PX, _CLOUD_AMPLITUDE, strict=True):
        pad = int(4 * sigma)
        white = noise.normal(
            (origin[0] - pad, origin[1] - pad),
            (1, height + 2 * pad, width + 2 * pad),
            seed=seed,
            stream=f"gaps clouds {sigma:g}",
        )[0].astype(np.float64)
        smooth = ndimage.gaussian_filter(white, sigma, radius=pad)[pad : pad + height, pad : pad + width]
        # White noise through a Gaussian keeps 1 / (4 pi sigma^2) of its variance.
        field -= amplitude * sigma * np.sqrt(4 * np.pi) * smooth
    return field


def _stripes(shape_yx: tuple[int, int], seed: int, origin: tuple[int, int]) -> NDArray[np.float64]:
    from scipy import special

    draw = noise.normal((0, 0), (1, 1, 2), seed=seed, stream="gaps stripes").astype(np.float64)
    phase, sign = _STRIPE_PERIOD_PX * special.ndtr(draw[0, 0, 0]), np.sign(draw[0, 0, 1])
    rows = origin[0] + np.arange(shape_yx[0])[:, None]
    cols = origin[1] + np.arange(shape_yx[1])[None, :]
    across = (rows + sign * _STRIPE_SLOPE * cols + phase) % _STRIPE_PERIOD_PX
    return np.asarray(np.abs(across - _STRIPE_PERIOD_PX / 2))


def _boxes(shape_yx: tuple[int, int], seed: int, origin: tuple[int, int]) -> NDArray[np.float64]:
    from scipy import special

    rows = origin[0] + np.arange(shape_yx[0])
    cols = origin[1] + np.arange(shape_yx[1])
    cell_rows, cell_cols = rows // _BOX_CELL_PX, cols // _BOX_CELL_PX
    first = (int(cell_rows[0]) - 1, int(cell_cols[0]) - 1)
    size = (4, int(cell_rows[-1]) - first[0] + 2, int(cell_cols[-1]) - first[1] + 2)
    draw = noise.normal(first, size, seed=seed, stream="gaps boxes").astype(np.float64)
    place_y, place_x = special.ndtr(draw[0]), special.ndtr(draw[1])
    edge_y, edge_x = np.exp(0.5 * draw[2]), np.exp(0.5 * draw[3])
    field = np.full(shape_yx, np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = np.ix_(cell_rows - first[0] + dy, cell_cols - first[1] + dx)
            y = (cell_rows + dy)[:, None] + place_y[at] - (rows / _BOX_CELL_PX)[:, None]
            x = (cell_cols + dx)[None, :] + place_x[at] - (cols / _BOX_CELL_PX)[None, :]
            # When all boxes grow at the pace of their edges, this is the moment that one reaches the pixel.
            field = np.minimum(field, np.maximum(np.abs(y) / edge_y[at], np.abs(x) / edge_x[at]))
    return field
