"""Counts the results of a running job, registers its items, and writes journal and report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from eoaug.errors import TargetError, printable
from eoaug.jobs.config import JobBase
from eoaug.jobs.content_key import version
from eoaug.jobs.journal import Journal
from eoaug.jobs.report import MOST_GENERATED, Failure, Report
from eoaug.jobs.work_items import WorkItem, WorkResult
from eoaug.stac.catalog import MADE_BY, Root
from eoaug.stac.transactions import Api
from eoaug.storage.names import clean_href

__all__ = ["Bookkeeper"]


_FLUSH_S = 2.0
"""Least time between two updates of the catalog, whose document is rewritten each time."""
_FLUSH_SHARE = 10
"""Least pause between two updates of the catalog, as a multiple of the time that the last one took."""
_IMPATIENT_S, _PATIENT_S = 2.0, 60.0
"""How long requests to an API that does not answer are repeated: while the job runs, and at its end."""


class Bookkeeper:
    """Records results in catalog, journal and report, in this order and in batches."""

    def __init__(self, job: JobBase, root: Root) -> None:
        self._job, self._root = job, root
        self._journal = Journal(root.folder, job.id, {"eoaug": version(), "config": job.described()})
        self._listed: dict[str, set[str]] = {}
        self._pending: dict[str, list[Mapping[str, Any]]] = {}
        self._events: list[Mapping[str, Any]] = []
        self._flushed, self._cost = time.monotonic(), 0.0
        self.report = Report(job=job.id, described=job.described())
        self._api = None if job.output.api is None else Api(job.output.api)
        self._unsent: dict[str, dict[str, None]] = {}
        self._published: list[tuple[float, WorkItem]] = []
        """The published items with the largest generated share, largest first."""

    @property
    def shown(self) -> list[WorkItem]:
        """The published items whose pictures the report shows: those with the largest generated share."""
        return [work_item for _, work_item in self._published[: self._job.run.pictures]]

    def add(self, result: WorkResult) -> None:
        """Record a result."""
        work_item = result.work_item
        event = {
            "item": work_item.id,
            "href": clean_href(work_item.entry.href),
            "seconds": round(result.seconds, 3),
            "attempts": result.attempts,
        }
        if result.status == "failed":
            self._add_failure(result, event)
        elif result.status == "too cloudy":
            entry = (printable(work_item.id), result.note)
            self.report = replace(self.report, too_cloudy=(*self.report.too_cloudy, entry))
            self._events.append({"event": "too cloudy", **event, "reason": result.note})
        else:
            self._add_success(result, event)
        pause = max(_FLUSH_S, _FLUSH_SHARE * self._cost)
        if time.monotonic() - self._flushed > pause:
            self.flush()

    def note(self, name: str, text: str) -> None:
        """Record what is unusual about the source, without an item that failed."""
        entry = (printable(name), printable(text))
        self.report = replace(self.report, notes=(*self.report.notes, entry))

    def _add_failure(self, result: WorkResult, event: Mapping[str, Any]) -> None:
        error = result.error
        assert error is not None
        failure = Failure(result.work_item.id, type(error).__name__, error.problem, error.remedy)
        self.report = replace(
            self.report,
            failures=(*self.report.failures, failure),
            timed_out=self.report.timed_out + result.timed_out,
        )
        self._events.append({"event": "failed", **event, "error": failure.as_dict()})

    def _add_success(self, result: WorkResult, event: Mapping[str, Any]) -> None:
        """Count a published or existing item, and note what catalog and API do not have yet."""
        collection, report = result.work_item.collection, self.report
        ids = [item["id"] for item in result.items]
        unlisted = not self._list_of(collection).issuperset(ids)
        published = result.status == "published"
        left_out = [
            Failure(one["id"], one["error"], one["problem"], one["remedy"]) for one in result.left_out
        ]
        self.report = replace(
            report,
            failures=(*report.failures, *left_out),
            published=report.published + published,
            adopted=report.adopted + (not published and unlisted),
            skipped=report.skipped + (not published and not unlisted),
            work_seconds=report.work_seconds + result.seconds * published,
            stored_bytes=report.stored_bytes + result.stored_bytes,
            notes=(*report.notes, (printable(result.work_item.id), printable(result.note)))
            if result.note
            else report.notes,
        )
        if self._api is not None:
            self._unsent.setdefault(collection, {}).update(dict.fromkeys(ids))
        if published:
            self._rank(result)
        if published or unlisted:
            # A replaced item may have another footprint or date than the one in the collection.
            self._pending.setdefault(collection, []).extend(result.items)
            name = "published" if published else "adopted"
            fields = {"collection": collection, "made": ids, "key": result.key}
            self._events.append({"event": name, **event, **fields})

    def _rank(self, result: WorkResult) -> None:
        """Keep a published item if its generated share is among the largest; of equal shares, the earlier."""
        shares = [float(item["properties"].get("eoaug:synthetic_fraction") or 0.0) for item in result.items]
        entry = (max(shares, default=0.0), result.work_item)
        most = max(MOST_GENERATED, self._job.run.pictures)
        self._published = sorted([*self._published, entry], key=lambda kept: -kept[0])[:most]
        self.report = replace(
            self.report,
            most_generated=tuple(
                (work_item.label, share) for share, work_item in self._published[:MOST_GENERATED]
            ),
        )

    def flush(self) -> None:
        """Write the pending results: first to the catalog, then to the journal."""
        begun = time.monotonic()
        for name, items in self._pending.items():
            self._root.register(name, items, f"{MADE_BY[:-1]} by a job: {self._job.verb}.")
            self._list_of(name).update(item["id"] for item in items)
        with suppress(TargetError):  # the API may answer at the next flush; `close` reports the error
            self._send(_IMPATIENT_S)
        self._journal.append(self._events)
        self._pending, self._events = {}, []
        self._flushed = time.monotonic()
        self._cost = self._flushed - begun

    def close(self) -> None:
        """Write the pending results, and report the items that an API did not accept."""
        self.flush()
        try:
            self._send(_PATIENT_S)
        except TargetError as error:
            assert self._api is not None
            count = sum(map(len, self._unsent.values()))
            failure = Failure(
                clean_href(self._api.url),
                type(error).__name__,
                f"{count} items are not in the API: {error.problem}",
                error.remedy,
            )
            self.report = replace(self.report, failures=(*self.report.failures, failure))

    def _send(self, patience_s: float) -> None:
        """Send the published items to the API."""
        for name in list(self._unsent):
            assert self._api is not None
            sent = replace(self._api, patience_s=patience_s).send(
                self._root.folder / name, list(self._unsent[name])
            )
            self.report = replace(self.report, sent=self.report.sent + sent)
            del self._unsent[name]

    def _list_of(self, name: str) -> set[str]:
        if name not in self._listed:
            self._root.remove_stale_scratch(name)
            self._listed[name] = self._root.listed(name)
        return self._listed[name]
