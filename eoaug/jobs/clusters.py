"""Executors of a job: this process, local workers, or a dask cluster."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from eoaug.errors import JobError, first_line
from eoaug.jobs.child import end_child
from eoaug.jobs.config import JobBase
from eoaug.jobs.work_items import JobContext, WorkItem, WorkResult
from eoaug.jobs.worker import process_item

__all__ = ["DaskExecutor", "Executor", "InProcess", "local_cluster", "remote_cluster"]


_LOOK_S = 10.0
"""Seconds between two checks for workers while no result arrives."""
_ALONE_S = 600.0
"""Seconds without any worker after which a job is aborted; batch queues can be slow."""
_CLUSTER_LOST = "the cluster was lost with {} items in flight: {}"
_AGAIN = "run the same command again; published items are kept, and the others are processed"


class Executor(Protocol):
    """Processes the work items of a job."""

    def results(self, work_items: Iterable[WorkItem], context: JobContext) -> Iterator[WorkResult]:
        """Yield the result of every work item, in any order, with a bounded number in flight."""
        ...

    def size(self) -> int:
        """Return how many items are processed at the same time."""
        ...


class InProcess:
    """Processes one item after the other in this process; the engine uses all cores for each."""

    def results(self, work_items: Iterable[WorkItem], context: JobContext) -> Iterator[WorkResult]:
        """Yield the result of every item, one after the other."""
        try:
            for work_item in work_items:
                yield process_item(work_item, context)
        finally:
            end_child()

    def size(self) -> int:
        """Return 1: one item is processed at a time."""
        return 1


class DaskExecutor:
    """Processes items on the workers of a ``distributed.Client``."""

    def __init__(self, client: Any, job: JobBase) -> None:
        self._client, self._job, self._sent = client, job, 0
        address = str(client.scheduler.address) if client.scheduler is not None else ""
        host = urlsplit(address).hostname or ""
        if address.startswith("tcp://") and host not in ("127.0.0.1", "::1", "localhost"):
            warnings.warn(
                f"the scheduler {address} accepts unencrypted connections, and whoever can connect to it can run code on its workers: "
                "use TLS (distributed.Security) or a network that you trust",
                stacklevel=4,
            )

    def size(self) -> int:
        """Return the number of threads of all workers."""
        return max(1, sum(int(n) for n in self._client.nthreads().values()))

    def results(self, work_items: Iterable[WorkItem], context: JobContext) -> Iterator[WorkResult]:
        """Yield the result of every item, as workers finish them."""
        from distributed import as_completed
        from distributed.comm.core import CommClosedError

        source = iter(work_items)
        in_flight: dict[str, tuple[WorkItem, int]] = {}
        # Twice what the workers process at the same time, so that none is idle; more would only enlarge the graph.
        most = 2 * self.size() + 2
        completed = as_completed()
        try:
            while True:
                while len(in_flight) < most and (work_item := next(source, None)) is not None:
                    completed.add(self._send(work_item, context, in_flight, losses=0))
                if not in_flight:
                    return
                self._await(completed, len(in_flight))
                future = next(completed)
                work_item, losses = in_flight.pop(future.key)
                try:
                    result: WorkResult = future.result()
                except Exception as error:
                    # `process_item` never raises: the worker died during the work, or before its result was fetched.
                    if self._client.status != "running":
                        raise JobError(_CLUSTER_LOST.format(len(in_flight) + 1, error), _AGAIN) from error
                    if losses < self._job.run.retries:
                        completed.add(self._send(work_item, context, in_flight, losses=losses + 1))
                    else:
                        yield WorkResult(
                            work_item, "failed", attempts=losses + 1, error=_lost_worker(work_item, error)
                        )
                    continue
                yield result
        except (CommClosedError, OSError, TimeoutError) as error:
            raise JobError(_CLUSTER_LOST.format(len(in_flight), error), _AGAIN) from error

    def _await(self, completed: Any, in_flight: int) -> None:
        """Wait for a result; raise JobError if the cluster has no worker for a long time."""
        last_seen = checked = time.monotonic()
        while not completed.has_ready():
            time.sleep(0.02)
            now = time.monotonic()
            if now - checked > _LOOK_S:
                checked = now
                last_seen = now if self._client.nthreads() else last_seen
                if now - last_seen > _ALONE_S:
                    raise JobError(
                        f"the cluster has had no worker for {_ALONE_S:g} s, with {in_flight} items in flight",
                        f"start workers, and {_AGAIN}",
                    )

    def _send(
        self,
        work_item: WorkItem,
        context: JobContext,
        in_flight: dict[str, tuple[WorkItem, int]],
        *,
        losses: int,
    ) -> Any:
        self._sent += 1
        key = f"eoaug-{self._job.id}-{time.time_ns():x}-{self._sent}"
        in_flight[key] = work_item, losses
        resources = dict(self._job.run.resources) or None
        return self._client.submit(process_item, work_item, context, key=key, pure=False, resources=resources)


def _lost_worker(work_item: WorkItem, error: BaseException) -> JobError:
    return JobError(
        f"item {work_item.id!r} crashed its workers, or they were lost: {first_line(error)}",
        "give workers more memory (run.worker_memory), or use smaller run.chunks",
    )


@contextmanager
def local_cluster(workers: int, *, memory: str = "auto") -> Iterator[Any]:
    """Give a client with workers on this machine, each a process that handles one item at a time.

    Parameters
    ----------
    workers
        Number of worker processes.
    memory
        Memory limit of each, e.g. ``"4GB"``.
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
            env={"OMP_NUM_THREADS": "1", **_epoch()},
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        # A nanny restarts its worker, but not one that dies during its start; `adapt` replaces that one too.
        cluster.adapt(minimum=workers, maximum=workers)
        yield client


def _epoch() -> dict[str, str]:
    """Return the time that is written instead of now, if there is one: a worker may be forked from an older process."""
    return {name: os.environ[name] for name in ("SOURCE_DATE_EPOCH",) if name in os.environ}


@contextmanager
def remote_cluster(scheduler: str) -> Iterator[Any]:
    """Give a client of a running scheduler.

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
            f"the scheduler {scheduler!r} does not answer: {error}",
            "check the address, e.g. tcp://10.0.0.5:8786",
        ) from error
    with client:
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise JobError("workers need the package distributed", "pip install 'eoaug[cluster]'") from error
    return distributed
