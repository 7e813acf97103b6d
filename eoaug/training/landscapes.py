"""Windows of landscapes: what the network that draws land from nothing is trained on.

Imports the ground, the generators' numpy modules and this package's samples. A window is log reflectance around
the level of its scene, in units of the scene's spread. It is taken apart into a layout, pieces of one colour and one
roughness each, and a texture, what is left of it in units of that roughness: the network learns the texture of a
layout. Which colours and roughnesses go together in a scene is kept for drawing (`palettes`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from skimage import segmentation

from eoaug.datasets.training_cubes import TrainingCube, halve, metadata
from eoaug.errors import SourceError
from eoaug.generators.embedded import landscape
from eoaug.generators.embedded.features import from_log, to_log
from eoaug.raster.arrays import Float32Array

__all__ = ["LogReflectanceImage", "TextureSample", "draw", "palettes", "scenes"]


_CLOUD_BLUE = 0.25
"""Blue reflectance from which a pixel's colour is taken for a cloud's, which not all cubes have masks for."""
_LEAST_CLEAR = 0.97
_DRAWS = 500
_SMOOTHED = 0.4
"""Share of the palettes' spread that is drawn; the rest is from place to place."""
_RIDGE = 0.05
"""Weight of the ridge that completes palettes, over the mean variance of their known entries."""
_MOST = 6.0
"""Limit of a window's values in spreads, and of its texture in roughnesses."""
_SCALE = (300.0, 1200.0)
"""How much pieces must differ, as `skimage.segmentation.felzenszwalb` counts."""
_PIECE_PX = (12, 40)
"""Fewest pixels of a piece."""
_COLOURS = 32
"""Pieces of ground that stand for a scene."""


@dataclass(frozen=True, eq=False)
class LogReflectanceImage:
    """One cube on one date."""

    values: NDArray[np.float32]
    """Shape (C, H, W), log reflectance (`conditions.to_log`); NaN where missing or cloudy."""
    palette: NDArray[np.float64]
    """Shape (2 C,): level and log of the spread per band; NaN for absent bands."""
    gsd_m: float
    """Pixel size of ``values``."""
    metadata: NDArray[np.float64]
    """Shape (7,)."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Shape (C,), True for the bands that there are."""
        return np.isfinite(self.palette[: len(self.values)])


@dataclass(frozen=True, eq=False)
class TextureSample:
    """One training sample."""

    texture: NDArray[np.float32]
    """Shape (C, N, N), roughnesses around the layout; 0 for absent bands."""
    layout: NDArray[np.float32]
    """Shape (C + 1, N, N): colour, spreads around the level, 0 for absent bands; and the logarithm of the roughness."""
    measured: NDArray[np.bool_]
    """The same shape."""
    known: NDArray[np.bool_]
    """Shape (N, N), True where the network is told."""
    facts: NDArray[np.float32]
    """`landscape.facts`."""
    kind: str
    """Which part of the plane it stands for (`landscape.KINDS`)."""


def scenes(
    cubes: Sequence[TrainingCube], *, mean: Sequence[float], std: Sequence[float], window: int
) -> list[list[LogReflectanceImage]]:
    """Return the dates of every cube at every scale that holds a window, a list per cube and scale.

    A halved image is as sharp as its pixels allow, a native one is not: that serves only where it is sharp
    and too small to be halved.
    """
    found = []
    for cube in cubes:
        level = cube
        if not cube.sharp or min(cube.values.shape[2:]) >= 2 * window:
            level = halve(cube)
        while min(level.values.shape[2:]) >= window:
            dates = [
                scene
                for date in range(len(level.values))
                if (scene := _scene(level, date, mean, std)) is not None
            ]
            if dates:
                found.append(dates)
            level = halve(level)
    if not found:
        raise SourceError(
            f"land from nothing: none of {len(cubes)} cubes holds a clear window of {window} cells",
            "add larger cubes, or ones with less cloud",
        )
    return found


def _scene(
    cube: TrainingCube, date: int, mean: Sequence[float], std: Sequence[float]
) -> LogReflectanceImage | None:
    units = (cube.values[date] - np.asarray(mean)[:, None, None]) / np.asarray(std)[:, None, None]
    values = np.where(cube.clear[date], units, np.nan)
    there = np.isfinite(values)
    if there[cube.bands].mean() < 0.2:
        return None
    logs = np.where(there, to_log(np.nan_to_num(values), mean, std), np.float32(np.nan))
    told = metadata(cube, np.array([date]))[0]
    return LogReflectanceImage(logs.astype(np.float32), _palette(logs), cube.gsd_m, told)


