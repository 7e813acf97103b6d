"""Which regions are redrawn, as which class, and from where their new pixels come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eoaug.pairs.regions import LabelRegion
from eoaug.raster.tiles import Window

__all__ = ["REACH_PX", "Redraw", "Wish", "chosen_redraws"]

REACH_PX = 512
"""Farthest displacement of a new pixel along rows and columns: what a chunk reads around itself is bounded by it."""
_TRIES = 48
"""Displacements that are compared for a part of a region."""
_PARTS = 48
"""Most parts of a region with displacements of their own."""
_RING_PX = 6
"""Width of the surroundings of a region."""
_UNLIKE = 0.1
"""Largest difference between the surroundings of a changed region and of its decoy, in the share of either class."""
_OTHER_SIZE = 0.7
"""Largest difference between them in size: in the logarithms of area and of thickness, together."""
_DECOYS = 8
"""Most regions that are tried as the decoy of one."""


@dataclass(frozen=True, eq=False)
class Redraw:
    """A region and its new pixels, which lie elsewhere in the scene in the same class."""

    region: LabelRegion
    code: int
    """Class that it is redrawn as; its own for a decoy."""
    window: Window
    """The region and the pixels around it in which its edge is blended."""
    parts: NDArray[np.uint8]
    """Shape of ``window``: 0 where the image stays, else the number of the displacement from 1."""
    shifts: tuple[tuple[int, int], ...]
    """Displacements (rows, columns) from a pixel to the one that it is taken from."""
    holds: NDArray[np.bool_]
    """Shape (shifts, ...): where the pixel that a displacement takes has the class."""
    blend_px: int

    @property
    def changes(self) -> bool:
        """False for a decoy."""
        return self.code != self.region.code

    def weights(self) -> NDArray[np.float64]:
        """Return the weight of the given image and of every displacement, shape (1 + shifts, ...); their sum is 1.

        Within the region nothing of the given image is left, or a rim of the old class would show what changed. Its weight
        rises with the distance from the region, and that of two parts is blended where they meet.
        """
        from scipy import ndimage

        away, nearest = ndimage.distance_transform_edt(self.parts == 0, return_indices=True)
        given = np.clip(away / (self.blend_px + 1), 0, 1)
        one_hot = np.arange(1, len(self.shifts) + 1)[:, None, None] == self.parts[tuple(nearest)]
        size = 2 * self.blend_px + 1
        new = np.maximum(
            ndimage.uniform_filter(one_hot.astype(np.float64), (0, size, size), mode="nearest"), 0
        )
        new *= self.holds
        total = new.sum(axis=0)
        given = np.where(total > 0, given, 1.0)
        return np.concatenate([given[None], (1 - given) * new / np.where(total > 0, total, 1.0)])


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be redrawn."""

    targets: Mapping[int, tuple[int, ...]]
    """By class, the classes that its regions may become."""
    share: float
    """Share of the regions that change."""
    decoys: float
    """Decoys per changed region."""
    blend_px: int
    seed: int
    origin: tuple[int, int]
    """Absolute index (row, column) of the first pixel."""


