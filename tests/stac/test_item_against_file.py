"""What an item says is compared with the file; what it does not say is read from it; nothing is lost or mixed up."""

from __future__ import annotations

import json

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, EoaugError, GridError, ParameterError, RadiometryError, SourceError
from eoaug.raster.bands import common_name, platform_of
from eoaug.stac.classes import cf_flags
from eoaug.stac.filters import Search, parse_bbox
from eoaug.stac.headers import Declaration, header_of
from eoaug.stac.open import open_cube

from .conftest import grid, make_item

SIZE = (12, 16)


def tif(path, *, values=None, crs="EPSG:32633", transform=None, names=(), **profile):
    values = np.full(SIZE, 2000, "uint16") if values is None else np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    scale, offset = profile.pop("scale", None), profile.pop("offset", 0.0)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=len(values), crs=crs,
        dtype=values.dtype, transform=transform or Affine(10, 0, 500000, 0, -10, 5000000), **profile,
    ) as file:  # fmt: skip
        file.write(values)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
        if scale is not None:
            file.scales, file.offsets = (scale,) * len(values), (offset,) * len(values)
    return path


def item_of(folder, assets, *, name="one", datetime="2024-06-01T10:00:00Z", collection=None, **properties):
    document = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "geometry": None,
        "bbox": None,
        "properties": {"datetime": datetime, **properties},
        "links": [],
        "assets": {
            key: {"href": str(folder / f"{key}.tif"), "type": "image/tiff", "roles": ["data"], **fields}
            for key, fields in assets.items()
        },
    }
    if collection:
        document["collection"] = collection
    return pystac.Item.from_dict(document, href=str(folder / f"{name}.json"))


# ------------------------------------------------------------------------------------- contradictions


def contradiction(rng):
    """A header, the item's projection fields, the field that is wrong, and both of its values as text."""
    height, width = int(rng.integers(4, 17)), int(rng.integers(4, 17))
    height += height == width
    res = float(rng.choice([10.0, 20.0, 30.0, 0.5, 60.0]))
    x, y = float(rng.integers(100_000, 800_000)), float(rng.integers(1_000_000, 9_000_000))
    zone = int(rng.integers(1, 60))
    transform = Affine(res, 0, x, 0, -res, y)
    code = f"EPSG:{32600 + zone}"
    fields = {"proj:code": code, "proj:shape": [height, width], "proj:transform": list(transform)[:6]}
    kind = rng.choice(
        ["shift", "half a pixel", "swap", "zone", "hemisphere", "gdal", "tile", "south-up", "size"]
    )
    a, b, c, d, e, f = fields["proj:transform"]
    if kind == "shift":
        fields["proj:transform"] = [a, b, c + res * int(rng.integers(1, 99)), d, e, f]
    elif kind == "half a pixel":
        fields["proj:transform"] = [a, b, c + res / 2, d, e, f - res / 2]
    elif kind == "swap":
        fields["proj:shape"] = [width, height]
    elif kind == "zone":
        fields["proj:code"] = f"EPSG:{32600 + zone + 1}"
    elif kind == "hemisphere":
        fields["proj:code"] = f"EPSG:{32700 + zone}"
    elif kind == "gdal":
        fields["proj:transform"] = [c, a, b, f, d, e]
    elif kind == "tile":
        fields["proj:transform"] = [a, b, c + 109_800, d, e, f - 99_960]
    elif kind == "south-up":
        fields["proj:transform"] = [a, b, c, d, -e, f + height * e]
    else:
        fields["proj:transform"] = [2 * a, b, c, d, 2 * e, f]
    wrong = {"swap": "proj:shape", "zone": "proj:code", "hemisphere": "proj:code"}.get(
        str(kind), "proj:transform"
    )
    own = {"proj:code": code, "proj:shape": [height, width], "proj:transform": list(transform)[:6]}[wrong]
    if wrong == "proj:code" and rng.random() < 0.5:  # the field of the projection extension before 2.0
        fields["proj:epsg"] = int(fields.pop("proj:code")[5:])
        wrong = "proj:epsg"

    def text(value):
        return value if isinstance(value, str) else "[" + ", ".join(f"{v:.12g}" for v in value) + "]"

    declared = fields[wrong] if wrong != "proj:epsg" else f"EPSG:{fields[wrong]}"
    return (height, width), transform, code, fields, (wrong, text(declared), text(own))


