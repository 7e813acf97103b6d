"""From a cube to a STAC catalog: `write`.

Everything an item says is read off the cube's grid, coordinates and provenance. The files of an item come
first, in a folder named after their content; then the item, by one rename; then collection and catalog. So
what is listed is complete, and a replaced item changes in one instant. The model that made a result gets
an item of its own, which the result links to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pystac
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.bands import EO_COMMON_NAMES, common_name, is_mask_name
from eoaug.cube.provenance import ATTRIBUTE, Provenance, marked_synthetic, of
from eoaug.cube.repository import require
from eoaug.cube.write import (
    CogFile,
    Stored,
    blocks,
    checksum,
    crs_fields,
    geobox_of,
    store_form,
    write_zarr,
)
from eoaug.errors import ParameterError, TargetError, TimeError
from eoaug.faults import reach
from eoaug.guard import clean_href, safe_id
from eoaug.stac.catalog import GENERATORS, MADE_BY, Root, read_json, sealed, write_json
from eoaug.stac.extensions import EO, FILE, PROCESSING, PROJECTION, RASTER, SCHEMA_URI, schema
from eoaug.stac.footprint import footprint, ground_sampling_distance
from eoaug.stac.integrity import MANIFEST
from eoaug.stac.model_item import known_item
from eoaug.stac.places import Place, place_of, relative

__all__ = [
    "SCHEMA_URI",
    "Claim",
    "Format",
    "check_format",
    "collection_of",
    "publish",
    "schema",
    "write",
]

Format = Literal["cog", "zarr", "icechunk"]
"""Of the files of an item."""

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_GROUPS = {"zarr": "application/vnd.zarr; version=3", "icechunk": "application/vnd.zarr+icechunk"}
"""Media types of Zarr groups, by format."""
_MASK = "synthetic"


def write(
    ds: xr.Dataset | xr.DataArray | xr.DataTree,
    catalog: str | os.PathLike[str],
    *,
    format: Format = "cog",  # noqa: A002  (the word that users know)
    collection: str | None = None,
    ids: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[pystac.Item]:
    """Write a cube into a STAC catalog, new or existing.

    Parameters
    ----------
    ds
        Dimensions (time, y, x), or (member, time, y, x), in any order; a variable per band, ``synthetic``
        the mask of what was generated. Lazy cubes are computed once, block by block. Of a DataTree, the
        nodes with data are written one after the other.
    catalog
        Folder or JSON file of a catalog or collection, also ``s3://bucket/prefix``. If there is none, one is made. An existing one
        gets a child collection, and ``generators`` with the items of the models; no other file of it
        changes. Several processes may write to one catalog at once.
    format
        ``cog``: an item per date (and member), a single-band COG per variable. ``zarr``: one item with
        one Zarr v3 group. ``icechunk``: the same group as the one commit of an Icechunk repository; needs
        ``eoaug[icechunk]``. Its files carry random names, so only the pixels are the same every time.
    collection
        Id of the collection; default: that of the source with ``-eoaug`` behind, else ``eoaug``.
    ids
        Ids of the items; one per date, or per date and member with members running faster. Default:
        made from source item or date, the operation and the plan's token.
    overwrite
        Replace items that exist; else they are an error.

    Returns
    -------
    list of pystac.Item
        As they stand in the catalog.

    Raises
    ------
    TargetError
        Target that cannot be written or is no catalog, existing item, or synthetic data that have lost
        their provenance.
    GridError, TimeError, RadiometryError, ParameterError
        No coordinate reference system; no dates; a type that files cannot hold; a wrong argument.

    Examples
    --------
    >>> eoaug.write(result, "catalogs/augmented")  # doctest: +SKIP
    """
    check_format(format)
    if isinstance(ds, xr.DataTree):
        if ids is not None:
            raise ParameterError(
                f"ids={list(ids)!r} cannot be told apart over the nodes of a DataTree.",
                "Write the nodes one by one, e.g. write(tree['name'].to_dataset(), catalog, ids=...).",
            )
        nodes = [node.to_dataset() for node in ds.leaves]
        how: dict[str, Any] = {"format": format, "collection": collection, "overwrite": overwrite}
        return [item for node in nodes for item in write(node, catalog, **how)]
    root = Root.at(catalog)
    cube = _Cube.of(ds)
    name = collection_of(collection, cube.source_collection)
    folder = root.folder / name
    root.check(folder)
    for label in _item_ids(cube, ids, single=format != "cog"):
        if (folder / label / f"{label}.json").exists() and not overwrite:
            raise TargetError(
                f"item {label!r} exists already in {str(folder)!r}.",
                "Pass overwrite=True, or give other ids=.",
            )
    root.sweep(name)
    written = []
    for item in publish(ds, root, name, format=format, ids=ids):
        written.append(item["id"])
        # After every item, so that a long job which is stopped leaves what it finished in the catalog.
        root.register(name, [item], cube.about)
    return [_standing(folder / label / f"{label}.json") for label in written]


def _standing(file: Place) -> pystac.Item:
    return pystac.Item.from_dict(read_json(file), href=str(file))


def check_format(name: str) -> None:
    """Refuse a format that is unknown, or whose library is not installed."""
    known = get_args(Format)
    if name not in known:
        raise ParameterError(
            f"format={name!r} is not known.", f"Use {' or '.join(f'format={one!r}' for one in known)}."
        )
    if name == "icechunk":
        require(ParameterError)


def collection_of(given: str | None, source: str) -> str:
    """Return the id of the collection to write to.

    Parameters
    ----------
    given
        What the user asked for; None: made from the source's.
    source
        Id of the collection that the data come from; empty when unknown.
    """
    name = (
        safe_id(f"{source}-eoaug" if source else "eoaug") if given is None else _given_id(given, "collection")
    )
    if name == GENERATORS:
        raise ParameterError(f"collection={name!r} is where models have their items.", "Give another name.")
    return name


@dataclass(frozen=True)
class Claim:
    """What a job says of the items that it publishes, and its right to do so."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Properties of every item."""
    check: Callable[[], None] = lambda: None
    """Called before every item appears; raises when the right is lost."""
    scheduler: str | None = None
    """dask's, by name, for the computation; None: the one in force."""


