"""The commands of jobs: ``run``, ``resume``, ``status``, ``validate``, ``gc``, ``job-script`` and ``plan job``.

Exit codes: 0 success, 1 validation failed, 2 usage error, 3 items failed, 4 do not use the made images.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eoaug.cli.options import Json, option_help, print_result, reported
from eoaug.cli.training_sets import judged, selected
from eoaug.errors import ParameterError
from eoaug.storage.files import open_plain
from eoaug.storage.limits import Limits

__all__ = ["PlanGroup", "commands", "plan_commands"]

commands = typer.Typer()
plan_commands = typer.Typer()

_JOB_HELP = """\b
A job is a YAML file:
  source:
    catalog: sample                   # path, URL, or name of a STAC API
    collections: [sentinel-2-l2a]     # also ids, bbox, datetime, query, limit
    bands: [B02, B03, B04, B08]
    group: place                      # inpaint, extend: use the other dates of a place; also window: 90d, min_clear: 0.5
  verb: inpaint                       # super_resolve, extend, synthesize, translate, corrupt, composite
  parameters: {mask: scl}             # arguments of the verb, seed, steps, members
  generator: embedded
  output: {catalog: augmented, format: cog}  # or zarr, icechunk
  run: {chunks: 1024, retries: 2, timeout_s: 600}
  cluster: {queue: normal, walltime: "02:00:00", cores: 8, memory: 32GB, gpus: 1}   # for --cluster slurm"""

_AUGMENT_HELP = """\b
The YAML file of an augmentation:
  source: {path: EuroSAT_RGB, split: place}   # folder or catalog; also label, task, bands, scale, classes
  policy:                                     # or the name of a file
    per_real: 5                               # images per real one, more of rare classes (balance: 0.5)
    draws:
      - {verb: synthesize, strengths: [0.2, 0.4], weight: 2}
      - {verb: corrupt, parameters: {kind: haze}, strengths: [1, 3]}
    seed: 0
  generator: embedded
  output: {catalog: augmented, format: chips} # or cog, zarr, icechunk
  run: {retries: 2}
  gate: {seeds: 5, fractions: [0.1, 1]}       # for --through gate and `eoaug gate`; also select"""

SetFile = Annotated[Path, typer.Argument(metavar="SET", help="YAML file of the augmentation.")]
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="YAML file of the job.")]
JobOrCatalog = Annotated[
    str,
    typer.Argument(metavar="JOB|CATALOG", help="YAML file of a job, or a catalog that jobs have written to."),
]
Catalog = Annotated[
    str, typer.Argument(help="Catalog written by eoaug: folder, JSON file or s3://bucket/prefix.")
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a dask scheduler, e.g. tcp://10.0.0.5:8786.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of workers to start on this machine.")]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="slurm", help="Submit workers to SLURM, by the job's section cluster."),
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Continue a job that another version of eoaug began.")
]


Since = Annotated[
    str | None,
    typer.Option(
        metavar="DATE",
        help="Only what depends on an item that was added or changed since then; the rest is as it was.",
    ),
]


class PlanGroup(TyperGroup):
    """A group of commands in which ``job.yaml`` is short for ``job job.yaml``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve ``eoaug plan job.yaml`` to ``eoaug plan job job.yaml``."""
        if args and args[0] not in self.commands and args[0].endswith((".yaml", ".yml", ".json")):
            args = ["job", *args]
        return super().resolve_command(ctx, args)


def _schema(wanted: bool) -> None:
    if wanted:
        from eoaug.jobs.config import job_schema

        typer.echo(json.dumps(job_schema(), indent=2))
        raise typer.Exit


@commands.command(
    "run",
    short_help="Run a job: a verb over every item of a catalog.",
    help=option_help(
        "Run a job, or continue it: a job that was killed is resumed by the same command, and existing items are "
        "skipped. A failed item does not stop the others: the command then exits with code 3, and the report, "
        f"printed last, lists the failures and their remedies.\n\n{_JOB_HELP}",
        "eoaug run job.yaml --workers 4",
    ),
)
@reported
def run(
    job: JobFile,
    scheduler: Scheduler = None,
    workers: Workers = None,
    cluster: Cluster = None,
    recompute: Recompute = False,
    since: Since = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify existing outputs, and regenerate damaged ones.")
    ] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", callback=_schema, is_eager=True, help="Print the JSON schema of jobs, for editors."
        ),
    ] = False,
) -> None:
    """Run a job."""
    from eoaug.jobs.config import read_job

    del schema
    config = read_job(job).due_since(since)
    if verify:
        config = config.model_copy(update={"run": config.run.model_copy(update={"verify": True})})
    _leave(_run([config], scheduler, workers, cluster, recompute=recompute))


