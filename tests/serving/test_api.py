"""The HTTP service: every wrong input, limits, and a new champion or a lost store under load."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from core.ports import free_port
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.materialization import Materialization
from feature_repo.retrieval import ClockFeatures
from model_registry.registry import CHALLENGER, CHAMPION
from model_registry.store import open_registry
from operations.processes import running
from operations.services import serving_service
from serving.api import BODY_LIMIT, make_app
from serving.engine import NoChampionError
from tests.servers import redis_server
from tests.serving.conftest import UNTIL
from tests.trained import copy_of

ITEMS = [f"t{n:06d}" for n in range(60)]
NOW = (UNTIL.start + timedelta(minutes=20)).isoformat()


@pytest.fixture(scope="module")
def client(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = copy_of(trained, tmp_path_factory.mktemp("client"))
    with TestClient(make_app(settings), raise_server_exceptions=False) as test_client:
        yield test_client


@pytest.fixture
def served_exposures(client: TestClient) -> Callable[[], int]:
    """How many lines the exposure logs of the service have."""
    folder = client.app.state.service.engine.settings.workspace / "serving"  # type: ignore[attr-defined]
    return lambda: sum(len(path.read_bytes()) for path in folder.glob("exposures/**/*") if path.is_file())


WRONG: list[tuple[Any, int, str]] = [
    ({"candidates": ITEMS}, 422, "user: Field required"),
    ({"user": "", "candidates": ITEMS}, 422, "user"),
    ({"user": "u\x00", "candidates": ITEMS}, 422, "user"),
    ({"user": "u" * 300, "candidates": ITEMS}, 422, "user"),
    ({"user": ["u"], "candidates": ITEMS}, 422, "user"),
    ({"user": "u000001", "candidates": []}, 422, "the list is empty"),
    ({"user": "u000001", "candidates": ["a", "b", "a"]}, 422, "'a' appears twice"),
    ({"user": "u000001", "candidates": ["a", None]}, 422, "candidates"),
    ({"user": "u000001", "candidates": "everything"}, 422, "candidates"),
    ({"user": "u000001", "candidates": [f"x{n}" for n in range(1001)]}, 422, "1001 items; at most 1000"),
    ({"user": "u000001", "exclude": [f"x{n}" for n in range(1001)]}, 422, "exclude: 1001 items"),
    ({"user": "u000001", "count": 0}, 422, "count"),
    ({"user": "u000001", "count": 5000}, 422, "at most 1000"),
    ({"user": "u000001", "time": "yesterday"}, 422, "time"),
    ({"user": "u000001", "time": "2026-03-04T12:00:00"}, 422, "timezone"),
    ({"user": "u000001", "time": "2020-01-01T00:00:00Z"}, 422, "is not between"),
    ({"user": "u000001", "time": "2030-01-01T00:00:00Z"}, 422, "is not between"),
    ({"user": "u000001", "zone": "Asia/Shanghi"}, 422, "did you mean 'Asia/Shanghai'"),
    ({"user": "u000001", "request_id": "../../etc"}, 422, "request_id"),
    ({"user": "u000001", "context": {"a": {"b": 1}}}, 422, "context"),
    ({"user": "u000001", "candidats": ITEMS}, 422, "candidats"),
    ({"user": "   "}, 422, "user: an id has no spaces at its ends"),
    ({"user": " u000001"}, 422, "user: an id has no spaces at its ends"),
    ({"user": "\ufeffu000001"}, 422, "user: an id has no spaces at its ends"),
    ({"user": "u000001", "candidates": ["a\u200b"]}, 422, "an id has no spaces at its ends"),
    ({"user": 10**250}, 422, "user: an id has 1 to 200 characters, not 251"),
    ({"user": "u000001", "candidates": [""]}, 422, "candidates.0: an id has 1 to 200 characters"),
    ({"user": "u000001", "candidates": [1, "1"]}, 422, "'1' appears twice"),
    ({"user": "u000001", "zone": ""}, 422, "zone: unknown time zone"),
    ({"user": "u000001", "zone": "../../etc/passwd"}, 422, "zone: unknown time zone"),
    ({"user": "u000001", "zone": "x" * 5000}, 422, "zone: unknown time zone; write a name"),
    ({"user": "u000001", "time": "9999-12-31T23:59:59+14:00"}, 422, "is not between"),
    ({"user": "u000001", "time": "0001-01-01T00:00:00-14:00"}, 422, "is not between"),
    ({"user": "u000001", "time": 1e300}, 422, "time"),
    ([1, 2], 422, "dictionary"),
    ("text", 422, "dictionary"),
]


@pytest.mark.parametrize(("body", "status", "words"), WRONG)
def test_a_wrong_request_is_told_what_is_wrong(client: TestClient, body: Any, status: int, words: str) -> None:
    answer = client.post("/rank", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "12.0", "1.5", "true", "null", "{}"])
@pytest.mark.parametrize("place", ["user", "candidates.1", "exclude.0"])
def test_an_id_that_is_no_text_and_no_whole_number_is_refused(
    client: TestClient, served_exposures: Callable[[], int], value: str, place: str
) -> None:
    fields = {"user": '"u000001"', "candidates": '["t000001"]', "exclude": "[]"}
    wrong = {"user": value, "candidates.1": f'["t000001", {value}]', "exclude.0": f"[{value}]"}[place]
    body = ", ".join(f'"{name}": {text}' for name, text in {**fields, place.split(".", maxsplit=1)[0]: wrong}.items())
    before = served_exposures()
    answer = client.post("/rank", content=f"{{{body}}}", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{place}: an id is a text or a whole number, not ")
    assert served_exposures() == before


@pytest.mark.parametrize("field", ['"count": true', '"count": 2.0', '"context": {"a": NaN}', '"context": {"a": 1e400}'])
def test_a_number_that_is_none_is_refused(client: TestClient, field: str) -> None:
    head = {"content-type": "application/json"}
    answer = client.post("/rank", content=f'{{"user": "u000001", {field}}}', headers=head)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(field.split('"')[1])


def test_bodies_that_are_no_json_or_too_large(client: TestClient) -> None:
    head = {"content-type": "application/json"}
    broken = client.post("/rank", content=b'{"user": "u', headers=head)
    assert broken.status_code == 400
    assert "not JSON" in broken.json()["error"]
    assert client.post("/rank", content=b"\xff\xfe\x00", headers=head).status_code == 400
    many = client.post("/rank", json={"user": "u", "candidates": [f"t{n:06d}" for n in range(100_000)]})
    assert many.status_code == 413
    chunks = (b" " * 100_000 for _ in range(BODY_LIMIT // 100_000 + 2))
    assert client.post("/rank", content=chunks, headers=head).status_code == 413
    assert client.get("/rank").status_code == 405
    assert client.get("/nowhere").json() == {"error": "Not Found"}


HARD: list[tuple[bytes, int, str]] = [
    (b"", 422, "the body is empty"),
    (b"null", 422, "the body is empty"),
    (b"[" * 100_000, 400, "nested too deeply"),
    (b'{"user": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested too deeply"),
    (b'{"user": ' + b"9" * 5000 + b"}", 400, "too many digits"),
    (b'{"user": "u000001", "user": "u000002"}', 400, "the key 'user' appears twice"),
    (b'{"user": "u000001", "context": {"a": 1, "a": 2}}', 400, "the key 'a' appears twice"),
    (b'{"user": "u000001", "\\ud800": 1, "\\ud800": 2}', 400, "appears twice"),
    (b'{"user": "\\ud800"}', 422, "user"),
    (b'{"user": "u000001", "zone": "\\ud800"}', 422, "zone"),
    (b'{"user": "u000001", "time": "\\ud800"}', 422, "time"),
    (b'{"user": "u000001", "exclude": ["\\ud800"]}', 422, "exclude"),
    (b'{"user": "u000001", "request_id": "\\ud800"}', 422, "request_id"),
    (b'{"user": "u000001", "\\ud800": 1}', 422, ""),
    (b'{"user": "u000001", "context": {"\\ud800": [1]}}', 422, "context"),
    (b'{"user": "u000001", "context": {"\\ud800": 1}}', 422, "context: a text holds half a character"),
    (b'{"user": "u000001", "context": {"tab": "new \\ud83d"}}', 422, "context: a text holds half a character"),
    (b'{"user": "u\\u0000"}', 422, "user"),
    (gzip.compress(b'{"user": "u000001"}', mtime=0), 400, "not UTF-8"),
    (b"{'user': 'u000001'}", 400, "not JSON"),
]


@pytest.mark.parametrize(("body", "status", "words"), HARD)
def test_a_body_that_json_readers_take_differently_is_refused(
    client: TestClient, served_exposures: Callable[[], int], body: bytes, status: int, words: str
) -> None:
    before = served_exposures()
    answer = client.post("/rank", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert served_exposures() == before


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_a_body_that_does_not_say_that_it_is_json_is_told_how(client: TestClient, kind: str) -> None:
    answer = client.post("/rank", content=b'{"user": "u000001"}', headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415
    assert answer.json()["error"] == "send JSON, with the header Content-Type: application/json"
    assert client.post(
        "/rank", content=b'{"user": "u"}', headers={"content-type": "application/json; charset=utf-8"}
    ).is_success


def test_a_list_of_wrong_ids_is_refused_at_the_first(client: TestClient) -> None:
    """The others are not looked at: hundreds of thousands of mistakes took ten seconds, in which nobody was answered."""
    answer = client.post("/rank", json={"user": "u000001", "candidates": [None] * 150_000})
    assert answer.status_code == 422
    assert [p for p in answer.json()["problems"] if p.startswith("candidates.")] == [answer.json()["error"]]


def test_nothing_to_rank_is_an_empty_answer_and_no_failure_of_the_model(client: TestClient) -> None:
    answer = client.post("/rank", json={"user": "u000005", "exclude": [f"t{n:06d}" for n in range(200)]}).json()
    assert answer["items"] == []
    assert answer["degraded"] is None
    assert answer["model"]["variant"] == "matched_clock"


def test_an_answer_and_the_pages_beside_it(client: TestClient) -> None:
    answer = client.post("/rank", json={"user": "u000005", "candidates": ITEMS, "time": NOW, "request_id": "abc"})
    assert answer.status_code == 200
    content = answer.json()
    assert content["request_id"] == answer.headers["x-request-id"] == "abc"
    assert len(content["items"]) == 60
    assert content["model"]["variant"] == "matched_clock"
    assert content["degraded"] is None
    retrieved = client.post("/rank", json={"user": 7, "count": 5}).json()
    assert len(retrieved["items"]) == 5
    assert not retrieved["user_known"]
    # the same moment on another wall clock is another hour of the user's day
    elsewhere = client.post(
        "/rank", json={"user": "u000005", "candidates": ITEMS, "time": NOW, "zone": "Asia/Tokyo"}
    ).json()
    assert elsewhere["items"] != content["items"]
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    model = client.get("/model").json()
    assert model["models"][CHAMPION]["variant"] == "matched_clock"
    assert model["problems"] == {}
    text = client.get("/metrics").text
    assert 'clock_rank_answers_total{status="200",variant="matched_clock"}' in text
    assert 'clock_rank_answers_total{status="422"' in text
    assert "clock_rank_seconds_bucket" in text


def test_an_api_key_is_asked_for_where_one_is_set(served: Settings) -> None:
    settings = load_settings(**{**served.model_dump(exclude_unset=True), "serving_key": SecretStr("s3cret")})
    with TestClient(make_app(settings)) as client:
        body = {"user": "u000001", "candidates": ITEMS}
        assert client.post("/rank", json=body).status_code == 401
        assert client.post("/rank", json=body, headers={"x-api-key": "guess"}).status_code == 401
        assert client.post("/rank", json=body, headers={"x-api-key": "s3cret"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert "s3cret" not in client.get("/model").text + client.get("/metrics").text


def test_no_champion_is_a_503_with_a_reason(served: Settings) -> None:
    open_registry(served).client.delete_registered_model_alias("simulator-ranker", CHAMPION)
    with TestClient(make_app(served)) as client:
        assert client.get("/ready").status_code == 503
        answer = client.post("/rank", json={"user": "u000001", "candidates": ITEMS})
        assert answer.status_code == 503
        assert "no champion yet" in answer.json()["error"]
        assert client.get("/health").status_code == 200


def test_too_many_at_once_are_refused_and_slow_ones_given_up(served: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        **{
            **served.model_dump(exclude_unset=True), "serving_threads": 1, "serving_queue": 2,
            "serving_timeout_ms": 300,
        }
    )  # fmt: skip
    app = make_app(settings)
    with TestClient(app) as client:
        release = threading.Event()
        rank = app.state.service.engine.rank_many

        def slow(requests: Any) -> Any:
            release.wait(10)
            return rank(requests)

        app.state.service.engine.rank_many = slow
        statuses: Counter[int] = Counter()

        def ask() -> None:
            statuses[client.post("/rank", json={"user": "u000001", "candidates": ITEMS}).status_code] += 1

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == {504: 3, 503: 5}
        release.set()
        until(lambda: not app.state.service.pending)
        ask()
        assert statuses[200] == 1


@pytest.mark.parametrize(("failing", "together"), [(None, [1, 4, 1]), ("u000003", [1, 4, 1, 1, 1, 1, 1])])
def test_requests_that_wait_are_ranked_together_and_one_that_fails_fails_alone(
    served: Settings, failing: str | None, together: list[int]
) -> None:
    settings = load_settings(**{**served.model_dump(exclude_unset=True), "serving_threads": 1, "serving_together": 4})
    users, app = [f"u{n:06d}" for n in range(1, 7)], make_app(settings)
    with TestClient(app) as client:
        engine, sizes, release = app.state.service.engine, [], threading.Event()
        rank_many = engine.rank_many

        def ask(user: str) -> httpx.Response:
            return client.post("/rank", json={"user": user, "candidates": ITEMS})

        alone = {user: ask(user).json()["items"] for user in users}

        def noted(requests: Any) -> Any:
            sizes.append(len(requests))
            release.wait(10)
            if failing in {request.user for request in requests}:
                raise NoChampionError("there is none for this one")
            return rank_many(requests)

        engine.rank_many = noted
        with ThreadPoolExecutor(len(users)) as pool:
            asked = []
            for number, user in enumerate(users, 1):  # the first of them keeps the only thread busy
                asked.append(pool.submit(ask, user))
                until(lambda number=number: app.state.service.pending == number)  # type: ignore[misc]
            release.set()
            answers = {user: answer.result() for user, answer in zip(users, asked, strict=True)}
        assert sizes == together
        assert {user for user, answer in answers.items() if answer.status_code == 503} == {failing} - {None}
        for user in {*users} - {failing}:
            assert [row["item"] for row in answers[user].json()["items"]] == [row["item"] for row in alone[user]]


@contextmanager
def load(url: str, clients: int = 3) -> Iterator[list[tuple[int, str | None, str]]]:
    """Requests one after the other from a few clients: what each got (status, degraded, version), for the block's length."""
    seen: list[tuple[int, str | None, str]] = []
    stop = threading.Event()

    def run(number: int) -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            n = 0
            while not stop.is_set():
                body = {"user": f"u{(number * 37 + n) % 120:06d}", "candidates": ITEMS, "time": NOW}
                answer = client.post("/rank", json=body)
                content = answer.json()
                if answer.status_code != 200 or content["user_known"]:  # a stranger has no features to miss
                    seen.append(
                        (answer.status_code, content.get("degraded"), content.get("model", {}).get("version", ""))
                    )
                n += 1
                time.sleep(0.01)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(check: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that a busy machine does not make late: what is tested is not speed."""
    monkeypatch.setenv("CLOCK_SERVING_FEATURE_MS", "3000")
    monkeypatch.setenv("CLOCK_SERVING_TIMEOUT_MS", "15000")


def test_a_new_champion_takes_over_under_load_without_a_failed_request(served: Settings, patient: None) -> None:
    settings = load_settings(
        **{**served.model_dump(exclude_unset=True), "serving_port": free_port(), "serving_refresh_seconds": 0.5}
    )
    models = open_registry(settings)
    old, new = str(models.get(CHAMPION).version), str(models.get(CHALLENGER).version)  # type: ignore[union-attr]
    with running(settings, [serving_service(settings)]):
        url = f"http://127.0.0.1:{settings.serving_port}"
        with load(url) as seen:
            until(lambda: len(seen) > 30)
            models.move(CHAMPION, new, "a swap under load")
            until(lambda: bool(seen) and seen[-1][2] == new)
            after = len(seen)
            until(lambda: len(seen) > after + 30)
    assert {status for status, *_ in seen} == {200}
    assert {degraded for _, degraded, _ in seen} == {None}
    assert {version for *_, version in seen} == {old, new}


def test_redis_stopped_and_started_under_load(served: Settings, tmp_path: Path, patient: None) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as (address, process):
        settings = load_settings(
            **{
                **served.model_dump(exclude_unset=True), "online_store": "redis", "redis_url": address,
                "serving_port": free_port(), "serving_refresh_seconds": 0.5,
            }
        )  # fmt: skip
        Materialization(ClockFeatures(settings, EventStore(settings.events_dir))).materialize_all(UNTIL)
        environment = {"CLOCK_ONLINE_STORE": "redis", "CLOCK_REDIS_URL": address}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with (
                running(settings, [serving_service(settings)]),
                load(f"http://127.0.0.1:{settings.serving_port}") as seen,
            ):
                until(lambda: len(seen) > 30)
                assert {degraded for _, degraded, _ in seen} == {None}
                process.terminate()
                until(lambda: len(seen) > 60 and all(degraded for _, degraded, _ in seen[-40:]))
                away = len(seen) - 40
                with redis_server(folder, int(address.split(":")[1])):
                    again = ClockFeatures(settings, EventStore(settings.events_dir))
                    Materialization(again).materialize_all(UNTIL)
                    recovered = len(seen) + 30
                    until(lambda: len(seen) > recovered and not any(degraded for _, degraded, _ in seen[-30:]))
    assert {status for status, *_ in seen} == {200}
    reasons = {degraded for _, degraded, _ in seen[away : away + 40]}
    assert all(str(reason).startswith("popularity: the feature store") for reason in reasons)
