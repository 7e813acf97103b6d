"""From a STAC catalog to a cube: `open_cube`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac
import xarray as xr
from odc.geo.geobox import GeoBox

from eoaug.cube.roles import with_labels
from eoaug.errors import EoaugError, GridError, ParameterError, SourceError, did_you_mean, first_line
from eoaug.formats.georeference import geobox_of
from eoaug.stac.array_files import open_array_files
from eoaug.stac.band_sources import ItemDate
from eoaug.stac.collections import Collections
from eoaug.stac.composite import Composite, composite_of
from eoaug.stac.cube_grid import grid_key, node_name, target_grid
from eoaug.stac.filters import Bbox, Search, instant_of, parse_bbox, parse_interval
from eoaug.stac.items import read_item_dates
from eoaug.stac.load import DEFAULT_CHUNKS, ReadOptions, load_dates
from eoaug.stac.local_files import Files, files_at
from eoaug.stac.raster_files import UNDATED, refuse_unclear_dates
from eoaug.stac.search import find, show, signer_of
from eoaug.storage.access import AccessPolicy

__all__ = ["open_cube"]


def open_cube(
    source: Any,
    *,
    bands: Sequence[str] | str | None = None,
    bbox: Bbox | Sequence[float] | None = None,
    datetime: str | None = None,
    collections: Sequence[str] | str | None = None,
    ids: Sequence[str] | str | None = None,
    query: Mapping[str, Any] | None = None,
    groupby: str = "solar_day",
    limit: int | None = None,
    resolution: float | None = None,
    crs: Any = None,
    chunks: Mapping[str, int] | None = DEFAULT_CHUNKS,
    resampling: str | Mapping[str, str] = "nearest",
    patch_url: Callable[[str], str] | None = None,
    allow: Sequence[str] = (),
    composite: Composite | None = None,
    labels: Sequence[str] | str | None = None,
) -> Any:
    """Open a STAC source as a georeferenced cube in physical units.

    Parameters
    ----------
    source
        Path or URL of a static catalog, collection or item; URL of a STAC API, or its name in
        `known_sources`; one item or several; path or URL of a GeoTIFF; path of a netCDF file or Zarr group, or of a
        folder of such files; or a Dataset, DataArray or DataTree, which is checked and returned as it is.

        Bands of files have the names of their descriptions (``long_name``). The date of a file comes from its
        metadata or its name (``scene_20240601.tif``); without a certain date the cube has no dimension time.
    bands
        Asset keys, band names or common names; the variables get the requested names. Default: all
        raster assets with the role data.
    bbox
        West, south, east, north in degrees; west > east crosses the antimeridian, and so do longitudes beyond 180.
    datetime
        RFC 3339 date or interval: ``"2018"``, ``"2018-05-04"``, ``"2018-01-01/2018-06-30"``,
        ``"2018-01-01/.."``.
    collections, ids
        Only these collections, only these items.
    query
        Item properties: a value, or operators ``eq neq lt lte gt gte in``, e.g.
        ``{"eo:cloud_cover": {"lt": 20}}``.
    groupby
        What makes one date: ``solar_day``, ``time``, ``id`` or the name of an item property.
    limit
        At most this many items, the earliest ones; from an API, the first ones of its answer. A Zarr
        group is one item, whatever its number of dates.
    resolution
        Pixel size in units of ``crs``; default: the smallest of the requested bands.
    crs
        Coordinate reference system of the cube. Default: the items' own; items on several grids give
        a DataTree with a node per grid.
    chunks
        Dask chunk edges by dimension; None reads at once.
    resampling
        How bands of another pixel size come onto the grid, for all or by variable: a name that GDAL
        knows. The default changes no value. Classes, flags and marks are never interpolated: given for all, it does
        not apply to them.
    patch_url
        Applied to every asset's address before it is read, for links that need a signature.
    allow
        What addresses in the source may point to outside of its own folder or host: folders (``"/data"``,
        ``"./data"``), hosts (``"data.example.org"``, ``"*.example.org"``, ``"localhost:9000"``) and
        networks of private addresses (``"10.0.0.0/8"``).
    composite
        A composite without clouds in place of the dates, ``"monthly"``, ``"every 10d"`` or ``"best"`` (one image of all dates): per pixel
        one clear observation, near the middle of the period and far from cloud; nothing is generated. Clear is what the
        quality band of the cube, dilated
        by 100 m as for the verbs, does not call cloud. The variable ``source_date`` has the date of each pixel in days
        since 1970-01-01, -1 without a clear one. See `eoaug.stac.composite.composite_of` for the rules and their sources.
    labels
        Bands that are labels (classes of what is on the ground), in addition to those whose asset has the role ``labels``
        or classes; they are read next to ``bands``, are never interpolated, and no verb changes them. Item properties
        that are labels: what is made of the items inherits them, as it does ``class``, those that ``label:properties``
        lists, the fields of the extensions label, ml-aoi and classification, ``keywords`` and ``license``; the coordinate
        ``item_properties`` holds them as JSON.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Dimensions (time, y, x), for ensembles that `write` made (member, time, y, x). Measurements with a
        declared scale are float32 in physical units, NaN where missing; their encoding keeps type, scale, offset and nodata of the files. Classes, flags
        and integers without a declared scale stay integers. Along ``time``: ``item_id`` and
        ``item_href`` (several joined by ``;``), ``cloud_cover`` (percent), ``platform``, ``gsd`` (m).

    Raises
    ------
    SourceError
        No item passes the filters, or an item or asset cannot be read; for lazy cubes an unreadable asset
        raises when its pixels are computed.
    BandError, GridError, TimeError, RadiometryError, ParameterError
        A band that is missing; no coordinate reference system, or a cube that would be mostly empty;
        no date; contradicting scales; an invalid argument. An item whose fields contradict the header of
        a file: of local files here, of others at the latest when pixels are computed.

    Examples
    --------
    >>> cube = eoaug.open_cube(eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02"])
    >>> cube.sizes["x"]
    120
    """
    given = {name: value for name, value in locals().items() if name not in ("source", "composite")}
    if composite is not None:
        return composite_of(open_cube(source, **given), composite)
    if isinstance(source, xr.Dataset | xr.DataArray | xr.DataTree):
        names = ("bands", "bbox", "datetime", "collections", "ids", "query", "crs", "resolution")
        return _checked(source, {name: given[name] for name in names}, _names(labels, "labels"))
    search = Search(
        collections=_names(collections, "collections"),
        ids=_names(ids, "ids"),
        bbox=None if bbox is None else parse_bbox(bbox),
        interval=None if datetime is None else parse_interval(datetime),
        query=dict(query or {}),
        limit=limit,
    )
    options = ReadOptions(_names(bands, "bands"), groupby, chunks, resampling, _names(labels, "labels"))
    target = _CubeGrid(search.bbox, crs, resolution)
    files = files_at(source)
    if files is not None and files.kind == "array":
        return _array_cube(files, search, options, target, allow)
    dates = _dates(
        find(source, search, text=datetime, allow=allow), search, options, patch_url or signer_of(source)
    )
    if not dates:
        raise SourceError(
            f"none of the dates of the items in {show(source)} lies in datetime={datetime!r}",
            "widen it, or leave it out",
        )
    _refuse_mixture(dates)
    refuse_unclear_dates([date.item for date in dates])
    nodes = _nodes(dates, target, options)
    if not nodes:
        raise SourceError(
            f"none of the {len(dates)} dates in {show(source)} has a pixel inside bbox={search.bbox}",
            "check the order of bbox: west, south, east, north in degrees",
        )
    if len(nodes) == 1:
        return next(iter(nodes.values()))
    return xr.DataTree.from_dict({f"/{name}": ds for name, ds in nodes.items()})


def _dates(
    items: Sequence[tuple[pystac.Item, AccessPolicy]],
    search: Search,
    options: ReadOptions,
    patch_url: Callable[[str], str] | None,
) -> list[ItemDate]:
    """Return the dates of items inside the interval of the search, in order of time."""
    collections = Collections()
    dates = [
        date
        for item, access in items
        for date in read_item_dates(item, options.bands, patch_url, access, collections, options.labels)
    ]
    _refuse_unknown_labels(options.labels, dates)
    return sorted((d for d in dates if search.covers(d.item)), key=lambda date: instant_of(date.item))


def _refuse_unknown_labels(labels: Sequence[str], dates: Sequence[ItemDate]) -> None:
    for label in labels:
        if not any(label in date.sources or label in date.item.properties for date in dates):
            known = sorted({name for date in dates for name in (*date.sources, *date.item.properties)})
            bands = sorted({name for date in dates for name in date.sources})
            raise ParameterError(
                f"labels: {label!r} is neither a band nor a property of the items; bands are {', '.join(bands)}",
                did_you_mean(label, known) or "name one of these, or a property",
            )


@dataclass(frozen=True)
class _CubeGrid:
    """The requested grid of the cube."""

    box: Bbox | None
    crs: Any
    resolution: float | None
    """Pixel size in units of ``crs``; None: that of the items."""

    def __post_init__(self) -> None:
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ParameterError(
                f"resolution={self.resolution!r} is not a pixel size", "give a positive number"
            )

    def groups(self, dates: Sequence[ItemDate]) -> list[list[ItemDate]]:
        """Return the item dates by cube: all in one for a requested CRS, else one per grid."""
        groups: dict[Hashable, list[ItemDate]] = {}
        for date in dates:
            key = "all" if self.crs is not None else grid_key(date.grid, self.resolution)
            groups.setdefault(key, []).append(date)
        return list(groups.values())

    def grid(self, dates: Sequence[ItemDate]) -> GeoBox | None:
        """Return the grid of the cube of these dates; None if none of them meets ``box``."""
        try:
            return target_grid(dates, box=self.box, crs=self.crs, resolution=self.resolution)
        except EoaugError:
            raise
        except Exception as error:  # off the globe pyproj, shapely and floor each raise their own
            raise GridError(
                f"the grid of item {dates[0].item.id!r} lies outside of its reference system: {first_line(error)}",
                "correct its proj:transform and proj:code, or leave it out with ids=",
            ) from error


def _refuse_mixture(dates: Sequence[ItemDate]) -> None:
    """Refuse items of both storage formats: they are two results, and one would hide the other."""
    groups = list(dict.fromkeys(date.item.id for date in dates if date.in_group))
    files = list(dict.fromkeys(date.item.id for date in dates if not date.in_group))
    if groups and files:
        raise ParameterError(
            f"the items have two storage formats: {_several(groups)} in a Zarr group, {_several(files)} in "
            "raster files",
            f"open them one by one: ids={groups[:3]!r}, then ids={files[:3]!r}",
        )


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def _nodes(dates: Sequence[ItemDate], target: _CubeGrid, options: ReadOptions) -> dict[str, xr.Dataset]:
    """Return a cube per grid, by the name of its node."""
    nodes: dict[str, xr.Dataset] = {}
    for group in target.groups(dates):
        grid = target.grid(group)
        if grid is not None:
            nodes[node_name(grid, nodes)] = _without_placeholder(load_dates(group, grid, options), group)
    return nodes


def _array_cube(
    files: Files, search: Search, options: ReadOptions, target: _CubeGrid, allow: Sequence[str]
) -> xr.Dataset:
    """Open netCDF files or Zarr groups, which are one cube without items."""
    unused = {name: getattr(search, name) for name in ("collections", "ids", "query", "limit")}
    unused |= {"resolution": target.resolution, "crs": target.crs}
    if given := [name for name, value in unused.items() if value]:
        raise ParameterError(
            f"{', '.join(given)} were given, but {files.addresses[0]!r} is netCDF or Zarr, which is read on its own "
            "grid and has no items",
            "omit them; open_cube(...).odc.reproject('EPSG:32633', resolution=10) changes the grid",
        )
    access = AccessPolicy.for_source(files.addresses[0], allow)
    ds = open_array_files(
        [Path(address) for address in files.addresses],
        access,
        bands=options.bands,
        bbox=search.bbox,
        interval=search.interval,
        chunks=options.chunks,
    )
    return with_labels(ds, options.labels)


def _without_placeholder(ds: xr.Dataset, dates: Sequence[ItemDate]) -> xr.Dataset:
    """Return a cube without time if no date is known of its files."""
    if not all(date.item.properties.get(UNDATED) for date in dates):
        return ds
    along = [name for name in ds.coords if "time" in ds[name].dims]
    return ds.isel(time=0).drop_vars(along)


def _names(value: Sequence[str] | str | None, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(entry, str) for entry in names):
        raise ParameterError(f"{name}={value!r} is not a list of names", f"give e.g. {name}=['...'], or None")
    return tuple(dict.fromkeys(names))


def _checked(cube: Any, selection: Mapping[str, Any], labels: Sequence[str]) -> Any:
    """Return an xarray object unchanged, after checking that the verbs can use its grid."""
    extra = [name for name, value in selection.items() if value is not None]
    if extra:
        raise ParameterError(
            f"open_cube was given a {type(cube).__name__} together with {', '.join(extra)}",
            "select with xarray itself, e.g. ds[['B02', 'B03']].sel(time='2018')",
        )
    nodes = [node.to_dataset() for node in cube.leaves] if isinstance(cube, xr.DataTree) else [cube]
    for node in nodes:
        geobox_of(node, attempt="opening the cube")
    if labels and not isinstance(cube, xr.Dataset):
        raise ParameterError(
            f"open_cube was given a {type(cube).__name__} together with labels={list(labels)!r}",
            "give labels= to the verb",
        )
    return with_labels(cube, labels) if labels else cube
