"""No generated value without a mark: reductions, resamplings, selections and merges of results, written and refused."""

from __future__ import annotations

import numpy as np
import odc.stac
import pystac
import pytest
import xarray as xr
from odc.geo.geobox import GeoBox

import eoaug
from eoaug.cube.provenance import Provenance, stamp
from eoaug.cube.synthetic import GENERATED, MEASURED, OUTSIDE
from eoaug.errors import EoaugError, GridError, ParameterError, TargetError
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write
from eoaug.stac.validate import validate as validate_catalog

from .conftest import grid, made_cube, provenance

MADE = np.float32(0.8)
"""Generated values are 0.8 and more, measured ones below 0.4: every value shows where it came from, up to linear operations."""


def measured_cube(times: int = 6) -> xr.Dataset:
    ds = made_cube(grid(), times=times, names=("B04", "B08"))
    return ds.map(lambda band: (band * np.float32(0.4)).assign_attrs(band.attrs))


def filled_cube(*, lazy: bool = False, hole=slice(8, 20)) -> xr.Dataset:
    """Dates 1 and 4 are generated in part, date 2 is beyond the scene in the east."""
    ds = measured_cube()
    mask = np.zeros((6, 32, 32), np.uint8)
    mask[1, hole, hole], mask[4, 2:5, 2:5], mask[2, :, 30:] = GENERATED, GENERATED, OUTSIDE
    ds["synthetic"] = (("time", "y", "x"), mask)
    for name in ("B04", "B08"):
        band = ds[name].where(ds.synthetic != GENERATED, MADE + ds[name] * np.float32(0.1))
        ds[name] = band.where(ds.synthetic != OUTSIDE).assign_attrs(ds[name].attrs)
    ds = ds.chunk(time=1, y=16, x=16) if lazy else ds
    record = provenance(bands={"B04": "generated", "B08": "generated"}, residual=0.0)
    from eoaug.cube.synthetic import ATTRIBUTES

    ds["synthetic"].attrs = dict(ATTRIBUTES)
    return stamp(ds, record)


def dated(ds):
    return ds.assign_coords(time=measured_cube().time[0]) if "time" not in ds.coords else ds


OPERATIONS = {
    "mean": lambda ds: ds.mean("time"),
    "median": lambda ds: ds.median("time"),
    "min": lambda ds: ds.min("time"),
    "max": lambda ds: ds.max("time"),
    "std": lambda ds: ds.std("time"),
    "monthly mean": lambda ds: ds.resample(time="1MS").mean(),
    "monthly first": lambda ds: ds.resample(time="1MS").first(),
    "monthly last": lambda ds: ds.resample(time="10D").last(),
    "nearest dates": lambda ds: ds.resample(time="3D").nearest(),
    "thirds, median": lambda ds: ds.coarsen(time=3).median(keep_attrs=True),
    "thirds, min": lambda ds: ds.coarsen(time=3).min(keep_attrs=True),
    "thirds, max": lambda ds: ds.coarsen(time=3).max(keep_attrs=True),
    "halves of the dates, min": lambda ds: ds.coarsen(time=2, boundary="trim").min(keep_attrs=True),
    "thirds without attributes": lambda ds: ds.coarsen(time=3).min(keep_attrs=False).assign_attrs(ds.attrs),
    "half months, min": lambda ds: ds.resample(time="15D").min(keep_attrs=True),
    "half months, median": lambda ds: ds.resample(time="15D").median(keep_attrs=True),
    "months grouped": lambda ds: ds.resample(time="1MS").max(keep_attrs=True),
    "rolling": lambda ds: ds.rolling(time=3, min_periods=1).min(),
    "pairs": lambda ds: ds.coarsen(x=2, y=2).min(),
    "coarser": lambda ds: ds.coarsen(x=4, y=4).mean(),
    "every second pixel": lambda ds: ds.isel(x=slice(None, None, 2), y=slice(None, None, 2)),
    "between pixels": lambda ds: ds.interp(x=ds.x.values[:-1] + 5, y=ds.y.values[:-1] - 5),
    "between dates": lambda ds: ds.interp(time=ds.time[:-1] + np.timedelta64(2, "D")),
    "gridded": lambda ds: ds.odc.reproject("EPSG:32633", resolution=20, resampling="bilinear"),
    "other zone": lambda ds: ds.odc.reproject("EPSG:32634", resampling="cubic"),
    "where": lambda ds: ds.where(ds.B04 > 0.05),
    "clip": lambda ds: ds.clip(0, 0.9),
    "crop": lambda ds: ds.isel(x=slice(5, 25), y=slice(3, 30)),
    "dates": lambda ds: ds.isel(time=[1, 4]),
    "a date": lambda ds: ds.isel(time=1),
    "upside down": lambda ds: ds.isel(y=slice(None, None, -1)),
    "a band without marks": lambda ds: ds[["B04"]],
    "an array": lambda ds: ds["B04"],
    "a band with marks": lambda ds: ds[["B04", "synthetic"]],
    "marks dropped": lambda ds: ds.drop_vars("synthetic"),
    "attributes dropped": lambda ds: ds.drop_attrs(),
    "into a measured cube": lambda ds: measured_cube().assign(B04=ds.B04),
    "joined": lambda ds: xr.concat([ds.isel(time=slice(0, 3)), ds.isel(time=slice(3, 6))], "time"),
    "joined, measured last": lambda ds: xr.concat([ds.isel(time=[0, 1]), measured_cube().isel(time=[2])], "time"),
    "joined, measured first": lambda ds: xr.concat([measured_cube().isel(time=[0]), ds.isel(time=[1])], "time"),
    "merged": lambda ds: xr.merge([ds[["B04", "synthetic"]], measured_cube()[["B08"]]], compat="no_conflicts"),
    "merged, measured first": lambda ds: xr.merge([measured_cube()[["B08"]], ds[["B04"]]], compat="no_conflicts"),
    "merged results": lambda ds: xr.merge(
        [stamp(ds, provenance(token="ffff", bands={"B04": "generated"}))[["B04", "synthetic"]], ds[["B08"]]]
    ),
    "combined": lambda ds: measured_cube().where(measured_cube().B04 > 0.1).combine_first(ds),
    "tidied": lambda ds: ds.to_dataarray("band").min("time").to_dataset("band"),
}  # fmt: skip
KEPT = {"crop", "dates", "a date", "upside down", "a band with marks", "joined", "merged"}
"""These must be written; the others are written with marks, or refused."""


