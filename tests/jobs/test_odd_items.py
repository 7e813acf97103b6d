"""Items that are odd but true, and items that are broken, each in a job: kept as they are, or failed by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from eoaug.jobs.runner import run_job
from eoaug.stac.validate import validate

from .conftest import a_job, add_item, list_items, pixels, snapshot

ROTATED = Affine.translation(5e5, 5e6) * Affine.rotation(30) * Affine.scale(10, -10)


def odd(source: Path, number: int, change: Callable[[dict[str, Any]], None], **file: Any) -> None:
    """Add an item, change its document, and give its file another georeference."""
    home = add_item(source, number)
    path = home / f"{home.name}.json"
    document = json.loads(path.read_text())
    asset = document["assets"]["B04"]
    del asset["file:checksum"]
    if "transform" in file:
        asset["proj:transform"] = list(file["transform"])[:6]
    if file.get("crs"):
        document["properties"]["proj:code"] = file["crs"]
    if file:
        with rasterio.open(home / "B04.tif") as old:
            profile, band = {**old.profile, **file}, old.read()
        with rasterio.open(home / "B04.tif", "w", **profile) as new:
            new.write(band)
    change(document)
    path.write_text(json.dumps(document))
    list_items(source)


def made(out: Path) -> dict[str, pystac.Item]:
    """Items of a catalog by the id of their source."""
    items = pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True)
    return {item.id.partition("-super")[0]: item for item in items if "eoaug:operation" in item.properties}


def test_items_without_a_reference_system_fail_and_zones_stay_apart(source: Path, tmp_path: Path) -> None:
    """R15."""

    def nowhere(document: dict[str, Any]) -> None:
        del document["properties"]["proj:code"]

    def two_zones(document: dict[str, Any]) -> None:
        band = document["assets"]["B04"]
        document["assets"]["B08"] = {**band, "proj:code": "EPSG:32634", "bands": [{"name": "B08"}]}

    def senseless(document: dict[str, Any]) -> None:
        document["properties"]["proj:code"] = "EPSG:1"

    odd(source, 6, nowhere, crs=None)
    odd(source, 7, two_zones)
    odd(source, 8, senseless)
    odd(source, 9, lambda _: None, crs="EPSG:32634")
    report = run_job(a_job(source, tmp_path / "out"))
    told = {one.item: one for one in report.failures}
    assert set(told) == {"item-00006", "item-00007", "item-00008"}
    assert "no coordinate reference system" in told["item-00006"].problem
    assert "EPSG:32634 in the item and EPSG:32633 in the file" in told["item-00007"].problem
    assert "EPSG:1" in told["item-00008"].problem
    assert all(one.remedy for one in report.failures)
    found = made(tmp_path / "out")
    assert len(found) == 7
    assert found["item-00009"].properties["proj:code"] == "EPSG:32634"
    assert found["item-00000"].properties["proj:code"] == "EPSG:32633"


@pytest.mark.parametrize("form", ["cog", "zarr"])
def test_a_rotated_grid_keeps_its_angle(form: str, tmp_path: Path) -> None:
    """R16: 30 degrees, through super-resolution, in the item and in the file."""
    odd(tmp_path / "in", 0, lambda _: None, transform=ROTATED)
    assert run_job(a_job(tmp_path / "in", tmp_path / "out", output={"format": form})).published == 1
    (item,) = made(tmp_path / "out").values()
    expected = tuple(ROTATED * Affine.scale(0.5))[:6]
    assert np.allclose(item.properties["proj:transform"], expected, rtol=0, atol=1e-9)
    if form == "cog":
        with rasterio.open(item.assets["B04"].get_absolute_href()) as file:
            assert np.allclose(tuple(file.transform)[:6], expected, rtol=0, atol=1e-9)
    assert validate(tmp_path / "out").sound


def test_a_scene_over_the_antimeridian_is_found_and_costs_its_own_pixels(tmp_path: Path) -> None:
    """R17: the search box runs from east to west, as RFC 7946 has it."""
    source = tmp_path / "in"

    def crossing(document: dict[str, Any]) -> None:
        document["bbox"] = [179.97, -0.02, -179.97, 0.01]

    def careless(document: dict[str, Any]) -> None:
        document["bbox"] = [-180, -0.02, 180, 0.01]

    place = Affine(100, 0, 165000, 0, -100, 1000)
    odd(source, 0, crossing, transform=place, crs="EPSG:32601")
    odd(source, 1, careless, transform=place, crs="EPSG:32601")
    add_item(source, 2)
    list_items(source)
    job = a_job(source, tmp_path / "out", source={"bbox": (179.99, -0.01, -179.99, 0.01)})
    report = run_job(job)
    assert (report.published, report.failures) == (2, ())
    for item in made(tmp_path / "out").values():
        assert item.properties["proj:shape"] == [48, 48]
        assert item.geometry["type"] == "MultiPolygon"
        assert item.bbox[0] > 179 > -179 > item.bbox[2]


def test_items_without_a_date_fail_and_ranges_are_kept(tmp_path: Path) -> None:
    """R18."""
    source = tmp_path / "in"
    span = {"start_datetime": "2021-06-01T00:00:00Z", "end_datetime": "2021-06-30T23:59:59Z"}

    def undated(document: dict[str, Any]) -> None:
        document["properties"]["datetime"] = None

    def range_only(document: dict[str, Any]) -> None:
        document["properties"] |= {"datetime": None, **span}

    odd(source, 0, undated)
    odd(source, 1, range_only)
    report = run_job(a_job(source, tmp_path / "out"))
    assert report.published == 1
    (failure,) = report.failures
    assert "item-00000" in failure.item
    assert "datetime" in failure.problem
    before = snapshot(tmp_path / "out")
    (item,) = made(tmp_path / "out").values()
    assert item.datetime is None
    assert {name: item.properties[name] for name in span} == span
    assert run_job(a_job(source, tmp_path / "out")).skipped == 1
    assert snapshot(tmp_path / "out") == before


def test_pixels_that_cannot_be_read_are_never_nodata(tmp_path: Path) -> None:
    """R19: headers that open and pixels that do not; what GDAL could fill with zeros."""
    source = tmp_path / "in"
    for number in range(4):
        add_item(source, number, values=pixels(number, edge=200))
    list_items(source)

    def untold(number: int) -> Path:
        home = source / "source" / f"item-{number:05d}"
        document = json.loads((home / f"{home.name}.json").read_text())
        del document["assets"]["B04"]["file:checksum"]
        (home / f"{home.name}.json").write_text(json.dumps(document))
        return home / "B04.tif"

    torn = untold(0)
    torn.write_bytes(torn.read_bytes()[:-5000])
    with rasterio.open(torn) as file:
        assert file.shape == (200, 200)  # it still opens
    untold(1).write_bytes(b"")
    checked = source / "source" / "item-00002" / "B04.tif"
    content = bytearray(checked.read_bytes())
    content[-1] ^= 1
    checked.write_bytes(content)
    report = run_job(a_job(source, tmp_path / "out"))
    assert report.published == 1
    assert {one.item for one in report.failures} == {f"item-0000{n}" for n in range(3)}
    assert set(made(tmp_path / "out")) == {"item-00003"}
    assert not list(tmp_path.rglob("item-00000-*"))
