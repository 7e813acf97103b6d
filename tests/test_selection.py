"""Selection: planted copies, duplicates and wrong labels are found, and little else."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eoaug
from eoaug.augmentation.selected import kept_of, read_selection
from eoaug.augmentation.training_items import TrainingSet
from eoaug.errors import ParameterError, SourceError
from eoaug.selection.agreement import Agreement, folds_of, least_agreement
from eoaug.selection.diversity import diversity_of
from eoaug.selection.likeness import nearest_of, patterns_of, turned_cosines
from eoaug.trials.images import ImageArrays

CLASSES = ("Fields", "Town", "Water")


def scene(rng: np.random.Generator, label: int, edge: int = 32) -> np.ndarray:
    """Parcels of 9 px, blocks of 4 px, or dark swell; each image has an arrangement of its own."""
    size = (9, 4, 6)[label]
    cells = edge // size + 2
    coarse = rng.normal(0, (22, 30, 8)[label], (cells, cells, 1)) + rng.normal(0, 2, (cells, cells, 3))
    values = coarse.repeat(size, 0).repeat(size, 1)[:edge, :edge] + rng.normal(0, 2, (edge, edge, 1))
    return np.clip(
        values + np.array(((80, 90, 60), (110, 105, 100), (50, 60, 80))[label]) + rng.normal(0, 4, 3), 1, 255
    )


def copy_of(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Return an image turned or mirrored, and compressed as JPEG."""
    turned = np.rot90(values, rng.integers(4))
    turned = turned[:, ::-1] if rng.random() < 0.5 else turned
    file = io.BytesIO()
    Image.fromarray(turned.astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(70, 96)))
    return np.asarray(Image.open(file))


def planted(
    home: Path, reals: int, others: int, counts: dict[str, int], draw: Any
) -> tuple[TrainingSet, TrainingSet, dict[str, str]]:
    """Return a training set, images made of it, and what is wrong with each of those (by id; empty: nothing).

    ``draw(rng, label)`` gives a new image of a class. An honest made image is such an image.
    """
    rng = np.random.default_rng(3)

    def save(values: np.ndarray, label: int, name: str, top: str) -> None:
        file = home / top / CLASSES[label] / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values).astype(np.uint8)).save(file)

    real = [(f"r{number}", number % 3, draw(rng, number % 3)) for number in range(reals)]
    for name, label, values in real:
        save(values, label, name, "real")
    wrong: dict[str, str] = {}
    parents: dict[str, str] = {}
    honest: list[tuple[str, int, np.ndarray]] = []
    kinds = [""] * others + [kind for kind, count in counts.items() for _ in range(count)]
    for number, kind in enumerate(kinds):
        source, label, _ = real[int(rng.integers(reals))]
        values, name = draw(rng, label), f"m{number:04d}"
        if kind == "memorised":
            other = next(
                one
                for one in (real[int(k)] for k in rng.permutation(reals))
                if one[1] == label and one[0] != source
            )
            values = copy_of(rng, other[2])
        elif kind == "duplicate":
            source, label, first = honest[int(rng.integers(len(honest)))]
            values = copy_of(rng, first)
        elif kind == "agreement":
            values = draw(rng, (label + int(rng.integers(1, 3))) % 3)
        else:
            honest.append((source, label, values))
        wrong[name], parents[name] = kind, source
        save(values, label, name, "made")
    train = eoaug.training_set(home / "real", split="train", label="class")
    made = eoaug.training_set(home / "made", split="train", label="class")
    items = tuple(replace(item, made_from=(parents[item.id],)) for item in made)
    return train, replace(made, items=items), wrong


def found(lines: Any, wrong: dict[str, str]) -> tuple[dict[str, int], int]:
    """Return how many of each kind are dropped, and how many images with nothing wrong."""
    dropped = {line["id"] for line in lines if not line["keep"]}
    kinds = {kind: sum(wrong[name] == kind for name in dropped) for kind in set(wrong.values()) - {""}}
    return kinds, sum(wrong[name] == "" for name in dropped)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("select")
    return planted(home, 60, 60, {"memorised": 8, "duplicate": 8, "agreement": 8}, scene)


