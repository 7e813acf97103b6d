"""torchgeo and Lightning: datasets of both are training sets, scenes are rows, and training resumes where it was."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import eoaug
from eoaug.augmentation.training_set import training_set
from eoaug.corruptions.arrays import corrupt_image
from eoaug.errors import EoaugError
from eoaug.testing import scene
from tests.test_training_sets import raster

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that torchgeo and Lightning import
RNG = np.random.default_rng(6)
HAZE = {"draws": [{"verb": "corrupt", "parameters": {"kind": "haze"}, "strengths": [1, 2]}], "seed": 2}


# -- Lightning ------------------------------------------------------------------------------------------


def small_set(tmp_path):
    splits = {}
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(8):
            splits[f"{name}{number}"] = "train" if number < 6 else ("val", "test")[number - 6]
            values = RNG.integers(20, 200, (8, 8, 3)).astype("uint8")
            Image.fromarray(values).save(tmp_path / "set" / name / f"{name}{number}.png")
    return training_set(tmp_path / "set", split=splits)


def tiny_module():
    from lightning.pytorch import LightningModule

    class Tiny(LightningModule):
        """A linear layer that notes what it saw."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)
            self.seen, self.checked = [], []

        def _loss(self, batch):
            return torch.nn.functional.cross_entropy(
                self.layer(batch["image"].mean((-2, -1))), batch["label"]
            )

        def training_step(self, batch, _):
            self.seen.append({name: layer.clone() for name, layer in batch.items()})
            return self._loss(batch)

        def validation_step(self, batch, _):
            self.checked.append(batch)

        test_step = validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Tiny()


def fit(data, tmp_path, *, resume=None):
    """Fit three epochs, with a checkpoint after every batch."""
    from lightning.pytorch import Callback, Trainer

    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    model = tiny_module()
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0,
        callbacks=[] if resume else [Save()],
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=resume)
    return trainer, model


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in ("image", "label")
    )


@pytest.mark.slow  # importing Lightning takes ten seconds
def test_lightning_trains_on_made_images_tests_on_real_ones_and_resumes_within_an_epoch(tmp_path):
    from eoaug.torch import AugmentedDataModule

    train = small_set(tmp_path)

    def module(workers=0):
        return AugmentedDataModule(train, policy=HAZE, batch_size=5, num_workers=workers)

    trainer, model = fit(module(), tmp_path)
    assert len(model.seen) == 9
    assert any((batch["synthetic"] > 0).any() for batch in model.seen)
    assert not same(model.seen[:3], model.seen[3:6])
    trainer.test(model, module(), verbose=False)
    assert len(model.checked) == 4
    assert not any((batch["synthetic"] > 0).any() for batch in model.checked)
    for done in (1, 4, 6):  # within the first and the second epoch, and at the end of that
        _, after = fit(module(workers=done % 2), tmp_path, resume=tmp_path / f"{done}.ckpt")
        assert same(after.seen, model.seen[done:])


# -- torchgeo -------------------------------------------------------------------------------------------


def trained(data, task, tmp_path):
    """Fit two epochs on what a training set of torchgeo gives; return the losses."""
    from lightning.pytorch import Trainer

    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, data)
    assert trainer.global_step == 2 * len(data.train_dataloader())
    return trainer


@pytest.mark.long
def test_two_epochs_on_the_eurosat_of_torchgeo(tmp_path, eoaug_data):
    from torchgeo.datasets import EuroSAT
    from torchgeo.tasks import Classification

    from eoaug.torch import AugmentedDataModule

    home = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    with zipfile.ZipFile(eoaug_data / "eurosat/eurosat_ms_train.zip") as archive:
        by_class: dict[str, list[str]] = {}
        for name in archive.namelist():
            by_class.setdefault(name.split("/")[0], []).append(name)
        chosen = {
            split: [n[k] for n in by_class.values()] for k, split in enumerate(("train", "val", "test"))
        }
        for split, names in chosen.items():
            archive.extractall(home, names)
            listed = [name.split("/")[1].replace(".tif", ".jpg") for name in names]
            (tmp_path / f"eurosat-{split}.txt").write_text("\n".join(listed))
    parts = [training_set(EuroSAT(str(tmp_path), split=split)) for split in ("train", "val")]
    train = parts[0].__class__(
        tuple(item for part in parts for item in part), "classes", "class", parts[0].classes
    )
    data = AugmentedDataModule(train, policy=HAZE, batch_size=8)
    trained(data, Classification("resnet18", weights=None, in_channels=13, num_classes=10), tmp_path)


