"""Land by class: chips are read as the reflectance they stand for, and a stopped training goes on as if it had not."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from eoaug.datasets.eurosat import CLASSES, read_eurosat
from eoaug.errors import ParameterError, SourceError
from eoaug.generators.embedded.land_units import LandUnits, conditions
from eoaug.generators.embedded.networks import build
from eoaug.generators.weights import load_weights
from eoaug.training.land import LandChips, land_loss
from eoaug.training.pretrain import pretrain

UNIT = {"mean": [0.081, 0.095, 0.097], "std": [0.050, 0.052, 0.066]}
NETWORK = {
    "kind": "land",
    "bands": 3,
    "plain": 4,
    "maps": 15,
    "widths": [8, 8, 8],
    "embedding": 8,
    "refine": 8,
}
CONFIG = {
    **UNIT,
    "seed": 3,
    "land": {"context": 8},
    "stages": {
        "land": {
            "architecture": NETWORK, "noise": {"mean": 0.0, "std": 1.0}, "batch": 2, "lr": 1e-3,
            "weight_decay": 0.0, "ema": 0.9, "checkpoint_s": 1e9,
            "sheet_s": 1e9, "validated": 2, "pictures": {"columns": 2, "guidance": 1.5, "steps": 2},
        }
    },
}  # fmt: skip


def archive(path, chips, px=64):
    """Write chips (class, grey levels of red, green and blue) as a zip like EuroSAT's."""
    with zipfile.ZipFile(path, "w") as file:
        for number, (name, pixels) in enumerate(chips):
            image = np.broadcast_to(np.asarray(pixels, np.uint8), (px, px, 3))
            content = io.BytesIO()
            Image.fromarray(image).save(content, "JPEG", quality=95, subsampling=0)
            file.writestr(f"a/{name}/{name}_{number}.jpg", content.getvalue())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two textured chips per class for training, and one for validation."""
    root = tmp_path_factory.mktemp("chips")
    rng = np.random.default_rng(0)
    for split, each in (("train", 2), ("val", 1)):
        chips = [
            (name, rng.normal(60 + 10 * level, 5 + level, (64, 64, 1)).clip(1, 255) + np.array([0, 10, 20]))
            for level, name in enumerate(CLASSES)
            for _ in range(each)
        ]
        archive(root / f"eurosat_rgb_{split}.zip", chips)
    return root


@pytest.fixture
def train(folder, tmp_path):
    def _train(out, steps, **settings):
        config = CONFIG | {"stages": {"land": CONFIG["stages"]["land"] | {"steps": steps} | settings}}
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        return pretrain(tmp_path / "train.yaml", None, tmp_path / out, chips_dir=folder)

    return _train


def test_grey_levels_are_reflectance_in_the_order_blue_green_red(tmp_path):
    levels = [(255, 255, 255), (1, 1, 1), (0, 0, 0), (101, 51, 26)]
    chips = read_eurosat(archive(tmp_path / "a.zip", [("River", level) for level in levels]))
    found = chips.reflectance()[:, :, 32, 32]
    np.testing.assert_allclose(found[0], 0.275, atol=1e-6)
    np.testing.assert_allclose(found[1:3], 0, atol=0.0011)
    np.testing.assert_allclose(found[3], np.array([25, 50, 100]) * 2750 / 254 / 1e4, atol=0.0022)
    assert (chips.classes == CLASSES.index("River")).all()


def test_the_limit_is_per_class(folder):
    assert len(read_eurosat(folder / "eurosat_rgb_train.zip", limit=1)) == len(CLASSES)


@pytest.mark.parametrize(("chips", "px", "words"), [([], 64, "no JPEG"), ([("River", 9)], 32, "32 x 32")])
def test_another_archive_is_refused(tmp_path, chips, px, words):
    with pytest.raises(SourceError, match=words):
        read_eurosat(archive(tmp_path / "a.zip", chips, px=px))


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_text("no")
    with pytest.raises(SourceError, match="zip"):
        read_eurosat(tmp_path / "a.zip")


def test_units_are_standardised_by_class_and_come_back(folder):
    chips = read_eurosat(folder / "eurosat_rgb_train.zip")
    rng = np.random.default_rng(1)
    logs = (
        rng.normal(0, 1 + chips.classes[:, None, None, None], (len(chips), 3, 8, 8)) + 0.1 * chips.classes[0]
    )
    units = LandUnits.fit(logs, chips.classes, kept=4)
    found = units.to_units(logs, chips.classes[:, None, None])
    for number in range(len(CLASSES)):
        own = found[chips.classes == number]
        np.testing.assert_allclose(own.mean(axis=(0, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(own[:, 0].std(), 1, atol=1e-5)
    np.testing.assert_allclose(units.from_units(found, chips.classes[:, None, None]), logs, atol=1e-4)
    # A map of classes means the same, pixel by pixel.
    maps = np.broadcast_to(chips.classes[:, None, None], (len(chips), 8, 8))
    np.testing.assert_array_equal(units.to_units(logs, maps), found)


def test_units_survive_their_file(folder):
    chips = LandChips.of(read_eurosat(folder / "eurosat_rgb_train.zip"), **UNIT)
    again = LandUnits.of_tensors(chips.statistics.tensors())
    np.testing.assert_allclose(again.mean, chips.statistics.mean, rtol=1e-6)
    assert again.tones.shape == (len(CLASSES), 256, 4)


def test_chips_may_be_halved_again(folder):
    chips = read_eurosat(folder / "eurosat_rgb_val.zip")
    once, twice = (LandChips.of(chips, halvings=number, **UNIT) for number in (1, 2))
    assert once.units.shape == (len(chips), 3, 32, 32)
    assert twice.units.shape == (len(chips), 3, 16, 16)
    # Noise of single pixels averages out, the means of the classes stay.
    assert (twice.statistics.unit <= once.statistics.unit + 1e-9).all()
    np.testing.assert_allclose(twice.statistics.mean, once.statistics.mean, atol=0.03)


def test_what_is_unknown_does_not_enter_the_conditions():
    rng = np.random.default_rng(0)
    known = rng.random((8, 8)) < 0.5
    values = rng.normal(size=(3, 8, 8)).astype(np.float32)
    other = np.where(known, values, 9).astype(np.float32)
    classes, tone = np.zeros((10, 8, 8), np.float32), rng.normal(size=(4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        conditions(classes, tone, values, known), conditions(classes, tone, other, known)
    )
    assert not conditions(classes, None, values, known)[-5:].any()


def test_samples_have_one_class_per_cell_and_weigh_what_is_drawn(folder):
    chips = LandChips.of(read_eurosat(folder / "eurosat_rgb_train.zip"), **UNIT)
    rng = np.random.default_rng(0)
    samples = [chips.draw(rng, context=8) for _ in range(60)]
    kinds, two, untold = set(), 0, 0
    for sample in samples:
        values, known, classes = np.split(sample["image"], [3, 4])
        shares = classes[: len(CLASSES)].sum(axis=0)
        assert np.unique(shares).tolist() in ([0.0], [1.0])
        two += len(np.unique(classes[: len(CLASSES)].argmax(axis=0))) > 1
        untold += not shares.any()
        np.testing.assert_array_equal(sample["weight"], 1 - known)
        np.testing.assert_array_equal(values, np.where(known > 0, sample["x"], 0))
        kinds.add(float(known.mean()))
    assert kinds == {0.0, 0.5, 0.75}
    assert two > 0
    assert untold > 0


def test_an_untrained_network_gives_the_expected_value_of_white_data():
    network = build(NETWORK)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.9])
    expected = (t / (t**2 + (1 - t) ** 2))[:, None, None, None] * x
    torch.testing.assert_close(network(x, t, torch.randn(2, 19, 16, 16)), expected)
    # Its loss on white data is 1 at every noise level.
    clean = torch.randn(2, 3, 64, 64)
    for level in (0.02, 0.5, 0.98):
        t = torch.full((2,), level)
        batch = {"x": clean, "t": t, "image": torch.randn(2, 19, 64, 64), "weight": torch.ones(2, 1, 64, 64)}
        batch["x_t"] = level * clean + (1 - level) * torch.randn(2, 3, 64, 64)
        assert float(land_loss(network, batch).detach()) == pytest.approx(1, abs=0.05)


def test_a_stopped_training_goes_on_as_if_it_had_not(train):
    train("stopped", 2)
    assert train("stopped", 4) == train("through", 4)


def test_a_training_leaves_weights_units_losses_and_numbered_sheets(train, tmp_path):
    train("out", 3, sheet_s=0)
    weights = load_weights(tmp_path / "out" / "land.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in weights.values())
    assert load_weights(tmp_path / "out" / "land_units.safetensors")["mean"].shape == (10, 3)
    (row,) = map(json.loads, (tmp_path / "out" / "land.log.jsonl").read_text().splitlines())
    assert row["step"] == 3
    assert 0.1 < row["validation"] < 10
    with Image.open(tmp_path / "out" / "land.3.png") as sheet:
        assert sheet.size == (2 * 2 * 34, 2 * 10 * 34)


def test_chips_are_needed(tmp_path):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(ParameterError, match="EuroSAT"):
        pretrain(tmp_path / "train.yaml", None, tmp_path / "out")
