"""Start-up cost of a task: parsing the DAG files, and importing the modules of each hourly step."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.result import Result, timed
from core.settings import ROOT

PARSE_BAR = 1.0
STEPS = {
    "ingest": "import pipeline.source, events.ingest",
    "clocks": "import feature_repo.retrieval, feature_repo.refresh, feast",
    "train": "import pipeline.training, training.trainer, model_registry.tracking, training.samples",
    "gate": "import pipeline.promotion, evaluation.gate, mlflow",
}
DAG_FILES = ("hourly", "daily", "by_hand")


def _seconds(code: str) -> float:
    return timed(lambda: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True))


def bench_imports(scale: float) -> list[Result]:
    """Seconds of a new process with the imports minus one without; for a DAG file, on top of Airflow's own import."""
    del scale
    nothing, airflow = _seconds("pass"), _seconds("import airflow.sdk")
    results = []
    for name in DAG_FILES:
        took = _seconds(f"import airflow.sdk, dags.{name}") - airflow
        results.append(Result(f"parse_{name}", took, "s", "the bar", PARSE_BAR, PARSE_BAR / took))
    for name, code in STEPS.items():
        took = _seconds(code) - nothing
        results.append(
            Result(f"import_{name}", took, "s", "Airflow's own", airflow - nothing, (airflow - nothing) / took)
        )
    return results
