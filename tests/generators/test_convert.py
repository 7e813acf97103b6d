"""Pickled weights become safetensors, and a pickle that does anything else does nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators import convert
from eoaug.generators.convert import convert_weights

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
        lambda canary: Call(Path.write_text, canary, "ran"),
        lambda canary: Call(eval, f"open({str(canary)!r}, 'w')"),
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
    with pytest.raises(GeneratorError, match="no file of weights alone"):
        convert_weights(tmp_path)
    assert not canary.exists()
    assert list(source.parent.iterdir()) == [source]


def test_nothing_to_convert_is_told(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="no weights to convert"):
        convert_weights(tmp_path)
