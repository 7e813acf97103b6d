"""The torch-free generator: smooth fill, linear in time, cubic with back-projection.

Numpy and scipy. The functions are the classical estimates that learned generators start from and are
measured against; all work band by band, with a fixed number of sums in a fixed order, and look at
nothing outside the tile but the cells of `Request.wide`. Unknown values are 0 on the way in, as in `Request`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug import noise
from eoaug.errors import GeneratorError
from eoaug.generators.base import WIDE_CELL_PX, WIDE_CELLS, Card, Request
from eoaug.sensor import Sensor

__all__ = [
    "Classical",
    "coarse_prior",
    "consistent",
    "estimate",
    "from_cells",
    "push_pull",
    "surroundings",
    "temporal",
    "texture",
    "tile_of",
]

_SWEEPS = 4
"""Smoothing sweeps per pyramid level; measured on real holes, 4 is 0.1 dB from the exact membrane."""
_REACH = WIDE_CELLS - 1
"""Cells within which surroundings count: all that a tile sees from the frame of one cell around it."""
_FAR = 1e-4
"""Share of its weight that a cell further away has: it tells where no other does."""
_OCTAVES_PX = (1.0, 3.0, 9.0)
"""Standard deviations of the texture's octaves; equal variances make the spectrum of a landscape."""

_Image = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def push_pull(values: NDArray[np.floating], known: _Mask, around: _Image | None = None) -> _Image:
    """Return ``values`` with the unknown pixels filled smoothly from all around.

    An image pyramid: known pixels are averaged 2 x 2 down to one pixel, and holes are filled from the
    coarser level on the way back (Gortler et al. 1996, The Lumigraph, doi:10.1145/237170.237200), each
    level relaxed by a few sweeps towards the membrane, the surface without bumps.

    Parameters
    ----------
    values
        Shape (..., H, W), any size, any units; read only where ``known``.
    known
        The same shape. Known pixels come back bit for bit; a plane that has none comes back 0.
    around
        Shape (C, H // 8 + 32, W // 8 + 32): the same quantity in cells, as `Request.wide`; NaN where unknown.
        They are then what the pyramid ends in, so that tiles within one large hole agree.
    """
    known = np.broadcast_to(known, values.shape)
    values = np.where(known, values, 0).astype(np.float32)
    partly = ~known.all(axis=(-2, -1))
    if around is None:
        # Bands that the cube lacks are not worth a pyramid.
        partly &= known.any(axis=(-2, -1))
    if not partly.any():
        return values
    if around is None:
        values[partly] = _fill(values[partly], known[partly])
        return values
    frame = [(0, 0), (WIDE_CELL_PX, WIDE_CELL_PX), (WIDE_CELL_PX, WIDE_CELL_PX)]
    framed = _fill(
        np.pad(values[partly], frame), np.pad(known[partly], frame), _between_cells(around[partly])
    )
    values[partly] = framed[:, WIDE_CELL_PX:-WIDE_CELL_PX, WIDE_CELL_PX:-WIDE_CELL_PX]
    return values


def temporal(
    values: _Image, known: _Mask, times: NDArray[np.int64], target: int, wide: _Image | None = None
) -> _Image:
    """Return the estimate of one date from the others and from its own clear pixels.

    Each pixel is linear in time between the nearest known dates, or keeps the nearest one where only one
    side is known; what the clear pixels of the target date say about this estimate's error is spread
    smoothly over the rest (`push_pull`). Pixels without any known date are filled from around.

    Parameters
    ----------
    values
        Shape (T, C, H, W).
    known
        The same shape, True where measured.
    times
        Shape (T,), seconds, ascending.
    target
        Index of the date to estimate.
    wide
        As `Request.wide`: the error is spread from the surroundings' clear cells as well.

    Returns
    -------
    Shape (C, H, W); the target's known pixels come back bit for bit.
    """
    expected, expectable = _expected(values, known, times, target)
    seen = known[target]
    errors, rest = (None, None) if wide is None else _of_cells(wide, times, target)
    error = push_pull(values[target] - expected, seen & expectable, errors)
    corrected = np.where(seen, values[target], expected + error)
    return push_pull(corrected, seen | expectable, rest)


def _of_cells(wide: _Image, times: NDArray[np.int64], target: int) -> tuple[_Image, _Image]:
    """Return the error of what is expected of the cells of a date, and these cells corrected; NaN where unknown."""
    told = np.isfinite(wide)
    expected, expectable = _expected(np.where(told, wide, np.float32(0)), told, times, target)
    error = np.where(expectable, wide[target] - expected, np.float32(np.nan))
    corrected = expected + push_pull(error, np.isfinite(error))
    rest = np.where(expectable, corrected, np.float32(np.nan))
    return error, np.where(told[target], wide[target], rest)