@commands.command(
    "resume",
    short_help="Resume the jobs of a catalog.",
    help=option_help(
        "Resume every job that has written to a catalog, from the catalog's journal; the YAML is not needed. A catalog "
        "may come from others: hosts, an API or a generator that its journal names are used only if the command names "
        "them too.",
        "eoaug resume augmented --workers 4",
    ),
)
@reported
def resume(
    catalog: Catalog,
    scheduler: Scheduler = None,
    workers: Workers = None,
    recompute: Recompute = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Host or folder that the journal names, if it is yours; repeatable."),
    ] = None,
    api: Annotated[str | None, typer.Option(help="STAC API that the journal names, if it is yours.")] = None,
    generator: Annotated[
        str | None, typer.Option(help="Generator that the journal names, if it is yours.")
    ] = None,
) -> None:
    """Resume the jobs of a catalog."""
    from eoaug.jobs.status import Word, resumable

    configs = resumable(catalog, Word(tuple(allow or ()), api, generator))
    _leave(_run(list(map(_any_job, configs)), scheduler, workers, None, recompute=recompute))


@commands.command(
    "status",
    short_help="Show the progress of a job.",
    help=option_help(
        "Show the items that a job, or every job of a catalog, has published, failed and in flight; also while it "
        "runs.",
        "eoaug status job.yaml\n  eoaug status augmented --json",
    ),
)
@reported
def status(job: JobOrCatalog, as_json: Json = False) -> None:
    """Show the progress of a job, or of the jobs of a catalog."""
    from eoaug.jobs.status import catalog_status, status_of

    if _is_catalog(job):
        print_result(catalog_status(job), as_json)
        return
    print_result(status_of(_any_job(job)), as_json)


def _is_catalog(text: str) -> bool:
    """Return whether an argument is the address of a catalog rather than the file of a job."""
    path = Path(text)
    if "://" in text or path.is_dir():
        return True
    if path.suffix != ".json":
        return False
    try:
        with open_plain(path) as file:
            document = json.loads(file.read(Limits().json_bytes))
    except (OSError, ValueError, RecursionError):
        return path.name in ("catalog.json", "collection.json")
    return isinstance(document, dict) and document.get("type") in ("Catalog", "Collection")


@commands.command(
    "validate",
    short_help="Check every byte that eoaug wrote to a catalog.",
    help=option_help(
        "Check checksums, georeference, schema and synthetic marks of everything that eoaug wrote to a catalog. "
        "Exits with code 1 if a check fails, or if eoaug wrote nothing of it.",
        "eoaug validate augmented",
    ),
)
@reported
def validate(catalog: Catalog, as_json: Json = False) -> None:
    """Check every byte that eoaug wrote to a catalog."""
    from eoaug.stac.validate import validate as check

    validation = check(catalog)
    print_result(validation, as_json)
    raise typer.Exit(0 if validation.sound else 1)


@commands.command(
    "gc",
    short_help="Remove what killed jobs have left.",
    help=option_help(
        "Remove scratch files of dead processes, stale leases, and data that no item refers to.",
        "eoaug gc augmented",
    ),
)
@reported
def gc(
    catalog: Catalog,
    unlisted: Annotated[
        bool, typer.Option("--unlisted", help="Also remove complete items that no collection lists.")
    ] = False,
) -> None:
    """Remove what killed jobs have left."""
    from eoaug.jobs.garbage import collect_garbage

    typer.echo(str(collect_garbage(catalog, unlisted=unlisted)))


@commands.command(
    "job-script",
    short_help="Print the batch script for SLURM.",
    help=option_help(
        "Print the batch script that `eoaug run --cluster slurm` would submit, without submitting it.",
        "eoaug job-script job.yaml",
    ),
)
@reported
def script(job: JobFile) -> None:
    """Print the batch script for SLURM."""
    from eoaug.jobs.config import read_job
    from eoaug.jobs.slurm import job_script

    typer.echo(job_script(_cluster_of(read_job(job), "slurm")))


@plan_commands.command(
    "job",
    short_help="A whole job; `eoaug plan job.yaml` is short for it.",
    help=option_help(
        "Estimate the cost of a job: items, model calls, disk and memory. Nothing is computed or written. Exits with "
        "code 3 if no item can be processed.",
        "eoaug plan job job.yaml",
    ),
)
@reported
def plan(job: JobFile, since: Since = None, as_json: Json = False) -> None:
    """Estimate the cost of a job."""
    from eoaug.jobs.config import read_job
    from eoaug.jobs.planning import plan_job

    cost = plan_job(read_job(job).due_since(since))
    print_result(cost, as_json)
    nothing_due = since is not None and not cost.items
    raise typer.Exit(0 if cost.runnable or nothing_due else 3)


