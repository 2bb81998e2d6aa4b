"""What tests of ingestion share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.events.logs import Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)