def publish(
    ds: xr.Dataset | xr.DataArray,
    root: Root,
    name: str,
    *,
    format: Format,  # noqa: A002
    ids: Sequence[str] | None = None,
    claim: Claim | None = None,
) -> Iterator[dict[str, Any]]:
    """Put the items of a cube into the folder of a collection; the collection does not list them yet.

    An item that is there is replaced. With a claim, the first one appears last and lists the others as
    ``eoaug:siblings``: where it stands, all of them do.

    Parameters
    ----------
    ds, format, ids
        As for `write`.
    root, name
        The catalog, and the id of the collection.
    claim
        Of a job.

    Yields
    ------
    dict
        Every item once it stands in its place.
    """
    cube = _Cube.of(ds)
    labels = _item_ids(cube, ids, single=format != "cog")
    folder = root.folder / name
    for label in labels:
        root.keep_inside(folder / label)
    model = known_item(cube.prov)
    target = _Target(root, folder, model, claim or Claim())
    maker = _write_cogs if format == "cog" else partial(_write_group, form=format)
    told = False
    with folder.room() as room:
        reach("data begun")
        waiting: _Made | None = None
        for data, item in maker(cube, target, labels, room):
            if model is not None and not told and "processing:expression" in item["properties"]:
                root.register_model(model)
                told = True
            if claim is not None and item["id"] == labels[0] and len(labels) > 1:
                item["properties"]["eoaug:siblings"] = labels[1:]
                waiting = data, item
            else:
                yield _put(data, item, target)
        if waiting is not None:
            yield _put(*waiting, target)


