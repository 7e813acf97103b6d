"""The public names, their signatures and what their docstrings tell."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import xarray as xr

import eoaug
from eoaug.verbs.options import Options

VERBS = ["synthesize", "inpaint", "extend", "super_resolve", "translate"]

SIGNATURES = {
    "synthesize": ["ds", "like", "resolution", "crs", "times", "bands", "mask", "mask_buffer", "strength"],
    "inpaint": ["ds", "mask", "mask_buffer", "fill"],
    "extend": ["ds", "times", "mask", "mask_buffer", "sequence"],
    "super_resolve": ["ds", "factor", "sensor", "sensor_noise", "native", "mask", "mask_buffer"],
    "translate": ["ds", "to", "mask", "mask_buffer"],
}
"""The verbs' own arguments; all others are those of `Options`."""

SHARED = {
    "generator", "steps", "seed", "members", "reduce", "prompt", "layout", "metadata", "guidance",
    "chunks", "batch_tiles", "joint_steps", "device", "progress", "uncertainty", "calibrate", "labels",
    "tiling", "memory",
}  # fmt: skip


def test_the_root_is_short_and_complete():
    expected = {"open_cube", "synthesize", "inpaint", "extend", "super_resolve", "load", "Generator", "Request",
                "Card", "Plan", "augment", "caption", "gate", "select", "show", "corrupt", "change", "backscatter", "translate", "write", "EoaugError", "__version__", "plan", "run_job", "sample", "training_set", "export"}  # fmt: skip
    assert set(eoaug.__all__) == expected
    assert eoaug.__all__ == sorted(eoaug.__all__)
    assert set(dir(eoaug)) == expected
    for name in eoaug.__all__:
        assert getattr(eoaug, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'inpaintt'"):
        eoaug.inpaintt  # noqa: B018


@pytest.mark.parametrize("verb", VERBS)
def test_signatures_are_those_of_the_design(verb):
    parameters = inspect.signature(getattr(eoaug, verb)).parameters
    own = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    assert own == SIGNATURES[verb]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own[1:])
    assert Options.__annotations__.keys() == SHARED


@pytest.mark.parametrize("verb", [*VERBS, "corrupt", "change", "plan"])
def test_accessors_forward_and_borrow_the_docstring(verb):
    for obj in (xr.Dataset(), xr.DataArray(), xr.DataTree()):
        method = getattr(obj.eoaug, verb)
        assert method.__doc__ == getattr(eoaug, verb).__doc__


@pytest.mark.parametrize(
    "name",
    [
        *VERBS,
        "corrupt",
        "change",
        "plan",
        "load",
        "open_cube",
        "run_job",
        "write",
        "export",
        "gate",
        "select",
        "show",
    ],
)
def test_docstrings_have_their_sections(name):
    function = getattr(eoaug, name)
    text = inspect.cleandoc(function.__doc__)
    assert "Parameters\n----------" in text
    for argument, parameter in inspect.signature(function).parameters.items():
        shown = f"**{argument}" if parameter.kind is parameter.VAR_KEYWORD else argument
        told = [line for line in text.splitlines() if shown in [part.strip() for part in line.split(",")]]
        assert told, f"{name} does not tell of {shown}"


def modules():
    names = [m.name for m in pkgutil.walk_packages(eoaug.__path__, "eoaug.")]
    # Networks, training and the datasets of torch take seconds to import torch.
    return [
        name
        for name in names
        if not any(
            part in name
            for part in ("schema", "training", "network", "eoaug.torch", "eoaug.trials", "eoaug.selection")
        )
    ]


@pytest.mark.parametrize("name", modules())
def test_modules_say_what_they_are_and_list_what_they_offer(name):
    module = importlib.import_module(name)
    assert module.__doc__ or not module.__dict__.get("__all__"), f"{name} has no docstring"
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        if inspect.isfunction(thing) or (inspect.isclass(thing) and thing.__module__ == name):
            assert thing.__doc__, f"{name}.{public} has no docstring"


def test_version_and_types_are_declared():
    from importlib.metadata import version
    from pathlib import Path

    assert version("eoaug") == eoaug.__version__
    assert (Path(eoaug.__file__).parent / "py.typed").exists()
