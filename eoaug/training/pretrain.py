"""Pre-training of the embedded generator: a config becomes weights, on two cores in eighty minutes.

Imports the ground, the generators and this package's samples; torch inside. Everything random is a function
of the config's seed, the stage and the step, so a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from eoaug.datasets import training_cubes
from eoaug.datasets.training_cubes import TrainingCube
from eoaug.errors import ParameterError
from eoaug.generators.embedded import flow_samplers, landscape
from eoaug.generators.embedded.base_estimate import PRIOR, BaseEstimate, Regressors
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.generators.weights import load_weights, save_weights, sha256_of
from eoaug.raster.arrays import Float32Array
from eoaug.training import landscapes, samples
from eoaug.training.contact_sheet import stretched
from eoaug.training.loop import Arrays, TrainingTask, load_into, optimise
from eoaug.training.samples import Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["STAGES", "pretrain"]


STAGES = ("detail", "residual", "landscape")
"""In the order of training: a regressor of detail below a coarse pixel, the diffusion on top of it and of
the priors, and the diffusion of land from nothing, which needs neither."""

_STREAMS = {"detail": 0, "residual": 2, "landscape": 3}
"""Of random numbers; the shipped weights were drawn with these."""

_DRAWN = ("residual", "landscape")
"""Stages that learn a diffusion on top of a closed form; the others regress."""

_LEAST_ERROR = 0.05
"""Added to a sample's squared error before the regression, in its typical size: empty scenes are easy."""

_MIN_LEFT = 0.1
"""Least 1 - t that an error is divided by ("Back to basics", arXiv:2511.13720)."""

_log = logging.getLogger(__name__)


def pretrain(
    config_path: str | Path,
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    stages: Sequence[str] = STAGES,
    minutes: float | None = None,
) -> dict[str, str]:
    """Train networks of the embedded generator and write their averaged weights.

    Parameters
    ----------
    config_path
        YAML as ``weights/embedded/train.yaml``: bands, mean, std, seed, and per stage architecture, task
        mix, batch, steps and learning rate.
    data_dir
        Folder of netCDF cubes (`samples.read_cubes`).
    out_dir
        Receives ``<stage>.safetensors`` (float16, the exponential moving average, renewed at every
        checkpoint), ``<stage>_gaussian.safetensors`` for the diffusions, ``palettes.safetensors``, and
        ``<stage>.checkpoint.safetensors``, from which a stopped training resumes.
    stages
        Which of `STAGES` to train.
    minutes
        Stop each stage after so much wall time, with the learning rate run down by then; None: by steps.

    Returns
    -------
    sha256 of the weights by stage.
    """
    config = yaml.safe_load(Path(config_path).read_text())
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ParameterError(
            f"pre-training: no stage is called {', '.join(sorted(unknown))}", f"use {', '.join(STAGES)}"
        )
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    cubes = training_cubes.read_training_cubes(
        data_dir, config["bands"], tile_px=config["tile_px"], pyramid=config.get("pyramid", 1)
    )
    _log.info("%d cubes", len(cubes))
    hashes = {}
    for stage in stages:
        task = _stage(stage, config, cubes, out)
        network = _network(config, stage)
        hashes[stage] = optimise(
            task,
            network,
            out,
            threads=config.get("threads", 1),
            minutes=minutes,
            precision=config.get("precision", "float32"),
        )
    _assemble(config, out)
    return hashes


def _assemble(config: Mapping[str, Any], out: Path) -> None:
    """Write the generator's ``config.json`` beside its weights, once all stages are there."""
    paths = {
        name: out / f"{name}.safetensors"
        for name in (*STAGES, *(f"{name}_gaussian" for name in _DRAWN), landscape.PALETTES)
    }
    if not all(path.exists() for path in paths.values()):
        return
    networks: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        networks[name] = {"file": path.name, "sha256": sha256_of(path)}
        if name in config["stages"]:
            networks[name]["architecture"] = config["stages"][name]["architecture"]
    own = {name: config[name] for name in ("bands", "mean", "std", "tile_px")}
    found = {
        "card": {"name": "embedded", **config["card"], **own},
        "context": config["context"],
        "layers": config["layers"],
        "gains": config["gains"],
        "networks": networks,
        "scale": {
            stage: json.loads((out / f"{stage}_scale.json").read_text()) for stage in ("detail", "residual")
        },
        "landscape": config["landscape"],
    }
    (out / "config.json").write_text(json.dumps(found, indent=1) + "\n")