@dataclass(frozen=True)
class _Target:
    """Where the items go."""

    root: Root
    folder: Place
    """Of the collection."""
    model: Mapping[str, Any] | None
    """Item of the model that made the cube."""
    claim: Claim

    def home(self, label: str) -> Place:
        """Return the folder of an item."""
        return self.folder / label

    def model_href(self, label: str) -> str | None:
        """Return the model's item as an item sees it; None without a known model."""
        return None if self.model is None else relative(self.root.model_file(self.model), self.home(label))


# -------------------------------------------------------------------------------------------- the cube


@dataclass(frozen=True)
class _Cube:
    """What is to be written, in one form whatever came in."""

    ds: xr.Dataset
    """Every variable over all of ``dims``."""
    geobox: GeoBox
    yx: tuple[str, str]
    forms: Mapping[str, Stored]
    prov: Provenance | None

    @classmethod
    def of(cls, given: xr.Dataset | xr.DataArray) -> _Cube:
        """Check a cube and bring it into the form."""
        if not isinstance(given, xr.Dataset | xr.DataArray):
            raise ParameterError(
                f"cannot write a {type(given).__name__}.",
                "Give a Dataset, a DataArray or a DataTree.",
            )
        ds = _as_dataset(given)
        geobox, y, x = geobox_of(ds, attempt="writing a catalog")
        ds = _with_time(ds)
        prov = of(ds)
        if prov is None and (marked_synthetic(ds) or _MASK in ds.variables):
            raise TargetError(
                f"the cube has a variable {_MASK!r} or a synthetic flag, but its provenance is lost.",
                "Keep the attributes of the result, e.g. xr.set_options(keep_attrs=True), or copy "
                "result.attrs['eoaug_provenance'] back.",
            )
        if _MASK in ds.coords:
            ds = ds.reset_coords(_MASK)
        members = ("member",) if "member" in ds.dims else ()
        dims = (*members, "time", y, x)
        spatial = {name: var for name, var in ds.data_vars.items() if {y, x} <= set(var.dims)}
        if not any(name != _MASK for name in spatial):
            raise TargetError(
                f"there is no variable over {y!r} and {x!r} among {list(map(str, ds.variables))}.",
                "Give a cube with a variable per band.",
            )
        for name, var in spatial.items():
            others = [str(dim) for dim in var.dims if dim not in dims]
            if others:
                raise TargetError(
                    f"variable {name!r} has the dimension {others[0]!r}, which files cannot hold.",
                    f"Select or split along it, e.g. ds.isel({others[0]}=0).",
                )
        shape = {dim: ds.sizes[dim] for dim in dims}
        full = {}
        for name, var in spatial.items():
            missing = {dim: shape[dim] for dim in dims if dim not in var.dims}
            wide = var.expand_dims(missing).transpose(*dims) if missing else var.transpose(*dims)
            wide.encoding = var.encoding
            full[str(name)] = wide
        kept = [name for name in ds.coords if set(ds.coords[name].dims) <= set(dims)]
        whole = xr.Dataset(full, coords={name: ds.coords[name] for name in kept}, attrs=ds.attrs)
        forms = {name: store_form(var) for name, var in whole.data_vars.items() if name is not None}
        return cls(whole, geobox, (y, x), {str(k): v for k, v in forms.items()}, prov)

    @property
    def source_collection(self) -> str:
        """Id of the collection that the data came from; empty when unknown or several."""
        name = str(self.ds.attrs.get("stac_collection", ""))
        return "" if ";" in name else name

    @property
    def about(self) -> str:
        """Description of a collection made for it."""
        text = f"Written by eoaug from {self.source_collection}." if self.source_collection else MADE_BY
        if self.prov is not None:
            text += " Holds synthetic pixels: see the eoaug: fields and the synthetic-mask assets."
        return text

    @property
    def times(self) -> list[datetime]:
        """The dates in UTC."""
        values = self.ds["time"].values.astype("datetime64[us]").tolist()
        return [value.replace(tzinfo=UTC) for value in values]

    @property
    def members(self) -> list[int] | None:
        """Numbers of the ensemble members; None without a ``member`` dimension."""
        if "member" not in self.ds.dims:
            return None
        told = self.ds["member"].values
        return [int(n) for n in told] if told.dtype.kind in "iu" else list(range(len(told)))

    def end(self, name: str, index: int) -> datetime:
        """Return ``start_datetime`` or ``end_datetime`` of a date; the date itself where it is an instant."""
        told = self.along(name, index)
        return self.times[index] if told is None else datetime.fromisoformat(str(told))

    def along(self, name: str, index: int) -> Any:
        """Return a coordinate's value at a date; None when absent, empty or not a number."""
        if name not in self.ds.coords:
            return None
        coord = self.ds.coords[name]
        value = coord.values[index] if coord.dims == ("time",) else coord.values if coord.ndim == 0 else None
        if value is None:
            return None
        value = np.asarray(value).item()
        if isinstance(value, float) and math.isnan(value):
            return None
        return None if value == "" else value


