"""What each variable of a Dataset is; `eoaug.raster.variables` decides by name and attributes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr

from eoaug.cube.dimensions import time_dim
from eoaug.raster.bands import common_name
from eoaug.raster.variables import Role, plain_name, role_of

__all__ = ["platform_of", "product_of", "roles_of"]


_ORIGIN = ("collection", "product", "product_id", "title", "platform", "id")
"""Attributes that may say which product a quality band belongs to."""


def roles_of(ds: xr.Dataset, yx: tuple[str, str], labels: Collection[str] = ()) -> dict[str, Role]:
    """Return what the variables over the spatial dimensions are, by name.

    A layer without the time dimension next to bands with one is ancillary (terrain, a climatology), unless its
    common name is known: such a band has lost its dates.

    Parameters
    ----------
    ds
        The cube.
    yx
        Names of its spatial dimensions.
    labels
        Names of variables that the user declares to be labels.
    """
    platform, product = platform_of(ds), product_of(ds)
    variables = {str(n): v for n, v in ds.data_vars.items() if set(yx) <= set(v.dims)}
    roles = {
        name: role_of(name, v.attrs, platform=platform, product=product, labels=labels)
        for name, v in variables.items()
    }
    for name, role in roles.items():
        derived = variables[name].attrs.get("derived") == "yes"
        if role == "band" and (variables[name].dtype.kind not in "iuf" or derived):
            roles[name] = "quality" if variables[name].dtype.kind == "b" else "ancillary"
    dated = {n for n, r in roles.items() if r == "band" and time_dim(variables[n].dims, ds.coords)}
    for name, role in roles.items():
        if dated and role == "band" and name not in dated:
            attrs = variables[name].attrs
            if common_name(plain_name(name, attrs), attrs, platform) is None:
                roles[name] = "ancillary"
    return roles


def platform_of(ds: xr.Dataset) -> str | None:
    """Return the satellite that the cube's coordinates or attributes name, or None."""
    if "platform" in ds.coords:
        names = {str(v) for v in np.atleast_1d(ds.coords["platform"].values) if v}
        if len(names) >= 1:
            return sorted(names)[0]
    value = ds.attrs.get("platform") or ds.attrs.get("constellation")
    return str(value) if value else None


def product_of(ds: xr.Dataset) -> str:
    """Return what the cube says of its origin, as one text; see `eoaug.raster.quality.known_quality`."""
    texts = [str(ds.attrs[name]) for name in _ORIGIN if name in ds.attrs]
    for name in ("platform", "item_id", "collection"):
        if name in ds.coords and ds.coords[name].dtype.kind in "UO":
            texts += [str(value) for value in np.unique(ds.coords[name].values.astype(str))[:4]]
    return " ".join(texts)
