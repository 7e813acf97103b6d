"""Items are compared with Zarr groups and with files on a server as with local files: errors name both values."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from eoaug.errors import BandError, EoaugError, GridError, RadiometryError
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write

from .conftest import grid, made_cube

# ------------------------------------------------------------------------------------------ Zarr groups


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("group")
    write(made_cube(grid(size=16), times=2, names=("B04", "B08")), folder, format="zarr", collection="c")
    (path,) = [p for p in folder.rglob("*.json") if '"Feature"' in p.read_text()]
    return path


def changed(path: Path, change) -> pystac.Item:
    """The item of a group after a change of the fields that describe its arrays, wherever they are kept."""
    document = json.loads(path.read_text())

    def walk(node):
        if isinstance(node, dict):
            change(node)
            for value in list(node.values()):
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk([document["properties"], document["assets"]])
    item = pystac.Item.from_dict(document, href=str(path))
    item.set_self_href(str(path))
    return item


def of(field, value):
    def change(node):
        if field in node:
            node[field] = value

    return change


def test_a_group_that_its_item_describes_is_opened(group):
    back = open_cube(changed(group, lambda _: None), chunks=None)
    assert back.B04.values[0, 0, 0] == open_cube(str(group), chunks=None).B04.values[0, 0, 0]


@pytest.mark.parametrize(
    ("field", "value", "kind", "both"),
    [
        ("proj:code", "EPSG:32634", GridError, ("EPSG:32634", "EPSG:32633")),
        ("proj:code", "EPSG:32733", GridError, ("EPSG:32733", "EPSG:32633")),
        ("proj:transform", [10, 0, 500010, 0, -10, 5000000], GridError, ("500010", "500000")),
        ("proj:transform", [20, 0, 500000, 0, -20, 5000000], GridError, ("[20,", "[10,")),
        ("proj:transform", [500000, 10, 0, 5000000, 0, -10], GridError, ("[500000, 10", "[10, 0, 500000")),
        ("proj:shape", [16, 15], EoaugError, ("16 x 15", "16")),
        ("data_type", "int16", RadiometryError, ("is int16", "uint16")),
        ("data_type", "float64", RadiometryError, ("float64", "uint16")),
    ],
)
def test_a_group_that_contradicts_its_item_is_refused_with_both_values(group, field, value, kind, both):
    with pytest.raises(kind) as caught:
        open_cube(changed(group, of(field, value)))
    assert all(text in caught.value.problem for text in both), caught.value.problem
    if field != "proj:shape":
        assert f"{field} is" in caught.value.problem
    assert caught.value.remedy


# ----------------------------------------------------------------------------------- files on a server


class FileServer(ThreadingHTTPServer):
    """Serves a folder with range requests, and counts them."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.ranges: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = folder / self.path.lstrip("/").partition("?")[0]
                if not path.is_file():
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body, status = path.read_bytes(), 200
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                content_range = ""
                if wanted:
                    first, last = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
                    content_range, status = f"bytes {first}-{last}/{len(body)}", 206
                    body = body[first : last + 1]
                    server.ranges.append(self.headers["Range"])
                self.send_response(status)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(body)))
                if content_range:
                    self.send_header("Content-Range", content_range)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[FileServer, Path]]:
    folder = tmp_path_factory.mktemp("served")
    values = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) + 1000
    with rasterio.open(
        folder / "B04.tif", "w", driver="GTiff", height=12, width=16, count=1, dtype="uint16", nodata=0,
        crs="EPSG:32633", transform=Affine(10, 0, 500000, 0, -10, 5000000),
    ) as file:  # fmt: skip
        file.write(values, 1)
        file.scales, file.offsets = (1e-4,), (0.0,)
    started = FileServer(folder)
    yield started, folder
    started.shutdown()
    started.server_close()


def served(server: tuple[FileServer, Path], **fields: Any) -> str:
    """The address of an item on the server, with these fields of its asset."""
    started, folder = server
    document = {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": "far", "geometry": None,
        "bbox": None, "properties": {"datetime": "2024-06-01T10:00:00Z"}, "links": [],
        "assets": {"B04": {"href": f"{started.url}/B04.tif", "type": "image/tiff", "roles": ["data"], **fields}},
    }  # fmt: skip
    (folder / "far.json").write_text(json.dumps(document))
    return f"{started.url}/far.json"


def test_a_remote_file_is_read_by_ranges(server):
    cube = open_cube(served(server, **{"proj:code": "EPSG:32633", "proj:shape": [12, 16]}), chunks=None)
    assert float(cube.B04[0, 0, 1]) == pytest.approx(0.1001)
    assert server[0].ranges


@pytest.mark.parametrize(
    ("fields", "kind", "both"),
    [
        ({"proj:code": "EPSG:32634"}, GridError, ("EPSG:32634", "EPSG:32633")),
        ({"proj:shape": [16, 12]}, GridError, ("[16, 12]", "[12, 16]")),
        ({"proj:transform": [10, 0, 509780, 0, -10, 5000000]}, GridError, ("509780", "500000")),
        ({"proj:transform": [500000, 10, 0, 5000000, 0, -10]}, GridError, ("[500000, 10", "[10, 0, 500000")),
        ({"raster:bands": [{"data_type": "int16"}]}, RadiometryError, ("int16", "uint16")),
        ({"raster:bands": [{"nodata": -9999}]}, RadiometryError, ("-9999", "0")),
        ({"raster:bands": [{"scale": 2.75e-5, "offset": -0.2}]}, RadiometryError, ("2.75e-05", "0.0001")),
        ({"eo:bands": [{"name": n} for n in ("B02", "B03", "B04")]}, BandError, ("3", "1")),
    ],
)  # fmt: skip
def test_a_remote_file_that_contradicts_its_item_is_refused_with_both_values(server, fields, kind, both):
    with pytest.raises(kind) as caught:
        open_cube(served(server, **fields), chunks=None)
    assert all(text in caught.value.problem for text in (*both, "'far'", "B04.tif")), caught.value.problem
    assert caught.value.remedy


def test_a_complete_item_is_compared_when_its_pixels_are_read(server):
    """No file is asked while the cube is opened: everything that it would say is in the item."""
    complete = {
        "proj:code": "EPSG:32633", "proj:shape": [12, 16], "proj:transform": [10, 0, 500010, 0, -10, 5000000],
        "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": 0.0}],
    }  # fmt: skip
    cube = open_cube(served(server, **complete))
    with pytest.raises(
        GridError, match=r"proj:transform is .*500010.* in the item and .*500000.* in the file"
    ):
        cube.B04.load()