@pytest.mark.long
def test_two_epochs_on_a_raster_dataset(tmp_path):
    from torchgeo.datasets import RasterDataset
    from torchgeo.tasks import SemanticSegmentation

    from eoaug.torch import AugmentedDataModule

    raster(tmp_path / "img/img_20200601.tif", RNG.integers(1, 9000, (3, 130, 200)).astype("uint16"))
    raster(tmp_path / "msk/msk_20200601.tif", RNG.integers(0, 3, (1, 130, 200)).astype("uint8"))

    class Images(RasterDataset):
        filename_glob, filename_regex, all_bands = "img*.tif", r"img_(?P<date>\d{8})", ("B02", "B03", "B04")

    class Masks(RasterDataset):
        filename_glob, filename_regex, is_image = "msk*.tif", r"msk_(?P<date>\d{8})", False

    both = Images(str(tmp_path / "img")) & Masks(str(tmp_path / "msk"))
    train = training_set(both, task="pixels", size_px=32, classes=["a", "b", "c"], scale=1e-4)
    splits = {item.id: "val" if k % 4 == 0 else "train" for k, item in enumerate(train)}
    data = AugmentedDataModule(train.with_splits(splits), policy=HAZE, batch_size=4)
    task = SemanticSegmentation(
        "unet", "resnet18", weights=None, in_channels=3, num_classes=3, ignore_index=255
    )
    trained(data, task, tmp_path)


@pytest.mark.long
def test_two_epochs_on_a_change_dataset(tmp_path):
    from torchgeo.datasets import LEVIRCD
    from torchgeo.tasks import ChangeDetection

    from eoaug.torch import AugmentedDataModule

    for folder in ("A", "B", "label"):
        (tmp_path / folder).mkdir()
        for split in ("train", "val"):
            for number in range(4):
                values = RNG.integers(0, 255, (64, 64, 3)).astype("uint8")
                image = Image.fromarray(
                    values if folder != "label" else (values[..., 0] > 200).astype("uint8") * 255
                )
                image.save(tmp_path / folder / f"{split}_{number}.png")
    sets = [
        training_set(
            LEVIRCD(str(tmp_path), split=split, checksum=False), task="change", split=split,
            classes=["no_change", "change"], bands=["red", "green", "blue"], scale=1 / 255,
        )
        for split in ("train", "val")
    ]  # fmt: skip
    items = [(f"{name}-{item.id}", item) for name, part in zip("tv", sets, strict=True) for item in part]
    train = sets[0].__class__(
        tuple(item.__class__(**{**vars(item), "id": name}) for name, item in items),
        "change",
        "mask",
        sets[0].classes,
    )
    data = AugmentedDataModule(train, policy=HAZE, batch_size=2)
    sample = next(iter(data._plain("validate")))
    assert sample["image"].shape == (2, 2, 3, 64, 64)
    assert set(sample["mask"].unique().tolist()) == {0, 1}
    trained(data, ChangeDetection("fcsiamdiff", "resnet18", weights=None, in_channels=3), tmp_path)


# -- scenes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """Three members of two dates with a label, as files per member and as one group."""
    root = tmp_path_factory.mktemp("scenes")
    ds = scene((40, 48), dates=2)
    own = {
        "flag_values": np.arange(3, dtype="uint8"),
        "flag_meanings": "a b c",
        "grid_mapping": "spatial_ref",
    }
    ds["lc"] = (("y", "x"), RNG.integers(0, 3, (40, 48)).astype("uint8"), own)
    made = eoaug.synthesize(ds, strength=0.3, generator="classical", members=3)
    eoaug.write(made, root, collection="cog")
    eoaug.write(made, root, collection="zarr", format="zarr")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("collection", ["cog", "zarr"])
