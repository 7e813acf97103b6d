"""What to make of each item of a training set: `Policy`, and the draws that follow from it.

A draw depends on the policy, the item and its number alone, and through the balance on the number of items per class; so any
worker makes the same draws in any order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.captions.facts import facts_without_pixels
from eoaug.captions.prompts import AXES, specify
from eoaug.captions.templates import compiled_template
from eoaug.errors import ParameterError, did_you_mean, first_line
from eoaug.jobs.config import JobVerb, check_parameters
from eoaug.storage.documents import read_settings

__all__ = [
    "Draw",
    "DrawKind",
    "KeepRules",
    "Policy",
    "SpecifyRules",
    "draw_of",
    "draws_by_round",
    "draws_of",
    "draws_per_item",
    "filled_prompt",
    "read_policy",
]

_MOST_BALANCE = 4.0
"""How many times ``per_real`` a rare class gets at most."""

Axis = Literal["natural change", "human activity", "disaster", "season"]


class _PolicySection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpecifyRules(_PolicySection):
    """How the prompts of draws are specified: values of some axes, without contradictions, in a template."""

    axes: tuple[str, ...] = tuple(AXES)
    """Some of ``season``, ``natural change``, ``human activity``, ``disaster`` and ``sensor``."""
    template: str | None = None
    """Of the prompt, with the slots ``class``, ``state``, ``season``, ``natural_change`` and the other axes; None: "a satellite
    image of {{ class }} {{ state }}"."""
    guidance: bool = False
    """Whether draws have the guidance of the specification, for generators that take one."""

    @model_validator(mode="after")
    def _known_axes(self) -> SpecifyRules:
        for axis in self.axes:
            if axis not in AXES:
                hint = did_you_mean(axis, AXES) or f"use some of {', '.join(AXES)}"
                raise ParameterError(f"specify: axis {axis!r} is unknown", hint)
        if self.template is not None:
            _compiled(self.template)
        return self


