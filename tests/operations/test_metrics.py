"""What Prometheus reads of experiments."""

from __future__ import annotations

from pathlib import Path

from core.files import write_json
from core.settings import Settings, load_settings
from operations.metrics import WorkspaceCollector
from serving.routing import stop_experiment


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
