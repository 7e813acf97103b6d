"""Captions and prompts: true, checked, the same for any batch; templates that run nothing; rules that hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from PIL import Image
from typer.testing import CliRunner

import eoaug
from eoaug.augmentation.augment_job import read_augment_job
from eoaug.augmentation.policy import draw_of, read_policy
from eoaug.augmentation.training_items import TrainingSet
from eoaug.captions.caption_file import read_captions, with_captions
from eoaug.captions.checks import problems_of, tokens_of
from eoaug.captions.facts import ImageFacts, facts_of, season_of, words_of
from eoaug.captions.facts_captioner import facts_caption
from eoaug.captions.prompts import AXES, RULES, filled_instruction, forbidden, specify
from eoaug.captions.templates import compiled_template
from eoaug.cli.app import app
from eoaug.errors import GeneratorError, ParameterError, SourceError

EUROSAT = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential", "River",
           "SeaLake")  # fmt: skip
LAND = ("water", "forest", "cropland", "built", "bare", "grass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("captions") / "set"
    rng = np.random.default_rng(0)
    for name in EUROSAT[:3]:
        for number in range(2):
            file = home / "train" / name / f"{name}_{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(file)
    return home


def window(number: int) -> ImageFacts:
    """ImageFacts of a window of a label map, with some classes."""
    rng = np.random.default_rng(number)
    present = rng.permutation(LAND)[: rng.integers(1, 5)]
    shares = rng.dirichlet(np.ones(len(present)))
    lat = float(rng.uniform(-55, 60))
    month = int(rng.integers(1, 13))
    pairs = sorted(zip(map(str, present), shares.tolist(), strict=True), key=lambda one: (-one[1], one[0]))
    return ImageFacts(
        classes=LAND,
        shares=dict(pairs),
        season=season_of(month, lat),
        month=month,
        lonlat=(10.0, lat),
        gsd_m=float(rng.choice([10.0, 20.0, 30.0])),
        sensor=str(rng.choice(["Sentinel-2", "Landsat"])),
        indices={"ndvi": float(rng.uniform(-0.2, 0.9))},
    )


# -- facts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EUROSAT)
def test_facts_captions_name_the_class_without_a_problem(name: str) -> None:
    facts = ImageFacts(
        label=name,
        classes=EUROSAT,
        season="summer",
        month=7,
        lonlat=(10.0, 50.0),
        gsd_m=10.0,
        sensor="Sentinel-2",
    )
    texts = [facts_caption(facts, f"{name}_{number}", k) for number in range(10) for k in range(3)]
    for text in texts:
        assert words_of(name) in text.lower()
        assert problems_of(text, facts) == []
    assert len(set(texts)) >= 4
    assert len({facts_caption(facts, "one", k) for k in range(3)}) == 3


def test_facts_captions_never_contradict_their_map() -> None:
    for number in range(200):
        facts = window(number)
        for k in range(3):
            text = facts_caption(facts, str(number), k)
            assert problems_of(text, facts) == [], (text, facts)


def planted() -> list[tuple[str, ImageFacts]]:
    """60 captions with one contradiction each."""
    out = []
    for number in range(300):
        facts = window(number)
        absent = [name for name in LAND if name not in facts.shares]
        largest = next(iter(facts.shares))
        present = {
            "water": "lake",
            "forest": "woodland",
            "cropland": "farmland",
            "built": "town",
            "bare": "desert",
            "grass": "meadow",
        }
        kinds = [
            f"A satellite image of {present[absent[-1]]}s and {largest}.",
            f"A satellite image with {60 if facts.shares[largest] < 0.5 else 20} % {largest} in it.",
            f"A remote sensing image without any {largest}.",
            "An image taken by MODIS from above.",
            f"A view from above with pixels of {facts.gsd_m * 3:g} m.",
        ]
        if facts.season:
            other = {"summer": "winter", "winter": "summer", "spring": "autumn", "autumn": "spring"}[
                facts.season
            ]
            kinds.append(f"A satellite image of {largest} in {other}.")
        if facts.shares[largest] > 0.05:
            out.append((kinds[number % len(kinds)], facts))
    return out[:60]


def test_planted_contradictions_are_found() -> None:
    found = [(text, problems_of(text, facts)) for text, facts in planted()]
    assert len(found) == 60
    missed = [text for text, problems in found if not any(p.startswith("contradiction") for p in problems)]
    assert len(missed) <= 3, missed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A beautiful view of some land from above", "class"),
        ("Forest", "length"),
        ("forest forest forest forest forest", "repetition"),
        ("a forest of trees, a forest of trees, a forest of trees here", "repetition"),
        ("forest " + "with many green trees and some quite long descriptions " * 9, "cut"),
        ("A forest under deep snow", "contradiction"),
        ("There is no forest in this satellite image", "contradiction"),
        ("A forest in December", "contradiction"),
    ],
)
def test_problems_have_their_names(text: str, problem: str) -> None:
    facts = ImageFacts(label="Forest", classes=EUROSAT, season="summer", month=7, lonlat=(10.0, 45.0))
    assert any(one.startswith(problem) for one in problems_of(text, facts))


def test_what_is_denied_or_only_possible_is_no_contradiction() -> None:
    facts = ImageFacts(label="Forest", classes=EUROSAT, season="summer", month=7, lonlat=(10.0, 45.0))
    for text in (
        "A dense woodland with a river and a road",
        "Forest without snow, next to a lake",
        "Trees in summer",
    ):
        assert problems_of(text, facts) == []


def test_facts_are_read_from_cubes(folder: Path) -> None:
    train = eoaug.training_set(folder)
    facts = facts_of(train[0], train)
    assert (facts.label, facts.season, facts.gsd_m, facts.lonlat) == ("AnnualCrop", None, None, None)
    cover = np.array([[0, 0, 1, 1], [0, 0, 2, 255]], np.uint8)
    bands = {
        name: (("y", "x"), np.full((2, 4), value, np.float32)) for name, value in (("B04", 0.1), ("B08", 0.3))
    }
    attrs = {
        "flag_values": np.array([0, 1, 2]),
        "flag_meanings": "water forest built",
        "_FillValue": np.uint8(255),
    }
    ds = xr.Dataset({**bands, "cover": (("y", "x"), cover, attrs)})

    class Source:
        def open(self) -> xr.Dataset:
            return ds

        def place(self) -> None:
            return None

    item = replace(train[0], source=Source(), label=None)  # type: ignore[arg-type]
    pixels = TrainingSet((item,), "pixels", "cover", ("water", "forest", "built"))
    facts = facts_of(item, pixels)
    assert facts.shares == pytest.approx({"water": 4 / 7, "forest": 2 / 7, "built": 1 / 7})
    assert facts.indices == {"ndvi": 0.5}
    assert facts.sensor is None


def test_seasons_turn_at_the_equator() -> None:
    assert [season_of(month, 50) for month in (1, 4, 7, 10, 12)] == [
        "winter",
        "spring",
        "summer",
        "autumn",
        "winter",
    ]
    assert [season_of(month, -35) for month in (1, 4, 7, 10)] == ["summer", "autumn", "winter", "spring"]
    assert season_of(7, 5) is None


# -- templates and prompts ---------------------------------------------------------------------------------

ATTACKS = [
    "{{ ''.__class__.__mro__ }}", "{{ class.__class__ }}", "{{ class|attr('__class__') }}", "{{ self.__init__ }}", "{{ cycler.__init__ }}",
    "{{ lipsum.__globals__ }}", "{{ range(10**9)|list }}", "{% for i in 'aaaa' %}{{ i }}{% endfor %}", "{{ 'a' * 10**9 }}", "{{ 9**9**9 }}",
    "{{ '%1000000000d' % 1 }}", "{{ '{:>1000000000}'.format(1) }}", "{{ class|center(1000000000) }}", "{{ class.upper() }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% set x = class %}{{ x }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ class[::-1] }}", "{{ namespace(a=1) }}", "{% extends 'base' %}", "{{ dict(a=1) }}", "{% filter upper %}a{% endfilter %}", "{{ class|xmlattr }}",
    "{{ shares[class] }}", "{% block a %}{% endblock %}", "{{ caller() }}", "{% do 1 %}", "{{ joiner() }}", "{{ class|map('upper')|list }}", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS, ids=lambda text: text[:24])
def test_templates_run_nothing(text: str) -> None:
    with pytest.raises(TemplateError):
        compiled_template(text).render({"class": "forest", "shares": {"forest": 0.5}})
    with pytest.raises(ParameterError):
        read_policy({"draws": [{"verb": "synthesize", "prompt": text}]})


def test_templates_fill_slots() -> None:
    text = "{{ class|upper }}{% if season %} in {{ season }}{% endif %}{% if gsd_m is not none and gsd_m < 15 %} fine{% endif %}"
    facts = ImageFacts(label="SeaLake", season="winter", gsd_m=10.0)
    assert filled_instruction(facts, 0, [text]) == "SEA LAKE in winter fine"
    with pytest.raises(ParameterError, match="'nothing' is undefined"):
        filled_instruction(facts, 0, ["{{ nothing }}"])


@given(
    label=st.sampled_from(EUROSAT),
    month=st.integers(1, 12),
    lat=st.floats(-70, 70),
    key=st.integers(0, 9).map(str),
    number=st.integers(0, 50),
    axes=st.sets(st.sampled_from(sorted(AXES))),
)
def test_a_forbidden_pair_never_comes_out(
    label: str, month: int, lat: float, key: str, number: int, axes: set[str]
) -> None:
    season = season_of(month, lat)
    facts = ImageFacts(label=label, classes=EUROSAT, season=season, month=month, lonlat=(0.0, lat))
    made = specify(facts, key, number, axes=sorted(axes))
    assert made == specify(facts, key, number, axes=sorted(axes))
    values = list(made.values.values())
    context = [
        *values,
        *([season] if season and "season" not in axes else []),
        *(["tropics"] if season is None else []),
    ]
    assert set(made.values) <= axes
    assert not [pair for k, pair in enumerate((a, b) for a in context for b in context) if forbidden(*pair)]
    if label == "SeaLake":
        assert "burn scar" not in values
    assert words_of(label) in made.prompt


def test_rules_name_what_there_is() -> None:
    known = {value for values in AXES.values() for value in values} | {"tropics"}
    for first, second, why in RULES:
        assert why
        assert first in known or first.startswith("class:")
        assert second in known
    # Every value comes out somewhere.
    seen: set[str] = set()
    for label in EUROSAT:
        for number in range(120):
            seen |= set(specify(ImageFacts(label=label, lonlat=(0.0, 50.0)), "a", number).values.values())
    assert seen == known - {"tropics"}


# -- captions of a set -------------------------------------------------------------------------------------


def test_captions_become_prompts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    result = CliRunner().invoke(app, ["caption", str(folder), "--several", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "12 captions of 6 images, 12 without a problem" in result.output
    first = out.read_bytes()
    train = eoaug.training_set(folder)
    assert eoaug.caption(train, several=2, out=out, progress=False).problems == {}
    assert out.read_bytes() == first
    captions = read_captions(out)
    policy = {"draws": [{"verb": "synthesize", "prompt": "{{ description }}"}]}
    config = {
        "source": {"path": str(folder), "captions": str(out)},
        "policy": policy,
        "output": {"catalog": "x"},
    }
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(config))
    job = read_augment_job(tmp_path / "set.yaml")
    for item in job.source.training_set():
        assert draw_of(job.policy, item, 0).parameters["prompt"] == captions[item.id][0]
    out.write_text(
        "".join(line.replace("annual crop", "town") + "\n" for line in out.read_text().splitlines())
    )
    out.write_text(json.dumps({"id": "x", "caption": "y"}) + "\n")
    with pytest.raises(SourceError, match="of none of"):
        with_captions(train, out)
    out.write_text("{")
    with pytest.raises(SourceError, match="cannot be read"):
        read_captions(out)


def test_lengths_are_counted_rather_long() -> None:
    assert tokens_of("a satellite image of forest") >= 7
    assert tokens_of("word " * 80) > 77


@pytest.mark.parametrize(
    "kind",
    [
        "blip2",
        pytest.param("instructblip", marks=pytest.mark.slow),
        pytest.param("llava", marks=pytest.mark.slow),
        pytest.param("florence2", marks=pytest.mark.slow),
    ],
)
def test_models_caption_the_same_for_any_batch(folder: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    from tests.tiny_captioners import MODELS

    model = MODELS[kind](tmp_path / kind)
    train = eoaug.training_set(folder)[:3]
    one, eight = (
        eoaug.caption(train, model, several=2, batch=batch, progress=False).lines for batch in (1, 8)
    )
    assert one == eight
    assert len({line["caption"] for line in one}) > 1
    assert all(line["captioner"].startswith(kind) for line in one)
    assert all("class" in " ".join(line["problems"]) for line in one)  # random weights name nothing
    assert {line["look"] for line in one} == {"true"}


def test_folders_with_code_or_pickles_are_refused(folder: Path, tmp_path: Path) -> None:
    train = eoaug.training_set(folder)[:1]

    def refused(problem: str) -> None:
        with pytest.raises(GeneratorError, match=problem):
            eoaug.caption(train, tmp_path, progress=False)

    refused("no config.json")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "x.y"}}')
    refused("auto_map")
    (tmp_path / "config.json").write_text("{}")
    refused("no \\*.safetensors")
    (tmp_path / "model.py").write_text("")
    refused("is code")
    (tmp_path / "model.py").rename(tmp_path / "model.bin")
    refused("is a pickle")
    (tmp_path / "model.bin").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused("cannot be loaded")
