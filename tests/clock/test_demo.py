"""What the demo refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from clock.demo import run_demo
from core.errors import ConfigError, DataError
from core.files import write_json
from core.settings import load_settings
from pipeline.source import Source, save_source


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path / "var"))


@pytest.mark.parametrize(
    ("source", "data", "hours", "message"),
    [
        ("simulator", None, 0, "at least one hour"),
        ("bogus", "x.csv", 6, "no mapping file at 'bogus'"),
        ("foursquare", None, 6, "needs its log: --data PATH"),
        ("foursquare", "nowhere.parquet", 6, "no such file"),
        ("../etc", None, 6, "CLOCK_SOURCE"),
    ],
)
def test_a_wrong_request_says_what_to_do(source: str, data: str | None, hours: int, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        run_demo(source, data, hours, fresh=False)


def test_a_workspace_is_not_continued_with_another_log(tmp_path: Path) -> None:
    settings = load_settings(source="foursquare")
    save_source(settings, Source("foursquare", (str(tmp_path / "first.parquet"),)))
    write_json(settings.workspace / "demo.json", {"takeover": "2012-12-31T18", "end": "2013-01-01T00", "history": None})
    with pytest.raises(ConfigError, match="FRESH=1"):
        run_demo("foursquare", str(tmp_path / "second.parquet"), 6, fresh=False)
