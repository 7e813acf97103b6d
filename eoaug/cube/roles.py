"""What each variable of a Dataset is; `eoaug.raster.variables` decides by name and attributes."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import xarray as xr

from eoaug.cube.dimensions import time_dim
from eoaug.errors import ParameterError
from eoaug.raster.bands import SYNTHETIC, common_name
from eoaug.raster.quality import quality_of
from eoaug.raster.variables import Role, plain_name, role_of

__all__ = ["platform_of", "product_of", "quality_variable", "roles_of"]


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


_FIRST = ("scl", "qa_pixel", "pixel_qa", "fmask")
"""Quality bands that are read rather than others of the same cube."""


def quality_variable(ds: xr.Dataset, yx: tuple[str, str], bands: Collection[str] = ()) -> str | None:
    """Return the variable that says which pixels are cloud; None without one that is understood.

    Classes win over probabilities. A mask of valid data (``dataMask``) says where data are missing, not clouds; a
    probability in floating numbers without units may be percent or a share.

    Parameters
    ----------
    ds
        The cube.
    yx
        Names of its spatial dimensions.
    bands
        Names of variables that are bands.
    """
    product = product_of(ds)
    found: dict[str, tuple[bool, int]] = {}
    for place, (name, variable) in enumerate((str(n), v) for n, v in ds.data_vars.items()):
        if name in bands or name == SYNTHETIC or not set(yx) <= set(variable.dims):
            continue
        called = plain_name(name, variable.attrs)
        try:
            quality = quality_of(called, variable.attrs, product)
        except ParameterError:  # broken flags are refused where the user names the band
            continue
        if quality is None or re.fullmatch(r"data_?mask", called.lower()):
            continue
        unclear = quality.threshold is not None and quality.most > 1 and variable.dtype.kind == "f"
        if (quality.cloud or quality.threshold is not None) and not unclear:
            plain = re.sub(r"[_-]\d+m$", "", called.lower())
            rank = _FIRST.index(plain) if plain in _FIRST else len(_FIRST) + place
            found[name] = (quality.threshold is not None, rank)
    return min(found, key=lambda name: found[name], default=None)


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
