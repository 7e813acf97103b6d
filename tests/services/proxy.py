"""A proxy on loopback that loses, delays, cuts and repeats what passes through it."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("lost request", "lost answer", "cut answer", "late", "twice", "refused")


class Proxy:
    """Stands before a service.

    Parameters
    ----------
    port
        Of the service, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.lines: list[str] = []
        """Method and path of what came, as a log of the service would hold it."""
        self._upstream, self._lock = port, threading.Lock()
        self.calm()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                outer._pass(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Clients are killed here on purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """Pass everything on."""
        self._share, self._chance, self._plain, self.gone = 0.0, random.Random(0), False, False

    def trouble(self, share: float, seed: int, *, plain: bool = False) -> None:
        """Let that share of the requests meet a fault.

        Parameters
        ----------
        share
            0 to 1.
        seed
            Of the faults' order.
        plain
            Take the conditions out of writes, as a store does that knows none.
        """
        self._share, self._chance, self._plain = share, random.Random(seed), plain

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _pass(self, client: BaseHTTPRequestHandler) -> None:
        body = self._body(client)
        if body is None:  # the client died while it sent
            client.close_connection = True
            return
        with self._lock:
            fault = self._chance.choice(FAULTS) if self._chance.random() < self._share else ""
            self.counts[fault] += 1
            self.requests[client.command] += 1
            self.lines.append(f"{client.command} {client.path}")
        if fault == "lost request" or self.gone:
            self._hang_up(client)
            return
        if fault == "refused":
            self._answer(client, 503, [], b"")
            return
        try:
            if fault == "twice":
                self._ask(client, body)
            status, headers, content = self._ask(client, body)
        except (OSError, http.client.HTTPException):
            self._hang_up(client)
            return
        if fault == "late":
            time.sleep(self._chance.uniform(0.2, 1.0))
        if fault == "lost answer" or self.gone:
            self._hang_up(client)
        elif fault == "cut answer" and len(content) > 1 and client.command != "HEAD":
            self._answer(client, status, headers, content[: len(content) // 2], told=len(content))
            self._hang_up(client)
        else:
            self._answer(client, status, headers, content)

    @staticmethod
    def _body(client: BaseHTTPRequestHandler) -> bytes | None:
        length = int(client.headers.get("Content-Length") or 0)
        try:
            body = client.rfile.read(length)
        except OSError:
            return None
        return body if len(body) == length else None

    def _ask(self, client: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)
        link.putrequest(client.command, client.path, skip_host=True, skip_accept_encoding=True)
        for name, value in client.headers.items():
            if name.lower() == "connection" or (
                self._plain and name.lower() in ("if-match", "if-none-match")
            ):
                continue
            link.putheader(name, value)
        link.endheaders(body or None)
        answer = link.getresponse()
        content = answer.read()
        headers = [
            (k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")
        ]
        link.close()
        return answer.status, headers, content

    @staticmethod
    def _answer(
        client: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        told: int | None = None,
    ) -> None:
        size = next((v for k, v in headers if k.lower() == "content-length"), None)
        head = client.command == "HEAD"
        length = size if head and size is not None else str(len(content) if told is None else told)
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in headers if k.lower() != "content-length")]
        text = "\r\n".join([*lines, f"Content-Length: {length}", "", ""])
        try:
            client.wfile.write(text.encode("latin-1") + (b"" if head else content))
            client.wfile.flush()
        except OSError:
            client.close_connection = True

    @staticmethod
    def _hang_up(client: BaseHTTPRequestHandler) -> None:
        client.close_connection = True
        try:
            client.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