def check_contradictions(folder, count, seed):
    rng = np.random.default_rng(seed)
    silent = []
    for _ in range(count):
        shape, transform, code, fields, expected = contradiction(rng)
        tif(
            folder / "B04.tif", values=np.full(shape, 2000, "uint16"), crs=code, transform=transform, nodata=0
        )
        band = {"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": 0}]}
        on_asset = rng.random() < 0.5
        item = item_of(
            folder, {"B04": {**band, **(fields if on_asset else {})}}, **({} if on_asset else fields)
        )
        try:
            open_cube(item, chunks=None)
        except GridError as error:
            missing = [part for part in ("'one'", "'B04'", *expected) if part not in error.problem]
            if missing:
                silent.append(f"{fields}: {error.problem} lacks {missing}")
        else:
            silent.append(f"{fields}: no error")
    assert not silent, f"{len(silent)} of {count}:\n" + "\n".join(silent[:5])


def test_every_contradiction_is_named(tmp_path):
    check_contradictions(tmp_path, 30, seed=1)


@pytest.mark.slow
def test_200_contradictions_are_200_errors(tmp_path):
    check_contradictions(tmp_path, 200, seed=19)


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"data_type": "int16"}, RadiometryError, ("data_type", "int16", "uint16")),
        ({"nodata": 65535}, RadiometryError, ("nodata", "65535", "0")),
        ({"scale": 1e-3}, RadiometryError, ("raster:scale", "0.001", "0.0001")),
        ({"offset": 0.1}, RadiometryError, ("raster:offset", "0.1", "-0.1")),
    ],
)
def test_a_declaration_that_contradicts_the_file_is_refused(tmp_path, fields, error, named):
    tif(tmp_path / "B04.tif", nodata=0, scale=1e-4, offset=-0.1)
    with pytest.raises(error) as caught:
        open_cube(item_of(tmp_path, {"B04": {"raster:bands": [fields]}}))
    assert all(text in caught.value.problem for text in ("'one'", "'B04'", *named))
    # The remedy: without the field the file's own is used.
    ds = open_cube(item_of(tmp_path, {"B04": {}}))
    assert float(ds.B04[0, 0, 0]) == pytest.approx(0.1)


def test_a_wrong_number_of_bands_is_refused(tmp_path):
    tif(tmp_path / "B04.tif", values=np.ones((3, *SIZE), "uint8"))
    for count in (1, 2, 4):
        listed = [{"name": f"b{n}"} for n in range(count)]
        with pytest.raises(BandError, match=f"bands is {count} in the item and 3 in the file"):
            open_cube(item_of(tmp_path, {"B04": {"eo:bands": listed}}), bands=None)


def test_rounded_transforms_and_names_of_one_system_are_no_contradiction(tmp_path):
    res = 10 / 111_320
    box = Affine(res, 0, 15.0, 0, -res, 45.0)
    tif(tmp_path / "B04.tif", crs="EPSG:4326", transform=box, nodata=0)
    rounded = [float(f"{v:.9g}") for v in tuple(box)[:6]]
    for code in ({"proj:code": "EPSG:4326"}, {"proj:code": "OGC:CRS84"}, {"proj:epsg": 4326}):
        fields = {**code, "proj:shape": list(SIZE), "proj:transform": [*rounded, 0, 0, 1]}
        assert open_cube(item_of(tmp_path, {"B04": fields})).B04.shape == (1, *SIZE)
    utm = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    tif(tmp_path / "B04.tif", nodata=0)
    assert open_cube(item_of(tmp_path, {"B04": {"proj:wkt2": utm}})).B04.shape == (1, *SIZE)


