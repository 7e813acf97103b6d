"""The gate: fair by construction, calibrated on planted answers, the same bytes when repeated, and it refuses leaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import eoaug
from eoaug.augmentation.augment_job import read_augment_job
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.augmentation.verdict import read_verdict
from eoaug.cli.app import app
from eoaug.errors import ParameterError
from eoaug.trials.arms import Arm, SampleOrder, all_arms
from eoaug.trials.augmentations import AUGMENTATIONS, augmented_batch
from eoaug.trials.statistics import PlaceSample, gain_of, scores_of

CLASSES = ("Forest", "River")
FAST: dict[str, Any] = {
    "seeds": 2,
    "updates": 4,
    "batch": 4,
    "doses": (0.5,),
    "augmentations": ("none", "advanced"),
    "progress": False,
}


def tiny(bands: int, classes: int) -> torch.nn.Module:
    """A network with so many weights that it needs more images than it is given."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(bands * 64, classes))


def image(rng: np.random.Generator, label: int) -> np.ndarray:
    """The classes differ by their mean green, less than a pixel does from the next."""
    values = rng.normal(110, 40, (8, 8, 3)) + rng.normal(0, 6, 3)
    values[..., 1] += 9 if label else -9
    return np.clip(values, 1, 255).astype(np.uint8)


