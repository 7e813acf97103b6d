"""Validation of catalogs that eoaug wrote: checksums, schemas, georeference and provenance of every item."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eoaug.cube.provenance import Provenance
from eoaug.display import Shown
from eoaug.errors import EoaugError, SourceError, TargetError, first_line, printable
from eoaug.stac.band_sources import open_raster
from eoaug.stac.catalog import DATA_NAME, GENERATORS, MADE_BY, Root
from eoaug.stac.extensions import schema
from eoaug.stac.integrity import CHECKSUM, checksum_error, damage, parse_json
from eoaug.storage.access import AccessPolicy
from eoaug.storage.atomic import checksum
from eoaug.storage.crs_text import judged_crs
from eoaug.storage.location import Location
from eoaug.storage.locations import as_location, inside
from eoaug.storage.s3_location import S3Location

__all__ = ["Finding", "Validation", "is_data_file", "is_item", "validate"]


@dataclass(frozen=True)
class Finding:
    """One problem of a catalog."""

    place: str
    """Path of the file or document, relative to the catalog's folder."""
    problem: str


@dataclass(frozen=True, repr=False)
class Validation(Shown):
    """Result of `validate`."""

    items: int
    """Number of checked items."""
    files: int
    findings: tuple[Finding, ...]
    foreign: int = 0
    """Number of items of other writers, which are not checked."""

    @property
    def sound(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"sound": self.sound, **asdict(self)}

    def __str__(self) -> str:
        """Return a line per finding, and a summary."""
        lines = [f"{printable(finding.place)}: {printable(finding.problem)}" for finding in self.findings]
        good = "all sound" if self.items else "there was no item to check"
        summary = f"{self.items} items, {self.files} files: " + (f"{len(lines)} findings" if lines else good)
        if self.foreign and self.items:
            summary += f"; {self.foreign} items of other writers were not checked"
        return "\n".join([*lines, summary])


def validate(catalog: str | os.PathLike[str]) -> Validation:
    """Check everything that eoaug wrote to a catalog: checksums, georeference, schemas and provenance.

    Documents and files of other writers are not checked, only counted. A catalog that holds nothing of eoaug is not
    sound: nothing in it was checked.

    Parameters
    ----------
    catalog
        Folder or JSON file.

    Raises
    ------
    TargetError
        There is no catalog.
    """
    place = as_location(catalog)
    try:
        root = Root.at(place)
    except TargetError as error:
        file = place if place.suffix == ".json" else place / "catalog.json"
        if not file.is_file():
            raise
        # The catalog document itself is damaged.
        return Validation(0, 0, (Finding(file.name, error.problem),))
    if not root.parent.is_file():
        raise TargetError(
            f"there is no catalog at {str(catalog)!r}", "give the folder that holds catalog.json"
        )
    findings: list[Finding] = []
    counts: Counter[str] = Counter()

    def note(place: Location, problem: str) -> None:
        findings.append(Finding(place.relative_to(root.folder).as_posix(), problem))

    checked: set[str] = set()
    top = _document(root.parent, note, ours=None)
    children = _targets(top, "child", root.parent, note)
    if top.get("type") == "Collection" and _is_ours(root.parent):
        _check_collection(root.parent, note, counts, checked)
    for file in sorted(root.folder.glob("*/collection.json")):
        if _is_ours(file):
            if children.count(file) != 1:
                note(file, f"is listed {children.count(file)} times in the catalog")
            _check_collection(file, note, counts, checked)
    models = root.folder / GENERATORS / "catalog.json"
    if models.is_file():
        checked.add(str(models))
        listed = _targets(_document(models, note, ours=True), "item", models, note)
        for file in sorted(set(models.parent.glob("*.json")) - {models}):
            if listed.count(file) != 1:
                note(file, f"is listed {listed.count(file)} times")
            _document(file, note, ours=True)
    foreign = _count_foreign(root, note, counts, checked)
    if not checked and top and not _is_made(top):
        note(
            root.parent,
            f"was not written by eoaug, and nothing was checked ({foreign} items of other writers); give the catalog "
            "that eoaug.write or a job wrote to",
        )
    return Validation(counts["items"], counts["files"], tuple(dict.fromkeys(findings)), foreign)


