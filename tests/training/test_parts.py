"""What a fine-tuning may change: every combination of parts changes exactly what it names."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import load_file
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import ParameterError
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.testing import requests
from eoaug.training.finetune import Tuned, Tuning, _read_cubes, _Training, finetune
from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
networks = Later("eoaug.generators.checkpoints.networks")
QUICK: dict[str, Any] = {
    "rank": 2,
    "rate": 1e-2,
    "steps": 2,
    "ema": None,
    "tile_px": 32,
    "prompt": "a <field>",
}
LORA, TOKEN = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
LOW_RANK = {
    "unet": re.compile(r"\.to_(q|k|v|out\.0)\.weight$"),
    "text": re.compile(r"\.(q|k|v|out)_proj\.weight$"),
    "vae": re.compile(r"vae/(encoder|decoder)\..*\.(to_(q|k|v|out\.0)|conv[12])\.weight$"),
}
DECODER = re.compile(r"vae/(decoder|post_quant_conv)\.")
WAYS = [
    {"unet": unet, "text": text, "vae": vae}
    for unet, text, vae in product(
        ("full", "lora", "frozen"), ("full", "lora", "frozen"), ("frozen", "lora", "decoder", "full")
    )
]
SHORT = [
    ("sd", {"unet": "full", "text": "lora"}, None),
    ("sd", {"unet": "lora", "text": "full", "vae": "decoder"}, "<field>"),
    ("sd", {"unet": "frozen", "vae": "lora"}, None),
    ("sd", {"unet": "lora", "vae": "decoder_lora"}, None),
    ("sd", {}, "<field>"),
    ("xl", {"unet": "full", "text": "lora"}, "<field>"),
    ("xl", {"unet": "lora", "text": "lora"}, "<field>"),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: getattr(tiny_checkpoints, name)(folder / name) for name in ("sd", "xl")}


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    """Made-up fields: what counts here is which weights move."""
    values = np.random.default_rng(0).uniform(0, 0.3, (3, 8, 8)).astype(np.float32).repeat(8, 1).repeat(8, 2)
    return xr.Dataset(
        {name: (("y", "x"), band) for name, band in zip(("red", "green", "blue"), values, strict=True)},
        {"y": 5e6 - 10.0 * np.arange(64), "x": 5e5 + 10.0 * np.arange(64)},
    )


def weights_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a checkpoint, by component and name."""
    return {
        f"{role}/{name}": tensor
        for role, component in open_checkpoint(checkpoint).components.items()
        for path in component.weights
        for name, tensor in load_file(path).items()
    }


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def check_adapter(out: Path, ways: dict[str, str], tables: int) -> None:
    """An adapter has files for the parts that it trains and no others."""
    low_rank = {part for part, way in ways.items() if way == "lora"}
    wanted = {"eoaug.json"} | ({LORA} if low_rank else set()) | ({TOKEN} if tables else set())
    assert files_of(out) == wanted
    if low_rank:
        assert {name.split(".")[0].split("_")[0] for name in load_file(out / LORA)} == low_rank
    if tables:
        assert len(load_file(out / TOKEN)) == tables


def check_checkpoint(base: Path, out: Path, ways: dict[str, str], token: str | None) -> None:
    """Every weight of a checkpoint has the base's bytes unless its part is named."""
    before, after = weights_of(base), weights_of(out)
    assert after.keys() == before.keys()
    changed = {part: set[str]() for part in ways}
    for name, weight in before.items():
        part, new = name.split("/")[0].split("_")[0], after[name]
        if token and name.endswith("token_embedding.weight"):
            assert len(new) == len(weight) + 1
            assert np.isfinite(new).all()
            new = new[:-1]
        if new.tobytes() != weight.tobytes():
            changed[part].add(name)
    for part, way in ways.items():
        total = sum(name.startswith(part) for name in before)
        assert {
            "frozen": not changed[part],
            "lora": changed[part] and all(LOW_RANK[part].search(name) for name in changed[part]),
            "decoder": changed[part] and all(DECODER.search(name) for name in changed[part]),
            "decoder_lora": changed[part]
            and all(DECODER.search(name) and LOW_RANK[part].search(name) for name in changed[part]),
            "full": len(changed[part]) > 0.7 * total,
        }[way], (part, way, sorted(changed[part])[:3], len(changed[part]), total)
    for path in (path.relative_to(base) for path in base.rglob("*") if path.is_file()):
        part, how = path.parts[0].split("_")[0], ways.get(path.parts[0].split("_")[0], "frozen")
        if how == "frozen" and not (token and part in ("text", "tokenizer")):
            assert (out / path).read_bytes() == (base / path).read_bytes(), path


def check(base: Path, cube: xr.Dataset, out: Path, parts: dict[str, str], token: str | None) -> None:
    """Train two steps and compare everything with the base."""
    finetune(base, cube, out, Tuning(parts=parts, token=token, **QUICK))  # type: ignore[arg-type]
    ways = {part: parts.get(part, "frozen") for part in ("unet", "text", "vae")}
    if ways["vae"] == "frozen" and "full" not in ways.values():
        encoders = sum(role.startswith("text_encoder") for role in open_checkpoint(base).components)
        check_adapter(out, ways, encoders if token else 0)
    else:
        check_checkpoint(base, out, ways, token)


@pytest.mark.parametrize(("name", "parts", "token"), SHORT)
def test_only_what_is_named_changes(
    bases: dict[str, Path],
    cube: xr.Dataset,
    tmp_path: Path,
    name: str,
    parts: dict[str, str],
    token: str | None,
) -> None:
    check(bases[name], cube, tmp_path / "out", parts, token)


