"""From windows of classes to the statistics and the legend that the embedded generator draws land by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.generators.embedded.land import VISIBLE, Land, LandStatistics, infrared_terms
from eoaug.generators.embedded.legend import LandClass, Legend
from eoaug.land_tuning.windows import LandWindow, LandWindows
from eoaug.raster.arrays import Float64Array
from eoaug.training.land import (
    CHIPS,
    ChipColours,
    ClassColourStatistics,
    LandChip,
    chip_colours,
    colours_of,
    further_bands_of,
    logs_of,
    most_uniform,
    ridge,
    root_of,
)

__all__ = ["LandFit", "painted_bands"]


_WATER = "sea_lake"
_SHORELESS = 0.5
"""Share of the windows of water that is kept: the most uniform ones."""
_SMOOTH = 1e-4
"""Weight of the ridge where bands that a set lacks are estimated from those that it has."""


def painted_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the three bands that shapes are painted in: the visible ones, else the first of a set, repeated if it has fewer."""
    if set(VISIBLE) <= set(bands):
        return VISIBLE
    return tuple(bands[i % len(bands)] for i in range(3))


@dataclass(frozen=True, eq=False)
class _MeasuredClass:
    """What was measured of the windows of one class."""

    chips: Sequence[LandChip]
    colours: Sequence[ChipColours]
    mean: Float64Array
    """Mean logarithm of reflectance of every band of the set."""


@dataclass(frozen=True, eq=False)
class _FittedClass:
    """What was fitted to the windows of one class with one ground cover."""

    colours: ClassColourStatistics
    chips: Sequence[LandChip]
    mean: Float64Array
    """Mean logarithm of reflectance of every band of the set."""


