"""Vary a Sentinel-2 patch with a Stable Diffusion or DiffusionSat checkpoint, and read its provenance record.

python examples/checkpoint_variation.py [folder, JSON file or name of a generator] [output folder]
"""

import sys
from pathlib import Path

import eoaug
from eoaug.generators import available
from eoaug.quicklook import Picture, Section, rgb, sheet

SAMPLE = Path(__file__).resolve().parents[1] / "catalogs" / "sample"
ITEM = "S2A_MSIL2A_20170617T113321_36_85"
source = sys.argv[1] if len(sys.argv) > 1 else "classical"
folder = Path(sys.argv[2] if len(sys.argv) > 2 else "examples-output")

# The model knows red, green and blue: `lift` defines what becomes of the near infrared.
options = (
    {} if source in available() or source.endswith(".json") else {"lift": "regress", "stretch": (0.0, 0.3)}
)
generator = eoaug.load(source, **options)
card = generator.card
print(f"{card.name}: {', '.join(sorted(card.verbs))}; tiles of {card.tile_px} px; licence {card.licence}")

cube = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=["red", "green", "blue", "nir"], chunks=None)
words = {"prompt": "a satellite image of fields and a river"} if "prompt" in card.conditions else {}
varied = cube.eoaug.synthesize(generator=generator, strength=0.5, **words)

record = varied.eoaug.provenance
for band, origin in record.bands.items():
    print(f"{band}: {origin}, stretch {record.model_units.get(band, 'none of its own')}")
print(f"{len(record.model_files)} files of the checkpoint are in the record, each with its sha256")

folder.mkdir(parents=True, exist_ok=True)
pictures = [Picture(rgb(cube), "measured"), Picture(rgb(varied), f"varied by {card.name}")]
print(sheet([Section(ITEM, rows=[pictures])], folder / "checkpoint_variation.png", edge_px=480))
for item in eoaug.write(varied, folder / "catalog", overwrite=True):
    print(item.get_self_href())
