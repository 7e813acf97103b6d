"""Other libraries' readers on a catalog of eoaug: the same pixels as rasterio and zarr, from every one.

As a script, with the Python of a venv that has the readers: ``python tests/stac/readers.py READER CATALOG``. It prints the
number of rasters (or of items, for tables) that it compared. Imports nothing of eoaug.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pystac
import rasterio

warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)

Layers = dict[str, np.ndarray]
"""Pixels of the rasters of one item, (layer, y, x), by asset."""


def items_of(catalog: Path) -> list[pystac.Item]:
    """The items as everybody gets them, with absolute addresses."""
    items = list(pystac.Catalog.from_file(str(catalog / "catalog.json")).get_items(recursive=True))
    for item in items:
        item.make_asset_hrefs_absolute()
    return items


def kind_of(asset: pystac.Asset) -> str:
    media = (asset.media_type or "").split(";")[0]
    return {"image/tiff": "cog", "application/zarr": "array", "application/vnd.zarr": "group"}.get(media, "")


def rasters(item: pystac.Item, *kinds: str) -> Iterator[tuple[str, str]]:
    """Keys and addresses of an item's rasters."""
    for key, asset in item.assets.items():
        if kind_of(asset) in (kinds or ("cog", "array")):
            yield key, asset.href


def stored(item: pystac.Item) -> Layers:
    """What rasterio and zarr read from the files themselves."""
    layers = {}
    for key, href in rasters(item, "cog"):
        with rasterio.open(href) as file:
            layers[key] = file.read()
    for key, href in rasters(item, "array"):
        import zarr

        array = np.asarray(zarr.open_array(href, mode="r")[...])
        layers[key] = array.reshape(-1, *array.shape[-2:])
    return layers


def same(values: np.ndarray, expected: np.ndarray, what: object) -> int:
    values = np.ma.getdata(np.asanyarray(values))
    equal = np.array_equal(values.reshape(expected.shape), expected, equal_nan=expected.dtype.kind == "f")
    assert equal, f"{what}: other pixels than in the file"
    return 1


def places(items: list[pystac.Item]) -> list[list[pystac.Item]]:
    """Items that cover the same ground."""
    groups = defaultdict(list)
    for item in items:
        box = tuple(round(v, 3) for v in item.properties["proj:bbox"])
        groups[str(item.properties.get("proj:code")), box].append(item)
    return list(groups.values())


def grids(items: list[pystac.Item]) -> list[list[pystac.Item]]:
    """Items of one grid, and with the same bands."""
    groups = defaultdict(list)
    for item in items:
        properties = item.properties
        bands = tuple(key for key, _ in rasters(item))
        groups[properties.get("proj:code"), tuple(properties["proj:transform"]), bands].append(item)
    return list(groups.values())


# -- the readers ------------------------------------------------------------------------------------------


def odc_stac(items: list[pystac.Item]) -> int:
    """The naive call for each place, then every raster on its own grid."""
    import odc.stac

    count = 0
    for group in places(items):
        shared = set.intersection(*({key for key, _ in rasters(item)} for item in group))
        cube = odc.stac.load(group, bands=sorted(shared))
        assert cube.sizes["time"] == len(
            {item.datetime or item.common_metadata.start_datetime for item in group}
        )
        assert all(cube[name].notnull().any() for name in shared)
    for group in grids(items):
        cube = odc.stac.load(group, groupby=lambda _item, _parsed, index: index)
        for k, item in enumerate(group):
            for key, layers in stored(item).items():
                count += same(cube[key].values[k], layers[0], (item.id, key))
    return count


def rioxarray(items: list[pystac.Item]) -> int:
    """Files with its own function, arrays of a group with xarray; it knows where both lie."""
    import rioxarray
    import xarray as xr

    count = 0

    def check(array: xr.DataArray, layers: np.ndarray, item: pystac.Item) -> int:
        assert array.rio.crs is not None
        assert np.allclose(tuple(array.rio.transform())[:6], item.properties["proj:transform"], rtol=1e-12)
        return same(array.values, layers, (item.id, array.name))

    for item in items:
        layers = stored(item)
        for key, href in rasters(item, "cog"):
            with rioxarray.open_rasterio(href) as array:
                count += check(array, layers[key], item)
        for _, href in rasters(item, "group"):
            with xr.open_zarr(href, chunks=None, mask_and_scale=False, decode_coords="all") as ds:
                count += sum(check(ds[name], layers[name], item) for name in layers)
    return count


