"""From trials to a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.verdict import Verdict
from eoaug.errors import JobError
from eoaug.raster.arrays import Float64Array
from eoaug.trials.arms import Arm
from eoaug.trials.statistics import Gain, PlaceSample, gain_of, scores_of, summed_by_place
from eoaug.trials.trial import Trial

__all__ = ["decided"]

_DIGITS = 6
"""Of numbers in a verdict."""


def decided(
    arms: Sequence[Arm],
    trials: Mapping[float, Mapping[Arm, Sequence[Trial]]],
    places: NDArray[np.int64],
    facts: Mapping[str, Any],
) -> Verdict:
    """Return the verdict of all trials.

    Parameters
    ----------
    arms
        In the order of the tables.
    trials
        By size of the training set and arm, one per seed.
    places
        Number of the place of every test image.
    facts
        About data and settings; ``task``, ``classes`` and ``notes`` are read.
    """
    updates = {trial.updates for by_arm in trials.values() for some in by_arm.values() for trial in some}
    if len(updates) != 1:
        raise JobError(
            f"arms had {sorted(updates)} updates", "remove the folder trials, and run the gate again"
        )
    pixels = facts["task"] != "classes"
    sample = PlaceSample.of(int(places.max()) + 1, seed=0)
    sizes = [
        {"fraction": fraction, **_one_size(arms, by_arm, places, sample, facts, pixels=pixels)}
        for fraction, by_arm in trials.items()
    ]
    notes = [*facts["notes"], *_notes(int(places.max()) + 1)]
    last = sizes[-1]
    chosen, gain = last["chosen"], last["gain"]
    return Verdict(
        use=last["use"],
        p=chosen["p"] if last["use"] else 0.0,
        augmentation=chosen["augmentation"],
        rival=last["rival"],
        metric="mean intersection over union" if pixels else "accuracy",
        score=chosen["test"],
        gain=gain["mean"],
        low=gain["low"],
        high=gain["high"],
        tried=chosen["p"],
        arms=len(arms),
        seeds=len(next(iter(next(iter(trials.values())).values()))),
        updates=updates.pop(),
        report={**facts, "notes": notes, "places": int(places.max()) + 1, "sizes": sizes},
    )


def _notes(places: int) -> list[str]:
    if places >= 20:
        return []
    return [f"The test split has {places} places only: the interval is wide, and may still be too narrow."]


def _one_size(
    arms: Sequence[Arm],
    by_arm: Mapping[Arm, Sequence[Trial]],
    places: NDArray[np.int64],
    sample: PlaceSample,
    facts: Mapping[str, Any],
    *,
    pixels: bool,
) -> dict[str, Any]:
    """Return scores of all arms for one size of the training set, and the comparison of the chosen one with its rival."""
    confusions = {arm: summed_by_place([trial.test for trial in by_arm[arm]], places) for arm in arms}
    test = {arm: _scores([t.test for t in by_arm[arm]], pixels) for arm in arms}
    validate = {arm: _scores([t.validate for t in by_arm[arm]], pixels)[:, 0].mean() for arm in arms}
    # Of equal scores the first arm: with the weakest augmentation and the fewest made images.
    rival = max((arm for arm in arms if arm.is_real), key=lambda arm: test[arm][:, 0].mean())
    chosen = max((arm for arm in arms if arm.is_mixture), key=lambda arm: validate[arm])
    gains = {
        arm: gain_of(confusions[arm], confusions[rival], sample, pixels=pixels)
        for arm in arms
        if arm != rival
    }
    lines = []
    for arm in arms:
        trials = by_arm[arm]
        lines.append(
            {
                "name": arm.name,
                "augmentation": arm.augmentation,
                "p": arm.p,
                "repeated": arm.repeated,
                "validate": _number(validate[arm]),
                "test": _number(test[arm][:, 0].mean()),
                "by_seed": [_number(one) for one in test[arm][:, 0]],
                "top3": None
                if pixels or len(facts["classes"]) <= 3
                else _number(np.mean([trial.top3.mean() for trial in trials])),
                "gain": None if arm == rival else _gain(gains[arm][0]),
                "updates": trials[0].updates,
                "samples": sum(trial.samples for trial in trials),
                "made": sum(trial.made for trial in trials),
            }
        )
    gain = gains[chosen][0]
    classes = []
    for number, name in enumerate(facts["classes"], 1):
        classes.append(
            {
                "class": name,
                "rival": _number(np.mean(test[rival][:, number])),
                "chosen": _number(np.mean(test[chosen][:, number])),
                "gain": _gain(gains[chosen][number]),
            }
        )
    return {
        "use": bool(gain.low > 0),
        "rival": rival.augmentation,
        "chosen": lines[arms.index(chosen)],
        "gain": _gain(gain),
        "arms": lines,
        "classes": classes,
    }


def _scores(confusions: Sequence[NDArray[np.int64]], pixels: bool) -> Float64Array:
    """Return score and scores of classes of every seed, (seeds, 1 + classes)."""
    return np.stack([scores_of(one.sum(axis=0), pixels=pixels) for one in confusions])


def _number(value: Any) -> float | None:
    return round(float(value), _DIGITS) if math.isfinite(value) else None


def _gain(gain: Gain) -> dict[str, float | None]:
    return {"mean": _number(gain.mean), "low": _number(gain.low), "high": _number(gain.high)}