def test_scenes_have_the_reflectance_of_open_cube_and_a_row_per_member(ensembles, collection):
    from eoaug.torch import Scenes

    scenes = Scenes(ensembles, collections=[collection], rows="all", missing=np.nan)
    cube = eoaug.open_cube(ensembles, collections=[collection], chunks=None)
    assert len(scenes) == 6
    assert sorted(set(scenes.index["member"])) == [0, 1, 2]
    sample = scenes[:, :, :]
    assert sample["image"].shape == (6, 4, 40, 48)
    for number, (date, member) in enumerate(
        zip(scenes.index.index.left, scenes.index["member"], strict=True)
    ):
        own = cube.sel(time=date, member=int(member))
        for channel, name in enumerate(scenes.form.bands):
            assert np.array_equal(sample["image"][number, channel].numpy(), own[name].values, equal_nan=True)
        assert np.array_equal(sample["mask"][number].numpy(), np.asarray(own["lc"].values).squeeze())
    assert (sample["synthetic"] == 1).all()


@pytest.mark.slow
def test_scenes_are_what_samplers_ask_for(ensembles):
    from torch.utils.data import DataLoader
    from torchgeo.samplers import GriddedPatchSampler, RandomPatchSampler

    from eoaug.torch import Scenes

    scenes = Scenes(ensembles, collections=["zarr"])
    whole = Scenes(ensembles, collections=["zarr"], rows="all")[:, :, :]["image"]
    seen = set()
    for query in [
        *GriddedPatchSampler(scenes, size=16),
        *RandomPatchSampler(scenes, size=8, length=40, generator=1),
    ]:
        sample = scenes[query]
        size = sample["image"].shape[-1]
        left = round((query[0].start - scenes.bounds[0].start) / 10)
        top = round((scenes.bounds[1].stop - query[1].stop) / 10)
        if left < 0 or top < 0 or left + size > 48 or top + size > 40:
            assert (sample["synthetic"] == 255).any()
            continue
        wanted = whole[..., top : top + size, left : left + size]
        rows = [k for k in range(6) if torch.equal(wanted[k], sample["image"])]
        assert len(rows) == 1
        seen.add(rows[0])
        assert torch.equal(scenes[query]["image"], sample["image"])
    assert len(seen) == 6
    loader = DataLoader(
        scenes, sampler=RandomPatchSampler(scenes, size=8, length=6, generator=1), batch_size=3, num_workers=2
    )
    assert [batch["image"].shape for batch in loader] == [(3, 4, 8, 8)] * 2
    assert len(scenes & Scenes(ensembles, collections=["cog"])) == 18  # of each of two dates
    with pytest.raises(IndexError):
        scenes[0:5, 0:5]
    with pytest.raises(EoaugError, match="res="):
        scenes[slice(500120, 500280, 5)]


# -- corruptions of tensors -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian_noise", "haze", "clouds", "gaussian_blur", "data_gaps"])
def test_corrupt_is_the_corruption_of_a_cube_without_a_place(kind):
    from kornia.augmentation import AugmentationSequential

    from eoaug.torch import Corrupt

    bands = ["blue", "green", "red", "nir"]
    images = torch.rand(3, 4, 20, 24) * 0.4
    transform = Corrupt(kind, bands, severity=4, seed=9, p=1)
    made = transform(images)
    for image, after in zip(images, made, strict=True):
        cube = scene((20, 24), dates=1)[bands].isel(time=0, drop=True)
        plain = corrupt_image(image.numpy(), bands, kind, 4, seed=9)
        assert np.array_equal(after.numpy(), plain, equal_nan=True)
        del cube
    torch.manual_seed(4)
    some = AugmentationSequential(Corrupt(kind, bands, severity=[1, 5], p=0.5), data_keys=None)
    batch = {"image": images.repeat(6, 1, 1, 1), "mask": torch.ones(18, 1, 20, 24)}
    first = some(batch)
    changed = [(a != b).any().item() for a, b in zip(first["image"], batch["image"], strict=True)]
    assert 2 < sum(changed) < 16
    assert torch.equal(first["mask"], batch["mask"])
    torch.manual_seed(4)
    assert np.array_equal(some(batch)["image"].numpy(), first["image"].numpy(), equal_nan=True)
    with pytest.raises(EoaugError):
        Corrupt("rotation", bands)
