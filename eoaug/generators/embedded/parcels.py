"""Layout of a landscape: parcels in blocks in regions, a random tessellation.

Numpy. Some parcels are subdivided; there are roads between blocks and occasional rivers. Everything is a function of the
absolute pixel, so windows of one plane agree where they overlap. Other dates have the same borders, and some parcels
have changed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug.raster import noise
from eoaug.raster.arrays import Float64Array

__all__ = ["CUT", "PARCEL", "RIVER", "ROAD", "kinds", "layout", "regions"]

PARCEL, CUT, ROAD, RIVER = range(4)
"""Kinds of pixels: of a whole parcel, of a subdivided one, of a road, of a river."""


_EDGE_M = 260.0
"""Typical edge of a parcel; fields of the training cubes are 100 to 800 m wide."""
_EDGE_PX = (8.0, 64.0)
"""Limits of that edge: smaller parcels are texture, larger ones make a scene of one colour."""
_REGIONS = 20.0
"""Edge of a region of similar blocks, in parcels."""
_BLOCKS = 4.0
"""Edge of a block of similar parcels, in parcels."""
_SHARES = (0.15, 0.25, 0.6)
"""Shares of the variance that are common to a region, common to a block, and of the parcel alone."""
_PIECES = 0.35
"""Edge of a piece of a subdivided parcel, in parcels."""
_MOST_CUT = 0.4
"""Largest share of the parcels of a plane that are subdivided."""
_CHANGES = 0.25
"""Share of the variance of a parcel that changes from date to date."""
_JITTER = 0.35
"""Largest displacement of a parcel's centre, in edges."""
_BENDS = ((3.0, 0.35), (0.5, 0.06))
"""Displacement of borders by relief: correlation length and standard deviation, both in edges."""
_CLASS_BENDS = ((1.0, 0.15), (0.25, 0.04))
"""As `_BENDS`, for `regions`: borders of forests and towns are less straight than those of parcels."""
_ROAD_PX = 0.8
"""Half the width of a road."""
_ROAD, _RIVER = 1.7, -2.2
"""Normal number of roads (bright) and rivers (darkest)."""
_ROADS, _RIVERS = 0.6, 0.3
"""Shares of the planes that have roads, and rivers."""
_PAVED, _PAVED_M = 0.4, 25.0
"""Share of the borders of blocks that are roads, and the pixel size in metres above which fewer are visible."""
_RIVER_EDGES = 14.0
"""Distance between the bends of a river, in edges."""
_RIVER_PX = (0.8, 3.0)
"""Least and largest half of its width."""
_Cells = NDArray[np.int64]
_Draw = Callable[[str, tuple[int, int], tuple[int, int, int]], NDArray[np.float32]]


def layout(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    gsd_m: float,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
) -> NDArray[np.float32]:
    """Return a window of an infinite plane of parcels, each with one normal number per channel.

    A random tessellation (Moeller 1994, Lectures on Random Voronoi Tessellations): the cells of a jittered
    lattice in the maximum norm, in axes common to the plane, slightly bent.

    Parameters
    ----------
    origin
        Absolute index (row, column) of the first pixel.
    shape
        (channels, rows, columns). In the first channel, similar parcels are neighbours, and roads and rivers have
        their own number.
    gsd_m
        Pixel size in metres; NaN counts as 10.
    seed, member
        Key of the plane: planes that differ in any of them are independent.
    time
        Date, in seconds since 1970.

    Returns
    -------
    float32 of ``shape``: mean 0, standard deviation 1 over many planes, except on roads and rivers; two windows agree
    bit for bit where they overlap.
    """
    return _laid_out(origin, shape, gsd_m=gsd_m, seed=seed, member=member, time=time)[0]


def kinds(
    origin: tuple[int, int],
    shape: tuple[int, int],
    *,
    gsd_m: float,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
) -> NDArray[np.uint8]:
    """Return the kinds of the pixels of `layout`, shape (rows, columns): `PARCEL`, `CUT`, `ROAD` or `RIVER`."""
    return _laid_out(origin, (1, *shape), gsd_m=gsd_m, seed=seed, member=member, time=time)[1]


