"""Stage 1: specifications of images to be made. Values of five axes are drawn for an image, and rules forbid what cannot be.

The axes of natural change, human activity and disaster are those of Sousa et al. (2025, arXiv 2406.06218); season and sensor are
added. Words, rules and templates are our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eoaug.captions.checks import concepts_of
from eoaug.captions.facts import SEASONS, ImageFacts, words_of
from eoaug.captions.templates import compiled_template
from eoaug.errors import ParameterError, did_you_mean, first_line

__all__ = ["AXES", "INSTRUCTIONS", "RULES", "Specification", "filled_instruction", "forbidden", "specify"]


@dataclass(frozen=True)
class AxisValue:
    """One state of the ground."""

    words: str
    """Within a prompt, after the class."""
    strength: float = 0.4
    """How far an image may depart from its source."""


AXES: Mapping[str, Mapping[str, AxisValue]] = {
    "season": {season: AxisValue(f"in {season}", 0.3) for season in SEASONS},
    "natural change": {
        "fresh snow": AxisValue("under fresh snow"),
        "drought": AxisValue("after a long drought, dry and brown"),
        "high water": AxisValue("with high water after heavy rain"),
        "leaf fall": AxisValue("with leaves turning red and yellow", 0.3),
        "growth": AxisValue("with vegetation that has grown denser", 0.3),
    },
    "human activity": {
        "harvest": AxisValue("with harvested fields", 0.3),
        "clearing": AxisValue("with cleared patches and logging tracks"),
        "building": AxisValue("with construction sites and new buildings"),
        "new road": AxisValue("crossed by a new road"),
        "irrigation": AxisValue("with irrigated fields", 0.3),
    },
    "disaster": {
        "burn scar": AxisValue("with the dark scar of a wildfire", 0.5),
        "flood": AxisValue("flooded by brown water", 0.5),
        "storm damage": AxisValue("with trees thrown by a storm", 0.5),
        "landslide": AxisValue("with the bare track of a landslide", 0.5),
    },
    "sensor": {
        "Sentinel-2": AxisValue("as seen by Sentinel-2", 0.3),
        "Landsat": AxisValue("as seen by Landsat", 0.3),
    },
}
"""Values by axis."""

RULES: Sequence[tuple[str, str, str]] = (
    ("summer", "fresh snow", "snow melts"),
    ("tropics", "fresh snow", "no snow falls"),
    ("tropics", "leaf fall", "trees keep their leaves"),
    *(("tropics", season, "there are no such seasons") for season in SEASONS),
    ("winter", "growth", "vegetation rests"),
    ("winter", "harvest", "fields are bare"),
    ("winter", "leaf fall", "leaves have fallen"),
    ("spring", "leaf fall", "leaves grow"),
    ("summer", "leaf fall", "leaves are green"),
    ("winter", "irrigation", "fields are bare"),
    ("winter", "burn scar", "vegetation is wet"),
    ("winter", "drought", "vegetation does not show it"),
    ("fresh snow", "drought", "wet and dry"),
    ("fresh snow", "burn scar", "snow covers it"),
    ("fresh snow", "harvest", "snow covers it"),
    ("fresh snow", "irrigation", "frozen"),
    ("drought", "flood", "wet and dry"),
    ("drought", "high water", "wet and dry"),
    ("drought", "growth", "nothing grows"),
    ("drought", "irrigation", "irrigated fields are green"),
    ("high water", "burn scar", "wet ground does not burn"),
    ("flood", "harvest", "fields are under water"),
    ("flood", "irrigation", "fields are under water"),
    ("flood", "fresh snow", "water melts it"),
    *(
        ("class:water", value, "open water")
        for value in (
            "fresh snow", "drought", "leaf fall", "growth", "harvest", "clearing", "building", "new road", "irrigation", "burn scar",
            "storm damage", "landslide",
        )
    ),
    *(("class:built", value, "no field or forest") for value in ("leaf fall", "growth", "harvest", "clearing", "irrigation", "landslide")),
    *(("class:road", value, "no field or forest") for value in ("growth", "harvest", "clearing", "irrigation", "new road")),
    *(("class:forest", value, "no field") for value in ("harvest", "irrigation")),
    *(("class:crop", value, "no forest") for value in ("clearing", "storm damage", "landslide", "leaf fall")),
    *(("class:grass", value, "no forest") for value in ("clearing", "storm damage", "leaf fall", "harvest")),
    *(("class:bare", value, "nothing grows") for value in ("leaf fall", "growth", "harvest", "clearing", "storm damage", "burn scar")),
    *(("class:snow", value, "under snow") for value in ("drought", "leaf fall", "growth", "harvest", "burn scar", "irrigation", "flood")),
)  # fmt: skip
"""Pairs that never come together, and why: values, ``tropics``, and concepts of the class."""

_FORBIDDEN = {frozenset(pair[:2]) for pair in RULES}
_TEMPLATE = "a satellite image of {{ class }}{% if state %} {{ state }}{% endif %}"
_NEGATIVE = "text, watermark, frame, horizon, oblique view, people, blurry, cartoon"
_GUIDANCE = 2.0
"""Low: diverse images teach a classifier more than pretty ones."""
_SOME = 0.5
"""Probability that an axis other than season and sensor takes a value."""

INSTRUCTIONS = (
    "Describe this satellite image of {{ class }} in detail, and name what makes {{ class }} recognisable.",
    "This is {{ class }} seen from above{% if season %} in {{ season }}{% endif %}. Which shapes, colours and textures does it have?",
    "Describe this overhead image of {{ class }}. Say what people, weather or natural events have done to it, if that can be seen.",
)
"""What a captioning model is asked, one after the other for several captions of an image."""


@dataclass(frozen=True)
class Specification:
    """An image to be made."""

    prompt: str
    negative: str
    guidance: float
    strength: float
    values: Mapping[str, str] = field(default_factory=dict)
    """Values by axis."""
    layout: str | None = None
    """Name of the label variable that guides the image; None without one."""


def forbidden(first: str, second: str) -> bool:
    """Return whether a rule forbids two values, or a value with a class (``class:water``) or ``tropics``."""
    return frozenset((first, second)) in _FORBIDDEN


def specify(
    facts: ImageFacts,
    key: str,
    number: int,
    *,
    axes: Sequence[str] = tuple(AXES),
    template: str = _TEMPLATE,
    layout: str | None = None,
    seed: int = 0,
) -> Specification:
    """Return a specification of an image; equal arguments give an equal one.

    Parameters
    ----------
    facts
        Of the image that it starts from.
    key
        Id of that image.
    number
        Of the specification among several of it.
    axes
        Some of `AXES`; others keep what the facts say.
    template
        Of the prompt, with the slots ``class``, ``state``, the names of the axes with underscores, and those of the facts.
    layout
        Name of the label variable that guides the image.
    seed
        Random seed.

    Raises
    ------
    ParameterError
        An axis is unknown, or the template cannot be filled.
    """
    for axis in axes:
        if axis not in AXES:
            raise ParameterError(
                f"axis {axis!r} is unknown", did_you_mean(axis, AXES) or f"use some of {', '.join(AXES)}"
            )
    given = _given(facts)
    values: dict[str, str] = {}
    # What the facts say holds also where its axis is not drawn.
    if facts.season and "season" not in axes:
        given.add(facts.season)
    for axis in AXES:
        if axis not in axes:
            continue
        certain = axis in ("season", "sensor")
        if not certain and _uniform(seed, key, number, axis, "some") >= _SOME:
            continue
        free = [value for value in AXES[axis] if not any(forbidden(value, other) for other in given)]
        if free:
            chosen = free[int(_uniform(seed, key, number, axis) * len(free))]
            values[axis] = chosen
            given.add(chosen)
    state = ", ".join(AXES[axis][value].words for axis, value in values.items())
    slots = {
        **facts.as_slots(),
        **{axis.replace(" ", "_"): values.get(axis, "") for axis in AXES},
        "state": state,
    }
    slots["class"] = slots["class"] or _largest(facts)
    strength = max((AXES[axis][value].strength for axis, value in values.items()), default=0.3)
    return Specification(_filled(template, slots), _NEGATIVE, _GUIDANCE, strength, values, layout)


def filled_instruction(facts: ImageFacts, number: int, instructions: Sequence[str] = INSTRUCTIONS) -> str:
    """Return what a captioning model is asked for one of several captions of an image.

    Parameters
    ----------
    facts
        Of the image.
    number
        Of the caption.
    instructions
        Templates with the slots of the facts.
    """
    slots = facts.as_slots()
    slots["class"] = slots["class"] or _largest(facts)
    return _filled(instructions[number % len(instructions)], slots)


def _largest(facts: ImageFacts) -> str:
    return words_of(next(iter(facts.shares))) if facts.shares else "the ground"


def _given(facts: ImageFacts) -> set[str]:
    names = [facts.label] if facts.label else [name for name, share in facts.shares.items() if share >= 0.5]
    given = {f"class:{concept}" for name in names for concept in concepts_of(name)}
    if facts.lonlat is not None and abs(facts.lonlat[1]) < 23.5:
        given.add("tropics")
    return given


def _filled(template: str, slots: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError

    try:
        return " ".join(str(compiled_template(template).render(dict(slots))).split())
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise ParameterError(
            f"the template {template!r} cannot be filled: {first_line(error)}",
            f"use the slots {', '.join(sorted(slots))}, e.g. 'a satellite image of {{{{ class }}}}'",
        ) from error


def _uniform(*key: Any) -> float:
    """Return a number from 0 to below 1 that depends on the key alone."""
    digest = hashlib.sha256("\n".join(map(str, ("specification", *key))).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