def _as_dataset(given: xr.Dataset | xr.DataArray) -> xr.Dataset:
    if isinstance(given, xr.Dataset):
        return given
    if "band" in given.dims:
        ds = given.to_dataset(dim="band")
        ds = ds.rename({name: str(name) for name in ds.data_vars})
        for var in ds.data_vars.values():
            var.encoding = dict(given.encoding)
    else:
        ds = given.to_dataset(name=str(given.name or "data"))
    return ds.assign_attrs(given.attrs)


def _with_time(ds: xr.Dataset) -> xr.Dataset:
    if "time" not in ds.coords:
        raise TimeError(
            "writing a catalog: the cube has no time coordinate, and a STAC item needs a date.",
            "Assign one, e.g. ds.assign_coords(time=np.datetime64('2018-05-04')).",
        )
    if ds["time"].ndim == 0:
        ds = ds.expand_dims("time")
    if ds["time"].dtype.kind != "M" or bool(ds["time"].isnull().any()):
        raise TimeError(
            f"writing a catalog: time is {ds['time'].dtype}, or a date is missing.",
            "Give dates as datetime64, without NaT.",
        )
    if ds["time"].size == 0:
        raise TimeError("writing a catalog: the cube has no date.", "Select at least one.")
    return ds


# ------------------------------------------------------------------------------------------- the files


_Made = tuple[Path, dict[str, Any]]
"""A scratch folder with the data of an item, and the item."""


def _write_cogs(cube: _Cube, target: _Target, labels: Sequence[str], room: Path) -> Iterator[_Made]:
    """Make the items of one time chunk after the other."""
    y, x = cube.yx
    numbers: Sequence[int | None] = cube.members or [None]
    members = len(numbers)
    chunks = cube.ds.unify_chunks().chunks if cube.ds.chunks else {}
    edges = np.cumsum([0, *chunks.get("time", [1] * cube.ds.sizes["time"])])
    for first, last in pairwise(edges):
        part = cube.ds.isel(time=slice(int(first), int(last)))
        wanted = [
            (int(t), m, labels[int(t) * members + m]) for t in range(first, last) for m in range(members)
        ]
        files = {
            (t, m, name): CogFile(room / f"{t}-{m}-{number}.tif", cube.geobox, form, name=name)
            for t, m, _ in wanted
            for number, (name, form) in enumerate(cube.forms.items())
        }
        counts = {(t, m): _Count() for t, m, _ in wanted}
        for region, values in blocks(part, ("time", y, x), scheduler=target.claim.scheduler):
            for name, block in values.items():
                pixels = block[None] if cube.members is None else block
                packed = cube.forms[name].pack(pixels)
                for m in range(members):
                    for row in range(packed.shape[1]):
                        t = int(first) + region["time"].start + row
                        files[t, m, name].put(region[y], region[x], packed[m, row])
                        if name == _MASK:
                            counts[t, m].add(packed[m, row])
        for t, m, label in wanted:
            data = room / f"{t}-{m}"
            data.mkdir()
            share = counts[t, m].share if _MASK in cube.forms else None
            synthetic = cube.prov is not None and (share is None or share > 0)
            tags = _file_tags(cube.prov, synthetic)
            assets = {}
            for name in cube.forms:
                path = data / f"{safe_id(name)}.tif"
                mask = is_mask_name(name, cube.ds[name].attrs)
                files[t, m, name].close(path, tags=tags, categorical=mask)
                assets[name] = _cog_asset(cube, name, path, synthetic)
            yield data, _item(cube, target, label, [t], numbers[m], share, assets)