def write(home: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label, name in enumerate(CLASSES):
            place = home / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(image(rng, label)).save(place / f"{name}_{split}_{number}.png")
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gate") / "set", {"train": 4, "val": 4, "test": 6})


@pytest.fixture(scope="module")
def real(folder: Path) -> TrainingSet:
    return eoaug.training_set(folder)


def children(
    real: TrainingSet, home: Path, *, per_real: int = 1, flip: float = 0.0, fresh: int | None = None
) -> TrainingSet:
    """Images that say they were made of the training images.

    With ``fresh`` they are new images of the class (a perfect generator); with ``flip`` that share has the colour of the
    other class; else they are copies with noise of two grey levels, which teach nothing.
    """
    rng = np.random.default_rng([7, fresh or 0])
    for item in real.split("train"):
        label = CLASSES.index(str(item.label))
        for number in range(per_real):
            shown = 1 - label if rng.random() < flip else label
            if fresh is None and not flip:
                own_pixels = np.asarray(Image.open(item.href)).astype(int)
                pixels = np.clip(own_pixels + rng.integers(-2, 3, own_pixels.shape), 0, 255).astype(np.uint8)
            else:
                pixels = image(rng, shown)
            file = home / str(item.label) / f"{item.id}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    found = eoaug.training_set(home, split="train")
    own = {item.id: item for item in real}
    made = tuple(replace(item, made_from=(own[item.id.rpartition("-")[0]].id,)) for item in found)
    return replace(found, items=made)


# -- the same for every arm -----------------------------------------------------------------------------


def test_every_arm_has_the_same_updates_and_a_repeat_has_the_same_bytes(
    real: TrainingSet, folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "set.yaml"
    policy = {"per_real": 1, "draws": [{"verb": "corrupt", "parameters": {"kind": "haze"}, "strengths": [1]}]}
    out = tmp_path / "out"
    content = {
        "source": {"path": str(folder)},
        "policy": policy,
        "output": {"catalog": str(out), "format": "chips"},
    }
    config.write_text(yaml.safe_dump(content))
    assert CliRunner().invoke(app, ["augment", str(config)]).exit_code == 0
    verdict = eoaug.gate(real, out, model=tiny, **FAST)
    first = (out / "gate" / "verdict.json").read_bytes()
    (arms,) = [size["arms"] for size in verdict.report["sizes"]]
    assert {arm["updates"] for arm in arms} == {4}
    assert {arm["samples"] for arm in arms} == {4 * 4 * 2}
    assert {arm["made"] for arm in arms if arm["p"] == 0} == {0}
    assert {arm["made"] for arm in arms if arm["p"] == 1} == {4 * 4 * 2}
    trials = {path: path.stat().st_mtime_ns for path in (out / "gate" / "trials").iterdir()}
    assert len(trials) == len(arms) * 2
    gone = sorted(trials)[3]
    gone.unlink()  # what a killed gate did not reach
    assert eoaug.gate(real, out, model=tiny, **FAST) == verdict
    assert (out / "gate" / "verdict.json").read_bytes() == first
    assert {path for path in trials if path.stat().st_mtime_ns != trials[path]} == {gone}
    assert not (out / "gate" / "arrays").exists()
    page = (out / "gate" / "index.html").read_text()
    assert str(verdict)[3:] in page
    assert "advanced, p=0.5" in page
    assert eoaug.training_set(out)  # a catalog with a verdict is a training set as before
    options = [
        "--seeds",
        "2",
        "--updates",
        "1",
        "--batch",
        "2",
        "--augmentations",
        "none",
        "--doses",
        "0.5",
        "--json",
    ]
    result = CliRunner().invoke(app, ["gate", str(config), *options, "--out", str(tmp_path / "g")])
    told = json.loads(result.stdout)
    assert result.exit_code == (0 if told["use"] else 4)
    assert eoaug.torch.Augmented(real.torch("train"), out, verdict=tmp_path / "g").p == told["p"]


def test_one_file_leads_from_a_set_to_a_verdict(folder: Path, tmp_path: Path) -> None:
    draw = {"verb": "corrupt", "parameters": {"kind": "haze"}, "strengths": [1]}
    keep = {"agreement": 0.1, "duplicate": 0.99, "memorised": 0.01}
    content = {
        "source": {"path": str(folder)},
        "policy": {"per_real": 1, "draws": [draw], "keep": keep},
        "output": {"catalog": str(tmp_path / "out"), "format": "chips"},
        "select": {"updates": 1, "batch": 2},
        "gate": {"seeds": 2, "updates": 1, "batch": 2, "doses": [0.5], "augmentations": ["none"]},
    }
    config = tmp_path / "set.yaml"
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(app, ["augment", str(config), "--through", "gate"])
    verdict = json.loads((tmp_path / "out" / "gate" / "verdict.json").read_text())
    assert result.exit_code == (0 if verdict["use"] else 4), result.output
    assert "real images" in result.output  # the plan comes first
    assert "kept" in result.output
    assert verdict["seeds"] == 2
    lines = (tmp_path / "out" / "selection" / "selection.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines if not json.loads(line)["keep"]]
    page = (tmp_path / "out" / "gate" / "index.html").read_text()
    assert ("Dropped images" in page) == bool(dropped)
    # Whatever the tiny classifiers found: an image that is dropped is shown with the reason.
    first = {**json.loads(lines[0]), "keep": False, "reasons": ["duplicate"]}
    selection = tmp_path / "out" / "selection" / "selection.jsonl"
    selection.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    result = CliRunner().invoke(app, ["gate", str(config)])
    assert result.exit_code in (0, 4), result.output
    page = (tmp_path / "out" / "gate" / "index.html").read_text()
    assert "Dropped images" in page
    assert "duplicate" in page
    made = read_augment_job(content).request
    assert read_augment_job({**content, "policy": {**content["policy"], "keep": {}}}).request == made  # type: ignore[dict-item]
    wrong = CliRunner().invoke(app, ["augment", str(config), "--through", "the end"])
    assert wrong.exit_code == 2


def test_arms_see_the_same_real_images_at_the_same_positions() -> None:
    made = {number: (10 + number,) for number in range(5)}
    own = np.arange(6)
    orders = {p: SampleOrder(Arm("none", p), 3, own, made).batches(30, 8) for p in (0.0, 0.25, 0.5)}
    parents: dict[float, list[int]] = {}
    shares: dict[float, float] = {}
    for p, batches in orders.items():
        numbers = np.concatenate([one for one, _ in batches])
        flags = np.concatenate([one for _, one in batches])
        parents[p] = np.where(flags, numbers - 10, numbers).tolist()
        shares[p] = flags.mean()
        assert not flags[parents[p] == np.array(5)].any()  # has no child
    assert parents[0.0] == parents[0.25] == parents[0.5]
    assert shares[0.0] == 0 < shares[0.25] < shares[0.5] < 0.55
    only = SampleOrder(Arm("none", 1.0), 3, own, made).batches(30, 8)
    assert all(flags.all() for _, flags in only)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_augmentations_move_masks_with_their_pixels(kind: str) -> None:
    rows, cols = np.indices((24, 32)) // 4
    mask = torch.tensor((rows * 8 + cols) % 5)
    images = torch.stack([mask.float(), torch.zeros_like(mask).float()])[None].repeat(16, 1, 1, 1)
    out, moved = augmented_batch(images, mask.repeat(16, 1, 1), kind, torch.Generator().manual_seed(1))
    assert moved is not None
    assert out.shape == images.shape
    inside = moved != 255
    assert inside.float().mean() > 0.5
    if kind == "randaugment":  # values change per channel, the mask does not
        return
    # Where the image is flat around a pixel, the interpolated value is the class.
    assert ((out[:, 0].round() == moved) | ~inside).float().mean() > 0.75
    assert set(moved.unique().tolist()) <= {0, 1, 2, 3, 4, 255}


@pytest.mark.parametrize("task", ["pixels", "change"])
def test_maps_of_classes_and_of_change_are_judged(tmp_path: Path, task: str) -> None:
    rng = np.random.default_rng(0)
    home = tmp_path / "set"
    for split, count in (("train", 2), ("val", 2), ("test", 3)):
        for number in range(count):
            mask = np.zeros((16, 16), np.uint8)
            mask[4 : 8 + number * 2, 5:12] = 1
            before = rng.integers(60, 120, (16, 16, 3)).astype(np.uint8)
            after = before + 60 * mask[..., None]
            layers = (
                {"images": after, "masks": mask}
                if task == "pixels"
                else {"A": before, "B": after, "label": mask}
            )
            for name, values in layers.items():
                file = home / split / name / f"{split}{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(file)
    train = eoaug.training_set(home, task=task, classes=["same", "other"])  # type: ignore[arg-type]
    noise = {"verb": "corrupt", "parameters": {"kind": "gaussian_noise"}, "strengths": [2]}
    eoaug.augment(
        train, tmp_path / "out", policy={"per_real": 1, "draws": [noise]}, format="chips", progress=False
    )
    how: dict[str, Any] = {
        "seeds": 2,
        "updates": 2,
        "batch": 2,
        "doses": (0.5,),
        "augmentations": ("advanced",),
    }
    verdict = eoaug.gate(train, tmp_path / "out", progress=False, **how)
    (size,) = verdict.report["sizes"]
    assert verdict.metric == "mean intersection over union"
    assert [line["class"] for line in size["classes"]] == ["same", "other"]
    assert verdict.score == pytest.approx(np.mean([line["chosen"] for line in size["classes"]]), abs=1e-5)
    assert "3 places only" in " ".join(verdict.report["notes"])
    unnamed = eoaug.training_set(home, task=task)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="at least two") as caught:
        eoaug.gate(unnamed, tmp_path / "out", progress=False, **how)
    assert "classes=" in caught.value.remedy


# -- statistics ----------------------------------------------------------------------------------------


def confusions(rng: np.random.Generator, chance: float, seeds: int, places: int, spread: float) -> np.ndarray:
    """Counts of two classes; seeds and places have effects of their own."""
    rate = chance + spread * rng.normal(size=(seeds, 1)) + 0.1 * rng.normal(size=(1, places))
    hits = rng.binomial(8, np.clip(rate, 0.05, 0.95))
    out = np.zeros((seeds, places, 2, 2), np.int64)
    out[..., 0, 0], out[..., 0, 1] = hits // 2, 4 - hits // 2
    out[..., 1, 1], out[..., 1, 0] = hits - hits // 2, 4 - (hits - hits // 2)
    return out


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_intervals_hold_what_they_promise(spread: float) -> None:
    rng = np.random.default_rng(5)
    sample = PlaceSample.of(40, 0)
    above = below = 0
    for _ in range(60):
        one, other = (confusions(rng, 0.7, 5, 40, spread) for _ in range(2))
        gain = gain_of(one, other, sample, pixels=False)[0]
        above += gain.low > 0
        below += gain.high < 0
    assert above <= 4  # 1.5 expected of an exact interval
    assert below <= 4
    better = [
        gain_of(
            confusions(rng, 0.85, 5, 40, spread), confusions(rng, 0.7, 5, 40, spread), sample, pixels=False
        )[0]
        for _ in range(20)
    ]
    assert sum(gain.low > 0 for gain in better) >= 18


def test_scores_are_accuracy_recall_and_intersection_over_union() -> None:
    counts = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(scores_of(counts, pixels=False), [9 / 12, 6 / 8, 3 / 4, np.nan])
    np.testing.assert_allclose(scores_of(counts, pixels=True), [(6 / 9 + 3 / 6) / 2, 6 / 9, 3 / 6, np.nan])


# -- what is refused -----------------------------------------------------------------------------------


class At:
    """A place for an item, for sets whose images have none."""

    def __init__(self, item: TrainingItem, place: tuple[float, float]) -> None:
        self.own, self.where = item.source, place

    def open(self) -> Any:
        return self.own.open()

    def place(self) -> tuple[float, float]:
        return self.where

    def identity(self) -> str:
        return self.own.identity()


def placed(real: TrainingSet) -> TrainingSet:
    """Splits 10 degrees apart, except for one image of the test."""
    lon = {"train": 0.0, "validate": 10.0, "test": 20.0}
    items = []
    for number, item in enumerate(real):
        at = (lon[item.split] + 0.1 * number / len(real), 50.0)
        items.append(replace(item, source=At(item, at)))
    return replace(real, items=tuple(items))


def test_leaks_are_refused_with_a_remedy(real: TrainingSet, tmp_path: Path) -> None:
    made = children(real, tmp_path / "made")
    first, test = made[0], real.split("test")[0]

    def refused(train: TrainingSet, augmented: TrainingSet, problem: str, remedy: str) -> None:
        with pytest.raises(ParameterError, match=problem) as caught:
            eoaug.gate(train, augmented, model=tiny, **FAST)
        assert remedy in caught.value.remedy

    def with_first(item: TrainingItem) -> TrainingSet:
        return replace(made, items=(item, *made.items[1:]))

    refused(
        real,
        with_first(replace(first, made_from=(test.id,))),
        "an image of the split 'test'",
        "split train only",
    )
    refused(real, with_first(replace(first, made_from=("x",))), "comes from x, which is not", "augment this")
    refused(real, with_first(replace(first, made_from=())), "comes from no image", "augment this")
    refused(
        real,
        with_first(replace(first, source=test.source)),
        "has the pixels of .* of test",
        "leave .* out"[:5],
    )
    other = replace(made, classes=("Forest", "Town"))
    refused(real, other, "classes Forest, Town", "same classes")
    refused(real, replace(made, task="pixels"), "for pixels", "same task")
    refused(real.split("train"), made, "split 'validate'", "split='place'")
    apart = placed(real)
    at, own = next((k, item) for k, item in enumerate(apart) if item.split == "train")
    near = replace(own, source=At(own, (20.001, 50.0)))
    moved = replace(apart, items=(*apart.items[:at], near, *apart.items[at + 1 :]))
    refused(moved, made, "is \\d+ m from .* of test: the splits overlap", "split='place'")
    verdict = eoaug.gate(apart, made, model=tiny, **FAST)
    assert "not known" not in " ".join(verdict.report["notes"])


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"seeds": 1}, "seeds=1"),
        ({"fractions": (0,)}, "fractions"),
        ({"doses": (1.0,)}, "doses"),
        ({"augmentations": ("advance",)}, "'advance' is unknown"),
        ({"model": "resnet18"}, "does not fit"),
        ({"model": "smp:unet"}, "does not fit"),
    ],
)
def test_wrong_arguments_are_refused(
    real: TrainingSet, tmp_path: Path, how: dict[str, Any], problem: str
) -> None:
    made = children(real, tmp_path / "made")
    with pytest.raises(ParameterError, match=problem):
        eoaug.gate(real, made, **{**FAST, **how})


