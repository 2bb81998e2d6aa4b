"""The production stack in containers: the image of docker/Dockerfile, the core profile of docker/compose.yaml itself."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from operations.airflow_driver import HOURLY
from operations.prepare import IMAGE_USER
from simulation.config import SimulatorConfig
from tests.conftest import SMALL_POLICY, write_app
from tests.operations.airflow_client import AirflowClient
from tests.operations.containers import Containers, build_images, engine_missing, give_to_containers, prepared
from tests.operations.stack import ORDER

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason := engine_missing()), reason=reason)]

APP = SimulatorConfig(days=4, users=150, items=80, experiment={"start_day": 2}, dirt={"damaged": 0.01, "late": 0.02})
TAKEOVER = APP.first_hour + 60


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    begun = time.monotonic()
    print(build_images())
    built = time.monotonic()
    settings = {
        "CLOCK_VARIANTS": '["hour_embedding","matched_clock"]',
        "CLOCK_IMAGE": "localhost/interest-clock:latest",
    }
    stack = prepared(tmp_path_factory.mktemp("containers"), f"clock-test-{uuid.uuid4().hex[:8]}", settings)
    write_app(stack.state / "simulator", APP, SMALL_POLICY)
    give_to_containers(stack.state)
    for folder in (stack.folder, *stack.folder.parents):  # pytest's folders are closed to others
        if not os.access(folder, os.X_OK) or folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    try:
        stack.compose("up", "-d", "--no-build")
        stack.wait_until_healthy()
        print(f"images {built - begun:.0f} s, up and healthy {time.monotonic() - built:.0f} s")
        yield stack
    finally:
        with suppress(AssertionError):
            stack.compose("down", "-v", "-t", "5")


@pytest.fixture(scope="module")
def admin(stack: Containers) -> AirflowClient:
    return AirflowClient(stack.url, "admin", stack.secret("airflow_admin"))


@pytest.fixture(scope="module")
def finished_workspace(stack: Containers, admin: AirflowClient) -> Path:
    """Set-up in the worker, the history, an hour and a day's reports by DAG runs, a champion by hand: the workspace."""
    done = stack.run("airflow-worker", "clock", "setup", "simulated")
    assert done.returncode == 0, done.stdout + done.stderr
    assert admin.trigger("build_history", conf={"until": TAKEOVER.key}) == 200
    assert admin.finished("build_history") == "success", stack.task_logs("build_history")
    assert admin.trigger("ingest_hour", partition=TAKEOVER.key) == 200
    for dag in HOURLY:
        assert admin.finished(dag) == "success", stack.task_logs(dag)
    promote(stack, "2")
    assert admin.trigger("report_day", conf={"day": "2026-03-03"}) == 200
    assert admin.finished("report_day") == "success", stack.task_logs("report_day")
    return stack.state / "simulator"


def promote(stack: Containers, version: str) -> None:
    champion = {"name": "simulator-ranker", "alias": "champion", "version": version}
    answer = httpx.post(f"{stack.url}/mlflow/api/2.0/mlflow/registered-models/alias", json=champion, verify=False,
                        auth=("admin", stack.secret("mlflow_admin")))  # fmt: skip
    assert answer.status_code == 200, answer.text


def ranked(stack: Containers) -> dict[str, object]:
    """An answer of the ranking service through the proxy, once it has the champion and its features."""
    body = {"user": "u000001", "candidates": ["t000001", "t000002"], "time": (TAKEOVER + 1).start.isoformat()}
    key = {"X-API-Key": stack.secret("serving_key")}
    end = time.monotonic() + 60
    while True:
        answer = httpx.post(f"{stack.url}/rank", json=body, headers=key, verify=False, timeout=30)
        if (answer.status_code == 200 and not answer.json()["degraded"]) or time.monotonic() > end:
            break
        time.sleep(1)
    assert answer.status_code == 200, answer.text
    assert not answer.json()["degraded"], answer.text
    return {name: value for name, value in answer.json().items() if name != "request_id"}


def test_containers_run_as_the_file_says(stack: Containers) -> None:
    """User, capabilities, file system, secrets and published ports, seen from inside."""
    for name in (*ORDER, "proxy"):
        status = dict(line.split(":\t") for line in stack.run(name, "cat", "/proc/1/status").stdout.splitlines())
        assert set(status["Uid"].split()) == {str(IMAGE_USER)}, name
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, name
        assert status["NoNewPrivs"].strip() == "1", name
    for name, service in stack.services.items():
        if name == "init":
            continue
        refused = stack.run(name, "sh", "-c", "echo x > /etc/written")
        assert "Read-only file system" in refused.stderr, (name, refused)
        assert set(stack.run(name, "ls", "/run/secrets").stdout.split()) == set(service.get("secrets", ())), name
        published = stack.inspect(name)["HostConfig"]["PortBindings"] or {}
        assert bool(published) == (name == "proxy"), name
    for name, user in {"postgres": "postgres", "redis": "redis"}.items():
        assert stack.run(name, "stat", "-c", "%U", "/proc/1").stdout.strip() == user
        assert stack.secret("redis") not in stack.run(name, "sh", "-c", "cat /proc/[0-9]*/cmdline").stdout


