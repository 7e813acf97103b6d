"""`select`: which made images to keep, by agreement of a classifier, duplicates and copies of real images."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.policy import KeepRules
from eoaug.augmentation.selected import write_selection
from eoaug.augmentation.training_items import TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.display import Shown
from eoaug.errors import ParameterError
from eoaug.progress import Progress, track
from eoaug.raster.arrays import Float64Array
from eoaug.selection.agreement import FOLDS, Agreement, agreement_of, folds_of, least_agreement
from eoaug.selection.diversity import diversity_of
from eoaug.selection.likeness import Nearest, Patterns, nearest_of, patterns_of, turned_cosines
from eoaug.selection.page import write_page
from eoaug.stac.sidecars import add_sidecars
from eoaug.torch.augmented import children_of, made_before
from eoaug.torch.chips import Chips
from eoaug.trials.checks import check_children, check_labels
from eoaug.trials.images import ImageArrays, band_scale, image_arrays
from eoaug.trials.results import results_folder
from eoaug.trials.trial import TrialOptions

__all__ = ["DEFAULT_KEEP", "Selection", "select"]

DEFAULT_KEEP = KeepRules(agreement=0.5, duplicate=0.95, memorised=0.6)
_LEVEL = 0.1
"""Difference of the means of a band, in its standard deviations, above which two images are not the same."""
_SAME_LEVEL = 0.02
"""Difference of the means below which an image is looked at twice: compression takes the texture of water and fields, and keeps
their means."""
_SAME_LEVEL_FACTOR = 1.75
"""How much farther such an image may be, and still count as a copy."""
_LEAST_SCALE = 0.05
"""Least distance between real neighbours that is believed: real images that are there twice have none."""
_MOST_DROPPED = 0.5
"""Most images of a class that agreement drops: it would drop rare classes first."""
_TWIN = 0.7
"""Distance of duplicates, in that of the two to the next real image; the distance of neighbours that differ is about 1."""
_EQUAL = 1e-4
"""Distance of patterns below which two images are the same."""
_DIGITS = 6


@dataclass(frozen=True, repr=False)
class Selection(Shown):
    """Which made images are kept, and why the others are not."""

    lines: tuple[Mapping[str, Any], ...]
    """Per made image ``id``, ``label``, ``keep``, ``reasons`` and the measures."""
    accuracy: float
    """Of the classifiers on real images that they did not see."""
    measures: Mapping[str, float]
    """Descriptive only: precision, recall, density, coverage, Vendi scores, kernel distance."""
    capped: tuple[str, ...] = ()
    """Classes of which agreement would have dropped more than half of the images."""

    @property
    def kept(self) -> int:
        """Number of images that are kept."""
        return sum(bool(line["keep"]) for line in self.lines)

    @property
    def reasons(self) -> dict[str, int]:
        """Number of images by reason to drop them; an image may have several."""
        return dict(Counter(reason for line in self.lines for reason in line["reasons"]))

    @property
    def by_class(self) -> dict[str, tuple[int, int]]:
        """Numbers of made and of kept images by class."""
        made = Counter(str(line["label"]) for line in self.lines)
        kept = Counter(str(line["label"]) for line in self.lines if line["keep"])
        return {name: (made[name], kept[name]) for name in sorted(made)}

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "kept": self.kept, "reasons": self.reasons}

    def __str__(self) -> str:
        """Return a short text."""
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(self.reasons.items())) or "none"
        rows = [f"kept     {self.kept:,} of {len(self.lines):,} made images", f"dropped  {reasons}"]
        rows += [f"capped   {', '.join(self.capped)}"] if self.capped else []
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.measures.items())
        rows += [f"measures {shown} (descriptive only: `eoaug gate` says whether they help)"] if shown else []
        return "\n".join(rows)


def select(
    train: TrainingSet,
    augmented: TrainingSet | str | os.PathLike[str],
    *,
    keep: KeepRules | Mapping[str, Any] | None = None,
    model: Any = "small",
    updates: int = 1000,
    batch: int = 32,
    out: str | os.PathLike[str] | None = None,
    progress: Progress = None,
) -> Selection:
    """Return which made images to keep.

    *Agreement*: the least probability of its label that a classifier of real images, which did not see the source of the
    image, gives it. In a class where the classifier finds the label of more than 3 % of the real images less probable, less
    is asked; and of no class are more than half of the images dropped. *Duplicate*: the cosine of the patterns of two made
    images of one class, over turns and mirrors, from which on the later one is dropped; a lower one suffices where both
    are much farther from every real image, and two draws of one image must be much more alike than they are like that image.
    *Memorised*: the least distance to a real image other than the source, in distances of that one to the next real image;
    nearer ones are copies, and also ones up to 1.75 times as far whose mean colour is that of the real one.

    Parameters
    ----------
    train
        Images; those of the split ``train`` are compared with.
    augmented
        What `eoaug.augment` has made of them: a catalog or a training set.
    keep
        The rules, as ``keep:`` of a policy; a rule that is None is not applied. Default: agreement 0.5, duplicate 0.95,
        memorised 0.6.
    model, updates, batch
        Of the four classifiers, as for `eoaug.gate`.
    out
        Folder for ``selection.jsonl`` and ``index.html``. Default: ``selection`` in the catalog ``augmented``, where
        `eoaug.gate` and `eoaug.torch.Augmented` find it; nothing is written for a training set.
    progress
        True or False; default: a bar on a terminal, elsewhere a line every 30 s.

    Returns
    -------
    Selection
        Equal calls give equal selections, byte for byte on the same machine.

    Raises
    ------
    ParameterError
        Images that were not made of the split ``train``, or classes that differ.

    Examples
    --------
    >>> print(eoaug.select(train, "augmented"))  # doctest: +SKIP
    kept     77,812 of 81,000 made images
    """
    if not isinstance(train, TrainingSet):
        raise ParameterError(f"train={train!r} is no training set", "give eoaug.training_set(...)")
    rules = _rules(keep)
    made = (
        augmented
        if isinstance(augmented, TrainingSet)
        else training_set(augmented, train.label, task=train.task)
    )
    check_labels(train, made)
    check_children(train, made)
    images = _MadeOf(train, made)
    pixels = train.task != "classes"
    options = TrialOptions(
        model=model, updates=updates, batch=batch, classes=len(train.classes), pixels=pixels
    )
    with results_folder(out, augmented, "selection") as (folder, kept):
        real_arrays, made_arrays = images.arrays(folder / "arrays", progress)
        agreement = images.agreement(real_arrays, made_arrays, options, progress)
        found = _Findings(images, real_arrays, made_arrays, agreement, rules)
        selection = found.selection()
        del real_arrays, made_arrays
        shutil.rmtree(folder / "arrays", ignore_errors=True)
        if kept:
            write_page(selection, made, folder)
            write_selection(selection.lines, folder)
    if out is None and kept:
        add_sidecars(str(augmented))
    return selection


def _rules(keep: KeepRules | Mapping[str, Any] | None) -> KeepRules:
    if isinstance(keep, KeepRules):
        return keep
    if keep is None:
        return DEFAULT_KEEP
    from eoaug.storage.documents import read_settings

    return read_settings(keep, KeepRules, noun="rules", remedy="give e.g. keep={'agreement': 0.5}")


class _MadeOf:
    """Real images of training, and the images that were made of them."""

    def __init__(self, train: TrainingSet, made: TrainingSet) -> None:
        self.real = Chips(train.split("train"))
        self.made = made_before(made, self.real)
        children = children_of(self.real.source, self.made.source)
        parents = {child: number for number, some in children.items() for child in some}
        self.parents = [parents[number] for number in range(len(self.made))]

    def arrays(self, folder: Path, progress: Progress) -> tuple[ImageArrays, ImageArrays]:
        """Return the pixels of real and made images."""
        shutil.rmtree(folder, ignore_errors=True)  # of a selection that was killed
        scale = band_scale(self.real)
        with track(
            len(self.real) + len(self.made), what="reading", unit="image", progress=progress
        ) as counter:
            return (
                image_arrays(self.real, scale, folder / "real", counter),
                image_arrays(self.made, scale, folder / "made", counter),
            )

    def agreement(
        self, real: ImageArrays, made: ImageArrays, options: TrialOptions, progress: Progress
    ) -> Agreement:
        """Return the probabilities of the labels."""
        with track(FOLDS, what="training", unit="classifier", progress=progress) as counter:
            return agreement_of(folds_of(self.real.source), real, made, self.parents, options, counter)


class _Findings:
    """What the rules find."""

    def __init__(
        self, images: _MadeOf, real: ImageArrays, made: ImageArrays, agreement: Agreement, rules: KeepRules
    ) -> None:
        self.images, self.real, self.made = images, real, made
        self.agreement, self.rules = agreement, rules
        self.real_patterns, self.made_patterns = patterns_of(real), patterns_of(made)
        self.whole = made.targets.ndim == 1
        self._to_real: Float64Array = np.ones(len(made))

    def selection(self) -> Selection:
        """Return which images are kept."""
        disagreeing, capped = self._disagreeing()
        at, ratio = self._copies()
        copies = (
            np.zeros(len(self.made), bool) if self.rules.memorised is None else ratio < self.rules.memorised
        )
        twins = self._duplicates(~(disagreeing | copies))
        lines = []
        for number, item in enumerate(self.images.made.source):
            reasons = [
                name
                for name, yes in (
                    ("agreement", disagreeing[number]),
                    ("memorised", copies[number]),
                    ("duplicate", number in twins),
                )
                if yes
            ]
            line: dict[str, Any] = {
                "id": item.id,
                "label": item.label,
                "keep": not reasons,
                "reasons": reasons,
            }
            line["agreement"] = round(float(self.agreement.made[number]), _DIGITS)
            line["distance"] = round(float(ratio[number]), _DIGITS)
            line["nearest"] = self.images.real.source[int(at[number])].id
            if number in twins:
                line["duplicate_of"] = self.images.made.source[twins[number]].id
            lines.append(line)
        return Selection(tuple(lines), round(self.agreement.accuracy, _DIGITS), self._measures(), capped)

    def _disagreeing(self) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        chance = self.agreement.made
        if self.rules.agreement is None:
            return np.zeros(len(chance), bool), ()
        classes = self.images.real.source.classes
        count = len(classes) if self.whole else 1
        least = least_agreement(self.agreement, self.real, self.rules.agreement, count)
        group = self.made.targets.astype(int) if self.whole else np.zeros(len(chance), int)
        out = chance < least[group]
        capped = []
        for number in range(count):
            own = np.flatnonzero(group == number)
            most = int(_MOST_DROPPED * len(own))
            if out[own].sum() > most:
                order = own[np.argsort(chance[own], kind="stable")]
                out[own] = False
                out[order[:most]] = True
                capped.append(classes[number] if self.whole else "all")
        return out, tuple(capped)

    def _copies(self) -> tuple[NDArray[np.int64], Float64Array]:
        """Return the nearest real image that is not the source, and the distance to it in distances of its own neighbour."""
        parents = [[parent] for parent in self.images.parents]
        near = nearest_of(self.made_patterns, self.real_patterns, parents)
        same = nearest_of(self.made_patterns, self.real_patterns, parents, within=_SAME_LEVEL)
        self._to_real = np.maximum(1.0 - near.cosine.astype(np.float64), _LEAST_SCALE)
        ratio, equal = self._ratios(near), self._ratios(same) / _SAME_LEVEL_FACTOR
        # An image of the same pattern and another brightness is not the same image.
        ratio = np.where(near.level < _LEVEL, ratio, np.maximum(ratio, 1.0))
        nearer = (same.cosine > -1.5) & (equal < ratio)
        return np.where(nearer, same.at, near.at), np.where(nearer, equal, ratio)

    def _ratios(self, near: Nearest) -> Float64Array:
        """Return distances to real images, in those of the real images to their own neighbours."""
        hits = np.unique(near.at)
        own = nearest_of(self.real_patterns.some(hits), self.real_patterns, [[hit] for hit in hits.tolist()])
        scale = np.maximum(1.0 - own.cosine.astype(np.float64), _LEAST_SCALE)
        distance: Float64Array = (1.0 - near.cosine.astype(np.float64)) / scale[
            np.searchsorted(hits, near.at)
        ]
        return distance

    def _duplicates(self, considered: NDArray[np.bool_]) -> dict[int, int]:
        """Return the number of the earlier image of which an image is a duplicate, by its own."""
        rule = self.rules.duplicate
        if rule is None:
            return {}
        group = self.made.targets if self.whole else np.zeros(len(self.made), int)
        found: dict[int, int] = {}
        for number in np.unique(group):
            own = np.flatnonzero((group == number) & considered)
            found |= self._twins(own, self.made_patterns.some(own), rule)
        return found

    def _twins(self, own: NDArray[np.int64], patterns: Patterns, rule: float) -> dict[int, int]:
        found: dict[int, int] = {}
        parents = np.asarray(self.images.parents)[own]
        to_real = self._to_real[own]
        for row in range(1, len(own)):
            cosine = turned_cosines(patterns.patterns[row : row + 1], patterns.patterns[:row])[0]
            level = np.abs(patterns.levels[:row] - patterns.levels[row]).max(axis=1)
            # Water and fields lose much of their pattern by compression: also what is nearer than any real image is the same.
            near = _TWIN * np.minimum(to_real[row], to_real[:row])
            same = (cosine >= rule) | (1 - cosine < near)
            for other in np.flatnonzero(same & (level < _LEVEL)).tolist():
                one, twin = int(own[row]), int(own[other])
                if twin in found:
                    continue
                if parents[row] == parents[other] and not self._alike(one, twin, float(cosine[other])):
                    continue
                found[one] = twin
                break
        return found

    def _alike(self, one: int, other: int, cosine: float) -> bool:
        """Return whether two draws of one image are much nearer to each other than they are to that image.

        Draws of small strength are all alike, and no duplicates for that.
        """
        source = self.real_patterns.patterns[self.images.parents[one] :][:1]
        to_source = turned_cosines(self.made_patterns.patterns[[one, other]], source)
        return 1 - cosine < max(_TWIN * (1 - float(to_source.max())), _EQUAL)

    def _measures(self) -> dict[str, float]:
        features = self.agreement.real_features, self.agreement.made_features
        if not features[0].size:
            features = tuple(p.patterns.reshape(len(p), -1) for p in (self.real_patterns, self.made_patterns))  # type: ignore[assignment]
        return {name: round(value, _DIGITS) for name, value in diversity_of(*features).items()}