def test_planted_faults_are_found_and_written(small: Any, tmp_path: Path) -> None:
    train, made, wrong = small
    how: dict[str, Any] = {"updates": 30, "batch": 16, "progress": False}
    selection = eoaug.select(train, made, out=tmp_path / "selection", **how)
    kinds, false = found(selection.lines, wrong)
    assert kinds["memorised"] >= 7
    assert kinds["duplicate"] >= 7
    assert kinds["agreement"] >= 6
    assert false <= 6
    lines = (tmp_path / "selection" / "selection.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [dict(line) for line in selection.lines]
    kept = kept_of(made, tmp_path)
    assert {item.id for item in kept} == {line["id"] for line in selection.lines if line["keep"]}
    page = (tmp_path / "selection" / "index.html").read_text()
    assert "Dropped: memorised" in page
    assert not (tmp_path / "selection" / "arrays").exists()
    assert selection.kept == len(kept)
    assert "descriptive only" in str(selection)


@pytest.mark.long
def test_planted_faults_are_found_in_full_counts(eoaug_data: Path, tmp_path: Path) -> None:
    """50 of each kind among 600 images of EuroSAT, a third of them water, whose pattern compression nearly removes."""
    import zipfile

    files = zipfile.ZipFile(eoaug_data / "eurosat" / "eurosat_rgb_train.zip")
    own = ("Forest", "Residential", "SeaLake")
    names = {
        label: sorted(n for n in files.namelist() if n.endswith(".jpg") and f"{own[label]}/" in n)
        for label in range(3)
    }
    order = {
        label: np.random.default_rng(label).permutation(len(names[label])).tolist() for label in range(3)
    }

    def draw(rng: np.random.Generator, label: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(files.read(names[label][order[label].pop()]))))

    counts = {"memorised": 50, "duplicate": 50, "agreement": 50}
    train, made, wrong = planted(tmp_path, 1500, 600, counts, draw)
    selection = eoaug.select(train, made, updates=400, progress=False)
    kinds, false = found(selection.lines, wrong)
    print(selection, kinds, false, selection.accuracy)
    assert kinds["memorised"] >= 48
    assert kinds["duplicate"] >= 48
    assert kinds["agreement"] >= 40
    assert false <= 30


def test_a_cosine_knows_turns_and_mirrors() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 2, 16, 16)).astype(np.float16)
    arrays = ImageArrays(images, np.zeros(6, np.uint8))
    patterns = patterns_of(arrays)
    for turn in range(8):
        turned = np.rot90(images, turn % 4, (2, 3))
        turned = turned[..., ::-1] if turn >= 4 else turned
        other = patterns_of(ImageArrays(np.ascontiguousarray(turned), arrays.targets))
        cosines = turned_cosines(other.patterns, patterns.patterns)
        np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-3)
        assert cosines[~np.eye(6, dtype=bool)].max() < 0.5
    near = nearest_of(patterns, patterns, [[k] for k in range(6)])
    assert (near.at != np.arange(6)).all()


def test_no_more_is_asked_than_real_images_give() -> None:
    chance = np.concatenate([np.linspace(0.6, 1, 50), np.linspace(0.01, 1, 50)])
    real = ImageArrays(np.zeros((100, 1, 1, 1), np.float16), np.repeat([0, 1], 50).astype(np.uint8))
    nothing = np.zeros((0, 0), np.float32)
    least = least_agreement(Agreement(chance, chance, 1.0, nothing, nothing), real, 0.5, 2)
    assert least[0] == 0.5
    assert (chance[50:] < least[1]).mean() <= 0.04


def test_images_of_one_place_are_in_one_fold(small: Any) -> None:
    train, _, _ = small
    folds = folds_of(train)
    assert sorted(set(folds)) == [0, 1, 2, 3]
    backwards = replace(train, items=train.items[::-1])
    np.testing.assert_array_equal(folds_of(backwards)[::-1], folds)


def test_measures_have_their_known_values() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(400, 6)).astype(np.float32)
    other = rng.normal(size=(400, 6)).astype(np.float32)
    same = diversity_of(points, other)
    assert same["precision"] > 0.8
    assert same["recall"] > 0.8
    assert 0.8 < same["density"] < 1.2
    assert same["coverage"] > 0.85
    assert abs(same["kernel_distance"]) < 0.2
    far = diversity_of(points, other + 20)
    assert (far["precision"], far["recall"], far["density"], far["coverage"]) == (0, 0, 0, 0)
    one = np.repeat(other[:1], 50, axis=0) + 5
    assert diversity_of(points, one)["vendi_made"] == pytest.approx(1, abs=1e-6)
    corners = np.eye(6, dtype=np.float32).repeat(20, axis=0)
    scaled = np.concatenate([corners, -corners])  # mean 0: six directions
    assert diversity_of(scaled, scaled)["vendi_made"] == pytest.approx(6, abs=1e-3)


def test_a_selection_of_other_images_is_refused(small: Any, tmp_path: Path) -> None:
    _, made, _ = small
    (tmp_path / "selection").mkdir()
    file = tmp_path / "selection" / "selection.jsonl"
    file.write_text('{"id": "x", "keep": true}\n')
    with pytest.raises(ParameterError, match="are not in"):
        kept_of(made, tmp_path)
    for text in ("{", '{"id": "x"}\n', '{"id": "x", "keep": 1}\n'):
        file.write_text(text)
        with pytest.raises(SourceError, match="cannot be read"):
            read_selection(file)
    assert kept_of(made, tmp_path / "no catalog") is made
