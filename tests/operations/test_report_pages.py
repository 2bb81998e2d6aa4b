"""The report pages within Airflow: what waits there on the first page, and the clock of any user for those who may see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from core.ports import free_port
from core.settings import Settings, load_settings
from events.ids import log_ids
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from operations.processes import running
from operations.services import airflow_services, migrate_airflow
from pages.clocks import write_clock_page
from pages.index import write_index
from pipeline.forgetting import digest_of, forget
from tests.browser import draw_charts, fits_every_screen
from tests.conftest import TINY

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from sqlalchemy.orm import Session

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
BASE = "http://airflow"


@pytest.fixture
def session() -> Iterator[Session]:
    """Airflow's tables in memory, empty."""
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session as NewSession

    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with NewSession(engine) as opened:
        yield opened


class AirflowRows:
    """Rows of Airflow's tables, written as its scheduler would leave them."""

    def __init__(self, session: Session) -> None:
        self.session, self.count = session, 0

    def insert(self, model: Any, **values: Any) -> None:
        from sqlalchemy import insert

        self.session.execute(insert(model).values(**values))

    def run(
        self, dag_id: str, state: str, hours_ago: float, partition: str | None = None, failed: tuple[str, ...] = ()
    ) -> str:
        from airflow.models.dagrun import DagRun

        self.count += 1
        run_id, end = f"run {self.count}", NOW - timedelta(hours=hours_ago)
        self.insert(
            DagRun, dag_id=dag_id, run_id=run_id, state=state, end_date=end, run_after=end, partition_key=partition, run_type="manual",
            log_template_id=1,
        )  # fmt: skip
        for task_id in failed:
            self.task(dag_id, run_id, task_id, "failed")
        return run_id

    def task(
        self, dag_id: str, run_id: str, task_id: str, state: str | None, question: str = "", answered: bool = False
    ) -> None:
        from uuid import uuid4

        from airflow.models.hitl import HITLDetail
        from airflow.models.taskinstance import TaskInstance

        key = uuid4()
        self.insert(
            TaskInstance, id=key, dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=-1, state=state, pool="default_pool",
            pool_slots=1, try_number=1,
        )  # fmt: skip
        if question:
            self.insert(
                HITLDetail, ti_id=key, subject=question, options=["Approve"], created_at=NOW - timedelta(hours=2), params={},
                params_input={}, responded_at=NOW if answered else None,
            )  # fmt: skip


DAGS = ("promote_ranker", "train_ranker", "rollback_champion")


def test_what_waits_in_airflow_are_open_questions_and_failures_that_nothing_made_up_for(session: Session) -> None:
    from airflow.models.errors import ParseImportError

    from operations.airflow_needs import airflow_needs

    rows = AirflowRows(session)
    waits = rows.run("promote_ranker", "running", 0, "2026-03-09T10")
    rows.task("promote_ranker", waits, "approve", "awaiting_input", "Promote version 7?")
    answered = rows.run("promote_ranker", "success", 3, "2026-03-09T08")
    rows.task("promote_ranker", answered, "approve", "success", "Promote version 6?", answered=True)
    given_up = rows.run("promote_ranker", "success", 3, "2026-03-09T07")
    rows.task("promote_ranker", given_up, "approve", "skipped", "Promote version 5?")
    rows.run("train_ranker", "failed", 5, "2026-03-09T05", failed=("train", "log"))
    rows.run("train_ranker", "failed", 8, "2026-03-09T02")
    rows.run("train_ranker", "success", 7, "2026-03-09T02")  # the same hour again
    rows.run("train_ranker", "success", 4, "2026-03-09T06")  # another hour makes up for nothing
    rows.run("train_ranker", "failed", 24 * 8, "2026-03-01T02")  # long ago
    rows.run("rollback_champion", "failed", 2)
    rows.run("secret_dag", "failed", 1)
    rows.insert(
        ParseImportError,
        timestamp=NOW,
        filename="dags/broken.py",
        stacktrace="Traceback\n  File x\nNameError: name 'x'\n",
    )
    session.commit()
    needs = airflow_needs(session, DAGS, BASE, NOW)
    assert [(need.subject, need.text) for need in needs] == [
        ("promote_ranker: approve", "Promote version 7?"),
        ("dags/broken.py", "its DAGs cannot be read: NameError: name 'x'"),
        ("rollback_champion", "run 9 failed"),
        ("train_ranker", "2026-03-09T05 failed in log, train"),
    ]
    assert needs[0].link == f"{BASE}/dags/promote_ranker/runs/run%201/tasks/approve/required_actions"
    rows.run("rollback_champion", "success", 1)  # without partitions any later success counts
    assert [need.subject for need in airflow_needs(session, DAGS, BASE, NOW)][2:] == ["train_ranker"]


def test_what_a_page_says_of_airflow_is_replaced_and_escaped(tmp_path: Path) -> None:
    from operations.airflow_needs import AirflowNeed
    from operations.report_server import with_needs

    settings = load_settings(var=tmp_path, source="app")
    written = Path(write_index(settings)).read_text()
    assert "served by Airflow" in written
    page = with_needs(written, [AirflowNeed("a_dag", "<script>alert(1)</script>", f"{BASE}/x", NOW)], NOW)
    assert "served by Airflow" not in page
    assert "Airflow: 1" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "nothing waits for a person" in with_needs(written, [], NOW)


