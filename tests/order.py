"""Which tests run in one process of the runner: a file in one, and on two cores all that import the same slow libraries."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling

__all__ = ["ByFile", "long_ones_first"]

NETWORKS = [
    *("generators/test_checkpoint_verbs", "generators/test_diffusion", "generators/test_diffusionsat"),
    *("generators/test_checkpoint", "generators/test_convert", "evaluate/test_sar_study"),
    *("evaluate/test_sar_metrics", "training/test_finetune", "training/test_parts", "training/test_windows"),
    *("training/test_pretrain", "training/test_state", "training/test_land_training", "test_captions"),
    *("test_metrics_parity", "test_gate", "test_selection", "test_augment_eurosat", "test_torch"),
    *("test_torchgeo", "test_doctests", "test_examples"),
]
"""These import diffusers, transformers, torchmetrics or torch's compiler: twenty seconds that one process spends once."""
LONG = [
    *("jobs/test_kills", "cube/test_engine", "cube/test_verbs", "jobs/test_jobs", "test_augment"),
    *(
        "generators/test_embedded",
        "evaluate/test_evaluate",
        "jobs/test_damage",
        "test_cli",
        "stac/test_marks",
    ),
]
"""Begun early, so that none is begun when the other processes have nothing left."""


def _name(nodeid: str) -> str:
    return nodeid.split("::")[0].removeprefix("tests/").removesuffix(".py")


class ByFile(LoadScopeScheduling):
    """Gives a process one file after the other."""

    def _split_scope(self, nodeid: str) -> str:
        name = _name(nodeid)
        return "networks" if len(self.config.option.tx) == 2 and name in NETWORKS else name


def long_ones_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return tests in the order in which they are given to processes."""
    ranks = {name: rank for rank, name in enumerate([*NETWORKS, *LONG])}
    return sorted(items, key=lambda item: ranks.get(_name(item.nodeid), len(ranks)))
