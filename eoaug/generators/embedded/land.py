"""Land by class on an infinite plane: regions of classes, and in them what a diffusion network draws.

Numpy; the network is an argument. A prompt chooses the classes. Where a plane has several, its regions are a random
tessellation (`parcels.regions`), and every region has the tone of a real chip of its class. The network draws windows
given classes, tones and the neighbours that are drawn already (`plane_windows`), with classifier-free guidance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug.errors import GeneratorError
from eoaug.generators.embedded import flow_samplers, parcels
from eoaug.generators.embedded.land_units import BANDS, LandUnits, conditions
from eoaug.generators.embedded.plane_windows import PlaneWindows, Spot
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = ["CLASSES", "PROMPT_WORDS", "WORDS", "Land", "LandPlane", "shares_of"]


WORDS: Mapping[str, tuple[str, ...]] = {
    "annual_crop": ("field", "fields", "crop", "crops", "cropland", "farmland", "arable"),
    "forest": ("forest", "forests", "wood", "woods", "woodland", "trees"),
    "herbaceous_vegetation": ("scrub", "shrubs", "shrubland", "heath", "steppe", "herbaceous"),
    "highway": ("highway", "highways", "motorway", "road", "roads"),
    "industrial": ("industrial", "industry", "factory", "factories", "warehouses"),
    "pasture": ("pasture", "pastures", "meadow", "meadows", "grassland"),
    "permanent_crop": ("orchard", "orchards", "vineyard", "vineyards", "olives"),
    "residential": ("village", "villages", "town", "towns", "city", "houses", "streets", "residential"),
    "river": ("river", "rivers", "stream", "canal"),
    "sea_lake": ("sea", "lake", "lakes", "ocean", "water"),
}
"""The classes of EuroSAT, in its order, and the words of a prompt that mean them; the names of the classes do as well."""
CLASSES = tuple(WORDS)
PROMPT_WORDS = {word for name, words in WORDS.items() for word in (name, *words)}
"""Words of a prompt that mean a class."""
_MIXTURE = {"annual_crop": 0.35, "pasture": 0.2, "forest": 0.2, "herbaceous_vegetation": 0.1, "residential": 0.08,
            "permanent_crop": 0.07}  # fmt: skip
"""Shares of the area without a prompt: classes whose chips are all of one kind of land."""
_ADDED = 0.3
"""Share of the area of what a prompt names after "with"."""
_REGION_CELLS = 36.0
"""Typical edge of a region: chips of one class are 32 cells wide."""
_COMMON = 0.5
"""Share of the variance of the tones that the regions of a plane have in common: one date, one weather."""
_SIGMA = (60.0, 0.03)
"""Noise over signal at the first and the last call."""
_CLASS_CHANNELS = slice(BANDS + 1, BANDS + 1 + len(CLASSES))
"""Channels of `land_units.conditions` with the classes."""

Forward = Callable[..., Float32Array]
"""From lists of points x_t, times and conditioning images to clean estimates."""


@dataclass(frozen=True)
class LandPlane:
    """Key of a plane; its land is the same on all dates."""

    seed: int
    member: int
    shares: tuple[float, ...]
    """Share of the area of every class of `CLASSES`."""


_Key = tuple[LandPlane, Spot]
_Part = tuple[LandPlane, tuple[int, int], tuple[int, int]]


def shares_of(prompt: str | None) -> tuple[float, ...]:
    """Return the share of the area of every class that a prompt asks for.

    The words before "with" share the larger part of the area, those after it the rest: in "fields with a village" seven
    tenths are fields. A class counts once for every word that means it.

    Raises
    ------
    GeneratorError
        The prompt holds no known word.
    """
    if not prompt:
        return tuple(_MIXTURE.get(name, 0.0) for name in CLASSES)
    main, _, added = (" " + prompt.lower() + " ").partition(" with ")
    counts = [_counts(part) for part in (main, added)]
    if not any(part.any() for part in counts):
        raise GeneratorError(
            f"prompt={prompt!r} names no class of land",
            f"use words such as {', '.join(words[0] for words in WORDS.values())}",
        )
    weights = [1 - _ADDED, _ADDED] if all(part.any() for part in counts) else [1.0, 1.0]
    total = sum(w * part / max(part.sum(), 1) for w, part in zip(weights, counts, strict=True))
    return tuple(float(share) for share in np.asarray(total))


def _counts(text: str) -> NDArray[np.float64]:
    found = re.findall(r"[a-z_]+", text)
    return np.array(
        [sum(word in (name, *words) for word in found) for name, words in WORDS.items()], np.float64
    )


class Land:
    """Draws parts of planes.

    Parameters
    ----------
    units
        Units and tones of the classes.
    window, context
        Edge of a window in cells, and the width on each side that may be given by its neighbours.
    steps
        Steps per window.
    guidance
        Weight of the class unless a request names one; 1: as learned.
    batch
        Windows of one call.
    """

    network = "land"
    """Name of its network among the weights."""

    def __init__(
        self, *, units: LandUnits, window: int, context: int, steps: int, guidance: float, batch: int
    ) -> None:
        self._units, self._guidance, self.batch = units, guidance, batch
        self._path = flow_samplers.karras(steps, sigma_max=_SIGMA[0], sigma_min=_SIGMA[1])
        self.windows = PlaneWindows[LandPlane](window=window, context=context, bands=BANDS, batch=batch)

    def classes(self, plane: LandPlane, origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.intp]:
        """Return the indices of `CLASSES` of the cells of a part, shape (rows, columns)."""
        return self._laid_out(plane, origin, shape)[0]

    def cells(self, parts: Sequence[_Part], forward: Forward) -> list[Float32Array]:
        """Return parts of planes, log reflectance of blue, green and red, shape (3, rows, columns) each.

        Parameters
        ----------
        parts
            Plane, first cell as (row, column), and (rows, columns) of each.
        forward
            The land network.
        """
        held = self.windows.gathered(parts, partial(self._draw, forward=forward))
        return [
            self._units.from_units(
                self.windows.assembled(plane, origin, shape, held), self.classes(plane, origin, shape)
            )
            for plane, origin, shape in parts
        ]

    def _laid_out(
        self, plane: LandPlane, origin: tuple[int, int], shape: tuple[int, int]
    ) -> tuple[NDArray[np.intp], Float32Array]:
        """Return classes, shape (rows, columns), and tones, shape (4, rows, columns), of a part."""
        kind, tone = parcels.regions(origin, shape, edge=_REGION_CELLS, seed=plane.seed, member=plane.member)
        limits = np.cumsum(plane.shares) / np.sum(plane.shares)
        # A share of 0 must not win by rounding: the last class with a share takes what is left.
        last = int(np.flatnonzero(plane.shares)[-1])
        classes = np.minimum(np.searchsorted(limits, special.ndtr(kind), side="right"), last)
        common = noise.normal((0, 0), (1, 1, 1), seed=plane.seed, stream="embedded land", member=plane.member)
        ranks = special.ndtr(np.sqrt(_COMMON) * float(common[0, 0, 0]) + np.sqrt(1 - _COMMON) * tone)
        tones = self._units.tones
        chosen = np.minimum((ranks * tones.shape[1]).astype(np.intp), tones.shape[1] - 1)
        return classes, np.moveaxis(tones[classes, chosen], -1, 0).astype(np.float32)

    def _draw(
        self, keys: Sequence[_Key], held: Mapping[_Key, Float32Array], forward: Forward
    ) -> list[Float32Array]:
        """Return new windows, given their neighbours of lower levels."""
        size = (self.windows.window, self.windows.window)
        images, x, given = [], [], []
        for plane, spot in keys:
            origin, mask = self.windows.origin(spot), self.windows.mask(spot)
            around = self.windows.assembled(plane, origin, size, held, level=spot[2] + spot[3])
            classes, tones = self._laid_out(plane, origin, size)
            shares = (classes == np.arange(len(CLASSES))[:, None, None]).astype(np.float32)
            images.append(conditions(shares, tones, around, mask))
            given.append((around, mask))
            drawn = noise.normal(
                origin, (BANDS, *size), seed=plane.seed, stream="embedded land", member=plane.member
            )
            x.append(((1 - self._path[0]) * drawn).astype(np.float32))
        without = [image.copy() for image in images]
        for image in without:
            image[_CLASS_CHANNELS] = 0

        def clean(points: NDArray[np.float32], t: float) -> Float32Array:
            times = [np.float32(t)] * len(keys)
            found = forward(list(points.astype(np.float32)), times, images)
            if self._guidance != 1:
                apart = forward(list(points.astype(np.float32)), times, without)
                found = found + np.float32(self._guidance - 1) * (found - apart)
            parts = zip(found, given, strict=True)
            return np.stack([np.where(mask, around, one) for one, (around, mask) in parts])

        return list(flow_samplers.sample_dpmpp_2m(clean, np.stack(x), self._path).astype(np.float32))
