"""Requests to an API that writes: which are repeated, for how long, and with which error they end."""

from __future__ import annotations

import pytest

from eoaug.errors import SourceError, TargetError
from eoaug.stac.transactions import Api, ApiGoneError
from eoaug.storage.access import AccessPolicy


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes] | SourceError]:
    """Answers of the API, in order; the last one is repeated."""
    planned: list[tuple[int, bytes] | SourceError] = []

    def send(*_: object, **__: object) -> tuple[int, bytes]:
        answer = planned.pop(0) if len(planned) > 1 else planned[0]
        if isinstance(answer, SourceError):
            raise answer
        return answer

    monkeypatch.setattr(AccessPolicy, "send", send)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return planned


def test_a_request_is_repeated_until_the_api_answers(answers):
    answers += [(503, b""), SourceError("no answer", ""), (429, b""), (200, b'{"id": "x"}'), (200, b"{}")]
    assert Api("https://api.example.org")._ask("GET", "x") == (200, {"id": "x"})
    assert len(answers) == 1


def test_an_api_that_stays_away_is_an_error_that_a_later_run_may_not_have(answers):
    answers.append((503, b'{"detail": "maintenance"}'))
    with pytest.raises(ApiGoneError, match="503: maintenance"):
        Api("https://api.example.org", patience_s=0.0)._ask("GET", "x")


def test_a_refusal_is_not_repeated(answers):
    answers += [(403, b""), (200, b"{}")]
    with pytest.raises(TargetError, match="HTTP status 403") as caught:
        Api("https://api.example.org")._ask("PUT", "x")
    assert not isinstance(caught.value, ApiGoneError)
    assert len(answers) == 1


def test_a_status_that_the_caller_expects_is_returned(answers):
    answers.append((404, b"nothing"))
    assert Api("https://api.example.org")._ask("GET", "x", fine=(404,)) == (404, {})
