"""Make the pictures of README and gallery from the sample catalog: `make images`. Takes about a minute.

python docs/make_images.py [name ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from odc.geo.geobox import zoom_out
from odc.geo.xr import xr_coords
from PIL import Image

import eoaug
from eoaug import metrics
from eoaug.quicklook import Picture, Section, rgb, shade, sheet
from eoaug.raster.masks import simulate
from eoaug.raster.sensor import Sensor

OUT = Path(__file__).parent / "images"
BANDS = ["B02", "B03", "B04", "B08"]
FIELDS = "S2A_MSIL2A_20170613T101031_87_48"
PASTURE = "S2A_MSIL2A_20170617T113321_36_85"
SNOW = "S2B_MSIL2A_20180204T94161_57_38"
RADAR = "S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85"
COLOURS = 160
CLASSES = np.array(
    [(0, 0, 0), (230, 200, 90), (30, 100, 40), (160, 140, 90), (60, 60, 60), (190, 150, 190), (140, 190, 90),
     (200, 140, 60), (200, 80, 70), (60, 120, 200), (30, 70, 160)], np.uint8
)  # fmt: skip
"""Colours of the classes of land, by code."""


def opened(name: str, bands: list[str] | None = BANDS) -> xr.Dataset:
    """A patch of the sample catalog."""
    return eoaug.open_cube(eoaug.sample(), ids=[name], bands=bands, chunks=None)


def decibel(made: xr.Dataset, truth: xr.Dataset, where: np.ndarray | None = None) -> float:
    """PSNR of all bands, of reflectance with peak 1."""
    stacks = [np.stack([ds[band].values[0] for band in BANDS]) for ds in (made, truth)]
    return metrics.psnr(*stacks, data_range=1.0, **({} if where is None else {"where": where}))


def hidden_and_filled(name: str, cover: float, seed: int, words: str) -> list[Picture]:
    """A patch, the patch with a simulated cloud, and two ways to fill it."""
    cube = opened(name)
    clouds = simulate(cube.odc.geobox.shape.yx, cover, seed=seed)
    mask = xr.DataArray(clouds, dims=("y", "x"))
    pictures = [
        Picture(rgb(cube), words, "as measured"),
        Picture(shade(rgb(cube), clouds), "input", f"{clouds.mean():.0%} hidden"),
    ]
    for label, options in {"inpaint()": {}, "one sample": {"steps": 4, "members": 1}}.items():
        made = cube.eoaug.inpaint(mask=mask, **options)
        made = made.isel(member=0) if "member" in made.dims else made
        pictures.append(Picture(rgb(made), label, f"{decibel(made, cube, clouds):.1f} dB in the gap"))
    return pictures


def degraded(cube: xr.Dataset, factor: int) -> xr.Dataset:
    """The patch as a sensor with larger pixels measures it."""
    sensor, box = Sensor.of("gaussian", factor, len(cube.data_vars)), zoom_out(cube.odc.geobox, factor)
    names = [str(name) for name in cube.data_vars]
    stack = sensor.degrade(np.stack([cube[name].values[0] for name in names]).astype(np.float32))
    coords = {**xr_coords(box, dims=("y", "x")), "time": cube.time.values}
    dims = ("time", "y", "x")
    return xr.Dataset(
        {name: (dims, values[None], cube[name].attrs) for name, values in zip(names, stack, strict=True)},
        coords=coords,
    )


def inpaint() -> list[Picture]:
    """A gap in fields, filled."""
    return hidden_and_filled(FIELDS, 0.2, 22, "fields, June")


def failure() -> list[Picture]:
    """Snow, which is restored far worse than fields."""
    return hidden_and_filled(SNOW, 0.4, 2, "snow, February")


def super_resolve() -> list[Picture]:
    """A measurement at 20 m and at 40 m, brought back to 10 m."""
    cube = opened(FIELDS)
    pictures = []
    for factor in (2, 4):
        coarse = degraded(cube, factor)
        fine = coarse.eoaug.super_resolve(factor=factor)
        pictures += [
            Picture(
                rgb(coarse), f"input, {10 * factor} m", f"{coarse.sizes['y']} x {coarse.sizes['x']} pixels"
            ),
            Picture(rgb(fine), f"super_resolve({factor})", f"{decibel(fine, cube):.1f} dB"),
        ]
    return [*pictures, Picture(rgb(cube), "10 m", "as measured")]


def native() -> list[Picture]:
    """Red edge and short-wave infrared, from 20 m to 10 m."""
    cube = opened(FIELDS, [*BANDS, "B05", "B11", "B12"]).isel(x=slice(20, 80), y=slice(50, 110))
    sharp = cube.eoaug.super_resolve(native="auto")
    return [
        Picture(rgb(cube[["B11"]]), "B11, 20 m", "repeated on the 10 m grid"),
        Picture(rgb(sharp[["B11"]]), 'native="auto"', "10 m, from measured bands"),
        Picture(rgb(cube[["B05"]]), "B05, 20 m", "repeated on the 10 m grid"),
        Picture(rgb(sharp[["B05"]]), 'native="auto"', "10 m, from measured bands"),
        Picture(rgb(cube), "the guide", "B04, B03, B02 of 10 m"),
    ]


def synthesize() -> list[Picture]:
    """Variations of a patch, and a window of a landscape that nobody measured."""
    cube = opened(PASTURE)
    varied = {strength: cube.eoaug.synthesize(strength=strength) for strength in (0.3, 0.6)}
    scene = eoaug.synthesize(
        like=(500000, 5000000, 600000, 5100000), crs="EPSG:32633", resolution=10, times=["2024-06-01"], seed=2
    )
    return [
        Picture(rgb(cube), "a patch", "as measured"),
        *(
            Picture(rgb(ds), f"strength={strength}", "edges kept, tones new")
            for strength, ds in varied.items()
        ),
        Picture(
            rgb(scene.isel(x=slice(0, 120), y=slice(0, 120)).compute()), "like=bounds", "a map of nothing"
        ),
    ]


def land() -> list[Picture]:
    """Land by prompt, and a class map."""
    box, how = (
        (500000, 5000000, 501600, 5001600),
        {"crs": "EPSG:32633", "resolution": 10, "times": ["2024-06-01"]},
    )
    prompts = {"fields with a village": 3, "forest with a river": 7, "town with industry": 5, "pasture": 2}
    drawn = {
        prompt: eoaug.synthesize(like=box, prompt=prompt, seed=seed, labels="landcover", **how).compute()
        for prompt, seed in prompts.items()
    }
    pictures = [Picture(rgb(ds), f'prompt="{prompt}"', "drawn") for prompt, ds in drawn.items()]
    codes = drawn["town with industry"]["landcover"].values[0]
    return [*pictures, Picture(CLASSES[codes], 'labels="landcover"', "classes of the third")]


def extend() -> list[Picture]:
    """Two new dates from a single one."""
    cube = opened(PASTURE)
    longer = cube.eoaug.extend(times=["2017-05-01", "2017-09-15"])
    words = {"2017-05-01": "new", "2017-06-17": "as measured", "2017-09-15": "new"}
    return [Picture(rgb(longer, date), date, note) for date, note in words.items()]


def radar() -> list[Picture]:
    """A large cloud, filled with and without radar."""
    cube, layer = opened(PASTURE), opened(RADAR, None)
    clouds = simulate(cube.odc.geobox.shape.yx, 0.5, seed=3)
    mask = xr.DataArray(clouds, dims=("y", "x"))
    made = {
        "inpaint()": cube.eoaug.inpaint(mask=mask),
        "layout=radar": cube.eoaug.inpaint(mask=mask, layout=layer),
    }
    return [
        Picture(rgb(cube, look="nir"), "near infrared", "as measured"),
        Picture(shade(rgb(cube, look="nir"), clouds), "input", f"{clouds.mean():.0%} hidden"),
        Picture(rgb(layer), "Sentinel-1", "VV, VH, VV - VH"),
        *(
            Picture(rgb(ds, look="nir"), name, f"{decibel(ds, cube, clouds):.1f} dB in the gap")
            for name, ds in made.items()
        ),
    ]


STRIPS: dict[str, Callable[[], list[Picture]]] = {
    one.__name__.replace("_", "-"): one
    for one in (inpaint, super_resolve, synthesize, land, extend, native, radar, failure)
}


def main(names: list[str]) -> None:
    """Write the strips of these names, or all."""
    OUT.mkdir(exist_ok=True)
    for name in names or STRIPS:
        path = sheet([Section("", rows=[STRIPS[name]()])], OUT / f"{name}.png")
        Image.open(path).quantize(COLOURS).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
