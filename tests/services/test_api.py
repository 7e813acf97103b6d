"""Jobs from a real STAC API to the same: stac-fastapi on PostgreSQL with PostGIS and pgstac."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pystac_client
import pytest

from eoaug.errors import ParameterError, TargetError
from eoaug.jobs.runner import run_job
from tests.jobs.conftest import a_job, make_source

from .conftest import Service, post
from .proxy import Proxy

pytestmark = pytest.mark.services

ITEMS = 1000


@pytest.fixture(scope="module")
def source(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand items: their files in a folder, their documents in the API."""
    folder = make_source(tmp_path_factory.mktemp("scenes") / "in", ITEMS)
    collection = json.loads((folder / "source" / "collection.json").read_text())
    post(f"{service.url}/collections", {**collection, "links": []})
    items = []
    for number, home in enumerate(sorted(path for path in (folder / "source").iterdir() if path.is_dir())):
        item = json.loads((home / f"{home.name}.json").read_text())
        west, south = 15 + 0.001 * (number % 100), 45 + 0.001 * (number // 100)
        box = [west, south, west + 0.001, south + 0.001]
        ring = [[west, south], [box[2], south], [box[2], box[3]], [west, box[3]], [west, south]]
        item |= {"bbox": box, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        item["properties"] |= {
            "datetime": f"2021-06-{1 + number % 28:02d}T10:00:00Z",
            "eo:cloud_cover": number % 100,
        }
        item["assets"]["B04"]["href"] = (home / "B04.tif").as_uri()
        items.append(item)
    for start in range(0, ITEMS, 250):
        part = {"type": "FeatureCollection", "features": items[start : start + 250]}
        post(f"{service.url}/collections/source/items", part)
    return folder


def the_job(api: Proxy, source: Path, out: Path, **filters: Any) -> Any:
    config = {"collections": ["source"], "allow": [str(source)], **filters}
    url = api.url
    return a_job(url, out, source=config, output={"api": url}, run={"retries": 3})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def test_a_thousand_items_from_search_to_write_back(
    api: Proxy, service: Service, source: Path, tmp_path: Path
) -> None:
    """Point 2 of the issue. The API is killed in the middle and comes back."""
    job, out = the_job(api, source, tmp_path / "out"), tmp_path / "out"
    events: list[str] = []

    def trouble() -> None:
        while sum(1 for _ in out.glob("source-eoaug/item-*")) < ITEMS // 4:
            time.sleep(0.05)
        service.kill()
        events.append("killed")
        time.sleep(5)
        service.begin()
        events.append("back")

    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    report = run_job(job, progress=False)
    thread.join()
    assert events == ["killed", "back"]
    assert report.failures == ()
    assert (report.published, report.sent) == (ITEMS, ITEMS)

    client = pystac_client.Client.open(service.url)
    made = {
        item.id.rpartition("-super")[0]: item for item in client.search(collections=["source-eoaug"]).items()
    }
    given = {item.id: item for item in client.search(collections=["source"]).items()}
    assert set(made) == set(given)
    assert len(given) == ITEMS
    for name, item in made.items():
        document = json.loads((out / "source-eoaug" / item.id / f"{item.id}.json").read_text())
        assert item.geometry == document["geometry"]
        assert item.bbox == document["bbox"]
        assert item.datetime == given[name].datetime
        assert item.properties["eoaug:synthetic"] is True
        assert item.properties["eoaug:content_key"] == document["properties"]["eoaug:content_key"]
        origins = [link.target for link in item.links if link.rel == "derived_from"]
        assert any(str(origin).endswith(f"/collections/source/items/{name}") for origin in origins)
        assert Path(item.assets["B04"].href.removeprefix("file://")).is_file()
    assert (
        client.get_collection("source-eoaug")
        .extent.temporal.to_dict()["interval"][0][0]
        .startswith("2021-06-01")
    )

    api.lines.clear()
    again = run_job(job, progress=False)
    assert (again.published, again.skipped, again.sent, again.failures) == (0, ITEMS, 0, ())
    writes = [
        line for line in api.lines if not line.startswith("GET") and not line.startswith("POST /search")
    ]
    assert writes == []
    print(
        f"\n{ITEMS} items, the API killed and 5 s later back: {report.seconds:.0f} s, {report.items_per_hour:.0f} "
        f"items/h, {len(made)} found again; again {again.seconds:.0f} s: 0 published, {len(writes)} writes"
    )


def test_an_api_that_stays_away_is_made_good_by_the_same_command(
    api: Proxy, service: Service, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eoaug.jobs.bookkeeping._IMPATIENT_S", 0.2)
    monkeypatch.setattr("eoaug.jobs.bookkeeping._PATIENT_S", 0.5)
    other = Proxy(service.port)
    job = the_job(api, source, tmp_path / "out", limit=3)
    out = job.output.model_copy(update={"api": other.url, "collection": "later"})
    job = job.model_copy(update={"output": out})
    true = other._ask

    def away(client: Any, body: bytes) -> Any:
        if client.path.startswith("/collections"):
            raise OSError
        return true(client, body)

    monkeypatch.setattr(other, "_ask", away)
    report = run_job(job, progress=False)
    assert (report.published, report.sent) == (3, 0)
    assert [one.error for one in report.failures] == ["ApiGoneError"]
    assert "3 items are not in the API" in report.failures[0].problem
    monkeypatch.undo()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    report = run_job(job, progress=False)
    assert (report.skipped, report.sent, report.failures) == (3, 3, ())
    # Another content takes the place of the old one, also through answers that are lost.
    other.trouble(0.3, 5)
    changed = job.model_copy(update={"parameters": {"factor": 2, "seed": 1}})
    assert run_job(changed, progress=False).sent == 3
    other.calm()
    found = list(pystac_client.Client.open(service.url).search(collections=["later"]).items())
    assert len(found) == 6
    assert len({item.id for item in found}) == 6
    other.end()


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"bbox": [15.0, 45.0, 15.0095, 45.0005]}, 10),
        ({"datetime": "2021-06-03"}, sum(1 for n in range(ITEMS) if n % 28 == 2)),
        ({"query": {"eo:cloud_cover": {"lt": 2}}}, sum(1 for n in range(ITEMS) if n % 100 < 2)),
        ({"filter": "eo:cloud_cover < 2"}, sum(1 for n in range(ITEMS) if n % 100 < 2)),
        (
            {"filter": {"op": "<", "args": [{"property": "eo:cloud_cover"}, 3]}},
            sum(1 for n in range(ITEMS) if n % 100 < 3),
        ),
        ({"ids": ["item-00007", "item-00011"]}, 2),
    ],
)
def test_searches_find_what_is_asked_for(
    filters: Any, count: int, api: Proxy, source: Path, tmp_path: Path
) -> None:
    from eoaug.jobs.sources import work_items_of

    api.trouble(0.3, 11)
    try:
        assert len(list(work_items_of(the_job(api, source, tmp_path / "out", **filters)))) == count
    finally:
        api.calm()


def test_what_an_api_does_not_support_is_told(database: int, source: Path, tmp_path: Path) -> None:
    poor = Service(database, tmp_path / "log", ENABLED_EXTENSIONS="sort,pagination")
    try:
        for filters, word in (({"query": {"a": 1}}, "query"), ({"filter": "a = 1"}, "filter")):
            job = a_job(poor.url, tmp_path / "out", source={"collections": ["source"], **filters})  # type: ignore[arg-type]
            with pytest.raises(ParameterError, match=f"does not support {word}"):
                run_job(job, progress=False)
        job = a_job(source, tmp_path / "out", output={"api": poor.url})
        with pytest.raises(TargetError, match="Transaction extension"):
            run_job(job, progress=False)
        assert not (tmp_path / "out").exists()
    finally:
        poor.kill()
    job = a_job(source, tmp_path / "out", source={"filter": "a = 1"})
    with pytest.raises(ParameterError, match="static catalog"):
        run_job(job, progress=False)