class DrawKind(_PolicySection):
    """One way to make an image of a real one."""

    verb: JobVerb
    parameters: dict[str, Any] = {}
    """Arguments of the verb that all its draws share."""
    strengths: tuple[float, ...] = ()
    """Strengths of `synthesize`, or severities of `corrupt`, of which each draw takes one; empty: that of ``parameters``."""
    prompt: str | None = None
    """Template of the prompt, with the slots ``class``, ``axis`` and those of the item's properties."""
    specify: SpecifyRules | None = None
    """Instead of a prompt, for images with a class: prompt and strength are those of a specification
    (`eoaug.captions.prompts.specify`), another one for every draw. ``true``: with all axes."""
    weight: float = Field(default=1.0, gt=0)
    """How often it is drawn, relative to the others."""

    @field_validator("strengths", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("specify", mode="before")
    @classmethod
    def _as_rules(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _known_parameters(self) -> DrawKind:
        check_parameters(self.verb, self.parameters)
        if self.strengths and self.verb not in ("synthesize", "corrupt"):
            raise ParameterError(
                f"strengths={list(self.strengths)!r} do not go with {self.verb}", "leave them out"
            )
        for name in ("seed", "members"):
            if name in self.parameters:
                raise ParameterError(
                    f"{name}={self.parameters[name]!r} of {self.verb} is decided by the policy",
                    "set seed: and per_real: of the policy",
                )
        if self.prompt is not None:
            _compiled(self.prompt)
        if self.specify is not None and (self.prompt is not None or self.verb != "synthesize"):
            raise ParameterError(
                f"specify of {self.verb} with prompt={self.prompt!r}: it writes the prompts of synthesize",
                "leave prompt or specify out",
            )
        return self


class KeepRules(_PolicySection):
    """Which of the made images are kept: by `select`, and of each round before the classifiers of the next one see them."""

    agreement: float | None = Field(default=None, ge=0, le=1)
    """Least probability of its class that a classifier trained on real images gives it; None: not asked."""
    duplicate: float | None = Field(default=None, ge=-1, le=1)
    """Cosine of features from which on two images are duplicates."""
    memorised: float | None = Field(default=None, gt=0)
    """Least distance to images other than its source, in distances between real neighbours."""


class Policy(_PolicySection):
    """What `augment` makes of the items of a training set; only the split ``train`` is augmented."""

    per_real: float = Field(default=5.0, ge=0, le=1000)
    """Images made per real one; five, and a strength of 0.3 off the domain of the model, are those of UniDiffDA
    (arXiv 2603.08364)."""
    balance: float = Field(default=0.5, ge=0, le=1)
    """Exponent of the balance of classes: class c gets per_real (n_max / n_c)^balance, at most 4 times per_real."""
    draws: tuple[DrawKind, ...] = (DrawKind(verb="synthesize", strengths=(0.3,)),)
    axes: tuple[Axis, ...] = ()
    """Kinds of variation, of which a draw takes one for its prompt."""
    keep: KeepRules = KeepRules()
    rounds: int = Field(default=1, ge=1, le=100)
    """Rounds of making. Each further one adds as many images as the first, of those real ones whose class a classifier that
    did not see them finds improbable (as deliberate practice does, arXiv 2502.15588); what was made before stays."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("draws")
    @classmethod
    def _some(cls, value: tuple[DrawKind, ...]) -> tuple[DrawKind, ...]:
        if not value:
            raise ValueError("a policy without draws makes nothing")
        return value


@dataclass(frozen=True)
class Draw:
    """One image to be made: a verb with its arguments for one item."""

    item: str
    """Id of the real item."""
    number: int
    verb: JobVerb
    seed: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the verb, seed and prompt included."""
    axis: str = ""


def draws_per_item(policy: Policy, train: TrainingSet) -> dict[str, float]:
    """Return the mean number of draws per item by class; of sets without classes of images, under the empty name."""
    counts = train.counts or {"": len(train)}
    most = max(counts.values())
    factors = {name: min((most / count) ** policy.balance, _MOST_BALANCE) for name, count in counts.items()}
    return {name: policy.per_real * factor for name, factor in factors.items()}


def draws_of(policy: Policy, train: TrainingSet) -> Iterator[Draw]:
    """Yield the draws of the first round of every item of the split ``train``, in the order of the set.

    Parameters
    ----------
    policy
        The policy.
    train
        The set; items of other splits, and of none, are left alone.
    """
    return draws_by_round(policy, train)[0]


def draws_by_round(
    policy: Policy, train: TrainingSet, chances: Sequence[Mapping[str, float]] = ()
) -> list[Iterator[Draw]]:
    """Return the draws of the first round, and of one further round per mapping; each round goes on numbering.

    Parameters
    ----------
    policy, train
        As for `draws_of`.
    chances
        Per further round the probability of its label that a classifier gives each item; one that is missing counts as 1.
    """
    own = train.split("train")
    means = draws_per_item(policy, own)
    by_class = bool(own.counts)  # counts every item: once for all
    rounds = [_counts(policy, {item.id: means[item.label or "" if by_class else ""] for item in own}, 1)]
    for number, some in enumerate(chances, 2):
        errors = {item.id: 1 - some.get(item.id, 1.0) for item in own}
        scale = policy.per_real * len(errors) / max(sum(errors.values()), 1e-12)
        most = _MOST_BALANCE * policy.per_real
        rounds.append(
            _counts(policy, {name: min(scale * error, most) for name, error in errors.items()}, number)
        )
    begin = dict.fromkeys(rounds[0], 0)
    out = []
    for counts in rounds:
        out.append(_numbered(policy, own, dict(begin), counts))
        begin = {name: at + counts[name] for name, at in begin.items()}
    return out


def _counts(policy: Policy, means: Mapping[str, float], number: int) -> dict[str, int]:
    """Return the number of draws of every item: a mean of 2.5 is two draws for half of the items and three for the others."""
    salt = "count" if number == 1 else f"count {number}"
    return {
        name: int(mean) + (_uniform(policy.seed, name, salt) < mean - int(mean))
        for name, mean in means.items()
    }


def _numbered(
    policy: Policy, own: TrainingSet, begin: Mapping[str, int], counts: Mapping[str, int]
) -> Iterator[Draw]:
    for item in own:
        for number in range(begin[item.id], begin[item.id] + counts[item.id]):
            yield draw_of(policy, item, number)


def draw_of(policy: Policy, item: TrainingItem, number: int) -> Draw:
    """Return one draw of an item, whether or not the policy's numbers per item reach it."""
    key = (policy.seed, item.id, number)
    kind = _weighted(policy.draws, _uniform(*key, "kind"))
    parameters = dict(kind.parameters)
    if kind.strengths:
        chosen = kind.strengths[int(_uniform(*key, "strength") * len(kind.strengths))]
        parameters["strength" if kind.verb == "synthesize" else "severity"] = (
            chosen if kind.verb == "synthesize" else int(chosen)
        )
    if kind.verb == "translate":
        # A best estimate is the same whatever the seed.
        parameters.setdefault("steps", 1)
    axis: str = policy.axes[int(_uniform(*key, "axis") * len(policy.axes))] if policy.axes else ""
    if kind.prompt is not None:
        slots = {**item.properties, "class": item.label or "", "axis": axis}
        parameters["prompt"] = filled_prompt(kind.prompt, slots)
    if kind.specify is not None:
        specified, axis = _specified(kind.specify, policy.seed, item, number)
        parameters = {**specified, **parameters}
    seed = int.from_bytes(_digest(*key, "seed")[:8], "big") >> 1
    return Draw(item.id, number, kind.verb, seed, {**parameters, "seed": seed}, axis)


def _specified(rules: SpecifyRules, seed: int, item: TrainingItem, number: int) -> tuple[dict[str, Any], str]:
    """Return arguments of a draw from its specification, and the values of its axes."""
    if item.label is None:
        raise ParameterError(
            f"specify: image {item.id!r} has no class", "use prompt: with the slots of the item's properties"
        )
    chosen = specify(
        facts_without_pixels(item), item.id, number, axes=rules.axes, seed=seed,
        **({} if rules.template is None else {"template": rules.template}),
    )  # fmt: skip
    arguments: dict[str, Any] = {"prompt": chosen.prompt, "strength": chosen.strength}
    if rules.guidance:
        arguments["guidance"] = chosen.guidance
    return arguments, ", ".join(f"{axis}: {value}" for axis, value in chosen.values.items())


def _weighted(kinds: tuple[DrawKind, ...], at: float) -> DrawKind:
    total = sum(kind.weight for kind in kinds)
    reached = 0.0
    for kind in kinds:
        reached += kind.weight / total
        if at < reached:
            return kind
    return kinds[-1]


def _digest(*key: Any) -> bytes:
    return hashlib.sha256("\n".join(map(str, key)).encode()).digest()


def _uniform(*key: Any) -> float:
    """Return a number from 0 to below 1 that depends on the key alone."""
    return (int.from_bytes(_digest(*key)[:8], "big") >> 11) / 2**53


def _compiled(text: str) -> Any:
    from jinja2 import TemplateError

    try:
        return compiled_template(text)
    except TemplateError as error:
        raise ParameterError(
            f"the prompt {text!r} is no template: {first_line(error)}",
            "e.g. 'a satellite image of {{ class }}'",
        ) from error


def filled_prompt(template: str, slots: Mapping[str, Any]) -> str:
    """Return a prompt with its slots filled, in jinja2's sandbox.

    Raises
    ------
    ParameterError
        The template is broken, or names a slot that is not there.
    """
    from jinja2 import TemplateError

    try:
        return str(_compiled(template).render(dict(slots))).strip()
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise ParameterError(
            f"the prompt {template!r} cannot be filled: {first_line(error)}",
            f"use the slots {', '.join(sorted(slots))}, e.g. 'a satellite image of {{{{ class }}}}'",
        ) from error


def read_policy(config: Policy | Mapping[str, Any] | str | os.PathLike[str]) -> Policy:
    """Return a validated policy from a YAML file, a mapping or a policy.

    Raises
    ------
    ParameterError
        The message names the key, its value, and the nearest known key.
    """
    return read_settings(config, Policy, noun="policy", remedy="give keys and values, e.g. per_real: 5")
