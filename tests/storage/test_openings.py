"""What the access policy judged is what is opened: files, ranges of URLs, Zarr groups and reference systems."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import EoaugError, GridError, SourceError
from eoaug.formats.judged_zarr import judged_store
from eoaug.jobs.runner import run_job
from eoaug.storage.access import AccessPolicy
from eoaug.storage.crs_text import judged_crs
from eoaug.storage.ranges import RangeFile
from tests.jobs.conftest import a_job, counts, make_source


class Site(ThreadingHTTPServer):
    """Serves one content in ranges, and counts connections."""

    daemon_threads = True

    def __init__(self, content: bytes = b"", location: str = "") -> None:
        self.connections = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if location:
                    self.send_response(302)
                    self.send_header("Location", location)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                first, last = 0, len(content) - 1
                if wanted := self.headers.get("Range"):
                    first, last = map(int, wanted.removeprefix("bytes=").split("-"))
                body = content[first : last + 1]
                self.send_response(206 if wanted else 200)
                if wanted:
                    end = first + len(body) - 1
                    self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def outside() -> Iterator[Site]:
    site = Site(b"secret")
    yield site
    site.shutdown()
    site.server_close()


def test_ranges_are_those_of_the_file(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    site = Site(content)
    access = AccessPolicy.for_source(site.url)
    with access.open(f"{site.url}/a?b=c", what="x") as file:
        assert isinstance(file, RangeFile)
        for start, size in (
            (0, 10),
            (65_530, 20),
            (299_990, 100),
            (131_072, 65_536),
            (70_000, 200_000),
            (0, -1),
        ):
            file.seek(start)
            assert file.read(size) == (content[start:] if size < 0 else content[start : start + size])
    site.shutdown()
    site.server_close()


def test_a_redirect_of_a_range_is_checked(outside: Site) -> None:
    site = Site(location=f"{outside.url}/latest")
    access = AccessPolicy.for_source(site.url)
    with pytest.raises(SourceError, match="not allowed"):
        access.open(f"{site.url}/a.tif", what="x")
    assert outside.connections == 0
    site.shutdown()
    site.server_close()


def test_a_name_that_changes_its_address_is_not_followed(
    outside: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is judged, this machine when it is connected to."""
    real, asked = socket.getaddrinfo, []

    def rebound(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebound.example":
            return real(host, *args, **kwargs)
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, outside.server_port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    access = AccessPolicy(hosts=(f"rebound.example:{outside.server_port}",))
    with pytest.raises(SourceError):
        access.open(f"http://rebound.example:{outside.server_port}/a", what="x")
    assert outside.connections == 0


def test_a_link_swapped_in_and_a_pipe_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret.tif"
    root.mkdir()
    secret.write_bytes(b"TOPSECRET")
    (root / "a.tif").write_bytes(b"fine")
    access = AccessPolicy.for_source(str(root))
    resolve = AccessPolicy.resolve

    def then_swapped(self: AccessPolicy, href: str, *, what: str) -> str:
        address = resolve(self, href, what=what)
        (root / "a.tif").unlink(missing_ok=True)
        os.symlink(secret, root / "a.tif")
        return address

    monkeypatch.setattr(AccessPolicy, "resolve", then_swapped)
    with pytest.raises(SourceError, match="outside"):
        access.open(str(root / "a.tif"), what="x")
    monkeypatch.undo()
    os.mkfifo(root / "pipe.json")
    with pytest.raises(SourceError, match="not a plain file"):
        access.read_json(str(root / "pipe.json"), what="x")


@pytest.mark.parametrize(
    "text",
    [
        "+proj=utm +zone=33", "+init=/etc/x:1", "proj=utm", "/etc/passwd", "init=epsg:32633",
        'BOUNDCRS[SOURCECRS[GEOGCRS["x"]],PARAMETERFILE["grid","/etc/passwd"]]',
        'PROJCS["x",EXTENSION["PROJ4","+proj=utm +nadgrids=/etc/passwd"]]',
        '{"type": "BoundCRS", "parameters": [{"name": "file", "value": "/etc/passwd"}]}',
        'CONVERSION["x",METHOD["PROJ hgridshift"]]',
    ],
)  # fmt: skip
def test_reference_systems_that_name_files_are_refused(text: str) -> None:
    with pytest.raises(GridError):
        judged_crs(text, what="x")


def test_plain_reference_systems_are_kept() -> None:
    import pyproj

    for code in ("EPSG:32633", "ESRI:102001", "EPSG:3857", "EPSG:7405"):
        crs = pyproj.CRS(code)
        for text in (code, crs.to_wkt(), crs.to_wkt("WKT1_GDAL"), crs.to_json()):
            assert judged_crs(text, what="x") == text
    for terms in (
        "ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +ellps=WGS84",  # CORDEX
        "healpix +ellps=WGS84", "geos +h=35785831 +sweep=x +lon_0=-75", "sinu +R=6371007.181", "laea +lat_0=52",
    ):  # fmt: skip
        crs = pyproj.CRS(f"+proj={terms}")
        for text in (crs.to_wkt(), crs.to_json()):
            assert judged_crs(text, what="x") == text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codecs": [{"name": "pickle"}]}, "codec"),
        ({"data_type": "object"}, "data type"),
        ({"shape": [2**20, 2**20]}, "pixels"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**15, 2**15]}}}, "blocks"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 16]}}}, "chunks"),
        ({"zarr_format": 2}, "Zarr v3"),
    ],
)
def test_a_group_is_judged_before_it_is_opened(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    import zarr

    group = tmp_path / "a.zarr"
    data = {"B02": (("y", "x"), np.ones((64, 64), np.float64))}
    xr.Dataset(data).to_zarr(group, zarr_format=3, consolidated=False)
    access = AccessPolicy.for_source(str(group))
    store = judged_store(str(group), "zarr", access, ["B02"], what="x")
    assert zarr.open_array(store, path="B02", mode="r")[0, 0] == 1
    document = json.loads((group / "B02" / "zarr.json").read_text())
    (group / "B02" / "zarr.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(SourceError, match=told):
        judged_store(str(group), "zarr", access, ["B02"], what="x")


def test_a_chunk_that_decodes_to_more_than_its_metadata_say_is_refused(tmp_path: Path) -> None:
    import zarr
    from numcodecs.zstd import Zstd

    group = tmp_path / "a.zarr"
    xr.Dataset({"B02": (("y", "x"), np.ones((64, 64)))}).to_zarr(group, zarr_format=3, consolidated=False)
    (group / "B02" / "c" / "0" / "0").write_bytes(Zstd().encode(bytes(50_000_000)))
    store = judged_store(str(group), "zarr", AccessPolicy.for_source(str(group)), ["B02"], what="x")
    with pytest.raises(SourceError, match="decodes to 50000000 bytes"):
        zarr.open_array(store, path="B02", mode="r")[...]


# -- the fuzz -------------------------------------------------------------------------------------------


def _addresses(chance: random.Random, port: int, secret: Path) -> str:
    host = chance.choice(
        (
            "127.0.0.1",
            "localhost",
            "2130706433",
            "0x7f000001",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "127.1",
            "0",
            "user@127.0.0.1",
        )
    )
    url = f"{chance.choice(('http', 'HTTP', 'https'))}://{host}:{port}/x.tif"
    path = str(secret)
    return chance.choice(
        (
            url, f"/vsicurl/{url}", f"/vsicurl?url={quote(url)}", f"vsicurl/{url}", path, f"file://{path}",
            f"FILE://localhost{path}", os.path.relpath(path), f"../../../../../../../../..{path}", f"/vsizip/{path}",
            f"./../{secret.name}", f"reference::{path}", f"s3://bucket/{path}", f"{path}?x", f"<VRTDataset>{path}",
            f"zip://{path}::{url}", f"ftp://{host}:{port}/x", f"\\\\{host}\\x", f"//{host}:{port}/x.tif", f"/vsis3/{path}",
        )
    )  # fmt: skip


_opened: list[str] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))


