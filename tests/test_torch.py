"""The datasets of torch: right pixels and labels, the same sequence for any workers and after a resume, units as they are."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import eoaug
from eoaug.augmentation.policy import draw_of, read_policy
from eoaug.augmentation.training_items import TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.corruptions.kinds import KINDS
from eoaug.errors import EoaugError
from eoaug.torch import Augmented, AugmentedLoader, Chips, EpochSampler

RNG = np.random.default_rng(5)
KEEPING = [name for name, kind in KINDS.items() if kind.group != "moving"]
POLICY = {
    "seed": 4,
    "draws": [
        {"verb": "corrupt", "parameters": {"kind": "brightness_contrast"}, "strengths": [1, 5]},
        {"verb": "corrupt", "parameters": {"kind": "gaussian_noise"}},
    ],
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> TrainingSet:
    """Two classes of six images of 8 bits, without a place."""
    root = tmp_path_factory.mktemp("chips")
    for name in ("Forest", "River"):
        (root / name).mkdir()
        for number in range(6):
            values = RNG.integers(20, 200, (16, 16, 3)).astype("uint8")
            Image.fromarray(values).save(root / name / f"{name}_{number}.png")
    split = {
        f"{name}_{k}": ("train", "val", "test")[max(k - 3, 0)]
        for name in ("Forest", "River")
        for k in range(6)
    }
    return training_set(root, split=split)


def pixels(tmp_path, task) -> TrainingSet:
    folders = ["images"] if task == "pixels" else ["A", "B"]
    for folder in (*folders, "label"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            values = RNG.integers(0, 3 if folder == "label" else 255, (12, 16, 3)).astype("uint8")
            Image.fromarray(values[..., 0] if folder == "label" else values).save(
                tmp_path / folder / f"{number}.png"
            )
    return training_set(tmp_path, task=task, split="train", classes=["field", "wood", "water"])


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- real images ----------------------------------------------------------------------------------------


def test_samples_have_physical_units_and_numbers_of_classes(classes):
    chips = classes.torch("train", bands=["blue", "red"])
    assert (len(chips), chips.classes, chips.bands) == (8, ["Forest", "River"], ("blue", "red"))
    for index, item in enumerate(classes.split("train")):
        stored = np.asarray(Image.open(item.href))
        sample = chips[index]
        scale, offset = 2750 / 254 * 1e-4, -2750 / 254 * 1e-4  # EuroSAT's
        assert sample["image"].dtype == torch.float32
        for channel, band in enumerate((2, 0)):
            physical = (stored[..., band] * scale + offset).astype("float32")
            assert np.array_equal(sample["image"][channel].numpy(), physical)
        assert chips.classes[int(sample["label"])] == item.label
        assert not sample["synthetic"].any()


@pytest.mark.parametrize("task", ["pixels", "change"])
def test_masks_and_pairs(tmp_path, task):
    train = pixels(tmp_path, task)
    sample = train.torch()[1]
    assert sample["image"].shape == ((2, 3, 12, 16) if task == "change" else (3, 12, 16))
    assert sample["mask"].ndim == (3 if task == "change" else 2)  # as torchgeo's tasks want them
    assert np.array_equal(sample["mask"].squeeze(0).numpy(), np.asarray(Image.open(tmp_path / "label/1.png")))
    assert sample["mask"].dtype == torch.int64
    data = Augmented(train.torch(), policy=POLICY, p=1)
    for index in range(12):  # 12 x 16 px are turned by halves
        assert data[index]["image"].shape == sample["image"].shape


def test_classes_are_counted_and_missing_pixels_filled(classes):
    from eoaug.cube.labels import class_numbers

    ds = classes[0].open()
    ds["lc"] = (
        ("y", "x"),
        np.full((16, 16), 30, "uint8"),
        {"flag_values": np.array([10, 30], "uint8"), "nodata": 7},
    )
    ds.lc[0, 0], ds.lc[0, 1] = 7, 9
    numbers = class_numbers(ds.lc, ("y", "x"))
    assert (numbers[0, 0], numbers[0, 1], numbers[1, 1]) == (255, 255, 1)
    with pytest.raises(EoaugError, match="no band 'nir'"):
        classes.torch(bands=["nir"])[0]
    with pytest.raises(EoaugError, match="training set"):
        Chips("folder")
    with pytest.raises(IndexError):
        classes.torch()[12]


# -- augmented ------------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_epoch_and_index_alone(classes):
    data = Augmented(classes.torch("train"), policy=POLICY)
    backwards = {k: data[k] for k in reversed(range(24))}
    again = pickle.loads(pickle.dumps(data))
    assert all(same(again[k], backwards[k]) for k in range(24))
    data.set_epoch(2)
    assert all(same(data[k], backwards[16 + k]) for k in range(8))
    made = [bool(backwards[k]["synthetic"].any()) for k in range(24)]
    assert 6 <= sum(made) <= 18
    assert made[:8] != made[8:16]
    other = Augmented(classes.torch("train"), policy=POLICY, seed=5)
    assert not all(same(other[k], backwards[k]) for k in range(8))


def test_a_made_sample_is_the_draw_of_the_policy(classes):
    train = classes.split("train")
    data = Augmented(train.torch(), policy=POLICY, p=1, turns=False)
    for index in (0, 5, 8 + 3):
        item = train[index % 8]
        draw = draw_of(read_policy(POLICY), item, index // 8)
        cube = eoaug.corrupt(item.open(), **draw.parameters)
        for channel, name in enumerate(("red", "green", "blue")):
            scale, offset = cube[name].attrs["scale_factor"], cube[name].attrs["add_offset"]
            wanted = (cube[name].values * np.float64(scale) + offset).astype("float32")
            assert np.array_equal(data[index]["image"][channel].numpy(), wanted)
        assert np.array_equal(data[index]["synthetic"].numpy(), cube.synthetic.values)
        assert int(data[index]["label"]) == train.index_of(item.label)


def test_verbs_make_samples_too(classes):
    policy = {"draws": [{"verb": "synthesize", "strengths": [0.5]}]}
    data = Augmented(classes.torch("train"), policy=policy, generator="classical", p=1)
    sample = data[3]
    assert sample["image"].shape == (3, 16, 16)
    assert (sample["synthetic"] == 1).all()
    assert same(sample, data[3])


def test_turns_move_image_and_mask_together(tmp_path):
    train = pixels(tmp_path, "pixels")

    def marked(sample):
        return sample | {"image": sample["mask"][None].float()}

    real = train.torch()
    real.plain = lambda index: marked(Chips.plain(real, index))
    data = Augmented(real)
    turned = [data[k] for k in range(30)]
    assert all(torch.equal(s["image"][0], s["mask"].float()) for s in turned)
    assert len({s["mask"].numpy().tobytes() for s in turned}) == 12  # of 3 images, 4 ways each


@pytest.mark.parametrize(
    "change", [{"p": 2}, {"policy": {"draws": [{"verb": "extend"}]}}, {"policy": {"drws": []}}]
)
def test_what_cannot_be_done_is_refused(classes, change):
    with pytest.raises(EoaugError):
        Augmented(classes.torch("train"), **{"policy": POLICY, **change})


def test_corruptions_that_move_pixels_move_the_mask(tmp_path):
    train = pixels(tmp_path, "pixels")
    policy = {"draws": [{"verb": "corrupt", "parameters": {"kind": "translation", "severity": 3}}]}
    data = Augmented(train.torch(), policy=policy, p=1, turns=False)
    draw = draw_of(read_policy(policy), train[2], 0)
    given = train[2].open()
    for name in ("red", "green", "blue"):  # pictures have no number for missing pixels
        given[name] = (given[name] / np.float64(255)).astype("float32")
    cube = eoaug.corrupt(given, **draw.parameters)
    assert np.allclose(data[2]["image"][0].numpy(), cube.red.fillna(0), atol=1e-6)
    assert np.array_equal(data[2]["mask"].numpy(), cube.label.values)
    assert (data[2]["mask"] == 255).any()


def test_real_images_are_replaced_by_those_made_from_them(classes):
    real = classes.split("train")
    parents = [real[0], real[1], real[5], real[0]]
    items = [
        replace(item, id=f"made{k}", label=parent.label, made_from=((parent.id, parent.href)[k % 2],))
        for k, (item, parent) in enumerate(zip(classes.split("test"), parents[:2], strict=True))
    ] + [
        replace(item, id=f"more{k}", label=parents[2 + k].label, made_from=(parents[2 + k].href,))
        for k, item in enumerate(classes.split("validate"))
    ]
    made = replace(classes, items=tuple(items), classes=("River", "Forest"))
    data = Augmented(real.torch(), made, turns=False, p=0.5)
    chips, seen = made.torch(bands=data.real.bands), set()
    for k in range(128):
        sample, item = data[k], real[k % 8]
        assert data.real.classes[int(sample["label"])] == item.label
        if torch.equal(sample["image"], data.real[k % 8]["image"]):
            seen.add((item.id, "real"))
        else:
            same_image = [n for n in range(4) if torch.equal(chips[n]["image"], sample["image"])]
            seen.add((item.id, *same_image))
    assert seen == {(parent.id, n) for n, parent in enumerate(parents)} | {(item.id, "real") for item in real}
    unused = Augmented(real.torch(), made, verdict=SimpleNamespace(use=False, p=0.9), turns=False)
    assert all(same(unused[k], unused.real[k]) for k in range(8))
    with pytest.raises(EoaugError, match="none of the"):
        Augmented(real.torch(), real)
    with pytest.raises(EoaugError, match="either"):
        Augmented(real.torch(), made, policy=POLICY)


# -- loading --------------------------------------------------------------------------------------------


def batches(loader, epochs=2):
    return [batch for _ in range(epochs) for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_four_workers_and_a_resume_give_the_same_sequence(classes):
    data = Augmented(classes.torch("train"), policy=POLICY)
    wanted = batches(AugmentedLoader(data, batch_size=3))
    assert len(wanted) == 6
    workers = AugmentedLoader(data, batch_size=3, num_workers=4, persistent_workers=True)
    assert all(same(*pair) for pair in zip(wanted, batches(workers), strict=True))
    for stop in (2, 3, 4):
        loader, state = AugmentedLoader(data, batch_size=3, num_workers=1), {}
        given = []
        while len(given) < stop:
            for batch in loader:
                given.append(batch)
                if len(given) == stop:
                    state = loader.state_dict()
                    break
        resumed = AugmentedLoader(data, batch_size=3)
        resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
        given += batches(resumed, 1 if stop >= 3 else 2)
        assert len(given) == 6
        assert all(same(*pair) for pair in zip(wanted, given, strict=True))


def test_every_epoch_has_every_sample_in_its_own_order(classes):
    sampler = EpochSampler(range(100), seed=3)
    orders = [list(sampler) for _ in range(2) if sampler.set_epoch(_) is None]
    assert [sorted(order) for order in orders] == [list(range(100)), list(range(100, 200))]
    assert [k - 100 for k in orders[1]] != orders[0]
    with pytest.raises(EoaugError, match="sampler"):
        AugmentedLoader(range(4), sampler=sampler)
