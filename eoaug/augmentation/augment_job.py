"""The configuration of an augmentation: a training set, a policy, a generator and an output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from eoaug.augmentation.policy import Policy, read_policy
from eoaug.augmentation.training_items import Task, TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.captions.caption_file import with_captions
from eoaug.errors import ParameterError
from eoaug.jobs.config import JobBase, Names, OutputBase, RunOptions, hash_of
from eoaug.storage.documents import read_settings
from eoaug.storage.names import clean_href

__all__ = ["AugmentJob", "AugmentOutput", "GateOptions", "SelectOptions", "SetSource", "read_augment_job"]


class SetSource(BaseModel):
    """Which training set is augmented: the arguments of `training_set`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    """A catalog, or a folder of images; ``memory`` for a set that was given from Python."""
    label: str | None = None
    task: Task = "classes"
    split: str | dict[str, str] | None = None
    bands: Names = ()
    scale: float | None = None
    offset: float = 0.0
    classes: Names = ()
    collections: Names = ()
    ids: Names = ()
    query: dict[str, Any] = {}
    allow: Names = ()
    captions: str | None = None
    """File that `eoaug.caption` has written; the slot ``description`` of prompts."""
    items: str = ""
    """Hash of the ids of a set that was given from Python."""

    def training_set(self) -> TrainingSet:
        """Return the training set.

        Raises
        ------
        ParameterError
            It was given from Python, so only that program can go on with it.
        """
        if self.items:
            raise ParameterError(
                "the training set of this job was given from Python, and is not in its journal",
                "call eoaug.augment with the same set again: what exists is skipped",
            )
        how = self.model_dump(exclude={"path", "items", "captions"}, exclude_defaults=True)
        train = training_set(self.path, **how)
        return train if self.captions is None else with_captions(train, self.captions)


class AugmentOutput(OutputBase):
    """Where the made images are written."""

    format: Literal["cog", "zarr", "icechunk", "chips"] = "cog"
    """``chips``: one Zarr group for many small images, also for those without coordinates."""
    shard: int = Field(default=1000, ge=1, le=100_000)
    """Images per Zarr group of the format chips."""


class SelectOptions(BaseModel):
    """Arguments of `eoaug.select`; those that are not given have its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "small"
    updates: int = Field(default=1000, ge=1)
    batch: int = Field(default=32, ge=1)


class GateOptions(SelectOptions):
    """Arguments of `eoaug.gate`; those that are not given have its defaults."""

    seeds: int = Field(default=5, ge=2)
    fractions: tuple[float, ...] = (1.0,)
    doses: tuple[float, ...] = (0.25, 0.5)
    augmentations: Names = ()
    block_km: float = Field(default=10.0, gt=0)
    gap_km: float = Field(default=1.0, ge=0)


class AugmentRun(RunOptions):
    """How the work is done; no setting here changes the results."""

    pictures: int = Field(default=0, ge=0)

    @field_validator("chunks", mode="before")
    @classmethod
    def _no_chunks(cls, value: Any) -> Any:
        raise ValueError("images of training sets are read in their own chunks: leave it out")


class AugmentJob(JobBase):
    """Images made of a training set by a policy."""

    verb: Literal["augment"] = "augment"
    source: SetSource
    policy: Annotated[Policy, BeforeValidator(read_policy)] = Policy()
    output: AugmentOutput
    run: AugmentRun = AugmentRun()
    select: SelectOptions = SelectOptions()
    gate: GateOptions = GateOptions()

    def described(self) -> dict[str, Any]:
        """Return everything that decides the made images: not which are kept, and how they are judged.

        What is kept of a round, and the classifiers of `select`, decide what the next one makes.
        """
        values, further = super().described(), self.policy.rounds > 1
        for name in ("gate",) if further else ("select", "gate"):
            values.pop(name, None)
        values["source"]["path"] = clean_href(self.source.path)
        return {**values, "policy": self._policy() if further else self._policy("keep")}

    def _policy(self, *left_out: str) -> dict[str, Any]:
        values = self.policy.model_dump(mode="json", exclude=set(left_out))
        # Names of images made before this key existed stay.
        draws = [
            {k: v for k, v in draw.items() if k != "specify" or v is not None} for draw in values["draws"]
        ]
        return {**values, "draws": draws}

    @property
    def request(self) -> str:
        """Hash of policy and form, independent of which images there are; the generator is in the content keys.

        More rounds add images to those of fewer ones.
        """
        form: dict[str, str] = {"format": self.output.format}
        if self.output.format == "chips":
            form["shard"] = str(self.output.shard)
        return hash_of({"policy": self._policy("keep", "rounds"), "output": form})


def read_augment_job(config: AugmentJob | Mapping[str, Any] | str | os.PathLike[str]) -> AugmentJob:
    """Return a validated augmentation from a YAML file or a mapping.

    Raises
    ------
    ParameterError
        The message names the key, its value, and the nearest known key.
    """
    remedy = "give source, policy and output; see `eoaug augment --help`"
    return read_settings(config, AugmentJob, noun="augmentation", remedy=remedy, examples=_EXAMPLES)


_EXAMPLES = {
    "source": "source: {path: EuroSAT_RGB, split: place}",
    "source.path": "path: EuroSAT_RGB",
    "output": "output: {catalog: augmented, format: chips}",
    "output.catalog": "catalog: augmented",
}
