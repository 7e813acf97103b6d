"""What the classes of land look like from above: parcels, hedges, streets, roofs, woods, water, as colours of real scenes.

Numpy. Every class has a painter. It lays out shapes by `PlaneNumbers`, and gives each a rank; the colour of a rank is that
of real chips of the class, from dark to bright (`ClassColours`). So shapes are rules, and colours are measured.
Arrays have one entry per point of the plane, shape (n,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug.generators.embedded.plane_numbers import PlaneNumbers
from eoaug.raster.arrays import BoolArray, Float64Array

__all__ = ["AREAS", "CLASSES", "LINES", "ClassColours", "Cover", "Ground", "painted"]


CLASSES = (
    "annual_crop",
    "forest",
    "herbaceous_vegetation",
    "highway",
    "industrial",
    "pasture",
    "permanent_crop",
    "residential",
    "river",
    "sea_lake",
)
"""The classes of EuroSAT, in its order."""
LINES = ("highway", "river")
"""Classes that cross others."""
AREAS = tuple(name for name in CLASSES if name not in LINES)
_FINE = np.array([0.95, 0.85, 1.1])[:, None]
"""How strongly blue, green and red take part in variation within a parcel."""


@dataclass(frozen=True, eq=False)
class ClassColours:
    """Colours of a real chip of a class: logarithm of reflectance plus 0.02, of blue, green and red."""

    levels: Float64Array
    """Shape (K, 3): mean colours of K parts of its pixels of equal size, from dark to bright."""
    pieces: Float64Array
    """Shape (K, 4): colours and log roughness of its segments, drawn by area, from dark to bright."""

    def level(self, rank: Float64Array, contrast: float = 1.0) -> Float64Array:
        """Return the colour of ranks from 0 to 1, shape (3, n); ``contrast`` exaggerates it around the middle."""
        nodes = (np.arange(len(self.levels)) + 0.5) / len(self.levels)
        middle = self.levels.mean(axis=0)[:, None]
        found = np.stack([np.interp(rank, nodes, band) for band in self.levels.T])
        exaggerated: Float64Array = middle + contrast * (found - middle)
        return exaggerated

    def piece(self, rank: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return colour, shape (3, n), and roughness, shape (n,), of the segments of ranks from 0 to 1."""
        count = len(self.pieces)
        chosen = np.moveaxis(self.pieces[np.clip((rank * count).astype(np.int64), 0, count - 1)], -1, 0)
        return chosen[:3], np.exp(chosen[3])


@dataclass(frozen=True, eq=False)
class Ground:
    """Where a painter works, and with what."""

    numbers: PlaneNumbers
    y: Float64Array
    """Shape (n,), rows of the plane in pixels."""
    x: Float64Array
    scale: float
    """Pixels per 10 m."""
    angle: float
    """Direction of the parcels of the plane, radians."""
    colours: Mapping[str, ClassColours]
    """By class, the chip whose colours the plane has."""
    silt: Float64Array
    """Shape (2, 3), as in `ClassColours`: rivers full of silt of limestone, turquoise, and of loam, brown."""

    def smooth(self, name: str, step: float) -> Float64Array:
        """Return `PlaneNumbers.smooth` of a step in tens of metres."""
        return self.numbers.smooth(name, self.y, self.x, step * self.scale)

    def rough(self, name: str, steps: Mapping[float, float]) -> Float64Array:
        """Return `PlaneNumbers.rough`; weights by step in tens of metres."""
        scaled = [step * self.scale for step in steps]
        return self.numbers.rough(name, self.y, self.x, scaled, list(steps.values()))

    def bent(self, name: str, step: float, by: float) -> Ground:
        """Return the ground with positions moved by smooth fields: of this step, and this standard deviation."""
        down, right = (by * self.scale * self.smooth(f"{name} {axis}", step) for axis in ("down", "right"))
        return replace(self, y=self.y + down, x=self.x + right)