class LandFit:
    """Statistics of the classes of a set, put together with those of the shipped generator.

    What the set does not have comes from the shipped statistics: the land around its classes, such as the banks of a river,
    moved by the mean difference between the colours of the set and those of the same ground covers; and bands that it lacks,
    as functions of those that it has.

    Parameters
    ----------
    windows
        Of the set.
    base
        The shipped land.
    """

    def __init__(self, windows: LandWindows, base: Land) -> None:
        self._windows, self._base = windows, base.statistics
        self._kinds = {kind.cover: k for k, kind in enumerate(base.legend.kinds)}
        self.painted = painted_bands(windows.bands)
        self.further = tuple(name for name in windows.bands if name not in self.painted)
        self._measured: dict[str, _MeasuredClass] = {}

    def chips(self, windows: Sequence[LandWindow]) -> list[LandChip]:
        """Return windows as chips."""
        index = {name: i for i, name in enumerate(self._windows.bands)}
        painted, further = ([index[name] for name in names] for names in (self.painted, self.further))
        logs = [(logs_of(one.values), one.inside) for one in windows]
        return [LandChip(values[painted], values[further], inside) for values, inside in logs]

    def land(self, covers: Mapping[str, str], shares: Mapping[str, float], bands: Sequence[str]) -> Land:
        """Return land of classes.

        Parameters
        ----------
        covers
            Ground cover by class, in the order of their codes.
        shares
            Share of the area without a prompt, by class.
        bands
            That the land usually draws.
        """
        total = sum(shares[name] for name in covers)
        own = tuple(LandClass(name, cover, shares[name] / total) for name, cover in covers.items())
        missing = (cover for cover in CLASSES if cover not in covers.values())
        legend = Legend(own, tuple(LandClass(cover, cover, 0.0) for cover in missing))
        return Land(self._statistics(legend), bands, legend)

    def _statistics(self, legend: Legend) -> LandStatistics:
        fitted = [self._fit(one.name, one.cover) for one in legend.classes]
        lacking = sorted(self._base.bands - set(self._windows.bands))
        shift = self._shift(legend, fitted)
        painted_shift = np.array([shift[name] for name in self.painted])
        around = [self._moved(kind.cover, painted_shift) for kind in legend.around]
        colours = [*(one.colours for one in fitted), *around]
        own, own_root = further_bands_of([one.chips for one in fitted], [one.cover for one in legend.classes])
        spread = own_root.mean(axis=0)
        coefficients, roots = [], []
        for k, kind in enumerate(legend.kinds):
            there = k < len(fitted)
            terms = infrared_terms(self._colours(kind.cover, self.painted) + painted_shift[:, None])
            known = own[k] if there else self._estimated(kind.cover, self.further, terms, shift, own)
            others = self._estimated(kind.cover, lacking, terms, {}, own)
            coefficients.append(np.concatenate([known, others]))
            roots.append(_block(own_root[k] if there else spread, self._root(kind.cover, lacking)))
        return LandStatistics(
            levels=np.stack([one.levels for one in colours]),
            pieces=np.stack([one.pieces for one in colours]),
            chroma=np.stack([one.chroma for one in colours]),
            infrared=np.stack(coefficients),
            infrared_root=np.stack(roots),
            infrared_bands=(*self.further, *lacking),
            painted_bands=self.painted,
            silt=self._in_bands(self._kinds["river"], self._base.silt.T, self.painted).T + painted_shift,
        )

    def _fit(self, name: str, cover: str) -> _FittedClass:
        measured = self._measure(name)
        chips, colours = measured.chips, measured.colours
        if cover == _WATER:
            kept = most_uniform(chips, max(1, round(_SHORELESS * len(chips))))
            chips, colours = [chips[i] for i in kept], [colours[i] for i in kept]
        return _FittedClass(colours_of(colours, cover), chips[:CHIPS], measured.mean)

    def _measure(self, name: str) -> _MeasuredClass:
        """Return what does not depend on the ground cover; measured once."""
        if name not in self._measured:
            windows = self._windows.tuned[name]
            chips = self.chips(windows)
            logs = np.concatenate([logs_of(one.values)[:, one.inside] for one in windows], axis=1)
            self._measured[name] = _MeasuredClass(
                chips, [chip_colours(chip) for chip in chips], logs.mean(axis=1)
            )
        return self._measured[name]

    def _shift(self, legend: Legend, fitted: Sequence[_FittedClass]) -> dict[str, float]:
        """Return by band how much brighter the set is than shipped land of the same covers; 0 for bands that this lacks."""
        out = {}
        for band, name in enumerate(self._windows.bands):
            apart = [
                float(one.mean[band]) - float(self._colours(kind.cover, [name]).mean())
                for kind, one in zip(legend.classes, fitted, strict=True)
            ]
            out[name] = float(np.mean(apart))
        return out

    def _moved(self, cover: str, shift: Float64Array) -> ClassColourStatistics:
        """Return the shipped colours of a cover in the painted bands of the set, moved by its mean difference."""
        base, k = self._base, self._kinds[cover]
        levels, pieces = (
            np.moveaxis(self._in_bands(k, colours, self.painted), 0, -1) + shift
            for colours in (np.moveaxis(base.levels[k], -1, 0), np.moveaxis(base.pieces[k, ..., :3], -1, 0))
        )
        rough = base.pieces[k, ..., 3:]
        return ClassColourStatistics(levels, np.concatenate([pieces, rough], axis=-1), base.chroma[k])

    def _colours(self, cover: str, names: Sequence[str]) -> Float64Array:
        """Return shipped colours of a cover in some bands, shape (B, n)."""
        k = self._kinds[cover]
        return self._in_bands(k, self._base.levels[k].reshape(-1, 3).T, names)

    def _in_bands(self, k: int, colours: Float64Array, names: Sequence[str]) -> Float64Array:
        """Return shipped colours of a kind, shape (3, ...), in some bands, shape (B, ...).

        A band that the shipped statistics do not know, such as ``pan``, is the mean of the visible ones.
        """
        flat = colours.reshape(3, -1)
        values = dict(zip(VISIBLE, flat, strict=True))
        values |= dict(
            zip(self._base.infrared_bands, self._base.infrared[k] @ infrared_terms(flat), strict=True)
        )
        found = [values.get(name, flat.mean(axis=0)) for name in names]
        return np.array(found).reshape(len(names), *colours.shape[1:])

    def _estimated(
        self,
        cover: str,
        names: Sequence[str],
        terms: Float64Array,
        shift: Mapping[str, float],
        own: Float64Array,
    ) -> Float64Array:
        """Return coefficients of bands on the painted ones, from the shipped colours of a cover, shape (B, 10).

        Of a band that these do not know: the mean of those of the set.
        """
        known = self._base.bands
        values = self._colours(cover, names) + np.array([shift.get(name, 0.0) for name in names])[:, None]
        found = ridge(terms, values, np.zeros((len(names), 10)), _SMOOTH)
        for b, name in enumerate(names):
            if name not in known:
                found[b] = own.mean(axis=0)[self.further.index(name)]
        return found

    def _root(self, cover: str, names: Sequence[str]) -> Float64Array:
        """Return the root of the covariance from chip to chip of bands that the set lacks; 0 for visible ones."""
        base, k = self._base, self._kinds[cover]
        whole = np.zeros((len(names), len(base.infrared_bands)))
        for b, name in enumerate(names):
            if name in base.infrared_bands:
                whole[b] = base.infrared_root[k][base.infrared_bands.index(name)]
        return root_of(whole @ whole.T)


def _block(first: Float64Array, second: Float64Array) -> Float64Array:
    """Return a matrix of two along its diagonal."""
    out = np.zeros((len(first) + len(second),) * 2)
    out[: len(first), : len(first)], out[len(first) :, len(first) :] = first, second
    return out
