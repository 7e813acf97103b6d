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

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from eoaug.errors import EoaugError, JobError, SourceError, TargetError, first_line
from eoaug.jobs.content_key import existing_output
from eoaug.jobs.leases import Lease, leased
from eoaug.jobs.work_items import JobContext, WorkItem, WorkResult
from eoaug.stac.collection_fields import registered_fields
from eoaug.stac.item_document import Claim
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
    job, root, work = context.job, context.root, context.work
    key = work.key(work_item, context)
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
        claim = Claim({"eoaug:content_key": key}, right.check, context.scheduler)
        items = work.publish(work_item, context, key, claim)
    size = sum(_size(root.folder / work_item.collection / item["id"], item) for item in items)
    # Of several dates or members, only what holds for all of them.
    shares = {item["properties"].get("eoaug:synthetic_fraction") for item in items}
    note = work.note(shares.pop() or 0.0) if len(shares) == 1 else ""
    return WorkResult(
        work_item, "published", tuple(map(registered_fields, items)), key, stored_bytes=size, note=note
    )


def _size(home: Location, item: Mapping[str, Any]) -> int:
    folders = {(home / asset["href"]).relative_to(home).parts[0] for asset in item["assets"].values()}
    return sum(p.size for name in folders for p in (home / name).rglob("*") if p.is_file())
