"""Variables of lazy results, of which a window costs its own tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

__all__ = ["WindowedVariable", "picked"]


def picked(data: Any, *key: Any) -> Any:
    """Return what numbers and slices pick of an array; of a lazy result, built from its own tiles if they can be."""
    build = getattr(data, "window", None)
    part = None if build is None else build(key)
    return data[key] if part is None else part


class WindowedVariable(xr.Variable):
    """A variable of a lazy result: a slice of it is built from its own tiles, not cut from whole chunks.

    Dask cannot know that a part of a chunk is less work. Whatever is computed from the variable is a plain one.
    """

    __slots__ = ()

    def isel(
        self, indexers: Mapping[Any, Any] | None = None, missing_dims: Any = "raise", **indexers_kwargs: Any
    ) -> Any:
        """Return a window, as `xarray.Variable.isel` does."""
        asked: dict[Any, Any] = {**(indexers or {}), **indexers_kwargs}
        build = getattr(self._data, "window", None)
        if build is not None and set(asked) <= set(self.dims):
            key = tuple(asked.get(dim, slice(None)) for dim in self.dims)
            part = build(key)
            if part is not None:
                dims = tuple(dim for dim, own in zip(self.dims, key, strict=True) if isinstance(own, slice))
                return WindowedVariable(dims, part, self.attrs, self.encoding)
        return super().isel(indexers, missing_dims, **indexers_kwargs)
