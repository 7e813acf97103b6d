"""What a plan costs, said in numbers and words; and how long a generator takes for a batch.

Integer arithmetic; only `Times.of` calls the generator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eoaug.generators.base import Generator, Request, SteppedGenerator

__all__ = ["Explanation", "Times", "Work"]


@dataclass(frozen=True)
class Explanation:
    """What a plan will cost at most; tiles without anything to fill are skipped when it runs."""

    title: str
    chunks: int
    """Chunks of a variable of the result; every member has its own unless they are reduced."""
    tiles: int
    """Tiles that reach the generator, over all chunks, dates and members; neighbours of joint steps too."""
    model_calls: int
    """Steps of batches; a batch is filled up within its chunk. Tiles of one chunk that see other numbers of dates
    make batches of their own, which are not counted."""
    overlap_factor: float
    """Pixels that the networks draw for one of the result's, step by step: tiles overlap, reach beyond the chunks'
    edges, are drawn with a margin, and joint steps take neighbours along."""
    output_bytes: int
    peak_bytes: int
    """Estimated memory of one chunk in work in one thread; weights, what a network holds during a forward, interpreter, and
    eager inputs and results are not counted."""
    seconds: float | None = None
    """Estimated time in one thread; None if nothing was timed."""
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return (label, value) pairs."""
        rows = [
            ("chunks", f"{self.chunks:,}"),
            ("tiles", f"{self.tiles:,}"),
            ("model calls", f"{self.model_calls:,}"),
            ("drawn over kept pixels", f"{self.overlap_factor:.2f}"),
            ("output", _bytes(self.output_bytes)),
            ("peak memory of a chunk", _bytes(self.peak_bytes)),
        ]
        if self.seconds is not None:
            rows.append(("time, one thread", _seconds(self.seconds)))
        return rows + [("warning", text) for text in self.warnings]

    def __str__(self) -> str:
        """Return a table in plain text."""
        return "\n".join([self.title, *(f"  {label:<24}{value}" for label, value in self.rows())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self.rows())
        return f"<table><caption>{escape(self.title)}</caption>{body}</table>"


@dataclass(frozen=True)
class Work:
    """What one image of one chunk takes."""

    tiles: int
    batches: int
    calls: int
    """Steps of batches, or the one forward of a best estimate."""
    steps: int
    """Steps of tiles, or the tiles of a best estimate."""

    @classmethod
    def of(cls, rings: Sequence[int], steps: Sequence[int], *, group: int, batch: int) -> Work:
        """Return the work of rings of tiles.

        Parameters
        ----------
        rings, steps
            Tiles of each ring, and how many steps they take.
        group, batch
            Tiles that are handed over together, and requests in one forward: both are filled within a ring.
        """
        begun = [tiles // group * -(-group // batch) + -(-(tiles % group) // batch) for tiles in rings]
        calls = sum(count * each for count, each in zip(begun, steps, strict=True))
        return cls(sum(rings), sum(begun), calls, sum(n * each for n, each in zip(rings, steps, strict=True)))


@dataclass(frozen=True)
class Times:
    """What a full batch takes here, in seconds."""

    begin_s: float
    """Before the first step and after the last; of a generator without steps, everything."""
    step_s: float

    @classmethod
    def of(cls, generator: Generator, batch: Sequence[Request], steps: int) -> Times:
        """Time a batch of requests of ``steps`` steps; 0: a best estimate."""
        started = time.perf_counter()
        if not (steps and isinstance(generator, SteppedGenerator)):
            generator.generate(batch)
            return cls(time.perf_counter() - started, 0.0)
        state: Any = generator.begin(batch)
        begun = time.perf_counter()
        for index in range(steps):
            generator.step(state, index)
        walked = time.perf_counter()
        generator.finish(state)
        ended = time.perf_counter()
        return cls((begun - started) + (ended - walked), (walked - begun) / steps)


# -- words --------------------------------------------------------------------------------------------


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"
