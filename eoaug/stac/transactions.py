"""Results written back to a STAC API, through its Transaction extension.

The static catalog stays the truth: an API gets copies of items that stand there, with absolute addresses. What
it has already, in the same form, is not sent again; so a run that was cut off, or an API that went away, is made
good by the same command.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import batched
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eoaug.errors import SourceError, TargetError
from eoaug.stac.catalog import MADE_BY
from eoaug.stac.integrity import CHECKSUM, read_json
from eoaug.storage.access import AccessPolicy
from eoaug.storage.location import Location
from eoaug.storage.names import clean_href
from eoaug.storage.s3_location import S3Location

__all__ = ["TOKEN", "Api", "ApiGoneError"]


TOKEN = "EOAUG_API_TOKEN"
"""Variable of the environment with the token that APIs ask for before they let somebody write."""

_BATCH = 100
"""Items of one request."""
_TRANSACTION = re.compile(r"/ogcapi-features(-\d)?/?(extensions/transaction|1\.0/conf/create-replace-delete)")
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which the same request may succeed."""


class ApiGoneError(TargetError):
    """The API does not answer; what stands in the catalog is sent when it does again."""


@dataclass(frozen=True)
class Api:
    """An API that is written to.

    Parameters
    ----------
    url
        Of its landing page.
    patience_s
        How long a request is tried again while the API is away.
    """

    url: str
    patience_s: float = 30.0

    def check(self) -> None:
        """Refuse an API that cannot be written to, before anything is computed."""
        told = self._landing.get("conformsTo")
        told = told if isinstance(told, list) else []
        if not any(_TRANSACTION.search(str(one)) for one in told):
            raise TargetError(
                f"the API {clean_href(self.url)!r} does not tell that it has the Transaction extension; it has "
                f"{len(told)} conformance classes",
                "turn its transactions on, choose another output.api, or leave it out",
            )

    def send(self, place: Location, names: Sequence[str]) -> int:
        """Bring items of a collection into the API; return how many it did not have in this form.

        Parameters
        ----------
        place
            The collection's folder.
        names
            Ids of the items.

        Raises
        ------
        ApiGoneError
            It does not answer.
        TargetError
            It refuses.
        """
        name, count = place.name, 0
        self._ensure_collection(place)
        for batch in batched(names, _BATCH):
            there = self._standing(name, batch)
            items = [_sent_form(place / label, read_json(place / label / f"{label}.json")) for label in batch]
            fresh = [item for item in items if item["id"] not in there]
            if self._create(name, fresh):
                there |= {item["id"]: item for item in fresh}
                count += len(fresh)
            for item in items:
                if not _alike(item, there.get(item["id"], {})):
                    self._upsert(name, item)
                    count += 1
        return count

    # -- documents --------------------------------------------------------------------------------------

    def _ensure_collection(self, place: Location) -> None:
        """Make the collection, or widen the extent of one that eoaug made."""
        name = place.name
        ours = read_json(place / "collection.json")
        ours = {key: value for key, value in ours.items() if key != CHECKSUM} | {"links": []}
        status, theirs = self._ask("GET", f"collections/{quote(name)}", fine=(404,))
        if status == 404:
            status, _ = self._ask("POST", "collections", ours, fine=(409,))
        elif _plain(theirs.get("extent")) != _plain(ours["extent"]) and _is_ours(theirs):
            self._ask("PUT", f"collections/{quote(name)}", ours)

    def _standing(self, collection: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the items that the API has, by id."""
        body: dict[str, Any] | None = {"collections": [collection], "ids": list(names), "limit": len(names)}
        found: dict[str, dict[str, Any]] = {}
        seen: list[Any] = []
        while body is not None and body not in seen:
            seen.append(body)
            _, page = self._ask("POST", "search", body)
            features = [one for one in page.get("features") or () if isinstance(one, dict)]
            found |= {str(one.get("id")): one for one in features}
            after = [
                one for one in page.get("links") or () if isinstance(one, dict) and one.get("rel") == "next"
            ]
            body = after[0].get("body") if after and len(found) < len(names) and features else None
        return found

    def _create(self, collection: str, items: Sequence[Mapping[str, Any]]) -> bool:
        """Create items with one request; tell whether the API took it so."""
        if not items:
            return True
        path = f"collections/{quote(collection)}/items"
        many = {"type": "FeatureCollection", "features": list(items)}
        # Refused as a whole: by an API that takes one by one, or since one of them is there by now.
        status, _ = self._ask("POST", path, many, fine=(400, 405, 409, 415, 422))
        return status < 300

    def _upsert(self, collection: str, item: Mapping[str, Any]) -> None:
        path = f"collections/{quote(collection)}/items"
        status, _ = self._ask("PUT", f"{path}/{quote(str(item['id']))}", item, fine=(404,))
        if status == 404:
            status, _ = self._ask("POST", path, item, fine=(409,))
            if status == 409:
                self._ask("PUT", f"{path}/{quote(str(item['id']))}", item)

    # -- requests ---------------------------------------------------------------------------------------

    @cached_property
    def _access(self) -> AccessPolicy:
        return AccessPolicy.for_source(self.url)

    @cached_property
    def _landing(self) -> dict[str, Any]:
        return self._ask("GET", "")[1]

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, fine: Sequence[int] = ()
    ) -> tuple[int, dict[str, Any]]:
        """Send a request, again while the API is away, and return status and answer.

        Every request may be repeated: an item that a lost answer has made is found there the next time.
        """
        what = f"the API {clean_href(self.url)!r}"
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        end, pause = time.monotonic() + self.patience_s, 0.2
        while True:
            try:
                status, content = self._access.send(
                    method, f"{self.url.rstrip('/')}/{path}", data, headers, what=what
                )
            except SourceError as error:
                status, content, told = 0, b"", error.problem
            else:
                told = f"{what} answers {method} {path or '/'} with HTTP status {status}{_detail(content)}."
            if 200 <= status < 300 or status in fine:
                return status, _parsed(content)
            if status and status not in _PASSING:
                raise TargetError(told, f"check the API, and the token in {TOKEN} if it asks for one")
            if time.monotonic() > end:
                raise ApiGoneError(
                    told, "run the same command again when it answers; what is published stays"
                )
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _is_ours(collection: Mapping[str, Any]) -> bool:
    return str(collection.get("description", "")).startswith(MADE_BY[:-1])


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _detail(content: bytes) -> str:
    told = _parsed(content)
    detail = told.get("detail") or told.get("description") or ""
    return f": {' '.join(str(detail).split())[:200]}" if detail else ""


def _sent_form(home: Location, item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as an API gets it: every address absolute, and no links that are the API's to make."""
    links = [
        {**link, "href": _absolute(home, str(link["href"]))}
        for link in item["links"]
        if link.get("rel") not in ("root", "parent", "collection", "self")
    ]
    document = {
        "rel": "canonical",
        "href": _absolute(home, f"{home.name}.json"),
        "type": "application/geo+json",
    }
    assets = {
        name: {**asset, "href": _absolute(home, asset["href"])} for name, asset in item["assets"].items()
    }
    kept = {key: value for key, value in item.items() if key != CHECKSUM}
    return {**kept, "links": [*links, document], "assets": assets}


def _absolute(home: Location, href: str) -> str:
    if "://" in href:
        return href
    place = home / href
    return str(place) if isinstance(place, S3Location) else Path(str(place)).resolve().as_uri()


def _alike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Tell whether an API has an item in this form; it may add fields, leave nulls out, and spell times in its own way."""
    told = theirs.get("properties", {})
    same = all(_plain(told.get(key)) == _plain(value) for key, value in ours["properties"].items())
    return same and _placed(ours) == _placed(theirs)


def _placed(item: Mapping[str, Any]) -> Any:
    files = {
        name: (one.get("href"), one.get("file:checksum")) for name, one in item.get("assets", {}).items()
    }
    return item.get("geometry"), files


def _plain(value: Any) -> Any:
    """Spell a value in one way: ``Z`` and ``+00:00`` mean the same, and so do null and no field."""
    if isinstance(value, str):
        return re.sub(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.0+)?(?:Z|\+00:00)$", r"\1Z", value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    return value
