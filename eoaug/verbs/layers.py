"""From the bands of a cube to the channels of a generator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import Cube, CubeBand
from eoaug.cube.typical import typical_of
from eoaug.engine.values import Layer, Origin
from eoaug.errors import BandError, did_you_mean
from eoaug.generators.base import Card
from eoaug.raster.bands import assign_bands, match_bands
from eoaug.raster.plausible import quantity_of
from eoaug.raster.radiometry import Scaling

__all__ = ["empty_cube", "layers_of"]


_SYNTHESIS_BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
"""Bands of an unconditional synthesis by a generator that takes any bands."""

_SAR = {"vv", "vh", "hh", "hv"}
_INDEX = re.compile(r"(m|g|b|r)?nd[a-z]{1,3}\d?|evi2?|[mo]?savi2?|nbr2?|kndvi", re.IGNORECASE)
"""Names of normalised differences and similar indices, from -1 to 1."""
_INDEX_UNIT = (0.3, 0.25)
_REFLECTANCES = {
    **dict.fromkeys(("coastal", "blue", "green", "green05", "yellow", "red", "pan"), (0.09, 0.055)),
    **dict.fromkeys(("rededge", "rededge071"), (0.13, 0.07)),
    **dict.fromkeys(("rededge075", "rededge078", "nir", "nir08", "nir09"), (0.25, 0.11)),
    **dict.fromkeys(("swir16", "swir22"), (0.15, 0.1)),
    "cirrus": (0.002, 0.01),
}
_REFLECTANCE_UNIT, _SAR_UNIT, _KELVIN_UNIT = (0.15, 0.05), (-12.0, 3.0), (290.0, 5.0)
"""Physical value of model unit 0 and size of one model unit, for generators without constants."""


def layers_of(cube: Cube, card: Card) -> tuple[Layer, ...]:
    """Match the cube's bands to the generator's channels, with the maps between their units."""
    # By name, so that the order of the cube's variables changes no pixel; of several bands with one common name, that
    # which is called so comes first.
    ordered = sorted(cube.bands, key=lambda band: (band.name != band.common_name, band.name))
    have = {band.name: band.common_name for band in ordered}
    if card.bands and card.extra_bands:
        slot_of = assign_bands(have, card.bands)
    elif card.bands:
        slots = match_bands(have, card.bands, what=f"generator {card.name!r}")
        slot_of = {name: card.bands.index(common) for common, name in slots.items()}
    else:
        slot_of = {name: i for i, name in enumerate(have)}
    layers = []
    for band in cube.bands:
        slot = slot_of[band.name]
        extra_kind = ""
        if card.bands and slot >= len(card.bands):
            extra_kind, (zero, unit) = _of_extra(band)
        elif card.mean:
            zero, unit = card.mean[slot], card.std[slot]
        elif band.common_name in _SAR:
            zero, unit = _SAR_UNIT
        elif band.common_name is not None and band.common_name.startswith("lwir"):
            zero, unit = _KELVIN_UNIT
        else:
            zero, unit = _REFLECTANCE_UNIT
        to_model = band.scaling.then(Scaling(1 / unit, -zero / unit))
        # Files hold other byte orders; arithmetic and dask give the machine's.
        dtype = str(band.dtype.newbyteorder("="))
        # NumPy data was checked beforehand; a declared scale is taken at its word.
        unchecked = hasattr(band.data, "dask") and band.scaling == Scaling()
        quantity = quantity_of(band.common_name) if unchecked else None
        origin = _origin(card, slot)
        layers.append(
            Layer(
                band.name,
                slot,
                to_model,
                band.scaling,
                dtype,
                band.nodata,
                origin,
                quantity,
                band.common_name or "",
                band.product,
                extra_kind,
            )
        )
    return tuple(layers)


def _of_extra(band: CubeBand) -> tuple[str, tuple[float, float]]:
    """Return the kind of a band without a slot, and its physical value at model unit 0 and size of a model unit.

    Constants for known kinds, else the typical value and spread of the band.
    """
    quantity = quantity_of(band.common_name)
    if quantity == "reflectance":
        return quantity, _REFLECTANCES.get(band.common_name or "", _REFLECTANCE_UNIT)
    if quantity is not None:
        return quantity, _SAR_UNIT if quantity == "decibel" else _KELVIN_UNIT
    return f"band {band.name}", _INDEX_UNIT if _INDEX.fullmatch(band.name) else typical_of(band)


def _origin(card: Card, slot: int) -> Origin:
    name = card.bands[slot] if slot < len(card.bands) else ""
    if name in card.passthrough_bands:
        return "observed"
    return "transferred" if name in card.derived_bands else "generated"


def empty_cube(
    geobox: Any, times: NDArray[np.datetime64] | None, card: Card, wanted: Sequence[str] = ()
) -> Cube:
    """Return a cube without pixels: the grid and bands of an unconditional synthesis.

    Parameters
    ----------
    geobox, times
        Grid and dates.
    card
        Of the generator.
    wanted
        Common names of the bands; empty: those of the card's slots.

    Raises
    ------
    BandError
        The generator draws no such band.
    """
    from odc.geo.xr import xr_coords

    # Without input there is no band to keep, and none to derive another from.
    slots = [name for name in card.bands if name not in card.passthrough_bands | card.derived_bands]
    known = dict.fromkeys((*slots, *sorted(card.land_bands)))
    if known and (unknown := [name for name in wanted if name not in known]):
        hint = did_you_mean(unknown[0], known)
        raise BandError(
            f"generator {card.name!r} draws no band {unknown[0]!r}",
            f"{hint} it draws {', '.join(known)}".lstrip(),
        )

    coords: dict[Any, Any] = dict(xr_coords(geobox))
    if times is not None:
        coords["time"] = xr.Variable(("time",), times)
    y, x = geobox.dimensions
    dims = ("time", y, x) if times is not None else (y, x)
    bands = tuple(
        CubeBand(
            name=name,
            common_name=name,
            data=np.empty((1, 0, 0), np.float32),
            dims=dims,
            scaling=Scaling(),
            nodata=None,
            attrs={
                "common_name": name,
                "units": "1",
                "long_name": "reflectance",
                "grid_mapping": "spatial_ref",
            },
            encoding={},
        )
        for name in dict.fromkeys(wanted) or slots or _SYNTHESIS_BANDS
    )
    # Scalar placeholders fix the order of the result's variables.
    source = xr.Dataset({band.name: xr.Variable((), np.float32(0)) for band in bands}, coords)
    return Cube(
        bands=bands,
        geobox=geobox,
        georeferenced=True,
        times=times,
        names_yx=(y, x),
        name_time="time" if times is not None else None,
        source=source,
        form="dataset",
    )
