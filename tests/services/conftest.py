"""Real services on loopback, each started by these tests and stopped by them; see `make test-services`."""

from __future__ import annotations

import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.forks import ROOT

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


_SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


class Service:
    """stac-fastapi in a process of its own, to be stopped and begun again."""

    def __init__(self, database: int, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._env = os.environ | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(database),
            "PGUSER": "postgres",
            "PGPASSWORD": "unused",
            "PGDATABASE": "postgres",
            **settings,
        }
        self.begin()

    def begin(self) -> None:
        command = [SERVICES / "bin" / "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                env=self._env,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: answers(f"{self.url}/_mgmt/ping"), "stac-fastapi")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def database() -> Iterator[int]:
    """The port of a PostgreSQL with PostGIS and pgstac."""
    if not _SERVERS or not (SERVICES / "bin" / "pypgstac").is_file():
        pytest.skip("PostgreSQL or pypgstac is not there: run `make test-services`")
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    folder, port = Path(tempfile.mkdtemp(prefix="eoaug-postgres-")), free_port()
    if user:
        told = pwd.getpwnam("postgres")
        os.chown(folder, told.pw_uid, told.pw_gid)
    tools = _SERVERS[-1].parent

    def call(*command: str | Path) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)  # type: ignore[call-overload]

    call(_SERVERS[-1], "-D", folder / "data", "-A", "trust", "-U", "postgres")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    call(tools / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
    try:
        told = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        migrate = [SERVICES / "bin" / "pypgstac", "migrate"]
        subprocess.run(migrate, check=True, env=os.environ | told | {"PGPASSWORD": "unused"})
        yield port
    finally:
        call(tools / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def service(database: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("api") / "log"
    found = Service(database, log, ENABLE_TRANSACTIONS_EXTENSIONS="TRUE", UVICORN_ROOT_PATH="")
    yield found
    found.kill()


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[Proxy]:
    """The API through a proxy that counts."""
    found = Proxy(service.port)
    yield found
    found.end()


def post(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status in (200, 201)


_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={control}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """The folder of a SLURM that runs jobs; its commands are on the PATH."""
    if os.getuid() != 0:
        pytest.skip("slurmd runs jobs of others, so it needs root")
    if not all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
        pytest.skip("slurm-wlm and munge are not there: run `make test-services`")
    folder, host = Path(tempfile.mkdtemp(prefix="eoaug-slurm-")), socket.gethostname().partition(".")[0]
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=host, folder=folder, control=free_port(), daemon=free_port()))
    (folder / "munge.key").write_bytes(random.randbytes(1024))
    (folder / "munge.key").chmod(0o600)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (folder / "log").open("ab") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))

    try:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        start("munged", "-F", "--force", *(f"--{name}={folder / file}" for name, file in files.items()))
        wait_for((folder / "munge.socket").exists, "munge")
        start("slurmctld", "-D", "-f", str(conf))
        start("slurmd", "-D", "-f", str(conf), "-N", host)

        def idle() -> bool:
            told = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)
            return told.stdout.strip() == "idle"

        wait_for(idle, "SLURM")
        yield folder
    finally:
        subprocess.run(["scancel", "--partition=tests"], check=False)
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)
