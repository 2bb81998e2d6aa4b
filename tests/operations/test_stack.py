"""The production stack, natively: every service of docker/compose.yaml with its own command, environment and secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from core.ports import free_port
from core.settings import ROOT
from operations.airflow_driver import HOURLY
from operations.processes import wait_for
from operations.users import ROLES
from simulation.config import SimulatorConfig
from tests.conftest import SMALL_POLICY, webhook, write_app
from tests.operations.airflow_client import AirflowClient
from tests.operations.stack import ORDER, Stack, base, proxy
from tests.servers import HTTP, answers, process

pytestmark = pytest.mark.slow

APP = SimulatorConfig(days=4, users=150, items=80, experiment={"start_day": 2}, dirt={"damaged": 0.01, "late": 0.02})
TAKEOVER = APP.first_hour + 60
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("nginx is not installed (make services)")
    with base(tmp_path_factory.mktemp("stack")) as stack, ExitStack() as services:
        done = stack.run("init", "-m", "operations", "init")
        assert done.returncode == 0, done.stderr[-3000:]
        write_app(stack.state / "simulator", APP, SMALL_POLICY)
        done = stack.run("airflow-worker", "-m", "pipeline", "setup", "simulated")
        assert done.returncode == 0, done.stderr[-3000:]
        stack.up(ORDER, services)
        yield stack


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with proxy(stack) as url:
        yield url


@pytest.fixture(scope="module")
def admin(stack: Stack, url: str) -> AirflowClient:
    return AirflowClient(url, "admin", stack.secret("airflow_admin"))


@pytest.fixture(scope="module")
def finished_workspace(stack: Stack, url: str, admin: AirflowClient) -> Path:
    """The history, one hour and a day's reports, by DAG runs on the Celery worker; a champion by hand: the workspace."""
    assert admin.trigger("build_history", conf={"until": TAKEOVER.key}) == 200
    assert admin.finished("build_history") == "success", stack.logs("build_history")
    assert admin.trigger("ingest_hour", partition=TAKEOVER.key) == 200
    for dag in HOURLY:
        assert admin.finished(dag) == "success", stack.logs(dag)
    champion = {"name": "simulator-ranker", "alias": "champion", "version": "2"}
    login = ("admin", stack.secret("mlflow_admin"))
    api = f"{url}/mlflow/api/2.0/mlflow/registered-models/alias"
    assert httpx.post(api, json=champion, auth=login, verify=False).status_code == 200
    assert admin.trigger("report_day", conf={"day": "2026-03-03"}) == 200
    assert admin.finished("report_day") == "success", stack.logs("report_day")
    return stack.state / "simulator"


@pytest.fixture(scope="module")
def people(stack: Stack) -> None:
    for role in ROLES:
        done = stack.operations("users", "set", role, "--role", role, stdin=PASSWORD + "\n")
        assert done.returncode == 0, done.stderr[-2000:]


def test_the_hourly_dags_complete_on_celery_postgresql_redis_and_the_object_store(
    stack: Stack, finished_workspace: Path
) -> None:
    assert json.loads((finished_workspace / "features" / "state.json").read_text())["as_of"] == (TAKEOVER + 1).key
    assert not list(finished_workspace.rglob("mlflow.db")), "MLflow is in PostgreSQL"
    assert not (finished_workspace / "feast" / "online.db").exists(), "online features are in Redis"
    url = f"postgresql://postgres:{stack.secret('postgres_admin')}@{stack.hosts['postgres:5432']}"
    with psycopg.connect(f"{url}/mlflow") as connection:
        versions = connection.execute("SELECT count(*) FROM model_versions").fetchone()
        stored = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name LIKE 'simulator/%'"
        ).fetchall()
    assert versions is not None
    assert versions[0] >= 3
    assert all(row[0].startswith("mlflow-artifacts:/") for row in stored)
    with psycopg.connect(f"{url}/airflow") as connection:
        executors = connection.execute("SELECT DISTINCT executor FROM task_instance WHERE state = 'success'").fetchall()
        queues = connection.execute("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'").fetchone()
    assert executors
    assert queues is not None
    assert queues[0] >= 8, "tasks ran as Celery tasks"


def test_init_may_be_repeated(stack: Stack, finished_workspace: Path) -> None:
    before = sorted(p.name for p in finished_workspace.iterdir())
    done = stack.operations("init")
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in finished_workspace.iterdir()) == before


