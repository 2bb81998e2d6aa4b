"""What ``clock events explain`` prints: a mapping that loads, with every key that there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from clock.main import app
from core import cli
from events.mapping import Columns, Exposures, Mapping, Negatives, load_mapping
from events.mapping_csv import CsvOptions
from events.mapping_rows import Actions, Impressions, Labels
from events.mapping_tables import Items
from events.mapping_times import LocalTime, Timestamp


def explained(capsys: pytest.CaptureFixture[str]) -> str:
    cli.call(app, ["events", "explain"])
    return capsys.readouterr().out


def test_what_is_printed_is_a_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mapping.yaml").write_text(explained(capsys))
    mapping, _ = load_mapping(str(tmp_path / "mapping.yaml"))
    assert mapping.behavior_names == ("finish", "like", "skip", "share")
    assert mapping.exposures is not None


@pytest.mark.parametrize(
    "model",
    [Mapping, Columns, CsvOptions, Timestamp, LocalTime, Items, Actions, Impressions, Labels, Negatives, Exposures],
)
def test_every_key_is_printed_where_it_belongs(model: type[BaseModel], capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(capsys).splitlines()
    starts = {Columns: "columns:", CsvOptions: "csv:", Timestamp: "timestamp:", LocalTime: "local_time:", Items: "items:",
              Actions: "actions:", Impressions: "impressions:", Negatives: "negatives:", Exposures: "exposures:"}  # fmt: skip
    text = "\n".join(lines)
    if model in starts:
        first = next(n for n, line in enumerate(lines) if line.startswith(starts[model]))
        ends = (n for n in range(first + 1, len(lines)) if lines[n][:1].isalpha())
        text = "\n".join(lines[first : next(ends, len(lines))])
    assert [name for name in model.model_fields if f"{name}:" not in text] == []
