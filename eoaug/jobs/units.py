"""What travels between the runner and its workers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import pystac

from eoaug.errors import EoaugError
from eoaug.generators.base import Generator
from eoaug.generators.registry import load
from eoaug.jobs.config import Job
from eoaug.stac.catalog import Root
from eoaug.stac.item_document import collection_of
from eoaug.stac.search import SourceItem
from eoaug.storage.names import safe_id

__all__ = ["JobContext", "WorkItem", "WorkResult", "work_item_of"]


Status = Literal["published", "present", "busy", "failed"]


@dataclass(frozen=True)
class WorkItem:
    """One item of the source."""

    found: SourceItem
    item: str
    """Id of the source's item."""
    collection: str
    """Id of the collection that the result goes to."""
    label: str
    """Id of the result's item, or of the first one."""


@dataclass(frozen=True)
class WorkResult:
    """What became of one item."""

    unit: WorkItem
    status: Status
    items: tuple[Mapping[str, Any], ...] = ()
    """Of every item that stands: what `Root.register` looks at."""
    key: str = ""
    seconds: float = 0.0
    """Time in the worker."""
    attempts: int = 1
    stored_bytes: int = 0
    """Bytes of the data that were written."""
    error: EoaugError | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class JobContext:
    """What the items of a job share; pickles small."""

    job: Job
    root: Root
    allow: tuple[str, ...]
    """What addresses of the items may point to."""
    scheduler: str | None = None
    """dask's, by name, inside of a worker."""

    @property
    def generator(self) -> Generator:
        """The job's generator; loaded once per process."""
        given = self.job.generator
        return _loaded(given, self.job.run.device) if isinstance(given, str) else given


@lru_cache(maxsize=4)
def _loaded(name: str, device: str | None) -> Generator:
    return load(name) if device is None else load(name, device=device)


def work_item_of(found: SourceItem, item: pystac.Item, job: Job) -> WorkItem:
    """Return the unit of an item.

    The label tells source, verb and request; another request makes another item beside the first, while
    another content of the source or another model replaces what is there.
    """
    name, request = safe_id(item.id)[:80], job.request
    if name != item.id:  # ids that were cut or cleaned may meet
        request = hashlib.sha256(f"{request} {item.id}".encode()).hexdigest()
    label = f"{name}-{job.verb.replace('_', '-')}-{request[:8]}"
    return WorkItem(found, item.id, collection_of(job.output.collection, item.collection_id or ""), label)