def _rng(seed: int, stage: str, *path: int) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[stage], *path])


@dataclass(frozen=True)
class _EncodedSample:
    """One sample of a conditional task, encoded; images (channels, H, W)."""

    image: NDArray[np.float16]
    facts: NDArray[np.float32]
    below: NDArray[np.float16]
    """The estimate below, in the tile's contrast; of land from nothing, the layout."""
    residual: NDArray[np.float16]
    """Truth minus the estimate below, in the unit of the ground."""
    weight: NDArray[np.bool_]
    """Where the residual counts: measured and not given."""
    unit: NDArray[np.float16]
    """One unit of the residual, in the tile's contrast; broadcasts to the image."""
    category: str
    """`conditions.category` of the request."""


def _pool(
    stage: str, config: Mapping[str, Any], cubes: Sequence[TrainingCube], out: Path
) -> list[_EncodedSample]:
    """Draw the stage's samples once: the estimates below cost as much as a training step."""
    settings = config["stages"][stage]
    tasks, shares = zip(*settings["tasks"].items(), strict=True)
    below = _regressors(config, out) if stage == "residual" else None
    pool: list[_EncodedSample] = []
    for number in range(settings["pool"]):
        rng = _rng(config["seed"], stage, 0, number)
        task = tasks[int(rng.choice(len(tasks), p=np.array(shares) / sum(shares)))]
        sample = samples.draw(
            rng, cubes, task, mean=config["mean"], std=config["std"], tile_px=config["tile_px"],
            context=config["card"]["context"],
        )  # fmt: skip
        pool.append(_prepare(sample, config["context"], below))
        if number % 1000 == 999:
            _log.info("%s: %d samples drawn", stage, number + 1)
    return pool


def _prepare(sample: Sample, context: int, below: Regressors | None) -> _EncodedSample:
    """Encode a sample for a regressor, or with ``below`` for a network on top of the regressors."""
    ground = BaseEstimate(sample.request, context)
    if below is not None:
        below.add([ground])
    unit = ground.told.contrast if below is None else ground.spread()
    weight = sample.measured & ~sample.request.known[ground.target]
    residual = np.where(weight, (sample.truth - ground.base) / unit, 0)
    image = (ground.told.image if below is None else ground.image()).astype(np.float16)
    return _EncodedSample(
        image=image,
        facts=ground.told.facts,
        below=image[: len(residual)],
        residual=np.clip(residual, -20, 20).astype(np.float16),
        weight=weight,
        unit=(unit / ground.told.contrast).astype(np.float16),
        category=ground.category,
    )


def _regressors(config: Mapping[str, Any], out: Path) -> Regressors:
    """Return the trained regressors of the stages before."""
    import torch

    layers = config["layers"]
    used = sorted(set(layers.values()) - {PRIOR})
    networks = {name: _network(config, name) for name in used}
    for name, network in networks.items():
        load_into(network, load_weights(out / f"{name}.safetensors"))
    scales = {name: json.loads((out / f"{name}_scale.json").read_text()) for name in used}

    def forward(
        name: str, image: Sequence[Float32Array], facts: Sequence[Float32Array]
    ) -> Sequence[Float32Array]:
        with torch.inference_mode():
            moves: NDArray[np.float32] = networks[name](
                torch.from_numpy(np.stack(image)), torch.from_numpy(np.stack(facts))
            ).numpy()
        return list(moves)

    return Regressors(layers, scales, forward)


