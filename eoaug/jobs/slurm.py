"""Workers on a SLURM cluster, through dask-jobqueue: batch jobs that are replaced when they end, until the job ends.

Scheduler and workers communicate over TLS with a temporary certificate, in a folder that all nodes can read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eoaug.errors import JobError
from eoaug.jobs.config import Cluster

__all__ = ["job_script", "slurm_cluster"]


@contextmanager
def slurm_cluster(settings: Cluster) -> Iterator[Any]:
    """Give a client whose workers run as SLURM batch jobs.

    Parameters
    ----------
    settings
        The ``cluster`` section of a job.

    Raises
    ------
    JobError
        dask-jobqueue or SLURM's commands are not installed.
    """
    if shutil.which("sbatch") is None:
        raise JobError(
            "SLURM's command sbatch is not on this machine's PATH",
            "run this on a login node of the cluster, or use --workers",
        )
    import distributed

    with _slurm_cluster(settings) as cluster, distributed.Client(cluster) as client:
        # Batch jobs that SLURM ends, by time limit or by command, are submitted again.
        cluster.adapt(minimum_jobs=settings.jobs, maximum_jobs=settings.jobs)
        yield client


def job_script(settings: Cluster) -> str:
    """Return the script of each batch job; the scheduler's address and certificate differ every time."""
    with _slurm_cluster(settings) as cluster:
        script: str = cluster.job_script()
    return script


def _slurm_cluster(settings: Cluster) -> Any:
    try:
        from dask_jobqueue.slurm import SLURMCluster
        from distributed import Security
    except ImportError as error:
        raise JobError(
            "a SLURM cluster needs the package dask-jobqueue", "pip install 'eoaug[slurm]'"
        ) from error
    folder = Path(settings.folder).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    workers = settings.gpus or settings.cores
    gres = [f"--gres=gpu:{settings.gpus}"] if settings.gpus else []
    return SLURMCluster(
        queue=settings.queue,
        account=settings.account,
        walltime=settings.walltime,
        cores=workers,  # one worker per core, which processes one item at a time
        processes=workers,
        job_cpu=settings.cores,
        memory=settings.memory,
        interface=settings.interface,
        job_extra_directives=[*gres, *settings.directives],
        job_script_prologue=["export OMP_NUM_THREADS=1", *settings.prologue],
        worker_extra_args=["--resources", "GPU=1"] if settings.gpus else [],
        log_directory=str(folder),
        shared_temp_directory=str(folder),
        local_directory=settings.local_folder,
        security=Security.temporary(),
        protocol="tls://",
        scheduler_options={"dashboard_address": ":0"},
    )
