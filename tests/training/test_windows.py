"""Fine-tuning on the images of a training set: opened one at a time, with several captions, of windows where they are asked for."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

import eoaug
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cli.app import app
from eoaug.errors import EoaugWarning, ParameterError, SourceError
from eoaug.training.finetune import Tuning, _prompts, finetune
from eoaug.training.windows import ItemWindows
from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
QUICK: dict[str, Any] = {"rank": 2, "steps": 3, "tile_px": 32, "batch": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight grey images of 32 px by class; the grey tells the image."""
    home = tmp_path_factory.mktemp("set")
    for number in range(8):
        place = home / ("Forest" if number % 2 else "SeaLake")
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 + 20 * number, np.uint8)).save(place / f"{number}.png")
    return home


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.sd(tmp_path_factory.mktemp("base") / "sd")


def opened(folder: Path) -> TrainingSet:
    return eoaug.training_set(folder, scale=1 / 255)


def test_every_image_comes_with_all_of_its_captions(folder: Path) -> None:
    train = opened(folder)
    captions = {item.id: [f"{item.id} one", f"{item.id} two"] for item in train if item.label == "Forest"}
    windows = ItemWindows(train, ("red", "green", "blue"), 32, (0.0, 1.0), captions, "an image")
    rng = np.random.default_rng(0)
    seen = [windows.draw(rng) for _ in range(60)]
    level = {round(2 * (40 + 20 * number) / 255 - 1, 4): number for number in range(8)}
    for window in seen:
        number = level[round(float(window.image.mean()), 4)]
        expected = f"{number} one" if number % 2 else "an image"
        assert str(window.captions[0]).endswith(expected)
        assert len(window.captions) == (2 if number % 2 else 1)
    assert len({float(window.image.mean()) for window in seen}) == 8


def test_classes_are_the_captions_unless_others_are_given(folder: Path, tmp_path: Path) -> None:
    train = opened(folder)
    named = _prompts(train, None)
    assert {tuple(own) for own in named.values()} == {  # type: ignore[union-attr]
        ("a satellite image of sea lake",),
        ("a satellite image of forest",),
    }
    eoaug.caption(train, several=3, out=tmp_path / "captions.jsonl")
    several = _prompts(train, tmp_path / "captions.jsonl")
    assert {len(own) for own in several.values()} == {3}  # type: ignore[union-attr]