def _turn(arrays: Mapping[str, NDArray[Any]], turn: int) -> dict[str, NDArray[Any]]:
    """Return images (channels, H, W) under one of the eight symmetries of the square; vectors stay."""

    def one(array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim < 3:
            return array
        return np.rot90(array[..., ::-1] if turn >= 4 else array, turn % 4, axes=(-2, -1))

    return {name: one(array) for name, array in arrays.items()}


def _stack(items: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.stack([item[name] for item in items]).astype(np.float32) for name in items[0]}


def _network(config: Mapping[str, Any], stage: str) -> nn.Module:
    """Return the stage's network with its first weights, a function of the seed."""
    import torch

    from eoaug.generators.embedded.networks import build

    torch.manual_seed(config["seed"])
    return build(config["stages"][stage]["architecture"])


def _stage(stage: str, config: Mapping[str, Any], cubes: Sequence[TrainingCube], out: Path) -> TrainingTask:
    settings, seed = config["stages"][stage], config["seed"]
    if stage == "landscape":
        pool = _landscapes(config, [cube for cube in cubes if not cube.name.endswith("/2")], out)
    else:
        pool = _in_units(_pool(stage, config, cubes, out), out / f"{stage}_scale.json")
    fields = _fields(stage, pool, out) if stage in _DRAWN else {}

    def batches(step: int, share: slice) -> Arrays:
        rng = _rng(seed, stage, 1, step)
        chosen = [pool[index] for index in rng.integers(len(pool), size=settings["batch"])]
        turns = [int(rng.integers(8)) for _ in chosen]
        items = [
            _turn({"image": one.image, "facts": one.facts, "x": one.residual, "weight": one.weight}, turn)
            for one, turn in zip(chosen[share], turns[share], strict=True)
        ]
        arrays = _stack(items)
        if stage not in _DRAWN:
            return arrays
        shape = (settings["batch"], *chosen[0].residual.shape)
        arrays |= {name: array[share] for name, array in _noise(rng, shape, settings).items()}
        return arrays | _linear(arrays, [fields[one.category] for one in chosen[share]])

    shown = {one.category: one for one in reversed(pool)}

    def show(network: nn.Module) -> NDArray[np.floating]:
        rows = []
        for name in sorted(shown):
            one = shown[name]
            found = _answer(network, one, fields.get(name), seed)
            steps = one.unit.astype(np.float32) * np.stack([0 * found, found, one.residual])
            images = one.below.astype(np.float32) + np.where(one.weight, steps, 0)
            rows.append(stretched(images, images[2]))
        return np.stack(rows)

    loss = _diffusion_loss if stage in _DRAWN else _regression_loss
    return TrainingTask(stage, settings, seed, batches, loss, show)


def _landscapes(config: Mapping[str, Any], cubes: Sequence[TrainingCube], out: Path) -> list[_EncodedSample]:
    """Draw windows of land, and write how bright and how varied scenes are, and of what."""
    settings, shape = config["stages"]["landscape"], config["landscape"]
    groups = landscapes.scenes(cubes, mean=config["mean"], std=config["std"], window=shape["window"])
    _log.info("landscape: %d cubes at their scales", len(groups))
    found = landscapes.palettes(cubes, config["bands"], mean=config["mean"], std=config["std"])
    save_weights(out / f"{landscape.PALETTES}.safetensors", found)
    pool = []
    for number in range(settings["pool"]):
        one = landscapes.draw(
            _rng(config["seed"], "landscape", 0, number),
            groups,
            window=shape["window"],
            context=shape["context"],
        )
        image = landscape.conditions(one.texture, one.known, one.layout)
        pool.append(
            _EncodedSample(
                image=image.astype(np.float16),
                facts=one.facts,
                below=one.layout[:-1].astype(np.float16),
                residual=one.texture.astype(np.float16),
                weight=one.measured & ~one.known,
                unit=np.exp(one.layout[-1:]).astype(np.float16),
                category=one.kind,
            )
        )
    return pool


def _answer(network: nn.Module, one: _EncodedSample, field: Gaussian | None, seed: int) -> Float32Array:
    """Return what a network makes of a sample: a regressor's answer, or with ``field`` a drawn residual."""
    import torch

    device = next(network.parameters()).device

    def call(*arrays: NDArray[np.floating]) -> Float32Array:
        tensors = [torch.from_numpy(np.asarray(array[None], np.float32)).to(device) for array in arrays]
        with torch.inference_mode():
            answer: Float32Array = network(*tensors)[0].cpu().numpy()
        return answer

    if field is None:
        return call(one.image, one.facts)
    there = one.facts[-len(one.residual) :] > 0

    def clean(x_t: Float32Array, t: float) -> Float32Array:
        point = (x_t * there[:, None, None]).astype(np.float32)
        answer = call(point, np.array(t), one.image, one.facts, field.estimate(point, t, there))
        return answer * there[:, None, None]

    start = np.random.default_rng(seed).standard_normal(one.residual.shape, dtype=np.float32)
    drawn: Float32Array = flow_samplers.sample_dpmpp_2m(clean, start, flow_samplers.karras(8))
    return drawn


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """Draw e and t. ln sigma = ln((1 - t) / t) is normal (Karras et al. 2022, table 1)."""
    level = rng.normal(settings["noise"]["mean"], settings["noise"]["std"], size=shape[0])
    return {
        "e": rng.standard_normal(shape, dtype=np.float32),
        "t": (1 / (1 + np.exp(level))).astype(np.float32),
    }


def _linear(arrays: Arrays, fields: Sequence[Gaussian]) -> dict[str, NDArray[np.float32]]:
    """Return the points x_t of the path and their estimates in closed form."""
    t = arrays["t"][:, None, None, None]
    # Bands that are not there are not noise but nothing, in use as well.
    there = arrays["facts"][:, -arrays["x"].shape[1] :] > 0
    x_t = (t * arrays["x"] + (1 - t) * arrays["e"]) * there[:, :, None, None]
    linear = [
        field.estimate(point, time_, bands)
        for field, point, time_, bands in zip(fields, x_t, arrays["t"].tolist(), there, strict=True)
    ]
    return {"x_t": x_t, "linear": np.stack(linear)}


def _fields(stage: str, pool: Sequence[_EncodedSample], out: Path) -> dict[str, Gaussian]:
    """Fit a Gaussian to the residuals of each category; to whole windows for land from nothing."""
    fields, tensors = {}, {}
    for name in sorted({one.category for one in pool} - {"between", "within"}):
        part = [one for one in pool if one.category == name]
        residual = np.stack([one.residual for one in part]).astype(np.float32)
        fields[name] = Gaussian.fit(residual, np.stack([one.weight for one in part])).coarser()
        tensors[f"{name}.mean"], tensors[f"{name}.covariance"] = fields[name].mean, fields[name].covariance
    save_weights(out / f"{stage}_gaussian.safetensors", tensors, half=False)
    return fields if "alone" not in fields else dict.fromkeys(landscape.KINDS, fields["alone"])


def _in_units(pool: list[_EncodedSample], path: Path) -> list[_EncodedSample]:
    """Return the pool with residuals in units of their typical size per category, which ``path`` records.

    A hole's residual is ten times that of x2: without it the large ones would be all that is learned.
    """
    scales = {}
    for name in sorted({one.category for one in pool}):
        found = [one.residual[one.weight].astype(np.float32) for one in pool if one.category == name]
        # The median over samples of the rms: a few failures must not set the unit.
        sizes = [np.sqrt(np.mean(f**2)) for f in found if f.any()]
        scales[name] = max(round(float(np.median(sizes)), 4), 1e-3) if sizes else 1.0
    path.write_text(json.dumps(scales))
    return [
        replace(
            one,
            residual=np.clip(one.residual / np.float32(scales[one.category]), -6, 6),
            unit=one.unit * np.float16(scales[one.category]),
        )
        for one in pool
    ]


def _regression_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Squared error over that of the estimate below, each sample counting alike.

    The mean over samples of a ratio: what a figure in decibels, averaged over windows, rewards.
    """
    weight = batch["weight"]
    count = weight.sum(dim=(1, 2, 3)).clamp_min(256.0)
    error = ((network(batch["image"], batch["facts"]) - batch["x"]).square() * weight).sum(dim=(1, 2, 3))
    before = (batch["x"].square() * weight).sum(dim=(1, 2, 3))
    mean: Tensor = (error / (before + _LEAST_ERROR * count)).mean()
    return mean


def _diffusion_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Error of the clean estimate over max(1 - t, 0.1), squared: the velocity's error (arXiv:2511.13720)."""
    x, weight = batch["x"], batch["weight"]
    t = batch["t"][:, None, None, None]
    estimate = network(batch["x_t"], batch["t"], batch["image"], batch["facts"], batch["linear"])
    error = ((estimate - x) / (1 - t).clamp_min(_MIN_LEFT)).square() * weight
    count = weight.sum(dim=(1, 2, 3)).clamp_min(256.0)
    mean: Tensor = (error.sum(dim=(1, 2, 3)) / count).mean()
    return mean
