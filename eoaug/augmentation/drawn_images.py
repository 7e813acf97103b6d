"""The image that a draw makes: alone, or with others so that the generator's batches are full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from eoaug.augmentation.missing import drawn_from
from eoaug.augmentation.policy import Draw
from eoaug.augmentation.training_items import TrainingItem
from eoaug.errors import EoaugError
from eoaug.generators.base import Generator
from eoaug.jobs.verb_calls import result_of
from eoaug.verbs.together import ImageCall, run_together

__all__ = ["OpenedDraw", "make", "make_together"]


@dataclass(frozen=True)
class OpenedDraw:
    """A draw with the image that it is made of."""

    item: TrainingItem
    draw: Draw
    ds: xr.Dataset

    @property
    def what(self) -> str:
        """The draw, for messages."""
        return f"draw {self.draw.number} of {self.item.id!r}"

    def arguments(self, batch_tiles: int | None = None) -> dict[str, Any]:
        """Return the arguments of its verb."""
        own = dict(self.draw.parameters)
        if self.draw.verb == "corrupt":
            return own
        batch = {} if batch_tiles is None else {"batch_tiles": batch_tiles}
        # Images of a training set are looked at one by one, so they need not agree with those next to them.
        return {"tiling": "image", **own, **batch}

    def cube(self) -> xr.Dataset:
        """Return the image that the verb is called with."""
        return drawn_from(self.ds, self.draw.verb, self.draw.parameters)


def make(one: OpenedDraw, generator: Generator | None, *, batch_tiles: int | None = None) -> xr.Dataset:
    """Return the image of a draw, lazy where its source is.

    Parameters
    ----------
    one
        The draw.
    generator, batch_tiles
        Not used by corruptions.
    """
    verb = one.draw.verb
    own = None if verb == "corrupt" else generator
    return result_of(verb, one.cube(), one.arguments(batch_tiles), own, what=one.what)


def make_together(
    some: Sequence[OpenedDraw], generator: Generator | None, *, batch_tiles: int | None = None
) -> list[xr.Dataset | Exception]:
    """Return the images of draws in memory, each as `make` returns it, or why it cannot be made."""
    out: dict[int, xr.Dataset | Exception] = {}
    calls: dict[int, ImageCall] = {}
    for at, one in enumerate(some):
        if one.draw.verb == "corrupt":
            try:
                out[at] = make(one, None).load()
            except Exception as error:
                out[at] = error
        else:
            arguments = {**one.arguments(batch_tiles), "generator": generator}
            try:
                calls[at] = ImageCall(one.draw.verb, one.cube(), arguments, one.what)
            except EoaugError as error:
                out[at] = error
    out |= dict(zip(calls, run_together(list(calls.values())), strict=True))
    return [out[at] for at in range(len(some))]