def test_the_system_of_the_asset_wins_over_that_of_the_item(tmp_path):
    tif(tmp_path / "B04.tif", crs="EPSG:32634", nodata=0)
    item = item_of(tmp_path, {"B04": {"proj:epsg": 32634}}, **{"proj:code": "EPSG:32633"})
    assert open_cube(item).odc.geobox.crs == "EPSG:32634"


def test_files_that_are_not_opened_for_their_item_are_compared_when_read(tmp_path):
    item = make_item(tmp_path)
    ds = open_cube(item)
    path = tmp_path / "one-B02.tif"
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    profile.update(driver="GTiff", transform=Affine(10, 0, 600000, 0, -10, 5000000))
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    with pytest.raises(
        GridError, match=r"proj:transform is .*500000.* in the item and .*600000.* in the file"
    ):
        ds.compute()


@pytest.mark.parametrize(
    "fields",
    [
        {"proj:shape": [1]}, {"proj:shape": "x"}, {"proj:shape": [1.5, 2]}, {"proj:shape": 3}, {"proj:transform": [1, 2]},
        {"proj:transform": [float("nan")] * 6}, {"proj:transform": ["a"] * 6}, {"proj:epsg": 1}, {"proj:epsg": "x"},
        {"proj:wkt2": "PROJCRS["}, {"proj:projjson": {"type": "x"}},
    ],
)  # fmt: skip
def test_malformed_projection_fields_are_errors(tmp_path, fields):
    tif(tmp_path / "B04.tif", nodata=0)
    with pytest.raises(GridError, match="proj:"):
        open_cube(item_of(tmp_path, {"B04": fields}))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_file_without_georeference_is_named(tmp_path):
    tif(tmp_path / "B04.tif", crs=None, transform=Affine.identity(), nodata=0)
    fields = {
        "proj:code": "EPSG:32633", "proj:shape": list(SIZE), "proj:transform": [10, 0, 500000, 0, -10, 5000000],
    }  # fmt: skip
    with pytest.raises(
        GridError, match=r"'B04' of item 'one' has no coordinate reference system in its file"
    ):
        open_cube(item_of(tmp_path, {"B04": fields}))
    # What the file does not say contradicts nothing.
    with rasterio.open(tmp_path / "B04.tif") as file:
        header = header_of(file)
    declared = Declaration(crs=(("proj:code", "EPSG:32633"),), transform=(10, 0, 5e5, 0, -10, 5e6))
    assert list(declared.contradictions(header, 1)) == []


# -------------------------------------------------------------------- what the item does not say


@pytest.mark.parametrize("declared", [{}, {"data_type": "uint16"}, {"data_type": "uint16", "scale": 1e-4}])
def test_nodata_scale_and_offset_of_the_file_are_used(tmp_path, declared):
    values = np.full(SIZE, 2000, "uint16")
    values[0, 0] = 7
    tif(tmp_path / "B04.tif", values=values, nodata=7, scale=1e-4, offset=-0.1)
    ds = open_cube(item_of(tmp_path, {"B04": {"raster:bands": [declared]}})).load()
    assert np.isnan(ds.B04[0, 0, 0])
    assert float(ds.B04[0, 1, 1]) == pytest.approx(0.1)


