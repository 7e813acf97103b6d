"""How probable a classifier of real images finds the label of a made image; it never saw the source of that image."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.places import blocks_of
from eoaug.augmentation.training_items import TrainingSet
from eoaug.cube.labels import IGNORED
from eoaug.generators.runtime import one_thread
from eoaug.progress import Progress, ProgressCounter, track
from eoaug.raster.arrays import Float32Array, Float64Array
from eoaug.torch.augmented import children_of, made_before
from eoaug.torch.chips import Chips
from eoaug.trials.arms import Arm, SampleOrder
from eoaug.trials.images import ImageArrays, band_scale, image_arrays
from eoaug.trials.trial import TrialOptions, logits_of, train_network

__all__ = ["Agreement", "agreement_of", "chances_by_id", "folds_of", "least_agreement"]

FOLDS = 4
_BLOCK_KM = 10.0
_MOST_DROPPED_REAL = 0.03
"""The rule never asks for more than what all but this share of the real images of a class have themselves."""


@dataclass(frozen=True)
class Agreement:
    """Probabilities of the own label, by classifiers that did not see the image or its source."""

    real: Float64Array
    """(N,), mean over the pixels where pixels have classes."""
    made: Float64Array
    accuracy: float
    """Share of real images, or of their pixels, whose own label is the most probable one."""
    real_features: Float32Array
    """(N, d) and (M, d) of the first classifier; empty where pixels have classes."""
    made_features: Float32Array


def folds_of(train: TrainingSet, count: int = FOLDS) -> NDArray[np.int64]:
    """Return the fold of every image: images of one block of 10 km, where places are known, are in one fold."""
    places = [item.place for item in train]
    if any(place is None for place in places):
        names = [item.id for item in train]
    else:
        names = [str(block) for block in blocks_of(np.array(places, np.float64), _BLOCK_KM)]
    # In the order of a hash, so that folds do not depend on the order of the set.
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    fold = {name: number % count for number, name in enumerate(order)}
    return np.array([fold[name] for name in names])


def agreement_of(
    folds: NDArray[np.int64],
    real: ImageArrays,
    made: ImageArrays,
    parents: Sequence[int],
    options: TrialOptions,
    counter: ProgressCounter,
) -> Agreement:
    """Return the probabilities of the labels of real and made images.

    Parameters
    ----------
    folds
        Of the real images.
    real, made
        Images.
    parents
        Number of the real image of each made one.
    options
        Of the classifiers.
    counter
        Counts classifiers.
    """
    own = np.full(len(real), np.nan)
    theirs = np.full(len(made), np.nan)
    hits = np.zeros(len(real))
    features: dict[str, Float32Array] = {}
    made_folds = folds[np.asarray(parents)]
    for fold in range(int(folds.max()) + 1):
        order = SampleOrder(Arm("advanced"), fold, np.flatnonzero(folds != fold), {})
        network, _ = train_network(order, real, real, options)
        with one_thread():
            chance, right = _label_chances(network, real)
            own[folds == fold], hits[folds == fold] = chance[folds == fold], right[folds == fold]
            theirs[made_folds == fold] = _label_chances(network, made)[0][made_folds == fold]
            if fold == 0 and not options.pixels:
                features = {"real": _features(network, real), "made": _features(network, made)}
        counter.tiles(1)
    nothing = np.zeros((0, 0), np.float32)
    return Agreement(
        own, theirs, float(hits.mean()), features.get("real", nothing), features.get("made", nothing)
    )


def chances_by_id(
    train: TrainingSet, made: TrainingSet | None, *, model: Any, updates: int, batch: int, progress: Progress
) -> dict[str, float]:
    """Return the probability of its label that a classifier gives every real image that has one, by id.

    Classifiers see half real and half made images, of all folds but that of the image.

    Parameters
    ----------
    train
        Images; those of the split ``train`` are asked about.
    made
        What was made of them; None: nothing that may be learned from.
    model, updates, batch, progress
        As for `eoaug.select`.
    """
    real = Chips(train.split("train"))
    theirs = None if made is None else made_before(made, real)
    children = {} if theirs is None else children_of(real.source, theirs.source)
    folds = folds_of(real.source)
    pixels = train.task != "classes"
    options = TrialOptions(
        model=model, updates=updates, batch=batch, classes=len(train.classes), pixels=pixels
    )
    out = np.full(len(real), np.nan)
    with tempfile.TemporaryDirectory(prefix="eoaug-round-") as scratch:
        folder, scale = Path(scratch), band_scale(real)
        total = len(real) + (0 if theirs is None else len(theirs))
        with track(total, what="reading", unit="image", progress=progress) as counter:
            own_arrays = image_arrays(real, scale, folder / "real", counter)
            made_arrays = (
                own_arrays if theirs is None else image_arrays(theirs, scale, folder / "made", counter)
            )
        with track(FOLDS, what="training", unit="classifier", progress=progress) as counter:
            for fold in range(int(folds.max()) + 1):
                order = SampleOrder(Arm("advanced", 0.5), fold, np.flatnonzero(folds != fold), children)
                network, _ = train_network(order, own_arrays, made_arrays, options)
                with one_thread():
                    out[folds == fold] = _label_chances(network, own_arrays)[0][folds == fold]
                counter.tiles(1)
        del own_arrays, made_arrays
    found = zip(real.source, out.tolist(), strict=True)
    return {item.id: round(chance, 6) for item, chance in found if math.isfinite(chance)}


def _label_chances(network: Any, arrays: ImageArrays) -> tuple[Float64Array, Float64Array]:
    """Return the probability of the own label, and the share of pixels of which it is the most probable one."""
    chance, right = np.empty(len(arrays)), np.empty(len(arrays))
    for some, logits in logits_of(network, arrays):
        share = logits.double().softmax(dim=1).numpy()
        true = arrays.targets[some].astype(np.int64)
        known = true != IGNORED
        picked = np.take_along_axis(share, np.where(known, true, 0)[:, None], axis=1)[:, 0]
        axes = tuple(range(1, true.ndim))
        count = np.maximum(known.sum(axis=axes), 1)
        chance[some] = np.where(known, picked, 0).sum(axis=axes) / count
        right[some] = ((share.argmax(axis=1) == true) & known).sum(axis=axes) / count
    return chance, right


def _features(network: Any, arrays: ImageArrays) -> Float32Array:
    import torch

    from eoaug.trials.images import rows_of

    if not hasattr(network, "features"):
        return np.zeros((0, 0), np.float32)
    parts = []
    for begin in range(0, len(arrays), 64):
        some = np.arange(begin, min(begin + 64, len(arrays)))
        with torch.inference_mode():
            parts.append(network.features(torch.from_numpy(rows_of(arrays, some))).numpy())
    return np.concatenate(parts)


def least_agreement(agreement: Agreement, real: ImageArrays, wanted: float, classes: int) -> Float64Array:
    """Return the least probability that is asked of the images of each class.

    It is ``wanted``, or less in a class where more than 3 % of the real images would be dropped by it: what the classifier
    does not know of real images it cannot ask of made ones.

    Parameters
    ----------
    agreement
        Of all images.
    real
        The real images.
    wanted
        The policy's.
    classes
        Number of classes; 1 where pixels have classes.
    """
    out = np.full(classes, wanted)
    for number in range(classes):
        own = agreement.real if classes == 1 else agreement.real[real.targets == number]
        own = own[np.isfinite(own)]
        if len(own):
            out[number] = min(wanted, float(np.quantile(own, _MOST_DROPPED_REAL)))
    return out
