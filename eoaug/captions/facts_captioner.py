"""The captioner without a model: sentences that say what is known, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from eoaug.captions.facts import ImageFacts, words_of

__all__ = ["facts_caption"]

_TRACE = 0.01
"""Share below which a class is not named."""
_OPENINGS = (
    "A satellite image of {}",
    "{} seen from above",
    "An overhead view of {}",
    "A remote sensing image showing {}",
)


def facts_caption(facts: ImageFacts, key: str, number: int) -> str:
    """Return a caption; the same key and number give the same one.

    Parameters
    ----------
    facts
        Of the image.
    key
        Id of the image: it decides the words.
    number
        Of the caption among several of the image.
    """
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    opening = _OPENINGS[(start + number) % len(_OPENINGS)]
    subject = words_of(facts.label) if facts.label else _largest(facts)
    first = opening.format(subject)
    first = first[:1].upper() + first[1:]
    if facts.season:
        first += f" in {facts.season}"
    sentences = [_cover(facts), _vegetation(facts), _measured(facts)]
    rest = [text for text in sentences if text]
    turn = (start // len(_OPENINGS) + number) % max(len(rest), 1)
    return " ".join(f"{text}." for text in [first, *rest[turn:], *rest[:turn]])


def _named(facts: ImageFacts) -> list[tuple[str, float]]:
    return [(words_of(name), share) for name, share in facts.shares.items() if share >= _TRACE]


def _largest(facts: ImageFacts) -> str:
    named = _named(facts)
    return _listed([name for name, _ in named[:2]]) if named else "the ground"


def _cover(facts: ImageFacts) -> str:
    named = _named(facts)
    if not named:
        return ""
    return f"The label map has {_listed([f'{100 * share:.0f} % {name}' for name, share in named])}"


def _vegetation(facts: ImageFacts) -> str:
    ndvi = facts.indices.get("ndvi")
    if ndvi is None:
        return ""
    level = (
        "Dense" if ndvi > 0.6 else "Moderate" if ndvi > 0.35 else "Sparse" if ndvi > 0.15 else "Hardly any"
    )
    return f"{level} green vegetation, mean NDVI {ndvi:.2f}"


def _measured(facts: ImageFacts) -> str:
    parts = [
        f"taken by {facts.sensor}" if facts.sensor else "",
        f"with pixels of {facts.gsd_m:g} m" if facts.gsd_m else "",
    ]
    text = " ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
