"""Latents of images, kept on disk for this training and later ones: what an autoencoder that is not trained makes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from eoaug.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LatentCache"]


_FILE = "latents.sqlite"
_EVICTED = 0.1
"""Share of the latents that is removed, the oldest ones, when the limit is reached."""


class LatentCache:
    """Latents by the hash of their image and of what encodes it.

    A latent that was kept has the bytes of one that is computed: images are encoded one at a time with and without it.
    Several trainings may use one folder at a time.

    Parameters
    ----------
    folder
        Where they are kept, in one file.
    encoder
        Identity of the autoencoder, and how it is run; others do not share latents.
    limit_bytes
        Largest size of all latents together.

    Raises
    ------
    ParameterError
        The folder cannot be written, or its file is damaged.
    """

    def __init__(self, folder: str | Path, encoder: str, limit_bytes: int) -> None:
        self._encoder, self._limit = encoder.encode(), limit_bytes
        self._file = Path(folder).expanduser() / _FILE
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Every statement is a transaction of its own; after a crash at worst the last latents are missing.
            self._base = sqlite3.connect(self._file, timeout=60, isolation_level=None)
            self._base.execute("PRAGMA synchronous = OFF")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS latents (number INTEGER PRIMARY KEY, key BLOB UNIQUE, dtype TEXT, shape TEXT, content BLOB)"
            )
        except (OSError, sqlite3.Error) as error:
            raise ParameterError(
                f"latents={str(folder)!r} cannot be used: {error}", "give another folder, or remove that file"
            ) from error

    def encoded(self, image: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the latent of an image (3, H, W): the one that is kept, or a new one, which is then kept.

        Parameters
        ----------
        image
            The image.
        encode
            Returns the latent of it, without a gradient.
        """
        import numpy as np
        import torch

        pixels = np.ascontiguousarray(image.cpu().numpy())
        key = sha256(self._encoder + repr(pixels.shape).encode() + pixels.tobytes()).digest()
        row = self._base.execute("SELECT dtype, shape, content FROM latents WHERE key = ?", (key,)).fetchone()
        if row is not None:
            dtype, shape, content = row
            values = np.frombuffer(content, np.float32).reshape([int(edge) for edge in shape.split()])
            return torch.from_numpy(values.copy()).to(device=image.device, dtype=getattr(torch, dtype))
        latent = encode(image)
        # Half precision survives the way to float32 and back.
        stored = latent.float().cpu().contiguous().numpy()
        self._put(key, str(latent.dtype).removeprefix("torch."), stored.shape, stored.tobytes())
        return latent

    def _put(self, key: bytes, dtype: str, shape: tuple[int, ...], content: bytes) -> None:
        if self.size + len(content) > self._limit:
            (count,) = self._base.execute("SELECT COUNT(*) FROM latents").fetchone()
            self._base.execute(
                "DELETE FROM latents WHERE number IN (SELECT number FROM latents ORDER BY number LIMIT ?)",
                (max(1, round(_EVICTED * count)),),
            )
        if self.size + len(content) <= self._limit:
            row = (key, dtype, " ".join(map(str, shape)), content)
            self._base.execute(
                "INSERT OR IGNORE INTO latents (key, dtype, shape, content) VALUES (?, ?, ?, ?)", row
            )

    @property
    def size(self) -> int:
        """Bytes of all latents together."""
        (total,) = self._base.execute("SELECT COALESCE(SUM(LENGTH(content)), 0) FROM latents").fetchone()
        return int(total)

    def __len__(self) -> int:
        (count,) = self._base.execute("SELECT COUNT(*) FROM latents").fetchone()
        return int(count)
