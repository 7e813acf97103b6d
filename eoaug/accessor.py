"""``ds.eoaug``, ``da.eoaug`` and ``dt.eoaug``: one forwarding line per method."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import xarray as xr

from eoaug.corruptions.corrupt import corrupt
from eoaug.cube import provenance
from eoaug.cube.backscatter import backscatter
from eoaug.engine.plan import Plan
from eoaug.explore import Explorer, explore
from eoaug.generators.base import Verb
from eoaug.pairs.change import change
from eoaug.plots import compare, plot_uncertainty, show
from eoaug.raster.backscatter import BackscatterForm
from eoaug.verbs.description import described
from eoaug.verbs.extend import extend
from eoaug.verbs.inpaint import inpaint
from eoaug.verbs.planning import plan
from eoaug.verbs.super_resolve import super_resolve
from eoaug.verbs.synthesize import synthesize
from eoaug.verbs.translate import translate

__all__ = ["Accessor"]


@xr.register_dataset_accessor("eoaug")
@xr.register_dataarray_accessor("eoaug")
@xr.register_datatree_accessor("eoaug")
class Accessor:
    """The verbs of eoaug on an xarray object; each returns an object of the same type."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def __repr__(self) -> str:
        """Return what eoaug sees in the object, and what each verb would do."""
        return str(described(self._obj))

    def _repr_html_(self) -> str:
        return described(self._obj)._repr_html_()

    def synthesize(self, **arguments: Any) -> Any:  # noqa: D102 - borrowed below
        return synthesize(self._obj, **arguments)

    def inpaint(self, **arguments: Any) -> Any:  # noqa: D102
        return inpaint(self._obj, **arguments)

    def extend(self, **arguments: Any) -> Any:  # noqa: D102
        return extend(self._obj, **arguments)

    def super_resolve(self, **arguments: Any) -> Any:  # noqa: D102
        return super_resolve(self._obj, **arguments)

    def translate(self, to: str | Sequence[str], **arguments: Any) -> Any:  # noqa: D102
        return translate(self._obj, to=to, **arguments)

    def corrupt(self, kind: str, severity: int = 3, **arguments: Any) -> Any:  # noqa: D102
        return corrupt(self._obj, kind, severity, **arguments)

    def change(self, **arguments: Any) -> Any:  # noqa: D102
        return change(self._obj, **arguments)

    def backscatter(self, to: BackscatterForm = "decibel", **arguments: Any) -> Any:  # noqa: D102
        return backscatter(self._obj, to, **arguments)

    def plan(self, verb: Verb, **arguments: Any) -> Plan:  # noqa: D102
        return plan(verb, self._obj, **arguments)

    def show(self, **arguments: Any) -> Any:  # noqa: D102
        return show(self._obj, **arguments)

    def compare(self, before: Any, **arguments: Any) -> Any:  # noqa: D102
        return compare(self._obj, before, **arguments)

    def explore(self, **arguments: Any) -> Explorer:  # noqa: D102
        return explore(self._obj, **arguments)

    def plot_uncertainty(self, **arguments: Any) -> Any:  # noqa: D102
        return plot_uncertainty(self._obj, **arguments)

    @property
    def provenance(self) -> provenance.Provenance | None:
        """How this cube was made, or None for measured data."""
        return provenance.of(self._obj)


for _function in (
    *(synthesize, inpaint, extend, super_resolve, translate, corrupt, change, backscatter, plan),
    *(show, compare, plot_uncertainty, explore),
):
    getattr(Accessor, _function.__name__).__doc__ = _function.__doc__


class _Deferred:
    """An accessor of another library, which registers it when it is imported: at the first use.

    README and messages use ``.odc`` and ``.rio``, and importing both would double the time of ``import eoaug``.
    """

    def __init__(self, name: str, module: str) -> None:
        self._name, self._module = name, module

    def __get__(self, obj: Any, owner: type) -> Any:
        if obj is None:  # so the library finds no earlier accessor of its name, and does not warn
            raise AttributeError(self._name)
        importlib.import_module(self._module)
        if vars(owner).get(self._name) is self:
            raise AttributeError(f"{self._module} did not register .{self._name}")
        return getattr(obj, self._name)


for _cls in (xr.Dataset, xr.DataArray):
    for _name, _library in (("odc", "odc.geo.xr"), ("rio", "rioxarray")):
        if not hasattr(_cls, _name):
            setattr(_cls, _name, _Deferred(_name, _library))
