"""From the dates of items on one grid to a Dataset: `load_dates`.

odc-stac reads the pixels. It is given items in one plain form, one asset per band with type, nodata and grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import odc.stac
import pystac
import xarray as xr
from odc.geo.geobox import GeoBox

from eoaug.cube.carried import PROPERTIES, as_text, inherited, joint
from eoaug.cube.provenance import ALGORITHMIC, COMPOSITE, TRAINED, Provenance, digital_source_type, stamp
from eoaug.cube.synthetic import ATTRIBUTES, GENERATED, MEASURED, OUTSIDE, SYNTHETIC
from eoaug.errors import EoaugError, ParameterError, SourceError, did_you_mean, first_line
from eoaug.raster.grid import gsd_m
from eoaug.stac.band_reader import MARK_FUSER, SOURCE, Driver
from eoaug.stac.band_sources import ItemDate
from eoaug.stac.declared_bands import INHERITED
from eoaug.stac.filters import instant_of, item_times, rfc3339
from eoaug.stac.stored_form import StoredForm, common_form, refuse_unmarked_gaps, to_physical
from eoaug.storage.gdal import gdal_path

__all__ = ["DEFAULT_CHUNKS", "ReadOptions", "load_dates"]


DEFAULT_CHUNKS: Mapping[str, int] = MappingProxyType({"y": 1024, "x": 1024})
"""Chunk edges in pixels when none are given; a single date per chunk."""


_WITHOUT_NEW_VALUES = frozenset({"nearest", "mode", "max", "min"})
"""Methods of resampling that only return values that are in the source."""


@dataclass(frozen=True)
class ReadOptions:
    """How pixels are read."""

    bands: tuple[str, ...] = ()
    """Requested names, in the order of the variables; empty: all data."""
    groupby: str = "solar_day"
    """What makes one date: ``solar_day``, ``time``, ``id`` or the name of an item property."""
    chunks: Mapping[str, int] | None = DEFAULT_CHUNKS
    """Dask chunk edges by dimension; None reads at once."""
    resampling: str | Mapping[str, str] = "nearest"
    """GDAL's name of the resampling, for all or by variable."""
    labels: tuple[str, ...] = ()
    """Bands and item properties that the user calls labels."""


def load_dates(dates: Sequence[ItemDate], grid: GeoBox, options: ReadOptions) -> xr.Dataset:
    """Return the bands of item dates on a grid, over (time, y, x) or (member, time, y, x)."""
    there = tuple(dict.fromkeys(name for date in dates for name in date.sources))
    named = tuple(name for name in options.labels if name in there and name not in options.bands)
    names = (*options.bands, *named) if options.bands else there
    if SYNTHETIC not in names and any(SYNTHETIC in date.sources for date in dates):
        names = (*names, SYNTHETIC)
    forms = {name: common_form(name, dates) for name in names}
    members = _members(dates)
    loaded = [_pixels(ensemble, grid, forms, options) for ensemble in members.values()]
    ds, groups = loaded[0]
    if len(loaded) > 1 or dates[0].member is not None:
        ds = _stacked([ds for ds, _ in loaded], list(members))
        by_date = zip(*(groups for _, groups in loaded), strict=True)
        groups = [[date for group in same_date for date in group] for same_date in by_date]
    collections = sorted({date.item.collection_id for date in dates if date.item.collection_id})
    if collections:
        ds.attrs["stac_collection"] = ";".join(collections)
    if any(date.item.properties.get("eoaug:synthetic") is True for date in dates):
        ds = stamp(ds, _joint_record(dates))
    return ds.assign_coords(_time_coords(groups, grid, options.labels))


