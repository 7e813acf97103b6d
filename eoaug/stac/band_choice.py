"""Which bands of an item are read: those that a request names, or all data, those that only the file lists included."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pystac

from eoaug.errors import BandError, EoaugError, did_you_mean
from eoaug.raster.bands import SYNTHETIC
from eoaug.stac.declared_bands import DeclaredBand, distinct
from eoaug.stac.headers import Header

__all__ = ["bands_of_file", "choose_bands"]


_PLAIN_NAME = re.compile(r"\w[\w .+-]{0,62}")
"""Descriptions of bands that serve as names of variables."""
_COORDINATES = frozenset({"x", "y", "longitude", "latitude", "time", "member", "spatial_ref"})


def bands_of_file(band: DeclaredBand, header: Header) -> list[DeclaredBand]:
    """Return the bands of a file whose asset lists none, named by their descriptions; alpha channels are left out."""
    if len(header.numbers) < 2:
        return [band]
    texts = [header.names[number - 1] for number in header.numbers]
    bands = []
    for number, text in zip(header.numbers, texts, strict=True):
        plain = (
            _PLAIN_NAME.fullmatch(text) is not None and text not in _COORDINATES and texts.count(text) == 1
        )
        name = text if plain else f"{band.key}_{number}"
        bands.append(replace(band, index=number, names=(name,), listed=len(header.numbers)))
    return bands


def choose_bands(
    item: pystac.Item,
    candidates: Sequence[DeclaredBand],
    names: tuple[str, ...],
    bands_in_file: Callable[[DeclaredBand], list[DeclaredBand]],
) -> dict[str, DeclaredBand]:
    """Return the bands by requested name: an asset key, band name or common name; without names all data.

    Parameters
    ----------
    item
        For messages.
    candidates
        From `declared_bands`.
    names
        Requested names; empty: all data.
    bands_in_file
        Opens the file of an asset without a list of bands, and returns its bands.

    Raises
    ------
    BandError
        A name that no band has, or several.
    """
    if not names:
        bands = _opened([band for band in candidates if band.data], bands_in_file)
        return {band.names[0]: band for band in bands if band.data}
    chosen = {}
    for name in names:
        hits = _hits(candidates, name)
        if not hits:
            candidates = _opened(candidates, _or_itself(bands_in_file))
            hits = _hits(candidates, name)
        if not hits:
            known = sorted({alias for band in candidates for alias in band.names})
            raise BandError(
                f"item {item.id!r} has no band {name!r}; it has {known}",
                did_you_mean(name, known, cutoff=0.5) or "name one of these",
            )
        if len(hits) == 1 and not (hits[0].listed or hits[0].array):
            inside = bands_in_file(hits[0])
            if len(inside) > 1:
                raise BandError(
                    f"{hits[0]} holds {len(inside)} bands: {[band.names[0] for band in inside]}",
                    "name one or several of these instead",
                )
        if len(hits) > 1:
            raise BandError(
                f"band {name!r} of item {item.id!r} is ambiguous: {[band.names[0] for band in hits]}",
                "name one of these instead",
            )
        chosen[name] = hits[0]
    # The marks of generated pixels come with any of the bands.
    marks = [band for band in candidates if band.names[0] == SYNTHETIC == item.properties.get("eoaug:mask")]
    return chosen | {band.names[0]: band for band in marks}


def _hits(candidates: Sequence[DeclaredBand], name: str) -> list[DeclaredBand]:
    hits = [band for band in candidates if band.names[0] == name]
    hits = hits or [band for band in candidates if name in band.names and band.data]
    return hits or [band for band in candidates if name in (*band.names, band.common_name)]


def _opened(
    candidates: Sequence[DeclaredBand], bands_in_file: Callable[[DeclaredBand], list[DeclaredBand]]
) -> list[DeclaredBand]:
    """Return the bands with those of files that the item does not list; names are distinct."""
    single: list[DeclaredBand] = []
    several: list[DeclaredBand] = []
    for band in candidates:
        inside = [band] if band.listed or band.array else bands_in_file(band)
        (single if len(inside) == 1 else several).extend(inside)
    taken = {name for band in single for name in band.names}
    own = distinct([replace(band, data=band.data and band.names[0] not in taken) for band in several])
    return [*single, *own]


def _or_itself(
    bands_in_file: Callable[[DeclaredBand], list[DeclaredBand]],
) -> Callable[[DeclaredBand], list[DeclaredBand]]:
    """Search the files for a name; those that cannot be opened do not hide the others."""

    def search(band: DeclaredBand) -> list[DeclaredBand]:
        try:
            return bands_in_file(band)
        except EoaugError:
            return [band]

    return search