@pytest.mark.parametrize(("count", "part"), counts(9, 2000, parts=10))
def test_no_address_in_an_input_is_opened_outside(
    count: int, part: int, tmp_path: Path, outside: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by a listener, and by an audit hook on `open`."""
    if not _opened:
        sys.addaudithook(_listen)
    secret = tmp_path / "secret" / "x.tif"
    source, out = make_source(tmp_path / "in", 1), tmp_path / "out"
    secret.parent.mkdir()
    (source / "source" / "item-00000" / "B04.tif").copy(secret) if hasattr(
        Path, "copy"
    ) else secret.write_bytes((source / "source" / "item-00000" / "B04.tif").read_bytes())
    run_job(a_job(source, out), progress=False)
    item = source / "source" / "item-00000" / "item-00000.json"
    made = next(path for path in out.rglob("item-*.json"))
    whole, written = json.loads(item.read_text()), json.loads(made.read_text())
    chance = random.Random(part)
    _opened.clear()
    tree = set(tmp_path.rglob("*"))
    for number in range(count):
        address = _addresses(chance, outside.server_port, secret)
        asset = {**whole["assets"]["B04"], "href": address}
        asset.pop("file:checksum", None)
        item.write_text(json.dumps({**whole, "assets": {"B04": asset}}))
        bare = {"href": address, "type": "image/tiff"}
        made.write_text(
            json.dumps({**written, "assets": {"B04": bare, "mask": {**bare, "file:checksum": "1220"}}})
        )
        for call in (
            lambda: eoaug.open_cube(str(item), chunks=None),
            lambda: run_job(a_job(source, tmp_path / "made", run={"retries": 0}), progress=False),
            lambda: CliRunner().invoke(app, [("validate", "gc", "status")[number % 3], str(out)]),  # noqa: B023
        ):
            try:
                call()
            except EoaugError:
                continue
    assert outside.connections == 0
    assert not [path for path in _opened if str(secret.parent) in os.path.realpath(path)]
    new = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - tree}
    assert new <= {"made", "out"}