def _count_foreign(root: Root, note: _Note, counts: Counter[str], checked: set[str]) -> int:
    """Follow the local links of a catalog: check deeper collections of eoaug, and count the items of others."""
    visited: set[str] = set()
    pending = [root.parent]
    foreign: set[str] = set()
    while pending:
        file = pending.pop()
        if str(file) in visited or root.folder not in file.parents or not file.is_file():
            continue
        visited.add(str(file))
        document = _document(file, _ignore, ours=False)
        if document.get("type") == "Collection" and str(file) not in checked and _is_ours(file):
            _check_collection(file, note, counts, checked)
        pending += _targets(document, "child", file, _ignore)
        foreign |= {str(item) for item in _targets(document, "item", file, _ignore)} - checked
    return len({item for item in foreign if Path(item).parent.name != GENERATORS})


def _ignore(place: Location, problem: str) -> None:
    """Take no note: documents of other writers are not checked."""


def _is_made(document: Mapping[str, Any]) -> bool:
    return CHECKSUM in document or document.get("description") == MADE_BY


_Note = Callable[[Location, str], None]


def _document(file: Location, note: _Note, *, ours: bool | None) -> dict[str, Any]:
    """Read a document and check its self-checksum; ours=None: only if eoaug wrote it."""
    try:
        content = file.read_bytes()
        document = parse_json(content, file)
    except OSError as error:
        note(file, f"cannot be read: {error}")
        return {}
    except TargetError as error:
        note(file, f"cannot be read: {error.problem}")
        return {}
    made = _is_made(document) if ours is None else ours
    if made and (problem := checksum_error(content)):
        note(file, problem)
    return document


def _is_ours(file: Location) -> bool:
    """Return whether eoaug wrote a collection; two traces of it, so that one flipped bit cannot hide it."""
    try:
        content = file.read_bytes()
    except (OSError, TargetError):
        return False
    if CHECKSUM.encode() in content or MADE_BY[:-1].encode() in content:
        return True
    return any(is_item(home) for home in file.parent.iterdir())


def is_item(home: Location) -> bool:
    """Return whether a folder is that of an item: it holds a data folder."""
    return home.is_dir() and any(map(is_data_file, home.iterdir()))


def is_data_file(folder: Location) -> bool:
    """Return whether a folder holds the data of an item: it is named after a hash of its content."""
    return folder.is_dir() and re.fullmatch(DATA_NAME, folder.name) is not None


def _targets(document: Mapping[str, Any], rel: str, file: Location, note: _Note) -> list[Location]:
    links = document.get("links", [])
    hrefs = [link.get("href") for link in links if isinstance(link, dict) and link.get("rel") == rel]
    targets = [_joined(file.parent, str(href)) for href in hrefs if "://" not in str(href)]
    for path in targets:
        if not path.is_file():
            note(file, f"lists {str(path.name)!r}, which is not there")
    return targets


def _joined(folder: Location, href: str) -> Location:
    """Return the target of a relative link; addresses of objects need no normalisation."""
    place = folder / href
    return place if isinstance(place, S3Location) else as_location(os.path.normpath(str(place)))


def _check_collection(file: Location, note: _Note, counts: Counter[str], checked: set[str]) -> None:
    folder = file.parent
    checked.add(str(file))
    collection = _document(file, note, ours=True)
    listed = Counter(_targets(collection, "item", file, note))
    _check_sidecars(file, collection, note, counts)
    homes = [
        home for home in sorted(folder.iterdir()) if is_item(home) or (home / f"{home.name}.json").is_file()
    ]
    for home in homes:
        path = home / f"{home.name}.json"
        if home.name.startswith("."):
            continue
        if listed[path] != 1:
            note(path if path.is_file() else home, f"is listed {listed[path]} times in its collection")
        if not path.is_file():
            continue
        item = _document(path, note, ours=True)
        checked.add(str(path))
        if item:
            counts["items"] += 1
            try:
                _check_item(home, item, note, counts)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                note(path, f"is not an item of eoaug: {type(error).__name__}: {error}")


def _check_sidecars(file: Location, collection: Mapping[str, Any], note: _Note, counts: Counter[str]) -> None:
    """Check the files about a collection that are its assets."""
    assets = collection.get("assets")
    for key, asset in assets.items() if isinstance(assets, dict) else ():
        href = str(asset.get("href"))
        if "://" in href:
            continue
        place = _joined(file.parent, href)
        if not place.is_file():
            note(file, f"has the asset {key!r}, whose file {place.name!r} is not there")
        elif asset.get("file:checksum") not in (None, checksum(place)):
            note(place, "is another file than its collection lists; run the command that wrote it again")
        counts["files"] += 1


