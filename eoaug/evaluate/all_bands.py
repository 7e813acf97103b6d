"""The task "all bands": gaps and super-resolution of whole files, with the bands that no network knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from eoaug.cube.model import CubeBand
from eoaug.datasets.netcdf import is_sharp
from eoaug.errors import EoaugError
from eoaug.evaluate.cases import HOLE_COVER, evenly
from eoaug.evaluate.scenes import Scene, cube_of, physical
from eoaug.evaluate.series_methods import SeriesPixels, linear_in_time
from eoaug.evaluate.table import Figure
from eoaug.evaluate.tally import Tally, psnr_of
from eoaug.evaluate.unknown_sensor import made_by
from eoaug.generators.base import Generator
from eoaug.generators.classical import Classical
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.raster.masks import simulate
from eoaug.raster.plausible import quantity_of
from eoaug.raster.sensor import Sensor
from eoaug.verbs.inpaint import inpaint
from eoaug.verbs.super_resolve import super_resolve

__all__ = ["all_bands", "value_range"]


_GAPS, _DATES, _FINE = "all bands, gaps", "all bands, gaps with dates", "all bands, x2"
_RANGES = {"reflectance": 1.0, "decibel": 30.0, "kelvin": 50.0}
"""Span of the values by quantity; of others, such as indices, that of the scene."""
_CONTEXT = 6
_MOST_DATES = 4
"""Largest number of dates per scene."""


def value_range(band: CubeBand, values: Float32Array) -> float:
    """Return the span that PSNR of a band refers to.

    Parameters
    ----------
    band
        Known kinds have a fixed one: 1 for reflectance, 30 dB, 50 K.
    values
        Physical values; for other kinds the distance of their 0.1 % and 99.9 % quantiles.
    """
    fixed = _RANGES.get(quantity_of(band.common_name) or "")
    if fixed is not None:
        return fixed
    low, high = np.nanquantile(values, (0.001, 0.999))
    return float(high - low) or 1.0


def all_bands(
    generator: Generator,
    scenes: Sequence[Scene],
    skipped: dict[str, str],
    *,
    limit: int | None,
    seed: int,
    progress: ProgressCounter,
) -> list[Figure]:
    """Return the figures of three tasks on all bands of each file, with the gain on `classical` in each band.

    Parameters
    ----------
    generator
        Called by the verbs with everything at its default.
    scenes
        At most four clear dates of each are used.
    skipped
        Files that the generator or the verbs refuse are added.
    limit
        Largest number of dates per scene.
    seed
        Of the holes.
    progress
        Advances by one per scene.
    """
    name = generator.card.name
    tallies = {task: Tally(task, (name,)) for task in (_GAPS, _DATES, _FINE)}
    most = _MOST_DATES if limit is None else min(limit, _MOST_DATES)
    for scene in scenes:
        progress.tiles(1)
        dates = scene.clear_dates(scene.cube.bands)
        if not dates:
            skipped.setdefault(f"{scene.name}.nc", "all bands: it has no clear date without a missing pixel")
            continue
        judge = _Judge(generator, scene, seed)
        for index in evenly(len(dates), most):
            try:
                judge.gaps(tallies[_GAPS], dates[index])
                judge.fine(tallies[_FINE], dates[index])
                if len(dates) > 1 and scene.seconds.any():
                    judge.dated(tallies[_DATES], index)
            except EoaugError as error:
                skipped[f"{scene.name}.nc"] = f"all bands: {error.problem}"
                break
    return [figure for tally in tallies.values() for figure in tally.figures(by_band=True)]


class _Judge:
    """Scores a generator and `classical` on one scene."""

    def __init__(self, generator: Generator, scene: Scene, seed: int) -> None:
        self.scene, self.seed, self.dates = scene, seed, scene.clear_dates(scene.cube.bands)
        self.generators: Mapping[str, Generator] = {
            "classical": Classical(),
            generator.card.name: generator,
        }
        self.bands = scene.cube.bands
        self.values = scene.values(self.bands)
        self.ranges = {band.name: value_range(band, self.values[:, i]) for i, band in enumerate(self.bands)}

    def hole(self, date: int) -> BoolArray:
        shape = self.scene.cube.shape_yx
        cover = float(np.random.default_rng([self.seed, date]).uniform(*HOLE_COVER))
        return simulate(shape, cover, seed=self.seed + date)

    def gaps(self, tally: Tally, date: int) -> None:
        """Fill holes of one date alone."""
        hole = self.hole(date)
        images = self._filled(self._dates([date]), hole[None], 0)
        self._add(tally, images, self.values[date], hole)

    def dated(self, tally: Tally, index: int) -> None:
        """Fill holes with the nearest clear dates as context."""
        dates, seconds = self.dates, self.scene.seconds
        target = dates[index]
        near = sorted(dates, key=lambda date: abs(int(seconds[date]) - int(seconds[target])))[: 1 + _CONTEXT]
        chosen = sorted(near)
        at = chosen.index(target)
        hole = np.zeros((len(chosen), *self.scene.cube.shape_yx), bool)
        hole[at] = self.hole(target)
        images = self._filled(self._dates(chosen), hole, at)
        known = np.broadcast_to(~hole[:, None], self.values[chosen].shape)
        clean = np.where(known, self.values[chosen], np.float32(0))
        series = SeriesPixels(values=clean, known=known, times=seconds[chosen])
        images["linear in time"] = linear_in_time(series, [at])[0]
        self._add(tally, images, self.values[target], hole[at])

    def fine(self, tally: Tally, date: int) -> None:
        """Refine a date that was averaged 2 x 2."""
        height, width = (size // 2 * 2 for size in self.scene.cube.shape_yx)
        truth = self.values[date, :, :height, :width]
        radar = [quantity_of(band.common_name) == "decibel" for band in self.bands]
        coarse = made_by(truth, "box", 2, decibels=radar)
        ds = cube_of(self.scene, dict(zip(self.ranges, coarse, strict=True)), 2)
        # Bands whose values were repeated or interpolated hold no detail to be found.
        where = np.zeros(truth.shape, bool)
        where[[is_sharp(band.attrs) for band in self.bands]] = True
        images = {}
        for name, generator in self.generators.items():
            result = super_resolve(ds, factor=2, generator=generator)
            images[name] = np.stack([result[band].values for band in self.ranges])
        images["bicubic"] = Sensor.of("box", 2, len(truth)).upsample(coarse)
        self._add(tally, images, truth, where)

    def _dates(self, dates: Sequence[int]) -> xr.Dataset:
        ds = self.scene.stored(self.bands)
        time = self.scene.cube.name_time
        return ds if time is None else ds.isel({time: list(dates)})

    def _filled(self, ds: xr.Dataset, hole: BoolArray, at: int) -> dict[str, Float32Array]:
        """Return what each generator makes of one date of a cube with holes (T, H, W)."""
        cube = self.scene.cube
        dims = cube.names_yx if cube.name_time is None else (cube.name_time, *cube.names_yx)
        coords = {dim: ds[dim] for dim in dims if dim in ds.coords}
        mask = xr.DataArray(hole[0] if cube.name_time is None else hole, coords, dims)
        images = {}
        for name, generator in self.generators.items():
            result = inpaint(ds, mask=mask, generator=generator)
            planes = []
            for band in self.bands:
                stored = result[band.name].transpose(*dims).values
                planes.append(physical(band, stored if cube.name_time is None else stored[at]))
            images[name] = np.stack(planes).astype(np.float32)
        return images

    def _add(
        self, tally: Tally, images: Mapping[str, Float32Array], truth: Float32Array, where: BoolArray
    ) -> None:
        """Score the images of one date by all methods, once all of them are there."""
        labels = {band.name: self.scene.label(band) for band in self.bands}
        for name, image in images.items():
            scores = psnr_of(image, truth, where, self.ranges)
            if scores:
                tally.add(name, self.scene.place, {labels[band]: value for band, value in scores.items()})