@pytest.mark.sweep
@pytest.mark.parametrize("format", ["cog", "zarr"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_generated_value_leaves_without_a_mark(name, format, tmp_path):  # noqa: A002
    lazy = len(name) % 2 == 0
    result = filled_cube(lazy=lazy)
    changed = dated(OPERATIONS[name](result))
    refused = None
    try:
        items = write(changed, tmp_path, format=format)
    except EoaugError as error:
        refused = error
    if refused is not None:
        assert name not in KEPT, refused
        assert refused.remedy
        return
    back = open_cube(tmp_path, chunks=None)
    values = np.max([back[band].fillna(0).values for band in back.data_vars if band.startswith("B")], axis=0)
    marks = back.synthetic.values
    # A generated value of at least 0.8 with a weight of a tenth lifts no measured one above 0.4.
    assert np.isin(marks[values > 0.42], [1, 2]).all()
    shares = [item.properties["eoaug:synthetic_fraction"] for item in items]
    assert all(
        item.properties["eoaug:synthetic"] is (share > 0) for item, share in zip(items, shares, strict=True)
    )
    for t, share in enumerate(shares if format == "cog" else []):
        assert share >= (values[t] > 0.42).mean()
    assert validate_catalog(tmp_path).sound


def test_the_remedies_of_the_refusals_work(tmp_path):
    result = filled_cube()
    some = result.synthetic.isin([1, 2]).any("time")
    mean = dated(result.mean("time"))
    with pytest.raises(TargetError, match="mask was computed") as caught:
        write(mean, tmp_path)
    assert "ds.assign(synthetic=result.synthetic.isin([1, 2]).any('time'))" in caught.value.remedy
    (item,) = write(mean.assign(synthetic=some), tmp_path)
    assert item.properties["eoaug:synthetic_fraction"] == pytest.approx(float(some.mean()))
    assert np.array_equal(open_cube(tmp_path).synthetic.values[0] == 1, some.values)

    clear = result.where(result.B04 > 0.05)
    with pytest.raises(TargetError, match="mask was computed"):
        write(clear, tmp_path)
    assert len(write(clear.assign(synthetic=result.synthetic), tmp_path, collection="where")) == 6

    with pytest.raises(TargetError, match="is missing"):
        write(result[["B04"]], tmp_path, collection="band")
    assert len(write(result[["B04"]].assign(synthetic=result.synthetic), tmp_path, collection="band")) == 6

    with pytest.raises(TargetError, match="provenance is lost"):
        write(result["B04"], tmp_path, collection="array")
    given = result["B04"].to_dataset().assign_attrs(result.attrs).assign(synthetic=result.synthetic)
    assert len(write(given, tmp_path, collection="array")) == 6

    measured = measured_cube().isel(time=[0])
    with pytest.raises(TargetError, match="NaN at") as caught:
        write(
            xr.concat([result.isel(time=[1]), measured], "time").sortby("time"), tmp_path, collection="joined"
        )
    assert "xr.zeros_like" in caught.value.remedy
    clean = measured.assign(synthetic=xr.zeros_like(measured["B04"], dtype="uint8").drop_attrs())
    items = write(
        xr.concat([result.isel(time=[1]), clean], "time"), tmp_path, collection="joined", overwrite=True
    )
    assert [item.properties["eoaug:synthetic"] for item in items] == [True, False]


def test_verbs_refuse_cubes_whose_marks_are_lost():
    result = filled_cube()
    options = {"mask": xr.DataArray(np.eye(32, dtype=bool), dims=("y", "x")), "generator": "classical"}
    for lost in (result[["B04"]], result["B04"], dated(result.median("time"))):
        with pytest.raises(ParameterError, match="synthetic") as caught:
            eoaug.inpaint(lost, **options)
        assert caught.value.remedy
    again = eoaug.inpaint(result[["B04", "synthetic"]], **options)
    assert (again.synthetic.values[1, 8:20, 8:20] == 1).all()


@pytest.mark.sweep
@pytest.mark.parametrize("format", ["cog", "zarr"])
@pytest.mark.parametrize("resampling", ["nearest", "average", "cubic"])
@pytest.mark.parametrize(
    ("resolution", "crs"), [(20, None), (70, None), (7, None), (4, None), (25, "EPSG:32634")]
)
def test_on_another_grid_a_pixel_is_marked_if_a_marked_one_went_into_it(
    format,  # noqa: A002
    resampling,
    resolution,
    crs,
    tmp_path,
):
    result = filled_cube(hole=slice(9, 10))
    write(result, tmp_path, format=format)
    back = open_cube(
        tmp_path, bands=["B04"], resolution=resolution, crs=crs, resampling=resampling, chunks=None
    )
    # The resampled share of generated pixels, by odc itself, tells where one of them may have gone in.
    made = (result.synthetic == GENERATED).astype("float32").assign_attrs().odc.assign_crs("EPSG:32633")
    share = made.odc.reproject(back.odc.geobox, resampling=resampling)
    assert np.isin(back.synthetic.values[np.abs(share.values) > 0.01], [1, 2]).all()
    assert (back.synthetic.values == 1)[4].any()


def test_marks_of_overlapping_items_of_one_date_add_up(tmp_path):
    """The band of the first item is missing where the second was generated, and the other way round."""
    first, second = filled_cube().isel(time=[1]), filled_cube().isel(time=[1])
    outside = xr.DataArray(np.eye(32, dtype=bool)[::-1], dims=("y", "x"))
    first["synthetic"] = first.synthetic.copy(
        data=np.where(outside, OUTSIDE, MEASURED)[None].astype(np.uint8)
    )
    for name, ds in {"a": first, "b": second}.items():
        write(ds, tmp_path, ids=[name])
    back = open_cube(tmp_path, chunks=None)
    assert (back.synthetic.values[0, 8:20, 8:20] == GENERATED).all()
    assert not (back.synthetic.values == OUTSIDE).any()


def test_a_reference_system_that_a_geotiff_cannot_hold_is_refused(tmp_path):
    pole = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +to_meter=0.0174532925199433 +ellps=WGS84"
    ds = made_cube(GeoBox((16, 16), grid().affine, pole))
    ds = ds.rename({str(dim): new for dim, new in zip(ds.odc.spatial_dims, ("y", "x"), strict=True)})
    with pytest.raises(GridError, match="GeoTIFF cannot hold") as caught:
        write(ds, tmp_path)
    assert "format='zarr'" in caught.value.remedy
    assert not list(tmp_path.rglob("*.tif"))
    for proj in ("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80", "+proj=sinu +R=6371007.181", "ESRI:54009"):
        write(made_cube(GeoBox((16, 16), grid().affine, proj)), tmp_path, collection="other", overwrite=True)


# ------------------------------------------------------------------------------------ other people's tools


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    root = tmp_path_factory.mktemp("tools")
    write(filled_cube(), root, collection="inpainted")
    sharp = filled_cube().isel(time=[1])
    record = Provenance(
        operation="super_resolve",
        generator="classical",
        token="ab",
        residual={"B04": 0.1},
        parameters={"sensor": "box", "mask": True},
    )
    write(stamp(sharp, record), root, collection="sharp")
    integers = filled_cube().isel(time=[2])
    for name in ("B04", "B08"):
        integers[name].encoding = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -1}
    record = provenance(parameters={"sensor": [0.3, 0.2], "mask": "scl"})
    write(stamp(integers, record), root, collection="series", format="zarr")
    return root


def test_all_items_of_a_catalog_are_loaded_by_the_naive_call(catalog):
    items = list(pystac.Catalog.from_file(str(catalog / "catalog.json")).get_items(recursive=True))
    loaded = odc.stac.load(items, bands=["B04", "B08"], groupby="id")
    assert loaded.sizes["time"] == len(items) == 8
    assert set(odc.stac.load(items).data_vars) == {"B04", "B08", "synthetic"}


def types_of(value, place=()):
    """Every path in a document with the kind of value there; integers are numbers."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from types_of(inner, (*place, key))
    elif isinstance(value, list):
        for inner in value:
            yield from types_of(inner, (*place, "[]"))
    elif value is not None:
        yield (
            place,
            "number"
            if isinstance(value, int | float) and not isinstance(value, bool)
            else type(value).__name__,
        )


def test_a_field_has_one_type_and_a_schema_that_is_served(catalog):
    found: dict[tuple, set[str]] = {}
    items = list(pystac.Catalog.from_file(str(catalog / "catalog.json")).get_items(recursive=True))
    for item in items:
        assert all(uri.startswith("https://stac-extensions.github.io/") for uri in item.stac_extensions)
        for field in ("properties", "assets"):
            for place, kind in types_of(item.to_dict(transform_hrefs=False)[field], (field,)):
                found.setdefault(place, set()).add(kind)
        assert not [value for value in item.properties.values() if value == {}]
    assert {place: kinds for place, kinds in found.items() if len(kinds) > 1} == {}
    assert ("properties", "eoaug:residual", "B04") in found
    assert {"number"} == found["assets", "B04", "nodata"]
    assert {"cog", "zarr"} == {"zarr" if "data" in item.assets else "cog" for item in items}


@pytest.mark.parametrize("value", [True, None, "scl", "true", "4", 4, 0.5, ["cloud", "3"], {"a": [1]}, ""])
def test_parameters_of_an_item_are_text_and_come_back(value):
    record = provenance(parameters={"mask": value})
    fields = record.to_properties(written="2026-01-01T00:00:00Z")
    assert all(isinstance(text, str) for text in fields.get("eoaug:parameters", {}).values())
    assert Provenance.from_properties(fields).parameters == {"mask": value}
    of_0_1 = fields | {"eoaug:parameters": {"mask": value, "steps": 4}}
    if not isinstance(value, str):
        assert Provenance.from_properties(of_0_1).parameters == {"mask": value, "steps": 4}


def test_collections_describe_their_items(catalog, validate):
    assert validate(catalog / "catalog.json") == 8
    collection = pystac.Collection.from_file(str(catalog / "inpainted" / "collection.json"))
    assert set(collection.item_assets) == {"B04", "B08", "synthetic", "thumbnail"}
    fields = collection.item_assets["B04"].properties
    assert (fields["data_type"], fields["roles"]) == ("float32", ["data"])
    summaries = collection.summaries.to_dict()
    assert summaries["eoaug:synthetic"] == [False, True]
    assert summaries["gsd"] == [10.0]


@pytest.mark.parametrize("format", ["cog", "zarr"])
def test_thumbnails_do_not_depend_on_blocks(format, tmp_path):  # noqa: A002
    from PIL import Image

    rng = np.random.default_rng(0)
    ds = made_cube(grid(size=500), names=("B02", "B03", "B04"))
    for name in ds.data_vars:
        ds[name] = ds[name].copy(data=rng.random(ds[name].shape, np.float32) * 0.3)
    pictures = []
    for chunks in (None, {"y": 77, "x": 131}):
        cube = ds if chunks is None else ds.chunk(chunks)
        (item,) = write(cube, tmp_path / str(chunks), format=format)
        asset = item.assets["thumbnail"]
        assert (asset.roles, asset.media_type) == (["thumbnail"], "image/png")
        with open(asset.get_absolute_href(), "rb") as file:
            pictures.append(file.read())
        assert set(open_cube(tmp_path / str(chunks)).data_vars) == {"B02", "B03", "B04"}
        assert validate_catalog(tmp_path / str(chunks)).sound
    assert pictures[0] == pictures[1]
    with Image.open(asset.get_absolute_href()) as image:
        assert max(image.size) <= 192
        red = ds.B04.values[0][::3, ::3]
        assert np.array_equal(np.asarray(image)[..., 0] > 186, (red / 0.3) ** (1 / 1.7) * 255 >= 186.5)


@pytest.mark.parametrize("how", ["min", "max"])
def test_a_verb_refuses_marks_that_were_coarsened_over_dates(how):
    coarsened = getattr(filled_cube().coarsen(time=2), how)(keep_attrs=True)
    with pytest.raises(EoaugError, match="mask was computed"):
        eoaug.inpaint(coarsened, mask=coarsened.B04 > 0.3, generator="classical")
