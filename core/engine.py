"""Two engines for the same SQL: DuckDB in this process, or Spark on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.duck import connection
from core.duck_engine import DuckEngine
from core.errors import NotReadyError
from core.settings import Settings
from core.spark import SparkEngine, failure_of_tasks
from core.spark_session import spark_session
from core.sql_engine import Engine


def on_spark(settings: Settings, events: Callable[[], int] | None = None) -> bool:
    """Whether work is Spark's: the settings name it, and the events, which only then are counted, are enough for it.

    Args:
        settings: of the workspace.
        events: counts those that the work is on, of which few are not worth starting Spark; None: enough.
    """
    return settings.engine == "spark" and (events is None or events() >= settings.spark_from_events)


@contextmanager
def engine(settings: Settings, events: Callable[[], int] | None = None) -> Iterator[Engine]:
    """The engine that the settings name, for the length of a ``with`` block.

    Args:
        settings: of the workspace.
        events: as ``on_spark`` takes it.

    Raises:
        NotReadyError: Spark is not there, or gave up what it was asked for in the block.
    """
    with cluster_beside(settings, events) as cluster:
        if cluster:
            yield cluster
        else:
            with local_engine(settings) as db:
                yield db


@contextmanager
def local_engine(settings: Settings) -> Iterator[DuckEngine]:
    """DuckDB in this process, for the length of a ``with`` block."""
    with connection(settings) as con:
        yield DuckEngine(con)


@contextmanager
def cluster_beside(settings: Settings, events: Callable[[], int] | None = None) -> Iterator[SparkEngine | None]:
    """Spark where work is ``on_spark``, else None, for the length of a ``with`` block; what is not Spark's is DuckDB's in this process.

    Args:
        settings: of the workspace.
        events: as ``on_spark`` takes it.

    Raises:
        NotReadyError: as ``engine``.
    """
    if on_spark(settings, events):
        with _spark(settings) as spark:
            yield spark
    else:
        yield None


@contextmanager
def _spark(settings: Settings) -> Iterator[SparkEngine]:
    spark = SparkEngine(spark_session(settings), settings)
    try:
        yield spark
    except spark.errors as error:
        if (cause := failure_of_tasks(str(error))) is None:
            raise
        raise NotReadyError(
            f"Spark at {settings.spark_master} gave up after several tries ({cause}); what was there before stays; "
            f"when that is repaired, run it again"
        ) from error
    finally:
        spark.close()