def _expected(values: _Image, known: _Mask, times: NDArray[np.int64], target: int) -> tuple[_Image, _Mask]:
    """Return one date as a line in time through the nearest others, 0 where none is known, and where."""
    past, past_time, has_past = _nearest(values, known, times, range(target - 1, -1, -1))
    future, future_time, has_future = _nearest(values, known, times, range(target + 1, len(times)))
    span = future_time - past_time
    # Two dates of one moment count half each.
    share = np.divide(times[target] - past_time, span, out=np.full(span.shape, 0.5), where=span > 0)
    between = past + share.astype(np.float32) * (future - past)
    expected = np.where(has_past & has_future, between, np.where(has_past, past, future))
    return expected, has_past | has_future


def coarse_prior(coarse: _Image, sensor: Sensor) -> _Image:
    """Return the cubic interpolation of a coarse measurement, made consistent with it.

    Parameters
    ----------
    coarse
        Shape (..., C, h, w); NaN where not measured, which is filled smoothly and binds nothing.
    sensor
        How it was measured, with the factor f.

    Returns
    -------
    Shape (..., C, h f, w f).
    """
    start = sensor.upsample(push_pull(coarse, np.isfinite(coarse)))
    return sensor.project(start, coarse)


def from_cells(cells: _Image) -> _Image:
    """Return a smooth surface through the cells of a tile and of a frame of one cell around it.

    Parameters
    ----------
    cells
        Shape (C, H // 8 + 32, W // 8 + 32), as `Request.wide`, without gaps there.

    Returns
    -------
    Shape (C, H, W).
    """
    tile = cells[:, _REACH:-_REACH, _REACH:-_REACH]
    size = WIDE_CELL_PX
    while size > 1:
        tile = _double(tile, 2 * tile.shape[1], 2 * tile.shape[2])
        size //= 2
    return tile[:, WIDE_CELL_PX:-WIDE_CELL_PX, WIDE_CELL_PX:-WIDE_CELL_PX]


def texture(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
    correlation: float = 0.8,
) -> _Image:
    """Return a Gaussian random field of a window of the infinite plane: mean 0, standard deviation 1.

    A null model: the spectrum of a landscape down to the pixel, and no landscape.

    Parameters
    ----------
    origin
        Absolute index (row, column) of the first pixel.
    shape
        (bands, rows, columns).
    seed, member, time
        Identity; any two that differ give independent fields.
    correlation
        Of any two bands, 0 to 1.

    Returns
    -------
    float32 of ``shape``; two windows agree bit for bit where they overlap.
    """
    C, H, W = shape
    taps = [_gaussian_taps(sigma) for sigma in _OCTAVES_PX]
    pad = taps[-1].size // 2
    window = (H + 2 * pad, W + 2 * pad)
    start = (origin[0] - pad, origin[1] - pad)
    white = np.zeros((C, *window))
    for name, planes, share in (("shared", 1, correlation), ("own", C, 1 - correlation)):
        if share > 0:
            drawn = noise.normal(
                start, (planes, *window), seed=seed, stream=f"classical {name}", member=member, time=time
            )
            white += np.sqrt(share) * drawn.astype(np.float64)
    field = np.zeros(shape)
    for octave in taps:
        rows = ndimage.correlate1d(white, octave, axis=-2)[..., pad : pad + H, :]
        field += ndimage.correlate1d(rows, octave, axis=-1)[..., pad : pad + W]
    return (field / _octaves_std(taps)).astype(np.float32)


def estimate(request: Request) -> _Image:
    """Return the classical estimate of a request.

    Parameters
    ----------
    request
        What is known. Pixels under ``fill`` count as unknown, unless the verb is synthesize: there a known
        pixel under ``fill`` is the starting point.

    Returns
    -------
    Shape (T, C, H, W), model units: known pixels as they are, target dates estimated everywhere, 0
    elsewhere.
    """
    known = request.known & ~request.fill
    out = np.where(request.known, request.values, np.float32(0))
    verb = request.verb
    for date in np.flatnonzero(request.target).tolist():
        if verb == "super_resolve":
            made = tile_of(request, surroundings(request, date))
        elif verb == "synthesize":
            field = texture(
                request.origin,
                out.shape[1:],
                seed=request.seed,
                member=request.member,
                time=int(request.times[date]),
            )
            # From nothing: mean 0, deviation 1; a variation departs from its start by its strength.
            start = push_pull(request.values[date], request.known[date]) if request.strength < 1.0 else 0
            made = start + np.float32(request.strength) * field
        else:
            made = temporal(request.values, known, request.times, date, request.wide)
        out[date] = np.where(known[date], request.values[date], made)
    return out


