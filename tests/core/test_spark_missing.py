"""Where Spark is asked for and not installed, one line says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from core.settings import ROOT

WITHOUT_SPARK = """
import sys
sys.modules["pyspark"] = None
from core.settings import load_settings
from core.engine import engine
from feature_repo.repository import spark_offline_store
from core.errors import ConfigError
settings = load_settings(engine="spark", offline_store="spark")
for use in (lambda: engine(settings).__enter__(), lambda: spark_offline_store(settings)):
    try:
        use()
    except ConfigError as error:
        print(error)
"""
"""As an installation without the extra: the module cannot be found."""


def test_an_installation_without_spark_says_how_to_install_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SPARK],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CLOCK_VAR": str(tmp_path)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.count("pip install -r requirements-spark.txt") == 2, done.stdout
