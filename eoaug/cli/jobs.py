"""The commands of jobs: ``run``, ``resume``, ``status``, ``validate``, ``gc``, and a job's ``plan``.

Registered by `eoaug.cli.app`. Exit codes: 0 all well, 1 something is not sound, 2 a wrong use, 3 items failed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eoaug.errors import ParameterError

__all__ = ["JobsToo", "register"]


_JOB_HELP = """\b
A job is a YAML file:
  source:
    catalog: catalogs/sample          # path, URL, or name of a STAC API
    collections: [sentinel-2-l2a]     # also ids, bbox, datetime, query, limit
    bands: [B02, B03, B04, B08]
  verb: super_resolve                 # inpaint, extend, synthesize
  parameters: {factor: 2}             # the verb's arguments, seed, steps, members
  generator: embedded
  output: {catalog: augmented, format: cog}  # or zarr, icechunk
  run: {chunks: 1024, retries: 2, timeout_s: 600}
  cluster: {queue: normal, walltime: "02:00:00", cores: 8, memory: 32GB, gpus: 1}   # for --cluster slurm"""

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="YAML file of the job.")]
Catalog = Annotated[
    str, typer.Argument(help="Folder, JSON file or s3://bucket/prefix of a catalog that eoaug wrote to.")
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a dask scheduler, e.g. tcp://10.0.0.5:8786.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Start so many workers on this machine.")]
Team = Annotated[
    str | None,
    typer.Option("--cluster", metavar="slurm", help="Submit workers, as the job's section cluster tells."),
]
Recompute = Annotated[bool, typer.Option("--recompute", help="Go on with a job of another version of eoaug.")]


class JobsToo(TyperGroup):
    """A group of commands in which the name of a YAML file is the command ``job``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Send ``eoaug plan job.yaml`` to ``eoaug plan job job.yaml``."""
        if args and args[0] not in self.commands and args[0].endswith((".yaml", ".yml", ".json")):
            args = ["job", *args]
        return super().resolve_command(ctx, args)


def register(app: typer.Typer, plans: typer.Typer, told: Callable[..., Any]) -> None:
    """Add the commands.

    Parameters
    ----------
    app, plans
        The command line, and its group ``plan``.
    told
        Decorator that prints errors of eoaug and leaves with code 2.
    """

    def command(name: str, short: str, about: str, example: str) -> Callable[..., Any]:
        text = f"{about}\n\n\b\nExample:\n  {example}"
        return app.command(name, short_help=short, help=text)

    @command(
        "run",
        "Run a job: a verb over every item of a catalog.",
        "Run a job, or what is left of it. Killed at any instant, it goes on with the same command; items that "
        "stand are skipped. One bad item never stops the others. Exit code 3 when items failed: the report, which "
        f"is named last, tells which and what to do.\n\n{_JOB_HELP}",
        "eoaug run job.yaml --workers 4",
    )
    @told
    def run(
        job: JobFile,
        scheduler: Scheduler = None,
        workers: Workers = None,
        cluster: Team = None,
        recompute: Recompute = False,
        verify: Annotated[
            bool, typer.Option("--verify", help="Check checksums of what stands; make anew what is damaged.")
        ] = False,
        schema: Annotated[
            bool,
            typer.Option(
                "--schema",
                callback=_schema,
                is_eager=True,
                help="Print the JSON schema of jobs, for editors.",
            ),
        ] = False,
    ) -> None:
        from eoaug.jobs.config import read_job

        del schema
        found = read_job(job)
        if verify:
            found = found.model_copy(update={"run": found.run.model_copy(update={"verify": True})})
        _leave(_run([found], scheduler, workers, cluster, recompute=recompute))

    @command(
        "resume",
        "Go on with the jobs of a catalog.",
        "Go on with every job that has written to a catalog, as its journal tells; no YAML is needed.",
        "eoaug resume augmented --workers 4",
    )
    @told
    def resume(
        catalog: Catalog, scheduler: Scheduler = None, workers: Workers = None, recompute: Recompute = False
    ) -> None:
        from eoaug.jobs.status import resumable

        _leave(_run(resumable(catalog), scheduler, workers, None, recompute=recompute))

    @command(
        "status",
        "Tell how far a job is.",
        "Tell what a job has published, what failed, and what is under work, also while it runs.",
        "eoaug status job.yaml",
    )
    @told
    def status(job: JobFile) -> None:
        from eoaug.jobs.status import job_status

        typer.echo(str(job_status(job)))

    @command(
        "validate",
        "Check every byte that eoaug wrote to a catalog.",
        "Check checksums, georeference, schema and marks of everything that eoaug wrote to a catalog. Exit code 1 "
        "when something is not sound.",
        "eoaug validate augmented",
    )
    @told
    def validate(catalog: Catalog) -> None:
        from eoaug.stac.validate import validate as check

        found = check(catalog)
        typer.echo(str(found))
        raise typer.Exit(0 if found.sound else 1)

    @command(
        "gc",
        "Clear away what killed jobs have left.",
        "Remove scratch files of dead processes, stale leases, and data that no item names any more.",
        "eoaug gc augmented",
    )
    @told
    def gc(
        catalog: Catalog,
        unlisted: Annotated[
            bool, typer.Option("--unlisted", help="Remove complete items too that no collection lists.")
        ] = False,
    ) -> None:
        from eoaug.jobs.garbage import collect_garbage

        typer.echo(str(collect_garbage(catalog, unlisted=unlisted)))

    @command(
        "job-script",
        "Print what would be submitted to SLURM.",
        "Print the batch script that `eoaug run --cluster slurm` would submit; nothing is submitted.",
        "eoaug job-script job.yaml",
    )
    @told
    def script(job: JobFile) -> None:
        from eoaug.jobs.config import read_job
        from eoaug.jobs.slurm import job_script

        typer.echo(job_script(_cluster_of(read_job(job), "slurm")))

    @plans.command(
        "job",
        short_help="A whole job; `eoaug plan job.yaml` does the same.",
        help="Tell what a job would do: items, model calls, disk, memory. Nothing is computed or written.\n\n\b\n"
        "Example:\n  eoaug plan job.yaml",
    )
    @told
    def plan(job: JobFile) -> None:
        from eoaug.jobs.planning import plan_job

        typer.echo(str(plan_job(job)))


def _schema(wanted: bool) -> None:
    if wanted:
        from eoaug.jobs.config import job_schema

        typer.echo(json.dumps(job_schema(), indent=2))
        raise typer.Exit


def _run(
    jobs: list[Any], scheduler: str | None, workers: int | None, cluster: str | None, *, recompute: bool
) -> list[Any]:
    """Run jobs one after the other in this process, on new workers, or on a scheduler."""
    from eoaug.storage.gdal import lock_gdal

    if sum(one is not None for one in (scheduler, workers, cluster)) > 1:
        raise ParameterError("--scheduler, --workers and --cluster do not go together.", "Give one of them.")
    # This process and its workers do nothing but work on inputs; their GDAL needs no other driver.
    lock_gdal()
    from eoaug.jobs.clusters import local_cluster, remote_cluster
    from eoaug.jobs.runner import run_job
    from eoaug.jobs.slurm import slurm_cluster

    team: Any = nullcontext()
    if workers is not None:
        team = local_cluster(workers, memory=jobs[0].run.worker_memory)
    elif cluster is not None:
        team = slurm_cluster(_cluster_of(jobs[0], cluster))
    elif scheduler is not None:
        team = remote_cluster(scheduler)
    reports = []
    with team as client:
        if client is not None:
            typer.echo(f"dashboard: {client.dashboard_link}", err=True)
        for job in jobs:
            reports.append(run_job(job, client, recompute=recompute))
            typer.echo(str(reports[-1]))
            if reports[-1].folder:
                typer.echo(f"report: {reports[-1].folder}/report.html")
    return reports


def _cluster_of(job: Any, kind: str) -> Any:
    if kind != "slurm":
        raise ParameterError(
            f"--cluster {kind!r} is not known.", "Write --cluster slurm, or use --scheduler."
        )
    if job.cluster is None:
        raise ParameterError(
            "the job has no section cluster.",
            "Add it, e.g. cluster: {queue: normal, walltime: '01:00:00', cores: 8, memory: 32GB}.",
        )
    return job.cluster


def _leave(reports: list[Any]) -> None:
    code = 3 if any(report.failures for report in reports) else 0
    if any(report.timed_out for report in reports):
        # A thread that hangs would keep Python from ending.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)
