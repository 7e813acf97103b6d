"""Training data of unconditional landscape synthesis: windows split into layout and texture, and palettes.

A window is log reflectance relative to the level of its image, in units of the image's spread. A segmentation splits
it into a layout (segments, each with one colour and one roughness) and a texture (the residual in units of the
roughness). The network learns the texture given the layout. `palettes` keeps the joint distribution of colours and
roughnesses for synthesis.
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
from eoaug.generators.embedded import landscape, plane_windows
from eoaug.generators.embedded.features import from_log, to_log
from eoaug.raster.arrays import Float32Array

__all__ = ["LogReflectanceImage", "TextureSample", "draw", "image_groups", "palettes"]


_CLOUD_BLUE = 0.25
"""Blue reflectance above which a pixel counts as cloud in palettes; not all cubes have masks."""
_HAZY = 0.975
"""Blue over green of a place's median land above which palettes leave it out."""
_MIN_CLEAR = 0.97
_ATTEMPTS = 500
_SMOOTHED = 0.4
"""Share of the palettes' standard deviation that synthesis adds; the rest is variation between places."""
_RIDGE = 0.05
"""Ridge of the regression that completes palettes, relative to the mean variance of their known entries."""
_CLIP = 6.0
"""Clip of a window's values in spreads, and of its texture in roughnesses."""
_SCALE = (300.0, 1200.0)
"""Range of ``scale`` of `skimage.segmentation.felzenszwalb`."""
_MIN_SEGMENT_PX = (12, 40)
"""Range of the smallest segment in pixels."""
_SEGMENTS = 32
"""Segments that represent a place."""


@dataclass(frozen=True, eq=False)
class LogReflectanceImage:
    """One cube on one date, as log reflectance."""

    values: NDArray[np.float32]
    """Shape (C, H, W), log reflectance (`features.to_log`); NaN where missing or cloudy."""
    palette: NDArray[np.float64]
    """Shape (2 C,): level and log of the spread per band; NaN for absent bands."""
    gsd_m: float
    """Pixel size of ``values``."""
    metadata: NDArray[np.float64]
    """Shape (7,)."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Shape (C,), True for the bands that the image has."""
        return np.isfinite(self.palette[: len(self.values)])


@dataclass(frozen=True, eq=False)
class TextureSample:
    """One training sample of the landscape network; C bands, N x N pixels."""

    texture: NDArray[np.float32]
    """Shape (C, N, N), deviation from the layout in units of the roughness; 0 for absent bands."""
    layout: NDArray[np.float32]
    """Shape (C + 1, N, N): colour in spreads around the level (0 for absent bands), and log roughness."""
    measured: NDArray[np.bool_]
    """Shape (C, N, N), True where ``texture`` is measured."""
    known: NDArray[np.bool_]
    """Shape (N, N), True where the network gets the texture."""
    facts: NDArray[np.float32]
    """`landscape.facts`."""
    kind: str
    """Which neighbours are known (`plane_windows.KINDS`)."""


def image_groups(
    cubes: Sequence[TrainingCube], *, mean: Sequence[float], std: Sequence[float], window: int
) -> list[list[LogReflectanceImage]]:
    """Return the images of every cube at every scale that holds a window, one list per cube and scale.

    Halved images are used because they are as sharp as their pixels allow; native ones only if they are sharp and
    too small to be halved.
    """
    groups = []
    for cube in cubes:
        level = cube
        if not cube.sharp or min(cube.values.shape[2:]) >= 2 * window:
            level = halve(cube)
        while min(level.values.shape[2:]) >= window:
            dates = [
                image
                for date in range(len(level.values))
                if (image := _image(level, date, mean, std)) is not None
            ]
            if dates:
                groups.append(dates)
            level = halve(level)
    if not groups:
        raise SourceError(
            f"landscape: none of {len(cubes)} cubes holds a clear window of {window} cells",
            "add larger cubes, or ones with less cloud",
        )
    return groups


def _image(
    cube: TrainingCube, date: int, mean: Sequence[float], std: Sequence[float]
) -> LogReflectanceImage | None:
    units = (cube.values[date] - np.asarray(mean)[:, None, None]) / np.asarray(std)[:, None, None]
    values = np.where(cube.clear[date], units, np.nan)
    there = np.isfinite(values)
    if there[cube.bands].mean() < 0.2:
        return None
    logs = np.where(there, to_log(np.nan_to_num(values), mean, std), np.float32(np.nan))
    row = metadata(cube, np.array([date]))[0]
    return LogReflectanceImage(logs.astype(np.float32), _palette(logs), cube.gsd_m, row)


