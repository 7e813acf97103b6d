"""Counts results, registers items, writes journals and reports while a job runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from eoaug.errors import TargetError
from eoaug.jobs.config import Job
from eoaug.jobs.content_key import version
from eoaug.jobs.journal import Journal
from eoaug.jobs.report import Failure, Report
from eoaug.jobs.units import WorkItem, WorkResult
from eoaug.stac.catalog import MADE_BY, Root
from eoaug.stac.transactions import Api
from eoaug.storage.names import clean_href

__all__ = ["Bookkeeper"]


_FLUSH_S = 2.0
"""Seconds between two updates of the catalog, at least; its document is written anew each time."""
_FLUSH_SHARE = 10
"""Update the catalog only after so many times the seconds that the last update took."""
_IMPATIENT_S, _PATIENT_S = 2.0, 60.0
"""How long an API that is away is asked again, while there is other work, and in the end."""


# -- books ----------------------------------------------------------------------------------------------


class Bookkeeper:
    """Enters outcomes into catalog, journal and report; the catalog first, and not for every single item."""

    def __init__(self, job: Job, root: Root) -> None:
        self._job, self._root = job, root
        self._journal = Journal(root.folder, job.id, {"eoaug": version(), "config": job.described()})
        self._listed: dict[str, set[str]] = {}
        self._waiting: dict[str, list[Mapping[str, Any]]] = {}
        self._events: list[Mapping[str, Any]] = []
        self._flushed, self._cost = time.monotonic(), 0.0
        self.report = Report(job=job.id, described=job.described())
        self._api = None if job.output.api is None else Api(job.output.api)
        self._unsent: dict[str, dict[str, None]] = {}
        self.shown: list[WorkItem] = []
        """Some of what was published, for pictures."""

    def add(self, outcome: WorkResult) -> None:
        """Enter an outcome."""
        unit, report = outcome.unit, self.report
        event = {
            "item": unit.item,
            "href": clean_href(unit.found.href),
            "seconds": round(outcome.seconds, 3),
            "attempts": outcome.attempts,
        }
        if outcome.status == "failed":
            assert outcome.error is not None
            failure = Failure(
                unit.item, type(outcome.error).__name__, outcome.error.problem, outcome.error.remedy
            )
            self.report = replace(
                report,
                failures=(*report.failures, failure),
                timed_out=report.timed_out + outcome.timed_out,
            )
            self._events.append({"event": "failed", **event, "error": failure.as_dict()})
        else:
            unlisted = [one for one in outcome.items if one["id"] not in self._list_of(unit.collection)]
            fresh = outcome.status == "published"
            self.report = replace(
                report,
                published=report.published + fresh,
                adopted=report.adopted + (not fresh and bool(unlisted)),
                skipped=report.skipped + (not fresh and not unlisted),
                work_seconds=report.work_seconds + outcome.seconds * fresh,
                stored_bytes=report.stored_bytes + outcome.stored_bytes,
            )
            if self._api is not None:
                self._unsent.setdefault(unit.collection, {}).update(
                    (one["id"], None) for one in outcome.items
                )
            if fresh and len(self.shown) < self._job.run.pictures:
                self.shown.append(unit)
            if fresh or unlisted:
                # A replaced item may have another footprint or date than the one that is listed.
                self._waiting.setdefault(unit.collection, []).extend(outcome.items)
                names = [one["id"] for one in outcome.items]
                kind = "published" if fresh else "adopted"
                told = {"collection": unit.collection, "made": names, "key": outcome.key}
                self._events.append({"event": kind, **event, **told})
        pause = max(_FLUSH_S, _FLUSH_SHARE * self._cost)
        if time.monotonic() - self._flushed > pause:
            self.flush()

    def flush(self) -> None:
        """Write what waits: first the catalog, then the journal."""
        begun = time.monotonic()
        for name, items in self._waiting.items():
            self._root.register(name, items, f"{MADE_BY[:-1]} by a job: {self._job.verb}.")
            self._list_of(name).update(one["id"] for one in items)
        with suppress(TargetError):  # an API that went away may be back at the next flush; `close` insists
            self._send(_IMPATIENT_S)
        self._journal.append(self._events)
        self._waiting, self._events = {}, []
        self._flushed = time.monotonic()
        self._cost = self._flushed - begun

    def close(self) -> None:
        """Write what waits, and tell of what an API did not take."""
        self.flush()
        try:
            self._send(_PATIENT_S)
        except TargetError as error:
            assert self._api is not None
            waiting = sum(map(len, self._unsent.values()))
            failure = Failure(
                clean_href(self._api.url),
                type(error).__name__,
                f"{waiting} items are not in the API: {error.problem}",
                error.remedy,
            )
            self.report = replace(self.report, failures=(*self.report.failures, failure))

    def _send(self, patience_s: float) -> None:
        """Bring what stands into the API."""
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
