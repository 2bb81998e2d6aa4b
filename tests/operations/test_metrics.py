"""What Prometheus reads of experiments, and what is said where something else has a service's port."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import NotReadyError
from core.files import write_json
from core.settings import Settings, load_settings
from operations.airflow_api import AirflowApi
from operations.health import airflow_health, check
from operations.metrics import WorkspaceCollector
from operations.processes import ServiceProcess, start
from serving.routing import stop_experiment
from tests.conftest import something_else, webhook


def harming(settings: Settings) -> float:
    """How many running experiments are said to do harm."""
    return {m.name: m.samples[0].value for m in WorkspaceCollector(settings).collect() if m.samples}[
        "clock_experiments_harming"
    ]


def test_a_running_experiment_of_which_a_treatment_does_harm_is_counted_until_it_ends_or_is_stopped(
    tmp_path: Path,
) -> None:
    settings = load_settings(var=tmp_path, source="test")

    def report(name: str, until: str, **decision: object) -> None:
        write_json(settings.reports_dir / "ab" / name / f"{until}.json", {"decision": decision})

    report("one", "2026-03-10T00", verdict="ship", harmful=["b"])
    report("two", "2026-03-10T00", verdict="stop", harmful=["b"])
    report("three", "2026-03-10T00", verdict="ship", harmful=[])
    assert harming(settings) == 2
    report("one", "2026-03-11T00", verdict="ship", harmful=[])
    stop_experiment(settings, "two", "harm")
    report("three", "final", verdict="stop", harmful=["b"])
    assert harming(settings) == 0


def test_a_port_that_another_program_has_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with something_else() as port:
        settings = load_settings(var=tmp_path, serving_port=port, airflow_port=port)
        for name in ("serving", "airflow-scheduler"):
            with pytest.raises(NotReadyError, match="does not answer"):
                check(settings, name)
        monkeypatch.setattr("operations.processes.port_is_free", lambda port: True)
        with pytest.raises(NotReadyError, match="pages ended"):
            start(settings, [ServiceProcess("pages", ("sleep", "1"), f"http://127.0.0.1:{port}/")])


def test_a_page_that_is_not_airflows_is_told_from_it(tmp_path: Path) -> None:
    with webhook() as (url, _):  # answers without a word
        settings = load_settings(var=tmp_path, airflow_url=url)
        with pytest.raises(NotReadyError):
            airflow_health(settings)
        with pytest.raises(NotReadyError):
            AirflowApi(settings)
