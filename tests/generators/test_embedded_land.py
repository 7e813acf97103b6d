"""Land by class: a prompt chooses it, any part of a plane is cut from the whole, and the class map is its label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import eoaug
from eoaug.errors import EoaugError, GeneratorError
from eoaug.generators.embedded.generator import Embedded
from eoaug.generators.embedded.land import CLASSES, Land, LandPlane, shares_of
from eoaug.generators.embedded.land_units import LandUnits
from eoaug.generators.embedded.networks import build
from eoaug.generators.weights import save_weights

K = len(CLASSES)
UNITS = LandUnits(
    mean=np.linspace(-1, 1, 3 * K).reshape(K, 3),
    unit=np.linspace(0.1, 1, 3 * K).reshape(K, 3),
    contrast=np.tile([-0.5, 0.3], (K, 1)),
    tones=np.random.default_rng(0).normal(size=(K, 16, 4)),
)
PLANE = LandPlane(3, 0, shares_of("fields with a village and woods"))
SHIPPED = Path(eoaug.__file__).parent / "weights" / "embedded"


class Network:
    """Answers with the point and everything that it gets: any change of its inputs shows."""

    def __init__(self) -> None:
        self.images = []

    def __call__(self, x, t, images):
        self.images += images
        return np.stack(
            [0.5 * point + image[3:].mean() + image[:3] for point, image in zip(x, images, strict=True)]
        ).astype(np.float32)


def land(batch=4, steps=2, guidance=1.5):
    return Land(units=UNITS, window=16, context=4, steps=steps, guidance=guidance, batch=batch)


@settings(max_examples=8, deadline=None)
@given(
    row=st.integers(-100_000, 100_000),
    col=st.integers(-100_000, 100_000),
    down=st.integers(0, 30),
    right=st.integers(0, 30),
    batch=st.sampled_from([1, 3, 8]),
)
def test_a_part_is_cut_from_the_whole_plane_across_borders_of_classes(row, col, down, right, batch):
    (whole,) = land().cells([(PLANE, (row, col), (40, 44))], Network())
    (part,) = land(batch).cells([(PLANE, (row + down, col + right), (10, 14))], Network())
    assert part.tobytes() == whole[:, down : down + 10, right : right + 14].tobytes()
    classes = land().classes(PLANE, (row, col), (40, 44))
    again = land().classes(PLANE, (row + down, col + right), (10, 14))
    assert (classes[down : down + 10, right : right + 14] == again).all()


def test_shares_follow_the_prompt():
    shares = dict(zip(CLASSES, shares_of("Fields, with a village"), strict=True))
    assert shares["annual_crop"] == pytest.approx(0.7)
    assert shares["residential"] == pytest.approx(0.3)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares_of("forest") == shares_of("woods") != shares_of("river")
    assert shares_of("permanent_crop")[CLASSES.index("permanent_crop")] == 1
    assert sum(shares_of(None)) == pytest.approx(1)
    assert shares_of("land with a lake")[CLASSES.index("sea_lake")] == 1
    with pytest.raises(GeneratorError, match="names no class"):
        shares_of("nice")


def test_the_plane_has_the_classes_of_the_prompt_in_their_shares():
    codes = land().classes(PLANE, (-3000, 5000), (1200, 1200))
    found = np.bincount(codes.ravel(), minlength=K) / codes.size
    np.testing.assert_allclose(found, PLANE.shares, atol=0.12)
    assert set(np.unique(codes)) == set(np.flatnonzero(PLANE.shares))
    other = land().classes(LandPlane(4, 0, PLANE.shares), (-3000, 5000), (200, 200))
    assert (other != codes[:200, :200]).any()


def test_the_network_gets_one_class_and_one_tone_per_cell_and_what_neighbours_drew():
    network = Network()
    (around,) = land(steps=1, guidance=1).cells([(PLANE, (12, 12), (16, 16))], network)
    one = network.images[-1]
    known, classes, tones = one[3] > 0, one[4 : 4 + K], one[4 + K :]
    assert (classes.sum(axis=0) == 1).all()
    assert (tones[-1] == 1).all()
    index = land().classes(PLANE, (12, 12), (16, 16))
    np.testing.assert_array_equal(classes.argmax(axis=0), index)
    np.testing.assert_allclose(one[:3][:, known], UNITS.to_units(around, index)[:, known], atol=1e-4)
    assert not one[:3][:, ~known].any()


def test_guidance_calls_the_network_without_classes_as_well():
    network = Network()
    land(steps=1, guidance=2.0).cells([(PLANE, (0, 0), (1, 1))], network)
    with_class, without = network.images
    assert with_class[4 : 4 + K].any()
    assert not without[4 : 4 + K].any()
    np.testing.assert_array_equal(with_class[4 + K :], without[4 + K :])


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """The shipped weights with a tiny untrained network of land."""
    folder = tmp_path_factory.mktemp("land")
    for path in SHIPPED.glob("*.safetensors"):
        shutil.copy(path, folder)
    architecture = {"kind": "land", "bands": 3, "plain": 4, "maps": K + 5, "widths": [8, 8], "embedding": 8}
    torch.manual_seed(0)
    tensors = {name: value.numpy() for name, value in build(architecture).state_dict().items()}
    config = json.loads((SHIPPED / "config.json").read_text())
    for name, content in (("land", tensors), ("land_units", UNITS.tensors())):
        sha256 = save_weights(folder / f"{name}.safetensors", content)
        config["networks"][name] = {"file": f"{name}.safetensors", "sha256": sha256}
    config["networks"]["land"]["architecture"] = architecture
    config["land"] = {"window": 16, "context": 4, "steps": 2, "guidance": 1.5}
    config["card"]["conditions"].append("prompt")
    (folder / "config.json").write_text(json.dumps(config))
    return Embedded(folder)


def drawn(generator, box, **options):
    return eoaug.synthesize(
        like=box, crs="EPSG:32633", resolution=10, times=["2024-06-01"], generator=generator, seed=5,
        labels="landcover", joint_steps=0, **options,
    )  # fmt: skip


def test_a_prompt_chooses_what_is_drawn_and_the_class_map_is_its_label(generator):
    box = (500_000, 5_000_000, 500_640, 5_000_640)
    woods, fields = (drawn(generator, box, prompt=prompt).compute() for prompt in ("woods", "fields"))
    assert (woods.landcover == CLASSES.index("forest") + 1).all()
    assert (fields.landcover == CLASSES.index("annual_crop") + 1).all()
    assert woods.landcover.attrs["flag_meanings"].split() == list(CLASSES)
    assert (woods.red != fields.red).any()
    for band in ("blue", "green", "red", "nir"):
        values = fields[band].values
        assert np.isfinite(values).all()
        assert values.min() > -0.5
        assert values.max() < 1.5
    crop = drawn(generator, (500_160, 5_000_160, 500_480, 5_000_480), prompt="woods").compute()
    inner = woods.sel(x=crop.x, y=crop.y)
    assert inner.landcover.equals(crop.landcover)


def test_a_prompt_without_a_known_word_is_refused_before_the_run(generator):
    with pytest.raises(EoaugError, match=r"'a poem' holds no word that generator 'embedded' knows"):
        drawn(generator, (500_000, 5_000_000, 500_640, 5_000_640), prompt="a poem")


def test_the_shipped_weights_take_no_prompt():
    with pytest.raises(EoaugError, match="prompt"):
        eoaug.synthesize(like=(0, 0, 640, 640), crs="EPSG:32633", resolution=10, prompt="woods")
