"""The few calls to Airflow's REST API that the platform needs: trigger a partition, look at runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from core.errors import NotReadyError
from core.settings import Settings

ADMIN = "admin"


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG.

    Attributes:
        state: for example ``running``, ``success`` or ``failed``.
        partition_key: its hour or day, None where it has none.
    """

    dag_id: str
    run_id: str
    state: str
    partition_key: str | None


@dataclass(frozen=True)
class TaskRun:
    """A task instance; ``seconds``, ``start`` and ``end`` are None before it ran."""

    dag_id: str
    task_id: str
    try_number: int
    seconds: float | None
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True)
class UnreadableFile:
    """A file of DAGs that Airflow could not parse."""

    filename: str
    stack_trace: str


class AirflowApi:
    """Airflow of a workspace, as its administrator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.base = settings.airflow_base
        self._client = httpx.Client(base_url=self.base, timeout=30)
        if settings.in_production:
            login = {"username": ADMIN, "password": settings.secret("airflow_admin")}
            token = self._call("POST", "/auth/token", json=login)["access_token"]
        else:
            token = self._call("GET", "/auth/token")["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def dag_ids(self) -> set[str]:
        """DAGs that Airflow knows."""
        return {d["dag_id"] for d in self._call("GET", "/api/v2/dags?limit=100")["dags"]}

    def import_errors(self) -> list[UnreadableFile]:
        """Files that could not be parsed."""
        errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
        return [UnreadableFile(e["filename"], e["stack_trace"]) for e in errors]

    def trigger(self, dag_id: str, *, partition: str | None = None, conf: Mapping[str, object] | None = None) -> str:
        """Start a run; returns its id."""
        body = {"logical_date": None, "partition_key": partition, "conf": dict(conf or {})}
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def runs(self, *dag_ids: str) -> list[DagRun]:
        """Runs of DAGs, newest first (at most 1,000)."""
        runs: list[DagRun] = []
        while True:
            wanted = {"dag_ids": dag_ids, "page_limit": 100, "page_offset": len(runs), "order_by": "-run_after"}
            page = self._call("POST", "/api/v2/dags/~/dagRuns/list", json=wanted)
            runs += [
                DagRun(r["dag_id"], r["dag_run_id"], str(r["state"]), r["partition_key"]) for r in page["dag_runs"]
            ]
            if len(runs) >= min(page["total_entries"], 1000) or not page["dag_runs"]:
                return runs

    def state(self, dag_id: str, run_id: str) -> str:
        """State of one run, for example ``running`` or ``success``."""
        return str(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskRun]:
        """Task instances of a run."""
        instances = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [
            TaskRun(
                t["dag_id"],
                t["task_id"],
                int(t["try_number"]),
                t["duration"],
                _moment(t["start_date"]),
                _moment(t["end_date"]),
            )
            for t in instances
        ]

    def waiting(self, dag_id: str) -> list[tuple[str, str]]:
        """Tasks of a DAG that wait for a person: (run id, subject)."""
        pending = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/~/hitlDetails?response_received=false&limit=100")
        return [(d["task_instance"]["dag_run_id"], d["subject"]) for d in pending["hitl_details"]]

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer a task that waits for a person."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        self._call("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def count_runs(self, dag_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """DAG → how many runs succeeded, failed, or are under way."""
        counts = {}
        runs = self.runs(*dag_ids)
        for dag_id in dag_ids:
            states = [run.state for run in runs if run.dag_id == dag_id]
            counts[dag_id] = {
                "succeeded": states.count("success"),
                "failed": states.count("failed"),
                "running": len([s for s in states if s not in {"success", "failed"}]),
            }
        return counts

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise NotReadyError(f"Airflow at {self.base} does not answer ({error}); start it with 'make up'") from None
        if answer.status_code >= 400:
            raise NotReadyError(f"Airflow refused {method} {path}: {answer.status_code} {answer.text[:300]}")
        try:
            return answer.json()
        except ValueError:
            raise NotReadyError(f"what answers at {self.base} is not Airflow; is its URL or port right?") from None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
