"""The task "dirty masks": real series with their own masks, which miss rims, haze and shadow, filled as users fill them.

Real clouds have no truth. What can be seen is whether a filled pixel lies outside a generous envelope of the clear dates
of its place. For the error, clouds with their surroundings are moved from a cloudy date onto a clear one, so that
its mask leaves the same real cloudy pixels around the hole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import uniform_filter

from eoaug import metrics
from eoaug.errors import EoaugError
from eoaug.evaluate.cases import evenly
from eoaug.evaluate.scenes import Scene, Strip, StripImage
from eoaug.evaluate.series_methods import SERIES_METHODS, SeriesPixels
from eoaug.evaluate.table import Figure
from eoaug.evaluate.tally import Tally, psnr_of
from eoaug.generators.base import Generator
from eoaug.generators.classical import Classical
from eoaug.generators.interpolation.time_series import linear
from eoaug.progress import ProgressCounter
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.raster.grid import edges_m
from eoaug.raster.masks import dilate
from eoaug.verbs.inpaint import inpaint
from eoaug.verbs.masking import MASK_BUFFER_M

__all__ = ["ENVELOPE", "VARIANTS", "dirty_masks", "envelope", "outside"]


VARIANTS: Mapping[str, str] = {
    "as it is": "dirty masks",
    "eroded": "dirty masks, eroded by 40 m",
    "shifted": "dirty masks, shifted by 57 m",
}
"""Names of the tasks by what is done to the mask before the default buffer of `inpaint`."""
_MOVED_M = 40.0
"""Erosion, and shift along either axis: two native pixels of Sentinel-2's scene classification."""
_AROUND_M = 200.0
"""Distance from a cloud up to which a date does not count as land below the clouds of others."""
_SIGNAL = 0.01
"""Least difference from the land, in reflectance, that is moved with a cloud."""
_MOST_SHADOW = 0.8
"""Largest share of what a mask leaves that can be shadow."""
_PATCH_PX = 5
"""Edge of the window in which most pixels must differ."""
ENVELOPE = (0.7, 1.3, 0.01)
"""Factors on the smallest and the largest reflectance over the clear dates, and what is subtracted and added."""
_MOST_HIDDEN = 0.05
_MOST_SNOW = 0.1
"""Largest share of snow in what a date shows."""
_LEAST_CLEAR = 4
"""Fewest clear dates of an envelope."""
_MOVED_COVER = (0.05, 0.9)
"""Cover of the masks that are moved onto clear dates."""
_WORST = 12
_MASK = "dirty_mask"
_WRONG = (220, 30, 30)


