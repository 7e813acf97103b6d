"""The table of options agrees with the verbs; the command line and YAML files are derived from it."""

from __future__ import annotations

import inspect

import pytest

import eoaug
from eoaug.cli.verbs import command
from eoaug.verbs.options import OWN_OPTIONS, Options, shared_options, yaml_keys

SHARED_IN_YAML = {
    "seed",
    "steps",
    "members",
    "reduce",
    "prompt",
    "guidance",
    "metadata",
    "joint_steps",
    "tiling",
    "uncertainty",
    "labels",
}
YAML = {
    "inpaint": {"mask", "mask_buffer", "fill"},
    "extend": {"times", "sequence", "mask", "mask_buffer"},
    "translate": {"to", "mask", "mask_buffer"},
    "super_resolve": {"factor", "sensor", "sensor_noise", "native", "mask", "mask_buffer"},
    "synthesize": {"strength", "times", "mask", "mask_buffer"},
}
ELSEWHERE = {
    "generator": "generator",
    "chunks": "run.chunks",
    "batch_tiles": "run.batch_tiles",
    "memory": "run.memory",
    "device": "run.device",
}


@pytest.mark.parametrize("verb", OWN_OPTIONS)
def test_own_options_are_the_arguments_of_the_function(verb):
    parameters = dict(inspect.signature(getattr(eoaug, verb)).parameters)
    del parameters["ds"], parameters["options"]
    assert OWN_OPTIONS[verb].keys() == parameters.keys()
    for name, option in OWN_OPTIONS[verb].items():
        default = parameters[name].default
        assert option.required == (default is inspect.Parameter.empty)
        assert option.required or option.default == default


def test_every_shared_option_is_declared():
    assert shared_options().keys() == Options.__annotations__.keys()


@pytest.mark.parametrize("verb", OWN_OPTIONS)
def test_keys_of_a_job(verb):
    keys = yaml_keys(verb)
    assert {name for name, key in keys.items() if key == "parameters"} == YAML[verb] | SHARED_IN_YAML
    assert {name: key for name, key in keys.items() if key != "parameters"} == ELSEWHERE


@pytest.mark.parametrize("verb", OWN_OPTIONS)
@pytest.mark.parametrize("plan", [True, False])
def test_commands_offer_what_the_table_declares(verb, plan):
    parameters = inspect.signature(command(verb, plan=plan)).parameters
    table = {**OWN_OPTIONS[verb], **shared_options()}
    for name, option in table.items():
        if option.cli is None:
            continue
        default = parameters[name].default
        assert default == (inspect.Parameter.empty if option.required else option.default)
        (shown,) = parameters[name].annotation.__metadata__
        assert shown.help == option.help
        assert option.help
    assert {"layout", "chunks", "bands"} <= parameters.keys()
    assert "progress" not in parameters
