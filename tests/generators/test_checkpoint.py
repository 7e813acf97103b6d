"""Folders from strangers: what is loaded, and that hostile ones are refused without running anything."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators.checkpoint import find, open_checkpoint, read_header
from eoaug.testing import requests

Make = Callable[..., Path]
CANARY = Path("canary")


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.write_text, (self.canary, "ran")


def edit(path: Path, **changes: Any) -> None:
    read = json.loads(path.read_text())
    path.write_text(json.dumps(read | changes))


def header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header of a safetensors file and leave its bytes."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    told = json.loads(data[8 : 8 + length])
    change(told)
    text = json.dumps(told).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


UNET = "unet/diffusion_pytorch_model.safetensors"


def pickled(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / CANARY)))


def torch_zip(folder: Path) -> None:
    (folder / UNET).unlink()
    torch.save({"a": Bomb(folder.parent / CANARY)}, folder / "unet/diffusion_pytorch_model.bin")


def script(folder: Path) -> None:
    (folder / "unet/modeling.py").write_text(f"open({str(folder.parent / CANARY)!r}, 'w')")


def native(folder: Path) -> None:
    (folder / "text_encoder/fast.so").write_bytes(b"\x7fELF")


def auto_map(folder: Path) -> None:
    edit(folder / "text_encoder/config.json", auto_map={"AutoModel": "modeling.Model"})


def nested_auto_map(folder: Path) -> None:
    edit(folder / "tokenizer/tokenizer_config.json", extra={"deep": [{"auto_map": {"x": "y"}}]})


def trust(folder: Path) -> None:
    edit(folder / "unet/config.json", trust_remote_code=True)


def custom_pipeline(folder: Path) -> None:
    edit(folder / "model_index.json", custom_pipeline="someone/else")


def strange_class(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["diffusers", "UNet3DConditionModel"])


def strange_library(folder: Path) -> None:
    edit(folder / "model_index.json", vae=["os", "AutoencoderKL"])


def strange_component(folder: Path) -> None:
    edit(folder / "model_index.json", **{"../../evil": ["diffusers", "AutoencoderKL"]})


def strange_pipeline(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="EvilPipeline")


def class_in_config(folder: Path) -> None:
    edit(folder / "unet/config.json", _class_name=["modeling", "Model"])


def link_out(folder: Path) -> None:
    (folder / "unet/config.json").unlink()
    (folder / "unet/config.json").symlink_to("/etc/hostname")


def shard_out(folder: Path) -> None:
    (folder / UNET).rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"a": "../../outside.safetensors"}}
    (folder / f"{UNET}.index.json").write_text(json.dumps(index))


def truncated(folder: Path) -> None:
    data = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(data[: len(data) // 2])


def huge_header(folder: Path) -> None:
    (folder / UNET).write_bytes(struct.pack("<Q", 2**60) + b"{}")


def huge_tensor(folder: Path) -> None:
    def grow(told: dict[str, Any]) -> None:
        told["conv_in.weight"] |= {"shape": [2**31, 2**31]}

    header(folder / UNET, grow)


def overlapping(folder: Path) -> None:
    def overlap(told: dict[str, Any]) -> None:
        told["conv_in.weight"]["data_offsets"] = told["conv_out.weight"]["data_offsets"]
        told["conv_in.weight"]["shape"] = told["conv_out.weight"]["shape"]

    header(folder / UNET, overlap)


def wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    save_file(tensors | {"conv_in.weight": np.zeros((16, 5, 3, 3), np.float32)}, folder / UNET)


def missing_key(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    del tensors["conv_in.weight"]
    save_file(tensors, folder / UNET)


def huge_config(folder: Path) -> None:
    edit(folder / "unet/config.json", block_out_channels=[16, 2**30])


def many_layers(folder: Path) -> None:
    edit(folder / "text_encoder/config.json", num_hidden_layers=10**6)


def large_but_allowed(folder: Path) -> None:
    # 2**19 channels would take terabytes; the file says that they are not there.
    edit(folder / "unet/config.json", block_out_channels=[16, 2**19], norm_num_groups=8)


def not_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{" * 5000)


def deep_json(folder: Path) -> None:
    (folder / "unet/config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


HOSTILE = {
    pickled: "convert-weights",
    torch_zip: "convert-weights",
    script: "is code",
    native: "is code",
    auto_map: "auto_map",
    nested_auto_map: "auto_map",
    trust: "trust_remote_code",
    custom_pipeline: "custom_pipeline",
    strange_class: "UNet3DConditionModel",
    strange_library: "'os'",
    strange_component: "evil",
    strange_pipeline: "EvilPipeline",
    class_in_config: "modeling",
    link_out: "link out of the folder",
    shard_out: r"\.\./\.\./outside",
    truncated: "does not hold|header",
    huge_header: "declares a header",
    huge_tensor: "does not hold",
    overlapping: "overlap|beyond|hole|does not hold",
    wrong_shape: r"\[16, 5, 3, 3\]",
    missing_key: "conv_in.weight|hold",
    huge_config: "declares block_out_channels",
    many_layers: "num_hidden_layers",
    large_but_allowed: "shape|hold",
    not_json: "no JSON",
    deep_json: "no JSON",
}


def used(folder: Path) -> None:
    generator = eoaug.load(folder, steps=1)
    generator.generate(requests(generator.card, "synthesize"))


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_hostile_folders_are_refused(tiny: Make, tmp_path: Path, attack: Callable[[Path], None]) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    attack(folder)
    with pytest.raises(GeneratorError, match=HOSTILE[attack]) as caught:
        used(folder)
    assert caught.value.remedy
    assert not (tmp_path / CANARY).exists()


def test_the_folder_that_was_attacked_is_sound(tiny: Make, tmp_path: Path) -> None:
    shutil.copytree(tiny("sd"), tmp_path / "sd")
    assert eoaug.load(tmp_path / "sd").card.sha256 == eoaug.load(tiny("sd")).card.sha256


def test_every_file_has_its_hash(tiny: Make) -> None:
    folder = tiny("sd")
    card = eoaug.load(folder).card
    for name in (UNET, "tokenizer/vocab.json", "model_index.json", "scheduler/scheduler_config.json"):
        assert card.files[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert all(len(digest) == 64 for digest in card.files.values())


def test_another_weight_is_another_model(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    generator = eoaug.load(folder)
    sent = pickle.dumps(generator)
    tensors = load_file(folder / UNET)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + np.float32(1)
    save_file(tensors, folder / UNET, metadata={"format": "pt"})
    assert eoaug.load(folder).card.sha256 != generator.card.sha256
    with pytest.raises(GeneratorError, match="the sender's"):
        pickle.loads(sent)


def test_pickles_beside_safetensors_are_never_read(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / CANARY)))
    generator = eoaug.load(folder, steps=1)
    generator.generate(requests(generator.card, "synthesize"))
    assert not (tmp_path / CANARY).exists()
    assert not any(name.endswith(".bin") for name in generator.card.files)


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc123", "refs/pr/1"])
def test_a_hub_id_is_pinned(revision: str) -> None:
    with pytest.raises(GeneratorError, match="may move"):
        find(f"someone/model@{revision}")


def test_the_hub_is_asked_of_the_cache_first(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    cache = tmp_path / "hub"
    snapshot = cache / "models--someone--model/snapshots" / commit
    shutil.copytree(tiny("sd"), snapshot)
    # A hub cache holds links to blobs beside the snapshots.
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    shutil.move(snapshot / UNET, blobs / "w")
    (snapshot / UNET).symlink_to(blobs / "w")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert open_checkpoint(f"someone/model@{commit}").root == snapshot
    with pytest.raises(GeneratorError, match="not in the local cache"):
        eoaug.load(f"someone/other@{commit}")


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="neither model_index"):
        eoaug.load(tmp_path)
    with pytest.raises(GeneratorError, match="no folder and no hub id"):
        eoaug.load("some/where")


def test_the_header_is_what_safetensors_reads(tiny: Make) -> None:
    path = tiny("sd") / UNET
    read = read_header(path)
    tensors = load_torch(path)
    assert {name: shape for name, (_, shape) in read.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }


STRANGE = [None, "x", -1, 0, 1e30, [], {}, [[1]], True, ["a", 3]]


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "eoaug"])
def test_strange_configurations_raise_eoaugs_error_alone(tiny: Make, tmp_path: Path, part: str) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    names = {"scheduler": "scheduler/scheduler_config.json", "eoaug": "eoaug.json"}
    path = folder / names.get(part, f"{part}/config.json")
    if part == "eoaug":
        told = {"stretch": [0.0, 0.3], "lift": "keep", "prompt": "a", "steps": 2, "guidance": 3.0, "gsd_m": [0, 9],
                "licence": "MIT", "name": "n"}  # fmt: skip
        path.write_text(json.dumps(told))
    sound = json.loads(path.read_text())
    refused = 0
    for _ in range(20):
        key = str(rng.choice([name for name in sound if not name.startswith("_")]))
        value = STRANGE[int(rng.integers(len(STRANGE)))]
        path.write_text(json.dumps(sound | {key: value}))
        try:
            generator = eoaug.load(folder, **({} if part == "eoaug" else {"steps": 1}))
            generator.generate(requests(generator.card, "synthesize"))
        except GeneratorError as error:
            refused += bool(error.remedy)
        except Exception as error:
            raise AssertionError(f"{part}: {key}={value!r}") from error
    assert refused