def test_nodata_that_the_type_cannot_hold(tmp_path):
    tif(tmp_path / "B04.tif", values=np.ones(SIZE, "uint8"))
    item = item_of(tmp_path, {"B04": {"raster:bands": [{"nodata": -9999}]}})
    with pytest.raises(RadiometryError, match="-9999"):
        open_cube(item)
    assert (
        "nodata" not in open_cube(item_of(tmp_path, {"B04": {"raster:bands": [{"nodata": "nan"}]}})).B04.attrs
    )


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", 1000.0), ("uint8", 100), ("uint16", 0.0), ("int16", 0.0)]
)
def test_the_rule_of_sentinel_2_is_for_digital_numbers(tmp_path, dtype, expected):
    tif(tmp_path / "B04.tif", values=np.full(SIZE, 100 if dtype == "uint8" else 1000, dtype), nodata=0)
    item = item_of(tmp_path, {"B04": {}}, platform="sentinel-2a", **{"s2:processing_baseline": "05.09"})
    assert float(open_cube(item).B04[0, 0, 0]) == pytest.approx(expected, abs=1e-6)


def test_hls_of_sentinel_2_is_not_scaled_as_esas(tmp_path):
    tif(tmp_path / "B04.tif", values=np.full(SIZE, 1000, "int16"), nodata=-9999, scale=1e-4)
    item = item_of(
        tmp_path, {"B04": {}}, name="HLS.S30.T33TVM.2024153", platform="sentinel-2a", **{"s2:processing_baseline": "05.09"}
    )  # fmt: skip
    assert float(open_cube(item).B04[0, 0, 0]) == pytest.approx(0.1)


# -------------------------------------------------------------------------------- bands of one file


def four(folder, key="analytic", names=("blue", "green", "red", "nir"), **more):
    values = np.stack([np.full(SIZE, 1000 * (i + 1), "uint16") for i in range(4)])
    return tif(folder / f"{key}.tif", values=values, nodata=0, scale=1e-4, names=names, **more)


def test_all_bands_of_a_file_are_read_by_their_descriptions(tmp_path):
    four(tmp_path)
    item = item_of(tmp_path, {"analytic": {}})
    ds = open_cube(item)
    assert {name: round(float(var[0, 0, 0]), 4) for name, var in ds.data_vars.items()} == {
        "blue": 0.1, "green": 0.2, "red": 0.3, "nir": 0.4,
    }  # fmt: skip
    assert float(open_cube(item, bands=["nir"]).nir[0, 0, 0]) == pytest.approx(0.4)
    with pytest.raises(BandError, match=r"'analytic' of item 'one' holds 4 bands: .*'red'"):
        open_cube(item, bands=["analytic"])


def test_bands_without_usable_descriptions_are_numbered(tmp_path):
    four(tmp_path, names=("a/b", "twice", "twice", "time"))
    assert list(open_cube(item_of(tmp_path, {"analytic": {}}))) == [f"analytic_{n}" for n in (1, 2, 3, 4)]


def test_an_alpha_channel_is_no_band(tmp_path):
    tif(tmp_path / "rgb.tif", values=np.ones((4, *SIZE), "uint8"), photometric="RGB", alpha="YES")
    assert len(open_cube(item_of(tmp_path, {"rgb": {}}))) == 3
    listed = [{"name": name} for name in ("red", "green", "blue")]
    assert list(open_cube(item_of(tmp_path, {"rgb": {"eo:bands": listed}}))) == ["red", "green", "blue"]


@pytest.mark.parametrize("listed", [False, True])
def test_files_with_the_same_band_names_hide_no_band(tmp_path, listed):
    names = ("blue", "green", "red", "nir")
    fields = {"eo:bands": [{"name": name} for name in names]} if listed else {}
    for key in ("toa", "sr"):
        four(tmp_path, key)
    item = item_of(tmp_path, {"toa": fields, "sr": fields})
    assert len(open_cube(item)) == 8
    with pytest.raises(BandError, match=r"ambiguous.*'sr_red'"):
        open_cube(item, bands="red")
    assert float(open_cube(item, bands="sr_red").sr_red[0, 0, 0]) == pytest.approx(0.3)


# --------------------------------------------------------------------------------------------- HLS