def _write_group(
    cube: _Cube, target: _Target, labels: Sequence[str], room: Path, *, form: Literal["zarr", "icechunk"]
) -> Iterator[_Made]:
    """Make everything as one Zarr group with one item."""
    (label,) = labels
    count = _Count()
    ds = cube.ds.drop_vars([n for n in ("item_href",) if n in cube.ds.coords])
    attrs = dict(ds.attrs)
    if cube.prov is not None:
        attrs[ATTRIBUTE] = cube.prov.portable().to_json()
    data = room / "data"
    group = data / f"{label}.{form}"
    tags = _file_tags(cube.prov, True)
    write_zarr(
        ds,
        group,
        form=form,
        attrs=attrs | tags,
        on_block=lambda _, values: count.add(values[_MASK]) if _MASK in values else None,
        scheduler=target.claim.scheduler,
    )
    parts = sorted(part for part in group.rglob("*") if part.is_file())
    write_json(
        data / MANIFEST,
        sealed({"files": {part.relative_to(data).as_posix(): _file_fields(part) for part in parts}}),
    )
    share = count.share if _MASK in cube.forms else None
    times = list(range(len(cube.times)))
    yield data, _item(cube, target, label, times, None, share, _group_assets(cube, group, form, bool(tags)))


def _put(data: Path, item: dict[str, Any], target: _Target) -> dict[str, Any]:
    """Let an item appear, after its data."""
    label = item["id"]
    told = sorted(f"{asset['href']} {asset.get('file:checksum')}" for asset in item["assets"].values())
    place = target.home(label) / hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    if not _same(data, place):
        place.receive(data)
    for asset in item["assets"].values():
        asset["href"] = f"./{place.name}/{asset['href']}"
    whole = sealed(item)
    scratch = data.parent / f"{label}.json"
    write_json(scratch, whole)
    target.claim.check()
    (place.parent / scratch.name).receive(scratch, point="document")
    if data.is_dir() and not place.is_dir():  # cleared away before the item named it
        place.receive(data)
    reach("item published")
    return whole


def _same(one: Path, two: Place) -> bool:
    """Tell whether two folders hold the same files."""
    if not two.is_dir():
        return False
    return _contents(one) == _contents(two)


def _contents(root: Any) -> dict[str, str]:
    """Checksums by path; of a folder or a place, which are read alike."""
    files = (part for part in root.rglob("*") if part.is_file())
    return {part.relative_to(root).as_posix(): checksum(part) for part in files}


class _Count:
    """Counts how much of a mask was not measured; pixels outside the scene do not count."""

    def __init__(self) -> None:
        self._made = self._inside = 0

    def add(self, mask: NDArray[np.uint8]) -> None:
        """Count a block: 1 generated, 2 transferred, 255 outside."""
        self._inside += int((mask != 255).sum())
        self._made += int(((mask == 1) | (mask == 2)).sum())

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self._made / self._inside if self._inside else 0.0


def _file_tags(prov: Provenance | None, synthetic: bool) -> dict[str, str]:
    """What a file says of itself when it has lost its item."""
    if prov is None:
        return {}
    tags = {
        "EOAUG_SYNTHETIC": "true" if synthetic else "false",
        "EOAUG_PROVENANCE": prov.portable().to_json(),
    }
    return tags | ({"DigitalSourceType": prov.digital_source_type} if synthetic else {})


