"""Do made images help to classify EuroSAT? Classical augmentations against variations and corruptions, with intervals.

Prepare two folders with a folder per class, whose places lie apart: the images to learn from, and those to test on.

    python examples/eurosat/experiment.py --train eurosat/train --test eurosat/test --out runs/eurosat

An interrupted run goes on where it ended. ``--page examples/eurosat`` writes README.md and pictures from the trials that are
complete, at any time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import eoaug
from eoaug.augmentation.training_items import TrainingItem
from eoaug.datasets.eurosat import top_of_atmosphere
from eoaug.storage.atomic import atomic_write
from eoaug.torch.augmented import children_of, made_before
from eoaug.torch.chips import Chips
from eoaug.trials.arms import Arm, SampleOrder
from eoaug.trials.images import ImageArrays, band_scale, image_arrays
from eoaug.trials.trial import TrialOptions, logits_of, train_network

SEVERITY = 3
"""Of the corruptions that networks are tested on."""
SEEN = ("gaussian_noise", "gaussian_blur", "brightness_contrast", "haze")
"""Corruptions of which images to learn from are made, too."""
UNSEEN = ("salt_and_pepper", "motion_blur", "clouds", "compression")
DRAWN = "drawn by class"
MADE: dict[str, list[dict[str, Any]]] = {
    "corruptions": [
        {"verb": "corrupt", "parameters": {"kind": kind}, "strengths": [1, 2, 3]} for kind in SEEN
    ],
    "variations": [{"verb": "synthesize", "strengths": [0.3, 0.5]}],
    DRAWN: [{"verb": "synthesize", "parameters": {"strength": 1.0}, "prompt": "{{ class }}"}],
}
"""Ways to make images, and the draws of their policies."""
PER_REAL = {"corruptions": 2, "variations": 2, DRAWN: 6}
"""Images made per real one."""


@dataclass(frozen=True)
class Recipe:
    """A row of the table: an augmentation, and from which made images a share p comes."""

    name: str
    augmentation: str
    made: tuple[str, ...] = ()
    p: float = 0.0


RECIPES = (
    Recipe("resize only", "none"),
    Recipe("basic", "basic"),
    Recipe("advanced", "advanced"),
    Recipe("RandAugment", "randaugment"),
    Recipe("advanced + corruptions", "advanced", ("corruptions",), 0.5),
    Recipe("advanced + variations", "advanced", ("variations",), 0.5),
    Recipe("advanced + both", "advanced", ("corruptions", "variations"), 0.5),
    Recipe("variations only", "advanced", ("variations",), 1.0),
    Recipe("resize + drawn", "none", (DRAWN,), 0.5),
    Recipe("advanced + drawn", "advanced", (DRAWN,), 0.5),
    Recipe("drawn only", "advanced", (DRAWN,), 1.0),
)


def arguments() -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, help="folder of class folders to learn from")
    parser.add_argument("--test", type=Path, help="folder of class folders of other places")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--per-class", type=int, nargs="+", default=[16, 64, 256, 0], help="images; 0: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument(
        "--kept-back", type=int, default=50, help="images a class of --train that choose a mixture"
    )
    parser.add_argument(
        "--corrupted", type=int, default=50, help="images a class of --test that are corrupted"
    )
    parser.add_argument("--page", type=Path, help="folder for README.md and pictures; nothing is trained")
    return parser.parse_args()


# -- images -------------------------------------------------------------------------------------------


def first_by_hash(items: Sequence[TrainingItem], count: int, salt: str) -> list[TrainingItem]:
    """Return so many items of every class (0: all) in an order that depends on salt and id; a longer list begins with a shorter."""
    chosen: dict[str | None, list[TrainingItem]] = {}
    for item in sorted(items, key=lambda one: hashlib.sha256(f"{salt}\n{one.id}".encode()).digest()):
        own = chosen.setdefault(item.label, [])
        if not count or len(own) < count:
            own.append(item)
    return sorted((item for own in chosen.values() for item in own), key=lambda one: one.id)


MadeImages = tuple[ImageArrays, dict[int, list[int]]]
"""Made images, and their numbers by that of the real one."""


def joined(parts: Sequence[MadeImages], real: ImageArrays) -> MadeImages:
    """Return several sets of made images as one; of none, some array into which no arm looks."""
    if not parts:
        return real, {}
    children: dict[int, list[int]] = {}
    begin = 0
    for arrays, numbers in parts:
        for number, found in numbers.items():
            children.setdefault(number, []).extend(begin + one for one in found)
        begin += len(arrays)
    images = np.concatenate([arrays.images for arrays, _ in parts])
    return ImageArrays(images, np.concatenate([arrays.targets for arrays, _ in parts])), children


def by_size(per_class: int) -> int:
    """Sort sizes: 0, all images, is the largest."""
    return per_class or 10**9


class Images:
    """All images of a run, on disk as arrays; each is made or read once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out: Path = options.out
        self.options = options
        whole = eoaug.training_set(options.train)
        kept_back = first_by_hash(whole.items, options.kept_back, "validate")
        ids = {item.id for item in kept_back}
        self.pool = replace(whole, items=tuple(replace(i, split="train") for i in whole if i.id not in ids))
        used = {
            int(n)
            for size in options.per_class
            for seed in range(options.seeds)
            for n in self.chosen(size, seed)
        }
        # Numbers are those of the images that any trial sees.
        self.pool = replace(self.pool, items=tuple(self.pool[number] for number in sorted(used)))
        self.real = Chips(self.pool)
        self.scale = band_scale(Chips(replace(whole, items=tuple(kept_back))))
        self.validate = self.arrays("validate", Chips(replace(whole, items=tuple(kept_back))))
        test = eoaug.training_set(options.test)
        self.test = self.arrays("test", Chips(test, bands=self.real.bands))
        some = first_by_hash(test.items, options.corrupted, "corrupted")
        self.clean = self.arrays("test-some", Chips(replace(test, items=tuple(some)), bands=self.real.bands))
        seen = hashlib.sha256("\n".join(item.id for item in self.pool).encode()).hexdigest()[:12]
        self.train = self.arrays(f"train-{seen}", self.real)
        (self.out / "arrays" / f"train-{seen}.json").write_text(json.dumps([item.id for item in self.pool]))

    def arrays(self, name: str, chips: Chips) -> ImageArrays:
        """Return images as arrays."""
        from eoaug.progress import track

        with track(len(chips), what=name, unit="image", progress=None) as counter:
            return image_arrays(chips, self.scale, self.out / "arrays" / name, counter)

    def chosen(self, per_class: int, seed: int) -> NDArray[np.int64]:
        """Return the numbers of the real images of a size and a seed."""
        own = {item.id for item in first_by_hash(self.pool.items, per_class, f"seed {seed}")}
        return np.array([number for number, item in enumerate(self.pool) if item.id in own])

    def made(self, kind: str, per_class: int, seed: int) -> MadeImages:
        """Return made images of one kind; a larger set holds those of the smaller ones, which are made once."""
        before: set[int] = set()
        parts = []
        for size in sorted(self.options.per_class, key=by_size):
            if by_size(size) <= by_size(per_class):
                own = sorted(set(self.chosen(size, seed).tolist()) - before)
                before.update(own)
                parts.append(self._made_of(kind, f"{size or 'all'}-{seed}", own))
        return joined(parts, self.train)

    def _made_of(self, kind: str, name: str, own: Sequence[int]) -> MadeImages:
        catalog = self.out / "made" / kind.replace(" ", "-") / name
        real = replace(self.pool, items=tuple(self.pool[number] for number in own))
        folder = self.out / "arrays" / f"{kind.replace(' ', '-')}-{name}"
        index = folder.with_name(f"{folder.name}.json")
        ids = [self.pool[number].id for number in own]
        if not index.is_file():
            policy = {"per_real": PER_REAL[kind], "balance": 0, "draws": MADE[kind]}
            report = eoaug.augment(real, catalog, policy=policy, generator="embedded")
            if report.failures:
                raise SystemExit(str(report))
            chips = made_before(str(catalog), Chips(real, bands=self.real.bands))
            self.arrays(folder.name, chips)
            if kind == DRAWN:
                self._through_air(folder / "images.npy")
            of_part = children_of(real, chips.source)
            index.write_text(json.dumps({ids[part]: found for part, found in of_part.items()}))
        arrays = ImageArrays(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "targets.npy"))
        by_id = json.loads(index.read_text())
        return arrays, {number: by_id[name] for number, name in zip(own, ids, strict=True) if name in by_id}

    def _through_air(self, path: Path) -> None:
        """Turn drawn land, reflectance at the surface, into what the chips are: reflectance at the top of the atmosphere."""
        mean, std = self.scale.mean[:, None, None], self.scale.std[:, None, None]
        images = np.load(path)
        physical = images.astype(np.float32) * std + mean
        seen = (top_of_atmosphere(physical, self.real.bands) - mean) / std
        with atomic_write(path, overwrite=True) as scratch, scratch.open("wb") as file:
            np.save(file, seen.astype(images.dtype))

    def corrupted(self, kind: str) -> ImageArrays:
        """Return the corrupted test images of a kind."""
        from eoaug.corruptions.arrays import corrupt_image

        path = self.out / "arrays" / f"test-{kind}.npy"
        if not path.is_file():
            mean, std = self.scale.mean[:, None, None], self.scale.std[:, None, None]
            images = np.empty_like(self.clean.images)
            for number, image in enumerate(self.clean.images):
                physical = np.asarray(image, np.float32) * std + mean
                changed = corrupt_image(physical, self.real.bands, kind, SEVERITY, seed=number)
                images[number] = (changed - mean) / std
            with atomic_write(path, overwrite=True) as scratch, scratch.open("wb") as file:
                np.save(file, images)
        return ImageArrays(np.load(path, mmap_mode="r"), self.clean.targets)


