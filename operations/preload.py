"""The modules of the hourly steps, imported once in the process that tasks are forked from.

A task's process is a fork: what its parent has imported it need not import again, which is most of what a short step would
otherwise do. Importing this module imports them, so that Celery's ``imports`` setting can name it. Fork safety: see
:mod:`core.forks`; no step below may import Polars at its top.
"""

from __future__ import annotations

import importlib
import logging
import time

from core.forks import imports_for_forks
from core.garbage import collect_seldom
from feature_repo.feast_import import import_feast

log = logging.getLogger("operations.preload")

MODULES = (
    "duckdb", "matplotlib.pyplot", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracing.processor.base_mlflow", "pandas", "pyarrow.parquet", "sqlglot.generators.duckdb",
    "statsmodels.stats.meta_analysis", "torch",
    "ab_analysis.report", "events.ingest", "feature_repo.retrieval", "model_registry.store", "pipeline.source",
    "pipeline.training", "training.model", "training.scoring",
)  # fmt: skip


def preload() -> float:
    """Import the modules.

    Returns:
        Seconds that it took.
    """
    begun = time.monotonic()
    with imports_for_forks():
        for name in MODULES:
            importlib.import_module(name)
        import_feast()
        from mlflow.utils.requirements_utils import _init_modules_to_packages_map

        # For a check of each logged model's requirements MLflow lists all installed files once a process: seconds of each task.
        _init_modules_to_packages_map()
    collect_seldom()
    seconds = time.monotonic() - begun
    log.info("the modules of the hourly steps are imported (%.1f s)", seconds)
    return seconds


preload()