@commands.command(
    "augment",
    short_help="Make more images of a training set.",
    help=option_help(
        "Make images of the split train of a training set by a policy, and write them with their labels to a catalog; "
        "or continue: what was killed goes on with the same command, and existing images are skipped. Images of other "
        "splits are never touched. policy.rounds adds more of what classifiers get wrong. --through gate goes on to a selection and to a verdict, by the sections select: and gate: of "
        "the file; it exits with 4 where the images are not to be used. `eoaug plan augment`, `status`, `resume`, `validate` and `gc` work as for jobs."
        f"\n\n{_AUGMENT_HELP}",
        "eoaug augment set.yaml --workers 2",
    ),
)
@reported
def augment(
    config: SetFile,
    scheduler: Scheduler = None,
    workers: Workers = None,
    recompute: Recompute = False,
    through: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Go on to the stage select or gate, as these commands do."),
    ] = None,
) -> None:
    """Make more images of a training set."""
    from eoaug.augmentation.augment_job import read_augment_job

    if through not in (None, "select", "gate"):
        raise ParameterError(f"--through {through!r} is no stage", "write --through select or --through gate")
    job = read_augment_job(config)
    if through is not None:
        from eoaug.augmentation.augment import plan_augment

        typer.echo(str(plan_augment(job)))
    reports = _run([job], scheduler, workers, None, recompute=recompute)
    if through is None or any(report.failures for report in reports):
        _leave(reports)
    typer.echo(str(selected(config, {})))
    if through == "gate":
        verdict = judged(config, {})
        typer.echo(str(verdict))
        raise typer.Exit(0 if verdict.use else 4)


@plan_commands.command(
    "augment",
    short_help="Count what `eoaug augment` would make.",
    help=option_help(
        "Count the images that an augmentation would make, by class and by verb. Nothing is made or written.",
        "eoaug plan augment set.yaml",
    ),
)
@reported
def plan_of_augment(config: SetFile, as_json: Json = False) -> None:
    """Count what an augmentation would make."""
    from eoaug.augmentation.augment import plan_augment

    cost = plan_augment(config)
    print_result(cost, as_json)


# -- the work -----------------------------------------------------------------------------------------


def _run(
    jobs: list[Any], scheduler: str | None, workers: int | None, cluster: str | None, *, recompute: bool
) -> list[Any]:
    """Run jobs one after the other in this process, on new workers, or on a scheduler."""
    from eoaug.storage.gdal import lock_gdal

    if sum(option is not None for option in (scheduler, workers, cluster)) > 1:
        raise ParameterError("--scheduler, --workers and --cluster exclude each other", "give one of them")
    # This process and its workers open inputs only; their GDAL needs no other driver.
    lock_gdal()
    from eoaug.jobs.clusters import local_cluster, remote_cluster
    from eoaug.jobs.slurm import slurm_cluster

    connection: Any = nullcontext()
    if workers is not None:
        connection = local_cluster(workers, memory=jobs[0].run.worker_memory)
    elif cluster is not None:
        connection = slurm_cluster(_cluster_of(jobs[0], cluster))
    elif scheduler is not None:
        connection = remote_cluster(scheduler)
    reports = []
    with connection as client:
        if client is not None:
            typer.echo(f"dashboard: {client.dashboard_link}", err=True)
        for job in jobs:
            reports.append(_runner_of(job)(job, client, recompute=recompute))
            typer.echo(str(reports[-1]))
            if reports[-1].folder:
                typer.echo(f"report: {reports[-1].folder}/report.html")
    return reports


def _any_job(config: Any) -> Any:
    """Return a job over a catalog, or an augmentation: the latter has no verb, or the verb augment."""
    from eoaug.augmentation.augment_job import read_augment_job
    from eoaug.jobs.config import read_job
    from eoaug.storage.documents import read_mapping

    content, _ = read_mapping(config, noun="job", remedy="give source, verb and output")
    return (read_augment_job if content.get("verb", "augment") == "augment" else read_job)(config)


def _runner_of(job: Any) -> Any:
    from eoaug.jobs.config import Job
    from eoaug.jobs.runner import run_job

    if isinstance(job, Job):
        return run_job
    from eoaug.augmentation.augment import run_augment

    return run_augment


def _cluster_of(job: Any, name: str) -> Any:
    if name != "slurm":
        raise ParameterError(f"--cluster {name!r} is unknown", "write --cluster slurm, or use --scheduler")
    if job.cluster is None:
        raise ParameterError(
            "the job has no section cluster",
            "add it, e.g. cluster: {queue: normal, walltime: '01:00:00', cores: 8, memory: 32GB}",
        )
    return job.cluster


def _leave(reports: list[Any]) -> None:
    code = 3 if any(report.failures for report in reports) else 0
    raise typer.Exit(code)