def regions(
    origin: tuple[int, int], shape: tuple[int, int], *, edge: float, seed: int, member: int
) -> NDArray[np.float32]:
    """Return two normal numbers of every region of a plane, shape (2, rows, columns): the cells of a bent jittered lattice.

    Parameters
    ----------
    origin, shape, seed, member
        As for `layout`.
    edge
        Typical edge of a region in pixels.
    """

    def drawn(name: str, start: tuple[int, int], window: tuple[int, int, int]) -> NDArray[np.float32]:
        return noise.normal(start, window, seed=seed, stream=f"layout {name}", member=member)

    H, W = shape
    rows = (origin[0] + np.arange(H, dtype=np.float64))[:, None]
    cols = origin[1] + np.arange(W, dtype=np.float64)
    bends = [
        bend * edge * _smooth_field(drawn, f"class bends {number}", rows, cols, edges * edge)
        for number, (edges, bend) in enumerate(_CLASS_BENDS)
    ]
    down, right = bends[0] + bends[1]
    nearest, _, _ = _cells(drawn, "class", (rows + down) / edge, (cols + right) / edge)
    return _of_cells(drawn, "class", nearest, 2).astype(np.float32)


def _laid_out(
    origin: tuple[int, int], shape: tuple[int, int, int], *, gsd_m: float, seed: int, member: int, time: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    C, H, W = shape

    def drawn(name: str, start: tuple[int, int], window: tuple[int, int, int]) -> NDArray[np.float32]:
        return noise.normal(start, window, seed=seed, stream=f"layout {name}", member=member)

    def dated(name: str, start: tuple[int, int], window: tuple[int, int, int]) -> NDArray[np.float32]:
        stream = f"layout {name} of a date"
        own = noise.normal(start, window, seed=seed, stream=stream, member=member, time=time)
        numbers_at = np.sqrt(1 - _CHANGES) * drawn(name, start, window) + np.sqrt(_CHANGES) * own
        return np.asarray(numbers_at, np.float32)

    plane = drawn("plane", (0, 0), (7, 1, 1))[:, 0, 0].astype(np.float64)
    turn, stretch, size, bent = plane[:4]
    cut, roads, river = special.ndtr(plane[4:])
    usual = _EDGE_M / (gsd_m if np.isfinite(gsd_m) and gsd_m > 0 else 10.0)
    edge_px = float(np.clip(usual * np.exp(0.35 * size), *_EDGE_PX))
    angle, long = np.pi / 2 * special.ndtr(turn), np.exp(0.3 * stretch)
    rows, cols = (
        (origin[0] + np.arange(H, dtype=np.float64))[:, None],
        origin[1] + np.arange(W, dtype=np.float64),
    )
    down, right = np.zeros((2, H, W))
    for number, (edges, bend) in enumerate(_BENDS):
        moved = _smooth_field(drawn, f"bends {number}", rows, cols, edges * edge_px)
        down, right = (down, right) + moved * (np.exp(0.7 * bent) * bend * edge_px)
    y, x = rows + down, cols + right
    u = (np.cos(angle) * y + np.sin(angle) * x) / (edge_px * long)
    v = (np.cos(angle) * x - np.sin(angle) * y) / (edge_px / long)
    region, _, _ = _cells(drawn, "region", u / _REGIONS, v / _REGIONS)
    block, beyond, inside = _cells(drawn, "block", u / _BLOCKS, v / _BLOCKS)
    parcel, _, _ = _cells(drawn, "parcel", u, v)
    piece, _, _ = _cells(drawn, "piece", u / _PIECES, v / _PIECES)
    out = np.zeros(shape)
    of = (drawn, "region", region), (drawn, "block", block), (dated, "parcel", parcel)
    for share, (numbers, name, cells) in zip(_SHARES, of, strict=True):
        out += np.sqrt(share) * _of_cells(numbers, name, cells, C)
    pieces = _of_cells(dated, "piece", piece, C)
    is_cut = special.ndtr(_of_cells(drawn, "cut", parcel, 1)[0]) < cut * _MOST_CUT
    out = np.where(is_cut, np.sqrt(0.5) * (out + pieces), out)
    kind = np.where(is_cut, CUT, PARCEL)
    if roads < _ROADS:
        # Symmetric in the two blocks: both sides of their border get the same number.
        border = sum(special.ndtr(_of_cells(drawn, "border", side, 1)[0]) for side in (block, beyond)) % 1.0
        paved = border < _PAVED * min(1.0, _PAVED_M / gsd_m if gsd_m > 0 else 1.0)
        is_road = paved & (inside * _BLOCKS * edge_px < _ROAD_PX)
        out[0], kind = np.where(is_road, _ROAD, out[0]), np.where(is_road, ROAD, kind)
    if river < _RIVERS:
        course = _smooth_field(drawn, "river", y, x, _RIVER_EDGES * edge_px)[0]
        width = _RIVER_PX[0] + (_RIVER_PX[1] - _RIVER_PX[0]) * river / _RIVERS
        is_river = np.abs(course) * _RIVER_EDGES * edge_px < 1.5 * width
        out[0], kind = np.where(is_river, _RIVER, out[0]), np.where(is_river, RIVER, kind)
    return np.asarray(out, np.float32), np.asarray(kind, np.uint8)


def _smooth_field(
    drawn: _Draw, name: str, rows: Float64Array, cols: Float64Array, step_px: float
) -> Float64Array:
    """Return two smooth fields, shape (2, H, W): smooth interpolation between numbers on a coarse lattice."""
    y, x = np.broadcast_arrays(rows / step_px, cols / step_px)
    i, j = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    start = (int(i.min()), int(j.min()))
    window = (2, int(i.max()) - start[0] + 2, int(j.max()) - start[1] + 2)
    numbers = drawn(name, start, window).astype(np.float64)
    i, j, fy, fx = i - start[0], j - start[1], _smooth(y - i), _smooth(x - j)
    above = numbers[:, i, j] * (1 - fx) + numbers[:, i, j + 1] * fx
    below = numbers[:, i + 1, j] * (1 - fx) + numbers[:, i + 1, j + 1] * fx
    numbers_at: Float64Array = above * (1 - fy) + below * fy
    return numbers_at


def _smooth(x: Float64Array) -> Float64Array:
    """Return the smoothstep cubic from 0 to 1."""
    return x * x * (3 - 2 * x)


def _cells(drawn: _Draw, name: str, u: Float64Array, v: Float64Array) -> tuple[_Cells, _Cells, Float64Array]:
    """Return the cells with the nearest and second nearest jittered centres in the maximum norm, shape (2, H, W) each.

    The third value is the distance to the border between them, shape (H, W), in cells.
    """
    i0, j0 = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    start = (int(i0.min()) - 1, int(j0.min()) - 1)
    window = (2, int(i0.max()) - start[0] + 2, int(j0.max()) - start[1] + 2)
    shift = _JITTER * (2 * special.ndtr(drawn(f"{name} centre", start, window)) - 1)
    best, second = np.full((2, *u.shape), np.inf)
    nearest = beyond = np.stack([i0, j0])
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            a, b = i0 + down, j0 + right
            du = u - (a + 0.5 + shift[0, a - start[0], b - start[1]])
            dv = v - (b + 0.5 + shift[1, a - start[0], b - start[1]])
            away = np.maximum(np.abs(du), np.abs(dv))
            nearer, near = away < best, away < second
            beyond = np.where(nearer, nearest, np.where(near, [a, b], beyond))
            second = np.where(nearer, best, np.where(near, away, second))
            best, nearest = np.where(nearer, away, best), np.where(nearer, [a, b], nearest)
    return nearest, beyond, (second - best) / 2


def _of_cells(drawn: _Draw, name: str, cells: _Cells, channels: int) -> Float64Array:
    """Return the numbers of cells, shape (channels, H, W)."""
    i, j = cells
    start = (int(i.min()), int(j.min()))
    window = (channels, int(i.max()) - start[0] + 1, int(j.max()) - start[1] + 1)
    numbers_at: Float64Array = drawn(name, start, window).astype(np.float64)[:, i - start[0], j - start[1]]
    return numbers_at
