"""What lies at a path or URL that is no STAC document: raster files, netCDF files, Zarr groups, or something else."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from eoaug.errors import SourceError
from eoaug.stac.array_files import is_array_file
from eoaug.stac.raster_files import is_raster_file
from eoaug.storage.files import open_plain
from eoaug.storage.names import clean_href

__all__ = ["Files", "files_at"]


_CATALOGS = ("catalog.json", "collection.json")
_ITEM_BYTES = 2**20
"""Larger JSON files next to images are not looked into."""
_NOT_READ = {
    **dict.fromkeys(
        (".vrt", ".img", ".hdf", ".he4", ".asc", ".bil", ".dat", ".kea", ".png", ".jpg", ".ntf"), "gdal"
    ),
    **dict.fromkeys((".h5", ".hdf5", ".he5", ".grib", ".grib2", ".grb"), "xarray"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z"), "archive"),
}


@dataclass(frozen=True)
class Files:
    """Files that make one source."""

    kind: Literal["raster", "array"]
    """GeoTIFF and JPEG 2000, or netCDF and Zarr."""
    addresses: tuple[str, ...]


def files_at(source: Any) -> Files | None:
    """Return the files of a source; None if it is, or may be, a STAC document or API.

    Raises
    ------
    SourceError
        The path holds something else, or several kinds of files.
    """
    if not isinstance(source, str | Path):
        return None
    text = str(source)
    if "://" in text and not text.lower().startswith("file:"):
        return _at_url(text)
    path = Path(urlsplit(text).path if "://" in text else text).expanduser()
    if path.is_dir():
        return None if any((path / name).is_file() for name in _CATALOGS) else _in_folder(path)
    if not path.is_file():
        return None
    if is_raster_file(str(path)):
        return Files("raster", (str(path),))
    if is_array_file(path):
        return Files("array", (str(path),))
    if path.suffix.lower() in _NOT_READ:
        raise SourceError(f"{text!r} is a {path.suffix} file, which is not read", _remedy(path))
    return None


def _at_url(url: str) -> Files | None:
    path = urlsplit(url).path.rstrip("/").lower()
    if is_raster_file(url):
        return Files("raster", (url,))
    if path.endswith((".zarr", ".nc", ".nc4")):
        opened = "open_zarr" if path.endswith(".zarr") else "open_dataset"
        raise SourceError(
            f"{clean_href(url)!r} is read from a local path only",
            f"copy it, or open it with xarray and hand over the Dataset: open_cube(xr.{opened}({clean_href(url)!r}))",
        )
    return None


def _in_folder(folder: Path) -> Files:
    if is_array_file(folder):
        return Files("array", (str(folder),))
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    rasters = [entry for entry in entries if entry.is_file() and is_raster_file(entry.name)]
    arrays = [entry for entry in entries if is_array_file(entry)]
    items = [entry for entry in entries if entry.suffix == ".json" and _is_item(entry)]
    shown = str(folder)
    if items:
        names = ", ".join(entry.name for entry in items[:3]) + (", ..." if len(items) > 3 else "")
        raise SourceError(
            f"folder {shown!r} holds {len(items)} STAC items and no catalog: {names}",
            f"open an item, which says more than its files: open_cube({str(items[0])!r})",
        )
    if rasters and arrays:
        raise SourceError(
            f"folder {shown!r} holds {len(rasters)} raster files and {len(arrays)} netCDF files or Zarr groups",
            f"open one of them, e.g. open_cube({str(rasters[0])!r}), or move each kind to its own folder",
        )
    if rasters:
        return Files("raster", tuple(map(str, rasters)))
    if arrays:
        return Files("array", tuple(map(str, arrays)))
    raise SourceError(
        f"folder {shown!r} holds neither catalog.json nor collection.json, and no GeoTIFF, netCDF file or Zarr group; "
        f"it holds {_contents(entries)}",
        _folder_remedy(entries),
    )


def _is_item(file: Path) -> bool:
    try:
        with open_plain(file) as opened:
            content = opened.read(_ITEM_BYTES + 1)
        if len(content) > _ITEM_BYTES:
            return False
        document = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("type") == "Feature" and "stac_version" in document


def _contents(entries: list[Path]) -> str:
    kinds = Counter("folders" if entry.is_dir() else f"{entry.suffix or 'other'} files" for entry in entries)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "nothing"


def _folder_remedy(entries: list[Path]) -> str:
    for entry in entries:
        if entry.is_dir() and any((entry / name).is_file() for name in _CATALOGS):
            return f"give the catalog in it: {str(entry)!r}"
    for entry in entries:
        if entry.is_dir() and any(
            is_raster_file(inner.name) or is_array_file(inner) for inner in entry.iterdir()
        ):
            return f"give the folder that holds the files, e.g. {str(entry)!r}"
    for entry in entries:
        if entry.is_file() and entry.suffix.lower() in _NOT_READ:
            return _remedy(entry)
    return "give a catalog, or a folder of GeoTIFF or netCDF files"


def _remedy(path: Path) -> str:
    how = _NOT_READ[path.suffix.lower()]
    if how == "gdal":
        return f"convert it: gdal_translate {path.name} {path.stem}.tif"
    if how == "archive":
        return "unpack it, and give the folder of its images"
    return f"open it with xarray and hand over the Dataset: open_cube(xr.open_dataset({str(path)!r}))"
