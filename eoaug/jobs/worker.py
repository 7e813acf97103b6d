"""One item of a job, from its document to its place in the catalog: what a worker does.

`perform` never raises: whatever happens to one item is its outcome, and no other's. It is safe to run twice,
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

from eoaug.cube.provenance import renamed
from eoaug.errors import EoaugError, JobError, SourceError, TargetError, first_line
from eoaug.jobs.content_key import content_key, existing_output, summary
from eoaug.jobs.leases import Lease, leased
from eoaug.jobs.units import JobContext, WorkItem, WorkResult
from eoaug.stac.item_document import Claim
from eoaug.stac.open import open_cube
from eoaug.stac.publish import publish
from eoaug.stac.search import as_item, signer_of
from eoaug.storage.location import Location
from eoaug.verbs.planning import VERBS

__all__ = ["process_item"]


def process_item(unit: WorkItem, task: JobContext) -> WorkResult:
    """Do what is left to do for one item, with the attempts that the job allows."""
    run, begun = task.job.run, time.monotonic()
    error: EoaugError | None = None
    for attempt in range(1, run.retries + 2):
        try:
            done = _in_time(unit, task)
            return replace(done, seconds=time.monotonic() - begun, attempts=attempt)
        except TimeoutError:
            error = JobError(
                f"item {unit.item!r} took longer than run.timeout_s={run.timeout_s:g}.",
                "Give more time, or smaller run.chunks.",
            )
            took = time.monotonic() - begun
            return WorkResult(unit, "failed", seconds=took, attempts=attempt, error=error, timed_out=True)
        except EoaugError as caught:
            error = caught
            if not isinstance(caught, SourceError | TargetError):  # the same again, whenever it is tried
                break
        except MemoryError:
            error = JobError(
                f"item {unit.item!r} needs more memory than this worker has.",
                "Give smaller run.chunks, or workers with more memory.",
            )
            break
        except Exception as caught:  # a generator's own error must not end the job
            error = JobError(
                f"item {unit.item!r} failed with {type(caught).__name__}: {first_line(caught)}.",
                "Run the job again; if it stays, look at this item alone.",
            )
        if attempt <= run.retries:
            time.sleep(min(0.1 * 2**attempt, 5.0))
    return WorkResult(unit, "failed", seconds=time.monotonic() - begun, attempts=attempt, error=error)


def _in_time(unit: WorkItem, task: JobContext) -> WorkResult:
    """Do the work, and stop waiting for it when its time is over: a thread cannot be stopped itself."""
    limit = task.job.run.timeout_s
    hold = _PublishRight()
    if limit is None:
        return _work(unit, task, hold)
    box: list[WorkResult | BaseException] = []

    def go() -> None:
        try:
            box.append(_work(unit, task, hold))
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=go, name=f"eoaug {unit.label}", daemon=True)
    thread.start()
    thread.join(limit)
    if not box:
        hold.revoke()
        raise TimeoutError
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


@dataclass
class _PublishRight:
    """The right to publish, which can be taken away from a thread that hangs."""

    lease: Lease | None = None
    lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        if self.lost.is_set():
            raise JobError("the item's time was over before it was published.", "Give more run.timeout_s.")
        assert self.lease is not None
        self.lease.check()

    def revoke(self) -> None:
        self.lost.set()
        if self.lease is not None:
            self.lease.give_back()


def _work(unit: WorkItem, task: JobContext, hold: _PublishRight) -> WorkResult:
    job, root = task.job, task.root
    item = as_item(unit.found)
    key = content_key(item, unit, task)
    there = existing_output(root, unit, key, verify=job.run.verify)
    if there:
        return WorkResult(unit, "present", there, key)
    with leased(root.folder, f"{unit.collection}/{unit.label}", seconds=job.run.lease_s) as lease:
        if lease is None:
            return WorkResult(unit, "busy", key=key)
        there = existing_output(root, unit, key, verify=job.run.verify)
        if there:  # made while we waited
            return WorkResult(unit, "present", there, key)
        hold.lease = lease
        result = _result(item, task, key)
        claim = Claim({"eoaug:content_key": key}, hold.check, task.scheduler)
        labels = _labels(unit.label, result, single=job.output.format != "cog")
        made = list(publish(result, root, unit.collection, format=job.output.format, ids=labels, claim=claim))
    size = sum(_size(root.folder / unit.collection / one["id"], one) for one in made)
    return WorkResult(unit, "published", tuple(map(summary, made)), key, stored_bytes=size)


def _result(item: pystac.Item, task: JobContext, key: str) -> xr.Dataset:
    job = task.job
    source = job.source
    cube = open_cube(
        item,
        bands=source.bands or None,
        resolution=source.resolution,
        crs=source.crs,
        chunks={"y": job.run.chunks, "x": job.run.chunks},
        patch_url=signer_of(source.catalog),
        allow=task.allow,
    )
    if not isinstance(cube, xr.Dataset):
        raise SourceError(
            f"item {item.id!r} has bands on several grids.", "Choose bands of one grid with source.bands."
        )
    arguments = dict(job.parameters)
    if job.run.batch_tiles is not None:
        arguments["batch_tiles"] = job.run.batch_tiles
    verb = VERBS[job.verb]
    result: xr.Dataset = verb(cube, generator=task.generator, **arguments)
    return renamed(result, key)


def _labels(label: str, result: xr.Dataset, *, single: bool) -> list[str]:
    """Ids of the items of a result; the first is the unit's own."""
    if single:
        return [label]
    dates = [f"{time:%Y%m%dT%H%M%S}" for time in result.indexes["time"]]
    members = [f"m{k:03d}" for k in range(result.sizes["member"])] if "member" in result.dims else [""]
    tails = [
        "-".join(part for part in (date if len(dates) > 1 else "", member) if part)
        for date in dates
        for member in members
    ]
    return [label, *(f"{label}-{tail}" for tail in tails[1:])]


def _size(home: Location, item: Mapping[str, Any]) -> int:
    folders = {(home / asset["href"]).relative_to(home).parts[0] for asset in item["assets"].values()}
    return sum(p.size for name in folders for p in (home / name).rglob("*") if p.is_file())
