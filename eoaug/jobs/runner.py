"""Jobs: a verb applied to every item of a catalog, on this machine or on a cluster, and resumable.

Items stream from the source through workers to the target, with a bounded number in flight. The catalog alone
shows what is done, so an interrupted job is resumed by the same command.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from eoaug.errors import JobError, printable
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.clusters import DaskExecutor, Executor, InProcess
from eoaug.jobs.config import Job, JobBase, read_job
from eoaug.jobs.content_key import version
from eoaug.jobs.journal import read_journals
from eoaug.jobs.report import Report, write_report
from eoaug.jobs.series import work_of
from eoaug.jobs.sources import no_item
from eoaug.jobs.work_items import JobContext, JobWork, WorkItem, WorkResult
from eoaug.progress import line_per_interval
from eoaug.stac.catalog import Root
from eoaug.stac.publish import check_format
from eoaug.stac.transactions import Api

__all__ = ["run_job", "run_work"]


_BUSY_S = 0.5
"""Seconds to wait before trying again items that another job is processing."""


def run_job(
    config: Job | Mapping[str, Any] | str | Path,
    client: Any = None,
    *,
    progress: bool | None = None,
    recompute: bool = False,
) -> Report:
    """Run a job, or the rest of it: existing items with the same content key are skipped.

    Parameters
    ----------
    config
        A YAML file, a mapping of the same form (``source``, ``verb``, ``parameters``, ``generator``,
        ``output``, ``run``), or a `Job`.
    client
        A ``distributed.Client``, whose workers see the same file system; None: this process.
    progress
        True or False; default: a bar on a terminal, and elsewhere a line every 30 s.
    recompute
        Continue a job that another version of eoaug began, and compute all its items again.

    Returns
    -------
    Report
        Counts, failures and throughput. A failed item never stops the others.

    Raises
    ------
    ParameterError, SourceError, TargetError, JobError
        The job is not valid, its source or target cannot be used, or its cluster is lost.

    Examples
    --------
    >>> eoaug.run_job("job.yaml").published  # doctest: +SKIP
    """
    job = read_job(config)
    check_format(job.output.format)
    work, work_items = work_of(job)
    report = run_work(
        job,
        work,
        work_items,
        client,
        generates=job.generates,
        progress=progress,
        recompute=recompute,
    )
    if not report.seen and job.source.since is None:
        raise no_item(job)
    return report


def run_work(
    job: JobBase,
    work: JobWork,
    work_items: Callable[[Bookkeeper], Iterable[WorkItem]],
    client: Any = None,
    *,
    generates: bool,
    progress: bool | None = None,
    recompute: bool = False,
) -> Report:
    """Do the work of a job of any kind, or the rest of it.

    Parameters
    ----------
    job
        Its configuration.
    work
        What is done with each work item.
    work_items
        Returns the work items; those that cannot be read are recorded by the bookkeeper.
    client, progress, recompute
        As for `run_job`.
    generates
        Whether the generator is used.
    """
    root = Root.at(job.output.catalog)
    _refuse_other_version(root, job, recompute=recompute)
    root.check(root.folder / (job.output.collection or "eoaug"))
    if job.output.api is not None:
        Api(job.output.api).check()
    executor: Executor = InProcess() if client is None else DaskExecutor(client, job)
    context = JobContext(job, root, work, "synchronous" if client is not None else None)
    if generates:
        context.generator  # noqa: B018  (a job whose generator cannot be loaded fails here, not item by item)
    bookkeeper = Bookkeeper(job, root)
    start = time.monotonic()
    with _bar(progress) as bar:
        if client is None and job.run.timeout_s is None:
            context = replace(context, advance=bar.advance)
        for result in _results(executor, work_items(bookkeeper), context, bar):
            bookkeeper.add(result)
            bar.tick(result)
    bookkeeper.close()
    report = replace(bookkeeper.report, seconds=time.monotonic() - start, workers=executor.size())
    if report.published or report.failures or report.adopted or report.sent or report.too_cloudy:
        report = write_report(report, context, bookkeeper.shown)
    return report


def _refuse_other_version(root: Root, job: JobBase, *, recompute: bool) -> None:
    """Refuse to mix items of two versions in one job, unless the user asks to compute all of them again."""
    for head, _ in read_journals(root.folder, job.id):
        if head.get("eoaug") != version() and not recompute:
            raise JobError(
                f"this job was begun by eoaug {head.get('eoaug')}; this is {version()}, whose pixels may differ",
                "continue with that version, or compute all items again with --recompute (recompute=True)",
            )


def _results(
    executor: Executor, work_items: Iterable[WorkItem], context: JobContext, bar: _Bar
) -> Iterator[WorkResult]:
    """Yield the result of every work item; those that another job works on are tried again, not for ever."""
    longest = context.job.run.wait_s
    waiting_since: float | None = None
    pending = work_items
    while True:
        busy = []
        for result in executor.results(pending, context):
            if result.status == "busy":
                busy.append(result.work_item)
            else:
                waiting_since = None  # there is progress
                yield result
        if not busy:
            return
        now = time.monotonic()
        if waiting_since is None:
            waiting_since = now
            bar.say(f"waiting for {len(busy)} items that other processes work on, such as {busy[0].id!r}")
        if now - waiting_since > longest:
            for work_item in busy:
                error = JobError(
                    f"item {work_item.id!r} has been worked on by another process for more than run.wait_s={longest:g} s",
                    "look for a process that hangs, and run the job again",
                )
                yield WorkResult(work_item, "failed", error=error)
            return
        time.sleep(_BUSY_S)
        pending = busy


class _Bar:
    """Counts images as they are made, and work items as they end; one that is made of many images shows both.

    A stream that is closed does not end the job.
    """

    def __init__(self, bar: Any) -> None:
        self._bar, self._counts, self._images, self._of_items = bar, Counter[str](), 0, 0

    def advance(self, images: int) -> None:
        """Count images of a work item that has not ended."""
        self._images += images
        with suppress(OSError, ValueError):
            self._bar.update(images)

    def tick(self, result: WorkResult) -> None:
        """Count a work item, and those of its images that `advance` did not count."""
        self._counts[result.status] += 1
        self._of_items += result.work_item.images
        with suppress(OSError, ValueError):
            self._bar.set_postfix(self._counts, refresh=False)
        self.advance(max(self._of_items - self._images, 0))

    def say(self, text: str) -> None:
        """Print a line on standard error."""
        with suppress(OSError, ValueError, AttributeError):
            self._bar.write(f"eoaug: {printable(text)}", file=sys.stderr)

    def state(self) -> str:
        """Return a line of text."""
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        items = f"{self._counts.total()} items" + (f" ({statuses})" if statuses else "")
        return items if self._images == self._counts.total() else f"{self._images} images, {items}"


@contextmanager
def _bar(progress: bool | None) -> Iterator[_Bar]:
    if progress is False or sys.stderr is None or sys.stderr.closed:
        yield _Bar(SimpleNamespace(update=lambda count: None, set_postfix=lambda counts, refresh: None))
        return
    from tqdm.auto import tqdm

    with tqdm(
        unit="image", desc="eoaug", delay=0 if progress else 2, disable=None if progress is None else False
    ) as shown:
        bar = _Bar(shown)
        with line_per_interval(bar.state) if shown.disable else nullcontext():
            yield bar
