"""Splits by place: what is near each other must not be in different splits."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eoaug.augmentation.training_items import SPLITS, TrainingSet
from eoaug.errors import ParameterError
from eoaug.raster.arrays import Float64Array

__all__ = ["SHARES", "blocks_of", "nearest_km", "split_by_place"]

SHARES: Mapping[str, float] = {"train": 0.6, "validate": 0.2, "test": 0.2}
_EARTH_KM = 6371.0088
"""Mean radius (IUGG)."""


def split_by_place(
    train: TrainingSet,
    shares: Mapping[str, float] = SHARES,
    *,
    block_km: float = 50.0,
    gap_km: float = 1.0,
    seed: int = 0,
) -> TrainingSet:
    """Return a training set whose splits lie in different places.

    The earth is divided into blocks of equal latitude and about equal width. Blocks are taken in the order of a hash of
    their number and the seed, and each is given to the split that lacks most of its classes. Items of training nearer than
    ``gap_km`` to one of the other splits, and items of validation as near to one of test, are left out of every split:
    neighbours see the same ground, and a score on them says nothing (Roberts et al. 2017, doi:10.1111/ecog.02881).

    Parameters
    ----------
    train
        The set; its own splits are replaced.
    shares
        Share of the items by split, of a sum of 1.
    block_km
        Edge of a block.
    gap_km
        Least distance between items of two splits; at least the diagonal of an image.
    seed
        Another seed gives other blocks to the splits.

    Raises
    ------
    ParameterError
        Shares that are none, or items whose place is not known.
    """
    if (
        not shares
        or set(shares) - set(SPLITS)
        or min(shares.values()) < 0
        or abs(sum(shares.values()) - 1) > 1e-6
    ):
        raise ParameterError(
            f"shares={dict(shares)!r} are no shares of {', '.join(SPLITS)}",
            "e.g. shares={'train': 0.8, 'test': 0.2}",
        )
    if not block_km > 0 or not gap_km >= 0:
        raise ParameterError(
            f"block_km={block_km!r} and gap_km={gap_km!r} are no distances", "e.g. block_km=50, gap_km=1"
        )
    places = _places(train)
    blocks = defaultdict(list)
    for number, block in enumerate(blocks_of(places, block_km)):
        blocks[block].append(number)
    order = sorted(blocks, key=lambda block: hashlib.sha256(f"{seed} {block}".encode()).digest())
    labels = [item.label or "" for item in train]
    splits = _assigned([blocks[block] for block in order], labels, shares)
    for other in ("test", "validate"):
        splits = _apart(splits, other, places, gap_km)
    return train.with_splits({item.id: split for item, split in zip(train, splits, strict=True)})


def _places(train: TrainingSet) -> Float64Array:
    """Return longitude and latitude in degrees, shape (N, 2)."""
    places = [item.place for item in train]
    missing = [item.id for item, place in zip(train, places, strict=True) if place is None]
    if missing:
        raise ParameterError(
            f"the place of {len(missing)} of {len(train)} items is not known, {missing[0]!r} among them",
            "give the splits: split={'id': 'train', ...}, or images with a georeference",
        )
    return np.array(places, np.float64)


def blocks_of(places: Float64Array, block_km: float) -> list[tuple[int, int]]:
    """Return the block of every place: blocks have equal latitude and about equal width.

    Parameters
    ----------
    places
        Longitude and latitude in degrees, shape (N, 2).
    block_km
        Edge of a block.
    """
    step = math.degrees(block_km / _EARTH_KM)
    rows = np.floor(places[:, 1] / step).astype(int)
    width = step / np.maximum(np.cos(np.radians((rows + 0.5) * step)), 1e-3)
    return list(zip(rows.tolist(), np.floor(places[:, 0] / width).astype(int).tolist(), strict=True))


def _assigned(
    blocks: Sequence[Sequence[int]], labels: Sequence[str], shares: Mapping[str, float]
) -> list[str]:
    """Return the split of every item: each block goes to the split that lacks most of what it holds."""
    total = Counter(labels)
    have: dict[str, Counter[str]] = {split: Counter() for split in shares}
    splits = [""] * len(labels)
    for members in blocks:
        content = Counter(labels[k] for k in members)

        def lack(split: str, content: Counter[str] = content) -> float:
            wanted = {name: shares[split] * total[name] for name in content}
            return sum(
                count * (wanted[name] - have[split][name]) / max(wanted[name], 1e-9)
                for name, count in content.items()
            )

        chosen = max((s for s in shares if shares[s] > 0), key=lack)
        have[chosen] += content
        for k in members:
            splits[k] = chosen
    return splits


def _apart(splits: Sequence[str], other: str, places: Float64Array, gap_km: float) -> list[str]:
    """Leave items out that are near one of another split, of which more depends on it."""
    kept = np.array(splits)
    there = kept == other
    if not there.any() or gap_km == 0:
        return list(splits)
    distance, _ = nearest_km(places, places[there])
    weaker = np.isin(kept, SPLITS[: SPLITS.index(other)])
    return [
        "" if close and low else split
        for split, close, low in zip(splits, distance <= gap_km, weaker, strict=True)
    ]


def nearest_km(places: Float64Array, others: Float64Array) -> tuple[Float64Array, NDArray[np.int64]]:
    """Return distance and index of the nearest of other places, each shape (N,).

    Parameters
    ----------
    places, others
        Longitude and latitude in degrees, shape (N, 2).
    """
    from scipy.spatial import cKDTree

    chord, at = cKDTree(_unit_vectors(others)).query(_unit_vectors(places))
    return 2 * _EARTH_KM * np.arcsin(np.minimum(chord / 2, 1.0)), np.asarray(at, np.int64)


def _unit_vectors(places: Float64Array) -> Float64Array:
    lon, lat = np.radians(places).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
