"""Workers on a SLURM cluster, through dask-jobqueue: submitted as batch jobs, kept at their number, ended with the job.

Scheduler and workers talk TLS with a certificate made for the occasion, in a folder that all nodes see.
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
def slurm_cluster(told: Cluster) -> Iterator[Any]:
    """Give a client of workers that SLURM runs.

    Parameters
    ----------
    told
        The ``cluster`` section of a job.

    Raises
    ------
    JobError
        dask-jobqueue or SLURM's commands are not there.
    """
    if shutil.which("sbatch") is None:
        raise JobError(
            "SLURM's command sbatch is not on this machine's PATH.",
            "Run this on a login node of the cluster, or use --workers.",
        )
    import distributed

    with _made(told) as cluster, distributed.Client(cluster) as client:
        # Jobs that SLURM ends, by time or by command, are submitted anew.
        cluster.adapt(minimum_jobs=told.jobs, maximum_jobs=told.jobs)
        yield client


def job_script(told: Cluster) -> str:
    """Return what would be submitted for each job; the scheduler's address and certificate differ every time."""
    with _made(told) as cluster:
        script: str = cluster.job_script()
    return script


def _made(told: Cluster) -> Any:
    try:
        from dask_jobqueue.slurm import SLURMCluster
        from distributed import Security
    except ImportError as error:
        raise JobError(
            "a SLURM cluster needs the package dask-jobqueue.", "pip install 'eoaug[slurm]'"
        ) from error
    folder = Path(told.folder).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    workers = told.gpus or told.cores
    more = [f"--gres=gpu:{told.gpus}"] if told.gpus else []
    return SLURMCluster(
        queue=told.queue,
        account=told.account,
        walltime=told.walltime,
        cores=workers,  # a worker each, that works on one item at a time
        processes=workers,
        job_cpu=told.cores,
        memory=told.memory,
        interface=told.interface,
        job_extra_directives=[*more, *told.directives],
        job_script_prologue=["export OMP_NUM_THREADS=1", *told.prologue],
        worker_extra_args=["--resources", "GPU=1"] if told.gpus else [],
        log_directory=str(folder),
        shared_temp_directory=str(folder),
        local_directory=told.local_folder,
        security=Security.temporary(),
        protocol="tls://",
        scheduler_options={"dashboard_address": ":0"},
    )