def _palette(logs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return level and log spread of the bands of log reflectance, shape (2 C,); NaN for absent bands."""
    found = np.full((2, len(logs)), np.nan)
    there = np.isfinite(logs).any(axis=(1, 2))
    found[0, there] = np.nanmean(logs[there], axis=(1, 2))
    found[1, there] = np.log(np.nanstd(logs[there], axis=(1, 2)) + 0.05)
    return found.reshape(-1)


def draw(
    rng: np.random.Generator, groups: Sequence[Sequence[LogReflectanceImage]], *, window: int, context: int
) -> TextureSample:
    """Return one sample: large groups more often, by the root of their size.

    Half the samples do not know where and when they are, and some lack a band that their cube has.
    """
    weight = np.sqrt([sum(scene.values[0].size for scene in group) for group in groups])
    for _ in range(_DRAWS):
        group = groups[int(rng.choice(len(groups), p=weight / weight.sum()))]
        scene = group[int(rng.integers(len(group)))]
        H, W = scene.values.shape[1:]
        top, left = int(rng.integers(H - window + 1)), int(rng.integers(W - window + 1))
        part = scene.values[:, top : top + window, left : left + window]
        if np.isfinite(part[scene.present]).mean() >= _LEAST_CLEAR:
            break
    else:
        raise SourceError(
            f"no clear window of {window} pixels in {_DRAWS} draws", "add cubes with clear land"
        )
    present = scene.present.copy()
    if rng.random() < 0.15:
        drop = int(rng.choice(np.flatnonzero(present)))
        present[drop] = present.sum() == 1
    C = len(part)
    level, spread = scene.palette[:C, None, None], np.exp(scene.palette[C:, None, None])
    there = np.isfinite(part)
    units = np.where(there, np.clip((np.nan_to_num(part) - level) / spread, -_MOST, _MOST), 0)
    scale = float(np.exp(rng.uniform(*np.log(_SCALE))))
    labels, pieces, _ = _pieces(units, there, scale=scale, piece_px=int(rng.integers(*_PIECE_PX)))
    measured = there & present[:, None, None]
    colour = np.where(present[:, None, None], np.moveaxis(np.nan_to_num(pieces)[labels, :C], -1, 0), 0)
    rough = pieces[labels, C]
    texture = np.where(measured, np.clip((units - colour) / np.exp(rough), -_MOST, _MOST), 0)
    kind = str(rng.choice(list(landscape.KINDS), p=list(landscape.KINDS.values())))
    told = scene.metadata.copy()
    if rng.random() < 0.5:
        told[[0, 1, 3, 4, 5, 6]] = np.nan
    palette = np.where(np.tile(present, 2), scene.palette, np.nan)
    return TextureSample(
        texture=texture.astype(np.float32),
        layout=np.concatenate([colour, rough[None]]).astype(np.float32),
        measured=measured,
        known=landscape.known(kind, window, context),
        facts=landscape.facts(palette, scene.gsd_m, told),
        kind=kind,
    )


def _pieces(
    units: NDArray[np.floating], there: NDArray[np.bool_], *, scale: float, piece_px: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Return pieces of ground (Felzenszwalb & Huttenlocher 2004, doi:10.1023/B:VISI.0000022288.19776.77).

    Parameters
    ----------
    units, there
        Shape (C, H, W): spreads around the level, and where they were measured.
    scale, piece_px
        How much pieces must differ, and their fewest pixels.

    Returns
    -------
    Labels (H, W); colour and logarithm of the roughness per piece, shape (pieces, C + 1), NaN for bands that it
    has not; and its measured pixels.
    """
    bands = np.flatnonzero(there.any(axis=(1, 2)))
    flat = np.where(there, units, 0)[bands].reshape(len(bands), -1)
    # Three components say where things end, and the segmentation warns of more.
    axes = np.linalg.eigh(np.cov(flat).reshape(len(bands), -1))[1][:, ::-1][:, :3]
    seen = (axes.T @ flat).reshape(-1, *units.shape[1:])
    labels = segmentation.felzenszwalb(
        np.moveaxis(seen, 0, -1), scale=scale, sigma=0.6, min_size=piece_px, channel_axis=-1
    )

    def sums(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(labels.ravel(), values.ravel().astype(np.float64), labels.max() + 1)

    count = np.stack([sums(one) for one in there], axis=1)
    total = np.stack([sums(one) for one in np.where(there, units, 0)], axis=1)
    colour = np.full(total.shape, np.nan)
    np.divide(total, count, out=colour, where=count > 0)
    off = np.where(there, units - np.moveaxis(np.nan_to_num(colour)[labels], -1, 0), 0)
    square = sums((off**2).sum(axis=0)) / np.maximum(count.sum(axis=1), 1)
    rough = np.log(np.maximum(np.sqrt(square), landscape.LEAST_ROUGH))
    found = np.concatenate([colour, rough[:, None]], axis=1)
    return labels, found, count.max(axis=1)


def palettes(
    cubes: Sequence[TrainingCube], bands: Sequence[str], *, mean: Sequence[float], std: Sequence[float]
) -> Mapping[str, NDArray[np.float64]]:
    """Return the palettes that land from nothing is drawn with, and how they vary.

    A smoothed bootstrap (Silverman & Young 1987, doi:10.1093/biomet/74.3.469) of the places, every one counting
    alike: a Gaussian of them would mix the sea with the desert. Bands that a place lacks are those to expect
    from its others. Level and spread are then moved until reflectance has the places' own mean and standard
    deviation, for a few dark or bright scenes count for much in the logarithm's. 8-bit cubes without calibration
    know no reflectance and are left out.

    Parameters
    ----------
    cubes
        At least one that is calibrated.
    bands
        Common names of the slots, "blue" among them.
    mean, std
        Reflectance of model unit 0 and of one unit, per slot.

    Returns
    -------
    ``scenes``, shape (places, 2 C); ``root``, shape (2 C, 2 C), a square root of the covariance of what is added;
    and ``pieces``, shape (places, n, C + 1): colour and log roughness of pieces of ground that stand for equal
    parts of a place, from dark to bright.
    """
    places: dict[str, list[Float32Array]] = {}
    for cube in cubes:
        cells = halve(cube)
        found = [_scene(cells, date, mean, std) for date in range(len(cells.values))]
        for scene in (one for one in found if one is not None and cube.calibrated):
            cloudy = _reflectance(scene.values, mean, std)[bands.index("blue")] > _CLOUD_BLUE
            logs = np.where(cloudy, np.float32(np.nan), scene.values)
            places.setdefault(cube.name.removesuffix("_20m"), []).append(logs)
    if not places:
        raise SourceError(
            f"land from nothing: none of {len(cubes)} cubes knows reflectance",
            "add one whose bands have reflectance_scale",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # bands that no scene of a place has
        rows = np.stack([np.nanmean([_palette(one) for one in part], axis=0) for part in places.values()])
        moments = np.nanmean([_moments(part, mean, std) for part in places.values()], axis=0)
    C = len(bands)
    # A band that no place has is as bright and as varied as the card's unit.
    covariance, rows = _completed(rows, usual=np.repeat([0.0, np.log(0.5)], C))
    root = _SMOOTHED * _root(covariance)
    centre = rows.mean(axis=0)
    rows = centre + np.sqrt(1 - _SMOOTHED**2) * (rows - centre)
    ground = [_standing(part) for part in places.values()]
    _, pieces = _completed(np.concatenate(ground), usual=np.zeros(C + 1))
    pieces = pieces.reshape(len(ground), _COLOURS, C + 1)
    for band in np.flatnonzero(np.isfinite(moments).all(axis=0)).tolist():
        rows, root = _fitted(rows, root, pieces, band, moments[:, band], (mean[band], std[band]))
    return {"scenes": rows, "root": root, "pieces": pieces}


def _standing(part: Sequence[Float32Array]) -> NDArray[np.float64]:
    """Return the pieces of ground that stand for a place, shape (_COLOURS, C + 1); NaN for bands that it has not."""
    found, area = [], []
    for logs in (one for one in part if np.isfinite(one).any()):
        there, C = np.isfinite(logs), len(logs)
        palette = _palette(logs)
        level, spread = palette[:C, None, None], np.exp(palette[C:, None, None])
        units = np.where(there, (logs - level) / spread, 0)
        scale, fewest = float(np.sqrt(np.prod(_SCALE))), int(np.mean(_PIECE_PX))
        _, pieces, count = _pieces(np.clip(units, -_MOST, _MOST), there, scale=scale, piece_px=fewest)
        seen = np.isfinite(pieces[:, there.any(axis=(1, 2)).nonzero()[0]]).all(axis=1)
        found.append(pieces[seen])
        area.append(count[seen] / count[seen].sum())  # every date counts alike
    rows, weight = np.concatenate(found), np.concatenate(area)
    order = np.argsort(np.nanmean(rows[:, :-1], axis=1), kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    chosen = np.searchsorted(share, (np.arange(_COLOURS) + 0.5) / _COLOURS)
    return rows[order[np.minimum(chosen, len(order) - 1)]]


def _moments(
    part: Sequence[Float32Array], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float64]:
    """Return mean and mean square of the reflectance of a place, shape (2, C); NaN for absent bands."""
    flat = np.concatenate([one.reshape(len(mean), -1) for one in part], axis=1)
    reflectance = _reflectance(flat[..., None], mean, std)
    return np.stack([np.nanmean(reflectance**power, axis=(1, 2)) for power in (1, 2)])


def _reflectance(
    logs: NDArray[np.floating], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float64]:
    units = from_log(logs, mean, std)
    return np.asarray(units * np.asarray(std)[:, None, None] + np.asarray(mean)[:, None, None], np.float64)


def _completed(
    rows: NDArray[np.float64], *, usual: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the covariance of rows with gaps, and the rows with what is to be expected in them.

    ``usual`` stands for what no row has.
    """
    there = np.isfinite(rows)
    found = np.where(there, rows, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    centre = np.where(there.any(axis=0), found, usual)
    off = np.where(there, rows - centre, 0)
    root = _root(off.T @ off / np.maximum(there.T.astype(float) @ there, 1))
    covariance = root @ root.T
    for row, known in zip(off, there, strict=True):
        told = covariance[np.ix_(known, known)]
        told = told + (_RIDGE * np.trace(told) / len(told) + 1e-9) * np.eye(len(told))
        row[~known] = covariance[np.ix_(~known, known)] @ np.linalg.solve(told, row[known])
    return covariance, centre + off


def _fitted(
    rows: NDArray[np.float64],
    root: NDArray[np.float64],
    pieces: NDArray[np.float64],
    band: int,
    moments: NDArray[np.float64],
    unit: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return palettes whose band has these moments of reflectance: moved, and stretched about their mean."""
    C = rows.shape[1] // 2
    nodes, weight = np.polynomial.hermite_e.hermegauss(9)
    weight = weight / weight.sum()
    level, spread = rows[:, band], rows[:, C + band]
    # Axes below: places, pieces, what is drawn in a piece, and the two numbers that move a scene.
    drawn = nodes[:, None, None]
    first, second = (
        np.clip(nodes[:, None], -landscape.MOST, landscape.MOST),
        np.clip(nodes, -landscape.MOST, landscape.MOST),
    )
    shares = weight[:, None, None] * weight[:, None] * weight
    rough = np.sqrt(np.exp(2 * pieces[..., C]) + landscape.MOVED**2)
    units = pieces[..., band, None, None, None] + rough[..., None, None, None] * drawn
    added = _root_of_two(root[[band, C + band]])
    move_level = added[0, 0] * first
    wide = np.exp(spread[:, None, None, None, None] + added[1, 0] * first + added[1, 1] * second)

    def found(change: NDArray[np.float64]) -> NDArray[np.float64]:
        move, gain = change[0], np.exp(change[1])
        middle = level.mean() + gain * (level - level.mean()) + move
        logs = middle[:, None, None, None, None] + gain * (move_level + wide * units)
        reflectance = _reflectance(logs.reshape(1, -1, nodes.size), unit[:1], unit[1:]).reshape(logs.shape)
        return np.array([(reflectance**power * shares).sum(axis=(2, 3, 4)).mean() for power in (1, 2)])

    def off(change: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.log(found(change) / moments))

    # Within an octave or two: a place of one colour has no spread to stretch.
    move, gain = optimize.least_squares(off, np.zeros(2), bounds=([-2.0, -1.0], [2.0, 1.0])).x
    rows, root = rows.copy(), root.copy()
    rows[:, band] = level.mean() + np.exp(gain) * (level - level.mean()) + move
    rows[:, C + band] = spread + gain
    root[band] *= np.exp(gain)
    return rows, root


def _root_of_two(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower triangle that draws two correlated numbers as ``rows``, shape (2, n), draw them from n."""
    variance = (rows @ rows.T) + 1e-12 * np.eye(2)
    return np.asarray(np.linalg.cholesky(variance))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a symmetric square root; covariances of pairs from different places can be slightly negative."""
    variance, axes = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (axes * np.sqrt(np.maximum(variance, 0))) @ axes.T
    return root
