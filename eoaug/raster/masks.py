"""Fill masks: clouds from quality bands, and synthetic gaps.

A mask is True where a pixel is to be filled (cloud, shadow, gap). Pixels that were never measured (class 0, fill bit)
are False unless their class is named.

Gaps come in two kinds. `simulate` is for users and evaluation: exact cover, and a pattern that is a function of
absolute pixel indices. `random_gap` is for training: a new random gap per call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError, did_you_mean
from eoaug.raster import noise
from eoaug.raster.quality_products import QA_PIXEL, SCL

__all__ = [
    "QA_PIXEL_BITS",
    "QA_PIXEL_CLOUD",
    "SCL_CLASSES",
    "SCL_CLOUD",
    "dilate",
    "distance_to",
    "qa_pixel_mask",
    "random_gap",
    "scl_mask",
    "simulate",
]


SCL_CLASSES: Mapping[str, int] = {name: one.bits for name, one in SCL.classes.items()}
"""Value of each class of Sentinel-2's scene classification (ESA, Sen2Cor, L2A product)."""

SCL_CLOUD: tuple[str, ...] = SCL.cloud
"""Default classes of `scl_mask`. Class 7, unclassified, contains some cloud edges but is not among them."""

QA_PIXEL_BITS: Mapping[str, int] = {name: one.bits.bit_length() - 1 for name, one in QA_PIXEL.classes.items()}
"""Bit of each flag of Landsat Collection 2 QA_PIXEL (USGS LSDS-1619, LSDS-1618)."""

QA_PIXEL_CLOUD: tuple[str, ...] = QA_PIXEL.cloud
"""Default flags of `qa_pixel_mask`."""

_CLOUD_SIGMA_PX = (9.0, 3.0)
"""Standard deviations of the Gaussians that shape cloud bodies and their ragged edges."""
_CLOUD_AMPLITUDE = (1.0, 0.25)
_STRIPE_PERIOD_PX = 13
"""Near the spacing of the gaps of Landsat-7's failed scan line corrector, in 30 m pixels."""
_STRIPE_SLOPE = 0.15
_BOX_CELL_PX = 48
"""Edge of the squares with one box each."""