# -- trials -------------------------------------------------------------------------------------------


def cells(options: argparse.Namespace) -> Iterator[tuple[int, int, Recipe]]:
    """Yield size, seed and recipe of every trial; small sizes come first."""
    for per_class in sorted(options.per_class, key=by_size):
        for seed in range(options.seeds):
            for recipe in RECIPES:
                yield per_class, seed, recipe


def path_of(options: argparse.Namespace, per_class: int, seed: int, recipe: Recipe) -> Path:
    """Return the file of a trial."""
    name = f"{per_class or 'all'}-{seed}-{recipe.name.replace(' ', '_').replace('+', 'and')}.npz"
    return Path(options.out / "trials" / f"{options.updates}" / name)


def run(options: argparse.Namespace) -> None:
    """Run the trials that are not there yet."""
    missing = [cell for cell in cells(options) if not path_of(options, *cell).is_file()]
    if not missing:
        return
    images = Images(options)
    trial_options = TrialOptions(
        model="small", updates=options.updates, batch=32, classes=len(images.pool.classes), pixels=False
    )
    for per_class, seed, recipe in missing:
        arrays, children = joined([images.made(kind, per_class, seed) for kind in recipe.made], images.train)
        order = SampleOrder(
            Arm(recipe.augmentation, recipe.p), seed, images.chosen(per_class, seed), children
        )
        network, counts = train_network(order, images.train, arrays, trial_options)
        found = {
            "validate": top_three(network, images.validate)[:, 0] == images.validate.targets,
            "test": top_three(network, images.test),
            "true": images.test.targets,
            "clean": top_three(network, images.clean)[:, 0] == images.clean.targets,
        }
        for kind in (*SEEN, *UNSEEN):
            found[kind] = top_three(network, images.corrupted(kind))[:, 0] == images.clean.targets
        path = path_of(options, per_class, seed, recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, overwrite=True) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, **found, **{name: np.asarray(value) for name, value in counts.items()})
        print(
            per_class or "all",
            seed,
            recipe.name,
            f"{np.mean(found['test'][:, 0] == found['true']):.3f}",
            flush=True,
        )


def top_three(network: Any, arrays: ImageArrays) -> NDArray[np.uint8]:
    """Return the three most probable classes of every image, (N, 3)."""
    from eoaug.generators.runtime import one_thread

    with one_thread():
        found = [logits.topk(3, dim=1).indices.numpy() for _, logits in logits_of(network, arrays)]
    return np.concatenate(found).astype(np.uint8)


if __name__ == "__main__":
    given = arguments()
    if given.page is None:
        run(given)
    else:
        from page import write_page

        write_page(given, RECIPES, path_of)
