"""The classes that land is drawn of: what each is called, which ground cover gives it its shapes, and what a prompt asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.embedded.ground_cover import AREAS, CLASSES, LINES
from eoaug.raster.arrays import Float64Array

__all__ = ["SHIPPED", "WORDS", "LandClass", "Legend", "tokens_of"]


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
"""The words of a prompt that mean a ground cover; its name does as well, in one word or two."""
_MIXTURE = {"annual_crop": 0.38, "pasture": 0.17, "forest": 0.19, "herbaceous_vegetation": 0.06, "residential": 0.07,
            "permanent_crop": 0.05, "industrial": 0.02, "highway": 0.03, "river": 0.03}  # fmt: skip
"""Shares of the area of the shipped classes without a prompt."""
_AROUND = {
    "river": {"annual_crop": 0.15, "pasture": 0.35, "forest": 0.35, "herbaceous_vegetation": 0.15},
    "highway": {"annual_crop": 0.35, "pasture": 0.4, "residential": 0.08, "industrial": 0.07,
                "herbaceous_vegetation": 0.1},
}  # fmt: skip
"""What lies around a line where the prompt names nothing else."""
_ADDED = 0.3
"""Share of the area of what a prompt names after "with"."""

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class LandClass:
    """A class of land."""

    name: str
    cover: str
    """One of `ground_cover.CLASSES`, which gives it its shapes."""
    share: float
    """Share of the area without a prompt."""


def tokens_of(text: str) -> Phrase:
    """Return the words of a text in lower case; an underscore separates words."""
    return tuple(re.findall(r"[^\W_]+", text.lower()))


@dataclass(frozen=True)
class Legend:
    """The classes of land in the order of their codes from 1, and what is drawn in addition to them."""

    classes: tuple[LandClass, ...]
    """Classes that a prompt or a class map can ask for."""
    around: tuple[LandClass, ...] = ()
    """What is drawn around them where they do not have its ground cover themselves, such as the banks of a river."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(one.name for one in self.classes)

    @cached_property
    def kinds(self) -> tuple[LandClass, ...]:
        """All that can be drawn, the classes first; statistics and shares have this order."""
        return (*self.classes, *self.around)

    @cached_property
    def areas(self) -> tuple[int, ...]:
        """Indices of the kinds that cover areas."""
        return tuple(k for k, kind in enumerate(self.kinds) if kind.cover in AREAS)

    @cached_property
    def lines(self) -> tuple[int, ...]:
        """Indices of the kinds that cross others."""
        return tuple(k for k, kind in enumerate(self.kinds) if kind.cover in LINES)

    def first(self, cover: str) -> int:
        """Return the index of the first kind with a ground cover."""
        return next(k for k, kind in enumerate(self.kinds) if kind.cover == cover)

    @cached_property
    def phrases(self) -> Mapping[Phrase, tuple[int, ...]]:
        """What a prompt may say, and the classes that it means: names, and words of ground covers.

        A name goes before a word; a word of a ground cover that several classes have means all of them.
        """
        found: dict[Phrase, tuple[int, ...]] = {}
        for cover in CLASSES:
            own = tuple(k for k, one in enumerate(self.classes) if one.cover == cover)
            for word in (cover, cover.replace("_", ""), *WORDS[cover]) if own else ():
                found[tokens_of(word)] = own
        for k, one in enumerate(self.classes):
            for phrase in _spellings(one.name):
                found[phrase] = (k,)
        return found

    def shares_of(self, prompt: str | None) -> tuple[float, ...]:
        """Return the share of the area of every kind that a prompt asks for.

        The words before "with" share the larger part of the area, those after it the rest: in "fields with a village" seven
        tenths are fields. A class counts once for every word that means it. Roads and rivers cross what else is asked for,
        and the more often the larger their share.

        Raises
        ------
        GeneratorError
            The prompt names no class.
        """
        if not prompt:
            return tuple(one.share for one in self.classes) + (0.0,) * len(self.around)
        main, _, added = (" " + prompt.lower() + " ").partition(" with ")
        counts = [self._counts(part) for part in (main, added)]
        if not any(part.any() for part in counts):
            raise GeneratorError(
                f"prompt={prompt!r} names no class of land",
                f"use words such as {', '.join(_examples(self.phrases))}",
            )
        weights = [1 - _ADDED, _ADDED] if all(part.any() for part in counts) else [1.0, 1.0]
        shares = sum(w * part / max(part.sum(), 1) for w, part in zip(weights, counts, strict=True))
        return tuple(float(share) for share in np.asarray(shares))

    def surroundings(self, shares: Sequence[float]) -> Float64Array:
        """Return the share of every kind of the area that lies around lines, for a prompt that names lines alone."""
        found = np.zeros(len(self.kinds))
        for line in self.lines:
            for cover, share in _AROUND[self.kinds[line].cover].items():
                own = [k for k in self.areas if self.kinds[k].cover == cover]
                named = [k for k in own if k < len(self.classes)] or own
                found[named] += shares[line] * share / max(len(named), 1)
        return found

    def _counts(self, text: str) -> Float64Array:
        """Return how often each kind is named: the longest phrase at each word counts."""
        words, counts = tokens_of(text), np.zeros(len(self.kinds))
        longest = max(map(len, self.phrases), default=0)
        at = 0
        while at < len(words):
            size = next((n for n in range(longest, 0, -1) if words[at : at + n] in self.phrases), 0)
            if size:
                meant = list(self.phrases[words[at : at + size]])
                counts[meant] += 1 / len(meant)
            at += max(size, 1)
        return counts


def _spellings(name: str) -> Iterable[Phrase]:
    """Yield what a prompt may call a class: its name, with its words apart, and their plural."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    if words := tokens_of(apart):
        yield from (words, (*words[:-1], words[-1] + "s"), ("".join(words),), tokens_of(name))


def _examples(phrases: Mapping[Phrase, tuple[int, ...]]) -> list[str]:
    """Return a phrase for each class."""
    first: dict[tuple[int, ...], str] = {}
    for phrase, meant in phrases.items():
        if len(meant) == 1:
            first.setdefault(meant, " ".join(phrase))
    return list(first.values())


SHIPPED = Legend(tuple(LandClass(name, name, _MIXTURE.get(name, 0.0)) for name in CLASSES))
"""The classes of the weights that ship in the package."""
