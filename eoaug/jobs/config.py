"""The configuration of a job, from a YAML file or a mapping, checked key by key."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from eoaug.corruptions.options import check_job_parameters
from eoaug.cube.roles import label_names
from eoaug.errors import ParameterError, did_you_mean, first_line
from eoaug.generators.base import Generator
from eoaug.generators.identity import identity_of
from eoaug.stac.filters import instant
from eoaug.stac.sample import named_source
from eoaug.storage.documents import read_settings
from eoaug.storage.names import clean_href
from eoaug.verbs.options import yaml_keys

__all__ = [
    "Cluster",
    "Job",
    "JobBase",
    "JobVerb",
    "Output",
    "OutputBase",
    "RunOptions",
    "Source",
    "check_parameters",
    "days_of",
    "hash_of",
    "job_schema",
    "read_job",
]


JobVerb = Literal["synthesize", "inpaint", "extend", "super_resolve", "translate", "corrupt"]
"""What a job does to the cube of an item: a verb with a generator, or a corruption."""


class _JobSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class Source(_JobSection):
    """Which items are processed."""

    catalog: str = Field(min_length=1)
    """Path, URL or s3://bucket/prefix of a catalog, collection or item; URL of a STAC API, or its name; ``sample`` is the catalog that eoaug ships."""
    collections: Names = ()
    ids: Names = ()
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""
    datetime: str | None = None
    """RFC 3339 date or interval."""
    query: dict[str, Any] = {}
    """Item properties: a value, or operators, e.g. {"eo:cloud_cover": {"lt": 20}}."""
    filter: str | dict[str, Any] | None = None
    """CQL2 text or JSON, e.g. "eo:cloud_cover < 20"; an API evaluates it itself, if it supports CQL2."""
    limit: int | None = Field(default=None, ge=1)
    """Largest number of items, in the order of the catalog."""
    group: Names = ()
    """``place``: fill every date with the other dates of its place, which are the items on one grid of pixels; or the
    properties that tell places apart, e.g. [grid:code]. Only for inpaint, extend and composite."""
    window: str | None = None
    """With ``group``: longest time to a date that is used, e.g. 90d; by default six dates before and six after."""
    min_clear: float = Field(default=0.5, ge=0, le=1)
    """With ``group``: least share of the ground that is clear on a date or on one that it is filled from. Dates with less
    are left out and reported."""
    since: str | None = None
    """RFC 3339 date: only what depends on an item that was added or changed since then, by its ``created`` and ``updated``,
    else its datetime. What is left out is as it was, so this changes no result; what failed before is not tried again."""
    bands: Names = ()
    """Bands of every item; empty: all."""
    resolution: float | None = Field(default=None, gt=0)
    crs: str | None = None
    allow: Names = ()
    """Folders, hosts and networks that addresses of the items may point to, in addition to the catalog's own."""
    journal_address: SkipJsonSchema[str | None] = Field(default=None, exclude=True)
    """How the journal that a job is resumed from spells ``catalog``; set by `resumable`."""

    @field_validator("catalog")
    @classmethod
    def _sample(cls, value: str) -> str:
        return named_source(value)

    @field_validator("datetime", "since", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        # YAML reads 2018 as a number and 2018-05-04 as a date.
        return value if value is None else str(value)

    @model_validator(mode="after")
    def _known_window(self) -> Source:
        least = type(self).model_fields["min_clear"].default
        if not self.group and (self.window is not None or self.min_clear != least):
            name = "window" if self.window is not None else "min_clear"
            raise ParameterError(
                f"source.{name} is given without source.group", "add group: place, or leave it out"
            )
        if self.window is not None:
            days_of(self.window, "source.window")
        if self.since is not None:
            self.first_change()
        return self

    def first_change(self) -> dt.datetime | None:
        """Return ``since`` as a time in UTC."""
        if self.since is None:
            return None
        try:
            return instant(self.since, last=False)
        except ValueError as error:
            raise ParameterError(
                f"source.since={self.since!r} is not a date: {first_line(error)}",
                "write e.g. since: 2024-06-01",
            ) from error


class OutputBase(_JobSection):
    """Where results are written, in any format."""

    catalog: str = Field(min_length=1)
    """Folder or JSON file of a catalog, or s3://bucket/prefix; created if it does not exist; may be the source."""
    collection: str | None = None
    """Default: the id of the source's collection, followed by -eoaug."""
    api: str | None = None
    """URL of a STAC API with the Transaction extension, which receives a copy of every item."""


class Output(OutputBase):
    """Where the results of a job are written."""

    format: Literal["cog", "zarr", "icechunk"] = "cog"
    """Icechunk needs ``eoaug[icechunk]``."""


class RunOptions(_JobSection):
    """How the work is done; no setting here changes the results."""

    chunks: int = Field(default=1024, ge=16)
    """Edge in pixels of the chunks that an item is processed in; smaller chunks need less memory."""
    retries: int = Field(default=2, ge=0)
    """Further attempts at an item after an error that may be temporary."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Longest time for one attempt at an item."""
    lease_s: float = Field(default=60.0, gt=0)
    """Seconds without a renewal after which another process takes over the work of a lost machine."""
    wait_s: float = Field(default=3600.0, gt=0)
    """Longest time to wait for items that another job works on; they then count as failed."""
    resources: dict[str, float] = {}
    """Resources that a worker must have, e.g. {"GPU": 1}."""
    worker_memory: str = "auto"
    """Memory limit of each worker that ``--workers`` starts, e.g. 4GB."""
    device: str | None = None
    """Device of the generator, e.g. cuda:0."""
    batch_tiles: int | None = Field(default=None, ge=1)
    memory: str | None = None
    """Memory for the work on an item, e.g. 2GB, which sets the chunks of the result."""
    verify: bool = False
    """Check the checksums of existing outputs before they are skipped."""
    pictures: int = Field(default=6, ge=0)
    """Number of items shown in the report."""


class Cluster(_JobSection):
    """Resources of each batch job of a cluster; no setting here changes the results."""

    queue: str | None = None
    """Partition."""
    account: str | None = None
    walltime: str = "01:00:00"
    jobs: int = Field(default=1, ge=1)
    """Batch jobs at the same time."""
    cores: int = Field(default=1, ge=1)
    """Cores of each batch job; without GPUs also the number of items processed at the same time."""
    memory: str = "4GB"
    """Memory of each batch job."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of each batch job; also the number of items processed at the same time."""
    interface: str | None = None
    """Network interface between scheduler and workers, e.g. ib0."""
    directives: Names = ()
    """Further options of sbatch, e.g. --exclusive."""
    prologue: Names = ()
    """Commands before the worker starts, e.g. module load cuda."""
    folder: str = ".eoaug-slurm"
    """Folder for logs and certificates; all nodes must be able to read it."""
    local_folder: str | None = None
    """Folder on each node for data that does not fit into memory."""


def days_of(text: str, name: str) -> int:
    """Return the number of days in a duration such as ``90d``.

    Raises
    ------
    ParameterError
        It is something else.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})\s*d", text.strip())
    if match is None:
        raise ParameterError(f"{name}={text!r} is not a number of days", "write e.g. 90d")
    return int(match[1])


def _as_generator(value: Any) -> Any:
    if isinstance(value, str | Generator):
        return value
    raise ValueError("neither the name of a generator, nor an object with a card and a generate method")


def check_parameters(verb: JobVerb | Literal["composite"], parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a verb does not have, or that are other keys of a job.

    Raises
    ------
    ValueError, ParameterError
        The message names the parameter and the known ones.
    """
    if verb == "corrupt":
        check_job_parameters(parameters)
        return
    if verb == "composite":
        for name in parameters:
            if name != "times":
                raise ValueError(
                    f"composite has no argument {name!r}; known: times (monthly, best, or e.g. every 10d)"
                )
        from eoaug.stac.composite import check_composite

        check_composite(parameters.get("times", "monthly"))
        return
    keys = yaml_keys(verb)
    known = sorted(name for name, key in keys.items() if key == "parameters")
    for name in parameters:
        if name in known:
            continue
        if name in keys:
            raise ValueError(f"{name!r} is another key of the job: write {keys[name]}")
        hint = f"{did_you_mean(name, known)} known: {', '.join(known)}".lstrip()
        raise ValueError(f"{verb} has no argument {name!r}; {hint}")


class JobBase(_JobSection):
    """What all jobs have: a generator, an output, and how the work is done."""

    verb: str
    generator: Annotated[Any, BeforeValidator(_as_generator), WithJsonSchema({"type": "string"})] = "embedded"
    """A name; from Python, also a generator."""
    output: OutputBase
    run: RunOptions = RunOptions()
    cluster: Cluster | None = None

    def described(self) -> dict[str, Any]:
        """Return everything that decides the results, as JSON values: all but ``run``, ``cluster`` and the place.

        It is written to journals and reports of the output's catalog, so signatures of addresses are removed, and
        relative paths begin at its folder: a catalog can be moved, and its jobs resumed from anywhere.
        """
        values = self.model_dump(mode="json", exclude={"run", "cluster", "generator"}, exclude_defaults=True)
        values["output"] = {key: value for key, value in values["output"].items() if key != "catalog"}
        if self.output.api is not None:
            values["output"]["api"] = clean_href(self.output.api)
        return {**values, "verb": self.verb, "generator": self._generator_name()}

    def portable(self, address: str) -> str:
        """Return an address from the folder of the output's catalog, if it is a relative path."""
        output = self.output.catalog
        if "://" in address or os.path.isabs(address) or address.startswith("~") or "://" in output:
            return address
        folder = os.path.dirname(output) if output.endswith(".json") else output
        path = os.path.relpath(os.path.realpath(address), os.path.realpath(os.path.expanduser(folder)))
        return path.replace(os.sep, "/")

    def _generator_name(self) -> str:
        if isinstance(self.generator, str):
            return self.generator
        return f"{self.generator.card.name} {identity_of(self.generator)[:16]}"

    @property
    def id(self) -> str:
        """Hash of the configuration; the same job has the same id wherever it runs."""
        return hash_of(self.described())


class Job(JobBase):
    """A verb applied to every item of a catalog."""

    source: Source
    verb: JobVerb | Literal["composite"]
    parameters: dict[str, Any] = {}
    """Arguments of the verb, such as factor, mask, times, seed, steps, members; of corrupt: kind, severity, labels."""
    output: Output

    @model_validator(mode="after")
    def _known_parameters(self) -> Job:
        if not self.generates and "generator" in self.model_fields_set:
            raise ParameterError(
                f"the job has the verb {self.verb} and the generator {self._generator_name()!r}, which it does not use",
                "leave generator out",
            )
        check_parameters(self.verb, self.parameters)
        if self.source.group and self.verb not in ("inpaint", "extend", "composite"):
            raise ParameterError(
                f"the job has source.group and the verb {self.verb}, which uses no other dates",
                "leave group out, or use inpaint, extend or composite",
            )
        if self.verb == "composite":
            self._check_composite()
        return self

    def _check_composite(self) -> None:
        if not self.source.group:
            raise ParameterError(
                "the job has the verb composite and no source.group, which says whose dates make one image",
                "add source.group: place",
            )
        if self.source.window is not None:
            raise ParameterError(
                f"the job has the verb composite and source.window={self.source.window!r}, which it does not use",
                "leave window out; parameters.times: every 10d says how long a period is",
            )

    def due_since(self, date: str | None) -> Job:
        """Return the job with ``source.since``; None keeps its own."""
        if date is None:
            return self
        source = self.source.model_copy(update={"since": date})
        source.first_change()
        return self.model_copy(update={"source": source})

    @property
    def generates(self) -> bool:
        """Whether the verb uses a generator."""
        return self.verb not in ("corrupt", "composite")

    def described(self) -> dict[str, Any]:
        """Return everything that decides the results; the generator only of verbs that use one."""
        values = super().described()
        values["source"]["catalog"] = self.source.journal_address or self.portable(
            clean_href(self.source.catalog)
        )
        values["source"].pop("since", None)  # which results are due, not what they are
        if self.source.allow:
            values["source"]["allow"] = [
                self.portable(entry) if entry.startswith(".") else entry for entry in self.source.allow
            ]
        if not self.generates:
            del values["generator"]
        return values

    @property
    def labels(self) -> tuple[str, ...]:
        """What the user calls labels: bands and item properties."""
        return label_names(self.parameters.get("labels"))

    @property
    def request(self) -> str:
        """Hash of the request made for every item, independent of which items they are."""
        values = self.described()
        kept = {
            name: values["source"][name]
            for name in ("bands", "resolution", "crs", "group", "window", "min_clear")
            if name in values["source"]
        }
        return hash_of({**values, "source": kept, "output": {"format": self.output.format}})


def hash_of(value: Any) -> str:
    """Return a short hash of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_job(config: Job | Mapping[str, Any] | str | os.PathLike[str]) -> Job:
    """Return a validated job.

    Parameters
    ----------
    config
        A YAML or JSON file, a mapping of the same form, or a job. Paths in a file are relative to where the
        command runs, as on the command line.

    Raises
    ------
    ParameterError
        The message names the key, its value, and the nearest known key.
    """
    remedy = "give source, verb and output; see `eoaug run --help`"
    return read_settings(config, Job, noun="job", remedy=remedy, examples=_EXAMPLES)


def job_schema() -> dict[str, Any]:
    """Return the JSON schema of a job, for editors and other tools."""
    return Job.model_json_schema()


_EXAMPLES = {
    "source": "source: {catalog: sample}",
    "source.catalog": "catalog: sample",
    "verb": "verb: super_resolve",
    "output": "output: {catalog: augmented}",
    "output.catalog": "catalog: augmented",
}