@dataclass(frozen=True)
class Classical:
    """The generator without weights: deterministic, any bands, each on its own.

    It ignores member and seed except in synthesize, which is a null
    model (`texture`); from scratch it makes noise of a landscape's spectrum, not a landscape.
    """

    @property
    def card(self) -> Card:
        """What this generator can do."""
        return _CARD

    def generate(self, requests: Sequence[Request]) -> _Image:
        """Return shape (B, T, C, H, W), model units; pixels not under ``fill`` are the request's.

        Parameters
        ----------
        requests
            All of one shape.
        """
        if len(shapes := {request.values.shape for request in requests}) != 1:
            raise GeneratorError(
                f"The classical generator got requests of {len(shapes)} shapes: {sorted(shapes)}.",
                "Pass one or more requests of equal shape per call.",
            )
        return np.stack(
            [
                np.where(
                    request.fill,
                    estimate(request),
                    np.where(request.known, request.values, np.float32(0)),
                )
                for request in requests
            ]
        )


_CARD = Card(
    name="classical",
    tile_px=64,
    overlap_px=8,
    batch=8,
    context=3,
    surroundings=True,
    description=(
        "Push-pull fill, linear in time corrected from clear pixels, cubic interpolation with "
        "back-projection, Gaussian texture; no weights."
    ),
)


def surroundings(request: Request, date: int) -> _Image:
    """Return the prior of a super-resolution request's tile and of the halo around it.

    Shape (C, H + 2 halo f, W + 2 halo f), model units; what `consistent` needs of a request.
    """
    assert request.coarse is not None  # what makes it a super-resolution
    return coarse_prior(request.coarse[date], _sensor(request))


def consistent(request: Request, date: int, estimate: _Image, around: _Image, *, passes: int = 1) -> _Image:
    """Return an estimate of a super-resolution request's tile, projected on the coarse measurement.

    Parameters
    ----------
    request, date
        The request and one of its dates. The coarse pixels of its halo take part.
    estimate
        Shape (C, H, W), model units.
    around
        From `surroundings`: beyond the tile the prior stands for what the sensor saw there.
    passes
        As for `Sensor.project`.
    """
    assert request.coarse is not None  # what makes it a super-resolution
    whole = around.copy()
    tile_of(request, whole)[...] = estimate
    return tile_of(request, _sensor(request).project(whole, request.coarse[date], passes=passes))


def tile_of(request: Request, whole: _Image) -> _Image:
    """Return the view of a request's own tile in an image that has its halo around it."""
    edge = request.halo * request.factor
    return whole[:, edge : whole.shape[1] - edge, edge : whole.shape[2] - edge]


def _sensor(request: Request) -> Sensor:
    if request.sensor is None:
        raise GeneratorError(
            f"A request to super-resolve by {request.factor} does not say how the coarse pixels were measured.",
            "Set Request.sensor, for example Sensor.of('gaussian', factor, n_bands).",
        )
    return request.sensor


def _between_cells(cells: _Image) -> _Image:
    """Return the cells of a tile and of a frame of one cell around it, shape (C, H // 8 + 2, W // 8 + 2).

    Known cells as they are, others as the mean of the known ones by inverse distance (Shepard 1968,
    doi:10.1145/800186.810616). The weight falls to nothing where a neighbouring tile may see no further:
    tiles find the same for a place that they share. Only what lies deeper in a gap than that is told by
    all that the tile sees.
    """
    told = np.isfinite(cells)
    weights = _cell_weights(*cells.shape[1:])
    out = cells[:, _REACH:-_REACH, _REACH:-_REACH].copy()
    for plane, seen, image in zip(cells, told, out, strict=True):
        gap = np.isnan(image)
        near = weights[gap]
        total = np.einsum("ghw,hw->g", near, np.where(seen, plane, 0).astype(np.float64))
        weight = np.einsum("ghw,hw->g", near, seen.astype(np.float64))
        image[gap] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return out


