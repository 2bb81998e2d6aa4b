"""Environment variables of the platform's processes."""

from __future__ import annotations

import json

from core.settings import ROOT, Settings

QUIET_MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
"""MLflow reads them when it is imported, and then sets the levels of its loggers, whatever they were."""


def platform_environment(settings: Settings) -> dict[str, str]:
    """Environment variables of any process of the platform: the settings that were set explicitly, without secrets.

    Args:
        settings: of the workspace.

    Returns:
        Variable → value.
    """
    explicit_settings = {
        f"CLOCK_{k.upper()}": v if isinstance(v, str) else json.dumps(v)
        for k, v in settings.model_dump(mode="json", exclude_none=True, exclude={"serving_key"}).items()
        if k in settings.model_fields_set
    }
    return {
        **explicit_settings,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        **QUIET_MLFLOW,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job workers are for other uses of MLflow
    }
