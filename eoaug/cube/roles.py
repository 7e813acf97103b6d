"""What each variable of a Dataset is; `eoaug.raster.variables` decides by name and attributes.

`label_variables` is the one place that decides which variables are labels, which no verb changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import xarray as xr

from eoaug.cube.carried import names_carried
from eoaug.cube.dimensions import coord_variables, spatial_dims, time_dim
from eoaug.errors import ParameterError, did_you_mean
from eoaug.raster.bands import SYNTHETIC, common_name
from eoaug.raster.quality import quality_of
from eoaug.raster.variables import LABEL, ROLE, Role, plain_name, role_of

__all__ = [
    "label_names",
    "label_variables",
    "platform_of",
    "product_of",
    "quality_variable",
    "roles_of",
    "with_labels",
]


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
    variables = {str(n): ds.variables[n] for n in ds.data_vars if set(yx) <= set(ds.variables[n].dims)}
    coords = coord_variables(ds)
    roles = {
        name: role_of(name, v.attrs, platform=platform, product=product, labels=labels)
        for name, v in variables.items()
    }
    for name, role in roles.items():
        derived = variables[name].attrs.get("derived") == "yes"
        if role == "band" and (variables[name].dtype.kind not in "iuf" or derived):
            roles[name] = "quality" if variables[name].dtype.kind == "b" else "ancillary"
    dated = {n for n, r in roles.items() if r == "band" and time_dim(variables[n].dims, coords)}
    for name, role in roles.items():
        if dated and role == "band" and name not in dated:
            attrs = variables[name].attrs
            if common_name(plain_name(name, attrs), attrs, platform) is None:
                roles[name] = "ancillary"
    return roles


def label_variables(ds: xr.Dataset, labels: Sequence[str] | str | None = None) -> tuple[str, ...]:
    """Return the names of the variables that are labels: classes of what is on the ground, of which no verb changes a pixel.

    A variable is a label if the user names it, if the asset that it was read from has the role ``labels`` (or
    ``ml-aoi:role`` ``label``), if it has flags (CF ``flag_values``, from STAC ``classification:classes``) that are not
    those of a quality band, or if it has the name of one (``landcover``). Quality bands (SCL, ``qa_pixel``) are none.

    Parameters
    ----------
    ds
        The cube.
    labels
        Names of variables that the user declares to be labels, next to those that `with_labels` has marked.
    """
    roles = roles_of(ds, spatial_dims(ds), label_names(labels))
    return tuple(name for name, role in roles.items() if role == LABEL)


def with_labels(ds: xr.Dataset, labels: Sequence[str] | str | None) -> xr.Dataset:
    """Return a cube in which the variables that the user calls labels are marked as such; their pixels are not touched.

    Parameters
    ----------
    ds
        The cube.
    labels
        The argument ``labels``: names of variables. Names of properties that the cube inherits are no variables to mark.

    Raises
    ------
    ParameterError
        A name of neither.
    """
    names = [name for name in label_names(labels) if name not in names_carried(ds)]
    if not names:
        return ds
    out = ds.copy()
    for name in names:
        if name not in out.data_vars or name == SYNTHETIC:
            known = [str(n) for n in ds.data_vars if n != SYNTHETIC]
            raise ParameterError(
                f"labels={names!r}: the cube has no variable {name!r}, it has {', '.join(known)}",
                did_you_mean(name, known) or "name the variables that hold classes of the ground",
            )
        out[name].attrs[ROLE] = LABEL
    return out


def label_names(labels: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return the argument ``labels`` as names.

    Raises
    ------
    ParameterError
        It holds something else.
    """
    if labels is None:
        return ()
    names = (labels,) if isinstance(labels, str) else tuple(labels)
    if not all(isinstance(name, str) for name in names):
        raise ParameterError(f"labels={labels!r} is not a list of names", "give e.g. labels=['landcover']")
    return tuple(dict.fromkeys(names))


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
        if variable.attrs.get(ROLE) == LABEL:  # clouds may be what is to be learnt
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
