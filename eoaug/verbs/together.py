"""Verbs on many small images: each result is that of its verb alone, and the generator's batches are full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from eoaug.engine.together import can_be_pooled, compute_together
from eoaug.errors import error_context
from eoaug.generators.base import Verb
from eoaug.verbs.planning import prepared_verb
from eoaug.verbs.prepare import PreparedVerb
from eoaug.verbs.run import finish

__all__ = ["ImageCall", "run_together"]


@dataclass(frozen=True)
class ImageCall:
    """One image that a verb is called with."""

    verb: Verb
    ds: xr.Dataset
    """In memory."""
    arguments: Mapping[str, Any]
    what: str
    """The image, for messages."""


def run_together(calls: Sequence[ImageCall]) -> list[Any]:
    """Return the result of every call, or the exception that it raised: one that fails does not stop the others.

    Parameters
    ----------
    calls
        Calls with one generator.
    """
    prepared = [_caught(lambda call=call: _prepared(call), call.what) for call in calls]
    pooled = [
        at
        for at, one in enumerate(prepared)
        if isinstance(one, PreparedVerb) and not one.lazy and can_be_pooled(one.plan)
    ]
    arrays: dict[int, Mapping[str, Any]] = {}
    try:
        made = compute_together([(prepared[at].plan, prepared[at].inputs) for at in pooled])
        arrays = dict(zip(pooled, made, strict=True))
    except Exception:  # of one image; each is made alone below, where it is seen which
        arrays = {}
    return [
        one
        if isinstance(one, Exception)
        else _caught(lambda one=one, at=at: finish(one, arrays.get(at)), call.what)
        for at, (one, call) in enumerate(zip(prepared, calls, strict=True))
    ]


def _prepared(call: ImageCall) -> PreparedVerb:
    with error_context(call.verb):
        return prepared_verb(call.verb, call.ds, {"progress": False, **call.arguments})


def _caught(run: Any, what: str) -> Any:
    try:
        with error_context(what):
            return run()
    except Exception as error:
        return error
