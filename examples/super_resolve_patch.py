"""Super-resolve a Sentinel-2 patch from 10 m to 2.5 m, compare it with the measurement, make a picture.

python examples/super_resolve_patch.py [generator] [output folder]
"""

import sys
from pathlib import Path

import eoaug
from eoaug.quicklook import Picture, Section, rgb, sheet

SAMPLE = Path(__file__).resolve().parents[1] / "catalogs" / "sample"
ITEM = "S2A_MSIL2A_20170617T113321_36_85"
generator = sys.argv[1] if len(sys.argv) > 1 else "embedded"
folder = Path(sys.argv[2] if len(sys.argv) > 2 else "examples-output")

cube = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=["red", "green", "blue", "nir"], chunks=None)
print(cube.eoaug.plan("super_resolve", factor=4, generator=generator).explain())

# Modulation transfer of these four bands at the Nyquist frequency, as ESA measured it in flight.
fine = cube.eoaug.super_resolve(factor=4, sensor=[0.25, 0.28, 0.275, 0.24], generator=generator)
for band, residual in fine.eoaug.provenance.residual.items():
    print(f"{band}: degraded by the sensor model, it differs from the measurement by at most {residual:.1e}")

folder.mkdir(parents=True, exist_ok=True)
pictures = [Picture(rgb(cube), "measured, 10 m"), Picture(rgb(fine), f"{generator}, 2.5 m")]
print(sheet([Section(ITEM, rows=[pictures])], folder / "super_resolve_patch.png", edge_px=480))
