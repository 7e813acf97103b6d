"""Evaluation of a generator against classical baselines on real cubes that it was not trained on."""

from eoaug.evaluate.evaluation import DEFAULT_PARTS, PARTS, Evaluation, evaluate
from eoaug.evaluate.report import write_report
from eoaug.evaluate.table import Figure, Table

__all__ = ["DEFAULT_PARTS", "PARTS", "Evaluation", "Figure", "Table", "evaluate", "write_report"]
