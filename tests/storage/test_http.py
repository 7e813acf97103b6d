"""The HTTP session: every hop is checked, and nothing secret is sent or repeated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import eoaug
from eoaug.errors import SourceError
from eoaug.storage.access import AccessPolicy


class Server(HTTPServer):
    """Answers with one status, and records path and headers of every request."""

    def __init__(self, status: int = 200, location: str = "", body: bytes = b"{}") -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.path, dict(self.headers)))
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.shutdown()
        server.server_close()


def test_a_search_follows_no_redirect_to_another_host(servers: list[Server]) -> None:
    elsewhere = Server()
    moved = Server(302, location=f"{elsewhere.url}/")
    servers += [elsewhere, moved]
    with pytest.raises(SourceError, match="not allowed"):
        eoaug.open_cube(f"{moved.url}/", collections="c")
    access = AccessPolicy.for_source(f"{moved.url}/")
    with access.session("the API") as session, pytest.raises(SourceError, match="not allowed"):
        session.post(f"{moved.url}/search", json={})
    assert len(moved.requests) == 2
    assert elsewhere.requests == []


def test_credentials_of_netrc_are_not_sent(
    servers: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password CANARY\n")
    monkeypatch.setenv("NETRC", str(netrc))
    target = Server()
    moved = Server(307, location=f"{target.url}/there")
    servers += [target, moved]
    access = AccessPolicy.for_source(target.url).extended([f"127.0.0.1:{moved.server_port}"])
    assert access.read_json(f"{moved.url}/here", what="x") == {}
    assert access.send("GET", f"{target.url}/direct", None, {}, what="x") == (200, b"{}")
    assert [path for path, _ in target.requests] == ["/there", "/direct"]
    assert not any("Authorization" in headers for _, headers in target.requests + moved.requests)


def test_a_token_is_not_forwarded_to_another_host(servers: list[Server]) -> None:
    target = Server()
    moved = Server(307, location=f"http://localhost:{target.server_port}/there")
    servers += [target, moved]
    access = AccessPolicy.for_source(moved.url).extended([f"localhost:{target.server_port}"])
    with access.session("x") as session:
        session.get(f"{moved.url}/here", headers={"Authorization": "Bearer CANARY"})
    assert moved.requests[0][1]["Authorization"] == "Bearer CANARY"
    assert "Authorization" not in target.requests[0][1]


def test_a_write_is_not_redirected(servers: list[Server]) -> None:
    target = Server()
    moved = Server(307, location=f"{target.url}/there")
    servers += [target, moved]
    access = AccessPolicy.for_source(moved.url).extended([f"127.0.0.1:{target.server_port}"])
    assert access.send("PUT", f"{moved.url}/item", b"{}", {}, what="x")[0] == 307
    assert target.requests == []


@pytest.mark.parametrize("status", [404, 503])
def test_errors_name_the_status_and_no_signature(status: int, servers: list[Server]) -> None:
    server = Server(status)
    servers.append(server)
    access = AccessPolicy.for_source(server.url)
    with pytest.raises(SourceError, match=f"HTTP status {status}") as caught:
        access.read_json(f"{server.url}/a?sig=CANARY", what="x")
    assert "CANARY" not in str(caught.value)


def test_a_server_that_is_down_is_an_error_without_signature() -> None:
    server = Server()
    server.shutdown()
    server.server_close()
    access = AccessPolicy.for_source(server.url)
    for call in (access.read_json, access.open):
        with pytest.raises(SourceError, match="refused") as caught:
            call(f"{server.url}/a?sig=CANARY", what="x")
        assert "CANARY" not in str(caught.value)


def test_a_body_is_cut_at_the_limit(servers: list[Server]) -> None:
    from dataclasses import replace

    server = Server(body=b"[" * 1000)
    servers.append(server)
    access = AccessPolicy.for_source(server.url)
    access = replace(access, limits=replace(access.limits, json_bytes=100))
    with pytest.raises(SourceError, match="larger than 100 bytes"):
        access.read_json(f"{server.url}/a", what="x")
