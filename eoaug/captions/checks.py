"""Checks of a caption against what is known of its image: a model invents, and a caption that contradicts its map teaches wrong.

Land cover is compared by concepts: words that mean the same, such as river, lake and sea for water. A mention that is denied
("no water") counts as its opposite.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

from eoaug.captions.facts import SEASONS, ImageFacts, words_of

__all__ = ["CLIP_TOKENS", "concepts_of", "problems_of", "tokens_of"]

CLIP_TOKENS = 77
"""Tokens that the text encoder of CLIP reads, with begin and end."""
_LEAST_WORDS, _MOST_WORDS = 3, 90

_CONCEPTS: Mapping[str, tuple[str, ...]] = {
    "water": (
        "water", "waters", "river", "rivers", "lake", "lakes", "sea", "ocean", "pond", "ponds", "reservoir", "stream", "coast",
        "sealake", "harbour", "harbor", "bay", "canal",
    ),
    "forest": ("forest", "forests", "woodland", "woods", "tree", "trees", "forested", "jungle", "wooded", "rainforest"),
    "crop": (
        "crop", "crops", "cropland", "farmland", "farm", "farms", "arable", "agricultural", "agriculture", "orchard", "orchards",
        "vineyard", "vineyards", "plantation", "cultivated",
    ),
    "grass": ("grass", "grassland", "grasslands", "pasture", "pastures", "meadow", "meadows", "herbaceous"),
    "built": (
        "built", "urban", "city", "town", "village", "building", "buildings", "residential", "industrial", "houses", "house",
        "factory", "factories", "suburb", "suburban", "houses", "rooftops", "roofs",
    ),
    "road": ("road", "roads", "highway", "highways", "motorway", "street", "streets"),
    "bare": ("bare", "desert", "sand", "sandy", "dunes", "dune", "rock", "rocks", "barren"),
    "snow": ("snow", "snowy", "ice", "glacier", "snow-covered", "icy"),
    "wetland": ("wetland", "wetlands", "marsh", "swamp", "bog", "mangrove", "mangroves"),
    "shrub": ("shrub", "shrubs", "shrubland", "scrub", "bushes"),
    "cloud": ("cloud", "clouds", "cloudy", "overcast"),
    "burnt": ("burnt", "burned", "wildfire", "fire", "scorched"),
}  # fmt: skip
"""Words by concept."""
_COMPATIBLE = {
    "road": {"built"},
    "built": {"road"},
    "crop": {"grass"},
    "grass": {"crop", "shrub"},
    "shrub": {"grass"},
}
"""Concepts that a class may show without being named for them."""
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_SENSORS = ("sentinel-2", "sentinel-1", "landsat", "modis", "planet", "worldview", "spot", "pleiades")
_DENIALS = {"no", "without", "not", "never", "lacks", "lacking", "free", "absence", "none"}
_DENIED_WORDS = 4
"""A denial holds for the words that follow it, up to a comma or full stop."""
_SHARE = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:%|percent|per cent)\s+(?:of\s+)?(?:the\s+)?(?:area\s+is\s+)?([a-z][a-z \-]*)"
)
_PIXEL = re.compile(
    r"(?:pixels?\s+of|resolution\s+of|at)\s+(\d+(?:\.\d+)?)\s*(?:m|metres?|meters?)\b|(\d+(?:\.\d+)?)\s*(?:m|metre|meter)s?\s+(?:pixels?|resolution)"
)
_SHARE_TOLERANCE = 0.02


@cache
def _concept_of_words() -> dict[str, str]:
    return {word: concept for concept, words in _CONCEPTS.items() for word in words}


def concepts_of(name: str) -> set[str]:
    """Return the concepts of the name of a class, such as water for SeaLake."""
    found = {_concept_of(word) for word in words_of(name).split()}
    return {concept for concept in found if concept is not None}


def _concept_of(word: str) -> str | None:
    """Return the concept of a word, or of its singular."""
    by_word = _concept_of_words()
    return by_word.get(word) or by_word.get(word.removesuffix("s"))


def tokens_of(text: str) -> int:
    """Return about how many tokens CLIP makes of a text, begin and end included; rather too many than too few."""
    words = re.findall(r"[a-z]+|\d|[^\sa-z\d]+", text.lower())
    return 2 + sum(1 if len(word) <= 8 else 2 for word in words)


def problems_of(caption: str, facts: ImageFacts, *, tokens: int | None = None) -> list[str]:
    """Return what is wrong with a caption; empty if nothing is.

    Parameters
    ----------
    caption
        The text.
    facts
        Of its image.
    tokens
        Its length in tokens of the text encoder that will read it; default: about that of CLIP.
    """
    text = " ".join(caption.lower().split())
    words = re.findall(r"[a-z]+(?:-[a-z0-9]+)*", text)
    found = []
    if not _LEAST_WORDS <= len(words) <= _MOST_WORDS:
        found.append(f"length: {len(words)} words")
    if repeated := _repeated(words):
        found.append(f"repetition: {repeated!r}")
    count = tokens_of(caption) if tokens is None else tokens
    if count > CLIP_TOKENS:
        found.append(f"cut: {count} tokens, and CLIP reads {CLIP_TOKENS}")
    found += _against_class(text, facts)
    found += _against_map(text, facts)
    found += _against_season(text, facts)
    found += _against_sensor(text, facts)
    return found


def _repeated(words: list[str]) -> str:
    """Return a run of three words that occurs three times, or a word five times in a row."""
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    if runs and (most := runs.most_common(1)[0])[1] >= 3:
        return " ".join(most[0])
    for k in range(len(words) - 3):
        if len(set(words[k : k + 4])) == 1:
            return " ".join(words[k : k + 4])
    return ""


def _mentions(text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield concept, word, and whether it is affirmed."""
    for part in re.split(r"[.,;:!?]|\bbut\b", text):
        words = re.findall(r"[a-z]+(?:-[a-z]+)*", part)
        for at, word in enumerate(words):
            concept = _concept_of(word)
            if concept is not None:
                before = words[max(0, at - _DENIED_WORDS) : at]
                yield concept, word, not _DENIALS & set(before)


