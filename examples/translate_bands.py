"""Make a band that failed in one half of an image from the other bands, and from radar of the same day.

python examples/translate_bands.py [generator] [folder for the picture]
"""

import sys
from pathlib import Path

import numpy as np

import eoaug
from eoaug.quicklook import Picture, Section, rgb, sheet

SAMPLE = Path(__file__).resolve().parents[1] / "catalogs" / "sample"
ITEM = "S2A_MSIL2A_20170617T113321_36_85"
generator = sys.argv[1] if len(sys.argv) > 1 else "embedded"
folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("translated")

optical = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=["B02", "B03", "B04", "B08", "B11"], chunks=None)
radar = eoaug.open_cube(SAMPLE, ids=["S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85"], chunks=None)
# Radar of the same day, on the grid and the date of the optical image.
for name in ("VV", "VH"):
    optical[name] = optical.B02.copy(data=radar[name].values).assign_attrs(radar[name].attrs)

# A band that failed in one half of the image.
broken = optical.copy(deep=True)
half = np.zeros(optical.B11.shape[1:], bool)
half[:, half.shape[1] // 2 :] = True
broken.B11.values[0][half] = np.nan
made = broken.eoaug.translate(to=["B11"], mask="none", generator=generator)
truth = optical.B11.values[0][half]
errors = [
    np.sqrt(np.mean((x - truth) ** 2)) for x in (made.B11.values[0][half], np.nanmean(broken.B11.values))
]
print(f"B11 in the broken half: error {errors[0]:.4f}, of its mean {errors[1]:.4f}")
folder.mkdir(parents=True, exist_ok=True)
named = {"measured": optical, "broken": broken, "made": made}
pictures = [Picture(rgb(cube, look="swir"), name) for name, cube in named.items()]
print(sheet([Section("B11, B08, B04", rows=[pictures])], folder / "translated.png"))