@dataclass(frozen=True, eq=False)
class Cover:
    """What lies on the ground."""

    colour: Float64Array
    """Shape (3, n), as in `ClassColours`."""
    rough: Float64Array
    """Shape (n,): standard deviation of the noise of single pixels, in the same unit."""

    def over(self, colour: Float64Array, where: BoolArray, rough: float = 0.03) -> Cover:
        """Return the cover with something else where ``where`` is true."""
        return Cover(np.where(where, colour, self.colour), np.where(where, rough, self.rough))


def painted(name: str, ground: Ground) -> Cover:
    """Return the cover of ground that is all of one of `AREAS`, or the surface of one of `LINES`."""
    return _PAINTERS[name](ground)


def _share(numbers: NDArray[np.floating]) -> Float64Array:
    """Return normal numbers as uniform ones."""
    return np.asarray(special.ndtr(numbers), np.float64)


@dataclass(frozen=True, eq=False)
class _Parcels:
    """Parcels: strips of blocks, cut across."""

    block: NDArray[np.int64]
    key: NDArray[np.int64]
    edge: Float64Array
    """Distance to the border of the parcel in tens of metres."""
    outer: Float64Array
    """Distance to the border of the block."""
    along: Float64Array
    """Pixels along the strips, and across."""
    across: Float64Array


def _parcels(ground: Ground, name: str, *, edge: float, width: float, length: float, turn: float) -> _Parcels:
    """Lay out parcels: typical edge of a block, width and length of a parcel in tens of metres, spread of directions."""
    numbers, scale = ground.numbers, ground.scale
    blocks = numbers.blocks(name, ground.y, ground.x, edge * scale)
    turned, wide, _, crossed = numbers.of(f"{name} block", blocks.cells, 4)
    angle = ground.angle + turn * turned + np.where(_share(crossed) < 0.25, np.pi / 2, 0)
    along, across = blocks.turned(angle)
    strip, side = numbers.strips(f"{name} strip", across, blocks.cells, width * scale * np.exp(0.45 * wide))
    longer = length * scale * np.exp(0.4 * numbers.of(f"{name} long", strip)[0])
    key, end = numbers.strips(f"{name} cross", along, strip, longer)
    inner = np.minimum(np.minimum(side, end), blocks.border)
    return _Parcels(blocks.cells, key, inner / scale, blocks.border / scale, along, across)


def _ranks(ground: Ground, name: str, parcels: _Parcels) -> Float64Array:
    """Return the ranks of parcels: those of one block are somewhat alike, and some change from date to date."""
    block = ground.numbers.of(f"{name} alike", parcels.block)[0]
    return _share(0.45 * block + 0.89 * ground.numbers.dated(f"{name} parcel", parcels.key))


def _tracks(ground: Ground, name: str, parcels: _Parcels, share: float, half: float) -> BoolArray:
    """Return where tracks run along the borders of a share of the blocks; ``half`` is half their width."""
    has = _share(ground.numbers.of(f"{name} track", parcels.block)[0]) < share
    return np.asarray((parcels.outer < half) & has)


def _constant(ground: Ground, rank: float) -> Float64Array:
    return np.full(ground.y.shape, rank)


def _annual_crop(ground: Ground) -> Cover:
    parcels = _parcels(ground, "crop", edge=62, width=9, length=34, turn=0.2)
    own = ground.colours["annual_crop"]
    colour, rough = own.piece(_ranks(ground, "crop", parcels))
    phase = 40 * ground.numbers.of("crop phase", parcels.key)[0]
    # Rows of machines: narrow across the parcel, long along it.
    rows = ground.numbers.smooth(
        "crop rows", parcels.across + phase, parcels.along * 0.06, 1.6 * ground.scale
    )
    even = ground.rough("crop soil", {14: 1, 5: 0.6})
    colour = colour + rough * (0.45 * even + 0.4 * rows) * _FINE
    cover = Cover(colour, 0.22 * rough)
    return cover.over(own.level(_constant(ground, 0.82)), _tracks(ground, "crop", parcels, 0.55, 0.55))


