"""The tools for tests: scenes tell their places, counters count, the contract catches what breaks it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given

from eoaug.cube.read import read_cube
from eoaug.generators.base import Card, Generator, SteppedGenerator
from eoaug.generators.classical import Classical
from eoaug.testing import CountingGenerator, TinyDenoiser, check_generator, datasets, decode, requests, scene


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_a_scene_tells_row_column_date_and_band(dtype):
    ds = scene((40, 50), dates=3, bands=("blue", "green", "red", "nir"), dtype=dtype)
    for i, name in enumerate(ds.data_vars):
        place = decode(ds[name].values)
        expected = np.mgrid[:40, :50][i % 2]
        assert (place.index == expected).all()
        assert (place.date == np.arange(3)[:, None, None]).all()
        assert (place.pair == i // 2).all()
    assert (ds.nir > 0).all()


def test_a_scene_that_does_not_fit_its_type_is_refused():
    with pytest.raises(ValueError, match="fewer bands"):
        scene((8, 8), bands=[f"b{i}" for i in range(12)], dtype="int16")


@given(datasets())
def test_drawn_cubes_are_cubes(ds):
    cube = read_cube(ds)
    assert 1 <= len(cube.bands) <= 3
    assert cube.lazy == any(v.chunks is not None for v in ds.data_vars.values())


def test_counting():
    counting = CountingGenerator(TinyDenoiser())
    assert isinstance(counting, SteppedGenerator)
    assert not isinstance(CountingGenerator(Classical()), SteppedGenerator)
    asked = requests(counting.card, "inpaint", 3)
    state = counting.begin(asked)
    counting.step(state, 0)
    assert (counting.calls, counting.steps, counting.requests) == (2, 1, 3)
    assert counting.origins == [request.origin for request in asked]
    again = pickle.loads(pickle.dumps(counting))
    assert isinstance(again, SteppedGenerator)
    assert (again.calls, again.card) == (0, counting.card)
    counting.reset()
    assert counting.requests == 0


@pytest.mark.parametrize(
    "generator",
    [
        TinyDenoiser(),
        TinyDenoiser(latent_factor=2, batch=2),
        TinyDenoiser(bands=("blue", "red", "nir")),
        CountingGenerator(TinyDenoiser()),
        Classical(),
    ],
    ids=["tiny", "latent", "bands", "counting", "classical"],
)
def test_good_generators_pass_the_contract(generator):
    check_generator(generator)


@dataclass(frozen=True)
class Broken:
    """The classical generator with one fault."""

    fault: str

    @property
    def card(self) -> Card:
        card = replace(Classical().card, name="broken")
        return replace(card, overlap_px=60) if self.fault == "card" else card

    def generate(self, requests):
        made = Classical().generate(requests)
        fill = np.stack([request.fill for request in requests])
        match self.fault:
            case "shape":
                return made[:, :1, :1]
            case "dtype":
                return made.astype(np.float64)
            case "nan":
                made[fill] = np.nan
            case "measured":
                return made + np.float32(0.01)
            case "batch":
                made[fill] += np.float32(len(requests) / 100)
            case "neighbour":
                made[fill] += np.float32(requests[0].origin[1] / 100)
            case "random":
                made[fill] += np.random.default_rng().normal(size=int(fill.sum())).astype(np.float32)
            case "bands":
                return np.where(fill, made[:, :, ::-1], made)
            case "member":
                made = Classical().generate([replace(request, member=0) for request in requests])
        return made

    def __reduce__(self):
        return (Broken, (self.fault,), {"weights": np.zeros(50_000)} if self.fault == "pickle" else None)

    def __setstate__(self, state):
        pass


FAULTS = {
    "card": "overlap 60",
    "shape": "shape",
    "dtype": "float64",
    "nan": "not finite",
    "measured": "measured pixels",
    "batch": "in a call of 1",
    "neighbour": "in a call of|order of the requests",
    "random": "second call",
    "bands": "other slots",
    "member": "'member': 1",
    "pickle": "pickles to",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_catches(fault):
    generator = Broken(fault)
    assert isinstance(generator, Generator)
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check_generator(generator)
