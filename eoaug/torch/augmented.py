"""`Augmented`: samples that are real, or made from real ones, as a function of seed, epoch and index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch.utils.data import Dataset

from eoaug.augment.policy import Draw, Policy, draw_of, read_policy
from eoaug.corruptions.corrupt import corrupt, corrupted_arrays
from eoaug.corruptions.kinds import KINDS
from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError, error_context
from eoaug.generators.base import Generator
from eoaug.generators.registry import load
from eoaug.raster.radiometry import SCALE_ATTRS
from eoaug.torch.chips import Chips
from eoaug.torch.samples import Sample
from eoaug.verbs.planning import VERBS

__all__ = ["Augmented"]

_TURNS = 8
"""Quarter turns and their mirror images."""


class Augmented(Dataset[Sample]):
    """A training set without end, in which samples are replaced by images made from them.

    Parameters
    ----------
    real
        The real images, e.g. ``train.torch("train")``.
    policy
        What to make while training, as for `eoaug.augment`: a policy, a mapping or a YAML file. In epoch e, an image that is
        chosen gets draw e of the policy, the one that `augment` makes as its draw e. How many are made, and which are kept,
        does not apply. Default: none, images are turned only.
    generator
        Of the verbs of the policy; not needed for corruptions.
    p
        Share of the images that are replaced; default .5 (DA-Fusion, arXiv 2302.07944).
    seed
        Of all choices, and of the draws. Default: the policy's.
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
        *,
        policy: Policy | Mapping[str, Any] | str | None = None,
        generator: Generator | str | None = None,
        p: float = 0.5,
        seed: int | None = None,
        turns: bool = True,
    ) -> None:
        if not 0 <= p <= 1:
            raise ParameterError(f"p={p!r} is no probability", "use a number from 0 to 1")
        self.real = real
        self.policy = None if policy is None else _checked(policy, seed)
        self.generator = None if self.policy is None else _loaded(generator, self.policy)
        self.p = 0.0 if policy is None else p
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
        chosen, turn = _choices(self.seed, epoch, number)
        sample = self._made(number, epoch) if chosen < self.p else self.real.plain(number)
        if self.turns:
            sample = _turned(sample, turn)
        return sample if self.real.transforms is None else self.real.transforms(sample)

    def _made(self, number: int, epoch: int) -> Sample:
        item = self.real.item(number)
        assert self.policy is not None
        draw = draw_of(self.policy, item, epoch)
        with error_context(f"draw {draw.number} of item {item.id!r}"):
            return self._drawn(number, draw)

    def _drawn(self, number: int, draw: Draw) -> Sample:
        item, form = self.real.item(number), self.real.form
        ds = item.open().load()
        how = dict(draw.parameters)
        if draw.verb == "corrupt" and KINDS[how["kind"]].loses:
            ds = _able_to_miss(ds)
        if draw.verb == "corrupt" and KINDS[how["kind"]].group != "moving":
            how = {name: value for name, value in how.items() if name not in ("labels", "pair")}
            cube = read_cube(ds)
            return form.sample(cube, self.real.number(item), corrupted_arrays(cube, **how))
        if draw.verb == "corrupt":
            made = corrupt(ds, **how)
        else:
            made = VERBS[draw.verb](ds, generator=self.generator, progress=False, **how)
        return form.sample(read_cube(made.load()), self.real.number(item))


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


def _able_to_miss(ds: xr.Dataset) -> xr.Dataset:
    """Return a cube whose integers without a number for missing pixels are float32 in physical units."""
    cube = read_cube(ds)
    stuck = [band for band in cube.bands if band.dtype.kind in "iu" and band.nodata is None]
    out = ds.copy()
    for band in stuck:
        kept = {name: value for name, value in band.attrs.items() if name not in SCALE_ATTRS}
        values = band.scaling(out[band.name].values).astype(np.float32)
        out[band.name] = (out[band.name].dims, values, kept)
    return out


def _choices(seed: int, epoch: int, number: int) -> tuple[float, int]:
    """Return a number in [0, 1) and one of the turns, from seed, epoch and index alone."""
    digest = hashlib.sha256(f"eoaug choice 1|{seed}|{epoch}|{number}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53, digest[8] % _TURNS


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