def _pasture(ground: Ground) -> Cover:
    parcels = _parcels(ground, "pasture", edge=42, width=17, length=26, turn=0.5)
    own = ground.colours["pasture"]
    colour, rough = own.piece(0.1 + 0.85 * _ranks(ground, "pasture", parcels))
    colour = colour + rough * 0.4 * ground.rough("pasture sward", {12: 1, 4: 0.6}) * _FINE
    trees = ground.smooth("pasture trees", 2.2)
    hedged = _share(ground.numbers.of("pasture hedge", parcels.key)[0]) < 0.7
    hedges = (parcels.edge < 0.8 + 0.25 * trees) & hedged
    copses = ground.rough("pasture copses", {7: 1, 2.5: 0.5}) > 2.1
    return Cover(colour, 0.22 * rough).over(own.level(0.03 + 0.06 * _share(trees)), hedges | copses)


def _permanent_crop(ground: Ground) -> Cover:
    parcels = _parcels(ground, "orchard", edge=36, width=6.5, length=17, turn=0.35)
    own = ground.colours["permanent_crop"]
    colour, rough = own.piece(_ranks(ground, "orchard", parcels))
    phase = ground.numbers.of("orchard phase", parcels.key)[0]
    rows = np.sin(2 * np.pi * (parcels.across / (2.7 * ground.scale) + phase))
    crowns, even = ground.smooth("orchard crowns", 1.3), ground.smooth("orchard soil", 7)
    colour = colour + rough * (0.35 * rows + 0.45 * crowns + 0.3 * even) * _FINE
    cover = Cover(colour, 0.3 * rough)
    return cover.over(own.level(_constant(ground, 0.9)), _tracks(ground, "orchard", parcels, 0.75, 0.6))


def _forest(ground: Ground) -> Cover:
    parcels = _parcels(ground, "forest", edge=80, width=30, length=40, turn=0.6)
    own = ground.colours["forest"]
    stand, age = ground.numbers.of("forest stand", parcels.key, 2)
    # In some woods stands of unlike age have visible borders.
    managed = 0.9 * float(_share(ground.numbers.of_plane("forest managed", 1))[0]) ** 2
    canopy = ground.rough("forest canopy", {40: 0.45, 12: 0.35, 3.2: 0.6, 1.4: 0.7})
    rank = _share(np.sqrt(1 - managed**2 / 2) * canopy + managed * stand)
    cover = Cover(own.level(0.02 + 0.88 * rank), _constant(ground, 0.025))
    cover = cover.over(own.level(0.9 + 0.1 * _share(canopy), 1.15), _share(age) < 0.12 * managed)
    paths = (parcels.edge < 0.4) & (_share(ground.numbers.of("forest path", parcels.block)[0]) < 0.3)
    return cover.over(own.level(_constant(ground, 0.95), 1.15), paths)


def _herbaceous(ground: Ground) -> Cover:
    own = ground.colours["herbaceous_vegetation"]
    parcels = _parcels(ground, "heath", edge=70, width=24, length=36, turn=0.6)
    # Some heath is grazed behind fences.
    fenced = 0.9 * float(_share(ground.numbers.of_plane("heath fenced", 1))[0]) ** 2
    lie = ground.rough("heath", {45: 0.8, 16: 0.7, 6: 0.6, 2.6: 0.45, 1.3: 0.4})
    lie = np.sqrt(1 - fenced**2 / 2) * lie + fenced * ground.numbers.of("heath parcel", parcels.key)[0]
    valley = np.abs(ground.rough("heath valleys", {26: 1, 9: 0.35}))
    rank = _share(lie - 1.3 * np.exp(-((valley / 0.08) ** 2)))
    bent = ground.bent("heath path", 9, 3)
    paths = np.abs(bent.smooth("heath paths", 60)) < 0.014
    cover = Cover(own.level(rank, 1.1), _constant(ground, 0.025))
    return cover.over(own.level(_constant(ground, 0.96), 1.2), paths)


