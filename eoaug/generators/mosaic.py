"""A rough draft of land: parcels, as people or rock have cut it, over a texture.

Numpy. Land is neither a cloud of colour nor only fields, nor equally rough everywhere. Everything is a function of
the absolute pixel, so windows of one plane agree wherever they overlap.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug import noise
from eoaug.generators import classical

__all__ = ["draft", "parcels"]

_EDGE_M = 260.0
"""Typical edge of a parcel; fields of the training cubes are 100 to 800 m wide."""
_EDGE_PX = (8.0, 64.0)
"""Limits of that edge: smaller is texture, larger is a scene of one colour."""
_BLOCKS = 4.0
"""Edge of a block of like parcels, in parcels."""
_BLOCK_SHARE = 0.35
"""Part of the variance that parcels of one block share."""
_JITTER = 0.35
"""Largest displacement of a parcel's centre, in edges."""
_BEND = 0.5
"""Standard deviation of the displacement of boundaries by relief, in edges."""
_BEND_EDGES = 3.0
"""Distance over which that changes, in edges."""

_CUT = (0.4, 0.95)
"""Least and most that parcels make of a plane's variance."""
_ROUGHER = 0.5
"""Standard deviation of the logarithm of the texture's size, from parcel to parcel."""

_Float = NDArray[np.float64]
_Draw = Callable[[str, tuple[int, int], tuple[int, int, int]], NDArray[np.float32]]


def draft(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    gsd_m: float,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
) -> NDArray[np.float32]:
    """Return a window of an infinite plane of parcels, each with a texture of its own size.

    Parameters as for `parcels`.

    Returns
    -------
    float32 of ``shape``: bands independent of each other, mean 0, standard deviation 1 over many planes.
    """
    C, H, W = shape
    identity = {"seed": seed, "member": member, "time": time}
    shared = noise.normal((0, 0), (1, 1, 1), stream="draft", **identity)[0, 0, 0]
    least, most = _CUT
    cut = least + (most - least) * special.ndtr(float(shared))
    pieces = parcels(origin, (C + 1, H, W), gsd_m=gsd_m, **identity)
    texture = classical.texture(origin, shape, correlation=0.0, **identity)
    rougher = np.exp(_ROUGHER * pieces[C] - _ROUGHER**2)
    found = np.sqrt(1 - cut) * rougher * texture + np.sqrt(cut) * pieces[:C]
    return np.asarray(found, np.float32)


def parcels(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    gsd_m: float,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
) -> NDArray[np.float32]:
    """Return a window of an infinite plane of parcels, each of one normal number per band.

    A random tessellation (Moeller 1994, Lectures on Random Voronoi Tessellations): the cells of a jittered
    lattice in the maximum norm, in axes that the whole plane shares, bent a little.

    Parameters
    ----------
    origin
        Absolute index (row, column) of the first pixel.
    shape
        (bands, rows, columns).
    gsd_m
        Pixel size in metres; NaN counts as 10.
    seed, member, time
        Identity; any two that differ give independent planes.

    Returns
    -------
    float32 of ``shape``: mean 0, standard deviation 1; two windows agree bit for bit where they overlap.
    """
    C, H, W = shape

    def drawn(name: str, start: tuple[int, int], window: tuple[int, int, int]) -> NDArray[np.float32]:
        return noise.normal(start, window, seed=seed, stream=f"parcels {name}", member=member, time=time)

    turn, stretch, size = drawn("plane", (0, 0), (3, 1, 1))[:, 0, 0].astype(np.float64)
    usual = _EDGE_M / (gsd_m if np.isfinite(gsd_m) and gsd_m > 0 else 10.0)
    edge_px = float(np.clip(usual * np.exp(0.35 * size), *_EDGE_PX))
    angle, long = np.pi / 2 * special.ndtr(turn), np.exp(0.3 * stretch)
    rows, cols = (
        (origin[0] + np.arange(H, dtype=np.float64))[:, None],
        origin[1] + np.arange(W, dtype=np.float64),
    )
    down, right = _bends(drawn, rows, cols, edge_px)
    rows, cols = rows + down, cols + right
    u = (np.cos(angle) * rows + np.sin(angle) * cols) / (edge_px * long)
    v = (np.cos(angle) * cols - np.sin(angle) * rows) / (edge_px / long)
    out = np.zeros(shape)
    for name, edge, share in (("block", _BLOCKS, _BLOCK_SHARE), ("parcel", 1.0, 1 - _BLOCK_SHARE)):
        i, j = _nearest(drawn, name, u / edge, v / edge)
        start = (int(i.min()), int(j.min()))
        numbers = drawn(name, start, (C, int(i.max()) - start[0] + 1, int(j.max()) - start[1] + 1))
        out += np.sqrt(share) * numbers[:, i - start[0], j - start[1]]
    return out.astype(np.float32)


def _bends(drawn: _Draw, rows: _Float, cols: _Float, edge_px: float) -> _Float:
    """Return the displacement of each pixel, shape (2, H, W): numbers of a wide lattice, smoothly between."""
    y, x = rows / (_BEND_EDGES * edge_px), cols / (_BEND_EDGES * edge_px)
    i, j = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    start = (int(i.min()), int(j.min()))
    window = (2, int(i.max()) - start[0] + 2, int(j.max()) - start[1] + 2)
    numbers = drawn("bends", start, window).astype(np.float64)
    i, j, fy, fx = i - start[0], j - start[1], _smooth(y - i), _smooth(x - j)
    above = numbers[:, i, j] * (1 - fx) + numbers[:, i, j + 1] * fx
    below = numbers[:, i + 1, j] * (1 - fx) + numbers[:, i + 1, j + 1] * fx
    return (above * (1 - fy) + below * fy) * (_BEND * edge_px)


def _smooth(x: _Float) -> _Float:
    """Return the cubic that leads from 0 to 1 with level ends."""
    return x * x * (3 - 2 * x)


def _nearest(drawn: _Draw, name: str, u: _Float, v: _Float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lattice index of the cell whose jittered centre is nearest in the maximum norm."""
    i0, j0 = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    start = (int(i0.min()) - 1, int(j0.min()) - 1)
    window = (2, int(i0.max()) - start[0] + 2, int(j0.max()) - start[1] + 2)
    shift = _JITTER * (2 * special.ndtr(drawn(f"{name} centre", start, window)) - 1)
    best = np.full(u.shape, np.inf)
    i, j = i0.copy(), j0.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            a, b = i0 + down, j0 + right
            du = u - (a + 0.5 + shift[0, a - start[0], b - start[1]])
            dv = v - (b + 0.5 + shift[1, a - start[0], b - start[1]])
            away = np.maximum(np.abs(du), np.abs(dv))
            nearer = away < best
            best, i, j = np.where(nearer, away, best), np.where(nearer, a, i), np.where(nearer, b, j)
    return i, j