def test_a_file_that_is_no_verdict_is_refused(tmp_path: Path) -> None:
    for text in ("", "{}", '{"use": 1, "p": 0.5}', '{"use": true, "p": 7}'):
        (tmp_path / "verdict.json").write_text(text)
        with pytest.raises(ParameterError, match="verdict"):
            read_verdict(tmp_path)


def test_the_arms_are_those_of_the_protocol() -> None:
    names = [arm.name for arm in all_arms(tuple(AUGMENTATIONS), (0.5,))]
    assert names == [
        *(f"{name}, real only" for name in AUGMENTATIONS),
        *(f"{name}, p=0.5" for name in AUGMENTATIONS),
        "advanced, made only",
        "advanced, repeated",
    ]


# -- planted answers -----------------------------------------------------------------------------------


def planted(tmp_path: Path, seed: int, **kind: Any) -> bool:
    """The verdict on made images of which it is known what they do."""
    home = write(tmp_path / f"set{seed}", {"train": 5, "val": 30, "test": 120}, seed=100 + seed)
    real = eoaug.training_set(home)
    if "fresh" in kind:
        kind["fresh"] = 1 + seed
    made = children(real, tmp_path / f"made{seed}", **kind)
    how = {**FAST, "seeds": 5, "updates": 120, "batch": 16, "augmentations": ("none",)}
    return eoaug.gate(real, made, model=tiny, **how).use


PLANTED = {
    "benefit": ({"fresh": 1, "per_real": 40}, 10, range(9, 11)),
    "harm": ({"flip": 0.9, "per_real": 5}, 10, range(1)),
    "null": ({}, 20, range(2)),
}
"""Made images, how many sets of them, and how many of these may be accepted."""


@pytest.mark.long
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_answers_are_found(tmp_path: Path, kind: str) -> None:
    how, count, accepted = PLANTED[kind]
    assert sum(planted(tmp_path, seed, **how) for seed in range(count)) in accepted
