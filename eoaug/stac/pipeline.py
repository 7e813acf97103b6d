"""Jobs: a verb over every item of a catalog, on this machine or on a cluster, to be stopped and begun again.

Items stream from the source through workers to the target; a bounded number is under way at any time. What
is done is known from the catalog alone, so a job that died anywhere goes on with the same command.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from eoaug.cube.operations import plan
from eoaug.errors import EoaugError, JobError, SourceError, TargetError
from eoaug.guard import Guard, clean_href, folder_of
from eoaug.objects import is_object
from eoaug.stac.api import Api
from eoaug.stac.catalog import MADE_BY, Root
from eoaug.stac.config import Job, read_job
from eoaug.stac.items import pixel_size, read_scenes
from eoaug.stac.ledger import Journal, live_leases, read_journals
from eoaug.stac.publish import check_format
from eoaug.stac.read import open_cube
from eoaug.stac.report import Failure, Report, write_report
from eoaug.stac.search import (
    Found,
    Search,
    as_item,
    known_sources,
    parse_bbox,
    parse_interval,
    signer_of,
    stream,
)
from eoaug.stac.work import Outcome, Task, Unit, content_key, perform, standing, unit_of, version

__all__ = [
    "JobPlan",
    "JobStatus",
    "job_status",
    "local_cluster",
    "plan_job",
    "remote_cluster",
    "resumable",
    "run_job",
]

_FLUSH_S = 2.0
"""Seconds between two updates of the catalog, at least; its document is written anew each time."""
_FLUSH_SHARE = 10
"""Update the catalog only after so many times the seconds that the last update took."""
_LOOK_S = 10.0
"""Seconds between two looks for workers while none answers."""
_ALONE_S = 600.0
"""Seconds without any worker after which a job gives up; queues of clusters take their time."""
_CLUSTER_LOST = "the cluster was lost with {} items under way: {}."
_AGAIN = "Run the same command again; what is published stays, and the rest is done."
_IMPATIENT_S, _PATIENT_S = 2.0, 60.0
"""How long an API that is away is asked again, while there is other work, and in the end."""
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
    team: _Team = _Here() if client is None else _Cluster(client, job)
    task = Task(job, root, _allowed(job), "synchronous" if client is not None else None)
    task.generator  # noqa: B018  (a job whose generator cannot be loaded fails here, not item by item)
    books = _Books(job, root)
    begun = time.monotonic()
    with _bar(progress) as tick:
        waiting: Iterable[Unit] = _units(job, books)
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


def _allowed(job: Job) -> tuple[str, ...]:
    """What addresses of items may point to: what the user listed, and the place of the source itself."""
    source, known = job.source.catalog, known_sources().get(job.source.catalog)
    if known is not None:
        return (*job.source.allow, str(urlsplit(known["url"]).hostname), *known["hosts"])
    if is_object(source):
        return (*job.source.allow, folder_of(source))
    if "://" in source:
        parts = urlsplit(source)
        secure = parts.scheme.lower() == "https"
        return (*job.source.allow, f"{parts.hostname}:{parts.port or (443 if secure else 80)}")
    path = Path(source).expanduser().resolve()
    return (*job.source.allow, str(path if path.is_dir() else path.parent))


def _units(job: Job, books: _Books | None = None) -> Iterator[Unit]:
    """Yield what the source holds for the job, one item in memory at a time.

    With books, what cannot be read is entered there as failed; without, it is an error.
    """
    source, search = job.source, _search(job)
    seen: set[tuple[str, str]] = set()

    def lost(href: str, error: EoaugError) -> None:
        assert books is not None
        unit = Unit(Found({}, href, Guard()), href, "", "")
        books.add(Outcome(unit, "failed", error=error))

    told = None if books is None else lost
    for found in stream(source.catalog, search, text=source.datetime, allow=source.allow, lost=told):
        try:
            item = as_item(found)
            if not search.keeps(item):
                continue
            unit = unit_of(found, item, job)
            if (unit.collection, unit.label) in seen:
                raise SourceError(
                    f"item {item.id!r} is in the source twice.", "Give it another id, or choose collections."
                )
        except EoaugError as error:
            if told is None:
                raise
            told(clean_href(found.href), error)
            continue
        seen.add((unit.collection, unit.label))
        yield unit
        if source.limit is not None and len(seen) >= source.limit:
            return


def _search(job: Job) -> Search:
    source = job.source
    return Search(
        collections=source.collections,
        ids=source.ids,
        bbox=None if source.bbox is None else parse_bbox(source.bbox),
        interval=None if source.datetime is None else parse_interval(source.datetime),
        query=source.query,
        limit=source.limit,
        cql2=source.filter,
    )


def _refuse_other_version(root: Root, job: Job, *, recompute: bool) -> None:
    """A job that two versions made would hold items of both; that is for the user to decide."""
    for head, _ in read_journals(root.folder, job.id):
        if head.get("eoaug") != version() and not recompute:
            raise JobError(
                f"this job was begun by eoaug {head.get('eoaug')}; this is {version()}, whose pixels may differ.",
                "Go on with that version, or make all items anew with --recompute (recompute=True).",
            )


# -- books ----------------------------------------------------------------------------------------------


class _Books:
    """Enters outcomes into catalog, journal and report; the catalog first, and not for every single item."""

    def __init__(self, job: Job, root: Root) -> None:
        self._job, self._root = job, root
        self._journal = Journal(root.folder, job.id, {"eoaug": version(), "config": job.described()})
        self._listed: dict[str, set[str]] = {}
        self._waiting: dict[str, list[Mapping[str, Any]]] = {}
        self._events: list[Mapping[str, Any]] = []
        self._flushed, self._cost = time.monotonic(), 0.0
        self.report = Report(job=job.id, described=job.described())
        self._api = None if job.output.api is None else Api(job.output.api)
        self._unsent: dict[str, dict[str, None]] = {}
        self.shown: list[Unit] = []
        """Some of what was published, for pictures."""

    def add(self, outcome: Outcome) -> None:
        """Enter an outcome."""
        unit, report = outcome.unit, self.report
        event = {
            "item": unit.item,
            "href": clean_href(unit.found.href),
            "seconds": round(outcome.seconds, 3),
            "attempts": outcome.attempts,
        }
        if outcome.status == "failed":
            assert outcome.error is not None
            failure = Failure(
                unit.item, type(outcome.error).__name__, outcome.error.problem, outcome.error.remedy
            )
            self.report = replace(
                report,
                failures=(*report.failures, failure),
                timed_out=report.timed_out + outcome.timed_out,
            )
            self._events.append({"event": "failed", **event, "error": failure.as_dict()})
        else:
            unlisted = [one for one in outcome.items if one["id"] not in self._list_of(unit.collection)]
            fresh = outcome.status == "published"
            self.report = replace(
                report,
                published=report.published + fresh,
                adopted=report.adopted + (not fresh and bool(unlisted)),
                skipped=report.skipped + (not fresh and not unlisted),
                work_seconds=report.work_seconds + outcome.seconds * fresh,
                stored_bytes=report.stored_bytes + outcome.stored_bytes,
            )
            if self._api is not None:
                self._unsent.setdefault(unit.collection, {}).update(
                    (one["id"], None) for one in outcome.items
                )
            if fresh and len(self.shown) < self._job.run.pictures:
                self.shown.append(unit)
            if fresh or unlisted:
                # A replaced item may have another footprint or date than the one that is listed.
                self._waiting.setdefault(unit.collection, []).extend(outcome.items)
                names = [one["id"] for one in outcome.items]
                kind = "published" if fresh else "adopted"
                told = {"collection": unit.collection, "made": names, "key": outcome.key}
                self._events.append({"event": kind, **event, **told})
        pause = max(_FLUSH_S, _FLUSH_SHARE * self._cost)
        if time.monotonic() - self._flushed > pause:
            self.flush()

    def flush(self) -> None:
        """Write what waits: first the catalog, then the journal."""
        begun = time.monotonic()
        for name, items in self._waiting.items():
            self._root.register(name, items, f"{MADE_BY[:-1]} by a job: {self._job.verb}.")
            self._list_of(name).update(one["id"] for one in items)
        with suppress(TargetError):  # an API that went away may be back at the next flush; `close` insists
            self._send(_IMPATIENT_S)
        self._journal.append(self._events)
        self._waiting, self._events = {}, []
        self._flushed = time.monotonic()
        self._cost = self._flushed - begun

    def close(self) -> None:
        """Write what waits, and tell of what an API did not take."""
        self.flush()
        try:
            self._send(_PATIENT_S)
        except TargetError as error:
            assert self._api is not None
            waiting = sum(map(len, self._unsent.values()))
            failure = Failure(
                clean_href(self._api.url),
                type(error).__name__,
                f"{waiting} items are not in the API: {error.problem}",
                error.remedy,
            )
            self.report = replace(self.report, failures=(*self.report.failures, failure))

    def _send(self, patience_s: float) -> None:
        """Bring what stands into the API."""
        for name in list(self._unsent):
            assert self._api is not None
            sent = replace(self._api, patience_s=patience_s).send(
                self._root.folder / name, list(self._unsent[name])
            )
            self.report = replace(self.report, sent=self.report.sent + sent)
            del self._unsent[name]

    def _list_of(self, name: str) -> set[str]:
        if name not in self._listed:
            self._root.sweep(name)
            self._listed[name] = self._root.listed(name)
        return self._listed[name]


# -- where the work is done -----------------------------------------------------------------------------


class _Team(Protocol):
    def outcomes(self, units: Iterable[Unit], task: Task) -> Iterator[Outcome]:
        """Yield an outcome for every unit, in any order, with a bounded number under way."""
        ...

    def size(self) -> int:
        """Return how many units are worked on at once."""
        ...


class _Here:
    """One item after the other; the engine uses all cores for each."""

    def outcomes(self, units: Iterable[Unit], task: Task) -> Iterator[Outcome]:
        return (perform(unit, task) for unit in units)

    def size(self) -> int:
        return 1


class _Cluster:
    """The workers of a ``distributed.Client``."""

    def __init__(self, client: Any, job: Job) -> None:
        self._client, self._job, self._sent = client, job, 0
        address = str(client.scheduler.address) if client.scheduler is not None else ""
        host = urlsplit(address).hostname or ""
        if address.startswith("tcp://") and host not in ("127.0.0.1", "::1", "localhost"):
            warnings.warn(
                f"the scheduler {address} is open to its network, and who reaches it can run code on its workers: "
                "use TLS (distributed.Security) or a network that you trust",
                stacklevel=4,
            )

    def size(self) -> int:
        return max(1, sum(int(n) for n in self._client.nthreads().values()))

    def outcomes(self, units: Iterable[Unit], task: Task) -> Iterator[Outcome]:
        from distributed import as_completed
        from distributed.comm.core import CommClosedError

        source = iter(units)
        flying: dict[str, tuple[Unit, int]] = {}
        # Twice what the workers do at once, so that none waits, and no more: the graph stays this small.
        most = 2 * self.size() + 2
        done = as_completed()
        try:
            while True:
                while len(flying) < most and (unit := next(source, None)) is not None:
                    done.add(self._send(unit, task, flying, losses=0))
                if not flying:
                    return
                self._await(done, len(flying))
                future = next(done)
                unit, losses = flying.pop(future.key)
                try:
                    outcome: Outcome = future.result()
                except Exception as error:
                    # `perform` never raises: the worker died at work, or with the result still on it.
                    if self._client.status != "running":
                        raise JobError(_CLUSTER_LOST.format(len(flying) + 1, error), _AGAIN) from error
                    if losses < self._job.run.retries:
                        done.add(self._send(unit, task, flying, losses=losses + 1))
                    else:
                        yield Outcome(unit, "failed", attempts=losses + 1, error=_lost_worker(unit, error))
                    continue
                if outcome.timed_out:
                    self._restart(future)
                yield outcome
        except (CommClosedError, OSError, TimeoutError) as error:
            raise JobError(_CLUSTER_LOST.format(len(flying), error), _AGAIN) from error

    def _await(self, done: Any, flying: int) -> None:
        """Wait for a result, but not for ever on a cluster whose workers are all gone for good."""
        seen = looked = time.monotonic()
        while not done.has_ready():
            time.sleep(0.02)
            now = time.monotonic()
            if now - looked > _LOOK_S:
                looked = now
                seen = now if self._client.nthreads() else seen
                if now - seen > _ALONE_S:
                    raise JobError(
                        f"the cluster has had no worker for {_ALONE_S:g} s, with {flying} items under way.",
                        f"Start workers. {_AGAIN}",
                    )

    def _send(self, unit: Unit, task: Task, flying: dict[str, tuple[Unit, int]], *, losses: int) -> Any:
        self._sent += 1
        key = f"eoaug-{self._job.id}-{time.time_ns():x}-{self._sent}"
        flying[key] = unit, losses
        resources = dict(self._job.run.resources) or None
        return self._client.submit(perform, unit, task, key=key, pure=False, resources=resources)

    def _restart(self, future: Any) -> None:
        """Start a worker anew whose thread hangs: it would hold its memory, and a core, for ever."""
        for address in self._client.who_has([future]).get(future.key, ()):
            try:
                self._client.restart_workers([address], timeout=30, raise_for_error=False)
            except Exception as error:  # workers without a nanny cannot be restarted
                warnings.warn(f"a worker with a hanging item could not be restarted: {error}", stacklevel=2)


def _lost_worker(unit: Unit, error: BaseException) -> JobError:
    told = (str(error).splitlines() or [type(error).__name__])[0]
    return JobError(
        f"item {unit.item!r} took its workers down, or they were lost: {told}.",
        "Give workers more memory (run.worker_memory), or smaller run.chunks.",
    )


@contextmanager
def local_cluster(workers: int, *, memory: str = "auto") -> Iterator[Any]:
    """Give a client of workers on this machine: a process each, one item at a time, with a memory limit.

    Parameters
    ----------
    workers
        How many.
    memory
        Limit of each, e.g. ``"4GB"``.
    """
    dask = _distributed()
    with (
        dask.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            env={"OMP_NUM_THREADS": "1"},
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        # A nanny starts its worker anew, but not one that dies while it starts; this keeps their number.
        cluster.adapt(minimum=workers, maximum=workers)
        yield client


@contextmanager
def remote_cluster(scheduler: str) -> Iterator[Any]:
    """Give a client of a scheduler that runs already.

    Parameters
    ----------
    scheduler
        Its address, e.g. ``"tcp://10.0.0.5:8786"``.
    """
    dask = _distributed()
    try:
        client = dask.Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise JobError(
            f"the scheduler {scheduler!r} does not answer: {error}.",
            "Check the address, e.g. tcp://10.0.0.5:8786.",
        ) from error
    with client:
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise JobError("workers need the package distributed.", "pip install 'eoaug[cluster]'") from error
    return distributed


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

        def tick(outcome: Outcome) -> None:
            counts[outcome.status] += 1
            bar.update()
            bar.set_postfix(counts, refresh=False)

        yield tick


# -- what would be done, and what was ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What a job would do: told without calling the model and without writing."""

    items: int
    """That pass the filters."""
    standing: int
    """Of these, items whose result stands already."""
    model_calls: int
    tiles: int
    stored_bytes: int
    """Of the results before compression."""
    peak_bytes: int
    """In one worker, at most."""
    unreadable: tuple[Failure, ...] = ()

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "items": f"{self.items}, of which {self.standing} are done",
            "model calls": f"{self.model_calls:,} ({self.tiles:,} tiles)",
            "disk": f"{self.stored_bytes / 1e6:,.1f} MB before compression",
            "memory": f"{self.peak_bytes / 1e6:,.1f} MB in a worker",
        }
        lines = [f"{name:<12} {text}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"unreadable   {one.problem}" for one in self.unreadable)])


def plan_job(config: Job | Mapping[str, Any] | str | Path) -> JobPlan:
    """Return what a job would do, without calling the model and without writing.

    Items of one size and with the same bands cost the same, so only one of each kind is planned in full.

    Parameters
    ----------
    config
        As for `run_job`.
    """
    job = read_job(config)
    root = Root.at(job.output.catalog)
    task = Task(job, root, _allowed(job))
    books = _Books(job, root)
    kinds: dict[Any, Any] = {}
    counts: Counter[Any] = Counter()
    items = done = 0
    lost = []
    for unit in _units(job, books):
        items += 1
        try:
            item = as_item(unit.found)
            if standing(root, unit, content_key(item, unit, task), verify=False):
                done += 1
                continue
            guard = unit.found.guard.allowing(task.allow)
            scenes = read_scenes(item, job.source.bands, signer_of(job.source.catalog), guard)
            kind = tuple(
                (name, band.dtype, tuple(band.geobox.shape), pixel_size(band.geobox))
                for scene in scenes
                for name, band in scene.sources.items()
            )
            if kind not in kinds:
                kinds[kind] = _cost(item, task)
            counts[kind] += 1
        except EoaugError as error:
            lost.append(Failure(unit.item, type(error).__name__, error.problem, error.remedy))
    costs = [(kinds[kind], many) for kind, many in counts.items()]
    return JobPlan(
        items=items,
        standing=done,
        model_calls=sum(cost.model_calls * many for cost, many in costs),
        tiles=sum(cost.tiles * many for cost, many in costs),
        stored_bytes=sum(cost.output_bytes * many for cost, many in costs),
        peak_bytes=max((cost.peak_bytes for cost, _ in costs), default=0),
        unreadable=(*books.report.failures, *lost),
    )


def _cost(item: Any, task: Task) -> Any:
    job = task.job
    cube = open_cube(
        item,
        bands=job.source.bands or None,
        resolution=job.source.resolution,
        crs=job.source.crs,
        chunks={"y": job.run.chunks, "x": job.run.chunks},
        allow=task.allow,
    )
    return plan(job.verb, cube, generator=task.generator, **job.parameters).explain()


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What the journal and the catalog tell of a job."""

    job: str
    runs: int
    published: int
    """Items that its runs published or took over; each counted once."""
    failures: tuple[Failure, ...]
    """Of items that failed and were not published since."""
    working: tuple[str, ...]
    """Items that living processes work on, of this or another job."""

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "job": self.job,
            "runs": str(self.runs),
            "published": str(self.published),
            "failed": str(len(self.failures)),
            "under work": ", ".join(self.working) or "nothing",
        }
        lines = [f"{name:<12} {text}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"  {one.item}: {one.problem}" for one in self.failures)])


def job_status(config: Job | Mapping[str, Any] | str | Path) -> JobStatus:
    """Return what was done of a job so far.

    Parameters
    ----------
    config
        As for `run_job`.
    """
    job = read_job(config)
    root = Root.at(job.output.catalog)
    published: set[str] = set()
    failed: dict[str, Failure] = {}
    runs = 0
    for _, events in read_journals(root.folder, job.id):
        runs += 1
        for event in events:
            # A document that could not be read has an address, but no id yet.
            name = str(event.get("href") or event.get("item"))
            if event.get("event") == "failed":
                failed[name] = Failure(**event["error"])
            else:
                published.add(name)
                failed.pop(name, None)
    return JobStatus(
        job=job.id,
        runs=runs,
        published=len(published),
        failures=tuple(failed.values()),
        working=tuple(live_leases(root.folder)),
    )


def resumable(catalog: str | Path) -> list[Job]:
    """Return the jobs that have written to a catalog, as their journals tell, the latest last.

    Raises
    ------
    TargetError
        No job has.
    """
    root = Root.at(catalog)
    found: dict[str, Job] = {}
    for head, _ in read_journals(root.folder):
        found.pop(str(head["job"]), None)
        found[str(head["job"])] = read_job(head["config"])
    if not found:
        raise TargetError(
            f"{str(catalog)!r} has no journal of a job.",
            "Give the catalog that a job writes to, or run its YAML.",
        )
    return list(found.values())