def _against_class(text: str, facts: ImageFacts) -> Iterator[str]:
    if facts.label is None:
        return
    name = words_of(facts.label)
    own = concepts_of(facts.label)
    mentions = list(_mentions(text))
    named = re.search(rf"\b{re.escape(name)}\b", text) or any(c in own and yes for c, _, yes in mentions)
    if not named:
        yield f"class: {name} is not named"
    for concept, word, yes in mentions:
        if concept in own and not yes:
            yield f"contradiction: {word} is denied, and the class is {name}"
    # Snow, cloud and fire are no classes of most sets, but states that a caption must not invent.
    invented = {"snow", "burnt", "bare"} - own
    for concept, word, yes in mentions:
        if concept in invented and yes and not _compatible(concept, own):
            yield f"contradiction: {word}, and the class is {name}"
    for other in facts.classes:
        words = words_of(other)
        if (
            (
                other != facts.label
                and not concepts_of(other) & own
                and re.search(rf"\b{re.escape(words)}\b", text)
            )
            and not _denied(text, words)
            and not named
        ):
            yield f"contradiction: {words} is named, and the class is {name}"


def _compatible(concept: str, own: set[str]) -> bool:
    return any(concept in _COMPATIBLE.get(one, ()) for one in own)


def _denied(text: str, words: str) -> bool:
    before = text[: text.find(words)].replace(",", ".").rpartition(".")[2].split()[-_DENIED_WORDS:]
    return bool(_DENIALS & set(before))


def _against_map(text: str, facts: ImageFacts) -> Iterator[str]:
    """Yield classes that are named without a pixel, denied with pixels, and shares that are not those of the map."""
    if not facts.shares:
        return
    present: dict[str, float] = {}
    for name, share in facts.shares.items():
        for concept in concepts_of(name):
            present[concept] = present.get(concept, 0.0) + share
    known = {concept for name in facts.classes for concept in concepts_of(name)}
    for concept, word, yes in _mentions(text):
        share = present.get(concept, 0.0)
        if yes and share == 0 and not _compatible(concept, set(present)):
            if concept in known or concept in ("snow", "burnt", "water", "forest", "built", "crop", "bare"):
                yield f"contradiction: {word}, of which the map has no pixel"
        elif not yes and share >= 0.05:
            yield f"contradiction: {word} is denied, and the map has {100 * share:.0f} %"
    for name in facts.classes:
        words = words_of(name)
        absent = name not in facts.shares and not concepts_of(name)
        if absent and re.search(rf"\b{re.escape(words)}\b", text) and not _denied(text, words):
            yield f"contradiction: {words}, of which the map has no pixel"
    yield from _wrong_shares(text, facts, present)


def _wrong_shares(text: str, facts: ImageFacts, present: Mapping[str, float]) -> Iterator[str]:
    names = {words_of(name): share for name, share in facts.shares.items()}
    absent = {words_of(name): 0.0 for name in facts.classes if words_of(name) not in names}
    for number, what in _SHARE.findall(text):
        hit = max((name for name in (*names, *absent) if what.startswith(name)), key=len, default=None)
        if hit is not None:
            share = names.get(hit, 0.0)
        else:
            concept = _concept_of(what.split()[0])
            if concept is None:
                continue
            share = present.get(concept, 0.0)
        if abs(float(number) / 100 - share) > _SHARE_TOLERANCE:
            yield f"contradiction: {number} % {hit or what.split()[0]}, and the map has {100 * share:.0f} %"


def _against_season(text: str, facts: ImageFacts) -> Iterator[str]:
    if facts.month is not None:
        own = _MONTHS[facts.month - 1]
        for month in _MONTHS:
            if month != own and re.search(rf"\bin {month}\b", text):
                yield f"contradiction: {month}, and the image is of {own}"
    for season in SEASONS:
        alike = (season, "fall") if season == "autumn" else (season,)
        if facts.season and season != facts.season and any(re.search(rf"\b{one}\b", text) for one in alike):
            yield f"contradiction: {season}, and the image is of {facts.season}"
    latitude = None if facts.lonlat is None else abs(facts.lonlat[1])
    snowy = any(concept == "snow" and yes for concept, _, yes in _mentions(text))
    if snowy and latitude is not None and latitude < 60 and facts.season == "summer":
        yield f"contradiction: snow in summer at a latitude of {latitude:.0f} degrees"


def _against_sensor(text: str, facts: ImageFacts) -> Iterator[str]:
    if facts.sensor:
        own = facts.sensor.lower()
        for sensor in _SENSORS:
            if sensor not in own and re.search(rf"\b{re.escape(sensor)}\b", text):
                yield f"contradiction: {sensor}, and the image is of {facts.sensor}"
    if facts.gsd_m:
        for one, other in _PIXEL.findall(text):
            size = float(one or other)
            if abs(size - facts.gsd_m) > 0.05 * facts.gsd_m + 0.01:
                yield f"contradiction: pixels of {size:g} m, and the image has {facts.gsd_m:g} m"
    ndvi = facts.indices.get("ndvi")
    if ndvi is not None and ndvi < 0.2 and re.search(r"\b(dense|lush) (green )?vegetation\b", text):
        yield f"contradiction: dense vegetation, and the mean NDVI is {ndvi:.2f}"
