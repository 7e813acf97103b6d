"""A model hub on the loopback address: what `huggingface_hub` asks of one to fetch a repository."""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self


class Hub:
    """Serves folders ``root/owner/name`` as repositories that have a single commit.

    Parameters
    ----------
    root
        Folder of the repositories.
    commit
        Their revision.

    Attributes
    ----------
    asked : list
        Method and path of every request.
    refused : set
        Files that it does not hand out.
    """

    def __init__(self, root: Path, commit: str) -> None:
        self.root, self.commit = root, commit
        self.asked: list[tuple[str, str]] = []
        self.refused: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def of(self, repository: str) -> list[str]:
        """Return the paths of requests for a repository; the library has questions of its own besides."""
        return [path for _, path in self.asked if repository in path]

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        self.hub.asked.append((self.command, path))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(tree|revision)/(\w+)/?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        match = listing or file
        folder = self.hub.root / match[1] if match else self.hub.root / "nothing"
        if match is None or not folder.is_dir() or self.hub.commit not in path:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif listing:
            self._send(200, json.dumps(self._listed(folder, listing[2])).encode(), {})
        elif file is not None and file[3] in self.hub.refused:
            self._send(403, b"{}", {})
        elif file is not None and (folder / file[3]).is_file():
            self._send(200, (folder / file[3]).read_bytes(), {})
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _listed(self, folder: Path, kind: str) -> Any:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [str(path.relative_to(folder)) for path in files]
        if kind == "revision":
            return {
                "id": folder.name,
                "sha": self.hub.commit,
                "siblings": [{"rfilename": name} for name in names],
            }
        return [
            {"type": "file", "path": name, "size": path.stat().st_size,
             "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
            for name, path in zip(names, files, strict=True)
        ]  # fmt: skip

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        told = {
            "Content-Type": "application/json" if body[:1] in b"[{" else "application/octet-stream",
            "Content-Length": str(len(body)),
            "ETag": f'"{hashlib.sha1(body).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit,
        }
        for name, value in {**told, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