@pytest.mark.usefixtures("finished_workspace")
def test_ranking_needs_the_key_and_answers_with_the_champion(stack: Stack, url: str) -> None:
    body = {"user": "u000001", "candidates": ["t000001", "t000002"], "time": (TAKEOVER + 1).start.isoformat()}
    end = time.monotonic() + 60
    while True:
        assert httpx.post(f"{url}/rank", json=body, verify=False).status_code == 401
        key = {"X-API-Key": stack.secret("serving_key")}
        answer = httpx.post(f"{url}/rank", json=body, headers=key, verify=False, timeout=30)
        if answer.status_code == 200 or time.monotonic() > end:
            break
        time.sleep(2)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["items"]) == 2
    assert not answer.json().get("degraded"), answer.text


@pytest.mark.usefixtures("finished_workspace", "people")
def test_everybody_may_do_what_their_role_says_and_no_more(stack: Stack, url: str) -> None:
    assert httpx.get(f"{url}/clock-reports/index.html", verify=False).status_code == 401
    assert httpx.get(f"{url}/clock-reports/clock", verify=False).status_code == 401
    assert httpx.post(f"{url}/clock-reports/clock", data={"user": "u000001"}, verify=False).status_code == 401
    assert httpx.get(f"{url}/api/v2/dags", verify=False).status_code == 401
    assert httpx.get(f"{url}/execution/health", verify=False).status_code == 404
    may = {
        "viewer": {"read"}, "analyst": {"read", "report", "experiment"},
        "operator": {"read", "report", "experiment", "run", "promote"}, "admin": {"read", "report", "experiment", "run", "promote"},
    }  # fmt: skip
    for role in ROLES:
        person = AirflowClient(url, role, PASSWORD)
        look_ups = (
            person.client.get("/clock-reports/clock"),
            person.client.post("/clock-reports/clock", data={"user": "nobody at all"}),
        )
        assert [look_up.status_code for look_up in look_ups] == ([403, 403] if role == "viewer" else [200, 404]), role
        page = person.client.get("/clock-reports/index.html")
        assert page.status_code == 200
        assert "sandbox" in page.headers["content-security-policy"]
        for way_out in ("../source.json", "%2e%2e/source.json", "..%2fsource.json", "ab/..%2f..%2fsource.json"):
            assert "simulated" not in person.client.get(f"/clock-reports/{way_out}").text, way_out
        allowed = {"read"} if person.client.get("/api/v2/dags").status_code == 200 else set()
        if person.trigger("report_experiments", conf={"first": "2026-03-03", "last": "2026-03-03"}) == 200:
            allowed.add("report")
        change = {"experiment": "none", "action": "stop", "why": "a test of roles"}
        if person.trigger("change_experiment", conf=change) == 200:
            allowed.add("experiment")
        if person.trigger("rollback_champion", conf={"reason": "a test of roles", "version": "999999"}) == 200:
            allowed.add("run")
        alias = {"name": "simulator-ranker", "alias": f"seen-by-{role}", "version": "1"}
        login = (role, PASSWORD)
        api = f"{url}/mlflow/api/2.0/mlflow/registered-models"
        got = httpx.get(f"{api}/get?name=simulator-ranker", auth=login, verify=False)
        assert got.status_code == 200, got.text
        if httpx.post(f"{api}/alias", json=alias, auth=login, verify=False).status_code == 200:
            allowed.add("promote")
        assert allowed == may[role], role
    assert httpx.get(f"{api}/get?name=simulator-ranker", auth=("viewer", "wrong"), verify=False).status_code == 401
    listed = stack.operations("users", "list").stdout
    rows = [line.split() for line in listed.splitlines()]  # Airflow's own warnings are among them
    assert {row[0]: row[1] for row in rows if len(row) == 2} == {r: r for r in ROLES}


@pytest.mark.usefixtures("people")
def test_a_person_can_be_changed_and_removed(stack: Stack, url: str) -> None:
    wrong = (
        (("set", "x", "--role", "viewer"), PASSWORD, "user name"),
        (("set", "temp", "--role", "king"), PASSWORD, "choose from"),
        (("set", "temp", "--role", "viewer"), "short", "at least 12"),
        (("remove", "nobody"), "", "no user"),
        (("remove", "interest-clock"), "", "own login"),
    )
    for role, password in (("viewer", PASSWORD), ("analyst", "another password")):
        done = stack.operations("users", "set", "temp", "--role", role, stdin=password + "\n")
        assert done.returncode == 0, done.stderr
    for arguments, stdin, word in wrong:
        done = stack.operations("users", *arguments, stdin=stdin + "\n")
        assert done.returncode == 2, arguments
        assert word in done.stderr, (arguments, done.stderr[-500:])
    refused = httpx.post(f"{url}/auth/token", json={"username": "temp", "password": PASSWORD}, verify=False)
    assert refused.status_code == 401
    AirflowClient(url, "temp", "another password")
    assert stack.operations("users", "remove", "temp").returncode == 0
    refused = httpx.post(f"{url}/auth/token", json={"username": "temp", "password": "another password"}, verify=False)
    assert refused.status_code == 401


