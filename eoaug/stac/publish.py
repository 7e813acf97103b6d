"""From a cube to a STAC catalog: `write`.

Everything an item says is read off the cube's grid, coordinates and provenance. The files of an item come
first, in a folder named after their content; then the item, by one rename; then collection and catalog. So
what is listed is complete, and a replaced item changes in one instant. The model that made a result gets
an item of its own, which the result links to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pystac
import xarray as xr

from eoaug.cube.provenance import ATTRIBUTE, Provenance
from eoaug.cube.synthetic import SYNTHETIC, SyntheticShare
from eoaug.errors import ParameterError, TargetError
from eoaug.formats.blocks import blocks
from eoaug.formats.cog import CogFile
from eoaug.formats.icechunk import require
from eoaug.formats.zarr import write_zarr
from eoaug.raster.bands import is_mask_name
from eoaug.stac.catalog import Root
from eoaug.stac.integrity import MANIFEST, read_json, with_checksum, write_json
from eoaug.stac.item_document import (
    Claim,
    Target,
    cog_asset,
    collection_of,
    file_fields,
    group_assets,
    item_document,
    item_ids,
)
from eoaug.stac.model_item import known_item
from eoaug.stac.writable_cube import WritableCube
from eoaug.storage.atomic import checksum
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.names import safe_id

__all__ = ["Format", "check_format", "publish", "write"]


Format = Literal["cog", "zarr", "icechunk"]
"""Of the files of an item."""


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
                f"ids={list(ids)!r} cannot be told apart over the nodes of a DataTree",
                "write the nodes one by one, e.g. write(tree['name'].to_dataset(), catalog, ids=...)",
            )
        nodes = [node.to_dataset() for node in ds.leaves]
        how: dict[str, Any] = {"format": format, "collection": collection, "overwrite": overwrite}
        return [item for node in nodes for item in write(node, catalog, **how)]
    root = Root.at(catalog)
    cube = WritableCube.of(ds)
    name = collection_of(collection, cube.source_collection)
    folder = root.folder / name
    root.check(folder)
    for label in item_ids(cube, ids, single=format != "cog"):
        if (folder / label / f"{label}.json").exists() and not overwrite:
            raise TargetError(
                f"item {label!r} exists already in {str(folder)!r}",
                "pass overwrite=True, or give other ids=",
            )
    root.remove_stale_scratch(name)
    written = []
    for item in publish(ds, root, name, format=format, ids=ids):
        written.append(item["id"])
        # After every item, so that a long job which is stopped leaves what it finished in the catalog.
        root.register(name, [item], cube.about)
    return [_standing(folder / label / f"{label}.json") for label in written]


def _standing(file: Location) -> pystac.Item:
    return pystac.Item.from_dict(read_json(file), href=str(file))


def check_format(name: str) -> None:
    """Refuse a format that is unknown, or whose library is not installed."""
    known = get_args(Format)
    if name not in known:
        raise ParameterError(
            f"format={name!r} is not known", f"use {' or '.join(f'format={one!r}' for one in known)}"
        )
    if name == "icechunk":
        require(ParameterError)


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
    cube = WritableCube.of(ds)
    labels = item_ids(cube, ids, single=format != "cog")
    folder = root.folder / name
    for label in labels:
        root.keep_inside(folder / label)
    model = known_item(cube.prov)
    target = Target(root, folder, model, claim or Claim())
    maker = _write_cogs if format == "cog" else partial(_write_group, form=format)
    told = False
    with folder.scratch_dir() as room:
        hit("data begun")
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


# ------------------------------------------------------------------------------------------- the files


_Made = tuple[Path, dict[str, Any]]
"""A scratch folder with the data of an item, and the item."""


def _write_cogs(cube: WritableCube, target: Target, labels: Sequence[str], room: Path) -> Iterator[_Made]:
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
        counts = {(t, m): SyntheticShare() for t, m, _ in wanted}
        for region, values in blocks(part, ("time", y, x), scheduler=target.claim.scheduler):
            for name, block in values.items():
                pixels = block[None] if cube.members is None else block
                packed = cube.forms[name].pack(pixels)
                for m in range(members):
                    for row in range(packed.shape[1]):
                        t = int(first) + region["time"].start + row
                        files[t, m, name].put(region[y], region[x], packed[m, row])
                        if name == SYNTHETIC:
                            counts[t, m].add(packed[m, row])
        for t, m, label in wanted:
            data = room / f"{t}-{m}"
            data.mkdir()
            share = counts[t, m].share or 0.0 if SYNTHETIC in cube.forms else None
            synthetic = cube.prov is not None and (share is None or share > 0)
            tags = _file_tags(cube.prov, synthetic)
            assets = {}
            for name in cube.forms:
                path = data / f"{safe_id(name)}.tif"
                mask = is_mask_name(name, cube.ds[name].attrs)
                files[t, m, name].close(path, tags=tags, categorical=mask)
                assets[name] = cog_asset(cube, name, path, synthetic)
            yield data, item_document(cube, target, label, [t], numbers[m], share, assets)


def _write_group(
    cube: WritableCube,
    target: Target,
    labels: Sequence[str],
    room: Path,
    *,
    form: Literal["zarr", "icechunk"],
) -> Iterator[_Made]:
    """Make everything as one Zarr group with one item."""
    (label,) = labels
    count = SyntheticShare()
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
        on_block=lambda _, values: count.add(values[SYNTHETIC]) if SYNTHETIC in values else None,
        scheduler=target.claim.scheduler,
    )
    parts = sorted(part for part in group.rglob("*") if part.is_file())
    write_json(
        data / MANIFEST,
        with_checksum({"files": {part.relative_to(data).as_posix(): file_fields(part) for part in parts}}),
    )
    share = count.share or 0.0 if SYNTHETIC in cube.forms else None
    times = list(range(len(cube.times)))
    yield (
        data,
        item_document(cube, target, label, times, None, share, group_assets(cube, group, form, bool(tags))),
    )


def _put(data: Path, item: dict[str, Any], target: Target) -> dict[str, Any]:
    """Let an item appear, after its data."""
    label = item["id"]
    told = sorted(f"{asset['href']} {asset.get('file:checksum')}" for asset in item["assets"].values())
    place = target.home(label) / hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    if not _same(data, place):
        place.publish(data)
    for asset in item["assets"].values():
        asset["href"] = f"./{place.name}/{asset['href']}"
    whole = with_checksum(item)
    scratch = data.parent / f"{label}.json"
    write_json(scratch, whole)
    target.claim.check()
    (place.parent / scratch.name).publish(scratch, point="document")
    if data.is_dir() and not place.is_dir():  # cleared away before the item named it
        place.publish(data)
    hit("item published")
    return whole


def _same(one: Path, two: Location) -> bool:
    """Tell whether two folders hold the same files."""
    if not two.is_dir():
        return False
    return _contents(one) == _contents(two)


def _contents(root: Any) -> dict[str, str]:
    """Checksums by path; of a folder or a place, which are read alike."""
    files = (part for part in root.rglob("*") if part.is_file())
    return {part.relative_to(root).as_posix(): checksum(part) for part in files}


def _file_tags(prov: Provenance | None, synthetic: bool) -> dict[str, str]:
    """What a file says of itself when it has lost its item."""
    if prov is None:
        return {}
    tags = {
        "EOAUG_SYNTHETIC": "true" if synthetic else "false",
        "EOAUG_PROVENANCE": prov.portable().to_json(),
    }
    return tags | ({"DigitalSourceType": prov.digital_source_type} if synthetic else {})
