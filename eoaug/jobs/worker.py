"""What a worker does with one item of a job: read it, run the verb, and publish the result.

`process_item` never raises: whatever happens to one item is its result, and no other's. It is safe to run twice,
here and elsewhere at once: the item's content key says whether the work is done, its lease who does it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

from eoaug.errors import EoaugError, GeneratorError, JobError, SourceError, TargetError, first_line
from eoaug.jobs.child import ChildLostError, ChildTimeoutError, child_of
from eoaug.jobs.content_key import existing_output
from eoaug.jobs.leases import drop_dead, leased
from eoaug.jobs.work_items import JobContext, TooCloudyError, WorkItem, WorkResult
from eoaug.stac.collection_fields import registered_fields
from eoaug.stac.item_document import Claim
from eoaug.storage.location import Location

__all__ = ["attempt", "explained", "may_pass", "process_item"]


def process_item(work_item: WorkItem, context: JobContext) -> WorkResult:
    """Do the remaining work of one item, with the number of attempts that the job allows."""
    start = time.monotonic()
    attempts = Retrying(
        stop=stop_after_attempt(context.job.run.retries + 1),
        wait=wait_exponential(multiplier=0.2, max=5.0),
        retry=retry_if_result(lambda result: result.may_pass),
        retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
    )
    once = attempt if context.job.run.timeout_s is None else _in_time
    result: WorkResult = attempts(once, work_item, context)
    return replace(
        result, seconds=time.monotonic() - start, attempts=attempts.statistics.get("attempt_number", 1)
    )


def attempt(work_item: WorkItem, context: JobContext) -> WorkResult:
    """Do the work of one item once; whatever it raises is its result: SystemExit and panics of Rust too."""
    try:
        return _work(work_item, context)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return WorkResult(
            work_item, "failed", error=explained(error, f"item {work_item.id!r}"), may_pass=may_pass(error)
        )


def _in_time(work_item: WorkItem, context: JobContext) -> WorkResult:
    """Do the work in a process that is ended after run.timeout_s: a thread cannot be ended."""
    limit = context.job.run.timeout_s
    assert limit is not None
    name = f"item {work_item.id!r}"
    try:
        result: WorkResult = child_of(context, attempt).result(work_item, limit)
    except ChildTimeoutError:
        _clear_up(work_item, context)
        error = JobError(
            f"{name} took longer than run.timeout_s={limit:g}",
            "increase run.timeout_s, or use smaller run.chunks",
        )
        return WorkResult(work_item, "failed", error=error, timed_out=True)
    except ChildLostError as lost:
        _clear_up(work_item, context)
        error = JobError(f"{name} ended the process that worked on it: {first_line(lost)}", _LESS_MEMORY)
        return WorkResult(work_item, "failed", error=error, may_pass=True)
    return result


def _clear_up(work_item: WorkItem, context: JobContext) -> None:
    """Remove what a process that was ended has left of an item."""
    with suppress(TargetError, OSError):  # the next run, or gc, removes it
        drop_dead(context.root.folder, f"{work_item.collection}/{work_item.label}")
        context.root.remove_stale_scratch(work_item.collection)


_LESS_MEMORY = "use smaller run.chunks, or workers with more memory"


def may_pass(error: BaseException) -> bool:
    """Return whether another attempt may succeed: not after errors of the request, or of memory."""
    if isinstance(
        error, GeneratorError
    ):  # what a generator raised itself, such as a server that does not answer
        return isinstance(error.__cause__, Exception)
    if isinstance(error, EoaugError):
        return isinstance(error, SourceError | TargetError)
    return isinstance(error, Exception) and not isinstance(error, MemoryError)


def explained(error: BaseException, name: str) -> EoaugError:
    """Return an error of ours for whatever an attempt raised."""
    if isinstance(error, EoaugError):
        return error
    if isinstance(error, MemoryError):
        return JobError(f"{name} needs more memory than this worker has", _LESS_MEMORY)
    return JobError(
        f"{name} failed with {type(error).__name__}: {first_line(error)}",
        "run the job again; if the error remains, process it alone",
    )


def _work(work_item: WorkItem, context: JobContext) -> WorkResult:
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
        claim = Claim({"eoaug:content_key": key}, lease.check, context.scheduler)
        try:
            items = work.publish(work_item, context, key, claim)
        except TooCloudyError as reason:
            return WorkResult(work_item, "too cloudy", key=key, note=str(reason))
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
