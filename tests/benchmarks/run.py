"""Benchmarks: every figure is a ratio, or a size, measured in one run on one machine.

    python tests/benchmarks/run.py [--quick] [--out benchmarks.json] [only ...]

Writes benchmarks.json and benchmarks.md. Not part of the test suite: it asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from priors import per_pixel

import eoaug
from eoaug.generators.embedded import generator, weights_config

Row = dict[str, Any]


def scene(size: int, dates: int = 1) -> xr.Dataset:
    """Return a smooth four-band Sentinel-2-like cube of ``size`` x ``size`` pixels."""
    geobox = GeoBox((size, size), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
    row, col = np.mgrid[:size, :size].astype(np.float32)
    bands = {}
    for i, name in enumerate(("B02", "B03", "B04", "B08")):
        field = 1500 + 600 * np.sin(row / 23 + i) + 400 * np.cos(col / 17 - i) + 200 * np.sin(row * col / 9e3)
        stack = np.repeat(field[None], dates, 0).astype(np.uint16)
        attrs = {"scale_factor": 1e-4, "add_offset": 0.0, "_FillValue": 0}
        bands[name] = (("time", "y", "x"), stack, attrs)
    days = np.array(["2024-06-01"], "datetime64[D]") + 10 * np.arange(dates)
    return xr.Dataset(bands, {**xr_coords(geobox), "time": days.astype("datetime64[ns]")})


def hole(size: int) -> xr.DataArray:
    """Return a mask with a third of the scene to fill, in every part of it."""
    row, col = np.mgrid[:size, :size]
    return xr.DataArray(((row // 24) + (col // 24)) % 3 == 0, dims=("y", "x"))


VERBS: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "synthesize": ("synthesize", lambda n: {"strength": 0.6}),
    "inpaint, best estimate": ("inpaint", lambda n: {"mask": hole(n), "steps": 0}),
    "inpaint, 4 steps": ("inpaint", lambda n: {"mask": hole(n), "steps": 4}),
    "super_resolve x4": ("super_resolve", lambda n: {"factor": 4}),
    "extend": ("extend", lambda n: {"times": ["2024-07-01"]}),
}


class Timed:
    """A generator that measures the time spent inside the wrapped one."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.seconds, self.tiles = inner, 0.0, 0
        self.card = inner.card

    def __reduce__(self) -> Any:
        return Timed, (self._inner,)

    def _time(self, name: str, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = getattr(self._inner, name)(*arguments)
        self.seconds += time.perf_counter() - start
        return result

    def generate(self, requests: Any) -> Any:
        self.tiles += len(requests)
        return self._time("generate", requests)

    def begin(self, requests: Any) -> Any:
        self.tiles += len(requests)
        return self._time("begin", requests)

    def step(self, state: Any, index: int) -> Any:
        return self._time("step", state, index)

    def replace(self, state: Any, estimate: Any) -> None:
        self._time("replace", state, estimate)

    def finish(self, state: Any) -> Any:
        return self._time("finish", state)


def single_core(function: Callable[[], Any]) -> Any:
    """Run on one core, so that time inside and outside of the model add up."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return function()
    finally:
        os.sched_setaffinity(0, cores)


def engine_over_model(quick: bool) -> list[Row]:
    """Engine time over the time inside the generator, on the same forwards and one core."""
    size = 256 if quick else 512
    rows = []
    for label, (verb, arguments) in VERBS.items():
        n = size // 4 if verb == "super_resolve" else size
        generator = Timed(eoaug.load("embedded"))
        cube = scene(n)
        kw = arguments(n) | {"generator": generator, "progress": False}
        getattr(eoaug, verb)(
            cube.isel(y=slice(64), x=slice(64)), **(kw | ({"mask": hole(64)} if "mask" in kw else {}))
        )
        generator.seconds = generator.tiles = 0
        start = time.perf_counter()
        single_core(lambda verb=verb, cube=cube, kw=kw: getattr(eoaug, verb)(cube, **kw))
        total = time.perf_counter() - start
        rows.append(
            {
                "what": f"engine over model, {label}",
                "ratio": total / generator.seconds,
                "tiles": generator.tiles,
                "mpx_per_s": size * size / 1e6 / total,
            }
        )
    return rows


def naive_over_engine(quick: bool) -> list[Row]:
    """A loop of one tile per forward over eoaug: equal steps, weights and tiles, all cores for both.

    The loop calls the same networks as a script would: a tile at a time, every input at every step, torch's own
    layout and threads. It is handed the tiles, and neither blends nor stores what it makes. Rounds alternate.
    """
    size, rounds = (256, 3) if quick else (512, 5)
    cube = scene(size)
    settings = {"strength": 0.6, "steps": 4, "joint_steps": 0, "progress": False}
    generator, naive = Kept(eoaug.load("embedded")), Naive()
    eoaug.synthesize(cube, generator=generator, **settings)
    tiles, ratios, each = generator.requests, [], []
    naive.generate(tiles[:1])
    for _ in range(rounds):
        start = time.perf_counter()
        eoaug.synthesize(cube, **settings)
        ours = time.perf_counter() - start
        start = time.perf_counter()
        for request in tiles:
            naive.generate([request])
        ratios.append((time.perf_counter() - start) / ours)
        each.append(ours / len(tiles))
    return [
        {
            "what": f"one tile per forward over eoaug, median of {rounds}",
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "tiles": len(tiles),
            "ms_per_tile": statistics.median(each) * 1e3,
        }
    ]


class Naive(generator.Embedded):
    """The generator with its networks called plainly."""

    def _forward(self, name: str, *inputs: Any, part: str = "forward", batch: int | None = None) -> Any:
        import torch

        if part == "told":
            return inputs[0]
        network = weights_config.network_for(self._config, name, "cpu")
        with torch.inference_mode():
            return network(*(torch.from_numpy(np.stack(arrays)) for arrays in inputs)).numpy()


class Kept:
    """A generator that keeps the requests it is given."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.card, self.requests = inner, inner.card, []

    def generate(self, requests: Any) -> Any:
        self.requests += requests
        return self._inner.generate(requests)

    def __reduce__(self) -> Any:
        return Kept, (self._inner,)


def workers(quick: bool) -> list[Row]:
    """One warm worker process over two, one core each; beside what two processes gain that share nothing.

    Many chunks for each of two workers: a user's scene has a hundred of the default size. With a few, what is
    measured is how long one worker waits for the other's last. From nothing, windows of land lie across chunks, and
    those at an edge are drawn by both: the larger the chunks, the fewer.
    """
    from dask.distributed import Client, LocalCluster

    size, chunk = (512, 128) if quick else (1024, 256)
    cube = scene(size).chunk(y=chunk, x=chunk)
    free = GeoBox((size, size), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
    # Another seed each time: windows of land are remembered.
    works: dict[str, Callable[[int], xr.Dataset]] = {
        f"inpaint, 16 chunks of {chunk} px": lambda seed: eoaug.inpaint(
            cube, mask=hole(size), steps=4, joint_steps=0, seed=seed
        ),
        f"variations, 16 chunks of {chunk} px": lambda seed: eoaug.synthesize(
            cube, strength=0.6, steps=4, joint_steps=0, seed=seed
        ),
        f"from nothing, 4 chunks of {2 * chunk} px": lambda seed: eoaug.synthesize(
            like=free, times=["2024-06-01"], chunks=2 * chunk, seed=seed
        ),
    }
    bare = "each with work of its own"
    ratios: dict[str, list[float]] = {name: [] for name in (bare, *works)}
    seconds: dict[str, list[float]] = {name: [] for name in ratios}
    with ExitStack() as stack:
        clients = []
        for count in (1, 2):
            cluster = LocalCluster(
                n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None
            )
            clients.append(stack.enter_context(Client(stack.enter_context(cluster), set_as_default=False)))
            clients[-1].wait_for_workers(count)
            clients[-1].run(_warm)
        # Rounds alternate: a machine that others use is not as fast from one minute to the next.
        for seed in range(1 if quick else 3):
            took = []
            for client in clients:
                start = time.perf_counter()
                client.run(_warm, 256, seed)
                took.append(time.perf_counter() - start)
            ratios[bare].append(2 * took[0] / took[1])
            seconds[bare].append(took[1])
            for name, work in works.items():
                took = []
                for client in clients:
                    start = time.perf_counter()
                    client.compute(work(seed)).result()
                    took.append(time.perf_counter() - start)
                ratios[name].append(took[0] / took[1])
                seconds[name].append(took[1])
    return [
        {
            "what": f"one warm worker process over two, {name}, median of {len(ratios[name])}",
            "ratio": statistics.median(ratios[name]),
            "low": min(ratios[name]),
            "high": max(ratios[name]),
            "seconds_of_two": statistics.median(seconds[name]),
        }
        for name in ratios
    ]


def _warm(size: int = 64, seed: int = 0) -> None:
    lazy = eoaug.synthesize(scene(size), strength=0.6, joint_steps=0, chunks=size, seed=seed)
    lazy.compute(scheduler="synchronous")


def graph(quick: bool) -> list[Row]:
    """Graph of a 100,000 x 100,000 synthesis: tasks, time and memory of building it."""
    import tracemalloc

    edge = 20_000 if quick else 100_000
    box = GeoBox((edge, edge), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
    eoaug.synthesize(like=box[:64, :64], times=["2024-06-01"])  # imports
    start = time.perf_counter()
    out = eoaug.synthesize(like=box, times=["2024-06-01"])
    seconds = time.perf_counter() - start
    tracemalloc.start()
    again = eoaug.synthesize(like=box, times=["2024-06-01"], seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    variables = len(again.data_vars)
    blocks = variables * again.red.data.npartitions
    return [
        {
            "what": f"graph of {edge:,} x {edge:,}",
            "seconds": seconds,
            "peak_mb": peak / 1e6,
            "tasks_per_variable_chunk": len(dict(out.__dask_graph__())) / blocks,
        }
    ]


_STREAM = """
import resource, sys
import dask, numpy as np, eoaug
sys.path.insert(0, {here!r})
from run import scene
from affine import Affine
from odc.geo.geobox import GeoBox
size = int(sys.argv[1])
box = GeoBox((size, size), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
lazy = eoaug.synthesize(like=box, generator="classical")
eoaug.synthesize(like=box[:64, :64], generator="classical").compute(scheduler="threads", num_workers=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunk = eoaug.plan("synthesize", like=box, generator="classical").explain().peak_bytes / 1e3
with dask.config.set(scheduler="threads", num_workers=2):
    lazy.to_zarr(sys.argv[2], zarr_format=3)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, chunk)
"""


def memory(quick: bool) -> list[Row]:
    """Peak memory of a scene streamed to Zarr, over that of a scene a sixteenth of its size."""
    peaks = {}
    sizes = (1024, 2048) if quick else (2048, 8192)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            code = _STREAM.format(here=str(Path(__file__).parent))
            done = subprocess.run(
                [sys.executable, "-c", code, str(size), f"{folder}/out.zarr"],
                check=True,
                capture_output=True,
                text=True,
            )
            before, peaks[size], chunk = (float(v) / 1e3 for v in done.stdout.split())
    small, large = sizes
    return [
        {
            "what": f"peak memory, {large} px over {small} px, streamed",
            "ratio": peaks[large] / peaks[small],
            "peak_mb": peaks[large],
        },
        {
            "what": "measured peak over explain() (imports, and one chunk per thread)",
            "ratio": peaks[large] / (before + 2 * chunk),
            "chunk_mb": chunk,
        },
    ]


def imports(quick: bool) -> list[Row]:
    """Seconds that ``import eoaug`` takes beyond ``import xarray``, each in a fresh interpreter."""
    seconds: dict[str, list[float]] = {"xarray": [], "eoaug": []}
    for _ in range(3 if quick else 9):
        for name in seconds:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return [{"what": "import eoaug minus import xarray", "seconds": middle["eoaug"] - middle["xarray"]}]


ALL: dict[str, Callable[[bool], list[Row]]] = {
    "imports": imports,
    "graph": graph,
    "engine": engine_over_model,
    "naive": naive_over_engine,
    "workers": workers,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", choices=[[], *ALL], help="benchmarks to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="small scenes")
    parser.add_argument(
        "--series", type=Path, help="real Sentinel-2 series for the time per pixel; see priors.py"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.only or ([] if options.series else ALL):
        print(f"{name} ...", flush=True)
        rows += ALL[name](options.quick)
    if options.series:
        rows += per_pixel(options.series, options.quick)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| what | figure | more |", "|---|---|---|"]
    for row in rows:
        key = next(k for k in ("ratio", "seconds") if k in row)
        rest = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("what", key))
        lines.append(f"| {row['what']} | {row[key]:.2f}{' s' if key == 'seconds' else ''} | {rest} |")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
