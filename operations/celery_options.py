"""Celery's options: Airflow's own, and the modules that a worker imports before it forks its processes."""

from __future__ import annotations

from typing import Any

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

OPTIONS: dict[str, Any] = {**DEFAULT_CELERY_CONFIG, "imports": ("operations.preload",)}
