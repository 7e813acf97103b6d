"""The task "20 m to 10 m" by Wald's protocol: all bands are degraded by 2, and the coarse ones sharpened to what they were.

Wald, Ranchin & Mangolini 1997: at the reduced resolution, the coarse bands as measured are the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eoaug.cube.model import CubeBand
from eoaug.errors import EoaugError
from eoaug.evaluate.scenes import Scene, cube_of
from eoaug.evaluate.table import Figure
from eoaug.evaluate.tally import Tally, psnr_of
from eoaug.evaluate.unknown_sensor import made_by
from eoaug.generators.base import Generator
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import Float32Array
from eoaug.raster.bands import band_of
from eoaug.raster.cells import cell_means, repeat_phase
from eoaug.raster.sensor import Sensor
from eoaug.verbs.super_resolve import super_resolve

__all__ = ["native_sharpening"]


_TASK = "20 m to 10 m"
_KINDS: tuple[str | float, ...] = (0.3, "box")
"""How both resolutions are degraded; not named to the verb."""
_EDGE_PX = 4
_LEAST_PX = 24
_MOST_DATES = 2
_TOLERANCE = 0.06
"""As in the verb: relative difference of a ratio of pixel sizes from 2."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """Fine and coarse bands of one date."""

    fine: Mapping[str, Float32Array]
    """Shape (2 h, 2 w) by band."""
    coarse: Mapping[str, Float32Array]
    """Shape (h, w) by band."""


def native_sharpening(
    generator: Generator, scenes: Sequence[Scene], skipped: dict[str, str], *, progress: ProgressCounter
) -> list[Figure]:
    """Return the figures of the task, with the gain in each band.

    Parameters
    ----------
    generator
        Called by the verb `super_resolve` with ``native``.
    scenes
        Read with the files of their coarser bands; at most two clear dates of each are used.
    skipped
        Files without bands of two resolutions are added.
    progress
        Advances by one per scene.
    """
    name = generator.card.name
    if not generator.card.sharpens_bands:
        skipped[_TASK] = f"{name} does not sharpen bands with others"
        return []
    tallies = {kind: Tally(f"{_TASK}, {_label(kind)}", (name,)) for kind in _KINDS}
    for scene in scenes:
        progress.tiles(1)
        pairs = _pairs(scene)
        if isinstance(pairs, str):
            skipped.setdefault(f"{scene.name}.nc", f"{_TASK}: {pairs}")
            continue
        labels = {band.name: scene.label(band) for band in scene.cube.bands}
        for pair in pairs:
            for kind, tally in tallies.items():
                try:
                    found = _scored(generator, scene, pair, kind)
                except EoaugError as error:
                    skipped[f"{scene.name}.nc"] = f"{_TASK}: {error.problem}"
                    continue
                for method, parts in found.items():
                    by_label = {labels[name]: value for name, value in parts.items()}
                    tally.add(method, scene.place, by_label)
    return [figure for tally in tallies.values() for figure in tally.figures(by_band=True)]


def _label(kind: str | float) -> str:
    return kind if isinstance(kind, str) else f"MTF {kind:g}"


def _pairs(scene: Scene) -> list[_Pair] | str:
    """Return fine and coarse bands of clear dates, or why there are none."""
    fine, coarse = [], []
    for band in scene.cube.bands:
        ratio = _ratio(scene, band)
        if ratio is not None and abs(ratio - 1) < _TOLERANCE:
            fine.append(band)
        elif ratio is not None and abs(ratio / 2 - 1) < _TOLERANCE:
            coarse.append(band)
    if not fine or not coarse:
        return f"it has {len(fine)} bands of its own pixels and {len(coarse)} of twice their size"
    values = {band.name: scene.values([band])[:, 0] for band in (*fine, *coarse)}
    phases = {repeat_phase([(0, 0, image) for image in values[band.name]], 2) for band in coarse}
    if len(phases) != 1 or None in phases:
        return "its coarse bands do not repeat their values: they were interpolated"
    ((row, col),) = ((at[0] or 0, at[1] or 0) for at in phases if at is not None)
    height, width = ((size - at) // 4 * 4 for size, at in zip(scene.cube.shape_yx, (row, col), strict=True))
    if min(height, width) // 4 < _LEAST_PX // 2:
        return f"its window has {height} x {width} pixels"
    inner = np.s_[row : row + height, col : col + width]
    dates = [
        d
        for d in scene.clear_dates((*fine, *coarse))
        if all(np.isfinite(v[d][inner]).all() for v in values.values())
    ]
    if not dates:
        return "it has no clear date without a missing pixel"
    chosen = [dates[i] for i in np.linspace(0, len(dates) - 1, min(len(dates), _MOST_DATES)).astype(int)]
    return [
        _Pair(
            fine={band.name: values[band.name][date][inner] for band in fine},
            coarse={band.name: cell_means(values[band.name][date][inner][None], 2)[0] for band in coarse},
        )
        for date in chosen
    ]


def _ratio(scene: Scene, band: CubeBand) -> float | None:
    """Return the native pixel of a band relative to its file's; None if it is not known, or no reflectance."""
    if band not in scene.optical:
        return None
    entry = band_of(band.name, scene.cube.source.attrs.get("platform"))
    native = band.attrs.get("native_gsd_m", None if entry is None else entry.gsd_m)
    grid = scene.grid_m
    return None if native is None or not grid > 0 else float(native) / grid


def _scored(
    generator: Generator, scene: Scene, pair: _Pair, kind: str | float
) -> dict[str, dict[str, float]]:
    """Return the PSNR of each coarse band by method."""
    guide = made_by(np.stack(list(pair.fine.values())), kind, 2)
    truth = np.stack(list(pair.coarse.values()))
    measured = made_by(truth, kind, 2)
    repeated = measured.repeat(2, axis=1).repeat(2, axis=2)
    images = {**dict(zip(pair.fine, guide, strict=True)), **dict(zip(pair.coarse, repeated, strict=True))}
    ds = cube_of(scene, images, 2)
    grid = 2 * scene.grid_m
    native = dict.fromkeys(pair.coarse, 2 * grid) | dict.fromkeys(pair.fine, grid)
    sharpened = super_resolve(ds, native=native, generator=generator)
    sensor = Sensor.of(kind, 2, len(truth))
    bicubic = sensor.upsample(measured)
    results = {
        generator.card.name: np.stack([sharpened[name].values for name in pair.coarse]),
        "bicubic": bicubic,
        "bicubic, back-projected (sensor named)": sensor.project(bicubic, measured, passes=4),
    }
    inside = np.zeros(truth.shape[1:], bool)
    inside[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX] = True
    ranges = dict.fromkeys(pair.coarse, 1.0)
    return {method: psnr_of(image, truth, inside, ranges) for method, image in results.items()}