@dataclass(frozen=True)
class Served:
    """A workspace with Airflow's server, which is all of Airflow that runs."""

    settings: Settings
    features: ClockFeatures

    @property
    def base(self) -> str:
        return f"{self.settings.airflow_base}/clock-reports"

    def login(self) -> httpx.Client:
        token = httpx.get(f"{self.settings.airflow_base}/auth/token").json()["access_token"]
        return httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=90)

    def name(self, user: int) -> str:
        return log_ids(self.features.events.root, "user", [user])[user]


@pytest.fixture(scope="module")
def served(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = load_settings(
        var=tmp_path_factory.mktemp("reports") / "var", source="simulator", airflow_port=free_port(), reports_port=free_port()
    )  # fmt: skip
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    advance(settings, TINY.first_hour + 60)
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    write_clock_page(features, None)
    write_index(settings)
    migrate_airflow(settings)
    (server, *_) = airflow_services(settings)
    with ExitStack() as stack:
        stack.enter_context(running(settings, [server]))
        yield Served(settings, features)


@pytest.mark.slow
def test_the_first_page_of_airflows_server_says_what_waits_there(served: Served) -> None:
    with served.login() as client:
        page = client.get(f"{served.base}/index.html")
        assert "Airflow: nothing waits for a person" in page.text
        assert "sandbox" in page.headers["content-security-policy"]
        assert "Is everything fresh?" in page.text


@pytest.mark.slow
def test_anybodys_clock_is_drawn_in_the_browser_logged_and_not_kept(
    served: Served, chromium: Browser, tmp_path: Path
) -> None:
    settings, user = served.settings, served.features.most_active(40)[-1]
    name = served.name(user)
    pages_before = sorted(settings.reports_dir.rglob("*"))
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.goto(f"{served.base}/index.html")
    page.get_by_role("link", name="The clock of any user").click()
    page.get_by_label("Id of the user").fill("nobody at all")
    page.get_by_role("button", name="Draw the clock").click()
    assert "Nobody with this id" in page.get_by_role("alert").inner_text()
    page.get_by_label("Id of the user").fill(f"  {name} ")
    page.get_by_role("button", name="Draw the clock").click()
    page.get_by_role("heading", name=f"Interest clock of user {name}").wait_for()
    draw_charts(page)
    assert page.url == f"{served.base}/clock"  # no id in the address, nor in any log of addresses
    drawn = tmp_path / "clock.html"
    drawn.write_text(page.content())
    assert sorted(settings.reports_dir.rglob("*")) == pages_before
    page.get_by_role("link", name="Everybody's clock").click()
    page.get_by_role("heading", name="Interest clock of everybody").wait_for()
    page.get_by_role("link", name="All reports").click()
    page.get_by_role("heading", name="Interest Clock", exact=True).wait_for()
    page.get_by_role("link", name="The clock of any user").click()
    page.get_by_role("heading", name="The clock of a user").wait_for()
    context.close()
    with served.login() as client:
        events = client.get(
            f"{settings.airflow_base}/api/v2/eventLogs?event=clock_of_user&order_by=event_log_id"
        ).json()["event_logs"]
        digests = [json.loads(event["extra"])["user_digest"] for event in events]
        assert digests[-1] == digest_of(settings, name)
        assert all(event["owner"] for event in events)
        for text in (
            json.dumps(events),
            *(log.read_text() for log in settings.workspace.rglob("airflow-api-server*.log")),
        ):
            assert name not in text


@pytest.mark.slow
def test_the_form_fits_every_screen_and_refuses_what_is_no_id(
    served: Served, chromium: Browser, tmp_path: Path
) -> None:
    with served.login() as client:
        form = client.get(f"{served.base}/clock")
        assert form.headers["cache-control"] == "no-store"
        assert "script" not in form.headers["content-security-policy"].replace("default-src 'none'", "")
        for strange in ("", " \t", "a\nb", "x\x00y"):
            answer = client.post(f"{served.base}/clock", data={"user": strange})
            assert answer.status_code == 422, strange
            assert "Give the id of a user" in answer.text
        assert client.post(f"{served.base}/clock", data={"user": "x" * 201}).status_code == 422
        for other in ("everyone", "-", "--help", "../../etc/passwd", "<b>"):
            answer = client.post(f"{served.base}/clock", data={"user": other})
            assert answer.status_code == 404, other
            assert "Nobody with this id" in answer.text
    (tmp_path / "form.html").write_text(form.text)
    fits_every_screen(chromium, tmp_path / "form.html")


@pytest.mark.slow
def test_nobody_sees_the_clock_of_a_forgotten_person_again(served: Served) -> None:
    user = served.features.most_active(1)[0]
    name = served.name(user)
    written = write_clock_page(served.features, user)
    with served.login() as client:
        answer = client.post(f"{served.base}/clock", data={"user": name})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert "sandbox" in answer.headers["content-security-policy"]
        forget(served.settings, [name])
        assert not written.exists()
        assert client.post(f"{served.base}/clock", data={"user": name}).status_code == 404
        listed = client.get(f"{served.base}/clocks/index.html").text
    assert name not in listed
