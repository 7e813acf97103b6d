"""``ds.eoaug``, ``da.eoaug`` and ``dt.eoaug``: one forwarding line per method."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import xarray as xr

from eoaug.cube import operations, provenance
from eoaug.cube.plan import Plan
from eoaug.generators.base import Verb

__all__ = ["Accessor"]

T = TypeVar("T", xr.Dataset, xr.DataArray, xr.DataTree)


@xr.register_dataset_accessor("eoaug")
@xr.register_dataarray_accessor("eoaug")
@xr.register_datatree_accessor("eoaug")
class Accessor(Generic[T]):
    """The verbs of eoaug on an xarray object."""

    def __init__(self, obj: T) -> None:
        self._obj = obj

    def synthesize(self, **arguments: Any) -> T:
        return operations.synthesize(self._obj, **arguments)

    def inpaint(self, **arguments: Any) -> T:
        return operations.inpaint(self._obj, **arguments)

    def extend(self, **arguments: Any) -> T:
        return operations.extend(self._obj, **arguments)

    def super_resolve(self, **arguments: Any) -> T:
        return operations.super_resolve(self._obj, **arguments)

    def plan(self, verb: Verb, **arguments: Any) -> Plan:
        return operations.plan(verb, self._obj, **arguments)

    @property
    def provenance(self) -> provenance.Provenance | None:
        """How this cube was made, or None for measured data."""
        return provenance.of(self._obj)

    for _name in ("synthesize", "inpaint", "extend", "super_resolve", "plan"):
        locals()[_name].__doc__ = getattr(operations, _name).__doc__
    del _name