def test_no_secret_is_written_anywhere_but_where_it_must(stack: Stack, finished_workspace: Path, people: None) -> None:
    """Secrets are random, so each is its own canary: looked for in logs, state, reports and every database."""
    del people
    canaries = {p.name: p.read_text().strip().encode() for p in stack.secrets.iterdir() if p.name[:3] != "tls"}
    canaries = {name: value for name, value in canaries.items() if value}
    allowed = {("mlflow_auth_db", "logins.ini")}  # MLflow reads it from nowhere else; for the owner only
    written = set()
    for path in [
        p
        for root in (stack.folder / "logs", finished_workspace, stack.folder / "nginx")
        for p in root.rglob("*")
        if p.is_file()
    ]:
        content = path.read_bytes()
        written |= {(name, path.name) for name, value in canaries.items() if value in content}
    assert written == allowed
    assert (finished_workspace / "mlflow" / "logins.ini").stat().st_mode & 0o077 == 0
    program = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dumpall"))[-1]
    host, port = stack.hosts["postgres:5432"].split(":")
    login = {"PGPASSWORD": canaries["postgres_admin"].decode()}
    dump = subprocess.run([program, "-h", host, "-p", port, "-U", "postgres"], env={**os.environ, **login},
                          capture_output=True, check=True).stdout  # fmt: skip
    assert len(dump) > 100_000
    assert [name for name, value in canaries.items() if value in dump] == []


@contextmanager
def alertmanager(folder: Path, address: str) -> Iterator[list[dict[str, Any]]]:
    """Alertmanager with the stack's settings, at once: what it posts to a webhook. Debian's knows no ``url_file`` yet."""
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("Alertmanager is not installed (make services)")
    with webhook() as (url, posted):
        text = (folder / "alertmanager.yml").read_text().replace("group_wait: 30s", "group_wait: 1s")
        assert "url_file: /etc/alertmanager/webhook_url" in text
        config = folder / "alertmanager-here.yml"
        config.write_text(text.replace("url_file: /etc/alertmanager/webhook_url", f"url: {url}"))
        command = [program, f"--config.file={config}", f"--storage.path={folder}/alertmanager",
                   f"--web.listen-address={address}", "--cluster.listen-address="]  # fmt: skip

        with process(command, folder / "alertmanager.log", partial(answers, f"http://{address}/-/ready")):
            yield posted


@pytest.mark.usefixtures("finished_workspace")
def test_prometheus_reads_the_stack_and_every_rule_and_panel_finds_its_metrics(stack: Stack) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (make services)")
    folder = stack.folder / "prometheus"
    shutil.copytree(ROOT / "docker" / "prometheus", folder)
    alerts = f"127.0.0.1:{free_port()}"
    rules_file = folder / "alerts.yml"
    rules_file.write_text(re.sub(r"for: \d+[mh]", "for: 1s", rules_file.read_text()))
    config = stack.local((folder / "prometheus.yml").read_text()).replace("/etc/prometheus", str(folder))
    config = config.replace("alertmanager:9093", alerts)
    config = config.replace("scrape_interval: 30s", "scrape_interval: 5s").replace(
        "scrape_timeout: 25s", "scrape_timeout: 5s"
    )
    (folder / "prometheus.yml").write_text(config.replace("scrape_interval: 15s", "scrape_interval: 5s"))
    port = free_port()
    api = f"http://127.0.0.1:{port}/api/v1"

    def query(expression: str) -> list[dict[str, Any]]:
        response = HTTP.get(f"{api}/query", params={"query": expression})
        if response.is_server_error:  # Prometheus answers 503 in plain text until it has read its write-ahead log
            response.raise_for_status()
        answer = response.json()
        assert answer["status"] == "success", (expression, answer)
        return list(answer["data"]["result"])

    def ready() -> bool:
        try:
            return len(query("up == 1")) == 2 and bool(query("clock_features_until_seconds"))
        except (httpx.HTTPError, AssertionError):
            return False

    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with alertmanager(folder, alerts) as posted, process(command, folder / "log", ready):
        rules = HTTP.get(f"{api}/rules").json()["data"]["groups"]
        assert sum(len(g["rules"]) for g in rules) >= 20
        known = set(HTTP.get(f"{api}/label/__name__/values").json()["data"])
        texts = [r["query"] for g in rules for r in g["rules"]]
        for path in (ROOT / "docker" / "grafana" / "dashboards").glob("*.json"):
            panels = json.loads(path.read_text())["panels"]
            texts += [t["expr"] for panel in panels for t in panel.get("targets", [])]
        assert len(texts) > 30
        for text in texts:
            query(text.replace("$__rate_interval", "1m"))
            assert set(re.findall(r"clock_\w+", text)) <= known | LATER, text
        assert query("clock_events_missing_hours")[0]["value"][1] == "0"
        assert {r["metric"]["part"]: r["value"][1] for r in query("clock_airflow_up")} == {
            "airflow-scheduler": "1", "airflow-dag-processor": "1", "airflow-triggerer": "1",
        }  # fmt: skip
        assert query("clock_unread > 0") == []
        wait_for(lambda: bool(posted), "an alert to reach the webhook", 120)
        names = {alert["labels"]["alertname"] for post in posted for alert in post["alerts"]}
        assert names <= {r["name"] for g in rules for r in g["rules"]}


