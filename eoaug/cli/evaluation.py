"""The command that scores a generator beside classical methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eoaug.cli.options import Texts, option_help, reported, split
from eoaug.errors import ParameterError

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "evaluate",
    short_help="Score a generator.",
    help=option_help(
        "Score a generator beside classical methods on cubes whose truth is known: holes with and without other "
        "dates, super-resolution, whole dates, and images from nothing. Best estimates and single samples are "
        "judged; --members adds ensembles. Writes table.md, table.json, sheets as PNG, and index.html, a page "
        "with pictures that holds all it shows.",
        "eoaug evaluate embedded --data validation-cubes --out evaluation\n"
        "  eoaug evaluate embedded --data validation-cubes --train train-cubes --all-windows "
        "--members 32 --out evaluation\n"
        '  eoaug evaluate classical --data validation-cubes --tasks "inpaint,x2" --out evaluation',
    ),
)
@reported
def evaluate(
    generator: Annotated[str, typer.Argument(help="Name of a generator.")],
    data: Annotated[Path, typer.Option(help="Folder of netCDF cubes it was not trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; its files are replaced.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Folder of the cubes it was trained on, to tell whether it repeats them."),
    ] = None,
    tasks: Annotated[
        Texts,
        typer.Option(
            metavar="NAMES",
            help="Of inpaint, 'inpaint with radar', 'inpaint with dates', x2, x4 (also 'x2 box', 'x2 triangle' ...), 'next date', "
            "'date between', synthesis, throughput. [default: all]",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most windows per task and place.")] = 16,
    all_windows: Annotated[
        bool, typer.Option("--all-windows", help="Every window: figures of sensors with 100 or more.")
    ] = False,
    members: Annotated[
        int, typer.Option(help="Size of ensembles, 32 for coverage of intervals; 0: none.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of samples. [default: its card's]")] = None,
    seed: Annotated[int, typer.Option(help="Of the holes and of the generator's noise.")] = 0,
) -> None:
    """Score a generator beside classical methods on cubes whose truth is known."""
    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out} is a file", "name a folder for the report")
    from eoaug.evaluate.evaluation import PARTS
    from eoaug.evaluate.evaluation import evaluate as score
    from eoaug.evaluate.report import write_report
    from eoaug.generators import load

    found = score(
        load(generator),
        data,
        train_dir=train,
        tasks=split(tasks) or PARTS,
        limit=None if all_windows else limit,
        members=members,
        steps=steps,
        seed=seed,
    )
    page = write_report(found, out)
    typer.echo(found.table.to_markdown())
    typer.echo(page)