@pytest.mark.parametrize(
    "product", ["HLSL30 HLS.L30.T33TVM.2024153", "hls2-l30 x", "HLSL30.v2.0 x", "HLSL30_2.0 x"]
)
@pytest.mark.parametrize("platform", [None, "LANDSAT-8", "landsat-9"])
def test_hls_l30_has_the_bands_of_landsat(product, platform):
    names = {"B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "nir08", "B06": "swir16",
             "B07": "swir22", "B09": "cirrus", "B10": "lwir11", "B11": "lwir12"}  # fmt: skip
    assert {name: common_name(name, {}, platform_of(platform, product)) for name in names} == names
    s30 = platform_of(platform, product.replace("L30", "S30").replace("l30", "s30"))
    assert (common_name("B8A", {}, s30), common_name("B05", {}, s30)) == ("nir08", "rededge071")


def test_other_products_keep_their_platform():
    assert platform_of("sentinel-2a", "sentinel-2-l2a S2A_33TVM") == "sentinel-2a"
    assert platform_of(None, "thistles30 x") is None


# ------------------------------------------------------------------------------------------ classes

CLASSES = [{"value": 4, "name": "vegetation"}, {"value": 9, "name": "cloud high", "description": "x"}]
BITS = [
    {"name": "fill", "offset": 0, "length": 1, "classes": [{"value": 0, "name": "not_fill"}, {"value": 1, "name": "fill"}]},
    {"name": "dilated_cloud", "offset": 1, "length": 1, "classes": [{"value": 0, "name": "not_dilated"}, {"value": 1, "name": "dilated"}]},
    {"name": "cirrus_confidence", "offset": 14, "length": 2, "classes": [{"value": 1, "name": "low"}, {"value": 3, "name": "high"}]},
]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"classification:classes": CLASSES},
        {"raster:bands": [{"data_type": "uint8", "classification:classes": CLASSES}]},
        {"eo:bands": [{"name": "scene", "classification:classes": CLASSES}]},
        {"bands": [{"name": "scene", "classification:classes": CLASSES}]},
        {"file:values": [{"values": [4], "summary": "vegetation"}, {"values": [9], "summary": "cloud high"}]},
    ],
)
def test_classes_are_read_wherever_an_item_keeps_them(tmp_path, fields):
    tif(tmp_path / "scene.tif", values=np.full(SIZE, 4, "uint8"), nodata=0)
    scene = open_cube(item_of(tmp_path, {"scene": fields})).scene
    assert scene.dtype == np.uint8
    assert scene.attrs["flag_values"].tolist() == [4, 9]
    assert scene.attrs["flag_values"].dtype == np.uint8
    assert scene.attrs["flag_meanings"] == "vegetation cloud_high"


def test_bit_fields_become_flags_with_masks():
    flags = cf_flags({"classification:bitfields": BITS}, what="x")
    table = dict(
        zip(
            flags["flag_meanings"].split(),
            zip(flags["flag_masks"], flags["flag_values"], strict=True),
            strict=True,
        )
    )
    assert table == {
        "not_fill": (1, 0), "fill": (1, 1), "not_dilated_cloud": (2, 0), "dilated_cloud": (2, 2),
        "cirrus_confidence_low": (3 << 14, 1 << 14), "cirrus_confidence_high": (3 << 14, 3 << 14),
    }  # fmt: skip


def test_classes_of_the_collection_are_inherited(tmp_path):
    tif(tmp_path / "scene.tif", values=np.full(SIZE, 4, "uint8"), nodata=0)
    item = item_of(tmp_path, {"scene": {}}).to_dict(transform_hrefs=False)
    item |= {
        "collection": "c",
        "links": [{"rel": "collection", "href": "./collection.json", "type": "application/json"}],
    }
    (tmp_path / "one.json").write_text(json.dumps(item))
    with_assets = {
        "type": "Collection",
        "id": "c",
        "item_assets": {"scene": {"classification:classes": CLASSES}},
    }
    assert "flag_values" not in open_cube(tmp_path / "one.json").scene.attrs
    (tmp_path / "collection.json").write_text(json.dumps(with_assets))
    assert open_cube(tmp_path / "one.json").scene.attrs["flag_meanings"] == "vegetation cloud_high"


