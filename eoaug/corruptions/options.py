"""The arguments of `corrupt` on the command line and in the YAML file of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eoaug.corruptions.kinds import KINDS, parameters_of
from eoaug.errors import ParameterError
from eoaug.verbs.checks import unknown
from eoaug.verbs.options import Option

__all__ = ["CORRUPT_OPTIONS", "check_job_parameters"]

CORRUPT_OPTIONS: Mapping[str, Option] = {
    "kind": Option(cli=str, required=True, help=f"Kind of corruption: {', '.join(KINDS)}."),
    "severity": Option(cli=int, default=3, help="Severity from 1 to 5."),
    "labels": Option(
        cli=list[str], metavar="NAMES", help="Variables that are labels. [default: those with flag values]"
    ),
    "pair": Option(
        cli=bool,
        flags=("--pair",),
        default=False,
        help="Write the bands as they were too, as <band>_clear; for kinds that keep the grid.",
    ),
    "values": Option(
        cli=list[str],
        metavar="KEY=VALUE",
        help="Physical parameters in place of those of the severity, e.g. cover=0.25. In a job they are parameters "
        "like the others.",
    ),
}

_OWN = ("severity", "seed", "labels", "pair")


def check_job_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of a job with which no cube can be corrupted.

    Raises
    ------
    ParameterError
        No kind, or a name or a value that is unknown.
    """
    if "kind" not in parameters:
        raise ParameterError(
            "the job has the verb corrupt and no kind", "add it, e.g. parameters: {kind: clouds, severity: 3}"
        )
    for name in parameters:
        if name in ("like", "chunks", "ds"):
            raise unknown("parameter of corrupt in a job", name, ("kind", *_OWN))
    values = {k: v for k, v in parameters.items() if k not in ("kind", *_OWN)}
    parameters_of(parameters["kind"], parameters.get("severity", 3), values)
