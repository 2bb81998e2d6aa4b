"""A cluster and a driver for many tests; to start them takes longer than most of what the tests do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
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
        """Settings that let Spark compute, however few the events."""
        return {"engine": "spark", "spark_master": self.cluster.url, "spark_partitions": 2, "spark_from_events": 0}


def call_and_kill(spark: Spark, call: str, seconds: float, **arguments: Any) -> Any:
    """What a function returns an executor of which is killed after a while, in the middle of its work."""
    spark.driver.begin(call, **arguments)
    while not (executors := spark.cluster.executors()):
        time.sleep(0.2)
    time.sleep(seconds)
    assert spark.driver.at_work()
    os.kill(executors[0], signal.SIGKILL)
    return spark.driver.result()


def kill_driver(spark: Spark, log: Path, is_begun: Callable[[], bool], call: str, **arguments: Any) -> None:
    """Let a driver of its own call a function, and kill it in the middle of the work."""
    with Driver(spark.cluster.conf, log) as driver:
        driver.begin(call, **arguments)
        while not is_begun():
            assert driver.at_work(), driver.result()
            time.sleep(0.05)
        assert driver.at_work()
        driver.process.kill()


LIMITS = f"""{FEW_ROWS}
spark.driver.maxResultSize {DRIVER_TAKES}
spark.task.maxFailures 2
spark.executor.cores 1
spark.executor.memory 1g
spark.cores.max 2
"""
"""A driver that can take no rows, and an executor of one core on each worker."""


@contextmanager
def running_cluster(folder: Path) -> Iterator[Spark]:
    """A cluster of two workers that run two applications at a time, and a driver."""
    with spark_cluster(folder, "2g", LIMITS, cores=2) as cluster, Driver(cluster.conf, folder / "driver.log") as driver:
        yield Spark(cluster, driver)
