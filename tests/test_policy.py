"""Policies: the draws follow from policy, item and number alone; only train is augmented; rare classes get more."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from eoaug.augmentation.policy import Policy, draw_of, draws_of, draws_per_item, filled_prompt, read_policy
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.errors import EoaugError


def a_set(counts=None, splits=("train",)) -> TrainingSet:
    counts = counts or {"forest": 40, "river": 10, "town": 1}
    items = [
        TrainingItem(f"{name}{k}-{split}", None, label=name, split=split, properties={"month": 6})
        for name, count in counts.items()
        for split in splits
        for k in range(count)
    ]
    return TrainingSet(tuple(items), "classes", "class", tuple(counts))


POLICY = {
    "per_real": 2.5,
    "axes": ["season", "disaster"],
    "seed": 4,
    "draws": [
        {
            "verb": "synthesize",
            "strengths": [0.3, 0.6],
            "prompt": "a {{ class }} in month {{ month }}, {{ axis }}",
            "weight": 3,
        },
        {"verb": "corrupt", "parameters": {"kind": "haze"}, "strengths": [1, 2]},
    ],
}


def test_draws_follow_from_policy_item_and_number():
    train = a_set(splits=("train", "test", "validate", ""))
    policy = read_policy(POLICY)
    draws = list(draws_of(policy, train))
    assert draws == list(draws_of(read_policy(policy.model_dump(mode="json")), train))
    assert {draw.item.partition("-")[2] for draw in draws} == {"train"}
    assert len({draw.seed for draw in draws}) == len(draws)
    assert len({(draw.item, draw.number) for draw in draws}) == len(draws)
    fewer = TrainingSet(train.items[::-1], "classes", "class", train.classes)
    assert {(d.item, d.number): d for d in draws} == {(d.item, d.number): d for d in draws_of(policy, fewer)}
    other = read_policy({**POLICY, "seed": 5})
    assert {d.seed for d in draws_of(other, train)}.isdisjoint(d.seed for d in draws)
    first = next(d for d in draws if d.verb == "synthesize" and d.axis == "season")
    assert first.parameters["prompt"] == f"a {re.split(r'[0-9]', first.item)[0]} in month 6, season"
    assert first.parameters["strength"] in (0.3, 0.6)
    assert next(d for d in draws if d.verb == "corrupt").parameters["severity"] in (1, 2)


def test_counts_weights_and_balance():
    train = a_set({"forest": 400, "river": 100, "town": 4})
    policy = read_policy({**POLICY, "balance": 0.5})
    assert draws_per_item(policy, train) == {"forest": 2.5, "river": 5.0, "town": 10.0}
    draws = list(draws_of(policy, train))
    per_class = Counter(re.split(r"\d", draw.item)[0] for draw in draws)
    assert (per_class["river"], per_class["town"]) == (500, 40)
    assert len(draws) == pytest.approx(1000 + 500 + 40, rel=0.05)
    verbs = Counter(draw.verb for draw in draws)
    assert verbs["synthesize"] / len(draws) == pytest.approx(0.75, abs=0.04)
    assert draws_per_item(read_policy({"balance": 0, "per_real": 5}), train) == dict.fromkeys(
        train.classes, 5.0
    )


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ({"per_reel": 5}, "per_real"),
        ({"balance": 2}, "balance"),
        ({"draws": []}, "draws"),
        ({"draws": [{"verb": "synthesise"}]}, "verb"),
        ({"draws": [{"verb": "inpaint", "parameters": {"streng": 1}}]}, "streng"),
        ({"draws": [{"verb": "synthesize", "parameters": {"seed": 1}}]}, "seed"),
        ({"draws": [{"verb": "corrupt"}]}, "kind"),
        ({"draws": [{"verb": "inpaint", "strengths": 0.3}]}, "strengths"),
        ({"draws": [{"verb": "synthesize", "prompt": "{{ class "}]}, "prompt"),
        ({"axes": ["weather"]}, "axes"),
        (["x"], "list"),
    ],
)
def test_wrong_policies_are_refused(wrong, shown):
    with pytest.raises(EoaugError, match=shown) as caught:
        read_policy(wrong)
    assert caught.value.remedy


def test_prompts_cannot_leave_the_sandbox():
    for text in (
        "{{ class.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
    ):
        with pytest.raises(EoaugError):
            filled_prompt(text, {"class": "a"})


def test_slots_that_an_item_lacks_are_named():
    policy = read_policy({"draws": [{"verb": "synthesize", "prompt": "a {{ klass }}"}]})
    with pytest.raises(EoaugError, match="klass") as caught:
        next(draws_of(policy, a_set()))
    assert "class" in caught.value.remedy


def test_a_policy_file(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "per_real: 3\ndraws:\n- {verb: super_resolve, parameters: {factor: 2}}\n"
    )
    policy = read_policy(tmp_path / "p.yaml")
    assert isinstance(policy, Policy)
    assert len(list(draws_of(policy, a_set({"a": 2})))) == 6
    with pytest.raises(EoaugError, match="cannot be read"):
        read_policy(tmp_path / "q.yaml")
    with pytest.raises(EoaugError, match="no item of the training set"):
        list(draws_of(policy, a_set(splits=("test",))))


def test_items_are_counted_a_fixed_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting once per item took most of the time of a large set."""
    calls: list[int] = []
    original = TrainingSet.counts.fget
    assert original is not None
    monkeypatch.setattr(TrainingSet, "counts", property(lambda self: calls.append(1) or original(self)))
    made = []
    for size in (10, 200):
        calls.clear()
        list(draws_of(read_policy(POLICY), a_set({"forest": size, "river": 3})))
        made.append(len(calls))
    assert made[0] == made[1]


