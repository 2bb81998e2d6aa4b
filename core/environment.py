"""What a process of the platform finds in its environment."""

from __future__ import annotations

import json

from core.settings import ROOT, Settings


def platform_environment(settings: Settings) -> dict[str, str]:
    """What any process of the platform has in its environment: the settings, no secret."""
    own = {
        f"CLOCK_{k.upper()}": v if isinstance(v, str) else json.dumps(v)
        for k, v in settings.model_dump(mode="json", exclude_none=True, exclude={"serving_key"}).items()
        if k in settings.model_fields_set
    }
    return {
        **own,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job workers are for other uses of MLflow
    }
