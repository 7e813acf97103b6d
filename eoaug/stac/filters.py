"""Filters of a search: bounding boxes, intervals, ids, properties, and CQL2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import pystac

from eoaug.errors import ParameterError, SourceError, TimeError, first_line, foreign

__all__ = [
    "Bbox",
    "Search",
    "changed_at",
    "instant",
    "instant_of",
    "item_times",
    "parse_bbox",
    "parse_interval",
    "rfc3339",
]


Bbox = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east crosses the antimeridian."""


@dataclass(frozen=True)
class Search:
    """Which items of a source to keep; an empty field keeps all."""

    collections: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    bbox: Bbox | None = None
    interval: tuple[datetime | None, datetime | None] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    """Item properties: a value, or values by operator (``eq neq lt lte gt gte in``)."""
    limit: int | None = None
    cql2: str | dict[str, Any] | None = None
    """CQL2 text or JSON. An API evaluates it itself; for other sources see `matches_cql2`."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ParameterError(f"limit={self.limit!r} leaves no item", "give 1 or more, or None")

    def check_cql2(self) -> None:
        """Raise ParameterError for a filter that is not CQL2, before an item is examined."""
        self._expression  # noqa: B018

    def keeps(self, item: pystac.Item) -> bool:
        """Return whether an item passes every filter but CQL2.

        Raises
        ------
        EoaugError
            A field of the item cannot be compared.
        """
        with foreign(f"item {item.id!r}", "correct the item, or leave it out with ids=", SourceError):
            return self._keeps(item)

    def _keeps(self, item: pystac.Item) -> bool:
        if "mlm:architecture" in item.properties:  # a model, not a scene
            return False
        if self.ids and item.id not in self.ids:
            return False
        if self.collections and item.collection_id not in self.collections:
            return False
        if self.bbox is not None and item.bbox is not None and not _meets(self.bbox, item):
            return False
        if not self.covers(item):
            return False
        return all(_passes(item.properties.get(key), rule, key) for key, rule in self.query.items())

    def covers(self, item: pystac.Item) -> bool:
        """Return whether an item's time lies in the interval, at least in part."""
        if self.interval is None:
            return True
        first, last = item_times(item)
        start, end = self.interval
        return (start is None or last >= start) and (end is None or first <= end)

    def matches_cql2(self, document: Mapping[str, Any]) -> bool:
        """Return whether the document of an item passes the CQL2 filter; True without one.

        As in SQL, a comparison with a property that an item lacks is neither true nor false, and the item is left
        out unless the rest of the filter decides (``a = 1 OR b = 2``, ``a IS NULL``).

        Raises
        ------
        ParameterError
            The filter is not CQL2, or compares values of different types or by an unknown function.
        """
        if self._expression is None or not isinstance(document.get("properties"), dict):
            return True  # the reader of items reports a malformed document
        try:
            return bool(self._expression.matches(dict(document)))
        except Exception as error:  # cql2 raises nothing more specific
            try:
                rest = self._expression.reduce(dict(document)).to_json()
            except Exception:
                rest = None
            if _names_property(rest):
                return False
            raise ParameterError(
                f"filter={self.cql2!r} cannot be evaluated for item {document.get('id')!r}: {first_line(error)}",
                "compare values of the same type, with the functions of CQL2",
            ) from error

    @cached_property
    def _expression(self) -> Any:
        """The parsed CQL2 filter, a ``cql2.Expr``; None without one."""
        if self.cql2 is None:
            return None
        import cql2

        try:
            return cql2.Expr(self.cql2)
        except Exception as error:  # cql2 raises nothing more specific
            lines = [line for line in str(error).splitlines() if line.strip(" |^-")]
            raise ParameterError(
                f"filter={self.cql2!r} is not CQL2: {lines[-1].strip(' =') if lines else error}",
                "write text such as \"eo:cloud_cover < 20 AND platform = 'sentinel-2a'\", or CQL2 JSON",
            ) from error

    def __str__(self) -> str:
        filters = {
            "collections": list(self.collections),
            "ids": list(self.ids),
            "bbox": self.bbox,
            "datetime": self.interval
            and "/".join(".." if t is None else rfc3339(t.replace(microsecond=0)) for t in self.interval),
            "query": dict(self.query),
            "filter": self.cql2,
        }
        return ", ".join(f"{key}={value}" for key, value in filters.items() if value) or "no filter"


