"""What tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from core.settings import load_settings
from studies.lab import Lab
from studies.log import Log
from tests.conftest import TINY, copy_var


@pytest.fixture(scope="session")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny app's log, prepared: clocks and samples."""
    lab = lab_of(tmp_path_factory.mktemp("lab"))
    workspace = Log(lab.root / "data", "simulator").settings.workspace
    workspace.mkdir(parents=True)
    (workspace / "app.yaml").write_text(yaml.safe_dump(TINY.model_dump(mode="json")))
    lab.logs()
    return lab.root / "data"


@pytest.fixture(scope="module")
def small(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of one seed on the tiny app."""
    lab = lab_of(tmp_path_factory.mktemp("lab"))
    copy_var(small_log, lab.root / "data")
    yield lab
    lab.close()


def lab_of(folder: Path) -> Lab:
    return Lab(load_settings(var=folder / "var", source="simulator"), seeds=1)
