"""The same bytes whatever the process has done to torch before."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import eoaug
from eoaug.errors import EoaugError
from eoaug.generators.runtime import torch_state
from eoaug.testing.scenes import scene

STATES: dict[str, str] = {
    "float64": "torch.set_default_dtype(torch.float64)",
    "bfloat16": "torch.set_default_dtype(torch.bfloat16)",
    "meta": "torch.set_default_device('meta')",
    "autocast": "torch.autocast('cpu', torch.bfloat16).__enter__()",
    "no mkldnn": "torch.backends.mkldnn.set_flags(False)",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "conv bf16": "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    "tf32": "torch.backends.fp32_precision = 'tf32'",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "denormal": "torch.set_flush_denormal(True)",
    "inference": "torch.inference_mode().__enter__()",
    "threads": "torch.set_num_threads(4)",
    "no sdp": "torch.backends.cuda.enable_flash_sdp(False)",
}
"""Statements that change how torch computes."""
_LASTING = [name for name in STATES if name not in ("autocast", "inference", "meta")]


@pytest.fixture
def restored() -> Iterator[None]:
    with torch_state(inference=False):  # which restores what was found
        pass
    found = torch.get_default_dtype(), torch.backends.mkldnn.enabled, torch.backends.fp32_precision
    conv, threads = torch.backends.mkldnn.conv.fp32_precision, torch.get_num_threads()
    yield
    torch.set_default_dtype(found[0])
    torch.backends.mkldnn.set_flags(found[1])
    torch.backends.fp32_precision, torch.backends.mkldnn.conv.fp32_precision = found[2], conv
    torch.backends.mkldnn.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
    torch.backends.cuda.enable_flash_sdp(True)


def digest(ds: xr.Dataset) -> str:
    ds = ds.compute(scheduler="synchronous")
    parts = (np.ascontiguousarray(ds[name].values).tobytes() for name in sorted(map(str, ds.data_vars)))
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.usefixtures("restored")
def test_every_setting_is_that_of_a_fresh_process() -> None:
    with torch_state():
        expected = torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8) / 3, torch.ones(4, 3, 3, 3) / 7)
    for name in _LASTING:
        exec(STATES[name])
        dtype = torch.get_default_dtype()
        with torch_state():
            got = torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8) / 3, torch.ones(4, 3, 3, 3) / 7)
        assert got.dtype == torch.float32
        assert torch.equal(got, expected), name
        assert torch.get_default_dtype() == dtype


VERBS: dict[str, Callable[[Any], Any]] = {
    "super_resolve": lambda c: eoaug.super_resolve(c, factor=2),
    "inpaint": lambda c: eoaug.inpaint(c, mask=_mask(c)),
    "inpaint in steps": lambda c: eoaug.inpaint(c, mask=_mask(c), steps=2),
    "synthesize": lambda c: eoaug.synthesize(c, steps=1),
}


def _mask(cube: xr.Dataset) -> xr.DataArray:
    mask = xr.zeros_like(next(iter(cube.data_vars.values())).isel(time=0, drop=True), dtype=bool)
    mask[4:12, 4:12] = True
    return mask


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("count", [1, pytest.param(100, marks=pytest.mark.long)])
def test_the_same_bytes_after_other_work_with_torch(count: int) -> None:
    cube = scene((32, 32), dates=1)
    chance = random.Random(0)
    verbs = dict(itertools.islice(VERBS.items(), 1 if count == 1 else None))
    expected = {name: digest(verb(cube)) for name, verb in verbs.items()}
    for number in range(count):
        for name in chance.sample(_LASTING, 3):
            exec(STATES[name])
        given = cube.chunk(y=16, x=16) if number % 2 else cube
        for name, verb in verbs.items():
            try:
                assert digest(verb(given)) == expected[name], name
            except EoaugError:
                continue
