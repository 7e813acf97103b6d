"""Real services on loopback, each started by these tests and stopped by them; see `make test-services`."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.jobs.conftest import ROOT

from .proxy import Proxy

SERVICES = Path(os.environ.get("EOAUG_SERVICES", ROOT / ".venv-services"))
CANARY = "canarysecretcanary"
"""In every credential: must be found nowhere."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{what} did not start")


def answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)


class Bucket:
    """A bucket of the real service, looked at without eoaug and without its libraries."""

    def __init__(self, port: int, name: str) -> None:
        self._url, self.name = f"http://127.0.0.1:{port}/{name}", name
        self._ask("PUT")

    def _ask(self, method: str, path: str = "", data: bytes | None = None) -> bytes:
        keys = {
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request",
            "Content-Type": "application/octet-stream",
        }
        request = urllib.request.Request(self._url + path, method=method, data=data, headers=keys)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def put(self, key: str, content: bytes) -> None:
        self._ask("PUT", f"/{quote(key)}", content)

    def put_tree(self, folder: Path, prefix: str) -> None:
        for part in sorted(folder.rglob("*")):
            if part.is_file():
                self.put(f"{prefix}/{part.relative_to(folder).as_posix()}", part.read_bytes())

    def get(self, key: str) -> bytes:
        return self._ask("GET", f"/{quote(key)}")

    def keys(self, prefix: str) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            more = f"&continuation-token={quote(token)}" if token else ""
            page = ET.fromstring(self._ask("GET", f"?list-type=2&prefix={quote(prefix)}{more}"))
            space = page.tag.partition("}")[0] + "}" if "}" in page.tag else ""
            found += [str(one.text) for one in page.iter(f"{space}Key")]
            token = page.findtext(f"{space}NextContinuationToken") or ""
            if not token:
                return found

    def snapshot(self, prefix: str) -> dict[str, bytes]:
        """Every published object: what two runs must share to the last byte."""
        names = [key.removeprefix(f"{prefix}/") for key in self.keys(f"{prefix}/")]
        return {name: self.get(f"{prefix}/{name}") for name in names if not name.startswith(".eoaug")}


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an S3 service."""
    program = SERVICES / "bin" / "moto_server"
    if not program.is_file():
        pytest.skip(f"{program} is not there: run `make test-services`")
    port = free_port()
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/moto-api/"), "moto")
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def bucket(moto: int) -> Bucket:
    return Bucket(moto, "eoaug-tests")


@pytest.fixture(scope="module")
def proxy(moto: int) -> Iterator[Proxy]:
    """Between eoaug and the service; the environment names it, with credentials that must not be found."""
    found = Proxy(moto)
    told = {
        "AWS_ENDPOINT_URL": found.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": f"id{CANARY}",
        "AWS_SECRET_ACCESS_KEY": f"key{CANARY}",
        "AWS_SESSION_TOKEN": f"token{CANARY}",
        "SOURCE_DATE_EPOCH": "1700000000",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    yield found
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    found.end()