def _check_item(home: Location, item: Mapping[str, Any], note: _Note, counts: Counter[str]) -> None:
    path = home / f"{home.name}.json"
    if item["id"] != home.name:
        note(path, f"has the id {item['id']!r}")
    broken = list(damage(home, item, deep=True))
    counts["files"] += sum("file:checksum" in asset for asset in item["assets"].values())
    for place, problem in broken:
        note(place, problem)
    for problem in _schema_problems(item):
        note(path, problem)
    if not broken:
        for name, asset in item["assets"].items():
            if str(asset.get("type", "")).startswith("image/tiff"):
                file = inside(home, asset["href"])
                for problem in _raster_problems(file, item, name, asset):
                    note(file, problem)


def _schema_problems(item: Mapping[str, Any]) -> Iterator[str]:
    for error in _validator().iter_errors(item):
        yield f"does not fit the STAC schema: {error.message[:200]} at {'/'.join(map(str, error.absolute_path))}"
    if any(name.startswith("eoaug:") for name in item["properties"]):
        for error in _own_validator().iter_errors(item):
            yield f"does not fit eoaug's schema: {error.message[:200]}"


@cache
def _own_validator() -> Any:
    from jsonschema import Draft7Validator

    return Draft7Validator(schema())


@cache
def _validator() -> Any:
    """Return the validator of STAC's item schema, which ships with pystac: nothing is fetched."""
    from jsonschema import Draft7Validator
    from pystac import STACObjectType
    from pystac.validation import RegisteredValidator
    from referencing import Registry, Resource

    known: Any = RegisteredValidator.get_validator()
    uri = known.schema_uri_map.get_object_schema_uri(STACObjectType.ITEM, "1.1.0")
    shipped = [(name, Resource.from_contents(text)) for name, text in known.schema_cache.items()]
    registry: Any = Registry().with_resources(shipped)
    return Draft7Validator(known.schema_cache[uri], registry=registry)


def _raster_problems(
    file: Location, item: Mapping[str, Any], name: str, asset: Mapping[str, Any]
) -> Iterator[str]:
    """Compare a file with its item: georeference, type and provenance tags."""
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError

    access = AccessPolicy.for_source(str(file.parent))
    try:
        with (
            open_raster(str(file), "GTiff", access, what=repr(file.name)) as raster,
        ):
            fields = {**item["properties"], **asset}
            if list(raster.shape) != list(fields["proj:shape"]):
                yield f"has shape {raster.shape}, the item says {fields['proj:shape']}"
            affine = tuple(raster.transform)[:6]
            if not all(
                math.isclose(a, b, abs_tol=1e-9)
                for a, b in zip(affine, fields["proj:transform"], strict=False)
            ):
                yield f"has the transform {affine}, the item says {fields['proj:transform']}"
            code = fields.get("proj:code")
            if code and (
                raster.crs is None
                or CRS.from_user_input(judged_crs(str(code), what="proj:code")) != raster.crs
            ):
                yield f"has the reference system {raster.crs}, the item says {code}"
            if raster.dtypes[0] != fields["data_type"]:
                yield f"has type {raster.dtypes[0]}, the item says {fields['data_type']}"
            tags = raster.tags()
    except (RasterioError, SourceError) as error:
        yield f"cannot be opened: {first_line(error)}"
        return
    synthetic = item["properties"].get("eoaug:synthetic")
    if synthetic is None:
        return
    roles = asset.get("roles", ())
    marked = synthetic and ("labels" not in roles or "synthetic" in roles)
    if tags.get("EOAUG_SYNTHETIC") != str(marked).lower():
        yield f"is marked EOAUG_SYNTHETIC={tags.get('EOAUG_SYNTHETIC')}, the item says {marked}"
    try:
        record = Provenance.from_json(tags.get("EOAUG_PROVENANCE", ""))
    except EoaugError:
        yield "has lost its EOAUG_PROVENANCE"
        return
    if record.operation != item["properties"]["eoaug:operation"]:
        yield f"says it was made by {record.operation}, the item by {item['properties']['eoaug:operation']}"
    mask = item["properties"].get("eoaug:mask")
    if mask is not None and mask not in item["assets"]:
        yield f"belongs to an item whose mask {mask!r} is not there"