def envelope(
    values: Float32Array, known: BoolArray, clear: Sequence[int]
) -> tuple[Float32Array, Float32Array]:
    """Return the least and the largest plausible reflectance of every pixel, NaN where no clear date shows it.

    Parameters
    ----------
    values
        Shape (T, C, H, W), reflectance.
    known
        Shape (T, H, W), False under the mask.
    clear
        Indices of the clear dates.
    """
    low, high, slack = ENVELOPE
    shown = np.where(known[clear][:, None], values[clear], np.float32(np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels that no clear date shows
        least, most = np.nanmin(shown, axis=0), np.nanmax(shown, axis=0)
    return (least * low - slack).astype(np.float32), (most * high + slack).astype(np.float32)


def outside(image: Float32Array, bounds: tuple[Float32Array, Float32Array]) -> BoolArray:
    """Return where an image (C, H, W) lies outside an envelope; False where there is none."""
    return np.asarray((image < bounds[0]) | (image > bounds[1]))


def dirty_masks(
    generator: Generator,
    scenes: Sequence[Scene],
    skipped: dict[str, str],
    *,
    limit: int | None,
    progress: ProgressCounter,
) -> tuple[list[Figure], list[Strip]]:
    """Return the figures of the three tasks, and the worst twelve dates as pictures.

    Parameters
    ----------
    generator
        Called by the verb `inpaint` with its default ``mask_buffer``.
    scenes
        Those without a mask, dates or enough clear dates are added to ``skipped``.
    skipped
        Files and the reason.
    limit
        Largest number of cloudy dates, and of clear dates with moved clouds, per scene.
    progress
        Advances by one per scene.
    """
    generators = {generator.card.name: generator}
    generators.setdefault("classical", Classical())
    name = generator.card.name
    tallies = {variant: Tally(task, (name,)) for variant, task in VARIANTS.items()}
    worst: list[tuple[float, Strip]] = []
    for scene in scenes:
        progress.tiles(1)
        reason = _why_not(scene)
        if reason:
            skipped.setdefault(f"{scene.name}.nc", reason)
            continue
        for variant, tally in tallies.items():
            series = _Dirty.of(scene, variant)
            if len(series.clear) < _LEAST_CLEAR:
                skipped.setdefault(
                    f"{scene.name}.nc", f"it has {len(series.clear)} clear dates for an envelope"
                )
                break
            try:
                found = series.real(generators, tally, limit)
                series.pasted(generators, tally, limit)
            except EoaugError as error:
                skipped[f"{scene.name}.nc"] = error.problem
                break
            if variant == "as it is":
                worst += found
    worst.sort(key=lambda each: -each[0])
    figures = [figure for tally in tallies.values() for figure in tally.figures(by_band=False)]
    return figures, [strip for _, strip in worst[:_WORST]]


def _why_not(scene: Scene) -> str:
    if scene.cloud is None:
        return "dirty masks: it has no cloud mask"
    if not scene.reflectances:
        return "dirty masks: it has no band of reflectance"
    if scene.cube.times is None or len(scene.cube.times) < _LEAST_CLEAR:
        return "dirty masks: it has no series of dates"
    if scene.cube.geobox.crs is None:
        return "dirty masks: it has no reference system that says how large a pixel is"
    return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Dirty:
    """A scene with one variant of its mask."""

    scene: Scene
    variant: str
    values: Float32Array
    """Shape (T, C, H, W), reflectance."""
    cloud: BoolArray
    """Shape (T, H, W), the variant of the mask before any buffer."""
    hidden: BoolArray
    """The same, dilated as the verb does."""
    clear: list[int]
    """Dates of the envelope."""
    pixel_m: tuple[float, float]

    @classmethod
    def of(cls, scene: Scene, variant: str) -> _Dirty:
        assert scene.cloud is not None
        pixel_m = edges_m(scene.cube.geobox)
        cloud = _variant(scene.cloud, variant, pixel_m)
        values = scene.values(scene.reflectances)
        hidden = _hidden(scene, cloud)
        # The same dates for every variant: what a mask misses must not decide which dates are clear.
        as_it_is = _hidden(scene, scene.cloud)
        whole = np.isfinite(values).all(axis=(1, 2, 3))
        clear = np.flatnonzero(whole & (as_it_is.mean(axis=(1, 2)) <= _MOST_HIDDEN) & ~scene.closed).tolist()
        return cls(
            scene=scene,
            variant=variant,
            values=values,
            cloud=cloud,
            hidden=hidden,
            clear=clear,
            pixel_m=pixel_m,
        )

    def real(
        self, generators: Mapping[str, Generator], tally: Tally, limit: int | None
    ) -> list[tuple[float, Strip]]:
        """Score the dates with clouds by the envelope; return a strip of each with how bad it is."""
        assert self.scene.cloud is not None
        cloudy = [
            date
            for date in range(len(self.hidden))
            if self.hidden[date].any() and date not in self.clear and not self._snowy(date)
        ]
        dates = [cloudy[i] for i in evenly(len(cloudy), limit)]
        if not dates:
            return []
        truth_known = ~_hidden(self.scene, self.scene.cloud)
        bounds = envelope(self.values, truth_known & np.isfinite(self.values).all(axis=1), self.clear)
        strips = []
        results = dict(self.results(generators, self.values, self.cloud, dates))
        for index, date in enumerate(dates):
            filled = self.hidden[date] & np.isfinite(bounds[0]).all(axis=0)
            if not filled.any():
                continue
            for method, images in results.items():
                wrong = outside(images[index], bounds)[:, filled]
                tally.add(method, self.scene.place, outside=100 * float(wrong.mean()))
            strips.append(
                self._strip(date, {name: images[index] for name, images in results.items()}, bounds)
            )
        return strips

    def _snowy(self, date: int) -> bool:
        """Return whether what a date shows is snow, which few clear dates have: then their envelope says nothing."""
        snow, cloud = self.scene.snow, self.scene.cloud
        if snow is None or cloud is None or cloud[date].all():
            return False
        return bool(snow[date][~cloud[date]].mean() > _MOST_SNOW)

    def pasted(self, generators: Mapping[str, Generator], tally: Tally, limit: int | None) -> None:
        """Score clear dates onto which clouds were moved, by their truth."""
        # Every third date: the others stay clear evidence.
        targets = [self.clear[1::3][i] for i in evenly(len(self.clear[1::3]), limit)]
        values, cloud = self.values.copy(), self.cloud.copy()
        for date, source, signal in self._signals(targets):
            values[date] = np.maximum(values[date] + signal, 0.0)
            cloud[date] |= self.cloud[source]
        hidden = _hidden(self.scene, cloud) & ~self.hidden
        ranges = {band.name: 1.0 for band in self.scene.reflectances}
        targets = [date for date in targets if hidden[date].any()]
        if not targets:
            return
        results = dict(self.results(generators, values, cloud, targets))
        for method, images in results.items():
            for date, image in zip(targets, images, strict=True):
                truth = self.values[date]
                whole = np.where(hidden[date], image, truth)
                where = np.broadcast_to(hidden[date], whole.shape)
                ssim = metrics.ssim(whole, truth, data_range=1.0, where=where)
                parts = psnr_of(image, truth, hidden[date], ranges)
                tally.add(method, self.scene.place, parts, ssim=ssim)

    def _signals(self, targets: Sequence[int]) -> Iterator[tuple[int, int, Float32Array]]:
        """Yield dates, each with a cloudy one near it and what its clouds add to the land, (C, H, W).

        The land below a cloud is that of the other dates, linear in time. Outside the mask, what differs from it in all bands
        the same way and by more than noise is part of the cloud: rims and haze are brighter, shadows darker, whereas a mown
        field is brighter in some bands and darker in others.
        """
        scene, times = self.scene, self.scene.seconds
        assert scene.cloud is not None
        least, most = _MOVED_COVER
        cover = scene.cloud.mean(axis=(1, 2))
        whole = np.isfinite(self.values).all(axis=(1, 2, 3))
        sources = np.flatnonzero((cover >= least) & (cover <= most) & whole)
        if not sources.size:
            return
        around = dilate(scene.cloud, _AROUND_M, self.pixel_m) | scene.closed[:, None, None]
        known = ~around[:, None] & np.isfinite(self.values)
        for number, date in enumerate(targets):
            near = sources[np.argsort(np.abs(times[sources] - times[date]), kind="stable")]
            source = int(near[number % min(3, len(near))])
            land, _ = linear(self.values, known, times, source)
            signal = self.values[source] - land
            brighter, darker = (signal > _SIGNAL).all(axis=0), (signal < -_SIGNAL).all(axis=0)
            # A shadow has an edge: where nearly all is darker, it is the light of that date.
            if darker[~scene.cloud[source]].mean() <= _MOST_SHADOW:
                brighter |= darker
            part = scene.cloud[source] | (uniform_filter(brighter.astype(np.float32), _PATCH_PX) > 0.5)
            yield date, source, np.where(part, signal, np.float32(0))

    def results(
        self,
        generators: Mapping[str, Generator],
        values: Float32Array,
        cloud: BoolArray,
        dates: Sequence[int],
    ) -> Iterator[tuple[str, Float32Array]]:
        """Yield what each method makes of some dates, (dates, C, H, W) in reflectance."""
        bands = self.scene.reflectances
        ds = self._dataset(values, cloud)
        for name, generator in generators.items():
            lazy = inpaint(ds, mask=_MASK, generator=generator, chunks={self.scene.cube.name_time: 1})
            result = lazy[[band.name for band in bands]].isel({self.scene.cube.name_time: list(dates)}).load()
            order = (self.scene.cube.name_time, *self.scene.cube.names_yx)
            images = [result[band.name].transpose(*order).values for band in bands]
            yield name, np.stack(images, axis=1).astype(np.float32)
        known = ~_hidden(self.scene, cloud)[:, None] & np.isfinite(values)
        clean = np.where(known, values, np.float32(0))
        series = SeriesPixels(values=clean, known=known, times=self.scene.seconds)
        for name, method in SERIES_METHODS.items():
            yield name, method(series, dates)

    def _dataset(self, values: Float32Array, cloud: BoolArray) -> xr.Dataset:
        cube = self.scene.cube
        dims = (cube.name_time, *cube.names_yx)
        variables: dict[str, Any] = {
            band.name: (dims, values[:, index], {"common_name": band.common_name, "units": "1"})
            for index, band in enumerate(self.scene.reflectances)
        }
        flags = {"flag_values": [0, 1], "flag_meanings": "clear cloud"}
        variables[_MASK] = (dims, cloud.astype(np.uint8), flags)
        coords = {name: cube.source.coords[name] for name in cube.source.coords}
        return xr.Dataset(variables, coords, dict(cube.source.attrs))

    def _strip(
        self, date: int, images: Mapping[str, Float32Array], bounds: tuple[Float32Array, Float32Array]
    ) -> tuple[float, Strip]:
        """Return how much of a date a generator filled implausibly, and its pictures."""
        scene, hidden = self.scene, self.hidden[date]
        name, first = next(iter(images.items()))
        wrong = outside(first, bounds).any(axis=0) & hidden
        clear = min(self.clear, key=lambda other: abs(int(scene.seconds[other]) - int(scene.seconds[date])))
        day, other_day = (
            str(scene.seconds[d].astype("datetime64[s]").astype("datetime64[D]")) for d in (date, clear)
        )
        shown = [
            StripImage(caption=day, note=scene.name, image=self.values[date]),
            StripImage(
                caption="given", note=f"{hidden.mean():.0%} to fill", image=self.values[date], hidden=hidden
            ),
        ]
        for method in (name, "classical", "linear in time"):
            if method in images:
                apart = outside(images[method], bounds)
                image = np.where(hidden, images[method], self.values[date])
                share = f"{apart[:, hidden].mean():.1%} outside"
                shown.append(StripImage(caption=method, note=share, image=image))
        shown += [
            StripImage(
                caption="outside",
                note="of the envelope, in red",
                image=self.values[clear],
                hidden=wrong,
                colour=_WRONG,
            ),
            StripImage(caption="nearest clear date", note=other_day, image=self.values[clear]),
        ]
        common = tuple(str(band.common_name) for band in scene.reflectances)
        badness = float(outside(first, bounds)[:, hidden].mean() * hidden.mean())
        return badness, Strip(task=VARIANTS["as it is"], bands=common, images=tuple(shown))


def _variant(cloud: BoolArray, variant: str, pixel_m: tuple[float, float]) -> BoolArray:
    """Return a mask as it is, eroded, or shifted down and right."""
    if variant == "eroded":
        return ~dilate(~cloud, _MOVED_M, pixel_m)
    if variant == "shifted":
        rows, cols = (max(round(_MOVED_M / edge), 1) for edge in pixel_m)
        out = np.zeros_like(cloud)
        out[:, rows:, cols:] = cloud[:, :-rows, :-cols]
        return out
    return cloud


def _hidden(scene: Scene, cloud: BoolArray) -> BoolArray:
    """Return a mask with the default buffer of `inpaint`."""
    return dilate(cloud, MASK_BUFFER_M, edges_m(scene.cube.geobox))
