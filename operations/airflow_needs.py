"""What waits for a person in Airflow, read from its database within its own server: approvals, failed runs, unreadable files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from core.documents import one_line

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

FAILED_DAYS = 7
"""Days for which a failed run is told; ``MOST_RUNS``: how many of them."""
MOST_RUNS = 20


@dataclass(frozen=True)
class AirflowNeed:
    """Something in Airflow that a person has to look at.

    Attributes:
        subject: what it is about.
        text: a sentence.
        link: to where Airflow shows it.
        since: when it began.
    """

    subject: str
    text: str
    link: str
    since: datetime | None


def airflow_needs(session: Session, dag_ids: Collection[str], base: str, now: datetime) -> list[AirflowNeed]:
    """What a person has to look at: what waits for an answer first, then files that cannot be read, then failed runs.

    Args:
        session: of Airflow's database.
        dag_ids: DAGs that the reader may see.
        base: address of Airflow's UI.
        now: up to when.
    """
    return [
        *_unanswered(session, dag_ids, base),
        *_unreadable(session, base, now),
        *_failed(session, dag_ids, base, now - timedelta(days=FAILED_DAYS)),
    ]


def _unanswered(session: Session, dag_ids: Collection[str], base: str) -> Iterator[AirflowNeed]:
    """Tasks that wait for a person, the oldest first."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.state import State
    from sqlalchemy import select

    rows = session.execute(
        select(HITLDetail.subject, HITLDetail.created_at, TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id)
        .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
        .where(HITLDetail.responded_at.is_(None), TaskInstance.state.not_in(State.finished), TaskInstance.dag_id.in_(dag_ids))
        .order_by(HITLDetail.created_at)
    )  # fmt: skip
    for subject, since, dag_id, run_id, task_id in rows:
        link = f"{_run_link(base, dag_id, run_id)}/tasks/{task_id}/required_actions"
        yield AirflowNeed(f"{dag_id}: {task_id}", one_line(subject), link, since)


def _unreadable(session: Session, base: str, now: datetime) -> Iterator[AirflowNeed]:
    from airflow.models.errors import ParseImportError
    from sqlalchemy import select

    for error in session.scalars(select(ParseImportError).order_by(ParseImportError.filename)):
        lines = (error.stacktrace or "").strip().splitlines()
        text = f"its DAGs cannot be read: {one_line(lines[-1], 200)}" if lines else "its DAGs cannot be read"
        yield AirflowNeed(error.filename or "a file of DAGs", text, f"{base}/", error.timestamp or now)


def _failed(session: Session, dag_ids: Collection[str], base: str, since: datetime) -> Iterator[AirflowNeed]:
    """Failed runs, the newest first, without those that a later run of the same hour or day made up for.

    Of a DAG without partitions any later run that succeeded does.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.state import DagRunState, TaskInstanceState
    from sqlalchemy import and_, exists, or_, select
    from sqlalchemy.orm import aliased

    later = aliased(DagRun)
    same = or_(
        later.partition_key == DagRun.partition_key, and_(later.partition_key.is_(None), DagRun.partition_key.is_(None))
    )
    made_up_for = exists().where(
        later.dag_id == DagRun.dag_id, same, later.state == DagRunState.SUCCESS, later.end_date > DagRun.end_date
    )
    runs = session.execute(
        select(DagRun.dag_id, DagRun.run_id, DagRun.partition_key, DagRun.end_date)
        .where(DagRun.state == DagRunState.FAILED, DagRun.dag_id.in_(dag_ids), DagRun.end_date >= since, ~made_up_for)
        .order_by(DagRun.end_date.desc())
        .limit(MOST_RUNS)
    ).all()  # fmt: skip
    for dag_id, run_id, partition, end in runs:
        tasks = session.scalars(
            select(TaskInstance.task_id)
            .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.state == TaskInstanceState.FAILED)
            .order_by(TaskInstance.task_id)
        ).all()  # fmt: skip
        where = f" in {', '.join(dict.fromkeys(tasks))}" if tasks else ""  # a mapped task has several instances
        yield AirflowNeed(dag_id, f"{partition or run_id} failed{where}", _run_link(base, dag_id, run_id), end)


def _run_link(base: str, dag_id: str, run_id: str) -> str:
    return f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"