class Somewhere:
    """A place on the southern side of the tropics, without pixels."""

    def open(self):
        raise AssertionError("a specification opens no image")

    def place(self):
        return 20.0, -5.0

    def identity(self):
        return "here"


def specified(label, **kind):
    policy = read_policy({"seed": 3, "draws": [{"verb": "synthesize", **kind}]})
    item = TrainingItem("a", Somewhere(), label, "train", properties={"datetime": "2020-07-01T00:00:00Z"})
    return [draw_of(policy, item, number) for number in range(40)]


def test_specifications_write_prompts_without_contradictions():
    draws = specified("Forest", specify=True)
    prompts = {draw.parameters["prompt"] for draw in draws}
    assert len(prompts) > 10
    assert all(prompt.startswith("a satellite image of forest") for prompt in prompts)
    # There is no snow and no season in the tropics, no harvest in woods.
    assert not any(word in prompt for prompt in prompts for word in ("snow", "summer", "winter", "harvest"))
    assert {draw.parameters["strength"] for draw in draws} <= {0.3, 0.4, 0.5}
    assert any("disaster: " in draw.axis for draw in draws)
    assert draws == specified(
        "Forest", specify={"axes": ["season", "natural change", "human activity", "disaster", "sensor"]}
    )


def test_a_policy_decides_what_a_specification_leaves_to_it():
    draws = specified(
        "Forest",
        strengths=[1.0],
        specify={"axes": ["disaster"], "template": "{{ class }} {{ disaster }}", "guidance": True},
    )
    assert {draw.parameters["strength"] for draw in draws} == {1.0}
    assert {draw.parameters["guidance"] for draw in draws} == {2.0}
    assert {"forest", "forest burn scar"} <= {draw.parameters["prompt"] for draw in draws}
    with pytest.raises(EoaugError, match="image 'a' has no class"):
        specified(None, specify=True)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ({"verb": "synthesize", "specify": {"axes": ["seeson"]}}, "'seeson' is unknown"),
        ({"verb": "synthesize", "specify": True, "prompt": "x"}, "leave prompt or specify out"),
        ({"verb": "inpaint", "specify": True}, "specify of inpaint"),
        ({"verb": "synthesize", "specify": {"template": "{{ class"}}, "is no template"),
    ],
)
def test_specifications_that_cannot_be_are_refused(kind, match):
    with pytest.raises(EoaugError, match=match):
        read_policy({"draws": [kind]})
