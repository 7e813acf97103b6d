"""The command line: every command calls one function of a lower floor.

Options carry the names of the Python arguments. Commands import what they need when they run, so that
``--help`` is quick; errors of eoaug are two lines on stderr and exit code 2.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eoaug.cli import catalogs, evaluation, jobs, models
from eoaug.cli.options import reported
from eoaug.cli.verbs import OWN, SHORT, command

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
    help="Tell what a command would cost, without reading a pixel.",
    short_help="Tell what a command would cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=jobs.JobsToo,
)
app.add_typer(plans, name="plan")


for _verb in OWN:
    _name = _verb.replace("_", "-")
    app.command(_name, short_help=SHORT[_verb])(command(_verb, plan=False))
    plans.command(_name, short_help=SHORT[_verb])(command(_verb, plan=True))


for _module in (catalogs, evaluation, models):
    app.add_typer(_module.commands)
jobs.register(app, plans, reported)


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
    # Typer makes its text the help of `eoaug`.
    del version


def main() -> None:
    """Run the command line."""
    app()
