"""How good a generator is, beside the classical methods, on real cubes that it never saw."""

from eoaug.evaluate.table import Figure, Table, evaluate

__all__ = ["Figure", "Table", "evaluate"]
