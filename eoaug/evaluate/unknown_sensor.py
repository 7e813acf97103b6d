"""The task "unknown sensor": super-resolution of images made in seven ways, none of which is named to the verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from eoaug.datasets.netcdf import is_sharp
from eoaug.errors import EoaugError
from eoaug.evaluate.scenes import Scene, cube_of
from eoaug.evaluate.table import Figure
from eoaug.evaluate.tally import Tally, psnr_of
from eoaug.generators.base import Generator
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import Float32Array
from eoaug.raster.sensor import Sensor
from eoaug.verbs.super_resolve import super_resolve

__all__ = ["FACTORS", "KINDS", "made_by", "unknown_sensor"]


FACTORS = (2, 4)
KINDS: tuple[str | float, ...] = ("box", 0.2, 0.3, 0.45, "cubic", "bilinear", "nearest")
"""How the coarse image was made: MTF at Nyquist, or a resampling."""
_PILLOW = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "cubic": Image.Resampling.BICUBIC,
}
"""Resamplings that Pillow makes, so that eoaug's own kernels do not judge themselves."""
_EDGE_PX = 8
"""Pixels at the edge that are not scored: there kernels are cut off in different ways."""
_DARKEST = 1e-6
"""Power in place of what kernels with negative weights leave below 0."""
_LEAST_PX = 32
"""Fewest coarse pixels along an axis; a smaller image cannot be estimated."""


def made_by(
    fine: Float32Array, kind: str | float, factor: int, *, decibels: Sequence[bool] = ()
) -> Float32Array:
    """Return an image (C, H, W) as a sensor or a resampling would have measured it, ``factor`` times coarser.

    Bands of ``decibels``, one truth value per band, are averaged as power.
    """
    if any(decibels):
        radar = np.asarray(decibels)[:, None, None]
        coarse = made_by(np.where(radar, 10 ** (fine / 10), fine).astype(np.float32), kind, factor)
        power = np.where(radar, np.maximum(coarse, _DARKEST), 1)
        return np.where(radar, 10 * np.log10(power), coarse).astype(np.float32)
    if kind not in _PILLOW:
        return Sensor.of(kind, factor, len(fine)).degrade(fine)
    size = (fine.shape[2] // factor, fine.shape[1] // factor)
    planes = [Image.fromarray(plane).resize(size, _PILLOW[str(kind)]) for plane in fine]
    return np.stack([np.asarray(plane, np.float32) for plane in planes])


def unknown_sensor(
    generator: Generator, scenes: Sequence[Scene], skipped: dict[str, str], *, progress: ProgressCounter
) -> list[Figure]:
    """Return the figures of every factor and kind, and of all kinds together.

    Parameters
    ----------
    generator
        Called by the verb `super_resolve`, once without a sensor and once with the right one.
    scenes
        One clear date of each with at least 64 x 64 pixels is used, of its bands with native pixels.
    skipped
        Files that cannot be used are added.
    progress
        Advances by one per scene.
    """
    name = generator.card.name
    own = (name, f"{name}, sensor named")
    tallies = {
        (factor, kind): Tally(f"unknown sensor, x{factor}" + (f", {_label(kind)}" if kind else ""), own)
        for factor in FACTORS
        for kind in ("", *KINDS)
    }
    for scene in scenes:
        progress.tiles(1)
        fine = _fine(scene)
        if isinstance(fine, str):
            skipped.setdefault(f"{scene.name}.nc", f"unknown sensor: {fine}")
            continue
        for factor in FACTORS:
            if min(next(iter(fine.values())).shape) // factor < _LEAST_PX:
                continue
            for kind in KINDS:
                try:
                    found = _scored(generator, scene, fine, kind, factor)
                except EoaugError as error:
                    skipped[f"{scene.name}.nc"] = f"unknown sensor: {error.problem}"
                    continue
                for method, parts in found.items():
                    for key in ((factor, kind), (factor, "")):
                        tallies[key].add(method, scene.place, parts)
    return [figure for tally in tallies.values() for figure in tally.figures()]


def _label(kind: str | float) -> str:
    return kind if isinstance(kind, str) else f"MTF {kind:g}"


def _fine(scene: Scene) -> dict[str, Float32Array] | str:
    """Return one clear date by band, or why there is none."""
    bands = [band for band in scene.optical if is_sharp(band.attrs)]
    if not bands:
        return "it has no band of reflectance with native pixels"
    height, width = (size // 8 * 8 for size in scene.cube.shape_yx)
    values = scene.values(bands)[..., :height, :width]
    if min(height, width) < FACTORS[0] * _LEAST_PX:
        return f"its window has {height} x {width} pixels"
    dates = scene.clear_dates(bands)
    if not dates:
        return "it has no clear date without a missing pixel"
    image = values[dates[len(dates) // 2]]
    return {band.name: image[index] for index, band in enumerate(bands)}


def _scored(
    generator: Generator, scene: Scene, fine: Mapping[str, Float32Array], kind: str | float, factor: int
) -> dict[str, dict[str, float]]:
    """Return the PSNR of each band by method."""
    truth = np.stack(list(fine.values()))
    coarse = made_by(truth, kind, factor)
    ds = cube_of(scene, dict(zip(fine, coarse, strict=True)), factor)
    name = generator.card.name
    gaussian = Sensor.of("gaussian", factor, len(truth))
    bicubic = gaussian.upsample(coarse)
    results = {
        name: _stacked(super_resolve(ds, factor=factor, generator=generator), fine),
        f"{name}, sensor named": _stacked(
            super_resolve(ds, factor=factor, generator=generator, sensor=kind), fine
        ),
        "bicubic": bicubic,
        "bicubic, back-projected for MTF 0.3": gaussian.project(bicubic, coarse),
    }
    inside = np.zeros(truth.shape[1:], bool)
    inside[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX] = True
    ranges = dict.fromkeys(fine, 1.0)
    return {method: psnr_of(image, truth, inside, ranges) for method, image in results.items()}


def _stacked(result: object, bands: Mapping[str, object]) -> Float32Array:
    return np.stack([result[name].values for name in bands])  # type: ignore[index]
