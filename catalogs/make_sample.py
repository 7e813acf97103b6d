"""Make ``catalogs/sample``: real Sentinel-1 and Sentinel-2 patches as COGs with STAC 1.1 items.

    python catalogs/make_sample.py bigearthnet_common-2.8.0-py3-none-any.whl

The patches are the example archives of BigEarthNet that ship in the PyPI package ``bigearthnet-common``
(``pip download --no-deps bigearthnet-common==2.8.0``). Argument: the wheel, or the folder of the
unpacked or installed package. Pixels are copied, not resampled; everything in the items comes from the
archives' metadata, from the rasters, or from the tables of `eoaug.raster.bands`. These are measurements, so
they carry no synthetic marks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import rasterio
import rasterio.shutil
from rasterio.warp import transform_bounds, transform_geom

from eoaug.raster.bands import EO_COMMON_NAMES, band_of

ARCHIVES = ("BigEarthNet-S2-Example.tar.bz2", "BigEarthNet-S1-Example.tar.bz2")
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = "https://stac-extensions.github.io"
BASE = [f"{EXTENSIONS}/projection/v2.0.0/schema.json", f"{EXTENSIONS}/file/v2.1.0/schema.json"]
OPTICAL = [*BASE, f"{EXTENSIONS}/eo/v2.0.0/schema.json", f"{EXTENSIONS}/raster/v2.0.0/schema.json"]
RADAR = [*BASE, f"{EXTENSIONS}/sar/v1.3.0/schema.json"]

NOTICE = """Sample catalog of eoaug
=======================

The pixels are the example patches of BigEarthNet as they ship in the Python package
bigearthnet-common 2.8.0 (https://github.com/kai-tub/bigearthnet_common, Apache License 2.0,
Kai Norman Clasen). They were converted from GeoTIFF to cloud-optimised GeoTIFF without changing a pixel.

BigEarthNet (G. Sumbul, M. Charfuelan, B. Demir, V. Markl: BigEarthNet: A Large-Scale Benchmark Archive
for Remote Sensing Image Understanding, IGARSS 2019; G. Sumbul et al.: BigEarthNet-MM, IEEE Geoscience
and Remote Sensing Magazine, 2021) is licensed under the Community Data License Agreement - Permissive,
Version 1.0 (https://cdla.dev/permissive-1-0/).

Contains modified Copernicus Sentinel data 2017-2018, processed by ESA and by the BigEarthNet team.
The land-cover labels derive from CORINE Land Cover 2018 (European Union, Copernicus Land Monitoring
Service, European Environment Agency).
"""


def patches(source: Path, room: Path) -> Iterator[Path]:
    """Yield the patch folders of both archives; they are unpacked below ``room``, and nowhere else."""
    for name in ARCHIVES:
        archive = room / name
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel:
                archive.write_bytes(wheel.read(f"bigearthnet_common/{name}"))
        else:
            folder = source / "bigearthnet_common"
            shutil.copyfile((folder if folder.is_dir() else source) / name, archive)
        with tarfile.open(archive) as tar:
            tar.extractall(room, filter="data")
        yield from sorted(path.parent for path in room.glob(f"{name.split('.')[0]}/*/*_labels_metadata.json"))


def copy_as_cog(source: Path, target: Path, *, nodata: float | None, description: str) -> None:
    """Copy a one-band raster pixel by pixel into a COG with a nodata value and a band description."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(source) as src, rasterio.MemoryFile() as memory:
        pixels = src.read(1)
        assert nodata is None or not (pixels == nodata).any(), f"{source.name} holds its nodata value"
        profile = {key: src.profile[key] for key in ("width", "height", "count", "dtype", "crs", "transform")}
        with memory.open(driver="GTiff", nodata=nodata, **profile) as out:
            out.write(pixels, 1)
            out.set_band_description(1, description)
        predictor = "FLOATING_POINT" if profile["dtype"].startswith("float") else "STANDARD"
        rasterio.shutil.copy(
            memory.name, str(target), driver="COG", COMPRESS="DEFLATE", LEVEL=9, PREDICTOR=predictor
        )


def raster_asset(path: Path, band_name: str, *, platform: str) -> pystac.Asset:
    """Describe a COG from its own header."""
    with rasterio.open(path) as file:
        band = band_of(band_name, platform)
        assert band is not None, band_name
        fields: dict[str, Any] = {
            "gsd": band.gsd_m,
            "data_type": file.dtypes[0],
            "proj:shape": list(file.shape),
            "proj:transform": list(file.transform)[:6],
            "file:size": path.stat().st_size,
            "file:checksum": "1220" + hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        described: dict[str, Any] = {"name": band_name}
        if band.common_name in EO_COMMON_NAMES:
            described |= {"eo:common_name": band.common_name, "eo:center_wavelength": band.wavelength_um}
            # Level-2A of baseline 02.05: quantification value 10000, no offset before baseline 04.00.
            fields |= {"nodata": 0, "unit": "1", "raster:scale": 1e-4, "raster:offset": 0}
        else:
            fields |= {"unit": "dB"}
        fields["bands"] = [described]
    roles = ["data", "reflectance" if "raster:scale" in fields else "backscatter"]
    return pystac.Asset(href=f"./{path.name}", media_type=COG, roles=roles, extra_fields=fields)


def make_item(patch: Path, folder: Path) -> pystac.Item:
    """Copy the rasters of one patch and describe them."""
    (sidecar,) = patch.glob("*_labels_metadata.json")
    metadata = json.loads(sidecar.read_text())
    radar = patch.name.startswith("S1")
    platform = f"sentinel-{patch.name[1]}{patch.name[2].lower()}"
    stamp = metadata.get("acquisition_time") or metadata["acquisition_date"].replace(" ", "T")
    rasters = sorted(patch.glob("*.tif"))
    properties: dict[str, Any] = {
        "platform": platform,
        "constellation": platform[:-1],
        "instruments": ["c-sar" if radar else "msi"],
        "gsd": 10.0,
        "bigearthnet:labels": metadata["labels"],
    }
    with rasterio.open(max(rasters, key=lambda path: path.stat().st_size)) as file:
        crs, bounds, transform, shape = file.crs, file.bounds, file.transform, file.shape
    # BigEarthNet's rasters have no other anchor than this corner; a mismatch means a broken archive.
    corner = metadata["coordinates"]
    assert (transform.c, transform.f) == (corner["ulx"], corner["uly"]), patch.name
    properties["proj:code"] = f"EPSG:{crs.to_epsg()}"
    properties["proj:bbox"] = list(bounds)
    properties["proj:shape"], properties["proj:transform"] = list(shape), list(transform)[:6]
    if radar:
        properties |= {
            "sar:instrument_mode": "IW",
            "sar:frequency_band": "C",
            "sar:polarizations": ["VV", "VH"],
            "sar:product_type": "GRD",
            "bigearthnet:source": metadata["scene_source"],
            "bigearthnet:corresponding_s2_patch": metadata["corresponding_s2_patch"],
        }
    else:
        baseline, tile = re.search(r"_N(\d{4})_R\d{3}_T(\w{5})_", metadata["tile_source"]).groups()
        properties |= {
            "s2:processing_baseline": f"{baseline[:2]}.{baseline[2:]}",
            "s2:mgrs_tile": tile,
            "bigearthnet:source": metadata["tile_source"],
        }
    left, bottom, right, top = bounds
    ring = [[left, top], [left, bottom], [right, bottom], [right, top], [left, top]]
    item = pystac.Item(
        id=patch.name,
        geometry=transform_geom(crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]}, precision=7),
        bbox=[round(v, 7) for v in transform_bounds(crs, "EPSG:4326", *bounds)],
        datetime=datetime.fromisoformat(stamp).replace(tzinfo=UTC),
        properties=properties,
        stac_extensions=RADAR if radar else OPTICAL,
    )
    for raster in rasters:
        band_name = raster.stem.rsplit("_", 1)[1]
        target = folder / patch.name / f"{band_name}.tif"
        copy_as_cog(raster, target, nodata=None if radar else 0, description=band_name)
        item.add_asset(band_name, raster_asset(target, band_name, platform=platform))
    return item