def _names_property(expression: Any) -> bool:
    """Return whether a CQL2 JSON expression still holds a property, which the item lacks or has as null."""
    if isinstance(expression, Mapping):
        return "property" in expression or any(map(_names_property, expression.values()))
    return isinstance(expression, list) and any(map(_names_property, expression))


def item_times(item: pystac.Item) -> tuple[datetime, datetime]:
    """Return the first and last instant of an item, in UTC."""
    times = item.common_metadata.start_datetime, item.datetime, item.common_metadata.end_datetime
    known = [t.replace(tzinfo=UTC) if t.tzinfo is None else t.astimezone(UTC) for t in times if t is not None]
    if not known:
        raise TimeError(
            f"item {item.id!r} has neither datetime nor start_datetime and end_datetime",
            "add one to the item, or leave it out with ids=",
        )
    return known[0], known[-1]


def instant_of(item: pystac.Item) -> datetime:
    """Return the nominal instant of an item: its ``datetime``, else the first of its range, in UTC."""
    time = item.datetime
    if time is None:
        return item_times(item)[0]
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def changed_at(item: pystac.Item) -> datetime:
    """Return when an item became what it is, in UTC: the later of ``created`` and ``updated``, else its instant.

    Raises
    ------
    SourceError
        One of them is no time.
    """
    texts = [item.properties[name] for name in ("created", "updated") if item.properties.get(name)]
    if not texts:
        return instant_of(item)
    try:
        times = [datetime.fromisoformat(str(text)) for text in texts]
    except ValueError as error:
        raise SourceError(
            f"item {item.id!r} has created and updated {texts}: {first_line(error)}",
            "correct them, e.g. '2024-06-01T10:00:00Z'",
        ) from error
    return max(t.replace(tzinfo=UTC) if t.tzinfo is None else t.astimezone(UTC) for t in times)


def parse_bbox(bbox: Sequence[float]) -> Bbox:
    """Return west, south, east, north as checked numbers, longitudes from -180 to 180.

    Parameters
    ----------
    bbox
        In degrees. Longitudes may continue beyond 180 (or -180): 170 to 190 is 170 to -170.

    Raises
    ------
    ParameterError
        Not a box on the globe.
    """
    try:
        west, south, east, north = (float(v) for v in bbox)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"bbox={bbox!r} is not four numbers", "give west, south, east, north in degrees"
        ) from error
    inside = all(-360 <= lon <= 360 for lon in (west, east)) and east - west <= 360
    if not inside or not -90 <= south < north <= 90 or west == east:
        raise ParameterError(
            f"bbox={tuple(bbox)!r} is not a box on the globe",
            "give west, south, east, north in degrees; west > east crosses the antimeridian",
        )
    if -180 <= west <= 180 and -180 <= east <= 180:
        return west, south, east, north
    if east - west == 360:
        return -180.0, south, 180.0, north
    west, east = _wrapped(west), _wrapped(east)
    # A side on the antimeridian has two longitudes; the box lies on the side of the other one.
    return (-180.0 if west == 180 else west), south, (180.0 if east == -180 else east), north


def _wrapped(longitude: float) -> float:
    """Return a longitude from -180 to 180."""
    return longitude if -180 <= longitude <= 180 else (longitude + 180) % 360 - 180