# ------------------------------------------------------------------------------------------- the items


def _item(
    cube: _Cube,
    target: _Target,
    label: str,
    times: Sequence[int],
    member: int | None,
    share: float | None,
    assets: Mapping[str, Any],
) -> dict[str, Any]:
    geometry, bbox = footprint(cube.geobox)
    dates = [cube.times[t] for t in times]
    starts, ends = ([cube.end(name, t) for t in times] for name in ("start_datetime", "end_datetime"))
    properties: dict[str, Any] = {"datetime": _stamp(dates[0])}
    if max(ends) > min(starts):
        span = {"start_datetime": _stamp(min(starts)), "end_datetime": _stamp(max(ends))}
        # A date that stands at the beginning of its range is no instant that the source told.
        instant = len(dates) == 1 and dates[0] > min(starts)
        properties = {"datetime": _stamp(dates[0]) if instant else None, **span}
    platforms = {cube.along("platform", t) for t in times} - {None}
    if len(platforms) == 1 and ";" not in (platform := str(platforms.pop())):
        properties["platform"] = platform
    gsd = ground_sampling_distance(cube.geobox)
    properties["gsd"] = gsd
    extensions = [PROJECTION]
    clouds = [float(v) for t in times if (v := cube.along("cloud_cover", t)) is not None]
    if len(clouds) == len(times) and all(0 <= cloud <= 100 for cloud in clouds):
        properties["eo:cloud_cover"] = sum(clouds) / len(clouds)
        extensions.append(EO)
    properties |= _projection(cube.geobox)
    if cube.prov is not None:
        properties |= _marks(cube.prov, member, share, masked=_MASK in cube.forms)
        href = target.model_href(label)
        if href is not None and properties["eoaug:synthetic"]:
            properties["processing:expression"] = {"format": "stac-mlm", "expression": href}
        extensions += [PROCESSING, SCHEMA_URI]
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "id": label,
        "geometry": geometry,
        "bbox": bbox,
        "properties": {**properties, **target.claim.fields},
        "links": [],
        "assets": assets,
    }
    _link(item, cube, times, target)
    return item


def _projection(geobox: GeoBox) -> dict[str, Any]:
    box = geobox.extent.boundingbox
    return {
        **crs_fields(geobox),
        "proj:shape": [int(n) for n in geobox.shape],
        "proj:transform": [float(v) for v in tuple(geobox.affine)[:6]],
        "proj:bbox": [float(v) for v in (box.left, box.bottom, box.right, box.top)],
    }


def _marks(prov: Provenance, member: int | None, share: float | None, *, masked: bool) -> dict[str, Any]:
    """Fields that tell what was generated, and how."""
    synthetic = share is None or share > 0
    version = prov.software.get("eoaug", "")
    fields: dict[str, Any] = {
        "processing:level": "L4",
        "processing:software": dict(prov.software),
        "processing:version": version,
        "processing:lineage": f"{prov.operation} by eoaug {version} with generator {prov.generator}, "
        f"seed {prov.seed}" + ("" if synthetic else "; every pixel of this item is a measurement"),
        "processing:datetime": _stamp(_now()),
        "eoaug:synthetic": synthetic,
        "eoaug:operation": prov.operation,
        "eoaug:generator": prov.generator,
        "eoaug:seed": prov.seed,
        "eoaug:parameters": dict(prov.parameters),
        "eoaug:cpu_capability": prov.cpu_capability,
    }
    optional = {
        "eoaug:member": member,
        "eoaug:model_sha256": prov.model_sha256 or None,
        "eoaug:model_licence": prov.licence or None,
        "eoaug:model_files": dict(prov.model_files) or None,
        "eoaug:model_units": {name: list(pair) for name, pair in prov.model_units.items()} or None,
        "eoaug:bands": dict(prov.bands) or None,
        "eoaug:config_hash": prov.token or None,
        "eoaug:digital_source_type": prov.digital_source_type if synthetic else None,
        "eoaug:synthetic_fraction": prov.synthetic_fraction if share is None else share,
        "eoaug:residual": prov.residual,
        "eoaug:mask": _MASK if masked else None,
    }
    return fields | {key: value for key, value in optional.items() if value is not None}