def gdal(items: list[pystac.Item]) -> int:
    count = 0
    for item in items:
        for key, layers in stored(item).items():
            with rasterio.open(item.assets[key].href) as file:
                code = item.properties.get("proj:code")
                assert code is None or file.crs.to_string() == code
                assert np.allclose(tuple(file.transform)[:6], item.properties["proj:transform"], rtol=1e-12)
                count += same(file.read(), layers, (item.id, key))
    return count


def rio_tiler(items: list[pystac.Item]) -> int:
    from rio_tiler.io import Reader, STACReader

    count = 0
    for item in items:
        layers = stored(item)
        for key, href in rasters(item, "cog"):
            with Reader(href) as file:
                count += same(file.read().array, layers[key], (item.id, key))
            with STACReader(item.get_self_href()) as whole:
                picture = whole.preview(assets=[key], max_size=None)
                count += same(picture.array, layers[key], (item.id, key, "STACReader"))
    return count


def xpystac(items: list[pystac.Item]) -> int:
    import xarray as xr
    import xpystac  # noqa: F401  (registers the engine)

    count = 0
    for item in items:
        layers = stored(item)
        for key, _ in rasters(item, "cog"):
            with xr.open_dataset(item.assets[key], engine="stac", mask_and_scale=False) as ds:
                count += same(next(iter(ds.data_vars.values())).values, layers[key], (item.id, key))
        for key, _ in rasters(item, "group"):
            with xr.open_dataset(item.assets[key], engine="stac", mask_and_scale=False) as ds:
                for name in layers:
                    count += same(ds[name].values, layers[name], (item.id, name))
    return count


def stackstac(items: list[pystac.Item]) -> int:
    """Each raster of a single layer; it refuses files of several."""
    import stackstac

    count = 0
    for group in grids(items):
        single = [item for item in group if all(len(layers) == 1 for layers in stored(item).values())]
        code = str(group[0].properties.get("proj:code", ""))
        for key in stored(single[0]) if single and code.startswith("EPSG:") else ():
            step = single[0].properties["proj:transform"][0]
            array = stackstac.stack(
                single, assets=[key], epsg=int(code[5:]), resolution=step, snap_bounds=False, rescale=False,
                bounds=single[0].properties["proj:bbox"],
                dtype="float64", fill_value=np.nan, sortby_date=False,
            )  # fmt: skip
            for values, item in zip(array.compute().values[:, 0], single, strict=True):
                expected = stored(item)[key][0].astype(np.float64)
                missing = item.assets[key].extra_fields.get("nodata")
                if missing is not None and missing != "nan":
                    expected = np.where(expected == missing, np.nan, expected)
                count += same(values, expected, (item.id, key))
    return count


def stac_geoparquet(items: list[pystac.Item]) -> int:
    from stac_geoparquet import arrow

    documents = [item.to_dict(transform_hrefs=False) for item in items]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "items.parquet"
        arrow.to_parquet(arrow.parse_stac_items_to_arrow(documents), str(file))
        import pyarrow.parquet

        back = list(arrow.stac_table_to_items(pyarrow.parquet.read_table(file)))
    return _same_documents(documents, back)


def rustac(items: list[pystac.Item]) -> int:
    import rustac

    documents = [item.to_dict(transform_hrefs=False) for item in items]

    async def through(file: str) -> list[dict]:
        await rustac.write(file, documents)
        return (await rustac.read(file))["features"]

    with tempfile.TemporaryDirectory() as folder:
        back = asyncio.run(through(str(Path(folder) / "items.parquet")))
    return _same_documents(documents, back)


def _same_documents(documents: list[dict], back: list[dict]) -> int:
    """Every item comes back with the fields that it has, and no other."""
    by_id = {item["id"]: item for item in back}
    for document in documents:
        item = by_id[document["id"]]
        for key, value in document["properties"].items():
            if key not in (
                "datetime",
                "start_datetime",
                "end_datetime",
                "processing:datetime",
            ):  # spelled otherwise
                assert _plain(item["properties"].get(key)) == _plain(value), (document["id"], key)
        assert set(document["assets"]) <= set(item["assets"])
    return len(by_id)


def _plain(value: object) -> object:
    """Without the missing members that a table gives to every object."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


READERS: dict[str, Callable[[list[pystac.Item]], int]] = {
    "odc-stac": odc_stac,
    "rioxarray": rioxarray,
    "rasterio": gdal,
    "rio-tiler": rio_tiler,
    "xpystac": xpystac,
    "stackstac": stackstac,
    "stac-geoparquet": stac_geoparquet,
    "rustac": rustac,
}

if __name__ == "__main__":
    for reader in READERS if sys.argv[1] == "all" else [sys.argv[1]]:
        for folder in sys.argv[2:]:
            print(reader, folder, READERS[reader](items_of(Path(folder))), flush=True)