@lru_cache(maxsize=8)
def _cell_weights(height: int, width: int) -> NDArray[np.float64]:
    """Return what each cell of the surroundings counts for each cell of the framed tile, (h, w, height, width)."""
    rows, cols = (
        np.square(np.arange(_REACH, n - _REACH)[:, None] - np.arange(n), dtype=np.float64)
        for n in (height, width)
    )
    square = rows[:, None, :, None] + cols[:, None, :]
    taper = np.maximum(1 - square / _REACH**2, 0) ** 2
    weights: NDArray[np.float64] = np.maximum(taper, _FAR) / (1 + square)
    weights.flags.writeable = False
    return weights


def _fill(values: _Image, known: _Mask, top: _Image | None = None) -> _Image:
    """Return ``values`` filled; ``top`` is the level that the pyramid ends in, None: a single pixel."""
    H, W = values.shape[-2:]
    if top is not None and values.shape == top.shape:
        return top
    if known.all() or H == W == 1:
        return values
    count = _sum2(known.astype(np.float32))
    mean = np.divide(_sum2(values), count, out=np.zeros_like(count), where=count > 0)
    guess = np.where(known, values, _double(_fill(mean, count > 0, top), H, W))
    return np.where(known, values, _relax(guess, ~known))


def _sum2(image: _Image) -> _Image:
    """Return sums over 2 x 2 pixels; a last odd row or column stands alone."""
    rows = image[..., 0::2, :].copy()
    rows[..., : image.shape[-2] // 2, :] += image[..., 1::2, :]
    sums = rows[..., 0::2].copy()
    sums[..., : image.shape[-1] // 2] += rows[..., 1::2]
    return sums


def _double(image: _Image, height: int, width: int) -> _Image:
    """Return bilinear interpolation to twice the size between pixel centres, cut to (height, width)."""
    for _ in range(2):
        # Rows, then columns as rows.
        near, far = np.float32(0.75) * image, np.float32(0.25) * image
        rows = np.empty((*image.shape[:-2], 2 * image.shape[-2], image.shape[-1]), np.float32)
        np.add(near[..., 1:, :], far[..., :-1, :], out=rows[..., 2::2, :])
        np.add(near[..., :-1, :], far[..., 1:, :], out=rows[..., 1:-1:2, :])
        np.add(near[..., [0, -1], :], far[..., [0, -1], :], out=rows[..., :: rows.shape[-2] - 1, :])
        image = rows.swapaxes(-2, -1)
    return image[..., :height, :width]


def _relax(image: _Image, free: _Mask) -> _Image:
    """Return ``image`` after Jacobi sweeps of Laplace's equation where ``free``, mirrored at the border."""
    *lead, height, width = image.shape
    framed = np.empty((*lead, height + 2, width + 2), np.float32)
    inner = framed[..., 1:-1, 1:-1]
    inner[...] = image
    pace = np.float32(0.25) * free.astype(np.float32)
    for _ in range(_SWEEPS):
        framed[..., 0, :] = framed[..., 1, :]
        framed[..., -1, :] = framed[..., -2, :]
        framed[..., :, 0] = framed[..., :, 1]
        framed[..., :, -1] = framed[..., :, -2]
        change = framed[..., :-2, 1:-1] + framed[..., 2:, 1:-1]
        change += framed[..., 1:-1, :-2]
        change += framed[..., 1:-1, 2:]
        change -= np.float32(4) * inner
        change *= pace
        inner += change
    return np.ascontiguousarray(inner)


def _nearest(
    values: _Image, known: _Mask, times: NDArray[np.int64], dates: range
) -> tuple[_Image, NDArray[np.float64], _Mask]:
    """Return value, time and presence of the first known date of ``dates`` per pixel, (C, H, W) each."""
    value = np.zeros(values.shape[1:], np.float32)
    time = np.zeros(values.shape[1:])
    found = np.zeros(values.shape[1:], dtype=bool)
    for date in dates:
        take = known[date] & ~found
        value = np.where(take, values[date], value)
        time = np.where(take, times[date], time)
        found = found | take
    return value, time, found


def _gaussian_taps(sigma_px: float) -> NDArray[np.float64]:
    offset = np.arange(-int(3 * sigma_px), int(3 * sigma_px) + 1)
    taps = np.exp(-0.5 * (offset / sigma_px) ** 2)
    # Unit variance of white noise after both axes.
    return np.asarray(taps / np.sqrt(np.sum(taps**2)))


def _octaves_std(taps: Sequence[NDArray[np.float64]]) -> float:
    """Return the standard deviation of the sum of the octaves, which are made of the same noise."""
    size = taps[-1].size
    padded = [np.pad(one, (size - one.size) // 2) for one in taps]
    return float(np.sqrt(sum(np.sum(one * other) ** 2 for one in padded for other in padded)))
