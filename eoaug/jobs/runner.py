"""Jobs: a verb over every item of a catalog, on this machine or on a cluster, to be stopped and begun again.

Items stream from the source through workers to the target; a bounded number is under way at any time. What
is done is known from the catalog alone, so a job that died anywhere goes on with the same command.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from eoaug.errors import JobError, SourceError
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.clusters import DaskExecutor, Executor, InProcess
from eoaug.jobs.config import Job, read_job
from eoaug.jobs.content_key import version
from eoaug.jobs.journal import read_journals
from eoaug.jobs.report import Report, write_report
from eoaug.jobs.sources import allowed, units
from eoaug.jobs.units import JobContext, WorkItem, WorkResult
from eoaug.stac.catalog import Root
from eoaug.stac.publish import check_format
from eoaug.stac.transactions import Api
from eoaug.storage.names import clean_href

__all__ = ["run_job"]


_BUSY_S = 0.5
"""Wait before asking again for items that another job works on."""


def run_job(
    config: Job | Mapping[str, Any] | str | Path,
    client: Any = None,
    *,
    progress: bool | None = None,
    recompute: bool = False,
) -> Report:
    """Run a job, or what is left of it: items that stand with their content key cost neither model nor write.

    Parameters
    ----------
    config
        A YAML file, a mapping of the same form (``source``, ``verb``, ``parameters``, ``generator``,
        ``output``, ``run``), or a `Job`.
    client
        A ``distributed.Client``, whose workers see the same file system; None: this process.
    progress
        True or False; default: a bar on a terminal.
    recompute
        Go on with a job that another version of eoaug began; its items are made anew.

    Returns
    -------
    Report
        Counts, failures and throughput. A failed item never stops the others.

    Raises
    ------
    ParameterError, SourceError, TargetError, JobError
        The job itself is wrong, its source or target cannot be used, or its cluster is lost.

    Examples
    --------
    >>> eoaug.run_job("job.yaml").published  # doctest: +SKIP
    """
    job = read_job(config)
    check_format(job.output.format)
    root = Root.at(job.output.catalog)
    _refuse_other_version(root, job, recompute=recompute)
    root.check(root.folder / (job.output.collection or "eoaug"))
    if job.output.api is not None:
        Api(job.output.api).check()
    team: Executor = InProcess() if client is None else DaskExecutor(client, job)
    task = JobContext(job, root, allowed(job), "synchronous" if client is not None else None)
    task.generator  # noqa: B018  (a job whose generator cannot be loaded fails here, not item by item)
    books = Bookkeeper(job, root)
    begun = time.monotonic()
    with _bar(progress) as tick:
        waiting: Iterable[WorkItem] = units(job, books)
        while True:
            busy = []
            for outcome in team.outcomes(waiting, task):
                if outcome.status == "busy":
                    busy.append(outcome.unit)
                    continue
                books.add(outcome)
                tick(outcome)
            if not busy:
                break
            time.sleep(_BUSY_S)
            waiting = busy
    books.close()
    report = replace(books.report, seconds=time.monotonic() - begun, workers=team.size())
    if not report.seen:
        raise SourceError(
            f"no item of {clean_href(job.source.catalog)!r} passes the filters of the job.",
            "Widen source.bbox, datetime, collections, ids or query.",
        )
    if report.published or report.failures or report.adopted or report.sent:
        report = write_report(report, root, books.shown)
    return report


def _refuse_other_version(root: Root, job: Job, *, recompute: bool) -> None:
    """A job that two versions made would hold items of both; that is for the user to decide."""
    for head, _ in read_journals(root.folder, job.id):
        if head.get("eoaug") != version() and not recompute:
            raise JobError(
                f"this job was begun by eoaug {head.get('eoaug')}; this is {version()}, whose pixels may differ.",
                "Go on with that version, or make all items anew with --recompute (recompute=True).",
            )


@contextmanager
def _bar(progress: bool | None) -> Iterator[Any]:
    if progress is False:
        yield lambda outcome: None
        return
    from tqdm.auto import tqdm

    counts: Counter[str] = Counter()
    with tqdm(
        unit="item", desc="eoaug", delay=0 if progress else 2, disable=None if progress is None else False
    ) as bar:

        def tick(outcome: WorkResult) -> None:
            counts[outcome.status] += 1
            bar.update()
            bar.set_postfix(counts, refresh=False)

        yield tick
