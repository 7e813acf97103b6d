"""Folders from strangers: what is loaded, and that hostile ones are refused without running anything."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.generators.checkpoints.hub import find
from eoaug.generators.checkpoints.safe_read import read_header
from eoaug.testing import requests
from tests.hub import Hub

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
    truncated: "no valid safetensors file .*not fully covered",
    huge_header: "no valid safetensors file .*header too large",
    huge_tensor: "no valid safetensors file .*overflow",
    overlapping: "no valid safetensors file .*invalid offset",
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


def test_a_configuration_is_checked_against_its_weights_once(tiny: Make) -> None:
    from eoaug.generators.checkpoints.loading import _shapes

    _shapes.cache_clear()
    eoaug.load(tiny("sd"))
    networks = _shapes.cache_info().misses
    assert networks >= 3
    eoaug.load(tiny("sd"))
    assert _shapes.cache_info().misses == networks


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


def test_pickles_next_to_safetensors_are_never_read(tiny: Make, tmp_path: Path) -> None:
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


COMMIT = "0123456789" * 4


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, an empty cache, and a library that knows both."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with Hub(tmp_path / "repositories", COMMIT) as one:
        # What HF_ENDPOINT sets, in a process that has read it already.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", one.address)
        template = f"{one.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield one


def published(hub: Hub, source: Path) -> Path:
    """Put a checkpoint on the hub with what such repositories hold beside it; return its folder there."""
    folder = hub.root / "someone/model"
    shutil.copytree(source, folder)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes((folder / UNET).read_bytes())
    (folder / "v1-5-pruned.safetensors").write_bytes(b"the whole pipeline again")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(hub.root / CANARY)))
    (folder / "pipeline.py").write_text("raise SystemExit")
    return folder


def test_a_pinned_model_is_fetched_once_with_a_bar_and_hashed(
    tiny: Make, hub: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = published(hub, tiny("sd"))
    generator = eoaug.load(f"someone/model@{COMMIT}", steps=1)
    told = capfd.readouterr().err
    assert "files" in told
    assert "100%" in told
    fetched = {
        path.rpartition(f"{COMMIT}/")[2]
        for method, path in hub.asked
        if method == "GET" and "/resolve/" in path
    }
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - fetched
    # Neither pickles nor code, no second copy, nothing that is not used.
    assert left == {"safety_checker/model.safetensors", "v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin",
                    "pipeline.py"}  # fmt: skip
    assert [path for path in hub.of("someone/model") if COMMIT not in path] == []
    assert generator.card.files[UNET] == hashlib.sha256((folder / UNET).read_bytes()).hexdigest()
    assert generator.card.sha256 == eoaug.load(tiny("sd")).card.sha256
    made = generator.generate(requests(generator.card, "synthesize"))
    # From now on nobody is asked, although the hub is there.
    hub.asked.clear()
    again = eoaug.load(f"someone/model@{COMMIT}", steps=1)
    assert hub.of("someone/model") == []
    assert again.generate(requests(again.card, "synthesize")).tobytes() == made.tobytes()
    assert not (hub.root / CANARY).exists()


def test_adapters_and_controlnets_are_fetched_too(tiny: Make, hub: Hub) -> None:
    shutil.copytree(tiny("controlnet"), hub.root / "someone/edges")
    (hub.root / "someone/word").mkdir()
    save_torch({"<x>": torch.ones(1, 32)}, hub.root / "someone/word/learned_embeds.safetensors")
    generator = eoaug.load(
        tiny("sd"), controlnets=[f"someone/edges@{COMMIT}"], adapters=[(f"someone/word@{COMMIT}", 0.5)]
    )
    assert any(name.endswith("learned_embeds.safetensors") for name in generator.card.files)
    assert "layout" in generator.card.conditions
    with pytest.raises(GeneratorError, match="may move"):
        eoaug.load(tiny("sd"), adapters=["someone/word@main"])


def test_a_download_that_broke_off_is_taken_up_again(tiny: Make, hub: Hub) -> None:
    published(hub, tiny("sd"))
    hub.refused = {UNET}
    with pytest.raises(GeneratorError, match="cannot be fetched"):
        eoaug.load(f"someone/model@{COMMIT}")
    hub.refused = set()
    hub.asked.clear()
    assert eoaug.load(f"someone/model@{COMMIT}").card.sha256 == eoaug.load(tiny("sd")).card.sha256
    assert ("GET", f"/someone/model/resolve/{COMMIT}/{UNET}") in hub.asked
    assert ("GET", f"/someone/model/resolve/{COMMIT}/vae/config.json") not in hub.asked


def test_what_the_hub_does_not_have_is_told(hub: Hub) -> None:
    with pytest.raises(GeneratorError, match=r"someone/nothing@0123.* cannot be fetched") as caught:
        eoaug.load(f"someone/nothing@{COMMIT}")
    assert "give a folder" in caught.value.remedy


def halved(folder: Path, *, beside: bool) -> None:
    """Write half-precision variants of all weights, beside the plain ones or in their place."""
    for path in [*folder.rglob("model.safetensors"), *folder.rglob("diffusion_pytorch_model.safetensors")]:
        tensors = {
            name: one.half() if one.is_floating_point() else one for name, one in load_torch(path).items()
        }
        save_torch(tensors, path.with_name(f"{path.stem}.fp16.safetensors"), {"format": "pt"})
        if not beside:
            path.unlink()


def test_half_precision_is_a_variant_by_name(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    halved(folder, beside=True)
    plain, half = eoaug.load(folder, steps=1), eoaug.load(folder, steps=1, variant="fp16")
    assert plain.card.sha256 == eoaug.load(tiny("sd")).card.sha256 != half.card.sha256
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half.card.files
    assert UNET not in half.card.files
    asked = requests(plain.card, "synthesize")
    difference = np.abs(half.generate(asked) - plain.generate(asked))
    assert 0 < difference.mean() < 0.05
    assert pickle.loads(pickle.dumps(half)).card.sha256 == half.card.sha256
    with pytest.raises(GeneratorError, match="weights of variant='bf16'"):
        eoaug.load(folder, variant="bf16")
    with pytest.raises(GeneratorError, match=r"variant=.*cannot be part of a file name"):
        eoaug.load(folder, variant="../fp16")


def test_a_folder_of_half_precision_alone_is_read_as_it_is(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    halved(folder, beside=False)
    generator = eoaug.load(folder, steps=1)
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in generator.card.files
    generator.generate(requests(generator.card, "synthesize"))
    for path in list(folder.rglob("*.fp16.safetensors")):
        shutil.copy(path, path.with_name(path.name.replace("fp16", "bf16")))
    with pytest.raises(GeneratorError, match="bf16 and fp16, and no plain"):
        eoaug.load(folder)


def test_shards_of_a_variant_are_listed_by_their_index(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    tensors = load_torch(folder / UNET)
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.fp16.safetensors": names[i::2] for i in range(2)}
    for name, held in shards.items():
        save_torch({key: tensors[key].half() for key in held}, folder / "unet" / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, held in shards.items() for key in held}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    generator = eoaug.load(folder, variant="fp16", steps=1)
    assert {f"unet/{name}" for name in shards} <= generator.card.files.keys()
    generator.generate(requests(generator.card, "synthesize"))


def test_only_the_variant_that_was_asked_for_is_fetched(tiny: Make, hub: Hub) -> None:
    halved(published(hub, tiny("sd")), beside=True)
    eoaug.load(f"someone/model@{COMMIT}")
    assert not any(".fp16." in path for _, path in hub.asked)
    hub.asked.clear()
    # The cache holds another variant: that is no reason not to look.
    half = eoaug.load(f"someone/model@{COMMIT}", variant="fp16")
    weights = [path for method, path in hub.asked if method == "GET" and path.endswith(".safetensors")]
    assert weights
    assert all(".fp16." in path for path in weights)
    assert any(".fp16." in name for name in half.card.files)


def test_without_a_network_a_part_of_a_model_is_used_if_it_will_do(
    tiny: Make, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    halved(published(hub, tiny("sd")), beside=True)
    half = eoaug.load(f"someone/model@{COMMIT}", variant="fp16")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert eoaug.load(f"someone/model@{COMMIT}").card.sha256 == half.card.sha256
    with pytest.raises(GeneratorError, match="weights of variant='bf16'"):
        eoaug.load(f"someone/model@{COMMIT}", variant="bf16")
    assert hub.of("someone/model") == []


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="neither model_index"):
        eoaug.load(tmp_path)
    with pytest.raises(GeneratorError, match="neither a folder nor a hub id"):
        eoaug.load("some/where")


def test_the_header_is_what_safetensors_reads(tiny: Make) -> None:
    path = tiny("sd") / UNET
    read = read_header(path)
    tensors = load_torch(path)
    assert {name: shape for name, (_, shape) in read.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }


def _file(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _tensors(*spans: tuple[int, int], shape: tuple[int, ...] = (4,), dtype: str = "F32") -> bytes:
    tensors = {
        f"t{i}": {"dtype": dtype, "shape": shape, "data_offsets": span} for i, span in enumerate(spans)
    }
    return json.dumps(tensors).encode()


DAMAGED = {
    "empty": b"",
    "short": b"abc",
    "no header": _file(b""),
    "a header beyond the file": struct.pack("<Q", 1000) + b"{}",
    "a header of 100 MiB": struct.pack("<Q", 100 * 2**20) + b" " * 64,
    "a list": _file(b"[1, 2]"),
    "no JSON": _file(b"{{{"),
    "a deep header": _file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a hole": _file(_tensors((0, 16), (20, 36)), b"\0" * 36),
    "an overlap": _file(_tensors((0, 16), (8, 24)), b"\0" * 24),
    "bytes beyond the tensors": _file(_tensors((0, 16)), b"\0" * 20),
    "bytes that lack": _file(_tensors((0, 16)), b"\0" * 12),
    "a negative shape": _file(_tensors((0, 16), shape=(-2, -2)), b"\0" * 16),
    "another size than the shape's": _file(_tensors((0, 16), shape=(5,)), b"\0" * 16),
    "an unknown type": _file(_tensors((0, 16), dtype="X"), b"\0" * 16),
    "complex numbers": _file(_tensors((0, 32), dtype="C64"), b"\0" * 32),
    "quantised numbers": _file(_tensors((0, 4), dtype="F8_E4M3"), b"\0" * 4),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(GeneratorError, match=r"weights\.safetensors (is no valid|declares)"):
        read_header(path)


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(_file(_tensors((0, 16), (16, 32)), b"\0" * 32))
    assert read_header(path) == {"t0": ("F32", (4,)), "t1": ("F32", (4,))}
    with pytest.raises(GeneratorError, match="no valid safetensors file"):
        read_header(tmp_path / "nowhere.safetensors")


def _renamed(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_folders_of_one_name_keep_all_their_hashes(tiny: Make, tmp_path: Path) -> None:
    first = _renamed(tiny("controlnet"), tmp_path / "a/edges")
    second = _renamed(tiny("controlnet", seed=8), tmp_path / "b/edges")
    third = _renamed(tiny("controlnet", seed=8), tmp_path / "lines")
    both = eoaug.load(tiny("sd"), controlnets=[first, second]).card
    single = eoaug.load(tiny("sd"), controlnets=[second]).card
    weights = "diffusion_pytorch_model.safetensors"
    digests = [hashlib.sha256((path / weights).read_bytes()).hexdigest() for path in (first, second)]
    assert both.files[f"controlnet edges/controlnet/{weights}"] == digests[0]
    assert both.files[f"controlnet edges (2)/controlnet/{weights}"] == digests[1]
    assert both.sha256 != single.sha256
    assert both.sha256 != eoaug.load(tiny("sd"), controlnets=[second, first]).card.sha256
    # Without a collision the names, and with them the hash, are what they always were.
    names = eoaug.load(tiny("sd"), controlnets=[first, third]).card.files
    assert {name.split("/")[0] for name in names if "controlnet" in name} == {
        "controlnet edges",
        "controlnet lines",
    }


def test_adapters_of_one_name_keep_all_their_hashes(tiny: Make, tmp_path: Path) -> None:
    for folder, value in (("a/word", 1.0), ("b/word", 2.0)):
        (tmp_path / folder).mkdir(parents=True)
        embedding = torch.full((1, 32), value)
        save_torch({f"<{folder[0]}>": embedding}, tmp_path / folder / "learned_embeds.safetensors")
    both = eoaug.load(tiny("sd"), adapters=[tmp_path / "a/word", tmp_path / "b/word"]).card.files
    assert {name for name in both if name.startswith("adapter")} == {
        "adapter word/learned_embeds.safetensors",
        "adapter word (2)/learned_embeds.safetensors",
    }


def test_networks_in_use_are_those_of_the_controlnets_order(tiny: Make, tmp_path: Path) -> None:
    folders = [_renamed(tiny("controlnet", seed=8), tmp_path / "lines"), tiny("controlnet")]
    first, second = (eoaug.load(tiny("sd"), controlnets=order) for order in (folders, folders[::-1]))
    assert first.card.sha256 == second.card.sha256
    assert first._networks is not second._networks
    weights = [generator._networks.controls[0].conv_in.weight for generator in (first, second)]
    assert not torch.equal(*weights)


STRANGE = [None, "x", -1, 0, 1e30, [], {}, [[1]], True, ["a", 3]]


@pytest.mark.parametrize("tries", [6, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "eoaug"])
def test_strange_configurations_raise_eoaugs_error_alone(
    tiny: Make, tmp_path: Path, part: str, tries: int
) -> None:
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
    for _ in range(tries):
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
