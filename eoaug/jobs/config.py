"""The description of a job: what a YAML file or a mapping may say, checked key by key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from eoaug.errors import ParameterError, did_you_mean
from eoaug.generators.base import Generator, Verb, identity_of
from eoaug.storage.documents import load_yaml
from eoaug.storage.names import clean_href
from eoaug.verbs.options import yaml_keys

__all__ = ["Cluster", "Job", "Output", "Run", "Source", "job_schema", "read_job"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class Source(_Part):
    """Which items."""

    catalog: str = Field(min_length=1)
    """Path, URL or s3://bucket/prefix of a catalog, collection or item; URL of a STAC API, or its name."""
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
    """The first so many items, in the order of the catalog."""
    bands: Names = ()
    """Bands of every item; none: all."""
    resolution: float | None = Field(default=None, gt=0)
    crs: str | None = None
    allow: Names = ()
    """Folders, hosts and networks that addresses of the items may point to, beside the catalog's own."""

    @field_validator("datetime", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        # YAML reads 2018 as a number and 2018-05-04 as a date.
        return value if value is None else str(value)


class Output(_Part):
    """Where results go."""

    catalog: str = Field(min_length=1)
    """Folder or JSON file of a catalog, or s3://bucket/prefix; made when there is none; may be the source."""
    collection: str | None = None
    """Default: the id of the source's collection with -eoaug behind."""
    format: Literal["cog", "zarr", "icechunk"] = "cog"
    """Icechunk needs ``eoaug[icechunk]``."""
    api: str | None = None
    """URL of a STAC API with the Transaction extension, which gets a copy of every item."""


class Run(_Part):
    """How the work is done; nothing here changes a byte of it."""

    chunks: int = Field(default=1024, ge=16)
    """Edge in pixels of the pieces that an item is worked on in: less needs less memory."""
    retries: int = Field(default=2, ge=0)
    """Further attempts at an item after an error that may pass."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Longest time for one attempt at an item."""
    lease_s: float = Field(default=60.0, gt=0)
    """After so much silence, work of a machine that has vanished is taken over."""
    resources: dict[str, float] = {}
    """What a worker must have, e.g. {"GPU": 1}."""
    worker_memory: str = "auto"
    """Memory limit of each worker that ``--workers`` starts, e.g. 4GB."""
    device: str | None = None
    """Where the generator runs, e.g. cuda:0."""
    batch_tiles: int | None = Field(default=None, ge=1)
    verify: bool = False
    """Check the checksums of what is there before it is skipped."""
    pictures: int = Field(default=6, ge=0)
    """Items shown in the report."""


class Cluster(_Part):
    """What each batch job of a cluster asks for; changes no byte of the results."""

    queue: str | None = None
    """Partition."""
    account: str | None = None
    walltime: str = "01:00:00"
    jobs: int = Field(default=1, ge=1)
    """Batch jobs at once."""
    cores: int = Field(default=1, ge=1)
    """Of each batch job; without GPUs, as many items are worked on at once."""
    memory: str = "4GB"
    """Of each batch job."""
    gpus: int = Field(default=0, ge=0)
    """Of each batch job; as many items are worked on at once."""
    interface: str | None = None
    """Network interface that scheduler and workers talk over, e.g. ib0."""
    directives: Names = ()
    """Further options of sbatch, e.g. --exclusive."""
    prologue: Names = ()
    """Commands before the worker starts, e.g. module load cuda."""
    folder: str = ".eoaug-slurm"
    """Folder for logs and certificates; all nodes must see it."""
    local_folder: str | None = None
    """Folder on each node for what does not fit into memory."""


def _as_generator(value: Any) -> Any:
    if isinstance(value, str | Generator):
        return value
    raise ValueError("neither the name of a generator, nor an object with a card and a generate method")


class Job(_Part):
    """A verb over every item of a catalog."""

    source: Source
    verb: Verb
    parameters: dict[str, Any] = {}
    """Arguments of the verb, such as factor, mask, times, seed, steps, members."""
    generator: Annotated[Any, BeforeValidator(_as_generator), WithJsonSchema({"type": "string"})] = "embedded"
    """A name; from Python, also a generator."""
    output: Output
    run: Run = Run()
    cluster: Cluster | None = None

    @model_validator(mode="after")
    def _known_parameters(self) -> Job:
        keys = yaml_keys(self.verb)
        known = sorted(name for name, key in keys.items() if key == "parameters")
        for name in self.parameters:
            if name in known:
                continue
            if name in keys:
                raise ValueError(f"{name!r} is another key of the job: write {keys[name]}")
            hint = f"{did_you_mean(name, known)} known: {', '.join(known)}".lstrip()
            raise ValueError(f"{self.verb} has no argument {name!r}; {hint}")
        return self

    def described(self) -> dict[str, Any]:
        """Return what decides the results, as JSON values: everything but ``run`` and ``cluster``.

        It stands in journals and reports, so signatures of addresses are not in it.
        """
        told = self.model_dump(mode="json", exclude={"run", "cluster", "generator"}, exclude_defaults=True)
        told["source"]["catalog"] = clean_href(self.source.catalog)
        if self.output.api is not None:
            told["output"]["api"] = clean_href(self.output.api)
        return {**told, "verb": self.verb, "generator": self._generator_name()}

    def _generator_name(self) -> str:
        if isinstance(self.generator, str):
            return self.generator
        return f"{self.generator.card.name} {identity_of(self.generator)[:16]}"

    @property
    def id(self) -> str:
        """Hash of what the job is about; the same job has the same id wherever it runs."""
        return _hash(self.described())

    @property
    def request(self) -> str:
        """Hash of what is asked of every item, whichever items they are."""
        told = self.described()
        kept = {
            name: told["source"][name] for name in ("bands", "resolution", "crs") if name in told["source"]
        }
        return _hash({**told, "source": kept, "output": {"format": self.output.format}})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_job(config: Job | Mapping[str, Any] | str | os.PathLike[str]) -> Job:
    """Return a checked job.

    Parameters
    ----------
    config
        A YAML or JSON file, a mapping of the same form, or a job. Paths in a file are relative to where the
        command runs, as on the command line.

    Raises
    ------
    ParameterError
        With the key, its value, and the nearest known key.
    """
    if isinstance(config, Job):
        return config
    what = "the job"
    if isinstance(config, str | os.PathLike):
        what = f"job {str(config)!r}"
        try:
            text = Path(config).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ParameterError(f"{what} cannot be read: {error}.", "Give a YAML file.") from error
        config = load_yaml(text, what=what)
    if not isinstance(config, Mapping):
        raise ParameterError(
            f"{what} is a {type(config).__name__}, not keys and values.",
            "It needs source, verb and output; see `eoaug run --help`.",
        )
    try:
        return Job.model_validate(dict(config))
    except ValidationError as error:
        raise _explained(error, what) from None


def job_schema() -> dict[str, Any]:
    """Return the JSON schema of a job, for editors and other tools."""
    return Job.model_json_schema()


def _explained(error: ValidationError, what: str) -> ParameterError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys(path[:-1])
        hint = f"{did_you_mean(path[-1], known)} known keys: {', '.join(known)}".lstrip()
        return ParameterError(f"{what} has an unknown key {key!r}", hint)
    if first["type"] == "missing":
        return ParameterError(f"{what} has no {key!r}.", f"Add it, e.g.: {_EXAMPLES.get(key, key + ': ...')}")
    told = first["msg"].removeprefix("Value error, ")
    if not path:
        return ParameterError(f"{what}: {told}.", "Correct that key.")
    return ParameterError(f"{what}: {key}={first['input']!r} is wrong: {told}.", "Correct that value.")


_EXAMPLES = {
    "source": "source: {catalog: catalogs/sample}",
    "source.catalog": "catalog: catalogs/sample",
    "verb": "verb: super_resolve",
    "output": "output: {catalog: augmented}",
    "output.catalog": "catalog: augmented",
}


def _keys(path: list[str]) -> list[str]:
    part: Any = Job
    for name in path:
        part = part.model_fields[name].annotation
    return list(part.model_fields)