def _residential(ground: Ground) -> Cover:
    numbers, scale, own = ground.numbers, ground.scale, ground.colours["residential"]
    town = numbers.blocks("town", ground.y, ground.x, 55 * scale)
    turned, deep, long, _ = numbers.of("town block", town.cells, 4)
    along, across = town.turned(ground.angle + 0.5 * turned)
    along = along + 0.8 * scale * ground.smooth("town bends", 20)
    across = across + 0.8 * scale * ground.smooth("town other bends", 20)
    row, front = numbers.strips("town street", across, town.cells, 9.5 * scale * np.exp(0.25 * deep))
    lot, side = numbers.strips("town lane", along, row, 15 * scale * np.exp(0.3 * long))
    street = np.minimum(np.minimum(front, side), town.border) / scale
    lot, width = numbers.strips("town lot", along, lot, 2.8 * scale)
    lot, depth = numbers.strips("town yard", across, lot, 3.0 * scale)
    built, bright = numbers.of("town house", lot, 2)
    roofs = (np.minimum(width, depth) / scale > 0.3 + 0.12 * bright) & (built > -0.9)
    green = ground.rough("town green", {18: 1, 5: 0.6})
    yards = 0.6 * _share(0.5 * green + 0.9 * ground.smooth("town trees", 1.6))
    rank = np.where(roofs, 0.55 + 0.45 * _share(1.3 * bright), yards)
    rank = np.where(green > 1.5, 0.2 * _share(ground.smooth("town park", 1.4)), rank)
    rank = np.where(street < 0.8, 0.42 + 0.06 * ground.smooth("town asphalt", 6), rank)
    # Roofs and gardens are not much wider than a pixel, whose mean dampens them.
    return Cover(own.level(rank, 1.6), _constant(ground, 0.05))


def _industrial(ground: Ground) -> Cover:
    numbers, scale, own = ground.numbers, ground.scale, ground.colours["industrial"]
    estate = numbers.blocks("estate", ground.y, ground.x, 60 * scale)
    turned, deep, _, _ = numbers.of("estate block", estate.cells, 4)
    along, across = estate.turned(ground.angle + 0.15 * turned)
    row, front = numbers.strips("estate street", across, estate.cells, 17 * scale * np.exp(0.25 * deep))
    lot, side = numbers.strips("estate lane", along, row, 24 * scale)
    street = np.minimum(np.minimum(front, side), estate.border) / scale
    wide = 11 * scale * np.exp(0.4 * numbers.of("estate width", lot)[0])
    lot, width = numbers.strips("estate lot", along, lot, wide)
    lot, depth = numbers.strips("estate yard", across, lot, 8 * scale)
    built, large, bright = numbers.of("estate hall", lot, 3)
    roofs = (np.minimum(width, depth) / scale > 0.5 + 0.5 * _share(large)) & (built > -0.7)
    small = ground.smooth("estate goods", 1.6)
    rank = 0.05 + 0.6 * _share(0.9 * ground.smooth("estate ground", 10) + 0.45 * small)
    rank = np.where(roofs, 0.55 + 0.45 * _share(1.2 * bright), rank)
    rank = np.where((built < -1.2) & ~roofs, 0.12 * _share(small), rank)
    rank = np.where(street < 0.8, 0.42, rank)
    return Cover(own.level(rank, 1.1), _constant(ground, 0.03))


def _sea_lake(ground: Ground) -> Cover:
    rank = _share(ground.rough("water", {90: 1, 30: 0.3}))
    return Cover(ground.colours["sea_lake"].level(rank), _constant(ground, 0.014))


def _river(ground: Ground) -> Cover:
    """Water with silt, by which rivers are dark, turquoise or brown."""
    cover = _sea_lake(ground)
    silt, hue = _share(ground.numbers.of_plane("silt", 2))
    full = (1 - hue) * ground.silt[0] + hue * ground.silt[1]
    share = silt * (1 + 0.1 * ground.smooth("silt", 40))
    return replace(cover, colour=cover.colour + share * (full[:, None] - cover.colour))


def _highway(ground: Ground) -> Cover:
    """Asphalt."""
    rank = 0.55 + 0.08 * ground.smooth("asphalt", 5)
    return Cover(ground.colours["industrial"].level(rank), _constant(ground, 0.03))


_PAINTERS: Mapping[str, Callable[[Ground], Cover]] = {
    "annual_crop": _annual_crop,
    "forest": _forest,
    "herbaceous_vegetation": _herbaceous,
    "highway": _highway,
    "industrial": _industrial,
    "pasture": _pasture,
    "permanent_crop": _permanent_crop,
    "residential": _residential,
    "river": _river,
    "sea_lake": _sea_lake,
}
