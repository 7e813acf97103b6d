"""The four verbs on real Sentinel-2 data: `eoaug demo` and `make demo` run this.

Reads the sample catalog, hides and degrades pixels whose truth is known, restores them, and compares. All results are
written to a new STAC catalog; a contact sheet and a page show them. Takes about two minutes on two cores.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox, zoom_out
from odc.geo.xr import xr_coords

import eoaug
from eoaug import metrics
from eoaug.errors import TargetError
from eoaug.quicklook import Picture, Section, enlarge, page, rgb, shade, sheet
from eoaug.raster import masks
from eoaug.raster.sensor import Sensor
from eoaug.stac.summary import summarise

__all__ = ["run"]


COLLECTION = "sentinel-2-l2a"
BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
FINE = BANDS[:4]
"""Measured at 10 m; the other two are 20 m bands on the 10 m grid, which have no detail at 10 m."""
COVER = 0.30
FACTOR = 4
SHOWN = 1
"""Which patch the single-patch steps use."""
MARK = ".eoaug-demo"
BASELINE = "classical"
LAND = ("fields with a village", "a river with pasture", "town with industry", "forest with a motorway")
SEASON = np.timedelta64(90, "D")


@dataclass
class Demo:
    """What the steps share."""

    generator: str
    out: Path
    patches: dict[str, xr.Dataset]
    sections: list[Section] = field(default_factory=list)

    @property
    def methods(self) -> tuple[str, ...]:
        """The generator and the baseline."""
        return tuple(dict.fromkeys((self.generator, BASELINE)))

    @property
    def shown(self) -> tuple[str, xr.Dataset]:
        """Name and cube of the patch for the single-patch steps."""
        return list(self.patches.items())[SHOWN % len(self.patches)]

    def write(self, ds: xr.Dataset, collection: str, **options: Any) -> None:
        """Write a result to the catalog of the demo."""
        eoaug.write(ds, self.out / "catalog", collection=collection, **options)


def open_patches() -> dict[str, xr.Dataset]:
    """The patches are far apart, so each is opened as a separate cube."""
    catalog = eoaug.sample()
    (summary,) = summarise(catalog, collections=[COLLECTION])
    return {
        name: eoaug.open_cube(catalog, ids=[name], bands=BANDS, chunks=None) for name in sorted(summary.items)
    }


def stack(ds: xr.Dataset, bands: Sequence[str], date: int = 0) -> NDArray[np.float32]:
    """The bands of one date as (band, y, x)."""
    return np.stack([ds[band].values[date] for band in bands])


def place(name: str) -> str:
    """Satellite, date, and column and row of a patch, from its name."""
    satellite, _, taken, column, row = name.split("_")
    return f"{satellite} {taken[:4]}-{taken[4:6]}-{taken[6:8]}, patch {column}/{row}"


def inpaint(demo: Demo) -> None:
    """Hide 30 % of every patch, fill it, and compare with what was hidden."""
    scores: dict[str, list[float]] = {method: [] for method in demo.methods}
    rows = []
    for seed, (name, cube) in enumerate(demo.patches.items()):
        hidden = masks.simulate(cube.odc.geobox.shape.yx, COVER, seed=seed)
        truth = stack(cube, BANDS)
        # The hidden pixels are removed, so that no generator can see them.
        mask = xr.DataArray(hidden, dims=("y", "x"))
        cloudy = cube.where(~mask).assign_attrs(cube.attrs)
        for band in BANDS:
            cloudy[band].encoding = dict(cube[band].encoding)
        filled = {method: cloudy.eoaug.inpaint(mask=mask, generator=method) for method in demo.methods}
        for method, result in filled.items():
            made = stack(result, BANDS)
            assert np.array_equal(made[:, ~hidden], truth[:, ~hidden]), "a clear pixel changed"
            scores[method].append(metrics.psnr(made, truth, data_range=1.0, where=hidden))
        demo.write(filled[demo.generator], "inpainted")
        notes = {method: f"{scores[method][-1]:.1f} dB in the hole" for method in demo.methods}
        rows.append(
            [
                Picture(rgb(cube), place(name), "as measured"),
                Picture(shade(rgb(cube), hidden), "input", f"{hidden.mean():.0%} hidden"),
                *(
                    Picture(rgb(filled[method]), f"filled, {method}", notes[method])
                    for method in demo.methods
                ),
            ]
        )
        print(
            f"  {place(name)}: "
            + ", ".join(f"{method} {scores[method][-1]:.2f} dB" for method in demo.methods)
        )
    summary = compared("PSNR in the hole", scores)
    print(f"  {summary}")
    _, cloudy_picture, *filled_row = rows[SHOWN % len(rows)]
    demo.sections.append(
        Section(
            title="Inpaint: clouds that hide 30 %",
            text=f"{summary} Every pixel outside the clouds was returned bit for bit.",
            table=table([*map(place, demo.patches)], scores, "dB"),
            compare=(large(cloudy_picture), large(filled_row[0])),
            rows=rows,
        )
    )


def super_resolve(demo: Demo) -> None:
    """Sharpen one patch four times; then degrade all patches, restore them and compare."""
    name, cube = demo.shown
    measured = cube[list(FINE)]
    fine = measured.eoaug.super_resolve(factor=FACTOR, generator=demo.generator)
    demo.write(fine, "super-resolved")
    residual = max(fine.eoaug.provenance.residual.values())
    window = {"y": slice(40, 70), "x": slice(40, 70)}
    zoomed = {d: slice(s.start * FACTOR, s.stop * FACTOR) for d, s in window.items()}
    cubic = upsampled(measured)
    view = [
        Picture(rgb(measured.isel(window)), "input, 10 m", place(name)),
        Picture(rgb(cubic.isel(zoomed)), "cubic, 2.5 m", "interpolated"),
        Picture(rgb(fine.isel(zoomed)), f"{demo.generator}, 2.5 m", "no truth exists at 2.5 m"),
    ]
    scores: dict[str, list[float]] = {"cubic": [], **{method: [] for method in demo.methods}}
    rows = []
    for other, truth_cube in demo.patches.items():
        truth_cube = truth_cube[list(FINE)]
        truth, coarse = stack(truth_cube, FINE), degraded(truth_cube)
        made = {"cubic": upsampled(coarse)}
        for method in demo.methods:
            made[method] = coarse.eoaug.super_resolve(
                factor=FACTOR, sensor="gaussian", sensor_noise=0, generator=method
            )
        for method, result in made.items():
            scores[method].append(metrics.psnr(stack(result, FINE), truth, data_range=1.0))
        rows.append(
            [
                Picture(rgb(coarse), "input, 40 m", place(other)),
                *(
                    Picture(rgb(result), f"{method}, 10 m", f"{scores[method][-1]:.1f} dB")
                    for method, result in made.items()
                ),
                Picture(rgb(truth_cube), "truth, 10 m", "as measured"),
            ]
        )
    summary = compared(f"Degraded by {FACTOR} and restored: PSNR", scores)
    print(f"  {summary}")
    print(
        f"  Degraded by the sensor model, the 2.5 m image reproduces the measurement within its noise ({residual:.1e})."
    )
    demo.sections.append(
        Section(
            title="Super-resolve: 10 m to 2.5 m",
            text="The truth at 2.5 m is unknown. What can be checked: degraded by the sensor model, the result "
            f"reproduces the measurement within {residual:.1e} of reflectance.",
            compare=(large(view[1]), large(view[2])),
            rows=[view],
        )
    )
    demo.sections.append(
        Section(
            title="Super-resolve, where the truth is known: 40 m to 10 m",
            text=f"The patches were degraded to 40 m by the sensor model, then restored. {summary}",
            table=table([*map(place, demo.patches)], scores, "dB"),
            rows=rows,
        )
    )


def variations(demo: Demo) -> None:
    """Four variations of one patch."""
    name, cube = demo.shown
    varied = cube.eoaug.synthesize(members=4, generator=demo.generator)
    demo.write(varied, "variations")
    pairs = [(a, b) for a in range(4) for b in range(a)]
    apart = np.mean(
        [
            metrics.rmse(stack(varied.isel(member=a), BANDS), stack(varied.isel(member=b), BANDS))
            for a, b in pairs
        ]
    )
    summary = f"Two variations differ by {apart:.3f} of reflectance (root mean square over pixels and bands)."
    print(f"  {summary}")
    pictures = [Picture(rgb(varied, member=k), f"variation {k + 1}", "generated") for k in range(4)]
    demo.sections.append(
        Section(
            title="Synthesize: four variations of one patch",
            text=f"{summary} Every pixel is generated and marked so.",
            rows=[[Picture(rgb(cube), "as measured", place(name)), *pictures]],
        )
    )


def land(demo: Demo) -> None:
    """Land by class, on the grid of a patch."""
    cube = demo.shown[1]
    drawn = {
        prompt: eoaug.synthesize(
            like=cube.odc.geobox, prompt=prompt, times=cube.time.values, generator=demo.generator,
            labels="landcover", progress=False,
        ).compute()
        for prompt in LAND
    }  # fmt: skip
    demo.write(drawn[LAND[0]], "land")
    text = "Shapes follow rules, colours are those of real scenes. It is a map of nothing; the class map comes with it."
    print(f"  {text}")
    pictures = [Picture(rgb(ds), f'"{prompt}"', "drawn") for prompt, ds in drawn.items()]
    demo.sections.append(Section(title="Synthesize: land by prompt", text=text, rows=[pictures]))


def extend(demo: Demo) -> None:
    """One patch at two dates on which nothing was measured."""
    name, cube = demo.shown
    day = cube.time.values[0].astype("datetime64[D]")
    longer = cube.eoaug.extend(times=[day - SEASON, day + SEASON], generator=demo.generator)
    demo.write(longer, "extended", format="zarr")
    kept = np.array_equal(stack(longer, BANDS, 1), stack(cube, BANDS))
    text = (
        "There is no image of those days, so these results have no score. The measured date was returned "
        + ("bit for bit." if kept else "CHANGED, which is a defect.")
    )
    print(f"  {text}")
    pictures = [
        Picture(rgb(longer, k), str(date)[:10], "as measured" if k == 1 else "generated")
        for k, date in enumerate(longer.time.values)
    ]
    demo.sections.append(
        Section(title="Extend: one patch at two other dates", text=f"{place(name)}. {text}", rows=[pictures])
    )


# -- details -----------------------------------------------------------------------------------------


def degraded(ds: xr.Dataset) -> xr.Dataset:
    """What a sensor with pixels four times as large would have measured."""
    sensor = Sensor.of("gaussian", FACTOR, len(ds.data_vars))
    seen = sensor.degrade(np.stack([band.values[0] for band in ds.data_vars.values()]))
    return on_grid(ds, seen, zoom_out(ds.odc.geobox, FACTOR))


def upsampled(ds: xr.Dataset) -> xr.Dataset:
    """Plain cubic interpolation on the finer grid."""
    sensor = Sensor.of("gaussian", FACTOR, len(ds.data_vars))
    smooth = sensor.upsample(np.stack([band.values[0] for band in ds.data_vars.values()]))
    return on_grid(ds, smooth, ds.odc.geobox.zoom_to(resolution=ds.odc.geobox.resolution.x / FACTOR))


def on_grid(ds: xr.Dataset, values: NDArray[np.float32], grid: GeoBox) -> xr.Dataset:
    """Values (band, y, x) of a single date as a cube like ``ds`` on another grid."""
    bands = {
        name: xr.Variable(("time", "y", "x"), values[k][None], band.attrs, {"grid_mapping": "spatial_ref"})
        for k, (name, band) in enumerate(ds.data_vars.items())
    }
    return xr.Dataset(bands, {**xr_coords(grid), "time": ds.time}, ds.attrs)


def compared(what: str, scores: dict[str, list[float]]) -> str:
    """The mean score of each method, as a sentence."""
    means = {method: float(np.mean(values)) for method, values in scores.items()}
    scores_text = ", ".join(f"{method} {mean:.2f} dB" for method, mean in means.items())
    return f"{what}, mean of {len(next(iter(scores.values())))} patches: {scores_text} (higher is better)."


def table(names: Sequence[str], scores: dict[str, list[float]], unit: str) -> list[list[str]]:
    """A row per patch, and the mean."""
    body = [[name, *(f"{scores[m][k]:.2f}" for m in scores)] for k, name in enumerate(names)]
    mean = ["mean", *(f"{np.mean(values):.2f}" for values in scores.values())]
    return [["patch", *(f"{method}, {unit}" for method in scores)], *body, mean]


def large(picture: Picture) -> Picture:
    """A picture of 480 pixels."""
    return Picture(enlarge(picture.pixels, 480), picture.caption, picture.note)


def prepared(out: Path) -> Path:
    """An empty folder; that of an earlier demo is replaced, any other is refused."""
    if (out / MARK).is_file():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise TargetError(f"{str(out)!r} holds files that no demo wrote", "choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    return out


def run(generator: str, out: Path) -> None:
    """Run the four verbs with a generator, print figures, and write catalog, picture and page to a folder."""
    started = time.monotonic()
    card = eoaug.load(generator).card
    print(f"Generator: {card.name}. {card.description}")
    demo = Demo(generator, prepared(out), open_patches())
    print(
        f"Input: {len(demo.patches)} real Sentinel-2 patches from the sample catalog, bands {', '.join(BANDS)}."
    )
    steps: list[tuple[str, Callable[[Demo], None]]] = [
        (f"inpaint: fill clouds over {COVER:.0%} of every patch", inpaint),
        (f"super_resolve: one patch x{FACTOR}, and a check where the truth is known", super_resolve),
        ("synthesize: four variations of one patch", variations),
        *([("synthesize: land by prompt", land)] if card.by_place else []),
        ("extend: one patch at two other dates", extend),
    ]
    for number, (title, step) in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {title}", flush=True)
        begun = time.monotonic()
        step(demo)
        print(f"  {time.monotonic() - begun:.0f} s")
    picture = sheet(demo.sections, demo.out / "sheet.png")
    # Addresses remain readable, but nothing in the page points outside it.
    notice = (eoaug.sample() / "NOTICE").read_text(encoding="utf-8")
    foot = notice.partition("\n\n")[2].replace("https://", "")
    lead = (
        f"Made by eoaug {eoaug.__version__} with the generator {card.name!r} from real Sentinel-2 data. Figures are "
        "peak signal-to-noise ratios in reflectance: 3 dB more is half the squared error."
    )
    report = page(
        "eoaug: four verbs on real data", demo.sections, demo.out / "index.html", lead=lead, foot=foot
    )
    items = sum(len(summary.items) for summary in summarise(demo.out / "catalog"))
    print(f"\nDone in {time.monotonic() - started:.0f} s.")
    print(f"  page     {report}  (open it in a browser; it needs no network)")
    print(f"  picture  {picture}")
    print(f"  catalog  {demo.out / 'catalog' / 'catalog.json'}  ({items} items: COGs, and one Zarr)")
