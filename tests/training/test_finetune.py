"""Fine-tuning of tiny checkpoints: the loss falls, the result loads, a resumed training is the same training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import eoaug
from eoaug.cli import app
from eoaug.errors import GeneratorError, ParameterError, SourceError
from eoaug.generators.checkpoint import open_checkpoint
from eoaug.testing import requests
from eoaug.training.finetune import Tuning, finetune
from tests import tiny_checkpoints

LORA = "pytorch_lora_weights.safetensors"
GAIN = 0.05
"""Least share of the loss that a few dozen steps take away."""
QUICK: dict[str, Any] = {"rank": 4, "rate": 2e-3, "stretch": (0.0, 0.4)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.sd(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory, eoaug_data: Path) -> Path:
    """A folder with one real cube, two clear dates, and its caption."""
    folder = tmp_path_factory.mktemp("cubes")
    name = "worldcereal_be_westflanders_2018_s2l2a"
    with xr.open_dataset(
        eoaug_data / f"cubes/train/{name}.nc", engine="h5netcdf", mask_and_scale=False
    ) as whole:
        clear = np.isin(whole.scl.values, (4, 5)).mean(axis=(1, 2))
        whole.isel(time=np.sort(np.argsort(-clear)[:2])).to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
    (folder / "captions.json").write_text(json.dumps({name: "a <field> in Flanders"}))
    return folder


def test_a_lora_learns_loads_and_scale_0_is_the_base(base: Path, cubes: Path, tmp_path: Path) -> None:
    options = {**QUICK, "rank": 8, "rate": 1e-2, "target": ("unet", "text"), "steps": 60}
    tuned = finetune(base, cubes, tmp_path / "lora", Tuning(**options))
    # Windows, times and noise are functions of the step: the base meets the same ones when nothing moves.
    still = finetune(base, cubes, tmp_path / "still", Tuning(**{**options, "rate": 0.0}))
    gain = 1 - np.array(tuned.losses) / np.array(still.losses)
    assert abs(gain[0]) < 1e-6
    assert gain[-20:].mean() > GAIN
    plain = eoaug.load(base, steps=2, stretch=(0.0, 0.4))
    (request,) = requests(plain.card, "synthesize")
    before = plain.generate([request])
    adapted = eoaug.load(base, steps=2, adapters=[tuned.path])
    # The adapter's card says how black and white were meant.
    assert adapted.card.mean == plain.card.mean
    assert np.abs(adapted.generate([request]) - before).max() > 1e-3
    none = eoaug.load(base, steps=2, adapters=[(tuned.path, 0.0)])
    assert none.generate([request]).tobytes() == before.tobytes()
    merged = eoaug.load(base, steps=2, adapters=[tuned.path], merge=True)
    np.testing.assert_allclose(merged.generate([request]), adapted.generate([request]), atol=1e-3)
    card = json.loads((tuned.path / "eoaug.json").read_text())
    assert card["base"] == open_checkpoint(base).base
    assert card["captions"] == {"worldcereal_be_westflanders_2018_s2l2a": "a <field> in Flanders"}


def test_an_adapter_wants_the_weights_that_it_was_trained_on(base: Path, cubes: Path, tmp_path: Path) -> None:
    tuned = finetune(base, cubes, tmp_path / "lora", Tuning(steps=1, **QUICK))
    kin = tiny_checkpoints.sd(tmp_path / "kin", pndm=True)
    # The sampler is no weight: another one of the same base does.
    assert eoaug.load(kin, adapters=[tuned.path]).card.files
    path = kin / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"conv_in.bias": tensors["conv_in.bias"] + np.float32(1)}, path, {"format": "pt"})
    with pytest.raises(GeneratorError, match="was trained on weights") as caught:
        eoaug.load(kin, adapters=[tuned.path])
    assert "any_base=True" in caught.value.remedy
    generator = eoaug.load(kin, adapters=[tuned.path], any_base=True, steps=1)
    generator.generate(requests(generator.card, "synthesize"))


def test_a_resumed_training_is_the_same_training(base: Path, cubes: Path, tmp_path: Path) -> None:
    tuning = Tuning(steps=9, save_every=4, token="<field>", **QUICK)
    whole = finetune(base, cubes, tmp_path / "whole", tuning)

    def stop(step: int, loss: float) -> None:
        if step == 6:  # two steps after the last state
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(base, cubes, tmp_path / "broken", tuning, progress=stop)
    assert not (tmp_path / "broken" / LORA).exists()
    resumed = finetune(base, cubes, tmp_path / "broken", tuning)
    assert resumed.losses == whole.losses
    for name in (LORA, "learned_embeds.safetensors", "eoaug.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    with pytest.raises(ParameterError, match="another base, other settings"):
        finetune(base, cubes, tmp_path / "broken", Tuning(steps=9, rank=2, token="<field>"))


def test_a_word_is_learned_and_no_other_moves(base: Path, cubes: Path, tmp_path: Path) -> None:
    tuned = finetune(base, cubes, tmp_path / "word", Tuning(steps=3, token="<field>", **QUICK))
    (row,) = load_file(tuned.path / "learned_embeds.safetensors").values()
    assert row.shape == (1, tiny_checkpoints.WIDTH)
    generator = eoaug.load(base, steps=1, adapters=[tuned.path], prompt="a <field>")
    generator.generate(requests(generator.card, "synthesize"))
    words = generator._networks.readers[0][1].get_input_embeddings().weight.detach().numpy()
    stored = load_file(base / "text_encoder/model.safetensors")
    (original,) = (table for name, table in stored.items() if name.endswith("token_embedding.weight"))
    assert np.array_equal(words[: len(original)], original)
    assert np.array_equal(words[len(original) :], row)


@pytest.mark.parametrize("target", [("unet",), ("text",), ("vae",)])
def test_full_training_writes_a_checkpoint(
    base: Path, cubes: Path, tmp_path: Path, target: tuple[str, ...]
) -> None:
    tuned = finetune(
        base, cubes, tmp_path / "full", Tuning(steps=2, mode="full", target=target, ema=None, **QUICK)
    )
    folder = {"unet": "unet", "text": "text_encoder", "vae": "vae"}[target[0]]
    changed = {
        str(path.relative_to(base).parent)
        for path in base.rglob("*.safetensors")
        if path.read_bytes() != (tuned.path / path.relative_to(base)).read_bytes()
    }
    assert changed == {folder}
    generator = eoaug.load(tuned.path, steps=1)
    generator.generate(requests(generator.card, "synthesize"))


@pytest.mark.parametrize(
    "options", [{"precision": "bfloat16"}, {"checkpointing": True}, {"snr": None, "batch": 2}], ids=str
)
def test_options_train(base: Path, cubes: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    tuned = finetune(base, cubes, tmp_path / "out", Tuning(steps=2, **QUICK, **options))
    assert np.isfinite(tuned.losses).all()
    if options.get("checkpointing"):
        plain = finetune(base, cubes, tmp_path / "plain", Tuning(steps=2, **QUICK))
        np.testing.assert_allclose(tuned.losses, plain.losses, rtol=1e-4)


@pytest.mark.parametrize("name", ["xl", "diffusionsat"])
def test_other_families_train(cubes: Path, tmp_path: Path, name: str) -> None:
    folder = getattr(tiny_checkpoints, name)(tmp_path / name)
    tuned = finetune(folder, cubes, tmp_path / "out", Tuning(steps=2, **QUICK))
    generator = eoaug.load(folder, steps=1, adapters=[tuned.path])
    generator.generate(requests(generator.card, "synthesize"))


def test_a_class_label_becomes_a_caption(base: Path, cubes: Path, tmp_path: Path) -> None:
    name = "worldcereal_be_westflanders_2018_s2l2a"
    tuned = finetune(base, cubes, tmp_path / "out", Tuning(steps=1, **QUICK), captions={name: "crop_field"})
    card = json.loads((tuned.path / "eoaug.json").read_text())
    assert card["captions"] == {name: "a satellite image of crop field"}


def test_the_command_line_trains(base: Path, cubes: Path, tmp_path: Path) -> None:
    arguments = ["finetune", "--base", base, "--cubes", cubes, "--out", tmp_path / "out", "--steps", 1,
                 "--target", "unet,text", "--rank", 2, "--token", "<field>"]  # fmt: skip
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {LORA, "learned_embeds.safetensors", "eoaug.json"} <= set(os.listdir(tmp_path / "out"))


def test_wrong_uses_are_told(base: Path, cubes: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="target='vae'"):
        Tuning(target=("vae",))
    with pytest.raises(ParameterError, match="rank=0"):
        Tuning(rank=0)
    with pytest.raises(SourceError, match="no file matches"):
        finetune(base, tmp_path, tmp_path / "out")
    with pytest.raises(ParameterError, match="takes 9 channels"):
        finetune(tiny_checkpoints.inpaint(tmp_path / "inpaint"), cubes, tmp_path / "out")
    shutil.rmtree(tmp_path / "inpaint")
