"""The command line: every command calls one function of a lower floor.

Options have the names of the Python arguments. Commands import what they need when they run, so that
``--help`` is quick. Errors of eoaug are printed in two lines on standard error. Exit codes: 0 success,
1 validation failed, 2 usage error, 3 items failed, 4 do not use the made images.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eoaug.cli import catalogs, evaluation, jobs, models, sample, services, training_sets
from eoaug.cli.streams import tolerate_closed_streams
from eoaug.cli.verbs import SHORT, command
from eoaug.verbs.options import OWN_OPTIONS

__all__ = ["app", "main"]


app = typer.Typer(
    name="eoaug",
    help="Augment Earth-observation data cubes with diffusion models, from STAC catalog to STAC catalog.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plans = typer.Typer(
    help="Estimate the cost of a command, without reading a pixel.",
    short_help="Estimate the cost of a command.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=jobs.PlanGroup,
)
app.add_typer(plans, name="plan")


for _verb in OWN_OPTIONS:
    _name = _verb.replace("_", "-")
    app.command(_name, short_help=SHORT[_verb])(command(_verb, plan=False))
    plans.command(_name, short_help=SHORT[_verb])(command(_verb, plan=True))


app.command("corrupt", short_help=SHORT["corrupt"])(command("corrupt", plan=False))
app.command("change", short_help=SHORT["change"])(command("change", plan=False))


for _module in (jobs, catalogs, training_sets, evaluation, models, sample, services):
    app.add_typer(_module.commands)
plans.add_typer(jobs.plan_commands)
app.add_typer(evaluation.studies, name="study")


def _version(wanted: bool) -> None:
    if wanted:
        import eoaug

        typer.echo(eoaug.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Without a docstring, Typer keeps the help text of `app`.
    del version


def main() -> None:
    """Run the command line."""
    tolerate_closed_streams()
    app()
