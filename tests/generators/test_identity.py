"""What a generator is, as tokens and content keys see it: name, weights and declared settings."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators.base import Card
from eoaug.generators.identity import identity_of, settings_of
from eoaug.testing import CountingGenerator, TinyDenoiser, scene

GOLDEN = {
    "classical": "2a2a82476d36a7665c9e3ac49353a662c064b524ce00b446cb988de8b1e905ed",
    "embedded": "d7a74d96811cd7bbc72a0f44c5b6b9465c361dc0858caac8864e361c987cd980",
    "tiny": "dc65a90c39aa92ba980bdcf46ffdda489d9274e18728970993910661af4294ad",
}
"""A change here changes every token and content key: published catalogs would be made anew."""


def generator(name):
    return TinyDenoiser() if name == "tiny" else eoaug.load(name)


@pytest.mark.parametrize("name", GOLDEN)
def test_identities_are_golden(name):
    assert identity_of(generator(name)) == GOLDEN[name]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", GOLDEN)
def test_identities_survive_every_pickle_protocol(name, protocol):
    if protocol < 2 and name == "embedded":
        pytest.skip("Python pickles no class with a reducer that refers to types by protocol 0 and 1")
    restored = pickle.loads(pickle.dumps(generator(name), protocol))
    assert identity_of(restored) == GOLDEN[name]


def test_tokens_do_not_depend_on_the_pickle_protocol():
    code = (
        "import pickle; pickle.DEFAULT_PROTOCOL = 2; import eoaug; from eoaug.testing.scenes import scene\n"
        "for pickle.DEFAULT_PROTOCOL in (2, 5):\n"
        "    print(eoaug.plan('super_resolve', scene((40, 40)), factor=2, generator='classical').token)"
    )
    here = eoaug.plan("super_resolve", scene((40, 40)), factor=2, generator="classical").token
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [here, here]


@dataclass(frozen=True)
class Fielded:
    """A generator whose settings are its fields."""

    gain: float = 1.0
    bands: tuple[str, ...] = ("red",)
    card = Card(name="fielded")

    def generate(self, asked):
        return np.stack([request.values for request in asked])


class Plain:
    """The same with instance attributes, in another module path."""

    card = Card(name="fielded")
    generate = Fielded.generate
    __module__ = "elsewhere.entirely"

    def __init__(self, gain=1.0, bands=("red",)):
        self.bands, self.gain = bands, gain


class Declared(Plain):
    """The same with a declared mapping, beside a cache that does not matter."""

    @property
    def settings(self):
        return {"gain": np.float32(self.gain), "bands": list(self.bands)}

    def __init__(self, **options):
        super().__init__(**options)
        self.cache = object()


def test_class_and_module_do_not_matter_but_settings_do():
    assert identity_of(Fielded()) == identity_of(Plain()) == identity_of(Declared())
    assert identity_of(Fielded(gain=2.0)) == identity_of(Plain(gain=2.0)) != identity_of(Plain())
    assert identity_of(Fielded(bands=("red", "nir"))) != identity_of(Fielded())


def test_counting_does_not_change_what_a_generator_is():
    assert identity_of(CountingGenerator(TinyDenoiser(tile_px=40))) == identity_of(TinyDenoiser(tile_px=40))


def test_a_setting_that_is_no_plain_value_is_refused_by_name():
    made = Plain()
    made.network = object()
    with pytest.raises(GeneratorError, match=r"(?s)network=<object.*declare .* `settings`"):
        settings_of(made)