LATER = {
    "clock_drift_share", "clock_events_quarantined", "clock_experiments", "clock_rank_degraded_total",
    "clock_stream_seen_seconds", "clock_stream_problem", "clock_stream_withheld",
}  # fmt: skip
"""Metrics that have no value before the first drift report, bad row, experiment or degraded answer, or without a lane."""


@pytest.mark.usefixtures("finished_workspace")
def test_the_doctor_is_content_and_names_what_is_gone(stack: Stack) -> None:
    done = stack.operations("doctor", "--json")
    findings = {f["check"]: f for f in json.loads(done.stdout)}
    assert [f for f in findings.values() if f["status"] == "failed"] == [], done.stdout
    assert done.returncode == 0
    assert {
        "database airflow",
        "database feast",
        "redis",
        "object store",
        "mlflow's logins",
        "airflow-scheduler",
    } <= set(findings)
    assert findings["mlflow"]["status"] == "ok", findings["mlflow"]
    nowhere = "127.0.0.1:9"
    broken = {"CLOCK_REDIS_URL": nowhere, "CLOCK_POSTGRES": nowhere, "CLOCK_OBJECT_STORE": f"http://{nowhere}"}
    done = stack.operations("doctor", **broken)
    assert done.returncode == 2
    for words in ("FAILED   redis", "FAILED   database airflow", "FAILED   object store", "is PostgreSQL running"):
        assert words in done.stdout, done.stdout


def test_a_backup_is_restored_to_the_same_state(stack: Stack, finished_workspace: Path) -> None:
    """Onto the same servers: the databases go back to what they were, the workspace to the same bytes."""
    from core.settings import load_settings
    from operations.fingerprint import fingerprint

    settings = load_settings(var=stack.state, source="simulator")
    before = fingerprint(settings)
    done = stack.operations("backup", str(stack.folder / "backups"))
    assert done.returncode == 0, done.stderr[-2000:]
    backup = Path(json.loads(done.stdout.splitlines()[-1])["backup"])
    assert {p.name for p in backup.iterdir()} == {
        "manifest.json", "workspace.tar.gz", "airflow.dump", "mlflow.dump", "mlflow_auth.dump", "feast.dump", "forgotten.json",
    }  # fmt: skip
    refused = stack.operations("restore", str(backup))
    assert refused.returncode == 2
    assert "is not empty" in refused.stderr
    url = f"postgresql://postgres:{stack.secret('postgres_admin')}@{stack.hosts['postgres:5432']}/mlflow"
    count = "SELECT count(*), max(version) FROM model_versions"
    with psycopg.connect(url) as connection:
        expected = connection.execute(count).fetchone()
        connection.execute("DELETE FROM model_version_tags")
        connection.execute("DELETE FROM registered_model_aliases")
    finished_workspace.rename(finished_workspace.with_name("simulator.lost"))
    done = stack.operations("restore", str(backup))
    assert done.returncode == 0, done.stderr[-2000:]
    assert fingerprint(settings) == before
    with psycopg.connect(url) as connection:
        assert connection.execute(count).fetchone() == expected
        aliases = connection.execute("SELECT count(*) FROM registered_model_aliases").fetchone()
    assert aliases is not None
    assert aliases[0] >= 2