@pytest.mark.parametrize(
    "fields",
    [
        {"classification:classes": 3}, {"classification:classes": ["x"]}, {"classification:classes": [{"name": "x"}]},
        {"classification:classes": [{"value": "x"}]}, {"classification:classes": [{"value": 1e300}]},
        {"classification:classes": [{"value": True}]}, {"classification:classes": [{"value": float("nan")}]},
        {"classification:bitfields": [{"offset": 70, "length": 1, "classes": [{"value": 1}]}]},
        {"classification:bitfields": [{"offset": 0, "length": 1, "classes": [{"value": 2}]}]},
        {"classification:bitfields": [{"classes": []}]},
    ],
)  # fmt: skip
def test_malformed_classes_are_errors(tmp_path, fields):
    tif(tmp_path / "scene.tif", values=np.full(SIZE, 4, "uint8"), nodata=0)
    with pytest.raises(BandError, match="'scene' of item 'one'"):
        open_cube(item_of(tmp_path, {"scene": fields}))


def test_repeated_and_missing_class_names_stay_distinct():
    flags = cf_flags(
        {"classification:classes": [{"value": 1, "name": "a"}, {"value": 2, "name": "a"}, {"value": 3}]},
        what="x",
    )
    assert flags["flag_meanings"] == "a a_2 class_3"


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["bilinear", "cubic", "lanczos", "average"])
@pytest.mark.parametrize("kind", ["SCL", "QA_PIXEL", "Fmask", "classes", "palette"])
def test_classes_are_never_interpolated(tmp_path, method, kind):
    values = np.full(SIZE, 4, "uint8")
    values[:, 7:] = 8
    path = tif(tmp_path / "layer.tif", values=values, nodata=0)
    if kind == "palette":
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {4: (0, 255, 0), 8: (255, 255, 255)})
    fields = {"classification:classes": CLASSES} if kind == "classes" else {}
    item = item_of(tmp_path, {"layer": {**fields, "eo:bands": [{"name": kind}]}})
    grids = {
        "half": {"resolution": 7.0},
        "twice": {"resolution": 23.0},
        "other": {"crs": "EPSG:32634", "resolution": 10},
    }
    for arguments in grids.values():
        got = open_cube(item, resampling=method, chunks=None, **arguments)
        assert set(np.unique(got.layer.values)) <= {0, 4, 8}
    with pytest.raises(ParameterError, match="interpolate classes"):
        open_cube(item, resampling={"layer": method}, resolution=5.0)


# --------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("groupby", ["solar_day", "time", "id", "key"])
def test_dates_are_utc_and_in_order(tmp_path, groupby):
    tif(tmp_path / "B04.tif", nodata=0)
    stamps = {"a": "2024-06-02T01:00:00+09:00", "b": "2024-05-31T20:00:00Z", "c": "2024-06-02T23:30:00-05:00"}
    items = [item_of(tmp_path, {"B04": {}}, name=k, datetime=v, key=k) for k, v in stamps.items()]
    ds = open_cube(items, groupby=groupby)
    assert [str(t)[:16] for t in ds.time.values] == [
        "2024-05-31T20:00",
        "2024-06-01T16:00",
        "2024-06-03T04:30",
    ]
    assert ds.item_id.values.tolist() == ["b", "a", "c"]


# ------------------------------------------------------------------------------------ grids and boxes


