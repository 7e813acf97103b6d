"""Pickled weights become safetensors, and a pickle that does anything else does nothing."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators.checkpoints import convert
from eoaug.generators.checkpoints.convert import convert_weights

Make = Callable[..., Path]


class Call:
    """Unpickling it calls something."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def test_a_published_folder_is_converted_and_loads(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    expected = eoaug.load(folder).card
    for old, new in (
        ("unet/diffusion_pytorch_model", "unet/diffusion_pytorch_model"),
        ("text_encoder/model", "text_encoder/pytorch_model"),
    ):
        torch.save(load_file(folder / f"{old}.safetensors"), folder / f"{new}.bin")
        (folder / f"{old}.safetensors").unlink()
    with pytest.raises(GeneratorError, match="eoaug convert-weights"):
        eoaug.load(folder)
    written = convert_weights(folder)
    assert {path.name for path in written} == {"diffusion_pytorch_model.safetensors", "model.safetensors"}
    assert eoaug.load(folder).card.bands == expected.bands
    for path in written:
        original = load_file(tiny("sd") / path.relative_to(folder))
        for name, tensor in load_file(path).items():
            assert torch.equal(tensor, original[name])
    assert convert_weights(folder) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda canary: Call(os.system, f"touch {canary}"),
        pytest.param(lambda canary: Call(Path.write_text, canary, "ran"), marks=pytest.mark.slow),
        pytest.param(lambda canary: Call(eval, f"open({str(canary)!r}, 'w')"), marks=pytest.mark.slow),
        lambda canary: {"a": torch.zeros(2), "b": "text"},
    ],
    ids=["system", "write", "eval", "text"],
)
@pytest.mark.parametrize("guard", ["unpickler", pytest.param("process", marks=pytest.mark.slow)])
def test_a_pickle_that_does_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Path], Any], guard: str
) -> None:
    if guard == "process":
        # The unpickler was passed by once (CVE-2025-32434): the process must hold alone.
        loose = convert._CHILD.replace("weights_only=True", "weights_only=False")
        monkeypatch.setattr(convert, "_CHILD", loose)
    canary = tmp_path / "canary"
    source = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    source.parent.mkdir()
    torch.save(call(canary), source)
    with pytest.raises(GeneratorError, match="something else than weights"):
        convert_weights(tmp_path)
    assert not canary.exists()
    assert list(source.parent.iterdir()) == [source]


def _zipped(path: Path, call: Call) -> None:
    torch.save({"weights": torch.zeros(2), "more": call}, path)


def _plain(path: Path, call: Call, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps({"weights": call}, protocol))


def _renamed_inside(path: Path, call: Call) -> None:
    """A zip whose records torch finds by their ending, one of them a second pickle."""
    _zipped(path, call)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/code/data.pkl", pickle.dumps(call))


def _appended(path: Path, call: Call) -> None:
    torch.save({"weights": torch.zeros(2)}, path)
    path.write_bytes(pickle.dumps(call) + path.read_bytes())


def _legacy(path: Path, call: Call) -> None:
    torch.save({"weights": call}, path, _use_new_zipfile_serialization=False)


_CALLS: dict[str, Callable[[Path], Call]] = {
    "system": lambda c: Call(os.system, f"touch {c}"),
    "popen": lambda c: Call(os.popen, f"touch {c}"),
    "spawn": lambda c: Call(os.spawnlp, os.P_WAIT, "touch", "touch", str(c)),
    "subprocess": lambda c: Call(subprocess.call, ["touch", str(c)]),
    "exec": lambda c: Call(exec, f"open({str(c)!r}, 'w')"),
    "eval": lambda c: Call(eval, f"open({str(c)!r}, 'w')"),
    "open": lambda c: Call(open, str(c), "w"),
    "mkdir": lambda c: Call(os.mkdir, str(c)),
    "touch": lambda c: Call(Path.touch, c),
    "memmap": lambda c: Call(np.memmap, str(c), "uint8", "w+", 0, (1,)),
    "numpy": lambda c: Call(np.save, str(c), np.zeros(1)),
    "torch": lambda c: Call(torch.save, torch.zeros(1), str(c)),
    "hub": lambda c: Call(torch.hub.load, str(c.parent), "evil", "local"),
    "unpickler": lambda c: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {c}"))),
    "partial": lambda c: Call(functools.reduce, os.system, [f"touch {c}"]),
    "module": lambda c: Call(importlib.import_module, "antigravity"),
}
_WRAPS: dict[str, Callable[[Path, Call], None]] = {
    "zip": _zipped, "plain": _plain, "renamed": _renamed_inside, "appended": _appended, "legacy": _legacy,
}  # fmt: skip
HOSTILE = [
    *((_CALLS[name], _WRAPS["zip"]) for name in _CALLS),
    *((_CALLS["system"], wrap) for name, wrap in _WRAPS.items() if name != "zip"),
]


@pytest.mark.long
def test_twenty_hostile_pickles_run_nothing(tiny: Make, tmp_path: Path) -> None:
    """S1: neither where a checkpoint is loaded, nor where it is converted."""
    canary, count = tmp_path / "canary", 0
    (tmp_path / "hubconf.py").write_text(f"open({str(canary)!r}, 'w')")
    for number, (call, wrap) in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        shutil.copytree(tiny("sd"), folder)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        wrap(folder / "unet" / "diffusion_pytorch_model.bin", call(canary))
        for use in (eoaug.load, convert_weights):
            with pytest.raises(GeneratorError):
                use(folder)
        count += 1
        assert not canary.exists()
    assert count >= 20
    print(f"{count} hostile pickles, loaded and converted: 0 executions")


def test_nothing_to_convert_is_told(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="no weights to convert"):
        convert_weights(tmp_path)
