"""Removes people from the models that MLflow keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from core.errors import NotReadyError
from core.files import temporary_directory
from core.settings import Settings
from model_registry.store import experiment_name, open_mlflow
from training.forget import forget_state
from training.state import WEIGHTS

log = logging.getLogger("model_registry.forget")

DATA = "data"
"""Where a logged model has its state."""


def forget_models(settings: Settings, numbers: Sequence[int]) -> int:
    """Overwrite users' rows in the artifacts of every logged model, wherever MLflow keeps them.

    Args:
        settings: of the workspace.
        numbers: the platform's numbers of the users.

    Returns:
        Models that had a row.

    Raises:
        NotReadyError: MLflow or its store of artifacts does not answer.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from requests import RequestException

    client = open_mlflow(settings)
    prefix = experiment_name(settings, "")
    experiments = [e for e in client.search_experiments() if e.name.startswith(prefix)]
    changed, token = 0, None
    while experiments:
        page = client.search_logged_models([e.experiment_id for e in experiments], page_token=token)
        for model in page:
            try:
                artifacts = get_artifact_repository(model.artifact_location)
                if not artifacts.list_artifacts(DATA):
                    continue
                with temporary_directory("clock-forget-") as scratch:
                    folder = Path(artifacts.download_artifacts(DATA, dst_path=str(scratch)))
                    states = [weights.parent for weights in folder.rglob(WEIGHTS)]
                    for state in states:
                        if forget_state(state, numbers):
                            artifacts.log_artifacts(str(state), str(Path(DATA) / state.relative_to(folder)))
                            changed += 1
            except (MlflowException, RequestException, OSError) as error:
                raise NotReadyError(
                    f"the artifacts of logged model {model.model_id} cannot be written ({error}); "
                    "run 'clock forget' again when they can"
                ) from None
        token = page.token
        if not token:
            break
    log.info("users' rows removed from %d logged models", changed)
    return changed