def _pixels(
    dates: Sequence[ItemDate], grid: GeoBox, forms: Mapping[str, StoredForm], options: ReadOptions
) -> tuple[xr.Dataset, list[list[ItemDate]]]:
    """Return bands over (time, y, x), and the item dates of each date of the cube."""
    resampling = _resampling(options.resampling, forms)
    try:
        ds = odc.stac.load(
            [_plain_item(date, forms) for date in dates],
            bands=list(forms),
            geobox=grid,
            groupby=options.groupby,
            chunks=None if options.chunks is None else {**DEFAULT_CHUNKS, **options.chunks},
            resampling=resampling,
            driver=Driver(options.resampling),
            fuse_func={SYNTHETIC: MARK_FUSER} if _marked(forms) else None,
            debug=True,
        )
    except (EoaugError, MemoryError):
        raise
    except Exception as error:  # pyproj, rasterio, numpy and dask each raise their own
        raise SourceError(
            f"reading {len(dates)} items failed: {first_line(error)}",
            f"check groupby={options.groupby!r}, chunks={options.chunks!r} and resampling={options.resampling!r}",
        ) from error
    groups = [[dates[i] for i in indices] for indices in ds.encoding.pop("debug").grouped_idx]
    order = np.argsort(ds["time"].values, kind="stable")
    if (order != np.arange(len(groups))).any():  # odc sorts by what it groups by
        ds, groups = ds.isel(time=order), [groups[i] for i in order]
    for name, form in forms.items():
        refuse_unmarked_gaps(name, form, groups, grid)
        ds[name] = to_physical(ds[name], name, form, groups)
    if _marked(forms):
        ds[SYNTHETIC] = _with_unmarked_items(ds[SYNTHETIC], groups)
        ds[SYNTHETIC].attrs.update(ATTRIBUTES)
    return ds, groups


def _resampling(given: str | Mapping[str, str], forms: Mapping[str, StoredForm]) -> dict[str, str]:
    """Return GDAL's resampling by variable.

    Between two classes lie others: masks are resampled without new values, whatever is given for all variables.
    """
    from rasterio.enums import Resampling

    by_name = dict(given) if isinstance(given, Mapping) else {"*": given}
    chosen = {}
    for name, form in forms.items():
        method = by_name.get(name, by_name.get("*", "nearest"))
        if method not in Resampling.__members__:
            known = list(Resampling.__members__)
            raise ParameterError(
                f"resampling={method!r} is not a method of GDAL",
                did_you_mean(method, known) or f"use one of {', '.join(known)}",
            )
        if form.mask and method not in _WITHOUT_NEW_VALUES:
            if name in by_name:
                raise ParameterError(
                    f"resampling={{{name!r}: {method!r}}} would interpolate classes or flags",
                    f"use one of {', '.join(sorted(_WITHOUT_NEW_VALUES))} for {name!r}, or leave it out",
                )
            method = "nearest"
        chosen[name] = method
    return chosen


def _marked(forms: Mapping[str, StoredForm]) -> bool:
    return SYNTHETIC in forms and forms[SYNTHETIC].dtype == "uint8"


def _with_unmarked_items(marks: xr.DataArray, groups: Sequence[Sequence[ItemDate]]) -> xr.DataArray:
    """Return marks in which items without a mask are measured, or as synthetic as their properties say."""
    unmarked = [[date for date in group if SYNTHETIC not in date.sources] for group in groups]
    if not any(unmarked):
        return marks
    made = [any(d.item.properties.get("eoaug:synthetic") is True for d in dates) for dates in unmarked]
    floor = xr.DataArray(np.where(made, GENERATED, MEASURED), dims="time")
    known = (marks != OUTSIDE) & (marks > floor)
    filled: xr.DataArray = xr.where(
        xr.DataArray([bool(dates) for dates in unmarked], dims="time") & ~known, floor, marks
    )
    filled = filled.transpose(*marks.dims).assign_attrs(marks.attrs)
    filled.encoding = dict(marks.encoding)
    return filled


def _members(dates: Sequence[ItemDate]) -> dict[int | None, list[ItemDate]]:
    """Return the item dates by ensemble member; a single entry without an ensemble."""
    members: dict[int | None, list[ItemDate]] = {}
    for date in dates:
        members.setdefault(date.member, []).append(date)
    if len(members) > 1 and None in members:
        inside = next(date.item.id for date in dates if date.member is not None)
        raise ParameterError(
            f"item {inside!r} is a member of an ensemble, and item {members[None][0].item.id!r} is not",
            "choose with ids=, collections= or query={'eoaug:member': 0}",
        )
    return dict(sorted(members.items(), key=lambda entry: entry[0] or 0))


