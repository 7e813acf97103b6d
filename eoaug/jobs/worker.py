"""What a worker does with one item of a job: read it, run the verb, and publish the result.

`perform` never raises: whatever happens to one item is its result, and no other's. It is safe to run twice,
here and elsewhere at once: the item's content key says whether the work is done, its lease who does it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pystac
import xarray as xr
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from eoaug.cube.provenance import renamed
from eoaug.engine.dask_graph import computed_by
from eoaug.errors import EoaugError, JobError, SourceError, TargetError, first_line
from eoaug.jobs.content_key import content_key, existing_output
from eoaug.jobs.leases import Lease, leased
from eoaug.jobs.verb_calls import note_of, result_of_item
from eoaug.jobs.work_items import JobContext, WorkItem, WorkResult
from eoaug.stac.collection_fields import registered_fields
from eoaug.stac.item_document import Claim
from eoaug.stac.open import open_cube
from eoaug.stac.publish import publish
from eoaug.stac.search import as_item, signer_of
from eoaug.storage.location import Location

__all__ = ["process_item"]


def process_item(work_item: WorkItem, context: JobContext) -> WorkResult:
    """Do the remaining work of one item, with the number of attempts that the job allows."""
    start = time.monotonic()
    attempts = Retrying(
        stop=stop_after_attempt(context.job.run.retries + 1),
        wait=wait_exponential(multiplier=0.2, max=5.0),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    result: WorkResult
    try:
        result = attempts(_in_time, work_item, context)
    except Exception as error:
        timed_out = isinstance(error, TimeoutError)
        result = WorkResult(
            work_item, "failed", error=_explained(error, work_item, context), timed_out=timed_out
        )
    return replace(
        result, seconds=time.monotonic() - start, attempts=attempts.statistics.get("attempt_number", 1)
    )


def _may_pass(error: BaseException) -> bool:
    """Return whether another attempt may succeed: not after errors of the request, or of time and memory."""
    if isinstance(error, EoaugError):
        return isinstance(error, SourceError | TargetError)
    return isinstance(error, Exception) and not isinstance(error, TimeoutError | MemoryError)


def _explained(error: Exception, work_item: WorkItem, context: JobContext) -> EoaugError:
    """Return an error of ours for whatever an attempt raised; a generator's own error must not end the job."""
    if isinstance(error, EoaugError):
        return error
    name = f"item {work_item.id!r}"
    if isinstance(error, TimeoutError) and context.job.run.timeout_s is not None:
        return JobError(
            f"{name} took longer than run.timeout_s={context.job.run.timeout_s:g}",
            "increase run.timeout_s, or use smaller run.chunks",
        )
    if isinstance(error, MemoryError):
        return JobError(
            f"{name} needs more memory than this worker has",
            "use smaller run.chunks, or workers with more memory",
        )
    return JobError(
        f"{name} failed with {type(error).__name__}: {first_line(error)}",
        "run the job again; if the error remains, process this item alone",
    )


def _in_time(work_item: WorkItem, context: JobContext) -> WorkResult:
    """Do the work, and stop waiting for it after run.timeout_s: a thread cannot be stopped itself."""
    limit = context.job.run.timeout_s
    right = _PublishRight()
    if limit is None:
        return _work(work_item, context, right)
    results: list[WorkResult | BaseException] = []

    def work() -> None:
        try:
            results.append(_work(work_item, context, right))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work, name=f"eoaug {work_item.label}", daemon=True)
    thread.start()
    thread.join(limit)
    if not results:
        right.revoke()
        raise TimeoutError
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


@dataclass
class _PublishRight:
    """The right to publish, which can be revoked from a thread that hangs."""

    lease: Lease | None = None
    revoked: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        if self.revoked.is_set():
            raise JobError("the item's timeout expired before it was published", "increase run.timeout_s")
        assert self.lease is not None
        self.lease.check()

    def revoke(self) -> None:
        self.revoked.set()
        if self.lease is not None:
            self.lease.give_back()


def _work(work_item: WorkItem, context: JobContext, right: _PublishRight) -> WorkResult:
    job, root = context.job, context.root
    item = as_item(work_item.entry)
    key = content_key(item, work_item, context)
    existing = existing_output(root, work_item, key, verify=job.run.verify)
    if existing:
        return WorkResult(work_item, "present", existing, key)
    with leased(root.folder, f"{work_item.collection}/{work_item.label}", seconds=job.run.lease_s) as lease:
        if lease is None:
            return WorkResult(work_item, "busy", key=key)
        existing = existing_output(root, work_item, key, verify=job.run.verify)
        if existing:  # made while we waited
            return WorkResult(work_item, "present", existing, key)
        right.lease = lease
        # Estimates from samples of the pixels are made here too, not as further tasks of the cluster.
        with computed_by(context.scheduler):
            result = _result(item, context, key)
        claim = Claim({"eoaug:content_key": key}, right.check, context.scheduler)
        labels = _labels(work_item.label, result, single=job.output.format != "cog")
        items = list(
            publish(result, root, work_item.collection, format=job.output.format, ids=labels, claim=claim)
        )
    size = sum(_size(root.folder / work_item.collection / item["id"], item) for item in items)
    # Of several dates or members, only what holds for all of them.
    shares = {item["properties"].get("eoaug:synthetic_fraction") for item in items}
    note = note_of(context, shares.pop() or 0.0) if len(shares) == 1 else ""
    return WorkResult(
        work_item, "published", tuple(map(registered_fields, items)), key, stored_bytes=size, note=note
    )


def _result(item: pystac.Item, context: JobContext, key: str) -> xr.Dataset:
    job = context.job
    source = job.source
    cube = open_cube(
        item,
        bands=source.bands or None,
        resolution=source.resolution,
        crs=source.crs,
        chunks={"y": job.run.chunks, "x": job.run.chunks},
        patch_url=signer_of(source.catalog),
        allow=context.allow,
        labels=job.labels or None,
    )
    if not isinstance(cube, xr.Dataset):
        raise SourceError(
            f"item {item.id!r} has bands on several grids", "choose bands of one grid with source.bands"
        )
    return renamed(result_of_item(cube, item.id, context), key)


def _labels(label: str, result: xr.Dataset, *, single: bool) -> list[str]:
    """Return the ids of the items of a result; the first is the work item's own."""
    if single:
        return [label]
    dates = [f"{time:%Y%m%dT%H%M%S}" for time in result.indexes["time"]]
    members = [f"m{k:03d}" for k in range(result.sizes["member"])] if "member" in result.dims else [""]
    suffixes = [
        "-".join(part for part in (date if len(dates) > 1 else "", member) if part)
        for date in dates
        for member in members
    ]
    return [label, *(f"{label}-{suffix}" for suffix in suffixes[1:])]


def _size(home: Location, item: Mapping[str, Any]) -> int:
    folders = {(home / asset["href"]).relative_to(home).parts[0] for asset in item["assets"].values()}
    return sum(p.size for name in folders for p in (home / name).rglob("*") if p.is_file())
