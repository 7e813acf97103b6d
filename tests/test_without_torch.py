"""Without torch: reading, writing, priors and the classical generator work; what needs networks says what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import EoaugError, PackageError
from eoaug.testing import scene

BANDS = ("B02", "B03", "B04", "B08")


@pytest.fixture
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def hole() -> xr.DataArray:
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    return xr.DataArray(mask, dims=("y", "x"))


@pytest.mark.parametrize("generator", ["embedded", "classical"])
def test_gaps_and_dates_are_the_same_with_and_without_torch(
    generator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = scene((32, 32), dates=2, bands=BANDS)
    calls: list[Callable[[], Any]] = [
        lambda: cube.eoaug.inpaint(mask=hole(), generator=generator),
        lambda: cube.eoaug.extend(times=["2030-01-01"], generator=generator),
    ]
    given = [call() for call in calls]
    monkeypatch.setitem(sys.modules, "torch", None)
    for call, expected in zip(calls, given, strict=True):
        made = call()
        xr.testing.assert_identical(made.drop_attrs(deep=False), expected.drop_attrs(deep=False))
        assert "torch" not in made.eoaug.provenance.software
        assert made.eoaug.provenance.digital_source_type == expected.eoaug.provenance.digital_source_type


@pytest.mark.usefixtures("_no_torch")
@pytest.mark.parametrize(
    "call",
    [
        lambda cube: cube.eoaug.super_resolve(factor=2),
        lambda cube: cube.eoaug.inpaint(mask=hole(), steps=1),
        lambda cube: cube.eoaug.synthesize(strength=0.3),
    ],
    ids=["super_resolve", "steps", "synthesize"],
)
def test_what_needs_a_network_names_the_extra_and_a_way_without(call: Callable[[Any], Any]) -> None:
    with pytest.raises(PackageError, match="needs the package torch") as caught:
        call(scene((32, 32), dates=1, bands=BANDS))
    assert "eoaug[torch]" in caught.value.remedy
    assert "generator='classical'" in caught.value.remedy


@pytest.mark.usefixtures("_no_torch")
def test_the_classical_generator_serves_every_verb() -> None:
    cube = scene((32, 32), dates=1, bands=BANDS)
    for made in (
        cube.eoaug.super_resolve(factor=2, generator="classical"),
        cube.eoaug.synthesize(strength=0.3, generator="classical"),
    ):
        assert made.eoaug.provenance.generator == "classical"


@pytest.mark.parametrize("name", ["gate", "select", "torch"])
def test_names_of_the_root_name_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [
        m for m in sys.modules if m.startswith(("eoaug.torch", "eoaug.trials", "eoaug.selection"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(vars(eoaug), name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EoaugError, match=f"eoaug.{name} needs the package torch"):
        getattr(eoaug, name)


def test_a_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eoaug.evaluate.evaluation", None)
    monkeypatch.setitem(sys.modules, "eoaug.training.finetune", None)
    done = CliRunner().invoke(app, ["evaluate", "embedded", "--data", "x", "--out", "y"])
    assert done.exit_code == 2
    assert "needs the package" in done.output
