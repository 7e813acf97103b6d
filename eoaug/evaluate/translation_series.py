"""SensorSeries of several sensors on one grid, for the evaluation of the verb translate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import CubeBand
from eoaug.datasets.positions import RADAR, radar_at
from eoaug.evaluate.scenes import RADAR_DB, Scene
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["LayerSeries", "SensorSeries", "on_grid_of", "series_of", "with_radar"]


@dataclass(frozen=True, eq=False)
class LayerSeries:
    """One band on all dates."""

    values: Float32Array
    """Shape (T, H, W), physical values, NaN where missing or clouded."""
    attrs: Mapping[str, Any]
    """Attributes of its variable: common name, platform, level, units."""


@dataclass(frozen=True, eq=False)
class SensorSeries:
    """Bands of one place on one grid, by name."""

    scene: Scene
    """Gives grid and place."""
    times: NDArray[np.datetime64]
    """Shape (T,)."""
    layers: Mapping[str, LayerSeries] = field(default_factory=dict)

    def values(self, names: Sequence[str]) -> Float32Array:
        """Return shape (T, C, H, W)."""
        return np.stack([self.layers[name].values for name in names], axis=1)

    def whole_dates(self, names: Sequence[str]) -> list[int]:
        """Return the dates on which some bands lack no pixel."""
        return np.flatnonzero(np.isfinite(self.values(names)).all(axis=(1, 2, 3))).tolist()

    def near(self, dates: Sequence[int], target: int, most: int) -> list[int]:
        """Return a date and at most ``most`` others that are nearest to it, in order."""
        order = sorted(dates, key=lambda date: abs(self.times[date] - self.times[target]))
        return sorted({target, *order[: most + 1]})

    def cube(
        self,
        names: Sequence[str],
        dates: Sequence[int],
        hidden: Mapping[str, BoolArray] | None = None,
    ) -> xr.Dataset:
        """Return some bands on some dates as users hold them.

        Parameters
        ----------
        names, dates
            Which.
        hidden
            Pixels that are missing by name of a band, of a shape that fits (dates, H, W).
        """
        base = self.scene.cube
        y, x = base.names_yx
        template = base.source[base.bands[0].name]
        coords = {name: c for name, c in template.coords.items() if set(c.dims) <= {y, x}}
        variables = {}
        for name in names:
            values = self.layers[name].values[list(dates)].copy()
            if hidden is not None and name in hidden:
                values[np.broadcast_to(hidden[name], values.shape)] = np.nan
            attrs = dict(self.layers[name].attrs)
            if "grid_mapping" in template.attrs:
                attrs["grid_mapping"] = template.attrs["grid_mapping"]
            variables[name] = (("time", y, x), values, attrs)
        return xr.Dataset(variables, {**coords, "time": self.times[list(dates)]})


def series_of(scene: Scene, bands: Sequence[CubeBand], *, all_dates: bool = False) -> SensorSeries:
    """Return bands of one file on its clear dates, or on all of them, some of which lack pixels."""
    dates = list(range(len(scene.seconds))) if all_dates else scene.clear_dates(bands)
    values = scene.values(bands)[dates]
    layers = {band.name: LayerSeries(values[:, i], _attrs(band)) for i, band in enumerate(bands)}
    return SensorSeries(scene, scene.seconds[dates].astype("datetime64[s]").astype("datetime64[ns]"), layers)


def _attrs(band: CubeBand) -> dict[str, Any]:
    own: dict[str, Any] = {"units": "1"}
    if band.common_name:
        own["common_name"] = band.common_name
    if band.product.sensor:
        own["platform"] = band.product.sensor
    if band.product.level:
        own["processing:level"] = f"L{band.product.level}"
    return own


def with_radar(series: SensorSeries, files: Sequence[Any]) -> SensorSeries | None:
    """Return a series with the VV and VH of the nearest radar image of each date; None if no file shows the place."""
    seconds = series.times.astype("datetime64[s]").astype(np.int64)
    images = radar_at(series.scene.cube.source, seconds, files)
    if images is None:
        return None
    # Of a calibration that nobody declared only differences are known.
    middle = np.nanmedian(images) if np.isfinite(images).any() else RADAR_DB
    images = images - np.float32(max(float(middle) - RADAR_DB, 0.0))
    radar = {
        name: LayerSeries(images[:, i], {"common_name": name.lower(), "units": "dB"})
        for i, name in enumerate(RADAR)
    }
    return replace(series, layers={**series.layers, **radar})


def on_grid_of(series: SensorSeries, other: SensorSeries, *, within_days: float) -> SensorSeries:
    """Return a series with the bands of another of the same place: the nearest pixel of the nearest date.

    Parameters
    ----------
    series
        Gives grid and dates.
    other
        On a grid of the same reference system.
    within_days
        Largest distance in time; dates without a nearer one are missing.
    """
    ours, theirs = series.scene.cube.geobox, other.scene.cube.geobox
    (height, width), to_theirs = ours.shape.yx, ~theirs.affine * ours.affine
    cols = np.floor([(to_theirs * (col + 0.5, 0.5))[0] for col in range(width)]).astype(int)
    rows = np.floor([(to_theirs * (0.5, row + 0.5))[1] for row in range(height)]).astype(int)
    their_height, their_width = theirs.shape.yx
    inside = np.outer((rows >= 0) & (rows < their_height), (cols >= 0) & (cols < their_width))
    rows, cols = np.clip(rows, 0, their_height - 1), np.clip(cols, 0, their_width - 1)
    limit = np.timedelta64(round(within_days * 86_400), "s")
    added = {}
    for name, layer in other.layers.items():
        values = np.full((len(series.times), height, width), np.nan, np.float32)
        for date, moment in enumerate(series.times):
            gaps = np.abs(other.times - moment)
            if len(gaps) and gaps.min() <= limit:
                image = layer.values[int(gaps.argmin())][np.ix_(rows, cols)]
                values[date] = np.where(inside, image, np.nan)
        added[name] = replace(layer, values=values)
    return replace(series, layers={**added, **series.layers})
