"""Figures as the ``model-index`` of a model card, which hubs read (Hugging Face, huggingface/hub-docs: modelcard.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from eoaug.evaluate.table import METRICS, Figure, Table

__all__ = ["model_index"]


_TASK_TYPE = "image-to-image"
"""The hub's name of the kind of task."""
_TYPES = {"psnr_db": "psnr", "sam_deg": "sam"}
"""Names of metrics where hubs use others; the rest keep theirs."""
_DECIMALS = 6
_LEFT_OUT = ("synthesis", "variations", "throughput")
"""Tasks without a true image."""


def model_index(table: Table) -> str:
    """Return the figures of the evaluated generator, best estimate and gains, as YAML for the head of a model card.

    One result per task; the baselines stay in the table. Every metric has its number of windows and places in its name, and
    the interval over places among its arguments.

    Parameters
    ----------
    table
        Of an evaluation.
    """
    results = []
    for task in dict.fromkeys(figure.task for figure in table.figures):
        if task.startswith(_LEFT_OUT):
            continue
        own = [
            figure
            for figure in table.figures
            if figure.task == task
            and not figure.sensor
            and _is_own(figure, table)
            and np.isfinite(figure.value)
        ]
        if own:
            results.append(
                {
                    "task": {"type": _TASK_TYPE, "name": task},
                    "dataset": _dataset(own, table),
                    "metrics": [_metric(figure) for figure in own],
                }
            )
    index = {"model-index": [{"name": f"eoaug-{table.generator}", "results": results}]}
    return yaml.safe_dump(index, sort_keys=False, allow_unicode=True, width=120)


def _is_own(figure: Figure, table: Table) -> bool:
    name = table.generator
    if figure.method == name:
        return True
    try:
        return figure.method == f"{name} - {table.best(figure.task)}" and figure.metric == "psnr_db"
    except KeyError:
        return False


def _dataset(own: list[Figure], table: Table) -> dict[str, Any]:
    folder = str(table.settings.get("data", "cubes"))
    most = max(own, key=lambda figure: figure.windows)
    return {
        "type": folder,
        "name": f"{folder}: {most.windows} windows of {most.places} places",
        "split": "validation",
    }


def _metric(figure: Figure) -> dict[str, Any]:
    metric = METRICS[figure.metric]
    gain = " - " in figure.method
    described = f"{metric.heading}, {figure.method}" if gain else metric.heading
    entry: dict[str, Any] = {
        "type": _TYPES.get(figure.metric, figure.metric) + ("_gain" if gain else ""),
        "value": round(figure.value, _DECIMALS),
        "name": f"{described} ({metric.meaning})",
        "verified": False,
    }
    if np.isfinite([figure.low, figure.high]).all():
        entry["args"] = {"low": round(figure.low, _DECIMALS), "high": round(figure.high, _DECIMALS)}
    return entry
