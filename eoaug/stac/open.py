"""From a STAC catalog to a cube: `open_cube`.

odc-stac does the reading. Around it stands what it leaves open: items of every STAC version are first
brought into one plain form (one asset per band, with type, nodata and grid), and what comes back is
turned into physical units by the scale and offset that the items declare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import odc.stac
import pystac
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.cube.provenance import ALGORITHMIC, COMPOSITE, TRAINED, Provenance, digital_source_type, stamp
from eoaug.errors import EoaugError, GridError, ParameterError, RadiometryError, SourceError, first_line
from eoaug.formats.georeference import geobox_of
from eoaug.raster.grid import gsd_m
from eoaug.stac.band_reader import SOURCE, Driver
from eoaug.stac.cube_grid import grid_key, node_name, on, target_grid
from eoaug.stac.filters import Bbox, Search, item_times, parse_bbox, parse_interval, rfc3339
from eoaug.stac.items import INHERITED, ItemDate, read_scenes
from eoaug.stac.search import find, show, signer_of
from eoaug.storage.gdal import gdal_path

__all__ = ["open_cube"]


DEFAULT_CHUNKS: Mapping[str, int] = MappingProxyType({"y": 1024, "x": 1024})
"""Chunk edges in pixels when none are given; a single date per chunk."""


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
) -> Any:
    """Open a STAC source as a georeferenced cube in physical units.

    Parameters
    ----------
    source
        Path or URL of a static catalog, collection or item; URL of a STAC API, or its name in
        `known_sources`; one item or several; or a Dataset, DataArray or DataTree, which is checked and
        returned as it is.
    bands
        Asset keys, band names or common names; the variables are called as asked for. Default: all
        raster assets with the role data.
    bbox
        West, south, east, north in degrees; west > east crosses the antimeridian.
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
        Pixel size in units of ``crs``; default: that of the finest band asked for.
    crs
        Coordinate reference system of the cube. Default: the items' own; items on several grids give
        a DataTree with a node per grid.
    chunks
        Dask chunk edges by dimension; None reads at once.
    resampling
        How bands of another pixel size come onto the grid, for all or by variable: a name that GDAL
        knows. The default changes no value.
    patch_url
        Applied to every asset's address before it is read, for links that need a signature.
    allow
        What addresses in the source may point to beside its own folder or host: folders (``"/data"``,
        ``"./data"``), hosts (``"data.example.org"``, ``"*.example.org"``, ``"localhost:9000"``) and
        networks of private addresses (``"10.0.0.0/8"``).

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Dimensions (time, y, x), for ensembles that `write` made (member, time, y, x). Measurements with a declared scale are float32 in physical units, NaN
        where missing; their encoding keeps type, scale, offset and nodata of the files. Classes, flags
        and integers without a declared scale stay integers. Along ``time``: ``item_id`` and
        ``item_href`` (several joined by ``;``), ``cloud_cover`` (percent), ``platform``, ``gsd`` (m).

    Raises
    ------
    SourceError
        Nothing found, or an item or asset that cannot be read; for lazy cubes an unreadable asset is
        told when its pixels are computed.
    BandError, GridError, TimeError, RadiometryError, ParameterError
        A band that is not there; no coordinate reference system, or a cube that would be mostly empty;
        no date; contradicting scales; an argument that makes no sense.
    """
    if isinstance(source, xr.Dataset | xr.DataArray | xr.DataTree):
        given = {"bands": bands, "bbox": bbox, "datetime": datetime, "collections": collections, "ids": ids}
        return _checked(source, {**given, "query": query, "crs": crs, "resolution": resolution})
    box = None if bbox is None else parse_bbox(bbox)
    interval = None if datetime is None else parse_interval(datetime)
    wanted = _strings(bands, "bands")
    if resolution is not None and not (math.isfinite(resolution) and resolution > 0):
        raise ParameterError(f"resolution={resolution!r} is no pixel size", "give a positive number")
    if limit is not None and limit < 1:
        raise ParameterError(f"limit={limit!r} leaves no item", "give 1 or more, or None")
    search = Search(
        collections=_strings(collections, "collections"),
        ids=_strings(ids, "ids"),
        bbox=box,
        interval=interval,
        query=dict(query or {}),
        limit=limit,
    )
    items = find(source, search, text=datetime, allow=allow)
    patch = patch_url or signer_of(source)
    found = [scene for item, access in items for scene in read_scenes(item, wanted, patch, access)]
    scenes = sorted((s for s in found if search.covers(s.item)), key=lambda s: item_times(s.item)[0])
    if not scenes:
        raise SourceError(
            f"none of the {len(found)} dates found in {show(source)} lies in datetime={datetime!r}",
            "widen it, or leave it out",
        )
    _refuse_mixture(scenes)
    groups: dict[Hashable, list[ItemDate]] = {}
    for scene in scenes:
        groups.setdefault("all" if crs is not None else grid_key(scene.grid, resolution), []).append(scene)
    nodes = {}
    for group in groups.values():
        try:
            target = target_grid(group, box=box, crs=crs, resolution=resolution)
        except EoaugError:
            raise
        except (
            Exception
        ) as error:  # coordinates beyond the globe: pyproj, shapely and floor each have their own
            raise GridError(
                f"the grid of item {group[0].item.id!r} cannot be drawn on a map: {first_line(error)}",
                "correct its proj:transform and proj:code, or leave it out with ids=",
            ) from error
        if target is not None:
            nodes[node_name(target)] = _load(
                group, target, groupby=groupby, chunks=chunks, resampling=resampling, order=wanted
            )
    if not nodes:
        raise SourceError(
            f"none of the {len(items)} items found in {show(source)} has a pixel inside bbox={bbox}",
            "check the order of bbox: west, south, east, north in degrees",
        )
    if len(nodes) == 1:
        return next(iter(nodes.values()))
    return xr.DataTree.from_dict({f"/{name}": ds for name, ds in nodes.items()})


def _refuse_mixture(scenes: Sequence[ItemDate]) -> None:
    """Two forms of storage are two results: laid over each other, one would hide the other."""
    groups = list(dict.fromkeys(scene.item.id for scene in scenes if scene.in_group))
    files = list(dict.fromkeys(scene.item.id for scene in scenes if not scene.in_group))
    if groups and files:
        raise ParameterError(
            f"the items found are of two kinds: {_several(groups)} in a Zarr group, {_several(files)} in "
            "raster files",
            f"open them one by one: ids={groups[:3]!r}, then ids={files[:3]!r}",
        )


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def _load(
    scenes: Sequence[ItemDate],
    grid: GeoBox,
    *,
    groupby: str,
    chunks: Mapping[str, int] | None,
    resampling: str | Mapping[str, str],
    order: tuple[str, ...],
) -> xr.Dataset:
    names = order or tuple(dict.fromkeys(name for scene in scenes for name in scene.sources))
    forms = {name: _common_form(name, scenes) for name in names}
    parts = [
        _pixels(part, grid, forms, groupby=groupby, chunks=chunks, resampling=resampling)
        for part in _members(scenes).values()
    ]
    ds, groups = parts[0]
    if len(parts) > 1 or scenes[0].member is not None:
        ds = _stacked([ds for ds, _ in parts], list(_members(scenes)))
        dates = zip(*(groups for _, groups in parts), strict=True)
        groups = [[scene for group in date for scene in group] for date in dates]
    origins = sorted({scene.item.collection_id for scene in scenes if scene.item.collection_id})
    if origins:
        ds.attrs["stac_collection"] = ";".join(origins)
    if any(scene.item.properties.get("eoaug:synthetic") is True for scene in scenes):
        ds = stamp(ds, _joint_record(scenes))
    return ds.assign_coords(_time_coords(groups, grid))


def _pixels(
    scenes: Sequence[ItemDate],
    grid: GeoBox,
    forms: Mapping[str, _Form],
    *,
    groupby: str,
    chunks: Mapping[str, int] | None,
    resampling: str | Mapping[str, str],
) -> tuple[xr.Dataset, list[list[ItemDate]]]:
    """Bands over (time, y, x), and the scenes of each date."""
    try:
        ds = odc.stac.load(
            [_plain_item(scene, forms) for scene in scenes],
            bands=list(forms),
            geobox=grid,
            groupby=groupby,
            chunks=None if chunks is None else {**DEFAULT_CHUNKS, **chunks},
            resampling=dict(resampling) if isinstance(resampling, Mapping) else resampling,
            driver=Driver(),
            debug=True,
        )
    except (EoaugError, MemoryError):
        raise
    except Exception as error:  # pyproj, rasterio, numpy and dask each have their own
        raise SourceError(
            f"reading {len(scenes)} items failed: {first_line(error)}",
            f"check groupby={groupby!r}, chunks={chunks!r} and resampling={resampling!r}",
        ) from error
    groups: list[list[ItemDate]] = [
        [scenes[i] for i in part] for part in ds.encoding.pop("debug").grouped_idx
    ]
    for name, form in forms.items():
        _refuse_unmarked_gaps(name, form, groups, grid)
        ds[name] = _physical(ds[name], name, form, groups)
    return ds, groups


def _members(scenes: Sequence[ItemDate]) -> dict[int | None, list[ItemDate]]:
    """Scenes by ensemble member; a single entry when there is no ensemble."""
    found: dict[int | None, list[ItemDate]] = {}
    for scene in scenes:
        found.setdefault(scene.member, []).append(scene)
    if len(found) > 1 and None in found:
        inside = next(scene.item.id for scene in scenes if scene.member is not None)
        raise ParameterError(
            f"item {inside!r} is a member of an ensemble, and item {found[None][0].item.id!r} is none",
            "choose with ids=, collections= or query={'eoaug:member': 0}",
        )
    return dict(sorted(found.items(), key=lambda entry: entry[0] or 0))


def _stacked(parts: Sequence[xr.Dataset], members: Sequence[int | None]) -> xr.Dataset:
    """Members along a leading dimension."""
    first = parts[0]
    for part, member in zip(parts, members, strict=True):
        if not part["time"].equals(first["time"]):
            raise SourceError(
                f"ensemble members {members[0]} and {member} have different dates: "
                f"{first.sizes['time']} and {part.sizes['time']} of them",
                "open them one by one, e.g. query={'eoaug:member': 0}, or choose datetime= or ids=",
            )
    whole = xr.concat(parts, xr.DataArray(np.asarray(members, np.int64), dims="member", name="member"))
    for name, var in first.data_vars.items():
        whole[name].encoding = dict(var.encoding)
    return whole


def _joint_record(dates: Sequence[ItemDate]) -> Provenance:
    """Return the provenance of a cube made of written items: that of its first synthetic item, with all sources."""
    synthetic = [date for date in dates if date.item.properties.get("eoaug:synthetic") is True]
    terms = {date.item.properties.get("eoaug:digital_source_type") for date in synthetic}
    sources = dict.fromkeys((date.item.id, date.href) for date in synthetic)
    return replace(
        Provenance.from_properties(synthetic[0].item.properties),
        sources=tuple({"id": name, "href": href} for name, href in sources),
        digital_source_type=digital_source_type(
            trained=bool(terms & {TRAINED, COMPOSITE}),
            measured=len(synthetic) < len(dates) or not terms <= {TRAINED, ALGORITHMIC},
        ),
        synthetic_fraction=None,  # counted for one item, not for the cube
    )


@dataclass(frozen=True)
class _Form:
    """Type and nodata of a variable, the same in all its items."""

    dtype: str
    nodata: float | None
    mask: bool
    attrs: Mapping[str, Any]


def _common_form(name: str, scenes: Sequence[ItemDate]) -> _Form:
    found = [scene.sources[name] for scene in scenes if name in scene.sources]
    first = found[0]
    for other in found[1:]:
        same = (first.nodata == other.nodata) or (_is_nan(first.nodata) and _is_nan(other.nodata))
        if first.dtype != other.dtype or not same or (first.scale is None) != (other.scale is None):
            raise RadiometryError(
                f"band {name!r} is {first.dtype} with nodata {first.nodata} and scale {first.scale} in item "
                f"{first.item!r}, but {other.dtype}, {other.nodata} and {other.scale} in item {other.item!r}",
                "open them one by one with ids= or collections=",
            )
    return _Form(first.dtype, first.nodata, first.mask, first.attrs)


def _plain_item(scene: ItemDate, forms: Mapping[str, _Form]) -> pystac.Item:
    """The item in the one form that odc-stac reads without surprises."""
    start, _ = item_times(scene.item)
    kept = {k: v for k, v in scene.item.properties.items() if not k.startswith("proj:")}
    kept = {k: v for k, v in kept.items() if k not in ("datetime", *INHERITED)}
    item = pystac.Item(
        id=scene.item.id,
        geometry=None,
        bbox=None,
        datetime=scene.item.datetime or start,
        properties=kept,
        stac_extensions=["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
    )
    for name, source in scene.sources.items():
        form, grid = forms[name], source.geobox
        assert grid.crs is not None
        epsg = grid.crs.to_epsg()
        fields: dict[str, Any] = {
            "data_type": form.dtype,
            "proj:shape": list(grid.shape),
            "proj:transform": [float(v) for v in tuple(grid.affine)[:6]],
            SOURCE: source,
        }
        if form.nodata is not None:
            fields["nodata"] = "nan" if math.isnan(form.nodata) else form.nodata
        fields |= {"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:wkt2": grid.crs.to_wkt()}
        # odc tells sources apart by their address alone.
        part = "".join(f"/{index}" for index in source.place)
        href = f"{source.href}#{source.array}{part}" if source.array else gdal_path(source.href)
        item.add_asset(name, pystac.Asset(href, media_type="image/tiff", roles=["data"], extra_fields=fields))
    return item


def _refuse_unmarked_gaps(name: str, form: _Form, groups: Sequence[Sequence[ItemDate]], grid: GeoBox) -> None:
    """Integers without a nodata value cannot say where no item reaches."""
    if form.nodata is not None or form.mask or np.dtype(form.dtype).kind == "f":
        return
    from shapely.ops import unary_union

    for group in groups:
        parts = [on(scene.sources[name].geobox, grid).geom for scene in group if name in scene.sources]
        gap = grid.extent.geom.difference(unary_union(parts)).area / grid.extent.geom.area
        if gap * math.prod(grid.shape) > 0.5:
            raise RadiometryError(
                f"band {name!r} of item {group[0].item.id!r} declares no nodata value, and {100 * gap:.1f} % of "
                "the cube lies outside of it",
                "declare nodata in the item's asset, or choose bbox= inside the item",
            )


def _physical(
    var: xr.DataArray, name: str, form: _Form, groups: Sequence[Sequence[ItemDate]]
) -> xr.DataArray:
    """Turn stored numbers into physical units, once, and record how they were stored."""
    scalings = [_scaling(name, group) for group in groups]
    declared = [found for found in scalings if found is not None]
    kept = {key: value for key, value in var.encoding.items() if key == "grid_mapping"}
    stored = np.dtype(form.dtype)
    attrs = dict(form.attrs)
    if form.mask or (not declared and stored.kind != "f"):
        if form.nodata is not None:
            attrs["nodata"] = stored.type(form.nodata)
        if not form.mask:
            attrs.pop("units", None)
        out = var.copy()
    else:
        scale, offset = np.asarray([found or (1.0, 0.0) for found in scalings], dtype=np.float64).T
        nodata = None if form.nodata is None or math.isnan(form.nodata) else form.nodata
        out = xr.apply_ufunc(
            _to_physical,
            var,
            xr.DataArray(scale, dims="time"),
            xr.DataArray(offset, dims="time"),
            kwargs={"nodata": nodata},
            dask="parallelized",
            output_dtypes=[np.float32],
        )
        kept["dtype"] = form.dtype
        if declared:
            # One packing for all dates: the lowest offset can hold the values of every one of them.
            kept |= {"scale_factor": float(scale.min()), "add_offset": float(offset.min())}
        if form.nodata is not None:
            kept["_FillValue"] = stored.type(form.nodata)
    out.attrs = attrs
    out.encoding = kept
    return out


def _to_physical(
    stored: NDArray[Any], scale: NDArray[np.float64], offset: NDArray[np.float64], *, nodata: float | None
) -> NDArray[np.float32]:
    physical = (stored * scale + offset).astype(np.float32)
    if nodata is not None:
        physical[stored == nodata] = np.nan
    return physical


def _scaling(name: str, group: Sequence[ItemDate]) -> tuple[float, float] | None:
    """Scale and offset of one date; None when its items declare none."""
    found = {}
    for scene in group:
        source = scene.sources.get(name)
        if source is not None and source.scale is not None:
            found[(source.scale, source.offset)] = source.item
    if len(found) > 1:
        raise RadiometryError(
            f"band {name!r} has different scale and offset in items of one date: "
            + ", ".join(f"{item!r} {form}" for form, item in found.items())
            + "",
            "keep them apart with groupby='id'",
        )
    return next(iter(found), None)


def _time_coords(groups: Sequence[Sequence[ItemDate]], grid: GeoBox) -> dict[str, Any]:
    def joined(values: Iterable[str]) -> str:
        return ";".join(dict.fromkeys(value for value in values if value))

    def mean(key: str) -> list[float]:
        rows = [[scene.item.properties.get(key) for scene in group] for group in groups]
        numbers = [[float(v) for v in row if isinstance(v, int | float)] for row in rows]
        return [sum(row) / len(row) if row else math.nan for row in numbers]

    spans = [_span(group) for group in groups]
    ranges = {
        name: ("time", [rfc3339(span[end]) if span else "" for span in spans])
        for end, name in enumerate(("start_datetime", "end_datetime"))
        if any(spans)
    }
    # Of the cube's pixels, which may have another size than those of the items.
    gsd = [gsd_m(grid)] * len(groups)
    return {
        "item_id": ("time", [joined(scene.item.id for scene in group) for group in groups]),
        "item_href": ("time", [joined(scene.href for scene in group) for group in groups]),
        "cloud_cover": ("time", mean("eo:cloud_cover"), {"units": "percent"}),
        "platform": (
            "time",
            [joined(str(scene.item.properties.get("platform", "")) for scene in group) for group in groups],
        ),
        "gsd": ("time", gsd, {"units": "m"}),
        **ranges,
    }


def _span(group: Sequence[ItemDate]) -> tuple[datetime, datetime] | None:
    """What the items of a date say that it covers; None where none of them tells a range."""
    if not any({"start_datetime", "end_datetime"} <= set(scene.item.properties) for scene in group):
        return None
    times = [item_times(scene.item) for scene in group]
    return min(start for start, _ in times), max(end for _, end in times)


def _strings(value: Sequence[str] | str | None, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    found = (value,) if isinstance(value, str) else tuple(value)
    if not found or not all(isinstance(entry, str) for entry in found):
        raise ParameterError(f"{name}={value!r} is no list of names", f"give e.g. {name}=['...'], or None")
    return tuple(dict.fromkeys(found))


def _checked(cube: Any, given: Mapping[str, Any]) -> Any:
    """Return an xarray object as it is, once it is clear that the verbs can work with it."""
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise ParameterError(
            f"open_cube was given a {type(cube).__name__} together with {', '.join(extra)}",
            "select with xarray itself, e.g. ds[['B02', 'B03']].sel(time='2018')",
        )
    nodes = [node.to_dataset() for node in cube.leaves] if isinstance(cube, xr.DataTree) else [cube]
    for node in nodes:
        geobox_of(node, attempt="opening the cube")
    return cube


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)
