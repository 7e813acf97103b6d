"""Who does the work of a job: this process, local workers, or a dask cluster."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from eoaug.errors import JobError, first_line
from eoaug.jobs.config import Job
from eoaug.jobs.units import JobContext, WorkItem, WorkResult
from eoaug.jobs.worker import process_item

__all__ = ["DaskExecutor", "Executor", "InProcess", "local_cluster", "remote_cluster"]


_LOOK_S = 10.0
"""Seconds between two looks for workers while none answers."""
_ALONE_S = 600.0
"""Seconds without any worker after which a job gives up; queues of clusters take their time."""
_CLUSTER_LOST = "the cluster was lost with {} items under way: {}."
_AGAIN = "Run the same command again; what is published stays, and the rest is done."


# -- where the work is done -----------------------------------------------------------------------------


class Executor(Protocol):
    """Who does the work of a job."""

    def outcomes(self, units: Iterable[WorkItem], task: JobContext) -> Iterator[WorkResult]:
        """Yield an outcome for every unit, in any order, with a bounded number under way."""
        ...

    def size(self) -> int:
        """Return how many units are worked on at once."""
        ...


class InProcess:
    """One item after the other; the engine uses all cores for each."""

    def outcomes(self, units: Iterable[WorkItem], task: JobContext) -> Iterator[WorkResult]:
        """Yield the result of every item, one after the other."""
        return (process_item(unit, task) for unit in units)

    def size(self) -> int:
        """Return the number of items in work at once."""
        return 1


class DaskExecutor:
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
        """Return the number of threads of all workers."""
        return max(1, sum(int(n) for n in self._client.nthreads().values()))

    def outcomes(self, units: Iterable[WorkItem], task: JobContext) -> Iterator[WorkResult]:
        """Yield the result of every item, as workers finish them."""
        from distributed import as_completed
        from distributed.comm.core import CommClosedError

        source = iter(units)
        flying: dict[str, tuple[WorkItem, int]] = {}
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
                    outcome: WorkResult = future.result()
                except Exception as error:
                    # `perform` never raises: the worker died at work, or with the result still on it.
                    if self._client.status != "running":
                        raise JobError(_CLUSTER_LOST.format(len(flying) + 1, error), _AGAIN) from error
                    if losses < self._job.run.retries:
                        done.add(self._send(unit, task, flying, losses=losses + 1))
                    else:
                        yield WorkResult(unit, "failed", attempts=losses + 1, error=_lost_worker(unit, error))
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

    def _send(
        self, unit: WorkItem, task: JobContext, flying: dict[str, tuple[WorkItem, int]], *, losses: int
    ) -> Any:
        self._sent += 1
        key = f"eoaug-{self._job.id}-{time.time_ns():x}-{self._sent}"
        flying[key] = unit, losses
        resources = dict(self._job.run.resources) or None
        return self._client.submit(process_item, unit, task, key=key, pure=False, resources=resources)

    def _restart(self, future: Any) -> None:
        """Start a worker anew whose thread hangs: it would hold its memory, and a core, for ever."""
        for address in self._client.who_has([future]).get(future.key, ()):
            try:
                self._client.restart_workers([address], timeout=30, raise_for_error=False)
            except Exception as error:  # workers without a nanny cannot be restarted
                warnings.warn(f"a worker with a hanging item could not be restarted: {error}", stacklevel=2)


def _lost_worker(unit: WorkItem, error: BaseException) -> JobError:
    return JobError(
        f"item {unit.item!r} took its workers down, or they were lost: {first_line(error)}.",
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
