"""Looking around in a cube: a page with a map of tiles, served on this machine alone.

A tile is computed when it is looked at, so lazy results and scenes of any size can be explored. The page is one file without a
link to another host; its address holds a secret, and requests under another host name are refused.
"""

from __future__ import annotations

import io
import json
import secrets
import threading
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube import provenance
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import OUTSIDE, SYNTHETIC
from eoaug.cube.windowed import WindowedVariable
from eoaug.errors import EoaugError, ParameterError, error_context

__all__ = ["Explorer", "explore"]

TILE_PX = 256
_BLOCK_PX = 1024
"""Edge of the windows in which lazy cubes are computed, and of the largest window of a tile: the map zooms out to there."""
_TILES_KEPT, _BLOCKS_KEPT = 512, 32
_MARK = np.array([255, 47, 208], np.float32)


def explore(ds: Any, *, port: int = 0) -> Explorer:
    """Serve a page on this machine on which a cube can be looked around, with generated pixels tinted.

    Parameters
    ----------
    ds
        Dataset or DataArray: measured, or a result, lazy or not.
    port
        Port on 127.0.0.1; 0: a free one.

    Returns
    -------
    Explorer
        Shows the page in a notebook; ``url`` is its address for a browser. It serves until ``close()``, or until Python
        ends.

    Raises
    ------
    EoaugError
        The object is no cube that can be shown.

    Examples
    --------
    >>> scene = eoaug.synthesize(like=bounds, crs="EPSG:32633", resolution=10, times=["2024-06-01"])  # doctest: +SKIP
    >>> view = scene.eoaug.explore()  # doctest: +SKIP
    """
    with error_context("explore"):
        return Explorer(ds, port=port)


