"""The same torch module, scene, tile, overlap and batch through eoaug and through its peers.

    pip install -e . -r tests/benchmarks/requirements-peers.txt
    python tests/benchmarks/peers.py [--quick] [--out benchmarks.json] [tool ...]

A x4 super-resolution network with fixed random weights over a four-band uint16 GeoTIFF, from file to file:
`eoaug.super_resolve` streamed to Zarr, opensr-utils' whole-scene pipeline, terratorch's tiled inference.
Every run is a fresh process on the same cores; rounds alternate the order, ratios are taken within a round
and given as median with the range. Rows go into the JSON and Markdown files of run.py.

What cannot be made equal:
- eoaug projects every result on its measurement (here the box sensor, the cheapest one; no verb goes
  without). The peers do not; ``projection`` is its share of eoaug's time.
- eoaug's lattice hangs on absolute coordinates and its chunks are independent, so it calls more tiles;
  ``forwards`` counts them. The peers shift their last tiles inwards.
- opensr-utils stitches by way of patch files and writes an uncompressed GeoTIFF with a mask; eoaug writes
  an uncompressed Zarr group with marks. terratorch has no whole-scene reader or writer for tiled inference
  and takes outputs of the input's size: the script reads and writes the scene in one piece, and hands over
  terratorch's own in-memory sink with the coordinates multiplied by four.

Peaks of eoaug and opensr-utils are both bounded: imports (torch's first), one forward of the module, and a chunk or
256 MB of GDAL's cache. ``--sizes 4096 --width 8 --depth 1`` shows it in minutes, with a cheap module.
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
from pathlib import Path
from typing import Any, ClassVar

# The parent imports nothing large: on Linux a child's ru_maxrss begins at its parent's size.

Row = dict[str, Any]

FACTOR, BANDS = 4, 4
NAMES = ("B02", "B03", "B04", "B08")
SCALE = 1e-4


def scene(path: Path, size: int) -> None:
    """Write a four-band scene with fields, edges and texture, on a real Sentinel-2 tile's corner."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(7)
    row, col = np.mgrid[:size, :size].astype(np.float32)
    fields = rng.uniform(900, 2900, (BANDS, size // 32 + 1, size // 32 + 1)).astype(np.float32)
    pixels = np.kron(fields, np.ones((1, 32, 32), np.float32))[:, :size, :size]
    pixels += 200 * np.sin(row / 23) + 150 * np.cos(col / 17) + rng.normal(0, 40, pixels.shape)
    profile = {
        "driver": "GTiff", "height": size, "width": size, "count": BANDS, "dtype": "uint16", "nodata": 0,
        "crs": "EPSG:32633", "transform": from_origin(399960, 5000040, 10, 10),
        "tiled": True, "blockxsize": 256, "blockysize": 256,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels.clip(1, 10000).astype(np.uint16))
        file.scales, file.offsets = (SCALE,) * BANDS, (0.0,) * BANDS
        for i, name in enumerate(NAMES, 1):
            file.set_band_description(i, name)


def network(width: int, depth: int) -> Any:
    """Return the module: convolutions and a pixel shuffle on top of bicubic, timed."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(BANDS, width, 3, padding=1)
            self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
            self.tail = nn.Conv2d(width, BANDS * FACTOR**2, 3, padding=1)
            self.seconds = self.cpu = 0.0
            self.tiles = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            start, cpu = time.perf_counter(), time.process_time()
            base = nn.functional.interpolate(x, scale_factor=FACTOR, mode="bicubic", align_corners=False)
            y = torch.relu(self.head(x))
            for layer in self.body:
                y = torch.relu(layer(y)) + y
            out = base + 0.001 * nn.functional.pixel_shuffle(self.tail(y), FACTOR)
            self.seconds += time.perf_counter() - start
            self.cpu += time.process_time() - cpu
            self.tiles += len(x)
            return out

    model = Network().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 64
            weight.copy_(torch.randn(weight.shape, generator=generator) / fan_in**0.5)
    return model


class Wrapped:
    """The module as eoaug's generator; unmeasured pixels are given the tile's mean."""

    card: ClassVar[Any]
    module: ClassVar[Any]

    def generate(self, requests: Any) -> Any:
        import numpy as np
        import torch

        # The peers show their modules nothing beyond the tile.
        halo = requests[0].coarse_halo
        tiles = np.stack([request.coarse[0][:, halo:-halo, halo:-halo] for request in requests])
        if np.isnan(tiles).any():
            mean = np.nanmean(tiles, axis=(2, 3), keepdims=True)
            tiles = np.where(np.isnan(tiles), mean, tiles)
        with torch.inference_mode():
            return self.module(torch.from_numpy(tiles)).numpy()[:, None]


# -- the tools: each imports, hands back what to run, and where the result lies ------------------------


def with_eoaug(source: Path, folder: Path, settings: Row, model: Any) -> tuple[Callable[[], None], Any]:
    import dask
    import numpy as np
    import rioxarray
    import zarr

    import eoaug
    from eoaug.raster.sensor import Sensor

    Wrapped.module = model
    Wrapped.card = eoaug.Card(
        name="peer-network",
        bands=("blue", "green", "red", "nir"),
        verbs=frozenset({"super_resolve"}),
        tile_px=settings["tile"] * FACTOR,
        overlap_px=settings["overlap"] * FACTOR,
        batch=settings["batch"],
        mean=(0.0,) * BANDS,
        std=(1.0,) * BANDS,
    )

    model.projection = 0.0
    project = Sensor.project

    def timed(self: Sensor, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = project(self, *arguments, **options)
        model.projection += time.perf_counter() - start
        return result

    Sensor.project = timed  # type: ignore[method-assign]
    target = folder / "eoaug.zarr"

    def run() -> None:
        px = settings["chunk"]
        ds = rioxarray.open_rasterio(source, band_as_variable=True, chunks={"x": px, "y": px})
        ds = ds.rename({f"band_{i}": name for i, name in enumerate(NAMES, 1)})
        lazy = eoaug.super_resolve(ds, factor=FACTOR, sensor="box", generator=Wrapped())
        plain = {name: {"compressors": None} for name in lazy.data_vars}
        # One chunk at a time: the peers have one forward at a time, and the module has all the cores.
        with dask.config.set(scheduler="synchronous"):
            lazy.to_zarr(target, zarr_format=3, encoding=plain, consolidated=False)

    def crop(window: slice) -> Any:
        group = zarr.open_group(target, mode="r")
        return np.stack([group[name][window, window] for name in NAMES])

    return run, crop


def with_opensr(source: Path, folder: Path, settings: Row, model: Any) -> tuple[Callable[[], None], Any]:
    import opensr_utils
    import opensr_utils.pipeline

    model.factor = FACTOR
    target = folder / "opensr.tif"

    def run() -> None:
        opensr_utils.super_resolve(
            str(source),
            model,
            str(target),
            window_size=(settings["tile"],) * 2,
            overlap=settings["overlap"],
            batch_size=settings["batch"],
            device="cpu",
        )

    return run, lambda window: _read(target, window)


def with_terratorch(source: Path, folder: Path, settings: Row, model: Any) -> tuple[Callable[[], None], Any]:
    from dataclasses import replace

    import numpy as np
    import rasterio
    import torch
    from terratorch.tasks import tiled_inference as peer

    target = folder / "terratorch.tif"

    class Refined(peer.InMemoryTileSink):
        """Terratorch's sink on the fine grid."""

        masks: dict[int, Any]

        def write(self, tile: Any, prediction: Any) -> None:
            def times(part: slice) -> slice:
                return slice(part.start * FACTOR, part.stop * FACTOR)

            mask = self.masks.get(id(tile.blend_mask))
            if mask is None:
                mask = torch.nn.functional.interpolate(tile.blend_mask[None, None], scale_factor=FACTOR)[0, 0]
                self.masks[id(tile.blend_mask)] = mask
            fine = tuple(map(times, tile.input_coords))
            cut = None if tile.output_crop is None else tuple(map(times, tile.output_crop))
            super().write(replace(tile, input_coords=fine, blend_mask=mask, output_crop=cut), prediction)

    def run() -> None:
        with rasterio.open(source) as file:
            stored, profile = file.read(), file.profile
        image = torch.from_numpy(stored.astype(np.float32))[None] * SCALE
        height, width = image.shape[-2:]
        # A delta of 0 with padding cuts everything away in 1.2.13; without padding it keeps everything.
        sink = Refined(1, height * FACTOR, width * FACTOR, 0, "cpu", False, True)
        sink.masks = {}
        out = peer.tiled_inference(
            model,
            image,
            crop=settings["tile"],
            stride=settings["tile"] - settings["overlap"],
            delta=0,
            batch_size=settings["batch"],
            padding=False,
            sink=sink,
        )
        numbers = (out[0] / SCALE).round_().clamp_(0, 10000).numpy().astype(np.uint16)
        profile |= {"height": height * FACTOR, "width": width * FACTOR}
        profile["transform"] *= profile["transform"].scale(1 / FACTOR)
        with rasterio.open(target, "w", **profile) as file:
            file.write(numbers)

    return run, lambda window: _read(target, window)


def alone(source: Path, folder: Path, settings: Row, model: Any) -> tuple[Callable[[], None], Any]:
    """One forward of the module and nothing else: what no tool can do with less."""
    import numpy as np
    import torch

    batch = torch.zeros(settings["batch"], BANDS, settings["tile"], settings["tile"])

    def run() -> None:
        with torch.inference_mode():
            model(batch)

    return run, lambda window: np.zeros(0)


def _read(path: Path, window: slice) -> Any:
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(path) as file:
        return file.read(window=Window.from_slices(window, window))


TOOLS: dict[str, Callable[..., tuple[Callable[[], None], Any]]] = {
    "eoaug": with_eoaug,
    "opensr-utils": with_opensr,
    "terratorch": with_terratorch,
}
FLOOR = "torch and one forward"


# -- one run in a process of its own ------------------------------------------------------------------


def child(tool: str, folder: Path, settings: Row) -> None:
    """Run a tool over the scene once; the last line of the output is what was measured."""
    import numpy as np
    import torch

    torch.set_num_threads(settings["cores"])
    model = network(settings["width"], settings["depth"])
    run, crop = {**TOOLS, FLOOR: alone}[tool](folder / "scene.tif", folder, settings, model)
    before = _peak_mb()
    with torch.inference_mode():
        # The first forward of a process builds the kernels.
        model(torch.zeros(1, BANDS, settings["tile"], settings["tile"]))
    model.seconds = model.cpu = 0.0
    model.tiles = 0
    start, cpu = time.perf_counter(), time.process_time()
    if settings["profile"]:
        import cProfile

        profiler = cProfile.Profile(time.process_time)  # other jobs share the machine
        profiler.runcall(run)
        profiler.dump_stats(settings["profile"])
    else:
        run()
    figures: Row = {
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "module_wall": model.seconds,
        "module_cpu": model.cpu,
        "projection": getattr(model, "projection", 0.0),
        "forwards": model.tiles,
        "imports_mb": before,
        "peak_mb": _peak_mb(),
    }
    middle = settings["size"] * FACTOR // 2
    np.save(folder / f"{tool}.npy", crop(slice(middle - 300, middle + 300)))
    print(json.dumps(figures))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(tool: str, folder: Path, settings: Row) -> Row | str:
    """Return the figures of one run, or why there are none."""
    cores = sorted(os.sched_getaffinity(0))[-settings["cores"] :]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings["cores"]))
    # GDAL keeps what it has read of an open file, a twentieth of the machine's memory if left alone.
    threads["GDAL_CACHEMAX"] = "32"
    keep = {path.name for path in folder.iterdir()}
    done = subprocess.run(
        [sys.executable, __file__, "--child", tool, str(folder), json.dumps(settings)],
        capture_output=True,
        text=True,
        env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    import shutil

    for path in folder.iterdir():
        if path.name not in keep and path.suffix != ".npy":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        return errors[-1] if errors else f"ended with code {done.returncode}"
    figures: Row = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(tools: list[str], settings: Row, rounds: int) -> list[Row]:
    """Run the tools in alternating rounds over one scene; return a row per tool and per comparison."""
    runs: dict[str, list[Row]] = {tool: [] for tool in tools}
    with tempfile.TemporaryDirectory(dir=settings["folder"]) as name:
        folder = Path(name)
        code = "import sys; sys.path.insert(0, sys.argv[1]); import peers; from pathlib import Path;"
        code += "peers.scene(Path(sys.argv[2]), int(sys.argv[3]))"
        here = str(Path(__file__).parent)
        subprocess.run(
            [sys.executable, "-c", code, here, f"{folder}/scene.tif", str(settings["size"])], check=True
        )
        for i in range(rounds):
            for tool in tools if i % 2 == 0 else reversed(tools):
                if tool not in runs:
                    continue
                figures = measure(tool, folder, settings)
                if isinstance(figures, str):
                    print(f"{tool} did not run: {figures}")
                    del runs[tool]
                    continue
                runs[tool].append(figures)
                shown = {k: round(v, 1) for k, v in figures.items()}
                print(f"  {settings['size']} px, round {i + 1}, {tool}: {shown}", flush=True)
        floor = measure(FLOOR, folder, {**settings, "profile": ""})
        differences = _differences(folder, [tool for tool in runs if tool != "eoaug"])
    label = "{size} px LR, tile {tile}, overlap {overlap}, batch {batch}, {cores} core(s)".format(**settings)
    rows = []
    for tool, many in runs.items():
        about = f"{label}, chunk {settings['chunk']}" if tool == "eoaug" else label
        rows.append(
            {
                "what": f"{tool} over its module's time, {about}",
                **_spread([run["wall"] / run["module_wall"] for run in many]),
                "cpu_ratio": statistics.median(run["cpu"] / run["module_cpu"] for run in many),
                "seconds": statistics.median(run["wall"] for run in many),
                "cpu_seconds": statistics.median(run["cpu"] for run in many),
                "projection": statistics.median(run["projection"] / run["wall"] for run in many),
                "forwards": many[0]["forwards"],
                "peak_mb": max(run["peak_mb"] for run in many),
                "imports_mb": max(run["imports_mb"] for run in many),
            }
        )
    if not isinstance(floor, str):
        rows += [
            {
                "what": f"peak memory, {tool} over {FLOOR}, {label}",
                **_spread([run["peak_mb"] / floor["peak_mb"] for run in many]),
                "floor_mb": floor["peak_mb"],
            }
            for tool, many in runs.items()
        ]
    for tool in runs:
        if tool == "eoaug" or "eoaug" not in runs:
            continue
        pairs = list(zip(runs["eoaug"], runs[tool], strict=True))
        about = f"{label}, chunk {settings['chunk']}"
        rows.append(
            {
                "what": f"time, eoaug over {tool}, {about}",
                **_spread([a["wall"] / b["wall"] for a, b in pairs]),
                "cpu_ratio": statistics.median(a["cpu"] / b["cpu"] for a, b in pairs),
                "forwards_ratio": pairs[0][0]["forwards"] / pairs[0][1]["forwards"],
                "mean_difference_dn": differences[tool],
            }
        )
        row = {"what": f"peak memory, eoaug over {tool}, {about}"}
        row |= _spread([a["peak_mb"] / b["peak_mb"] for a, b in pairs])
        if not isinstance(floor, str):
            torch_mb = floor["imports_mb"]
            above = [(a["peak_mb"] - torch_mb) / (b["peak_mb"] - torch_mb) for a, b in pairs]
            row |= {"above_torch_ratio": statistics.median(above), "torch_mb": torch_mb}
        rows.append(row)
    return rows


def _spread(values: list[float]) -> Row:
    return {"ratio": statistics.median(values), "low": min(values), "high": max(values)}


def _differences(folder: Path, tools: list[str]) -> dict[str, float]:
    """Mean absolute difference of eoaug's pixels from a peer's in the middle of the scene.

    The peer's cells are first given the means of eoaug's: what is left is not the projection's.
    """
    import numpy as np

    def means(crop: Any) -> Any:
        bands, height, width = crop.shape
        cells = crop.reshape(bands, height // FACTOR, FACTOR, width // FACTOR, FACTOR).mean((2, 4))
        return np.kron(cells, np.ones((1, FACTOR, FACTOR)))

    crops = {path.stem: np.load(path).astype(float) for path in folder.glob("*.npy") if path.stem in TOOLS}
    ours = crops.get("eoaug")
    return {
        tool: float(abs(ours - crops[tool] - means(ours - crops[tool])).mean())
        for tool in tools
        if ours is not None and tool in crops
    }


def save(rows: list[Row], path: Path) -> None:
    """Put rows beside those that run.py left, in place of older ones of the same name; print the table."""
    old = json.loads(path.read_text()) if path.exists() else []
    names = {row["what"] for row in rows}
    kept = [row for row in old if row["what"] not in names] + rows
    path.write_text(json.dumps(kept, indent=1) + "\n")
    lines = ["| what | figure | more |", "|---|---|---|"]
    for row in kept:
        key = next(k for k in ("ratio", "seconds") if k in row)
        rest = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("what", key))
        lines.append(f"| {row['what']} | {row[key]:.2f}{' s' if key == 'seconds' else ''} | {rest} |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tools", nargs="*", choices=[[], *TOOLS], help="what to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="a scene of 512 px")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048], help="edges of the scenes, px")
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs of each tool")
    parser.add_argument("--tile", type=int, default=128, help="edge of a tile, px of the scene")
    parser.add_argument("--overlap", type=int, default=8, help="overlap of tiles, px of the scene")
    parser.add_argument("--batch", type=int, default=16, help="tiles in a forward")
    parser.add_argument("--chunk", type=int, default=512, help="edge of eoaug's chunks, px of the scene")
    parser.add_argument("--width", type=int, default=64, help="channels of the module")
    parser.add_argument("--depth", type=int, default=7, help="inner convolutions of the module")
    parser.add_argument("--cores", type=int, default=1, help="cores of a process, and torch threads")
    parser.add_argument("--folder", help="where scenes and results go meanwhile (default: the temp folder)")
    parser.add_argument("--profile", default="", help="file for cProfile's statistics (use with one tool)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    options = vars(parser.parse_args())
    tools = options.pop("tools") or list(TOOLS)
    out, rounds = options.pop("out"), options.pop("rounds")
    sizes = [512] if options.pop("quick") else options["sizes"]
    rows: list[Row] = []
    for size in sizes:
        rows += compare(tools, {**options, "size": size}, rounds)
    save(rows, out)


if __name__ == "__main__":
    main()