def _palette(logs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return level and log spread of the bands of log reflectance, shape (2 C,); NaN for absent bands."""
    palette = np.full((2, len(logs)), np.nan)
    present = np.isfinite(logs).any(axis=(1, 2))
    palette[0, present] = np.nanmean(logs[present], axis=(1, 2))
    palette[1, present] = np.log(np.nanstd(logs[present], axis=(1, 2)) + 0.05)
    return palette.reshape(-1)


def draw(
    rng: np.random.Generator, groups: Sequence[Sequence[LogReflectanceImage]], *, window: int, context: int
) -> TextureSample:
    """Return one sample; the probability of a group is proportional to the square root of its size.

    Half of the samples have no place and date, and some lack a band that their cube has.

    Parameters
    ----------
    rng
        The only source of randomness. The order of its numbers is part of the shipped weights.
    groups
        From `image_groups`.
    window, context
        Edge of the window in cells, and width of the known border.

    Raises
    ------
    SourceError
        No clear window was found.
    """
    weight = np.sqrt([sum(image.values[0].size for image in group) for group in groups])
    for _ in range(_ATTEMPTS):
        group = groups[int(rng.choice(len(groups), p=weight / weight.sum()))]
        image = group[int(rng.integers(len(group)))]
        H, W = image.values.shape[1:]
        top, left = int(rng.integers(H - window + 1)), int(rng.integers(W - window + 1))
        logs = image.values[:, top : top + window, left : left + window]
        if np.isfinite(logs[image.present]).mean() >= _MIN_CLEAR:
            break
    else:
        raise SourceError(
            f"landscape: no clear window of {window} pixels in {_ATTEMPTS} draws", "add cubes with clear land"
        )
    present = image.present.copy()
    if rng.random() < 0.15:
        removed = int(rng.choice(np.flatnonzero(present)))
        present[removed] = present.sum() == 1
    C = len(logs)
    level, spread = image.palette[:C, None, None], np.exp(image.palette[C:, None, None])
    there = np.isfinite(logs)
    units = np.where(there, np.clip((np.nan_to_num(logs) - level) / spread, -_CLIP, _CLIP), 0)
    scale = float(np.exp(rng.uniform(*np.log(_SCALE))))
    labels, segments, _ = _segments(units, there, scale=scale, min_px=int(rng.integers(*_MIN_SEGMENT_PX)))
    measured = there & present[:, None, None]
    colour = np.where(present[:, None, None], np.moveaxis(np.nan_to_num(segments)[labels, :C], -1, 0), 0)
    rough = segments[labels, C]
    texture = np.where(measured, np.clip((units - colour) / np.exp(rough), -_CLIP, _CLIP), 0)
    kind = str(rng.choice(list(plane_windows.KINDS), p=list(plane_windows.KINDS.values())))
    row = image.metadata.copy()
    if rng.random() < 0.5:
        row[[0, 1, 3, 4, 5, 6]] = np.nan
    palette = np.where(np.tile(present, 2), image.palette, np.nan)
    return TextureSample(
        texture=texture.astype(np.float32),
        layout=np.concatenate([colour, rough[None]]).astype(np.float32),
        measured=measured,
        known=plane_windows.known(kind, window, context),
        facts=landscape.facts(palette, image.gsd_m, row),
        kind=kind,
    )


def _segments(
    units: NDArray[np.floating], there: NDArray[np.bool_], *, scale: float, min_px: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Return the segments of an image (Felzenszwalb & Huttenlocher 2004, doi:10.1023/B:VISI.0000022288.19776.77).

    Parameters
    ----------
    units, there
        Shape (C, H, W): spreads around the level, and True where they were measured.
    scale, min_px
        Scale of the segmentation, and smallest segment in pixels.

    Returns
    -------
    Labels (H, W); colour and log roughness per segment, shape (segments, C + 1), NaN for absent bands; and its
    number of measured pixels.
    """
    bands = np.flatnonzero(there.any(axis=(1, 2)))
    flat = np.where(there, units, 0)[bands].reshape(len(bands), -1)
    # Three principal components suffice for boundaries, and the segmentation warns about more channels.
    axes = np.linalg.eigh(np.cov(flat).reshape(len(bands), -1))[1][:, ::-1][:, :3]
    components = (axes.T @ flat).reshape(-1, *units.shape[1:])
    labels = segmentation.felzenszwalb(
        np.moveaxis(components, 0, -1), scale=scale, sigma=0.6, min_size=min_px, channel_axis=-1
    )

    def sums(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(labels.ravel(), values.ravel().astype(np.float64), labels.max() + 1)

    count = np.stack([sums(band) for band in there], axis=1)
    total = np.stack([sums(band) for band in np.where(there, units, 0)], axis=1)
    colour = np.full(total.shape, np.nan)
    np.divide(total, count, out=colour, where=count > 0)
    off = np.where(there, units - np.moveaxis(np.nan_to_num(colour)[labels], -1, 0), 0)
    square = sums((off**2).sum(axis=0)) / np.maximum(count.sum(axis=1), 1)
    rough = np.log(np.maximum(np.sqrt(square), landscape.LEAST_ROUGH))
    return labels, np.concatenate([colour, rough[:, None]], axis=1), count.max(axis=1)


def palettes(
    cubes: Sequence[TrainingCube], bands: Sequence[str], *, mean: Sequence[float], std: Sequence[float]
) -> Mapping[str, NDArray[np.float64]]:
    """Return the palettes of unconditional landscape synthesis, and their covariance.

    A smoothed bootstrap (Silverman & Young 1987, doi:10.1093/biomet/74.3.469) of the places with equal weights: a
    single Gaussian would mix sea with desert. Bands that a place lacks are replaced by their expectation given its
    other bands. Level and spread are then adjusted until reflectance has the mean and standard deviation of the
    places, because a few dark or bright scenes have a large influence on moments of the logarithm. 8-bit cubes
    without calibration are left out, and so are places under haze, if there are others.

    Parameters
    ----------
    cubes
        At least one of them calibrated.
    bands
        Common names of the slots, "blue" among them.
    mean, std
        Reflectance of model unit 0 and of one unit, per slot.

    Returns
    -------
    ``scenes``, shape (places, 2 C); ``root``, shape (2 C, 2 C), a square root of the covariance of the smoothing;
    and ``pieces``, shape (places, n, C + 1): colour and log roughness of segments that represent equal areas of
    a place, from dark to bright.
    """
    places: dict[str, list[Float32Array]] = {}
    for cube in cubes:
        cells = halve(cube)
        images = [_image(cells, date, mean, std) for date in range(len(cells.values))]
        for image in (image for image in images if image is not None and cube.calibrated):
            cloudy = _reflectance(image.values, mean, std)[bands.index("blue")] > _CLOUD_BLUE
            logs = np.where(cloudy, np.float32(np.nan), image.values)
            places.setdefault(cube.name.removesuffix("_20m"), []).append(logs)
    if not places:
        raise SourceError(
            f"landscape: none of {len(cubes)} cubes is calibrated",
            "add a cube whose bands have the attribute reflectance_scale",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # bands that no image of a place has
        rows = np.stack(
            [np.nanmean([_palette(logs) for logs in images], axis=0) for images in places.values()]
        )
        clear = ~_hazy(rows[:, : len(bands)], bands, mean, std)
        if not clear.any():
            clear[:] = True
        images_of = [images for images, chosen in zip(places.values(), clear, strict=True) if chosen]
        moments = np.nanmean([_moments(images, mean, std) for images in images_of], axis=0)
    C, rows = len(bands), rows[clear]
    # A band that no place has gets the level and the spread of the card's unit.
    covariance, rows = _completed(rows, usual=np.repeat([0.0, np.log(0.5)], C))
    root = _SMOOTHED * _root(covariance)
    centre = rows.mean(axis=0)
    rows = centre + np.sqrt(1 - _SMOOTHED**2) * (rows - centre)
    representative = [_representative(images) for images in images_of]
    _, pieces = _completed(np.concatenate(representative), usual=np.zeros(C + 1))
    pieces = pieces.reshape(len(representative), _SEGMENTS, C + 1)
    for band in np.flatnonzero(np.isfinite(moments).all(axis=0)).tolist():
        rows, root = _fitted(rows, root, pieces, band, moments[:, band], (mean[band], std[band]))
    return {"scenes": rows, "root": root, "pieces": pieces}


def _hazy(
    levels: NDArray[np.float64], bands: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.bool_]:
    """Return which places are brighter in blue than in green, as land under haze or before atmospheric correction is."""
    if not {"blue", "green"} <= set(bands):
        return np.zeros(len(levels), bool)
    blue, green = (
        _reflectance(levels.T[:, :, None], mean, std)[bands.index(name), :, 0] for name in ("blue", "green")
    )
    return np.asarray(blue > _HAZY * green)


def _representative(images: Sequence[Float32Array]) -> NDArray[np.float64]:
    """Return the representative segments of a place, shape (_SEGMENTS, C + 1); NaN for absent bands."""
    segments, area = [], []
    for logs in (image for image in images if np.isfinite(image).any()):
        there, C = np.isfinite(logs), len(logs)
        palette = _palette(logs)
        level, spread = palette[:C, None, None], np.exp(palette[C:, None, None])
        units = np.where(there, (logs - level) / spread, 0)
        scale, fewest = float(np.sqrt(np.prod(_SCALE))), int(np.mean(_MIN_SEGMENT_PX))
        _, pieces, count = _segments(np.clip(units, -_CLIP, _CLIP), there, scale=scale, min_px=fewest)
        whole = np.isfinite(pieces[:, there.any(axis=(1, 2)).nonzero()[0]]).all(axis=1)
        segments.append(pieces[whole])
        area.append(count[whole] / count[whole].sum())  # every date with the same weight
    rows, weight = np.concatenate(segments), np.concatenate(area)
    order = np.argsort(np.nanmean(rows[:, :-1], axis=1), kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    chosen = np.searchsorted(share, (np.arange(_SEGMENTS) + 0.5) / _SEGMENTS)
    return rows[order[np.minimum(chosen, len(order) - 1)]]


def _moments(
    images: Sequence[Float32Array], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float64]:
    """Return mean and mean square of the reflectance of a place, shape (2, C); NaN for absent bands."""
    flat = np.concatenate([logs.reshape(len(mean), -1) for logs in images], axis=1)
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
    """Return the covariance of rows with missing entries, and the rows with those entries at their expectation.

    ``usual`` replaces entries that no row has.
    """
    there = np.isfinite(rows)
    mean = np.where(there, rows, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    centre = np.where(there.any(axis=0), mean, usual)
    off = np.where(there, rows - centre, 0)
    root = _root(off.T @ off / np.maximum(there.T.astype(float) @ there, 1))
    covariance = root @ root.T
    for row, known in zip(off, there, strict=True):
        block = covariance[np.ix_(known, known)]
        block = block + (_RIDGE * np.trace(block) / len(block) + 1e-9) * np.eye(len(block))
        row[~known] = covariance[np.ix_(~known, known)] @ np.linalg.solve(block, row[known])
    return covariance, centre + off


def _fitted(
    rows: NDArray[np.float64],
    root: NDArray[np.float64],
    pieces: NDArray[np.float64],
    band: int,
    moments: NDArray[np.float64],
    unit: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return palettes shifted and stretched about their mean so that a band has these moments of reflectance."""
    C = rows.shape[1] // 2
    nodes, weight = np.polynomial.hermite_e.hermegauss(9)
    weight = weight / weight.sum()
    level, spread = rows[:, band], rows[:, C + band]
    # Axes below: places, segments, texture within a segment, and the two numbers that move a scene.
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

    def moments_of(change: NDArray[np.float64]) -> NDArray[np.float64]:
        move, gain = change[0], np.exp(change[1])
        middle = level.mean() + gain * (level - level.mean()) + move
        logs = middle[:, None, None, None, None] + gain * (move_level + wide * units)
        reflectance = _reflectance(logs.reshape(1, -1, nodes.size), unit[:1], unit[1:]).reshape(logs.shape)
        return np.array([(reflectance**power * shares).sum(axis=(2, 3, 4)).mean() for power in (1, 2)])

    def off(change: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.log(moments_of(change) / moments))

    # Bounded to an octave or two, because a place of one colour has no spread to stretch.
    move, gain = optimize.least_squares(off, np.zeros(2), bounds=([-2.0, -1.0], [2.0, 1.0])).x
    rows, root = rows.copy(), root.copy()
    rows[:, band] = level.mean() + np.exp(gain) * (level - level.mean()) + move
    rows[:, C + band] = spread + gain
    root[band] *= np.exp(gain)
    return rows, root


def _root_of_two(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower-triangular root of the covariance of two rows, shape (2, n), of a square root."""
    variance = (rows @ rows.T) + 1e-12 * np.eye(2)
    return np.asarray(np.linalg.cholesky(variance))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a symmetric square root; covariances of pairs from different places can be slightly negative."""
    variance, axes = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (axes * np.sqrt(np.maximum(variance, 0))) @ axes.T
    return root