def _data_fields(cube: _Cube, name: str) -> dict[str, Any]:
    """Fields of one band, for an asset or for an entry of ``bands``."""
    form, attrs = cube.forms[name], cube.ds[name].attrs
    fields: dict[str, Any] = {"data_type": form.dtype.name}
    if form.nodata is not None:
        integral = form.dtype.kind != "f" and not math.isnan(form.nodata)
        fields["nodata"] = "nan" if math.isnan(form.nodata) else int(form.nodata) if integral else form.nodata
    if is_mask_name(name, attrs):
        return fields
    if isinstance(attrs.get("units"), str):
        fields["unit"] = attrs["units"]
    if form.scale != 1.0 or form.offset != 0.0:
        fields |= {"raster:scale": form.scale, "raster:offset": form.offset}
    fields["raster:spatial_resolution"] = ground_sampling_distance(cube.geobox)
    return fields


def _band_fields(cube: _Cube, name: str) -> dict[str, Any]:
    attrs = cube.ds[name].attrs
    fields: dict[str, Any] = {"name": name}
    platforms = {cube.along("platform", t) for t in range(len(cube.times))} - {None} or {None}
    told = {common_name(name, attrs, None if p is None else str(p)) for p in platforms}
    if len(told) == 1 and told <= EO_COMMON_NAMES and not is_mask_name(name, attrs):
        fields["eo:common_name"] = told.pop()
    wavelength = attrs.get("center_wavelength")
    if isinstance(wavelength, int | float) and wavelength > 0:
        fields["eo:center_wavelength"] = float(wavelength)
    return fields


def _roles(name: str, *, synthetic: bool) -> list[str]:
    if name == _MASK:
        return ["synthetic-mask"]
    return ["data", "synthetic"] if synthetic else ["data"]


def _cog_asset(cube: _Cube, name: str, path: Path, synthetic: bool) -> dict[str, Any]:
    synthetic = synthetic and (cube.prov is None or cube.prov.bands.get(name) != "observed")
    return {
        "href": path.name,
        "type": _COG,
        "roles": _roles(name, synthetic=synthetic),
        "gsd": ground_sampling_distance(cube.geobox),
        **_projection(cube.geobox),
        **_data_fields(cube, name),
        "bands": [_band_fields(cube, name)],
        **_file_fields(path),
    }


def _file_fields(path: Path) -> dict[str, Any]:
    return {"file:size": path.stat().st_size, "file:checksum": checksum(path)}


def _group_assets(cube: _Cube, group: Path, form: str, synthetic: bool) -> dict[str, Any]:
    media = _GROUPS[form]
    bands = [{**_band_fields(cube, n), **_data_fields(cube, n)} for n in cube.forms if n != _MASK]
    assets = {
        "data": {
            "href": group.name,
            "type": media,
            "roles": _roles("", synthetic=synthetic),
            "gsd": ground_sampling_distance(cube.geobox),
            **_projection(cube.geobox),
            "bands": bands,
        }
    }
    if _MASK in cube.forms:
        told = _data_fields(cube, _MASK)
        # In a repository no path leads to an array: the asset names it as its band.
        where = {"href": group.name, "bands": [{"name": _MASK, **told}]}
        assets[_MASK] = {
            **(where if form == "icechunk" else {"href": f"{group.name}/{_MASK}", **told}),
            "type": media,
            "roles": _roles(_MASK, synthetic=synthetic),
            **_projection(cube.geobox),
        }
    assets["manifest"] = {
        "href": MANIFEST,
        "type": "application/json",
        "roles": ["metadata"],
        **_file_fields(group.parent / MANIFEST),
    }
    return assets