def _stacked(parts: Sequence[xr.Dataset], members: Sequence[int | None]) -> xr.Dataset:
    """Return the members along a leading dimension."""
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


def _plain_item(date: ItemDate, forms: Mapping[str, StoredForm]) -> pystac.Item:
    """Return an item that odc-stac reads in one way: one asset per band, with type, nodata and grid."""
    left_out = ("datetime", *INHERITED)
    properties = {
        name: value
        for name, value in date.item.properties.items()
        if not name.startswith("proj:") and name not in left_out
    }
    item = pystac.Item(
        id=date.item.id,
        geometry=None,
        bbox=None,
        datetime=instant_of(date.item),  # in UTC: odc drops the time zone
        properties=properties,
        stac_extensions=["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
    )
    for name, source in date.sources.items():
        form, grid = forms[name], source.geobox
        assert grid.crs is not None
        epsg = grid.crs.to_epsg()
        fields: dict[str, Any] = {
            "data_type": form.dtype,
            "proj:shape": list(grid.shape),
            "proj:transform": [float(v) for v in tuple(grid.affine)[:6]],
            SOURCE: source,
        }
        if name == SYNTHETIC and _marked(forms):
            fields["nodata"] = int(OUTSIDE)
        elif form.nodata is not None:
            fields["nodata"] = "nan" if math.isnan(form.nodata) else form.nodata
        fields |= {"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:wkt2": grid.crs.to_wkt()}
        # odc distinguishes sources by their address only.
        place = "".join(f"/{index}" for index in source.place)
        href = f"{source.href}#{source.array}{place}" if source.array else gdal_path(source.href)
        item.add_asset(name, pystac.Asset(href, media_type="image/tiff", roles=["data"], extra_fields=fields))
    return item


def _time_coords(groups: Sequence[Sequence[ItemDate]], grid: GeoBox, labels: Sequence[str]) -> dict[str, Any]:
    def joined(values: Iterable[str]) -> str:
        return ";".join(dict.fromkeys(value for value in values if value))

    def mean(key: str) -> list[float]:
        rows = [[date.item.properties.get(key) for date in group] for group in groups]
        numbers = [[float(v) for v in row if isinstance(v, int | float)] for row in rows]
        return [sum(row) / len(row) if row else math.nan for row in numbers]

    spans = [_span(group) for group in groups]
    ranges = {
        name: ("time", [rfc3339(span[end]) if span else "" for span in spans])
        for end, name in enumerate(("start_datetime", "end_datetime"))
        if any(spans)
    }
    texts = [as_text(joint(inherited(date.item.properties, labels) for date in group)) for group in groups]
    carried = {PROPERTIES: ("time", texts)} if any(texts) else {}
    # Of the cube's pixels, which may have another size than those of the items.
    gsd = [gsd_m(grid)] * len(groups)
    return {
        "item_id": ("time", [joined(date.item.id for date in group) for group in groups]),
        "item_href": ("time", [joined(date.href for date in group) for group in groups]),
        "cloud_cover": ("time", mean("eo:cloud_cover"), {"units": "percent"}),
        "platform": (
            "time",
            [joined(str(date.item.properties.get("platform", "")) for date in group) for group in groups],
        ),
        "gsd": ("time", gsd, {"units": "m"}),
        **ranges,
        **carried,
    }


def _span(group: Sequence[ItemDate]) -> tuple[datetime, datetime] | None:
    """Return the time range of the items of a date; None if none of them declares a range."""
    if not any({"start_datetime", "end_datetime"} <= set(date.item.properties) for date in group):
        return None
    times = [item_times(date.item) for date in group]
    return min(start for start, _ in times), max(end for _, end in times)
