"""plan: the plan of any verb, without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import xarray as xr

from eoaug.engine.coverage import coverage_of
from eoaug.engine.plan import Plan
from eoaug.errors import ParameterError, error_context
from eoaug.generators.base import Verb
from eoaug.verbs.checks import unknown
from eoaug.verbs.extend import extend, prepare_extend
from eoaug.verbs.inpaint import inpaint, prepare_inpaint
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, refuse_unknown
from eoaug.verbs.super_resolve import prepare_super_resolve, super_resolve
from eoaug.verbs.synthesize import prepare_synthesize, synthesize
from eoaug.verbs.translate import prepare_translate, translate

__all__ = ["VERBS", "check_known", "plan", "prepared_verb"]

VERBS: Mapping[Verb, Callable[..., Any]] = {
    "synthesize": synthesize,
    "inpaint": inpaint,
    "extend": extend,
    "super_resolve": super_resolve,
    "translate": translate,
}
"""The functions by name."""


def plan(verb: Verb, ds: Any = None, **arguments: Any) -> Plan:
    """Return the plan of a verb, without calling the generator; see `Plan.explain`.

    Parameters
    ----------
    verb
        ``"synthesize"``, ``"inpaint"``, ``"extend"``, ``"super_resolve"`` or ``"translate"``.
    ds
        The cube.
    **arguments
        As for the verb.
    """
    if not isinstance(verb, str) or verb not in _PREPARE:
        raise unknown("verb", verb, _PREPARE)
    if isinstance(ds, xr.DataTree):
        raise ParameterError(f"a plan is of one cube, ds is a tree of {len(list(ds.subtree))} nodes",
                             "plan node by node: eoaug.plan(verb, tree['path'].to_dataset())")  # fmt: skip
    own = dict(list(signature(_PREPARE[verb]).parameters.items())[2:])
    for name in arguments:
        if name not in own and name not in Options.__annotations__:
            raise unknown("argument", name, [*own, *Options.__annotations__])
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ParameterError(f"{verb} needs {name}=", f"see help(eoaug.{verb})")
    with error_context(verb):
        prepared = prepared_verb(verb, ds, arguments)
        return replace(prepared.plan, coverage=coverage_of(prepared.plan, prepared.inputs))


def check_known(verb: Verb, ds: Any, **arguments: Any) -> None:
    """Refuse to inpaint a cube without one known pixel; a lazy cube is read up to the first."""
    if verb == "inpaint" and arguments.get("fill") != "all":
        prepared = prepared_verb("inpaint", ds, arguments)
        refuse_unknown(prepared.plan, prepared.inputs)


def prepared_verb(verb: Verb, ds: Any, arguments: Mapping[str, Any]) -> PreparedVerb:
    """Return a verb with its arguments checked, before its run."""
    options: Options = {k: v for k, v in arguments.items() if k in Options.__annotations__}  # type: ignore[assignment]
    own = {k: v for k, v in arguments.items() if k not in Options.__annotations__}
    return _PREPARE[verb](ds, options, **own)


_PREPARE: dict[str, Callable[..., PreparedVerb]] = {
    "synthesize": prepare_synthesize,
    "inpaint": prepare_inpaint,
    "extend": prepare_extend,
    "super_resolve": prepare_super_resolve,
    "translate": prepare_translate,
}
