"""``clock setup`` and ``clock history``: mapping and log are looked at first, and no other source is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from clock.main import app
from core import cli
from core.errors import ConfigError, DataError
from core.hours import Hour
from core.settings import load_settings
from pipeline.source import end_of_log, load_source, save_app_source
from tests.conftest import TINY, small_log, write_app, write_mapping


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path / "var"))
    monkeypatch.delenv("CLOCK_SOURCE", raising=False)
    return tmp_path / "var"


def test_a_mapping_sets_up_its_own_source_and_no_other(
    var: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_log(6).to_csv(tmp_path / "log.csv", index=False)
    cli.call(app, ["setup", str(write_mapping(tmp_path)), str(tmp_path / "log.csv")])
    assert [folder.name for folder in var.iterdir()] == ["test"]
    settings = load_settings(source="test")
    assert load_source(settings).paths == (str(tmp_path / "log.csv"),)
    assert end_of_log(settings) == Hour.parse("2026-03-02T11")
    assert "up to 2026-03-02T10; next: clock --source test history" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_before_anything_is_written(var: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    small_log(6).to_csv(log, index=False)
    mapping = write_mapping(tmp_path)
    with pytest.raises(ConfigError, match="is the mapping of 'test', not of 'other'"):
        cli.call(app, ["setup", str(mapping), str(log), "--source", "other"])
    with pytest.raises(DataError, match=r"missing\.csv"):
        cli.call(app, ["setup", str(mapping), str(tmp_path / "missing.csv")])
    elsewhere = write_mapping(tmp_path, timestamp="timestamp: {column: when, unit: iso, zone: UTC}")
    with pytest.raises(ConfigError, match="when"):
        cli.call(app, ["setup", str(elsewhere), str(log)])
    small_log(6).assign(ts="yesterday").to_csv(log, index=False)
    with pytest.raises(DataError, match="no event with a readable time"):
        cli.call(app, ["setup", str(write_mapping(tmp_path)), str(log)])
    assert not list(var.glob("*/source.json"))


def test_a_history_that_would_be_empty_is_refused(var: Path, tmp_path: Path) -> None:
    small_log(6).to_csv(tmp_path / "log.csv", index=False)
    cli.call(app, ["setup", str(write_mapping(tmp_path)), str(tmp_path / "log.csv")])
    with pytest.raises(ConfigError, match="no event of the log of 'test' lies before 2026-01-01T00; give a later hour"):
        cli.call(app, ["--source", "test", "history", "2026-01-01T00"])


def test_hourly_files_may_arrive_later(var: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.call(app, ["setup", str(write_mapping(tmp_path)), str(tmp_path / "{hour}.csv")])
    assert "no file has arrived yet" in capsys.readouterr().out
    assert load_source(load_settings(source="test")).log.name_times


def test_the_simulated_apps_log_ends_with_its_days(var: Path) -> None:
    settings = load_settings(source="simulator")
    write_app(settings.workspace, TINY)
    app_log = save_app_source(settings)
    assert end_of_log(settings) == Hour.of(app_log.app.first_instant(TINY.days))
