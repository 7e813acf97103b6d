"""The sample catalog that is part of eoaug: real Sentinel-1 and Sentinel-2 patches."""

from __future__ import annotations

from pathlib import Path

from eoaug.errors import SourceError

__all__ = ["named_source", "sample"]

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "sample_catalog", _PACKAGE.parent / "catalogs" / "sample")
"""In an installed package, and in a checkout."""


def sample() -> Path:
    """Return the folder of the sample catalog: six patches of 1.2 km each from Sentinel-2 L2A and Sentinel-1 GRD.

    The file NOTICE in it names sources and licences.

    Returns
    -------
    pathlib.Path
        A source for `open_cube` and the command line.

    Raises
    ------
    SourceError
        The catalog is not there.

    Examples
    --------
    >>> cube = eoaug.open_cube(eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02"])
    >>> cube.sizes["x"]
    120
    """
    for place in _PLACES:
        if (place / "catalog.json").is_file():
            return place
    raise SourceError(
        f"the sample catalog is not in {str(_PLACES[0])!r}",
        "install eoaug from a wheel, or run it from a checkout",
    )


def named_source(source: str) -> str:
    """Return the path of the sample catalog for the name ``sample``, unless a file is called so; others as they are."""
    return str(sample()) if source == "sample" and not Path(source).exists() else source
