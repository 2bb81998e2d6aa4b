"""Capacity is arithmetic on measured figures: checked by hand, refused without them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ConfigError, NotReadyError
from core.settings import ROOT
from operations.capacity import GROWING, POPULATION, UNITS, Load, limits, needs, page, read_units


def write_units(path: Path, **values: float) -> Path:
    rows = [{"name": name, "value": values.get(name, 100.0), "peer_value": 10.0} for name in UNITS]
    for step in GROWING:
        rows += [
            {"name": f"population_{step}_{size}", "value": 10.0 * n, "peer_value": 10.0}
            for n, size in enumerate(POPULATION, 4)
        ]
    path.write_text(json.dumps(rows))
    return path


def test_an_hour_by_hand(tmp_path: Path) -> None:
    units = read_units(
        write_units(
            tmp_path / "results.json", traffic_ingestion_1M=36.0, bytes_online_user=2000.0, bytes_model_id=4000.0
        )
    )
    load = Load(1e6, active_share=0.24, events_a_day=100, peak=1.5, utilization=0.5, requests_a_day=36)
    assert load.peak_events == pytest.approx(1.5e6)
    assert load.peak_requests == pytest.approx(150)
    need_of = {need.part: need for need in needs(units, load)}
    assert need_of["ingest and event store"].cores == pytest.approx(1.5 * 36 / 3600 / 0.5)
    assert need_of["ingest and event store"].disk_gb == pytest.approx(0.24e6 * 100 * 180 * 100 / 1e9)
    assert need_of["online store (Redis)"].memory_gb == pytest.approx(2.0)
    ranking = need_of["ranking service, 30 processes"]
    assert ranking.cores == pytest.approx(150 * 0.1 / 0.5)
    model_gb = (1e6 + load.items) * 4000 / 1e9
    assert ranking.memory_gb == pytest.approx(30 * 2 * model_gb), "each process has the champion and its challenger"
    training = need_of["training, 6 variants"]
    assert training.cores == pytest.approx(3 * 1.5 * 100 / 3600 / 0.5), "the bench trains two at a time"
    assert training.memory_gb == pytest.approx(6 * model_gb)
    assert need_of["hourly looks at 10 experiments"].cores == pytest.approx(10 * 1.5 * 100 / 3600 / 0.5)
    assert need_of["reports of 10 experiments, in an hour a day"].cores == pytest.approx(10 * 24 * 100 / 3600 / 0.5)


def test_what_grows_with_users_grows_in_proportion_and_spark_takes_over(tmp_path: Path) -> None:
    units = read_units(write_units(tmp_path / "results.json"))
    small, big = needs(units, Load(1e6)), needs(units, Load(1e9))
    assert big[0].cores == pytest.approx(1000 * small[0].cores)
    assert (small[1].part, big[1].part) == ("clocks (DuckDB)", "clocks (Spark)")
    assert big[1].cores == pytest.approx(1000 * small[1].cores * units["spark_factor"])
    assert not limits(units, Load(1e6))
    ends = limits(units, Load(1e9))
    assert any("every ranking process hold all of it" in limit for limit in ends)
    (trainer,) = [limit for limit in ends if "trainer" in limit]
    assert f"needs {1.5e3 * 50 / 3600:,.1f} core-hours" in trainer, "one thread does it"
    assert "clocks 1.25" in page(units, [Load(1e6)])


@pytest.mark.slow
def test_the_command_writes_the_page_and_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "operations", "capacity", "--results", str(tmp_path / "results.json")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 75
    assert "clock bench population serving spark_rebuild traffic units" in done.stderr
    write_units(tmp_path / "results.json")
    done = run("--users", "2e6", "--output", str(tmp_path / "page.md"))
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "page.md").read_text()
    assert "## 2,000,000 users" in written
    assert written == page(read_units(tmp_path / "results.json"), [Load(2e6)])
    done = run("--active-share", "0")
    assert done.returncode == 2
    assert "active_share" in done.stderr
    for output, reason in (("results.json", "the command reads it"), (".", "it is a folder")):
        done = run("--output", str(tmp_path / output))
        assert done.returncode == 2
        assert reason in done.stderr
    assert read_units(tmp_path / "results.json"), "the results were not overwritten"


def test_impossible_loads_are_refused() -> None:
    with pytest.raises(ConfigError, match="shares of 1"):
        Load(1e6, utilization=1.5)
    with pytest.raises(NotReadyError, match="clock bench"):
        read_units(Path("nowhere.json"))
