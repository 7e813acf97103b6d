"""Progress and failures of a job, from its journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eoaug.display import Shown
from eoaug.errors import TargetError
from eoaug.jobs.config import Job, JobBase, read_job
from eoaug.jobs.journal import read_journals
from eoaug.jobs.leases import live_leases
from eoaug.jobs.report import Failure
from eoaug.stac.catalog import Root
from eoaug.storage.location import Location

__all__ = ["JobStatus", "catalog_status", "job_status", "resumable", "status_of"]


@dataclass(frozen=True, kw_only=True, repr=False)
class JobStatus(Shown):
    """The state of a job, from its journal and catalog."""

    job: str
    runs: int
    published: int
    """Items that its runs published or took over, each counted once."""
    failures: tuple[Failure, ...]
    """Of items that failed and were not published later."""
    working: tuple[str, ...]
    """Items in flight, of this or another job."""

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "job": self.job,
            "runs": str(self.runs),
            "published": str(self.published),
            "failed": str(len(self.failures)),
            "in flight": ", ".join(self.working) or "none",
        }
        lines = [f"{name:<12} {text}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"  {failure.item}: {failure.problem}" for failure in self.failures)])

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def catalog_status(catalog: str | Path) -> list[JobStatus]:
    """Return the state of every job that has written to a catalog, from their journals, the latest last.

    Raises
    ------
    TargetError
        The catalog has no journal.
    """
    root = Root.at(catalog)
    names: dict[str, None] = {}
    for head, _ in read_journals(root.folder):
        names.pop(str(head["job"]), None)
        names[str(head["job"])] = None
    if not names:
        raise _no_journal(catalog)
    return [_status(name, root.folder) for name in names]


def job_status(config: Job | Mapping[str, Any] | str | Path) -> JobStatus:
    """Return the state of a job.

    Parameters
    ----------
    config
        As for `run_job`.
    """
    return status_of(read_job(config))


def status_of(job: JobBase) -> JobStatus:
    """Return the state of a job of any kind."""
    return _status(job.id, Root.at(job.output.catalog).folder)


def _status(job_id: str, folder: Location) -> JobStatus:
    published: set[str] = set()
    failed: dict[str, Failure] = {}
    runs = 0
    for _, events in read_journals(folder, job_id):
        runs += 1
        for event in events:
            # A document that could not be read has an address, but no id.
            name = str(event.get("href") or event.get("item"))
            if event.get("event") == "failed":
                failed[name] = Failure(**event["error"])
            else:
                published.add(name)
                failed.pop(name, None)
    return JobStatus(
        job=job_id,
        runs=runs,
        published=len(published),
        failures=tuple(failed.values()),
        working=tuple(live_leases(folder)),
    )


def resumable(catalog: str | Path) -> list[dict[str, Any]]:
    """Return the configurations of the jobs that have written to a catalog, from their journals, the latest last.

    Raises
    ------
    TargetError
        The catalog has no journal.
    """
    root = Root.at(catalog)
    jobs: dict[str, dict[str, Any]] = {}
    for head, _ in read_journals(root.folder):
        jobs.pop(str(head["job"]), None)
        jobs[str(head["job"])] = head["config"]
    if not jobs:
        raise _no_journal(catalog)
    return list(jobs.values())


def _no_journal(catalog: str | Path) -> TargetError:
    return TargetError(
        f"{str(catalog)!r} has no journal of a job",
        "give the catalog that a job writes to, or run its YAML",
    )
