"""Texts of inputs that name a coordinate reference system, judged before PROJ reads them.

PROJ opens files that such a text names: grids of datum shifts, initialisation files, models of deformation.
"""

from __future__ import annotations

import re

from eoaug.errors import GridError

__all__ = ["judged_crs", "refuse_grid_files"]


_CODE = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9_]*:[A-Za-z0-9_.]+|urn:ogc:def:crs:[A-Za-z0-9_.:-]+|https?://www\.opengis\.net/def/crs/[A-Za-z0-9_./-]+)\s*")  # fmt: skip
_WKT = re.compile(r"\s*[A-Z_]+\s*[\[(]")
_FILES = re.compile(
    r"grids?\s*=|\b(?:init|file|model)\s*=|PARAMETERFILE|\"PROJ[ -]|\"value\"\s*:\s*\"", re.IGNORECASE
)
"""Parameters of PROJ strings, also inside of WKT, and of WKT2 and PROJJSON, that name files."""
_HARMLESS = re.compile(
    r"nadgrids\s*=\s*@null|\"PROJ (?:ob_tran o_proj=(?:longlat|latlong|lonlat|latlon)|healpix|rhealpix)\""
)
"""What looks like those and names none: the shift that is none; rotated poles and HEALPix, which have no code."""
_MOST = 2**16


def judged_crs(text: str, *, what: str) -> str:
    """Return a text that is the code of an authority, WKT or PROJJSON, and names no file.

    Parameters
    ----------
    text
        As an input has it.
    what
        Where it is written, for the message.

    Raises
    ------
    GridError
        It is something else, such as a PROJ string, or names a file.
    """
    refuse_grid_files(text, what=what)
    if _CODE.fullmatch(text) or _WKT.match(text) or text.lstrip().startswith("{"):
        return text
    raise GridError(
        f"{what}: coordinate reference system {text[:80]!r} is neither a code such as EPSG:32633, nor WKT2 or PROJJSON",
        "write its code, or its WKT2: pyproj.CRS(...).to_wkt()",
    )


def refuse_grid_files(text: str, *, what: str) -> None:
    """Refuse a coordinate reference system that names a file, which PROJ would open.

    Raises
    ------
    GridError
        It names one.
    """
    if len(text) > _MOST or _FILES.search(_HARMLESS.sub("", text)):
        raise GridError(
            f"{what}: coordinate reference system {text[:80]!r} names a file, which is not opened",
            "write its code, such as EPSG:32633, or WKT2 without grid files",
        )
