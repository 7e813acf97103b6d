"""Results sent to a STAC API through its Transaction extension.

The static catalog is authoritative: an API gets copies of its items, with absolute addresses. An item that the API
already has in the same form is not sent again, so the same command completes an interrupted run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import batched
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from eoaug.errors import SourceError, TargetError
from eoaug.stac.catalog import MADE_BY
from eoaug.stac.integrity import CHECKSUM, read_json
from eoaug.storage.access import AccessPolicy
from eoaug.storage.location import Location
from eoaug.storage.names import clean_href
from eoaug.storage.s3_location import S3Location

__all__ = ["TOKEN", "Api", "ApiGoneError"]


TOKEN = "EOAUG_API_TOKEN"
"""Environment variable with the bearer token for APIs that require one."""

_BATCH = 100
"""Items per request."""
_TRANSACTION = re.compile(r"/ogcapi-features(-\d)?/?(extensions/transaction|1\.0/conf/create-replace-delete)")
_AGAIN = "run the same command again when it answers; published items are kept"
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which the same request may succeed."""


class ApiGoneError(TargetError):
    """The API does not answer; the items in the catalog can be sent later."""


@dataclass(frozen=True)
class Api:
    """A STAC API that items are sent to.

    Parameters
    ----------
    url
        Address of its landing page.
    patience_s
        How long a request is repeated while the API does not answer, in seconds.
    """

    url: str
    patience_s: float = 30.0

    def check(self) -> None:
        """Refuse an API that cannot be written to, before anything is computed."""
        classes = self._landing.get("conformsTo")
        classes = classes if isinstance(classes, list) else []
        if not any(_TRANSACTION.search(str(uri)) for uri in classes):
            raise TargetError(
                f"the API {clean_href(self.url)!r} does not declare the Transaction extension among "
                f"its {len(classes)} conformance classes",
                "enable its transactions, choose another output.api, or leave it out",
            )

    def send(self, place: Location, names: Sequence[str]) -> int:
        """Send items of a collection to the API; return how many it did not have in this form.

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
            existing = self._existing(name, batch)
            items = [_sent_form(place / label, read_json(place / label / f"{label}.json")) for label in batch]
            fresh = [item for item in items if item["id"] not in existing]
            if self._create(name, fresh):
                existing |= {item["id"]: item for item in fresh}
                count += len(fresh)
            for item in items:
                if not _alike(item, existing.get(item["id"], {})):
                    self._upsert(name, item)
                    count += 1
        return count

    # -- documents --------------------------------------------------------------------------------------

    def _ensure_collection(self, place: Location) -> None:
        """Create the collection, or update the extent of one that eoaug created."""
        name = place.name
        ours = read_json(place / "collection.json")
        ours = {key: value for key, value in ours.items() if key != CHECKSUM} | {"links": []}
        status, theirs = self._ask("GET", f"collections/{quote(name)}", fine=(404,))
        if status == 404:
            status, _ = self._ask("POST", "collections", ours, fine=(409,))
        elif _plain(theirs.get("extent")) != _plain(ours["extent"]) and _is_ours(theirs):
            self._ask("PUT", f"collections/{quote(name)}", ours)

    def _existing(self, collection: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the items that the API has, by id."""
        body: dict[str, Any] | None = {"collections": [collection], "ids": list(names), "limit": len(names)}
        items: dict[str, dict[str, Any]] = {}
        sent: list[Any] = []
        while body is not None and body not in sent:
            sent.append(body)
            _, page = self._ask("POST", "search", body)
            features = [feature for feature in page.get("features") or () if isinstance(feature, dict)]
            items |= {str(feature.get("id")): feature for feature in features}
            links = [link for link in page.get("links") or () if isinstance(link, dict)]
            following = [link for link in links if link.get("rel") == "next"]
            body = following[0].get("body") if following and len(items) < len(names) and features else None
        return items

    def _create(self, collection: str, items: Sequence[Mapping[str, Any]]) -> bool:
        """Create items with one request; return whether the API accepted it."""
        if not items:
            return True
        path = f"collections/{quote(collection)}/items"
        many = {"type": "FeatureCollection", "features": list(items)}
        # Refused as a whole by an API that only takes single items, or because one of them exists by now.
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

        Every request may be repeated: the next search finds an item whose answer was lost.
        """
        attempts = Retrying(
            stop=stop_after_delay(self.patience_s),
            wait=wait_exponential(multiplier=0.2, max=5.0),
            retry=retry_if_exception_type(ApiGoneError),
            reraise=True,
        )
        answer: tuple[int, dict[str, Any]] = attempts(self._ask_once, method, path, body, fine)
        return answer

    def _ask_once(
        self, method: str, path: str, body: Mapping[str, Any] | None, fine: Sequence[int]
    ) -> tuple[int, dict[str, Any]]:
        what = f"the API {clean_href(self.url)!r}"
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            status, content = self._access.send(
                method, f"{self.url.rstrip('/')}/{path}", data, headers, what=what
            )
        except SourceError as error:
            raise ApiGoneError(error.problem, _AGAIN) from error
        if 200 <= status < 300 or status in fine:
            return status, _parsed(content)
        problem = f"{what} answers {method} {path or '/'} with HTTP status {status}{_detail(content)}"
        if status in _PASSING:
            raise ApiGoneError(problem, _AGAIN)
        raise TargetError(problem, f"check the API, and the token in {TOKEN} if it requires one")


def _is_ours(collection: Mapping[str, Any]) -> bool:
    return str(collection.get("description", "")).startswith(MADE_BY[:-1])


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _detail(content: bytes) -> str:
    answer = _parsed(content)
    detail = answer.get("detail") or answer.get("description") or ""
    return f": {' '.join(str(detail).split())[:200]}" if detail else ""


def _sent_form(home: Location, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item as it is sent to an API: absolute addresses, without the links that the API creates."""
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
    """Return whether an API has an item in this form; it may add fields, drop nulls, and format times differently."""
    properties = theirs.get("properties", {})
    same = all(_plain(properties.get(key)) == _plain(value) for key, value in ours["properties"].items())
    return same and _placed(ours) == _placed(theirs)


def _placed(item: Mapping[str, Any]) -> Any:
    files = {
        name: (asset.get("href"), asset.get("file:checksum"))
        for name, asset in item.get("assets", {}).items()
    }
    return item.get("geometry"), files


def _plain(value: Any) -> Any:
    """Normalise a value: ``Z`` and ``+00:00`` mean the same, and so do null and a missing field."""
    if isinstance(value, str):
        return re.sub(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.0+)?(?:Z|\+00:00)$", r"\1Z", value)
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    return value
