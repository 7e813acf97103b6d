"""Which ground cover gives a class of a training set its shapes: by its name, by the user's word, or by measured likeness."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError, did_you_mean
from eoaug.evaluate.structure import structure
from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.generators.embedded.legend import WORDS, tokens_of
from eoaug.raster.arrays import FloatArray

__all__ = ["LIKE", "CoverChoice", "cover_of_name", "cover_of_word", "likeness", "structures_of"]


How = Literal["name", "word", "likeness"]

_NAMES: Mapping[str, tuple[str, ...]] = {
    "annual_crop": (
        "annual crop", "agriculture", "agricultural", "farm", "maize", "corn", "wheat", "barley", "rye", "oat", "rice", "soy",
        "soya", "soybean", "rapeseed", "canola", "sunflower", "potato", "beet", "sugar beet", "sugarbeet", "cotton", "sorghum",
        "millet", "sugarcane", "sugar cane", "vegetable", "cereal", "fallow", "paddy",
    ),
    "forest": (
        "tree", "tree cover", "conifer", "coniferous", "deciduous", "broadleaf", "broadleaved", "pine", "spruce", "beech",
        "mangrove", "jungle", "taiga",
    ),
    "herbaceous_vegetation": (
        "shrub", "scrubland", "moor", "moorland", "savanna", "savannah", "chaparral", "tundra", "maquis", "natural vegetation",
    ),
    "highway": ("freeway",),
    "industrial": ("warehouse", "commercial"),
    "pasture": ("grass", "grazing", "pastureland"),
    "permanent_crop": ("permanent crop", "fruit tree", "grove", "citrus", "vine", "olive", "palm", "plantation"),
    "residential": ("house", "housing", "street", "urban", "urban fabric", "settlement", "suburb", "built", "built up", "builtup"),
    "river": ("watercourse", "water course"),
    "sea_lake": ("sea lake", "reservoir", "pond", "lagoon", "waterbody", "water body", "open water", "inland water", "marine water"),
}  # fmt: skip
"""Names of classes that mean a ground cover, in addition to the words of prompts."""
LIKE = 1.2
"""Largest distance of the structure of drawn images from that of real ones at which they are like each other, in standard
deviations between the real ones (`likeness`). Of the classes of EuroSAT that cover areas the nearest cover was .29 to .71 away
(150 windows; up to 1.1 for a cover by name and 25 windows), of noise, stripes, clouds and other images without land 1.36 and more."""


@dataclass(frozen=True)
class CoverChoice:
    """The ground cover of a class."""

    cover: str | None
    """One of `ground_cover.CLASSES`; None: none fits."""
    how: How
    distance: float = float("nan")
    """Distance of the structure of images drawn with this cover from that of real ones (`likeness`)."""


def _phrases() -> dict[tuple[str, ...], str]:
    found = {}
    for cover in CLASSES:
        for text in (cover, cover.replace("_", ""), *WORDS[cover], *_NAMES[cover]):
            found[tokens_of(text)] = cover
    return found


_COVERS = _phrases()
_LONGEST = max(map(len, _COVERS))


def cover_of_name(name: str) -> str | None:
    """Return the ground cover that the name of a class means, None where it names none or several.

    ``Sugar cane`` and ``WinterWheat`` are annual crops; ``forest road`` may be either, so it is neither.
    """
    words = tokens_of(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name))
    covers, at = set(), 0
    while at < len(words):
        for size in range(min(_LONGEST, len(words) - at), 0, -1):
            cover = _cover_of_phrase(words[at : at + size])
            if cover is not None:
                covers.add(cover)
                at += size - 1
                break
        at += 1
    return covers.pop() if len(covers) == 1 else None


def _cover_of_phrase(phrase: tuple[str, ...]) -> str | None:
    singular = (*phrase[:-1], phrase[-1].removesuffix("s"))
    return _COVERS.get(phrase) or _COVERS.get(singular)


def cover_of_word(name: str, word: str) -> str | None:
    """Return the ground cover that a user names for a class; None for ``"none"``.

    Raises
    ------
    ParameterError
        It is no ground cover.
    """
    if word.lower() == "none":
        return None
    cover = cover_of_name(word)
    if cover is None:
        raise ParameterError(
            f"classes: {name!r} is to look like {word!r}, which is no ground cover",
            f"{did_you_mean(word, CLASSES)} use one of {', '.join(CLASSES)}, or none to leave the class out".lstrip(),
        )
    return cover


def structures_of(images: Sequence[FloatArray]) -> NDArray[np.float64]:
    """Return the statistics of structure of images, shape (n, 8); each has shape (3, H, W), reflectance."""
    return np.array([astuple(structure(image)) for image in images])


def likeness(drawn: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """Return how far structures are from real ones: Wasserstein distances of the statistics in standard deviations of the
    real ones, of which the mean is taken.

    Parameters
    ----------
    drawn, real
        As from `structures_of`.
    """
    levels = (np.arange(64) + 0.5) / 64
    away = np.abs(np.quantile(drawn, levels, axis=0) - np.quantile(real, levels, axis=0)).mean(axis=0)
    return float((away / (real.std(axis=0) + 0.05)).mean())
