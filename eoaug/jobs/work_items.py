"""What the runner sends to its workers, and what they return."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import pystac

from eoaug.errors import EoaugError
from eoaug.generators.base import Generator
from eoaug.generators.registry import load
from eoaug.jobs.config import Job, JobBase
from eoaug.stac.catalog import Root
from eoaug.stac.collection_fields import LEFT_OUT
from eoaug.stac.item_document import Claim, collection_of
from eoaug.stac.search import SourceItem
from eoaug.storage.names import safe_id

__all__ = ["JobContext", "JobWork", "TooCloudyError", "WorkItem", "WorkResult", "work_item_of"]


Status = Literal["published", "present", "busy", "too cloudy", "failed"]


class TooCloudyError(Exception):
    """A date of which too little ground is clear, on itself and on the dates next to it: it is left as it is."""


@dataclass(frozen=True)
class WorkItem:
    """One item of the source."""

    entry: SourceItem
    id: str
    """Id of the source's item."""
    collection: str
    """Id of the collection that the result is published in."""
    label: str
    """Id of the result's item, or of the first one."""

    @property
    def images(self) -> int:
        """Number of images that are made of it."""
        return 1


@dataclass(frozen=True)
class WorkResult:
    """The result of one work item."""

    work_item: WorkItem
    status: Status
    items: tuple[Mapping[str, Any], ...] = ()
    """Of every existing item, the fields that `Root.register` reads."""
    key: str = ""
    seconds: float = 0.0
    """Time in the worker, in seconds."""
    attempts: int = 1
    stored_bytes: int = 0
    """Bytes of data written."""
    error: EoaugError | None = None
    may_pass: bool = False
    """Whether another attempt may succeed."""
    timed_out: bool = False
    note: str = ""
    """What is unusual about a published result: nothing was filled, or everything; or why a date is too cloudy."""

    @property
    def left_out(self) -> list[Mapping[str, str]]:
        """Of existing items that hold many images, those that could not be made: id, error, problem and remedy."""
        return [one for item in self.items for one in item["properties"].get(LEFT_OUT, ())]


class JobWork(Protocol):
    """What a job does with each of its work items; small when pickled."""

    def key(self, work_item: WorkItem, context: JobContext) -> str:
        """Return the content key: the hash of everything that decides the result."""

    def publish(
        self, work_item: WorkItem, context: JobContext, key: str, claim: Claim
    ) -> list[dict[str, Any]]:
        """Make the result and publish it; return the documents of its items."""

    def source(self, work_item: WorkItem) -> Any:
        """Return the cube that a work item is made of, for the pictures of the report."""

    def note(self, share: float) -> str:
        """Return what is unusual about the share of a result that is not measured; empty for nothing."""


def _ignored(images: int) -> None:
    """Count nothing."""


@dataclass(frozen=True)
class JobContext:
    """What all work items of a job share; small when pickled."""

    job: JobBase
    root: Root
    work: JobWork
    scheduler: str | None = None
    """Name of the dask scheduler inside a worker; None: the default."""
    advance: Callable[[int], object] = _ignored
    """Called with the number of images that were made since its last call, where the work is done in this process."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: a bar of this one is not."""
        return {**vars(self), "advance": _ignored}

    @property
    def generator(self) -> Generator:
        """The job's generator; loaded once per process."""
        generator = self.job.generator
        return _loaded(generator, self.job.run.device) if isinstance(generator, str) else generator


@lru_cache(maxsize=4)
def _loaded(name: str, device: str | None) -> Generator:
    return load(name) if device is None else load(name, device=device)


def work_item_of(entry: SourceItem, item: pystac.Item, job: Job, request: str | None = None) -> WorkItem:
    """Return the work item for an item of the source.

    The label combines source item, verb and request. Another request makes another item next to the first;
    changed source data or another model replace the existing item.

    Parameters
    ----------
    entry, item
        The item.
    job
        The job.
    request
        Its ``request``, which takes time and is the same for all items; None: computed here.
    """
    request = job.request if request is None else request
    name = safe_id(item.id)[:80]
    if name != item.id:  # shortened or cleaned ids may be equal
        request = hashlib.sha256(f"{request} {item.id}".encode()).hexdigest()
    label = f"{name}-{job.verb.replace('_', '-')}-{request[:8]}"
    return WorkItem(entry, item.id, collection_of(job.output.collection, item.collection_id or ""), label)
