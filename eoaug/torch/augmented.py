"""`Augmented`: samples that are real, or made from real ones, as a function of seed, epoch and index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from eoaug.augmentation.drawn_images import OpenedDraw
from eoaug.augmentation.policy import Draw, Policy, draw_of, read_policy
from eoaug.augmentation.selected import kept_of
from eoaug.augmentation.training_items import TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.augmentation.verdict import read_verdict
from eoaug.corruptions.corrupt import corrupt, corrupted_arrays
from eoaug.corruptions.kinds import KINDS
from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError, error_context
from eoaug.generators.base import Generator
from eoaug.generators.registry import load
from eoaug.torch.chips import Chips
from eoaug.torch.samples import Sample
from eoaug.verbs.planning import VERBS

__all__ = ["Augmented", "children_of", "choices", "made_before", "opened_made"]

_TURNS = 8
"""Quarter turns and their mirror images."""


class Augmented(Dataset[Sample]):
    """A training set without end, in which samples are replaced by images made from them.

    Parameters
    ----------
    real
        The real images, e.g. ``train.torch("train")``.
    made
        Images made before, which `eoaug.augment` or a job has written: a catalog, a training set, or `Chips`. A real image is
        replaced by one of those that were made from it. Of a catalog in which `eoaug.select` was run, those that it keeps.
    policy
        What to make while training, as for `eoaug.augment`: a policy, a mapping or a YAML file. In epoch e, an image that is
        chosen gets draw e of the policy, the one that `augment` makes as its draw e. How many are made, and which are kept,
        does not apply. Without ``made`` and ``policy``, images are turned only.
    generator
        Of the verbs of the policy; not needed for corruptions.
    p
        Share of the images that are replaced; default .5 (DA-Fusion, arXiv 2302.07944).
    verdict
        In place of ``p``, what `eoaug.gate` found: a `Verdict`, or the address of its ``verdict.json``. Nothing is replaced
        where it says not to use the images.
    seed
        Of all choices, and of the draws. Default: the policy's, else 0.
    turns
        Turn and mirror every image, real or not, at random.

    Notes
    -----
    ``data[k]`` for any k >= 0 is sample ``k % len(real)`` of epoch ``k // len(real)``, and depends on (seed, epoch, index)
    alone: any number of workers gives the same samples, and training resumes in the middle of an epoch. `AugmentedLoader`
    draws such indices; with another loader, call `set_epoch`.
    """

    def __init__(
        self,
        real: Chips,
        made: Any = None,
        *,
        policy: Policy | Mapping[str, Any] | str | None = None,
        generator: Generator | str | None = None,
        p: float = 0.5,
        verdict: Any = None,
        seed: int | None = None,
        turns: bool = True,
    ) -> None:
        if not 0 <= p <= 1:
            raise ParameterError(f"p={p!r} is no probability", "use a number from 0 to 1")
        if made is not None and policy is not None:
            raise ParameterError("images are either made before or while training", "give made or policy=")
        self.real = real
        self.policy = None if policy is None else _checked(policy, seed)
        self.generator = None if self.policy is None else _loaded(generator, self.policy)
        self.made = None if made is None else made_before(made, real)
        self._children = {} if self.made is None else children_of(real.source, self.made.source)
        use, share = (True, p) if verdict is None else read_verdict(verdict)
        share = share if use else 0.0
        self.p = 0.0 if self.policy is None and self.made is None else share
        self.seed = (seed or 0) if self.policy is None else self.policy.seed
        self.turns = turns
        # In shared memory, so that workers that live on see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.real)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of ``data[0]``."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"sample {index}: an index begins at 0, and has no end")
        epoch, number = divmod(index, len(self))
        epoch += int(self._epoch)
        chosen, which, turn = choices(self.seed, epoch, number)
        sample = self._replaced(number, epoch, which) if chosen < self.p else self.real.plain(number)
        if self.turns:
            sample = _turned(sample, turn)
        return sample if self.real.transforms is None else self.real.transforms(sample)

    def _replaced(self, number: int, epoch: int, which: int) -> Sample:
        item = self.real.item(number)
        if self.policy is not None:
            draw = draw_of(self.policy, item, epoch)
            with error_context(f"draw {draw.number} of item {item.id!r}"):
                return self._drawn(number, draw)
        children = self._children.get(number, ())
        if self.made is None or not children:  # all of its images were dropped
            return self.real.plain(number)
        return self.made.plain(children[which % len(children)])

    def _drawn(self, number: int, draw: Draw) -> Sample:
        item, form = self.real.item(number), self.real.form
        # Threads of dask do not survive a fork.
        one = OpenedDraw(item, draw, item.open().load(scheduler="synchronous"))
        ds, how = one.cube(), one.arguments()
        if draw.verb == "corrupt" and KINDS[how["kind"]].group != "moving":
            how = {name: value for name, value in how.items() if name not in ("labels", "pair")}
            cube = read_cube(ds)
            return form.sample(cube, self.real.number(item), corrupted_arrays(cube, **how))
        if draw.verb == "corrupt":
            made = corrupt(ds, **how)
        else:
            made = VERBS[draw.verb](ds, generator=self.generator, progress=False, **how)
        return form.sample(read_cube(made.load()), self.real.number(item))


def made_before(made: Any, real: Chips) -> Chips:
    """Return images that were made before, with the bands and classes of the real ones."""
    if isinstance(made, Chips):
        return made
    own = real.source
    found = made if isinstance(made, TrainingSet) else opened_made(made, own)
    unknown = set(found.classes) - set(own.classes)
    if unknown:
        raise ParameterError(
            f"the made images have the class {min(unknown)!r}, and the real ones {', '.join(own.classes)}",
            "give the images that were made from this training set",
        )
    return Chips(replace(found, classes=own.classes), bands=real.bands, missing=real.form.missing)


def opened_made(source: Any, real: TrainingSet) -> TrainingSet:
    """Return the made images of a catalog; those that its selection keeps, where `eoaug.select` has written one."""
    return kept_of(training_set(source, real.label, task=real.task), source)


def children_of(real: TrainingSet, made: TrainingSet) -> dict[int, list[int]]:
    """Return the indices of the made images by index of the real one that they were made from.

    Raises
    ------
    ParameterError
        No image was made from a real one of these.
    """
    numbers: dict[str, int] = {}
    for number, item in enumerate(real):
        numbers |= {item.id: number, _address(item.href): number}
    numbers.pop("", None)
    children: dict[int, list[int]] = {}
    for index, item in enumerate(made):
        # A source may be named by its id and by its address.
        parents = (numbers.get(source, numbers.get(_address(source))) for source in item.made_from)
        for parent in sorted({one for one in parents if one is not None}):
            children.setdefault(parent, []).append(index)
    if not children:
        raise ParameterError(
            f"none of the {len(made)} made images was made from one of the {len(real)} real ones",
            "give the split that was augmented, e.g. train.torch('train')",
        )
    return children


def _address(href: str) -> str:
    return href if "://" in href or not href else Path(href).absolute().as_posix()


def _checked(policy: Policy | Mapping[str, Any] | str, seed: int | None) -> Policy:
    read = read_policy(policy)
    if seed is not None:
        read = read.model_copy(update={"seed": seed})
    for draw in read.draws:
        if draw.verb in ("super_resolve", "extend"):
            raise ParameterError(
                f"{draw.verb} makes another grid or other dates, and a batch has one size",
                "leave it to eoaug.augment, or remove it from the policy",
            )
    return read


def _loaded(generator: Generator | str | None, policy: Policy) -> Generator | None:
    if all(draw.verb == "corrupt" for draw in policy.draws):
        return None
    return load(generator or "embedded") if isinstance(generator, str | None) else generator


def choices(seed: int, epoch: int, number: int) -> tuple[float, int, int]:
    """Return a number in [0, 1), a whole number and one of the turns, from seed, epoch and index alone."""
    digest = hashlib.sha256(f"eoaug choice 1|{seed}|{epoch}|{number}".encode()).digest()
    share = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    return share, int.from_bytes(digest[9:17], "big"), digest[8] % _TURNS


def _turned(sample: Sample, turn: int) -> Sample:
    """Return a sample turned by quarters and mirrored; images that are no squares by halves only."""
    height, width = sample["image"].shape[-2:]
    quarters = turn % 4 if height == width else turn % 2 * 2
    out = dict(sample)
    for name in ("image", "mask", "synthetic"):
        if name in out:
            layer = torch.rot90(out[name], quarters, (-2, -1))
            out[name] = (torch.flip(layer, (-1,)) if turn >= 4 else layer).contiguous()
    return out
