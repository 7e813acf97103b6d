"""Fine-tuning of tiny checkpoints: the loss falls, the result loads, a resumed training is the same training."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.datasets.training_cubes import from_dataset
from eoaug.errors import BandError, GeneratorError, ParameterError, SourceError
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.generators.runtime import one_thread
from eoaug.testing import requests
from eoaug.training.finetune import Tuning, _read_cubes, _Training, finetune
from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
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
    options = {**QUICK, "rank": 8, "rate": 1e-2, "target": ("unet", "text"), "steps": 40}
    tuned = finetune(base, cubes, tmp_path / "lora", Tuning(**options))
    # Windows, times and noise are functions of the step: the base meets the same ones when nothing moves.
    still = finetune(base, cubes, tmp_path / "still", Tuning(**{**options, "rate": 0.0}))
    gain = 1 - np.array(tuned.losses) / np.array(still.losses)
    assert abs(gain[0]) < 1e-6
    assert gain[-15:].mean() > GAIN
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
    words = generator._networks.encoders[0][1].get_input_embeddings().weight.detach().numpy()
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


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param("xl", ("unet",), marks=pytest.mark.slow),
        ("xl", ("unet", "text")),
        ("diffusionsat", ("unet",)),
    ],
)
def test_other_families_train(cubes: Path, tmp_path: Path, name: str, target: tuple[Any, ...]) -> None:
    # No loss depends on the last layer of SDXL's first text encoder: its LoRA never gets a gradient.
    folder = getattr(tiny_checkpoints, name)(tmp_path / name)
    finetune(folder, cubes, tmp_path / "out", Tuning(steps=1, target=target, **QUICK))
    tuned = finetune(folder, cubes, tmp_path / "out", Tuning(steps=2, target=target, **QUICK))
    assert len(tuned.losses) == 2
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


def test_items_of_a_catalog_train_with_bands_by_choice(base: Path, eoaug_data: Path, tmp_path: Path) -> None:
    source = eoaug_data / "catalogs/worldcereal_s2"
    ids = [
        path.stem
        for path in sorted(source.rglob("*.json"))
        if json.loads(path.read_text())["type"] == "Feature"
    ]
    assert len(ids) >= 3
    texts = {json.loads(path.read_text())["id"]: "a red-edge picture" for path in source.rglob("*.json")}
    (tmp_path / "captions.json").write_text(json.dumps(texts))
    arguments = ["finetune", "--base", base, "--cubes", source, "--out", tmp_path / "out", "--steps", 1,
                 "--rank", 2, "--bands", "B08,B04,B03", "--stretch", "0,0.5", "--limit", 3, "--snr", 0, "--ema", 0,
                 "--captions", tmp_path / "captions.json"]  # fmt: skip
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "out/eoaug.json").read_text())
    assert card["bands"] == ["B08", "B04", "B03"]
    assert 1 <= len(card["captions"]) <= 3
    assert set(card["captions"].values()) == {"a red-edge picture"}
    assert card["snr"] is card["ema"] is None


def test_any_cube_trains_and_is_read_in_physical_units(base: Path, eoaug_data: Path, tmp_path: Path) -> None:
    opened = eoaug.open_cube(
        eoaug_data / "catalogs/worldcereal_s2", bands=["B04", "B03", "B02", "SCL"], limit=2, chunks=None
    )
    cube = from_dataset(opened, "flanders", ("red", "B03", "red"))
    assert np.array_equal(cube.values[:, 0], opened.B04.values, equal_nan=True)
    assert np.array_equal(cube.values[:, 2], cube.values[:, 0], equal_nan=True)
    assert cube.times.tolist() == opened.time.values.astype("datetime64[s]").astype(int).tolist()
    assert cube.gsd_m == pytest.approx(10, rel=0.01)
    west, south, east, north = opened.odc.geobox.geographic_extent.boundingbox.bbox
    assert west < cube.lonlat_deg[0] < east
    assert south < cube.lonlat_deg[1] < north
    cloudy = np.isin(opened.SCL.values, (3, 8, 9, 10))
    assert not cube.clear[cloudy].any()
    # Radar in decibels, made up: what counts is that two bands in another unit train.
    rng = np.random.default_rng(0)
    radar = xr.Dataset(
        {name: (("y", "x"), rng.normal(-12, 3, (96, 96)).astype(np.float32)) for name in ("vv", "vh")},
        {"y": 5e6 - 10.0 * np.arange(96), "x": 5e5 + 10.0 * np.arange(96)},
    )
    tuning = Tuning(steps=1, rank=2, bands=("vv", "vh", "vv"), stretch=(-25.0, 0.0))
    tuned = finetune(base, {"radar": radar}, tmp_path / "out", tuning, captions={"radar": "a radar picture"})
    assert json.loads((tuned.path / "eoaug.json").read_text())["captions"] == {"radar": "a radar picture"}
    with pytest.raises(ParameterError, match="other cubes"):
        finetune(base, {"radar": radar + 1}, tmp_path / "out", tuning, captions={"radar": "a radar picture"})
    with pytest.raises(BandError, match="no band red, green, blue"):
        finetune(base, radar, tmp_path / "no")


@pytest.mark.parametrize("target", [("unet",), ("unet", "text")])
def test_a_batch_is_the_mean_of_its_windows(
    base: Path, cubes: Path, tmp_path: Path, target: tuple[Any, ...]
) -> None:
    """The loss of a batch of 8 is the mean of 8 losses, and so is its gradient."""
    tuning = Tuning(batch=8, target=target, mode="full", device="cpu", **QUICK)
    training = _Training(base, _read_cubes(cubes, tuning.bands, {}), tmp_path / "out", tuning, {})
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    drawn = [training._drawn(rng, noise) for _ in range(8)]
    assert len({int(one.time) for one in drawn}) > 1

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        weights = list(training.state.parameters.values())
        return torch.cat(
            [
                one.flatten()
                for one in torch.autograd.grad(loss, weights, allow_unused=True)
                if one is not None
            ]
        )

    together = training._losses(drawn)
    apart = torch.cat([training._losses([one]) for one in drawn])
    assert together.shape == (8,)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)
    one, other = gradient(together.mean()), gradient(apart.mean())
    assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max()) + 1e-7


@pytest.mark.slow
def test_a_batch_is_faster_than_its_windows(base: Path, cubes: Path, tmp_path: Path) -> None:
    tuning = Tuning(batch=8, device="cpu", **QUICK)
    training = _Training(base, _read_cubes(cubes, tuning.bands, {}), tmp_path / "out", tuning, {})
    drawn = [training._drawn(np.random.default_rng(0), torch.Generator().manual_seed(0)) for _ in range(8)]

    def cpu_s(groups: list[list[Any]]) -> float:
        best = np.inf
        for _ in range(5):
            begin = time.process_time()
            torch.cat([training._losses(group) for group in groups]).mean().backward()  # type: ignore[no-untyped-call]
            best = min(best, time.process_time() - begin)
        return best

    with one_thread():
        cpu_s([drawn])
        assert cpu_s([[one] for one in drawn]) / cpu_s([drawn]) >= 1.5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_weight_of_a_step_is_that_of_min_snr(cubes: Path, tmp_path: Path, kind: str) -> None:
    """min(SNR, 5) / SNR for noise, over SNR + 1 for v: equal weights on the clean image (arXiv:2303.09556)."""
    base = tiny_checkpoints.sd(tmp_path / "base", prediction=kind)
    weighed, plain = (
        finetune(base, cubes, tmp_path / str(snr), Tuning(steps=1, snr=snr, rate=0.0, seed=3)).losses[0]
        for snr in (5.0, None)
    )
    draws = torch.Generator().manual_seed(3 * 1_000_003)
    torch.randn((1, 4, 8, 8), generator=draws)
    step = int(torch.randint(0, 1000, (1,), generator=draws))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    share = np.cumprod(1 - betas)[step]
    ratio = share / (1 - share)
    expected = min(ratio, 5) / (ratio if kind == "epsilon" else ratio + 1)
    assert weighed / plain == pytest.approx(expected, rel=1e-4)
    assert abs(expected - 1) > 0.01


def test_wrong_uses_are_told(base: Path, cubes: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="target='vae'"):
        Tuning(target=("vae",))
    with pytest.raises(ParameterError, match="a picture has 3 channels"):
        Tuning(bands=("vv", "vh"))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="none of 1 cubes has all three bands and 512 pixels"):
        finetune(base, cubes, tmp_path / "large", Tuning(tile_px=512))
    with pytest.raises(ParameterError, match="rank=0") as caught:
        Tuning(rank=0)
    assert "rank=16" in caught.value.remedy
    for options in ({"steps": 2.5}, {"rate": -1.0}, {"precision": "int8"}, {"mode": "all"}, {"ranks": 4},
                    {"stretch": (0.3, 0.0)}, {"target": ()}, {"seed": -1}, {"snr": 0.0}, {"ema": 2.0}):  # fmt: skip
        with pytest.raises(ParameterError, match=next(iter(options))) as caught:
            Tuning(**options)  # type: ignore[arg-type]
        assert caught.value.remedy
    with pytest.raises(SourceError, match="no file matches"):
        finetune(base, tmp_path, tmp_path / "out")
    with pytest.raises(ParameterError, match="takes 9 channels"):
        finetune(tiny_checkpoints.inpaint(tmp_path / "inpaint"), cubes, tmp_path / "out")
    shutil.rmtree(tmp_path / "inpaint")
