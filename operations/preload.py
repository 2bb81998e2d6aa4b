"""The modules of the hourly steps, imported once in the process that tasks are forked from.

A task's process is a fork: what its parent has imported it need not import again, which is most of what a short step would
otherwise do. Importing this module imports them, so that Celery's ``imports`` setting can name it.

Fork safety: a parent may hold modules, but no threads that a child would wait for. Polars starts threads when it is imported, so
it is hidden while the others are imported (MLflow and statsmodels take it where it is installed), and no step below may import it
at its top.

What is imported stays for good, so the garbage collector is told to leave it alone: a task's collections would go through it
all, and write to pages that the processes share.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from feature_repo.feast_import import import_feast
from operations.airflow_command import COLLECT_AFTER

log = logging.getLogger("operations.preload")

MODULES = (
    "duckdb", "matplotlib.pyplot", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracing.processor.base_mlflow", "pandas", "pyarrow.parquet", "sqlglot.generators.duckdb",
    "statsmodels.stats.meta_analysis", "torch",
    "ab_analysis.report", "events.ingest", "feature_repo.retrieval", "model_registry.store", "pipeline.source",
    "pipeline.training", "training.model", "training.scoring",
)  # fmt: skip


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Let a module that nobody has imported yet be missing for a while."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def preload() -> float:
    """Import the modules.

    Returns:
        Seconds that it took.
    """
    begun = time.monotonic()
    gc.disable()  # most of what is imported stays: a fifth of the time would go into collections that find nothing
    with hidden("polars"):
        for name in MODULES:
            importlib.import_module(name)
        import_feast()
        from mlflow.utils.requirements_utils import _init_modules_to_packages_map
    # For a check of each logged model's requirements MLflow lists all installed files once a process: seconds of each task.
    _init_modules_to_packages_map()
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    seconds = time.monotonic() - begun
    log.info("the modules of the hourly steps are imported (%.1f s)", seconds)
    return seconds


preload()