def scl_mask(scl: NDArray[Any], classes: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Return True where a Sentinel-2 scene classification holds one of the classes.

    Parameters
    ----------
    scl
        Any shape, class values 0 to 11 of any number type; NaN is no data.
    classes
        Names from `SCL_CLASSES`; None: `SCL_CLOUD`.
    """
    return SCL.mask(scl, _listed(classes))


def qa_pixel_mask(qa: NDArray[Any], classes: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Return True where one of the flags of Landsat's QA_PIXEL is set.

    Parameters
    ----------
    qa
        Any shape, the bit field of Collection 2 as stored; NaN is fill.
    classes
        Names from `QA_PIXEL_BITS`; None: `QA_PIXEL_CLOUD`.
    """
    return QA_PIXEL.mask(qa, _listed(classes))


def _listed(classes: Sequence[str] | None) -> Sequence[str] | None:
    return (classes,) if isinstance(classes, str) else classes


_STRIP_ROWS = 1024
"""Rows that are dilated at once: distances take 24 times the memory of a mask."""


def dilate(
    mask: NDArray[np.bool_], radius: float, pixel: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.bool_]:
    """Return a mask grown by a disk: True where the centre of a masked pixel lies within ``radius``.

    Parameters
    ----------
    mask
        Shape (..., rows, columns); every image by itself.
    radius
        Of the disk, in the units of ``pixel``. What lies beyond the edge of the image is not masked.
    pixel
        Edges of a pixel, from row to row and from column to column.

    Notes
    -----
    A Euclidean distance transform (Maurer et al. 2003, doi:10.1109/TPAMI.2003.1177156), so the cost does not depend on
    the radius. A window with a border of ``radius`` has the pixels of the whole, bit for bit.
    """
    from scipy import ndimage

    out = np.array(mask, dtype=bool)
    if radius <= 0 or not out.any():
        return out
    within = radius + 1e-6 * min(pixel)  # the distance along two ways is the same number up to rounding
    reach = math.ceil(within / pixel[0])
    for image, grown in zip(
        mask.reshape(-1, *mask.shape[-2:]), out.reshape(-1, *mask.shape[-2:]), strict=True
    ):
        for top in range(0, len(image), _STRIP_ROWS):
            first = max(top - reach, 0)
            window = np.asarray(image[first : top + _STRIP_ROWS + reach], bool)
            if window.any():
                near = ndimage.distance_transform_edt(~window, sampling=pixel) <= within
                grown[top : top + _STRIP_ROWS] = near[top - first :][:_STRIP_ROWS]
    return out


def distance_to(
    mask: NDArray[np.bool_], most: float, pixel: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float32]:
    """Return the distance to the nearest masked pixel of the same image, at most ``most``.

    Parameters
    ----------
    mask
        Shape (..., rows, columns).
    most, pixel
        Largest distance and edges of a pixel, from row to row and from column to column, in one unit.
    """
    from scipy import ndimage

    out = np.full(mask.shape, most, np.float32)
    images = zip(mask.reshape(-1, *mask.shape[-2:]), out.reshape(-1, *mask.shape[-2:]), strict=True)
    for image, distance in images:
        if image.any():
            np.minimum(
                ndimage.distance_transform_edt(~image, sampling=pixel),
                most,
                out=distance,
                casting="same_kind",
            )
    return out


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
        Share of missing pixels, 0 to 1.
    kind
        ``"clouds"``: blobs, level sets of smooth noise; ``"stripes"``: slanted lines with a period of 13
        rows, like Landsat-7 without its scan line corrector; ``"boxes"``: unions of rectangles.
    seed
        Random seed of the pattern.
    origin
        Absolute pixel index (row, column) of the window. The underlying field is a function of the absolute index;
        its threshold depends on the window, because the cover of this window is exact.
    """
    height, width = shape_yx
    if height < 1 or width < 1:
        raise ParameterError(
            f"the window of the gaps has {height} x {width} pixels", "use 1 x 1 pixels or more"
        )
    if not 0.0 <= cover <= 1.0:
        raise ParameterError(f"cover is {cover}", "use a share from 0 to 1")
    fields = {"clouds": _clouds, "stripes": _stripes, "boxes": _boxes}
    if kind not in fields:
        raise ParameterError(
            f"unknown kind of gap {kind!r}{_hint(kind, fields)}", f"use one of {', '.join(fields)}"
        )
    field = fields[kind](shape_yx, seed, origin)
    hidden = np.zeros(height * width, dtype=bool)
    # A stable sort: pixels of equal value are taken row by row.
    hidden[np.argsort(field.ravel(), kind="stable")[: round(cover * height * width)]] = True
    return hidden.reshape(height, width)


def _hint(name: object, known: Mapping[str, object]) -> str:
    hint = did_you_mean(name, known, cutoff=0.5)
    return f"; {hint}" if hint else ""


def random_gap(rng: np.random.Generator, shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a random gap for training, True = missing: clouds (70 %), a box (18 %) or stripes (12 %).

    Clouds cover 3 % to 88 %; a gap never covers the whole window.

    Parameters
    ----------
    rng
        The only source of randomness. The order of its numbers is part of the shipped weights.
    shape_yx
        (rows, columns) of the window, at least 13 x 13.
    """
    kind = rng.choice(["blobs", "box", "stripes"], p=[0.7, 0.18, 0.12])
    H, W = shape_yx
    if kind == "blobs":
        from scipy import ndimage

        field = ndimage.gaussian_filter(rng.standard_normal(shape_yx), rng.uniform(2.5, 11.0), mode="wrap")
        cover = rng.beta(1.6, 2.4) * 0.85 + 0.03
        return np.asarray(field > np.quantile(field, 1 - cover))
    if kind == "box":
        missing = np.zeros(shape_yx, bool)
        h, w = rng.integers(8, H - 4), rng.integers(8, W - 4)
        top, left = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
        missing[top : top + h, left : left + w] = True
        return missing
    period, width = rng.integers(6, 20), rng.integers(2, 6)
    slope = rng.uniform(-0.3, 0.3)
    phase = int(rng.integers(0, period))
    across = _across_stripes(np.arange(H), np.arange(W), slope, phase, int(period))
    stripes = across < width
    return np.asarray(stripes.T if rng.random() < 0.3 else stripes)


def _across_stripes(
    rows: NDArray[np.int_], cols: NDArray[np.int_], slope: float, phase: float, period: float
) -> NDArray[np.float64]:
    """Return the distance in rows from the first line of each pixel's stripe, 0 to ``period``."""
    return np.asarray((rows[:, None] + slope * cols[None, :] + phase) % period)


# The fields of `simulate`: pixels with the smallest values are missing first.


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
    rows, cols = (start + np.arange(size) for start, size in zip(origin, shape_yx, strict=True))
    across = _across_stripes(rows, cols, sign * _STRIPE_SLOPE, phase, _STRIPE_PERIOD_PX)
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
            # If boxes grow in proportion to their edges, this is the time at which the first reaches the pixel.
            field = np.minimum(field, np.maximum(np.abs(y) / edge_y[at], np.abs(x) / edge_x[at]))
    return field