def test_grids_that_look_alike_are_kept_apart(tmp_path):
    transforms = {
        "a": Affine(10, 0, 500000, 0, -10, 5000000), "b": Affine(10, 0, 500000, 0, 10, 4999880),
        "c": Affine(10, 0, 500000, 0, -20, 5000000), "d": Affine(10.00001, 0, 500000, 0, -10.00001, 5000000),
    }  # fmt: skip
    items = []
    for key, transform in transforms.items():
        tif(tmp_path / f"{key}.tif", transform=transform, nodata=0)
        items.append(item_of(tmp_path, {key: {"eo:bands": [{"name": "B04"}]}}, name=key))
    tree = open_cube(items, bands="B04")
    assert isinstance(tree, xr.DataTree)
    assert sorted(str(v) for leaf in tree.leaves for v in leaf["item_id"].values) == list(transforms)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((170, -20, 190, -10), (170, -20, -170, -10)),
        ((185, -20, 195, -10), (-175, -20, -165, -10)),
        ((-190, -20, -170, -10), (170, -20, -170, -10)),
        ((0, -90, 360, 90), (-180, -90, 180, 90)),
        ((180, 0, 190, 1), (-180, 0, -170, 1)),
        ((170, 0, -170, 1), (170, 0, -170, 1)),
        ((-200, 0, -180, 1), (160, 0, 180, 1)),
    ],
)
def test_longitudes_beyond_180_are_wrapped(given, expected):
    assert parse_bbox(given) == expected


@pytest.mark.parametrize(
    "box", [(0, 0, 361, 1), (-400, 0, 0, 1), (-10, 0, 355, 1), (190, 0, 190, 1), (float("nan"), 0, 1, 1)]
)
def test_boxes_off_the_globe_are_refused(box):
    with pytest.raises(ParameterError, match="bbox"):
        parse_bbox(box)


@pytest.mark.parametrize(
    "item",
    [(178, 0, 182, 1), (178, 0, -178, 1), (-182, 0, -178, 1), (-179.9, 0, 179.9, 1), (178, 0, 0, 182, 1, 9)],
)
@pytest.mark.parametrize(
    "box", [(179.95, 0, 180.5, 1), (179.95, 0, -179.5, 1), (-180.5, 0, -179.95, 1), (179.5, 0, 180, 1)]
)
def test_boxes_over_the_antimeridian_find_their_items(item, box):
    found = pystac.Item("x", None, list(item), pystac.utils.str_to_datetime("2024-06-01T00:00:00Z"), {})
    assert Search(bbox=parse_bbox(box)).keeps(found)
    assert not Search(bbox=parse_bbox((10, 0, 20, 1))).keeps(found) or item[0] == -179.9


@pytest.mark.parametrize("bbox", [[1, 2, 3], ["a", 0, 1, 1], [float("nan"), 0, 1, 1], [1, 2, 3, 4, 5]])
def test_a_malformed_box_of_an_item_is_an_error(bbox):
    found = pystac.Item("x", None, bbox, pystac.utils.str_to_datetime("2024-06-01T00:00:00Z"), {})
    with pytest.raises(SourceError, match="'x'"):
        Search(bbox=(0, 0, 1, 1)).keeps(found)


@pytest.mark.parametrize("west", [179.0, 181.0, -181.0])
def test_grids_in_degrees_beyond_180_are_cut_by_a_box(tmp_path, west):
    tif(tmp_path / "B04.tif", crs="EPSG:4326", transform=Affine(0.1, 0, west, 0, -0.1, 1.0), nodata=0)
    item = item_of(tmp_path, {"B04": {}})
    middle = west + 0.8
    cut = open_cube(item, bbox=(middle - 0.2, 0.0, middle + 0.2, 0.6))
    assert 4 <= cut.sizes["longitude"] <= 6
    assert abs(float(cut.longitude.mean()) - middle) < 0.11
    with pytest.raises(EoaugError, match="bbox"):
        open_cube(item, bbox=(10, 0, 11, 0.6))


def test_the_grid_helper_is_what_items_declare(tmp_path):
    ds = open_cube(make_item(tmp_path, geobox=GeoBox((16, 16), grid().affine, "EPSG:32633")))
    assert tuple(ds.odc.geobox.affine)[:6] == tuple(grid().affine)[:6]
