"""``ds.eoaug``, ``da.eoaug`` and ``dt.eoaug``: one forwarding line per method."""

from __future__ import annotations

from typing import Any

import xarray as xr

from eoaug.cube import operations, provenance
from eoaug.cube.plan import Plan
from eoaug.generators.base import Verb

__all__ = ["Accessor"]


@xr.register_dataset_accessor("eoaug")
@xr.register_dataarray_accessor("eoaug")
@xr.register_datatree_accessor("eoaug")
class Accessor:
    """The verbs of eoaug on an xarray object; each returns the kind of object it was called on."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def synthesize(self, **arguments: Any) -> Any:  # noqa: D102 - borrowed below
        return operations.synthesize(self._obj, **arguments)

    def inpaint(self, **arguments: Any) -> Any:  # noqa: D102
        return operations.inpaint(self._obj, **arguments)

    def extend(self, **arguments: Any) -> Any:  # noqa: D102
        return operations.extend(self._obj, **arguments)

    def super_resolve(self, **arguments: Any) -> Any:  # noqa: D102
        return operations.super_resolve(self._obj, **arguments)

    def plan(self, verb: Verb, **arguments: Any) -> Plan:  # noqa: D102
        return operations.plan(verb, self._obj, **arguments)

    @property
    def provenance(self) -> provenance.Provenance | None:
        """How this cube was made, or None for measured data."""
        return provenance.of(self._obj)

    for _name in ("synthesize", "inpaint", "extend", "super_resolve", "plan"):
        locals()[_name].__doc__ = getattr(operations, _name).__doc__
    del _name