def _meets(box: Bbox, item: pystac.Item) -> bool:
    """Return whether an item's bounding box meets a box; longitudes may be counted from 0 to 360."""
    other: Any = item.bbox
    try:
        west, south, east, north = map(float, [*other[:2], *other[3:5]] if len(other) == 6 else other)
        if not all(map(math.isfinite, (west, south, east, north))):
            raise ValueError("it holds a number that is not finite")
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"item {item.id!r} has the bbox {str(other)[:80]}: {first_line(error)}",
            "correct it to west, south, east, north in degrees, or leave the item out with ids=",
        ) from error
    if not (box[1] <= north and south <= box[3]):
        return False
    if abs(east - west) > 180 and west <= east:
        # Made of the extremes of an outline on both sides of the antimeridian: it misses what lies between them.
        return True
    return any(a <= d and c <= b for a, b in _spans(box[0], box[2]) for c, d in _spans(west, east))


def _spans(west: float, east: float) -> list[tuple[float, float]]:
    """Return the ranges of longitude from -180 to 180 of a box."""
    if west <= east and (west < -180 or east > 180):
        return [
            (max(west + turn, -180.0), min(east + turn, 180.0))
            for turn in (-360.0, 0.0, 360.0)
            if west + turn <= 180 and east + turn >= -180
        ]
    west, east = _wrapped(west), _wrapped(east)
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def parse_interval(text: str) -> tuple[datetime | None, datetime | None]:
    """Read an RFC 3339 instant, a shortened date, or an interval with ``..`` for open ends."""
    if not isinstance(text, str) or not text.strip():
        raise ParameterError(f"datetime={text!r} is not text", "give e.g. '2018-01-01/2018-06-30'")
    ends = [part.strip() for part in text.split("/")]
    try:
        if len(ends) == 1:
            return instant(ends[0], last=False), instant(ends[0], last=True)
        first, second = ends
        start = None if first in ("", "..") else instant(first, last=False)
        end = None if second in ("", "..") else instant(second, last=True)
    except ValueError as error:
        raise ParameterError(
            f"datetime={text!r} cannot be read: {first_line(error)}",
            "give a date or an interval, e.g. '2018', '2018-05-04' or '2018-01-01/2018-06-30'",
        ) from error
    if start is not None and end is not None and start > end:
        raise ParameterError(f"datetime={text!r} ends before it starts", "exchange its two ends")
    return start, end


def rfc3339(time: datetime) -> str:
    """Return an aware time as RFC 3339 spells it in UTC, e.g. ``2021-06-01T10:30:00Z``."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant(text: str, *, last: bool) -> datetime:
    """Return the first or last instant of an RFC 3339 time, or of a year, month or day; ValueError for other text."""
    parts = text.split("-")
    if len(text) <= 10 and all(part.isdigit() for part in parts) and len(parts) <= 3:
        year, month, day = (int(parts[i]) if i < len(parts) else 1 for i in range(3))
        start = datetime(year, month, day, tzinfo=UTC)
        if not last:
            return start
        if len(parts) == 3:
            follower = start + timedelta(days=1)
        elif len(parts) == 2:
            follower = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        else:
            follower = datetime(year + 1, 1, 1, tzinfo=UTC)
        return follower - timedelta(microseconds=1)
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: bool(a == b),
    "neq": lambda a, b: bool(a != b),
    "lt": lambda a, b: bool(a < b),
    "lte": lambda a, b: bool(a <= b),
    "gt": lambda a, b: bool(a > b),
    "gte": lambda a, b: bool(a >= b),
    "in": lambda a, b: a in b,
}


def _passes(value: Any, rule: Any, key: str) -> bool:
    rules = rule if isinstance(rule, Mapping) else {"eq": rule}
    for name, wanted in rules.items():
        if name not in _OPERATORS:
            raise ParameterError(
                f"query={{{key!r}: {rule!r}}} uses the operator {name!r}", f"use one of {list(_OPERATORS)}"
            )
        try:
            if value is None or not _OPERATORS[name](value, wanted):
                return False
        except TypeError as error:
            raise ParameterError(
                f"query={{{key!r}: {rule!r}}} cannot be compared with the value {value!r}",
                "give a value of the same type",
            ) from error
    return True
