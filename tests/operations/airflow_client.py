"""Airflow's API behind the stack's proxy, as somebody with a login."""

from __future__ import annotations

import time
from typing import Any

import httpx

DEADLINE_SECONDS = 900


class AirflowClient:
    """Airflow behind the proxy, as somebody."""

    def __init__(self, url: str, name: str, password: str) -> None:
        self.client = httpx.Client(base_url=url, verify=False, timeout=60)
        answer = self.client.post("/auth/token", json={"username": name, "password": password})
        assert answer.status_code in {200, 201}, answer.text
        self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def trigger(self, dag: str, *, partition: str | None = None, conf: dict[str, Any] | None = None) -> int:
        """Start a run: the answer's status."""
        body = {"logical_date": None, "partition_key": partition, "conf": conf or {}}
        return self.client.post(f"/api/v2/dags/{dag}/dagRuns", json=body).status_code

    def finished(self, dag: str) -> str:
        """State of the newest run, once it has ended."""
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            runs = self.client.get(f"/api/v2/dags/{dag}/dagRuns?order_by=-run_after&limit=1").json()["dag_runs"]
            if runs and runs[0]["state"] in {"success", "failed"}:
                return str(runs[0]["state"])
            time.sleep(1)
        raise AssertionError(f"{dag} did not end")
