"""From a folder of chips to augmented batches, and a sheet of 64 augmented chips by class.

python examples/augmented_loader.py [generator] [folder to write] [folder with a folder of chips per class]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import eoaug
from eoaug.quicklook import enlarge, rgb

generator, out, chips = [*sys.argv[1:], *("classical", "augmented-loader", "")[len(sys.argv) - 1 :]][:3]
if not chips:  # without chips of your own: parts of the patches of the sample catalog, a class per patch
    chips = f"{out}/chips"
    for item in eoaug.training_set(
        "sample", "platform", collections=["sentinel-2-l2a"], bands=["B02", "B03", "B04"]
    ):
        picture = rgb(item.open().load())
        (Path(chips) / item.id).mkdir(parents=True)
        for k, (y, x) in enumerate(np.ndindex(3, 3)):
            part = picture[y * 40 : y * 40 + 40, x * 40 : x * 40 + 40]
            Image.fromarray(part).save(f"{chips}/{item.id}/{item.id}_{k}.png")

train = eoaug.training_set(chips, split="train")
kinds = ("haze", "clouds", "brightness_contrast", "gaussian_noise")
draws = [{"verb": "corrupt", "parameters": {"kind": kind}, "strengths": [1, 3]} for kind in kinds]
policy = {"draws": [*draws, {"verb": "synthesize", "strengths": [0.1]}]}
data = eoaug.torch.Augmented(train.torch(), policy=policy, generator=generator, p=1.0)
batch = next(iter(eoaug.torch.AugmentedLoader(data, batch_size=64)))
print({name: tuple(tensor.shape) for name, tensor in batch.items()})
order = np.argsort(batch["label"].numpy(), kind="stable")  # a row of eight after the other, by class
low, high = np.quantile(batch["image"].numpy(), [0.01, 0.99])
grey = np.clip((batch["image"].numpy()[order, :3] - low) / (high - low) * 255, 0, 255).astype("uint8")
tiles = [enlarge(np.moveaxis(picture, 0, -1), 128) for picture in grey]
rows = [np.concatenate(tiles[k : k + 8], axis=1) for k in range(0, len(tiles) // 8 * 8, 8)]
Image.fromarray(np.concatenate(rows)).save(f"{out}/sheet.png")
print(f"wrote {out}/sheet.png: classes {[train.classes[k] for k in sorted(set(batch['label'].tolist()))]}")
