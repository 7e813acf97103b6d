"""Latents kept on disk: the same bytes with and without them, no encoding of what is kept, never more than the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from eoaug.errors import ParameterError
from eoaug.training.finetune import Tuning, finetune
from eoaug.training.latent_cache import LatentCache
from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.sd(tmp_path_factory.mktemp("base") / "sd")


def encode(image):
    return image.mean(dim=0, keepdim=True)[:, ::8, ::8] / 3


def images(count):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_latent_that_is_kept_has_the_bytes_of_one_that_is_computed(tmp_path, dtype):
    kind = getattr(torch, dtype)
    first = [
        LatentCache(tmp_path, "vae", 10**6).encoded(one, lambda x: encode(x).to(kind)) for one in images(4)
    ]
    again = LatentCache(tmp_path, "vae", 10**6)
    for one, latent in zip(images(4), first, strict=True):
        kept = again.encoded(one, refused)
        assert kept.dtype == kind
        assert torch.equal(kept, latent)
    assert len(again) == 4
    other = LatentCache(tmp_path, "another vae", 10**6)
    with pytest.raises(AssertionError, match="encoded again"):
        other.encoded(images(1)[0], refused)


def refused(image):
    raise AssertionError("encoded again")


def test_the_oldest_latents_go_at_the_limit(tmp_path):
    cache = LatentCache(tmp_path, "vae", 20 * 16)  # 16 bytes each
    for one in images(50):
        cache.encoded(one, encode)
        assert cache.size <= 20 * 16
    assert len(cache) > 15
    assert torch.equal(cache.encoded(images(50)[-1], refused), encode(images(50)[-1]))
    tiny = LatentCache(tmp_path / "tiny", "vae", 8)
    assert torch.equal(tiny.encoded(images(1)[0], encode), encode(images(1)[0]))
    assert len(tiny) == 0


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "latents.sqlite").write_bytes(b"no database, but long enough to be read as one" * 100)
    with pytest.raises(ParameterError, match=r"latents='.*' cannot be used"):
        LatentCache(tmp_path, "vae", 100)


@pytest.mark.parametrize("parts", [{"unet": "lora"}, {"unet": "lora", "vae": "decoder_lora"}])
def test_a_training_gives_the_same_bytes_with_and_without_latents_on_disk(base, tmp_path, monkeypatch, parts):
    values = np.random.default_rng(0).uniform(0, 0.3, (3, 64, 64)).astype(np.float32)
    cube = xr.Dataset(
        {name: (("y", "x"), band) for name, band in zip(("red", "green", "blue"), values, strict=True)},
        {"y": 5e6 - 10.0 * np.arange(64), "x": 5e5 + 10.0 * np.arange(64)},
    )
    how = {"parts": parts, "rank": 2, "steps": 6, "batch": 2, "tile_px": 64, "rate": 1e-3}
    counts = []
    written = []
    for name, latents in (("without", None), ("first", tmp_path / "kept"), ("second", tmp_path / "kept")):
        called = counted(monkeypatch)
        finetune(
            base, cube, tmp_path / name, Tuning(**how, latents=None if latents is None else str(latents))
        )
        counts.append(len(called))
        monkeypatch.undo()
        paths = sorted(
            path for path in (tmp_path / name).rglob("*") if path.is_file() and "state" not in path.parts
        )
        written.append({path.relative_to(tmp_path / name): path.read_bytes() for path in paths})
    assert written[0] == written[1] == written[2]
    # Twelve windows of one image, turned and mirrored in eight ways.
    assert counts[0] == 12
    assert counts[1] <= 8
    assert counts[2] == 0


def counted(monkeypatch):
    from diffusers import AutoencoderKL

    called = []
    plain = AutoencoderKL.encode
    monkeypatch.setattr(
        AutoencoderKL, "encode", lambda self, *a, **k: called.append(1) or plain(self, *a, **k)
    )
    return called
