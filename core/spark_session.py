"""The process's Spark session: of ``settings.spark_master``, a local one or a cluster's."""

from __future__ import annotations

import logging
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from threading import RLock, Thread
from typing import TYPE_CHECKING

from core.errors import ConfigError, NotReadyError
from core.settings import ROOT, Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger("core.spark")

SPARK_OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.files.openCostInBytes": "65536",  # hours are many small files: read them together
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",  # else a task for each file, only to list it
    "spark.sql.requireAllClusterKeysForCoPartition": "false",  # what lies by user is joined by user and slot where it is
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
"""ANSI SQL, UTC, double quotes around identifiers: as the queries are written."""
MASTER_SECONDS = 5
WORKER_SECONDS = 45
"""How long the first task may wait for an executor."""
SESSION_LOCK = RLock()
_applications: list[str] = []
"""Ids of the applications that this process began."""


def session_options(settings: Settings) -> dict[str, str]:
    """Spark's options of a workspace: master, ``SPARK_OPTIONS``, the number of shuffle partitions, addresses.

    Args:
        settings: of the workspace.
    """
    options = {
        "spark.master": settings.spark_master,
        **SPARK_OPTIONS,
        "spark.sql.shuffle.partitions": str(settings.spark_partitions),
        "spark.executorEnv.PYTHONPATH": str(ROOT),
    }
    if settings.spark_master.startswith("local") or "127.0.0.1" in settings.spark_master:
        options |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    return options


def spark_session(settings: Settings) -> SparkSession:
    """The process's Spark session, created on first use, with ``session_options``.

    Args:
        settings: of the workspace.

    Raises:
        ConfigError: Spark is not installed.
        NotReadyError: Java is missing, or the master does not answer.
    """
    return open_session(session_options(settings))


def application_page(settings: Settings) -> str:
    """Page of the application that this process began last; empty where it began none, or the settings name no pages.

    Args:
        settings: of the workspace.
    """
    return settings.spark_ui.replace("{application}", _applications[-1]) if _applications else ""


def require_spark() -> None:
    """Refuse to go on where Spark is not installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("pyspark") is None:
        raise ConfigError(
            "Spark is not installed: pip install -r requirements-spark.txt, or set CLOCK_ENGINE and CLOCK_OFFLINE_STORE to duckdb"
        )


def open_session(options: Mapping[str, str]) -> SparkSession:
    """The process's Spark session, created on first use.

    Args:
        options: as ``session_options`` gives them.

    Raises:
        ConfigError: Spark is not installed.
        NotReadyError: Java is missing, or the master does not answer.
    """
    require_spark()
    if shutil.which("java") is None:
        raise NotReadyError("Spark needs Java 17; install it ('make services' does), or set CLOCK_ENGINE=duckdb")
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    with SESSION_LOCK:
        new = SparkSession.getActiveSession() is None
        if new:
            _require_master(options["spark.master"])
        builder = SparkSession.builder.appName("interest-clock")
        for key, value in options.items():
            builder = builder.config(key, value)
        try:
            session = builder.getOrCreate()
        except (PySparkException, OSError, RuntimeError) as error:
            raise NotReadyError(f"Spark at {options['spark.master']} does not answer: {error}") from error
        session.sparkContext.setLogLevel("ERROR")
        session.sparkContext.pythonExec = sys.executable  # lies under the same path at executors, as the platform does
        if new:
            _require_worker(session)
            _applications.append(session.sparkContext.applicationId)
            log.info("Spark application %s at %s", _applications[-1], options["spark.master"])
        return session


def _require_master(master: str) -> None:
    """Refuse a standalone cluster none of whose masters listens: Spark itself would try for a minute."""
    if not master.startswith("spark://"):
        return
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        with suppress(OSError, ValueError), socket.create_connection((host, int(port)), MASTER_SECONDS):
            return
    raise NotReadyError(f"Spark at {master} does not answer: nothing listens there; start its master, then retry")


def _require_worker(session: SparkSession) -> None:
    """Refuse a cluster that does not run a task within ``WORKER_SECONDS``: Spark itself would wait for a worker forever."""
    first_job = Thread(target=session.range(1).count, daemon=True)
    first_job.start()
    first_job.join(WORKER_SECONDS)
    if first_job.is_alive():
        context, memory = session.sparkContext, session.conf.get("spark.executor.memory", "1g")
        master = context.master
        session.stop()
        raise NotReadyError(
            f"Spark at {master} gives no executor with {memory} of memory in {WORKER_SECONDS} s; its page shows whether workers "
            f"are alive and have so much memory and a core left; spark.executor.memory asks for less"
        )
