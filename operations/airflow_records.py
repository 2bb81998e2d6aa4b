"""How long Airflow's run records and log files stay."""

from __future__ import annotations

import logging
import os
import subprocess
from datetime import datetime, timedelta

from core.files import remove_files
from core.settings import Settings
from operations.services import AIRFLOW, airflow_environment, airflow_home

log = logging.getLogger("operations.airflow_records")

RUN_RECORDS = (
    "dag_run", "task_instance", "task_instance_history", "task_reschedule", "xcom", "job", "trigger", "callback",
    "asset_event", "deadline", "celery_taskmeta", "revoked_token",
)  # fmt: skip
"""Tables of Airflow that grow with every run."""


def retire_records(settings: Settings, now: datetime) -> int:
    """Remove log files, with the folders of their runs, and Airflow's run records of more than ``keep_days`` ago.

    Who did what (Airflow's audit log) stays. Every run writes log files, so without old ones there are no old records, and
    Airflow's command, which takes seconds, is not called. Where it fails the files stay too, and the next day tries again.

    Returns:
        The log files removed.
    """
    if not settings.keep_days:
        return 0
    since = now - timedelta(days=settings.keep_days)
    logs = airflow_home(settings) / "logs"
    old = [p for p in logs.rglob("*") if p.is_file() and p.stat().st_mtime < since.timestamp()]
    if not old:
        return 0
    done = subprocess.run(
        [*AIRFLOW, "db", "clean", "--yes", "--skip-archive", "--error-on-cleanup-failure",
         "--clean-before-timestamp", since.isoformat(), "--tables", ",".join(RUN_RECORDS)],
        capture_output=True, text=True, check=False, env={**os.environ, **airflow_environment(settings)},
    )  # fmt: skip
    if done.returncode:
        log.warning("airflow db clean failed; the next day tries again: %s", done.stderr.strip()[-500:])
        return 0
    remove_files(old, logs)
    return len(old)