def test_a_step_takes_any_of_several_captions(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from eoaug.generators.checkpoints.networks import Networks

    read: list[str] = []
    real = Networks.text
    monkeypatch.setattr(Networks, "text", lambda self, prompt: (read.append(prompt), real(self, prompt))[1])
    train = opened(folder)
    captions = {item.id: ["one text", "other text", "third text"] for item in train}
    tuning = Tuning(**{**QUICK, "steps": 12})
    tuned = finetune(base, train, tmp_path / "out", tuning, captions=captions)
    assert set(read) - {""} == {"one text", "other text", "third text"}
    again = finetune(base, train, tmp_path / "again", tuning, captions=captions)
    assert tuned.losses == again.losses
    card = json.loads((tuned.path / "eoaug.json").read_text())
    assert set(map(tuple, card["captions"].values())) == {("one text", "other text", "third text")}
    with pytest.raises(ParameterError, match="other settings or other cubes"):
        finetune(base, train, tmp_path / "out", tuning, captions={})


def test_captions_of_windows_tell_what_is_in_the_window() -> None:
    """The label map has water on the left and forest on the right: no window names what it does not hold."""
    codes = np.where(np.arange(96) < 48, 1, 2)[None, :].repeat(96, 0).astype(np.uint8)
    label = xr.DataArray(
        codes, dims=("y", "x"), attrs={"flag_values": [1, 2], "flag_meanings": "water forest"}
    )
    ds = xr.Dataset(
        {name: (("y", "x"), np.full((96, 96), 0.1, np.float32)) for name in ("red", "green", "blue")},
        {"y": 5e6 - 10.0 * np.arange(96), "x": 5e5 + 10.0 * np.arange(96)},
    ).assign(landcover=label)

    class Source:
        def open(self) -> xr.Dataset:
            return ds

        def place(self) -> None:
            return None

        def identity(self) -> str:
            return "made up"

    train = TrainingSet((TrainingItem("one", Source()),), "pixels", "landcover", ("water", "forest"))
    windows = ItemWindows(train, ("red", "green", "blue"), 32, (0.0, 0.3), "facts", "")
    rng, whole = np.random.default_rng(1), set[frozenset[str]]()
    for _ in range(25):
        words = frozenset(re.findall("water|forest", windows.draw(rng).captions[0]))
        whole.add(words)
    assert {frozenset({"water"}), frozenset({"forest"})} <= whole


def test_images_are_not_kept_in_memory(folder: Path) -> None:
    """What 400 draws of a set hold does not depend on its size."""

    def held(copies: int) -> int:
        train = opened(folder)
        items = tuple(
            TrainingItem(f"{item.id}-{number}", item.source, item.label)
            for number in range(copies)
            for item in train
        )
        some = TrainingSet(items, train.task, train.label, train.classes)
        windows = ItemWindows(some, ("red", "green", "blue"), 32, (0.0, 1.0), {}, "")
        rng = np.random.default_rng(0)
        windows.draw(rng)
        tracemalloc.start()
        for _ in range(40):
            windows.draw(rng)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    assert held(40) < held(1) + 200_000


def test_wrong_sets_and_captions_are_refused(folder: Path, base: Path, tmp_path: Path) -> None:
    train = opened(folder)
    with pytest.raises(SourceError, match="32 x 32 pixels, a window 64") as caught:
        finetune(base, train, tmp_path / "large", Tuning(**{**QUICK, "tile_px": 64}))
    assert "tile_px to 32" in caught.value.remedy
    cube = xr.Dataset(
        {name: (("y", "x"), np.zeros((32, 32), np.float32)) for name in ("red", "green", "blue")}
    )
    with pytest.raises(ParameterError, match="needs the images of a training set"):
        finetune(base, cube, tmp_path / "no", Tuning(**QUICK), captions="facts")


def test_the_command_line_trains_on_a_set(folder: Path, base: Path, tmp_path: Path) -> None:
    arguments = ["finetune", "--base", base, "--images", folder, "--out", tmp_path / "out", "--steps", 1, "--rank", 2,
                 "--tile-px", 32, "--stretch", "0,255", "--captions", "facts"]  # fmt: skip
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/pytorch_lora_weights.safetensors").is_file()
    both = CliRunner().invoke(app, ["finetune", "--base", "b", "--out", "o"])
    assert both.exit_code == 2
    assert "--images" in both.output


def test_long_captions_lose_their_last_sentences_and_are_told_before_the_first_step(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny tokenizer makes a token of every letter, and its encoder reads 77."""
    from eoaug.generators.checkpoints.networks import Networks

    read: list[str] = []
    real = Networks.text
    monkeypatch.setattr(Networks, "text", lambda self, prompt: (read.append(prompt), real(self, prompt))[1])
    train = opened(folder)
    long = f"A forest in summer. {'It has many trees. ' * 9}".strip()
    with pytest.warns(EoaugWarning, match="1 of 2 captions are longer"):
        finetune(base, train, tmp_path / "out", Tuning(**QUICK), captions={item.id: [long] for item in train})
    kept = next(text for text in read if text)
    assert kept.startswith("A forest in summer. It has many trees.")
    assert kept.endswith(".")
    assert long.startswith(kept)
    with pytest.raises(ParameterError, match="one sentence that is longer") as caught:
        finetune(
            base,
            train,
            tmp_path / "no",
            Tuning(**QUICK),
            captions={item.id: ["tree " * 40] for item in train},
        )
    assert "--checkpoint" in caught.value.remedy
    assert not (tmp_path / "no").exists()
    report = eoaug.caption(train, checkpoint=base)
    assert all(line["tokens"] == 2 + sum(not c.isspace() for c in line["caption"]) for line in report.lines)
    assert report.problems.get("cut", 0) == sum(line["tokens"] > 77 for line in report.lines)


def test_clip_compares_captions_with_shuffled_ones(folder: Path, tmp_path: Path) -> None:
    train = opened(folder)
    report = eoaug.caption(train, clip=tiny_checkpoints.clip(tmp_path / "clip"))
    found = report.alignment
    assert found is not None
    assert -1 <= found.cosine <= 1
    assert found.shuffled_std >= 0
    assert f"CLIP cosine {found.cosine:.3f}, of shuffled captions" in str(report)
    assert eoaug.caption(train).alignment is None