@pytest.mark.long
@pytest.mark.parametrize("token", [None, "<field>"])
@pytest.mark.parametrize("name", ["sd", "xl"])
def test_only_what_is_named_changes_in_every_combination(
    bases: dict[str, Path], cube: xr.Dataset, tmp_path: Path, name: str, token: str | None
) -> None:
    for number, ways in enumerate(WAYS):
        if token is not None or set(ways.values()) != {"frozen"}:
            check(bases[name], cube, tmp_path / str(number), ways, token)


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_a_checkpoint_with_a_token_is_what_was_trained(
    bases: dict[str, Path], cube: xr.Dataset, tmp_path: Path, name: str
) -> None:
    """The written weights and vocabulary give what the networks gave in training, LoRA and token beside the weights."""
    tuning = Tuning(parts={"unet": "full", "text": "lora"}, token="<field>", **QUICK)
    training = _Training(bases[name], _read_cubes(cube, tuning.bands, {}), tmp_path / "out", tuning, {})
    training.advance()
    with torch.no_grad():
        trained = training.nets.encode_text("a <field> by a lake")
        training.state.averaged = {
            key: value.detach().clone() for key, value in training.parts.parameters.items()
        }
    training.save()
    training.write()
    written = networks.Networks(open_checkpoint(tmp_path / "out")).encode_text("a <field> by a lake")
    torch.testing.assert_close(written.hidden, trained.hidden, rtol=1e-4, atol=1e-5)
    generator = eoaug.load(tmp_path / "out", steps=1, prompt="a <field>")
    generator.generate(requests(generator.card, "synthesize"))
    if name == "xl":
        torch.testing.assert_close(written.pooled, trained.pooled, rtol=1e-4, atol=1e-5)


def test_a_token_of_two_text_encoders_loads(bases: dict[str, Path], cube: xr.Dataset, tmp_path: Path) -> None:
    finetune(bases["xl"], cube, tmp_path / "out", Tuning(token="<field>", parts={}, **QUICK))
    rows = load_file(tmp_path / "out" / TOKEN)
    generator = eoaug.load(bases["xl"], adapters=[tmp_path / "out"])
    assert rows.keys() == {"clip_l", "clip_g"}
    for (tokenizer, encoder), key in zip(generator._networks.encoders, ("clip_l", "clip_g"), strict=True):
        number = tokenizer.convert_tokens_to_ids("<field>")
        table = encoder.get_input_embeddings().weight.detach().numpy()
        assert np.array_equal(table[number], rows[key][0])
        assert not np.array_equal(rows[key][0], table[:number].mean(axis=0))


def test_an_early_end_of_text_survives_a_new_token(bases: dict[str, Path]) -> None:
    """Published SDXL encoders declare 2 as their end of text and then take the largest number, which a new token would be."""
    nets = networks.Networks(open_checkpoint(bases["xl"]))
    for _, encoder in nets.encoders:
        encoder.config.eos_token_id = encoder.eos_token_id = 2
    for number, (_, encoder) in enumerate(nets.encoders):
        table = encoder.get_input_embeddings().weight
        nets.add_token(number, "<field>", table[:1], "here")
    texts = [nets.encode_text(text).pooled for text in ("<field> by a lake", "<field> by a road")]
    assert not torch.equal(*texts)  # type: ignore[call-overload]


def test_parts_and_their_shorthands() -> None:
    assert Tuning().trained == {"unet": "lora", "text": "frozen", "vae": "frozen"}
    assert Tuning(mode="full", target=("text", "vae")).trained == {
        "unet": "frozen",
        "text": "full",
        "vae": "full",
    }
    assert Tuning(parts={"vae": "decoder"}).trained == {"unet": "frozen", "text": "frozen", "vae": "decoder"}
    for options, words in [
        ({"parts": {"unet": "decoder"}}, "unet='decoder'"),
        ({"parts": {"net": "full"}}, "net"),
        ({"parts": {"unet": "all"}}, "all"),
        ({"parts": {"unet": "frozen"}}, "trains nothing"),
        ({"parts": {"unet": "full"}, "mode": "full"}, "say the same twice"),
    ]:
        with pytest.raises(ParameterError, match=words) as caught:
            Tuning(**options)  # type: ignore[arg-type]
        assert caught.value.remedy


def test_parts_from_the_command_line_and_a_file(
    bases: dict[str, Path], cube: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[Tuning] = []

    def take(base: str, cubes: str, out: Path, tuning: Tuning, **options: object) -> Any:
        passed.append(tuning)
        return Tuned(out, ())

    monkeypatch.setattr("eoaug.training.finetune.finetune", take)
    (tmp_path / "tuning.yaml").write_text("parts: {unet: full, text: lora}\nrank: 8\nbands: [vv, vh, vv]\n")
    for typed in (["--parts", "unet=full,text=lora"], ["--config", tmp_path / "tuning.yaml", "--rank", 4]):
        arguments = ["finetune", "--base", "b", "--cubes", "c", "--out", "o", *typed]
        done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    typed_only, from_file = passed
    assert typed_only.parts == from_file.parts == {"unet": "full", "text": "lora"}
    assert (from_file.rank, from_file.bands, from_file.steps) == (4, ("vv", "vh", "vv"), 1000)
    wrong = CliRunner().invoke(
        app, ["finetune", "--base", "b", "--cubes", "c", "--out", "o", "--parts", "unet"]
    )
    assert wrong.exit_code == 2
    assert "unet=full" in wrong.output
