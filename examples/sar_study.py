"""Compare two ways to fine-tune a checkpoint on Sentinel-1 images of the sample catalog.

python examples/sar_study.py checkpoint-folder [folder of the study]

With a real checkpoint give more steps and more places: see examples/sar.md.
"""

import sys
from pathlib import Path

import eoaug

SAMPLE = Path(__file__).resolve().parents[1] / "catalogs" / "sample"
MATRIX = {
    "unet": ["lora"],
    "text": ["frozen"],
    "vae": ["frozen"],
    "steps": 5,
    "samples": 2,
    "sampling_steps": 2,
    "tile_px": 64,
}
base = sys.argv[1] if len(sys.argv) > 1 else "classical"
out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("study")
if not Path(base).is_dir():
    print("give the folder of a checkpoint of the Stable Diffusion family: see examples/sar.md")
    raise SystemExit
from eoaug.evaluate.sar_report import report_study  # noqa: E402
from eoaug.evaluate.sar_study import study_sar  # noqa: E402

places = out / "places"
places.mkdir(parents=True, exist_ok=True)
for item in sorted((SAMPLE / "sentinel-1-grd").iterdir()):
    if item.is_dir():
        cube = eoaug.open_cube(SAMPLE, ids=[item.name], bands=["VV"], chunks=None)
        cube.to_netcdf(places / f"{item.name}.nc", engine="h5netcdf")
study = study_sar(base, places, out, MATRIX)
print(report_study(study))
print((out / "study.md").read_text(encoding="utf-8"))