def test_only_the_proxy_reaches_outside(stack: Containers) -> None:
    def has_way_out(name: str) -> bool:
        routes = [line.split() for line in stack.run(name, "cat", "/proc/net/route").stdout.splitlines()[1:]]
        assert routes, name
        return any(route[1] == "00000000" for route in routes)

    assert [name for name in stack.services if name != "init" and has_way_out(name)] == ["proxy"]


def test_doors_are_closed_without_a_login(stack: Containers) -> None:
    for path, status in {"/clock-reports/index.html": 401, "/api/v2/dags": 401, "/execution/health": 404}.items():
        assert httpx.get(stack.url + path, verify=False).status_code == status, path
    assert httpx.get(f"{stack.url}/mlflow/api/2.0/mlflow/registered-models/search", verify=False).status_code == 401
    assert httpx.post(f"{stack.url}/rank", json={"user": "u", "candidates": ["t"]}, verify=False).status_code == 401


def test_the_proxy_sends_what_browsers_need_to_protect_a_session(stack: Containers) -> None:
    page = httpx.get(f"{stack.url}/auth/login/", verify=False)
    assert page.status_code == 200
    assert "max-age" in page.headers["strict-transport-security"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["server"] == "nginx", "no version"
    cookies = page.headers.get_list("set-cookie")
    assert cookies
    for cookie in cookies:
        flags = {part.strip().partition("=")[0].lower() for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "samesite"} <= flags, cookie.partition("=")[0]
    foreign = httpx.get(f"{stack.url}/api/v2/dags", verify=False, headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in foreign.headers
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", stack.port)) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)version"),
    ):
        old.wrap_socket(plain)


def test_history_an_hour_and_a_days_reports_go_through_the_proxy(
    stack: Containers, admin: AirflowClient, finished_workspace: Path
) -> None:
    assert json.loads((finished_workspace / "features" / "state.json").read_text())["as_of"] == (TAKEOVER + 1).key
    page = admin.client.get("/clock-reports/index.html")
    assert page.status_code == 200
    assert "sandbox" in page.headers["content-security-policy"]
    model = ranked(stack)["model"]
    assert isinstance(model, dict)
    assert model["version"] == "2"
    doctor = stack.run("airflow-worker", "clock", "ops", "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_a_stop_and_a_start_lose_nothing(stack: Containers, admin: AirflowClient, finished_workspace: Path) -> None:
    """The containers are removed and made anew: what stays is in the volumes and the state's folder."""

    def kept() -> dict[str, object]:
        runs = admin.client.get("/api/v2/dags/~/dagRuns?limit=100&order_by=dag_run_id").json()["dag_runs"]
        auth = ("admin", stack.secret("mlflow_admin"))
        api = f"{stack.url}/mlflow/api/2.0/mlflow"
        versions = httpx.get(f"{api}/model-versions/search", auth=auth, verify=False).json()["model_versions"]
        run_id = versions[0]["run_id"]
        listed = httpx.get(f"{api}/artifacts/list", params={"run_id": run_id}, auth=auth, verify=False).json()
        return {
            "runs": [(r["dag_run_id"], r["state"]) for r in runs if r["state"] == "success"],
            "versions": sorted((v["version"], v["source"]) for v in versions), "artifacts": listed, "answer": ranked(stack),
            "state": (finished_workspace / "features" / "state.json").read_bytes(),
        }  # fmt: skip

    before = kept()
    assert before["runs"]
    assert before["versions"]
    begun = time.monotonic()
    stack.compose("down", "-t", "20")
    stack.compose("up", "-d", "--no-build")
    stack.wait_until_healthy()
    print(f"down, up and healthy {time.monotonic() - begun:.0f} s")
    after = kept()
    assert {k: after[k] for k in after if k != "runs"} == {k: before[k] for k in before if k != "runs"}
    assert set(before["runs"]) <= set(after["runs"])  # type: ignore[call-overload]


def test_guessing_passwords_is_slow(stack: Containers) -> None:
    """Last: this machine's address has used up its logins of the minute."""
    with httpx.Client(base_url=stack.url, verify=False, timeout=60) as client:
        wrong = {"username": "admin", "password": "a wrong password"}
        answers = [client.post("/auth/token", json=wrong).status_code for _ in range(45)]
    assert answers[0] == 401
    assert answers[-1] == 429
