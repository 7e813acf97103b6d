"""Jobs: a verb applied to every item of a catalog, on this machine or on a cluster, and resumable.

Items stream from the source through workers to the target, with a bounded number in flight. The catalog alone
shows what is done, so an interrupted job is resumed by the same command.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eoaug.errors import JobError
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.catalog_work import CatalogWork
from eoaug.jobs.clusters import DaskExecutor, Executor, InProcess
from eoaug.jobs.config import Job, JobBase, read_job
from eoaug.jobs.content_key import version
from eoaug.jobs.journal import read_journals
from eoaug.jobs.report import Report, write_report
from eoaug.jobs.sources import allowed, no_item, work_items_of
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
    report = run_work(
        job,
        CatalogWork(job, allowed(job)),
        partial(work_items_of, job),
        client,
        generates=job.verb != "corrupt",
        progress=progress,
        recompute=recompute,
    )
    if not report.seen:
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
    with _bar(progress) as tick:
        pending: Iterable[WorkItem] = work_items(bookkeeper)
        while True:
            busy = []
            for result in executor.results(pending, context):
                if result.status == "busy":
                    busy.append(result.work_item)
                    continue
                bookkeeper.add(result)
                tick(result)
            if not busy:
                break
            time.sleep(_BUSY_S)
            pending = busy
    bookkeeper.close()
    report = replace(bookkeeper.report, seconds=time.monotonic() - start, workers=executor.size())
    if report.published or report.failures or report.adopted or report.sent:
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


@contextmanager
def _bar(progress: bool | None) -> Iterator[Any]:
    if progress is False:
        yield lambda result: None
        return
    from tqdm.auto import tqdm

    counts: Counter[str] = Counter()
    with tqdm(
        unit="item", desc="eoaug", delay=0 if progress else 2, disable=None if progress is None else False
    ) as bar:

        def tick(result: WorkResult) -> None:
            counts[result.status] += 1
            bar.update()
            bar.set_postfix(counts, refresh=False)

        def state() -> str:
            statuses = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
            return f"{counts.total()} items" + (f" ({statuses})" if statuses else "")

        with line_per_interval(state) if bar.disable else nullcontext():
            yield tick