def _link(item: dict[str, Any], cube: _Cube, times: Sequence[int], target: _Target) -> None:
    """Complete an item's links and the extensions that its assets use."""
    home = target.home(item["id"])
    text = json.dumps(item["assets"])
    for prefix, extension in (("raster:", RASTER), ("file:", FILE), ("eo:", EO)):
        if f'"{prefix}' in text and extension not in item["stac_extensions"]:
            item["stac_extensions"].append(extension)
    item["collection"] = home.parent.name
    item["links"] = [
        {"rel": "root", "href": relative(target.root.top, home), "type": "application/json"},
        {"rel": "parent", "href": "../collection.json", "type": "application/json"},
        {"rel": "collection", "href": "../collection.json", "type": "application/json"},
    ]
    hrefs = [h for t in times for h in str(cube.along("item_href", t) or "").split(";") if h]
    if cube.prov is not None:
        hrefs += [source["href"] for source in cube.prov.sources if source.get("href")]
    for href in dict.fromkeys(map(clean_href, hrefs)):
        seen = href if "://" in href else relative(place_of(href), home)
        item["links"].append({"rel": "derived_from", "href": seen, "type": "application/geo+json"})
    if target.model is not None and "processing:expression" in item["properties"]:
        item["links"].append(
            {
                "rel": "derived_from",
                "href": target.model_href(item["id"]),
                "type": "application/geo+json",
                "mlm:name": target.model["properties"]["mlm:name"],
            }
        )


def _now() -> datetime:
    """The time of writing, or the one that reproducible builds set (reproducible-builds.org)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)


def _stamp(time: datetime) -> str:
    text = time.astimezone(UTC).isoformat(timespec="microseconds" if time.microsecond else "seconds")
    return text.replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------- the names


def _item_ids(cube: _Cube, ids: Sequence[str] | None, *, single: bool) -> list[str]:
    """One id per date and member, or a single one for all of them."""
    members = 1 if single or cube.members is None else len(cube.members)
    count = 1 if single else len(cube.times) * members
    if ids is not None:
        given = [ids] if isinstance(ids, str) else list(ids)
        if len(given) != count or len(set(given)) != count:
            raise ParameterError(
                f"ids={given!r} are {len(set(given))} different names for {count} items.",
                "Give one per date, or per date and member with members running faster; one for zarr.",
            )
        return [_given_id(name, "ids") for name in given]
    tail = ""
    if cube.prov is not None:
        tail = f"-{cube.prov.operation.replace('_', '-')}" + (
            f"-{cube.prov.token[:8]}" if cube.prov.token else ""
        )
    origins = [str(cube.along("item_id", index) or "") for index in range(len(cube.times))]
    dates = [f"{time:%Y%m%dT%H%M%S}" for time in cube.times]
    stems = [
        date if not origin or ";" in origin else origin if origins.count(origin) == 1 else f"{origin}-{date}"
        for origin, date in zip(origins, dates, strict=True)
    ]
    if single:
        first = origins[0] if origins[0] and ";" not in origins[0] else dates[0]
        several = f"-{len(stems)}-dates" if len(stems) > 1 else ""
        return [safe_id(first + several + tail)]
    labels = []
    for stem in stems:
        labels += [safe_id(f"{stem}{tail}-m{member:03d}") for member in cube.members or ()]
        if cube.members is None:
            labels.append(safe_id(stem + tail))
    seen: dict[str, int] = {}
    for place, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            labels[place] = f"{label}-{seen[label]}"
    return labels


def _given_id(text: str, argument: str) -> str:
    if not isinstance(text, str) or safe_id(text) != text:
        raise ParameterError(
            f"{argument}: {text!r} cannot be the name of a folder.",
            "Use letters, digits, dot, plus, minus and underscore, at most 128.",
        )
    return text
