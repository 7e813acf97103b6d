"""From a cube to a STAC catalog: `write`.

The fields of an item come from the grid, coordinates and provenance of the cube. The files of an item are written
first, to a folder named after a hash of their content; then the item, by one rename; then collection and
catalog. So every listed item is complete, and a replaced one changes atomically. The model that made a result gets
an item of its own, which the result links to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pystac
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.provenance import ATTRIBUTE, Provenance
from eoaug.cube.synthetic import SYNTHETIC, SyntheticShare
from eoaug.errors import ParameterError, TargetError
from eoaug.formats.blocks import blocks
from eoaug.formats.cog import CogFile, refuse_lossy_crs
from eoaug.formats.icechunk import require
from eoaug.formats.zarr import write_zarr
from eoaug.quicklook import Thumbnail
from eoaug.raster.variables import holds_classes
from eoaug.stac.catalog import Root
from eoaug.stac.integrity import MANIFEST, data_name, read_json, with_checksum, write_json
from eoaug.stac.item_document import (
    Claim,
    ItemContent,
    Target,
    cog_asset,
    collection_of,
    file_fields,
    group_assets,
    item_document,
    item_ids,
    thumbnail_asset,
)
from eoaug.stac.model_item import known_item
from eoaug.stac.writable_cube import WritableCube
from eoaug.storage.atomic import checksum
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.names import distinct_names

__all__ = ["Format", "check_format", "publish", "put_item", "write"]


Format = Literal["cog", "zarr", "icechunk"]
"""Format of the files of an item."""


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
        Folder or JSON file of a catalog or collection, also ``s3://bucket/prefix``; created if missing. An
        existing one gets a child collection, and ``generators`` with the items of the models; its other
        files do not change. Several processes may write to one catalog at the same time.
    format
        ``cog``: an item per date (and member), a single-band COG per variable. ``zarr``: one item with
        one Zarr v3 group. ``icechunk``: the same group as the one commit of an Icechunk repository; needs
        ``eoaug[icechunk]``. Its files carry random names, so only the pixels are the same every time.
    collection
        Id of the collection; default: that of the source with the suffix ``-eoaug``, else ``eoaug``.
    ids
        Ids of the items; one per date, or per date and member with members running faster. Default:
        derived from source item or date, the operation and the plan's token.
    overwrite
        Replace items that exist; else they are an error.

    Returns
    -------
    list of pystac.Item
        As written to the catalog.

    Raises
    ------
    TargetError
        The target cannot be written or is not a catalog, an item exists, or synthetic data have lost their
        provenance.
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
                f"ids={list(ids)!r} cannot be assigned to the nodes of a DataTree",
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
                f"item {label!r} already exists in {str(folder)!r}",
                "pass overwrite=True, or give other ids=",
            )
    root.remove_stale_scratch(name)
    written = []
    for item in publish(ds, root, name, format=format, ids=ids):
        written.append(item["id"])
        # After every item, so that an interrupted write leaves its finished items in the catalog.
        root.register(name, [item], cube.about)
    files = [folder / label / f"{label}.json" for label in written]
    return [pystac.Item.from_dict(read_json(file), href=str(file)) for file in files]


def check_format(name: str) -> None:
    """Refuse a format that is unknown, or whose library is not installed."""
    known = get_args(Format)
    if name not in known:
        raise ParameterError(
            f"format={name!r} is not known", f"use {' or '.join(f'format={other!r}' for other in known)}"
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
    """Write the items of a cube to the folder of a collection, which does not list them yet.

    An existing item is replaced. With a claim, the first item is published last and lists the others as
    ``eoaug:siblings``: if it exists, all of them do.

    Parameters
    ----------
    ds, format, ids
        As for `write`.
    root, name
        The catalog, and the id of the collection.
    claim
        Properties and publish right of a job.

    Yields
    ------
    dict
        The document of every published item.
    """
    cube = WritableCube.of(ds)
    if format == "cog":
        refuse_lossy_crs(cube.geobox)
    labels = item_ids(cube, ids, single=format != "cog")
    folder = root.folder / name
    for label in labels:
        root.keep_inside(folder / label)
    model = known_item(cube.prov)
    target = Target(root, folder, model, claim or Claim())
    maker = _write_cogs if format == "cog" else partial(_write_group, form=format)
    registered = False
    with folder.scratch_dir() as scratch:
        hit("data begun")
        last: _Made | None = None
        for data, item in maker(cube, target, labels, scratch):
            if model is not None and not registered and "processing:expression" in item["properties"]:
                root.register_model(model)
                registered = True
            if claim is not None and item["id"] == labels[0] and len(labels) > 1:
                item["properties"]["eoaug:siblings"] = labels[1:]
                last = data, item
            else:
                yield put_item(data, item, target)
        if last is not None:
            yield put_item(*last, target)


# ------------------------------------------------------------------------------------------- the files


_Made = tuple[Path, dict[str, Any]]
"""A scratch folder with the data of an item, and the item."""


def _write_cogs(cube: WritableCube, target: Target, labels: Sequence[str], scratch: Path) -> Iterator[_Made]:
    """Write the items of one time chunk after the other."""
    members: Sequence[int | None] = cube.members or [None]
    lazy = any(var.chunks is not None for var in cube.ds.data_vars.values())
    chunks = cube.ds.unify_chunks().chunks if lazy else {}
    edges = np.cumsum([0, *chunks.get("time", [1] * cube.ds.sizes["time"])])
    for first, last in pairwise(map(int, edges)):
        files, counts, pictures = _fill_cogs(
            cube, slice(first, last), len(members), target.claim.scheduler, scratch
        )
        for t, m in counts:
            data = scratch / f"{t}-{m}"
            data.mkdir()
            share = counts[t, m].share or 0.0 if SYNTHETIC in cube.forms else None
            synthetic = cube.prov is not None and (share is None or share > 0)
            assets = {}
            for name, file_name in distinct_names(cube.forms).items():
                path = data / f"{file_name}.tif"
                mask = holds_classes(name, cube.ds[name].attrs)
                made = synthetic and (name not in cube.labels or cube.holds_generated(name))
                files[t, m, name].close(path, tags=_file_tags(cube.prov, made), categorical=mask)
                assets[name] = cog_asset(cube, name, path, synthetic)
            assets |= thumbnail_asset(data, pictures[t, m], cube.forms)
            content = ItemContent(labels[t * len(members) + m], [t], members[m], share)
            yield data, item_document(cube, target, content, assets)


def _fill_cogs(
    cube: WritableCube, dates: slice, members: int, scheduler: str | None, scratch: Path
) -> tuple[
    dict[tuple[int, int, str], CogFile],
    dict[tuple[int, int], SyntheticShare],
    dict[tuple[int, int], Thumbnail | None],
]:
    """Compute a range of dates, and write its pixels to scratch files.

    Returns the files by date, member and variable, and the synthetic pixels and pictures by date and member.
    """
    y, x = cube.yx
    counts = {(t, m): SyntheticShare() for t in range(dates.start, dates.stop) for m in range(members)}
    files = {
        (t, m, name): CogFile(scratch / f"{t}-{m}-{number}.tif", cube.geobox, form, name=name)
        for t, m in counts
        for number, (name, form) in enumerate(cube.forms.items())
    }
    pictures = {place: cube.thumbnail() for place in counts}
    for region, values in blocks(cube.ds.isel(time=dates), ("time", y, x), scheduler=scheduler):
        _show(pictures, cube, dates.start, region, values)
        for name, block in values.items():
            packed = cube.forms[name].pack(block[None] if cube.members is None else block)
            for m in range(members):
                for row in range(packed.shape[1]):
                    t = dates.start + region["time"].start + row
                    files[t, m, name].put(region[y], region[x], packed[m, row])
                    if name == SYNTHETIC:
                        counts[t, m].add(packed[m, row])
    return files, counts, pictures


def _show(
    pictures: Mapping[tuple[int, int], Thumbnail | None],
    cube: WritableCube,
    first: int,
    region: Mapping[str, slice],
    values: Mapping[str, NDArray[Any]],
) -> None:
    """Show a block over ([member,] time, y, x) in the thumbnails of its dates and members that there are."""
    y, x = cube.yx
    for (t, m), picture in pictures.items():
        row = t - first - region["time"].start
        if picture is not None and 0 <= row < region["time"].stop - region["time"].start:
            place = (row,) if cube.members is None else (m, row)
            picture.put(region[y], region[x], {name: block[place] for name, block in values.items()})


def _write_group(
    cube: WritableCube,
    target: Target,
    labels: Sequence[str],
    scratch: Path,
    *,
    form: Literal["zarr", "icechunk"],
) -> Iterator[_Made]:
    """Write the whole cube as one Zarr group with one item."""
    (label,) = labels
    count = SyntheticShare()
    _refuse_names(cube)
    ds = cube.ds.drop_vars([n for n in ("item_href",) if n in cube.ds.coords])
    attrs = dict(ds.attrs)
    if cube.prov is not None:
        attrs[ATTRIBUTE] = cube.prov.portable().to_json()
    data = scratch / "data"
    group = data / f"{label}.{form}"
    tags = _file_tags(cube.prov, True)
    pictures = {(0, 0): cube.thumbnail()}  # of the first date and member

    def on_block(region: Mapping[str, slice], values: Mapping[str, NDArray[Any]]) -> None:
        if SYNTHETIC in values:
            count.add(values[SYNTHETIC])
        _show(pictures, cube, 0, region, values)

    write_zarr(
        ds,
        group,
        form=form,
        attrs=attrs | tags,
        on_block=on_block,
        scheduler=target.claim.scheduler,
    )
    picture = thumbnail_asset(data, pictures[0, 0], cube.forms)
    files = sorted(path for path in data.rglob("*") if path.is_file())
    manifest = {"files": {path.relative_to(data).as_posix(): file_fields(path) for path in files}}
    write_json(data / MANIFEST, with_checksum(manifest))
    share = count.share or 0.0 if SYNTHETIC in cube.forms else None
    content = ItemContent(label, range(len(cube.times)), None, share)
    assets = group_assets(cube, group, form, bool(tags)) | picture
    yield data, item_document(cube, target, content, assets)


def _refuse_names(cube: WritableCube) -> None:
    """Refuse variables that cannot each be an array of its own in a folder."""
    taken: dict[str, str] = {}
    for name in map(str, cube.ds.variables):
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise ParameterError(
                f"variable {name!r} cannot be the name of an array", "rename it: ds.rename(...)"
            )
        other = taken.setdefault(name.casefold(), name)
        if other != name:  # on some file systems upper and lower case are one
            raise ParameterError(
                f"variables {other!r} and {name!r} differ only in case", "rename one of them: ds.rename(...)"
            )


def put_item(data: Path, item: dict[str, Any], target: Target) -> dict[str, Any]:
    """Publish the data of an item, then its document; return the document.

    Parameters
    ----------
    data
        Scratch folder with the files; the assets of the item are relative to it.
    item
        The document.
    target
        Where to.
    """
    label = item["id"]
    assets = item["assets"].values()
    place = target.home(label) / data_name((asset["href"], asset.get("file:checksum")) for asset in assets)
    if not _same(data, place):
        place.publish(data)
    for asset in item["assets"].values():
        asset["href"] = f"./{place.name}/{asset['href']}"
    document = with_checksum(item)
    scratch = data.parent / f"{label}.json"
    write_json(scratch, document)
    target.claim.check()
    (place.parent / scratch.name).publish(scratch, point="document")
    if data.is_dir() and not place.is_dir():  # collected as garbage before the item named it
        place.publish(data)
    hit("item published")
    return document


def _same(folder: Path, place: Location) -> bool:
    """Return whether a folder and a location hold the same files."""
    return place.is_dir() and _checksums(folder) == _checksums(place)


def _checksums(root: Any) -> dict[str, str]:
    """Return the checksums of a folder's or a location's files by path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): checksum(path) for path in files}


def _file_tags(prov: Provenance | None, synthetic: bool) -> dict[str, str]:
    """Return the tags that mark a file without its item: the synthetic flag and the provenance record."""
    if prov is None:
        return {}
    tags = {
        "EOAUG_SYNTHETIC": "true" if synthetic else "false",
        "EOAUG_PROVENANCE": prov.portable().to_json(),
    }
    return tags | ({"DigitalSourceType": prov.digital_source_type} if synthetic else {})