def make_catalog(source: Path, target: Path) -> pystac.Catalog:
    """Write the catalog into the empty folder ``target``."""
    about = {
        "sentinel-2-l2a": "Six Sentinel-2 Level-2A patches, 12 bands at native 10, 20 and 60 m.",
        "sentinel-1-grd": "Six Sentinel-1 patches of the same places: VV and VH backscatter in dB, 10 m.",
    }
    catalog = pystac.Catalog(
        id="eoaug-sample",
        title="eoaug sample catalog",
        description="Real Sentinel-1 and Sentinel-2 patches of BigEarthNet. See NOTICE for licences.",
    )
    items: dict[str, list[pystac.Item]] = {name: [] for name in about}
    with tempfile.TemporaryDirectory() as room:
        for patch in patches(source, Path(room)):
            name = "sentinel-1-grd" if patch.name.startswith("S1") else "sentinel-2-l2a"
            items[name].append(make_item(patch, target / name))
    for name, members in items.items():
        collection = pystac.Collection(
            id=name,
            description=about[name],
            extent=pystac.Extent.from_items(members),
            license="CDLA-Permissive-1.0",
            providers=[
                pystac.Provider("ESA", roles=[pystac.ProviderRole.PRODUCER], url="https://www.esa.int"),
                pystac.Provider(
                    "BigEarthNet", roles=[pystac.ProviderRole.PROCESSOR], url="https://bigearth.net"
                ),
            ],
        )
        catalog.add_child(collection)
        collection.add_items(members)
    catalog.normalize_hrefs(str(target))
    catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
    (target / "NOTICE").write_text(NOTICE)
    return catalog


def main() -> None:
    """Parse the arguments and make the catalog in place of the one that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path, help="wheel or folder of bigearthnet-common")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sample")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.out.parent) as room:
        fresh = Path(room) / "sample"
        fresh.mkdir()
        make_catalog(args.package, fresh)
        shutil.rmtree(args.out, ignore_errors=True)
        fresh.rename(args.out)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    print(f"{args.out}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
