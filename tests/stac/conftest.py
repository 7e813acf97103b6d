"""Small catalogs and cubes: real ones from the sample, made ones for what no sample has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pystac
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pystac.validation import RegisteredValidator

from eoaug.cube.provenance import Provenance, stamp
from eoaug.errors import EoaugError
from eoaug.formats.cog import CogFile
from eoaug.formats.packing import Stored
from eoaug.stac.extensions import CLASSIFICATION, SCHEMA_URI, schema
from eoaug.stac.integrity import MANIFEST, with_checksum, write_json
from eoaug.stac.open import open_cube
from eoaug.storage.atomic import checksum

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "catalogs" / "sample"
PATCH = "S2A_MSIL2A_20170613T101031_87_48"


def data_folder() -> Path | None:
    """The folder of shared test data, where this machine has one."""
    for place in (os.environ.get("EOAUG_DATA"), ROOT.parent / "shared" / "data"):
        if place and Path(place).is_dir():
            return Path(place)
    return None


@pytest.fixture(scope="session")
def data():
    folder = data_folder()
    if folder is None:
        pytest.skip("needs the shared data: set EOAUG_DATA")
    return folder


@pytest.fixture(scope="session")
def validate(data):
    """Validates a catalog with everything in it; no schema comes from the network."""
    validator = RegisteredValidator.get_validator()
    folder = data / "schemas"
    for uri, name in json.loads((folder / "index.json").read_text())["schemas"].items():
        validator.schema_cache[uri] = json.loads((folder / name).read_text())
    validator.schema_cache[SCHEMA_URI] = schema()
    # pystac reads classification v1.1 as v2, which asks for names of classes besides; its schema is not in the folder.
    text = json.dumps(validator.schema_cache[CLASSIFICATION]).replace("v1.1.0", "v2.0.0")
    validator.schema_cache[CLASSIFICATION.replace("v1.1.0", "v2.0.0")] = json.loads(text)

    def run(path: Path) -> int:
        catalog = pystac.Catalog.from_file(str(path))
        catalog.validate()
        count = 0
        for child in catalog.get_children():
            child.validate()
        for item in catalog.get_items(recursive=True):
            item.validate()
            count += 1
        return count

    return run


@pytest.fixture(scope="session")
def cube():
    """A real patch: four bands of two pixel sizes, lazy."""
    return open_cube(SAMPLE, collections="sentinel-2-l2a", ids=PATCH, bands=["B02", "B04", "B08", "B11"])


def provenance(**kwargs) -> Provenance:
    given = {"operation": "inpaint", "generator": "classical", "token": "0123456789ab", "seed": 7}
    return Provenance(**{**given, **kwargs})


def augmented(ds: xr.Dataset) -> xr.Dataset:
    """What a verb returns: some pixels changed, marked, with provenance."""
    mask = np.zeros(tuple(ds.sizes[dim] for dim in ("time", "y", "x")), np.uint8)
    mask[:, 10:40, 10:50] = 1
    out = ds.assign(synthetic=(("time", "y", "x"), mask))
    for name in ds.data_vars:
        out[name] = ds[name].where(out.synthetic == 0, np.float32(0.1234))
        out[name].attrs, out[name].encoding = dict(ds[name].attrs), dict(ds[name].encoding)
    sources = tuple(
        {"id": str(i), "href": str(h)} for i, h in zip(ds.item_id.values, ds.item_href.values, strict=True)
    )
    return stamp(out, provenance(sources=sources))


def generated(ds: xr.Dataset, **kwargs) -> xr.Dataset:
    """The cube as if all of it were generated, marked, with provenance."""
    some = next(iter(ds.data_vars.values()))
    return stamp(ds.assign(synthetic=xr.ones_like(some, dtype=np.uint8).drop_attrs()), provenance(**kwargs))


def made_cube(geobox: GeoBox, *, times=1, names=("B02",), seed=0) -> xr.Dataset:
    """A cube of numbers on any grid."""
    rng = np.random.default_rng(seed)
    time = np.datetime64("2020-06-01T10:00:00", "ns") + np.arange(times) * np.timedelta64(5, "D")
    coords = dict(xr_coords(geobox))
    dims = list(geobox.dimensions)
    ds = xr.Dataset(coords={**coords, "time": time})
    for name in names:
        values = rng.integers(1, 9000, (times, *geobox.shape)) * np.float32(1e-4)
        ds[name] = (("time", *dims), values.astype(np.float32), {"grid_mapping": "spatial_ref"})
        ds[name].encoding = {"dtype": "uint16", "scale_factor": 1e-4, "add_offset": 0.0, "_FillValue": 0}
    return ds


def grid(*, x=500000.0, y=5000000.0, size=32, res=10.0, epsg=32633) -> GeoBox:
    return GeoBox((size, size), Affine(res, 0, x, 0, -res, y), f"EPSG:{epsg}")


def make_item(
    folder: Path,
    name: str = "one",
    *,
    geobox: GeoBox | None = None,
    values=None,
    bands=("B02",),
    dtype="uint16",
    nodata=0,
    properties=None,
    fields=None,
    datetime="2020-06-01T10:00:00Z",
    drop=(),
    crs_in_file=True,
) -> pystac.Item:
    """Write a band or more and a STAC 1.1 item that describes them."""
    import rasterio

    box = geobox or grid()
    shape = tuple(box.shape)
    if values is None:
        values = (np.arange(np.prod(shape)) % 9000 + 1).reshape(shape).astype(dtype)
    code = f"EPSG:{box.crs.to_epsg()}"
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": name,
        "geometry": None,
        "bbox": None,
        "properties": {
            "datetime": datetime,
            "platform": "sentinel-2a",
            "proj:code": code,
            **(properties or {}),
        },
        "links": [],
        "assets": {},
    }
    for band in bands:
        path = folder / f"{name}-{band}.tif"
        scratch = path.with_suffix(".scratch.tif")
        cog = CogFile(scratch, box, Stored(np.dtype(dtype), nodata, packed=True), name=band)
        cog.put(slice(0, shape[0]), slice(0, shape[1]), values)
        cog.close(path, tags={})
        if not crs_in_file:
            with rasterio.open(path) as file:
                pixels, kept = file.read(), file.profile
            kept.update(driver="GTiff", crs=None)
            with rasterio.open(path, "w", **kept) as file:
                file.write(pixels)
        asset = {
            "href": f"./{path.name}",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "data_type": dtype,
            "nodata": nodata,
            "raster:scale": 1e-4,
            "raster:offset": 0.0,
            "proj:shape": list(shape),
            "proj:transform": list(box.affine)[:6],
            "bands": [{"name": band}],
            **(fields or {}),
        }
        if nodata is None:
            del asset["nodata"]
        item["assets"][band] = asset
    for key in drop:
        item["properties"].pop(key, None)
        for asset in item["assets"].values():
            asset.pop(key, None)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(item))
    return pystac.Item.from_file(str(path))


def told_anew(group):
    """Have the manifest beside a group name what the group holds by now."""
    files = {
        p.relative_to(group.parent).as_posix(): p
        for p in group.parent.rglob("*")
        if p.is_file() and p.name != MANIFEST
    }
    fields = {
        name: {"file:size": p.stat().st_size, "file:checksum": checksum(p)} for name, p in files.items()
    }
    write_json(group.with_name(MANIFEST), with_checksum({"files": fields}))


def assert_named(cases: Mapping[str, tuple[Callable[[], object], type[EoaugError], str]]) -> None:
    """Every wrong use raises its error of ours, which names the culprit and a remedy."""
    failures = []
    for name, (call, error, culprit) in cases.items():
        try:
            call()
        except EoaugError as caught:
            if not isinstance(caught, error) or culprit not in str(caught) or not caught.remedy:
                failures.append(f"{name}: {type(caught).__name__}: {caught}")
        except Exception as caught:
            failures.append(f"{name}: foreign {type(caught).__name__}: {caught}")
        else:
            failures.append(f"{name}: no error")
    assert not failures, "\n".join(failures)