class Explorer:
    """A page that is being served; see `explore`."""

    def __init__(self, ds: Any, *, port: int = 0) -> None:
        if isinstance(ds, xr.DataTree):
            raise ParameterError(
                "a DataTree has no one grid", "explore node by node: tree['path'].to_dataset()"
            )
        self._ds = ds
        self._members = int(ds.sizes.get("member", 1))
        self._cube = read_cube(ds.isel(member=0) if "member" in ds.dims else ds)
        self._secret = secrets.token_urlsafe(16)
        self._working = threading.Lock()
        self.tile = lru_cache(_TILES_KEPT)(self._tile)
        # A window of a lazy result costs its own tiles; of other lazy cubes, whole chunks.
        self._windowed = any(isinstance(band.variable, WindowedVariable) for band in _variables(ds))
        self.block = lru_cache(_BLOCKS_KEPT)(self._block)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True, name="eoaug explore").start()

    @property
    def url(self) -> str:
        """Address of the page, for a browser on this machine."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self._secret}/"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Explorer:
        """Serve inside a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self.close()

    def __repr__(self) -> str:
        """Return the address."""
        return f"eoaug explores this cube at {self.url}"

    def _repr_html_(self) -> str:
        style = "width:100%;height:480px;border:1px solid #888"
        return f'<iframe src="{escape(self.url)}" style="{style}" title="cube"></iframe>'

    @property
    def host(self) -> str:
        """Host and port under which requests are answered."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def secret(self) -> str:
        """First part of every path."""
        return self._secret

    def page(self) -> bytes:
        """Return the page."""
        height, width = self._cube.shape_yx
        times, record = self._cube.times, provenance.of(self._ds)
        facts = {
            "width": width,
            "height": height,
            "tile": TILE_PX,
            "dates": [] if times is None else [str(day)[:10] for day in times],
            "members": self._members,
            "marked": self._marks() is not None,
            "tinted": record is None or record.operation != "synthesize",
            "lazy": self._cube.lazy,
            "farthest": (_BLOCK_PX // TILE_PX).bit_length() - 1 if self._cube.lazy else 30,
        }
        text = resources.files("eoaug").joinpath("explore.html").read_text(encoding="utf-8")
        # In a script, "</" would end it.
        return text.replace("{{facts}}", json.dumps(facts).replace("<", "\\u003c")).encode()

    def _marks(self) -> xr.DataArray | None:
        ds = self._ds
        return ds[SYNTHETIC] if isinstance(ds, xr.Dataset) and SYNTHETIC in ds else None

    def _tile(self, level: int, row: int, col: int, date: int, member: int, marked: bool) -> bytes | None:
        """Return a tile as PNG; None beyond the cube, and where a lazy cube would compute too much.

        Parameters
        ----------
        level
            Every 2 ** level-th pixel is shown.
        row, col
            Number of the tile, counted from the corner of the cube.
        date, member
            Indices.
        marked
            Tint generated pixels.
        """
        from PIL import Image

        step = 2**level
        edge, (height, width) = TILE_PX * step, self._cube.shape_yx
        top, left = row * edge, col * edge
        if not (0 <= top < height and 0 <= left < width) or (self._cube.lazy and edge > _BLOCK_PX):
            return None
        if self._cube.lazy:
            size = edge if self._windowed else _BLOCK_PX
            with self._working:  # tiles of one block wait for it, and then find it
                image, made = self.block(size, top // size, left // size, date, member)
            rows, cols = (slice(n % size, n % size + edge, step) for n in (top, left))
            image, made = image[rows, cols], made[rows, cols]
        else:
            image, made = self._colours(
                slice(top, top + edge, step), slice(left, left + edge, step), date, member
            )
        if marked:
            image = np.where(made[..., None], (0.6 * image + 0.4 * _MARK).astype(np.uint8), image)
        canvas = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
        canvas[: image.shape[0], : image.shape[1], :3] = image
        canvas[: image.shape[0], : image.shape[1], 3] = 255
        buffer = io.BytesIO()
        Image.fromarray(canvas).save(buffer, format="PNG")
        return buffer.getvalue()

    def _block(
        self, size: int, row: int, col: int, date: int, member: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return a block of a lazy cube, which is computed once for all its tiles, since a chunk is computed as a whole."""
        rows, cols = (slice(n * size, (n + 1) * size) for n in (row, col))
        return self._colours(rows, cols, date, member)

    def _colours(
        self, rows: slice, cols: slice, date: int, member: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the picture of a window, and which of its pixels were generated or transferred."""
        from eoaug.quicklook import rgb

        y, x = self._cube.names_yx
        part = self._ds.isel({y: rows, x: cols})
        marks = self._marks()
        if self._cube.lazy:
            # Bands and marks of a result come from the same tasks: at once they are computed once.
            time = self._cube.name_time
            keep = [slice(n, n + 1) for n in (date, member)]
            part = part.isel(
                {d: n for d, n in zip((time, "member"), keep, strict=True) if d in part.dims}
            ).compute()
            date = member = 0
        image = rgb(part, None if self._cube.times is None else date, member=member)
        if marks is None:
            return image, np.zeros(image.shape[:2], bool)
        at = {d: n for d, n in ((self._cube.name_time, date), ("member", member)) if d in marks.dims}
        layer = part[SYNTHETIC].isel(at).transpose(y, x).values
        return image, (layer != 0) & (layer != OUTSIDE)


def _variables(ds: Any) -> list[xr.DataArray]:
    return list(ds.data_vars.values()) if isinstance(ds, xr.Dataset) else [ds]


def _handler(explorer: Explorer) -> type[BaseHTTPRequestHandler]:
    """Return the handler of requests for one page."""

    class ExplorerHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            # A page of another site may resolve its own name to this machine; it then sends that name.
            if self.headers.get("Host") != explorer.host:
                self.send_error(403)
            elif address.path == f"/{explorer.secret}/":
                self._send(200, "text/html; charset=utf-8", explorer.page())
            elif address.path == f"/{explorer.secret}/tile":
                self._send_tile(parse_qs(address.query))
            else:
                self.send_error(404)

        def _send_tile(self, query: Mapping[str, list[str]]) -> None:
            try:
                numbers = [int(query[name][0]) for name in ("z", "y", "x", "t", "m", "marks")]
                if not 0 <= numbers[0] <= 30:
                    raise ValueError
                png = explorer.tile(*numbers[:5], bool(numbers[5]))
            except (KeyError, ValueError, EoaugError):
                self.send_error(400)
                return
            if png is None:
                self._send(204, "text/plain", b"")
            else:
                self._send(200, "image/png", png)

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header(
                "Content-Security-Policy", "default-src 'self' 'unsafe-inline'; img-src 'self' data:"
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    return ExplorerHandler
