"""A cluster and a driver for many tests; to start them takes longer than most of what the tests do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import FEW_ROWS, SparkCluster, spark_cluster
from tests.spark.driver import Driver

DRIVER_TAKES = "256k"
"""How much a Spark job may bring to the driver: no more than counts and small dictionaries."""


@dataclass(frozen=True)
class Spark:
    """A cluster and a driver."""

    cluster: SparkCluster
    driver: Driver

    @property
    def options(self) -> dict[str, Any]:
        """Settings that let Spark compute."""
        return {"engine": "spark", "spark_master": self.cluster.url, "spark_partitions": 2}


def call_and_kill(spark: Spark, call: str, seconds: float, **arguments: Any) -> Any:
    """What a function returns an executor of which is killed after a while, in the middle of its work."""
    spark.driver.begin(call, **arguments)
    while not (executors := spark.cluster.executors()):
        time.sleep(0.2)
    time.sleep(seconds)
    assert spark.driver.at_work()
    os.kill(executors[0], signal.SIGKILL)
    return spark.driver.result()


@contextmanager
def running_cluster(folder: Path) -> Iterator[Spark]:
    """A cluster of two workers, and a driver that can take no rows."""
    limits = f"{FEW_ROWS}spark.driver.maxResultSize {DRIVER_TAKES}\nspark.task.maxFailures 2\n"
    with spark_cluster(folder, options=limits) as cluster, Driver(cluster.conf, folder / "driver.log") as driver:
        yield Spark(cluster, driver)