@dataclass(eq=False)
class _Choice:
    label: NDArray[np.int64]
    wish: Wish
    looser: float = 1.0
    """By how much a region and its decoy may differ more than usual."""
    places: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """Pixels of every class that is redrawn."""
    taken: NDArray[np.bool_] = field(init=False)
    """Pixels that some redraw may alter: no two of them overlap."""
    shares: dict[tuple[int, int], float] = field(default_factory=dict)
    """By region and class, the share of the surroundings that has it."""

    def __post_init__(self) -> None:
        self.taken = np.zeros(self.label.shape, bool)

    def redraw(self, region: LabelRegion, code: int, rng: np.random.Generator) -> Redraw | None:
        """Return a region redrawn as a class; None where it meets another one, or the class is not within reach."""
        blend = self.wish.blend_px
        window = region.window.pad(blend)
        scene = Window(0, 0, *self.label.shape)
        inside = window & scene
        here = inside.within(window)
        mask = np.pad(region.mask, blend)
        zone = _grown(mask, blend)
        if (self.taken[inside.within(scene)] & zone[here]).any():
            return None
        parts = np.zeros(mask.shape, np.uint8)
        shifts: list[tuple[int, int]] = []
        left = mask.copy()
        while left.any() and len(shifts) < _PARTS:
            found = self._best_shift(window, left, mask, code, rng)
            if found is None:
                break
            shift, covered = found
            shifts.append(shift)
            parts[covered] = len(shifts)
            left &= ~covered
        if left.any():
            return None
        self.taken[inside.within(scene)] |= zone[here]
        holds = np.stack([self._holds(window.shift(*shift), code) for shift in shifts])
        return Redraw(region, code, window, parts, tuple(shifts), holds, blend)

    def _best_shift(
        self,
        window: Window,
        left: NDArray[np.bool_],
        mask: NDArray[np.bool_],
        code: int,
        rng: np.random.Generator,
    ) -> tuple[tuple[int, int], NDArray[np.bool_]] | None:
        """Return the displacement that finds the class under most of ``left``, and where it does."""
        if code not in self.places:
            self.places[code] = np.argwhere(self.label == code)
        spots = np.argwhere(left)
        spot = spots[rng.integers(len(spots))] + (window.top, window.left)
        near = self.places[code]
        near = near[(np.abs(near - spot) <= REACH_PX - max(window.shape)).all(axis=1)]
        if not len(near):
            return None
        best: tuple[tuple[int, int], NDArray[np.bool_]] | None = None
        most = 0
        for row, col in near[rng.integers(len(near), size=_TRIES)] - spot:
            shift = (int(row), int(col))
            covered = left & self._holds(window.shift(*shift), code)
            # A pixel of its own place would leave it as it was.
            own = Window(0, 0, *mask.shape)
            overlap = own & own.shift(*shift)
            if not overlap.empty:
                at, to = overlap.within(own), overlap.shift(-shift[0], -shift[1]).within(own)
                covered[to] &= ~mask[at]
            if (count := int(covered.sum())) > most:
                best, most = (shift, covered), count
        return best

    def alike(
        self, region: LabelRegion, code: int, ranked: Sequence[LabelRegion], used: set[int]
    ) -> list[LabelRegion]:
        """Return regions of a class that look as another one would if it became that class, the most similar first.

        A piece of a forest has forest around it, and a field that becomes forest has not: what would be decoy and change
        must have similar surroundings, size and thickness, or a model learns these instead of the change.
        """
        found = []
        for other in ranked:
            if other.code != code or other is region or id(other) in used:
                continue
            unlike = max(
                abs(self._share_around(other, one) - self._share_around(region, one))
                for one in (code, region.code)
            )
            size = abs(np.log(other.area / region.area)) + abs(np.log(other.thickness / region.thickness))
            if unlike <= self.looser * _UNLIKE and size <= self.looser * _OTHER_SIZE:
                found.append((size + 4 * unlike, other))
        return [other for _, other in sorted(found, key=lambda one: one[0])[:_DECOYS]]

    def _share_around(self, region: LabelRegion, code: int) -> float:
        """Return the share of the surroundings of a region that has a class, 0 to 1."""
        key = (id(region), code)
        if key not in self.shares:
            window = region.window.pad(_RING_PX)
            mask = np.pad(region.mask, _RING_PX)
            inside = (window & Window(0, 0, *self.label.shape)).within(window)
            ring = (_grown(mask, _RING_PX) & ~mask)[inside]
            self.shares[key] = float(self._holds(window, code)[inside][ring].mean()) if ring.any() else 0.0
        return self.shares[key]

    def _holds(self, window: Window, code: int) -> NDArray[np.bool_]:
        scene = Window(0, 0, *self.label.shape)
        inside = window & scene
        out = np.zeros(window.shape, bool)
        if not inside.empty:
            out[inside.within(window)] = self.label[inside.within(scene)] == code
        return out


def chosen_redraws(regions: Iterable[LabelRegion], label: NDArray[np.int64], wish: Wish) -> list[Redraw]:
    """Return the regions that change and the decoys, no two of which overlap.

    The decoys have the classes that the changed regions become, and areas like theirs: what is drawn has the same
    distribution in both, so that a model cannot take the signs of drawing for those of change.

    Parameters
    ----------
    regions
        Candidates.
    label
        Shape (Y, X): class codes.
    wish
        What is to be redrawn.
    """
    ranked = sorted(regions, key=lambda region: region.rank(wish.seed, wish.origin))
    areas: dict[int, int] = {}
    for region in ranked:
        areas[region.code] = areas.get(region.code, 0) + region.area
    candidates = [region for region in ranked if _targets(region, wish, areas)]
    made: list[Redraw] = []
    # In a small scene hardly two regions are alike: better an unlike decoy than no change.
    for looser in (1, 4, np.inf):
        made = made or _made(_Choice(label, wish, looser), candidates, ranked, areas)
    return made


def _made(
    choice: _Choice, candidates: list[LabelRegion], ranked: list[LabelRegion], areas: Mapping[int, int]
) -> list[Redraw]:
    wish = choice.wish
    wanted = int(np.ceil(wish.share * len(candidates)))
    made: list[Redraw] = []
    used: set[int] = set()
    changed = decoys = 0
    for region in candidates:
        if changed == wanted:
            break
        if id(region) in used:
            continue
        rank = region.rank(wish.seed, wish.origin)
        rng = np.random.default_rng([wish.seed, rank])
        codes = _targets(region, wish, areas)
        weights = np.array([areas[code] for code in codes], np.float64)
        code = int(rng.choice(codes, p=weights / weights.sum()))
        if wish.decoys and not choice.alike(region, code, ranked, used):
            continue
        one = choice.redraw(region, code, rng)
        if one is None:
            continue
        used.add(id(region))
        changed += 1
        made.append(one)
        # At once, while there is room: later ones would find none where many regions change.
        while decoys < int(wish.decoys * changed + 1e-9):
            decoy = _decoy(one, ranked, used, choice)
            if decoy is None:
                break
            decoys += 1
            made.append(decoy)
    return made


def _targets(region: LabelRegion, wish: Wish, areas: Mapping[int, int]) -> list[int]:
    return [code for code in wish.targets.get(region.code, ()) if code in areas and code != region.code]


def _decoy(one: Redraw, ranked: list[LabelRegion], used: set[int], choice: _Choice) -> Redraw | None:
    """Return a region of the class that another one became, redrawn as what it is; None where there is none."""
    wish = choice.wish
    for region in choice.alike(one.region, one.code, ranked, used):
        rng = np.random.default_rng([wish.seed, region.rank(wish.seed, wish.origin)])
        used.add(id(region))
        made = choice.redraw(region, region.code, rng)
        if made is not None:
            return made
    return None


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(ndimage.maximum_filter(mask, 2 * pixels + 1, mode="constant") if pixels else mask)
